//! A purge from the request to its report, of a collector that runs or of its ring alone.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_proto::ids::SinkId;
use tidegate_ring::{PerLevel, Ring, RingError};
use tidegate_sinks::http::HttpContext;
use tidegate_sinks::{BuildError, SinkConfig};

use super::{DeadPurged, Delivered, Expr, InRing, Place, dead_letters, look, search};
use crate::assemble;
use crate::audit::{Record, What};
use crate::clock::now_ns;
use crate::config::Config;
use crate::control::{Control, RestError, Who};

/// Destinations in one audit entry.
const PER_ENTRY: usize = 64;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Which events.
    pub rule: Expr,
    /// Look into what was delivered too, and ask for its deletion.
    pub delivered: bool,
    /// Change nothing, only tell what would go.
    pub dry_run: bool,
}

/// Where events are besides the ring.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The file of dead letters, by sink.
    dead_letters: BTreeMap<String, PathBuf>,
    /// What leads to what was delivered, by sink.
    sinks: BTreeMap<String, SinkConfig>,
}

impl Places {
    /// Those of a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Places {
        let dead = |s| assemble::dead_letters(&config.ring.path, s);
        Places {
            dead_letters: config.sinks.iter().map(|s| (s.name.clone(), dead(s))).collect(),
            sinks: config.sinks.iter().map(|s| (s.name.clone(), s.config.clone())).collect(),
        }
    }
}

/// What a purge did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The condition, without what is looked for.
    pub matching: String,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Events of the ring, per level.
    pub ring: PerLevel,
    /// Events were read that found no room in the ring, and were not looked at.
    pub waiting: bool,
    /// Dead letters, by sink.
    pub dead_letters: BTreeMap<String, DeadPurged>,
    /// Receipts looked at.
    pub receipts: u64,
    /// What was found by them.
    pub delivered: Vec<Delivered>,
}

impl Report {
    /// Whether a part of it is to be done again.
    #[must_use]
    pub fn again(&self) -> bool {
        self.waiting || self.delivered.iter().any(|d| d.place.again())
    }
}

/// Why a purge ended early. What was purged until then stays purged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PurgeError {
    /// The ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The collector that runs.
    #[error("the collector cannot be purged now")]
    Rest(#[from] RestError),
    /// Dead letters.
    #[error("cannot purge the dead letters {path}")]
    DeadLetters {
        /// Their file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A sink whose settings cannot be used.
    #[error("sink \"{name}\"")]
    Sink {
        /// Its name.
        name: String,
        /// Why.
        source: BuildError,
    },
    /// A task broke down.
    #[error("it ended early: {0}")]
    Broken(String),
}

/// Purges ring, dead letters and, where asked to, what was delivered. With `control` the collector runs: its
/// sinks rest while ring and dead letters are purged, and what was read before is looked at too.
///
/// # Errors
/// See [`PurgeError`].
///
/// # Cancel safety
/// Must run to its end: the audit log may lack what was done otherwise.
pub async fn purge(
    ring: Arc<dyn Ring>,
    control: Option<&Control>,
    asked: Asked,
    places: Places,
    who: Who,
) -> Result<Report, PurgeError> {
    let job = Arc::new(Job { asked, places, who });
    let this = Arc::clone(&job);
    let (held, all) = match control.filter(|_| !job.asked.dry_run) {
        Some(control) => control.at_rest(move |ring| this.held(ring)).await?,
        None => {
            let ring = Arc::clone(&ring);
            (blocking(move || this.held(&*ring)).await?, true)
        }
    };
    let (mut report, found) = held?;
    report.waiting = !all;
    if job.asked.delivered {
        let runtime = tokio::runtime::Handle::current();
        // whole objects are unpacked
        let looked = blocking(move || runtime.block_on(job.delivered(&*ring, &found)));
        (report.receipts, report.delivered) = looked.await??;
    }
    Ok(report)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PurgeError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| PurgeError::Broken(e.to_string()))
}

/// One purge.
struct Job {
    asked: Asked,
    places: Places,
    who: Who,
}

impl Job {
    fn audit(&self, ring: &dyn Ring, what: What) -> Result<(), RingError> {
        match self.asked.dry_run {
            true => Ok(()),
            false => Record::new(now_ns(), &self.who.0, what).append(ring).map(|_| ()),
        }
    }

    fn purged(&self, events: PerLevel, dead_letters: u64, blobs: Vec<String>) -> What {
        What::Purge { matching: self.asked.rule.to_string(), events, dead_letters, blobs }
    }

    /// Ring and dead letters.
    fn held(&self, ring: &dyn Ring) -> Result<(Report, InRing), PurgeError> {
        let Asked { rule, delivered, dry_run } = &self.asked;
        let matching = rule.to_string();
        let found = search(ring, rule)?;
        // whatever happens next, that it was asked for is known
        self.audit(ring, What::PurgeAsked { matching: matching.clone(), delivered: *delivered })?;
        let events = if *dry_run { found.events } else { ring.purge(rule)?.events };
        let mut dead = BTreeMap::new();
        for (sink, path) in &self.places.dead_letters {
            let done = dead_letters(path, rule, *dry_run)
                .map_err(|source| PurgeError::DeadLetters { path: path.clone(), source })?;
            dead.insert(sink.clone(), done);
        }
        let dead_events = dead.values().map(|d| d.events + d.unreadable).sum();
        self.audit(ring, self.purged(events, dead_events, Vec::new()))?;
        let report =
            Report { matching, dry_run: *dry_run, ring: events, dead_letters: dead, ..Report::default() };
        Ok((report, found))
    }

    /// What was delivered: receipts looked at, and what was found.
    async fn delivered(&self, ring: &dyn Ring, found: &InRing) -> Result<(u64, Vec<Delivered>), PurgeError> {
        let http = HttpContext::default();
        let mut holdings = BTreeMap::new();
        for (name, config) in &self.places.sinks {
            let made = config.holdings(&SinkId::new(name), &http);
            let made = made.map_err(|source| PurgeError::Sink { name: name.clone(), source })?;
            holdings.insert(name.clone(), made);
        }
        let told = |gone| self.audit(ring, self.purged([0; 4], 0, gone));
        let (mut all, mut gone) = (Vec::new(), Vec::new());
        let delete = !self.asked.dry_run;
        let seen = look(ring, &self.asked.rule, &found.places, &holdings, delete, |d| {
            if d.place == Place::Deleted {
                gone.push(d.destination.clone());
            }
            all.push(d);
            if gone.len() >= PER_ENTRY { told(std::mem::take(&mut gone)) } else { Ok(()) }
        })
        .await;
        // whatever ended it, what is deleted is told
        let last = if gone.is_empty() { Ok(()) } else { told(gone) };
        let receipts = seen?;
        last?;
        Ok((receipts, all))
    }
}
