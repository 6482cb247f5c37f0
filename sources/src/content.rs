//! Files by their content: what one holds, and reading through its compression.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use tidegate_etl::ReadAt;
use tokio_util::sync::CancellationToken;

use crate::feed::Halt;
use crate::position::{Fnv, Position};
use crate::source::SourceError;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An event trace log of Windows.
    Etl,
    /// JSON objects, one a line, possibly compressed.
    Jsonl,
    /// A capture of ours.
    Capture,
}

impl Kind {
    /// The name of the source that reads it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Etl => "etl",
            Kind::Jsonl => "jsonl",
            Kind::Capture => "capture",
        }
    }
}

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Where the marker of a trace's first record ends.
const ETL_MARKER: usize = 72 + 4;

/// Tells what a file holds: by its content, by its name's end where the content is no help.
///
/// # Errors
/// A file that cannot be read, is empty, or is none of these.
pub fn detect(path: &Path) -> Result<Kind, SourceError> {
    let what = || path.display().to_string();
    let input = |why: &str| SourceError::Input { what: what(), why: why.to_owned() };
    let io = |source| SourceError::Io { what: what(), source };
    let mut start = Vec::new();
    File::open(path).and_then(|f| f.take(4096).read_to_end(&mut start)).map_err(io)?;
    if start.is_empty() {
        return Err(input("the file is empty (0 bytes)"));
    }
    if let Some(kind) = kind_of(&start) {
        return Ok(kind);
    }
    if start.starts_with(GZIP) || start.starts_with(ZSTD) {
        let mut inner = Vec::new();
        // a cut stream still shows its start
        let read = open(path, None).and_then(|f| f.take(4096).read_to_end(&mut inner));
        return match kind_of(&inner) {
            Some(Kind::Jsonl) => Ok(Kind::Jsonl),
            Some(kind) => Err(input(&format!("a compressed {} file; decompress it first", kind.as_str()))),
            None if inner.is_empty() && read.is_err() => Err(input("a damaged compressed file")),
            None => Err(input("compressed, and what is in it is neither JSON lines, a trace nor a capture")),
        };
    }
    if start.starts_with(&[0xff, 0xfe]) || start.starts_with(&[0xfe, 0xff]) {
        return Err(input("UTF-16 text; convert it to UTF-8 first"));
    }
    match path.extension().and_then(|e| e.to_str()) {
        // whoever opens it says what is wrong with it
        Some("etl") => Ok(Kind::Etl),
        Some("jsonl" | "ndjson" | "json" | "log") => Ok(Kind::Jsonl),
        _ => Err(input("neither an event trace log (.etl), JSON lines, nor a capture")),
    }
}

fn kind_of(start: &[u8]) -> Option<Kind> {
    if start.starts_with(&tidegate_proto::capture::MAGIC) {
        return Some(Kind::Capture);
    }
    if let Some([.., 1 | 2, 0xc0]) = start.get(..ETL_MARKER) {
        return Some(Kind::Etl);
    }
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    (text.trim_ascii_start().first() == Some(&b'{')).then_some(Kind::Jsonl)
}

/// A file that cannot be read any more once its source is stopped: what goes through a whole
/// file ends with it.
#[derive(Debug)]
pub(crate) struct Stoppable {
    file: File,
    stop: Option<CancellationToken>,
}

impl Stoppable {
    pub(crate) fn new(file: File, stop: Option<CancellationToken>) -> Stoppable {
        Stoppable { file, stop }
    }

    fn check(&self) -> io::Result<()> {
        match &self.stop {
            Some(stop) if stop.is_cancelled() => Err(io::Error::other("stopped")),
            _ => Ok(()),
        }
    }
}

impl Read for Stoppable {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.file.read(buf)
    }
}

impl Seek for Stoppable {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl ReadAt for Stoppable {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.file.read_at(offset, buf)
    }
}

/// A file's content, decompressed where it is compressed. Concatenated streams are one.
pub(crate) fn open(path: &Path, stop: Option<CancellationToken>) -> io::Result<Box<dyn Read + Send>> {
    decompressed(File::open(path)?, stop)
}

/// The same from an offset in the decompressed content; `None` when it is shorter.
pub(crate) fn open_at(
    path: &Path,
    stop: Option<CancellationToken>,
    offset: u64,
) -> io::Result<Option<Box<dyn Read + Send>>> {
    if offset > 0 && !is_compressed(path)? {
        let mut file = File::open(path)?;
        if file.metadata()?.len() < offset {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(offset))?;
        let file = BufReader::with_capacity(64 << 10, Stoppable::new(file, stop));
        return Ok(Some(Box::new(file)));
    }
    let mut content = open(path, stop)?;
    let passed = io::copy(&mut content.by_ref().take(offset), &mut io::sink())?;
    Ok((passed == offset).then_some(content))
}

/// Hash of the first `len` bytes of the content; `None` when it is shorter.
pub(crate) fn print(path: &Path, len: u64) -> io::Result<Option<u64>> {
    let mut start = Vec::new();
    open(path, None)?.take(len).read_to_end(&mut start)?;
    Ok((start.len() as u64 == len).then(|| Fnv::of(&start)))
}

/// Bytes at the start of a recording that tell which it is: a trace's start of session is among them.
const PRINT: u64 = 1024;

/// What tells a recording of `size` bytes from others, as `printed` and `print` of its positions.
///
/// # Errors
/// A file that cannot be read, or is another one than `resume` speaks of.
pub(crate) fn fingerprint(path: &Path, size: u64, resume: Option<Position>) -> Result<(u64, u64), Halt> {
    let printed = size.min(PRINT);
    let print = print(path, printed).map_err(|e| Halt::io(path, e))?.unwrap_or(0);
    if resume.is_some_and(|r| (r.printed, r.print) != (printed, print)) {
        return Err(replaced(path).into());
    }
    Ok((printed, print))
}

/// The error of a stored place in a file that is not the one it was.
pub(crate) fn replaced(path: &Path) -> SourceError {
    let why = "it is another file than the one read before, or shorter; give the source another name to \
               read it from its start";
    SourceError::Input { what: path.display().to_string(), why: why.to_owned() }
}

/// Whether the file is compressed, so that it cannot grow.
pub(crate) fn is_compressed(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(4).read_to_end(&mut start)?;
    Ok(start.starts_with(GZIP) || start.starts_with(ZSTD))
}

fn decompressed(file: File, stop: Option<CancellationToken>) -> io::Result<Box<dyn Read + Send>> {
    let mut file = BufReader::with_capacity(64 << 10, Stoppable::new(file, stop));
    let start = file.fill_buf()?;
    if start.starts_with(GZIP) {
        Ok(Box::new(flate2::bufread::MultiGzDecoder::new(file)))
    } else if start.starts_with(ZSTD) {
        let mut zstd = zstd::stream::read::Decoder::with_buffer(file)?;
        // what zstd's own program reads without being asked
        zstd.window_log_max(27)?;
        Ok(Box::new(zstd))
    } else {
        Ok(Box::new(file))
    }
}
