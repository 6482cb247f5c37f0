//! What a run did, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tidegate_proto::level::{DropReason, TelemetryLevel};
use tidegate_ring::{Account, PerLevel};

use crate::config::units::show_bytes;

/// Where a run stands. Cheap to ask for: a few times a second is fine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Events read from sources in this run.
    pub read: u64,
    /// Events that did not pass, or could not be kept, in this run.
    pub dropped: u64,
    /// Events on stable storage, of this run.
    pub stored: u64,
    /// Encoded bytes on stable storage, of this run, before compression.
    pub stored_bytes: u64,
    /// Sources that have not come to their end.
    pub sources_running: usize,
    /// Per sink.
    pub sinks: BTreeMap<String, SinkProgress>,
    /// What the operator must look at, in sentences.
    pub alarms: Vec<String>,
}

/// Where a sink stands, in this run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkProgress {
    /// Events delivered.
    pub delivered: u64,
    /// Events refused for good by the far side.
    pub rejected: u64,
    /// Events left out by level or filter.
    pub left_out: u64,
    /// Bytes over the wire.
    pub bytes: u64,
    /// Deliveries that succeeded.
    pub deliveries: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Attempts by what they came to: `ok`, `retry`, `timeout`, `split`, `hold`, `blocked`,
    /// `reject`, `panic`.
    pub attempts: BTreeMap<&'static str, u64>,
    /// Places of the ring that are not settled yet; an upper bound of the events that wait.
    pub waiting: u64,
    /// When the last delivery succeeded, nanoseconds since 1970.
    pub last_delivery_ns: Option<i64>,
    /// Whether it is paused.
    pub paused: bool,
    /// Whether cost-deferred events wait for a network that is not metered.
    pub metered: bool,
    /// Why it holds, if it does, in our own words.
    pub held: Option<String>,
    /// What the far side says of it. May quote what it was sent: it stays on this host.
    pub cause: Option<String>,
}

/// How a source came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSummary {
    /// Its name.
    pub name: String,
    /// Whether it was stopped before its input ended.
    pub stopped: bool,
    /// Parts of the input that could not be read; bounded, `problem_count` is the number.
    pub problems: Vec<String>,
    /// Number of all such parts.
    pub problem_count: u64,
    /// Why it failed.
    pub error: Option<String>,
    /// What kind of failure that was.
    pub failed: Option<Failed>,
}

/// What kind of failure ended a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Its input cannot be read, or it broke down.
    Input,
    /// The account lacks a right.
    Denied,
    /// What it listens to is not to be had, or another has it.
    Unavailable,
}

/// What a run did. `account` and `sinks` are this run's share of the ring's account; `total` is
/// the account over the ring's life.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How long it took.
    pub elapsed: Duration,
    /// This run: what was read, dropped and stored, and what became of it per sink. `held` is
    /// what waits now, whichever run it is from.
    pub run: Account,
    /// Over the ring's life.
    pub total: Account,
    /// Encoded bytes stored in this run, before compression.
    pub stored_bytes: u64,
    /// Per sink, what is not in the account.
    pub sinks: BTreeMap<String, SinkProgress>,
    /// Sources.
    pub sources: Vec<SourceSummary>,
    /// What the operator must look at.
    pub alarms: Vec<String>,
    /// Why the account does not close, if it does not: a defect, never a loss without a name.
    pub account_error: Option<String>,
}

/// What is said of a sink's cost-deferred events on a metered network.
pub(crate) const METERED: &str =
    "cost-deferred events wait for a network that is not metered ([network] metered)";

fn sum(levels: &PerLevel) -> u64 {
    levels.iter().sum()
}

fn rate(n: u64, elapsed: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss)] // shown, not counted with
    let n = n as f64;
    n / elapsed.as_secs_f64().max(1e-3)
}

/// The part of `now` that came after `then`.
pub(crate) fn since(now: &Account, then: &Account) -> Account {
    let minus = |a: &PerLevel, b: &PerLevel| {
        let mut out = *a;
        for (a, b) in out.iter_mut().zip(b) {
            *a = a.saturating_sub(*b);
        }
        out
    };
    let mut run = now.clone();
    run.read = run.read.saturating_sub(then.read);
    for (reason, n) in &mut run.dropped {
        *n = n.saturating_sub(then.dropped.get(reason).copied().unwrap_or(0));
    }
    run.dropped.retain(|_, n| *n > 0);
    run.stored = minus(&run.stored, &then.stored);
    for (id, sink) in &mut run.sinks {
        let Some(before) = then.sinks.get(id) else { continue };
        sink.stored = minus(&sink.stored, &before.stored);
        sink.delivered = minus(&sink.delivered, &before.delivered);
        sink.rejected = minus(&sink.rejected, &before.rejected);
        for (reason, n) in &mut sink.lost {
            *n = minus(n, before.lost.get(reason).unwrap_or(&[0; 4]));
        }
        sink.lost.retain(|_, n| *n != [0; 4]);
    }
    run
}

/// An account as JSON, by reason, sink and telemetry level. Stable: members are added, never
/// renamed.
#[must_use]
pub fn account_view(account: &Account) -> serde_json::Value {
    let levels = |l: &PerLevel| {
        let named =
            TelemetryLevel::ALL.iter().zip(l).map(|(level, n)| (level.as_str().to_owned(), (*n).into()));
        serde_json::Value::Object(named.collect())
    };
    let dropped = account.dropped.iter().map(|(r, n)| (r.as_str().to_owned(), (*n).into()));
    let sinks = account.sinks.iter().map(|(id, s)| {
        let lost = s.lost.iter().map(|(r, n)| (r.as_str().to_owned(), levels(n))).collect();
        let sink = serde_json::json!({
            "stored": levels(&s.stored), "delivered": levels(&s.delivered),
            "rejected": levels(&s.rejected), "lost": serde_json::Value::Object(lost),
            "held": levels(&s.held),
        });
        (id.as_str().to_owned(), sink)
    });
    serde_json::json!({
        "read": account.read, "dropped": serde_json::Value::Object(dropped.collect()),
        "stored": levels(&account.stored), "sinks": serde_json::Value::Object(sinks.collect()),
    })
}

