//! What `level`, `telemetry` and `audit` share: the configuration's ring and rules, opened while
//! no collector runs.

use std::path::PathBuf;
use std::sync::Arc;

use tidegate_ring::{Ring, RingError, SledRing};

use super::exit::{Exit, Failure};
use super::{daemon, out};
use crate::assemble::{self, AssembleError};
use crate::config::{self, Config};
use crate::control::{Control, Who};
use crate::gate::Rules;
use crate::gate::level::PolicyFile;

/// Which collector, and how it is shown.
#[derive(Debug, clap::Args)]
pub(super) struct Of {
    /// The configuration; conf.d/*.toml beside it is laid over it.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/tidegate/tidegate.toml")]
    config: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

impl Of {
    pub(super) fn config(&self) -> Result<Config, Failure> {
        config::load(&self.config).map_err(|e| daemon::config_failure(&e))
    }
}

pub(super) fn rules(config: &Config) -> Result<Rules, Failure> {
    assemble::rules(config).map_err(|p| daemon::config_failure(&config::ConfigError { problems: vec![p] }))
}

/// Opens the ring; a collector that runs has it alone.
pub(super) fn ring(config: &Config) -> Result<Arc<dyn Ring>, Failure> {
    let path = &config.ring.path;
    if !path.is_dir() {
        // nothing is made only by looking
        return Err(Failure::new(Exit::NoInput, format!("there is no ring at {}", path.display()))
            .hint("start the collector once, or name its configuration with -c"));
    }
    let ring = SledRing::open(path, config.ring.options.clone()).map_err(|e| {
        match assemble::ring_error(path, e) {
            AssembleError::InUse(path) => Failure::new(
                Exit::TempFail,
                format!("the collector is running and has its ring {} to itself", path.display()),
            )
            .hint("stop it (systemctl stop tidegate), run this again, start it; it goes on where it was"),
            failure => daemon::assemble_failure(&failure),
        }
    })?;
    Ok(Arc::new(ring))
}

pub(super) fn ring_failed(error: &RingError) -> Failure {
    Failure::new(Exit::Io, assemble::chain(error)).hint("check the ring's disk")
}

/// Who runs the program, for the audit log.
pub(super) fn who() -> Who {
    let name = ["SUDO_USER", "USER", "USERNAME"]
        .iter()
        .find_map(|v| std::env::var(v).ok().filter(|n| !n.is_empty()));
    Who(format!("command line of {}", name.as_deref().unwrap_or("an unnamed user")))
}

/// Runs a change of the switches with all that follows from it: purge, audit entry.
pub(super) fn change<F>(
    config: &Config,
    ring: &Arc<dyn Ring>,
    set: impl FnOnce(Control) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), RingError>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Exit::Software, format!("cannot start the runtime: {e}")))?;
    let mut policy = PolicyFile::new(&config.telemetry.policy_file);
    let done = runtime.block_on(async {
        // no intake runs: the other end of its commands is dropped
        let (control, _) = Control::open(Arc::clone(ring), config.telemetry.level, Some(&mut policy))?;
        control.begin().await?;
        set(control).await
    });
    done.and_then(|()| ring.close()).map_err(|e| ring_failed(&e))
}

/// Prints one result, as text or as JSON.
pub(super) fn print(of: &Of, value: &serde_json::Value, text: impl std::fmt::Display) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut out = out::stdout();
    let written = if of.json { writeln!(out, "{value}") } else { writeln!(out, "{text}") };
    written.and_then(|()| out.flush()).map_err(|e| Failure::output(&e))
}
