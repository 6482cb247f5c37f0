//! The sources of a run: started, stopped while telemetry is disabled, started again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidegate_sources::{Outlet, Source, SourceEnd, SourceError};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::running::Shared;
use super::{Failed, SourceSummary};

type Made = Result<Box<dyn Source>, SourceError>;
type Make = dyn Fn(Option<&[u8]>) -> Made + Send + Sync;

/// Makes a source anew that was stopped, to go on at a position.
#[derive(Clone)]
pub struct Remake(Arc<Make>);

impl Remake {
    /// By a function.
    pub fn new(make: impl Fn(Option<&[u8]>) -> Made + Send + Sync + 'static) -> Remake {
        Remake(Arc::new(make))
    }
}

impl fmt::Debug for Remake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remake")
    }
}

/// A source before it runs.
pub(super) struct Fresh {
    pub source: Box<dyn Source>,
    pub outlet: Outlet,
    pub remake: Option<Remake>,
}

enum State {
    /// `parking`: it was told to stop because telemetry is disabled.
    Running {
        id: Id,
        task: AbortHandle,
        stop: CancellationToken,
        parking: bool,
    },
    /// Not started yet, or stopped and to be made anew.
    Parked(Option<Box<dyn Source>>),
    Ended,
}

struct Slot {
    name: String,
    outlet: Outlet,
    remake: Option<Remake>,
    state: State,
    /// It tells of the device, which alone is nothing to run for.
    census: bool,
}

type Ended = (Result<SourceEnd, SourceError>, bool);

/// All of them.
pub(super) struct Sources {
    shared: Arc<Shared>,
    slots: Vec<Slot>,
    tasks: JoinSet<Ended>,
    allowed: bool,
    pub summaries: Vec<SourceSummary>,
}

impl Sources {
    /// Starts them, if that is allowed.
    pub fn start(shared: &Arc<Shared>, sources: Vec<Fresh>, allowed: bool) -> Sources {
        let slot = |f: Fresh| Slot {
            name: f.source.info().name,
            census: f.source.info().kind == "census",
            outlet: f.outlet,
            // one that cannot be made anew runs all the time; the gate drops what it reads
            state: State::Parked(Some(f.source)),
            remake: f.remake,
        };
        let mut all = Sources {
            shared: Arc::clone(shared),
            slots: sources.into_iter().map(slot).collect(),
            tasks: JoinSet::new(),
            allowed,
            summaries: Vec::new(),
        };
        for n in 0..all.slots.len() {
            if allowed || all.slots.get(n).is_some_and(|s| s.remake.is_none()) {
                all.launch(n);
            }
        }
        all.count();
        all
    }

    fn count(&self) {
        self.shared.sources_running.store(self.tasks.len(), Ordering::Relaxed);
        let over = self.slots.iter().all(|s| s.census || matches!(s.state, State::Ended));
        if over && self.summaries.iter().any(|s| s.failed.is_some()) {
            self.shared.given_up.cancel();
        }
    }

    /// Whether one runs, or will when it is allowed to.
    pub fn any_left(&self) -> bool {
        self.slots.iter().any(|s| !matches!(s.state, State::Ended))
    }

    /// Starts a parked one.
    fn launch(&mut self, n: usize) {
        let Some(slot) = self.slots.get_mut(n) else { return };
        let State::Parked(fresh) = &mut slot.state else { return };
        let made = match (fresh.take(), &slot.remake) {
            (Some(source), _) => Ok(source),
            (None, Some(remake)) => {
                let last = slot.outlet.last_position();
                let position =
                    if last.is_empty() { self.shared.ring.source_position(&slot.name) } else { Some(last) };
                (remake.0)(position.as_deref())
            }
            (None, None) => return,
        };
        let source = match made {
            Ok(source) => source,
            Err(e) => {
                let text = crate::assemble::chain(&e);
                error!(source = %slot.name, error = %text, "a source cannot be started again");
                self.shared.alarm(format!("source {} cannot be started again: {text}", slot.name));
                slot.state = State::Ended;
                let failed = Some(kind(&e));
                self.summaries.push(SourceSummary { error: Some(text), failed, ..summary(&slot.name) });
                return;
            }
        };
        let stop = self.shared.stop.child_token();
        let (outlet, stopped) = (slot.outlet.clone(), stop.clone());
        let task = self.tasks.spawn(async move {
            let done = source.run(outlet, stopped.clone()).await;
            (done, stopped.is_cancelled())
        });
        slot.state = State::Running { id: task.id(), task, stop, parking: false };
    }

