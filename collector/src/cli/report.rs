//! `report`: what was collected, by the hourly aggregates, anonymised.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::exit::{Done, Exit, Failure};
use super::out;
use super::state::Of;
use crate::aggregate::{Hour, Store};
use crate::clock::now_ns;
use crate::report;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The report tells counts by hour, provider, event, level, outcome and sink, never contents. Rows of fewer events than \
k (aggregates.k of the configuration, or --k if that is more) are suppressed and only counted together. It needs no \
ring: the collector may run.")]
pub(super) struct Args {
    #[command(flatten)]
    of: Of,
    /// How far back: 24h, 7d, 90d.
    #[arg(long, default_value = "7d", value_parser = duration)]
    last: Duration,
    /// Suppress rows of fewer events; no less than the configuration says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(report::MIN_K..))]
    k: Option<u64>,
    /// Write the page into a file instead of printing it.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::config::units::duration(text)
}

pub(super) fn run(args: &Args) -> Done {
    let config = args.of.config()?;
    let options = config.aggregates.options(&config.ring.path);
    if !options.path.is_dir() {
        return Err(Failure::new(
            Exit::NoInput,
            format!("there are no aggregates at {}", options.path.display()),
        )
        .hint("the collector makes them while it runs, unless aggregates.enabled = false"));
    }
    let to = now_ns();
    let back = i64::try_from(args.last.as_nanos()).unwrap_or(i64::MAX);
    let from = Hour::start_of(to.saturating_sub(back).max(0));
    let failed = |e: std::io::Error| {
        Failure::new(Exit::Io, format!("cannot read the aggregates {}: {e}", options.path.display()))
            .hint("check the folder and the medium it is on")
    };
    let hours = Store::open(&options).and_then(|s| s.load(from, to)).map_err(failed)?;
    let k = args.k.unwrap_or(0).max(config.aggregates.k);
    let made = report::make(&hours, (from, to), k, &tidegate_sources::census::configuration());
    let text = if args.of.json {
        serde_json::to_string_pretty(&made).map_err(|e| Failure::new(Exit::Software, e.to_string()))? + "\n"
    } else {
        report::page(&made)
    };
    match &args.output {
        Some(path) => std::fs::write(path, text).map_err(|e| {
            Failure::new(Exit::CantCreate, format!("cannot write {}: {e}", path.display()))
                .hint("check the folder and its rights")
        })?,
        None => {
            let mut out = out::stdout();
            out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| Failure::output(&e))?;
        }
    }
    Ok(Exit::Ok)
}
