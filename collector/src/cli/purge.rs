//! `purge`: removes what slipped in, from ring, dead letters and, where asked to, far sides.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::json;
use tidegate_proto::ids::SinkId;
use tidegate_proto::level::TelemetryLevel;
use tidegate_ring::{PerLevel, Ring, RingError};
use tidegate_sinks::holdings::Holdings;
use tidegate_sinks::http::HttpContext;

use super::exit::{Done, Exit, Failure};
use super::state::{self, Of};
use crate::assemble;
use crate::audit::{Record, What};
use crate::clock::now_ns;
use crate::config::Config;
use crate::purge::{self, DeadPurged, Delivered, Expr, InRing, Place};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A condition: KEY OP VALUE, joined with and, or, not and parentheses.
  level, time, id, pid          = != < <= > >=     level >= Enhanced
  provider, event, field.NAME   = != like ~        field.user.mail like '*@example.org'
  any (all values, raw bytes)   = != like ~        any ~ 'card [0-9]{4}'
like takes * and ?, ~ a regular expression that is found anywhere. Put texts in quotes; in single quotes a \
backslash is a backslash.

Events go from the ring's files and from dead letters at once. With --delivered the objects that the receipts name \
are read, and those that hold such events are deleted as a whole, if they are still what was delivered; deliveries \
to far sides that cannot be read are listed for you to write to who runs them. Soft deletion at the far side keeps \
blobs for as long as it is set to. Only the newest 4096 receipts are kept. The ring belongs to the collector while it \
runs: stop it first.

Exit codes: 0 done, 75 something could not be read or deleted now; run it again.")]
pub(super) struct Args {
    /// Which events.
    #[arg(short, long = "match", value_name = "CONDITION")]
    matching: Expr,
    /// Look into what was delivered too, and ask for its deletion.
    #[arg(long)]
    delivered: bool,
    /// Change nothing, only show what would go.
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    of: Of,
}

/// Destinations in one audit entry.
const PER_ENTRY: usize = 64;

pub(super) fn run(args: &Args) -> Done {
    let config = args.of.config()?;
    let ring = state::ring(&config)?;
    let rule = &args.matching;
    let found = purge::search(&*ring, rule).map_err(|e| state::ring_failed(&e))?;
    let who = state::who();
    let audit = |what| {
        if args.dry_run { Ok(()) } else { Record::new(now_ns(), &who.0, what).append(&*ring).map(|_| ()) }
    };
    let matching = rule.to_string();
    // whatever happens next, that it was asked for is known
    audit(What::PurgeAsked { matching: matching.clone(), delivered: args.delivered })
        .map_err(|e| state::ring_failed(&e))?;
    let events = if args.dry_run {
        found.events
    } else {
        ring.purge(rule).map_err(|e| state::ring_failed(&e))?.events
    };
    let dead = dead_letters(&config, rule, args.dry_run)?;
    let dead_events = dead.values().map(|d| d.events + d.unreadable).sum();
    audit(What::Purge { matching: matching.clone(), events, dead_letters: dead_events, blobs: Vec::new() })
        .map_err(|e| state::ring_failed(&e))?;
    let mut delivered = Vec::new();
    let mut receipts = 0;
    if args.delivered {
        let blobs = |blobs| {
            let matching = matching.clone();
            audit(What::Purge { matching, events: [0; 4], dead_letters: 0, blobs })
        };
        (receipts, delivered) = look(&config, &ring, rule, &found, !args.dry_run, &blobs)?;
    }
    let exit = if delivered.iter().any(|d| d.place.again()) { Exit::TempFail } else { Exit::Ok };
    let value = json!({
        "matching": matching,
        "dry_run": args.dry_run,
        "ring": events,
        "dead_letters": dead.iter().map(|(k, d)| (k.clone(), json!({
            "events": d.events, "unreadable": d.unreadable, "kept": d.kept,
        }))).collect::<serde_json::Map<_, _>>(),
        "receipts": receipts,
        "delivered": delivered,
    });
    state::print(&args.of, &value, text(args, &events, &dead, receipts, &delivered).trim_end())?;
    ring.close().map_err(|e| state::ring_failed(&e))?;
    Ok(exit)
}

