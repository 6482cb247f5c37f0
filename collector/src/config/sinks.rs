//! What the dispatcher needs to know of a sink; the rest of a `[sinks.NAME]` is the sink's own.

use std::path::PathBuf;
use std::time::Duration;

use tidegate_proto::level::TelemetryLevel;

use super::section::Section;

/// `[sinks.NAME]`
#[derive(Clone, Debug)]
pub struct SinkSection {
    /// Its name: the key of its cursor and of its side of the account.
    pub name: String,
    /// `type`.
    pub kind: String,
    /// `start`: where it begins when the ring does not know it yet. Default: `oldest`.
    pub start: Start,
    /// `order`: what is sent first after an outage. Default: `oldest-first`.
    pub order: Order,
    /// `[sinks.NAME.filter]`: what it gets. Default: everything.
    pub filter: FilterConfig,
    /// `[sinks.NAME.retry]`
    pub retry: RetryConfig,
    /// `max_events_per_second`. Default: no limit.
    pub events_per_second: Option<u64>,
    /// `max_bytes_per_second`, of encoded protobuf before compression. Default: no limit.
    pub bytes_per_second: Option<u64>,
    /// `dead_letters`: the file for events that the far side refuses for good. Default:
    /// `dead/NAME.jsonl` beside the ring's folder.
    pub dead_letters: Option<PathBuf>,
    /// Everything else, `type` included, as the sink reads it.
    pub table: toml::Table,
}

/// Where a new sink begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// `oldest`: with what is in the ring.
    #[default]
    Oldest,
    /// `now`: with what comes next.
    Now,
}

/// What is sent first when there is a backlog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// `oldest-first`
    #[default]
    OldestFirst,
    /// `newest-first`
    NewestFirst,
    /// `interleaved`: oldest and newest in turn.
    Interleaved,
}

/// What a sink gets. All conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterConfig {
    /// `level`: nothing above it.
    pub level: Option<TelemetryLevel>,
    /// `providers`: patterns of provider names; empty = all.
    pub providers: Vec<String>,
    /// `not_providers`: patterns of provider names that it does not get.
    pub not_providers: Vec<String>,
    /// `events`: patterns of event names; empty = all.
    pub events: Vec<String>,
    /// `not_events`: patterns of event names that it does not get.
    pub not_events: Vec<String>,
}

/// How often a failed delivery is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryConfig {
    /// `first`: shortest pause. Default: 500 ms.
    pub first: Duration,
    /// `most`: longest pause. Default: 2 minutes.
    pub most: Duration,
    /// `held`: how often a sink is tried that waits for someone to act. Default: 5 minutes.
    pub held: Duration,
    /// `breaker`: failures in a row after which one delivery at a time is tried. Default: 5.
    pub breaker: u32,
}

impl Default for RetryConfig {
    fn default() -> RetryConfig {
        RetryConfig {
            first: Duration::from_millis(500),
            most: Duration::from_secs(120),
            held: Duration::from_secs(300),
            breaker: 5,
        }
    }
}

impl SinkSection {
    pub(super) fn read(name: String, s: Section<'_>) -> SinkSection {
        let start = s.choice("start", &[("oldest", Start::Oldest), ("now", Start::Now)]);
        let orders = [
            ("oldest-first", Order::OldestFirst),
            ("newest-first", Order::NewestFirst),
            ("interleaved", Order::Interleaved),
        ];
        let f = s.table("filter");
        let filter = FilterConfig {
            level: f.level("level"),
            providers: f.texts("providers"),
            not_providers: f.texts("not_providers"),
            events: f.texts("events"),
            not_events: f.texts("not_events"),
        };
        f.finish();
        let r = s.table("retry");
        let default = RetryConfig::default();
        let (ms, day) = (Duration::from_millis(1), Duration::from_secs(86_400));
        let first = r.duration("first", ms, day).unwrap_or(default.first);
        let retry = RetryConfig {
            first,
            most: r.duration("most", first, day).unwrap_or(default.most.max(first)),
            held: r.duration("held", first, day).unwrap_or(default.held.max(first)),
            breaker: r
                .number("breaker", 1, 1000)
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(default.breaker),
        };
        r.finish();
        let mut sink = SinkSection {
            name,
            kind: String::new(),
            start: start.unwrap_or_default(),
            order: s.choice("order", &orders).unwrap_or_default(),
            filter,
            retry,
            events_per_second: s.number("max_events_per_second", 1, 1 << 40),
            bytes_per_second: s.bytes("max_bytes_per_second", 1, 1 << 50),
            dead_letters: s.path("dead_letters"),
            table: s.rest(),
        };
        sink.kind = s.text("type").unwrap_or_default();
        if sink.kind.is_empty() {
            s.wrong("type", format!("sink \"{}\" needs a type", sink.name));
        }
        sink
    }
}
