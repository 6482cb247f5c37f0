//! The kinds of events there are, and what they carry.

use std::sync::Arc;

use tidegate_proto::batch::{Batch, EventBuilder, Head, NO_NAME};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::schema::{Decoder, FieldDef, Schema, SchemaParts};
use tidegate_proto::value::{Format, ValueRef};

use super::random::Random;
use super::{Family, Levels, Sizes, Spread, SyntheticConfig};
use crate::position::Fnv;

/// Bytes that an event takes without its text.
const BARE: u32 = 150;
/// The group of Windows' own telemetry providers, `4f50731a-89cf-4782-b3e0-dce8c90476ba`.
const WINDOWS_GROUP: [u8; 16] =
    [0x1a, 0x73, 0x50, 0x4f, 0xcf, 0x89, 0x82, 0x47, 0xb3, 0xe0, 0xdc, 0xe8, 0xc9, 0x04, 0x76, 0xba];
/// Keywords of Basic, Enhanced and Full events of that group.
const KEYWORDS: [u64; 3] = [1 << 47, 1 << 46, 1 << 45];

/// A provider and its events of level Basic, Enhanced and Full: named so that the catalogue
/// gives them these levels.
struct Provider {
    family: Family,
    name: &'static str,
    events: [&'static str; 3],
}

const PROVIDERS: [Provider; 6] = [
    Provider {
        family: Family::NetworkResource,
        name: "Synthetic.NetworkResource",
        events: ["AdapterInventory", "ThroughputUsage", "PacketTrace"],
    },
    Provider {
        family: Family::StorageResource,
        name: "Synthetic.StorageResource",
        events: ["DriveInventory", "CapacityUsage", "RequestTrace"],
    },
    Provider {
        family: Family::MonitoringResource,
        name: "Synthetic.MonitoringResource",
        events: ["HealthState", "MetricSample", "DiagnosticTrace"],
    },
    Provider {
        family: Family::UpdateResource,
        name: "Synthetic.UpdateResource",
        events: ["InstalledVersion", "DownloadDuration", "DebugTrace"],
    },
    Provider {
        family: Family::Windows,
        name: "Synthetic.Windows.Shell",
        events: ["ProcessCrashed", "FeatureLatency", "SessionDetail"],
    },
    Provider {
        family: Family::Sql,
        name: "MSSQL$SYNTHETIC",
        events: ["ServerStarted", "QueryDuration", "PlanDetail"],
    },
];

/// Provider of events of level Security: only their own level tells it.
const SECURITY: (&str, &str) = ("Synthetic.Security", "AuditPolicyState");

const FIELDS: [&str; 13] = [
    "number",
    "component",
    "durationMs",
    "ratio",
    "succeeded",
    "correlation",
    "startedAt",
    "remote",
    "errorCode",
    "counters",
    "stage",
    "name",
    "detail",
];
/// Names of fields that personal events have besides, one each.
const PERSONAL: [&str; 4] = ["userEmail", "userName", "clientAddress", "accessToken"];

const COMPONENTS: [&str; 8] =
    ["scheduler", "cache", "index", "transport", "journal", "broker", "listener", "compactor"];
const WORDS: [&str; 16] = [
    "request ", "queued ", "after ", "retry ", "node ", "volume ", "timeout ", "opened ", "state ", "ready ",
    "handle ", "flush ", "window ", "packet ", "update ", "closed ",
];

#[derive(Debug)]
struct Kind {
    level: TelemetryLevel,
    keyword: u64,
    id: u16,
    plain: Arc<Schema>,
    personal: Vec<Arc<Schema>>,
}

/// All kinds of a configuration.
#[derive(Debug)]
pub(super) struct Kinds {
    /// By telemetry level.
    levels: [Vec<Kind>; 4],
    weights: [u64; 4],
    sizes: Sizes,
    personal: f64,
    text: String,
}

fn guid(name: &str) -> [u8; 16] {
    let low = Fnv::of(name.as_bytes()).to_le_bytes();
    let high = Fnv::of(&low).to_le_bytes();
    let mut guid = [0; 16];
    for (to, from) in guid.iter_mut().zip(low.into_iter().chain(high)) {
        *to = from;
    }
    // a name-based GUID by its version and variant bits
    guid[7] = guid[7] & 0x0f | 0x50;
    guid[8] = guid[8] & 0x3f | 0x80;
    guid
}

fn kind(provider: &str, event: &str, group: bool, level: TelemetryLevel, keyword: u64, id: u16) -> Kind {
    let schema = |more: Option<&str>| {
        Schema::new(SchemaParts {
            provider_name: provider.to_owned(),
            provider_guid: guid(provider),
            group_guid: group.then_some(WINDOWS_GROUP),
            event_name: event.to_owned(),
            decoder: Decoder::Synthetic,
            fields: FIELDS
                .into_iter()
                .chain(more)
                .map(|n| FieldDef { name: n.to_owned(), tags: 0 })
                .collect(),
            ..SchemaParts::default()
        })
    };
    Kind {
        level,
        keyword,
        id,
        plain: schema(None),
        personal: PERSONAL.into_iter().map(|name| schema(Some(name))).collect(),
    }
}

impl Kinds {
    pub(super) fn new(config: &SyntheticConfig) -> Kinds {
        let wanted = |f: Family| config.families.is_empty() || config.families.contains(&f);
        let (security, security_event) = SECURITY;
        let mut levels = [const { Vec::new() }; 4];
        levels[0].push(kind(security, security_event, false, TelemetryLevel::Security, 0, 1));
        for provider in PROVIDERS.iter().filter(|p| wanted(p.family)) {
            let windows = provider.family == Family::Windows;
            let [_, basic, enhanced, full] = &mut levels;
            let rest = [TelemetryLevel::Basic, TelemetryLevel::Enhanced, TelemetryLevel::Full];
            let by_level = [basic, enhanced, full].into_iter().zip(rest).zip(provider.events).zip(KEYWORDS);
            for (((list, level), event), keyword) in by_level {
                let keyword = if windows { keyword } else { 1 };
                list.push(kind(provider.name, event, windows, level, keyword, level as u16 * 10));
            }
        }
        let Levels { security, basic, enhanced, full } = config.levels;
        let mut words = Random::of(config.seed, u64::MAX);
        let mut text = String::with_capacity(256 << 10);
        while text.len() < 256 << 10 {
            text.push_str(WORDS[words.below(WORDS.len() as u64) as usize]);
            if words.below(3) == 0 {
                text.push_str(&words.below(100_000).to_string());
                text.push(' ');
            }
        }
        Kinds {
            levels,
            weights: [security, basic, enhanced, full].map(u64::from),
            sizes: config.size,
            personal: config.personal,
            text,
        }
    }

