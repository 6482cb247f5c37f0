//! `audit`: the log of changes, listed and verified.

use std::io::Write as _;

use clap::Subcommand;
use tidegate_ring::Chain;

use super::chain::{head, pages};
use super::exit::{Done, Exit, Failure};
use super::out;
use super::state::{self, Of};
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
        /// Check the receipts of deliveries instead.
        #[arg(long)]
        receipts: bool,
        #[command(flatten)]
        of: Of,
    },
}

pub(super) fn run(args: &Args) -> Done {
    match &args.command {
        Command::List { from, of } => {
            let reach = state::reach(&of.config()?)?;
            let mut out = out::stdout();
            pages(&reach, Chain::Audit, *from, |page| {
                for entry in page.iter().map(Listed::from) {
                    let line = if of.json {
                        serde_json::to_string(&entry)
                            .map_err(|e| Failure::new(Exit::Software, e.to_string()))?
                    } else {
                        entry.to_string()
                    };
                    writeln!(out, "{line}").map_err(|e| Failure::output(&e))?;
                }
                Ok(())
            })?;
            out.flush().map_err(|e| Failure::output(&e))?;
            Ok(Exit::Ok)
        }
        Command::Verify { head, receipts, of } => {
            let chain = if *receipts { Chain::Receipts } else { Chain::Audit };
            super::chain::verify(chain, *head, of)
        }
    }
}
