//! What is shown, as JSON. Stable: members are added, never renamed.

use std::time::SystemTime;

use serde_json::{Map, Value, json};
use tidegate_proto::time::format_rfc3339;
use tidegate_ring::{Account, Status};
use tidegate_sinks::http::pins::PinMonitor;

use crate::gate::level::{Ceilings, LevelInForce, Policy};
use crate::pipeline::{Progress, account_view};
use crate::settings::Document;

/// The level in force and every ceiling.
#[must_use]
pub fn level(level: &LevelInForce, ceilings: &Ceilings) -> Value {
    let policy = match &ceilings.policy {
        Policy::Absent => Value::Null,
        Policy::Ceiling { level, enabled } => json!({ "level": *level as u8, "enabled": enabled }),
        Policy::Broken(why) => json!({ "level": 0, "broken": why }),
    };
    json!({
        "enabled": level.enabled,
        "level": level.level as u8,
        "decided_by": level.decided_by.as_str(),
        "alarm": level.alarm,
        "ceilings": {
            "policy": policy,
            "remote": ceilings.remote.map(|l| l as u8),
            "runtime": ceilings.runtime.map(|l| l as u8),
            "configuration": ceilings.config.map(|l| l as u8),
            "switch": ceilings.enabled,
        },
        "text": level.to_string(),
    })
}

/// Where the ring stands: how full, how old, how far each sink is behind.
#[must_use]
pub(super) fn buffer(status: &Status, account: &Account, configured: impl Fn(&str) -> bool) -> Value {
    let sinks = status.cursors.iter().map(|(id, cursor)| {
        let held: u64 = account.sinks.get(id).map_or(0, |s| s.held.iter().sum());
        let planned = cursor.planned.iter().map(|p| [p.range.first().0, p.range.last().0]);
        let sink = json!({
            "settled": cursor.settled.0,
            "places_behind": status.durable.0.saturating_sub(cursor.settled.0),
            "held": held,
            "planned": cursor.planned.len(),
            "planned_runs": planned.collect::<Vec<_>>(),
            "configured": configured(id.as_str()),
        });
        (id.as_str().to_owned(), sink)
    });
    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    let fill = status.disk_bytes as f64 * 100.0 / status.bound_bytes.max(1) as f64;
    json!({
        "epoch": format!("{:016x}", status.epoch),
        "disk_bytes": status.disk_bytes,
        "bound_bytes": status.bound_bytes,
        "fill_percent": (fill * 10.0).round() / 10.0,
        "trimmed": status.trimmed.0,
        "durable": status.durable.0,
        "oldest": status.oldest_stored_ns.map(format_rfc3339),
        "quarantined": status.quarantined,
        "sinks": sinks.collect::<Map<_, _>>(),
    })
}

fn when(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format_rfc3339(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// What the pins have seen, by host.
pub(super) fn pins(monitor: &PinMonitor) -> Value {
    let all = monitor.states().into_iter().map(|(host, pin)| {
        let value = json!({
            "ok": pin.ok,
            "matched": pin.matched,
            "missed": pin.missed,
            "report_only": pin.report_only,
            "last": when(pin.last),
            "chain": pin.chain.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "not_after": pin.not_after.map(when),
            "expires_soon": pin.expires_soon,
        });
        (host, value)
    });
    Value::Object(all.collect())
}

/// The remote settings in force.
pub(super) fn settings(document: Option<&Document>) -> Value {
    let Some(d) = document else { return Value::Null };
    json!({
        "version": d.version(),
        "ceiling": d.ceiling().map(|l| l as u8),
        "switches_off": d.has_off(),
        "tenants_off": d.tenants_off(),
        "refresh_seconds": d.refresh().as_secs(),
    })
}

/// Everything that `status` shows beside level and ring. To a `remote` caller without what the far sides of
/// sinks say: it may quote what they were sent.
pub(super) fn progress(progress: &Progress, account: &Account, remote: bool) -> Value {
    let sinks = progress.sinks.iter().map(|(name, s)| {
        let cause = s.cause.as_deref().filter(|_| !remote);
        let sink = json!({
            "delivered": s.delivered, "rejected": s.rejected, "left_out": s.left_out,
            "bytes": s.bytes, "deliveries": s.deliveries, "failures": s.failures, "attempts": s.attempts, "waiting": s.waiting,
            "last_delivery": s.last_delivery_ns.map(format_rfc3339),
            "holds": s.held, "cause": cause, "paused": s.paused, "metered": s.metered,
        });
        (name.clone(), sink)
    });
    let check = account.check();
    json!({
        "run": {
            "read": progress.read, "dropped": progress.dropped,
            "stored": progress.stored, "stored_bytes": progress.stored_bytes,
            "sinks": sinks.collect::<Map<_, _>>(),
        },
        "sources_running": progress.sources_running,
        "account": account_view(account),
        "account_closes": check.is_ok(),
        "account_error": check.err(),
        "uploaded_percent": crate::own::uploaded_percent(account),
        "alarms": progress.alarms,
    })
}
