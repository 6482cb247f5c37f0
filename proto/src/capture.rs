//! Captures: blocks in a file, as recorded.
//!
//! ```text
//! file  = "TGCAPT" version:u8 compression:u8 frame* end?
//! frame = stored:varint raw:varint crc:u32le bytes[stored]
//! end   = 0x00 events:varint
//! ```
//!
//! `bytes` are one encoded [`pb::Block`](crate::pb::Block), compressed by itself, `raw` its
//! length before, `crc` the CRC-32C of `bytes`. So a damaged frame costs its own events only,
//! reading can begin at any frame, and a capture without its end is known to be cut.

use std::io::{self, Read, Seek, SeekFrom, Write};

use crate::wire::varint;

/// The first bytes of every capture.
pub const MAGIC: [u8; 6] = *b"TGCAPT";
/// The format version written and the highest one read.
pub const VERSION: u8 = 1;
/// Largest block, in bytes before compression.
pub const MAX_BLOCK: usize = 64 << 20;
/// Bytes before the first frame.
pub const HEADER: u64 = 8;
/// What compression may add to a block that does not shrink.
const SLACK: usize = 1 << 20;

/// How the blocks of a capture are compressed. The numbers are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Compression {
    /// Not at all.
    None = 0,
    /// gzip.
    Gzip = 1,
    /// zstd.
    #[default]
    Zstd = 2,
}

impl Compression {
    fn from_u8(n: u8) -> Option<Compression> {
        match n {
            0 => Some(Compression::None),
            1 => Some(Compression::Gzip),
            2 => Some(Compression::Zstd),
            _ => None,
        }
    }
}

