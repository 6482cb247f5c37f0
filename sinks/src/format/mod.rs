//! Events as the bytes of a file or blob.
//!
//! | format | bytes | names end in |
//! |---|---|---|
//! | `jsonl` | one JSON object a line, as [`tidegate_proto::json`] writes them, `seq` first | `.jsonl`, `.jsonl.gz`, `.jsonl.zst` |
//! | `parquet` | Apache Parquet: typed envelope columns, payload as JSON | `.parquet` |
//! | `capture` | a capture ([`tidegate_proto::capture`]) of one block | `.tgcap` |
//!
//! The same events give the same bytes: no time, name or random number goes in. A new version of
//! a compressor may still give others, so a second digest is kept: of the *canonical bytes*,
//! which are the uncompressed JSON Lines, whatever the format. Equal canonical digests mean
//! equal events.

#[cfg(feature = "parquet")]
pub mod parquet;
mod read;

use std::io::{self, Write as _};

use flate2::write::GzEncoder;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tidegate_proto::batch::EventRef;
use tidegate_proto::capture::{self, CaptureWriter};
use tidegate_proto::ids::Seq;
use tidegate_proto::json;
use tidegate_proto::wire::{BlockBuilder, Unchanged};

pub use self::read::{Plain, read};
use crate::holdings::Fetched;

/// JSON is hashed and compressed in pieces of this size.
const PIECE: usize = 64 << 10;

/// What a file or blob holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// JSON Lines.
    #[default]
    Jsonl,
    /// A capture: all of an event, to be read and replayed by Tidegate.
    Capture,
    /// Apache Parquet; compression is that of its pages.
    #[cfg(feature = "parquet")]
    Parquet,
}

/// How it is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952), without time and name.
    Gzip,
    /// zstd (RFC 8878), with a checksum.
    #[default]
    Zstd,
}

impl Format {
    /// What names end in, from the first dot.
    #[must_use]
    pub fn suffix(self, compression: Compression) -> &'static str {
        match (self, compression) {
            (Format::Jsonl, Compression::None) => ".jsonl",
            (Format::Jsonl, Compression::Gzip) => ".jsonl.gz",
            (Format::Jsonl, Compression::Zstd) => ".jsonl.zst",
            (Format::Capture, _) => ".tgcap",
            #[cfg(feature = "parquet")]
            (Format::Parquet, _) => ".parquet",
        }
    }

    /// The media type of the bytes.
    #[must_use]
    pub fn content_type(self, compression: Compression) -> &'static str {
        match (self, compression) {
            (Format::Jsonl, Compression::None) => "application/x-ndjson",
            (Format::Jsonl, Compression::Gzip) => "application/gzip",
            (Format::Jsonl, Compression::Zstd) => "application/zstd",
            (Format::Capture, _) => "application/octet-stream",
            #[cfg(feature = "parquet")]
            (Format::Parquet, _) => "application/vnd.apache.parquet",
        }
    }
}

/// Finished bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoded {
    /// As they are to be stored.
    pub bytes: bytes::Bytes,
    /// SHA-256 of `bytes`.
    pub sha256: [u8; 32],
    /// SHA-256 of the canonical bytes.
    pub canonical: [u8; 32],
    /// Events in it.
    pub events: u32,
}

impl std::fmt::Debug for Encoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoded({} events, {} bytes)", self.events, self.bytes.len())
    }
}

enum Out {
    Plain(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::Encoder<'static, Vec<u8>>),
    Capture(BlockBuilder, capture::Compression),
    #[cfg(feature = "parquet")]
    Parquet(Box<parquet::Rows<Vec<u8>>>),
}

/// Takes events one by one. Memory: the compressed bytes and a piece; for captures the whole
/// block too.
pub struct Encoder {
    out: Out,
    digest: Sha256,
    json: Vec<u8>,
    events: u32,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoder({} events)", self.events)
    }
}

impl Encoder {
    /// An empty file.
    ///
    /// # Errors
    /// When a compressor cannot be set up (out of memory).
    pub fn new(format: Format, compression: Compression) -> io::Result<Encoder> {
        let out = match (format, compression) {
            (Format::Jsonl, Compression::None) => Out::Plain(Vec::new()),
            (Format::Jsonl, Compression::Gzip) => {
                Out::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::default()))
            }
            (Format::Jsonl, Compression::Zstd) => {
                let mut zstd = zstd::Encoder::new(Vec::new(), zstd::DEFAULT_COMPRESSION_LEVEL)?;
                zstd.include_checksum(true)?;
                Out::Zstd(zstd)
            }
            (Format::Capture, compression) => Out::Capture(
                BlockBuilder::new(),
                match compression {
                    Compression::None => capture::Compression::None,
                    Compression::Gzip => capture::Compression::Gzip,
                    Compression::Zstd => capture::Compression::Zstd,
                },
            ),
            #[cfg(feature = "parquet")]
            (Format::Parquet, compression) => {
                Out::Parquet(Box::new(parquet::Rows::new(Vec::new(), compression)?))
            }
        };
        Ok(Encoder { out, digest: Sha256::new(), json: Vec::with_capacity(PIECE + 4096), events: 0 })
    }

    /// Adds one event with its place.
    ///
    /// # Errors
    /// When a compressor fails (out of memory).
    pub fn push(&mut self, seq: Seq, event: EventRef<'_>) -> io::Result<()> {
        json::write_event(&mut self.json, event, Some(seq));
        self.json.push(b'\n');
        self.events = self.events.saturating_add(1);
        match &mut self.out {
            Out::Capture(block, _) => block.push(event, event.head().telemetry_level, &Unchanged),
            #[cfg(feature = "parquet")]
            Out::Parquet(rows) => rows.push(seq, event)?,
            Out::Plain(_) | Out::Gzip(_) | Out::Zstd(_) => {}
        }
        if self.json.len() >= PIECE { self.piece() } else { Ok(()) }
    }

    fn piece(&mut self) -> io::Result<()> {
        self.digest.update(&self.json);
        match &mut self.out {
            Out::Plain(out) => out.extend_from_slice(&self.json),
            Out::Gzip(out) => out.write_all(&self.json)?,
            Out::Zstd(out) => out.write_all(&self.json)?,
            _ => {}
        }
        self.json.clear();
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// When a compressor fails (out of memory), or events are too much for one capture:
    /// [`io::ErrorKind::InvalidInput`].
    pub fn finish(mut self) -> io::Result<Encoded> {
        self.piece()?;
        let bytes = match self.out {
            Out::Plain(out) => out,
            Out::Gzip(out) => out.finish()?,
            Out::Zstd(out) => out.finish()?,
            Out::Capture(block, compression) => {
                let mut writer = CaptureWriter::new(Vec::new(), compression)?;
                writer.push(&block.finish(), u64::from(self.events))?;
                writer.finish()?
            }
            #[cfg(feature = "parquet")]
            Out::Parquet(rows) => rows.finish()?,
        };
        // it may wait long for the far side: without the room that a growing vector leaves
        let bytes = bytes.into_boxed_slice();
        Ok(Encoded {
            sha256: Sha256::digest(&bytes).into(),
            canonical: self.digest.finalize().into(),
            bytes: bytes.into(),
            events: self.events,
        })
    }
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |n: u8| char::from(DIGITS.get(usize::from(n & 15)).copied().unwrap_or(b'0'));
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(*b)]).collect()
}

#[cfg(test)]
mod tests;
