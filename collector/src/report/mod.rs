//! A report of what was collected, from the hourly aggregates: counts only, anonymised.
//!
//! A row of fewer than `k` events is suppressed: its names are not in the report, its events only
//! in a sum. So that the sum does not tell what a single row was, more rows, the smallest first,
//! go into it until it stands for at least two rows and `k` events; where that cannot be, the sum
//! is not told either. Hours are treated the same way.

mod html;
mod svg;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::time::format_rfc3339;

use crate::aggregate::{Hour, Outcome, SinkCounts};

pub use html::page;

/// Smallest `k`.
pub const MIN_K: u64 = 2;

/// One row of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line<N> {
    /// What it counts.
    #[serde(flatten)]
    pub name: N,
    /// Events stored.
    pub stored: u64,
    /// Events dropped at the gate.
    pub dropped: u64,
}

impl<N> Line<N> {
    fn events(&self) -> u64 {
        self.stored.saturating_add(self.dropped)
    }
}

/// What was suppressed of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Suppressed {
    /// Rows.
    pub rows: u64,
    /// Their events; `None` where telling would tell a single row.
    pub events: Option<u64>,
}

/// A table without what few events would give away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Table<N> {
    /// What is told.
    pub lines: Vec<Line<N>>,
    /// What is not.
    pub suppressed: Suppressed,
}

/// A provider.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Provider {
    /// Its name.
    pub provider: String,
}

/// A kind of event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Kind {
    /// The provider's name.
    pub provider: String,
    /// The event's name.
    pub event: String,
}

/// A telemetry level.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Level {
    /// Its name, or `none` for what was dropped before it had one.
    pub level: &'static str,
}

/// An hour.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct At {
    /// Its beginning, RFC 3339.
    pub hour: String,
}

/// A reason to drop.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Reason {
    /// Its name.
    pub reason: &'static str,
}

/// The report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Form of this document.
    pub version: u32,
    /// First and last hour asked for, RFC 3339.
    pub from: String,
    /// See `from`.
    pub to: String,
    /// Rows of fewer events are suppressed.
    pub k: u64,
    /// Which hardware, by the census' digest; equal for equal machines.
    pub configuration: String,
    /// Events in all; `None` when they are fewer than `k`.
    pub events: Option<u64>,
    /// By hour.
    pub hours: Table<At>,
    /// By provider.
    pub providers: Table<Provider>,
    /// By kind of event.
    pub kinds: Table<Kind>,
    /// By telemetry level.
    pub levels: Table<Level>,
    /// By reason, of what was dropped.
    pub reasons: Table<Reason>,
    /// Critical alerts on this hardware, by provider.
    pub critical_alerts: Table<Provider>,
    /// What the sinks settled; those of fewer than `k` events are left out.
    pub sinks: BTreeMap<String, SinkCounts>,
}

/// Anonymises a table: lines are sorted by their events, most first.
fn anonymise<N: Ord>(all: BTreeMap<N, (u64, u64)>, k: u64) -> Table<N> {
    let mut lines: Vec<Line<N>> = all
        .into_iter()
        .map(|(name, (stored, dropped))| Line { name, stored, dropped })
        .filter(|l| l.events() > 0)
        .collect();
    lines.sort_by(|a, b| b.events().cmp(&a.events()).then_with(|| a.name.cmp(&b.name)));
    let keep = lines.iter().take_while(|l| l.events() >= k).count();
    let mut gone = lines.split_off(keep);
    let sum = |lines: &[Line<N>]| lines.iter().fold(0_u64, |n, l| n.saturating_add(l.events()));
    while !gone.is_empty() && (gone.len() < 2 || sum(&gone) < k) {
        match lines.pop() {
            Some(line) => gone.push(line),
            None => break,
        }
    }
    let events = sum(&gone);
    let told = gone.is_empty() || gone.len() >= 2 && events >= k;
    Table { lines, suppressed: Suppressed { rows: gone.len() as u64, events: told.then_some(events) } }
}

/// Makes the report of some hours. `k` below [`MIN_K`] counts as that.
#[must_use]
pub fn make(hours: &[Hour], (from_ns, to_ns): (i64, i64), k: u64, configuration: &str) -> Report {
    let k = k.max(MIN_K);
    let mut by_hour: BTreeMap<At, (u64, u64)> = BTreeMap::new();
    let mut providers: BTreeMap<Provider, (u64, u64)> = BTreeMap::new();
    let mut kinds: BTreeMap<Kind, (u64, u64)> = BTreeMap::new();
    let mut levels: BTreeMap<Level, (u64, u64)> = BTreeMap::new();
    let mut reasons: BTreeMap<Reason, (u64, u64)> = BTreeMap::new();
    let mut critical: BTreeMap<Provider, (u64, u64)> = BTreeMap::new();
    let mut sinks: BTreeMap<String, SinkCounts> = BTreeMap::new();
    let add = |to: &mut (u64, u64), stored: u64, dropped: u64| {
        *to = (to.0.saturating_add(stored), to.1.saturating_add(dropped));
    };
    for hour in hours {
        let at = At { hour: format_rfc3339(hour.start_ns) };
        for row in &hour.rows {
            let stored = row.counts.first().copied().unwrap_or(0);
            let dropped = row.events().saturating_sub(stored);
            let provider = Provider { provider: row.provider.clone() };
            let kind = Kind { provider: row.provider.clone(), event: row.event.clone() };
            let level = row.level.and_then(TelemetryLevel::from_u8).map_or("none", TelemetryLevel::as_str);
            add(by_hour.entry(at.clone()).or_default(), stored, dropped);
            add(kinds.entry(kind).or_default(), stored, dropped);
            add(levels.entry(Level { level }).or_default(), stored, dropped);
            for (n, count) in row.counts.iter().enumerate().skip(1) {
                add(reasons.entry(Reason { reason: Outcome::name(n) }).or_default(), 0, *count);
            }
            if row.critical > 0 {
                add(critical.entry(provider.clone()).or_default(), row.critical, 0);
            }
            add(providers.entry(provider).or_default(), stored, dropped);
        }
        for (name, counts) in &hour.sinks {
            sinks.entry(name.clone()).or_default().add(counts);
        }
    }
    let events = by_hour.values().fold(0_u64, |n, (s, d)| n.saturating_add(*s).saturating_add(*d));
    let mut hours = anonymise(by_hour, k);
    hours.lines.sort_by(|a, b| a.name.cmp(&b.name));
    sinks.retain(|_, c| c.delivered.saturating_add(c.rejected).saturating_add(c.lost) >= k);
    Report {
        version: 1,
        from: format_rfc3339(from_ns),
        to: format_rfc3339(to_ns),
        k,
        configuration: configuration.to_owned(),
        events: (events >= k).then_some(events),
        hours,
        providers: anonymise(providers, k),
        kinds: anonymise(kinds, k),
        levels: anonymise(levels, k),
        reasons: anonymise(reasons, k),
        critical_alerts: anonymise(critical, k),
        sinks,
    }
}
