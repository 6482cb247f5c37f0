//! `buffer import`: the connected host's side.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_proto::ids::{SeqRange, SinkId};
use tidegate_ring::bundle::{Bundle, BundleOrigin, PublicKey, Receipt, Settled, SigningKey};
use tidegate_ring::{Chain, MemoryRing, Ring, SinkAccount, UNSURE};
use tidegate_sinks::http::HttpContext;
use tidegate_sinks::secret::SecretRef;

use super::super::daemon;
use super::super::exit::{Done, Exit, Failure};
use super::super::out::count;
use super::super::state::{self, Of};
use super::carry::failed;
use super::keys::{self, reference};
use super::{by_level, sum};
use crate::assemble;
use crate::clock::now_ns;
use crate::config::{Config, SinkSection, units};
use crate::control::SWITCHES;
use crate::pipeline::{Parts, PipelineOptions, Until};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The events are delivered under the host, stream, epoch and places of their origin: blobs get the names that the first \
host would have given them, and a bundle that is imported twice finds its blobs there. They do not go through this \
host's ring, and its collector may run. What is above the level in force on this host is left out, and the receipt says so. \
The receipt is written when everything of the bundle has found its place; exit code 75 tells that it has not: import \
it again.")]
pub(super) struct Args {
    /// Bundles.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Sink of the configuration that they go to; needed when there is more than one.
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
    /// Public key of the host that exported: hexadecimal, or a file. May be repeated.
    #[arg(long, value_name = "KEY|FILE", required = true)]
    trust: Vec<String>,
    /// The key to sign receipts with: file:PATH, env:NAME or cred:NAME.
    #[arg(long, value_name = "REF", value_parser = reference)]
    key: SecretRef,
    /// Folder for the receipts. [default: beside each bundle]
    #[arg(long, value_name = "DIR")]
    receipts: Option<PathBuf>,
    /// Give up when nothing could be delivered for so long.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = units::duration)]
    patience: Duration,
    #[command(flatten)]
    of: Of,
}

/// Bytes of the objects that a receipt names.
const MAX_OBJECTS: usize = 40 << 10;

pub(super) fn run(args: &Args) -> Done {
    let config = args.of.config()?;
    let (trusted, key) = (keys::trusted(&args.trust)?, keys::signing(&args.key)?);
    let section = section(&config, args.sink.as_deref())?.clone();
    let mut told = Vec::new();
    let mut exit = Exit::Ok;
    for path in &args.files {
        let (one, value, text) = import(args, &config, &section, path, &trusted, &key)?;
        if one != Exit::Ok {
            exit = one;
        }
        if args.of.json {
            told.push(value);
        } else {
            state::print(&args.of, &Value::Null, text)?;
        }
    }
    if args.of.json {
        state::print(&args.of, &json!({ "bundles": told }), "")?;
    }
    Ok(exit)
}

fn section<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a SinkSection, Failure> {
    let names: Vec<&str> = config.sinks.iter().map(|s| s.name.as_str()).collect();
    let found = match (name, config.sinks.as_slice()) {
        (None, [one]) => Some(one),
        (None, _) => None,
        (Some(name), all) => all.iter().find(|s| s.name == name),
    };
    found.ok_or_else(|| {
        let what = name
            .map_or("which sink? name it with --sink".to_owned(), |n| format!("--sink {n}: no such sink"));
        Failure::new(Exit::Usage, what).hint(format!("the configuration has {}", names.join(", ")))
    })
}

/// The switches of this host: what a collector that runs has in force, else what its ring keeps.
fn switches(config: &Config, carried: &MemoryRing) -> Result<(), Failure> {
    let put = |key: &str, value: Option<&[u8]>| carried.put(key, value).map_err(|e| state::ring_failed(&e));
    let [enabled, level] = SWITCHES;
    if let Some(client) = state::running(config)? {
        let now = state::ask(&client, "GET", "/v1/level", &Value::Null)?;
        let on = now.get("enabled").and_then(Value::as_bool).unwrap_or(false);
        put(enabled, Some(if on { b"1" } else { b"0" }))?;
        let most = now.get("level").and_then(Value::as_u64).and_then(|l| u8::try_from(l).ok()).unwrap_or(0);
        return put(level, Some(&[most]));
    }
    // a host that only imports has none
    let Ok(here) = assemble::look_at_ring(config) else {
        return Ok(());
    };
    for key in SWITCHES.into_iter().chain([UNSURE]) {
        let value = here.get(key).map_err(|e| state::ring_failed(&e))?;
        put(key, value.as_deref())?;
    }
    Ok(())
}

