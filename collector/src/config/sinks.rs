//! What the dispatcher needs to know of a sink; the rest of a `[sinks.NAME]` is the sink's own.

use std::path::PathBuf;
use std::time::Duration;

use tidegate_proto::level::TelemetryLevel;
use tidegate_sinks::SinkConfig;

use super::Host;
use super::section::Section;
use crate::gate::glob::Glob;

/// `[sinks.NAME]`
#[derive(Clone, Debug)]
pub struct SinkSection {
    /// Its name: the key of its cursor and of its side of the account.
    pub name: String,
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
    /// `paused`: nothing is sent to it, and the ring keeps events for it. Default: `false`.
    pub paused: bool,
    /// `dead_letters`: the file for events that the far side refuses for good. Default:
    /// `dead/NAME.jsonl` beside the ring's folder.
    pub dead_letters: Option<PathBuf>,
    /// Everything else, `type` included.
    pub config: SinkConfig,
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
    /// `None` where the sink's own part is wrong; what is wrong is noted.
    pub(super) fn read(name: String, s: &Section<'_>) -> Option<SinkSection> {
        let orders = [
            ("oldest-first", Order::OldestFirst),
            ("newest-first", Order::NewestFirst),
            ("interleaved", Order::Interleaved),
        ];
        let start = s.choice("start", &[("oldest", Start::Oldest), ("now", Start::Now)]);
        let order = s.choice("order", &orders);
        let (filter, retry) = (filter(s.table("filter")), retry(s.table("retry")));
        let events_per_second = s.number("max_events_per_second", 1, 1 << 40);
        let bytes_per_second = s.bytes("max_bytes_per_second", 1, 1 << 50);
        let paused = s.bool("paused").unwrap_or_default();
        let dead_letters = s.file("dead_letters");
        let config = s.rest_as::<SinkConfig>("sink", &name)?;
        Some(SinkSection {
            name,
            start: start.unwrap_or_default(),
            order: order.unwrap_or_default(),
            filter,
            retry,
            events_per_second,
            bytes_per_second,
            paused,
            dead_letters,
            config,
        })
    }
}

/// Notes a sink whose files or blobs would have the names of another's: a name follows from the events' places
/// alone, so the one would replace what the other has delivered.
pub(super) fn check_names(sink: &SinkSection, others: &[SinkSection], host: &Host, s: &Section<'_>) {
    let names = |sink: &SinkSection| sink.config.names(&host.name, &host.stream);
    let Some(own) = names(sink) else { return };
    if let Some(other) = others.iter().find(|other| names(other).as_ref() == Some(&own)) {
        let (one, two) = (&other.name, &sink.name);
        let text = format!(
            "sinks \"{one}\" and \"{two}\" both write {own}, so each would replace what the other has written, \
             whatever their filters: give one of them another layout"
        );
        s.wrong("layout", text);
    }
}

fn filter(f: Section<'_>) -> FilterConfig {
    let patterns = |key: &'static str| {
        let list = f.texts(key);
        if let Some(e) = list.iter().find_map(|p| Glob::new(p).err()) {
            f.wrong(key, e);
        }
        list
    };
    let filter = FilterConfig {
        level: f.level("level"),
        providers: patterns("providers"),
        not_providers: patterns("not_providers"),
        events: patterns("events"),
        not_events: patterns("not_events"),
    };
    f.finish();
    filter
}

fn retry(r: Section<'_>) -> RetryConfig {
    let default = RetryConfig::default();
    let (ms, day) = (Duration::from_millis(1), Duration::from_secs(86_400));
    let first = r.duration("first", ms, day).unwrap_or(default.first);
    let breaker = r.number("breaker", 1, 1000).and_then(|n| u32::try_from(n).ok());
    let retry = RetryConfig {
        first,
        most: r.duration("most", first, day).unwrap_or(default.most.max(first)),
        held: r.duration("held", first, day).unwrap_or(default.held.max(first)),
        breaker: breaker.unwrap_or(default.breaker),
    };
    r.finish();
    retry
}
