//! The device census: basic information on the machine, as events of our own.
//!
//! Sent at the start, daily, and when something has changed; of level Basic by the shipped
//! catalogue. What names one machine among its like is never read: no serial number, no hardware
//! address, no host, volume or interface name (interfaces may be called by their address).
//!
//! | event | fields |
//! |---|---|
//! | `DeviceInfo` | `configuration`, `make`, `model`, `system`, `version`, `architecture`, `memoryBytes`, `processors` (`model`, `sockets`, `cores`, `threads`), `adapters` (`kind`, `driver`, `mbps`, `count`), `drives` (`kind`, `bytes`, `removable`, `count`) |
//! | `ResourceProviders` | `configuration`, `providers` (`name`, `version`, `scope`, `machines`) |
//!
//! `configuration` is a digest of the hardware alone: equal for equal machines, so that alerts
//! can be counted for each kind of machine.
//!
//! Resource providers make themselves known on Linux by a file each in
//! `etc/tidegate/providers.d/*.json`, `{"name": …, "version": …, "scope": "host" | "vm",
//! "machines": 1}`; on Windows by a key each in `HKLM\SOFTWARE\Tidegate\ResourceProviders` with
//! values of these names, and as registered event providers of the four families.

#[cfg(not(windows))]
mod files;
mod tell;
#[cfg(windows)]
mod windows;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_proto::batch::Batch;
use tokio_util::sync::CancellationToken;

use crate::position::Fnv;
use crate::source::{BoxFuture, Outlet, Source, SourceEnd, SourceError, SourceInfo};

/// Most entries of one list; more are left out.
const MAX_LIST: usize = 256;
/// Longest text, in characters.
const MAX_TEXT: usize = 128;

/// Settings of a `census` source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CensusConfig {
    /// Seconds after which it is told again without a change. Default: a day.
    #[serde(default = "every_s")]
    pub every_s: u64,
    /// Seconds between looks for a change. Default: ten minutes.
    #[serde(default = "look_s")]
    pub look_s: u64,
    /// Where `proc`, `sys` and `etc` are found (not on Windows). Default: `/`.
    #[serde(default = "root")]
    pub root: PathBuf,
}

fn every_s() -> u64 {
    86_400
}

fn look_s() -> u64 {
    600
}

fn root() -> PathBuf {
    PathBuf::from("/")
}

impl Default for CensusConfig {
    fn default() -> CensusConfig {
        CensusConfig { every_s: every_s(), look_s: look_s(), root: root() }
    }
}

impl CensusConfig {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// In words, naming the key.
    pub fn check(&self) -> Result<(), String> {
        if !(60..=31_536_000).contains(&self.every_s) {
            return Err("every_s must lie between 60 and 31536000".to_owned());
        }
        if !(1..=self.every_s).contains(&self.look_s) {
            return Err("look_s must lie between 1 and every_s".to_owned());
        }
        Ok(())
    }

    /// Makes the source.
    ///
    /// # Errors
    /// Settings that contradict one another.
    pub fn build(self, name: &str) -> Result<CensusSource, SourceError> {
        self.check().map_err(|why| SourceError::Input { what: format!("source \"{name}\""), why })?;
        Ok(CensusSource { name: name.to_owned(), config: self })
    }
}

