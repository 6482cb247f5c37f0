//! `buffer`: the ring of a collector that does not run: looked at, mended, carried, emptied.

mod carry;
mod detach;
mod drain;
mod events;
mod health;
mod import;
mod keys;
mod purge;
mod status;

use clap::Subcommand;
use serde_json::{Map, Value, json};
use tidegate_proto::level::TelemetryLevel;
use tidegate_ring::{PerLevel, SledRing};

use super::exit::{Done, Exit, Failure};
use super::state::{self, Of};
use crate::assemble;
use crate::config::Config;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The ring belongs to the collector while it runs: stop it first. status, inspect and verify change no file, and work on \
a file system that is only read; what a crash left is put right only when the ring is opened to be used.

An air-gapped host and one with a network, once each has a key (tidegate buffer key FILE) and the other's public part:
  first:   tidegate buffer export --to /media/usb --key file:/etc/tidegate/edge.key
  second:  tidegate buffer import /media/usb/*.bundle --sink blob --trust edge.pub --key file:/etc/tidegate/hub.key
  first:   tidegate buffer settle /media/usb/*.receipt --trust hub.pub

Exit codes: 0 done, 65 damaged, or not signed by a trusted key, 66 no ring or no such file, 75 the collector runs, or \
not all was delivered.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How full the ring is, how old, and what each sink waits for.
    Status(Of),
    /// List what is held: blocks, or events with --events.
    Inspect(events::Args),
    /// Read everything: every checksum, both chains, the account. Changes nothing.
    Verify(Of),
    /// Set damaged parts aside, count what they held as lost, and make the book anew where it is damaged.
    Repair(Of),
    /// Write what follows as a signed bundle, for a host with a network.
    Export(carry::Export),
    /// Deliver the events of bundles as their own host would have, and write receipts.
    Import(import::Args),
    /// Take the receipts of bundles: what they settle need not be kept any more.
    Settle(carry::Settle),
    /// Deliver what is held, read nothing new, and end.
    Drain(drain::Args),
    /// Remove events by rule, so that no file of the ring holds them any more.
    Purge(purge::Args),
    /// Forget a sink that is not configured any more; also while the collector runs.
    Detach(detach::Args),
    /// Make a key to sign bundles or receipts with, or show the public part of one that is there.
    Key(keys::Args),
}

pub(super) fn run(args: &Args, logs: &super::logs::Options) -> Done {
    match &args.command {
        Command::Drain(args) => return drain::run(args, logs),
        _ => super::logs::start(logs, None),
    }
    match &args.command {
        Command::Status(of) => status::run(of),
        Command::Inspect(args) => events::run(args),
        Command::Verify(of) => health::verify(of),
        Command::Repair(of) => health::repair(of),
        Command::Export(args) => carry::export(args),
        Command::Import(args) => import::run(args),
        Command::Settle(args) => carry::settle(args),
        Command::Drain(_) => Ok(Exit::Ok),
        Command::Purge(args) => purge::run(args),
        Command::Detach(args) => detach::run(args),
        Command::Key(args) => keys::run(args),
    }
}

/// The ring, to look at only.
fn look(config: &Config) -> Result<SledRing, Failure> {
    assemble::look_at_ring(config).map_err(|e| state::refused(config, e))
}

/// The ring, to work with.
fn open(config: &Config) -> Result<SledRing, Failure> {
    if !config.ring.path.join("segments").is_dir() {
        return Err(state::nothing_there(config));
    }
    assemble::open_ring(config).map_err(|e| state::refused(config, e))
}

fn sum(levels: &PerLevel) -> u64 {
    levels.iter().sum()
}

/// Events per level, by name; levels without an event are left out.
fn by_level(levels: &PerLevel) -> Value {
    let some = TelemetryLevel::ALL.iter().zip(levels).filter(|(_, n)| **n > 0);
    Value::Object(some.map(|(level, n)| (level.as_str().to_owned(), json!(n))).collect::<Map<_, _>>())
}

fn time(ns: i64) -> String {
    tidegate_proto::time::format_rfc3339(ns)
}

fn audit(ring: &dyn tidegate_ring::Ring, what: crate::audit::What) -> Result<(), Failure> {
    let record = crate::audit::Record::new(crate::clock::now_ns(), &state::who().0, what);
    record.append(ring).map(|_| ()).map_err(|e| state::ring_failed(&e))
}
