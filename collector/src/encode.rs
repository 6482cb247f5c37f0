//! Cleared events become blocks. The rest of the collector writes events only through here, and
//! [`Encoder::push`] takes nothing but [`Cleared`]: what the gate has not let through cannot be
//! encoded.
//!
//! Each telemetry level has a block of its own. So a block is of one class, the ring counts a
//! whole block without looking into it, and a lowered level takes whole blocks away. Where a sink may hold
//! cost-deferred events back, these have blocks of their own too, in another of the ring's lanes.

use std::collections::HashMap;

use bytes::Bytes;
use tidegate_proto::batch::Batch;
use tidegate_proto::level::{Class, TelemetryLevel};
use tidegate_proto::schema::Schema;
use tidegate_proto::wire::{BlockBuilder, BlockReader, Judged, SchemaInterner};
use tidegate_ring::{Lanes, NewBlock, PerLevel};
use tidegate_sinks::events::{Latency, Urgency};

use crate::gate::{Cleared, Gate};

/// Kinds of events whose lanes are kept.
const CACHED: usize = 4096;
/// Places of the memo, a power of two.
const MEMO: usize = 64;

/// Tells the lane of an event: 0 where no sink defers it, another for each set of sinks that do.
#[derive(Debug, Default)]
pub struct Apart {
    urgencies: Vec<Urgency>,
    /// By schema id and level.
    cache: HashMap<(u64, TelemetryLevel), u8>,
    /// The same, direct-mapped by schema id: no hashing for what comes often.
    memo: Vec<Option<(u64, TelemetryLevel, u8)>>,
    /// Which of the urgencies defer what is in each lane, one bit each.
    lanes: Vec<u64>,
}

impl Apart {
    /// By what some sinks call cost-deferred; none where none would hold it back.
    #[must_use]
    pub fn new(urgencies: impl IntoIterator<Item = Urgency>) -> Apart {
        let mut different: Vec<Urgency> = Vec::new();
        for urgency in urgencies {
            if !different.contains(&urgency) && different.len() < 64 {
                different.push(urgency);
            }
        }
        Apart { urgencies: different, cache: HashMap::new(), memo: vec![None; MEMO], lanes: vec![0] }
    }

    fn lane(&mut self, schema: &Schema, level: TelemetryLevel) -> u8 {
        if self.urgencies.is_empty() {
            return 0;
        }
        let id = schema.id();
        let at = usize::try_from(id).unwrap_or(0) & (MEMO - 1);
        if let Some(Some((of, at_level, lane))) = self.memo.get(at)
            && (*of, *at_level) == (id, level)
        {
            return *lane;
        }
        let lane = self.look_up(schema, level);
        if let Some(memo) = self.memo.get_mut(at) {
            *memo = Some((id, level, lane));
        }
        lane
    }

    fn look_up(&mut self, schema: &Schema, level: TelemetryLevel) -> u8 {
        if let Some(lane) = self.cache.get(&(schema.id(), level)) {
            return *lane;
        }
        let deferred = |u: &Urgency| u.of(schema, Some(level)) == Latency::CostDeferred;
        let bits = self.urgencies.iter().enumerate().map(|(n, u)| u64::from(deferred(u)) << n).sum();
        let known = self.lanes.iter().position(|l| *l == bits);
        // more sets than lanes share the last; whoever reads such a block looks at each event
        let lane = known.unwrap_or_else(|| {
            let full = self.lanes.len() >= usize::from(Lanes::COUNT);
            if !full {
                self.lanes.push(bits);
            }
            self.lanes.len() - 1
        });
        let lane = u8::try_from(lane).unwrap_or(Lanes::COUNT - 1);
        if self.cache.len() >= CACHED {
            self.cache.clear();
        }
        self.cache.insert((schema.id(), level), lane);
        lane
    }
}

/// The block of one level and lane while it is written.
#[derive(Debug)]
struct Open {
    level: TelemetryLevel,
    lane: u8,
    block: BlockBuilder,
    /// By what all its events are judged.
    judged: Judged,
    time_ns: (i64, i64),
}

impl Open {
    fn new(level: TelemetryLevel, lane: u8) -> Open {
        Open {
            level,
            lane,
            block: BlockBuilder::new(),
            judged: Judged::default(),
            time_ns: (i64::MAX, i64::MIN),
        }
    }

    fn events(&self) -> u64 {
        u64::from(self.block.events())
    }

    fn take(&mut self) -> Option<NewBlock> {
        if self.block.is_empty() {
            return None;
        }
        let mut done = std::mem::replace(self, Open::new(self.level, self.lane));
        done.block.set_judged(done.judged);
        let mut levels: PerLevel = [0; 4];
        if let Some(n) = levels.get_mut(usize::from(done.level as u8)) {
            *n = done.events();
        }
        Some(NewBlock {
            class: Class::of(done.level),
            lane: done.lane,
            levels,
            time_ns: done.time_ns,
            data: Bytes::from(done.block.finish()),
        })
    }
}

