//! What the program says about its work, on standard error.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Logging")]
pub(super) struct Options {
    /// What to log: off, error, warn, info, debug, trace, or a filter such as tidegate_sinks=debug.
    #[arg(long, global = true, env = "TIDEGATE_LOG", value_name = "LEVEL", default_value = "warn")]
    pub(super) log: String,
    /// How log lines look.
    #[arg(long, global = true, env = "TIDEGATE_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Sends log lines to standard error from now on. A filter that cannot be read counts as `warn`.
pub(super) fn start(options: &Options) {
    let filter = EnvFilter::try_new(&options.log).unwrap_or_else(|_| {
        eprintln!("warning: --log {}: no such level or filter; using warn", options.log);
        EnvFilter::new("warn")
    });
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match options.log_format {
        Format::Text => builder.with_ansi(colour).init(),
        Format::Json => builder.json().init(),
    }
}
