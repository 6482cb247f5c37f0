//! Which places of the ring a sink has taken up: settled, or planned and under way. Pure.

use tidegate_proto::ids::{Seq, SeqRange};
use tidegate_ring::{Cursor, Lanes, Part};

use crate::config::Order;

/// Sorted runs that do not touch each other, and runs of which only some lanes were taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    runs: Vec<(u64, u64)>,
    /// Sorted, sharing no place with `runs` nor with each other.
    passed: Vec<(u64, u64, Lanes)>,
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
        cursor.ahead.iter().for_each(|range| claims.add(*range));
        cursor.passed.iter().chain(&cursor.planned).for_each(|part| claims.take(*part));
        claims
    }

    /// Takes a run.
    pub fn add(&mut self, range: SeqRange) {
        let (mut first, mut last) = (range.first().0, range.last().0);
        self.cut_passed(first, last);
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

    /// Takes some lanes of a run; where the others were taken before, that is all of it.
    pub fn take(&mut self, part: Part) {
        if part.lanes == Lanes::ALL {
            return self.add(part.range);
        }
        let (first, last) = (part.range.first().0, part.range.last().0);
        let (mut new, mut whole) = (Vec::new(), Vec::new());
        for (a, b) in gaps(self.runs.iter().copied(), first, last) {
            let old = self.passed.iter().filter(|p| p.0 <= b && a <= p.1);
            for (c, d, lanes) in old.clone() {
                let both = (a.max(*c), b.min(*d));
                match lanes.and(part.lanes) {
                    Lanes::ALL => whole.extend(SeqRange::new(Seq(both.0), Seq(both.1))),
                    lanes => new.push((both.0, both.1, lanes)),
                }
            }
            new.extend(gaps(old.map(|p| (p.0, p.1)), a, b).into_iter().map(|(a, b)| (a, b, part.lanes)));
        }
        self.cut_passed(first, last);
        self.passed.append(&mut new);
        self.passed.sort_unstable();
        self.passed.dedup_by(|next, run| {
            let joins = run.2 == next.2 && run.1.saturating_add(1) == next.0;
            if joins {
                run.1 = next.1;
            }
            joins
        });
        whole.into_iter().for_each(|range| self.add(range));
    }

    fn cut_passed(&mut self, first: u64, last: u64) {
        if self.passed.iter().any(|p| p.0 <= last && first <= p.1) {
            let cut = self.passed.iter().flat_map(|(a, b, lanes)| {
                let left = (*a < first).then_some((*a, *b.min(&(first.saturating_sub(1))), *lanes));
                let right = (*b > last).then_some((*a.max(&last.saturating_add(1)), *b, *lanes));
                left.into_iter().chain(right)
            });
            self.passed = cut.collect();
        }
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
        self.cut_passed(first, last);
    }

    /// The runs up to `durable` that nobody has taken; with `passed` also those of which some lanes were taken.
    fn free(&self, durable: Seq, passed: bool) -> Vec<(u64, u64)> {
        if passed || self.passed.is_empty() {
            return gaps(self.runs.iter().copied(), 1, durable.0);
        }
        let mut taken = self.runs.clone();
        taken.extend(self.passed.iter().map(|p| (p.0, p.1)));
        taken.sort_unstable();
        gaps(taken.into_iter(), 1, durable.0)
    }

    /// Where to look for the next batch: a run of free places. `batch` is the number of events
    /// that make a full one. Where nothing waits behind, the run ends at `durable`. What was passed over is
    /// free, too, as far as its lanes go, but for a sink that `holds` it back.
    pub fn next(&mut self, durable: Seq, order: Order, batch: u64, holds: bool) -> Option<Part> {
        let free = self.free(durable, !holds);
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
        let (first, mut last) = if newest_first {
            (newest.0.max((newest.1 + 1).saturating_sub(batch.max(1))), newest.1)
        } else {
            oldest
        };
        let mut lanes = Lanes::ALL;
        // one kind at a time: passed over, or not
        if let Some((a, b, taken)) = self.passed.iter().find(|p| p.1 >= first && p.0 <= last) {
            if *a <= first {
                lanes = lanes.without(*taken);
                last = last.min(*b);
            } else {
                last = a - 1;
            }
        }
        SeqRange::new(Seq(first), Seq(last)).map(|range| Part { range, lanes })
    }

    /// Whether all places up to `durable` are taken; what was passed over counts for a sink that `holds`
    /// it back.
    #[must_use]
    pub fn cover(&self, durable: Seq, holds: bool) -> bool {
        self.free(durable, !holds).is_empty()
    }

    /// Whether anything was passed over.
    #[must_use]
    pub fn has_passed(&self) -> bool {
        !self.passed.is_empty()
    }

    /// How many places up to `durable` are neither taken nor passed over.
    #[must_use]
    pub fn left(&self, durable: Seq) -> u64 {
        self.free(durable, false).iter().map(|(a, b)| b - a + 1).sum()
    }
}

