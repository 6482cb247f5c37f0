//! What more leaves at a higher level, shown with real events.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use tidegate_proto::batch::{Batch, EventRef};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::wire::{BlockReader, SchemaInterner, WireError};
use tidegate_ring::{ReadLimit, Ring, RingError};

use super::rules::{Key, Rules};

/// One kind of event in a [`LevelDiff`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffRow {
    /// Provider.
    pub provider: String,
    /// Event.
    pub event: String,
    /// Its telemetry level, 0 to 3.
    pub level: u8,
    /// Events seen.
    pub events: u64,
    /// The deciding rule; empty where none knows the event.
    pub rule: String,
    /// The fields that leave only at the higher level; empty = the event as a whole.
    pub fields: BTreeSet<String>,
    /// Names of all fields of the first such event, as an example of what it tells.
    pub example: Vec<String>,
}

/// What leaves at one level and not at a lower one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelDiff {
    /// The lower level.
    pub from: u8,
    /// The higher level.
    pub to: u8,
    /// Events looked at.
    pub seen: u64,
    /// Of them, those that leave at both levels as they are.
    pub same: u64,
    /// Those that leave at neither.
    pub neither: u64,
    /// Events of which no row is kept, because there are more kinds than [`LevelDiff::ROWS`].
    pub more: u64,
    /// The kinds of events that leave, or leave with more fields, at the higher level only.
    pub rows: Vec<DiffRow>,
}

impl LevelDiff {
    /// Most kinds of events that are listed.
    pub const ROWS: usize = 10_000;
}

/// Why a ring could not be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffError {
    /// The ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A block that this version cannot read.
    #[error("a stored block cannot be read")]
    Unreadable(#[from] WireError),
}

/// Collects a [`LevelDiff`] from events as they are read.
#[derive(Debug)]
pub struct Differ<'r> {
    rules: &'r Rules,
    low: TelemetryLevel,
    high: TelemetryLevel,
    diff: LevelDiff,
    rows: BTreeMap<(String, String, u8), DiffRow>,
}

