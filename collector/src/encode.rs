//! Cleared events become blocks. The rest of the collector writes events only through here, and
//! [`Encoder::push`] takes nothing but [`Cleared`]: what the gate has not let through cannot be
//! encoded.
//!
//! Each telemetry level has a block of its own. So a block is of one class, the ring counts a
//! whole block without looking into it, and a lowered level takes whole blocks away.

use bytes::Bytes;
use tidegate_proto::batch::Batch;
use tidegate_proto::level::{Class, TelemetryLevel};
use tidegate_proto::wire::{BlockBuilder, BlockReader, Judged, SchemaInterner};
use tidegate_ring::{NewBlock, PerLevel};

use crate::gate::{Cleared, Gate};

/// One level's block while it is written.
#[derive(Debug)]
struct Open {
    level: TelemetryLevel,
    block: BlockBuilder,
    /// By what all its events are judged.
    judged: Judged,
    time_ns: (i64, i64),
}

impl Open {
    fn new(level: TelemetryLevel) -> Open {
        Open { level, block: BlockBuilder::new(), judged: Judged::default(), time_ns: (i64::MAX, i64::MIN) }
    }

    fn events(&self) -> u64 {
        u64::from(self.block.events())
    }

    fn take(&mut self) -> Option<NewBlock> {
        if self.block.is_empty() {
            return None;
        }
        let mut done = std::mem::replace(self, Open::new(self.level));
        done.block.set_judged(done.judged);
        let mut levels: PerLevel = [0; 4];
        if let Some(n) = levels.get_mut(usize::from(done.level as u8)) {
            *n = done.events();
        }
        Some(NewBlock {
            class: Class::of(done.level),
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
    open: [Open; 4],
    full: Vec<NewBlock>,
    block_bytes: usize,
    max_event: usize,
}

impl Encoder {
    /// Closes a block at `block_bytes` and refuses events of more than `max_event` bytes.
    #[must_use]
    pub fn new(block_bytes: usize, max_event: usize) -> Encoder {
        Encoder { open: TelemetryLevel::ALL.map(Open::new), full: Vec::new(), block_bytes, max_event }
    }

    /// Appends an event with the gate's changes.
    ///
    /// # Errors
    /// An event of too many bytes; nothing of it stays.
    pub fn push(&mut self, cleared: Cleared<'_>) -> Result<(), Oversize> {
        let level = cleared.level();
        let Some(open) = self.open.get_mut(usize::from(level as u8)) else { return Ok(()) };
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
                *open = Open::new(open.level);
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