    /// Follows the switch: stops all that can be started again, or starts them again.
    pub fn allow(&mut self, allowed: bool) {
        if self.allowed == allowed {
            return;
        }
        self.allowed = allowed;
        info!(sources = self.slots.len(), "{}", if allowed { "sources start again" } else { "sources stop" });
        for n in 0..self.slots.len() {
            let Some(slot) = self.slots.get_mut(n) else { continue };
            match &mut slot.state {
                State::Running { stop, parking, .. } if !allowed && slot.remake.is_some() => {
                    *parking = true;
                    stop.cancel();
                }
                State::Parked(_) if allowed => self.launch(n),
                // one that is still stopping is started again when it has
                _ => {}
            }
        }
        self.count();
    }

    /// Waits for the next one to end; for ever when none runs.
    ///
    /// # Cancel safety
    /// A cancelled call has lost nothing.
    pub async fn next(&mut self) {
        let Some(done) = self.tasks.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let id = match &done {
            Ok((id, _)) => *id,
            Err(e) => e.id(),
        };
        let at = self.slots.iter().position(|s| matches!(s.state, State::Running { id: i, .. } if i == id));
        if let Some(n) = at
            && let Some(slot) = self.slots.get_mut(n)
        {
            let parking = matches!(slot.state, State::Running { parking: true, .. });
            // one that failed, or whose input has ended, is not started again
            if parking && matches!(&done, Ok((_, (Ok(end), _))) if end.stopped) {
                slot.state = State::Parked(None);
                if self.allowed && !self.shared.stop.is_cancelled() {
                    self.launch(n);
                }
            } else {
                slot.state = State::Ended;
                let summary = told(&slot.name, done);
                self.summaries.push(summary);
            }
        }
        self.count();
    }

    /// Cuts off what still runs, and lets go of the intake.
    pub async fn finish(mut self) -> Vec<SourceSummary> {
        for slot in &self.slots {
            match &slot.state {
                State::Running { task, .. } => {
                    warn!(source = %slot.name, "a source did not stop in time and is cut off");
                    task.abort();
                }
                State::Parked(_) => {}
                State::Ended => continue,
            }
            self.summaries.push(SourceSummary { stopped: true, ..summary(&slot.name) });
        }
        self.tasks.shutdown().await;
        self.count();
        self.summaries
    }
}

fn summary(name: &str) -> SourceSummary {
    SourceSummary {
        name: name.to_owned(),
        stopped: false,
        problems: Vec::new(),
        problem_count: 0,
        error: None,
        failed: None,
    }
}

fn kind(error: &SourceError) -> Failed {
    match error {
        SourceError::Denied(_) => Failed::Denied,
        SourceError::Session(_) | SourceError::Unsupported { .. } => Failed::Unavailable,
        _ => Failed::Input,
    }
}

fn told(name: &str, done: Result<(Id, Ended), JoinError>) -> SourceSummary {
    let mut summary = summary(name);
    match done {
        Ok((_, (Ok(end), _))) => {
            summary.stopped = end.stopped;
            summary.problem_count = end.problem_count;
            summary.problems = end.problems;
            summary.problems.truncate(100);
        }
        Ok((_, (Err(e), stopped))) => {
            summary.stopped = stopped;
            summary.failed = Some(kind(&e));
            let text = crate::assemble::chain(&e);
            error!(source = %name, error = %text, "a source failed");
            summary.error = Some(text);
        }
        Err(e) => {
            error!(source = %name, error = %e, "a source broke down");
            summary.error = Some(format!("it broke down: {e}"));
            summary.failed = Some(Failed::Input);
        }
    }
    summary
}
