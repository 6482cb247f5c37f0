//! `run`: the collector as a daemon.

use std::path::PathBuf;

use super::daemon::{self, Ends, Look};
use super::exit::Done;
use super::logs;
use crate::{assemble, config};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Stops on SIGTERM or Ctrl-C: sources at once, then what was read is stored, then the sinks go on for \
[shutdown] drain; what is left stays in the ring. A second signal ends it at once; nothing stored is lost.")]
pub(super) struct Args {
    /// The configuration; conf.d/*.toml beside it is laid over it.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/tidegate/tidegate.toml")]
    config: PathBuf,
    #[command(flatten)]
    look: Look,
}

pub(super) fn run(args: &Args, options: &logs::Options) -> Done {
    let config = config::load(&args.config).map_err(|e| daemon::config_failure(&e))?;
    logs::start(options, Some(&config.log));
    let checked = assemble::check(config).map_err(|e| daemon::config_failure(&e))?;
    Ok(daemon::run(checked, Some(&args.config), &args.look, Ends::WhenStopped)?.exit)
}
