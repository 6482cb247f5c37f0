//! The ring on disk: segment files, a book, one thread that writes the first and one that
//! writes the second.
//!
//! Locks, in the order they are taken: `purge` (one at a time), `files` (who removes or replaces
//! segment files holds it), then `state`. The last two are not held while the disk is read for a caller.

mod aside;
mod find;
pub(crate) mod frame;
pub(crate) mod keeper;
pub(crate) mod reader;
pub(crate) mod recover;
mod rewrite;
mod ring;
pub(crate) mod room;
mod scan;
mod verify;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_channel::Sender;
use tidegate_proto::ids::SinkId;
use tidegate_proto::level::LossReason;
use tokio::sync::{Notify, watch};

pub use ring::SledRing;
pub use verify::Verified;

use crate::crypt::Keys;
use crate::disk::Disk;
use crate::ledger::{Block, Key, Ledger, Lost, Stop};
use crate::store::frame::Totals;
use crate::store::keeper::Keeper;
use crate::store::reader::Unreadable;
pub(crate) use crate::store::reader::is_missing_key;
use crate::{Health, PerLevel, RingError, RingOptions, levels};

/// Reports of damage that are kept.
const MOST_REPORTS: usize = 64;

/// A segment file as the state knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub salt: u64,
    pub kept: bool,
    /// Durable bytes of the file.
    pub len: u64,
    /// Blocks in it that the ledger holds: critical, normal.
    pub live: [u32; 2],
    /// Nothing is appended to it any more.
    pub sealed: bool,
    /// Places of its blocks, first and last; (0, 0) while it has none.
    pub run: (u64, u64),
}

impl Segment {
    pub fn new(salt: u64, kept: bool, len: u64) -> Segment {
        Segment { salt, kept, len, live: [0; 2], sealed: false, run: (0, 0) }
    }

    pub fn is_dead(&self) -> bool {
        self.live == [0; 2]
    }

    /// Counts a block in.
    pub fn take(&mut self, block: &Block) {
        if let Some(n) = self.live.get_mut(block.class as usize) {
            *n += 1;
        }
        self.run = if self.run == (0, 0) {
            block.run()
        } else {
            (self.run.0.min(block.first), self.run.1.max(block.last))
        };
    }
}

/// What the lock guards.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub ledger: Ledger,
    pub segments: BTreeMap<u64, Segment>,
    /// Closed segments without a live block, to be removed when the book says so durably.
    pub dead: BTreeSet<u64>,
    pub next_segment: u64,
    /// Groups that are durable.
    pub groups: u64,
    /// Bytes of groups on their way to the disk.
    pub queued: u64,
    pub book_bytes: u64,
    /// Bytes of damaged files that were set aside.
    pub aside_bytes: u64,
    pub read_only: Option<String>,
    /// A cursor or value has changed since the last note.
    pub note_due: bool,
    /// The segment that a purge is about to replace.
    pub rewriting: Option<u64>,
    /// The segments that a purge has still to visit, while there is one.
    pub purging: Option<BTreeSet<u64>>,
    pub reports: VecDeque<String>,
    pub closed: bool,
}

impl State {
    pub fn totals(&self) -> Totals {
        Totals {
            groups: self.groups,
            places: self.ledger.durable,
            stored: self.ledger.stored,
            read: self.ledger.read,
            dropped: self.ledger.dropped.clone(),
        }
    }

    pub fn report(&mut self, text: String) {
        tracing::warn!("{text}");
        if self.reports.len() >= MOST_REPORTS {
            self.reports.pop_front();
        }
        self.reports.push_back(text);
    }

    /// Takes note of the blocks that left the ledger, and of the segments that are dead by it.
    pub fn absorb(&mut self) {
        for block in std::mem::take(&mut self.ledger.removed) {
            let number = block.place.segment;
            if let Some(segment) = self.segments.get_mut(&number)
                && let Some(n) = segment.live.get_mut(block.class as usize)
            {
                *n = n.saturating_sub(1);
                // what is trimmed needs no new index: the trimmed place tells it
                if segment.sealed && block.last > self.ledger.trimmed {
                    self.ledger.dirty.insert(Key::Segment(number));
                }
            }
        }
        for (number, segment) in &self.segments {
            if segment.sealed && segment.is_dead() && self.dead.insert(*number) {
                self.ledger.dirty.insert(Key::Segment(*number));
            }
        }
    }

    /// Bytes of all segment files.
    pub fn segment_bytes(&self) -> u64 {
        self.segments.values().map(|s| s.len).sum()
    }

    /// Bytes of the segment files that hold something.
    pub fn live_bytes(&self) -> u64 {
        self.segments.values().filter(|s| !s.is_dead()).map(|s| s.len).sum()
    }

    /// The blocks of one segment.
    pub fn blocks_of(&self, number: u64) -> Vec<Block> {
        let Some(segment) = self.segments.get(&number) else { return Vec::new() };
        if segment.run == (0, 0) {
            return Vec::new();
        }
        let blocks = self.ledger.blocks_in(segment.run);
        blocks.filter(|b| b.place.segment == number).cloned().collect()
    }
}

/// What the writer is told.
pub(crate) enum ToWriter {
    Group(Box<writer::Queued>),
    /// Closes the segment that is written to, so that all of it can be rewritten.
    Seal(Sender<()>),
    Close(Sender<Result<(), RingError>>),
}

