use std::collections::BTreeMap;

use tidegate_proto::level::LossReason;

use super::block::Block;
use crate::Hole;
use crate::runs::{Run, common, range};

/// A run that lost events for one reason. Runs of different reasons may overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    pub run: Run,
    pub events: u64,
    pub reason: LossReason,
}

/// What is missing behind the trimmed place, ordered by first place. Neighbours of one reason
/// with no block between them are one entry, so there are never many more entries than blocks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holes(Vec<Gone>);

impl Holes {
    pub fn iter(&self) -> impl Iterator<Item = &Gone> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn from_sorted(mut all: Vec<Gone>) -> Holes {
        all.sort_by_key(|g| g.run);
        Holes(all)
    }

    pub fn add(&mut self, gone: Gone, blocks: &BTreeMap<u64, Block>) {
        const NEAR: usize = 8;
        let mut gone = gone;
        let mut at = self.0.partition_point(|g| g.run < gone.run);
        let before = (at.saturating_sub(NEAR)..at)
            .rev()
            .find(|n| self.0.get(*n).is_some_and(|g| joins(g, &gone, blocks)));
        if let Some(n) = before {
            gone = join(self.0.remove(n), gone);
            at = self.0.partition_point(|g| g.run < gone.run);
        }
        let behind = (at..at + NEAR).find(|n| self.0.get(*n).is_some_and(|g| joins(&gone, g, blocks)));
        if let Some(n) = behind {
            gone = join(gone, self.0.remove(n));
        }
        self.0.insert(at.min(self.0.len()), gone);
    }

    /// Forgets what ends at or before a place; whether anything was forgotten.
    pub fn trim(&mut self, trimmed: u64) -> bool {
        let before = self.0.len();
        self.0.retain(|g| g.run.1 > trimmed);
        before != self.0.len()
    }

    /// What is missing in a run.
    pub fn within(&self, run: Run) -> Vec<Hole> {
        let mut out = Vec::new();
        for g in self.0.iter().take_while(|g| g.run.0 <= run.1) {
            let Some(part) = common(g.run, run) else { continue };
            if let Some(range) = range(part) {
                out.push(Hole { range, events: g.events.min(range.len()), reason: g.reason });
            }
        }
        out.sort_by_key(|h| h.range.first());
        out
    }
}

fn joins(a: &Gone, b: &Gone, blocks: &BTreeMap<u64, Block>) -> bool {
    let (a, b) = if a.run <= b.run { (a, b) } else { (b, a) };
    if a.reason != b.reason {
        return false;
    }
    if b.run.0 <= a.run.1.saturating_add(1) {
        return true;
    }
    let between = blocks.range(..b.run.0).next_back();
    between.is_none_or(|(_, block)| block.last <= a.run.1)
}

fn join(a: Gone, b: Gone) -> Gone {
    Gone { run: (a.run.0.min(b.run.0), a.run.1.max(b.run.1)), events: a.events + b.events, reason: a.reason }
}
