//! A ring in memory: the same contract without a disk, for tests and for hosts that may not
//! keep events on one. What it holds is gone when the process ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tidegate_proto::ids::{Seq, SeqRange, SinkId};
use tidegate_proto::level::{Class, LossReason, TelemetryLevel};
use tidegate_proto::wire::SchemaInterner;
use tokio::sync::{Notify, oneshot, watch};

use crate::age::Ages;
use crate::group::{self, Checked};
use crate::ledger::{Block, Ledger, Lost, Place, Stop};
use crate::{
    Account, AppendError, BoxFuture, Chain, ChainEntry, Cursor, FullPolicy, Group, Health, Hole, Lanes, Part,
    PerLevel, PurgeRule, Purged, Read, ReadLimit, Ring, RingError, RingOptions, Settlement, StartAt, State,
    Status, StoredBlock, Ticket, bundle, levels, purge, runs,
};

/// Keeps everything in memory. Its bound is on the bytes of the blocks it holds.
#[derive(Debug)]
pub struct MemoryRing {
    options: RingOptions,
    inner: Mutex<Inner>,
    room: Notify,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct Inner {
    ledger: Ledger,
    data: BTreeMap<u64, Bytes>,
    bytes: u64,
    ages: Ages,
    closed: bool,
}

impl Inner {
    fn drop_removed(&mut self) -> bool {
        let removed = std::mem::take(&mut self.ledger.removed);
        for block in &removed {
            self.set_data(block.first, None);
        }
        self.ledger.dirty.clear();
        !removed.is_empty()
    }

    fn set_data(&mut self, first: u64, data: Option<Bytes>) {
        let new = data.as_ref().map_or(0, |d| d.len() as u64);
        let old = match data {
            Some(data) => self.data.insert(first, data),
            None => self.data.remove(&first),
        };
        self.bytes = self.bytes + new - old.map_or(0, |d| d.len() as u64);
    }

    /// Does something to the ledger, with the levels that it asks for.
    fn change<T>(&mut self, mut op: impl FnMut(&mut Ledger) -> Result<T, Stop>) -> Result<T, RingError> {
        self.ledger.forget_levels();
        loop {
            match op(&mut self.ledger) {
                Ok(done) => return Ok(done),
                Err(Stop::Refused(e)) => return Err(e),
                Err(Stop::Levels(first)) => {
                    let totals = self.ledger.blocks.get(&first).map_or([0; 4], Block::per_level);
                    let data = self.data.get(&first).cloned().unwrap_or_default();
                    self.ledger.know_levels(first, levels::of_events(&data, &totals));
                }
            }
        }
    }

    fn lose(&mut self, first: u64, reason: LossReason) {
        // nothing in it refuses
        let lost = self.change(|l| l.lose(first, &Lost::All, reason));
        debug_assert!(lost.is_ok(), "losing a block is never refused");
        self.drop_removed();
    }

    /// Lets go of the block that goes first. Whether there was one.
    fn evict(&mut self) -> bool {
        let of = |class| self.ledger.blocks.values().find(|b| b.class == class).map(|b| b.first);
        let Some(first) = of(Class::Normal).or_else(|| of(Class::Critical)) else { return false };
        self.lose(first, LossReason::Evicted);
        true
    }

    fn expire(&mut self, options: &RingOptions) {
        let now = (options.now)();
        while let Some(first) = self.ages.too_old(&self.ledger.blocks, now, options.max_age) {
            self.lose(first, LossReason::Expired);
        }
    }

    fn store(&mut self, group: Checked, now: i64) -> Option<SeqRange> {
        let stored_ns = self.ages.stamp(now);
        let first = self.ledger.durable + 1;
        let mut next = first;
        let mut blocks = Vec::new();
        for new in group.blocks {
            let block = Block {
                first: next,
                last: next + new.events - 1,
                keep: None,
                class: new.class,
                lane: new.lane,
                levels: new.levels,
                time_ns: new.time_ns,
                stored_ns,
                raw_len: new.raw_len,
                place: Place::default(),
            };
            next += new.events;
            self.set_data(block.first, Some(new.data));
            blocks.push(block);
        }
        self.ledger.publish(blocks, &group.intake);
        runs::range((first, next - 1))
    }
}

impl Default for MemoryRing {
    fn default() -> MemoryRing {
        MemoryRing::new(RingOptions::default())
    }
}

impl MemoryRing {
    /// An empty ring. Of the options, those about files have no meaning here.
    #[must_use]
    pub fn new(options: RingOptions) -> MemoryRing {
        let mut inner = Inner::default();
        inner.ledger.epoch = group::random_epoch();
        MemoryRing {
            options,
            inner: Mutex::new(inner),
            room: Notify::new(),
            state: watch::Sender::new(State::default()),
        }
    }

