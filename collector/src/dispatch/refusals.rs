//! Telling a far side that refuses everything from events that are wrong: pure, with chance handed in.
//!
//! A single bad event is found by halving and refused alone. A far side that refuses whatever it is sent
//! (a wrong address, a proxy's size limit) would empty the ring into the dead letters the same way, so
//! after [`REFUSED_MOST`] whole batches in a row nothing more is taken for refused until one gets through.

use std::time::Duration;

use super::retry::{Backoff, Chance};

/// Whole batches (single events, where batches were halved) refused in a row after which the sink holds;
/// the last of them stays in the ring.
pub const REFUSED_MOST: u32 = 10;
/// Splits in a row, without anything that got through between, that need no pause: as many as it takes
/// to find one event of 4,096.
pub const SPLITS_FREE: u32 = 12;

/// What was refused since something got through last.
#[derive(Clone, Copy, Debug)]
pub struct Refusals {
    refused: u32,
    splits: u32,
    backoff: Backoff,
}

/// What follows from a batch that is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halving {
    /// Go on with the halves after this time.
    After(Duration),
    /// Nothing is taken, whatever its size: hold.
    Hold,
}

impl Refusals {
    /// None yet. `backoff` gives the pauses between splits.
    #[must_use]
    pub fn new(backoff: Backoff) -> Refusals {
        Refusals { refused: 0, splits: 0, backoff }
    }

    /// Something got through.
    pub fn success(&mut self) {
        (self.refused, self.splits) = (0, 0);
        self.backoff.reset();
    }

    /// A whole batch is refused: whether the sink is to hold instead.
    pub fn refused(&mut self) -> bool {
        self.refused = self.refused.saturating_add(1);
        self.refused >= REFUSED_MOST
    }

    /// A batch is to be split.
    pub fn split(&mut self, chance: &mut dyn Chance) -> Halving {
        if self.refused >= REFUSED_MOST {
            return Halving::Hold;
        }
        self.splits = self.splits.saturating_add(1);
        if self.splits <= SPLITS_FREE {
            return Halving::After(Duration::ZERO);
        }
        Halving::After(self.backoff.next(chance))
    }
}

#[cfg(test)]
mod tests {
    use super::super::retry::Xorshift;
    use super::*;

    fn refusals() -> (Refusals, Xorshift) {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        (Refusals::new(backoff), Xorshift::new(3))
    }

    #[test]
    fn the_last_of_ten_in_a_row_is_not_taken_for_refused() {
        let (mut r, mut chance) = refusals();
        for _ in 0..3 {
            assert!((1..REFUSED_MOST).all(|_| !r.refused()));
            r.success();
        }
        assert!((1..REFUSED_MOST).all(|_| !r.refused()));
        assert!(r.refused() && r.refused(), "and those behind it neither");
        assert_eq!(r.split(&mut chance), Halving::Hold);
        r.success();
        assert!(!r.refused());
    }

    #[test]
    fn splits_that_bring_nothing_through_slow_down() {
        let (mut r, mut chance) = refusals();
        for _ in 0..2 {
            for _ in 0..SPLITS_FREE {
                assert_eq!(r.split(&mut chance), Halving::After(Duration::ZERO));
            }
            let pauses = (0..20).map(|_| match r.split(&mut chance) {
                Halving::After(pause) => pause,
                Halving::Hold => panic!("nothing was refused"),
            });
            let pauses: Vec<_> = pauses.collect();
            assert!(pauses.iter().all(|p| *p >= Duration::from_secs(1)), "{pauses:?}");
            assert!(pauses.iter().sum::<Duration>() > Duration::from_secs(200), "{pauses:?}");
            r.success();
        }
    }
}
