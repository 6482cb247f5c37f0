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

use tidegate_proto::batch::{Batch, EventRef};
use tidegate_proto::level::{DropReason, TelemetryLevel};
use tidegate_proto::own::{GAP_EVENTS, GAP_ID};
use tidegate_proto::schema::Decoder;
use tidegate_proto::value::ValueRef;
use tidegate_ring::{AppendError, Group, Intake as Read, Ring};
use tidegate_sources::{Intake, Item};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::aggregate::{Aggregates, Outcome};
use crate::clock::now_ns;
use crate::config::IntakeConfig;
use crate::control::InForce;
use crate::encode::{Apart, Encoder, leave_out_above};
use crate::gate::{Gate, Permit, Rules, UnknownSwitch, Verdict};
use crate::sampling::{Sampled, Sampler, SamplingRules};

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
    /// Hand over what was read. Answered when all of it is in the ring, which can take long where that
    /// has no room.
    Flush(oneshot::Sender<()>),
}

/// What decides on events besides the level. Can be exchanged while the intake runs.
#[derive(Clone, Debug)]
pub struct Filters {
    /// What the gate goes by.
    pub rules: Arc<Rules>,
    /// Bits of the switches that are off; see [`Filters::new`].
    off: Vec<String>,
    /// What is sampled, with the remote settings' part.
    pub sampling: Arc<SamplingRules>,
}

impl Filters {
    /// Puts them together.
    ///
    /// # Errors
    /// A switch that no catalogue knows.
    pub fn new(
        rules: Arc<Rules>,
        off: Vec<String>,
        sampling: impl Into<Arc<SamplingRules>>,
    ) -> Result<Filters, UnknownSwitch> {
        let names: Vec<&str> = off.iter().map(String::as_str).collect();
        rules.switched_off_by(&names)?;
        Ok(Filters { rules, off, sampling: sampling.into() })
    }

    /// Names of the switches that are off.
    #[must_use]
    pub fn off(&self) -> &[String] {
        &self.off
    }

    /// A gate of them.
    #[must_use]
    pub fn gate(&self) -> Gate {
        let mut gate = Gate::new(Arc::clone(&self.rules));
        let names: Vec<&str> = self.off.iter().map(String::as_str).collect();
        if let Err(e) = gate.set_off(&names) {
            // looked up when they were put together
            error!(error = %e, "a switch stays on");
        }
        gate
    }
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
    /// What decides on each event.
    pub filters: watch::Receiver<Arc<Filters>>,
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
    /// Where it counts by kind of event, if anywhere.
    pub aggregates: Option<Arc<Aggregates>>,
    /// Which events get blocks of their own.
    pub apart: Apart,
}

#[derive(Debug)]
struct Task {
    intake: Intake,
    gate: Gate,
    sampler: Sampler,
    filters: watch::Receiver<Arc<Filters>>,
    in_force: watch::Receiver<InForce>,
    counters: Arc<Counters>,
    config: IntakeConfig,
    aggregates: Option<Arc<Aggregates>>,
    encoder: Encoder,
    begun: Instant,
    // what happened since the group before
    open: Read,
    opened: Option<Instant>,
    queue: Queue,
    lowering: Vec<(u64, oneshot::Sender<()>)>,
    flushing: Vec<(u64, oneshot::Sender<()>)>,
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
    let Parts { intake, mut filters, ring, in_force, mut commands, counters, config, aggregates, apart } =
        parts;
    let mut health = ring.watch();
    let now = Arc::clone(&filters.borrow_and_update());
    let mut task = Task {
        intake,
        gate: now.gate(),
        sampler: Sampler::new(Arc::clone(&now.sampling)),
        filters,
        begun: Instant::now(),
        in_force,
        counters,
        config,
        aggregates,
        encoder: Encoder::new(config.seal_bytes, config.max_event, apart),
        open: Read::default(),
        opened: None,
        queue: Queue::new(ring),
        lowering: Vec::new(),
        flushing: Vec::new(),
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
        let repeats_at = task.repeats_at().filter(|_| room);
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
            () = at(repeats_at) => task.tell_repeats(task.now_ns()),
            item = task.intake.next(), if room => match item {
                Some(item) => task.take(item),
                None => {
                    ended = true;
                    task.tell_repeats(i64::MAX);
                    task.seal();
                }
            },
        }
    }
}

/// How many events a gap says are missing.
fn lost(gap: EventRef<'_>) -> Option<u64> {
    gap.fields().find(|f| f.name_index == GAP_EVENTS).and_then(|f| match f.value {
        ValueRef::U64(n) => Some(n),
        _ => None,
    })
}

