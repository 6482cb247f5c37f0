//! `validate`: a configuration checked without running it.

use std::io::Write as _;
use std::path::PathBuf;

use serde_json::json;

use super::exit::{Done, Exit, Failure};
use super::{daemon, out};
use crate::{assemble, config};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration; conf.d/*.toml beside it is laid over it.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/tidegate/tidegate.toml")]
    config: PathBuf,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Done {
    let checked = config::load(&args.config).and_then(assemble::check);
    let mut out = out::stdout();
    let problem = |p: &config::Problem| json!({ "file": p.file.display().to_string(), "line": p.line, "key": p.key, "text": p.text });
    let written = match (&checked, args.json) {
        (Ok(checked), true) => writeln!(
            out,
            "{}",
            json!({
                "valid": true, "sources": checked.sources(), "sinks": checked.sinks(),
                "missing": checked.missing().iter().map(problem).collect::<Vec<_>>(),
            })
        ),
        (Ok(checked), false) => {
            let list =
                |names: Vec<String>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            writeln!(out, "{} is valid", args.config.display())
                .and_then(|()| writeln!(out, "  sources  {}", list(checked.sources())))
                .and_then(|()| writeln!(out, "  sinks    {}", list(checked.sinks())))
                .and_then(|()| {
                    let mut missing = checked.missing().iter();
                    missing.try_for_each(|p| writeln!(out, "  missing  {}: {}", p.key, p.text))
                })
        }
        (Err(error), true) => {
            writeln!(
                out,
                "{}",
                json!({ "valid": false, "problems": error.problems.iter().map(problem).collect::<Vec<_>>() })
            )
        }
        (Err(_), false) => Ok(()),
    };
    written.and_then(|()| out.flush()).map_err(|e| Failure::output(&e))?;
    match checked {
        Ok(_) => Ok(Exit::Ok),
        Err(_) if args.json => Ok(Exit::Config),
        Err(error) => Err(daemon::config_failure(&error)),
    }
}