/// An event that takes more room than an event may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of {bytes} bytes, {most} are allowed")]
pub struct Oversize {
    /// Its size as encoded.
    pub bytes: usize,
    /// The limit.
    pub most: usize,
}

/// Writes cleared events into blocks.
#[derive(Debug)]
pub struct Encoder {
    /// Four a lane.
    open: Vec<Open>,
    apart: Apart,
    full: Vec<NewBlock>,
    block_bytes: usize,
    max_event: usize,
}

impl Encoder {
    /// Closes a block at `block_bytes` and refuses events of more than `max_event` bytes.
    #[must_use]
    pub fn new(block_bytes: usize, max_event: usize, apart: Apart) -> Encoder {
        Encoder { open: Vec::new(), apart, full: Vec::new(), block_bytes, max_event }
    }

    /// Appends an event with the gate's changes.
    ///
    /// # Errors
    /// An event of too many bytes; nothing of it stays.
    pub fn push(&mut self, cleared: Cleared<'_>) -> Result<(), Oversize> {
        let level = cleared.level();
        let lane = self.apart.lane(cleared.event().schema(), level);
        let at = usize::from(lane) * 4 + usize::from(level as u8);
        while self.open.len() <= at {
            let lane = u8::try_from(self.open.len() / 4).unwrap_or(lane);
            self.open.extend(TelemetryLevel::ALL.map(|level| Open::new(level, lane)));
        }
        let Some(open) = self.open.get_mut(at) else { return Ok(()) };
        if open.judged != cleared.judged() {
            self.full.extend(open.take());
            open.judged = cleared.judged();
        }
        let mark = open.block.mark();
        let before = open.block.len();
        let event = cleared.event();
        open.block.push_sampled(event, level, cleared.edits(), cleared.sample_ppm());
        let bytes = open.block.len() - before;
        if bytes > self.max_event {
            open.block.reset_to(mark);
            return Err(Oversize { bytes, most: self.max_event });
        }
        let time = event.head().time_ns;
        open.time_ns = (open.time_ns.0.min(time), open.time_ns.1.max(time));
        if open.block.len() >= self.block_bytes {
            self.full.extend(open.take());
        }
        Ok(())
    }

    /// Bytes encoded since blocks were taken last.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let full: usize = self.full.iter().map(|b| b.data.len()).sum();
        let open: usize = self.open.iter().filter(|o| !o.block.is_empty()).map(|o| o.block.len()).sum();
        full + open
    }

    /// Whether nothing waits to be taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.full.is_empty() && self.open.iter().all(|o| o.block.is_empty())
    }

    /// Takes all blocks.
    pub fn take(&mut self) -> Vec<NewBlock> {
        let mut out = std::mem::take(&mut self.full);
        out.extend(self.open.iter_mut().filter_map(Open::take));
        out
    }

    /// Forgets all events above a level and says how many they were.
    pub fn drop_above(&mut self, level: TelemetryLevel) -> u64 {
        let mut gone = drop_above(&mut self.full, level);
        for open in &mut self.open {
            if open.level > level {
                gone += open.events();
                *open = Open::new(open.level, open.lane);
            }
        }
        gone
    }
}

/// Takes blocks of levels above `level` out of a list and says how many events they held.
/// Every block of an [`Encoder`] is of one level.
pub(crate) fn drop_above(blocks: &mut Vec<NewBlock>, level: TelemetryLevel) -> u64 {
    let mut gone = 0;
    blocks.retain(|b| {
        let above: u64 =
            TelemetryLevel::ALL.iter().zip(b.levels).filter(|(l, _)| **l > level).map(|(_, n)| n).sum();
        gone += above;
        above == 0
    });
    gone
}

/// Writes blocks again without the fields whose own level is above `level`. Whether anything changed.
pub(crate) fn leave_out_above(blocks: &mut [NewBlock], level: TelemetryLevel, gate: &mut Gate) -> bool {
    let mut known = SchemaInterner::new();
    let mut any = false;
    for block in blocks {
        let mut batch = Batch::new();
        let Ok(reader) = BlockReader::new(&block.data, &mut known) else { continue };
        if reader.judged().in_force.is_some_and(|l| l <= level) || reader.read_into(&mut batch).is_err() {
            continue;
        }
        let mut again = BlockBuilder::new();
        again.set_judged(reader.judged());
        let mut changed = false;
        for event in batch.iter() {
            let own = event.head().telemetry_level;
            changed |= gate.changes(event, level, &mut |changes| again.push(event, own, changes));
        }
        if changed {
            block.data = Bytes::from(again.finish());
            any = true;
        }
    }
    any
}
