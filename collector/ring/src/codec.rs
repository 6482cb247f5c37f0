//! From encoded blocks to stored bytes and back: compression, then sealing, then a checksum.

use std::borrow::Cow;
use std::cell::RefCell;

use bytes::Bytes;
use tidegate_proto::level::Class;

use crate::Compression;
use crate::crypt::Keys;
use crate::ledger::{Block, Place};

const NONE: u8 = 0;
const LZ4: u8 = 1;
const ZSTD: u8 = 2;
/// No block is larger, whatever a file says.
const MAX_RAW: usize = 1 << 30;

/// What the stored bytes of a block are bound to, so that sealed bytes cannot be passed for
/// those of another ring or kind of block.
fn bound_to(epoch: u64, class: Class, codec: u8, levels: &[u32; 4], raw_len: u32) -> [u8; 30] {
    let mut out = [0; 30];
    let mut at = 0;
    let mut push = |bytes: &[u8]| {
        for b in bytes {
            if let Some(o) = out.get_mut(at) {
                *o = *b;
            }
            at += 1;
        }
    };
    push(&epoch.to_le_bytes());
    push(&[class as u8, codec]);
    for l in levels {
        push(&l.to_le_bytes());
    }
    push(&raw_len.to_le_bytes());
    out
}

thread_local! {
    static ZSTD_CONTEXT: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
}

fn zstd_compress(level: i32, raw: &[u8]) -> Option<Vec<u8>> {
    ZSTD_CONTEXT.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(l, _)| *l != level) {
            *slot = Some((level, zstd::bulk::Compressor::new(level).ok()?));
        }
        slot.as_mut()?.1.compress(raw).ok()
    })
}

/// Compresses and seals a block. Bytes that do not get smaller stay as they are.
pub(crate) fn encode(
    compression: Compression,
    keys: Option<&Keys>,
    epoch: u64,
    class: Class,
    levels: &[u32; 4],
    raw: &Bytes,
) -> Result<(Bytes, Place), String> {
    let raw_len = u32::try_from(raw.len()).map_err(|_| "a block of 4 GiB".to_owned())?;
    let packed = match compression {
        Compression::None => None,
        Compression::Lz4 => Some((LZ4, lz4_flex::block::compress(raw))),
        Compression::Zstd(level) => zstd_compress(i32::from(level.clamp(1, 19)), raw).map(|b| (ZSTD, b)),
    };
    let (codec, mut bytes) = match packed {
        Some((codec, packed)) if packed.len() < raw.len() => (codec, Bytes::from(packed)),
        _ => (NONE, raw.clone()),
    };
    let mut key = 0;
    if let Some(keys) = keys {
        let (id, sealed) = keys.seal(&bound_to(epoch, class, codec, levels, raw_len), &bytes)?;
        (key, bytes) = (id, Bytes::from(sealed));
    }
    let len = u32::try_from(bytes.len()).map_err(|_| "a block of 4 GiB".to_owned())?;
    let crc = crc32c::crc32c(&bytes);
    Ok((bytes, Place { segment: 0, offset: 0, len, crc, codec, key }))
}

/// Whether stored bytes are those that were written.
pub(crate) fn intact(place: &Place, stored: &[u8]) -> bool {
    stored.len() as u64 == u64::from(place.len) && crc32c::crc32c(stored) == place.crc
}

/// Why stored bytes do not become a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// They are not what was written.
    Damaged(&'static str),
    /// They may be good; the key that sealed them is not there.
    NoKey,
}

/// Checks, opens and unpacks the stored bytes of a block.
pub(crate) fn decode(keys: Option<&Keys>, epoch: u64, block: &Block, stored: Vec<u8>) -> Result<Bytes, Bad> {
    let place = &block.place;
    if !intact(place, &stored) {
        return Err(Bad::Damaged("checksum"));
    }
    let mut bytes = Cow::from(stored);
    if place.key != 0 {
        let keys = keys.ok_or(Bad::NoKey)?;
        let bound = bound_to(epoch, block.class, place.codec, &block.levels, block.raw_len);
        let bad = if keys.is_sure_of(place.key) { Bad::Damaged("seal") } else { Bad::NoKey };
        bytes = Cow::from(keys.open(place.key, &bound, &bytes).ok_or(bad)?);
    }
    let raw_len = usize::try_from(block.raw_len).unwrap_or(usize::MAX);
    if raw_len > MAX_RAW {
        return Err(Bad::Damaged("too large"));
    }
    let raw = match place.codec {
        NONE => bytes.into_owned(),
        LZ4 => lz4_flex::block::decompress(&bytes, raw_len).map_err(|_| Bad::Damaged("LZ4"))?,
        ZSTD => zstd::bulk::decompress(&bytes, raw_len).map_err(|_| Bad::Damaged("Zstandard"))?,
        _ => return Err(Bad::Damaged("a codec of a newer version")),
    };
    if raw.len() == raw_len { Ok(Bytes::from(raw)) } else { Err(Bad::Damaged("length")) }
}
