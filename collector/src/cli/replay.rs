//! `replay`: recorded events through the whole collector, once, to wherever they are wanted.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize as _;
use tidegate_proto::level::TelemetryLevel;
use tidegate_ring::FullPolicy;
use tidegate_sources::{DecoderChoice, SourceConfig, SourceError};
use toml::{Table, Value};

use super::daemon::{self, Ends, Look};
use super::exit::{Done, Exit, Failure};
use super::out::Scratch;
use crate::assemble;
use crate::config::{self, Config, SinkSection, SourceSection, units};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate replay trace.etl                              JSON Lines to standard output
  tidegate replay trace.etl --to dir:out                 files in the folder out
  tidegate replay *.cap --to blob:telemetry              container of AZURE_STORAGE_CONNECTION_STRING
  tidegate replay x.jsonl --to events:https://HOST/OneCollector/1.0/    tenant of TIDEGATE_TENANT
  tidegate replay trace.etl -c tidegate.toml             every sink of a configuration

The events go through gate and ring as everything does. With --ring the ring stays, and a replay that was \
interrupted goes on where it was; without it the ring is in the temporary folder and goes when all is delivered.")]
pub(super) struct Args {
    /// Traces (.etl), captures, JSON Lines (.gz and .zst too); what each is, its content tells.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Where to: stdout, dir[:PATH], blob:CONTAINER, events:URL, or the name of a sink of --config. May be
    /// repeated.
    #[arg(long, value_name = "SINK")]
    to: Vec<String>,
    /// Configuration whose [host], [telemetry], [ring] and sinks count; its sources do not.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How fast: max, recorded, or a multiple of recorded time such as 10.
    #[arg(long, value_name = "SPEED", default_value = "max")]
    speed: String,
    /// Only events from this time on (RFC 3339).
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only events before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Begin again at the end, until stopped.
    #[arg(long = "loop")]
    repeat: bool,
    /// The telemetry level that may pass: security, basic, enhanced, full. [default: full, or that of
    /// --config]
    #[arg(long, value_name = "LEVEL")]
    level: Option<TelemetryLevel>,
    /// Folder of the ring; made if it is not there, kept at the end.
    #[arg(long, value_name = "DIR")]
    ring: Option<PathBuf>,
    /// Instrumentation manifest (.man) for traces that do not explain themselves. May be repeated.
    #[arg(long, value_name = "FILE")]
    manifest: Vec<PathBuf>,
    /// Who explains events of traces that nothing else does: own, or system (on Windows: what is
    /// registered with it).
    #[arg(long, value_name = "WHO", default_value = "own", value_parser = str::parse::<DecoderChoice>)]
    decoder: DecoderChoice,
    /// Give up when nothing could be delivered for so long; what is left is kept.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = units::duration)]
    patience: Duration,
    #[command(flatten)]
    look: Look,
}

pub(super) fn run(args: &Args, logs: &super::logs::Options) -> Done {
    let mut config = match &args.config {
        Some(file) => config::load(file).map_err(|e| daemon::config_failure(&e))?,
        None => defaults()?,
    };
    super::logs::start(logs, args.config.is_some().then_some(&config.log));
    config.sources = sources(args)?;
    if !args.to.is_empty() || args.config.is_none() {
        config.sinks = sinks(args, config.sinks)?;
    }
    if let Some(level) = args.level {
        config.telemetry.level = Some(level);
    }
    let mut scratch = None;
    match (&args.ring, &args.config) {
        (Some(dir), _) => config.ring.path.clone_from(dir),
        (None, Some(_)) => {}
        (None, None) => {
            let dir = Scratch::create(None, "replay")?;
            config.ring.path.clone_from(&dir.path);
            scratch = Some(dir);
        }
    }
    let checked = assemble::check(config).map_err(|e| daemon::config_failure(&e))?;
    let done = daemon::run(checked, None, &args.look, Ends::WithInput(args.patience))?;
    if let Some(scratch) = scratch
        && !done.complete
    {
        let ring = scratch.keep();
        eprintln!("what is not delivered is kept; go on with the same command and --ring {}", ring.display());
    }
    Ok(done.exit)
}

/// What counts without a configuration: everything passes, nothing is lost, and nothing of our own is added.
fn defaults() -> Result<Config, Failure> {
    let mut config = config::parse("defaults", "").map_err(|e| daemon::config_failure(&e))?;
    config.telemetry.level = Some(TelemetryLevel::Full);
    // files can wait, so nothing needs to be let go
    config.ring.options.full = FullPolicy::Block;
    config.health.events = false;
    Ok(config)
}

fn wrong_input(error: &SourceError) -> Failure {
    let (code, hint) = match error {
        SourceError::Io { .. } => (Exit::NoInput, "check the path"),
        _ => (Exit::Data, "give a trace (.etl), a capture or JSON Lines"),
    };
    Failure::new(code, assemble::chain(error)).hint(hint)
}

