//! The configuration: one TOML file plus `conf.d/*.toml` beside it, laid over it in the order of
//! their names. Unknown keys are errors; all errors are found at once.
//!
//! ```toml
//! [host]
//! name = "web-01"
//!
//! [telemetry]
//! level = "Enhanced"
//!
//! [ring]
//! path = "/var/lib/tidegate/ring"
//! size = "256MiB"
//!
//! [sources.setup]
//! type = "etl"
//! path = "/var/log/setup.etl"
//!
//! [sinks.archive]
//! type = "directory"
//! path = "/var/log/tidegate"
//! ```

mod error;
mod load;
mod section;
mod sinks;
#[cfg(test)]
mod tests;
mod tree;
pub mod units;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tidegate_proto::level::TelemetryLevel;
use tidegate_ring::RingOptions;
use tidegate_sinks::http::HttpConfig;
use tidegate_sinks::secret::SecretRef;
use tidegate_sources::SourceConfig;

use crate::aggregate::AggregateOptions;
use crate::sampling::SampleRule;
use crate::settings::PublicKey;

pub use error::{ConfigError, Problem};
pub use load::{load, parse};
pub use sinks::{FilterConfig, Order, RetryConfig, SinkSection, Start};

/// A checked configuration: what is here can be used.
#[derive(Clone, Debug)]
pub struct Config {
    /// The files it was read from, in order.
    pub files: Vec<PathBuf>,
    /// `[host]`
    pub host: Host,
    /// `[telemetry]`
    pub telemetry: Telemetry,
    /// `[ring]`
    pub ring: RingConfig,
    /// `[intake]`
    pub intake: IntakeConfig,
    /// `[health]`
    pub health: HealthConfig,
    /// `[aggregates]`
    pub aggregates: AggregatesConfig,
    /// `[log]`
    pub log: LogConfig,
    /// `[shutdown]`
    pub shutdown: ShutdownConfig,
    /// `[network]`
    pub network: NetworkConfig,
    /// `[control]`
    pub control: ControlConfig,
    /// `[settings]`
    pub settings: Option<SettingsConfig>,
    /// `[[sampling]]`
    pub sampling: Vec<SampleRule>,
    /// All of it as it was written, to be compared with another.
    pub raw: toml::Table,
    /// `[sources.NAME]`
    pub sources: Vec<SourceSection>,
    /// `[sinks.NAME]`
    pub sinks: Vec<SinkSection>,
}

/// Whose events these are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// `name`: part of blob names and event ids; 1 to 63 of `A-Z a-z 0-9 . _ -`. Default: the
    /// system's host name, other characters replaced by `-`.
    pub name: String,
    /// `stream`: same characters. Default: `events`.
    pub stream: String,
}

/// What is collected.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// `level`: the configuration's ceiling. Default: none, so Enhanced is in force where no
    /// one else says less.
    pub level: Option<TelemetryLevel>,
    /// `policy_file`: the administrator's ceiling. Default: `/etc/tidegate/policy.toml`.
    pub policy_file: PathBuf,
    /// `default_level`: the level of events that no rule knows. Default: what the catalogues
    /// say, `Full` in the one that comes with the program.
    pub default_level: Option<TelemetryLevel>,
    /// `catalogues`: files laid over the catalogue that comes with the program. Default: none.
    pub catalogues: Vec<PathBuf>,
    /// `scrub`: whether personal data is looked for and changed. Default: what the catalogues say.
    pub scrub: Option<bool>,
    /// `off`: switches that are off, such as `sql`. Default: none.
    pub off: Vec<String>,
    /// `[telemetry.pseudonyms]`: with a key, personal data is replaced by pseudonyms; without
    /// one it is masked.
    pub pseudonyms: Option<Pseudonyms>,
}

/// `[telemetry.pseudonyms]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pseudonyms {
    /// `key_id`: shown in the events; 1 to 16 of `A-Z a-z 0-9 -`.
    pub key_id: String,
    /// `key`: a reference to at least 16 secret bytes.
    pub key: SecretRef,
    /// `period`: how often pseudonyms change. Default: 30 days.
    pub period: Duration,
}

/// Where events wait.
#[derive(Clone, Debug)]
pub struct RingConfig {
    /// `path`: a folder of its own. Default: `/var/lib/tidegate/ring`.
    pub path: PathBuf,
    /// `size` (256 MiB), `full` (`drop-oldest`), `max_age` (none), `compression` (`zstd:1`),
    /// `commit_delay` (100 ms), `commit_bytes` (4 MiB), `segment_size` (a sixteenth of the size).
    pub options: RingOptions,
    /// `key`: a reference to the keys that blocks are sealed with at rest, as
    /// [`tidegate_ring::Keys::parse`] reads them. Default: none, blocks are not sealed.
    pub key: Option<SecretRef>,
}

/// Between sources and ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntakeConfig {
    /// `seal_bytes`: encoded bytes at which a block is closed. Default: 256 KiB.
    pub seal_bytes: usize,
    /// `seal_age`: longest time that events wait for a block to fill. Default: 50 ms.
    pub seal_age: Duration,
    /// `max_event`: larger events are dropped and counted as `oversize`. Default: 1 MiB.
    pub max_event: usize,
    /// `queue`: batches that wait for the gate. Default: 16.
    pub queue: usize,
    /// `events_per_second`: most events of all providers together, which share it fairly.
    /// Default: none.
    pub events_per_second: Option<u64>,
}

