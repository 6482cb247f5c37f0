//! From sources to the ring: batches go through the gate into blocks, blocks and the account of
//! what became of each event into groups, groups into the ring in order.
//!
//! A group ends only where batches end: the position of a source is stored together with all
//! events up to it, so that after a crash none is read twice and none is left out.
//!
//! When the ring cannot write, groups wait here and nothing more is taken from the sources:
//! those that can wait do, what the others lose meanwhile is counted as `ring_failed`.

mod counters;
mod queue;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tidegate_proto::level::{DropReason, TelemetryLevel};
use tidegate_ring::{AppendError, Group, Intake as Read, Ring};
use tidegate_sources::{Intake, Item};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::config::IntakeConfig;
use crate::control::InForce;
use crate::encode::Encoder;
use crate::gate::{Gate, Permit, Verdict};

pub use counters::Counters;
use queue::{Queue, Waiting};

/// The first pause before a ring that cannot write is tried again; doubled up to [`PAUSE_MOST`].
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MOST: Duration = Duration::from_secs(30);

/// What can be asked of a running intake.
#[derive(Debug)]
pub enum Command {
    /// Forget what is above this level. Answered when nothing of it is on its way to the ring
    /// any more: what was, is in the ring and can be purged there.
    Lower(TelemetryLevel, oneshot::Sender<()>),
}

/// Why the intake ended early.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The ring was closed while events were on their way to it.
    #[error("the ring was closed while events were on their way to it")]
    Closed,
}

/// What the intake works with.
#[derive(Debug)]
pub struct Parts {
    /// Where batches come from.
    pub intake: Intake,
    /// Decides on each event.
    pub gate: Gate,
    /// Where groups go.
    pub ring: Arc<dyn Ring>,
    /// The level in force.
    pub in_force: watch::Receiver<InForce>,
    /// Commands.
    pub commands: mpsc::Receiver<Command>,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// Sizes and times.
    pub config: IntakeConfig,
}

#[derive(Debug)]
struct Task {
    intake: Intake,
    gate: Gate,
    in_force: watch::Receiver<InForce>,
    counters: Arc<Counters>,
    config: IntakeConfig,
    encoder: Encoder,
    // what happened since the group before
    open: Read,
    opened: Option<Instant>,
    queue: Queue,
    lowering: Vec<(u64, oneshot::Sender<()>)>,
    pause: Duration,
    held_until: Option<Instant>,
}

