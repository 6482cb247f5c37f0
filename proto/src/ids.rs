//! Positions in the ring and names of sinks.

use std::fmt;
use std::sync::Arc;

/// Place of one event in the ring. The first is 1; [`Seq::ZERO`] means "before all".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first event.
    pub const ZERO: Seq = Seq(0);

    /// The place after this one; saturates at the end of the number range.
    #[must_use]
    pub fn next(self) -> Seq {
        Seq(self.0.saturating_add(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A run of events, both ends inclusive and `first <= last`: an empty range cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqRange {
    first: Seq,
    last: Seq,
}

impl SeqRange {
    /// `None` when `last` lies before `first` or `first` is [`Seq::ZERO`].
    #[must_use]
    pub fn new(first: Seq, last: Seq) -> Option<SeqRange> {
        (first <= last && first != Seq::ZERO).then_some(SeqRange { first, last })
    }

    /// The first event of the run.
    #[must_use]
    pub fn first(self) -> Seq {
        self.first
    }

    /// The last event of the run.
    #[must_use]
    pub fn last(self) -> Seq {
        self.last
    }

    /// Number of places in the run, at least 1.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(self) -> u64 {
        self.last.0 - self.first.0 + 1
    }

    /// Whether `seq` lies in the run.
    #[must_use]
    pub fn contains(self, seq: Seq) -> bool {
        self.first <= seq && seq <= self.last
    }
}

impl fmt::Display for SeqRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// The configured name of a sink.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SinkId(Arc<str>);

impl SinkId {
    /// Wraps a configured name.
    #[must_use]
    pub fn new(name: &str) -> SinkId {
        SinkId(Arc::from(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
