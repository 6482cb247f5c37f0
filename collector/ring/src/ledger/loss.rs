use std::collections::BTreeMap;

use tidegate_proto::ids::SinkId;
use tidegate_proto::level::LossReason;

use super::{Block, Gone, Key, Ledger, SinkState, Stop, add, level, set, sub};
use crate::{Lanes, PerLevel, runs};

/// Which events of a block go.
#[derive(Debug)]
pub(crate) enum Lost<'a> {
    /// All.
    All,
    /// Those at these places (ascending), with their levels; the rest becomes this block.
    Some(&'a [(u64, u8)], Block),
}

/// What one sink loses, and how much of it is in flight, by plan.
type SinkLoss = (PerLevel, Vec<((u64, Lanes), PerLevel)>);

impl Ledger {
    /// Takes events out of the ledger and counts them as lost for each sink that had not settled
    /// them. Returns how many went, per level.
    pub fn lose(&mut self, first: u64, lost: &Lost<'_>, reason: LossReason) -> Result<PerLevel, Stop> {
        let Some(block) = self.blocks.get(&first) else { return Ok([0; 4]) };
        let mut losses: Vec<(SinkId, SinkLoss)> = Vec::new();
        for (id, sink) in &self.sinks {
            losses.push((id.clone(), self.loss(sink, block, lost)?));
        }
        let block = block.clone();
        let (run, levels) = match lost {
            Lost::All => ((block.first, block.last), block.per_level()),
            Lost::Some(events, _) => {
                let (Some(a), Some(b)) = (events.first(), events.last()) else { return Ok([0; 4]) };
                ((a.0, b.0), per_level(events.iter().map(|e| e.1)))
            }
        };
        for (id, (all, flown)) in losses {
            let Some(sink) = self.sinks.get_mut(&id) else { continue };
            if all == [0; 4] {
                continue;
            }
            add(sink.lost.entry(reason).or_default(), &all);
            for (plan, levels) in flown {
                if let Some(plan) = sink.plans.get_mut(&plan) {
                    add(plan.lost.entry(reason).or_default(), &levels);
                }
            }
            self.dirty.insert(Key::Sink(id));
        }
        self.forget_level_map(first);
        self.blocks.remove(&first);
        match lost {
            Lost::Some(_, rest) if rest.events() > 0 => {
                self.blocks.insert(rest.first, rest.clone());
            }
            _ => self.removed.push(block),
        }
        self.losses += 1;
        self.holes.add(Gone { run, events: levels.iter().sum(), reason }, &self.blocks);
        self.dirty.insert(Key::Holes);
        if self.sinks.is_empty() {
            let front = self.blocks.first_key_value().map_or(self.durable, |(first, _)| first - 1);
            self.trim_to(front);
        } else {
            self.trim();
        }
        Ok(levels)
    }

    fn loss(&self, sink: &SinkState, block: &Block, lost: &Lost<'_>) -> Result<SinkLoss, Stop> {
        let mut all = [0; 4];
        let mut flown: BTreeMap<(u64, Lanes), PerLevel> = BTreeMap::new();
        for run in sink.open(block) {
            let count = |run: runs::Run| match lost {
                Lost::All => self.count(block, run),
                Lost::Some(events, _) => {
                    let within = events.iter().filter(|(p, _)| run.0 <= *p && *p <= run.1);
                    Ok(per_level(within.map(|e| e.1)))
                }
            };
            add(&mut all, &count(run)?);
            for (plan, lanes) in sink.plan_runs().filter(|(_, lanes)| lanes.has(block.lane)) {
                if let Some(part) = runs::common(plan, run) {
                    add(flown.entry((plan.0, lanes)).or_default(), &count(part)?);
                }
            }
        }
        Ok((all, flown.into_iter().collect()))
    }

    /// Makes each sink's sum close after damage: what is neither held nor accounted for counts
    /// as lost for `reason`. Returns the sinks that had to be mended.
    pub fn reconcile(&mut self, reason: LossReason) -> Result<Vec<(SinkId, PerLevel)>, Stop> {
        let mut missing = Vec::new();
        for (id, sink) in &self.sinks {
            missing.push((id.clone(), self.held(sink)?));
        }
        let mut mended = Vec::new();
        for (id, held) in missing {
            let Some(sink) = self.sinks.get_mut(&id) else { continue };
            let mut want = sink.accounted();
            add(&mut want, &held);
            let stored = sub(&self.stored, &sink.base);
            let short = sub(&stored, &want);
            let mut over = sub(&want, &stored);
            if short == [0; 4] && over == [0; 4] {
                continue;
            }
            if short != [0; 4] {
                add(sink.lost.entry(reason).or_default(), &short);
            }
            // more than was stored: the book is older than the segments or was not ours
            for lost in sink.lost.values_mut() {
                take(&mut over, lost);
            }
            take(&mut over, &mut sink.base);
            take(&mut over, &mut sink.rejected);
            take(&mut over, &mut sink.delivered);
            sink.lost.retain(|_, l| *l != [0; 4]);
            self.dirty.insert(Key::Sink(id.clone()));
            mended.push((id, short));
        }
        Ok(mended)
    }
}

fn take(over: &mut PerLevel, from: &mut PerLevel) {
    for n in 0..4 {
        let taken = level(over, n).min(level(from, n));
        let owed = level(over, n) - taken;
        set(over, n, owed);
        let left = level(from, n) - taken;
        set(from, n, left);
    }
}

fn per_level(levels: impl Iterator<Item = u8>) -> PerLevel {
    let mut out = [0; 4];
    for l in levels {
        if let Some(n) = out.get_mut(usize::from(l)) {
            *n += 1;
        }
    }
    out
}
