//! What a dispatcher does on a metered network: what it passes over, and when it takes that up again.

use tidegate_proto::ids::{Seq, SeqRange};
use tidegate_ring::{Lanes, Part};
use tokio::time::Instant;
use tracing::debug;

use super::{Dispatcher, soon};

impl Dispatcher {
    /// Whether the network is metered; looked at again after a while.
    pub(super) fn metered(&mut self) -> bool {
        let now = Instant::now();
        match self.looked {
            Some((at, metered)) if now.duration_since(at) < soon::LOOK => metered,
            _ => {
                let metered = self.options.metered.now();
                self.looked = Some((now, metered));
                metered
            }
        }
    }

    /// Passes a piece of a block over until the network is not metered.
    pub(super) fn hold(&mut self, range: SeqRange) {
        self.claims.add(range);
        match self.held.last_mut().filter(|h| h.last().next() == range.first()) {
            Some(last) => *last = SeqRange::new(last.first(), range.last()).unwrap_or(*last),
            None => self.held.push(range),
        }
        self.skip(range.last());
    }

    /// Passes blocks over that are all there is up to a place. The ring need not know.
    pub(super) fn pass_over(&mut self, range: SeqRange) {
        if !self.waits_for_network() {
            debug!(sink = %self.shared.id, "cost-deferred events wait for a network that is not metered");
        }
        let over = &self.ahead.1.over;
        self.deferred = self.deferred.and(over.lanes(range.last()));
        self.passed += over.events(range.last());
        self.claims.take(Part { range, lanes: Lanes::ALL.without(self.deferred) });
        self.skip(range.last());
    }

    /// Begins behind a place; the rest of what was read is still good.
    fn skip(&mut self, last: Seq) {
        let fetched = &mut self.ahead.1;
        fetched.blocks.retain(|a| a.block.range.last() > last);
        fetched.holes.retain(|h| h.range.last() > last);
        fetched.over.forget(last);
        fetched.end = fetched.end.max(last);
        self.ahead.0 = last;
    }

    pub(super) fn waits_for_network(&self) -> bool {
        !self.held.is_empty() || !self.parked.is_empty() || self.claims.has_passed()
    }

    /// Goes by whether the network is metered.
    pub(super) fn look_at_network(&mut self) {
        if self.urgency.is_none() {
            return;
        }
        let metered = self.metered();
        if metered != self.holding {
            self.holding = metered;
            self.forget();
        }
        if !metered {
            std::mem::take(&mut self.held).into_iter().for_each(|range| self.claims.release(range));
            self.jobs.extend(std::mem::take(&mut self.parked));
        }
    }
}
