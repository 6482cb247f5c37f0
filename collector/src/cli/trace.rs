//! Reading a trace for a command.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tidegate_etl::{EtlError, EtlFile, EventReader, PayloadDecoder, Problem};
use tidegate_proto::batch::{Batch, EventRef, NO_CPU, NO_ID};
use tidegate_proto::{guid, json, time};
use tidegate_sources::DecoderChoice;

use super::exit::{Exit, Failure};
use super::filter::Filter;
use super::{no_input, out};
use crate::assemble;

/// Events read at a time.
const BATCH: usize = 4096;
/// Problems told one by one on standard error.
const TOLD: usize = 10;

/// Opens a trace.
pub(super) fn open(path: &Path) -> Result<EtlFile<File>, Failure> {
    let file = File::open(path).map_err(|e| no_input(path, &e))?;
    if file.metadata().is_ok_and(|m| m.is_dir()) {
        let what = format!("{} is a folder", path.display());
        return Err(Failure::new(Exit::NoInput, what).hint("name one .etl file"));
    }
    EtlFile::open(file).map_err(|e| failure(path, &e))
}

/// What a trace's own error means for the program.
pub(super) fn failure(path: &Path, error: &EtlError) -> Failure {
    let (code, hint) = match error {
        EtlError::Io { .. } => (Exit::Io, "check the medium the file is on"),
        EtlError::Empty => (Exit::Data, "the session has written nothing yet, or the copy failed"),
        EtlError::TooShort { .. } => (Exit::Data, "copy the file again: nothing can be read of it"),
        EtlError::NotATrace { .. } => {
            (Exit::Data, "give a file that an ETW session or tracelog wrote (.etl)")
        }
    };
    Failure::new(code, format!("{}: {}", path.display(), assemble::chain(error))).hint(hint)
}

/// Where the start of the trace lies, for times given from there.
pub(super) fn start_ns(file: &EtlFile<File>) -> i64 {
    time::filetime_to_unix_ns(file.header().start_time)
}

/// What was wrong with a trace that was read to its end.
#[derive(Debug, Default)]
pub(super) struct Damage {
    /// The first of them.
    pub(super) problems: Vec<Problem>,
    /// All.
    pub(super) count: u64,
}

impl Damage {
    /// Says so on standard error, and as an exit code.
    pub(super) fn tell(&self, path: &Path) -> Exit {
        if self.count == 0 {
            return Exit::Ok;
        }
        eprintln!("warning: {}: {} damaged parts; the rest was read", path.display(), self.count);
        for problem in self.problems.iter().take(TOLD) {
            eprintln!("  {problem}");
        }
        if self.count > TOLD as u64 {
            eprintln!("  and {} more", self.count - TOLD as u64);
        }
        Exit::Data
    }
}

/// What helps to decode.
#[derive(Debug, clap::Args)]
pub(super) struct Decoding {
    /// Instrumentation manifest (.man) of a provider whose events the trace does not explain. May be
    /// repeated.
    #[arg(long, value_name = "FILE")]
    manifest: Vec<PathBuf>,
    /// Who explains events that neither the trace nor a manifest does: own, or system (on Windows:
    /// what is registered with it).
    #[arg(long, value_name = "WHO", default_value = "own", value_parser = str::parse::<DecoderChoice>)]
    decoder: DecoderChoice,
}

impl Decoding {
    /// A decoder that knows the given manifests; `origin` stands in gap events.
    fn decoder(&self, origin: &str) -> Result<PayloadDecoder, Failure> {
        let mut decoder = PayloadDecoder::new(origin);
        for path in &self.manifest {
            let bytes = std::fs::read(path).map_err(|e| no_input(path, &e))?;
            decoder.add_manifest(&bytes).map_err(|e| {
                Failure::new(Exit::Data, format!("{}: {}", path.display(), assemble::chain(&e)))
                    .hint("give an instrumentation manifest (.man, XML)")
            })?;
        }
        let system = self.decoder.schemas(origin).map_err(|e| {
            Failure::new(Exit::Unavailable, e.to_string())
                .hint("leave --decoder system out, or run on Windows")
        })?;
        if let Some(system) = system {
            decoder.set_system(system);
        }
        Ok(decoder)
    }
}

