//! Where a batch's events go: a path template, one file or blob for each distinct path.
//!
//! ```text
//! path = "{host}/level={level}/provider={provider}/dt={date}/hr={hour}"
//! name = path "/" first "-" last "-" tag suffix
//! ```
//!
//! # Names
//! `first` and `last` are the planned range in 20 digits, so names sort by place. `tag` are 16
//! hexadecimal digits of a SHA-256 over everything that tells one object of a batch from all
//! others: host, stream, epoch, range, the path's values as they were before they were made
//! fit for a path, and the suffix. So a name follows from the planned range and the partition,
//! and from nothing else: **not** from the events. That is on purpose. A range that is sent
//! again after the telemetry level was lowered, or a filter changed, has fewer events and
//! another content digest; were that digest in the name, a second object with the same events
//! would appear beside the first, and nothing short of listing the container could prevent it.
//! With this name the far side's own create-if-absent finds the first one. The digests of the
//! content stand in the object's metadata, and in the receipt.

use std::collections::BTreeMap;
use std::io;

use sha2::{Digest as _, Sha256};
use tidegate_proto::batch::EventRef;
use tidegate_proto::hex;
use tidegate_proto::ids::{Seq, SeqRange};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::time;

use crate::format::{Compression, Encoded, Encoder, Format};
use crate::{Origin, SinkBatch};

const HOUR_NS: i64 = 3_600_000_000_000;
/// Longest value of a placeholder in a path, in bytes.
const VALUE_MAX: usize = 100;
/// Stands for a value without a character.
const NAMELESS: &str = "_";

/// Why a path template is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayoutError {
    /// A placeholder that does not exist.
    #[error(
        "{{{0}}} is no placeholder; there are {{host}}, {{stream}}, {{level}}, {{provider}}, {{date}} and {{hour}}"
    )]
    Placeholder(String),
    /// A brace without its partner.
    #[error("a brace has no partner in \"{0}\"")]
    Brace(String),
    /// A part that leaves the container or folder, or cannot be a name.
    #[error("\"{0}\" cannot be a path: no empty parts, \".\", \"..\", backslashes or control characters")]
    Part(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Host,
    Stream,
    Level,
    Provider,
    Date,
    Hour,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Place(Place),
}

/// A path template and what the files are.
#[derive(Clone, Debug)]
pub struct Layout {
    pieces: Vec<Piece>,
    by_level: bool,
    by_provider: bool,
    by_hour: bool,
    by_date: bool,
    format: Format,
    compression: Compression,
}

/// What the events of one path have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Partition {
    level: Option<Option<TelemetryLevel>>,
    provider: Option<String>,
    /// Hours or days since 1970.
    time: Option<i64>,
}

/// One file or blob.
#[derive(Clone, Debug)]
pub struct Part {
    /// Path and name, parts divided by `/`.
    pub name: String,
    /// The name's tag, 16 hexadecimal digits.
    pub tag: String,
    /// Its bytes.
    pub encoded: Encoded,
}

