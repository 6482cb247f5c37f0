//! From a session's clock to UTC.

use tidegate_proto::time::filetime_to_unix_ns;

/// Converts record times to UTC.
///
/// The pair that fixes the clock is the time of the header record and the StartTime in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Clock of the header record: 0 raw, 1 performance counter, 2 system time, 3 CPU cycles.
    pub kind: u32,
    start_ns: i64,
    start_ticks: u64,
    /// Nanoseconds = ticks * mul / div.
    mul: u64,
    div: u64,
}

impl Clock {
    pub(crate) fn new(
        kind: u32,
        start_filetime: u64,
        start_ticks: u64,
        perf_freq: u64,
        cpu_mhz: u32,
    ) -> Clock {
        let start_ns = filetime_to_unix_ns(start_filetime);
        let (mul, div) = match kind {
            2 => (100, 1),
            3 if cpu_mhz != 0 => (1000, u64::from(cpu_mhz)),
            // A raw clock counts the performance counter's ticks when the header tells its rate.
            _ if perf_freq != 0 && 1_000_000_000 % perf_freq == 0 => (1_000_000_000 / perf_freq, 1),
            _ if perf_freq != 0 => (1_000_000_000, perf_freq),
            _ => (100, 1),
        };
        Clock { kind, start_ns, start_ticks, mul, div }
    }

    pub(crate) fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// `ticks` in nanoseconds, rounded down, if 64 bits are enough.
    fn ahead_ns(&self, ticks: u64) -> Option<u64> {
        if self.div == 1 {
            return ticks.checked_mul(self.mul);
        }
        // What is whole is taken out first: (q·div + r)·mul / div = q·mul + r·mul / div.
        let (whole, rest) = (ticks / self.div, ticks % self.div);
        whole.checked_mul(self.mul)?.checked_add(rest.checked_mul(self.mul)? / self.div)
    }

    /// UTC nanoseconds since 1970 of a record time, rounded down, clamped to an `i64`.
    #[must_use]
    pub fn unix_ns(&self, ticks: u64) -> i64 {
        if self.kind == 2 {
            return filetime_to_unix_ns(ticks);
        }
        // The common case of a later event stays in 64 bits.
        if let Some(ahead) = ticks.checked_sub(self.start_ticks).and_then(|n| self.ahead_ns(n))
            && let Some(ns) = self.start_ns.checked_add_unsigned(ahead)
        {
            return ns;
        }
        let ticks = i128::from(ticks) - i128::from(self.start_ticks);
        let ns = (ticks * i128::from(self.mul)).div_euclid(i128::from(self.div)) + i128::from(self.start_ns);
        i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;
    use tidegate_proto::time::unix_ns_to_filetime;

    #[test]
    fn each_clock() {
        let start = unix_ns_to_filetime(1_000_000_000_000_000_000);
        let at = |kind, freq, mhz, ticks| Clock::new(kind, start, 5_000, freq, mhz).unix_ns(ticks);
        let base = 1_000_000_000_000_000_000_i64;
        assert_eq!(at(1, 10_000_000, 0, 5_003), base + 300);
        assert_eq!(at(1, 10_000_000, 0, 4_999), base - 100);
        // 14.318180 MHz: 3 ticks are 209.523... ns.
        assert_eq!(at(1, 14_318_180, 0, 5_003), base + 209);
        assert_eq!(at(1, 14_318_180, 0, 4_997), base - 210);
        assert_eq!(at(2, 10_000_000, 0, start + 7), base + 700);
        assert_eq!(at(3, 0, 2_000, 7_000), base + 1_000);
        assert_eq!(at(0, 1_000_000, 0, 5_001), base + 1_000);
        assert_eq!(at(0, 0, 0, 5_001), base + 100);
        // A week of a 3 GHz counter does not lose a tick.
        assert_eq!(at(1, 3_000_000_000, 0, 5_000 + 604_800 * 3_000_000_000 + 3), base + 604_800_000_000_001);
    }

    #[test]
    fn hostile_values_are_clamped() {
        assert_eq!(Clock::new(1, u64::MAX, 0, 1, 0).unix_ns(u64::MAX), i64::MAX);
        assert_eq!(Clock::new(1, 0, u64::MAX, 1, 0).unix_ns(0), i64::MIN);
        assert_eq!(Clock::new(7, 0, 0, u64::MAX, u32::MAX).unix_ns(0), i64::MIN);
    }
}
