use std::borrow::Cow;
use std::collections::BTreeMap;

use tidegate_proto::ids::Seq;
use tidegate_proto::level::LossReason;

use super::block::Block;
use crate::runs::{self, Run, range};
use crate::{Cursor, Lanes, Part, PerLevel};

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
    /// Settled out of order, in every lane.
    pub ahead: Vec<Run>,
    /// Settled in some lanes only. One run for each set of lanes, as a rule: what alternates in lanes
    /// costs nothing here.
    pub passed: BTreeMap<Lanes, Vec<Run>>,
    /// By first place and lanes.
    pub plans: BTreeMap<(u64, Lanes), Plan>,
    /// Events stored before those that this sink gets.
    pub base: PerLevel,
    pub delivered: PerLevel,
    pub rejected: PerLevel,
    pub lost: BTreeMap<LossReason, PerLevel>,
}

impl SinkState {
    pub fn cursor(&self) -> Cursor {
        let part = |(run, lanes)| range(run).map(|range| Part { range, lanes });
        Cursor {
            settled: Seq(self.settled),
            ahead: self.ahead.iter().copied().filter_map(range).collect(),
            passed: self.passed_runs().filter_map(part).collect(),
            planned: self.plan_runs().filter_map(part).collect(),
        }
    }

    pub fn plan_runs(&self) -> impl Iterator<Item = (Run, Lanes)> + '_ {
        self.plans.iter().map(|((first, lanes), p)| ((*first, p.last), *lanes))
    }

    pub fn passed_runs(&self) -> impl Iterator<Item = (Run, Lanes)> + '_ {
        self.passed.iter().flat_map(|(lanes, runs)| runs.iter().map(|r| (*r, *lanes)))
    }

    /// How many runs behind the settled place are kept.
    pub fn runs(&self) -> usize {
        self.ahead.len() + self.passed.values().map(Vec::len).sum::<usize>()
    }

    /// What is settled behind the settled place in all of these lanes.
    pub fn settled_in(&self, lanes: Lanes) -> Cow<'_, [Run]> {
        let mut all = Cow::Borrowed(self.ahead.as_slice());
        for (_, passed) in self.passed.iter().filter(|(of, _)| of.cover(lanes)) {
            for run in passed {
                runs::add(all.to_mut(), *run);
            }
        }
        all
    }

    /// What of a block is not settled.
    pub fn open(&self, block: &Block) -> Vec<Run> {
        runs::rest(block.run(), self.settled, &self.settled_in(Lanes::of(block.lane)))
    }

    /// Whether nothing of a part is left to be settled.
    pub fn has_settled(&self, run: Run, lanes: Lanes) -> bool {
        runs::rest(run, self.settled, &self.settled_in(lanes)).is_empty()
    }

    /// Takes note that a part is settled.
    pub fn settle(&mut self, run: Run, lanes: Lanes) {
        match lanes {
            Lanes::ALL => runs::add(&mut self.ahead, run),
            lanes => runs::add(self.passed.entry(lanes).or_default(), run),
        }
    }

    /// Moves the settled place.
    pub fn move_to(&mut self, settled: u64) {
        self.settled = settled;
        for runs in self.passed.values_mut().chain([&mut self.ahead]) {
            runs.retain(|r| r.1 > settled);
            if let Some(first) = runs.first_mut() {
                first.0 = first.0.max(settled + 1);
            }
        }
        self.passed.retain(|_, runs| !runs.is_empty());
    }

    /// Events of planned runs that went since, counted as lost.
    pub fn lost_in_flight(&self) -> BTreeMap<LossReason, PerLevel> {
        let mut sum = BTreeMap::<LossReason, PerLevel>::new();
        for (reason, levels) in self.plans.values().flat_map(|p| &p.lost) {
            add(sum.entry(*reason).or_default(), levels);
        }
        sum
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
