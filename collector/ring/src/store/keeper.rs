//! The thread that keeps the book. Who needs something durable marks it dirty in the state and
//! calls [`Keeper::sync`]; all who wait are served by one write.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Shared, State};
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
        let mut calls = self.lock();
        if calls.stop {
            return Err(RingError::Closed);
        }
        calls.want += 1;
        let mine = calls.want;
        self.changed.notify_all();
        let (calls, timeout) = self
            .changed
            .wait_timeout_while(calls, PATIENCE, |c| c.served < mine)
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return Err(RingError::Book("it does not answer".to_owned()));
        }
        if calls.failed.0 >= mine { Err(RingError::Book(calls.failed.1.clone())) } else { Ok(()) }
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

/// The thread.
pub(crate) fn run(shared: &Arc<Shared>, mut book: Box<dyn Book>) {
    let keeper = &shared.keeper;
    let mut fresh_bytes = book.disk_bytes();
    loop {
        let calls = keeper.lock();
        let calls = keeper
            .changed
            .wait_while(calls, |c| c.want == c.served && !c.stop)
            .unwrap_or_else(PoisonError::into_inner);
        if calls.want == calls.served {
            return;
        }
        let target = calls.want;
        drop(calls);
        let done = serve(shared, &mut *book, &mut fresh_bytes);
        let mut calls = keeper.lock();
        calls.served = target;
        if let Err(e) = done {
            calls.failed = (target, e);
        }
        keeper.changed.notify_all();
    }
}

fn serve(shared: &Shared, book: &mut dyn Book, fresh_bytes: &mut u64) -> Result<(), String> {
    let mut state = shared.lock();
    let keys = std::mem::take(&mut state.ledger.dirty);
    state.note_due |= keys.iter().any(|k| matches!(k, Key::Sink(_) | Key::Value(_) | Key::Holes));
    let changes: Vec<Change> =
        keys.iter().map(|k| (record::key_bytes(k), value(shared, &state, k))).collect();
    drop(state);
    let mut done = if changes.is_empty() { Ok(()) } else { book.apply(&changes) };
    if let Err(why) = done.clone() {
        // memory has all of it: begin a new one
        let all = snapshot(shared, &shared.lock());
        done = book.renew(&all, true).map_err(|e| format!("{why}; a new one: {e}"));
        if done.is_ok() {
            shared.lock().report(format!("the book failed and was made anew: {why}"));
            *fresh_bytes = book.disk_bytes();
        }
    }
    let mut bytes = book.disk_bytes();
    let share = shared.book_share();
    if done.is_ok() && bytes > share / 2 && bytes > fresh_bytes.saturating_mul(2) {
        let all = snapshot(shared, &shared.lock());
        // the old one is still good when this fails
        if let Err(e) = book.renew(&all, false) {
            tracing::warn!("cannot make the book smaller: {e}");
        }
        bytes = book.disk_bytes();
        *fresh_bytes = bytes;
    }
    let mut state = shared.lock();
    state.book_bytes = bytes;
    if done.is_err() {
        state.ledger.dirty.extend(keys);
    }
    done
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
            let index =
                SegmentRecord::Index { salt: segment.salt, kept: segment.kept, len: segment.len, blocks };
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
    }
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
