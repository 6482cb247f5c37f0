//! Hourly aggregates: how many events of which provider, event and telemetry level came to what
//! outcome. Counts and names only, never payloads; kept longer than the events, for reports.
//!
//! The intake counts while it judges. The counts of the current hour go to disk every few
//! minutes and at the end of a run; a crash loses those of the minutes since.

mod hour;
mod store;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_proto::level::{DropReason, TelemetryLevel};
use tidegate_proto::schema::Schema;
use tidegate_ring::Account;

pub use hour::{Hour, Row, SinkCounts};
pub use store::Store;
pub use tally::Tally;

/// Where aggregates are kept, and how much of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregateOptions {
    /// A folder of their own.
    pub path: PathBuf,
    /// Older hours are let go.
    pub keep: Duration,
    /// Bytes of all files; the oldest days give way.
    pub bytes: u64,
}

/// What became of an event at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was let through, with this level, to be stored.
    Stored(TelemetryLevel),
    /// It was dropped.
    Dropped(DropReason),
}

impl Outcome {
    /// Outcomes there are, by [`Outcome::index`].
    pub const COUNT: usize = 1 + DropReason::ALL.len();

    /// Its place in [`Row::counts`].
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Outcome::Stored(_) => 0,
            Outcome::Dropped(reason) => 1 + usize::from(reason as u8),
        }
    }

    /// The name of the outcome at a place.
    #[must_use]
    pub fn name(index: usize) -> &'static str {
        match index.checked_sub(1) {
            None => "stored",
            Some(n) => DropReason::ALL.get(n).map_or("other", |r| r.as_str()),
        }
    }
}

#[derive(Debug)]
struct Inner {
    tally: Tally,
    last: Option<Account>,
    /// Hours that have ended and are not on disk yet.
    ended: Vec<Hour>,
}

/// Counts and keeps; shared by the intake and whoever saves.
#[derive(Debug)]
pub struct Aggregates {
    store: Store,
    inner: Mutex<Inner>,
}

/// The intake's hold on the counts while it judges a batch.
#[derive(Debug)]
pub struct Counting<'a>(MutexGuard<'a, Inner>);

impl Counting<'_> {
    /// Counts one event.
    #[inline]
    pub fn add(&mut self, schema: &Schema, critical: bool, outcome: Outcome) {
        self.0.tally.add(schema, critical, outcome);
    }
}

impl Aggregates {
    /// Opens the store and goes on with what it holds of the hour of `now_ns`.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(options: &AggregateOptions, now_ns: i64) -> io::Result<Aggregates> {
        let store = Store::open(options)?;
        let hour = Hour::start_of(now_ns);
        let begun = store.load(hour, hour)?.pop();
        let tally = begun.map_or_else(|| Tally::new(hour), Tally::go_on);
        Ok(Aggregates { store, inner: Mutex::new(Inner { tally, last: None, ended: Vec::new() }) })
    }

    /// Takes hold of the counts for events judged at `now_ns`.
    pub fn counting(&self, now_ns: i64) -> Counting<'_> {
        let mut inner = self.lock();
        inner.turn(now_ns);
        Counting(inner)
    }

    /// Puts the counts on disk, those of the sinks by the account too. Blocks on the disk.
    /// Returns the hours that have ended since the last call.
    ///
    /// # Errors
    /// When the disk fails; what was to be saved is tried again with the next call.
    pub fn save(&self, account: &Account, now_ns: i64) -> io::Result<Vec<Hour>> {
        let (ended, current) = {
            let mut inner = self.lock();
            let since = inner.last.as_ref().map(|last| sinks_since(last, account));
            inner.tally.add_sinks(since.unwrap_or_default());
            inner.last = Some(account.clone());
            inner.turn(now_ns);
            (std::mem::take(&mut inner.ended), inner.tally.hour())
        };
        let mut all: Vec<&Hour> = ended.iter().collect();
        all.extend((!current.is_empty()).then_some(&current));
        if let Err(e) = self.store.save(&all, now_ns) {
            let mut inner = self.lock();
            let newer = std::mem::replace(&mut inner.ended, ended);
            inner.ended.extend(newer);
            return Err(e);
        }
        Ok(ended)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Begins another hour where one has begun. A clock that was set back counts on.
    fn turn(&mut self, now_ns: i64) {
        let hour = Hour::start_of(now_ns);
        if hour > self.tally.start() {
            let done = std::mem::replace(&mut self.tally, Tally::new(hour)).hour();
            if !done.is_empty() && self.ended.len() < 24 {
                self.ended.push(done);
            }
        }
    }
}

/// What the sinks settled between two accounts.
fn sinks_since(before: &Account, now: &Account) -> BTreeMap<String, SinkCounts> {
    let sum = |levels: &tidegate_ring::PerLevel| levels.iter().sum::<u64>();
    let counts = |a: &tidegate_ring::SinkAccount| SinkCounts {
        delivered: sum(&a.delivered),
        rejected: sum(&a.rejected),
        lost: a.lost.values().map(sum).sum(),
    };
    let each = now.sinks.iter().map(|(id, a)| {
        let old = before.sinks.get(id).map(counts).unwrap_or_default();
        (id.to_string(), counts(a).since(&old))
    });
    each.filter(|(_, c)| *c != SinkCounts::default()).collect()
}