/// Why a capture, or a part of it, cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The file cannot be read.
    #[error("cannot read the capture at offset {offset}")]
    Io {
        /// Where.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Something else than a capture.
    #[error("not a capture: it does not begin with {MAGIC:?}")]
    NotACapture,
    /// Written by a newer version.
    #[error("the capture has version {0}, this program reads up to {VERSION}: use the version that wrote it")]
    Newer(u8),
    /// A compression that does not exist.
    #[error("unknown compression {0} of the capture")]
    Compression(u8),
    /// A frame whose bytes are damaged. Reading goes on behind it.
    #[error("damaged frame at offset {offset}: {what}")]
    Damaged {
        /// Where the frame begins.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The file ends without its end mark, or where the next frame begins is lost. Nothing
    /// more can be read.
    #[error("the capture is cut or damaged at offset {offset}: {what}")]
    Cut {
        /// Where the last sound frame ends.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// Writes a capture.
#[derive(Debug)]
pub struct CaptureWriter<W> {
    to: W,
    compression: Compression,
    events: u64,
    bytes: u64,
}

impl<W: Write> CaptureWriter<W> {
    /// Begins a capture.
    ///
    /// # Errors
    /// When `to` fails.
    pub fn new(mut to: W, compression: Compression) -> io::Result<CaptureWriter<W>> {
        to.write_all(&MAGIC)?;
        to.write_all(&[VERSION, compression as u8])?;
        Ok(CaptureWriter { to, compression, events: 0, bytes: HEADER })
    }

    /// Appends an encoded block of `events` events.
    ///
    /// # Errors
    /// When `to` fails; the capture then ends before this block. A block that is empty or
    /// larger than [`MAX_BLOCK`] is refused with [`io::ErrorKind::InvalidInput`] and nothing
    /// is written.
    pub fn push(&mut self, block: &[u8], events: u64) -> io::Result<()> {
        if block.is_empty() || block.len() > MAX_BLOCK {
            let what = format!("a block of {} bytes in a capture", block.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let packed;
        let stored = match self.compression {
            Compression::None => block,
            Compression::Gzip => {
                let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                gz.write_all(block)?;
                packed = gz.finish()?;
                &packed
            }
            Compression::Zstd => {
                packed = zstd::bulk::compress(block, zstd::DEFAULT_COMPRESSION_LEVEL)?;
                &packed
            }
        };
        let mut head = Vec::with_capacity(16);
        varint(&mut head, stored.len() as u64);
        varint(&mut head, block.len() as u64);
        head.extend_from_slice(&crc32c::crc32c(stored).to_le_bytes());
        self.to.write_all(&head)?;
        self.to.write_all(stored)?;
        self.bytes += (head.len() + stored.len()) as u64;
        self.events += events;
        Ok(())
    }

    /// Bytes written so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Events written so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Writes the end mark and flushes.
    ///
    /// # Errors
    /// When the writer fails.
    pub fn finish(mut self) -> io::Result<W> {
        let mut end = vec![0];
        varint(&mut end, self.events);
        self.to.write_all(&end)?;
        self.to.flush()?;
        Ok(self.to)
    }
}

/// Reads a capture block by block. Holds one block in memory, compressed and not.
#[derive(Debug)]
pub struct CaptureReader<R> {
    from: R,
    compression: Compression,
    /// Offset of the next frame.
    offset: u64,
    stored: Vec<u8>,
    raw: Vec<u8>,
    /// Events that the end mark tells.
    told: Option<u64>,
    ended: bool,
}

/// What stands before a frame's bytes.
enum Lead {
    Frame { stored: u64, raw: u64, crc: u32, len: u64 },
    End(u64),
}

impl<R: Read> CaptureReader<R> {
    /// Reads the header. `from` should be buffered.
    ///
    /// # Errors
    /// When `from` fails, or what it holds is no capture.
    pub fn new(mut from: R) -> Result<CaptureReader<R>, CaptureError> {
        let mut header = [0; HEADER as usize];
        if fill(&mut from, &mut header, 0)? < header.len() {
            return Err(CaptureError::NotACapture);
        }
        let [magic @ .., version, compression] = header;
        if magic != MAGIC || version == 0 {
            return Err(CaptureError::NotACapture);
        }
        if version > VERSION {
            return Err(CaptureError::Newer(version));
        }
        let compression = Compression::from_u8(compression).ok_or(CaptureError::Compression(compression))?;
        Ok(CaptureReader {
            from,
            compression,
            offset: HEADER,
            stored: Vec::new(),
            raw: Vec::new(),
            told: None,
            ended: false,
        })
    }

    /// Where the next frame begins: the place to [`resume`](CaptureReader::resume) at.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Events that the capture's end mark says it holds, once that was read.
    #[must_use]
    pub fn told_events(&self) -> Option<u64> {
        self.told
    }

    /// The next encoded block; `None` at the end.
    ///
    /// # Errors
    /// [`CaptureError::Damaged`] costs one block, the next call reads behind it. After any
    /// other error the next call says `None`.
    pub fn next_block(&mut self) -> Result<Option<&[u8]>, CaptureError> {
        if self.ended {
            return Ok(None);
        }
        match self.step() {
            Ok(true) => Ok(Some(&self.raw)),
            Ok(false) => {
                self.ended = true;
                Ok(None)
            }
            Err(e) => {
                self.ended = !matches!(e, CaptureError::Damaged { .. });
                Err(e)
            }
        }
    }

    fn step(&mut self) -> Result<bool, CaptureError> {
        let offset = self.offset;
        let cut = |what| CaptureError::Cut { offset, what };
        let (stored, raw, crc, len) = match self.lead()? {
            Lead::End(events) => {
                self.told = Some(events);
                return Ok(false);
            }
            Lead::Frame { stored, raw, crc, len } => (stored, raw, crc, len),
        };
        let size = usize::try_from(stored).ok().filter(|n| *n <= MAX_BLOCK + SLACK);
        let size = size.ok_or_else(|| cut("an impossible length"))?;
        // grows with what is there, whatever the length says
        self.stored.clear();
        let taken = (&mut self.from).take(stored).read_to_end(&mut self.stored);
        let taken = taken.map_err(|source| CaptureError::Io { offset, source })?;
        if taken < size {
            return Err(cut("the file ends inside of a frame"));
        }
        self.offset += len + stored;
        let damaged = |what| CaptureError::Damaged { offset, what };
        if crc32c::crc32c(&self.stored) != crc {
            return Err(damaged("wrong checksum"));
        }
        let raw = usize::try_from(raw).ok().filter(|n| *n <= MAX_BLOCK);
        let raw = raw.ok_or_else(|| damaged("a block that is too large"))?;
        self.raw.clear();
        let limit = raw as u64 + 1;
        let expanded = match self.compression {
            Compression::None => self.stored.as_slice().take(limit).read_to_end(&mut self.raw),
            Compression::Gzip => {
                flate2::read::GzDecoder::new(self.stored.as_slice()).take(limit).read_to_end(&mut self.raw)
            }
            Compression::Zstd => zstd::stream::read::Decoder::with_buffer(self.stored.as_slice())
                .and_then(|d| d.take(limit).read_to_end(&mut self.raw)),
        };
        match expanded {
            Ok(n) if n == raw => Ok(true),
            Ok(_) => Err(damaged("the block has another length than it says")),
            Err(_) => Err(damaged("the block cannot be decompressed")),
        }
    }

    fn lead(&mut self) -> Result<Lead, CaptureError> {
        let cut = CaptureError::Cut { offset: self.offset, what: "the end mark is missing" };
        let mut len = 0;
        let Some(stored) = self.number(&mut len)? else { return Err(cut) };
        let Some(second) = self.number(&mut len)? else { return Err(cut) };
        if stored == 0 {
            return Ok(Lead::End(second));
        }
        let mut crc = [0; 4];
        if fill(&mut self.from, &mut crc, self.offset)? < crc.len() {
            return Err(cut);
        }
        Ok(Lead::Frame { stored, raw: second, crc: u32::from_le_bytes(crc), len: len + 4 })
    }

    /// A varint; `None` when the file ends first.
    fn number(&mut self, len: &mut u64) -> Result<Option<u64>, CaptureError> {
        let mut n = 0u64;
        for shift in (0..63).step_by(7) {
            let mut b = [0];
            if fill(&mut self.from, &mut b, self.offset)? == 0 {
                return Ok(None);
            }
            *len += 1;
            n |= u64::from(b[0] & 0x7f) << shift;
            if b[0] < 0x80 {
                return Ok(Some(n));
            }
        }
        Err(CaptureError::Cut { offset: self.offset, what: "an impossible length" })
    }
}

impl<R: Read + Seek> CaptureReader<R> {
    /// Goes to a frame that [`offset`](CaptureReader::offset) told earlier. Any other place
    /// reads as damage.
    ///
    /// # Errors
    /// When the reader fails.
    pub fn resume(&mut self, offset: u64) -> Result<(), CaptureError> {
        let offset = offset.max(HEADER);
        self.from.seek(SeekFrom::Start(offset)).map_err(|source| CaptureError::Io { offset, source })?;
        self.offset = offset;
        self.ended = false;
        Ok(())
    }
}

/// Reads until `buf` is full or the file ends.
fn fill(from: &mut impl Read, buf: &mut [u8], offset: u64) -> Result<usize, CaptureError> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(CaptureError::Io { offset, source }),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests;
