//! Batches with events of several shapes, the same for the same range.

use std::sync::Arc;

use tidegate_proto::batch::{Batch, ExtKey, Head};
use tidegate_proto::ids::{Seq, SeqRange};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::schema::{Decoder, FieldDef, Schema, SchemaParts};
use tidegate_proto::value::{Format, ValueRef};

use crate::{Origin, SinkBatch};

/// 2026-03-01T22:30:00Z: batches reach over an hour and a day.
const START_NS: i64 = 1_772_404_200_000_000_000;

/// An origin for tests.
#[must_use]
pub fn origin() -> Arc<Origin> {
    Arc::new(Origin { host: "host-1".to_owned(), stream: "events".to_owned(), epoch: 0xfeed_0042 })
}

/// A batch of every place in `first..=last`.
///
/// # Panics
/// When `first` is 0 or behind `last`.
#[must_use]
pub fn batch(first: u64, last: u64) -> SinkBatch {
    batch_of(first, last, |_| true)
}

/// A batch of the places that `keep` picks, planned over the whole range.
///
/// # Panics
/// When `first` is 0 or behind `last`.
#[must_use]
pub fn batch_of(first: u64, last: u64, keep: impl Fn(u64) -> bool) -> SinkBatch {
    let range = SeqRange::new(Seq(first), Seq(last)).expect("a range");
    let schemas = schemas();
    let mut events = Batch::new();
    let mut seqs = Vec::new();
    for n in (first..=last).filter(|n| keep(*n)) {
        write(&mut events, &schemas, n);
        seqs.push(Seq(n));
    }
    SinkBatch::new(origin(), range, TelemetryLevel::Full, events, seqs).expect("a sound batch")
}

fn schemas() -> Vec<Arc<Schema>> {
    let field = |name: &str| FieldDef { name: name.to_owned(), tags: 0 };
    [("Alpha.Provider", "Started"), ("Beta-Provider/Ω", "Näme with \"quotes\""), ("", "")]
        .into_iter()
        .enumerate()
        .map(|(n, (provider, event))| {
            Schema::new(SchemaParts {
                provider_name: provider.to_owned(),
                provider_guid: [n as u8 + 1; 16],
                event_name: event.to_owned(),
                decoder: Decoder::Synthetic,
                fields: vec![field("text"), field("number"), field("items"), field("inner")],
                ..SchemaParts::default()
            })
        })
        .collect()
}

fn write(events: &mut Batch, schemas: &[Arc<Schema>], n: u64) {
    let kind = (n % 3) as usize;
    let level = TelemetryLevel::ALL[(n % 4) as usize];
    let head = Head {
        time_ns: START_NS + (n as i64 % 100) * 60_000_000_000 + n as i64,
        id: (n % 500) as u16,
        level: 4,
        keyword: 0x8000_0000_0000_0000 | n,
        pid: 4 + (n % 7) as u32,
        tid: 8,
        cpu: 1,
        activity: [(n % 5) as u8; 16],
        telemetry_level: Some(level),
        sample_ppm: if n.is_multiple_of(10) { 250_000 } else { 0 },
        ..Head::default()
    };
    let mut event = events.begin(&schemas[kind], head);
    event.value(0, Format::Default, ValueRef::Str(&format!("line {n}\nünïcode 🌊 \u{0} end")));
    match kind {
        0 => {
            event.value(1, Format::Hex, ValueRef::U64(n << 32));
            event.begin_array(2);
            for item in 0..n % 4 {
                event.value(tidegate_proto::batch::NO_NAME, Format::Default, ValueRef::I64(-(item as i64)));
            }
            event.end();
        }
        1 => {
            event.value(1, Format::Default, ValueRef::F64(n as f64 / 7.0));
            event.begin_struct(3);
            event.value(0, Format::Default, ValueRef::Null);
            event.value(1, Format::Default, ValueRef::Bool(n.is_multiple_of(2)));
            event.end();
            event.ext(ExtKey::Sid, ValueRef::Sid(&[1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0]));
        }
        _ => event.raw(&n.to_le_bytes()),
    }
    event.finish();
}