/// One source per kind of file, in the order of their first file.
fn sources(args: &Args) -> Result<Vec<SourceSection>, Failure> {
    let mut kinds: Vec<(&'static str, Vec<PathBuf>)> = Vec::new();
    for file in &args.files {
        let kind = tidegate_sources::detect(file).map_err(|e| wrong_input(&e))?.as_str();
        let path = std::path::absolute(file).unwrap_or_else(|_| file.clone());
        match kinds.iter_mut().find(|(k, _)| *k == kind) {
            Some((_, files)) => files.push(path),
            None => kinds.push((kind, vec![path])),
        }
    }
    let text = |text: &str| Value::String(text.to_owned());
    let section = |(kind, files): (&str, Vec<PathBuf>)| {
        let paths: Vec<String> = files.iter().map(|f| f.to_string_lossy().into_owned()).collect();
        let mut table = Table::new();
        table.insert("type".into(), text(kind));
        table.insert("speed".into(), args.speed.parse().map_or_else(|_| text(&args.speed), Value::Float));
        for (key, value) in [("from", &args.since), ("to", &args.until)] {
            if let Some(value) = value {
                table.insert(key.into(), text(value));
            }
        }
        if args.repeat {
            table.insert("loop".into(), Value::Boolean(true));
        }
        if kind == "etl" && !args.manifest.is_empty() {
            let manifests = args.manifest.iter().map(|m| text(&m.to_string_lossy()));
            table.insert("manifests".into(), Value::Array(manifests.collect()));
        }
        if kind == "etl" && args.decoder == DecoderChoice::System {
            table.insert("decoder".into(), text("system"));
        }
        // the same files go on where an interrupted replay was; others begin anew
        let name = format!("replay-{kind}-{:016x}", fnv(paths.join("\n").as_bytes()));
        table.insert("paths".into(), Value::Array(paths.iter().map(|p| text(p)).collect()));
        let config = SourceConfig::deserialize(table).map_err(|e| e.message().to_owned());
        let config = config.and_then(|c| c.check().map(|()| c));
        let config = config.map_err(|e| Failure::new(Exit::Usage, e).hint("see tidegate replay --help"))?;
        Ok(SourceSection { name, config })
    };
    kinds.into_iter().map(section).collect()
}

/// FNV-1a: the same in every version of the program.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// The sinks that --to names.
fn sinks(args: &Args, configured: Vec<SinkSection>) -> Result<Vec<SinkSection>, Failure> {
    let stdout = ["stdout".to_owned()];
    let wanted = if args.to.is_empty() { &stdout[..] } else { &args.to[..] };
    let mut all = Table::new();
    let mut sinks = Vec::new();
    for to in wanted {
        if let Some(sink) = configured.iter().find(|s| s.name == *to) {
            sinks.push(sink.clone());
            continue;
        }
        let (name, table) = sink(to, &configured)?;
        if all.insert(name.to_owned(), Value::Table(table)).is_some() {
            return Err(Failure::new(Exit::Usage, format!("--to {name} is given twice"))
                .hint("use a configuration for two sinks of a kind"));
        }
    }
    let mut root = Table::new();
    root.insert("sinks".into(), Value::Table(all));
    let text = toml::to_string(&root)
        .map_err(|e| Failure::new(Exit::Usage, format!("--to cannot be written as configuration: {e}")))?;
    let made = config::parse("--to", &text).map_err(|e| daemon::config_failure(&e))?;
    sinks.extend(made.sinks);
    Ok(sinks)
}

fn sink<'a>(to: &'a str, configured: &[SinkSection]) -> Result<(&'a str, Table), Failure> {
    let (kind, rest) = to.split_once(':').map_or((to, None), |(k, r)| (k, Some(r)));
    let keys: &[(&str, &str)] = match (kind, rest) {
        ("stdout", None) => &[("type", "stdout")],
        ("dir", rest) => &[("type", "directory"), ("path", rest.unwrap_or("tidegate-out"))],
        ("blob", Some(container)) => &[
            ("type", "blob"),
            ("container", container),
            ("connection_string", "env:AZURE_STORAGE_CONNECTION_STRING"),
        ],
        ("events", Some(url)) => &[("type", "events"), ("url", url), ("tenant", "env:TIDEGATE_TENANT")],
        ("blob", None) => return Err(usage(to, "write blob:CONTAINER")),
        ("events", None) => return Err(usage(to, "write events:URL")),
        _ if configured.is_empty() => {
            return Err(usage(to, "write stdout, dir:PATH, blob:CONTAINER or events:URL"));
        }
        _ => {
            let names: Vec<&str> = configured.iter().map(|s| s.name.as_str()).collect();
            return Err(usage(to, format!("the configuration has {}", names.join(", "))));
        }
    };
    let mut table = Table::new();
    for (key, value) in keys {
        table.insert((*key).to_owned(), Value::String((*value).to_owned()));
    }
    Ok((kind, table))
}

fn usage(to: &str, hint: impl Into<String>) -> Failure {
    Failure::new(Exit::Usage, format!("--to {to}: no such sink")).hint(hint)
}
