//! The thread that keeps the book. Who needs something durable marks it dirty in the state and
//! calls [`Keeper::sync`]; all who wait are served by one write.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Shared, State};
use crate::book::journal::{self, Journal, Journaled};
use crate::book::record::{self, Meta, SegmentRecord};
use crate::book::{Book, Change, Row};
use crate::ledger::Key;
use crate::{Chain, RingError};

/// A book that does not answer for so long is taken for dead.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Calls {
    /// Number of the newest call.
    want: u64,
    /// Calls up to here were served.
    served: u64,
    /// Why those up to a number were not.
    failed: (u64, String),
    /// What the book has set aside is to be removed.
    clear: bool,
    /// Why it was not up to a number.
    not_cleared: (u64, String),
    stop: bool,
}

/// The callers' side.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    calls: Mutex<Calls>,
    changed: Condvar,
}

impl Keeper {
    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes all that is dirty now durable.
    pub fn sync(&self) -> Result<(), RingError> {
        self.call(false)
    }

    /// The same, and removes what the book has set aside.
    pub fn sync_and_clear(&self) -> Result<(), RingError> {
        self.call(true)
    }

    fn call(&self, clear: bool) -> Result<(), RingError> {
        let mut calls = self.lock();
        if calls.stop {
            return Err(RingError::Closed);
        }
        calls.want += 1;
        calls.clear |= clear;
        let mine = calls.want;
        self.changed.notify_all();
        let (calls, timeout) = self
            .changed
            .wait_timeout_while(calls, PATIENCE, |c| c.served < mine)
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return Err(RingError::Book("it does not answer".to_owned()));
        }
        let failed = [Some(&calls.failed), clear.then_some(&calls.not_cleared)];
        let failed = failed.into_iter().flatten().find(|f| f.0 >= mine);
        failed.map_or(Ok(()), |f| Err(RingError::Book(f.1.clone())))
    }

    /// Has what is dirty stored soon, without waiting for it.
    pub fn nudge(&self) {
        self.lock().want += 1;
        self.changed.notify_all();
    }

    /// Ends the thread after what it does now.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }
}

/// Journal and book, as the thread has them.
#[derive(Debug)]
pub(crate) struct Books {
    pub journal: Journal,
    pub book: Box<dyn Book>,
    /// What the journal has and the book has not.
    lag: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// The book's size when it was new.
    fresh_bytes: u64,
    /// The book is damaged or has nothing yet.
    renew: bool,
    /// A file of the journal is damaged.
    mend: bool,
}

/// The thread.
pub(crate) fn run(shared: &Arc<Shared>, mut books: Books) {
    let keeper = &shared.keeper;
    loop {
        let calls = keeper.lock();
        let mut calls = keeper
            .changed
            .wait_while(calls, |c| c.want == c.served && !c.stop)
            .unwrap_or_else(PoisonError::into_inner);
        if calls.want == calls.served {
            drop(calls);
            // the journal has it, so that this may fail
            if let Err(e) = books.catch_up() {
                tracing::debug!("the book stays behind the journal: {e}");
            }
            if let Err(e) = books.journal.end() {
                tracing::debug!("the journal has no end: {e}");
            }
            return;
        }
        let target = calls.want;
        let clear = std::mem::take(&mut calls.clear);
        drop(calls);
        let cleared = if clear { books.book.clear() } else { Ok(()) };
        let done = books.serve(shared);
        let mut calls = keeper.lock();
        calls.served = target;
        if let Err(e) = done {
            calls.failed = (target, e);
        }
        if let Err(e) = cleared {
            calls.not_cleared = (target, e);
        }
        keeper.changed.notify_all();
    }
}

impl Books {
    /// `behind`: what was journaled, which the book may not have.
    pub fn new(journal: Journal, book: Box<dyn Book>, behind: Journaled) -> Books {
        let mend = !behind.damaged.is_empty();
        let lag = behind.records.into_iter().flatten().collect();
        Books { journal, book, lag, fresh_bytes: 0, renew: false, mend }
    }

