//! Events made from a seed: for trying a configuration, for tests and for measuring.
//!
//! Event number n is a function of the configuration and n alone, so that a run can go on
//! anywhere and two runs are the same to the byte.

mod kinds;
mod random;

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tidegate_proto::batch::Batch;
use tokio_util::sync::CancellationToken;

use crate::feed::{BATCH_BYTES, Halt, Input, drive};
use crate::pace::{Pace, Timestamp, Window};
use crate::position::Position;
use crate::source::{BoxFuture, Outlet, Source, SourceEnd, SourceError, SourceInfo};
use kinds::Kinds;
use random::Random;

/// Nanoseconds between the times of events that come flat out.
const STEP_NS: i128 = 1000;

/// Settings of a `synthetic` source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SyntheticConfig {
    /// What the events are made from.
    pub seed: u64,
    /// How many there are; without it they never end.
    pub events: Option<u64>,
    /// Events a second, from 0.001 to 10,000,000; without it as fast as they are taken.
    pub rate: Option<f64>,
    /// More events at once, now and then. Needs `rate`.
    pub burst: Option<Burst>,
    /// How large the events are.
    pub size: Sizes,
    /// How often each telemetry level comes up.
    pub levels: Levels,
    /// Which providers there are; without it all.
    pub families: Vec<Family>,
    /// Share of events (0 to 1) that carry something personal: an e-mail address, a user
    /// name, an IP address or a token.
    pub personal: f64,
    /// Time of the first event; without it, when the source is first run.
    pub start: Option<Timestamp>,
}

impl Default for SyntheticConfig {
    fn default() -> SyntheticConfig {
        SyntheticConfig {
            seed: 1,
            events: None,
            rate: None,
            burst: None,
            size: Sizes::default(),
            levels: Levels::default(),
            families: Vec::new(),
            personal: 0.0,
            start: None,
        }
    }
}

/// Events that come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Burst {
    /// How many, 1 to 10,000,000.
    pub events: u64,
    /// Time from one burst to the next, in milliseconds, 1 to 86,400,000.
    pub every_ms: u64,
}

/// How large events are, stored and uncompressed, in bytes. The smallest there are have
/// about 150.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sizes {
    /// Around which sizes lie.
    pub mean: u32,
    /// How they lie there.
    pub spread: Spread,
    /// No event is larger, 64 KiB at most.
    pub max: u32,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { mean: 256, spread: Spread::Exponential, max: 16 << 10 }
    }
}

/// A distribution of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// All alike.
    Fixed,
    /// Evenly from half the mean to one and a half.
    Uniform,
    /// Many small, few large.
    Exponential,
}

/// Weights of the telemetry levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Levels {
    /// Of level 0.
    pub security: u32,
    /// Of level 1.
    pub basic: u32,
    /// Of level 2.
    pub enhanced: u32,
    /// Of level 3.
    pub full: u32,
}

impl Default for Levels {
    fn default() -> Levels {
        Levels { security: 1, basic: 9, enhanced: 40, full: 50 }
    }
}

/// A group of providers, named as the catalogue does where it knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Network Resource.
    NetworkResource,
    /// Storage Resource.
    StorageResource,
    /// Monitoring Resource.
    MonitoringResource,
    /// Update Resource.
    UpdateResource,
    /// A provider of the Windows telemetry group: its keywords tell the level.
    Windows,
    /// SQL Server: no rule tells the level.
    Sql,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 6] = [
        Family::NetworkResource,
        Family::StorageResource,
        Family::MonitoringResource,
        Family::UpdateResource,
        Family::Windows,
        Family::Sql,
    ];
}

impl SyntheticConfig {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// In words, naming the key.
    pub fn check(&self) -> Result<(), String> {
        let within = |key: &str, ok: bool, limits: &str| {
            if ok { Ok(()) } else { Err(format!("{key} must lie between {limits}")) }
        };
        within("rate", self.rate.is_none_or(|r| (0.001..=1e7).contains(&r)), "0.001 and 10000000")?;
        if let Some(burst) = self.burst {
            within("burst.events", (1..=10_000_000).contains(&burst.events), "1 and 10000000")?;
            within("burst.every_ms", (1..=86_400_000).contains(&burst.every_ms), "1 and 86400000")?;
            if self.rate.is_none() {
                return Err("burst needs rate: flat out, everything is one burst".to_owned());
            }
        }
        within("size.max", (1..=65_536).contains(&self.size.max), "1 and 65536")?;
        within("size.mean", (1..=self.size.max).contains(&self.size.mean), "1 and size.max")?;
        within("personal", (0.0..=1.0).contains(&self.personal), "0 and 1")?;
        let Levels { security, basic, enhanced, full } = self.levels;
        let all = [security, basic, enhanced, full];
        within("each of levels", all.iter().all(|w| *w <= 1_000_000), "0 and 1000000")?;
        if all.iter().all(|w| *w == 0) {
            return Err("levels must give one level a weight above 0".to_owned());
        }
        Ok(())
    }

