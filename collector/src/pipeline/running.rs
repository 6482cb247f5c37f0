//! A run under way, and how it ends.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tidegate_proto::batch::Batch;
use tidegate_proto::level::DropReason;
use tidegate_ring::{Account, Ring, RingError};
use tidegate_sinks::Sink;
use tidegate_sinks::http::pins::PinMonitor;
use tidegate_sources::Outlet;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::gaps::Gaps;
use super::pins;
use super::sources::{Fresh, Sources};
use super::summary::since;
use super::{Progress, SourceSummary, Summary, Until};
use crate::aggregate::{Aggregates, Hour};
use crate::clock::now_ns;
use crate::control::{ChangeError, Control, InForce, Who};
use crate::dispatch::{Dispatcher, Phase, Stats};
use crate::gate::Rules;
use crate::gate::level::{LevelInForce, PolicyFile};
use crate::intake::{Counters, Filters, IntakeError};
use crate::own::{self, Health};
use crate::settings::remote::{HttpFetch, Kept, Remote};
use crate::settings::{self, Document, Settings, Store as _};

/// How often the account is checked while it runs.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// How often the hourly counts are saved.
const SAVE_EVERY: Duration = Duration::from_secs(300);
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
    /// Every source has ended, and not all as they should.
    pub given_up: CancellationToken,
    /// What stands apart from the sinks' and the level's own alarms.
    pub alarms: Mutex<Vec<String>>,
    /// What the intake goes by: the configuration's part, reduced by the remote settings.
    pub filters: watch::Sender<Arc<Filters>>,
    /// The configuration's part alone.
    pub plain: Mutex<Filters>,
    /// The remote settings in force.
    pub settings: watch::Sender<Option<Arc<Document>>>,
    /// Has the remote settings asked for at once.
    pub ask: Notify,
    /// Where tenants are held.
    pub sinks: Vec<Arc<dyn Sink>>,
    /// Hourly counts.
    pub aggregates: Option<Arc<Aggregates>>,
}

/// What a run consists of.
pub(super) struct Tasks {
    pub sources: Vec<Fresh>,
    pub intake: BoxFuture<'static, Result<(), IntakeError>>,
    pub dispatchers: Vec<Dispatcher>,
    pub own: Option<(Outlet, Duration)>,
    pub gaps: Gaps,
    pub policy: Option<PolicyFile>,
    pub remote: Option<Following>,
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

    /// Waits until every source has ended, and not all as they should.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn given_up(&self) {
        self.0.given_up.cancelled().await;
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

    /// Gaps that sources have told, and the events known to have been in them.
    #[must_use]
    pub fn gaps(&self) -> (u64, u64) {
        self.0.counters.gaps()
    }

    /// The remote settings in force, if there are any.
    #[must_use]
    pub fn settings(&self) -> Option<Arc<Document>> {
        self.0.settings.borrow().clone()
    }

    /// Has the remote settings asked for at once, where there are any.
    pub fn ask_for_settings(&self) {
        self.0.ask.notify_one();
    }

