//! From stored blocks to what a sink gets: where a batch ends, and what is left in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_proto::batch::Batch;
use tidegate_proto::ids::{Seq, SeqRange};
use tidegate_proto::level::{LossReason, TelemetryLevel};
use tidegate_proto::wire::{BlockReader, SchemaInterner, WireError};
use tidegate_ring::{Hole, Lanes, Part, PerLevel, ReadLimit, Ring, RingError, StoredBlock};
use tidegate_sinks::events::{Latency, Urgency};
use tidegate_sinks::{BatchLimits, Origin, SinkBatch};
use tokio::time::Instant;

use super::again::Again;
use super::filter::Filter;
use super::soon::{Looked, Over};

/// A block that was read ahead.
#[derive(Clone, Debug)]
pub(super) struct Ahead {
    pub block: StoredBlock,
    /// [`Ring::losses`] before it was read.
    pub losses: u64,
    /// Place and encoded size of each event.
    pub events: Vec<(Seq, u32)>,
    /// How soon its events leave, once that was asked.
    pub looked: Option<Looked>,
    /// When it goes with a batch that is not full, once that was asked.
    pub due: Option<Instant>,
}

/// What follows a place, as far as it was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Fetched {
    pub blocks: Vec<Ahead>,
    /// What is missing from it.
    pub holes: Vec<Hole>,
    /// What is left out of it on a metered network.
    pub over: Over,
    /// Every place up to here is in a block, passed over, or empty.
    pub end: Seq,
}

/// A block that this program cannot read.
#[derive(Debug, thiserror::Error)]
#[error("block {range}: {source}")]
pub struct Unreadable {
    pub range: SeqRange,
    #[source]
    pub source: WireError,
}

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

/// Reads what follows `after` in these lanes.
pub(super) fn fetch(
    ring: &dyn Ring,
    after: Seq,
    limit: ReadLimit,
    lanes: Lanes,
    known: &mut SchemaInterner,
) -> Result<Fetched, FetchError> {
    let losses = ring.losses();
    let read = ring.read(after, limit)?;
    let blocks = Vec::with_capacity(read.blocks.len());
    let mut out = Fetched { blocks, holes: read.holes, over: Over::default(), end: read.end };
    for block in read.blocks.into_iter().filter(|b| lanes.has(b.lane)) {
        let range = block.range;
        let reader = BlockReader::new(&block.data, known).map_err(|source| Unreadable { range, source })?;
        let len = |n| u32::try_from(reader.event_len(n)).unwrap_or(u32::MAX);
        let events = match &block.seqs {
            Some(seqs) => seqs.iter().enumerate().map(|(n, s)| (*s, len(n))).collect(),
            None => (0..reader.events())
                .zip(range.first().0..=range.last().0)
                .map(|(n, s)| (Seq(s), len(n)))
                .collect(),
        };
        out.blocks.push(Ahead { block, losses, events, looked: None, due: None });
    }
    Ok(out)
}

/// Where a batch that begins behind `after` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// It is full: its last place.
    Full(Seq),
    /// What was read does not fill it. The last place explained, and the number of events.
    Open(Seq, u64),
}

/// Decides where a batch ends: pure. `last` bounds it.
pub(super) fn cut(fetched: &Fetched, after: Seq, last: Seq, limits: &BatchLimits) -> Cut {
    let (mut events, mut bytes) = (0u64, 0u64);
    let mut end = after;
    for (seq, len) in fetched.blocks.iter().flat_map(|a| &a.events) {
        if *seq <= after {
            continue;
        }
        if *seq > last {
            break;
        }
        let sum = bytes.saturating_add(u64::from(*len));
        if events > 0 && (events >= u64::from(limits.events.max(1)) || sum > limits.bytes) {
            return Cut::Full(end);
        }
        events += 1;
        bytes = sum;
        end = *seq;
    }
    let explained = fetched.end.min(last).max(end);
    if events >= u64::from(limits.events.max(1)) || bytes >= limits.bytes {
        Cut::Full(end)
    } else {
        Cut::Open(explained, events)
    }
}

/// A batch and what was left out of it.
#[derive(Debug)]
pub(super) struct Made {
    pub batch: SinkBatch,
    /// How many events it has, let go or not.
    pub events: usize,
    /// Events in the batch, per level.
    pub levels: PerLevel,
    /// Events left out.
    pub lost: BTreeMap<LossReason, PerLevel>,
    /// Encoded bytes of the batch's events.
    pub bytes: u64,
    /// Lanes in which events of the batch lie: any, and cost-deferred ones.
    pub lanes: (Lanes, Lanes),
}

/// What a batch is made with; one a sink.
#[derive(Debug)]
pub(super) struct Maker {
    pub origin: Arc<Origin>,
    pub filter: Filter,
    pub known: SchemaInterner,
    pub spare: Vec<(Batch, Vec<Seq>)>,
    /// Judges again what other rules have let through.
    pub again: Option<Again>,
    /// Which events are cost-deferred.
    pub urgency: Option<Arc<Urgency>>,
}

