//! Purging: segments are written again without what has to go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::Bytes;
use tidegate_proto::level::LossReason;
use tidegate_proto::wire::SchemaInterner;

use super::frame::{HEADER_LEN, Head, Header};
use super::scan::{Found, header_is_good, scan};
use super::writer::{Active, append_frame};
use super::{Shared, segment_name};
use crate::disk::DiskFile;
use crate::ledger::{Block, Gone, Key, Lost, Place, add};
use crate::purge::{Sifted, sift};
use crate::{PurgeRule, Purged, RingError, codec};

/// A block of a segment that is being rewritten, and its new bytes.
struct Fresh {
    old: Block,
    new: Block,
    bytes: Bytes,
    sifted: Option<Sifted>,
}

impl Fresh {
    /// Adds what is left of the block to a frame, and what is gone.
    fn put(&self, blocks: &mut Vec<Block>, gone: &mut Vec<Gone>, bodies: &mut Vec<Bytes>) {
        if let Some(sifted) = &self.sifted
            && let (Some(a), Some(b)) = (sifted.lost.first(), sifted.lost.last())
        {
            let events = sifted.lost.len() as u64;
            gone.push(Gone { run: (a.0, b.0), events, reason: LossReason::Purged });
        }
        if self.new.events() > 0 {
            blocks.push(self.new.clone());
            bodies.push(self.bytes.clone());
        }
    }
}

/// Takes note of where the blocks of a frame are now.
fn placed(head: &Head, fresh: &mut BTreeMap<u64, Fresh>) {
    for block in head.blocks() {
        if let Some(f) = fresh.get_mut(&block.first) {
            f.new.place = block.place;
        }
    }
}

/// Leaves all as it is.
struct Nothing;

impl PurgeRule for Nothing {
    fn may_match(&self, _: &crate::PerLevel, _: (i64, i64)) -> bool {
        false
    }

    fn matches(&self, _: tidegate_proto::batch::EventRef<'_>) -> bool {
        false
    }
}

/// A purge under way: it visits each segment that held something when it began, and each to which
/// eviction moved something of one that was not visited yet.
pub(crate) struct Purge<'s> {
    shared: &'s Shared,
    rule: &'s dyn PurgeRule,
    known: SchemaInterner,
    purged: Purged,
    /// Why the first segment that could not be written anew is as it was.
    failed: Option<RingError>,
    _alone: MutexGuard<'s, ()>,
}

impl Purge<'_> {
    /// Visits one closed segment; `false` when none is left that is closed. One that fails does not keep what has
    /// to go in the others: [`end`](Purge::end) tells of it.
    pub fn step(&mut self) -> Result<bool, RingError> {
        let state = self.shared.lock();
        let closed = |n: &&u64| state.segments.get(n).is_none_or(|s| s.sealed);
        let next = state.purging.iter().flatten().find(closed).copied();
        drop(state);
        let Some(number) = next else { return Ok(false) };
        match self.shared.purge_segment(number, self.rule, &mut self.known, &mut self.purged) {
            Err(RingError::Closed) => return Err(RingError::Closed),
            Err(e) => self.failed = self.failed.take().or(Some(e)),
            Ok(_) => {}
        }
        // only now: what is moved away from it until here has to be visited where it went
        if let Some(left) = &mut self.shared.lock().purging {
            left.remove(&number);
        }
        Ok(true)
    }

    /// Whether every segment was visited; if not, what is left has to be closed first.
    pub fn is_through(&self) -> bool {
        self.shared.lock().purging.as_ref().is_none_or(BTreeSet::is_empty)
    }

    /// Has what was done stored. `done`: whether all of it was.
    pub fn end(mut self, done: Result<(), RingError>) -> Result<Purged, RingError> {
        let (shared, purged) = (self.shared, self.purged);
        let done = done.and(self.failed.take().map_or(Ok(()), Err));
        // nobody can say what is in damaged bytes
        let done = done.and_then(|()| shared.remove_set_aside());
        if purged.blocks > 0 {
            let mut state = shared.lock();
            state.ledger.purges += 1;
            state.ledger.dirty.insert(Key::Meta);
            let purges = state.ledger.purges;
            drop(state);
            shared.watch.send_modify(|s| s.purges = purges);
        }
        // a segment that nobody needs any more can hold what has to go as well
        let stored = shared.commit_and_remove().and_then(|removed| {
            removed.map_err(|source| RingError::Io { what: "remove a segment".to_owned(), source })
        });
        shared.room.notify_waiters();
        done.and(stored).map(|()| purged)
    }
}

