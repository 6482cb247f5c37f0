//! `receipts`: what was delivered, listed, verified, compared with what is there, exported.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use serde_json::json;
use tidegate_proto::ids::SinkId;
use tidegate_ring::Chain;
use tidegate_sinks::holdings::{ListError, Listing};
use tidegate_sinks::http::HttpContext;

use super::chain::{head, list, pages, verify};
use super::exit::{Done, Exit, Failure};
use super::state::{self, Of, Reach};
use crate::assemble;
use crate::audit::{Head, Record, What};
use crate::clock::now_ns;
use crate::config::{Config, SinkSection};
use crate::receipts::{Entry, Export, Reconciler};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every delivery leaves a receipt in the ring: which events, how many, where, their digest. Each is linked to the one \
before by SHA-256. The newest 4096 are kept (less where they are long); export them to keep them longer. list and \
verify ask a collector that runs over its control socket; for the others stop it first.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the receipts, oldest first; with --json one object a line.
    List {
        /// Number to begin with.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Only of this sink.
        #[arg(long)]
        sink: Option<String>,
        #[command(flatten)]
        of: Of,
    },
    /// Check that no receipt is missing or changed.
    Verify {
        /// NUMBER:HASH of an earlier verify, which must be in the chain.
        #[arg(long, value_parser = head)]
        head: Option<Head>,
        #[command(flatten)]
        of: Of,
    },
    /// Compare the receipts of a sink with what its folder or container holds.
    #[command(after_help = "\
Names what is missing (in a receipt, not there), changed (another size or digest), duplicate (events that another \
object has) and foreign (no receipt covers it). Exit code 0 when everything fits, 65 when not. A blob sink's \
credentials need the right to list the container.")]
    Reconcile {
        /// The sink's name in the configuration.
        sink: String,
        /// Look at everything in the folder or container, not only at this host's part of it.
        #[arg(long)]
        all: bool,
        /// Read every object and compare its SHA-256 too.
        #[arg(long)]
        read: bool,
        #[command(flatten)]
        of: Of,
    },
    /// Write all receipts as files that sha256sum checks, with a README that tells the format.
    Export {
        /// A folder that is empty or not there.
        folder: PathBuf,
        #[command(flatten)]
        of: Of,
    },
}

pub(super) fn run(args: &Args) -> Done {
    match &args.command {
        Command::List { from, sink, of } => {
            let of_sink = |e: &Entry| {
                sink.as_ref().is_none_or(|name| e.receipt.as_ref().is_some_and(|r| r.sink == *name))
            };
            list(Chain::Receipts, *from, of, |entry| Some(Entry::from(entry)).filter(of_sink))
        }
        Command::Verify { head, of } => verify(Chain::Receipts, *head, of),
        Command::Reconcile { sink, all, read, of } => reconcile(sink, *all, *read, of),
        Command::Export { folder, of } => export(folder, of),
    }
}

fn section<'c>(config: &'c Config, name: &str) -> Result<&'c SinkSection, Failure> {
    config.sinks.iter().find(|s| s.name == name).ok_or_else(|| {
        let names: Vec<&str> = config.sinks.iter().map(|s| s.name.as_str()).collect();
        Failure::new(Exit::Usage, format!("the configuration has no sink \"{name}\""))
            .hint(format!("it has {}", names.join(", ")))
    })
}

