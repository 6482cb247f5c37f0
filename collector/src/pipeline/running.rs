//! A run under way, and how it ends.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tidegate_proto::batch::Batch;
use tidegate_proto::level::DropReason;
use tidegate_proto::own::{Gap, push_gap};
use tidegate_ring::{Account, Ring, RingError};
use tidegate_sinks::http::pins::PinMonitor;
use tidegate_sources::{Outlet, Source, SourceEnd, SourceError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::pins;
use super::summary::since;
use super::{Failed, Progress, SourceSummary, Summary, Until};
use crate::clock::now_ns;
use crate::control::Control;
use crate::dispatch::{Dispatcher, Phase, Stats};
use crate::gate::level::PolicyFile;
use crate::intake::{Counters, IntakeError};
use crate::own::{self, Health};

/// How often the account is checked while it runs.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// How long a source may take to stop; the contract gives it a second.
const SOURCE_STOP: Duration = Duration::from_secs(5);

/// What a run and its handles share.
#[derive(Debug)]
pub(super) struct Shared {
    pub ring: Arc<dyn Ring>,
    pub control: Arc<Control>,
    pub counters: Arc<Counters>,
    pub stats: BTreeMap<String, Arc<Stats>>,
    pub before: Account,
    pub begun: Instant,
    pub phase: watch::Sender<Phase>,
    /// Ends everything at once.
    pub abort: CancellationToken,
    /// Stops the sources.
    pub stop: CancellationToken,
    /// When what is under way is given up, once it was asked to stop.
    pub deadline: watch::Sender<Option<Instant>>,
    pub sources_running: AtomicUsize,
    pub pins: PinMonitor,
    pub sources_failed: AtomicUsize,
    /// What stands apart from the sinks' and the level's own alarms.
    pub alarms: Mutex<Vec<String>>,
}

/// What a run consists of.
pub(super) struct Tasks {
    pub sources: Vec<(Box<dyn Source>, Outlet)>,
    pub intake: BoxFuture<'static, Result<(), IntakeError>>,
    pub dispatchers: Vec<Dispatcher>,
    pub own: Option<(Outlet, Duration)>,
    pub policy: Option<PolicyFile>,
    pub until: Until,
}

/// Why a run has no summary.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The ring was closed under it.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// A part broke down: a defect.
    #[error("a part of the collector broke down: {0}")]
    Broken(String),
}

/// Watches and stops a run. Any number of them; they may outlive it.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

impl Handle {
    /// Where the run stands.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.0.progress()
    }

    /// Asks it to stop: sources at once, then what they handed over is stored, then sinks go on
    /// for `drain` at most. What is left stays on disk. Asked again, the earlier end counts.
    pub fn stop(&self, drain: Duration) {
        let end = Instant::now() + drain;
        self.0.deadline.send_modify(|d| *d = Some(d.map_or(end, |d| d.min(end))));
        self.0.stop.cancel();
    }

    /// The level and its switches.
    #[must_use]
    pub fn control(&self) -> &Arc<Control> {
        &self.0.control
    }

    /// Since when it runs.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.0.begun.elapsed()
    }

    /// What the sinks' pins have seen.
    #[must_use]
    pub fn pins(&self) -> &PinMonitor {
        &self.0.pins
    }

    /// Notes something that an operator must look at; it stands until the end of the run.
    pub fn alarm(&self, text: String) {
        self.0.alarm(text);
    }

    /// The ring.
    #[must_use]
    pub fn ring(&self) -> &Arc<dyn Ring> {
        &self.0.ring
    }
}

/// A run. Dropping it ends it at once; what is on disk stays there.
#[derive(Debug)]
pub struct Running {
    handle: Handle,
    task: tokio::task::JoinHandle<Result<Summary, RunError>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.0.abort.cancel();
        self.handle.0.stop.cancel();
    }
}

impl Running {
    pub(super) fn start(shared: Shared, tasks: Tasks) -> Running {
        let shared = Arc::new(shared);
        shared.sources_running.store(tasks.sources.len(), Ordering::Relaxed);
        let task = tokio::spawn(conduct(Arc::clone(&shared), tasks));
        Running { handle: Handle(shared), task }
    }