impl Summary {
    /// Whether everything that was read has found its place: no source failed, nothing waits,
    /// and the account closes.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.account_error.is_none()
            && self.sources.iter().all(|s| s.error.is_none() && !s.stopped)
            && self.total.sinks.values().all(|s| sum(&s.held) == 0)
    }

    /// As one JSON object. Stable: members are added, never renamed.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let sinks = self.sinks.iter().map(|(name, s)| {
            let sink = serde_json::json!({
                "bytes": s.bytes, "deliveries": s.deliveries, "failures": s.failures,
                "last_delivery": s.last_delivery_ns.map(tidegate_proto::time::format_rfc3339),
                "held": s.held, "cause": s.cause, "metered": s.metered,
            });
            (name.clone(), sink)
        });
        let sources = self.sources.iter().map(|s| {
            serde_json::json!({
                "name": s.name, "stopped": s.stopped, "problems": s.problems,
                "problem_count": s.problem_count, "error": s.error,
            })
        });
        serde_json::json!({
            "elapsed_seconds": self.elapsed.as_secs_f64(),
            "events_per_second": rate(self.run.read, self.elapsed),
            "stored_bytes": self.stored_bytes,
            "complete": self.complete(),
            "account_closes": self.account_error.is_none(),
            "account_error": self.account_error,
            "run": account_view(&self.run),
            "total": account_view(&self.total),
            "sinks": serde_json::Value::Object(sinks.collect()),
            "sources": sources.collect::<Vec<_>>(),
            "alarms": self.alarms,
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stored = sum(&self.run.stored);
        writeln!(
            f,
            "read      {:>12} events in {:.1} s ({:.0} events/s)",
            self.run.read,
            self.elapsed.as_secs_f64(),
            rate(self.run.read, self.elapsed)
        )?;
        for (reason, n) in &self.run.dropped {
            writeln!(f, "dropped   {n:>12} {}", meaning(*reason))?;
        }
        writeln!(f, "stored    {stored:>12} events, {} before compression", show_bytes(self.stored_bytes))?;
        for (level, n) in TelemetryLevel::ALL.iter().zip(&self.run.stored).filter(|(_, n)| **n > 0) {
            writeln!(f, "            {n:>10} {level}")?;
        }
        for (id, sink) in &self.run.sinks {
            let more = self.sinks.get(id.as_str()).cloned().unwrap_or_default();
            write!(f, "sink {id}: delivered {}", sum(&sink.delivered))?;
            for (what, n) in [("rejected", sum(&sink.rejected)), ("held", sum(&sink.held))] {
                write!(f, ", {what} {n}")?;
            }
            for (reason, n) in &sink.lost {
                write!(f, ", {} {}", lost(*reason), sum(n))?;
            }
            writeln!(f, "; {} in {} deliveries", show_bytes(more.bytes), more.deliveries)?;
            if more.metered {
                writeln!(f, "  {METERED}")?;
            }
            if let Some(why) = &more.held {
                writeln!(f, "  holds: {why}")?;
            }
            if let Some(cause) = &more.cause {
                writeln!(f, "  cause: {cause}")?;
            }
        }
        for source in &self.sources {
            if let Some(error) = &source.error {
                writeln!(f, "source {} failed: {error}", source.name)?;
            }
            for problem in source.problems.iter().take(5) {
                writeln!(f, "source {}: {problem}", source.name)?;
            }
            if source.problem_count > 5 {
                writeln!(f, "source {}: {} such places in all", source.name, source.problem_count)?;
            }
        }
        for alarm in &self.alarms {
            writeln!(f, "ALARM: {alarm}")?;
        }
        match &self.account_error {
            None => write!(
                f,
                "the account closes: read = dropped + stored, and for each sink stored = delivered + rejected + lost + held"
            ),
            Some(why) => write!(f, "THE ACCOUNT DOES NOT CLOSE: {why}"),
        }
    }
}

fn meaning(reason: DropReason) -> &'static str {
    match reason {
        DropReason::Level => "above the telemetry level in force",
        DropReason::Disabled => "telemetry is disabled",
        DropReason::Rule => "a rule of the catalogue says so",
        DropReason::Privacy => "private data that may not be kept",
        DropReason::Sample => "sampled out",
        DropReason::Oversize => "larger than an event may be",
        DropReason::IntakeFull => "no room, and the source could not wait",
        DropReason::RingFull => "the ring was full",
        DropReason::RingFailed => "the ring could not write, and the source could not wait",
        DropReason::Encode => "could not be encoded",
    }
}

fn lost(reason: tidegate_proto::level::LossReason) -> &'static str {
    use tidegate_proto::level::LossReason;
    match reason {
        LossReason::Evicted => "evicted",
        LossReason::Expired => "expired",
        LossReason::Purged => "purged",
        LossReason::Corrupt => "lost to damage",
        LossReason::Level => "kept back by level",
        LossReason::Filtered => "left out by its filter",
        LossReason::Rule => "kept back by stricter rules",
    }
}
