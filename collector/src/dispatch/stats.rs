use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tidegate_proto::ids::Seq;
use tidegate_proto::level::LossReason;
use tidegate_ring::Hole;

use crate::pipeline::SinkProgress;

/// What a dispatcher counts for progress; the account itself is the ring's.
#[derive(Debug, Default)]
pub struct Stats {
    pub(super) delivered: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) left_out: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) deliveries: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) waiting: AtomicU64,
    last_ns: AtomicI64,
    attempts: Mutex<BTreeMap<&'static str, u64>>,
    held: Mutex<Option<String>>,
    missed: Mutex<BTreeMap<LossReason, Missed>>,
}

/// Events that went from the ring before the sink had them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// How many.
    pub events: u64,
    /// The lowest of their places.
    pub first: Seq,
    /// The highest.
    pub last: Seq,
}

impl Stats {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts an attempt by what it came to.
    pub(super) fn attempt(&self, class: &'static str) {
        *self.attempts.lock().unwrap_or_else(PoisonError::into_inner).entry(class).or_default() += 1;
    }

    pub(super) fn delivered_at(&self, ns: i64) {
        self.last_ns.store(ns, Ordering::Relaxed);
    }

    /// Notes why the sink holds, `None` when it does not; whether that is news.
    pub(super) fn hold(&self, why: Option<&str>) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let news = held.as_deref() != why;
        if news {
            *held = why.map(str::to_owned);
        }
        news
    }

    pub(super) fn missed(&self, hole: &Hole) {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = (hole.range.first(), hole.range.last());
        let all = missed.entry(hole.reason).or_insert(Missed { events: 0, first, last });
        all.events += hole.events;
        all.first = all.first.min(first);
        all.last = all.last.max(last);
    }

    /// What was missed since the last call, by reason.
    #[must_use]
    pub fn take_missed(&self) -> BTreeMap<LossReason, Missed> {
        std::mem::take(&mut *self.missed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// As it stands.
    #[must_use]
    pub fn progress(&self) -> SinkProgress {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        SinkProgress {
            delivered: get(&self.delivered),
            rejected: get(&self.rejected),
            left_out: get(&self.left_out),
            bytes: get(&self.bytes),
            deliveries: get(&self.deliveries),
            failures: get(&self.failures),
            attempts: self.attempts.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            waiting: get(&self.waiting),
            last_delivery_ns: Some(self.last_ns.load(Ordering::Relaxed)).filter(|n| *n != 0),
            held: self.held.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
