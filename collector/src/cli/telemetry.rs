//! `telemetry`: the switch of all collection, the counterpart of `Set-Telemetry`.

use clap::Subcommand;
use serde_json::json;

use super::exit::{Done, Exit, Failure};
use super::state::{self, Of};
use crate::config::Config;
use crate::control::Control;
use crate::gate::level::{LevelInForce, PolicyFile};
use tidegate_ring::Ring;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Disabled, nothing is gathered and nothing leaves; the switch holds over restarts, and every turn of it is in \
the audit log. The ring belongs to the collector while it runs: stop it first.")]
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
    let ring = state::ring(&config)?;
    if let Some(enabled) = enable {
        state::change(&config, &ring, async |control: Control| {
            control.set_enabled(enabled, &state::who()).await
        })?;
        // the change has closed the ring
        drop(ring);
        let ring = state::ring(&config)?;
        return show(of, &config, &ring);
    }
    show(of, &config, &ring)
}

/// The level in force by what is kept with the ring, configuration and policy.
pub(super) fn in_force(
    config: &Config,
    ring: &std::sync::Arc<dyn Ring>,
) -> Result<(LevelInForce, crate::gate::level::Ceilings), Failure> {
    let mut policy = PolicyFile::new(&config.telemetry.policy_file);
    let (control, _) = Control::open(ring.clone(), config.telemetry.level, Some(&mut policy))
        .map_err(|e| state::ring_failed(&e))?;
    Ok((control.now(), control.all()))
}

pub(super) fn show(of: &Of, config: &Config, ring: &std::sync::Arc<dyn Ring>) -> Done {
    let (level, ceilings) = in_force(config, ring)?;
    let value = json!({
        "enabled": level.enabled,
        "level": level.level as u8,
        "decided_by": level.decided_by.as_str(),
        "alarm": level.alarm,
        "ceilings": {
            "policy": match &ceilings.policy {
                crate::gate::level::Policy::Absent => json!(null),
                crate::gate::level::Policy::Ceiling { level, enabled } => json!({ "level": *level as u8, "enabled": enabled }),
                crate::gate::level::Policy::Broken(why) => json!({ "level": 0, "broken": why }),
            },
            "remote": ceilings.remote.map(|l| l as u8),
            "runtime": ceilings.runtime.map(|l| l as u8),
            "configuration": ceilings.config.map(|l| l as u8),
            "switch": ceilings.enabled,
        },
    });
    state::print(
        of,
        &value,
        if level.enabled { format!("telemetry is enabled; {level}") } else { level.to_string() },
    )?;
    Ok(Exit::Ok)
}
