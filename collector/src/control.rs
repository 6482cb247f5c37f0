//! The level in force while the collector runs: who may lower it, and what lowering does.
//!
//! A lowered level goes this way: the gate has it at once and the sinks stop; what is on its way
//! to the ring above the level is dropped; what is in the ring above it is purged; an audit entry
//! says who did it and what went; then the sinks go on.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_proto::batch::EventRef;
use tidegate_proto::level::TelemetryLevel;
use tidegate_ring::{Chain, PerLevel, PurgeRule, Purged, Ring, RingError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::gate::level::{Ceilings, LevelInForce, PolicyFile};
use crate::intake::Command;

/// How often the policy file is looked at.
const POLL: Duration = Duration::from_secs(1);
/// Keys of what is kept with the ring.
const ENABLED: &str = "telemetry.enabled";
const RUNTIME: &str = "telemetry.level";
const LAST: &str = "telemetry.in_force";
/// Keys of the switches that someone turned at run time.
pub(crate) const SWITCHES: [&str; 2] = [ENABLED, RUNTIME];

/// What watchers see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// The level in force.
    pub level: LevelInForce,
    /// `false` while a lowered level is being carried through: nothing is sent meanwhile.
    pub carried_through: bool,
}

/// Who changes a switch, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who(pub String);

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Purges what is above a level.
#[derive(Clone, Copy, Debug)]
pub struct AboveLevel(pub TelemetryLevel);

impl PurgeRule for AboveLevel {
    fn may_match(&self, levels: &PerLevel, _: (i64, i64)) -> bool {
        TelemetryLevel::ALL.iter().zip(levels).any(|(l, n)| *l > self.0 && *n > 0)
    }

    fn matches(&self, event: EventRef<'_>) -> bool {
        // what has no level must not pass for one
        event.head().telemetry_level.is_none_or(|l| l > self.0)
    }
}

/// The level in force and its switches.
#[derive(Debug)]
pub struct Control {
    ring: Arc<dyn Ring>,
    ceilings: Mutex<Ceilings>,
    in_force: watch::Sender<InForce>,
    intake: mpsc::Sender<Command>,
    /// One change at a time, from its beginning to its audit entry.
    changing: tokio::sync::Mutex<()>,
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
        let enabled = ring.get(ENABLED)?.is_none_or(|v| v == b"1");
        let runtime = ring.get(RUNTIME)?.and_then(|v| TelemetryLevel::from_u8(*v.first()?));
        let mut ceilings = Ceilings { config, runtime, enabled, ..Ceilings::default() };
        if let Some(now) = policy.and_then(PolicyFile::poll) {
            ceilings.policy = now;
        }
        let level = ceilings.in_force();
        let (intake, commands) = mpsc::channel(4);
        let control = Control {
            ring,
            ceilings: Mutex::new(ceilings),
            in_force: watch::Sender::new(InForce { level, carried_through: true }),
            intake,
            changing: tokio::sync::Mutex::new(()),
        };
        Ok((control, commands))
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
    /// When the ring's book cannot be written; nothing is changed then.
    pub async fn set_enabled(&self, enabled: bool, who: &Who) -> Result<(), RingError> {
        self.ring.put(ENABLED, Some(if enabled { b"1" } else { b"0" }))?;
        self.change(who, |c| c.enabled = enabled).await
    }

    /// The switch at run time; `None` takes it away. Kept with the ring.
    ///
    /// # Errors
    /// When the ring's book cannot be written; nothing is changed then.
    pub async fn set_level(&self, level: Option<TelemetryLevel>, who: &Who) -> Result<(), RingError> {
        let value = level.map(|l| [l as u8]);
        self.ring.put(RUNTIME, value.as_ref().map(<[u8; 1]>::as_slice))?;
        self.change(who, |c| c.runtime = level).await
    }