fn dead_letters(
    config: &Config,
    rule: &Expr,
    dry_run: bool,
) -> Result<BTreeMap<String, DeadPurged>, Failure> {
    let mut all = BTreeMap::new();
    for sink in &config.sinks {
        let path = assemble::dead_letters(&config.ring.path, sink);
        let done = purge::dead_letters(&path, rule, dry_run).map_err(|e| {
            Failure::new(Exit::Io, format!("cannot purge the dead letters {}: {e}", path.display()))
                .hint("what was purged from the ring stays purged; run it again")
        })?;
        all.insert(sink.name.clone(), done);
    }
    Ok(all)
}

/// Looks into what was delivered: receipts looked at, and what was found.
fn look(
    config: &Config,
    ring: &Arc<dyn Ring>,
    rule: &Expr,
    found: &InRing,
    delete: bool,
    audit: &dyn Fn(Vec<String>) -> Result<(), RingError>,
) -> Result<(u64, Vec<Delivered>), Failure> {
    let http = HttpContext::default();
    let mut holdings: BTreeMap<String, Option<Arc<dyn Holdings>>> = BTreeMap::new();
    for sink in &config.sinks {
        let made = sink.config.holdings(&SinkId::new(&sink.name), &http).map_err(|e| {
            Failure::new(Exit::Config, format!("sink \"{}\": {}", sink.name, assemble::chain(&e)))
        })?;
        holdings.insert(sink.name.clone(), made);
    }
    let runtime = super::daemon::small_runtime()?;
    let (mut all, mut gone) = (Vec::new(), Vec::new());
    let seen = runtime.block_on(purge::look(&**ring, rule, &found.places, &holdings, delete, |d| {
        if d.place == Place::Deleted {
            gone.push(d.destination.clone());
        }
        all.push(d);
        if gone.len() >= PER_ENTRY { audit(std::mem::take(&mut gone)) } else { Ok(()) }
    }));
    // whatever ended it, what is deleted is told
    let told = if gone.is_empty() { Ok(()) } else { audit(gone) };
    seen.and_then(|n| told.map(|()| (n, all))).map_err(|e| state::ring_failed(&e))
}

fn text(
    args: &Args,
    events: &PerLevel,
    dead: &BTreeMap<String, DeadPurged>,
    receipts: u64,
    delivered: &[Delivered],
) -> String {
    let mut out = String::new();
    let gone = if args.dry_run { "would go" } else { "are gone" };
    let levels: Vec<String> = TelemetryLevel::ALL
        .iter()
        .zip(events)
        .filter(|(_, n)| **n > 0)
        .map(|(l, n)| format!("{l} {n}"))
        .collect();
    let of = if levels.is_empty() { String::new() } else { format!(" ({})", levels.join(", ")) };
    let _ = writeln!(out, "ring: {} events{of} {gone}", events.iter().sum::<u64>());
    for (sink, d) in dead.iter().filter(|(_, d)| **d != DeadPurged::default()) {
        let _ = write!(out, "dead letters of {sink}: {} events {gone}, {} stay", d.events, d.kept);
        let _ = match d.unreadable {
            0 => writeln!(out),
            n => writeln!(out, "; {n} lines that cannot be read {gone} too"),
        };
    }
    if args.delivered {
        let _ = writeln!(
            out,
            "delivered: {receipts} receipts, {} objects that hold such events or may",
            delivered.len()
        );
    }
    for d in delivered {
        let what = match d.found {
            purge::Found::Events(n) => format!("{n} events"),
            purge::Found::Sure => "such events".to_owned(),
            purge::Found::Perhaps => "perhaps such events".to_owned(),
        };
        let place = match &d.place {
            Place::Listed => "would be deleted".to_owned(),
            Place::Deleted => "deleted".to_owned(),
            Place::Gone => "gone already".to_owned(),
            Place::Changed => "changed since it was delivered; left alone".to_owned(),
            Place::Kept => "kept by a policy or legal hold there".to_owned(),
            Place::Unreachable => "cannot be deleted from here; ask who runs it".to_owned(),
            Place::Failed(why) => format!("not done: {why}"),
        };
        let _ = writeln!(
            out,
            "  {} {}-{} {}  {what}: {place}  {}",
            d.sink, d.range.0, d.range.1, d.time, d.destination
        );
    }
    out
}
