//! `receipts`: what was delivered, listed, verified, compared with what is there, exported.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};
use tidegate_proto::ids::{Seq, SeqRange, SinkId};
use tidegate_ring::Chain;
use tidegate_sinks::holdings::{ListError, Listing};
use tidegate_sinks::http::HttpContext;

use super::chain::{self, head, list, pages, verify};
use super::exit::{Done, Exit, Failure};
use super::state::{self, Of, Reach};
use crate::assemble;
use crate::audit::{Head, Record, What};
use crate::clock::now_ns;
use crate::config::{Config, SinkSection};
use crate::receipts::{Entry, Export, Receipt, Reconciler};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every delivery leaves a receipt in the ring: which events, how many, where, their digest. Each is linked to the one \
before by SHA-256. The newest 4096 are kept (less where they are long); export them to keep them longer. A collector \
that runs is asked over its control socket.")]
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
object has) and foreign (no receipt covers it). Exit code 0 when everything fits, 65 when not. Objects that purge \
--delivered deleted are named too; they fit. So does what a collector that runs delivers meanwhile. A blob sink's \
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
    /// Write all receipts as files that sha256sum checks, with a README that tells the format. The audit
    /// log has an entry of it; for that, one must be allowed to change a collector that runs.
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

/// The runs of a sink that are planned.
fn planned(reach: &Reach, sink: &str) -> Result<Vec<SeqRange>, Failure> {
    match reach {
        Reach::Stopped(ring) => {
            let cursor = ring.status().cursors.remove(&SinkId::new(sink)).unwrap_or_default();
            Ok(cursor.planned.iter().map(|p| p.range).collect())
        }
        Reach::Running(client) => {
            let value = state::ask(client, "GET", "/v1/buffer", &Value::Null)?;
            let of = value.get("sinks").and_then(|s| s.get(sink)).and_then(|s| s.get("planned_runs"));
            let run = |run: &Value| {
                let place = |n: usize| run.get(n).and_then(Value::as_u64).map(Seq);
                SeqRange::new(place(0)?, place(1)?)
            };
            Ok(of.and_then(Value::as_array).into_iter().flatten().filter_map(run).collect())
        }
    }
}

/// Receipts of a sink from a number on; the number behind the last one of all.
fn of_sink(reach: &Reach, sink: &str, from: u64, mut each: impl FnMut(&Receipt)) -> Result<u64, Failure> {
    let mut next = from;
    pages(reach, Chain::Receipts, from, |page| {
        next = page.last().map_or(next, |e| e.number + 1);
        let receipts = page.iter().filter_map(|e| Entry::from(e).receipt);
        receipts.filter(|r| r.sink == sink).for_each(|r| each(&r));
        Ok(())
    })?;
    Ok(next)
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
    let reach = state::reach(&config)?;
    let cut = chain::anchor(&reach, Chain::Receipts)?.0 > 0 || chain::cut(&reach, Chain::Receipts)?;
    let mut both = Reconciler::new(planned(&reach, sink)?, cut);
    let next = of_sink(&reach, sink, 1, |r| both.receipt(r))?;
    pages(&reach, Chain::Audit, 1, |page| {
        for entry in page {
            if let Ok(Record { what: What::Purge { blobs, .. }, .. }) = serde_json::from_slice(&entry.data) {
                blobs.iter().for_each(|blob| both.purged(blob));
            }
        }
        Ok(())
    })?;
    let of_host = (!all).then(|| (config.host.name.clone(), config.host.stream.clone()));
    let listing = Listing { of: of_host, read };
    let runtime = super::daemon::small_runtime()?;
    runtime
        .block_on(holdings.list(&listing, &mut |held| both.held(&held)))
        .map_err(|e| list_failed(sink, &e))?;
    if matches!(reach, Reach::Running(_)) {
        // planned first: what is settled in between has its receipt in what is read then
        both.planned(planned(&reach, sink)?);
        of_sink(&reach, sink, next, |r| both.later(r))?;
    }
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
    let reach = state::reach(&config)?;
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
    let cut = chain::cut(&reach, Chain::Receipts)?;
    let anchor = chain::anchor(&reach, Chain::Receipts)?;
    // a MiB at most
    let mut entries = Vec::new();
    pages(&reach, Chain::Receipts, 1, |page| {
        entries.extend_from_slice(page);
        Ok(())
    })?;
    // a receipt that was let go in between: begin behind it
    let anchor = match entries.first() {
        Some(first) if first.number > anchor.0 + 1 => chain::anchor(&reach, Chain::Receipts)?,
        _ => anchor,
    };
    entries.retain(|e| e.number > anchor.0);
    let mut export = Export::begin(folder, anchor, bases).map_err(failed)?;
    let to = folder.display().to_string();
    let count = entries.len() as u64;
    match &reach {
        Reach::Stopped(ring) => {
            let what = What::Export { of: "receipts".to_owned(), to: to.clone(), entries: count };
            let record = Record::new(now_ns(), &state::who().0, what);
            record.append(&**ring).map_err(|e| state::ring_failed(&e))?;
        }
        Reach::Running(client) => {
            let what = json!({ "to": to, "entries": count });
            state::ask(client, "POST", "/v1/receipts/exported", &what)?;
        }
    }
    export.add(&entries).map_err(failed)?;
    let done = export.finish().map_err(failed)?;
    if let Reach::Stopped(ring) = &reach {
        ring.close().map_err(|e| state::ring_failed(&e))?;
    }
    let value = json!({
        "folder": to, "receipts": done.receipts, "objects": done.objects, "unnamed": done.unnamed, "cut": cut,
    });
    if cut {
        eprintln!("warning: receipts before these are lost, see tidegate receipts verify");
    }
    let text = format!(
        "{} receipts, {} objects written to {to}\ncheck with: sh {}",
        done.receipts,
        done.objects,
        folder.join("check.sh").display()
    );
    state::print(of, &value, text)?;
    Ok(Exit::Ok)
}
