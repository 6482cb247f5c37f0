//! Which events of a trace are wanted.

use tidegate_etl::Record;
use tidegate_proto::batch::EventRef;
use tidegate_proto::{guid, own, time};

use super::exit::{Exit, Failure};
use crate::gate::glob::Glob;

/// Flags that choose events. Several of one flag: any of them; different flags: all of them.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Which events")]
pub(super) struct Options {
    /// Of this provider: name (`*` and `?` allowed) or GUID. May be repeated.
    #[arg(long, value_name = "NAME|GUID")]
    provider: Vec<String>,
    /// Of this name (`*` and `?` allowed) or event id. May be repeated.
    #[arg(long, value_name = "NAME|ID")]
    event: Vec<String>,
    /// Not before: an RFC 3339 time, or +DURATION from the start of the trace (+90s, +250ms, +2h).
    #[arg(long, value_name = "TIME", value_parser = parse_when)]
    since: Option<When>,
    /// Before this time; same forms.
    #[arg(long, value_name = "TIME", value_parser = parse_when)]
    until: Option<When>,
    /// Of this process id. May be repeated.
    #[arg(long, value_name = "PID", value_parser = parse_number)]
    process: Vec<u64>,
    /// Up to this ETW level: critical, error, warning, info, verbose or a number. (Level 0, "always", is
    /// never left out.)
    #[arg(long, value_name = "LEVEL", value_parser = parse_etw_level)]
    etw_level: Option<u8>,
    /// With any of these keyword bits, or no keyword at all, as ETW itself selects.
    #[arg(long, value_name = "MASK", value_parser = parse_number)]
    keyword: Option<u64>,
}

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Nanoseconds since 1970.
    At(i64),
    /// Nanoseconds after the start of the trace.
    After(i64),
}

impl When {
    fn resolve(self, start_ns: i64) -> i64 {
        match self {
            When::At(ns) => ns,
            When::After(ns) => start_ns.saturating_add(ns),
        }
    }
}

fn parse_when(text: &str) -> Result<When, String> {
    let wrong = || {
        format!(
            "\"{text}\" is no time; write 2026-01-31T12:00:00Z, or +90s from the start (ns, us, ms, s, m, h)"
        )
    };
    let Some(rest) = text.strip_prefix('+') else {
        return time::parse_rfc3339(text).map(When::At).ok_or_else(wrong);
    };
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (number, unit) = rest.split_at(digits);
    let scale = match unit {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "" | "s" => 1_000_000_000,
        "m" | "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(wrong()),
    };
    let ns = number.parse::<i64>().ok().and_then(|n| n.checked_mul(scale)).ok_or_else(wrong)?;
    Ok(When::After(ns))
}

fn parse_number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("\"{text}\" is no number; write 42 or 0x2a"))
}

fn parse_etw_level(text: &str) -> Result<u8, String> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "critical" => 1,
        "error" => 2,
        "warning" | "warn" => 3,
        "info" | "information" => 4,
        "verbose" => 5,
        other => other.parse().map_err(|_| {
            format!("\"{text}\" is no ETW level; use critical, error, warning, info, verbose or 0 to 255")
        })?,
    })
}

#[derive(Debug)]
enum Name {
    Guid([u8; 16]),
    Id(u16),
    Text(Glob),
}

/// The filter of one trace.
#[derive(Debug)]
pub(super) struct Filter {
    providers: Vec<Name>,
    events: Vec<Name>,
    from: i64,
    to: i64,
    processes: Vec<u64>,
    etw_level: Option<u8>,
    keyword: Option<u64>,
    all: bool,
}

