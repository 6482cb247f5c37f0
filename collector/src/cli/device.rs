//! `device`: the random id of this device.

use clap::Subcommand;
use serde_json::{Value, json};

use super::exit::{Done, Exit};
use super::state::{self, Of, Reach};
use crate::device;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The id is random, kept with the ring, derived from nothing. It goes along with health events and questions for remote \
settings, at level Basic and above. Made anew, it cannot be linked to the one before.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the id.
    Show(Of),
    /// Make it anew.
    ResetId(Of),
}

pub(super) fn run(args: &Args) -> Done {
    let (of, reset) = match &args.command {
        Command::Show(of) => (of, false),
        Command::ResetId(of) => (of, true),
    };
    let value = match (state::reach(&of.config()?)?, reset) {
        (Reach::Running(client), false) => state::ask(&client, "GET", "/v1/device", &Value::Null)?,
        (Reach::Running(client), true) => state::ask(&client, "POST", "/v1/device/reset", &Value::Null)?,
        (Reach::Stopped(ring), reset) => {
            let id = if reset { device::reset(&*ring, &state::who()) } else { device::id(&*ring) };
            let id = id.and_then(|id| ring.close().map(|()| id)).map_err(|e| state::ring_failed(&e))?;
            json!({ "id": id })
        }
    };
    state::print(of, &value, value.get("id").and_then(Value::as_str).unwrap_or_default())?;
    Ok(Exit::Ok)
}
