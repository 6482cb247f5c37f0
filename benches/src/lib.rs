//! Payloads for the benches: made from a seed, outside of what is measured.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_proto::batch::{Batch, Head, NO_NAME};
use tidegate_proto::schema::{Decoder, FieldDef, Schema, SchemaParts};
use tidegate_proto::value::{Format, ValueRef};

/// A trace of the test data, by its path without ending.
#[must_use]
pub fn trace(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/etl/traces").join(format!("{name}.etl"))
}

/// A stream of numbers that is the same on every machine (SplitMix64).
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Seeded {
        Seeded(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

const FIELDS: [&str; 6] = ["path", "status", "bytes", "duration", "ids", "note"];
const NOTES: [&str; 4] = [
    "opened",
    "user alice@example.org asked for \\\\server\\share\\report.docx",
    "request from 192.0.2.17 took too long",
    "all good, nothing to see here, the usual line of a log",
];

/// `events` events of 16 kinds, each about 256 bytes when encoded: texts, numbers and an array,
/// with something to scrub in every second one. Keywords spread over all telemetry levels.
#[must_use]
pub fn events(events: usize, seed: u64) -> Batch {
    let kind = |n: usize| {
        Schema::new(SchemaParts {
            provider_name: format!("Contoso.Service{}", n % 4),
            provider_guid: [u8::try_from(n % 4).unwrap_or(0) + 1; 16],
            event_name: format!("Request{n}"),
            decoder: Decoder::Synthetic,
            fields: FIELDS.iter().map(|f| FieldDef { name: (*f).to_owned(), tags: 0 }).collect(),
            ..SchemaParts::default()
        })
    };
    let kinds: Vec<Arc<Schema>> = (0..16).map(kind).collect();
    let mut random = Seeded::new(seed);
    let mut batch = Batch::new();
    for n in 0..events {
        let r = random.next_u64();
        let Some(schema) = kinds.get((r % 16) as usize) else { continue };
        let head = Head {
            time_ns: 1_700_000_000_000_000_000 + 1000 * i64::try_from(n).unwrap_or(0),
            keyword: 1 << (44 + (r >> 8) % 4),
            pid: (r >> 16) as u32 & 0xffff,
            tid: (r >> 24) as u32 & 0xffff,
            id: (r % 16) as u16,
            level: 4,
            ..Head::default()
        };
        let mut event = batch.begin(schema, head);
        let path = format!("/api/v2/items/{:016x}/parts/{}", random.next_u64(), r % 1000);
        event.value(0, Format::Default, ValueRef::Str(&path));
        event.value(1, Format::Default, ValueRef::U32((r % 600) as u32));
        event.value(2, Format::Default, ValueRef::U64(r >> 40));
        event.value(3, Format::Default, ValueRef::F64((r % 1_000_000) as f64 / 1e3));
        event.begin_array(4);
        for _ in 0..8 {
            event.value(NO_NAME, Format::Default, ValueRef::U64(random.next_u64()));
        }
        event.end();
        let note = NOTES.get(n % NOTES.len()).copied().unwrap_or_default();
        event.value(5, Format::Default, ValueRef::Str(note));
        event.finish();
    }
    batch
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_same_seed_gives_the_same_events() {
        let text = |seed| format!("{:?}", super::events(20, seed).iter().collect::<Vec<_>>());
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }
}
