//! The header that each buffer of a trace starts with, and the index of buffers.

use crate::bytes::{u16_at, u32_at, u64_at};

/// Size of a buffer header.
pub(crate) const HEADER: usize = 72;
/// Largest uncompressed buffer that is read. Windows makes none above 16 MiB.
pub(crate) const MAX_USED: u32 = 16 << 20;

/// Events were lost before this buffer.
pub(crate) const FLAG_EVENTS_LOST: u16 = 2;
/// A buffer was lost before this one.
pub(crate) const FLAG_BUFFER_LOST: u16 = 4;
const FLAG_PROCESSOR_INDEX: u16 = 0x20;
const FLAG_COMPRESSED: u16 = 0x40;
/// Every flag there is.
const ALL_FLAGS: u16 = 0x7F;
/// Debug information, the last buffer type.
const LAST_KIND: u16 = 7;

/// The header of a buffer, as far as it means something on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferHeader {
    /// Bytes of the buffer in the file, header included.
    pub size: u32,
    /// Order among the buffers of a file.
    pub sequence: i64,
    /// CPU that the records come from.
    pub cpu: u16,
    /// Session number.
    pub logger_id: u16,
    /// 3 (flush) or, in the first buffer of a compressed trace, the compression format.
    pub state: u32,
    /// Bytes used, header included, uncompressed.
    pub used: u32,
    /// 1 flush marker, 2 events lost, 4 buffer lost, 0x20 CPU valid, 0x40 compressed.
    pub flags: u16,
    /// 4 in the first buffer, else 0.
    pub kind: u16,
}

impl BufferHeader {
    /// Reads a header; `None` when `b` is shorter than 72 bytes.
    #[must_use]
    pub fn parse(b: &[u8]) -> Option<BufferHeader> {
        let h: &[u8; HEADER] = b.first_chunk()?;
        let flags = u16_at(h, 0x34)?;
        // Before Windows 8 the CPU is one byte, followed by the alignment.
        let cpu = u16_at(h, 0x28)?;
        let cpu = if flags & FLAG_PROCESSOR_INDEX == 0 { cpu & 0xFF } else { cpu };
        Some(BufferHeader {
            size: u32_at(h, 0)?,
            sequence: u64_at(h, 0x18)?.cast_signed(),
            cpu,
            logger_id: u16_at(h, 0x2A)?,
            state: u32_at(h, 0x2C)?,
            used: u32_at(h, 0x30)?.max(u32_at(h, 4)?),
            flags,
            kind: u16_at(h, 0x36)?,
        })
    }

    /// Whether the fields agree with one another as those of a real header do.
    pub(crate) fn plausible(&self) -> bool {
        self.size as usize >= HEADER
            && self.size <= MAX_USED
            && self.used as usize >= HEADER
            && self.used <= if self.compressed() { MAX_USED } else { self.size }
            && self.kind <= LAST_KIND
            && self.flags <= ALL_FLAGS
    }

    /// Whether the payload is compressed.
    #[must_use]
    pub fn compressed(&self) -> bool {
        self.flags & FLAG_COMPRESSED != 0
    }
}

/// One buffer of the index. Small, as there may be a million.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) sequence: i64,
    /// Bytes in the file, cut to its end.
    pub(crate) size: u32,
    pub(crate) used: u32,
    pub(crate) cpu: u16,
    pub(crate) flags: u16,
}

impl Entry {
    pub(crate) fn compressed(&self) -> bool {
        self.flags & FLAG_COMPRESSED != 0
    }
}
