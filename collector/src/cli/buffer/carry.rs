//! The air-gapped host's side: `buffer export` and `buffer settle`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use tidegate_proto::ids::{Seq, SinkId};
use tidegate_ring::bundle::{self, BundleError, Exported, Receipt, SigningKey, Which};
use tidegate_ring::{ReadLimit, Ring, RingError};
use tidegate_sinks::secret::SecretRef;

use super::super::exit::{Done, Exit, Failure};
use super::super::out::count;
use super::super::state::{self, Of};
use super::keys::{self, reference};
use super::{audit, open};
use crate::assemble;
use crate::audit::What;
use crate::config::{Config, units};
use crate::control::{KEY_HELP, OWED_HELP, tell_unsure};

/// The sink that bundles are exported under.
const SINK: &str = "bundle";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A bundle holds the next run of events, signed, and keeps names and places: whoever imports it delivers the events as \
this host would have. The events stay in the ring until a receipt settles them; a bundle that was lost on the way is \
written again with --again, the oldest first, or the one that --first names. The first export begins with the oldest event, and from then on the ring keeps events for \
it as for any sink. Exit code 0 also when nothing is left to export.")]
pub(super) struct Export {
    /// File of the bundle, or a folder that it gets a name in.
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
    /// The key to sign with: file:PATH, env:NAME or cred:NAME.
    #[arg(long, value_name = "REF", value_parser = reference)]
    key: SecretRef,
    /// Name that the exports have among the ring's sinks.
    #[arg(long, value_name = "NAME", default_value = SINK)]
    sink: String,
    /// Write the oldest run again that no receipt has settled.
    #[arg(long)]
    again: bool,
    /// Write the run again that begins at this place, where a later bundle was lost.
    #[arg(long, value_name = "SEQ", requires = "again")]
    first: Option<u64>,
    /// Bytes of uncompressed events in a bundle; at least one block is taken.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    max_bytes: u64,
    /// Events in a bundle.
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    max_events: u64,
    #[command(flatten)]
    of: Of,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A receipt counts when one of the trusted keys signed it and it is of this ring; it may be taken twice.")]
pub(super) struct Settle {
    /// Receipts that import wrote.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Public key of the host that imported: hexadecimal, or a file. May be repeated.
    #[arg(long, value_name = "KEY|FILE", required = true)]
    trust: Vec<String>,
    /// Name that the exports have among the ring's sinks.
    #[arg(long, value_name = "NAME", default_value = SINK)]
    sink: String,
    #[command(flatten)]
    of: Of,
}

fn size(text: &str) -> Result<u64, String> {
    let n = units::bytes(text)?;
    if (1..=1 << 30).contains(&n) { Ok(n) } else { Err("1 byte to 1 GiB is allowed".to_owned()) }
}

pub(super) fn failed(what: &Path, error: &BundleError) -> Failure {
    let text = format!("{}: {}", what.display(), assemble::chain(error));
    let (code, hint) = match error {
        BundleError::Untrusted => (Exit::Data, "name the public key of the host that signed it with --trust"),
        BundleError::Damaged(_) => (Exit::Data, "copy it again, or write it again with export --again"),
        BundleError::Newer(_) => (Exit::Data, "use the same version on both hosts"),
        BundleError::OtherRing { .. } => {
            (Exit::Data, "it is of another host, or of this one before its ring was made anew")
        }
        BundleError::Ring(RingError::Misuse(_)) => (
            Exit::Data,
            "was it exported under another name (--sink)? tidegate buffer status shows the planned runs",
        ),
        BundleError::Ring(e) if e.is_missing_key() => (Exit::Config, KEY_HELP),
        BundleError::Ring(_) => (Exit::Io, "check the ring's disk"),
        _ => (Exit::Io, "check the file and the medium it is on"),
    };
    Failure::new(code, text).hint(hint)
}

/// Carries through what the ceilings say now; refuses when nothing may leave.
fn permit(config: &Config, ring: &Arc<dyn Ring>) -> Result<(), Failure> {
    tell_unsure(&**ring).map_err(|e| state::ring_failed(&e))?;
    let control = super::super::daemon::small_runtime()?.block_on(state::begun(config, ring))?;
    if let Some(owed) = control.all().owed {
        return Err(Failure::new(Exit::TempFail, owed.to_string()).hint(OWED_HELP));
    }
    if control.now().enabled {
        return Ok(());
    }
    Err(state::disabled())
}

pub(super) fn export(args: &Export) -> Done {
    let config = args.of.config()?;
    let key = keys::signing(&args.key)?;
    let ring: Arc<dyn Ring> = Arc::new(open(&config)?);
    permit(&config, &ring)?;
    let folder = args.to.is_dir();
    let part = if folder { args.to.join("tidegate.bundle.part") } else { beside(&args.to) };
    let done = write(args, &config, &*ring, &key, &part)?;
    let Some(done) = done else {
        // an empty part is all there is of it
        let _ = fs::remove_file(&part);
        if let Some(first) = args.first {
            return Err(no_such_run(&*ring, &SinkId::new(&args.sink), first));
        }
        let text = if args.again { "no bundle waits for a receipt" } else { "nothing is left to export" };
        state::print(&args.of, &json!({ "bundle": null }), text)?;
        ring.close().map_err(|e| state::ring_failed(&e))?;
        return Ok(Exit::Ok);
    };
    let (first, last) = (done.range.first().0, done.range.last().0);
    let name = format!(
        "{}-{}-{:016x}-{first:020}-{last:020}.bundle",
        config.host.name,
        config.host.stream,
        ring.status().epoch
    );
    let path = if folder { args.to.join(name) } else { args.to.clone() };
    fs::rename(&part, &path).map_err(|e| {
        Failure::new(Exit::CantCreate, format!("cannot create {}: {e}", path.display())).hint(AGAIN)
    })?;
    audit(
        &*ring,
        What::Export {
            of: format!("events, places {first} to {last}"),
            to: path.display().to_string(),
            entries: done.events,
        },
    )?;
    let value = json!({
        "bundle": path.display().to_string(), "first": first, "last": last, "events": done.events,
        "blocks": done.blocks, "epoch": format!("{:016x}", ring.status().epoch),
    });
    let text = format!("{} events, places {first} to {last}, in {}", count(done.events), path.display());
    state::print(&args.of, &value, text)?;
    ring.close().map_err(|e| state::ring_failed(&e))?;
    Ok(Exit::Ok)
}

fn no_such_run(ring: &dyn Ring, sink: &SinkId, first: u64) -> Failure {
    let cursor = ring.status().cursors.remove(sink).unwrap_or_default();
    let begins: Vec<String> = cursor.planned.iter().take(20).map(|r| r.range.first().0.to_string()).collect();
    let hint = match begins.is_empty() {
        true => "no bundle waits for a receipt".to_owned(),
        false => format!("those that wait for a receipt begin at {}", begins.join(", ")),
    };
    Failure::new(Exit::Usage, format!("no exported run begins at place {first}")).hint(hint)
}

const AGAIN: &str = "the run waits for a receipt; export --again writes it again";

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// Writes the bundle to `part`, durably.
fn write(
    args: &Export,
    config: &Config,
    ring: &dyn Ring,
    key: &SigningKey,
    part: &Path,
) -> Result<Option<Exported>, Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(part).map_err(|e| {
        Failure::new(Exit::CantCreate, format!("cannot create {}: {e}", part.display()))
            .hint("name a file or a folder that you may write to")
    })?;
    let mut out = BufWriter::new(file);
    let origin = (config.host.name.as_str(), config.host.stream.as_str());
    let limit = ReadLimit { bytes: args.max_bytes, events: args.max_events };
    let sink = SinkId::new(&args.sink);
    let which = match (args.again, args.first) {
        (false, _) => Which::Next,
        (true, None) => Which::Oldest,
        (true, Some(first)) => Which::At(Seq(first)),
    };
    let done = bundle::export(ring, &sink, origin, limit, which, key, &mut out)
        .map_err(|e| failed(part, &e).hint(AGAIN))?;
    let synced = out.into_inner().map_err(io::IntoInnerError::into_error).and_then(|f| f.sync_all());
    synced.map_err(|e| failed(part, &BundleError::Io(e)).hint(AGAIN))?;
    Ok(done)
}

