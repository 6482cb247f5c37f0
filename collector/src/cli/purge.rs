//! `purge`: removes what slipped in, from ring, dead letters and, where asked to, far sides.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde_json::json;
use tidegate_proto::level::TelemetryLevel;

use super::daemon;
use super::exit::{Done, Exit, Failure};
use super::state::{self, Of, Reach};
use crate::assemble;
use crate::purge::{self, Asked, DeadPurged, Expr, ExprError, Place, Places, PurgeError, Report};

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
blobs for as long as it is set to. Only the newest 4096 receipts are kept.

A collector that runs is asked over its control socket: its sinks finish what is under way and wait until ring and \
dead letters are purged. What is read from then on is not touched; a rule in a catalogue keeps it out.

Exit codes: 0 done, 75 something could not be read or deleted now; run it again.")]
pub(super) struct Args {
    /// Which events.
    #[arg(short, long = "match", value_name = "CONDITION")]
    matching: Condition,
    /// Look into what was delivered too, and ask for its deletion.
    #[arg(long)]
    delivered: bool,
    /// Change nothing, only show what would go.
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    of: Of,
}

/// A condition as it was given, to be handed on, and as it was read.
#[derive(Clone)]
struct Condition {
    given: String,
    rule: Expr,
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // without what is looked for
        write!(f, "{}", self.rule)
    }
}

impl FromStr for Condition {
    type Err = ExprError;
    fn from_str(given: &str) -> Result<Condition, ExprError> {
        Ok(Condition { rule: Expr::parse(given)?, given: given.to_owned() })
    }
}

pub(super) fn run(args: &Args) -> Done {
    let config = args.of.config()?;
    let (delivered, dry_run) = (args.delivered, args.dry_run);
    let report: Report = match state::reach(&config)? {
        Reach::Running(client) => {
            let body = json!({ "match": args.matching.given, "delivered": delivered, "dry_run": dry_run });
            let told = state::ask(&client, "POST", "/v1/purge", &body)?;
            serde_json::from_value(told).map_err(|_| state::unreadable())?
        }
        Reach::Stopped(ring) => {
            let asked = Asked { rule: args.matching.rule.clone(), delivered, dry_run };
            let purge = purge::purge(ring.clone(), None, asked, Places::of(&config), state::who());
            let report = daemon::small_runtime()?.block_on(purge).map_err(|e| failed(&e))?;
            ring.close().map_err(|e| state::ring_failed(&e))?;
            report
        }
    };
    let value = serde_json::to_value(&report).map_err(|e| Failure::new(Exit::Software, e.to_string()))?;
    state::print(&args.of, &value, text(args, &report).trim_end())?;
    Ok(if report.again() { Exit::TempFail } else { Exit::Ok })
}

fn failed(error: &PurgeError) -> Failure {
    let (code, hint) = match error {
        PurgeError::Sink { .. } => (Exit::Config, "mend the sink's settings"),
        PurgeError::Ring(_) => (Exit::Io, "check the ring's disk"),
        _ => (Exit::Io, "what was purged from the ring stays purged; run it again"),
    };
    Failure::new(code, assemble::chain(error)).hint(hint)
}

fn text(args: &Args, report: &Report) -> String {
    let mut out = String::new();
    let gone = if args.dry_run { "would go" } else { "are gone" };
    let levels: Vec<String> = TelemetryLevel::ALL
        .iter()
        .zip(&report.ring)
        .filter(|(_, n)| **n > 0)
        .map(|(l, n)| format!("{l} {n}"))
        .collect();
    let of = if levels.is_empty() { String::new() } else { format!(" ({})", levels.join(", ")) };
    let _ = writeln!(out, "ring: {} events{of} {gone}", report.ring.iter().sum::<u64>());
    if report.waiting {
        let _ = writeln!(out, "not looked at: events that found no room in the ring yet");
    }
    for (sink, d) in report.dead_letters.iter().filter(|(_, d)| **d != DeadPurged::default()) {
        let _ = write!(out, "dead letters of {sink}: {} events {gone}, {} stay", d.events, d.kept);
        let _ = match d.unreadable {
            0 => writeln!(out),
            n => writeln!(out, "; {n} lines that cannot be read {gone} too"),
        };
    }
    if args.delivered {
        let _ = writeln!(
            out,
            "delivered: {} receipts, {} objects that hold such events or may",
            report.receipts,
            report.delivered.len()
        );
    }
    for d in &report.delivered {
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
