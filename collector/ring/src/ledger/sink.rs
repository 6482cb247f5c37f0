use std::collections::BTreeMap;

use tidegate_proto::level::LossReason;

use crate::runs::{Run, range};
use crate::{Cursor, PerLevel};

/// A run that is being delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub last: u64,
    /// Events of it that went from the ring since it was planned, already counted as lost:
    /// the settlement may take them back.
    pub lost: BTreeMap<LossReason, PerLevel>,
}

/// One sink's side of the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SinkState {
    pub settled: u64,
    pub ahead: Vec<Run>,
    /// By first place.
    pub plans: BTreeMap<u64, Plan>,
    /// Events stored before those that this sink gets.
    pub base: PerLevel,
    pub delivered: PerLevel,
    pub rejected: PerLevel,
    pub lost: BTreeMap<LossReason, PerLevel>,
}

impl SinkState {
    pub fn cursor(&self) -> Cursor {
        Cursor {
            settled: tidegate_proto::ids::Seq(self.settled),
            ahead: self.ahead.iter().copied().filter_map(range).collect(),
            planned: self.plan_runs().filter_map(range).collect(),
        }
    }

    pub fn plan_runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.plans.iter().map(|(first, p)| (*first, p.last))
    }

    /// Settled, lost and so on, without what is held.
    pub fn accounted(&self) -> PerLevel {
        let mut sum = self.delivered;
        add(&mut sum, &self.rejected);
        for levels in self.lost.values() {
            add(&mut sum, levels);
        }
        sum
    }
}

pub(crate) fn add(to: &mut PerLevel, what: &PerLevel) {
    for (a, b) in to.iter_mut().zip(what) {
        *a = a.saturating_add(*b);
    }
}

pub(crate) fn sub(from: &PerLevel, what: &PerLevel) -> PerLevel {
    let mut out = *from;
    for (a, b) in out.iter_mut().zip(what) {
        *a = a.saturating_sub(*b);
    }
    out
}
