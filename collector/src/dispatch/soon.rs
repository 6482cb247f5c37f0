//! When a batch that is not full goes, by the latency of its events; what waits on a metered
//! network.
//!
//! | latency | leaves |
//! |---|---|
//! | real-time | with its batch after [`REAL_TIME`] at most |
//! | normal | after [`NORMAL`] at most, or the sink's `batch.age` where that is shorter |
//! | cost-deferred | as normal; on a metered network not at all |
//!
//! On a metered network whole blocks of cost-deferred events are passed over and taken up again
//! when the network is another. Those in one block with other events go along with them: blocks
//! are closed every few milliseconds, so these are few.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_proto::batch::Batch;
use tidegate_proto::ids::{Seq, SeqRange};
use tidegate_proto::wire::{BlockReader, SchemaInterner};
use tidegate_sinks::events::{Latency, Urgency};

use super::batch::{Ahead, Fetched};

/// Longest wait of a batch with a real-time event; two seconds are promised up to the far side.
pub const REAL_TIME: Duration = Duration::from_secs(1);
/// Longest wait of a normal event; thirty seconds are promised.
pub const NORMAL: Duration = Duration::from_secs(25);
/// How often it is looked whether the network is still metered, while something waits for that.
pub const LOOK: Duration = Duration::from_secs(10);

/// Tells whether the network is metered. Cheap to clone.
#[derive(Clone)]
pub struct Metered(Arc<dyn Fn() -> bool + Send + Sync>);

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
        Metered(Arc::new(move || metered))
    }

    /// What a function says. It is asked every [`LOOK`] while something waits.
    #[must_use]
    pub fn from_fn(ask: impl Fn() -> bool + Send + Sync + 'static) -> Metered {
        Metered(Arc::new(ask))
    }

    /// What a file says: metered when its first word is `yes`, `true` or `1`. A file that is not
    /// there or cannot be read says no.
    #[must_use]
    pub fn file(path: PathBuf) -> Metered {
        use std::io::Read as _;
        Metered(Arc::new(move || {
            let mut start = Vec::new();
            let read = std::fs::File::open(&path).and_then(|f| f.take(64).read_to_end(&mut start));
            let text = String::from_utf8_lossy(&start);
            let word = text.split_whitespace().next().unwrap_or_default();
            read.is_ok() && ["yes", "true", "1"].iter().any(|w| word.eq_ignore_ascii_case(w))
        }))
    }

    /// Whether it is metered now.
    #[must_use]
    pub fn now(&self) -> bool {
        (self.0)()
    }
}

/// The latency of a block: that of its most urgent event. What cannot be read is normal.
pub(super) fn latency(urgency: &Urgency, ahead: &mut Ahead, known: &mut SchemaInterner) -> Latency {
    if let Some(latency) = ahead.latency {
        return latency;
    }
    let mut events = Batch::new();
    let read = BlockReader::new(&ahead.block.data, known).and_then(|b| b.read_into(&mut events));
    let most = events.iter().map(|e| urgency.of(e.schema(), e.head().telemetry_level)).max();
    *ahead.latency.insert(most.filter(|_| read.is_ok()).unwrap_or_default())
}

/// How long a block waits at most.
pub(super) fn wait(latency: Option<Latency>, age: Duration) -> Duration {
    match latency {
        None => age,
        Some(Latency::RealTime) => age.min(REAL_TIME),
        Some(Latency::Normal | Latency::CostDeferred) => age.min(NORMAL),
    }
}

/// What may leave of the places behind `after` on a metered network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum May {
    /// All that was read.
    All,
    /// Not what comes first.
    Not(SeqRange),
    /// Only what comes before: its last place.
    Until(Seq),
}

/// Looks for blocks of cost-deferred events; those that were read carry their latency.
pub(super) fn may(fetched: &Fetched, after: Seq, last: Seq) -> May {
    let deferred = |a: &&Ahead| a.latency == Some(Latency::CostDeferred);
    let mut blocks =
        fetched.blocks.iter().filter(|a| a.block.range.last() > after && a.block.range.first() <= last);
    let Some(first) = blocks.clone().next() else { return May::All };
    if deferred(&first) {
        let end = blocks.take_while(deferred).map(|a| a.block.range.last()).last();
        return SeqRange::new(after.next(), end.unwrap_or(after).min(last)).map_or(May::All, May::Not);
    }
    match blocks.find(deferred) {
        Some(a) => May::Until(Seq(a.block.range.first().0.saturating_sub(1))),
        None => May::All,
    }
}