    /// A handle on it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Where it stands.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.handle.progress()
    }

    /// Stops it as [`Handle::stop`] does and waits for the end.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn stop(self, drain: Duration) -> Result<Summary, RunError> {
        self.handle.stop(drain);
        self.wait().await
    }

    /// Waits for its end, by itself or by a handle.
    ///
    /// # Errors
    /// See [`RunError`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the run.
    pub async fn wait(mut self) -> Result<Summary, RunError> {
        match (&mut self.task).await {
            Ok(done) => done,
            Err(e) => Err(RunError::Broken(e.to_string())),
        }
    }
}

impl Shared {
    fn alarm(&self, text: String) {
        let mut alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        if !alarms.contains(&text) && alarms.len() < 32 {
            alarms.push(text);
        }
    }

    fn alarms(&self) -> Vec<String> {
        let mut out = self.alarms.lock().unwrap_or_else(PoisonError::into_inner).clone();
        out.extend(self.control.now().alarm);
        out.extend(self.counters.trouble());
        out.extend(pins::alarms(&self.pins.states()));
        for (name, stats) in &self.stats {
            out.extend(stats.progress().held.map(|why| format!("sink {name} holds: {why}")));
        }
        out
    }

    fn progress(&self) -> Progress {
        Progress {
            read: self.counters.read(),
            dropped: DropReason::ALL.iter().map(|r| self.counters.dropped(*r)).sum(),
            stored: self.counters.stored(),
            stored_bytes: self.counters.stored_bytes(),
            sources_running: self.sources_running.load(Ordering::Relaxed),
            sources_failed: self.sources_failed.load(Ordering::Relaxed),
            sinks: self.stats.iter().map(|(n, s)| (n.clone(), s.progress())).collect(),
            alarms: self.alarms(),
        }
    }
}

