//! The whole sink against the recorder, and the mapping of events against kept lines.

mod delivery;
mod echoes;
mod lines;
mod traces;

use std::sync::Arc;
use std::time::Duration;

use tidegate_proto::batch::{Batch, ExtKey, Head, NO_NAME};
use tidegate_proto::ids::{Seq, SeqRange, SinkId};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::schema::{Decoder, FieldDef, Schema, SchemaParts};
use tidegate_proto::value::{Format, ValueRef};
use tidegate_proto::{guid, time};

use super::body::Caps;
use super::mapping::{Mapping, Pattern};
use super::sink::Parts;
use super::transport::Transport;
use super::*;
use crate::http::{Client, HttpConfig, HttpContext};
use crate::{BatchLimits, Origin, SinkBatch};

/// Three tenants.
pub(super) const TOKENS: [&str; 3] = [
    "0123456789abcdef0123456789abcdef-11111111-2222-3333-4444-555555555555-6789",
    "fedcba9876543210fedcba9876543210-11111111-2222-3333-4444-555555555555-6789",
    "00000000000000000000000000000abc-11111111-2222-3333-4444-555555555555-0001",
];

/// Everything to the first tenant, but `Contoso.*` to the second and `Fabrikam` to the third.
fn mapping() -> Mapping {
    Mapping {
        tenants: TOKENS.iter().map(|t| Tenant::parse(t).unwrap()).collect(),
        routes: vec![(Pattern::new("Contoso.*"), 1), (Pattern::new("Fabrikam"), 2)],
        urgency: Urgency::default(),
        pii: Vec::new(),
        host: true,
        scrub_ip: true,
    }
}

/// Most of everything that a request may have.
const CAPS: Caps = Caps { events: EVENTS_MAX, body_bytes: BODY_BYTES_MAX, event_bytes: EVENT_BYTES_MAX };

fn sink_to(url: String, mapping: Mapping, compression: Compression, caps: Caps) -> EventsSink {
    let limits = BatchLimits {
        events: 500,
        bytes: 1 << 20,
        age: Duration::from_secs(2),
        in_flight: 2,
        timeout: Duration::from_secs(60),
    };
    let client = Client::new(&HttpConfig::default(), &HttpContext::default()).unwrap();
    let transport = Transport { client, url: url.parse().unwrap(), destination: url };
    let id = SinkId::new("cloud");
    EventsSink::assemble(Parts { id, mapping, compression, caps, limits, transport })
}

fn schema(provider: &str, event: &str, fields: &[&str]) -> Arc<Schema> {
    Schema::new(SchemaParts {
        provider_name: provider.to_owned(),
        event_name: event.to_owned(),
        decoder: Decoder::TraceLogging,
        fields: fields.iter().map(|n| FieldDef { name: (*n).to_owned(), tags: 0 }).collect(),
        ..SchemaParts::default()
    })
}

/// A batch that starts at a place.
fn batch(first: u64, events: Batch) -> SinkBatch {
    let origin = Origin { host: "host-1".into(), stream: "events".into(), epoch: 0x1122_3344_5566_7788 };
    let seqs: Vec<Seq> = (first..).take(events.len()).map(Seq).collect();
    let range = SeqRange::new(Seq(first), *seqs.last().unwrap()).unwrap();
    SinkBatch::new(Arc::new(origin), range, TelemetryLevel::Full, events, seqs).unwrap()
}

/// One small event for each provider, and its place as the only field.
fn small(providers: &[&str]) -> Batch {
    let mut events = Batch::new();
    for (n, provider) in providers.iter().enumerate() {
        let head = Head { time_ns: 1_700_000_000_000_000_000 + n as i64, ..Head::default() };
        let mut event = events.begin(&schema(provider, "Tick", &["n"]), head);
        event.value(0, Format::Default, ValueRef::U32(n as u32));
        event.finish();
    }
    events
}
