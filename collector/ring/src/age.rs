//! How long events have been held, by a clock that may be set.
//!
//! Events are in the order of their places, and so were they stored; their times are what the clock
//! said. One that said too much once is found out when it has been set right: a block from the time
//! to come has the age of what was stored behind it, else it counts from when it was noticed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ledger::Block;

/// A clock that goes back by no more than this is being slowed down, not set.
const SLACK_NS: i64 = 5 * 60 * 1_000_000_000;

/// Gives the times of storing, and says what is too old.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ages {
    /// The time that was given last.
    last: i64,
    /// Since when blocks from the time to come stand in front.
    noticed: Option<i64>,
}

impl Ages {
    /// Goes on behind blocks that are there.
    pub fn behind(blocks: &BTreeMap<u64, Block>) -> Ages {
        Ages { last: blocks.values().next_back().map_or(0, |b| b.stored_ns), noticed: None }
    }

    /// The time of storing of what is stored now: it goes back only with a clock that was set back.
    pub fn stamp(&mut self, now: i64) -> i64 {
        let set_back = self.last.saturating_sub(now) > SLACK_NS;
        self.last = if set_back { now } else { self.last.max(now) };
        self.last
    }

    /// Since when the first block counts as stored.
    pub fn of_first(&mut self, blocks: &BTreeMap<u64, Block>, now: i64) -> Option<i64> {
        let is_past = |b: &Block| b.stored_ns.saturating_sub(now) <= SLACK_NS;
        let first = blocks.values().next()?;
        if is_past(first) {
            self.noticed = None;
            return Some(first.stored_ns);
        }
        let since = self.noticed.unwrap_or_else(|| {
            let behind = blocks.values().find(|b| is_past(b));
            behind.map_or(now, |b| b.stored_ns)
        });
        // the clock may have been set back again since
        let since = since.min(now);
        self.noticed = Some(since);
        Some(since)
    }

    /// The first block, when it was stored longer ago than `most`.
    pub fn too_old(
        &mut self,
        blocks: &BTreeMap<u64, Block>,
        now: i64,
        most: Option<Duration>,
    ) -> Option<u64> {
        let most = i64::try_from(most?.as_nanos()).unwrap_or(i64::MAX);
        let since = self.of_first(blocks, now)?;
        let first = *blocks.keys().next()?;
        (since < now.saturating_sub(most)).then_some(first)
    }
}
