//! Files and blobs of ours read back: to lines, or to the bytes of a capture.

use std::io::{self, Read};

use super::Fetched;

/// What a file holds.
#[derive(Clone, PartialEq, Eq)]
pub enum Plain {
    /// JSON Lines.
    Lines(Vec<u8>),
    /// A capture, for [`CaptureReader`](tidegate_proto::capture::CaptureReader).
    Capture(bytes::Bytes),
}

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Plain::Lines(l) => write!(f, "Lines({} bytes)", l.len()),
            Plain::Capture(c) => write!(f, "Capture({} bytes)", c.len()),
        }
    }
}

/// Reads an object; what it is, its name's end tells. At most `most` bytes are made of it.
///
/// # Errors
/// Bytes that are not what the name says, damaged ones, and more than `most`.
pub fn read(held: &Fetched, most: u64) -> io::Result<Plain> {
    let name = held.destination.as_str();
    let bytes = &held.bytes;
    if name.ends_with(".tgcap") {
        Ok(Plain::Capture(bytes.clone()))
    } else if name.ends_with(".jsonl") {
        bounded(&bytes[..], most).map(Plain::Lines)
    } else if name.ends_with(".jsonl.gz") {
        bounded(flate2::read::MultiGzDecoder::new(&bytes[..]), most).map(Plain::Lines)
    } else if name.ends_with(".jsonl.zst") {
        bounded(zstd::Decoder::new(&bytes[..])?, most).map(Plain::Lines)
    } else {
        #[cfg(feature = "parquet")]
        if name.ends_with(".parquet") {
            return super::parquet::lines(bytes.clone(), most).map(Plain::Lines);
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "its name tells no format of ours"))
    }
}

fn bounded(from: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    from.take(most.saturating_add(1)).read_to_end(&mut out)?;
    if out.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too large to be looked into"));
    }
    Ok(out)
}