/// Runs until all sources are gone and what they sent is on stable storage.
///
/// # Errors
/// When the ring was closed under it.
///
/// # Cancel safety
/// Dropping the future loses what is not yet on stable storage; sources that keep a position
/// read it again.
pub async fn run(parts: Parts) -> Result<(), IntakeError> {
    let Parts { intake, gate, ring, in_force, mut commands, counters, config } = parts;
    let mut health = ring.watch();
    let mut task = Task {
        intake,
        gate,
        in_force,
        counters,
        config,
        encoder: Encoder::new(config.seal_bytes, config.max_event),
        open: Read::default(),
        opened: None,
        queue: Queue::new(ring),
        lowering: Vec::new(),
        pause: PAUSE_FIRST,
        held_until: None,
    };
    let mut ended = false;
    // enough under way to keep the ring's writer busy, little enough to bound memory
    let most_waiting = (config.seal_bytes as u64).saturating_mul(8);
    loop {
        if task.held_until.is_none() {
            task.queue.submit();
        }
        task.answer();
        if ended && task.queue.is_empty() {
            return Ok(());
        }
        let room = !ended && task.queue.waiting_bytes() < most_waiting;
        let seal_at = task.opened.map(|t| t + config.seal_age);
        tokio::select! {
            biased;
            Some(command) = commands.recv() => task.command(command),
            done = task.queue.next() => task.handed_over(done)?,
            () = at(task.held_until) => task.held_until = None,
            // the ring may say by itself that it writes again
            Ok(()) = health.changed(), if task.held_until.is_some() => {
                if health.borrow_and_update().health == tidegate_ring::Health::Good {
                    task.held_until = None;
                }
            }
            () = at(seal_at) => task.seal(),
            item = task.intake.next(), if room => match item {
                Some(item) => task.take(item),
                None => {
                    ended = true;
                    task.seal();
                }
            },
        }
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

impl Task {
    /// Takes one batch through the gate.
    fn take(&mut self, item: Item) {
        let permit = Permit::from(&self.in_force.borrow().level);
        let mut dropped = [0u64; DropReason::ALL.len()];
        let mut drop = |reason: DropReason| {
            if let Some(n) = dropped.get_mut(usize::from(reason as u8)) {
                *n += 1;
            }
        };
        for event in item.events.iter() {
            match self.gate.clear(event, permit) {
                Verdict::Drop(reason) => drop(reason),
                Verdict::Pass(cleared) => {
                    if self.encoder.push(cleared).is_err() {
                        drop(DropReason::Oversize);
                    }
                }
            }
        }
        let read = item.events.len() as u64;
        self.open.read += read;
        self.counters.add_read(read);
        for (reason, n) in DropReason::ALL.iter().zip(dropped) {
            self.drop(*reason, n);
        }
        if !item.position.is_empty() {
            match self.open.positions.get_mut(&*item.source) {
                Some(position) => *position = item.position,
                None => {
                    self.open.positions.insert(item.source.to_string(), item.position);
                }
            }
        }
        self.intake.recycle(item.events);
        self.opened.get_or_insert_with(Instant::now);
        if self.encoder.bytes() >= self.config.seal_bytes {
            self.seal();
        }
    }

    fn drop(&mut self, reason: DropReason, n: u64) {
        if n > 0 {
            *self.open.dropped.entry(reason).or_default() += n;
            self.counters.add_dropped(reason, n);
        }
    }

    /// Counts what found no room here since the last call, by what kept it out.
    fn count_refused(&mut self) {
        let refused = self.intake.take_refused();
        if refused > 0 {
            self.open.read += refused;
            self.counters.add_read(refused);
            let failing = self.counters.trouble().is_some();
            self.drop(if failing { DropReason::RingFailed } else { DropReason::IntakeFull }, refused);
            self.opened.get_or_insert_with(Instant::now);
        }
    }

    /// Closes the group.
    fn seal(&mut self) {
        self.count_refused();
        self.opened = None;
        let group = Group { blocks: self.encoder.take(), intake: std::mem::take(&mut self.open) };
        if group.intake != Read::default() || !group.blocks.is_empty() {
            self.queue.push(Waiting::new(group));
        }
    }

    fn handed_over(&mut self, done: queue::Done) -> Result<(), IntakeError> {
        match done {
            queue::Done::Submitted => {}
            queue::Done::Stored { events, bytes } => {
                self.counters.add_stored(events, bytes);
                self.count_refused();
                if self.counters.ring_trouble(None) {
                    info!("the ring writes again");
                }
                self.pause = PAUSE_FIRST;
            }
            queue::Done::Failed(AppendError::Closed) => return Err(IntakeError::Closed),
            queue::Done::Failed(e @ (AppendError::Full | AppendError::TooLarge { .. })) => {
                let reason = match e {
                    AppendError::Full => DropReason::RingFull,
                    _ => DropReason::Oversize,
                };
                let events = self.queue.give_up_first(reason);
                self.counters.add_dropped(reason, events);
                if reason == DropReason::Oversize {
                    error!(events, error = %e, "a group that the ring can never hold was dropped and counted");
                }
            }
            queue::Done::Failed(e) => {
                self.count_refused();
                if self.counters.ring_trouble(Some(e.to_string())) {
                    warn!(error = %e, "events wait: the ring cannot write");
                }
                // what came meanwhile is of the level that was in force then
                let level = self.in_force.borrow().level.level;
                let gone = self.queue.drop_above(level);
                self.counters.add_dropped(DropReason::Level, gone);
                self.held_until = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(PAUSE_MOST);
            }
        }
        Ok(())
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Lower(level, done) => {
                let gone = self.encoder.drop_above(level);
                self.drop(DropReason::Level, gone);
                let gone = self.queue.drop_above(level);
                self.counters.add_dropped(DropReason::Level, gone);
                self.lowering.push((self.queue.barrier(), done));
            }
        }
    }

    /// Answers those who wait for everything handed over before to be stored.
    fn answer(&mut self) {
        let passed = self.queue.passed();
        for (_, done) in self.lowering.extract_if(.., |(barrier, _)| *barrier <= passed) {
            // whoever asked may be gone
            let _ = done.send(());
        }
    }
}
