//! What the collector says about itself: events of the provider `Tidegate`, on the same way as
//! everything else.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use tidegate_proto::batch::{Batch, EventBuilder, Head, NO_NAME};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::own::schema;
use tidegate_proto::schema::Schema;
use tidegate_proto::value::{Format, ValueRef};
use tidegate_ring::{Account, PerLevel, Status};
use tidegate_sinks::http::pins::PinState;

use crate::aggregate::Hour;
use crate::gate::level::LevelInForce;
use crate::pipeline::SinkProgress;

/// Event id of the settings in force.
pub const SETTINGS_ID: u16 = 2;
/// Event id of health.
pub const HEALTH_ID: u16 = 3;

fn head(id: u16, level: TelemetryLevel, time_ns: i64) -> Head {
    Head { time_ns, id, level: 4, telemetry_level: Some(level), pid: std::process::id(), ..Head::default() }
}

fn text(event: &mut EventBuilder<'_>, name: u32, value: &str) {
    event.value(name, Format::Default, ValueRef::Str(value));
}

fn number(event: &mut EventBuilder<'_>, name: u32, value: u64) {
    event.value(name, Format::Default, ValueRef::U64(value));
}

fn sum(levels: &PerLevel) -> u64 {
    levels.iter().sum()
}

/// Appends the settings in force, and those before where they changed: an event of level Security.
pub fn push_settings(
    batch: &mut Batch,
    level: &LevelInForce,
    before: Option<&LevelInForce>,
    cause: &str,
    time_ns: i64,
) {
    static SCHEMA: LazyLock<Arc<Schema>> = LazyLock::new(|| {
        let fields =
            ["version", "level", "enabled", "decidedBy", "alarm", "cause", "fromLevel", "fromEnabled"];
        schema("SettingsInForce", &fields)
    });
    let mut event = batch.begin(&SCHEMA, head(SETTINGS_ID, TelemetryLevel::Security, time_ns));
    text(&mut event, 0, env!("CARGO_PKG_VERSION"));
    event.value(1, Format::Default, ValueRef::U8(level.level as u8));
    event.value(2, Format::Default, ValueRef::Bool(level.enabled));
    text(&mut event, 3, level.decided_by.as_str());
    match &level.alarm {
        Some(alarm) => text(&mut event, 4, alarm),
        None => event.value(4, Format::Default, ValueRef::Null),
    }
    text(&mut event, 5, cause);
    if let Some(before) = before {
        event.value(6, Format::Default, ValueRef::U8(before.level as u8));
        event.value(7, Format::Default, ValueRef::Bool(before.enabled));
    }
    event.finish();
}

/// Event id of quality.
pub const QUALITY_ID: u16 = 6;

/// Appends how many critical alerts an hour had on this hardware, by provider: an event of level
/// Basic. `configuration` is the census' digest of the hardware.
pub fn push_quality(batch: &mut Batch, configuration: &str, hour: &Hour, time_ns: i64) {
    static SCHEMA: LazyLock<Arc<Schema>> = LazyLock::new(|| {
        schema("Quality", &["configuration", "hour", "criticalAlerts", "providers", "name", "count"])
    });
    let mut by_provider: BTreeMap<&str, u64> = BTreeMap::new();
    for row in hour.rows.iter().filter(|r| r.critical > 0) {
        *by_provider.entry(&row.provider).or_default() += row.critical;
    }
    let mut e = batch.begin(&SCHEMA, head(QUALITY_ID, TelemetryLevel::Basic, time_ns));
    text(&mut e, 0, configuration);
    text(&mut e, 1, &tidegate_proto::time::format_rfc3339(hour.start_ns));
    number(&mut e, 2, by_provider.values().sum());
    e.begin_array(3);
    for (name, count) in by_provider.into_iter().take(MAX_PROVIDERS) {
        e.begin_struct(NO_NAME);
        text(&mut e, 4, name);
        number(&mut e, 5, count);
        e.end();
    }
    e.end();
    e.finish();
}

/// Providers that a quality event names.
const MAX_PROVIDERS: usize = 100;

/// What a health event tells.
#[derive(Debug)]
pub struct Health<'a> {
    /// The account over the ring's life.
    pub account: &'a Account,
    /// Whether it closes; the sum that does not, if not.
    pub account_error: Option<&'a str>,
    /// The ring.
    pub status: &'a Status,
    /// Sinks.
    pub sinks: &'a BTreeMap<String, SinkProgress>,
    /// What needs someone to act.
    pub alarms: &'a [String],
    /// Seconds since the start.
    pub uptime_s: u64,
    /// Gaps that sources told since the start, and the events known to have been in them.
    pub gaps: (u64, u64),
    /// What the sinks' pins have seen.
    pub pins: &'a BTreeMap<String, PinState>,
    /// The device's random id.
    pub device: Option<&'a str>,
}

