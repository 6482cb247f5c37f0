//! Sources, gate, ring and sinks joined into one run.
//!
//! A run ends along the path: sources stop, the intake takes what they handed over, the ring
//! makes it durable, the sinks go on for a while, and what is left stays on disk.

mod gaps;
mod pins;
mod running;
mod sources;
mod summary;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_proto::level::TelemetryLevel;
use tidegate_ring::{Ring, RingError};
use tidegate_sinks::http::pins::PinMonitor;
use tidegate_sinks::{Origin, Sink};
use tidegate_sources::{Source, intake};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::aggregate::{AggregateOptions, Aggregates};
use crate::attached;
use crate::clock::now_ns;
use crate::config::IntakeConfig;
use crate::control::{Control, Who};
use crate::dispatch::{self, DispatchError, Dispatcher, Phase, SinkOptions, Stats};
use crate::encode::Apart;
use crate::gate::level::PolicyFile;
use crate::gate::{Rules, UnknownSwitch};
use crate::intake::{self as intake_task, Counters, Filters};
use crate::sampling::SamplingRules;
use crate::settings::remote::Remote;

pub use running::{Handle, RunError, Running};
pub use sources::Remake;
pub(crate) use summary::METERED;
pub use summary::{Failed, Progress, SinkProgress, SourceSummary, Summary, account_view};

/// When a run ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Until {
    /// Never: it is stopped.
    #[default]
    Stopped,
    /// When all sources have come to their end and every sink has settled everything.
    Delivered,
}

/// How a run goes.
#[derive(Clone, Debug)]
pub struct PipelineOptions {
    /// Part of blob names and event ids.
    pub host: String,
    /// Name of the stream.
    pub stream: String,
    /// The configuration's ceiling.
    pub level: Option<TelemetryLevel>,
    /// The administrator's ceiling; `None` looks at no file.
    pub policy_file: Option<PathBuf>,
    /// Switches that are off.
    pub off: Vec<String>,
    /// Sizes and times of the intake.
    pub intake: IntakeConfig,
    /// Whether the collector sends events about itself, and how often its health.
    pub own_events: Option<Duration>,
    /// Where hourly counts are kept; `None` counts none.
    pub aggregates: Option<AggregateOptions>,
    /// When it ends.
    pub until: Until,
    /// What the sinks' pins see: told in health and in the audit log.
    pub pins: PinMonitor,
    /// What is sampled, and how much passes.
    pub sampling: SamplingRules,
    /// How sources are made anew that were stopped while telemetry was disabled, by name. One
    /// that is not here goes on, and the gate drops what it reads.
    pub remake: BTreeMap<String, Remake>,
    /// Names and SHA-256 of the catalogues, for the audit log.
    pub catalogues: BTreeMap<String, String>,
    /// Where remote settings come from.
    pub remote: Option<Remote>,
}

impl Default for PipelineOptions {
    fn default() -> PipelineOptions {
        PipelineOptions {
            host: "localhost".to_owned(),
            stream: "events".to_owned(),
            level: None,
            policy_file: None,
            off: Vec::new(),
            intake: IntakeConfig::default(),
            own_events: None,
            aggregates: None,
            until: Until::Stopped,
            pins: PinMonitor::default(),
            sampling: SamplingRules::default(),
            remake: BTreeMap::new(),
            catalogues: BTreeMap::new(),
            remote: None,
        }
    }
}

/// A way out and how it is served.
#[derive(Debug)]
pub struct SinkPart {
    /// The sink.
    pub sink: Arc<dyn Sink>,
    /// Its options.
    pub options: SinkOptions,
}

/// What a run is made of.
#[derive(Debug)]
pub struct Parts {
    /// Where events wait. Closed when the run ends.
    pub ring: Arc<dyn Ring>,
    /// What the gate decides by.
    pub rules: Arc<Rules>,
    /// Where events come from.
    pub sources: Vec<Box<dyn Source>>,
    /// Where they go.
    pub sinks: Vec<SinkPart>,
    /// How it goes.
    pub options: PipelineOptions,
}

