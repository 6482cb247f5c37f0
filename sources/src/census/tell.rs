//! The census as events.

use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use tidegate_proto::batch::{Batch, EventBuilder, Head, NO_NAME};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::own::schema;
use tidegate_proto::schema::Schema;
use tidegate_proto::value::{Format, ValueRef};

use super::Census;

/// Event id of the device.
pub const DEVICE_ID: u16 = 4;
/// Event id of the resource providers.
pub const PROVIDERS_ID: u16 = 5;

const DEVICE: &[&str] = &[
    "configuration",
    "make",
    "model",
    "system",
    "version",
    "architecture",
    "memoryBytes",
    "processors",
    "sockets",
    "cores",
    "threads",
    "adapters",
    "kind",
    "driver",
    "mbps",
    "count",
    "drives",
    "bytes",
    "removable",
];
const PROVIDERS: &[&str] = &["configuration", "providers", "name", "version", "scope", "machines"];

/// An event that is being written.
struct Writer<'b> {
    event: EventBuilder<'b>,
    names: &'static [&'static str],
}

impl Writer<'_> {
    fn place(&self, name: &str) -> u32 {
        self.names.iter().position(|n| *n == name).and_then(|n| u32::try_from(n).ok()).unwrap_or(NO_NAME)
    }

    fn text(&mut self, name: &str, value: &str) {
        let place = self.place(name);
        // what is not known is told as such
        let value = if value.is_empty() { ValueRef::Null } else { ValueRef::Str(value) };
        self.event.value(place, Format::Default, value);
    }

    fn number(&mut self, name: &str, value: u64) {
        let place = self.place(name);
        self.event.value(place, Format::Default, ValueRef::U64(value));
    }

    /// Equal items are one with their count.
    fn list<T: PartialEq>(&mut self, name: &str, items: &[T], mut each: impl FnMut(&mut Self, &T, u64)) {
        let place = self.place(name);
        self.event.begin_array(place);
        let mut rest = items;
        while let Some(first) = rest.first() {
            let same = rest.iter().take_while(|i| *i == first).count();
            self.event.begin_struct(NO_NAME);
            each(self, first, same as u64);
            self.event.end();
            rest = rest.get(same..).unwrap_or_default();
        }
        self.event.end();
    }
}

/// Appends what is known.
pub(super) fn push(batch: &mut Batch, census: &Census) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time_ns = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
    let head = Head {
        time_ns,
        level: 4,
        telemetry_level: Some(TelemetryLevel::Basic),
        pid: std::process::id(),
        ..Head::default()
    };
    let configuration = census.configuration();
    device(batch, census, &configuration, head);
    providers(batch, census, &configuration, head);
}

fn device(batch: &mut Batch, census: &Census, configuration: &str, head: Head) {
    static SCHEMA: LazyLock<Arc<Schema>> = LazyLock::new(|| schema("DeviceInfo", DEVICE));
    let mut w = Writer { event: batch.begin(&SCHEMA, Head { id: DEVICE_ID, ..head }), names: DEVICE };
    w.text("configuration", configuration);
    w.text("make", &census.make);
    w.text("model", &census.model);
    w.text("system", &census.system);
    w.text("version", &census.version);
    w.text("architecture", std::env::consts::ARCH);
    w.number("memoryBytes", census.memory_bytes);
    w.list("processors", &census.processors, |w, p, _| {
        w.text("model", &p.model);
        w.number("sockets", p.sockets.into());
        w.number("cores", p.cores.into());
        w.number("threads", p.threads.into());
    });
    w.list("adapters", &census.adapters, |w, a, count| {
        w.text("kind", a.kind);
        w.text("driver", &a.driver);
        if let Some(mbps) = a.mbps {
            w.number("mbps", mbps);
        }
        w.number("count", count);
    });
    w.list("drives", &census.drives, |w, d, count| {
        w.text("kind", d.kind);
        w.number("bytes", d.bytes);
        let place = w.place("removable");
        w.event.value(place, Format::Default, ValueRef::Bool(d.removable));
        w.number("count", count);
    });
    w.event.finish();
}

fn providers(batch: &mut Batch, census: &Census, configuration: &str, head: Head) {
    static SCHEMA: LazyLock<Arc<Schema>> = LazyLock::new(|| schema("ResourceProviders", PROVIDERS));
    let mut w = Writer { event: batch.begin(&SCHEMA, Head { id: PROVIDERS_ID, ..head }), names: PROVIDERS };
    w.text("configuration", configuration);
    w.list("providers", &census.providers, |w, p, _| {
        w.text("name", &p.name);
        w.text("version", &p.version);
        w.text("scope", p.scope);
        w.number("machines", p.machines);
    });
    w.event.finish();
}