const FIELDS: &[&str] = &[
    "uptimeSeconds",
    "read",
    "stored",
    "dropped",
    "reason",
    "count",
    "uploadedPercent",
    "ringBytes",
    "ringBoundBytes",
    "oldestSeconds",
    "sinks",
    "name",
    "delivered",
    "rejected",
    "lost",
    "held",
    "failedAttempts",
    "lastUpload",
    "holds",
    "accountCloses",
    "alarms",
    "lostBuffers",
    "lostEvents",
    "attempts",
    "class",
    "pins",
    "ok",
    "missed",
    "deviceId",
];

fn place(name: &str) -> u32 {
    FIELDS.iter().position(|n| *n == name).and_then(|n| u32::try_from(n).ok()).unwrap_or(NO_NAME)
}

/// Of all events that are settled or wait for a sink, the share that was delivered, in percent;
/// 100 when there are none.
#[must_use]
pub fn uploaded_percent(account: &Account) -> f64 {
    let delivered: u64 = account.sinks.values().map(|s| sum(&s.delivered)).sum();
    let stored: u64 = account.sinks.values().map(|s| sum(&s.stored)).sum();
    #[allow(clippy::cast_precision_loss)] // a percentage
    let share = |a: u64, b: u64| a as f64 * 100.0 / b as f64;
    if stored == 0 { 100.0 } else { share(delivered, stored) }
}

/// Appends a health event, of level Basic.
pub fn push_health(batch: &mut Batch, health: &Health<'_>, time_ns: i64) {
    static SCHEMA: LazyLock<Arc<Schema>> = LazyLock::new(|| schema("Health", FIELDS));
    let account = health.account;
    let mut e = batch.begin(&SCHEMA, head(HEALTH_ID, TelemetryLevel::Basic, time_ns));
    number(&mut e, place("uptimeSeconds"), health.uptime_s);
    number(&mut e, place("read"), account.read);
    number(&mut e, place("stored"), sum(&account.stored));
    e.begin_array(place("dropped"));
    for (reason, n) in &account.dropped {
        e.begin_struct(NO_NAME);
        text(&mut e, place("reason"), reason.as_str());
        number(&mut e, place("count"), *n);
        e.end();
    }
    e.end();
    e.value(place("uploadedPercent"), Format::Default, ValueRef::F64(uploaded_percent(account)));
    number(&mut e, place("ringBytes"), health.status.disk_bytes);
    number(&mut e, place("ringBoundBytes"), health.status.bound_bytes);
    let age = health.status.oldest_stored_ns.map_or(0, |t| time_ns.saturating_sub(t).max(0) / 1_000_000_000);
    number(&mut e, place("oldestSeconds"), age.unsigned_abs());
    e.begin_array(place("sinks"));
    for (id, sink) in &account.sinks {
        e.begin_struct(NO_NAME);
        text(&mut e, place("name"), id.as_str());
        number(&mut e, place("delivered"), sum(&sink.delivered));
        number(&mut e, place("rejected"), sum(&sink.rejected));
        e.begin_array(place("lost"));
        for (reason, n) in &sink.lost {
            e.begin_struct(NO_NAME);
            text(&mut e, place("reason"), reason.as_str());
            number(&mut e, place("count"), sum(n));
            e.end();
        }
        e.end();
        number(&mut e, place("held"), sum(&sink.held));
        if let Some(progress) = health.sinks.get(id.as_str()) {
            number(&mut e, place("failedAttempts"), progress.failures);
            if let Some(ns) = progress.last_delivery_ns {
                text(&mut e, place("lastUpload"), &tidegate_proto::time::format_rfc3339(ns));
            }
            if let Some(why) = &progress.held {
                text(&mut e, place("holds"), why);
            }
            e.begin_array(place("attempts"));
            for (class, n) in &progress.attempts {
                e.begin_struct(NO_NAME);
                text(&mut e, place("class"), class);
                number(&mut e, place("count"), *n);
                e.end();
            }
            e.end();
        }
        e.end();
    }
    e.end();
    e.value(place("accountCloses"), Format::Default, ValueRef::Bool(health.account_error.is_none()));
    e.begin_array(place("alarms"));
    for alarm in health.alarms {
        e.value(NO_NAME, Format::Default, ValueRef::Str(alarm));
    }
    e.end();
    number(&mut e, place("lostBuffers"), health.gaps.0);
    number(&mut e, place("lostEvents"), health.gaps.1);
    e.begin_array(place("pins"));
    for (host, pin) in health.pins {
        e.begin_struct(NO_NAME);
        text(&mut e, place("name"), host);
        e.value(place("ok"), Format::Default, ValueRef::Bool(pin.ok));
        number(&mut e, place("missed"), pin.missed);
        e.end();
    }
    e.end();
    if let Some(device) = health.device {
        text(&mut e, place("deviceId"), device);
    }
    e.finish();
}