async fn until(deadline: &mut watch::Receiver<Option<Instant>>) {
    loop {
        let now = *deadline.borrow_and_update();
        let changed = async {
            if deadline.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        match now {
            None => changed.await,
            Some(at) => tokio::select! {
                () = tokio::time::sleep_until(at) => return,
                () = changed => {}
            },
        }
    }
}

/// Leads a run from its beginning to its end.
async fn conduct(shared: Arc<Shared>, tasks: Tasks) -> Result<Summary, RunError> {
    let Tasks { sources, intake, dispatchers, own, policy, until: end } = tasks;
    let mut deadline = shared.deadline.subscribe();
    let watcher = policy.map(|policy| {
        let (control, stop) = (Arc::clone(&shared.control), shared.abort.child_token());
        tokio::spawn(async move { control.watch_policy(policy, stop).await })
    });
    let pin_watch = tokio::spawn(pins::keep_book(
        shared.pins.clone(),
        Arc::clone(&shared.ring),
        shared.abort.child_token(),
    ));
    let mut sinks = JoinSet::new();
    for dispatcher in dispatchers {
        sinks.spawn(dispatcher.run());
    }
    let mut intake = tokio::spawn(intake);
    let keep_open = end == Until::Stopped;
    let own_stop = CancellationToken::new();
    let own = tokio::spawn(tell_about_itself(Arc::clone(&shared), own, own_stop.clone()));
    let (ended, mut running) = start_sources(&shared, sources);

    // 1. sources
    let mut summaries = Vec::new();
    let stop_at = async {
        shared.stop.cancelled().await;
        tokio::time::sleep(SOURCE_STOP).await;
    };
    let mut stop_at = std::pin::pin!(stop_at);
    let mut early = None;
    loop {
        tokio::select! {
            biased;
            () = shared.abort.cancelled() => break,
            // an intake that ends before its sources has a reason
            done = &mut intake, if early.is_none() => {
                if !matches!(done, Ok(Ok(()))) {
                    shared.stop.cancel();
                }
                early = Some(done);
            }
            Some(done) = running.join_next_with_id(), if !running.is_empty() => {
                let summary = source_summary(&ended, done);
                if summary.failed.is_some() {
                    shared.sources_failed.fetch_add(1, Ordering::Relaxed);
                }
                shared.sources_running.fetch_sub(1, Ordering::Relaxed);
                summaries.push(summary);
            }
            () = &mut stop_at => break,
            () = shared.stop.cancelled(), if running.is_empty() => break,
            else => break,
        }
        if running.is_empty() && !keep_open {
            break;
        }
    }
    for (_, name) in &ended {
        if summaries.iter().any(|s: &SourceSummary| s.name == *name) {
            continue;
        }
        warn!(source = %name, "a source did not stop in time and is cut off");
        let name = name.clone();
        summaries.push(SourceSummary {
            name,
            stopped: true,
            problems: Vec::new(),
            problem_count: 0,
            error: None,
            failed: None,
        });
    }
    running.shutdown().await;
    own_stop.cancel();

    // 2. what they handed over
    let stored = match early {
        Some(done) => Some(done),
        None => tokio::select! {
            biased;
            () = shared.abort.cancelled() => None,
            done = &mut intake => Some(done),
            () = until(&mut deadline) => {
                warn!("the ring could not take everything in time; sources that keep a position read it again");
                None
            }
        },
    };
    if stored.is_none() {
        intake.abort();
    }

    // 3. sinks
    shared.phase.send_replace(Phase::Finish);
    tokio::select! {
        biased;
        () = shared.abort.cancelled() => {}
        () = async { while sinks.join_next().await.is_some() {} } => {}
        () = until(&mut deadline) => {}
    }
    shared.abort.cancel();
    while let Some(done) = sinks.join_next().await {
        if let Err(e) = done {
            error!(error = %e, "a dispatcher broke down");
        }
    }
    // both have been told
    let _ = own.await;
    let _ = pin_watch.await;
    if let Some(watcher) = watcher {
        let _ = watcher.await;
    }

    // 4. the ring
    let summary = close(&shared, summaries).await;
    match stored {
        Some(Ok(Err(e))) => Err(e.into()),
        Some(Err(e)) if e.is_panic() => Err(RunError::Broken(e.to_string())),
        _ => summary,
    }
}

type Ended = (Result<SourceEnd, SourceError>, bool);
type Names = Vec<(tokio::task::Id, String)>;

fn start_sources(shared: &Arc<Shared>, sources: Vec<(Box<dyn Source>, Outlet)>) -> (Names, JoinSet<Ended>) {
    let mut running = JoinSet::new();
    let mut names = Vec::new();
    for (source, outlet) in sources {
        let name = source.info().name;
        let stop = shared.stop.child_token();
        let stopped = stop.clone();
        let task = running.spawn(async move {
            let done = source.run(outlet, stop).await;
            (done, stopped.is_cancelled())
        });
        names.push((task.id(), name));
    }
    (names, running)
}

fn source_summary(
    names: &Names,
    done: Result<(tokio::task::Id, Ended), tokio::task::JoinError>,
) -> SourceSummary {
    let id = match &done {
        Ok((id, _)) => *id,
        Err(e) => e.id(),
    };
    let name = names.iter().find(|(i, _)| *i == id).map(|(_, n)| n.clone()).unwrap_or_default();
    let mut summary = SourceSummary {
        name,
        stopped: false,
        problems: Vec::new(),
        problem_count: 0,
        error: None,
        failed: None,
    };
    match done {
        Ok((_, (Ok(end), _))) => {
            summary.stopped = end.stopped;
            summary.problem_count = end.problem_count;
            summary.problems = end.problems;
            summary.problems.truncate(100);
        }
        Ok((_, (Err(e), stopped))) => {
            summary.stopped = stopped;
            summary.failed = Some(match &e {
                SourceError::Denied(_) => Failed::Denied,
                SourceError::Session(_) | SourceError::Unsupported { .. } => Failed::Unavailable,
                _ => Failed::Input,
            });
            let mut text = e.to_string();
            let mut next = std::error::Error::source(&e);
            while let Some(e) = next {
                text.push_str(": ");
                text.push_str(&e.to_string());
                next = e.source();
            }
            error!(source = %summary.name, error = %text, "a source failed");
            summary.error = Some(text);
        }
        Err(e) => {
            error!(source = %summary.name, error = %e, "a source broke down");
            summary.error = Some(format!("it broke down: {e}"));
            summary.failed = Some(Failed::Input);
        }
    }
    summary
}

async fn blocking<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&dyn Ring) -> T + Send + 'static,
) -> Result<T, RunError> {
    let ring = Arc::clone(&shared.ring);
    let done = tokio::task::spawn_blocking(move || work(&*ring)).await;
    done.map_err(|e| RunError::Broken(e.to_string()))
}

