//! Groups on their way in, and blocks on their way out.

use bytes::Bytes;
use tidegate_proto::ids::Seq;
use tidegate_proto::level::Class;

use crate::ledger::{Block, Place};
use crate::{AppendError, Group, Intake, Lanes, StoredBlock, levels, purge, runs};

/// Sources and drop reasons that one group may name.
const MAX_POSITIONS: usize = 1024;

/// A block whose counts were checked.
#[derive(Debug)]
pub(crate) struct CheckedBlock {
    pub class: Class,
    pub lane: u8,
    pub data: Bytes,
    pub events: u64,
    pub levels: [u32; 4],
    pub time_ns: (i64, i64),
    pub raw_len: u32,
}

/// A group that can be stored.
#[derive(Debug)]
pub(crate) struct Checked {
    pub blocks: Vec<CheckedBlock>,
    pub intake: Intake,
    pub raw_bytes: u64,
}

/// Checks a group. Blocks without an event hold nothing and are left out.
pub(crate) fn check(group: Group, bound: u64) -> Result<Checked, AppendError> {
    let too_large = |bytes: usize, bound: u64| AppendError::TooLarge { bytes: bytes as u64, bound };
    for (source, position) in &group.intake.positions {
        let bytes = position.len().max(source.len());
        if bytes > Intake::MAX_POSITION {
            return Err(too_large(bytes, Intake::MAX_POSITION as u64));
        }
    }
    if group.intake.positions.len() > MAX_POSITIONS {
        return Err(too_large(group.intake.positions.len(), MAX_POSITIONS as u64));
    }
    let mut raw_bytes = 0u64;
    let mut blocks = Vec::with_capacity(group.blocks.len());
    for block in group.blocks {
        let mut levels = [0u32; 4];
        for (to, from) in levels.iter_mut().zip(block.levels) {
            *to = u32::try_from(from).map_err(|_| too_large(block.data.len(), bound))?;
        }
        let events = purge::events(&block.levels);
        let raw_len = u32::try_from(block.data.len()).map_err(|_| too_large(block.data.len(), bound))?;
        raw_bytes = raw_bytes.saturating_add(u64::from(raw_len));
        if events > 0 {
            blocks.push(CheckedBlock {
                class: block.class,
                lane: block.lane.min(Lanes::COUNT - 1),
                data: block.data,
                events,
                levels,
                time_ns: block.time_ns,
                raw_len,
            });
        }
    }
    if raw_bytes > bound {
        return Err(AppendError::TooLarge { bytes: raw_bytes, bound });
    }
    Ok(Checked { blocks, intake: group.intake, raw_bytes })
}

/// A stored block as the contract has it.
pub(crate) fn stored(block: &Block, data: Bytes) -> Option<StoredBlock> {
    Some(StoredBlock {
        range: runs::range(block.run())?,
        seqs: block.keep.as_ref().map(|_| block.places().map(Seq).collect()),
        class: block.class,
        lane: block.lane,
        data,
        stored_ns: block.stored_ns,
    })
}

/// The other way: a block as the ledger has it, with its bytes held elsewhere. `None` when the
/// bytes do not have an event for each place.
pub(crate) fn block_of(stored: &StoredBlock) -> Option<Block> {
    let run = runs::run(stored.range);
    let mut levels = [0u32; 4];
    let found = levels::scan(&stored.data)?;
    for level in &found {
        // without a level it counts as the highest
        let [rest @ .., full] = &mut levels;
        *rest.get_mut(usize::from(*level)).unwrap_or(full) += 1;
    }
    let places = stored.seqs.as_ref().map_or(stored.range.len(), |s| s.len() as u64);
    let sound =
        places == found.len() as u64 && stored.seqs.iter().flatten().all(|s| stored.range.contains(*s));
    sound.then(|| Block {
        first: run.0,
        last: run.1,
        keep: stored.seqs.as_ref().map(|seqs| Block::bitmap(run, seqs.iter().map(|s| s.0))),
        class: stored.class,
        lane: stored.lane.min(Lanes::COUNT - 1),
        levels,
        // not told
        time_ns: (i64::MIN, i64::MAX),
        stored_ns: stored.stored_ns,
        raw_len: u32::try_from(stored.data.len()).unwrap_or(u32::MAX),
        place: Place::default(),
    })
}

/// A number that no other ring is likely to have, and never 0.
pub(crate) fn random_epoch() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    let (a, b) = (RandomState::new(), RandomState::new());
    (a.hash_one(crate::options::now_ns()) ^ b.hash_one(std::process::id())).max(1)
}