impl Layout {
    /// Reads a template; empty means no path before the name.
    ///
    /// # Errors
    /// When it has an unknown placeholder or cannot be a path.
    pub fn new(path: &str, format: Format, compression: Compression) -> Result<Layout, LayoutError> {
        let mut pieces = Vec::new();
        let mut rest = path;
        while let Some((text, after)) = rest.split_once('{') {
            let brace = || LayoutError::Brace(path.to_owned());
            let (name, after) = after.split_once('}').ok_or_else(brace)?;
            let place = match name {
                "host" => Place::Host,
                "stream" => Place::Stream,
                "level" => Place::Level,
                "provider" => Place::Provider,
                "date" => Place::Date,
                "hour" => Place::Hour,
                other => return Err(LayoutError::Placeholder(other.to_owned())),
            };
            pieces.push(Piece::Text(text.to_owned()));
            pieces.push(Piece::Place(place));
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        if pieces.iter().any(|p| matches!(p, Piece::Text(t) if t.contains('}'))) {
            return Err(LayoutError::Brace(path.to_owned()));
        }
        let bad = |part: &str| matches!(part, "" | "." | "..") || part.ends_with('.');
        let odd = path.contains(|c: char| c.is_control() || c == '\\');
        if !path.is_empty() && (odd || path.split('/').any(bad)) {
            return Err(LayoutError::Part(path.to_owned()));
        }
        let has = |place| pieces.contains(&Piece::Place(place));
        Ok(Layout {
            by_level: has(Place::Level),
            by_provider: has(Place::Provider),
            by_hour: has(Place::Hour),
            by_date: has(Place::Date),
            pieces,
            format,
            compression,
        })
    }

    /// The format of the files.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The compression of the files.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// What all names of a host's stream begin with.
    #[must_use]
    pub fn prefix(&self, host: &str, stream: &str) -> String {
        let mut prefix = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => prefix.push_str(text),
                Piece::Place(Place::Host) => prefix.push_str(&fit(host)),
                Piece::Place(Place::Stream) => prefix.push_str(&fit(stream)),
                Piece::Place(_) => return prefix,
            }
        }
        if !prefix.is_empty() {
            prefix.push('/');
        }
        prefix
    }

    fn partition(&self, event: EventRef<'_>) -> Partition {
        let head = event.head();
        let unit = match (self.by_hour, self.by_date) {
            (true, _) => Some(HOUR_NS),
            (false, true) => Some(24 * HOUR_NS),
            (false, false) => None,
        };
        Partition {
            level: self.by_level.then_some(head.telemetry_level),
            provider: self.by_provider.then(|| event.schema().provider_name.clone()),
            time: unit.map(|u| head.time_ns.div_euclid(u)),
        }
    }

    /// Divides and encodes a batch. Lets other tasks run in between.
    ///
    /// # Errors
    /// As [`Encoder::finish`].
    ///
    /// # Cancel safety
    /// Nothing but memory is held.
    pub async fn parts(&self, batch: &SinkBatch) -> io::Result<Vec<Part>> {
        // encoded one after the other: a compressor takes megabytes
        let mut groups: BTreeMap<Partition, Vec<(Seq, EventRef<'_>)>> = BTreeMap::new();
        for (seq, event) in batch.iter() {
            groups.entry(self.partition(event)).or_default().push((seq, event));
        }
        let mut parts = Vec::with_capacity(groups.len());
        for (partition, events) in groups {
            let mut encoder = Encoder::new(self.format, self.compression)?;
            for (n, (seq, event)) in events.into_iter().enumerate() {
                encoder.push(seq, event)?;
                // some hundred microseconds of work
                if n % 256 == 255 {
                    tokio::task::yield_now().await;
                }
            }
            let (name, tag) = self.name(batch, &partition);
            parts.push(Part { name, tag, encoded: encoder.finish()? });
            tokio::task::yield_now().await;
        }
        Ok(parts)
    }

    fn name(&self, batch: &SinkBatch, partition: &Partition) -> (String, String) {
        let origin: &Origin = batch.origin();
        let range = batch.range();
        let level = partition.level.map(|l| l.map_or("Unknown", TelemetryLevel::as_str));
        let provider = partition.provider.as_deref();
        let (date, hour) = self.times(partition);
        let mut digest = Sha256::new();
        for part in [
            origin.host.as_str(),
            &origin.stream,
            &format!("{:016x}", origin.epoch),
            &range.to_string(),
            level.unwrap_or_default(),
            provider.unwrap_or_default(),
            &date,
            &hour,
            self.format.suffix(self.compression),
        ] {
            // lengths keep "ab","c" and "a","bc" apart
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let mut tag = hex::encode(&digest.finalize());
        tag.truncate(16);
        let mut name = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Place(Place::Host) => name.push_str(&fit(&origin.host)),
                Piece::Place(Place::Stream) => name.push_str(&fit(&origin.stream)),
                Piece::Place(Place::Level) => name.push_str(level.unwrap_or_default()),
                Piece::Place(Place::Provider) => name.push_str(&fit(provider.unwrap_or_default())),
                Piece::Place(Place::Date) => name.push_str(&date),
                Piece::Place(Place::Hour) => name.push_str(&hour),
            }
        }
        if !name.is_empty() {
            name.push('/');
        }
        let suffix = self.format.suffix(self.compression);
        name.push_str(&format!("{:020}-{:020}-{tag}{suffix}", range.first().0, range.last().0));
        (name, tag)
    }

    /// Date and hour of a partition, `2026-03-01` and `22`; empty where the path has none.
    fn times(&self, partition: &Partition) -> (String, String) {
        let Some(n) = partition.time else { return Default::default() };
        let unit = if self.by_hour { HOUR_NS } else { 24 * HOUR_NS };
        let text = time::format_rfc3339(n.saturating_mul(unit));
        let part = |at: std::ops::Range<usize>| text.get(at).unwrap_or_default().to_owned();
        (
            if self.by_date { part(0..10) } else { String::new() },
            if self.by_hour { part(11..13) } else { String::new() },
        )
    }
}

