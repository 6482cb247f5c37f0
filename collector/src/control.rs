//! The level in force while the collector runs: who may lower it, and what lowering does.
//!
//! A lowered level goes this way: the gate has it at once and the sinks stop; what is on its way
//! to the ring above the level is dropped; what is in the ring and in dead letters above it is purged; an
//! audit entry says who did it and what went; then the sinks go on. A purge that fails is owed: it is kept with
//! the ring and tried again, and until it is done nothing is sent and no higher level comes into force.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_proto::batch::EventRef;
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::wire::{Changes, Unchanged};
use tidegate_ring::{Chain, PerLevel, PurgeRule, Purged, Ring, RingError, UNSURE};
use tokio::sync::{RwLock, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::assemble::chain;
use crate::audit::{Record, What, is_cut};
use crate::clock::now_ns;
use crate::dispatch::DeadLetters;
use crate::gate::Gate;
use crate::gate::level::{Ceilings, LevelInForce, Owed, Policy, PolicyFile};
use crate::intake::{Command, Filters};

/// How often the policy file is looked at.
const POLL: Duration = Duration::from_secs(1);
/// Keys of what is kept with the ring.
const ENABLED: &str = "telemetry.enabled";
const RUNTIME: &str = "telemetry.level";
const LAST: &str = "telemetry.in_force";
/// The level of a purge that is begun or owed; there until one at this level is done.
const OWED: &str = "telemetry.owed";
/// Keys of the switches that someone turned at run time.
pub(crate) const SWITCHES: [&str; 2] = [ENABLED, RUNTIME];
const QUIET: &str = "telemetry.quiet";
const POLICY: &str = "telemetry.policy";
const CATALOGUES: &str = "telemetry.catalogues";
const OFF: &str = "telemetry.off";
/// Times of disabled telemetry that are kept; the oldest goes first.
const QUIET_MOST: usize = 64;
/// How long what was read may take into the ring before a purge: with a full ring it can take for ever.
const FLUSH: Duration = Duration::from_secs(10);
/// How long deliveries under way may take to end before a purge.
const REST: Duration = Duration::from_secs(300);
/// After how long a purge that is owed is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));

/// What whoever sees [`ChangeError::Owed`] can do.
pub(crate) const OWED_HELP: &str = "see that the ring's disk has room, and that [ring] key names the keys it was written \
                                    with; a collector that runs tries again by itself";

/// What can be done where [`RingError::is_missing_key`].
pub(crate) const KEY_HELP: &str = "[ring] key does not name the key that this part of the ring was sealed with; name a \
                                   file that still has it";

/// What watchers see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// The level in force.
    pub level: LevelInForce,
    /// `false` while a lowered level is not carried through: nothing is sent meanwhile.
    pub carried_through: bool,
    /// Times in which telemetry was disabled, from and to in nanoseconds since 1970: what
    /// happened then is not gathered later either.
    pub quiet: Arc<[(i64, i64)]>,
}

/// Who changes a switch, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who(pub String);

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Purges what is above a level: events, and of those that stay the fields with a higher level of their own.
#[derive(Debug)]
struct AboveLevel {
    level: TelemetryLevel,
    /// Where the rules know such fields.
    gate: Option<Mutex<Gate>>,
}

impl AboveLevel {
    fn new(level: TelemetryLevel, filters: Option<&Filters>) -> AboveLevel {
        let with_fields = filters.filter(|f| f.rules.has_fields_above(level));
        AboveLevel { level, gate: with_fields.map(|f| Mutex::new(f.gate())) }
    }
}

impl PurgeRule for AboveLevel {
    fn may_match(&self, levels: &PerLevel, _: (i64, i64)) -> bool {
        let above = |(l, n): (&TelemetryLevel, &u64)| *l > self.level && *n > 0;
        self.gate.is_some() || TelemetryLevel::ALL.iter().zip(levels).any(above)
    }

    fn matches(&self, event: EventRef<'_>) -> bool {
        // what has no level must not pass for one
        event.head().telemetry_level.is_none_or(|l| l > self.level)
    }

