//! How fast and how many at a time: pure.

use std::time::Duration;

use tokio::time::Instant;

/// A token bucket: so many units a second, with a second's worth at hand.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    per_second: u64,
    /// When the bucket would be full again.
    full_at: Option<Instant>,
}

impl Bucket {
    /// A full bucket; `None` never makes anyone wait.
    #[must_use]
    pub fn new(per_second: Option<u64>) -> Bucket {
        Bucket { per_second: per_second.unwrap_or(0), full_at: None }
    }

    /// Takes `n` units and says how long to wait before using them. More than a second's worth
    /// can be taken at once: it makes those who follow wait.
    pub fn take(&mut self, n: u64, now: Instant) -> Duration {
        if self.per_second == 0 {
            return Duration::ZERO;
        }
        let from = self.full_at.map_or(now, |at| at.max(now));
        // units over rate, in nanoseconds
        let ns = u128::from(n) * 1_000_000_000 / u128::from(self.per_second);
        let time = Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX));
        let full_at = from + time;
        self.full_at = Some(full_at);
        (full_at - now).saturating_sub(Duration::from_secs(1).max(time))
    }
}

/// How many deliveries are tried at a time: one more when as many as that got through in a row,
/// half as many after a failure.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    now: u32,
    most: u32,
    streak: u32,
}

impl Window {
    /// Begins with all that the sink allows.
    #[must_use]
    pub fn new(most: u32) -> Window {
        Window { now: most.max(1), most: most.max(1), streak: 0 }
    }

    /// The number allowed now, at least 1.
    #[must_use]
    pub fn allowed(self) -> usize {
        self.now as usize
    }

    /// One got through.
    pub fn success(&mut self) {
        self.streak += 1;
        if self.streak >= self.now && self.now < self.most {
            self.now += 1;
            self.streak = 0;
        }
    }

    /// One failed.
    pub fn failure(&mut self) {
        self.now = (self.now / 2).max(1);
        self.streak = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_more_than_the_rate_goes_through(takes in prop::collection::vec(1u64..500, 1..50)) {
            let begun = Instant::now();
            let mut now = begun;
            let mut bucket = Bucket::new(Some(100));
            let mut taken = 0;
            for n in takes {
                now += bucket.take(n, now);
                taken += n;
                // whatever went out, less the last batch, was within rate and one burst
                let allowed = 100 + 100 * u64::try_from((now - begun).as_millis()).unwrap() / 1000;
                prop_assert!(taken - n <= allowed, "{taken} after {:?}", now - begun);
            }
        }
    }

    #[test]
    fn without_a_rate_nobody_waits() {
        let mut bucket = Bucket::new(None);
        assert_eq!(bucket.take(u64::MAX, Instant::now()), Duration::ZERO);
    }

    #[test]
    fn the_window_halves_on_failure_and_grows_back() {
        let mut w = Window::new(8);
        assert_eq!(w.allowed(), 8);
        w.failure();
        w.failure();
        w.failure();
        w.failure();
        assert_eq!(w.allowed(), 1);
        for _ in 0..100 {
            w.success();
        }
        assert_eq!(w.allowed(), 8);
    }
}