/// A run cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The ring's book.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A sink.
    #[error(transparent)]
    Sink(#[from] DispatchError),
    /// A switch that no catalogue knows.
    #[error(transparent)]
    Switch(#[from] UnknownSwitch),
    /// Two of one name: their positions or cursors would be mixed up.
    #[error("there are two {what} called \"{name}\"; give each a name of its own")]
    Twice {
        /// `sources` or `sinks`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A name that the collector uses itself.
    #[error("no source may be called \"{0}\": the collector's own events have this name")]
    OwnName(String),
}

/// The name of the collector's own events as a source.
pub const OWN_SOURCE: &str = "tidegate";

/// Starts runs.
#[derive(Debug)]
pub struct Pipeline;

impl Pipeline {
    /// Starts a run. Needs a tokio runtime with time.
    ///
    /// # Errors
    /// When the ring's book fails, or parts do not fit together. The ring is left open then.
    pub async fn start(parts: Parts) -> Result<Running, StartError> {
        let Parts { ring, rules, sources, sinks, options } = parts;
        check_names("sources", sources.iter().map(|s| s.info().name))?;
        check_names("sinks", sinks.iter().map(|s| s.sink.id().to_string()))?;
        if let Some(own) = sources.iter().map(|s| s.info().name).find(|n| n == OWN_SOURCE) {
            return Err(StartError::OwnName(own));
        }
        let mut policy = options.policy_file.clone().map(PolicyFile::new);
        crate::control::tell_unsure(&*ring)?;
        let (control, commands) = Control::open(Arc::clone(&ring), options.level, policy.as_mut())?;
        let control = Arc::new(control);
        let following = options.remote.clone().map(|remote| running::Following::new(remote, &ring));
        let document = following.as_ref().and_then(|f| f.settings.document().cloned());
        let filters = Filters::new(rules, options.off.clone(), options.sampling.clone())?;
        let shown = watch::Sender::new(Arc::new(running::reduced(&filters, document.as_deref())));
        control.judge_by(shown.subscribe());
        let letters: Vec<_> = sinks.iter().map(|s| s.options.letters()).collect();
        control.keep_out_of(letters.iter().flatten().cloned().collect());
        control.preset_remote(document.as_ref().and_then(|d| d.ceiling()));
        control.begin().await?;
        if !options.catalogues.is_empty() {
            control.note_rules(options.catalogues.clone(), &options.off, &Who("start".to_owned()))?;
        }

        let (phase, abort) = (watch::Sender::new(Phase::Running), CancellationToken::new());
        let origin = Arc::new(Origin {
            host: options.host.clone(),
            stream: options.stream.clone(),
            epoch: ring.status().epoch,
        });
        let mut stats = BTreeMap::new();
        let mut dispatchers = Vec::new();
        let workshop = Arc::new(dispatch::Workshop::default());
        let may_hold = |s: &SinkPart| s.options.urgency.clone().filter(|_| s.options.metered.can_be());
        let apart = Apart::new(sinks.iter().filter_map(may_hold));
        let to: Vec<Arc<dyn Sink>> = sinks.iter().map(|s| Arc::clone(&s.sink)).collect();
        for (part, dead) in sinks.into_iter().zip(letters) {
            let counted = Arc::new(Stats::default());
            stats.insert(part.sink.id().to_string(), Arc::clone(&counted));
            dispatchers.push(Dispatcher::new(dispatch::Parts {
                sink: part.sink,
                options: part.options,
                dead,
                ring: Arc::clone(&ring),
                origin: Arc::clone(&origin),
                in_force: control.watch(),
                rules: Some(shown.subscribe()),
                sending: control.sending(),
                phase: phase.subscribe(),
                abort: abort.clone(),
                stats: counted,
                workshop: Arc::clone(&workshop),
            })?);
        }
        for sink in attached::not_served(&ring.status(), |name| stats.contains_key(name)) {
            warn!("{}", attached::advice(&sink));
        }
        // the sinks' side of it exists now
        let before = ring.account();

        let way_in = intake(options.intake.queue);
        let counters = Arc::new(Counters::default());
        let outlets: Vec<_> = sources.iter().map(|s| way_in.outlet(&s.info().name)).collect();
        let own = options.own_events.map(|every| (way_in.outlet(OWN_SOURCE), every));
        let gaps = gaps::Gaps::new(&*ring, &way_in, to.iter().map(|s| s.id()));
        for sink in &to {
            sink.hold_tenants(document.as_ref().map_or(&[], |d| d.tenants_off()));
        }
        let aggregates = options.aggregates.and_then(|o| match Aggregates::open(&o, now_ns()) {
            Ok(aggregates) => Some(Arc::new(aggregates)),
            // reports are not worth losing events for
            Err(error) => {
                warn!(folder = %o.path.display(), %error, "hourly counts cannot be kept");
                None
            }
        });
        let task = intake_task::run(intake_task::Parts {
            intake: way_in.seal(),
            filters: shown.subscribe(),
            ring: Arc::clone(&ring),
            in_force: control.watch(),
            commands,
            counters: Arc::clone(&counters),
            config: options.intake,
            aggregates: aggregates.clone(),
            apart,
        });
        let shared = running::Shared {
            ring,
            control,
            counters,
            stats,
            before,
            begun: tokio::time::Instant::now(),
            phase,
            abort,
            stop: CancellationToken::new(),
            deadline: watch::Sender::new(None),
            sources_running: Default::default(),
            pins: options.pins,
            given_up: CancellationToken::new(),
            filters: shown,
            plain: filters.into(),
            settings: watch::Sender::new(document),
            ask: Default::default(),
            sinks: to,
            alarms: Default::default(),
            aggregates,
        };
        let parts = running::Tasks {
            sources: sources
                .into_iter()
                .zip(outlets)
                .map(|(source, outlet)| {
                    let remake = options.remake.get(&source.info().name).cloned();
                    sources::Fresh { source, outlet, remake }
                })
                .collect(),
            intake: Box::pin(task),
            dispatchers,
            own,
            gaps,
            policy,
            remote: following,
            until: options.until,
        };
        Ok(Running::start(shared, parts))
    }
}

fn check_names(what: &'static str, names: impl Iterator<Item = String>) -> Result<(), StartError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name.clone()) {
            return Err(StartError::Twice { what, name });
        }
    }
    Ok(())
}