/// What a name of a file or blob tells, for reconciling a folder or container with receipts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named<'a> {
    /// The planned range.
    pub range: SeqRange,
    /// The 16 hexadecimal digits that tell the objects of a range apart.
    pub tag: &'a str,
}

impl<'a> Named<'a> {
    /// Reads a name, with or without its path; `None` when no [`Layout`] makes such names.
    #[must_use]
    pub fn parse(name: &'a str) -> Option<Named<'a>> {
        let name = name.rsplit(['/', '\\']).next()?;
        let mut parts = name.splitn(3, '-');
        let mut place = || {
            let digits = parts.next().filter(|p| p.len() == 20 && p.bytes().all(|b| b.is_ascii_digit()))?;
            digits.parse().ok().map(Seq)
        };
        let range = SeqRange::new(place()?, place()?)?;
        let (tag, _) = parts.next()?.split_once('.')?;
        let hex = tag.len() == 16 && tag.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then_some(Named { range, tag })
    }
}

/// A value as one part of a path: other characters than letters, digits, `.`, `_` and `-` of
/// ASCII become `_`. Two values may become equal; the name's tag tells them apart.
fn fit(value: &str) -> String {
    let mut text: String = value
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' })
        .take(VALUE_MAX)
        .collect();
    // ".", ".." and names that end in a dot mean something else to some file systems
    if text.ends_with('.') {
        text.pop();
        text.push('_');
    }
    if text.is_empty() { NAMELESS.to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{batch, batch_of};

    async fn parts(path: &str, batch: &SinkBatch) -> Vec<Part> {
        let layout = Layout::new(path, Format::Jsonl, Compression::None).unwrap();
        layout.parts(batch).await.unwrap()
    }

    fn lines(part: &Part) -> Vec<serde_json::Value> {
        let text = std::str::from_utf8(&part.encoded.bytes).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    #[tokio::test]
    async fn every_event_is_in_the_part_its_path_names() {
        let path = "{host}/{stream}/level={level}/provider={provider}/dt={date}/hr={hour}";
        let batch = batch(1, 300);
        let parts = parts(path, &batch).await;
        assert!(parts.len() > 10);
        let mut seen = Vec::new();
        for part in &parts {
            for event in lines(part) {
                let time = event["time"].as_str().unwrap();
                let provider = fit(event["provider"].as_str().unwrap_or(""));
                let level = event["telemetryLevel"].as_str().unwrap();
                let expected = format!(
                    "host-1/events/level={level}/provider={provider}/dt={}/hr={}/",
                    &time[..10],
                    &time[11..13]
                );
                assert!(part.name.starts_with(&expected), "{} {expected}", part.name);
                seen.push(event["seq"].as_u64().unwrap());
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (1..=300).collect::<Vec<_>>());
        let mut names: Vec<_> = parts.iter().map(|p| &p.name).collect();
        names.dedup();
        assert_eq!(names.len(), parts.len());
    }

    #[tokio::test]
    async fn a_name_follows_from_range_and_partition_not_from_the_events() {
        let whole = parts("{date}", &batch(1, 30)).await;
        let fewer = parts("{date}", &batch_of(1, 30, |n| n % 2 == 0)).await;
        assert_eq!(whole[0].name, fewer[0].name);
        assert_ne!(whole[0].encoded.canonical, fewer[0].encoded.canonical);
        let other = parts("{date}", &batch(1, 31)).await;
        assert_ne!(whole[0].name, other[0].name);
        let flat = parts("", &batch(7, 9)).await;
        for part in [&whole[0], &flat[0]] {
            assert_eq!(Named::parse(&part.name).unwrap().tag, part.tag);
        }
        let range = Named::parse(&flat[0].name).unwrap().range;
        assert_eq!((range.first(), range.last()), (Seq(7), Seq(9)));
        let start = "00000000000000000007-00000000000000000009-";
        assert!(flat[0].name.starts_with(start) && flat[0].name.ends_with(".jsonl"), "{}", flat[0].name);
    }

    #[test]
    fn templates_that_are_no_path_are_refused() {
        for bad in ["a//b", "/a", "a/", "../x", "a/./b", "a\\b", "a\u{0}", "x."] {
            assert!(matches!(new(bad), Err(LayoutError::Part(_))), "{bad}");
        }
        assert_eq!(new("{hots}").unwrap_err(), LayoutError::Placeholder("hots".to_owned()));
        for bad in ["{host", "host}", "{{host}}"] {
            assert!(new(bad).is_err(), "{bad}");
        }
        for good in ["", "a", "a/{host}-{hour}", "dt={date}"] {
            assert!(new(good).is_ok(), "{good}");
        }
    }

    fn new(path: &str) -> Result<Layout, LayoutError> {
        Layout::new(path, Format::Jsonl, Compression::None)
    }

    #[tokio::test]
    async fn every_name_of_a_host_begins_with_its_prefix() {
        let batch = batch(1, 50);
        for (path, prefix) in [
            ("", ""),
            ("{host}/{stream}/dt={date}", "host-1/events/dt="),
            ("logs/{host}", "logs/host-1/"),
            ("{level}/{host}", ""),
        ] {
            assert_eq!(new(path).unwrap().prefix("host-1", "events"), prefix);
            assert!(parts(path, &batch).await.iter().all(|p| p.name.starts_with(prefix)), "{path}");
        }
    }

    #[test]
    fn names_that_no_layout_makes_are_none() {
        let name = format!("{:020}-{:020}-0123456789abcdef.jsonl.zst", 3, 9);
        for path in [name.clone(), format!("a/b/{name}"), format!("a\\b\\{name}")] {
            assert_eq!(Named::parse(&path).unwrap().tag, "0123456789abcdef");
        }
        let backwards = format!("{:020}-{:020}-0123456789abcdef.jsonl", 9, 3);
        let large = format!("{0}-{0}-0123456789abcdef.jsonl", "9".repeat(20));
        for bad in ["", "a/b/", "readme.txt", &name[1..], &name.replace("abc", "xyz"), &backwards, &large] {
            assert_eq!(Named::parse(bad), None, "{bad}");
        }
        assert_eq!(Named::parse(name.split_once('.').unwrap().0), None);
    }

    #[test]
    fn values_cannot_leave_their_part_of_the_path() {
        for (value, text) in [("", "_"), ("..", "._"), ("a/b\\c", "a_b_c"), ("Ω x", "__x"), (".", "_")] {
            assert_eq!(fit(value), text);
        }
        assert_eq!(fit(&"x".repeat(500)).len(), VALUE_MAX);
    }
}
