//! Which runs of the ring a sink has taken up: settled, or planned and under way. Pure.

use tidegate_proto::ids::{Seq, SeqRange};
use tidegate_ring::Cursor;

use crate::config::Order;

/// Sorted runs that do not touch each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    runs: Vec<(u64, u64)>,
    interleave: bool,
}

impl Claims {
    /// What a cursor says is taken.
    #[must_use]
    pub fn of(cursor: &Cursor) -> Claims {
        let mut claims = Claims::default();
        if cursor.settled > Seq::ZERO {
            claims.runs.push((1, cursor.settled.0));
        }
        for range in cursor.ahead.iter().chain(&cursor.planned) {
            claims.add(*range);
        }
        claims
    }

    /// Takes a run.
    pub fn add(&mut self, range: SeqRange) {
        let (mut first, mut last) = (range.first().0, range.last().0);
        // all that touch it become one
        let from = self.runs.partition_point(|r| r.1.saturating_add(1) < first);
        let to = self.runs.partition_point(|r| r.0 <= last.saturating_add(1));
        if let (Some(a), Some(b)) = (self.runs.get(from), to.checked_sub(1).and_then(|n| self.runs.get(n)))
            && from < to
        {
            first = first.min(a.0);
            last = last.max(b.1);
        }
        self.runs.splice(from..to.max(from), [(first, last)]);
    }

    /// Gives a run back.
    pub fn release(&mut self, range: SeqRange) {
        let (first, last) = (range.first().0, range.last().0);
        let mut left = Vec::with_capacity(self.runs.len() + 1);
        for (a, b) in self.runs.drain(..) {
            if b < first || a > last {
                left.push((a, b));
                continue;
            }
            if a < first {
                left.push((a, first - 1));
            }
            if b > last {
                left.push((last + 1, b));
            }
        }
        self.runs = left;
    }

    /// The runs up to `durable` that nobody has taken.
    fn free(&self, durable: Seq) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        let mut next = 1;
        for (first, last) in &self.runs {
            if next < *first && next <= durable.0 {
                out.push((next, (first - 1).min(durable.0)));
            }
            next = last.saturating_add(1);
        }
        if next <= durable.0 {
            out.push((next, durable.0));
        }
        out
    }

    /// Where to look for the next batch: a run of free places. `batch` is the number of events
    /// that make a full one. Where nothing waits behind, the run ends at `durable`.
    pub fn next(&mut self, durable: Seq, order: Order, batch: u64) -> Option<SeqRange> {
        let free = self.free(durable);
        let oldest = free.first().copied()?;
        let newest = free.last().copied()?;
        let newest_first = match order {
            Order::OldestFirst => false,
            Order::NewestFirst => true,
            Order::Interleaved => {
                self.interleave = !self.interleave;
                !self.interleave
            }
        };
        let (first, last) = if newest_first {
            (newest.0.max((newest.1 + 1).saturating_sub(batch.max(1))), newest.1)
        } else {
            oldest
        };
        SeqRange::new(Seq(first), Seq(last))
    }

    /// Whether all places up to `durable` are taken.
    #[must_use]
    pub fn cover(&self, durable: Seq) -> bool {
        self.free(durable).is_empty()
    }

    /// How many places up to `durable` are not taken.
    #[must_use]
    pub fn left(&self, durable: Seq) -> u64 {
        self.free(durable).iter().map(|(a, b)| b - a + 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(a: u64, b: u64) -> SeqRange {
        SeqRange::new(Seq(a), Seq(b)).unwrap()
    }

    #[test]
    fn what_is_given_back_is_free_again() {
        let mut claims = Claims::default();
        claims.add(range(1, 20));
        claims.release(range(5, 8));
        assert_eq!(claims.free(Seq(20)), [(5, 8)]);
        claims.release(range(18, 30));
        claims.release(range(7, 7));
        assert_eq!(claims.free(Seq(20)), [(5, 8), (18, 20)]);
        claims.add(range(5, 8));
        assert_eq!(claims.free(Seq(20)), [(18, 20)]);
    }

    #[test]
    fn after_a_restart_only_what_nobody_has_taken_is_free() {
        let cursor = Cursor { settled: Seq(4), ahead: vec![range(8, 9)], planned: vec![range(5, 6)] };
        let claims = Claims::of(&cursor);
        assert_eq!(claims.free(Seq(12)), [(7, 7), (10, 12)]);
        assert!(!claims.cover(Seq(9)) && claims.cover(Seq(6)));
        assert_eq!(claims.left(Seq(12)), 4);
    }

    #[test]
    fn orders_begin_at_their_ends() {
        let mut claims = Claims::of(&Cursor { settled: Seq(10), ..Cursor::default() });
        assert_eq!(claims.next(Seq(100), Order::OldestFirst, 20), Some(range(11, 100)));
        assert_eq!(claims.next(Seq(100), Order::NewestFirst, 20), Some(range(81, 100)));
        assert_eq!(claims.next(Seq(100), Order::Interleaved, 20), Some(range(11, 100)));
        assert_eq!(claims.next(Seq(100), Order::Interleaved, 20), Some(range(81, 100)));
        assert_eq!(claims.next(Seq(10), Order::NewestFirst, 20), None);
    }

    proptest! {
        #[test]
        fn claims_agree_with_a_set_of_places(runs in prop::collection::vec((1u64..60, 0u64..12), 0..12)) {
            let mut claims = Claims::default();
            let mut set = std::collections::BTreeSet::new();
            for (first, more) in runs {
                claims.add(range(first, first + more));
                set.extend(first..=first + more);
            }
            for durable in [0, 1, 30, 80] {
                let free: Vec<u64> = claims.free(Seq(durable)).iter().flat_map(|(a, b)| *a..=*b).collect();
                let want: Vec<u64> = (1..=durable).filter(|n| !set.contains(n)).collect();
                prop_assert_eq!(free, want);
            }
            prop_assert!(claims.runs.windows(2).all(|w| w[0].1 + 1 < w[1].0), "{:?}", claims);
        }

        #[test]
        fn every_order_takes_every_place_once(order in 0u8..3, durable in 1u64..200, batch in 1u64..30) {
            let order = [Order::OldestFirst, Order::NewestFirst, Order::Interleaved][usize::from(order)];
            let mut claims = Claims::default();
            let mut seen = 0;
            while let Some(free) = claims.next(Seq(durable), order, batch) {
                let last = free.last().0.min(free.first().0 + batch - 1);
                claims.add(range(free.first().0, last));
                seen += last - free.first().0 + 1;
            }
            prop_assert_eq!(seen, durable);
        }
    }
}