    /// Begins with a state that was just made. `renew`: the book has nothing of it.
    pub fn begin(&mut self, shared: &Shared, renew: bool) -> Result<(), String> {
        self.fresh_bytes = self.book.disk_bytes();
        self.renew |= renew;
        self.serve(shared)
    }

    // what is not journaled never comes into the book: an index that the totals do not know of,
    // or a dropped segment whose events are not counted as lost, would be worse than none
    fn serve(&mut self, shared: &Shared) -> Result<(), String> {
        let mut state = shared.lock();
        let keys = std::mem::take(&mut state.ledger.dirty);
        state.note_due |= keys.iter().any(|k| matches!(k, Key::Sink(_) | Key::Value(_) | Key::Holes));
        let changes: Vec<Change> =
            keys.iter().map(|k| (record::key_bytes(k), value(shared, &state, k))).collect();
        drop(state);
        let mut done = Ok(());
        // one damaged file must not bring an older switch back
        let twice = self.mend || changes.iter().any(|(k, _)| journal::is_value(k));
        if self.journal.has_room(&changes) && (changes.is_empty() || self.journal.append(&changes).is_ok()) {
            self.lag.extend(changes);
        } else {
            done = self.turn(shared, changes);
        }
        if twice && done.is_ok() {
            done = self.turn(shared, Vec::new());
            self.mend &= done.is_err();
        }
        let done = done.map_err(|e| format!("cannot write the journal: {e}"));
        let bytes = self.book.disk_bytes() + self.journal.disk_bytes();
        let mut state = shared.lock();
        state.book_bytes = bytes;
        if done.is_err() {
            state.ledger.dirty.extend(keys);
        }
        done
    }

    /// Begins a generation of the journal, after the book has taken what the last one had.
    fn turn(&mut self, shared: &Shared, changes: Vec<Change>) -> std::io::Result<()> {
        let why = if self.renew { None } else { self.catch_up().err() };
        let bytes = self.book.disk_bytes();
        let large = bytes > shared.book_share() / 2 && bytes > self.fresh_bytes.saturating_mul(2);
        self.renew |= why.is_some();
        let state = shared.lock();
        let mut rows: Vec<Change> = core(shared, &state).into_iter().map(|(k, v)| (k, Some(v))).collect();
        let all = (self.renew || large).then(|| snapshot(shared, &state));
        drop(state);
        // what the book could not take; an index that is not there is only a longer way
        let index = |key: &[u8], v: &[u8]| key.first() == Some(&b'g') && v.len() > 1;
        let behind = self.lag.iter().filter(|(k, _)| journal::lags(k));
        rows.extend(behind.map(|(k, v)| (k.clone(), v.clone().filter(|v| !index(k, v)))));
        rows.extend(changes.iter().filter(|(k, _)| journal::lags(k)).cloned());
        self.journal.turn(&*shared.disk, &rows)?;
        self.lag.extend(changes);
        let Some(all) = all else { return Ok(()) };
        match self.book.renew(&all, self.renew) {
            Ok(()) => {
                if let Some(why) = why {
                    shared.lock().report(format!("the book failed and was made anew: {why}"));
                }
                self.lag.clear();
                self.renew = false;
                self.fresh_bytes = self.book.disk_bytes();
            }
            // the journal has what counts
            Err(e) => tracing::warn!("the book cannot be made anew yet: {e}"),
        }
        Ok(())
    }

    /// Has the book take what only the journal has.
    fn catch_up(&mut self) -> Result<(), String> {
        if self.lag.is_empty() {
            return Ok(());
        }
        let changes: Vec<Change> = self.lag.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        self.book.apply(&changes)?;
        self.lag.clear();
        Ok(())
    }
}

