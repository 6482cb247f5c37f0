use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tidegate_proto::ids::Seq;
use tidegate_proto::level::LossReason;
use tidegate_ring::{Hole, Part};
use tokio::sync::watch;

use crate::pipeline::SinkProgress;

/// Why events wait that should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// The far side, credentials or settings need someone.
    Stopped,
    /// The far side refuses whatever it is sent.
    Refused,
    /// The far side cannot be reached, or asks to wait for long.
    Unreachable,
    /// Single batches wait alone.
    Blocked,
    /// The ring cannot be read.
    Ring,
    /// This run cannot be made into a batch.
    Making(Part),
    /// What became of this run cannot be put down.
    Settling(Part),
}

/// The words of a [`Why`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reason {
    words: String,
    cause: String,
}

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
    pub(super) metered: AtomicBool,
    last_ns: AtomicI64,
    attempts: Mutex<BTreeMap<&'static str, u64>>,
    held: Mutex<BTreeMap<Why, Reason>>,
    missed: Mutex<BTreeMap<LossReason, Missed>>,
    paused: watch::Sender<bool>,
}

/// Where the sink met places whose events had gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
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

    /// Notes why events wait, in our own words, and what the far side says of it; whether there was no
    /// such reason, or with other words.
    pub(super) fn hold(&self, why: Why, words: &str, cause: &str) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = Reason { words: words.to_owned(), cause: cause.to_owned() };
        held.insert(why, reason).is_none_or(|before| before.words != words)
    }

    /// Whether events wait for that reason.
    pub(super) fn holds(&self, why: Why) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&why)
    }

    /// Notes that a reason has ended; whether there was one.
    pub(super) fn free(&self, why: Why) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&why).is_some()
    }

    /// Forgets what an earlier dispatcher has noted.
    pub(super) fn free_all(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// All the reasons, each once.
    fn held(&self, part: fn(&Reason) -> &String) -> Option<String> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut words: Vec<&str> =
            held.values().map(|r| part(r).as_str()).filter(|w| !w.is_empty()).collect();
        words.dedup();
        (!words.is_empty()).then(|| words.join("; "))
    }

    pub(super) fn missed(&self, hole: &Hole) {
        let (first, last) = (hole.range.first(), hole.range.last());
        self.note_missed(hole.reason, &Missed { first, last });
    }

    /// Notes places whose events had gone.
    pub fn note_missed(&self, reason: LossReason, places: &Missed) {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        let all = missed.entry(reason).or_insert(*places);
        all.first = all.first.min(places.first);
        all.last = all.last.max(places.last);
    }

    /// Pauses the sink or lets it go on.
    pub fn pause(&self, paused: bool) {
        self.paused.send_if_modified(|p| std::mem::replace(p, paused) != paused);
    }

    /// Whether it is paused, as it changes.
    #[must_use]
    pub fn watch_paused(&self) -> watch::Receiver<bool> {
        self.paused.subscribe()
    }

    /// Where such places were met since the last call, by reason.
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
            paused: *self.paused.borrow(),
            metered: self.metered.load(Ordering::Relaxed),
            held: self.held(|r| &r.words),
            cause: self.held(|r| &r.cause),
        }
    }
}
