//! How a ring is set up.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What happens to a group that does not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FullPolicy {
    /// The oldest events go, those of class `normal` before those of class `critical`.
    #[default]
    DropOldest,
    /// [`append`](crate::Ring::append) waits until the sinks have settled enough.
    Block,
    /// [`append`](crate::Ring::append) fails with [`AppendError::Full`](crate::AppendError::Full).
    DropNewest,
}

/// How blocks are compressed on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4: little work.
    Lz4,
    /// Zstandard at a level from 1 to 19: fewer bytes.
    Zstd(u8),
}

impl Default for Compression {
    fn default() -> Compression {
        Compression::Zstd(1)
    }
}

/// The settings of a ring. The defaults suit a host.
#[derive(Clone)]
pub struct RingOptions {
    /// Bytes on disk that all files of the ring take at most; 4 MiB at least.
    pub bound_bytes: u64,
    /// Size at which a segment file is closed. `None`: a sixteenth of the bound, 8 MiB at most.
    pub segment_bytes: Option<u64>,
    /// Compression of new blocks; stored ones are read whatever they have.
    pub compression: Compression,
    /// Unsynced bytes that make the ring sync.
    pub commit_bytes: u64,
    /// Longest time that a group waits for others to be synced with: what a loss of power may
    /// take of groups that were not acknowledged.
    pub commit_delay: Duration,
    /// What happens when it is full.
    pub full: FullPolicy,
    /// Events stored longer ago than this are let go, in the order of their places. A clock that is set
    /// back lets them stay for as long again at most.
    pub max_age: Option<Duration>,
    /// Bytes of groups that may wait for the disk before [`append`](crate::Ring::append) waits.
    pub queue_bytes: u64,
    /// How often a ring that cannot write tries again.
    pub retry: Duration,
    /// Nanoseconds since 1970; another clock for tests.
    pub now: fn() -> i64,
}

impl Default for RingOptions {
    fn default() -> RingOptions {
        RingOptions {
            bound_bytes: 256 << 20,
            segment_bytes: None,
            compression: Compression::default(),
            commit_bytes: 4 << 20,
            commit_delay: Duration::from_millis(100),
            full: FullPolicy::default(),
            max_age: None,
            queue_bytes: 8 << 20,
            retry: Duration::from_secs(1),
            now: now_ns,
        }
    }
}

impl fmt::Debug for RingOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingOptions")
            .field("bound_bytes", &self.bound_bytes)
            .field("segment_bytes", &self.segment_bytes)
            .field("compression", &self.compression)
            .field("commit_bytes", &self.commit_bytes)
            .field("commit_delay", &self.commit_delay)
            .field("full", &self.full)
            .field("max_age", &self.max_age)
            .field("queue_bytes", &self.queue_bytes)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

impl RingOptions {
    /// The smallest bound.
    pub const MIN_BOUND: u64 = 4 << 20;

    /// The bound that is kept to.
    #[must_use]
    pub fn bound(&self) -> u64 {
        self.bound_bytes.max(Self::MIN_BOUND)
    }
}

/// The system's clock, nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