/// The value of a key now; `None`: it has none any more.
fn value(shared: &Shared, state: &State, key: &Key) -> Option<Vec<u8>> {
    let ledger = &state.ledger;
    match key {
        Key::Meta => Some(meta(shared, state, false).encode()),
        Key::Holes => Some(record::encode_holes(&ledger.holes.iter().copied().collect::<Vec<_>>())),
        Key::Sink(id) => ledger.sinks.get(id).map(record::encode_sink),
        Key::Value(name) => ledger.values.get(name).cloned(),
        Key::Chain(chain, n) => {
            let entry = ledger.chain(*chain).read(*n, 1);
            entry.first().filter(|e| e.number == *n).map(record::encode_entry)
        }
        Key::Segment(n) => {
            let segment = state.segments.get(n)?;
            if state.dead.contains(n) {
                return Some(SegmentRecord::Dropped.encode());
            }
            let blocks = segment.sealed.then(|| state.blocks_of(*n))?;
            let index = SegmentRecord::Index {
                groups: state.groups,
                salt: segment.salt,
                kept: segment.kept,
                len: segment.len,
                blocks,
            };
            Some(index.encode())
        }
    }
}

fn meta(shared: &Shared, state: &State, heads: bool) -> Meta {
    let ledger = &state.ledger;
    let anchor = |chain: Chain| {
        let chain = ledger.chain(chain);
        if heads { chain.head() } else { chain.anchor }
    };
    Meta {
        epoch: shared.epoch,
        totals: state.totals(),
        trimmed: ledger.trimmed,
        purges: ledger.purges,
        anchors: [anchor(Chain::Receipts), anchor(Chain::Audit)],
        positions: ledger.positions.clone(),
        next_segment: state.next_segment,
        heads: [Chain::Receipts, Chain::Audit].map(|chain| ledger.chain(chain).head()),
    }
}

/// What the ring cannot do without.
fn core(shared: &Shared, state: &State) -> Vec<Row> {
    let ledger = &state.ledger;
    let mut keys = vec![Key::Meta, Key::Holes];
    keys.extend(ledger.sinks.keys().cloned().map(Key::Sink));
    keys.extend(ledger.values.keys().cloned().map(Key::Value));
    keys.extend(state.dead.iter().copied().map(Key::Segment));
    keys.iter().filter_map(|k| Some((record::key_bytes(k), value(shared, state, k)?))).collect()
}

/// All keys with their values.
pub(crate) fn snapshot(shared: &Shared, state: &State) -> Vec<Row> {
    let ledger = &state.ledger;
    let mut keys = vec![Key::Meta, Key::Holes];
    keys.extend(ledger.sinks.keys().cloned().map(Key::Sink));
    keys.extend(ledger.values.keys().cloned().map(Key::Value));
    keys.extend(state.segments.keys().copied().map(Key::Segment));
    for chain in [Chain::Receipts, Chain::Audit] {
        keys.extend(ledger.chain(chain).entries.iter().map(|e| Key::Chain(chain, e.number)));
    }
    keys.iter().filter_map(|k| Some((record::key_bytes(k), value(shared, state, k)?))).collect()
}

/// What a note in a segment file holds: cursors, accounts, and what else fits in `most` bytes.
pub(crate) fn note(shared: &Shared, state: &State, most: usize) -> Vec<u8> {
    const MOST_HOLES: usize = 256;
    let ledger = &state.ledger;
    let mut rows = vec![(record::key_bytes(&Key::Meta), meta(shared, state, true).encode())];
    for (id, sink) in &ledger.sinks {
        rows.push((record::key_bytes(&Key::Sink(id.clone())), record::encode_sink(sink)));
    }
    if ledger.holes.len() <= MOST_HOLES {
        let holes: Vec<_> = ledger.holes.iter().copied().collect();
        rows.push((record::key_bytes(&Key::Holes), record::encode_holes(&holes)));
    }
    let mut size: usize = rows.iter().map(|(k, v)| k.len() + v.len()).sum();
    for (name, value) in &ledger.values {
        size += name.len() + value.len();
        if size <= most {
            rows.push((record::key_bytes(&Key::Value(name.clone())), value.clone()));
        }
    }
    record::encode_note(&rows)
}