/// All that the threads of one ring share.
pub(crate) struct Shared {
    pub options: RingOptions,
    pub keys: Option<Keys>,
    pub epoch: u64,
    pub disk: Box<dyn Disk>,
    pub purge: Mutex<()>,
    pub files: Mutex<()>,
    pub state: Mutex<State>,
    pub keeper: Keeper,
    pub room: Notify,
    pub watch: watch::Sender<crate::State>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("options", &self.options).field("disk", &self.disk).finish()
    }
}

/// Numbers of segments are below it.
pub(crate) const END: u64 = 1 << 62;

pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:016x}.seg")
}

/// The number in the name of a segment. Others may have files that only look so.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name.strip_suffix(".seg")?, 16).ok()?;
    (number < END && segment_name(number) == name).then_some(number)
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lock_files(&self) -> MutexGuard<'_, ()> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the state; reads the blocks whose levels it asks for.
    pub fn change<T>(&self, op: impl FnMut(&mut State) -> Result<T, Stop>) -> Result<T, RingError> {
        self.change_with(op, false)
    }

    /// Lets a block go whose key may be missing: which of its levels a sink had settled is then told by
    /// what its account lacks.
    pub fn lose(&self, block: &Block, reason: LossReason) -> Result<(), RingError> {
        let lose = |state: &mut State| {
            let same = state.ledger.blocks.get(&block.first).is_some_and(|b| b.place == block.place);
            if same {
                state.ledger.lose(block.first, &Lost::All, reason)?;
            }
            Ok(())
        };
        match self.change(lose) {
            Err(RingError::Io { source, .. }) if is_missing_key(&source) => {}
            done => return done,
        }
        self.change_with(lose, true)?;
        self.reconcile(reason).map(|_| ())
    }

    /// See [`Ledger::reconcile`]; nothing is mended while a key is missing that it takes.
    pub fn reconcile(&self, reason: LossReason) -> Result<Vec<(SinkId, PerLevel)>, RingError> {
        match self.change(|state| state.ledger.reconcile(reason)) {
            Err(RingError::Io { source, .. }) if is_missing_key(&source) => {
                tracing::warn!("the account is not checked: a key is missing");
                Ok(Vec::new())
            }
            done => done,
        }
    }

    /// `guess`: the events of a block whose key is missing count as sorted by level.
    fn change_with<T>(
        &self,
        mut op: impl FnMut(&mut State) -> Result<T, Stop>,
        guess: bool,
    ) -> Result<T, RingError> {
        let mut state = self.lock();
        state.ledger.forget_levels();
        loop {
            match op(&mut state) {
                Ok(done) => {
                    state.absorb();
                    return Ok(done);
                }
                Err(Stop::Refused(e)) => return Err(e),
                Err(Stop::Levels(first)) => {
                    let block = state.ledger.blocks.get(&first).cloned();
                    drop(state);
                    let map = match block.map(|b| (self.load(&b), b)) {
                        Some((Ok(data), b)) => Some(levels::of_events(&data, &b.per_level())),
                        Some((Err(why), b)) if self.is_there(&b) => {
                            if let Unreadable::Io(source) = why
                                && !(guess && is_missing_key(&source))
                            {
                                let what = format!("read segment {:016x}", b.place.segment);
                                return Err(RingError::Io { what, source });
                            }
                            Some(levels::sorted(&b.per_level()))
                        }
                        _ => None,
                    };
                    state = self.lock();
                    if let Some(map) = map {
                        state.ledger.know_levels(first, map);
                    }
                }
            }
        }
    }

    /// Makes the book durable, then removes the segments that it says are not needed. What cannot
    /// be removed stays and is tried again.
    pub fn commit_book(&self) -> Result<(), RingError> {
        if let Err(e) = self.commit_and_remove()? {
            tracing::warn!("cannot remove a segment: {e}");
        }
        Ok(())
    }

    /// The same for those who must know whether the segments are gone: `Ok(Err)` says that the book
    /// is durable and a file is left.
    pub fn commit_and_remove(&self) -> Result<io::Result<()>, RingError> {
        let dead: Vec<u64> = self.lock().dead.iter().copied().collect();
        self.keeper.sync()?;
        Ok(if dead.is_empty() { Ok(()) } else { self.remove_segments(&dead) })
    }

    fn remove_segments(&self, dead: &[u64]) -> io::Result<()> {
        let _files = self.lock_files();
        let mut gone = Vec::new();
        let mut failed = Ok(());
        for number in dead {
            match self.disk.remove(&segment_name(*number)) {
                Ok(()) => gone.push(*number),
                Err(e) => failed = Err(e),
            }
        }
        if gone.is_empty() {
            return failed;
        }
        // only then may the book forget that they are dropped
        self.disk.sync_dir()?;
        let mut state = self.lock();
        for number in gone {
            state.segments.remove(&number);
            state.dead.remove(&number);
            state.ledger.dirty.insert(Key::Segment(number));
        }
        drop(state);
        self.room.notify_waiters();
        failed
    }

    pub fn set_health(&self, health: Health) {
        self.watch.send_if_modified(|s| {
            let new = s.health != health && s.health != Health::Closed;
            if new {
                s.health = health;
            }
            new
        });
    }
}