impl Default for IntakeConfig {
    fn default() -> IntakeConfig {
        IntakeConfig {
            seal_bytes: 256 << 10,
            seal_age: Duration::from_millis(50),
            max_event: 1 << 20,
            queue: 16,
            events_per_second: None,
        }
    }
}

/// The collector's own events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// `events`: whether the collector sends events about itself. Default: true.
    pub events: bool,
    /// `every`: how often it tells its account. Default: 15 minutes.
    pub every: Duration,
}

impl Default for HealthConfig {
    fn default() -> HealthConfig {
        HealthConfig { events: true, every: Duration::from_secs(900) }
    }
}

/// Hourly counts for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregatesConfig {
    /// `enabled`: whether they are kept. Default: true.
    pub enabled: bool,
    /// `path`: their folder. Default: `aggregates` in the ring's folder.
    pub path: Option<PathBuf>,
    /// `keep`: older hours are let go. Default: 90 days.
    pub keep: Duration,
    /// `size`: bytes of their files; the oldest days give way. Default: 4 MiB.
    pub size: u64,
    /// `k`: reports suppress rows of fewer events. Default: 10.
    pub k: u64,
}

impl Default for AggregatesConfig {
    fn default() -> AggregatesConfig {
        let keep = Duration::from_secs(90 * 86_400);
        AggregatesConfig { enabled: true, path: None, keep, size: 4 << 20, k: 10 }
    }
}

impl AggregatesConfig {
    /// Where they are, for a ring in this folder.
    #[must_use]
    pub fn options(&self, ring: &Path) -> AggregateOptions {
        let path = self.path.clone().unwrap_or_else(|| ring.join("aggregates"));
        AggregateOptions { path, keep: self.keep, bytes: self.size }
    }
}

/// How the program logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `level`: a filter such as `info` or `info,tidegate::dispatch=debug`. Default: `info`.
    pub level: String,
    /// `format`: `text` or `json`. Default: text.
    pub json: bool,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { level: "info".to_owned(), json: false }
    }
}

/// The network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkConfig {
    /// `metered`: `yes`, `no`, `auto` or `file:PATH`; cost-deferred events do not leave over a
    /// metered network. `auto` (the default) is `file:/run/tidegate/metered`: metered while its
    /// first word is `yes`, which whatever manages the network may write there.
    pub metered: MeteredConfig,
}

/// How the collector knows whether the network is metered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeteredConfig {
    /// It is, or it is not.
    Always(bool),
    /// A file says so.
    File(PathBuf),
}

impl Default for MeteredConfig {
    fn default() -> MeteredConfig {
        MeteredConfig::File(PathBuf::from("/run/tidegate/metered"))
    }
}

/// The end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownConfig {
    /// `drain`: how long sinks may go on delivering when the program is asked to stop; the rest
    /// stays on disk. Default: 10 seconds.
    pub drain: Duration,
}

impl Default for ShutdownConfig {
    fn default() -> ShutdownConfig {
        ShutdownConfig { drain: Duration::from_secs(10) }
    }
}

/// `[control]`: where a running collector is asked and told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlConfig {
    /// `listen`: whether there is a socket at all. Default: true.
    pub listen: bool,
    /// `socket`: a Unix socket, on Windows the name of a pipe. Default: `control.sock` beside
    /// the ring's folder; `\\\\.\\pipe\\tidegate`.
    pub socket: PathBuf,
    /// `group`: members may look, by name or number. Default: none, so only root and the user
    /// that the collector runs as may connect. Not on Windows.
    pub group: Option<String>,
    /// `[control.remote]`: an end point on the network. Default: none.
    pub remote: Option<RemoteControl>,
}

/// `[control.remote]`: TLS on which every client shows a certificate; offers enable, disable,
/// level and status alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteControl {
    /// `listen`: address and port.
    pub listen: std::net::SocketAddr,
    /// `certificate`: PEM, the server's first.
    pub certificate: PathBuf,
    /// `key`: a reference to its private key, PEM.
    pub key: SecretRef,
    /// `client_ca`: PEM; clients need a certificate by one of these.
    pub client_ca: PathBuf,
}

/// `[settings]`: remote settings, which can only reduce what is collected and sent.
#[derive(Clone, Debug)]
pub struct SettingsConfig {
    /// `url`: where the signed document is.
    pub url: String,
    /// `[settings.keys]`: public keys that may sign, by id; see [`PublicKey`].
    pub keys: Vec<PublicKey>,
    /// `cache`: the file in which the document in force is kept. Default: `settings.json` beside
    /// the ring's folder.
    pub cache: PathBuf,
    /// `[settings.http]`: as for a sink, with `tls.pins` above all.
    pub http: HttpConfig,
}

/// `[sources.NAME]`
#[derive(Clone, Debug)]
pub struct SourceSection {
    /// Its name; the key of its stored position.
    pub name: String,
    /// Everything, `type` included.
    pub config: SourceConfig,
}
