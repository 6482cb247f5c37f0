//! The program's surface: flags, output, exit codes. What it does is in the rest of the library.
//!
//! Data goes to standard output, everything else to standard error. Exit codes are those of
//! `sysexits.h`; the help lists them.

mod audit;
mod bench;
mod buffer;
mod chain;
mod completions;
mod convert;
mod daemon;
mod device;
mod exit;
mod filter;
mod inspect;
mod level;
mod logs;
mod out;
mod pin;
mod plot;
mod purge;
mod receipts;
mod reload;
mod replay;
mod report;
mod run;
mod settings;
mod state;
mod status;
mod tally;
mod telemetry;
mod trace;
mod unread;
mod validate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::{Done, Exit, Failure};

/// Collects telemetry events, keeps them safe on disk, delivers them where you say.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, propagate_version = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    logs: logs::Options,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, 64 wrong use, 65 damaged or wrong input data, or of a newer version, 66 no such input, 69 what is \
needed is not to be had, 73 cannot create the output, 74 input/output error, 75 try again later (events are \
kept), 77 a right is missing, 78 wrong configuration.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Collect until stopped: every source of the configuration, to every sink.
    Run(run::Args),
    /// Send recorded events through the collector, once.
    Replay(Box<replay::Args>),
    /// Show what an event trace log (.etl) holds.
    Inspect(inspect::Args),
    /// Write the events of a trace in another format.
    Convert(convert::Args),
    /// Check a configuration without running it.
    Validate(validate::Args),
    /// Show how a collector that runs is.
    Status(status::Args),
    /// Let a collector that runs read its configuration again.
    Reload(reload::Args),
    /// Make keys, sign and verify remote settings.
    Settings(settings::Args),
    /// Show the device's random id, or make it anew.
    Device(device::Args),
    /// Show, set, explain and compare telemetry levels.
    Level(level::Args),
    /// Enable or disable all collection, or show whether it is.
    Telemetry(telemetry::Args),
    /// List or verify the log of changes.
    Audit(audit::Args),
    /// List, verify, reconcile and export the receipts of deliveries.
    Receipts(receipts::Args),
    /// Show, check and add pins of servers' keys.
    Pin(pin::Args),
    /// Remove events that should never have been collected, wherever they are.
    Purge(purge::Args),
    /// Look at, mend, carry and empty the ring of a collector that does not run.
    Buffer(buffer::Args),
    /// Report what was collected: counts, anonymised, as a page or as JSON.
    Report(report::Args),
    /// Measure this machine, from source to sink.
    Bench(bench::Args),
    /// Print the completion script of a shell.
    Completions(completions::Args),
    /// Print the manual page, or write one page per command into a folder.
    Man(completions::ManArgs),
}

/// Runs the program with the process's own arguments.
#[must_use]
pub fn main() -> ExitCode {
    tidegate_sources::arenas::few();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            // help into a closed pipe is no failure
            let _ = error.print();
            return code.into();
        }
    };
    match run(cli.command, &cli.logs) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print();
            failure.code.into()
        }
    }
}

fn run(command: Command, logs: &logs::Options) -> Done {
    match command {
        // their configuration says how to log
        Command::Run(_) | Command::Replay(_) | Command::Buffer(_) => {}
        _ => logs::start(logs, None),
    }
    match command {
        Command::Run(args) => run::run(&args, logs),
        Command::Replay(args) => replay::run(&args, logs),
        Command::Inspect(args) => inspect::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Settings(args) => settings::run(&args),
        Command::Device(args) => device::run(&args),
        Command::Level(args) => level::run(&args),
        Command::Telemetry(args) => telemetry::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Receipts(args) => receipts::run(&args),
        Command::Pin(args) => pin::run(&args),
        Command::Purge(args) => purge::run(&args),
        Command::Buffer(args) => buffer::run(&args, logs),
        Command::Report(args) => report::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => completions::man(&args),
    }
}

/// An input that is not there or may not be read.
fn no_input(what: &std::path::Path, error: &std::io::Error) -> Failure {
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound => "check the path",
        std::io::ErrorKind::PermissionDenied => "run as a user who may read it",
        _ => "check the file and the medium it is on",
    };
    Failure::new(Exit::NoInput, format!("cannot read {}: {error}", what.display())).hint(hint)
}
