//! Sinks that fail at random, and keep their own count of what they took.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tidegate::dispatch::retry::{Chance, Xorshift};
use tidegate_proto::ids::{SeqRange, SinkId};
use tidegate_proto::json;
use tidegate_sinks::{
    BatchLimits, BoxFuture, DeliverError, Delivered, RejectReason, Rejected, Sink, SinkBatch,
};
use tokio::time::Instant;

/// How often what goes wrong: of 10,000 attempts each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Temper {
    /// Fails, and took nothing.
    pub fails: u64,
    /// Took it, and the answer is lost.
    pub loses_answer: u64,
    /// Never answers.
    pub hangs: u64,
    /// Answers after up to a fifth of a second.
    pub dawdles: u64,
    /// Wants less at once.
    pub splits: u64,
    /// Refuses the whole batch for good.
    pub refuses: u64,
    /// Refuses some of its events for good.
    pub refuses_some: u64,
    /// Mean seconds between outages; 0: there are none.
    pub outage_every: u64,
    /// Longest outage in seconds.
    pub outage_most: u64,
}

/// What a sink counts, to be compared with the ring's account.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub attempts: u64,
    /// Events of batches it said `Ok` to, without the refused ones.
    pub taken: u64,
    pub refused: u64,
    /// Batches that came again after a lost answer, the same to the byte.
    pub repeats: u64,
    /// Batches that came again and were not the same.
    pub changed: u64,
    pub outages: u64,
}

#[derive(Debug)]
struct Inner {
    chance: Xorshift,
    count: Count,
    /// Batches whose answer was lost, with their digest.
    unanswered: BTreeMap<(u64, u64), [u8; 32]>,
    next_outage: Option<Instant>,
    down: Option<(Instant, bool)>,
}

/// Most batches that wait to come again.
const MOST_UNANSWERED: usize = 4096;

/// A sink to memory.
#[derive(Debug)]
pub struct Moody {
    id: SinkId,
    temper: Temper,
    inner: Mutex<Inner>,
}

enum Mood {
    Take { pause: Duration },
    Lose,
    Hang,
    TakeSome,
    Fail(DeliverError),
}

fn key(range: SeqRange) -> (u64, u64) {
    (range.first().0, range.last().0)
}

fn digest(batch: &SinkBatch) -> [u8; 32] {
    let (mut hash, mut line) = (Sha256::new(), Vec::new());
    for (seq, event) in batch.iter() {
        line.clear();
        json::write_event(&mut line, event, Some(seq));
        hash.update(&line);
    }
    hash.finalize().into()
}

impl Moody {
    pub fn new(name: &str, seed: u64, temper: Temper) -> Moody {
        let inner = Inner {
            chance: Xorshift::new(seed),
            count: Count::default(),
            unanswered: BTreeMap::new(),
            next_outage: None,
            down: None,
        };
        Moody { id: SinkId::new(name), temper, inner: Mutex::new(inner) }
    }

    pub fn count(&self) -> Count {
        self.lock().count
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is away now; `Some(true)`: until someone acts.
    fn outage(&self, inner: &mut Inner) -> Option<bool> {
        let (every, most) = (self.temper.outage_every, self.temper.outage_most);
        if every == 0 {
            return None;
        }
        let now = Instant::now();
        if let Some((until, held)) = inner.down.filter(|d| d.0 > now) {
            let _ = until;
            return Some(held);
        }
        let wait = Duration::from_secs(every / 2 + inner.chance.next() % every);
        let next = *inner.next_outage.get_or_insert(now + wait);
        if next > now {
            return None;
        }
        let long = Duration::from_secs(1 + inner.chance.next() % most.max(1));
        let held = inner.chance.next().is_multiple_of(4);
        inner.down = Some((now + long, held));
        inner.next_outage = Some(now + long + wait);
        inner.count.outages += 1;
        Some(held)
    }

    fn mood(&self, batch: &SinkBatch) -> Mood {
        let mut inner = self.lock();
        inner.count.attempts += 1;
        match self.outage(&mut inner) {
            Some(true) => {
                return Mood::Fail(DeliverError::Stop {
                    after: None,
                    advice: "wait".into(),
                    source: "it is away".into(),
                });
            }
            Some(false) => return Mood::Fail(retry("it is away")),
            None => {}
        }
        let t = self.temper;
        let mut dice = inner.chance.next() % 10_000;
        let mut falls = |share: u64| {
            let hit = dice < share;
            dice = dice.wrapping_sub(share);
            hit
        };
        if falls(t.fails) {
            Mood::Fail(retry("it failed"))
        } else if falls(t.loses_answer) && inner.unanswered.len() < MOST_UNANSWERED {
            Mood::Lose
        } else if falls(t.hangs) {
            Mood::Hang
        } else if falls(t.dawdles) {
            Mood::Take { pause: Duration::from_millis(inner.chance.next() % 200) }
        } else if falls(t.splits) && batch.len() > 64 {
            Mood::Fail(DeliverError::Split { source: "too much".into() })
        } else if falls(t.refuses) {
            inner.count.refused += batch.len() as u64;
            Mood::Fail(DeliverError::Reject { reason: RejectReason::Invalid, source: "never".into() })
        } else if falls(t.refuses_some) {
            Mood::TakeSome
        } else {
            Mood::Take { pause: Duration::ZERO }
        }
    }

    /// Looks whether a batch is the one whose answer was lost.
    fn compare(&self, batch: &SinkBatch) {
        let before = self.lock().unanswered.remove(&key(batch.range()));
        let Some(before) = before else { return };
        let same = digest(batch) == before;
        let mut inner = self.lock();
        if same {
            inner.count.repeats += 1;
        } else {
            inner.count.changed += 1;
        }
    }
}

fn retry(why: &str) -> DeliverError {
    DeliverError::Retry { after: None, source: why.into() }
}

impl Sink for Moody {
    fn id(&self) -> &SinkId {
        &self.id
    }

    fn limits(&self) -> BatchLimits {
        BatchLimits {
            events: 4_096,
            bytes: 1 << 20,
            age: Duration::from_secs(1),
            in_flight: 4,
            timeout: Duration::from_secs(10),
        }
    }

    fn check(&self) -> BoxFuture<'_, Result<(), DeliverError>> {
        Box::pin(async { Ok(()) })
    }

    fn deliver<'a>(&'a self, batch: &'a SinkBatch) -> BoxFuture<'a, Result<Delivered, DeliverError>> {
        Box::pin(async move {
            let mut rejected = Vec::new();
            match self.mood(batch) {
                Mood::Fail(e) => return Err(e),
                Mood::Hang => pending().await,
                Mood::Lose => {
                    self.compare(batch);
                    let sum = digest(batch);
                    self.lock().unanswered.insert(key(batch.range()), sum);
                    return Err(retry("the answer is lost"));
                }
                Mood::Take { pause } => tokio::time::sleep(pause).await,
                Mood::TakeSome => {
                    let of = |seq| Rejected { seq, reason: RejectReason::Invalid, detail: String::new() };
                    rejected = batch.iter().step_by(97).map(|(seq, _)| of(seq)).collect();
                }
            }
            self.compare(batch);
            let mut bytes = Vec::new();
            for (seq, event) in batch.iter() {
                json::write_event(&mut bytes, event, Some(seq));
                bytes.push(b'\n');
            }
            // nothing is awaited from here on: what is counted is answered
            let mut inner = self.lock();
            inner.count.taken += (batch.len() - rejected.len()) as u64;
            inner.count.refused += rejected.len() as u64;
            Ok(Delivered { bytes: bytes.len() as u64, rejected, ..Delivered::default() })
        })
    }
}
