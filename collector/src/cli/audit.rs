//! `audit`: the log of changes, listed and verified.

use std::io::Write as _;

use clap::Subcommand;
use serde_json::json;
use tidegate_ring::{Chain, ChainEntry, Ring};

use super::exit::{Done, Exit, Failure};
use super::out;
use super::state::{self, Of};
use crate::audit::{Broken, Head, Listed, Verified, verify};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each entry is linked to the one before by SHA-256. A head that is kept elsewhere (verify prints it) proves later \
that nothing up to it was changed or cut off. The ring belongs to the collector while it runs: stop it first.")]
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

/// Entries read at a time.
const PAGE: usize = 1000;

fn head(text: &str) -> Result<Head, String> {
    let wrong = || "NUMBER:HASH is expected, as verify prints it".to_owned();
    let (number, hex) = text.split_once(':').ok_or_else(wrong)?;
    let number = number.parse().map_err(|_| wrong())?;
    if hex.len() != 64 || !hex.is_ascii() {
        return Err(wrong());
    }
    let mut hash = [0; 32];
    for (n, byte) in hash.iter_mut().enumerate() {
        *byte = hex.get(n * 2..n * 2 + 2).and_then(|d| u8::from_str_radix(d, 16).ok()).ok_or_else(wrong)?;
    }
    Ok(Head { number, hash })
}

pub(super) fn run(args: &Args) -> Done {
    match &args.command {
        Command::List { from, of } => {
            let ring = state::ring(&of.config()?)?;
            let mut out = out::stdout();
            pages(&*ring, Chain::Audit, *from, |page| {
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
            let ring = state::ring(&of.config()?)?;
            let chain = if *receipts { Chain::Receipts } else { Chain::Audit };
            match whole(&*ring, chain, *head)? {
                Ok(good) => {
                    let value = json!({ "whole": true, "entries": good.entries, "last": good.last, "head": good.head });
                    let text = format!("{good}\nkeep elsewhere: {}:{}", good.last, good.head);
                    state::print(of, &value, text)?;
                    Ok(Exit::Ok)
                }
                Err(broken) if of.json => {
                    state::print(of, &json!({ "whole": false, "problem": broken.to_string() }), "")?;
                    Ok(Exit::Data)
                }
                Err(broken) => Err(Failure::new(Exit::Data, broken.to_string())
                    .hint("someone changed the ring's files, or they are damaged; compare with a backup")),
            }
        }
    }
}

/// Verifies a chain page by page.
fn whole(ring: &dyn Ring, chain: Chain, kept: Option<Head>) -> Result<Result<Verified, Broken>, Failure> {
    let mut at = Head::default();
    let mut found = kept.is_none_or(|k| k == at);
    let mut all = Ok(Verified { entries: 0, last: 0, head: "0".repeat(64) });
    pages(ring, chain, 1, |page| {
        if let Ok(sum) = &mut all {
            match verify(at, page, None) {
                Ok(good) => {
                    sum.entries += good.entries;
                    (sum.last, sum.head) = (good.last, good.head);
                    found |= page.iter().any(|e| kept == Some(Head { number: e.number, hash: e.hash }));
                    if let Some(last) = page.last() {
                        at = Head { number: last.number, hash: last.hash };
                    }
                }
                Err(e) => all = Err(e),
            }
        }
        Ok(())
    })?;
    Ok(match (all, kept) {
        (Ok(_), Some(kept)) if !found => Err(Broken::NoHead { number: kept.number }),
        (all, _) => all,
    })
}

fn pages(
    ring: &dyn Ring,
    chain: Chain,
    from: u64,
    mut each: impl FnMut(&[ChainEntry]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut next = from.max(1);
    loop {
        let page = ring.chain_read(chain, next, PAGE).map_err(|e| state::ring_failed(&e))?;
        let Some(last) = page.last() else { return Ok(()) };
        next = last.number.saturating_add(1);
        each(&page)?;
    }
}