    /// A ring that holds just these blocks: nothing is in front of `range` or behind it. What the
    /// run does not hold is no hole: it was counted where it went missing. `None` when a block is
    /// none, overlaps another, or reaches behind the run.
    pub(crate) fn of_blocks(epoch: u64, range: SeqRange, blocks: Vec<StoredBlock>) -> Option<MemoryRing> {
        let ring = MemoryRing::new(RingOptions { bound_bytes: u64::MAX, ..RingOptions::default() });
        let mut inner = ring.lock();
        inner.ledger.epoch = epoch;
        inner.ledger.trimmed = range.first().0.checked_sub(1)?;
        inner.ledger.durable = range.last().0;
        let mut end = 0;
        for stored in blocks {
            let (first, last) = runs::run(stored.range);
            if first <= end || last < range.first().0 || last > range.last().0 {
                return None;
            }
            end = last;
            let block = group::block_of(&stored)?;
            crate::ledger::add(&mut inner.ledger.stored, &bundle::events_in(range, &stored));
            inner.set_data(block.first, Some(stored.data));
            inner.ledger.blocks.insert(block.first, block);
        }
        inner.ledger.read = inner.ledger.stored.iter().sum();
        drop(inner);
        ring.state.send_modify(|s| s.durable = range.last());
        Some(ring)
    }

    /// All entries that a chain keeps, also of a ring that was closed.
    #[must_use]
    pub fn entries(&self, chain: Chain) -> Vec<ChainEntry> {
        self.lock().ledger.chain(chain).read(0, usize::MAX)
    }

    /// An empty ring behind the trait.
    #[must_use]
    pub fn shared(options: RingOptions) -> Arc<dyn Ring> {
        Arc::new(MemoryRing::new(options))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, Inner>, RingError> {
        let inner = self.lock();
        if inner.closed { Err(RingError::Closed) } else { Ok(inner) }
    }

    fn change<T>(&self, op: impl FnMut(&mut Ledger) -> Result<T, Stop>) -> Result<T, RingError> {
        let mut inner = self.open()?;
        let done = inner.change(op)?;
        if inner.drop_removed() {
            self.room.notify_waiters();
        }
        Ok(done)
    }

    /// `None`: no room yet.
    fn try_append(&self, group: &mut Option<Checked>) -> Result<Option<Ticket>, AppendError> {
        let mut inner = self.open().map_err(|_| AppendError::Closed)?;
        let now = (self.options.now)();
        inner.expire(&self.options);
        let Some(need) = group.as_ref().map(|g| g.raw_bytes) else { return Err(AppendError::Closed) };
        // an account is always taken
        let holds = group.as_ref().is_some_and(|g| !g.blocks.is_empty());
        while holds && inner.bytes + need > self.options.bound() {
            match self.options.full {
                FullPolicy::DropNewest => return Err(AppendError::Full),
                FullPolicy::Block => return Ok(None),
                FullPolicy::DropOldest => {
                    if !inner.evict() {
                        break;
                    }
                }
            }
        }
        let Some(group) = group.take() else { return Err(AppendError::Closed) };
        let range = inner.store(group, now);
        let durable = Seq(inner.ledger.durable);
        drop(inner);
        self.state.send_modify(|s| s.durable = durable);
        let (done, ticket) = oneshot::channel();
        // the receiver is in our hand
        let _ = done.send(Ok(range));
        Ok(Some(Ticket(ticket)))
    }
}

impl Ring for MemoryRing {
    fn append(&self, group: Group) -> BoxFuture<'_, Result<Ticket, AppendError>> {
        Box::pin(async move {
            let mut group = Some(group::check(group, self.options.bound())?);
            loop {
                let mut room = std::pin::pin!(self.room.notified());
                room.as_mut().enable();
                if let Some(ticket) = self.try_append(&mut group)? {
                    return Ok(ticket);
                }
                room.await;
            }
        })
    }

    fn attach(&self, sink: &SinkId, start: StartAt) -> Result<Cursor, RingError> {
        self.change(|l| l.attach(sink, start))
    }

    fn detach(&self, sink: &SinkId) -> Result<(), RingError> {
        self.change(|l| {
            l.detach(sink);
            Ok(())
        })
    }

    fn read(&self, after: Seq, limit: ReadLimit) -> Result<Read, RingError> {
        let mut inner = self.open()?;
        inner.expire(&self.options);
        let (blocks, holes, end) = inner.ledger.read(after, limit);
        let mut out = Read { blocks: Vec::new(), holes, end };
        for block in blocks {
            let data = inner.data.get(&block.first).cloned().unwrap_or_default();
            out.blocks.extend(group::stored(&block, data));
        }
        Ok(out)
    }

    fn losses(&self) -> u64 {
        self.lock().ledger.losses
    }