    /// Appends event number `n`.
    pub(super) fn make(&self, batch: &mut Batch, random: &mut Random, n: u64, time_ns: i64) {
        let mut pick = random.below(self.weights.iter().sum::<u64>().max(1));
        let mut list = &self.levels[3];
        for (weight, kinds) in self.weights.iter().zip(&self.levels) {
            if pick < *weight {
                list = kinds;
                break;
            }
            pick -= weight;
        }
        let Some(kind) = list.get(random.below(list.len().max(1) as u64) as usize) else { return };
        let size = self.size(random);
        let is_personal = self.personal > 0.0 && random.share() < self.personal;
        let which = if is_personal { random.below(PERSONAL.len() as u64) as usize } else { 0 };
        let schema = kind.personal.get(which).filter(|_| is_personal).unwrap_or(&kind.plain);
        let error = random.below(20) == 0;
        let head = Head {
            time_ns,
            keyword: kind.keyword,
            pid: 1000 + random.below(40) as u32 * 4,
            tid: 5000 + random.below(200) as u32 * 4,
            cpu: random.below(8) as u16,
            id: kind.id,
            version: 1,
            level: if error { 2 } else { 4 },
            telemetry_level: Some(kind.level),
            ..Head::default()
        };
        let mut event = batch.begin(schema, head);
        self.fields(&mut event, random, n, time_ns, error, size);
        if is_personal {
            personal(&mut event, random, which);
        }
        event.finish();
    }

    fn fields(
        &self,
        event: &mut EventBuilder<'_>,
        random: &mut Random,
        n: u64,
        time_ns: i64,
        error: bool,
        size: u32,
    ) {
        let plain = Format::Default;
        let component = COMPONENTS[random.below(COMPONENTS.len() as u64) as usize];
        let mut correlation = [0; 16];
        correlation[..8].copy_from_slice(&random.next().to_le_bytes());
        correlation[8..].copy_from_slice(&n.to_le_bytes());
        let started = tidegate_proto::time::unix_ns_to_filetime(time_ns);
        event.value(0, plain, ValueRef::U64(n));
        event.value(1, plain, ValueRef::Str(component));
        event.value(2, plain, ValueRef::U32(random.below(5000) as u32));
        event.value(3, plain, ValueRef::F64(random.below(10_000) as f64 / 10_000.0));
        event.value(4, plain, ValueRef::Bool(!error));
        event.value(5, plain, ValueRef::Guid(correlation));
        event.value(6, plain, ValueRef::FileTime(started));
        event.value(7, plain, ValueRef::Ipv4([10, 0, random.below(256) as u8, random.below(256) as u8]));
        event.value(8, Format::HResult, ValueRef::I32(if error { -2_147_467_259 } else { 0 }));
        event.begin_array(9);
        for _ in 0..random.below(5) {
            event.value(NO_NAME, plain, ValueRef::U32(random.below(1000) as u32));
        }
        event.end();
        event.begin_struct(10);
        event.value(11, plain, ValueRef::Str("steady"));
        event.end();
        let len = size.saturating_sub(BARE) as usize;
        let from = random.below((self.text.len() - len.min(self.text.len() - 1)) as u64) as usize;
        // ASCII: every place is between two characters
        event.value(12, plain, ValueRef::Str(self.text.get(from..from + len).unwrap_or_default()));
    }

    fn size(&self, random: &mut Random) -> u32 {
        let Sizes { mean, spread, max } = self.sizes;
        let share = random.share();
        let size = match spread {
            Spread::Fixed => f64::from(mean),
            Spread::Uniform => f64::from(mean) * (0.5 + share),
            Spread::Exponential => {
                let bare = f64::from(mean.min(BARE));
                bare - (f64::from(mean) - bare) * (1.0 - share).ln()
            }
        };
        (size as u32).min(max)
    }
}

fn personal(event: &mut EventBuilder<'_>, random: &mut Random, which: usize) {
    let n = random.below(1000);
    let text = match which {
        0 => format!("person{n}@example.com"),
        1 => format!("EXAMPLE\\person{n}"),
        2 => format!("203.0.113.{}", n % 256),
        _ => format!("{:016x}{:016x}", random.next(), random.next()),
    };
    event.value(FIELDS.len() as u32, Format::Default, ValueRef::Str(&text));
}
