//! Keeping the ring in its bound.

use std::io;

use tidegate_proto::level::{Class, LossReason};

use super::frame::{HEADER_LEN, Head};
use super::writer::{Writer, append_frame};
use super::{Shared, State};
use crate::codec;
use crate::ledger::Block;
use crate::{FullPolicy, RingError, RingOptions};

/// A block's row in the head of its frame, at most.
const ROW: u64 = 128;

impl Shared {
    /// Size at which a segment is closed.
    pub fn segment_bytes(&self) -> u64 {
        let bound = self.options.bound();
        // some 16 of them at least, so that little goes at a time, and never very many
        let usual = (bound / 16).min((8 << 20).max(bound / 128));
        self.options.segment_bytes.unwrap_or(usual).clamp(64 << 10, bound / 8)
    }

    /// The book's share of the bound.
    pub fn book_share(&self) -> u64 {
        (self.options.bound() / 16).clamp(1 << 20, 64 << 20)
    }

    /// Size of each of the two files of the journal.
    pub fn journal_bytes(options: &RingOptions) -> u64 {
        (options.bound() / 256).clamp(64 << 10, 512 << 10)
    }

    /// What segment files may take. One segment's worth is left for what is being moved.
    pub fn budget(&self, state: &State) -> u64 {
        let book = self.book_share().max(state.book_bytes);
        self.options.bound().saturating_sub(book + state.aside_bytes + self.segment_bytes())
    }
}

fn other(e: RingError) -> io::Error {
    match e {
        RingError::Io { source, .. } => source,
        e => io::Error::other(e.to_string()),
    }
}

/// The closed segment that is emptied first, of those that hold blocks of a class.
fn first_to_go(state: &State, class: Option<Class>) -> Option<u64> {
    let closed = state.segments.iter().filter(|(_, s)| s.sealed && !s.is_dead());
    let holding =
        closed.filter(|(_, s)| class.is_none_or(|c| s.live.get(c as usize).is_some_and(|n| *n > 0)));
    holding.min_by_key(|(_, s)| s.run).map(|(n, _)| *n)
}

impl Writer {
    /// Where the segment that is written to ends. `account`: for a group without blocks, which was let in
    /// over the budget. It goes into the segment's worth that is left: a segment that holds blocks gets
    /// to three quarters by it, and one that holds none goes at a quarter, as the book has its sums.
    pub fn full_at(&self, need: u64, account: bool) -> u64 {
        let full = self.shared.segment_bytes();
        if account && !self.fits(need) { full / 4 * 3 } else { full }
    }

    /// Lets go of what is needed for `need` bytes more.
    pub fn make_room(&mut self, need: u64, account: bool) -> io::Result<()> {
        if self.fits(need) {
            return Ok(());
        }
        // what the sinks have settled goes first
        let least = if account { self.shared.segment_bytes() / 4 } else { HEADER_LEN as u64 };
        let settled = self.active.as_ref().is_some_and(|a| a.len > least) && {
            let state = self.shared.lock();
            self.active.as_ref().and_then(|a| state.segments.get(&a.number)).is_some_and(|s| s.is_dead())
        };
        if settled {
            self.seal();
        }
        if let Some(kept) = self.kept.take() {
            if self.shared.lock().segments.get(&kept.number).is_some_and(super::Segment::is_dead) {
                self.close_segment(&kept);
            } else {
                self.kept = Some(kept);
            }
        }
        if !self.shared.lock().dead.is_empty() {
            self.shared.commit_book().map_err(other)?;
        }
        if self.shared.options.full != FullPolicy::DropOldest {
            // who appended has seen to it that there is room
            return Ok(());
        }
        // files that cannot be removed end it
        let mut stuck = 0;
        while !self.fits(need) && stuck < 3 {
            // several at once, for one write to the book; but what is kept of them is on the disk beside
            // them until then, and must not be more than a segment
            let more = need.max(self.shared.options.bound() / 32);
            let mut any = false;
            while !self.would_fit(more) && (!any || self.next_copies_fit()) && self.evict()? {
                any = true;
            }
            self.shared.commit_book().map_err(other)?;
            if !any || !self.shared.lock().dead.is_empty() {
                stuck += 1;
            }
        }
        Ok(())
    }

    /// Whether the critical blocks of the segment that goes next can be copied before anything is
    /// removed.
    fn next_copies_fit(&self) -> bool {
        let state = self.shared.lock();
        let Some(next) = first_to_go(&state, Some(Class::Normal)) else { return true };
        let critical = state.blocks_of(next).into_iter().filter(|b| b.class == Class::Critical);
        let copies: u64 = critical.map(|b| u64::from(b.place.len) + ROW).sum();
        let spare = self.shared.segment_bytes();
        state.segment_bytes() + self.unsynced_bytes(&state) + copies <= self.shared.budget(&state) + spare
    }

    fn unsynced_bytes(&self, state: &State) -> u64 {
        let beyond = |a: &super::writer::Active| {
            a.len.saturating_sub(state.segments.get(&a.number).map_or(0, |s| s.len))
        };
        self.active.as_ref().map_or(0, beyond) + self.kept.as_ref().map_or(0, beyond)
    }

    fn fits(&self, need: u64) -> bool {
        let state = self.shared.lock();
        state.segment_bytes() + self.unsynced_bytes(&state) + need <= self.shared.budget(&state)
    }

