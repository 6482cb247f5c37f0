use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tidegate_proto::level::DropReason;

/// What the intake counts for progress; the account itself is the ring's.
#[derive(Debug, Default)]
pub struct Counters {
    read: AtomicU64,
    stored: AtomicU64,
    stored_bytes: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
    gaps: AtomicU64,
    gap_events: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Counters {
    pub(super) fn add_read(&self, n: u64) {
        self.read.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn add_stored(&self, events: u64, bytes: u64) {
        self.stored.fetch_add(events, Ordering::Relaxed);
        self.stored_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_dropped(&self, reason: DropReason, n: u64) {
        if let Some(count) = self.dropped.get(usize::from(reason as u8)) {
            count.fetch_add(n, Ordering::Relaxed);
        }
    }

    pub(super) fn add_gap(&self, events: Option<u64>) {
        self.gaps.fetch_add(1, Ordering::Relaxed);
        self.gap_events.fetch_add(events.unwrap_or(0), Ordering::Relaxed);
    }

    /// Gaps that sources have told, such as buffers a trace session lost, and the events that
    /// are known to have been in them.
    #[must_use]
    pub fn gaps(&self) -> (u64, u64) {
        (self.gaps.load(Ordering::Relaxed), self.gap_events.load(Ordering::Relaxed))
    }

    /// Notes why the ring cannot write; whether that is news.
    pub(super) fn ring_trouble(&self, why: Option<String>) -> bool {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let news = trouble.is_some() != why.is_some();
        *trouble = why;
        news
    }

    /// Events read from sources.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Events on stable storage.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// Encoded bytes on stable storage, before compression.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes.load(Ordering::Relaxed)
    }

    /// Events dropped for a reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped.get(usize::from(reason as u8)).map_or(0, |n| n.load(Ordering::Relaxed))
    }

    /// Why the ring cannot write, if it cannot.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