    fn holes(&self, after: Seq) -> Vec<Hole> {
        self.lock().ledger.holes_behind(after)
    }

    fn plan(&self, sink: &SinkId, part: Part) -> Result<(), RingError> {
        self.change(|l| l.plan(sink, part))
    }

    fn settle(&self, sink: &SinkId, part: Part, outcome: &Settlement) -> Result<Cursor, RingError> {
        self.change(|l| l.settle(sink, part, outcome))
    }

    fn split(&self, sink: &SinkId, part: Part, at: Seq) -> Result<(), RingError> {
        self.change(|l| l.split(sink, part, at))
    }

    fn divide(&self, sink: &SinkId, part: Part, lanes: Lanes) -> Result<(), RingError> {
        self.change(|l| l.divide(sink, part, lanes))
    }

    fn source_position(&self, source: &str) -> Option<Vec<u8>> {
        self.lock().ledger.positions.get(source).cloned()
    }

    fn purge(&self, rule: &dyn PurgeRule) -> Result<Purged, RingError> {
        let mut inner = self.open()?;
        let mut known = SchemaInterner::new();
        let mut purged = Purged::default();
        let all: Vec<u64> = inner.ledger.blocks.keys().copied().collect();
        for first in all {
            let Some(block) = inner.ledger.blocks.get(&first).cloned() else { continue };
            let data = inner.data.get(&first).cloned().unwrap_or_default();
            if !rule.may_match(&block.per_level(), block.time_ns) {
                continue;
            }
            let Some(sifted) = purge::sift(&block, &data, rule, &mut known) else { continue };
            if sifted.lost.is_empty() {
                inner.ledger.blocks.insert(first, sifted.rest(&block));
            } else {
                let lost = Lost::Some(&sifted.lost, sifted.rest(&block));
                let gone: PerLevel = inner.change(|l| l.lose(first, &lost, LossReason::Purged))?;
                crate::ledger::add(&mut purged.events, &gone);
            }
            purged.blocks += 1;
            let stays = inner.ledger.blocks.contains_key(&first);
            inner.set_data(first, stays.then(|| Bytes::from(sifted.data)));
            inner.drop_removed();
        }
        if purged.blocks > 0 {
            inner.ledger.purges += 1;
            let purges = inner.ledger.purges;
            drop(inner);
            self.state.send_modify(|s| s.purges = purges);
            self.room.notify_waiters();
        }
        Ok(purged)
    }

    fn find(&self, rule: &dyn PurgeRule, each: &mut dyn FnMut(Seq, TelemetryLevel)) -> Result<(), RingError> {
        let inner = self.open()?;
        let mut known = SchemaInterner::new();
        for (first, block) in &inner.ledger.blocks {
            if !rule.may_match(&block.per_level(), block.time_ns) {
                continue;
            }
            let data = inner.data.get(first).cloned().unwrap_or_default();
            for (place, level) in purge::lost(block, &data, rule, &mut known) {
                each(Seq(place), TelemetryLevel::from_u8(level).unwrap_or(TelemetryLevel::Full));
            }
        }
        Ok(())
    }

    fn chain_append(&self, chain: Chain, data: &[u8]) -> Result<ChainEntry, RingError> {
        self.change(|l| l.chain_append(chain, data))
    }

    fn chain_read(&self, chain: Chain, from: u64, most: usize) -> Result<Vec<ChainEntry>, RingError> {
        Ok(self.open()?.ledger.chain(chain).read(from, most))
    }

    fn chain_anchor(&self, chain: Chain) -> Result<(u64, [u8; 32]), RingError> {
        Ok(self.open()?.ledger.chain(chain).anchor)
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, RingError> {
        Ok(self.open()?.ledger.values.get(key).cloned())
    }

    fn put(&self, key: &str, value: Option<&[u8]>) -> Result<(), RingError> {
        self.change(|l| l.put(key, value))
    }

    fn account(&self) -> Account {
        self.lock().change(|l| l.account()).unwrap_or_default()
    }

    fn status(&self) -> Status {
        let inner = self.lock();
        Status {
            epoch: inner.ledger.epoch,
            trimmed: Seq(inner.ledger.trimmed),
            durable: Seq(inner.ledger.durable),
            disk_bytes: inner.bytes,
            bound_bytes: self.options.bound(),
            oldest_stored_ns: inner.ledger.blocks.first_key_value().map(|(_, b)| b.stored_ns),
            cursors: inner.ledger.cursors(),
            quarantined: Vec::new(),
        }
    }

    fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    fn close(&self) -> Result<(), RingError> {
        self.lock().closed = true;
        self.state.send_modify(|s| s.health = Health::Closed);
        self.room.notify_waiters();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_ring_keeps_the_contract() {
        for (name, test) in crate::testing::contract::ALL {
            eprintln!("{name}");
            test(&MemoryRing::shared);
        }
    }
}
