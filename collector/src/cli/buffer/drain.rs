//! `buffer drain`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tidegate_ring::Ring;

use super::super::daemon::{self, Ends, Look};
use super::super::exit::{Done, Exit, Failure};
use super::super::{logs, state, telemetry};
use crate::assemble;
use crate::config::{self, units};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
For a host that is taken out of service, or a ring that was copied from one. Sources are not read. Exit code 0 when \
the ring is empty; 75 when telemetry is disabled, or a sink could not take everything in --patience: the summary says which and why, and \
what is left stays.")]
pub(super) struct Args {
    /// The configuration; conf.d/*.toml beside it is laid over it.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/tidegate/tidegate.toml")]
    config: std::path::PathBuf,
    /// Give up when nothing could be delivered for so long; what is left is kept.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = units::duration)]
    patience: Duration,
    #[command(flatten)]
    look: Look,
}

pub(super) fn run(args: &Args, logs: &logs::Options) -> Done {
    let mut config = config::load(&args.config).map_err(|e| daemon::config_failure(&e))?;
    logs::start(logs, Some(&config.log));
    if config.sinks.is_empty() {
        return Err(Failure::new(Exit::Config, "the configuration has no sink to drain into").hint("add one"));
    }
    // in use, or not there: told before anything is made
    let ring: Arc<dyn Ring> = Arc::new(super::open(&config)?);
    if telemetry::in_force(&config, &ring)?.get("enabled") == Some(&Value::Bool(false))
        && ring.status().oldest_stored_ns.is_some()
    {
        return Err(state::disabled());
    }
    drop(ring);
    config.sources.clear();
    config.health.events = false;
    let checked = assemble::check(config).map_err(|e| daemon::config_failure(&e))?;
    let ran = daemon::run(checked, None, &args.look, Ends::WithInput(args.patience))?;
    Ok(ran.exit)
}