    fn changes(&self, event: EventRef<'_>, put: &mut dyn FnMut(&dyn Changes)) -> bool {
        match &self.gate {
            Some(gate) => gate.lock().unwrap_or_else(PoisonError::into_inner).changes(event, self.level, put),
            None => {
                put(&Unchanged);
                false
            }
        }
    }
}

/// Tells in the log when telemetry is disabled until someone enables it. Whoever does so just now need not read it.
///
/// # Errors
/// When the ring's book cannot be read.
pub fn tell_unsure(ring: &dyn Ring) -> Result<(), RingError> {
    if ring.get(UNSURE)?.is_some() {
        error!(
            "telemetry is disabled: the ring is damaged, and may have lost that someone disabled it or \
             set a level; see that the level is right, then say `tidegate telemetry enable`"
        );
    }
    Ok(())
}

/// Tells in the log what is in force now.
fn tell(before: &LevelInForce, now: &LevelInForce, who: &Who) {
    match &now.alarm {
        Some(alarm) => error!(%alarm, level = %now.level, "the level in force changed"),
        None => info!(from = %before, to = %now, %who, "the level in force changed"),
    }
}

/// When telemetry was disabled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Quiet {
    /// Since when it is, if it is.
    since: Option<i64>,
    /// From and to, oldest first.
    past: Vec<(i64, i64)>,
}

impl Quiet {
    /// Notes whether it is enabled at a time; whether that is news.
    fn note(&mut self, enabled: bool, now_ns: i64) -> bool {
        match (self.since, enabled) {
            (None, false) => self.since = Some(now_ns),
            (Some(since), true) => {
                self.since = None;
                self.past.push((since, now_ns));
                let excess = self.past.len().saturating_sub(QUIET_MOST);
                self.past.drain(..excess);
            }
            _ => return false,
        }
        true
    }
}

/// The level in force and its switches.
#[derive(Debug)]
pub struct Control {
    ring: Arc<dyn Ring>,
    ceilings: Mutex<Ceilings>,
    in_force: watch::Sender<InForce>,
    intake: mpsc::Sender<Command>,
    quiet: Mutex<Quiet>,
    /// By which fields are purged; none before it is told.
    filters: OnceLock<watch::Receiver<Arc<Filters>>>,
    /// Dead letters; none before they are told.
    letters: OnceLock<Vec<Arc<Mutex<DeadLetters>>>>,
    /// Held by deliveries under way.
    sending: Arc<RwLock<()>>,
    /// One change at a time, from its beginning to its audit entry.
    changing: tokio::sync::Mutex<()>,
}

/// Why a change is not carried through.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The ring's book cannot be read or written.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The level is in force, and what has to go is still in the ring.
    #[error(
        "level {} {level} is in force and nothing more is sent, but what the ring holds above it could not be removed",
        *level as u8
    )]
    Owed {
        /// The level in force.
        level: TelemetryLevel,
        /// Why.
        source: RingError,
    },
}

/// Why the ring could not be worked on while the collector runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestError {
    /// A delivery does not end.
    #[error("deliveries under way have not ended within {} s", REST.as_secs())]
    Busy,
    /// The work broke down.
    #[error("it ended early: {0}")]
    Broken(String),
}

