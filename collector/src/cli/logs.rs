//! What the program says about its work, on standard error.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::config::LogConfig;

/// Flags of every command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Logging")]
pub(super) struct Options {
    /// What to log: off, error, warn, info, debug, trace, or a filter such as tidegate_sinks=debug. [default:
    /// that of the configuration, else warn]
    #[arg(long, global = true, env = "TIDEGATE_LOG", value_name = "LEVEL")]
    log: Option<String>,
    /// How log lines look. [default: that of the configuration, else text]
    #[arg(long, global = true, env = "TIDEGATE_LOG_FORMAT", value_enum)]
    log_format: Option<Format>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Sends log lines to standard error from now on: by the flags, else as the configuration says. A
/// filter that cannot be read counts as `warn`.
pub(super) fn start(options: &Options, config: Option<&LogConfig>) {
    let level = options.log.as_deref().or(config.map(|c| c.level.as_str())).unwrap_or("warn");
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| {
        eprintln!("warning: --log {level}: no such level or filter; using warn");
        EnvFilter::new("warn")
    });
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let json = options.log_format.map_or(config.is_some_and(|c| c.json), |f| f == Format::Json);
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(colour).init();
    }
}
