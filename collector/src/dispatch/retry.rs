//! What to do after a failed attempt, and how long to wait: pure, with chance handed in.

use std::time::Duration;

use tidegate_sinks::{DeliverError, RejectReason};

/// A source of chance.
pub trait Chance: Send {
    /// The next number, evenly spread.
    fn next(&mut self) -> u64;
}

/// A small generator (xorshift64*): the same numbers for the same seed.
#[derive(Clone, Debug)]
pub struct Xorshift(u64);

impl Xorshift {
    /// Starts from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Xorshift {
        Xorshift(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
}

impl Chance for Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Longest wait that the far side can ask for: a day, as the sinks read it.
pub const AFTER_MOST: Duration = tidegate_sinks::http::classify::RETRY_AFTER_MAX;

/// Decorrelated jitter: each pause is evenly spread between `first` and three times the one
/// before, at most `most`. (Brooker, "Exponential Backoff and Jitter", 2015.)
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    last: Duration,
}

impl Backoff {
    /// Begins with `first`.
    #[must_use]
    pub fn new(first: Duration, most: Duration) -> Backoff {
        Backoff { first, most: most.max(first), last: first }
    }

    /// The next pause.
    pub fn next(&mut self, chance: &mut dyn Chance) -> Duration {
        let low = self.first.as_millis();
        let high = (self.last.as_millis() * 3).clamp(low, self.most.as_millis());
        let span = high - low + 1;
        let ms = low + u128::from(chance.next()) % span;
        self.last = Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX));
        self.last
    }

    /// Begins again with the shortest.
    pub fn reset(&mut self) {
        self.last = self.first;
    }
}

/// What follows from a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The same batch again after `pause`; nobody before `after`, where the far side asked for that.
    Wait {
        /// At least `after`.
        pause: Duration,
        /// What the far side asked for, at most [`AFTER_MOST`].
        after: Option<Duration>,
    },
    /// The halves alone.
    Split,
    /// The whole batch is refused for good.
    Reject(RejectReason),
    /// Someone must act: again after `pause`, with an alarm.
    Hold {
        /// At least `after`.
        pause: Duration,
        /// What the far side asked for, at most [`AFTER_MOST`].
        after: Option<Duration>,
        /// What to do.
        advice: String,
    },
    /// Someone must act for this batch alone; the others go on.
    Block(String),
}

/// Decides what follows from an error. `events` is the number of events in the batch.
pub fn next_step(
    error: &DeliverError,
    events: usize,
    held: Duration,
    backoff: &mut Backoff,
    chance: &mut dyn Chance,
) -> Step {
    let wish = |after: &Option<Duration>| after.map(|a| a.min(AFTER_MOST));
    let least = |pause: Duration, after: Option<Duration>| after.map_or(pause, |a| a.max(pause));
    match error {
        DeliverError::Retry { after, .. } => {
            let after = wish(after);
            Step::Wait { pause: least(backoff.next(chance), after), after }
        }
        DeliverError::Split { .. } if events > 1 => Step::Split,
        DeliverError::Split { .. } => Step::Reject(RejectReason::TooLarge),
        DeliverError::Reject { reason, .. } => Step::Reject(*reason),
        DeliverError::Stop { after, advice, .. } => {
            let after = wish(after);
            Step::Hold { pause: least(held, after), after, advice: advice.clone() }
        }
        DeliverError::Blocked { advice, .. } => Step::Block(advice.clone()),
        // what is not understood is tried again
        _ => Step::Wait { pause: backoff.next(chance), after: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> Box<dyn std::error::Error + Send + Sync> {
        text.into()
    }

    proptest! {
        #[test]
        fn pauses_stay_in_bounds_and_never_vanish(seed: u64, first in 1u64..10_000, most in 1u64..1_000_000) {
            let mut chance = Xorshift::new(seed);
            let mut backoff = Backoff::new(Duration::from_millis(first), Duration::from_millis(most));
            let mut last = Duration::from_millis(first);
            for _ in 0..50 {
                let pause = backoff.next(&mut chance);
                prop_assert!(pause >= Duration::from_millis(first));
                prop_assert!(pause <= Duration::from_millis(most.max(first)));
                prop_assert!(pause <= last * 3);
                last = pause;
            }
        }

        #[test]
        fn the_far_sides_wish_is_honoured_up_to_a_day(seed: u64, after in 0u64..1_000_000) {
            let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
            let e = DeliverError::Retry { after: Some(Duration::from_secs(after)), source: error("x") };
            let step = next_step(&e, 1, Duration::ZERO, &mut backoff, &mut Xorshift::new(seed));
            let Step::Wait { pause, after: all } = step else { panic!("{step:?}") };
            prop_assert_eq!(all, Some(Duration::from_secs(after.min(86_400))));
            prop_assert!(pause >= Duration::from_secs(after).min(AFTER_MOST));
            prop_assert!(pause <= AFTER_MOST.max(Duration::from_secs(1)));
        }
    }

    #[test]
    fn each_error_has_its_step() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        let mut chance = Xorshift::new(1);
        let mut step = |e, events| next_step(&e, events, Duration::from_secs(9), &mut backoff, &mut chance);
        assert!(matches!(
            step(DeliverError::Retry { after: None, source: error("x") }, 5),
            Step::Wait { .. }
        ));
        assert_eq!(step(DeliverError::Split { source: error("x") }, 5), Step::Split);
        let single = step(DeliverError::Split { source: error("x") }, 1);
        assert_eq!(single, Step::Reject(RejectReason::TooLarge));
        let invalid = DeliverError::Reject { reason: RejectReason::Invalid, source: error("x") };
        assert_eq!(step(invalid, 5), Step::Reject(RejectReason::Invalid));
        let seconds = Duration::from_secs;
        for (after, pause) in [(None, 9), (Some(seconds(3)), 9), (Some(seconds(600)), 600)] {
            let stop = DeliverError::Stop { after, advice: "do".into(), source: error("x") };
            assert_eq!(step(stop, 5), Step::Hold { pause: seconds(pause), after, advice: "do".into() });
        }
        let blocked = DeliverError::Blocked { advice: "move it".into(), source: error("x") };
        assert_eq!(step(blocked, 5), Step::Block("move it".into()));
    }

    #[test]
    fn many_hosts_do_not_come_back_at_once() {
        let mut pauses: Vec<_> = (0..100)
            .map(|seed| {
                let mut chance = Xorshift::new(seed);
                let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
                (0..4).map(|_| backoff.next(&mut chance)).sum::<Duration>()
            })
            .collect();
        pauses.sort();
        pauses.dedup();
        assert!(pauses.len() > 90, "{} different ones", pauses.len());
    }
}
