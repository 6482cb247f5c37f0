//! What the ring knows: which blocks it holds, each sink's place, the account. Pure: no file is
//! touched here. A ring keeps one ledger under a lock and stores what [`Ledger::dirty`] names.
//!
//! Per-level counts of a part of a block need the level of each event in it. Where that is not
//! known, a method stops with [`Stop::Levels`] before it has changed anything; the ring reads
//! the block, calls [`Ledger::know_levels`], and tries again.

mod block;
mod chain;
mod holes;
mod loss;
mod sink;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use tidegate_proto::ids::{Seq, SinkId};
use tidegate_proto::level::DropReason;

pub(crate) use block::{Block, Place};
pub(crate) use chain::ChainState;
pub use chain::chain_link;
pub(crate) use holes::{Gone, Holes};
pub(crate) use loss::Lost;
pub(crate) use sink::{Plan, SinkState, add, sub};

use crate::runs::{self, Run};
use crate::{
    Account, Chain, ChainEntry, Cursor, Hole, Intake, Lanes, Part, PerLevel, ReadLimit, RingError,
    Settlement, SinkAccount, StartAt,
};

/// Sinks that may be attached at a time.
pub(crate) const MAX_SINKS: usize = 64;
/// Runs of one sink that may be planned, or settled out of order, at a time.
pub(crate) const MAX_RUNS: usize = 4096;
/// Longest value of [`Ring::put`](crate::Ring::put) and longest entry of a chain.
pub(crate) const MAX_VALUE: usize = 64 << 10;
/// All values of [`Ring::put`](crate::Ring::put) together.
pub(crate) const MAX_VALUES: usize = 1 << 20;
/// Level maps that are kept between calls, in bytes.
const MAX_LEVEL_MAPS: usize = 1 << 20;

/// Why a method did not do it.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The levels of the events of the block at this place must be known.
    Levels(u64),
    /// It is refused.
    Refused(RingError),
}

impl From<RingError> for Stop {
    fn from(e: RingError) -> Stop {
        Stop::Refused(e)
    }
}

fn misuse<T>(text: String) -> Result<T, Stop> {
    Err(Stop::Refused(RingError::Misuse(text)))
}

/// What has to be stored again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// Totals, durable place, anchors of the chains, positions of sources.
    Meta,
    /// One sink.
    Sink(SinkId),
    /// What is missing.
    Holes,
    /// What a segment file holds.
    Segment(u64),
    /// An entry of a chain.
    Chain(Chain, u64),
    /// A small value.
    Value(String),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub epoch: u64,
    pub durable: u64,
    pub trimmed: u64,
    pub purges: u64,
    /// Calls of `lose` that took something; not stored.
    pub losses: u64,
    pub blocks: BTreeMap<u64, Block>,
    pub holes: Holes,
    pub sinks: BTreeMap<SinkId, SinkState>,
    pub stored: PerLevel,
    pub read: u64,
    pub dropped: BTreeMap<DropReason, u64>,
    pub positions: BTreeMap<String, Vec<u8>>,
    pub values: BTreeMap<String, Vec<u8>>,
    pub chains: [ChainState; 2],
    pub dirty: BTreeSet<Key>,
    /// Blocks that left the ledger and whose bytes can go.
    pub removed: Vec<Block>,
    level_maps: HashMap<u64, Box<[u8]>>,
    level_bytes: usize,
}

impl Ledger {
    /// The state of a chain.
    pub fn chain(&self, chain: Chain) -> &ChainState {
        let [receipts, audit] = &self.chains;
        match chain {
            Chain::Receipts => receipts,
            Chain::Audit => audit,
        }
    }

    fn chain_mut(&mut self, chain: Chain) -> &mut ChainState {
        let [receipts, audit] = &mut self.chains;
        match chain {
            Chain::Receipts => receipts,
            Chain::Audit => audit,
        }
    }

    fn sink(&self, id: &SinkId) -> Result<&SinkState, Stop> {
        self.sinks.get(id).ok_or_else(|| RingError::UnknownSink(id.clone()).into())
    }

    /// Tells the level of each event of a block.
    pub fn know_levels(&mut self, first: u64, levels: Box<[u8]>) {
        self.level_bytes += levels.len();
        if let Some(old) = self.level_maps.insert(first, levels) {
            self.level_bytes -= old.len();
        }
    }

