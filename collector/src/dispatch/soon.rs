//! When a batch that is not full goes, by the latency of its events; what waits on a metered
//! network.
//!
//! | latency | leaves |
//! |---|---|
//! | real-time | with its batch after [`REAL_TIME`] at most |
//! | normal | after [`NORMAL`] at most, or the sink's `batch.age` where that is shorter |
//! | cost-deferred | as normal; on a metered network not at all |
//!
//! Cost-deferred events have blocks of their own, in lanes of their own ([`encode`](crate::encode)). On a metered
//! network these lanes are passed over, and taken up again when the network is another; however often they
//! take turns with the rest, that is one run in the cursor. A block in which a sink finds both kinds (it was
//! stored before the rules were as they are) goes in pieces, event by event; once there are
//! [`PIECES`] of them, what is left of such blocks waits whole.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_proto::batch::Batch;
use tidegate_proto::ids::{Seq, SeqRange};
use tidegate_proto::wire::{BlockReader, SchemaInterner};
use tidegate_ring::Lanes;
use tidegate_sinks::events::{Latency, Urgency};

use super::batch::{Ahead, Fetched};

/// Longest wait of a batch with a real-time event; two seconds are promised up to the far side.
pub const REAL_TIME: Duration = Duration::from_secs(1);
/// Longest wait of a normal event; thirty seconds are promised.
pub const NORMAL: Duration = Duration::from_secs(25);
/// How often it is looked whether the network is still metered, while something waits for that.
pub const LOOK: Duration = Duration::from_secs(10);

/// Pieces of blocks that wait for another network, at most.
pub const PIECES: usize = 1024;
/// Blocks passed over that one batch reaches across, at most.
const ACROSS: usize = 4096;

/// Tells whether the network is metered. Cheap to clone.
#[derive(Clone)]
pub struct Metered(Ask);

#[derive(Clone)]
enum Ask {
    Always(bool),
    Now(Arc<dyn Fn() -> bool + Send + Sync>),
}

impl fmt::Debug for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metered")
    }
}

impl Default for Metered {
    fn default() -> Metered {
        Metered::always(false)
    }
}

impl Metered {
    /// Always the same answer.
    #[must_use]
    pub fn always(metered: bool) -> Metered {
        Metered(Ask::Always(metered))
    }

    /// What a function says. It is asked every [`LOOK`] while something waits.
    #[must_use]
    pub fn from_fn(ask: impl Fn() -> bool + Send + Sync + 'static) -> Metered {
        Metered(Ask::Now(Arc::new(ask)))
    }

    /// What a file says: metered when its first word is `yes`, `true` or `1`. A file that is not
    /// there or cannot be read says no.
    #[must_use]
    pub fn file(path: PathBuf) -> Metered {
        use std::io::Read as _;
        Metered::from_fn(move || {
            let mut start = Vec::new();
            let read = std::fs::File::open(&path).and_then(|f| f.take(64).read_to_end(&mut start));
            let text = String::from_utf8_lossy(&start);
            let word = text.split_whitespace().next().unwrap_or_default();
            read.is_ok() && ["yes", "true", "1"].iter().any(|w| word.eq_ignore_ascii_case(w))
        })
    }

    /// Whether it is metered now.
    #[must_use]
    pub fn now(&self) -> bool {
        match &self.0 {
            Ask::Always(metered) => *metered,
            Ask::Now(ask) => ask(),
        }
    }

    /// Whether it ever is.
    #[must_use]
    pub fn can_be(&self) -> bool {
        !matches!(self.0, Ask::Always(false))
    }
}

/// What is known of the latency of a block's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Looked {
    /// That of the most urgent.
    pub latency: Latency,
    /// Whether any is cost-deferred.
    pub deferred: bool,
}

/// Looks at the latency of a block's events. What cannot be read is normal.
pub(super) fn look(urgency: &Urgency, ahead: &mut Ahead, known: &mut SchemaInterner) -> Looked {
    if let Some(looked) = ahead.looked {
        return looked;
    }
    let all = latencies(urgency, ahead, known);
    let latency = all.iter().max().copied().unwrap_or_default();
    let deferred = all.contains(&Latency::CostDeferred);
    *ahead.looked.insert(Looked { latency, deferred })
}