/// Whether an event is of a time in which telemetry was disabled. The collector's own are told
/// when it is enabled only.
fn is_quiet(times: &[(i64, i64)], event: EventRef<'_>) -> bool {
    let at = event.head().time_ns;
    times.iter().any(|(from, to)| (*from..*to).contains(&at)) && event.schema().decoder != Decoder::Own
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// Whether an event is a critical alert: by its verbosity, or by its name.
fn is_critical(event: EventRef<'_>) -> bool {
    // 1 is "critical" of winmeta.xml
    event.head().level == 1 || event.schema().event_name.contains("CriticalAlert")
}

impl Task {
    /// Nanoseconds of a clock that does not go back.
    fn now_ns(&self) -> i64 {
        i64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(i64::MAX)
    }

    /// When repeats are next to be told.
    fn repeats_at(&self) -> Option<Instant> {
        let due = self.sampler.next_repeats()?;
        Some(self.begun + Duration::from_nanos(u64::try_from(due).unwrap_or(0)))
    }

    /// Tells the runs of repeats that have ended, as events of our own.
    fn tell_repeats(&mut self, now_ns: i64) {
        let mut batch = Batch::new();
        self.sampler.take_repeats(now_ns, &mut batch);
        if !batch.is_empty() {
            self.take(Item { source: Arc::from(""), events: batch, position: Vec::new() });
        }
    }

    /// Goes by what was exchanged since the batch before.
    fn renew(&mut self) {
        if !self.filters.has_changed().unwrap_or(false) {
            return;
        }
        let now = Arc::clone(&self.filters.borrow_and_update());
        self.gate = now.gate();
        self.sampler.set_rules(Arc::clone(&now.sampling));
    }

    /// Takes one batch through the gate.
    fn take(&mut self, item: Item) {
        self.renew();
        let (permit, quiet) = {
            let now = self.in_force.borrow();
            (Permit::from(&now.level), Arc::clone(&now.quiet))
        };
        let mut dropped = [0u64; DropReason::ALL.len()];
        let mut drop = |reason: DropReason| {
            if let Some(n) = dropped.get_mut(usize::from(reason as u8)) {
                *n += 1;
            }
        };
        // who samples nothing asks for no time
        let samples = !self.sampler.is_idle();
        let clock = if samples { self.now_ns() } else { 0 };
        let mut counting = self.aggregates.as_ref().map(|a| a.counting(now_ns()));
        for event in item.events.iter() {
            if event.schema().decoder == Decoder::Own && event.head().id == GAP_ID {
                self.counters.add_gap(lost(event));
            }
            let outcome = if !quiet.is_empty() && is_quiet(&quiet, event) {
                Outcome::Dropped(DropReason::Disabled)
            } else {
                match self.gate.clear(event, permit) {
                    Verdict::Drop(reason) => Outcome::Dropped(reason),
                    Verdict::Pass(cleared) => {
                        let kept = match samples {
                            false => Sampled::Keep(cleared),
                            true => self.sampler.decide(cleared, clock),
                        };
                        match kept {
                            Sampled::Drop => Outcome::Dropped(DropReason::Sample),
                            Sampled::Off => Outcome::Dropped(DropReason::Rule),
                            Sampled::Keep(cleared) => match self.encoder.push(cleared) {
                                Ok(()) => Outcome::Stored(cleared.level()),
                                Err(_) => Outcome::Dropped(DropReason::Oversize),
                            },
                        }
                    }
                }
            };
            if let Outcome::Dropped(reason) = outcome {
                drop(reason);
            }
            if let Some(counting) = &mut counting {
                counting.add(event.schema(), is_critical(event), outcome);
            }
        }
        std::mem::drop(counting);
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
            queue::Done::Failed(e) => {
                if self.give_up(&e) {
                    return Ok(());
                }
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

    /// Gives up what the ring has no place for, and counts it; `false` when there is nothing to give up.
    fn give_up(&mut self, e: &AppendError) -> bool {
        let reason = match e {
            AppendError::Full => DropReason::RingFull,
            AppendError::TooLarge { .. } => DropReason::Oversize,
            _ => return false,
        };
        let Some(events) = self.queue.give_up_first(reason) else { return false };
        self.counters.add_dropped(reason, events);
        if reason == DropReason::Oversize {
            error!(events, error = %e, "a group that the ring can never hold was dropped and counted");
        }
        true
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Lower(level, done) => {
                let gone = self.encoder.drop_above(level);
                self.drop(DropReason::Level, gone);
                let gone = self.queue.drop_above(level);
                self.counters.add_dropped(DropReason::Level, gone);
                if self.gate.rules().has_fields_above(level) {
                    self.seal();
                    let gate = &mut self.gate;
                    self.queue.rewrite(|blocks| leave_out_above(blocks, level, gate));
                }
                self.lowering.push((self.queue.barrier(), done));
            }
            Command::Flush(done) => {
                self.seal();
                self.flushing.push((self.queue.pushed(), done));
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
        let oldest = self.queue.oldest();
        for (_, done) in self.flushing.extract_if(.., |(last, _)| oldest.is_none_or(|o| o > *last)) {
            let _ = done.send(());
        }
    }
}