/// The parts of a run that none of `runs` (sorted) holds.
fn gaps(runs: impl Iterator<Item = (u64, u64)>, first: u64, last: u64) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    let mut next = first;
    for (a, b) in runs.skip_while(|r| r.1 < first) {
        if a > last {
            break;
        }
        if next < a {
            out.push((next, a - 1));
        }
        next = next.max(b.saturating_add(1));
    }
    if next <= last {
        out.push((next, last));
    }
    out
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
        assert_eq!(claims.free(Seq(20), true), [(5, 8)]);
        claims.release(range(18, 30));
        claims.release(range(7, 7));
        assert_eq!(claims.free(Seq(20), true), [(5, 8), (18, 20)]);
        claims.add(range(5, 8));
        assert_eq!(claims.free(Seq(20), true), [(18, 20)]);
    }

    #[test]
    fn after_a_restart_only_what_nobody_has_taken_is_free() {
        let cursor = Cursor {
            settled: Seq(4),
            ahead: vec![range(8, 9)],
            planned: vec![range(5, 6).into()],
            ..Cursor::default()
        };
        let claims = Claims::of(&cursor);
        assert_eq!(claims.free(Seq(12), true), [(7, 7), (10, 12)]);
        assert!(!claims.cover(Seq(9), false) && claims.cover(Seq(6), false));
        assert_eq!(claims.left(Seq(12)), 4);
    }

    #[test]
    fn orders_begin_at_their_ends() {
        let mut claims = Claims::of(&Cursor { settled: Seq(10), ..Cursor::default() });
        assert_eq!(claims.next(Seq(100), Order::OldestFirst, 20, false), Some(range(11, 100).into()));
        assert_eq!(claims.next(Seq(100), Order::NewestFirst, 20, false), Some(range(81, 100).into()));
        assert_eq!(claims.next(Seq(100), Order::Interleaved, 20, false), Some(range(11, 100).into()));
        assert_eq!(claims.next(Seq(100), Order::Interleaved, 20, false), Some(range(81, 100).into()));
        assert_eq!(claims.next(Seq(10), Order::NewestFirst, 20, false), None);
    }

    fn part(a: u64, b: u64, lanes: Lanes) -> Part {
        Part { range: range(a, b), lanes }
    }

    #[test]
    fn what_was_passed_over_is_free_in_its_lanes_when_nothing_is_held_back() {
        let deferred = Lanes::of(1);
        let others = Lanes::ALL.without(deferred);
        let mut claims = Claims::of(&Cursor { settled: Seq(10), ..Cursor::default() });
        for n in 1..100 {
            claims.take(part(10 * n + 1, 10 * n + 10, others));
        }
        assert_eq!(claims.passed, [(11, 1000, others)], "one run, however often it grew");
        assert_eq!(claims.next(Seq(1000), Order::OldestFirst, 20, true), None);
        assert!(claims.cover(Seq(1000), true) && !claims.cover(Seq(1000), false));
        assert_eq!(claims.next(Seq(1010), Order::OldestFirst, 20, true), Some(range(1001, 1010).into()));
        assert_eq!(claims.next(Seq(1010), Order::OldestFirst, 20, false), Some(part(11, 1000, deferred)));
        assert_eq!(claims.next(Seq(1010), Order::NewestFirst, 20, false), Some(part(991, 1000, deferred)));
        claims.take(part(11, 500, deferred));
        assert_eq!((claims.runs.clone(), claims.left(Seq(1010))), (vec![(1, 500)], 10));
        claims.take(part(501, 1000, deferred));
        assert_eq!((claims.runs, claims.passed), (vec![(1, 1000)], vec![]));
    }

    proptest! {
        #[test]
        fn lanes_agree_with_a_set_for_each(parts in prop::collection::vec((1u64..60, 0u64..20, 0u8..4, any::<bool>()), 0..20)) {
            let mut claims = Claims::default();
            let mut sets = vec![std::collections::BTreeSet::new(); 2];
            for (first, more, lanes, give_back) in parts {
                let range = range(first, first + more);
                let lanes = [Lanes::of(0), Lanes::ALL.without(Lanes::of(0)), Lanes::ALL, Lanes::ALL][usize::from(lanes)];
                if give_back && lanes == Lanes::ALL {
                    claims.release(range);
                    sets.iter_mut().for_each(|s| s.retain(|p| !range.contains(Seq(*p))));
                    continue;
                }
                claims.take(Part { range, lanes });
                for (n, set) in sets.iter_mut().enumerate().filter(|(n, _)| lanes.has(*n as u8)) {
                    let _ = n;
                    set.extend(first..=first + more);
                }
            }
            for place in 1u64..90 {
                let taken = |n: usize| sets[n].contains(&place);
                let whole = claims.runs.iter().any(|r| r.0 <= place && place <= r.1);
                prop_assert_eq!(whole, taken(0) && taken(1), "{}: {:?}", place, &claims);
                let passed: Vec<Lanes> = claims.passed.iter().filter(|p| p.0 <= place && place <= p.1).map(|p| p.2).collect();
                let want = match (taken(0), taken(1)) {
                    (true, false) => vec![Lanes::of(0)],
                    (false, true) => vec![Lanes::ALL.without(Lanes::of(0))],
                    _ => vec![],
                };
                prop_assert_eq!(passed, want, "{}: {:?}", place, &claims);
            }
        }

        #[test]
        fn claims_agree_with_a_set_of_places(runs in prop::collection::vec((1u64..60, 0u64..12), 0..12)) {
            let mut claims = Claims::default();
            let mut set = std::collections::BTreeSet::new();
            for (first, more) in runs {
                claims.add(range(first, first + more));
                set.extend(first..=first + more);
            }
            for durable in [0, 1, 30, 80] {
                let free: Vec<u64> = claims.free(Seq(durable), true).iter().flat_map(|(a, b)| *a..=*b).collect();
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
            while let Some(free) = claims.next(Seq(durable), order, batch, false).map(|p| p.range) {
                let last = free.last().0.min(free.first().0 + batch - 1);
                claims.add(range(free.first().0, last));
                seen += last - free.first().0 + 1;
            }
            prop_assert_eq!(seen, durable);
        }
    }
}
