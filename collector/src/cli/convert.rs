//! `convert`: the events of a trace in another format.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use tidegate_proto::batch::EventRef;
use tidegate_proto::capture::{CaptureWriter, Compression};
use tidegate_proto::ids::Seq;
use tidegate_proto::wire::{BlockBuilder, Unchanged};
use tidegate_sinks::format::{self, parquet::Rows};

use super::exit::{Done, Exit, Failure};
use super::trace::{LineWriter, Lines};
use super::{filter, out, trace};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The trace.
    file: PathBuf,
    /// The format.
    #[arg(long, value_enum)]
    to: Format,
    /// Where to write; without it, or with "-", to standard output. The file appears when it is complete.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    decoding: trace::Decoding,
    #[command(flatten)]
    filter: filter::Options,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// JSON Lines.
    Jsonl,
    /// Comma-separated values (RFC 4180).
    Csv,
    /// Tidegate's own recorded form, which `replay` reads: complete, small and fast.
    Capture,
    /// Apache Parquet, for DuckDB, Spark, pandas: typed columns, the payload as JSON, zstd.
    Parquet,
}

impl Format {
    fn is_text(self) -> bool {
        matches!(self, Format::Jsonl | Format::Csv)
    }
}

type Output = Box<dyn Write + Send>;

/// One of the formats, being written.
enum Writer {
    Lines(LineWriter<Output>),
    Capture { blocks: CaptureWriter<Output>, block: BlockBuilder },
    Parquet { rows: Box<Rows<Output>>, seq: Seq },
}

/// Bytes of events in a block of a capture, before compression.
const BLOCK: usize = 256 << 10;

impl Writer {
    fn new(out: Output, format: Format) -> io::Result<Writer> {
        Ok(match format {
            Format::Jsonl => Writer::Lines(LineWriter::new(out, Lines::Jsonl)?.typed()),
            Format::Csv => Writer::Lines(LineWriter::new(out, Lines::Csv)?),
            Format::Capture => Writer::Capture {
                blocks: CaptureWriter::new(out, Compression::Zstd)?,
                block: BlockBuilder::new(),
            },
            Format::Parquet => {
                Writer::Parquet { rows: Box::new(Rows::new(out, format::Compression::Zstd)?), seq: Seq::ZERO }
            }
        })
    }

    fn write(&mut self, event: EventRef<'_>) -> io::Result<()> {
        match self {
            Writer::Lines(lines) => lines.write(event),
            Writer::Capture { blocks, block } => {
                block.push(event, event.head().telemetry_level, &Unchanged);
                if block.len() < BLOCK { Ok(()) } else { Writer::seal(blocks, block) }
            }
            Writer::Parquet { rows, seq } => {
                *seq = seq.next();
                rows.push(*seq, event)
            }
        }
    }

    fn seal(blocks: &mut CaptureWriter<Output>, block: &mut BlockBuilder) -> io::Result<()> {
        if block.is_empty() {
            return Ok(());
        }
        let events = u64::from(block.events());
        let bytes = std::mem::take(block).finish();
        blocks.push(&bytes, events)?;
        *block = BlockBuilder::with_buffer(bytes);
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Writer::Lines(lines) => lines.finish().map(drop),
            Writer::Capture { mut blocks, mut block } => {
                Writer::seal(&mut blocks, &mut block)?;
                blocks.finish().map(drop)
            }
            Writer::Parquet { rows, .. } => rows.finish()?.flush(),
        }
    }
}

pub(super) fn run(args: &Args) -> Done {
    let file = trace::open(&args.file)?;
    let filter = args.filter.filter(trace::start_ns(&file))?;
    let target = args.output.as_deref().filter(|p| p.as_os_str() != "-");
    if target.is_none() && !args.to.is_text() && io::stdout().is_terminal() {
        let what = "this format is binary and standard output is a terminal";
        return Err(Failure::new(Exit::Usage, what).hint("name a file with --output"));
    }
    let (out, partial): (Output, Option<Partial>) = match target {
        None => (Box::new(BufWriter::with_capacity(64 << 10, io::stdout())), None),
        Some(path) => {
            let (file, partial) = Partial::create(path)?;
            (Box::new(BufWriter::with_capacity(256 << 10, file)), Some(partial))
        }
    };
    let mut writer = Writer::new(out, args.to).map_err(|e| Failure::output(&e))?;
    let mut events = 0;
    let damage = trace::each_event(&args.file, &args.decoding, &file, &filter, |event| {
        events += 1;
        writer.write(event).map_err(|e| Failure::output(&e))
    })?;
    writer.finish().map_err(|e| Failure::output(&e))?;
    if let Some(partial) = partial {
        partial.complete()?;
        eprintln!("{} events", out::count(events));
    }
    Ok(damage.tell(&args.file))
}

/// An output that has its name only once it is whole; removed when it never gets there.
#[derive(Debug)]
struct Partial {
    path: PathBuf,
    target: PathBuf,
    done: bool,
}

impl Partial {
    fn create(target: &Path) -> Result<(File, Partial), Failure> {
        let mut name = target.as_os_str().to_owned();
        name.push(".partial");
        let path = PathBuf::from(name);
        let file = File::create(&path).map_err(|e| Partial::failure(target, &e))?;
        Ok((file, Partial { path, target: target.to_owned(), done: false }))
    }

    fn complete(mut self) -> Result<(), Failure> {
        std::fs::rename(&self.path, &self.target).map_err(|e| Partial::failure(&self.target, &e))?;
        self.done = true;
        Ok(())
    }

    fn failure(target: &Path, error: &io::Error) -> Failure {
        Failure::new(Exit::CantCreate, format!("cannot create {}: {error}", target.display()))
            .hint("name a place with room where you may write")
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.done {
            // what cannot be removed is harmless: it does not have the target's name
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