    /// Forgets level maps when they take much. Not to be called between a stop and the retry.
    pub fn forget_levels(&mut self) {
        if self.level_bytes > MAX_LEVEL_MAPS {
            self.level_maps = HashMap::new();
            self.level_bytes = 0;
        }
    }

    fn forget_level_map(&mut self, first: u64) {
        if let Some(old) = self.level_maps.remove(&first) {
            self.level_bytes -= old.len();
        }
    }

    /// Adds a group that is on stable storage; its blocks have their places.
    pub fn publish(&mut self, blocks: Vec<Block>, intake: &Intake) {
        for block in blocks {
            add(&mut self.stored, &block.per_level());
            self.durable = self.durable.max(block.last);
            self.blocks.insert(block.first, block);
        }
        self.read = self.read.saturating_add(intake.read);
        for (reason, n) in &intake.dropped {
            let sum = self.dropped.entry(*reason).or_default();
            *sum = sum.saturating_add(*n);
        }
        for (source, position) in &intake.positions {
            self.positions.insert(source.clone(), position.clone());
        }
        self.dirty.insert(Key::Meta);
    }

    /// Events of a block in a run, per level.
    fn count(&self, block: &Block, run: Run) -> Result<PerLevel, Stop> {
        if run.0 <= block.first && block.last <= run.1 {
            return Ok(block.per_level());
        }
        let mut out = [0; 4];
        if let Some(level) = block.one_level() {
            if let Some(n) = out.get_mut(level) {
                *n = block.count(run);
            }
            return Ok(out);
        }
        let map = self.level_maps.get(&block.first).ok_or(Stop::Levels(block.first))?;
        for (place, level) in block.places().zip(map) {
            if let (true, Some(n)) = (run.0 <= place && place <= run.1, out.get_mut(usize::from(*level))) {
                *n += 1;
            }
        }
        Ok(out)
    }

    /// The blocks that share a place with a run.
    pub fn blocks_in(&self, run: Run) -> impl Iterator<Item = &Block> {
        let from = self.blocks.range(..=run.0).next_back().map_or(run.0, |(first, _)| *first);
        self.blocks.range(from..=run.1.max(from)).map(|(_, b)| b).filter(move |b| b.last >= run.0)
    }

    /// Events held in a run, per level.
    fn present(&self, run: Run, lanes: Lanes) -> Result<PerLevel, Stop> {
        let mut out = [0; 4];
        for block in self.blocks_in(run).filter(|b| lanes.has(b.lane)) {
            add(&mut out, &self.count(block, run)?);
        }
        Ok(out)
    }

