//! `status`: how a collector that runs is.

use std::fmt::Write as _;

use serde_json::Value;

use super::exit::{Done, Exit};
use super::out;
use super::state::{self, Of};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Asks the collector over its control socket: the level in force and why, the account of every sink, how full the \
ring is, pins and alarms. Exit code 75 when none runs. `telemetry status` works without one.")]
pub(super) struct Args {
    #[command(flatten)]
    of: Of,
}

pub(super) fn run(args: &Args) -> Done {
    let hint = "start it with tidegate run; telemetry, level and audit work on its files meanwhile";
    let client = state::must_run(&args.of.config()?, hint)?;
    let value = state::ask(&client, "GET", "/v1/status", &Value::Null)?;
    state::print(&args.of, &value, text(&value).trim_end())?;
    Ok(Exit::Ok)
}

fn number(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or_default()
}

fn word<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// Events of all levels.
fn sum(value: &Value, path: &str) -> u64 {
    let levels = value.pointer(path).and_then(Value::as_object).into_iter().flatten();
    levels.filter_map(|(_, n)| n.as_u64()).sum()
}

fn text(v: &Value) -> String {
    let mut out = String::new();
    // writing to a text cannot fail
    let _ = write(&mut out, v);
    out
}

fn write(out: &mut String, v: &Value) -> std::fmt::Result {
    let enabled = v.pointer("/telemetry/enabled").and_then(Value::as_bool).unwrap_or_default();
    writeln!(
        out,
        "telemetry {}{}",
        if enabled { "is enabled; " } else { "" },
        word(v, "/telemetry/text").trim_start_matches("telemetry ")
    )?;
    writeln!(
        out,
        "version {}, up {}, {} sources run",
        word(v, "/version"),
        out::span(number(v, "/uptime_seconds").saturating_mul(1_000_000_000)),
        number(v, "/sources_running"),
    )?;
    let (read, stored) = (number(v, "/account/read"), sum(v, "/account/stored"));
    writeln!(out, "read {}, stored {}", out::count(read), out::count(stored))?;
    for (reason, n) in v.pointer("/account/dropped").and_then(Value::as_object).into_iter().flatten() {
        writeln!(out, "  dropped {} ({reason})", out::count(n.as_u64().unwrap_or_default()))?;
    }
    writeln!(
        out,
        "ring {} of {} ({} %){}",
        out::bytes(number(v, "/ring/disk_bytes")),
        out::bytes(number(v, "/ring/bound_bytes")),
        v.pointer("/ring/fill_percent").unwrap_or(&Value::Null),
        match word(v, "/ring/oldest") {
            "" => String::new(),
            oldest => format!(", oldest of {oldest}"),
        }
    )?;
    for (name, sink) in v.pointer("/account/sinks").and_then(Value::as_object).into_iter().flatten() {
        write!(out, "sink {name}: ")?;
        let parts = ["delivered", "rejected", "held"]
            .map(|what| format!("{} {what}", out::count(sum(sink, &format!("/{what}")))));
        write!(out, "{}", parts.join(", "))?;
        for (reason, n) in sink.get("lost").and_then(Value::as_object).into_iter().flatten() {
            write!(out, ", {} {reason}", out::count(sum(n, "")))?;
        }
        let run = |what: &str| v.pointer(&format!("/run/sinks/{}/{what}", escape(name)));
        if let Some(at) = run("last_delivery").and_then(Value::as_str) {
            write!(out, "; last delivery {at}")?;
        }
        writeln!(out)?;
        if run("paused").and_then(Value::as_bool).unwrap_or_default() {
            writeln!(out, "  paused: events are kept for it")?;
        }
        if run("metered").and_then(Value::as_bool).unwrap_or_default() {
            writeln!(out, "  {}", crate::pipeline::METERED)?;
        }
        if v.pointer(&format!("/ring/sinks/{}/configured", escape(name))) == Some(&Value::Bool(false)) {
            writeln!(out, "  {}", crate::attached::advice(name))?;
        }
        if let Some(why) = run("holds").and_then(Value::as_str) {
            writeln!(out, "  holds: {why}")?;
        }
        if let Some(cause) = run("cause").and_then(Value::as_str) {
            writeln!(out, "  cause: {cause}")?;
        }
    }
    for (host, pin) in v.pointer("/pins").and_then(Value::as_object).into_iter().flatten() {
        let ok = pin.get("ok").and_then(Value::as_bool).unwrap_or_default();
        writeln!(out, "pins of {host}: {}", if ok { "fit" } else { "DO NOT FIT" })?;
    }
    for alarm in v.get("alarms").and_then(Value::as_array).into_iter().flatten() {
        writeln!(out, "ALARM: {}", alarm.as_str().unwrap_or_default())?;
    }
    match word(v, "/account_error") {
        "" => writeln!(out, "the account closes"),
        why => writeln!(out, "THE ACCOUNT DOES NOT CLOSE: {why}"),
    }
}

/// A name as a part of a JSON pointer (RFC 6901).
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