impl Control {
    /// Reads the switches kept with the ring, and the policy. The receiver is the intake's end.
    ///
    /// # Errors
    /// When the ring's book cannot be read.
    pub fn open(
        ring: Arc<dyn Ring>,
        config: Option<TelemetryLevel>,
        policy: Option<&mut PolicyFile>,
    ) -> Result<(Control, mpsc::Receiver<Command>), RingError> {
        let unsure = ring.get(UNSURE)?.is_some();
        for (chain, name) in [(Chain::Receipts, "receipts"), (Chain::Audit, "entries of the audit log")] {
            if is_cut(&*ring, chain)? {
                tracing::error!(
                    "damage to the ring took {name}; stop the collector and say `tidegate buffer repair`, \
                     which takes note of it"
                );
            }
        }
        let enabled = !unsure && ring.get(ENABLED)?.is_none_or(|v| v == b"1");
        let runtime = ring.get(RUNTIME)?.and_then(|v| TelemetryLevel::from_u8(*v.first()?));
        let mut ceilings = Ceilings { config, runtime, enabled, ..Ceilings::default() };
        if let Some(now) = policy.and_then(PolicyFile::poll) {
            ceilings.policy = now;
        }
        // what cannot be read counts as the lowest
        let low = |v: Vec<u8>| v.first().and_then(|l| TelemetryLevel::from_u8(*l));
        let owed = ring.get(OWED)?.map(|v| low(v).unwrap_or(TelemetryLevel::Security));
        ceilings.owed = owed.map(|level| Owed { level, why: "it is tried at the next start".to_owned() });
        let level = ceilings.in_force();
        // what cannot be read is no reason to gather nothing: the switch itself is kept apart
        let kept = ring.get(QUIET)?;
        let quiet: Quiet = kept.and_then(|v| serde_json::from_slice(&v).ok()).unwrap_or_default();
        let times: Arc<[(i64, i64)]> = quiet.past.as_slice().into();
        let (intake, commands) = mpsc::channel(4);
        let control = Control {
            ring,
            ceilings: Mutex::new(ceilings),
            in_force: watch::Sender::new(InForce { level, carried_through: owed.is_none(), quiet: times }),
            intake,
            quiet: Mutex::new(quiet),
            filters: OnceLock::new(),
            letters: OnceLock::new(),
            sending: Arc::default(),
            changing: tokio::sync::Mutex::new(()),
        };
        Ok((control, commands))
    }

    /// Tells by which rules the fields of events have levels of their own, before [`begin`](Control::begin).
    pub fn judge_by(&self, filters: watch::Receiver<Arc<Filters>>) {
        // told twice, the first counts
        let _ = self.filters.set(filters);
    }

    /// Tells where dead letters are, before [`begin`](Control::begin).
    pub fn keep_out_of(&self, letters: Vec<Arc<Mutex<DeadLetters>>>) {
        // told twice, the first counts
        let _ = self.letters.set(letters);
    }

    /// Sets the remote settings' ceiling as it was kept, before [`begin`](Control::begin).
    pub fn preset_remote(&self, ceiling: Option<TelemetryLevel>) {
        let level = {
            let mut ceilings = self.ceilings();
            ceilings.remote = ceiling;
            ceilings.in_force()
        };
        self.in_force.send_modify(|f| f.level = level);
    }

    fn ceilings(&self) -> MutexGuard<'_, Ceilings> {
        self.ceilings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The level in force, as it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<InForce> {
        self.in_force.subscribe()
    }

    /// The level in force now.
    #[must_use]
    pub fn now(&self) -> LevelInForce {
        self.in_force.borrow().level.clone()
    }

    /// All ceilings as they stand.
    #[must_use]
    pub fn all(&self) -> Ceilings {
        self.ceilings().clone()
    }

    /// `telemetry enable|disable`: kept with the ring, so that it holds over restarts.
    ///
    /// # Errors
    /// When the ring's book cannot be written: nothing is changed then. See [`change`](Control::change), too.
    pub async fn set_enabled(&self, enabled: bool, who: &Who) -> Result<(), ChangeError> {
        self.ring.put(ENABLED, Some(if enabled { b"1" } else { b"0" }))?;
        // after it, so that no crash enables what nobody did
        if self.ring.get(UNSURE)?.is_some() {
            self.ring.put(UNSURE, None)?;
        }
        self.change(who, |c| c.enabled = enabled).await
    }

    /// The switch at run time; `None` takes it away. Kept with the ring.
    ///
    /// # Errors
    /// When the ring's book cannot be written: nothing is changed then. See [`change`](Control::change), too.
    pub async fn set_level(&self, level: Option<TelemetryLevel>, who: &Who) -> Result<(), ChangeError> {
        let value = level.map(|l| [l as u8]);
        self.ring.put(RUNTIME, value.as_ref().map(<[u8; 1]>::as_slice))?;
        self.change(who, |c| c.runtime = level).await
    }