/// What is known of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    make: String,
    model: String,
    system: String,
    version: String,
    memory_bytes: u64,
    processors: Vec<Processor>,
    adapters: Vec<Adapter>,
    drives: Vec<Drive>,
    providers: Vec<Provider>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Processor {
    model: String,
    sockets: u32,
    cores: u32,
    threads: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Adapter {
    /// `ethernet`, `wireless`, `other`
    kind: &'static str,
    driver: String,
    mbps: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Drive {
    /// `hdd`, `ssd`, `nvme`, `flash`, `other`
    kind: &'static str,
    bytes: u64,
    removable: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Provider {
    name: String,
    version: String,
    /// `host` or `vm`
    scope: &'static str,
    machines: u64,
}

/// A text of the system's without control characters, bounded.
fn clean(text: &str) -> String {
    let kept: String = text.chars().filter(|c| !c.is_control() && *c != '\u{fffd}').take(MAX_TEXT).collect();
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Census {
    /// Looks at this machine. Blocks for milliseconds; what cannot be read stays empty.
    #[cfg(not(windows))]
    fn take(config: &CensusConfig) -> Census {
        files::take(&config.root).tidy()
    }

    #[cfg(windows)]
    fn take(_: &CensusConfig) -> Census {
        windows::take().tidy()
    }

    /// In one order, whatever the system's: that it changes is no change.
    fn tidy(mut self) -> Census {
        self.processors.sort();
        self.adapters.sort();
        self.drives.sort();
        self.providers.sort();
        self.providers.dedup();
        self.processors.truncate(MAX_LIST);
        self.adapters.truncate(MAX_LIST);
        self.drives.truncate(MAX_LIST);
        self.providers.truncate(MAX_LIST);
        self
    }

    /// A digest of the hardware: 16 hexadecimal digits.
    fn configuration(&self) -> String {
        let Census { make, model, memory_bytes, processors, adapters, drives, .. } = self;
        // firmware takes a little of the memory, and not always as much
        let gib = memory_bytes.div_ceil(1 << 30);
        // a link's speed follows from the other end of the cable
        let adapters: Vec<_> = adapters.iter().map(|a| (a.kind, &a.driver)).collect();
        // what is plugged in for an hour is no part of the machine
        let drives: Vec<_> = drives.iter().filter(|d| !d.removable).map(|d| (d.kind, d.bytes)).collect();
        let text = format!("{make}\0{model}\0{gib}\0{processors:?}\0{adapters:?}\0{drives:?}");
        format!("{:016x}", Fnv::of(text.as_bytes()))
    }
}

/// A digest of this machine's hardware, equal for equal machines: 16 hexadecimal digits.
/// Blocks for milliseconds.
#[must_use]
pub fn configuration() -> String {
    Census::take(&CensusConfig::default()).configuration()
}

/// Tells what the machine is.
#[derive(Debug)]
pub struct CensusSource {
    name: String,
    config: CensusConfig,
}

impl Source for CensusSource {
    fn info(&self) -> SourceInfo {
        SourceInfo { name: self.name.clone(), kind: "census", can_wait: true }
    }

    fn run(
        self: Box<Self>,
        out: Outlet,
        stop: CancellationToken,
    ) -> BoxFuture<'static, Result<SourceEnd, SourceError>> {
        Box::pin(async move {
            let every = Duration::from_secs(self.config.every_s);
            let mut looks = tokio::time::interval(Duration::from_secs(self.config.look_s));
            looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut told: Option<(tokio::time::Instant, Census)> = None;
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(SourceEnd { stopped: true, ..SourceEnd::default() }),
                    _ = looks.tick() => {}
                }
                let config = self.config.clone();
                let census = tokio::task::spawn_blocking(move || Census::take(&config)).await;
                let census =
                    census.map_err(|e| SourceError::Session(format!("the census broke down: {e}")))?;
                let mut batch = Batch::new();
                let now = tokio::time::Instant::now();
                let due = told.as_ref().is_none_or(|(at, _)| now.duration_since(*at) >= every);
                if due || told.as_ref().is_some_and(|(_, last)| *last != census) {
                    tell::push(&mut batch, &census);
                    told = Some((now, census));
                }
                if batch.is_empty() {
                    continue;
                }
                tokio::select! {
                    () = stop.cancelled() => return Ok(SourceEnd { stopped: true, ..SourceEnd::default() }),
                    sent = out.send(batch, Vec::new()) => {
                        if sent.is_err() {
                            return Ok(SourceEnd::default());
                        }
                    }
                }
            }
        })
    }
}

#[cfg(all(test, unix))]
mod tests;