    /// Events that wait for a sink, counted from the blocks.
    fn held(&self, sink: &SinkState) -> Result<PerLevel, Stop> {
        let mut out = [0; 4];
        let from = sink.settled.saturating_add(1);
        if from > self.durable {
            return Ok(out);
        }
        let mut settled: [Option<Cow<'_, [Run]>>; Lanes::COUNT as usize] = Default::default();
        for block in self.blocks_in((from, self.durable)) {
            let Some(of) = settled.get_mut(usize::from(block.lane)) else { continue };
            let of = &**of.get_or_insert_with(|| sink.settled_in(Lanes::of(block.lane)));
            if sink.settled < block.first && !runs::overlaps(of, block.run()) {
                add(&mut out, &block.per_level());
                continue;
            }
            for run in runs::rest(block.run(), sink.settled, of) {
                add(&mut out, &self.count(block, run)?);
            }
        }
        Ok(out)
    }

    /// See [`Ring::attach`](crate::Ring::attach).
    pub fn attach(&mut self, id: &SinkId, start: StartAt) -> Result<Cursor, Stop> {
        if let Some(sink) = self.sinks.get(id) {
            return Ok(sink.cursor());
        }
        if self.sinks.len() >= MAX_SINKS || id.as_str().is_empty() || id.as_str().len() > 255 {
            return misuse(format!("no more than {MAX_SINKS} sinks, with names of 1 to 255 bytes"));
        }
        let settled = match start {
            StartAt::Oldest => self.trimmed,
            StartAt::Now => self.durable,
        };
        let mut sink = SinkState { settled, ..SinkState::default() };
        sink.base = sub(&self.stored, &self.held(&sink)?);
        let cursor = sink.cursor();
        self.sinks.insert(id.clone(), sink);
        self.dirty.insert(Key::Sink(id.clone()));
        self.trim();
        Ok(cursor)
    }

    /// See [`Ring::detach`](crate::Ring::detach).
    pub fn detach(&mut self, id: &SinkId) {
        if self.sinks.remove(id).is_some() {
            self.dirty.insert(Key::Sink(id.clone()));
            self.trim();
        }
    }

    /// See [`Ring::plan`](crate::Ring::plan).
    pub fn plan(&mut self, id: &SinkId, part: Part) -> Result<(), Stop> {
        let (run, lanes) = (runs::run(part.range), part.lanes);
        let sink = self.sink(id)?;
        if sink.plans.get(&(run.0, lanes)).is_some_and(|p| p.last == run.1) {
            return Ok(());
        }
        if run.1 > self.durable || lanes == Lanes::NONE {
            return misuse(format!("{part} ends behind the durable place {}", self.durable));
        }
        let passed = |(r, of): (Run, Lanes)| of.overlaps(lanes) && runs::common(r, run).is_some();
        // the cursor may have moved over blocks of the other lanes only
        let begins = (run.0, run.1.min(sink.settled));
        let begun = begins.0 <= begins.1
            && (lanes == Lanes::ALL
                || run.1 <= sink.settled
                || self.blocks_in(begins).any(|b| lanes.has(b.lane)));
        if begun || runs::overlaps(&sink.ahead, run) || sink.passed_runs().any(passed) {
            return misuse(format!("{part} is settled in part"));
        }
        if sink.plan_runs().any(passed) {
            return misuse(format!("{part} overlaps a run planned with other bounds"));
        }
        if sink.plans.len() >= MAX_RUNS || sink.runs() >= MAX_RUNS {
            return misuse(format!("more than {MAX_RUNS} runs in flight"));
        }
        if let Some(sink) = self.sinks.get_mut(id) {
            sink.plans.insert((run.0, lanes), Plan { last: run.1, lost: BTreeMap::new() });
        }
        self.dirty.insert(Key::Sink(id.clone()));
        Ok(())
    }

    /// See [`Ring::split`](crate::Ring::split).
    pub fn split(&mut self, id: &SinkId, part: Part, at: Seq) -> Result<(), Stop> {
        self.sink(id)?;
        let ((first, last), lanes) = (runs::run(part.range), part.lanes);
        let Some(sink) = self.sinks.get_mut(id) else { return Ok(()) };
        let halves = |p: &Plan| {
            p.last == at.0 && sink.plans.get(&(at.next().0, lanes)).is_some_and(|n| n.last == last)
        };
        match sink.plans.get(&(first, lanes)) {
            Some(plan) if halves(plan) => return Ok(()),
            Some(plan) if plan.last == last => {
                if at.0 < first || at.0 >= last {
                    return misuse(format!("{at} is not inside of {part}"));
                }
                // which half the lost ones were in is not known any more: either may take them back,
                // and settling checks that no more is taken back than was lost
                let lost = plan.lost.clone();
                sink.plans.insert((first, lanes), Plan { last: at.0, lost: lost.clone() });
                sink.plans.insert((at.next().0, lanes), Plan { last, lost });
            }
            _ => return misuse(format!("{part} is not planned")),
        }
        self.dirty.insert(Key::Sink(id.clone()));
        Ok(())
    }

    /// See [`Ring::divide`](crate::Ring::divide).
    pub fn divide(&mut self, id: &SinkId, part: Part, lanes: Lanes) -> Result<(), Stop> {
        self.sink(id)?;
        let (first, last) = runs::run(part.range);
        let rest = part.lanes.without(lanes);
        let these = part.lanes.without(rest);
        if these == Lanes::NONE || rest == Lanes::NONE {
            return misuse(format!("{part} cannot be divided by these lanes"));
        }
        let Some(sink) = self.sinks.get_mut(id) else { return Ok(()) };
        let is = |lanes| sink.plans.get(&(first, lanes)).is_some_and(|p| p.last == last);
        if is(these) && is(rest) {
            return Ok(());
        }
        if !is(part.lanes) {
            return misuse(format!("{part} is not planned"));
        }
        // as for a split: either may take the lost ones back
        if let Some(plan) = sink.plans.remove(&(first, part.lanes)) {
            sink.plans.insert((first, these), plan.clone());
            sink.plans.insert((first, rest), plan);
        }
        self.dirty.insert(Key::Sink(id.clone()));
        Ok(())
    }

    /// See [`Ring::settle`](crate::Ring::settle).
    pub fn settle(&mut self, id: &SinkId, part: Part, outcome: &Settlement) -> Result<Cursor, Stop> {
        let (run, lanes) = (runs::run(part.range), part.lanes);
        let sink = self.sink(id)?;
        let Some(plan) = sink.plans.get(&(run.0, lanes)).filter(|p| p.last == run.1) else {
            if sink.has_settled(run, lanes) {
                return Ok(sink.cursor());
            }
            return misuse(format!("{part} is not planned"));
        };
        if outcome.receipt.len() > MAX_VALUE {
            return misuse(format!("a receipt of {} bytes, {MAX_VALUE} are allowed", outcome.receipt.len()));
        }
        let present = self.present(run, lanes)?;
        let mut sum = outcome.delivered;
        add(&mut sum, &outcome.rejected);
        outcome.lost.values().for_each(|l| add(&mut sum, l));
        let mut back = [0; 4];
        for n in 0..4 {
            let (sum, present) = (level(&sum, n), level(&present, n));
            let flown: u64 = plan.lost.iter().map(|(r, l)| level(l, n).min(lost_of(sink, *r, n))).sum();
            match sum.checked_sub(present) {
                Some(more) if more <= flown => set(&mut back, n, more),
                _ => {
                    return misuse(format!(
                        "{part} settled with {sum} events of level {n}, it has {present}{}",
                        if flown > 0 { format!(" and lost {flown} in flight") } else { String::new() },
                    ));
                }
            }
        }
        let taken = plan.lost.clone();
        let Some(sink) = self.sinks.get_mut(id) else { return misuse("no sink".to_owned()) };
        sink.plans.remove(&(run.0, lanes));
        for (reason, levels) in taken {
            let Some(lost) = sink.lost.get_mut(&reason) else { continue };
            for n in 0..4 {
                let take = level(&back, n).min(level(&levels, n)).min(level(lost, n));
                let owed = level(&back, n) - take;
                set(&mut back, n, owed);
                let left = level(lost, n) - take;
                set(lost, n, left);
            }
        }
        add(&mut sink.delivered, &outcome.delivered);
        add(&mut sink.rejected, &outcome.rejected);
        for (reason, levels) in &outcome.lost {
            if *levels != [0; 4] {
                add(sink.lost.entry(*reason).or_default(), levels);
            }
        }
        sink.lost.retain(|_, l| *l != [0; 4]);
        sink.settle(run, lanes);
        self.advance(id);
        self.dirty.insert(Key::Sink(id.clone()));
        if !outcome.receipt.is_empty() {
            self.chain_append(Chain::Receipts, &outcome.receipt)?;
        }
        self.trim();
        Ok(self.sink(id)?.cursor())
    }

    /// Moves a cursor over what is settled behind it, and over holes in between: who settled
    /// behind a hole has seen it.
    fn advance(&mut self, id: &SinkId) {
        let Some(sink) = self.sinks.get(id) else { return };
        // as far as anything is settled, and not into what is planned
        let mut to = sink.passed_runs().map(|(r, _)| r).chain(sink.ahead.iter().copied()).map(|r| r.1).max();
        let planned = sink.plans.keys().map(|(first, _)| first.saturating_sub(1)).min();
        to = to.map(|to| to.min(planned.unwrap_or(u64::MAX)));
        let Some(mut to) = to.filter(|to| *to > sink.settled) else { return };
        let mut settled: [Option<Cow<'_, [Run]>>; Lanes::COUNT as usize] = Default::default();
        for block in self.blocks_in((sink.settled + 1, to)) {
            let Some(of) = settled.get_mut(usize::from(block.lane)) else { break };
            let of = of.get_or_insert_with(|| sink.settled_in(Lanes::of(block.lane)));
            let open = runs::rest(block.run(), sink.settled, of);
            if let Some(first) = open.iter().find(|r| block.count(**r) > 0) {
                to = to.min(first.0 - 1);
                break;
            }
        }
        if let Some(sink) = self.sinks.get_mut(id).filter(|s| s.settled < to) {
            sink.move_to(to);
        }
    }

    /// Forgets what every sink has settled.
    pub fn trim(&mut self) {
        let least = self.sinks.values().map(|s| s.settled).min().unwrap_or(self.trimmed);
        self.trim_to(least);
    }

    fn trim_to(&mut self, least: u64) {
        if least > self.trimmed {
            self.trimmed = least;
            self.dirty.insert(Key::Meta);
        }
        while let Some(entry) = self.blocks.first_entry() {
            if entry.get().last > self.trimmed {
                break;
            }
            let (first, block) = entry.remove_entry();
            self.removed.push(block);
            self.forget_level_map(first);
        }
        if self.holes.trim(self.trimmed) {
            self.dirty.insert(Key::Holes);
        }
    }

    /// The blocks and holes that follow a place.
    pub fn read(&self, after: Seq, limit: ReadLimit) -> (Vec<Block>, Vec<Hole>, Seq) {
        let after = after.0.max(self.trimmed);
        if after >= self.durable {
            return (Vec::new(), Vec::new(), Seq(after));
        }
        let (mut bytes, mut events) = (0u64, 0u64);
        let mut blocks = Vec::new();
        let mut end = self.durable;
        for block in self.blocks_in((after + 1, self.durable)) {
            bytes = bytes.saturating_add(u64::from(block.raw_len));
            events = events.saturating_add(block.events());
            if !blocks.is_empty() && (bytes > limit.bytes || events > limit.events) {
                end = block.first - 1;
                break;
            }
            blocks.push(block.clone());
        }
        (blocks, self.holes.within((after + 1, end)), Seq(end))
    }

    /// See [`Ring::holes`](crate::Ring::holes).
    pub fn holes_behind(&self, after: Seq) -> Vec<Hole> {
        let after = after.0.max(self.trimmed);
        if after >= self.durable { Vec::new() } else { self.holes.within((after + 1, self.durable)) }
    }

    /// Appends to a chain.
    pub fn chain_append(&mut self, chain: Chain, data: &[u8]) -> Result<ChainEntry, Stop> {
        if data.len() > MAX_VALUE {
            return misuse(format!("an entry of {} bytes, {MAX_VALUE} are allowed", data.len()));
        }
        let (entry, dropped) = self.chain_mut(chain).append(data);
        self.dirty.extend(dropped.into_iter().map(|n| Key::Chain(chain, n)));
        self.dirty.insert(Key::Chain(chain, entry.number));
        self.dirty.insert(Key::Meta);
        Ok(entry)
    }

    /// See [`Ring::put`](crate::Ring::put).
    pub fn put(&mut self, key: &str, value: Option<&[u8]>) -> Result<(), Stop> {
        if key.len() > 255 || value.is_some_and(|v| v.len() > MAX_VALUE) {
            return misuse(format!("a key of up to 255 bytes and a value of up to {MAX_VALUE} bytes"));
        }
        let others: usize =
            self.values.iter().filter(|(k, _)| *k != key).map(|(k, v)| k.len() + v.len()).sum();
        match value {
            Some(v) if others + key.len() + v.len() > MAX_VALUES => {
                return misuse(format!("the ring keeps {MAX_VALUES} bytes of values in all"));
            }
            Some(v) => self.values.insert(key.to_owned(), v.to_owned()),
            None => self.values.remove(key),
        };
        self.dirty.insert(Key::Value(key.to_owned()));
        Ok(())
    }

    /// The account at this moment.
    pub fn account(&self) -> Result<Account, Stop> {
        let mut sinks = BTreeMap::new();
        for (id, sink) in &self.sinks {
            let account = SinkAccount {
                stored: sub(&self.stored, &sink.base),
                delivered: sink.delivered,
                rejected: sink.rejected,
                lost: sink.lost.clone(),
                lost_in_flight: sink.lost_in_flight(),
                held: self.held(sink)?,
            };
            sinks.insert(id.clone(), account);
        }
        Ok(Account { read: self.read, dropped: self.dropped.clone(), stored: self.stored, sinks })
    }

    /// Cursors by sink.
    pub fn cursors(&self) -> BTreeMap<SinkId, Cursor> {
        self.sinks.iter().map(|(id, s)| (id.clone(), s.cursor())).collect()
    }
}

fn level(levels: &PerLevel, n: usize) -> u64 {
    levels.get(n).copied().unwrap_or(0)
}

fn set(levels: &mut PerLevel, n: usize, value: u64) {
    if let Some(l) = levels.get_mut(n) {
        *l = value;
    }
}

fn lost_of(sink: &SinkState, reason: tidegate_proto::level::LossReason, n: usize) -> u64 {
    sink.lost.get(&reason).map_or(0, |l| level(l, n))
}