pub(super) fn count(levels: &mut PerLevel, level: Option<TelemetryLevel>) {
    let level = level.unwrap_or(TelemetryLevel::Full);
    if let Some(n) = levels.get_mut(usize::from(level as u8)) {
        *n += 1;
    }
}

impl Maker {
    /// Makes the batch of a run from its blocks, each of which goes when it was read; in memory that was
    /// used before, if there is some.
    pub fn make(
        &mut self,
        range: SeqRange,
        blocks: Vec<Ahead>,
        in_force: TelemetryLevel,
        memory: Option<(Batch, Vec<Seq>)>,
    ) -> Result<Made, FetchError> {
        let (mut batch, mut seqs) = memory.or_else(|| self.spare.pop()).unwrap_or_default();
        batch.clear();
        seqs.clear();
        let mut made = (PerLevel::default(), BTreeMap::<LossReason, PerLevel>::new(), 0u64);
        let mut lanes = (Lanes::NONE, Lanes::NONE);
        for ahead in blocks {
            let unreadable = |source| Unreadable { range: ahead.block.range, source };
            let reader = BlockReader::new(&ahead.block.data, &mut self.known).map_err(unreadable)?;
            if let Some(again) = &mut self.again {
                again.begin(reader.judged(), in_force);
            }
            for (index, (seq, len)) in ahead.events.iter().enumerate() {
                if !range.contains(*seq) {
                    continue;
                }
                let at = batch.len();
                let mark = batch.mark();
                reader.read_one(index, &mut batch).map_err(unreadable)?;
                let Some(event) = batch.get(at) else { continue };
                let level = event.head().telemetry_level;
                let left_out = self.filter.left_out(event, in_force);
                let left_out = match (left_out, &mut self.again) {
                    (None, Some(again)) => again.judge(&mut batch, mark, at, in_force).map_err(unreadable)?,
                    (left_out, _) => left_out,
                };
                match left_out {
                    None => {
                        let lane = Lanes::of(ahead.block.lane);
                        lanes.0 = lanes.0.and(lane);
                        let schema = batch.get(at).map(|e| e.schema());
                        let latency = schema.zip(self.urgency.as_ref()).map(|(s, u)| u.of(s, level));
                        if latency == Some(Latency::CostDeferred) {
                            lanes.1 = lanes.1.and(lane);
                        }
                        count(&mut made.0, level);
                        made.2 += u64::from(*len);
                        seqs.push(*seq);
                    }
                    Some(reason) => {
                        count(made.1.entry(reason).or_default(), level);
                        batch.reset_to(mark);
                    }
                }
            }
        }
        let (levels, lost, bytes) = made;
        let batch = SinkBatch::new(Arc::clone(&self.origin), range, in_force, batch, seqs);
        // places come from the ring in order; anything else is its fault, not a reason to lose events
        let batch = batch
            .ok_or_else(|| RingError::Misuse(format!("the ring gave the places of {range} out of order")))?;
        let events = batch.len();
        Ok(Made { batch, events, levels, lost, bytes, lanes })
    }

    /// Takes a batch's memory back.
    pub fn recycle(&mut self, batch: SinkBatch) {
        // one is in the making at a time; more would keep the memory of a busy hour
        if self.spare.is_empty() {
            self.spare.push(batch.into_parts());
        }
    }
}

/// Reads all of a part, and what is missing from it.
pub(super) fn fetch_run(
    ring: &dyn Ring,
    part: Part,
    known: &mut SchemaInterner,
) -> Result<(Vec<Ahead>, Vec<Hole>), FetchError> {
    let Part { range, lanes } = part;
    let (mut blocks, mut holes) = (Vec::new(), Vec::new());
    let mut after = Seq(range.first().0 - 1);
    while after < range.last() {
        let limit = ReadLimit { bytes: 1 << 20, events: range.last().0 - after.0 };
        let read = fetch(ring, after, limit, lanes, known)?;
        blocks.extend(read.blocks.into_iter().filter(|a| a.block.range.first() <= range.last()));
        holes.extend(read.holes.into_iter().filter(|h| h.range.first() <= range.last()));
        if read.end <= after {
            break;
        }
        after = read.end;
    }
    Ok((blocks, holes))
}

/// How many events of a run the ring holds, per level.
pub(super) fn present(
    range: SeqRange,
    blocks: &[Ahead],
    known: &mut SchemaInterner,
) -> Result<PerLevel, FetchError> {
    let mut levels = PerLevel::default();
    let mut scratch = Batch::new();
    for ahead in blocks {
        let unreadable = |source| Unreadable { range: ahead.block.range, source };
        let reader = BlockReader::new(&ahead.block.data, known).map_err(unreadable)?;
        for (index, _) in ahead.events.iter().enumerate().filter(|(_, (s, _))| range.contains(*s)) {
            scratch.clear();
            reader.read_one(index, &mut scratch).map_err(unreadable)?;
            count(&mut levels, scratch.get(0).and_then(|e| e.head().telemetry_level));
        }
    }
    Ok(levels)
}