    /// Changes the ceilings and carries through what follows from it.
    ///
    /// # Errors
    /// When the audit entry cannot be written. The level is in force all the same.
    pub async fn change(&self, who: &Who, set: impl FnOnce(&mut Ceilings)) -> Result<(), RingError> {
        let _one = self.changing.lock().await;
        let now = {
            let mut ceilings = self.ceilings();
            set(&mut ceilings);
            ceilings.in_force()
        };
        let before = self.now();
        if now == before {
            return Ok(());
        }
        let lowered = now.level < before.level;
        self.in_force.send_replace(InForce { level: now.clone(), carried_through: !lowered });
        match &now.alarm {
            Some(alarm) => error!(%alarm, level = %now.level, "the level in force changed"),
            None => info!(from = %before, to = %now, %who, "the level in force changed"),
        }
        if lowered {
            self.empty_intake(now.level).await;
        }
        let done = self.carry_through(&before, &now, who, lowered).await;
        self.in_force.send_modify(|f| f.carried_through = true);
        done
    }

    /// Carries through a level that was lowered while the collector did not run. To be called
    /// before anything is sent.
    ///
    /// # Errors
    /// When the ring's book cannot be read or written.
    pub async fn begin(&self) -> Result<(), RingError> {
        let _one = self.changing.lock().await;
        let now = self.now();
        let last = self.ring.get(LAST)?.and_then(|v| TelemetryLevel::from_u8(*v.first()?));
        if last == Some(now.level) {
            return Ok(());
        }
        let before = LevelInForce { level: last.unwrap_or(now.level), alarm: None, ..now.clone() };
        let who =
            Who(if last.is_some() { "changed while the collector did not run" } else { "first start" }
                .to_owned());
        self.carry_through(&before, &now, &who, now.level < before.level).await
    }

    async fn carry_through(
        &self,
        before: &LevelInForce,
        now: &LevelInForce,
        who: &Who,
        lowered: bool,
    ) -> Result<(), RingError> {
        let mut purged = Purged::default();
        let mut failed = None;
        if lowered {
            match self.purge(now.level).await {
                Ok(done) => purged = done,
                Err(e) => {
                    // the gate at the sinks holds back what could not be purged
                    error!(error = %e, "what is above the level could not be purged");
                    failed = Some(e.to_string());
                }
            }
        }
        if failed.is_none() {
            self.ring.put(LAST, Some(&[now.level as u8]))?;
        }
        let entry = serde_json::json!({
            "what": "level",
            "time": tidegate_proto::time::format_rfc3339(crate::clock::now_ns()),
            "who": who.0,
            "from": show(before),
            "to": show(now),
            "purged": purged.events,
            "purge_failed": failed,
        });
        let audited = self.ring.chain_append(Chain::Audit, entry.to_string().as_bytes());
        if let Err(e) = &audited {
            error!(error = %e, "a change of level could not be written to the audit log");
        }
        audited.map(|_| ())
    }

    /// Waits until nothing above a level is on its way to the ring.
    async fn empty_intake(&self, level: TelemetryLevel) {
        let (done, answer) = oneshot::channel();
        if self.intake.send(Command::Lower(level, done)).await.is_ok() {
            // an intake that has ended has nothing left
            let _ = answer.await;
        }
    }

    async fn purge(&self, level: TelemetryLevel) -> Result<Purged, RingError> {
        let ring = Arc::clone(&self.ring);
        let purge = tokio::task::spawn_blocking(move || ring.purge(&AboveLevel(level)));
        purge.await.unwrap_or_else(|e| Err(RingError::Book(format!("the purge ended early: {e}"))))
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
            if let Some(now) = policy.poll()
                && self.change(&who, |c| c.policy = now).await.is_err()
            {
                warn!("the policy is in force, though the audit log could not be written");
            }
        }
    }
}

fn show(level: &LevelInForce) -> serde_json::Value {
    serde_json::json!({
        "level": level.level as u8,
        "enabled": level.enabled,
        "decided_by": level.decided_by.as_str(),
        "alarm": level.alarm,
    })
}
