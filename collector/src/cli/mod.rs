//! The program's surface: flags, output, exit codes. What it does is in the rest of the library.
//!
//! Data goes to standard output, everything else to standard error. Exit codes are those of
//! `sysexits.h`; see [`exit::Exit`].

mod completions;
mod convert;
mod exit;
mod filter;
mod inspect;
mod logs;
mod out;
mod plot;
mod tally;
mod trace;

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
Exit codes: 0 done, 64 wrong use, 65 damaged or wrong input data, 66 no such input, 73 cannot create \
the output, 74 input/output error, 75 try again later (events are kept), 78 wrong configuration.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what an event trace log (.etl) holds.
    Inspect(inspect::Args),
    /// Write the events of a trace in another format.
    Convert(convert::Args),
    /// Print the completion script of a shell.
    Completions(completions::Args),
    /// Print the manual page, or write one page per command into a folder.
    Man(completions::ManArgs),
}

/// Runs the program with the process's own arguments.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            // help into a closed pipe is no failure
            let _ = error.print();
            return code.into();
        }
    };
    logs::start(&cli.logs);
    match run(cli.command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print();
            failure.code.into()
        }
    }
}

fn run(command: Command) -> Done {
    match command {
        Command::Inspect(args) => inspect::run(&args),
        Command::Convert(args) => convert::run(&args),
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
