//! What `level`, `telemetry`, `audit` and `status` share: a collector that runs is asked over its
//! control socket; without one, its ring and rules are opened as the configuration says.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tidegate_ring::{Ring, RingError, SledRing};

use super::exit::{Exit, Failure};
use super::{daemon, out};
use crate::api::client::{Client, ClientError};
use crate::assemble::{self, AssembleError};
use crate::config::{self, Config};
use crate::control::{ChangeError, Control, KEY_HELP, OWED_HELP, Who};
use crate::dispatch::DeadLetters;
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

/// The collector of a configuration.
#[derive(Debug)]
pub(super) enum Reach {
    /// It runs.
    Running(Client),
    /// It does not; this is its ring.
    Stopped(Arc<dyn Ring>),
}

pub(super) fn asking_failed(error: &ClientError) -> Failure {
    match error {
        ClientError::NotAllowed(_) => Failure::new(Exit::NoPermission, error.to_string())
            .hint("run as root or as the collector's user, or join the group that [control] names"),
        ClientError::Refused { status: 403, error, help } => {
            Failure::new(Exit::NoPermission, error.clone()).hint(help.clone())
        }
        ClientError::Refused { status: 422, error, help } => {
            Failure::new(Exit::Config, error.clone()).hint(help.clone())
        }
        ClientError::Refused { status: 400..500, error, help } => {
            Failure::new(Exit::Usage, error.clone()).hint(help.clone())
        }
        ClientError::Refused { status: 503, error, help } => {
            Failure::new(Exit::TempFail, error.clone()).hint(help.clone())
        }
        ClientError::Refused { error, help, .. } => Failure::new(Exit::Io, error.clone()).hint(help.clone()),
        ClientError::Broken { .. } => {
            Failure::new(Exit::TempFail, error.to_string()).hint("look at the collector's log, and try again")
        }
    }
}

/// The collector that runs, if one does.
pub(super) fn running(config: &Config) -> Result<Option<Client>, Failure> {
    Client::find(&config.control.socket).map_err(|e| asking_failed(&e))
}

/// The collector that runs, else its ring.
pub(super) fn reach(config: &Config) -> Result<Reach, Failure> {
    Ok(match running(config)? {
        Some(client) => Reach::Running(client),
        None => Reach::Stopped(ring(config)?),
    })
}

/// Asks a collector that runs.
pub(super) fn ask(client: &Client, method: &str, path: &str, body: &Value) -> Result<Value, Failure> {
    client.ask(method, path, body).map_err(|e| asking_failed(&e))
}

/// A collector of another version, perhaps.
pub(super) fn unreadable() -> Failure {
    Failure::new(Exit::Software, "the collector's answer cannot be read")
        .hint("use the program of the version that runs")
}

/// Opens the ring; a collector that runs has it alone.
pub(super) fn ring(config: &Config) -> Result<Arc<dyn Ring>, Failure> {
    if !config.ring.path.is_dir() {
        // nothing is made only by looking
        return Err(nothing_there(config));
    }
    assemble::open_ring(config).map(|ring| Arc::new(ring) as _).map_err(|e| refused(config, e))
}

/// Why the ring of a configuration does not open.
pub(super) fn refused(config: &Config, error: AssembleError) -> Failure {
    match error {
        AssembleError::InUse(path) => {
            let by = SledRing::holder(&path).map(|pid| format!(" by process {pid}")).unwrap_or_default();
            Failure::new(Exit::TempFail, format!("the ring {} is in use{by}: the collector runs", path.display()))
                .hint("stop it, run this again, start it: it goes on where it was. tidegate status asks it meanwhile")
        }
        AssembleError::Ring { source: RingError::Io { source, .. }, .. }
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            nothing_there(config)
        }
        other => daemon::assemble_failure(&other),
    }
}

pub(super) fn nothing_there(config: &Config) -> Failure {
    Failure::new(Exit::NoInput, format!("there is no ring at {}", config.ring.path.display()))
        .hint("start the collector once, or name its configuration with -c")
}

pub(super) fn ring_failed(error: &RingError) -> Failure {
    match error.is_missing_key() {
        true => Failure::new(Exit::Config, assemble::chain(error)).hint(KEY_HELP),
        false => Failure::new(Exit::Io, assemble::chain(error)).hint("check the ring's disk"),
    }
}

/// What asks for something to be sent is told while telemetry is disabled.
pub(super) fn disabled() -> Failure {
    Failure::new(Exit::TempFail, "telemetry is disabled: nothing may leave this host")
        .hint("tidegate telemetry status says who decided it; tidegate telemetry enable undoes the switch")
}

fn change_failed(error: &ChangeError) -> Failure {
    match error {
        ChangeError::Ring(e) => ring_failed(e),
        e @ ChangeError::Owed { .. } => Failure::new(Exit::TempFail, assemble::chain(e)).hint(OWED_HELP),
    }
}

/// Who runs the program, for the audit log.
pub(super) fn who() -> Who {
    let name = ["SUDO_USER", "USER", "USERNAME"]
        .iter()
        .find_map(|v| std::env::var(v).ok().filter(|n| !n.is_empty()));
    Who(format!("command line of {}", name.as_deref().unwrap_or("an unnamed user")))
}

/// The switches of a collector that does not run, with what the ceilings say now carried through.
pub(super) async fn begun(config: &Config, ring: &Arc<dyn Ring>) -> Result<Control, Failure> {
    let filters = assemble::filters(config).map_err(|e| daemon::config_failure(&e))?;
    let mut policy = PolicyFile::new(&config.telemetry.policy_file);
    // no intake runs: the other end of its commands is dropped
    let (control, _) = Control::open(Arc::clone(ring), config.telemetry.level, Some(&mut policy))
        .map_err(|e| ring_failed(&e))?;
    control.judge_by(filters);
    let letters = config.sinks.iter().map(|s| DeadLetters::new(assemble::dead_letters(&config.ring.path, s)));
    control.keep_out_of(letters.map(|l| Arc::new(Mutex::new(l))).collect());
    control.begin().await.map_err(|e| ring_failed(&e))?;
    Ok(control)
}

/// Runs a change of the switches with all that follows from it: purge, audit entry. Returns what
/// is in force then.
pub(super) fn change(
    config: &Config,
    ring: &Arc<dyn Ring>,
    set: impl AsyncFnOnce(&Control) -> Result<(), ChangeError>,
) -> Result<Value, Failure> {
    let runtime = daemon::small_runtime()?;
    let value = runtime.block_on(async {
        let control = begun(config, ring).await?;
        set(&control).await.map_err(|e| change_failed(&e))?;
        Ok(crate::api::level_view(&control.now(), &control.all()))
    })?;
    ring.close().map_err(|e| ring_failed(&e))?;
    Ok(value)
}

/// The control socket of a collector that has to run.
pub(super) fn must_run(config: &Config, hint: &str) -> Result<Client, Failure> {
    running(config)?.ok_or_else(|| {
        let socket = config.control.socket.display();
        Failure::new(Exit::TempFail, format!("no collector answers at {socket}")).hint(hint)
    })
}

/// Prints one result, as text or as JSON.
pub(super) fn print(of: &Of, value: &Value, text: impl std::fmt::Display) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut out = out::stdout();
    let written = if of.json { writeln!(out, "{value}") } else { writeln!(out, "{text}") };
    written.and_then(|()| out.flush()).map_err(|e| Failure::output(&e))
}
