//! What can be wrong with a trace: errors that end reading, problems that do not.

use crate::compress::CompressError;
use std::{fmt, io};

/// Why a trace cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum EtlError {
    /// The source failed.
    #[error("cannot read the trace at offset {offset}")]
    Io {
        /// Offset asked for.
        offset: u64,
        /// What the source said.
        source: io::Error,
    },
    /// Nothing in it.
    #[error("the trace is empty (0 bytes)")]
    Empty,
    /// Ends before the header record does.
    #[error("the trace is cut inside its header: {size} bytes, at least {needed} needed")]
    TooShort {
        /// Bytes there are.
        size: u64,
        /// Bytes the header needs.
        needed: u64,
    },
    /// Something else than a trace.
    #[error("not an event trace log: {what} at offset {offset}")]
    NotATrace {
        /// Offset of the first thing that no trace has.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
}

/// A part of a trace that could not be read. Reading went on behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Offset in the file; in a compressed buffer, the offset of the buffer.
    pub offset: u64,
    /// Bytes given up (file bytes, or uncompressed bytes in a compressed buffer).
    pub bytes: u64,
    /// What is wrong.
    pub reason: Reason,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offset {}: {}; {} bytes not read", self.offset, self.reason, self.bytes)
    }
}

/// What is wrong with a part of a trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The file ends inside a buffer.
    #[error("the file ends inside a buffer of {wanted} bytes after {have}")]
    Truncated {
        /// Size that the buffer's header says.
        wanted: u64,
        /// Bytes the file has of it.
        have: u64,
    },
    /// The chain of buffers is broken here.
    #[error("impossible buffer size {0}")]
    BufferSize(u32),
    /// The used part is larger than a buffer may be.
    #[error("buffer says {used} bytes are used, {limit} are possible")]
    BufferUsed {
        /// Bytes said to be used.
        used: u32,
        /// Most that can be.
        limit: u32,
    },
    /// The buffer's compressed bytes are damaged.
    #[error("damaged compressed buffer: {0}")]
    Compressed(#[from] CompressError),
    /// A format number that names no known compression.
    #[error("unknown compression format {0}")]
    CompressionFormat(u16),
    /// More buffers than are indexed.
    #[error("more than {0} buffers")]
    TooManyBuffers(u32),
    /// No record begins where one must.
    #[error("no record header (marker {0:#010x})")]
    Marker(u32),
    /// A record's size is impossible.
    #[error("impossible record size {size} (type {kind}, {room} bytes left)")]
    RecordSize {
        /// Size in the record's header.
        size: u32,
        /// Header type byte.
        kind: u8,
        /// Bytes left in the buffer.
        room: u32,
    },
    /// A record's extended data items do not fit in it.
    #[error("damaged extended data items")]
    ExtItems,
    /// So many CPUs or so large buffers that merging them would take too much memory.
    #[error("time order given up: one buffer per CPU takes {0} bytes")]
    Unordered(u64),
}

/// Problems seen, bounded: the first are kept, all are counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Problems {
    pub(crate) list: Vec<Problem>,
    pub(crate) total: u64,
}

impl Problems {
    const KEPT: usize = 1000;

    pub(crate) fn push(&mut self, problem: Problem) {
        self.total += 1;
        if self.list.len() < Self::KEPT {
            self.list.push(problem);
        }
    }
}
