//! `reload`: a collector that runs reads its configuration again.

use serde_json::Value;

use super::exit::{Done, Exit, Failure};
use super::state::{self, Of};
use crate::control::OWED_HELP;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The configuration is checked as a whole first; one with mistakes changes nothing. Levels, catalogues, switches, \
scrubbing, pseudonyms, sampling and paused sinks count at once; what needs a restart is named. SIGHUP does the same.")]
pub(super) struct Args {
    #[command(flatten)]
    of: Of,
}

pub(super) fn run(args: &Args) -> Done {
    let hint = "its next start reads the configuration";
    let client = state::must_run(&args.of.config()?, hint)?;
    let value = state::ask(&client, "POST", "/v1/reload", &Value::Null)?;
    let names = |key: &str| {
        let list = value.get(key).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    let mut text = match names("changed") {
        changed if changed.is_empty() => "nothing has changed that counts at once".to_owned(),
        changed => format!("in force: {changed}"),
    };
    let restart = names("restart");
    if !restart.is_empty() {
        text.push_str(&format!("\nfrom the next start: {restart}"));
    }
    state::print(&args.of, &value, text)?;
    if let Some(owed) = value.get("owed").and_then(Value::as_str) {
        return Err(Failure::new(Exit::TempFail, owed).hint(OWED_HELP));
    }
    Ok(Exit::Ok)
}