pub(super) fn settle(args: &Settle) -> Done {
    let config = args.of.config()?;
    let trusted = keys::trusted(&args.trust)?;
    let mut receipts = Vec::new();
    // all are read before the first counts
    for path in &args.files {
        let file = File::open(path).map_err(|e| super::super::no_input(path, &e))?;
        let receipt = Receipt::read(&mut BufReader::new(file), &trusted).map_err(|e| failed(path, &e))?;
        receipts.push((path, receipt));
    }
    let ring = open(&config)?;
    let sink = SinkId::new(&args.sink);
    let (mut runs, mut events, mut new) = (0, 0u64, 0u64);
    for (path, receipt) in &receipts {
        let taken = receipt.settle(&ring, &sink).map_err(|e| failed(path, &e))?;
        new += taken.runs;
        events += super::sum(&taken.delivered);
        runs += receipt.runs.len();
    }
    let settled = ring.status().cursors.get(&sink).map_or(0, |c| c.settled.0);
    let value = json!({ "receipts": receipts.len(), "runs": runs, "new": new, "delivered": events, "settled": settled });
    let text = format!(
        "{new} runs settled of {runs} in {} receipts, {} events delivered; settled up to {settled}",
        receipts.len(),
        count(events)
    );
    state::print(&args.of, &value, text)?;
    ring.close().map_err(|e| state::ring_failed(&e))?;
    Ok(Exit::Ok)
}