impl Drop for Purge<'_> {
    fn drop(&mut self) {
        self.shared.lock().purging = None;
    }
}

impl Shared {
    /// Begins a purge of what is in closed segments, and in the one that kept blocks go to. Waits for
    /// the end of another one.
    pub fn begin_purge<'s>(&'s self, rule: &'s dyn PurgeRule) -> Purge<'s> {
        let alone = self.purge.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        let old = state.segments.iter().filter(|(_, s)| s.sealed || s.kept);
        state.purging = Some(old.map(|(n, _)| *n).collect());
        drop(state);
        let (known, purged) = (SchemaInterner::new(), Purged::default());
        Purge { shared: self, rule, known, purged, failed: None, _alone: alone }
    }

    /// Writes closed segments anew where a part of them is damaged.
    pub fn mend(&self) -> Result<u64, RingError> {
        let (mut known, mut none) = (SchemaInterner::new(), Purged::default());
        let mut mended = 0;
        let numbers: Vec<u64> =
            self.lock().segments.iter().filter(|(_, s)| s.sealed).map(|(n, _)| *n).collect();
        for number in numbers {
            mended += u64::from(self.purge_segment(number, &Nothing, &mut known, &mut none)?);
        }
        self.commit_book()?;
        self.room.notify_waiters();
        Ok(mended)
    }

    /// Writes a segment anew if a block of it matches, is not needed any more or is damaged.
    /// Whether it did.
    fn purge_segment(
        &self,
        number: u64,
        rule: &dyn PurgeRule,
        known: &mut SchemaInterner,
        purged: &mut Purged,
    ) -> Result<bool, RingError> {
        let _files = self.lock_files();
        let state = self.lock();
        if state.closed {
            return Err(RingError::Closed);
        }
        let Some(segment) = state.segments.get(&number).cloned() else { return Ok(false) };
        if state.dead.contains(&number) {
            return Ok(false);
        }
        let blocks = state.blocks_of(number);
        drop(state);
        let name = segment_name(number);
        let failed = |source| RingError::Io { what: format!("rewrite {name}"), source };
        let header =
            Header { epoch: self.epoch, number, salt: segment.salt, created_ns: 0, kept: segment.kept };
        let file = self.disk.open(&name).map_err(failed)?;
        let sound = header_is_good(&*file, &header).map_err(failed)?;
        let old = scan(&*file, header).map_err(failed)?;
        // Windows replaces no file that is open
        drop(file);
        let mut fresh = BTreeMap::new();
        let mut matched = false;
        for block in blocks {
            let new = self.sifted(block, rule, known)?;
            if let Some(f) = new {
                matched |= f.sifted.is_some();
                fresh.insert(f.old.first, f);
            }
        }
        let stored: usize = old.frames.iter().map(|f| f.head.blocks().len()).sum();
        if !matched && stored == fresh.len() && old.damaged.is_empty() && sound {
            return Ok(false);
        }
        // what the state does not need any more is left out: first that must be true of the book too
        self.keeper.sync()?;
        let new = match self.write_again(header, old.frames, &mut fresh) {
            Ok(new) => new,
            Err(e) => {
                // on a disk that is full it would stay until the ring is opened again
                if let Err(e) = self.disk.remove(&temporary(number)) {
                    tracing::debug!("cannot remove {}: {e}", temporary(number));
                }
                return Err(failed(e));
            }
        };
        self.lock().rewriting = Some(number);
        let replaced = self.disk.rename(&temporary(number), &name).and_then(|()| self.disk.sync_dir());
        if replaced.is_ok() {
            self.take_over(&new, fresh, purged);
        }
        self.lock().rewriting = None;
        replaced.map(|()| true).map_err(failed)
    }