    /// What the gate goes by now.
    #[must_use]
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.0.filters.borrow().rules)
    }

    /// Exchanges what the gate and sampling go by; what the remote settings say stays on top.
    pub fn set_filters(&self, filters: Filters) {
        *self.0.plain.lock().unwrap_or_else(PoisonError::into_inner) = filters;
        self.0.refilter();
    }

    /// Notes something that an operator must look at; it stands until the end of the run.
    pub fn alarm(&self, text: String) {
        self.0.alarm(text);
    }

    /// Whether a sink of this name is served.
    #[must_use]
    pub fn serves(&self, sink: &str) -> bool {
        self.0.stats.contains_key(sink)
    }

    /// Pauses a sink or lets it go on, until the next start; `false` when none of this name is served.
    pub fn pause(&self, sink: &str, paused: bool) -> bool {
        self.0.stats.get(sink).inspect(|s| s.pause(paused)).is_some()
    }

    /// Whether a sink is paused; `None` when none of this name is served.
    #[must_use]
    pub fn is_paused(&self, sink: &str) -> Option<bool> {
        self.0.stats.get(sink).map(|s| *s.watch_paused().borrow())
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
        // so that nobody takes it for a run whose sources have ended
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
    pub(super) fn alarm(&self, text: String) {
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

impl Shared {
    /// Puts the intake's filters together again, from the configuration's and the remote settings.
    fn refilter(&self) {
        let plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let filters = reduced(&plain, self.settings.borrow().as_deref());
        self.filters.send_replace(Arc::new(filters));
    }

    /// Brings a document of the remote settings into force.
    async fn obey(&self, document: Option<Arc<Document>>) {
        self.settings.send_replace(document.clone());
        self.refilter();
        let off: &[String] = document.as_ref().map_or(&[], |d| d.tenants_off());
        for sink in &self.sinks {
            sink.hold_tenants(off);
        }
        let ceiling = document.as_ref().and_then(|d| d.ceiling());
        let who = Who("remote settings".to_owned());
        let changed = self.control.change(&who, |c| c.remote = ceiling).await;
        if matches!(changed, Err(ChangeError::Ring(_))) {
            warn!("the remote settings are in force, though the audit log could not be written");
        }
    }
}

/// The configuration's filters, reduced by the remote settings.
pub(super) fn reduced(plain: &Filters, document: Option<&Document>) -> Filters {
    let mut filters = plain.clone();
    if let Some(document) = document {
        filters.sampling = Arc::new(document.sampling((*plain.sampling).clone()));
    }
    filters
}

/// Remote settings, with what was kept of them already read.
pub(super) struct Following {
    pub settings: Settings,
    pub remote: Remote,
    pub store: Kept,
}

impl Following {
    /// Reads and verifies what was kept.
    pub fn new(remote: Remote, ring: &Arc<dyn Ring>) -> Following {
        let store = Kept { cache: remote.cache.clone(), ring: Arc::clone(ring) };
        let (settings, refused) = Settings::open(remote.keys.clone(), store.read().as_deref());
        if let Some(refusal) = refused {
            error!(error = %refusal.error, "the remote settings that were kept are refused");
            if let Some(what) = refusal.audit {
                store.audit(what);
            }
        }
        Following { settings, remote, store }
    }
}

/// Polls the remote settings and brings each document into force.
async fn follow_settings(shared: Arc<Shared>, following: Following) {
    let Following { settings, remote, store } = following;
    let stop = shared.abort.child_token();
    let fetch = HttpFetch { remote, ring: Arc::clone(&shared.ring), in_force: shared.control.watch() };
    let tell = watch::Sender::new(None);
    let mut told = tell.subscribe();
    let obeying = async {
        while told.changed().await.is_ok() {
            let now = told.borrow_and_update().clone();
            let same = *shared.settings.borrow() == now;
            if !same {
                shared.obey(now).await;
            }
        }
    };
    let mut chance = crate::dispatch::retry::Xorshift::new({
        use std::hash::{BuildHasher as _, RandomState};
        RandomState::new().hash_one("settings")
    });
    let chance = move || {
        use crate::dispatch::retry::Chance as _;
        #[expect(clippy::cast_precision_loss, reason = "any number from 0 to 1")]
        let share = (chance.next() >> 11) as f64 / (1_u64 << 53) as f64;
        share
    };
    tokio::select! {
        () = settings::run(settings, &fetch, &store, &tell, chance, &shared.ask, stop) => {}
        () = obeying => {}
    }
}

/// Leads a run from its beginning to its end.
async fn conduct(shared: Arc<Shared>, tasks: Tasks) -> Result<Summary, RunError> {
    let Tasks { sources, intake, dispatchers, own, gaps, policy, remote, until: end } = tasks;
    let mut deadline = shared.deadline.subscribe();
    let watcher = policy.map(|policy| {
        let (control, stop) = (Arc::clone(&shared.control), shared.abort.child_token());
        tokio::spawn(async move { control.watch_policy(policy, stop).await })
    });
    let payer = {
        let (control, stop) = (Arc::clone(&shared.control), shared.abort.child_token());
        tokio::spawn(async move { control.pay(stop).await })
    };
    let pin_watch = tokio::spawn(pins::keep_book(
        shared.pins.clone(),
        Arc::clone(&shared.ring),
        shared.abort.child_token(),
    ));
    let remote = remote.map(|remote| tokio::spawn(follow_settings(Arc::clone(&shared), remote)));
    let mut sinks = JoinSet::new();
    for dispatcher in dispatchers {
        sinks.spawn(dispatcher.run());
    }
    let mut intake = tokio::spawn(intake);
    let keep_open = end == Until::Stopped;
    let own_stop = CancellationToken::new();
    let own = tokio::spawn(tell_about_itself(Arc::clone(&shared), own, gaps, own_stop.clone()));

    // 1. sources
    let mut in_force = shared.control.watch();
    // what comes to an end by itself would not if it waited for a switch; the gate drops it then
    let allowed = |f: &InForce| f.level.enabled || !keep_open;
    let mut running = Sources::start(&shared, sources, allowed(&in_force.borrow_and_update()));
    let stop_at = async {
        shared.stop.cancelled().await;
        tokio::time::sleep(SOURCE_STOP).await;
    };
    let mut stop_at = std::pin::pin!(stop_at);
    let mut early = None;
    while running.any_left() || keep_open {
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
            () = running.next() => {}
            () = &mut stop_at => break,
            () = shared.stop.cancelled(), if shared.sources_running.load(Ordering::Relaxed) == 0 => break,
            Ok(()) = in_force.changed() => {
                let now = allowed(&in_force.borrow_and_update());
                running.allow(now);
            }
        }
    }
    let summaries = running.finish().await;
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
    let _ = payer.await;
    let _ = pin_watch.await;
    if let Some(remote) = remote {
        let _ = remote.await;
    }
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

pub(super) async fn blocking<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&dyn Ring) -> T + Send + 'static,
) -> Result<T, RunError> {
    let ring = Arc::clone(&shared.ring);
    let done = tokio::task::spawn_blocking(move || work(&*ring)).await;
    done.map_err(|e| RunError::Broken(e.to_string()))
}