/// The latency of each event of a block.
fn latencies(urgency: &Urgency, ahead: &Ahead, known: &mut SchemaInterner) -> Vec<Latency> {
    let mut events = Batch::new();
    let read = BlockReader::new(&ahead.block.data, known).and_then(|b| b.read_into(&mut events));
    match read {
        Ok(_) => events.iter().map(|e| urgency.of(e.schema(), e.head().telemetry_level)).collect(),
        Err(_) => Vec::new(),
    }
}

/// How long a block waits at most.
pub(super) fn wait(latency: Option<Latency>, age: Duration) -> Duration {
    match latency {
        None => age,
        Some(Latency::RealTime) => age.min(REAL_TIME),
        Some(Latency::Normal | Latency::CostDeferred) => age.min(NORMAL),
    }
}

/// A block that was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    pub range: SeqRange,
    pub lane: u8,
    pub events: u64,
}

/// What a batch on a metered network leaves out of what was read for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Over {
    pub blocks: Vec<Passed>,
    /// Nothing behind this place can be in the same batch.
    pub stop: Option<Seq>,
    /// It begins with a piece that waits: its last place.
    pub piece: Option<Seq>,
}

impl Over {
    /// Forgets what lies up to a place.
    pub fn forget(&mut self, last: Seq) {
        self.blocks.retain(|b| b.range.last() > last);
        self.stop = self.stop.filter(|s| *s > last);
        self.piece = None;
    }

    /// The lanes that are passed over up to a place.
    pub fn lanes(&self, last: Seq) -> Lanes {
        let blocks = self.blocks.iter().filter(|b| b.range.first() <= last);
        blocks.fold(Lanes::NONE, |all, b| all.and(Lanes::of(b.lane)))
    }

    /// How many events are passed over up to a place.
    pub fn events(&self, last: Seq) -> u64 {
        self.blocks.iter().filter(|b| b.range.first() <= last).map(|b| b.events).sum()
    }
}

/// Sorts what was read behind `after` on a metered network, block by block: to be sent, or passed over. A lane
/// is one or the other in a batch. Blocks that are passed over are not kept. With `whole` no block is cut in
/// pieces.
pub(super) fn pass_over(
    urgency: &Urgency,
    after: Seq,
    fetched: &mut Fetched,
    read: Vec<Ahead>,
    known: &mut SchemaInterner,
    whole: bool,
) {
    let mut sent = fetched.blocks.iter().fold(Lanes::NONE, |all, a| all.and(Lanes::of(a.block.lane)));
    let mut passed = fetched.over.lanes(Seq(u64::MAX));
    for mut ahead in read {
        let (range, lane) = (ahead.block.range, ahead.block.lane);
        let looked = look(urgency, &mut ahead, known);
        let all_deferred = looked.latency == Latency::CostDeferred;
        let mixed = looked.deferred && !all_deferred;
        let nothing_yet = fetched.blocks.is_empty() && fetched.over.blocks.is_empty();
        let other = if all_deferred { sent } else { passed };
        let stop = other.has(lane) || mixed && !nothing_yet || fetched.over.blocks.len() >= ACROSS;
        if stop && !nothing_yet {
            fetched.over.stop = Some(Seq(range.first().0.saturating_sub(1)).max(after));
            break;
        }
        if mixed {
            let all = latencies(urgency, &ahead, known);
            let mut ours = ahead.events.iter().zip(all).filter(|((seq, _), _)| *seq > after);
            let deferred = |latency: &Latency| *latency == Latency::CostDeferred;
            let begins = ours.clone().next().is_some_and(|(_, l)| deferred(&l));
            let begins = begins || whole;
            let turn = ours.find(|(_, l)| deferred(l) != begins).map(|((seq, _), _)| Seq(seq.0 - 1));
            let end = turn.filter(|_| !whole).unwrap_or(range.last());
            if begins {
                fetched.over.piece = Some(end);
            } else {
                fetched.blocks.push(ahead);
            }
            fetched.over.stop = Some(end);
            break;
        }
        if all_deferred {
            let events = ahead.events.iter().filter(|(seq, _)| *seq > after).count() as u64;
            passed = passed.and(Lanes::of(lane));
            fetched.over.blocks.push(Passed { range, lane, events });
        } else {
            sent = sent.and(Lanes::of(lane));
            fetched.blocks.push(ahead);
        }
    }
    if let Some(stop) = fetched.over.stop {
        fetched.end = fetched.end.min(stop);
        fetched.holes.retain(|h| h.range.first() <= stop);
    }
}
