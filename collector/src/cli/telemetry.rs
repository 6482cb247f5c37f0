//! `telemetry`: the switch of all collection, the counterpart of `Set-Telemetry`.

use std::sync::Arc;

use clap::Subcommand;
use serde_json::{Value, json};
use tidegate_ring::Ring;

use super::exit::{Done, Exit, Failure};
use super::state::{self, Of, Reach};
use crate::api::level_view;
use crate::config::Config;
use crate::control::{Control, tell_unsure};
use crate::gate::level::PolicyFile;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Disabled, nothing is gathered and nothing leaves; the switch holds over restarts, and every turn of it is in \
the audit log. A collector that runs is told over its control socket, which only root and its own user may; \
without one the switch is set for its next start.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Gather and send again, as far as level and policy allow.
    Enable(Of),
    /// Gather nothing and send nothing.
    Disable(Of),
    /// Whether telemetry is enabled, the level in force, and who decides.
    Status(Of),
}

pub(super) fn run(args: &Args) -> Done {
    let (of, enable) = match &args.command {
        Command::Enable(of) => (of, Some(true)),
        Command::Disable(of) => (of, Some(false)),
        Command::Status(of) => (of, None),
    };
    let config = of.config()?;
    let value = match (state::reach(&config)?, enable) {
        (Reach::Running(client), None) => state::ask(&client, "GET", "/v1/level", &Value::Null)?,
        (Reach::Running(client), Some(enabled)) => {
            state::ask(&client, "PUT", "/v1/telemetry", &json!({ "enabled": enabled }))?
        }
        (Reach::Stopped(ring), None) => in_force(&config, &ring)?,
        (Reach::Stopped(ring), Some(enabled)) => {
            state::change(&config, &ring, async |c: &Control| c.set_enabled(enabled, &state::who()).await)?
        }
    };
    show(of, &value)
}

/// The level in force by what is kept with the ring, configuration and policy.
pub(super) fn in_force(config: &Config, ring: &Arc<dyn Ring>) -> Result<Value, Failure> {
    tell_unsure(&**ring).map_err(|e| state::ring_failed(&e))?;
    let mut policy = PolicyFile::new(&config.telemetry.policy_file);
    let (control, _) = Control::open(ring.clone(), config.telemetry.level, Some(&mut policy))
        .map_err(|e| state::ring_failed(&e))?;
    Ok(level_view(&control.now(), &control.all()))
}

/// Prints the level in force.
pub(super) fn show(of: &Of, value: &Value) -> Done {
    let text = value.get("text").and_then(Value::as_str).unwrap_or_default();
    let enabled = value.get("enabled").and_then(Value::as_bool).unwrap_or_default();
    state::print(of, value, format!("{}{text}", if enabled { "telemetry is enabled; " } else { "" }))?;
    Ok(Exit::Ok)
}