async fn close(shared: &Arc<Shared>, mut sources: Vec<SourceSummary>) -> Result<Summary, RunError> {
    let elapsed = shared.begun.elapsed();
    save_aggregates(shared).await;
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

/// Puts the hourly counts on disk; the hours that have ended since the last time.
async fn save_aggregates(shared: &Arc<Shared>) -> Vec<Hour> {
    let Some(aggregates) = shared.aggregates.clone() else { return Vec::new() };
    let saved = blocking(shared, move |ring| aggregates.save(&ring.account(), now_ns())).await;
    match saved {
        Ok(Ok(ended)) => ended,
        Ok(Err(error)) => {
            warn!(%error, "hourly counts could not be saved; they will be tried again");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

/// How many critical alerts hours had on this hardware.
async fn quality(hours: Vec<Hour>) -> Batch {
    let configuration = tokio::task::spawn_blocking(tidegate_sources::census::configuration).await;
    let configuration = configuration.unwrap_or_default();
    let mut batch = Batch::new();
    for hour in &hours {
        own::push_quality(&mut batch, &configuration, hour, now_ns());
    }
    batch
}

/// Checks the account while it runs, tells what went from the ring, and sends the collector's events about itself
/// where they are wanted.
async fn tell_about_itself(
    shared: Arc<Shared>,
    own: Option<(Outlet, Duration)>,
    mut gaps: Gaps,
    stop: CancellationToken,
) {
    let mut in_force = shared.control.watch();
    let mut level = in_force.borrow_and_update().level.clone();
    let (outlet, every) = match own {
        Some((outlet, every)) => (Some(outlet), every),
        None => (None, Duration::MAX),
    };
    let settings = |cause: &str, level: &LevelInForce, before: Option<&LevelInForce>| {
        let mut batch = Batch::new();
        own::push_settings(&mut batch, level, before, cause, now_ns());
        batch
    };
    if let Some(outlet) = &outlet {
        // an intake that is gone is the end of the run, which others notice
        let _ = outlet.send(settings("start", &level, None), Vec::new()).await;
    }
    // what the last run did not come to tell
    gaps.tell(&shared).await;
    let mut check = tokio::time::interval_at(Instant::now() + CHECK_EVERY, CHECK_EVERY);
    let mut told = Instant::now();
    // from here the sinks' side of the hourly counts begins
    let _ = save_aggregates(&shared).await;
    let mut saved = Instant::now();
    let mut next = every.min(CHECK_EVERY * 60 * 24 * 365);
    loop {
        let health_at = told + next;
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                // the sinks are still served; what goes from now on is told by the next run
                gaps.tell(&shared).await;
                return;
            }
            _ = check.tick() => {
                let account = blocking(&shared, |ring| ring.account()).await;
                if let Some(why) = account.ok().and_then(|a| a.check().err()) {
                    error!(%why, "the account does not close");
                    shared.alarm(format!("the account does not close: {why}"));
                }
                if saved.elapsed() >= SAVE_EVERY {
                    saved = Instant::now();
                    let ended = save_aggregates(&shared).await;
                    if let (Some(outlet), false) = (&outlet, ended.is_empty()) {
                        let _ = outlet.send(quality(ended).await, Vec::new()).await;
                    }
                }
                gaps.tell(&shared).await;
            }
            changed = in_force.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = in_force.borrow_and_update().level.clone();
                if now == level {
                    continue;
                }
                let before = std::mem::replace(&mut level, now);
                if let Some(outlet) = &outlet {
                    let _ = outlet.send(settings("change", &level, Some(&before)), Vec::new()).await;
                }
            }
            () = tokio::time::sleep_until(health_at), if outlet.is_some() => {
                told = Instant::now();
                next = every;
                let look = |r: &dyn Ring| (r.account(), r.status(), crate::device::id(r).ok());
                let Ok((account, status, device)) = blocking(&shared, look).await else { continue };
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
                    gaps: shared.counters.gaps(),
                    pins: &shared.pins.states(),
                    device: device.as_deref(),
                }, now_ns());
                if let Some(outlet) = &outlet {
                    let _ = outlet.send(batch, Vec::new()).await;
                }
            }
        }
    }
}
