//! `buffer status`.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use tidegate_proto::ids::Seq;
use tidegate_ring::{Account, Cursor, ReadLimit, Ring, SinkAccount, Status};

use super::super::exit::{Done, Exit};
use super::super::out::{bytes, count, percent, span};
use super::super::state::{self, Of};
use super::{by_level, look, sum, time};
use crate::attached;
use crate::clock::now_ns;

pub(super) fn run(of: &Of) -> Done {
    let config = of.config()?;
    let ring = look(&config)?;
    let (status, account) = (ring.status(), ring.account());
    let now = now_ns();
    let mut sinks = Vec::new();
    for (id, cursor) in &status.cursors {
        let waits = oldest_behind(&ring, cursor.settled);
        let own = account.sinks.get(id).cloned().unwrap_or_default();
        sinks.push((id.to_string(), cursor, own, waits));
    }
    let paused = |name: &str| config.sinks.iter().any(|s| s.name == name && s.paused);
    let not_served = attached::not_served(&status, |name| config.sinks.iter().any(|s| s.name == name));
    let value = json!({
        "ring": config.ring.path.display().to_string(),
        "epoch": format!("{:016x}", status.epoch),
        "bytes": status.disk_bytes,
        "bound": status.bound_bytes,
        "trimmed": status.trimmed.0,
        "durable": status.durable.0,
        "oldest": status.oldest_stored_ns.map(time),
        "account": account_json(&account),
        "sinks": sinks.iter().map(|(name, cursor, own, waits)| (name.clone(), sink_json(cursor, own, *waits)))
            .collect::<Map<String, Value>>(),
        "paused": sinks.iter().map(|s| &s.0).filter(|name| paused(name)).collect::<Vec<_>>(),
        "not_configured": not_served,
        "quarantined": status.quarantined,
    });
    let mut shown = text(&status, &account, &sinks, now);
    for (name, ..) in sinks.iter().filter(|s| paused(&s.0)) {
        let _ = writeln!(shown, "sink {name} is paused by the configuration: events are kept for it");
    }
    for name in &not_served {
        let _ = writeln!(shown, "{}", attached::advice(name));
    }
    state::print(of, &value, shown.trim_end())?;
    Ok(Exit::Ok)
}

/// When the first block behind a place was stored; `None` too when it cannot be read.
fn oldest_behind(ring: &dyn Ring, after: Seq) -> Option<i64> {
    let read = ring.read(after, ReadLimit { bytes: 1, events: 1 });
    read.ok()?.blocks.first().map(|b| b.stored_ns)
}

fn account_json(account: &Account) -> Value {
    json!({
        "read": account.read,
        "dropped": account.dropped.iter().map(|(r, n)| (r.as_str().to_owned(), json!(n))).collect::<Map<_, _>>(),
        "stored": by_level(&account.stored),
        "problem": account.check().err(),
    })
}

fn sink_json(cursor: &Cursor, own: &SinkAccount, waits: Option<i64>) -> Value {
    let runs = |runs: &[tidegate_proto::ids::SeqRange]| -> Vec<Value> {
        runs.iter().map(|r| json!([r.first().0, r.last().0])).collect()
    };
    let parts = |parts: &[tidegate_ring::Part]| -> Vec<_> { parts.iter().map(|p| p.range).collect() };
    json!({
        "settled": cursor.settled.0,
        "ahead": runs(&cursor.ahead),
        "passed": runs(&parts(&cursor.passed)),
        "planned": runs(&parts(&cursor.planned)),
        "held": by_level(&own.held),
        "oldest": waits.map(time),
        "stored": by_level(&own.stored),
        "delivered": by_level(&own.delivered),
        "rejected": by_level(&own.rejected),
        "lost": own.lost.iter().map(|(r, l)| (r.as_str().to_owned(), by_level(l))).collect::<Map<_, _>>(),
    })
}

fn age(then: Option<i64>, now: i64) -> String {
    then.map_or("-".to_owned(), |t| span(u64::try_from(now.saturating_sub(t)).unwrap_or(0)))
}

fn text(
    status: &Status,
    account: &Account,
    sinks: &[(String, &Cursor, SinkAccount, Option<i64>)],
    now: i64,
) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "on disk   {} of {} ({})",
        bytes(status.disk_bytes),
        bytes(status.bound_bytes),
        percent(status.disk_bytes, status.bound_bytes)
    );
    let _ = match status.trimmed.next() {
        first if first > status.durable => writeln!(out, "places    none are kept, the next is {first}"),
        first => writeln!(out, "places    {first} to {} are kept", status.durable),
    };
    let _ = writeln!(out, "oldest    {}", age(status.oldest_stored_ns, now));
    let dropped: u64 = account.dropped.values().sum();
    let stored = count(sum(&account.stored));
    let _ = writeln!(out, "read      {} = {} dropped + {stored} stored", count(account.read), count(dropped));
    for (name, cursor, own, waits) in sinks {
        let lost = own.lost.iter().map(|(why, n)| format!(", {} {}", count(sum(n)), why.as_str()));
        let _ = writeln!(
            out,
            "sink {name}: {} held (oldest {}), {} delivered, {} rejected{}; settled up to {}, {} runs planned",
            count(sum(&own.held)),
            age(*waits, now),
            count(sum(&own.delivered)),
            count(sum(&own.rejected)),
            lost.collect::<String>(),
            cursor.settled.0,
            cursor.planned.len()
        );
    }
    match account.check() {
        Ok(()) => out.push_str("the account closes\n"),
        Err(why) => {
            let _ = writeln!(out, "THE ACCOUNT DOES NOT CLOSE: {why}");
        }
    }
    for what in &status.quarantined {
        let _ = writeln!(out, "damaged: {what}");
    }
    out
}
