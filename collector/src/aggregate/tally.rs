//! Counting on the way through the gate: a look into a small table for each event.

use std::collections::{BTreeMap, HashMap};

use tidegate_proto::schema::Schema;

use super::Outcome;
use super::hour::{Hour, Row, SinkCounts};

/// Kinds of events of one hour; more of them are counted together.
const MAX_ROWS: usize = 512;
/// Longest name, in characters.
const MAX_NAME: usize = 128;
/// Places of the table; two kinds that share one only cost time.
const CACHED: usize = 1024;
/// Levels, and none.
const LEVELS: u64 = 5;
/// What is counted together.
const OTHER: &str = "(other)";

/// The counts of one hour.
#[derive(Debug)]
pub struct Tally {
    hour: Hour,
    index: HashMap<(String, String, Option<u8>), usize>,
    /// Schema and level, and their row.
    cache: Vec<(u64, usize)>,
}

fn name(text: &str) -> String {
    text.chars().take(MAX_NAME).collect()
}

impl Tally {
    /// Nothing yet of the hour that begins at `start_ns`.
    #[must_use]
    pub fn new(start_ns: i64) -> Tally {
        Tally::go_on(Hour { start_ns, ..Hour::default() })
    }

    /// Goes on with what was counted of an hour.
    #[must_use]
    pub fn go_on(hour: Hour) -> Tally {
        let key = |r: &Row| (r.provider.clone(), r.event.clone(), r.level);
        let index = hour.rows.iter().enumerate().map(|(n, r)| (key(r), n)).collect();
        Tally { hour, index, cache: vec![(u64::MAX, 0); CACHED] }
    }

    /// When the hour begins.
    #[must_use]
    pub fn start(&self) -> i64 {
        self.hour.start_ns
    }

    /// What was counted so far.
    #[must_use]
    pub fn hour(&self) -> Hour {
        self.hour.clone()
    }

    /// Adds what sinks settled.
    pub fn add_sinks(&mut self, sinks: BTreeMap<String, SinkCounts>) {
        for (name, counts) in sinks {
            self.hour.sinks.entry(name).or_default().add(&counts);
        }
    }

    /// Counts an event.
    pub fn add(&mut self, schema: &Schema, critical: bool, outcome: Outcome) {
        let level = match outcome {
            Outcome::Stored(level) => Some(level as u8),
            Outcome::Dropped(_) => None,
        };
        let key = schema.id().wrapping_mul(LEVELS).wrapping_add(level.map_or(LEVELS - 1, u64::from));
        let slot = usize::try_from(key % CACHED as u64).unwrap_or(0);
        let row = match self.cache.get(slot) {
            Some((cached, row)) if *cached == key => *row,
            _ => {
                let row = self.row(&schema.provider_name, &schema.event_name, level);
                if let Some(cached) = self.cache.get_mut(slot) {
                    *cached = (key, row);
                }
                row
            }
        };
        let Some(row) = self.hour.rows.get_mut(row) else { return };
        if let Some(count) = row.counts.get_mut(outcome.index()) {
            *count += 1;
        }
        row.critical += u64::from(critical);
    }

    fn row(&mut self, provider: &str, event: &str, level: Option<u8>) -> usize {
        let mut key = (name(provider), name(event), level);
        if !self.index.contains_key(&key) && self.hour.rows.len() >= MAX_ROWS {
            key = (OTHER.to_owned(), OTHER.to_owned(), None);
        }
        let rows = &mut self.hour.rows;
        *self.index.entry(key).or_insert_with_key(|(provider, event, level)| {
            rows.push(Row {
                provider: provider.clone(),
                event: event.clone(),
                level: *level,
                ..Row::default()
            });
            rows.len() - 1
        })
    }
}