    /// Makes the source, to go on at `position`.
    ///
    /// # Errors
    /// Settings that contradict one another, or a position that is none.
    pub fn build(self, name: &str, position: Option<&[u8]>) -> Result<SyntheticSource, SourceError> {
        self.check().map_err(|why| SourceError::Input { what: format!("source \"{name}\""), why })?;
        let position = Position::decode(name, position)?;
        Ok(SyntheticSource { name: Arc::from(name), config: self, position })
    }
}

/// Makes events.
#[derive(Debug)]
pub struct SyntheticSource {
    name: Arc<str>,
    config: SyntheticConfig,
    position: Option<Position>,
}

impl Source for SyntheticSource {
    fn info(&self) -> SourceInfo {
        SourceInfo { name: self.name.to_string(), kind: "synthetic", can_wait: true }
    }

    fn run(
        self: Box<Self>,
        out: Outlet,
        stop: CancellationToken,
    ) -> BoxFuture<'static, Result<SourceEnd, SourceError>> {
        let SyntheticSource { name, config, position } = *self;
        let pace = if config.rate.is_some() { Pace::Times(1.0) } else { Pace::FlatOut };
        drive(name, (pace, Window::default()), out, stop, move |feed| {
            let (made, base_ns) = position.map_or((0, None), |p| (p.at, Some(p.time_ns)));
            let mut maker = Maker::new(&config, base_ns, made);
            feed.pump(&mut maker)
        })
    }
}

/// Makes events into batches, without a source around it: for measuring and tests.
pub struct Maker {
    plan: Plan,
    kinds: Kinds,
    seed: u64,
    end: u64,
    base_ns: i64,
    made: u64,
}

impl fmt::Debug for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maker").field("seed", &self.seed).field("made", &self.made).finish_non_exhaustive()
    }
}

impl Maker {
    /// The next event is number `made`, counted from 0; times count from `base_ns`, if it is
    /// given, else from the configured start, else from now.
    #[must_use]
    pub fn new(config: &SyntheticConfig, base_ns: Option<i64>, made: u64) -> Maker {
        let now = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
        };
        Maker {
            plan: Plan::new(config.rate, config.burst),
            kinds: Kinds::new(config),
            seed: config.seed,
            end: config.events.unwrap_or(u64::MAX),
            base_ns: base_ns.or(config.start.map(|t| t.unix_ns)).unwrap_or_else(now),
            made,
        }
    }

    /// Appends up to `most` events; false when there are no more.
    pub fn fill(&mut self, batch: &mut Batch, most: usize) -> bool {
        let end = batch.len() + most;
        while self.made < self.end && batch.len() < end && batch.bytes() < BATCH_BYTES {
            let time_ns = self.base_ns.saturating_add(self.plan.offset_ns(self.made));
            self.kinds.make(batch, &mut Random::of(self.seed, self.made), self.made, time_ns);
            self.made += 1;
        }
        self.made < self.end
    }
}

impl Input for Maker {
    fn read(&mut self, batch: &mut Batch, most: usize) -> Result<bool, Halt> {
        Ok(self.fill(batch, most))
    }

    fn position(&self) -> Position {
        Position { at: self.made, time_ns: self.base_ns, ..Position::new() }
    }
}

/// When each event comes.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Events a period: those of the burst, which come at its start, and all.
    burst: u64,
    period: u64,
    period_ns: i128,
    step_ns: f64,
}

impl Plan {
    fn new(rate: Option<f64>, burst: Option<Burst>) -> Plan {
        let Some(rate) = rate else {
            return Plan { burst: 0, period: 1, period_ns: STEP_NS, step_ns: 0.0 };
        };
        let step_ns = 1e9 / rate;
        match burst {
            // a period of many events keeps the rate exact
            None => {
                let period = if rate >= 1.0 { rate as u64 } else { 1 };
                Plan { burst: 0, period, period_ns: (step_ns * period as f64) as i128, step_ns }
            }
            Some(Burst { events, every_ms }) => {
                let period_ns = i128::from(every_ms) * 1_000_000;
                let steady = (period_ns as f64 / step_ns) as u64;
                Plan { burst: events, period: events + steady, period_ns, step_ns }
            }
        }
    }

    /// Time from the start to an event.
    fn offset_ns(&self, n: u64) -> i64 {
        let (round, place) = (n / self.period, n % self.period);
        let steady = place.saturating_sub(self.burst) as f64 * self.step_ns;
        let ns = i128::from(round) * self.period_ns + steady as i128;
        i64::try_from(ns).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests;