    /// Reads a block and applies the rule. `None`: it is damaged or gone.
    fn sifted(
        &self,
        block: Block,
        rule: &dyn PurgeRule,
        known: &mut SchemaInterner,
    ) -> Result<Option<Fresh>, RingError> {
        if !rule.may_match(&block.per_level(), block.time_ns) {
            return match self.load_stored(&block) {
                Ok(stored) if codec::intact(&block.place, &stored) => {
                    let bytes = Bytes::from(stored);
                    Ok(Some(Fresh { new: block.clone(), old: block, bytes, sifted: None }))
                }
                Ok(stored) => {
                    let why = super::reader::Unreadable::Damaged("checksum".to_owned(), stored);
                    self.damaged(&block, why).map(|()| None)
                }
                Err(why) => self.damaged(&block, why).map(|()| None),
            };
        }
        let data = match self.load(&block) {
            Ok(data) => data,
            Err(why) => return self.damaged(&block, why).map(|()| None),
        };
        let Some(sifted) = sift(&block, &data, rule, known) else {
            let stored = match self.load_stored(&block) {
                Ok(stored) => Bytes::from(stored),
                Err(why) => return self.damaged(&block, why).map(|()| None),
            };
            return Ok(Some(Fresh { new: block.clone(), old: block, bytes: stored, sifted: None }));
        };
        let mut new = sifted.rest(&block);
        let mut bytes = Bytes::new();
        if !sifted.keep.is_empty() {
            let raw = Bytes::from(sifted.data.clone());
            let keys = self.keys.as_ref();
            let made =
                codec::encode(self.options.compression, keys, self.epoch, new.class, &new.levels, &raw);
            let place: Place;
            (bytes, place) = made.map_err(RingError::Book)?;
            new.place = place;
        }
        Ok(Some(Fresh { old: block, new, bytes, sifted: Some(sifted) }))
    }

    /// Writes a segment's frames with what is left of their blocks to a file beside it.
    fn write_again(
        &self,
        header: Header,
        frames: Vec<Found>,
        fresh: &mut BTreeMap<u64, Fresh>,
    ) -> std::io::Result<Active> {
        let header =
            Header { salt: crate::group::random_epoch(), created_ns: (self.options.now)(), ..header };
        let file: Arc<dyn DiskFile> = self.disk.create(&temporary(header.number))?.into();
        file.write_at(0, &header.encode())?;
        let len = HEADER_LEN as u64;
        let mut active = Active { number: header.number, file, salt: header.salt, len };
        let mut orphans: BTreeSet<u64> = fresh.keys().copied().collect();
        for found in frames {
            let mut head = found.head;
            let mut bodies = Vec::new();
            if let Some((blocks, gone)) = head.blocks_mut() {
                let old = std::mem::take(blocks);
                for block in old {
                    let Some(f) = fresh.get(&block.first) else { continue };
                    orphans.remove(&block.first);
                    f.put(blocks, gone, &mut bodies);
                }
            }
            append_frame(&mut active, &mut head, &bodies)?;
            placed(&head, fresh);
        }
        // good blocks whose frame's head is damaged: only the book knew where they are
        if !orphans.is_empty() {
            let (mut blocks, mut gone, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
            let known = orphans.iter().filter_map(|first| fresh.get(first));
            known.for_each(|f| f.put(&mut blocks, &mut gone, &mut bodies));
            let mut head = Head::Kept { blocks, gone };
            append_frame(&mut active, &mut head, &bodies)?;
            placed(&head, fresh);
        }
        active.file.sync()?;
        Ok(active)
    }

    /// The new file is in place: so it is in the state.
    fn take_over(&self, new: &Active, fresh: BTreeMap<u64, Fresh>, purged: &mut Purged) {
        let mut state = self.lock();
        let number = new.number;
        for (first, f) in fresh {
            let same = state.ledger.blocks.get(&first).is_some_and(|b| b.place == f.old.place);
            if !same {
                continue;
            }
            match f.sifted {
                None => {
                    if let Some(block) = state.ledger.blocks.get_mut(&first) {
                        block.place = f.new.place;
                    }
                }
                // the same events, without a part of them
                Some(sifted) if sifted.lost.is_empty() => {
                    state.ledger.blocks.insert(first, f.new);
                    purged.blocks += 1;
                }
                Some(sifted) => {
                    let lost = Lost::Some(&sifted.lost, f.new);
                    // which events go is told, so no level is asked for and nothing is refused
                    if let Ok(gone) = state.ledger.lose(first, &lost, LossReason::Purged) {
                        add(&mut purged.events, &gone);
                        purged.blocks += 1;
                    }
                }
            }
        }
        if let Some(segment) = state.segments.get_mut(&number) {
            segment.salt = new.salt;
            segment.len = new.len;
        }
        state.ledger.dirty.insert(Key::Segment(number));
        state.absorb();
    }
}

fn temporary(number: u64) -> String {
    format!("{number:016x}.tmp")
}
