//! One hour's counts and their stored form: one JSON object.
//!
//! ```text
//! {"hour": "2026-01-31T12:00:00Z",
//!  "rows": [{"provider": "…", "event": "…", "level": 2, "critical": 1, "counts": {"stored": 7}}],
//!  "sinks": {"archive": {"delivered": 7, "rejected": 0, "lost": 0}}}
//! ```

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tidegate_proto::time::{format_rfc3339, parse_rfc3339};

use super::Outcome;

/// An hour in nanoseconds.
const HOUR_NS: i64 = 3_600_000_000_000;

/// Counts of one kind of event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The provider's name.
    pub provider: String,
    /// The event's name.
    pub event: String,
    /// Its telemetry level; `None` for what was dropped before it had one.
    pub level: Option<u8>,
    /// Of them critical alerts.
    pub critical: u64,
    /// By outcome, see [`Outcome::index`].
    pub counts: [u64; Outcome::COUNT],
}

impl Row {
    /// Events in all.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What one sink settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SinkCounts {
    /// Delivered events.
    pub delivered: u64,
    /// Rejected ones.
    pub rejected: u64,
    /// Lost ones.
    pub lost: u64,
}

impl SinkCounts {
    pub(super) fn since(&self, old: &SinkCounts) -> SinkCounts {
        SinkCounts {
            delivered: self.delivered.saturating_sub(old.delivered),
            rejected: self.rejected.saturating_sub(old.rejected),
            lost: self.lost.saturating_sub(old.lost),
        }
    }

    /// Adds another's counts.
    pub fn add(&mut self, more: &SinkCounts) {
        self.delivered = self.delivered.saturating_add(more.delivered);
        self.rejected = self.rejected.saturating_add(more.rejected);
        self.lost = self.lost.saturating_add(more.lost);
    }
}

/// One hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hour {
    /// Its beginning, nanoseconds since 1970.
    pub start_ns: i64,
    /// Counts by kind of event.
    pub rows: Vec<Row>,
    /// Counts by sink.
    pub sinks: BTreeMap<String, SinkCounts>,
}

impl Hour {
    /// The beginning of the hour of a time.
    #[must_use]
    pub fn start_of(time_ns: i64) -> i64 {
        time_ns.div_euclid(HOUR_NS).saturating_mul(HOUR_NS)
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.sinks.is_empty()
    }

    /// Its stored form, without a line end.
    #[must_use]
    pub fn to_json(&self) -> String {
        let row = |r: &Row| {
            let mut out = Map::new();
            out.insert("provider".to_owned(), r.provider.clone().into());
            out.insert("event".to_owned(), r.event.clone().into());
            out.insert("level".to_owned(), r.level.into());
            if r.critical > 0 {
                out.insert("critical".to_owned(), r.critical.into());
            }
            let counts = r.counts.iter().enumerate().filter(|(_, c)| **c > 0);
            let counts: Map<_, _> = counts.map(|(n, c)| (Outcome::name(n).to_owned(), (*c).into())).collect();
            // by themselves: a reason to drop may be called as a member is
            out.insert("counts".to_owned(), counts.into());
            Value::Object(out)
        };
        let rows: Vec<Value> = self.rows.iter().map(row).collect();
        json!({ "hour": format_rfc3339(self.start_ns), "rows": rows, "sinks": self.sinks }).to_string()
    }

    /// Reads the stored form; `None` when it is none.
    #[must_use]
    pub fn from_json(line: &str) -> Option<Hour> {
        let value: Value = serde_json::from_str(line).ok()?;
        let row = |v: &Value| {
            let text = |key: &str| Some(v.get(key)?.as_str()?.to_owned());
            let number = |v: &Value, key: &str| v.get(key).and_then(Value::as_u64).unwrap_or(0);
            let told = v.get("counts")?;
            let mut counts = [0; Outcome::COUNT];
            for (n, count) in counts.iter_mut().enumerate() {
                *count = number(told, Outcome::name(n));
            }
            let level = v.get("level").and_then(Value::as_u64).and_then(|l| u8::try_from(l).ok());
            Some(Row {
                provider: text("provider")?,
                event: text("event")?,
                level,
                critical: number(v, "critical"),
                counts,
            })
        };
        Some(Hour {
            start_ns: Hour::start_of(parse_rfc3339(value.get("hour")?.as_str()?)?),
            rows: value.get("rows")?.as_array()?.iter().map(row).collect::<Option<_>>()?,
            sinks: serde_json::from_value(value.get("sinks")?.clone()).ok()?,
        })
    }
}