fn reconcile(sink: &str, all: bool, read: bool, of: &Of) -> Done {
    let config = of.config()?;
    let section = section(&config, sink)?;
    let id = SinkId::new(sink);
    let made = section.config.holdings(&id, &HttpContext::default()).map_err(|e| {
        Failure::new(Exit::Config, format!("sink \"{sink}\": {}", assemble::chain(&e)))
            .hint("mend the sink's settings")
    })?;
    let Some(holdings) = made else {
        let kind = section.config.kind();
        let text = format!("cannot list sink \"{sink}\": one of type \"{kind}\" cannot be listed");
        return Err(Failure::new(Exit::Usage, text).hint("choose a sink of type directory or blob"));
    };
    let ring = state::ring(&config)?;
    let anchor = ring.chain_anchor(Chain::Receipts).map_err(|e| state::ring_failed(&e))?;
    let cursor = ring.status().cursors.remove(&id).unwrap_or_default();
    let mut both = Reconciler::new(&cursor, anchor.0 > 0);
    pages(&Reach::Stopped(Arc::clone(&ring)), Chain::Receipts, 1, |page| {
        let receipts = page.iter().filter_map(|e| Entry::from(e).receipt);
        receipts.filter(|r| r.sink == sink).for_each(|r| both.receipt(&r));
        Ok(())
    })?;
    let of_host = (!all).then(|| (config.host.name.clone(), config.host.stream.clone()));
    let listing = Listing { of: of_host, read };
    let runtime = super::daemon::small_runtime()?;
    runtime
        .block_on(holdings.list(&listing, &mut |held| both.held(&held)))
        .map_err(|e| list_failed(sink, &e))?;
    let report = both.finish();
    let mut value = serde_json::to_value(&report).map_err(|e| Failure::new(Exit::Software, e.to_string()))?;
    if let Some(members) = value.as_object_mut() {
        members.insert("sink".to_owned(), sink.into());
        members.insert("fits".to_owned(), report.fits().into());
    }
    state::print(of, &value, &report)?;
    Ok(if report.fits() { Exit::Ok } else { Exit::Data })
}

fn list_failed(sink: &str, error: &ListError) -> Failure {
    use tidegate_sinks::DeliverError;
    let (code, hint) = match error {
        ListError::FarSide(DeliverError::Stop { advice, .. }) => {
            (Exit::Config, format!("{advice}; to list a container the right to list it is needed too"))
        }
        ListError::FarSide(_) => (Exit::TempFail, "try again when the far side can be reached".to_owned()),
        _ => (Exit::Io, "check the folder and the disk it is on".to_owned()),
    };
    Failure::new(code, format!("cannot list sink \"{sink}\": {}", assemble::chain(error))).hint(hint)
}

fn export(folder: &Path, of: &Of) -> Done {
    let config = of.config()?;
    let ring = state::ring(&config)?;
    let http = HttpContext::default();
    let base = |s: &SinkSection| {
        // a sink that cannot be made only leaves its paths long
        let holdings = s.config.holdings(&SinkId::new(&s.name), &http).ok().flatten();
        holdings.map(|h| (s.name.clone(), h.base()))
    };
    let bases: BTreeMap<String, String> = config.sinks.iter().filter_map(base).collect();
    let failed = |e: std::io::Error| {
        Failure::new(Exit::CantCreate, format!("cannot export to {}: {e}", folder.display()))
            .hint("name a folder that is empty or not there, on a disk with room")
    };
    let anchor = ring.chain_anchor(Chain::Receipts).map_err(|e| state::ring_failed(&e))?;
    let mut export = Export::begin(folder, anchor, bases).map_err(failed)?;
    pages(&Reach::Stopped(Arc::clone(&ring)), Chain::Receipts, 1, |page| export.add(page).map_err(failed))?;
    let done = export.finish().map_err(failed)?;
    let to = folder.display().to_string();
    let what = What::Export { of: "receipts".to_owned(), to: to.clone(), entries: done.receipts };
    Record::new(now_ns(), &state::who().0, what).append(&*ring).map_err(|e| state::ring_failed(&e))?;
    ring.close().map_err(|e| state::ring_failed(&e))?;
    let value = json!({
        "folder": to, "receipts": done.receipts, "objects": done.objects, "unnamed": done.unnamed,
    });
    let text = format!(
        "{} receipts, {} objects written to {to}\ncheck with: sh {}",
        done.receipts,
        done.objects,
        folder.join("check.sh").display()
    );
    state::print(of, &value, text)?;
    Ok(Exit::Ok)
}
