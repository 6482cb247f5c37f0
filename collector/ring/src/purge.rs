//! Sifting one block by a purge rule.

use tidegate_proto::batch::Batch;
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::wire::{BlockBuilder, BlockReader, Judged, SchemaInterner, WireError};

use crate::ledger::Block;
use crate::{PerLevel, PurgeRule, levels};

/// What a rule leaves of a block.
#[derive(Debug)]
pub(crate) struct Sifted {
    /// What goes: place and level, ascending.
    pub lost: Vec<(u64, u8)>,
    /// The places that stay, ascending.
    pub keep: Vec<u64>,
    /// Encoded block of what stays; empty when nothing does.
    pub data: Vec<u8>,
    /// What stays, per level.
    pub levels: [u32; 4],
    /// Times of what stays.
    pub time_ns: (i64, i64),
}

/// Applies a rule to a block. `None` when all of it stays as it is. A block that cannot be decoded goes
/// whole: what cannot be judged must not stay.
pub(crate) fn sift(
    block: &Block,
    data: &[u8],
    rule: &dyn PurgeRule,
    known: &mut SchemaInterner,
) -> Option<Sifted> {
    let levels = levels::of_events(data, &block.per_level());
    match decode(block, data, known) {
        Ok((batch, judged)) => sieve(block, &batch, judged, &levels, rule),
        Err(_) => Some(Sifted {
            lost: block.places().zip(levels).collect(),
            keep: Vec::new(),
            data: Vec::new(),
            levels: [0; 4],
            time_ns: (0, 0),
        }),
    }
}

/// What goes of a block, as [`Sifted::lost`] has it, without making what stays.
pub(crate) fn lost(
    block: &Block,
    data: &[u8],
    rule: &dyn PurgeRule,
    known: &mut SchemaInterner,
) -> Vec<(u64, u8)> {
    let levels = levels::of_events(data, &block.per_level());
    let all = block.places().zip(levels);
    match decode(block, data, known) {
        Ok((batch, _)) => {
            batch.iter().zip(all).filter(|(event, _)| rule.matches(*event)).map(|(_, at)| at).collect()
        }
        Err(_) => all.collect(),
    }
}

fn decode(block: &Block, data: &[u8], known: &mut SchemaInterner) -> Result<(Batch, Judged), WireError> {
    let mut batch = Batch::new();
    let reader = BlockReader::new(data, known)?;
    reader.read_into(&mut batch)?;
    if batch.len() as u64 == block.events() {
        Ok((batch, reader.judged()))
    } else {
        Err(WireError::Bad { at: 0, what: "another number of events than places" })
    }
}

fn sieve(
    block: &Block,
    batch: &Batch,
    judged: Judged,
    levels: &[u8],
    rule: &dyn PurgeRule,
) -> Option<Sifted> {
    let mut out = Sifted {
        lost: Vec::new(),
        keep: Vec::new(),
        data: Vec::new(),
        levels: [0; 4],
        time_ns: (i64::MAX, i64::MIN),
    };
    let mut builder = BlockBuilder::new();
    builder.set_judged(judged);
    let mut changed = false;
    for ((event, place), level) in batch.iter().zip(block.places()).zip(levels) {
        if rule.matches(event) {
            out.lost.push((place, *level));
            continue;
        }
        let time = event.head().time_ns;
        out.time_ns = (out.time_ns.0.min(time), out.time_ns.1.max(time));
        out.keep.push(place);
        if let Some(n) = out.levels.get_mut(usize::from(*level)) {
            *n += 1;
        }
        let level = TelemetryLevel::from_u8(*level).unwrap_or(TelemetryLevel::Full);
        changed |= rule.changes(event, &mut |changes| builder.push(event, level, changes));
    }
    if out.lost.is_empty() && !changed {
        return None;
    }
    if !out.keep.is_empty() {
        out.data = builder.finish();
    }
    Some(out)
}

impl Sifted {
    /// The block of what stays, with its bytes still to be placed.
    pub fn rest(&self, block: &Block) -> Block {
        Block {
            keep: match self.lost.is_empty() {
                true => block.keep.clone(),
                false => Some(Block::bitmap(block.run(), self.keep.iter().copied())),
            },
            levels: self.levels,
            time_ns: self.time_ns,
            raw_len: u32::try_from(self.data.len()).unwrap_or(u32::MAX),
            ..block.clone()
        }
    }
}

/// Sums of a group's levels, and whether it can be stored at all.
pub(crate) fn events(levels: &PerLevel) -> u64 {
    levels.iter().fold(0, |a, b| a.saturating_add(*b))
}