async fn close(shared: &Arc<Shared>, mut sources: Vec<SourceSummary>) -> Result<Summary, RunError> {
    let elapsed = shared.begun.elapsed();
    let (total, closed) = blocking(shared, |ring| (ring.account(), ring.close())).await?;
    match closed {
        Ok(()) | Err(RingError::Closed) => {}
        Err(e) => shared.alarm(format!("the ring could not be closed well: {e}")),
    }
    let account_error = total.check().err();
    if let Some(why) = &account_error {
        error!(%why, "the account does not close");
    }
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Summary {
        elapsed,
        run: since(&total, &shared.before),
        total,
        stored_bytes: shared.counters.stored_bytes(),
        sinks: shared.stats.iter().map(|(n, s)| (n.clone(), s.progress())).collect(),
        sources,
        alarms: shared.alarms(),
        account_error,
    })
}

/// What went from the ring before a sink had it, as gap events for the far side.
fn gaps(shared: &Shared) -> Batch {
    let mut batch = Batch::new();
    for (name, stats) in &shared.stats {
        for (reason, missed) in stats.take_missed() {
            let gap = Gap {
                origin: format!("ring, sink {name}"),
                reason: reason.as_str().to_owned(),
                events: Some(missed.events),
                detail: format!("between places {} and {}", missed.first, missed.last),
                offset: None,
                time_ns: now_ns(),
            };
            push_gap(&mut batch, &gap);
        }
    }
    batch
}

/// Checks the account while it runs, and sends the collector's own events where they are wanted.
async fn tell_about_itself(shared: Arc<Shared>, own: Option<(Outlet, Duration)>, stop: CancellationToken) {
    let mut in_force = shared.control.watch();
    let mut level = in_force.borrow_and_update().level.clone();
    let (outlet, every) = match own {
        Some((outlet, every)) => (Some(outlet), every),
        None => (None, Duration::MAX),
    };
    let settings = |cause: &str, level: &crate::gate::level::LevelInForce| {
        let mut batch = Batch::new();
        own::push_settings(&mut batch, level, cause, now_ns());
        batch
    };
    if let Some(outlet) = &outlet {
        // an intake that is gone is the end of the run, which others notice
        let _ = outlet.send(settings("start", &level), Vec::new()).await;
    }
    let mut check = tokio::time::interval_at(Instant::now() + CHECK_EVERY, CHECK_EVERY);
    let mut told = Instant::now();
    let mut next = every.min(CHECK_EVERY * 60 * 24 * 365);
    loop {
        let health_at = told + next;
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = check.tick() => {
                let account = blocking(&shared, |ring| ring.account()).await;
                if let Some(why) = account.ok().and_then(|a| a.check().err()) {
                    error!(%why, "the account does not close");
                    shared.alarm(format!("the account does not close: {why}"));
                }
                if let Some(outlet) = &outlet {
                    let gaps = gaps(&shared);
                    if !gaps.is_empty() {
                        let _ = outlet.send(gaps, Vec::new()).await;
                    }
                }
            }
            changed = in_force.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = in_force.borrow_and_update().level.clone();
                if now == level {
                    continue;
                }
                level = now;
                if let Some(outlet) = &outlet {
                    let _ = outlet.send(settings("change", &level), Vec::new()).await;
                }
            }
            () = tokio::time::sleep_until(health_at), if outlet.is_some() => {
                told = Instant::now();
                next = every;
                let Ok((account, status)) = blocking(&shared, |r| (r.account(), r.status())).await else { continue };
                let error = account.check().err();
                let progress = shared.progress();
                let mut batch = Batch::new();
                own::push_health(&mut batch, &Health {
                    account: &account,
                    account_error: error.as_deref(),
                    status: &status,
                    sinks: &progress.sinks,
                    alarms: &progress.alarms,
                    uptime_s: shared.begun.elapsed().as_secs(),
                }, now_ns());
                if let Some(outlet) = &outlet {
                    let _ = outlet.send(batch, Vec::new()).await;
                }
            }
        }
    }
}