impl Options {
    /// The filter for a trace that starts at `start_ns`.
    pub(super) fn filter(&self, start_ns: i64) -> Result<Filter, Failure> {
        let name = |flag: &str, text: &String| {
            Glob::new(text).map(Name::Text).map_err(|e| Failure::new(Exit::Usage, format!("{flag}: {e}")))
        };
        let provider = |text: &String| match guid::parse(text) {
            Some(guid) => Ok(Name::Guid(guid)),
            None => name("--provider", text),
        };
        let event = |text: &String| match parse_number(text).ok().and_then(|n| u16::try_from(n).ok()) {
            Some(id) => Ok(Name::Id(id)),
            None => name("--event", text),
        };
        let from = self.since.map_or(i64::MIN, |w| w.resolve(start_ns));
        let to = self.until.map_or(i64::MAX, |w| w.resolve(start_ns));
        if from >= to {
            return Err(Failure::new(Exit::Usage, "--since is not before --until").hint("swap them"));
        }
        Ok(Filter {
            providers: self.provider.iter().map(provider).collect::<Result<_, _>>()?,
            events: self.event.iter().map(event).collect::<Result<_, _>>()?,
            from,
            to,
            processes: self.process.clone(),
            etw_level: self.etw_level,
            keyword: self.keyword,
            all: !self.given(),
        })
    }

    /// The flags that were given, in words, for a log; none of them is secret.
    pub(super) fn told(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut list = |flag: &str, values: &[String]| {
            if !values.is_empty() {
                out.push(format!("{flag} {}", values.join(" or ")));
            }
        };
        list("provider", &self.provider);
        list("event", &self.event);
        list("process", &self.process.iter().map(u64::to_string).collect::<Vec<_>>());
        let when = |w: When| time::format_rfc3339(w.resolve(0));
        list("since", &self.since.map(when).into_iter().collect::<Vec<_>>());
        list("until", &self.until.map(when).into_iter().collect::<Vec<_>>());
        list("ETW level", &self.etw_level.iter().map(u8::to_string).collect::<Vec<_>>());
        list("keyword", &self.keyword.iter().map(|k| format!("{k:#x}")).collect::<Vec<_>>());
        out
    }

    /// Whether any flag was given.
    pub(super) fn given(&self) -> bool {
        !(self.provider.is_empty() && self.event.is_empty() && self.process.is_empty())
            || self.since.is_some()
            || self.until.is_some()
            || self.etw_level.is_some()
            || self.keyword.is_some()
    }
}

impl Filter {
    fn in_time(&self, time_ns: i64) -> bool {
        self.from <= time_ns && (time_ns < self.to || self.to == i64::MAX)
    }

    fn head(&self, time_ns: i64, pid: u32, level: u8, keyword: u64) -> bool {
        self.in_time(time_ns)
            && (self.processes.is_empty() || self.processes.contains(&u64::from(pid)))
            && self.etw_level.is_none_or(|most| level <= most)
            && self.keyword.is_none_or(|mask| keyword == 0 || keyword & mask != 0)
    }

    /// The part of a span of time (first, last) that is wanted.
    pub(super) fn window(&self, (first, last): (i64, i64)) -> (i64, i64) {
        (first.max(self.from), last.min(self.to))
    }

    /// Decides by what is known before the payload is decoded; what passes is asked again with
    /// [`Filter::event`].
    pub(super) fn record(&self, record: &Record<'_>, time_ns: i64) -> bool {
        self.all || self.head(time_ns, record.pid, record.level, record.keyword)
    }

    /// Decides by everything. Gaps pass whatever their process, level and keyword: they may
    /// stand for what was asked for.
    pub(super) fn event(&self, event: EventRef<'_>) -> bool {
        self.all || self.judge(event, event.schema().provider_guid == own::PROVIDER_GUID)
    }

    /// As [`Filter::event`], without an exception for gaps.
    pub(super) fn strictly(&self, event: EventRef<'_>) -> bool {
        self.all || self.judge(event, false)
    }