fn import(
    args: &Args,
    config: &Config,
    section: &SinkSection,
    path: &Path,
    trusted: &[PublicKey],
    key: &SigningKey,
) -> Result<(Exit, Value, String), Failure> {
    let file = File::open(path).map_err(|e| super::super::no_input(path, &e))?;
    let bundle = Bundle::open(BufReader::new(file), trusted).map_err(|e| failed(path, &e))?;
    let (origin, range) = (bundle.origin().clone(), bundle.range());
    let ring = Arc::new(bundle.into_ring().map_err(|e| failed(path, &e))?);
    switches(config, &ring)?;
    let part = assemble::sink_part(config, section.clone(), &HttpContext::default())
        .map_err(|e| daemon::assemble_failure(&e))?;
    let rules = Arc::new(state::rules(config)?);
    let options = PipelineOptions {
        host: origin.host.clone(),
        stream: origin.stream.clone(),
        level: config.telemetry.level,
        policy_file: Some(config.telemetry.policy_file.clone()),
        until: Until::Delivered,
        ..PipelineOptions::default()
    };
    let shared = Arc::clone(&ring) as Arc<dyn Ring>;
    let parts = Parts { ring: shared, rules, sources: Vec::new(), sinks: vec![part], options };
    let summary = daemon::carry(parts, config.shutdown.drain, args.patience)?;
    let sink = SinkId::new(&section.name);
    let account = summary.total.sinks.get(&sink).cloned().unwrap_or_default();
    let (delivered, rejected, held) = (sum(&account.delivered), sum(&account.rejected), sum(&account.held));
    let lost: u64 = account.lost.values().map(sum).sum();
    let mut value = json!({
        "bundle": path.display().to_string(), "host": origin.host, "stream": origin.stream,
        "epoch": format!("{:016x}", origin.epoch), "first": range.first().0, "last": range.last().0,
        "delivered": by_level(&account.delivered), "rejected": by_level(&account.rejected),
        "left_out": lost, "held": held, "receipt": null,
    });
    let mut text = format!(
        "{}: {} of {}, places {} to {}: {} events delivered, {} rejected, {} left out",
        path.display(),
        origin.stream,
        origin.host,
        range.first().0,
        range.last().0,
        count(delivered),
        count(rejected),
        count(lost)
    );
    if held > 0 || summary.account_error.is_some() {
        let why = summary.alarms.first().cloned().or(summary.account_error);
        text.push_str(&format!(
            "; {} NOT DELIVERED: {}",
            count(held),
            why.as_deref().unwrap_or("it was stopped")
        ));
        return Ok((Exit::TempFail, value, text));
    }
    let receipt = receipt(config, &section.name, &origin, range, &account, &ring);
    let to = receipt_path(args, path);
    write(&receipt, key, &to)?;
    if let Some(members) = value.as_object_mut() {
        members.insert("receipt".to_owned(), json!(to.display().to_string()));
    }
    text.push_str(&format!("; receipt {}", to.display()));
    Ok((Exit::Ok, value, text))
}

/// What the first host takes back: its chain of receipts names the objects.
fn receipt(
    config: &Config,
    sink: &str,
    origin: &BundleOrigin,
    range: SeqRange,
    account: &SinkAccount,
    ring: &MemoryRing,
) -> Receipt {
    let (mut objects, mut more, mut room) = (Vec::new(), 0u64, MAX_OBJECTS);
    let mut level = json!(0);
    for entry in ring.entries(Chain::Receipts) {
        let Ok(Value::Object(mut entry)) = serde_json::from_slice::<Value>(&entry.data) else { continue };
        level = entry.remove("level").unwrap_or(level);
        more += entry.get("more_objects").and_then(Value::as_u64).unwrap_or(0);
        let Some(Value::Array(named)) = entry.remove("objects") else { continue };
        for object in named {
            match room.checked_sub(object.to_string().len() + 1) {
                Some(left) => {
                    room = left;
                    objects.push(object);
                }
                None => {
                    room = 0;
                    more += 1;
                }
            }
        }
    }
    let lost: BTreeMap<&str, _> = account.lost.iter().map(|(r, n)| (r.as_str(), n)).collect();
    let mut detail = json!({
        // not one of the first host's own
        "sink": format!("{sink}@{}", config.host.name),
        "host": origin.host,
        "stream": origin.stream,
        "epoch": format!("{:016x}", origin.epoch),
        "first": range.first().0,
        "last": range.last().0,
        "time": super::time(now_ns()),
        "level": level,
        "delivered": account.delivered,
        "rejected": account.rejected,
        "lost": lost,
        "objects": objects,
    });
    if let (1.., Some(members)) = (more, detail.as_object_mut()) {
        members.insert("more_objects".to_owned(), more.into());
    }
    let run = Settled {
        range,
        delivered: account.delivered,
        rejected: account.rejected,
        lost: account.lost.clone(),
    };
    Receipt { epoch: origin.epoch, runs: vec![run], detail: detail.to_string().into_bytes() }
}

fn receipt_path(args: &Args, bundle: &Path) -> PathBuf {
    let name = bundle.with_extension("receipt");
    match &args.receipts {
        None => name,
        Some(folder) => folder.join(name.file_name().unwrap_or_default()),
    }
}

fn write(receipt: &Receipt, key: &SigningKey, path: &Path) -> Result<(), Failure> {
    let cannot = |e: &dyn std::fmt::Display| {
        Failure::new(Exit::CantCreate, format!("cannot write the receipt {}: {e}", path.display()))
            .hint("import the bundle again, with --receipts DIR: what was delivered is found there")
    };
    let mut bytes = Vec::new();
    receipt.write(key, &mut bytes).map_err(|e| cannot(&e))?;
    let part = path.with_extension("receipt.part");
    let written = File::create(&part).and_then(|mut f| f.write_all(&bytes).and_then(|()| f.sync_all()));
    written.and_then(|()| fs::rename(&part, path)).map_err(|e| cannot(&e))
}