/// Shows the wanted events to `each`, decoded and in time order. Memory does not grow with the file.
pub(super) fn each_event(
    path: &Path,
    decoding: &Decoding,
    file: &EtlFile<File>,
    filter: &Filter,
    mut each: impl FnMut(EventRef<'_>) -> Result<(), Failure>,
) -> Result<Damage, Failure> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let bar = out::progress("reading");
    let mut reader = EventReader::new(file, decoding.decoder(&name)?).map_err(|e| failure(path, &e))?;
    let mut batch = Batch::new();
    let mut more = true;
    while more {
        batch.clear();
        more = reader
            .next_batch_where(&mut batch, BATCH, |record, ns| filter.record(record, ns))
            .map_err(|e| failure(path, &e))?;
        for event in batch.iter().filter(|e| filter.event(*e)) {
            each(event)?;
        }
        bar.set_position(reader.events());
    }
    bar.finish_and_clear();
    Ok(Damage { problems: reader.problems().to_vec(), count: reader.problem_count() })
}

/// Text forms of events, one a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Lines {
    /// JSON Lines.
    Jsonl,
    /// Comma-separated values (RFC 4180), the payload as one JSON column.
    Csv,
}

/// Writes events as lines; keeps one buffer.
#[derive(Debug)]
pub(super) struct LineWriter<W> {
    out: W,
    form: Lines,
    typed: bool,
    line: Vec<u8>,
    cell: Vec<u8>,
}

const COLUMNS: &str = "time,provider,guid,event,id,version,level,keyword,opcode,task,channel,pid,tid,cpu,activity,\
                       related,decoder,fields,raw";

impl<W: Write> LineWriter<W> {
    /// Writes the heading, if the form has one.
    pub(super) fn new(mut out: W, form: Lines) -> io::Result<LineWriter<W>> {
        if form == Lines::Csv {
            out.write_all(COLUMNS.as_bytes())?;
            out.write_all(b"\r\n")?;
        }
        Ok(LineWriter { out, form, typed: false, line: Vec::new(), cell: Vec::new() })
    }

    /// JSON Lines say the types of their values, so that they can be read again.
    pub(super) fn typed(mut self) -> LineWriter<W> {
        self.typed = true;
        self
    }

    pub(super) fn write(&mut self, event: EventRef<'_>) -> io::Result<()> {
        self.line.clear();
        match self.form {
            Lines::Jsonl => {
                let write = if self.typed { json::write_line } else { json::write_event };
                write(&mut self.line, event, None);
                self.line.push(b'\n');
            }
            Lines::Csv => self.csv(event),
        }
        self.out.write_all(&self.line)
    }

    fn csv(&mut self, event: EventRef<'_>) {
        let (head, schema) = (event.head(), event.schema());
        let line = &mut self.line;
        time::write_rfc3339(line, head.time_ns);
        quoted(line, schema.provider_name.as_bytes());
        id(line, &schema.provider_guid);
        quoted(line, schema.event_name.as_bytes());
        for n in [head.id, head.version.into(), head.level.into()] {
            line.extend_from_slice(format!(",{n}").as_bytes());
        }
        line.extend_from_slice(
            format!(",0x{:x},{},{},{}", head.keyword, head.opcode, head.task, head.channel).as_bytes(),
        );
        for (n, none) in [(head.pid, NO_ID), (head.tid, NO_ID), (head.cpu.into(), NO_CPU.into())] {
            line.push(b',');
            if n != none {
                line.extend_from_slice(n.to_string().as_bytes());
            }
        }
        id(line, &head.activity);
        id(line, &head.related);
        quoted(line, schema.decoder.as_str().as_bytes());
        self.cell.clear();
        json::write_fields(&mut self.cell, event.fields());
        quoted(line, &self.cell);
        line.push(b',');
        for byte in event.raw() {
            line.extend_from_slice(format!("{byte:02x}").as_bytes());
        }
        line.extend_from_slice(b"\r\n");
    }

    /// Hands the rest over and gives the output back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

fn id(line: &mut Vec<u8>, guid: &[u8; 16]) {
    line.push(b',');
    if *guid != [0; 16] {
        guid::write(line, guid);
    }
}

/// A comma and one cell, in quotation marks where it needs them.
fn quoted(line: &mut Vec<u8>, cell: &[u8]) {
    line.push(b',');
    if !cell.iter().any(|b| matches!(b, b',' | b'"' | b'\r' | b'\n')) {
        line.extend_from_slice(cell);
        return;
    }
    line.push(b'"');
    for b in cell {
        if *b == b'"' {
            line.push(b'"');
        }
        line.push(*b);
    }
    line.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_cell_is_quoted_only_where_it_must_be() {
        let cell = |text: &str| {
            let mut line = Vec::new();
            quoted(&mut line, text.as_bytes());
            String::from_utf8(line).unwrap()
        };
        assert_eq!(cell("plain"), ",plain");
        assert_eq!(cell("a,\"b\"\n"), ",\"a,\"\"b\"\"\n\"");
    }
}