    fn judge(&self, event: EventRef<'_>, gap: bool) -> bool {
        let (head, schema) = (event.head(), event.schema());
        let in_head = if gap {
            self.in_time(head.time_ns)
        } else {
            self.head(head.time_ns, head.pid, head.level, head.keyword)
        };
        let provider = |name: &Name| match name {
            Name::Guid(guid) => *guid == schema.provider_guid,
            Name::Text(glob) => glob.matches(&schema.provider_name),
            Name::Id(_) => false,
        };
        let named = |name: &Name| match name {
            Name::Id(id) => *id == head.id,
            Name::Text(glob) => glob.matches(&schema.event_name),
            Name::Guid(_) => false,
        };
        in_head
            && (self.providers.is_empty() || self.providers.iter().any(provider))
            && (self.events.is_empty() || self.events.iter().any(named))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tidegate_proto::batch::{Batch, Head};
    use tidegate_proto::schema::{Schema, SchemaParts};

    #[test]
    fn times_are_absolute_or_from_the_start() {
        assert_eq!(parse_when("1970-01-01T00:00:01Z"), Ok(When::At(1_000_000_000)));
        assert_eq!(parse_when("+90s"), Ok(When::After(90_000_000_000)));
        assert_eq!(parse_when("+250ms"), Ok(When::After(250_000_000)));
        assert_eq!(When::After(5).resolve(100), 105);
        for wrong in ["", "+", "+s", "+5x", "yesterday", "+99999999999999999999h", "+9999999999999h"] {
            assert!(parse_when(wrong).is_err(), "{wrong}");
        }
    }

    fn passes(options: &Options, head: Head, name: &str) -> bool {
        let parts = SchemaParts {
            provider_name: "Contoso.Disk".into(),
            event_name: name.into(),
            ..SchemaParts::default()
        };
        let mut batch = Batch::new();
        let schema: Arc<Schema> = Schema::new(parts);
        batch.begin(&schema, head).finish();
        let filter = options.filter(0).unwrap();
        batch.iter().all(|e| filter.event(e))
    }

    #[test]
    fn every_flag_must_agree_and_one_of_its_values() {
        let head = Head { pid: 7, level: 4, keyword: 0x10, id: 3, time_ns: 50, ..Head::default() };
        let none = Options::default();
        assert!(passes(&none, head, "Full"));
        let provider = |p: &str| Options { provider: vec!["Other".into(), p.into()], ..none.clone() };
        assert!(passes(&provider("contoso.*"), head, "Full"));
        assert!(!passes(&provider("contoso"), head, "Full"));
        let event = |e: &str| Options { event: vec![e.into()], ..none.clone() };
        assert!(passes(&event("3"), head, "Full") && !passes(&event("4"), head, "Full"));
        assert!(passes(&event("F?ll"), head, "Full") && !passes(&event("Fall"), head, "Full"));
        assert!(!passes(&Options { process: vec![8], ..none.clone() }, head, "Full"));
        assert!(!passes(&Options { etw_level: Some(3), ..none.clone() }, head, "Full"));
        assert!(passes(&Options { keyword: Some(0x30), ..none.clone() }, head, "Full"));
        assert!(!passes(&Options { keyword: Some(0x20), ..none.clone() }, head, "Full"));
        let window =
            |from, to| Options { since: Some(When::At(from)), until: Some(When::At(to)), ..none.clone() };
        assert!(passes(&window(50, 51), head, "Full") && !passes(&window(51, 60), head, "Full"));
        assert!(!passes(&window(40, 50), head, "Full") && window(5, 5).filter(0).is_err());
    }

    #[test]
    fn a_gap_is_shown_whatever_process_and_level_were_asked_for() {
        let mut batch = Batch::new();
        own::push_gap(&mut batch, &own::Gap { time_ns: 50, ..own::Gap::default() });
        let options = Options { process: vec![8], etw_level: Some(1), ..Options::default() };
        let filter = options.filter(0).unwrap();
        assert!(batch.iter().all(|e| filter.event(e)));
        assert!(!batch.iter().any(|e| filter.strictly(e)), "it is not taken for what was asked for");
    }
}