    /// Changes the ceilings and carries through what follows from it, and what is owed from before.
    ///
    /// # Errors
    /// When the audit entry cannot be written, or what has to go from the ring is still there. The level is in
    /// force all the same.
    pub async fn change(&self, who: &Who, set: impl FnOnce(&mut Ceilings)) -> Result<(), ChangeError> {
        let _one = self.changing.lock().await;
        let (news, owes, now) = {
            let mut ceilings = self.ceilings();
            let before = ceilings.wanted();
            set(&mut ceilings);
            (before != ceilings.wanted(), ceilings.owed.is_some(), ceilings.in_force())
        };
        if !news && !owes {
            return Ok(());
        }
        let before = self.now();
        let lowered = now.level < before.level;
        let quiet = self.note_quiet(now.enabled);
        let carried_through = !lowered && !owes;
        self.in_force.send_replace(InForce { level: now.clone(), carried_through, quiet });
        if now != before {
            tell(&before, &now, who);
        }
        if lowered {
            self.empty_intake(now.level).await;
        }
        self.carry_through(&before, who, news, lowered).await
    }

    /// Carries through a level that was lowered while the collector did not run. To be called
    /// before anything is sent. A purge that fails is owed, and no error.
    ///
    /// # Errors
    /// When the ring's book cannot be read or written.
    pub async fn begin(&self) -> Result<(), RingError> {
        let _one = self.changing.lock().await;
        self.note_policy(&Who("start".to_owned()))?;
        let now = self.now();
        let quiet = self.note_quiet(now.enabled);
        self.in_force.send_modify(|f| f.quiet = quiet);
        let kept = self.ring.get(LAST)?.unwrap_or_default();
        let last = kept.first().and_then(|v| TelemetryLevel::from_u8(*v));
        let enabled = kept.get(1).is_none_or(|v| *v != 0);
        let news = last != Some(now.level) || enabled != now.enabled;
        if !news && self.ceilings().owed.is_none() {
            return Ok(());
        }
        let level = last.unwrap_or(now.level);
        let enabled = if last.is_some() { enabled } else { now.enabled };
        let before = LevelInForce { level, enabled, alarm: None, ..now.clone() };
        let who = match last {
            None => "first start",
            Some(_) if news => "changed while the collector did not run",
            Some(_) => "start",
        };
        let lowered = now.level < before.level;
        match self.carry_through(&before, &Who(who.to_owned()), news, lowered).await {
            // an alarm, and tried again
            Ok(()) | Err(ChangeError::Owed { .. }) => Ok(()),
            Err(ChangeError::Ring(e)) => Err(e),
        }
    }

    /// Purges what has to go, puts down what changed if that is `news`, and lets the sinks go on if nothing is
    /// owed then.
    async fn carry_through(
        &self,
        before: &LevelInForce,
        who: &Who,
        news: bool,
        lowered: bool,
    ) -> Result<(), ChangeError> {
        let (during, owed) = {
            let ceilings = self.ceilings();
            (ceilings.in_force(), ceilings.owed.clone())
        };
        let mut purged = Default::default();
        let mut failed = None;
        if lowered || owed.is_some() {
            match self.purge_owed(during.level).await {
                Ok(done) => {
                    purged = done;
                    self.ceilings().owed = None;
                }
                Err(e) => {
                    let why = chain(&e);
                    error!(error = %why, level = %during.level, "what is above the level could not be removed; nothing is sent until it is");
                    self.ceilings().owed = Some(Owed { level: during.level, why });
                    failed = Some(e);
                }
            }
        }
        let now = self.ceilings().in_force();
        if now.level != during.level {
            tell(&during, &now, who);
        }
        let done = if news || owed.is_some() != failed.is_some() {
            self.note(before, &now, who, purged, failed.as_ref())
        } else {
            Ok(())
        };
        let carried_through = failed.is_none();
        self.in_force.send_modify(|f| {
            f.level = now;
            f.carried_through = carried_through;
        });
        match failed {
            Some(source) => Err(ChangeError::Owed { level: during.level, source }),
            None => Ok(done?),
        }
    }

