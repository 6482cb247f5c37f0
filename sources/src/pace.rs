//! How fast recorded events are replayed, and which part of them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use tidegate_proto::time::{format_rfc3339, parse_rfc3339};
use tokio::time::Instant;

/// Fastest and slowest multiple.
const LIMITS: (f64, f64) = (0.001, 1e6);
/// Events that are due within this time go together.
const SLICE: Duration = Duration::from_millis(20);

/// How fast recorded events are replayed. In configuration and on the command line
/// `"flat-out"`, `"recorded"`, or a multiple: `2`, `"0.5"`, `"10x"`.
///
/// The time between the files of a list is left out: each begins at once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Pace {
    /// As fast as they are taken.
    #[default]
    FlatOut,
    /// This many times as fast as they were recorded; 1 = as recorded.
    Times(f64),
}

/// A text that is no pace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no speed; use flat-out, recorded, or a multiple from 0.001 to 1000000 such as 10x")]
pub struct UnknownPace(String);

impl Pace {
    /// A multiple of the recorded speed, from 0.001 to 1,000,000.
    #[must_use]
    pub fn times(factor: f64) -> Option<Pace> {
        (LIMITS.0..=LIMITS.1).contains(&factor).then_some(Pace::Times(factor))
    }

    /// Nanoseconds between events that still go together; `None`: all do.
    pub(crate) fn slice_ns(self) -> Option<i64> {
        match self {
            Pace::FlatOut => None,
            Pace::Times(factor) => Some((SLICE.as_nanos() as f64 * factor) as i64),
        }
    }
}

impl FromStr for Pace {
    type Err = UnknownPace;
    fn from_str(s: &str) -> Result<Pace, UnknownPace> {
        let unknown = || UnknownPace(s.chars().take(40).collect());
        match s {
            "flat-out" | "flat" | "max" => Ok(Pace::FlatOut),
            "recorded" | "as-recorded" => Ok(Pace::Times(1.0)),
            _ => {
                let factor = s.strip_suffix('x').unwrap_or(s).parse().map_err(|_| unknown())?;
                Pace::times(factor).ok_or_else(unknown)
            }
        }
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pace::FlatOut => f.write_str("flat-out"),
            Pace::Times(factor) if *factor == 1.0 => f.write_str("recorded"),
            Pace::Times(factor) => write!(f, "{factor}x"),
        }
    }
}

impl Serialize for Pace {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pace {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Pace, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Pace;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"flat-out\", \"recorded\" or a multiple")
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Pace, E> {
                s.parse().map_err(E::custom)
            }
            fn visit_f64<E: de::Error>(self, n: f64) -> Result<Pace, E> {
                Pace::times(n).ok_or_else(|| E::custom(UnknownPace(n.to_string())))
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Pace, E> {
                self.visit_f64(n as f64)
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Pace, E> {
                self.visit_f64(n as f64)
            }
        }
        from.deserialize_any(Read)
    }
}

/// A point in time as RFC 3339 text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Nanoseconds since 1970, UTC.
    pub unix_ns: i64,
}

impl FromStr for Timestamp {
    type Err = String;
    fn from_str(s: &str) -> Result<Timestamp, String> {
        parse_rfc3339(s)
            .map(|unix_ns| Timestamp { unix_ns })
            .ok_or_else(|| format!("\"{s}\" is no time; write it as 2026-01-31T08:00:00Z"))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format_rfc3339(self.unix_ns))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Which events of a recording are replayed, by their time. Gaps always are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The earliest, nanoseconds since 1970.
    pub from_ns: Option<i64>,
    /// The first that is left out again.
    pub to_ns: Option<i64>,
}

impl Window {
    /// Whether it leaves nothing out.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Window::default()
    }

    /// Whether an event of this time is replayed.
    #[must_use]
    pub fn holds(&self, time_ns: i64) -> bool {
        self.from_ns.is_none_or(|from| from <= time_ns) && self.to_ns.is_none_or(|to| time_ns < to)
    }
}

/// Tells when an event is due. Begins with the first event it is asked about.
#[derive(Debug)]
pub(crate) struct Pacer {
    factor: f64,
    anchor: Option<(i64, Instant)>,
    last_ns: i64,
}

/// Time that runs back further than this begins anew.
const BACK_NS: i64 = 1_000_000_000;

impl Pacer {
    /// `None` when nothing ever waits.
    pub(crate) fn new(pace: Pace) -> Option<Pacer> {
        match pace {
            Pace::FlatOut => None,
            Pace::Times(factor) => Some(Pacer { factor, anchor: None, last_ns: 0 }),
        }
    }

    /// The next event is due at once.
    pub(crate) fn restart(&mut self) {
        self.anchor = None;
    }

    pub(crate) fn due(&mut self, time_ns: i64) -> Instant {
        if self.last_ns.saturating_sub(time_ns) > BACK_NS {
            self.anchor = None;
        }
        self.last_ns = time_ns;
        let now = Instant::now();
        let (from_ns, from) = *self.anchor.get_or_insert((time_ns, now));
        let ahead = time_ns.saturating_sub(from_ns).max(0) as f64 / self.factor;
        // far beyond any trace, and within what an instant can hold
        const LONGEST: f64 = 1e18;
        from.checked_add(Duration::from_nanos(ahead.min(LONGEST) as u64)).unwrap_or(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paces_are_read_and_shown() {
        for (text, pace, shown) in [
            ("flat-out", Pace::FlatOut, "flat-out"),
            ("recorded", Pace::Times(1.0), "recorded"),
            ("10x", Pace::Times(10.0), "10x"),
            ("0.5", Pace::Times(0.5), "0.5x"),
        ] {
            assert_eq!(text.parse(), Ok(pace));
            assert_eq!(pace.to_string(), shown);
            assert_eq!(shown.parse(), Ok(pace));
        }
        for bad in ["", "x", "0", "-1", "NaN", "inf", "1e9", "fast"] {
            assert!(bad.parse::<Pace>().is_err(), "{bad}");
        }
        assert_eq!(serde_json::from_str::<Pace>("2").unwrap(), Pace::Times(2.0));
        assert_eq!(serde_json::from_str::<Pace>("\"recorded\"").unwrap(), Pace::Times(1.0));
        assert!(serde_json::from_str::<Pace>("0").is_err());
    }

    #[test]
    fn a_window_holds_its_start_and_not_its_end() {
        let window = Window { from_ns: Some(10), to_ns: Some(20) };
        assert!(!window.holds(9) && window.holds(10) && window.holds(19) && !window.holds(20));
        assert!(Window::default().is_all() && Window::default().holds(i64::MIN));
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_due_as_they_were_recorded() {
        let mut pacer = Pacer::new(Pace::Times(2.0)).unwrap();
        let start = Instant::now();
        assert_eq!(pacer.due(5_000_000_000), start);
        assert_eq!(pacer.due(7_000_000_000), start + Duration::from_secs(1));
        // a little back is disorder, far back is another recording
        assert_eq!(pacer.due(6_900_000_000), start + Duration::from_millis(950));
        assert_eq!(pacer.due(1_000_000_000), start);
        assert_eq!(pacer.due(1_000_000_002), start + Duration::from_nanos(1));
        assert!(pacer.due(i64::MAX) > start);
    }
}
