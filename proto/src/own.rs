//! Tidegate's own events: what the collector says about itself, on the same
//! way as everything else.

use std::sync::{Arc, LazyLock};

use crate::batch::{Batch, Head};
use crate::level::TelemetryLevel;
use crate::schema::{Decoder, FieldDef, Schema, SchemaParts};
use crate::value::{Format, ValueRef};

/// The provider's name.
pub const PROVIDER: &str = "Tidegate";
/// The provider's GUID, `7b1f8f7e-5d0c-4e53-9d0b-6a3c54d3a1e2`.
pub const PROVIDER_GUID: [u8; 16] =
    [0x7e, 0x8f, 0x1f, 0x7b, 0x0c, 0x5d, 0x53, 0x4e, 0x9d, 0x0b, 0x6a, 0x3c, 0x54, 0xd3, 0xa1, 0xe2];
/// Event id of a gap.
pub const GAP_ID: u16 = 1;

/// Place of a gap's number of missing events among its fields.
pub const GAP_EVENTS: u32 = 2;

/// A schema of this provider.
#[must_use]
pub fn schema(event: &str, fields: &[&str]) -> Arc<Schema> {
    Schema::new(SchemaParts {
        provider_name: PROVIDER.to_owned(),
        provider_guid: PROVIDER_GUID,
        event_name: event.to_owned(),
        decoder: Decoder::Own,
        fields: fields.iter().map(|n| FieldDef { name: (*n).to_owned(), tags: 0 }).collect(),
        ..SchemaParts::default()
    })
}

/// Something that a source could not deliver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// The source or file.
    pub origin: String,
    /// A short fixed word, e.g. `lost_events`, `lost_buffer`, `damaged`.
    pub reason: String,
    /// How many events are missing, if it is known.
    pub events: Option<u64>,
    /// What happened, for people.
    pub detail: String,
    /// Where in the input, in bytes.
    pub offset: Option<u64>,
    /// When, nanoseconds since 1970.
    pub time_ns: i64,
}

/// Appends a gap as an event of level Basic.
pub fn push_gap(batch: &mut Batch, gap: &Gap) {
    static SCHEMA: LazyLock<Arc<Schema>> =
        LazyLock::new(|| schema("Gap", &["origin", "reason", "events", "detail", "offset"]));
    let head = Head {
        time_ns: gap.time_ns,
        id: GAP_ID,
        level: 3,
        telemetry_level: Some(TelemetryLevel::Basic),
        ..Head::default()
    };
    let mut event = batch.begin(&SCHEMA, head);
    let number = |n: Option<u64>| n.map_or(ValueRef::Null, ValueRef::U64);
    event.value(0, Format::Default, ValueRef::Str(&gap.origin));
    event.value(1, Format::Default, ValueRef::Str(&gap.reason));
    event.value(2, Format::Default, number(gap.events));
    event.value(3, Format::Default, ValueRef::Str(&gap.detail));
    event.value(4, Format::Default, number(gap.offset));
    event.finish();
}
