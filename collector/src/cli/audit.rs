//! `audit`: the log of changes, listed and verified.

use clap::Subcommand;
use tidegate_ring::Chain;

use super::chain::{head, list, verify};
use super::exit::Done;
use super::state::Of;
use crate::audit::{Head, Listed};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each entry is linked to the one before by SHA-256. A head that is kept elsewhere (verify prints it) proves later \
that nothing up to it was changed or cut off. A collector that runs is asked over its control socket.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the entries, oldest first; with --json one object a line.
    List {
        /// Number to begin with.
        #[arg(long, default_value_t = 1)]
        from: u64,
        #[command(flatten)]
        of: Of,
    },
    /// Check that no entry is missing or changed.
    Verify {
        /// NUMBER:HASH of an earlier verify, which must be in the chain.
        #[arg(long, value_parser = head)]
        head: Option<Head>,
        #[command(flatten)]
        of: Of,
    },
}

pub(super) fn run(args: &Args) -> Done {
    match &args.command {
        Command::List { from, of } => list(Chain::Audit, *from, of, |entry| Some(Listed::from(entry))),
        Command::Verify { head, of } => verify(Chain::Audit, *head, of),
    }
}
