//! `buffer detach`.

use serde_json::json;

use super::super::exit::{Done, Exit, Failure};
use super::super::out::count;
use super::super::state::{self, Of, Reach};
use super::sum;
use crate::attached;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
For a sink that was removed from the configuration or renamed, and for an export that will not go on: the ring keeps \
events for it until then. What only it had not got is let go. Its side of the account leaves with it and is kept in the \
audit log. Works on a collector that runs, too. Exit codes: 64 the sink is configured, or none of that name is attached.")]
pub(super) struct Args {
    /// The sink's name, as tidegate buffer status shows it.
    #[arg(value_name = "NAME")]
    sink: String,
    #[command(flatten)]
    of: Of,
}

pub(super) fn run(args: &Args) -> Done {
    let config = args.of.config()?;
    let name = &args.sink;
    if config.sinks.iter().any(|s| s.name == *name) {
        return Err(Failure::new(Exit::Usage, format!("sink \"{name}\" is configured"))
            .hint("take it out of the configuration first; paused = true keeps it without sending"));
    }
    let value = match state::reach(&config)? {
        Reach::Running(client) => state::ask(&client, "POST", "/v1/buffer/detach", &json!({ "sink": name }))?,
        Reach::Stopped(ring) => {
            let gone = attached::detach(&*ring, name, &state::who()).map_err(|e| state::ring_failed(&e))?;
            let Some(account) = gone else {
                return Err(Failure::new(Exit::Usage, format!("no sink \"{name}\" is attached to the ring"))
                    .hint("tidegate buffer status lists them"));
            };
            ring.close().map_err(|e| state::ring_failed(&e))?;
            json!({ "detached": name, "held": sum(&account.held) })
        }
    };
    let held = value.get("held").and_then(serde_json::Value::as_u64).unwrap_or_default();
    state::print(
        &args.of,
        &value,
        format!("sink {name} is detached; {} events were held for it", count(held)),
    )?;
    Ok(Exit::Ok)
}