    /// Keeps what is in force for the next start, and puts the change down in the audit log.
    fn note(
        &self,
        before: &LevelInForce,
        now: &LevelInForce,
        who: &Who,
        purged: (Purged, u64),
        failed: Option<&RingError>,
    ) -> Result<(), RingError> {
        // a debt that could not be put down is seen at the next start by the level before
        if failed.is_none() || self.ring.get(OWED)?.is_some() {
            self.ring.put(LAST, Some(&[now.level as u8, u8::from(now.enabled)]))?;
        }
        let (from, to) = (before.into(), now.into());
        let ((purged, dead_letters), purge_failed) = (purged, failed.map(|e| chain(e)));
        self.audit(who, What::Level { from, to, purged: purged.events, dead_letters, purge_failed })
    }

    /// Tries again what is owed, until it is told to stop.
    pub async fn pay(&self, stop: CancellationToken) {
        let who = Who("tried again".to_owned());
        let mut in_force = self.watch();
        let mut pause = RETRY.0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                there = async { in_force.wait_for(|f| !f.carried_through).await.is_ok() } => if !there { return },
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            // a change that is under way does it itself
            if self.ceilings().owed.is_none() {
                pause = RETRY.0;
                continue;
            }
            pause = match self.change(&who, |_| ()).await {
                Err(ChangeError::Owed { .. }) => (pause * 2).min(RETRY.1),
                _ => RETRY.0,
            };
        }
    }

    /// Notes in times of disabled telemetry that it is enabled now, or not.
    fn note_quiet(&self, enabled: bool) -> Arc<[(i64, i64)]> {
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        if quiet.note(enabled, now_ns())
            && let Err(e) = self.ring.put(QUIET, Some(&serde_json::to_vec(&*quiet).unwrap_or_default()))
        {
            error!(error = %e, "when telemetry was disabled cannot be kept for the next start");
        }
        quiet.past.as_slice().into()
    }

    /// Writes an audit entry; durable on return.
    ///
    /// # Errors
    /// When the ring's book cannot be written.
    pub fn audit(&self, who: &Who, what: What) -> Result<(), RingError> {
        let done = Record::new(now_ns(), &who.0, what).append(&*self.ring);
        if let Err(e) = &done {
            error!(error = %e, "a change could not be written to the audit log");
        }
        done.map(|_| ())
    }

    /// Puts down which catalogues are in force, by name and SHA-256, and which switches are
    /// off, if that is news.
    ///
    /// # Errors
    /// When the ring's book cannot be read or written.
    pub fn note_rules(
        &self,
        files: BTreeMap<String, String>,
        off: &[String],
        who: &Who,
    ) -> Result<(), RingError> {
        let now = serde_json::to_vec(&files).unwrap_or_default();
        let first = self.ring.get(CATALOGUES)?.is_none();
        if self.ring.get(CATALOGUES)?.as_deref() != Some(&*now) {
            self.audit(who, What::Catalogue { files })?;
            self.ring.put(CATALOGUES, Some(&now))?;
        }
        let before: BTreeSet<String> =
            self.ring.get(OFF)?.and_then(|v| serde_json::from_slice(&v).ok()).unwrap_or_default();
        let after: BTreeSet<String> = off.iter().cloned().collect();
        let turned = |name: &String, on| What::Switch { name: name.clone(), on, with: Vec::new() };
        for name in after.difference(&before) {
            self.audit(who, turned(name, false))?;
        }
        for name in before.difference(&after) {
            self.audit(who, turned(name, true))?;
        }
        if first || before != after {
            self.ring.put(OFF, Some(&serde_json::to_vec(&after).unwrap_or_default()))?;
        }
        Ok(())
    }

    /// Puts down what the policy says, if that is news.
    fn note_policy(&self, who: &Who) -> Result<(), RingError> {
        let now = match &self.ceilings().policy {
            Policy::Absent => "there is no policy".to_owned(),
            Policy::Ceiling { level, enabled } => {
                format!(
                    "level {} {level}{}",
                    *level as u8,
                    if *enabled { "" } else { ", telemetry is disabled" }
                )
            }
            Policy::Broken(why) => why.clone(),
        };
        let before = self.ring.get(POLICY)?;
        if before.as_deref() == Some(now.as_bytes()) || before.is_none() && now.starts_with("there is no") {
            return Ok(());
        }
        let short: String = now.chars().take(1000).collect();
        self.ring.put(POLICY, Some(now.as_bytes()))?;
        self.audit(who, What::Policy { now: short })
    }

    /// Waits until nothing above a level is on its way to the ring.
    async fn empty_intake(&self, level: TelemetryLevel) {
        let (done, answer) = oneshot::channel();
        if self.intake.send(Command::Lower(level, done)).await.is_ok() {
            // an intake that has ended has nothing left
            let _ = answer.await;
        }
    }

    /// Purges what is above a level from the ring and from dead letters; that it is owed meanwhile outlives a crash.
    async fn purge_owed(&self, level: TelemetryLevel) -> Result<(Purged, u64), RingError> {
        let noted = self.ring.put(OWED, Some(&[level as u8]));
        let purged = self.purge(level).await;
        let letters = self.purge_letters(level).await;
        let letters =
            letters.map_err(|source| RingError::Io { what: "purge dead letters".to_owned(), source });
        let done = (purged?, letters?);
        noted.and_then(|()| self.ring.put(OWED, None)).map(|()| done)
    }

    async fn purge(&self, level: TelemetryLevel) -> Result<Purged, RingError> {
        let ring = Arc::clone(&self.ring);
        let filters = self.filters.get().map(|f| Arc::clone(&f.borrow()));
        let rule = AboveLevel::new(level, filters.as_deref());
        let purge = tokio::task::spawn_blocking(move || ring.purge(&rule));
        purge.await.unwrap_or_else(|e| Err(RingError::Book(format!("the purge ended early: {e}"))))
    }

    /// Removes what is above a level, or has none that can be read, from dead letters; how many. What a
    /// delivery under way refuses later is judged when it is written.
    async fn purge_letters(&self, level: TelemetryLevel) -> io::Result<u64> {
        let letters = self.letters.get().cloned().unwrap_or_default();
        let rule = AboveLevel { level, gate: None };
        let purge = tokio::task::spawn_blocking(move || {
            let mut gone = 0;
            for letters in letters {
                let letters = letters.lock().unwrap_or_else(PoisonError::into_inner);
                let done = crate::purge::dead_letters(letters.path(), &rule, false)?;
                gone += done.events + done.unreadable;
            }
            Ok(gone)
        });
        purge.await.unwrap_or_else(|e| Err(io::Error::other(e)))
    }

    /// What a delivery holds while it is under way.
    #[must_use]
    pub fn sending(&self) -> Arc<RwLock<()>> {
        Arc::clone(&self.sending)
    }

    /// Works on the ring while no delivery is under way: those that are end first, others wait. What was read
    /// is put into the ring before, as far as it has room; the answer tells whether that was all.
    ///
    /// # Errors
    /// See [`RestError`]; with [`RestError::Busy`] nothing was done.
    pub async fn at_rest<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Ring) -> T + Send + 'static,
    ) -> Result<(T, bool), RestError> {
        let all = tokio::time::timeout(FLUSH, self.flush()).await.is_ok();
        let _rest = tokio::time::timeout(REST, self.sending.write()).await.map_err(|_| RestError::Busy)?;
        let _one = self.changing.lock().await;
        let ring = Arc::clone(&self.ring);
        let done = tokio::task::spawn_blocking(move || work(&*ring)).await;
        done.map(|done| (done, all)).map_err(|e| RestError::Broken(e.to_string()))
    }

    /// Waits until what was read so far is in the ring.
    async fn flush(&self) {
        let (done, answer) = oneshot::channel();
        if self.intake.send(Command::Flush(done)).await.is_ok() {
            // an intake that has ended has nothing left
            let _ = answer.await;
        }
    }

    /// Watches the policy file until it is told to stop.
    pub async fn watch_policy(&self, mut policy: PolicyFile, stop: CancellationToken) {
        let who = Who(format!("policy file {}", policy.path().display()));
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let Some(now) = policy.poll() else { continue };
            let changed = self.change(&who, |c| c.policy = now).await;
            let noted = self.note_policy(&who);
            if noted.is_err() || matches!(changed, Err(ChangeError::Ring(_))) {
                warn!("the policy is in force, though the audit log could not be written");
            }
        }
    }
}