impl<'r> Differ<'r> {
    /// Compares two levels; their order does not matter.
    #[must_use]
    pub fn new(rules: &'r Rules, a: TelemetryLevel, b: TelemetryLevel) -> Differ<'r> {
        let (low, high) = (a.min(b), a.max(b));
        let diff = LevelDiff { from: low as u8, to: high as u8, ..LevelDiff::default() };
        Differ { rules, low, high, diff, rows: BTreeMap::new() }
    }

    /// Looks at one event. Slow path: works the rules out anew.
    pub fn push(&mut self, event: EventRef<'_>) {
        self.diff.seen += 1;
        let told = self.rules.explain(event);
        let Some(level) = told.level.filter(|l| *l <= self.high) else {
            self.diff.neither += 1;
            return;
        };
        let schema = event.schema();
        let mut fields = BTreeSet::new();
        if level <= self.low {
            let plan = self.rules.plan(0, Key::from(&**schema), &schema.fields);
            let between =
                |f: &super::rules::FieldPlan| f.level.is_some_and(|l| l > self.low && l <= self.high);
            fields.extend(
                plan.fields
                    .iter()
                    .zip(&schema.fields)
                    .filter(|(p, _)| between(p))
                    .map(|(_, d)| d.name.clone()),
            );
            if fields.is_empty() {
                self.diff.same += 1;
                return;
            }
        }
        let key = (schema.provider_name.clone(), schema.event_name.clone(), level as u8);
        if self.rows.len() >= LevelDiff::ROWS && !self.rows.contains_key(&key) {
            self.diff.more += 1;
            return;
        }
        let row = self.rows.entry(key).or_insert_with(|| DiffRow {
            provider: schema.provider_name.clone(),
            event: schema.event_name.clone(),
            level: level as u8,
            rule: told.rule.map(|r| r.name).unwrap_or_default(),
            example: schema.fields.iter().map(|f| f.name.clone()).collect(),
            ..DiffRow::default()
        });
        row.events += 1;
        row.fields.append(&mut fields);
    }

    /// Looks at everything that a ring holds, block by block.
    ///
    /// # Errors
    /// See [`DiffError`].
    pub fn push_all(&mut self, ring: &dyn Ring) -> Result<(), DiffError> {
        let limit = ReadLimit { bytes: 4 << 20, events: 100_000 };
        let mut after = ring.status().trimmed;
        let mut batch = Batch::new();
        loop {
            let read = ring.read(after, limit)?;
            if read.end <= after {
                return Ok(());
            }
            after = read.end;
            for block in &read.blocks {
                let mut known = SchemaInterner::new();
                batch.clear();
                BlockReader::new(&block.data, &mut known)?.read_into(&mut batch)?;
                batch.iter().for_each(|e| self.push(e));
            }
        }
    }

    /// The result, most frequent first.
    #[must_use]
    pub fn finish(self) -> LevelDiff {
        let mut rows: Vec<DiffRow> = self.rows.into_values().collect();
        rows.sort_by_key(|r| std::cmp::Reverse(r.events));
        LevelDiff { rows, ..self.diff }
    }
}

impl fmt::Display for LevelDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |l: u8| TelemetryLevel::from_u8(l).map_or("?", TelemetryLevel::as_str);
        let more: u64 = self.rows.iter().map(|r| r.events).sum::<u64>() + self.more;
        writeln!(
            f,
            "of {} events, {more} leave (or leave with more) at level {} {} and not at level {} {}",
            self.seen,
            self.to,
            name(self.to),
            self.from,
            name(self.from)
        )?;
        for row in &self.rows {
            let provider = if row.provider.is_empty() { "(no name)" } else { &row.provider };
            let event = if row.event.is_empty() { "(no name)" } else { &row.event };
            let rule = if row.rule.is_empty() { "no rule" } else { &row.rule };
            write!(
                f,
                "{:8}  {} {event}  level {} {}, {rule}; ",
                row.events,
                provider,
                row.level,
                name(row.level)
            )?;
            if row.fields.is_empty() {
                writeln!(f, "fields {}", row.example.join(", "))?;
            } else {
                writeln!(f, "only the fields {}", row.fields.iter().cloned().collect::<Vec<_>>().join(", "))?;
            }
        }
        if self.more > 0 {
            writeln!(f, "{:8}  of further kinds", self.more)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_proto::batch::{Batch, Head};
    use tidegate_proto::schema::{FieldDef, Schema, SchemaParts};

    #[test]
    fn a_diff_counts_what_leaves_at_the_higher_level_only() {
        let rules = Rules::builder()
            .and_then(|b| b.catalogue("own", "version = 1\n[[field]]\nname = \"Detail\"\nlevel = 2"))
            .and_then(super::super::RulesBuilder::build)
            .unwrap();
        let mut batch = Batch::new();
        for (event, fields, times) in [
            ("DriveInventory", vec!["Model"], 2),
            ("DriveState", vec!["Detail"], 1),
            ("Usage", vec!["Hours"], 3),
            ("Trace", vec![], 4),
        ] {
            let schema = Schema::new(SchemaParts {
                provider_name: "Contoso.StorageResource".to_owned(),
                event_name: event.to_owned(),
                fields: fields.iter().map(|n| FieldDef { name: (*n).to_owned(), tags: 0 }).collect(),
                ..SchemaParts::default()
            });
            (0..times).for_each(|_| batch.begin(&schema, Head::default()).finish());
        }
        let mut differ = Differ::new(&rules, TelemetryLevel::Enhanced, TelemetryLevel::Basic);
        batch.iter().for_each(|e| differ.push(e));
        let diff = differ.finish();
        assert_eq!((diff.from, diff.to, diff.seen, diff.same, diff.neither), (1, 2, 10, 2, 4));
        let rows: Vec<_> =
            diff.rows.iter().map(|r| (r.event.as_str(), r.events, r.level, r.fields.len())).collect();
        assert_eq!(rows, [("Usage", 3, 2, 0), ("DriveState", 1, 1, 1)]);
        let text = diff.to_string();
        assert!(
            text.starts_with("of 10 events, 4 leave") && text.contains("storage-usage; fields Hours"),
            "{text}"
        );
        assert!(text.contains("only the fields Detail"), "{text}");
    }
}