    fn would_fit(&self, need: u64) -> bool {
        let state = self.shared.lock();
        let dead: u64 = state.dead.iter().filter_map(|n| state.segments.get(n)).map(|s| s.len).sum();
        let live = state.segment_bytes().saturating_sub(dead);
        live + self.unsynced_bytes(&state) + need <= self.shared.budget(&state)
    }

    /// Empties the segment that goes first. Whether there was one.
    fn evict(&mut self) -> io::Result<bool> {
        let normal = Class::Normal as usize;
        let active_normal = |state: &State, w: &Writer| {
            let active = w.active.as_ref().and_then(|a| state.segments.get(&a.number));
            active.is_some_and(|s| s.live.get(normal).is_some_and(|n| *n > 0))
        };
        let state = self.shared.lock();
        let victim = first_to_go(&state, Some(Class::Normal));
        let (in_active, oldest) = (active_normal(&state, self), first_to_go(&state, None));
        drop(state);
        if let Some(number) = victim {
            self.keep_critical(number)?;
            return self.lose_segment(number).map(|()| true);
        }
        if in_active || !self.has_sealed() && self.active.as_ref().is_some_and(|a| a.len > HEADER_LEN as u64)
        {
            self.seal();
            return Ok(self.active.is_none());
        }
        if let Some(kept) = self.kept.take() {
            self.close_segment(&kept);
        }
        let state = self.shared.lock();
        let oldest = oldest.or_else(|| first_to_go(&state, None));
        drop(state);
        match oldest {
            Some(number) => self.lose_segment(number).map(|()| true),
            None => Ok(false),
        }
    }

    fn has_sealed(&self) -> bool {
        let state = self.shared.lock();
        state.segments.values().any(|s| s.sealed && !s.is_dead())
    }

    /// Counts all blocks of a segment as evicted.
    fn lose_segment(&self, number: u64) -> io::Result<()> {
        let blocks = self.shared.lock().blocks_of(number);
        for block in blocks {
            self.lose(&block, LossReason::Evicted)?;
        }
        let mut state = self.shared.lock();
        if let Some(segment) = state.segments.get_mut(&number) {
            segment.live = [0; 2];
        }
        state.absorb();
        Ok(())
    }

    fn lose(&self, block: &Block, reason: LossReason) -> io::Result<()> {
        self.shared.lose(block, reason).map_err(other)
    }

    /// Copies the critical blocks of a segment to one for such blocks.
    fn keep_critical(&mut self, number: u64) -> io::Result<()> {
        let shared = std::sync::Arc::clone(&self.shared);
        let _files = shared.lock_files();
        let mut blocks = shared.lock().blocks_of(number);
        blocks.retain(|b| b.class == Class::Critical);
        let mut bodies = Vec::with_capacity(blocks.len());
        let mut good = Vec::with_capacity(blocks.len());
        for block in blocks {
            match shared.load_stored(&block) {
                Ok(stored) if codec::intact(&block.place, &stored) => {
                    bodies.push(bytes::Bytes::from(stored));
                    good.push(block);
                }
                // goes with the segment
                _ => self.lose(&block, LossReason::Corrupt)?,
            }
        }
        if good.is_empty() {
            return Ok(());
        }
        let full = shared.segment_bytes();
        let need: u64 = bodies.iter().map(|b| b.len() as u64 + ROW).sum();
        if self.kept.as_ref().is_some_and(|k| k.len + need > full)
            && let Some(kept) = self.kept.take()
        {
            self.close_segment(&kept);
        }
        let mut kept = match self.kept.take() {
            Some(kept) => kept,
            None => self.begin(true)?,
        };
        let before = good.clone();
        let mut head = Head::Kept { blocks: good, gone: Vec::new() };
        let written = append_frame(&mut kept, &mut head, &bodies).and_then(|()| kept.file.sync());
        if let Err(e) = written {
            // what is in it already stays good; a torn frame at its end is seen as one
            self.close_segment(&kept);
            return Err(e);
        }
        let mut state = shared.lock();
        for (old, new) in before.iter().zip(head.blocks()) {
            match state.ledger.blocks.get_mut(&old.first) {
                Some(block) if block.place == old.place => block.place = new.place,
                // settled meanwhile
                _ => continue,
            }
            if let Some(segment) = state.segments.get_mut(&number) {
                let [critical, _] = &mut segment.live;
                *critical = critical.saturating_sub(1);
            }
            if let Some(segment) = state.segments.get_mut(&kept.number) {
                segment.take(new);
            }
        }
        if let Some(segment) = state.segments.get_mut(&kept.number) {
            segment.len = kept.len;
        }
        if let Some(left) = &mut state.purging
            && left.contains(&number)
        {
            left.insert(kept.number);
        }
        state.ledger.dirty.insert(crate::ledger::Key::Segment(number));
        state.absorb();
        drop(state);
        self.kept = Some(kept);
        Ok(())
    }

    /// Lets go of what is too old.
    pub fn expire(&mut self) {
        let (max_age, now) = (self.shared.options.max_age, (self.shared.options.now)());
        let mut any = false;
        loop {
            let state = self.shared.lock();
            let blocks = &state.ledger.blocks;
            let old = self.ages.too_old(blocks, now, max_age).and_then(|first| blocks.get(&first).cloned());
            drop(state);
            let Some(block) = old else { break };
            if self.lose(&block, LossReason::Expired).is_err() {
                break;
            }
            any = true;
        }
        if any && let Err(e) = self.shared.commit_book() {
            tracing::warn!("cannot let go of old events: {e}");
        }
    }
}
