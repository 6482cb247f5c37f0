//! A small picture of numbers over time, in text.

/// Events counted in equal steps of time.
#[derive(Debug)]
pub(super) struct Steps {
    first_ns: i64,
    last_ns: i64,
    step_ns: i64,
    counts: Vec<u64>,
}

const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

impl Steps {
    /// `steps` steps from the first to the last time.
    pub(super) fn new((first_ns, last_ns): (i64, i64), steps: usize) -> Steps {
        let steps = steps.clamp(1, 10_000);
        let whole = last_ns.saturating_sub(first_ns).max(0);
        let step_ns = whole / i64::try_from(steps).unwrap_or(i64::MAX) + 1;
        Steps { first_ns, last_ns, step_ns, counts: vec![0; steps] }
    }

    /// Counts an event; outside of the span it counts at the nearer end.
    pub(super) fn add(&mut self, time_ns: i64) {
        let step = time_ns.saturating_sub(self.first_ns).max(0) / self.step_ns;
        let last = self.counts.len().saturating_sub(1);
        let at = usize::try_from(step).unwrap_or(last).min(last);
        if let Some(count) = self.counts.get_mut(at) {
            *count += 1;
        }
    }

    /// The first and the last time.
    pub(super) fn span_ns(&self) -> (i64, i64) {
        (self.first_ns, self.last_ns)
    }

    /// Length of a step in nanoseconds.
    pub(super) fn step_ns(&self) -> i64 {
        self.step_ns
    }

    /// Start of each step and its count.
    pub(super) fn counts(&self) -> impl Iterator<Item = (i64, u64)> {
        let start = |n: usize| i64::try_from(n).unwrap_or(i64::MAX).saturating_mul(self.step_ns);
        self.counts.iter().enumerate().map(move |(n, c)| (self.first_ns.saturating_add(start(n)), *c))
    }

    /// Events a second in the fullest step.
    #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
    pub(super) fn peak_rate(&self) -> f64 {
        self.counts.iter().copied().max().unwrap_or(0) as f64 * 1e9 / self.step_ns as f64
    }

    /// `rows` lines, one column a step, the fullest step as high as the picture.
    pub(super) fn draw(&self, rows: usize) -> Vec<String> {
        let most = self.counts.iter().copied().max().unwrap_or(0).max(1);
        let eighths = rows as u64 * 8;
        // an event that is there is seen: never rounded down to nothing
        let height = |n: u64| {
            if n == 0 { 0 } else { (u128::from(n) * u128::from(eighths) / u128::from(most)).max(1) as u64 }
        };
        let row = |row: usize| {
            let below = (rows - 1 - row) as u64 * 8;
            self.counts
                .iter()
                .map(|n| BARS.get(height(*n).saturating_sub(below).min(8) as usize).copied().unwrap_or(' '))
                .collect::<String>()
                .trim_end()
                .to_owned()
        };
        (0..rows).map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Steps;

    #[test]
    fn every_event_is_in_one_step_and_seen() {
        let mut steps = Steps::new((100, 199), 4);
        for ns in [100, 101, 120, 199, 5_000, i64::MIN, i64::MAX] {
            steps.add(ns);
        }
        let counts: Vec<u64> = steps.counts().map(|(_, c)| c).collect();
        assert_eq!(counts, [4, 0, 0, 3]);
        assert_eq!(steps.draw(1), ["█  ▆"]);
        for _ in 0..1000 {
            steps.add(100);
        }
        assert_eq!(steps.draw(2), ["█", "█  ▁"]);
    }

    #[test]
    fn a_trace_of_one_instant_has_a_picture_too() {
        let mut steps = Steps::new((7, 7), 3);
        steps.add(7);
        assert_eq!((steps.draw(1), steps.step_ns()), (vec!["█".to_owned()], 1));
    }
}
