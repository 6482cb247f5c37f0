//! `level`: which events may exist, who decides it, and what another level would change.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};
use tidegate_proto::level::TelemetryLevel;

use super::exit::{Done, Exit, Failure};
use super::state::{self, Of, Reach};
use super::telemetry;
use crate::control::{Control, tell_unsure};
use crate::gate::{DiffError, Differ, EventKey, LevelDiff, Rules};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Levels are cumulative: 0 Security, 1 Basic, 2 Enhanced (the default), 3 Full. The lowest of policy, remote \
settings, run-time switch and configuration is in force. show, set and diff ask a collector that runs over its control \
socket, else they work on its ring. explain needs neither.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The level in force and every ceiling.
    Show(Of),
    /// Set the run-time ceiling; what is queued above it is purged at once. "none" takes it away.
    Set {
        /// 0 to 3, a name, or none.
        level: String,
        #[command(flatten)]
        of: Of,
    },
    /// Which rule decides on an event.
    Explain(Explain),
    /// What more leaves at the higher of two levels, by the events in the ring.
    Diff {
        /// One level.
        a: TelemetryLevel,
        /// The other.
        b: TelemetryLevel,
        #[command(flatten)]
        of: Of,
    },
}

#[derive(Debug, clap::Args)]
struct Explain {
    /// PROVIDER/EVENT, as `inspect` shows them; the event may be left out.
    event: String,
    /// Provider GUID.
    #[arg(long, value_parser = guid)]
    guid: Option<[u8; 16]>,
    /// Provider group GUID.
    #[arg(long, value_parser = guid)]
    group: Option<[u8; 16]>,
    /// Event id.
    #[arg(long, default_value_t = 0)]
    id: u16,
    /// Keyword bits, hexadecimal with 0x or decimal.
    #[arg(long, default_value = "0", value_parser = bits)]
    keyword: u64,
    /// Privacy tags, hexadecimal with 0x or decimal.
    #[arg(long, default_value = "0", value_parser = bits)]
    priv_tags: u64,
    /// TraceLogging event tags, hexadecimal with 0x or decimal.
    #[arg(long, default_value = "0", value_parser = bits)]
    tags: u64,
    /// The level that the event carries itself.
    #[arg(long)]
    own_level: Option<TelemetryLevel>,
    /// A configuration, for its catalogues; without it the shipped rules explain.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn guid(text: &str) -> Result<[u8; 16], String> {
    tidegate_proto::guid::parse(text)
        .ok_or_else(|| "write it as 4f50731a-89cf-4782-b3e0-dce8c90476ba".to_owned())
}

fn bits(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.map_err(|_| "a number such as 0x400000000000 is expected".to_owned())
}

pub(super) fn run(args: &Args) -> Done {
    match &args.command {
        Command::Show(of) => {
            let config = of.config()?;
            let value = match state::reach(&config)? {
                Reach::Running(client) => state::ask(&client, "GET", "/v1/level", &Value::Null)?,
                Reach::Stopped(ring) => telemetry::in_force(&config, &ring)?,
            };
            telemetry::show(of, &value)
        }
        Command::Set { level, of } => set(level, of),
        Command::Explain(explain) => explain_one(explain),
        Command::Diff { a, b, of } => diff(*a, *b, of),
    }
}

fn set(level: &str, of: &Of) -> Done {
    let level: Option<TelemetryLevel> = match level {
        "none" => None,
        text => Some(text.parse().map_err(|e| {
            Failure::new(Exit::Usage, format!("{e}")).hint("\"none\" takes the run-time ceiling away")
        })?),
    };
    let config = of.config()?;
    let value = match state::reach(&config)? {
        Reach::Running(client) => {
            let body = json!({ "level": level.map(|l| l as u8) });
            state::ask(&client, "PUT", "/v1/level", &body)?
        }
        Reach::Stopped(ring) => {
            tell_unsure(&*ring).map_err(|e| state::ring_failed(&e))?;
            state::change(&config, &ring, async |c: &Control| c.set_level(level, &state::who()).await)?
        }
    };
    telemetry::show(of, &value)
}

fn explain_one(args: &Explain) -> Done {
    let rules = match &args.config {
        None => Rules::shipped().map_err(|e| Failure::new(Exit::Software, e.to_string()))?,
        Some(path) => {
            let config = crate::config::load(path).map_err(|e| super::daemon::config_failure(&e))?;
            state::rules(&config)?
        }
    };
    let (provider, event) = args.event.split_once('/').unwrap_or((&args.event, ""));
    let told = rules.explain_key(&EventKey {
        provider: provider.to_owned(),
        guid: args.guid.unwrap_or_default(),
        group: args.group,
        event: event.to_owned(),
        tags: u32::try_from(args.tags).unwrap_or(u32::MAX),
        id: args.id,
        keyword: args.keyword,
        priv_tags: args.priv_tags,
        own_level: args.own_level,
        ..EventKey::default()
    });
    let value = json!({
        "level": told.level.map(|l| l as u8),
        "rule": told.rule.as_ref().map(|r| json!({ "name": r.name, "file": r.file, "line": r.line })),
        "by_rule": told.by_rule.map(|l| l as u8),
        "changed_by": told.changed_by,
        "switches": told.switches,
        "keywords": told.keywords,
    });
    let mut out = super::out::stdout();
    use std::io::Write as _;
    let written = if args.json { writeln!(out, "{value}") } else { writeln!(out, "{told}") };
    written.and_then(|()| out.flush()).map_err(|e| Failure::output(&e))?;
    Ok(Exit::Ok)
}

fn diff(a: TelemetryLevel, b: TelemetryLevel, of: &Of) -> Done {
    let config = of.config()?;
    let found: LevelDiff = match state::reach(&config)? {
        Reach::Running(client) => {
            let told = state::ask(&client, "GET", &format!("/v1/level/diff?a={a}&b={b}"), &Value::Null)?;
            serde_json::from_value(told).map_err(|_| state::unreadable())?
        }
        Reach::Stopped(ring) => {
            let rules = state::rules(&config)?;
            let mut differ = Differ::new(&rules, a, b);
            differ.push_all(&*ring).map_err(|e| match e {
                DiffError::Ring(e) => state::ring_failed(&e),
                e => Failure::new(Exit::Data, crate::assemble::chain(&e))
                    .hint("it was written by a newer version"),
            })?;
            differ.finish()
        }
    };
    let value = serde_json::to_value(&found).map_err(|e| Failure::new(Exit::Software, e.to_string()))?;
    state::print(of, &value, found.to_string().trim_end())?;
    Ok(Exit::Ok)
}
