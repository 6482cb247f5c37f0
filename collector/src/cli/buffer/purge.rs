//! `buffer purge`: the ring's part of a purge.

use std::time::Duration;

use serde_json::json;
use tidegate_proto::batch::EventRef;
use tidegate_proto::level::TelemetryLevel;
use tidegate_ring::{PerLevel, PurgeRule, Ring};

use super::super::exit::{Done, Exit, Failure};
use super::super::filter::{self, Filter};
use super::super::out::count;
use super::super::state::{self, Of};
use super::{audit, by_level, open, sum};
use crate::audit::What;
use crate::clock::now_ns;
use crate::config::units;
use crate::purge::Expr;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Events that meet every condition given are removed; one condition at least is needed. Segment files that held one are \
written anew without it, and what was set aside as damaged is removed, since nobody can say what is in it. Dead letters \
and what was delivered are not touched: tidegate purge does those too. The audit log keeps who did it, the conditions, and how many went. With \
+DURATION times count from 1970, so give whole times.")]
pub(super) struct Args {
    /// Above this telemetry level.
    #[arg(long, value_name = "LEVEL")]
    above: Option<TelemetryLevel>,
    /// Whose own time is longer ago than this.
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    older_than: Option<Duration>,
    /// That meet this condition, as tidegate purge takes it (see its help): any like '*text*'
    #[arg(long = "match", value_name = "CONDITION")]
    matching: Option<Expr>,
    #[command(flatten)]
    filter: filter::Options,
    #[command(flatten)]
    of: Of,
}

/// All conditions of a purge.
#[derive(Debug)]
pub(super) struct Rule {
    above: Option<TelemetryLevel>,
    before_ns: Option<i64>,
    matching: Option<Expr>,
    filter: Filter,
}

impl PurgeRule for Rule {
    fn may_match(&self, levels: &PerLevel, (from, to): (i64, i64)) -> bool {
        let high =
            self.above.is_none_or(|a| TelemetryLevel::ALL.iter().zip(levels).any(|(l, n)| *l > a && *n > 0));
        high && self.before_ns.is_none_or(|t| from < t)
            && self.matching.as_ref().is_none_or(|m| m.may_match(levels, (from, to)))
    }

    fn matches(&self, event: EventRef<'_>) -> bool {
        let head = event.head();
        // what has no level must not pass for one
        self.above.is_none_or(|a| head.telemetry_level.is_none_or(|l| l > a))
            && self.before_ns.is_none_or(|t| head.time_ns < t)
            && self.filter.strictly(event)
            && self.matching.as_ref().is_none_or(|m| m.matches(event))
    }
}

/// The conditions in words; what is looked for is not repeated.
fn told(args: &Args) -> String {
    let mut parts = Vec::new();
    parts.extend(args.above.map(|l| format!("above {l}")));
    parts.extend(args.older_than.map(|d| format!("older than {} s", d.as_secs())));
    parts.extend(args.matching.as_ref().map(Expr::to_string));
    parts.extend(args.filter.told());
    parts.join(", ")
}

pub(super) fn run(args: &Args) -> Done {
    if args.above.is_none() && args.older_than.is_none() && args.matching.is_none() && !args.filter.given() {
        return Err(Failure::new(Exit::Usage, "which events? nothing was given that tells")
            .hint("for example --above basic, --older-than 7d, --provider NAME, --match CONDITION"));
    }
    let config = args.of.config()?;
    let age = |d: Duration| now_ns().saturating_sub(i64::try_from(d.as_nanos()).unwrap_or(i64::MAX));
    let rule = Rule {
        above: args.above,
        before_ns: args.older_than.map(age),
        matching: args.matching.clone(),
        filter: args.filter.filter(0)?,
    };
    let ring = open(&config)?;
    let purged = ring.purge(&rule).map_err(|e| state::ring_failed(&e))?;
    let matching = told(args);
    audit(
        &ring,
        What::Purge { matching: matching.clone(), events: purged.events, dead_letters: 0, blobs: Vec::new() },
    )?;
    ring.close().map_err(|e| state::ring_failed(&e))?;
    let value = json!({ "matching": matching, "events": by_level(&purged.events), "blocks": purged.blocks });
    let text = format!("{} events are gone from {} blocks", count(sum(&purged.events)), count(purged.blocks));
    state::print(&args.of, &value, text)?;
    Ok(Exit::Ok)
}
