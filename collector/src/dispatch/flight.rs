//! One planned run on its way: made into a batch, tried until it is settled.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_proto::ids::{Seq, SeqRange, SinkId};
use tidegate_proto::level::LossReason;
use tidegate_proto::wire::SchemaInterner;
use tidegate_ring::{Cursor, Lanes, Part, PerLevel, Ring, RingError, Settlement, StartAt, State};
use tidegate_sinks::{DeliverError, Delivered, Ready, RejectReason, Rejected, Sink};
use tokio::sync::{Notify, OwnedSemaphorePermit, RwLock, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use super::batch::{Ahead, FetchError, Made, Maker, fetch_run, present};
use super::breaker::Gatekeeper;
use super::dead::DeadLetters;
use super::limits::{Bucket, Window};
use super::receipt::{Counts, receipt};
use super::retry::{Backoff, Chance, Step, next_step};
use super::soon::Metered;
use super::stats::Stats;
use super::workshop::Workshop;
use crate::clock::now_ns;
use crate::config::RetryConfig;
use crate::control::InForce;

/// What all deliveries of one sink share.
pub(super) struct Shared {
    pub sink: Arc<dyn Sink>,
    pub id: SinkId,
    pub ring: Arc<dyn Ring>,
    pub in_force: watch::Receiver<InForce>,
    pub sending: Arc<RwLock<()>>,
    pub state: watch::Receiver<State>,
    pub maker: Mutex<Maker>,
    pub keeper: Gatekeeper,
    pub window: Mutex<Window>,
    pub events: Mutex<Bucket>,
    pub bytes: Mutex<Bucket>,
    pub chance: Mutex<Box<dyn Chance>>,
    pub dead: Option<Mutex<DeadLetters>>,
    pub retry: RetryConfig,
    pub stats: Arc<Stats>,
    /// Whether the network is metered; `None` where that makes no difference.
    pub metered: Option<Metered>,
    /// Where its batches become bytes.
    pub workshop: Arc<Workshop>,
    /// Deliveries that wait for a place there, and the end of a wait.
    pub crowd: (AtomicUsize, Notify),
    /// Blocking work, which goes on when what waits for it is called off.
    pub work: TaskTracker,
}

/// A part of the ring to be delivered.
#[derive(Debug)]
pub(super) struct Job {
    pub part: Part,
    /// How many events it has, as far as that is known.
    pub events: u64,
    /// What was read of it already.
    pub blocks: Option<Vec<Ahead>>,
}

impl Job {
    /// A part of which nothing was read yet.
    pub fn of(part: Part) -> Job {
        Job { part, events: part.range.len(), blocks: None }
    }
}

/// How a delivery came to its end.
#[derive(Debug)]
pub(super) enum Landing {
    /// The run is settled.
    Settled,
    /// It is two runs now.
    Split(Part, Part),
    /// It waits, or the second part of it does, for a network that is not metered.
    Deferred(Option<Part>, Part),
    /// It was not as the ring has it: nothing was sent. Where the ring stands.
    Stale(Cursor),
    /// The ring is closed: the run stays planned.
    Closed,
}

/// Why a batch could not be made or settled.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("cannot write dead letters to {0}: {1}")]
    Dead(String, std::io::Error),
    #[error("a task ended early: {0}")]
    Task(String),
    /// What was to be planned is not open, or not all of it.
    #[error("{1}")]
    Misfit(Cursor, String),
}

impl From<RingError> for Trouble {
    fn from(e: RingError) -> Trouble {
        Trouble::Fetch(FetchError::Ring(e))
    }
}

impl Trouble {
    fn closed(&self) -> bool {
        matches!(self, Trouble::Fetch(FetchError::Ring(RingError::Closed)))
    }
}

/// What the batch in hand was made under.
#[derive(Clone, PartialEq, Eq)]
struct Under {
    level: tidegate_proto::level::TelemetryLevel,
    purges: u64,
}

fn lock<T: ?Sized>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs blocking work where that is allowed.
async fn blocking<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<T, Trouble> + Send + 'static,
) -> Result<T, Trouble> {
    let this = Arc::clone(shared);
    let done = shared.work.spawn_blocking(move || work(&this)).await;
    done.unwrap_or_else(|e| Err(Trouble::Task(e.to_string())))
}

/// Delivers a run: returns when it is settled or split, or the ring is closed.
///
/// # Cancel safety
/// A cancelled delivery leaves the run planned: it is sent again with the same bounds.
pub(super) async fn fly(shared: Arc<Shared>, mut job: Job) -> Landing {
    let mut own = Backoff::new(shared.retry.first, shared.retry.most);
    loop {
        match attempt_all(&shared, &mut job).await {
            Ok(landing) => return landing,
            Err(e) if e.closed() => return Landing::Closed,
            Err(e) => {
                let text = e.to_string();
                if shared.stats.hold(Some(&text)) {
                    error!(sink = %shared.id, range = %job.part.range, error = %text, "a delivery waits");
                }
                job.blocks = None;
                let pause = own.next(&mut **lock(&shared.chance));
                tokio::time::sleep(pause).await;
                if let Trouble::Misfit(cursor, _) = e {
                    return Landing::Stale(cursor);
                }
            }
        }
    }
}

/// Waits until something may leave.
async fn permitted(shared: &Shared) -> InForce {
    // whoever pauses it is held by `shared`
    let _ = shared.stats.watch_paused().wait_for(|paused| !paused).await;
    let mut in_force = shared.in_force.clone();
    let now = in_force.wait_for(|f| f.level.enabled && f.carried_through).await.map(|f| f.clone());
    match now {
        Ok(now) => now,
        // no one is left to allow anything
        Err(_) => std::future::pending().await,
    }
}

/// Resolves when what leaves must be looked at again.
async fn restricted(shared: &Shared, than: &Under) {
    let mut in_force = shared.in_force.clone();
    let stricter = |f: &InForce| !f.level.enabled || f.level.level < than.level;
    if in_force.wait_for(stricter).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits for a place in the workshop. Of one sink only one delivery at a time waits with what was read for it.
async fn place(shared: &Shared) -> Option<OwnedSemaphorePermit> {
    struct Waits<'a>(&'a (AtomicUsize, Notify));
    impl Drop for Waits<'_> {
        fn drop(&mut self) {
            self.0.0.fetch_sub(1, Ordering::Relaxed);
            self.0.1.notify_one();
        }
    }
    if let Some(place) = shared.workshop.try_place() {
        return Some(place);
    }
    shared.crowd.0.fetch_add(1, Ordering::Relaxed);
    let _waits = Waits(&shared.crowd);
    shared.workshop.place().await
}

/// Makes the batch again when its events were let go.
async fn whole(shared: &Arc<Shared>, part: Part, made: &mut Option<(Made, Under)>) -> Result<(), Trouble> {
    if let Some((made, under)) = made.as_mut().filter(|(m, _)| m.batch.len() < m.events) {
        let level = under.level;
        *made = blocking(shared, move |s| make(s, part, None, level)).await?;
    }
    Ok(())
}

async fn attempt_all(shared: &Arc<Shared>, job: &mut Job) -> Result<Landing, Trouble> {
    let part = job.part;
    let range = part.range;
    let losses = blocking(shared, move |s| match s.ring.plan(&s.id, part) {
        // events of it went, and the cursor moved over their places
        Err(RingError::Misuse(why)) => Err(Trouble::Misfit(s.ring.attach(&s.id, StartAt::Oldest)?, why)),
        planned => planned.map(|()| s.ring.losses()).map_err(Trouble::from),
    })
    .await?;
    // what went before the plan is in the account as lost already, and must not be sent
    if job.blocks.iter().flatten().any(|b| b.losses != losses) {
        job.blocks = None;
    }
    let mut backoff = Backoff::new(shared.retry.first, shared.retry.most);
    let mut made: Option<(Made, Under)> = None;
    let mut ready: Option<Result<Ready, DeliverError>> = None;
    let mut paid = false;
    loop {
        let in_force = permitted(shared).await;
        let now = Under { level: in_force.level.level, purges: shared.state.borrow().purges };
        // made anew when less may leave, or something was purged that may be in it
        let stale = |m: &Under| m.level > now.level || m.purges != now.purges;
        if made.as_ref().is_none_or(|(_, under)| stale(under)) {
            let staged = shared.sink.staged();
            ready = None;
            // held while it works, never while it waits
            let place = if staged.is_some() { place(shared).await } else { None };
            let blocks = job.blocks.take().filter(|_| made.is_none());
            let level = now.level;
            let mut fresh = blocking(shared, move |s| make(s, part, blocks, level)).await?;
            if let Some(staged) = staged.filter(|_| fresh.events > 0) {
                ready = Some(staged.encode(&fresh.batch).await);
                if matches!(ready, Some(Ok(_))) {
                    shared.workshop.give_back(fresh.batch.let_go());
                }
            }
            drop(place);
            made = Some((fresh, now.clone()));
        }
        let Some((batch, under)) = made.as_ref() else { continue };
        if batch.events == 0 {
            settle(shared, part, made.take().map(|m| m.0), Delivered::default()).await?;
            return Ok(Landing::Settled);
        }
        let (any, deferred) = batch.lanes;
        if deferred != Lanes::NONE && shared.metered.as_ref().is_some_and(Metered::now) {
            if deferred.cover(any) {
                return Ok(Landing::Deferred(None, part));
            }
            let go = Part { lanes: part.lanes.without(deferred), ..part };
            let stay = Part { lanes: part.lanes.without(go.lanes), ..part };
            blocking(shared, move |s| Ok(s.ring.divide(&s.id, part, stay.lanes)?)).await?;
            return Ok(Landing::Deferred(Some(go), stay));
        }
        if !paid {
            paid = true;
            let (events, bytes) = (batch.events as u64, batch.bytes);
            let now = Instant::now();
            let pause = lock(&shared.events).take(events, now).max(lock(&shared.bytes).take(bytes, now));
            if pause > Duration::ZERO {
                tokio::time::sleep(pause).await;
                continue;
            }
        }
        let pass = shared.keeper.pass().await;
        // nothing is purged meanwhile; who waits for a purge here looks again
        let sending = shared.sending.read().await;
        let stricter =
            shared.in_force.borrow().level != in_force.level || *shared.stats.watch_paused().borrow();
        if stricter || shared.state.borrow().purges != under.purges {
            // things changed while it waited
            continue;
        }
        let timeout = shared.sink.limits().timeout;
        let attempt = match (&ready, shared.sink.staged()) {
            (Some(Ok(ready)), Some(staged)) => staged.send(ready),
            (Some(Err(_)), _) => match ready.take() {
                Some(Err(e)) => Box::pin(async move { Err(e) }),
                _ => continue,
            },
            _ => shared.sink.deliver(&batch.batch),
        };
        let outcome = tokio::select! {
            biased;
            () = restricted(shared, under) => continue,
            outcome = tokio::time::timeout(timeout, attempt) => outcome,
        };
        let timed_out = outcome.is_err();
        let outcome = outcome.unwrap_or_else(|_| {
            let source = format!("no answer within {timeout:?}").into();
            Err(DeliverError::Retry { after: None, source })
        });
        let error = match outcome {
            Ok(done) => {
                shared.stats.attempt("ok");
                pass.success();
                works(shared);
                if !done.rejected.is_empty() {
                    whole(shared, part, &mut made).await?;
                }
                settle(shared, part, made.take().map(|m| m.0), done).await?;
                return Ok(Landing::Settled);
            }
            Err(error) => error,
        };
        let events = batch.events;
        let step = next_step(&error, events, shared.retry.held, &mut backoff, &mut **lock(&shared.chance));
        Stats::add(&shared.stats.failures, 1);
        shared.stats.attempt(match &step {
            Step::Wait(_) if timed_out => "timeout",
            Step::Wait(_) => "retry",
            Step::Hold(..) => "hold",
            Step::Split => "split",
            Step::Reject(_) => "reject",
        });
        match step {
            Step::Wait(pause) => {
                drop(sending);
                lock(&shared.window).failure();
                let tripped = shared.keeper.tripped();
                pass.failure(pause);
                if shared.keeper.tripped() && !tripped {
                    warn!(sink = %shared.id, error = %chain(&error), ?pause, "deliveries fail, one at a time is tried now");
                } else {
                    debug!(sink = %shared.id, %range, error = %chain(&error), ?pause, "delivery failed, will retry");
                }
                tokio::time::sleep(pause).await;
            }
            Step::Hold(pause, advice) => {
                drop(sending);
                lock(&shared.window).failure();
                pass.hold(pause);
                if shared.stats.hold(Some(&advice)) {
                    error!(sink = %shared.id, error = %chain(&error), %advice, "the sink holds until someone acts");
                }
                tokio::time::sleep(pause).await;
            }
            Step::Split => {
                pass.success();
                works(shared);
                whole(shared, part, &mut made).await?;
                match made.as_ref().and_then(|(made, _)| halves(&made.batch)) {
                    Some((a, b)) => {
                        let at = a.last();
                        blocking(shared, move |s| Ok(s.ring.split(&s.id, part, at)?)).await?;
                        let of = |range| Part { range, ..part };
                        return Ok(Landing::Split(of(a), of(b)));
                    }
                    // never: a batch of one event is not split
                    None => {
                        drop(sending);
                        tokio::time::sleep(shared.retry.first).await;
                    }
                }
            }
            Step::Reject(reason) => {
                pass.success();
                works(shared);
                let detail: String = chain(&error).chars().take(200).collect();
                whole(shared, part, &mut made).await?;
                let events = made.iter().flat_map(|(made, _)| made.batch.iter());
                let rejected = events.map(|(seq, _)| Rejected { seq, reason, detail: detail.clone() });
                let done = Delivered { rejected: rejected.collect(), ..Delivered::default() };
                settle(shared, part, made.take().map(|m| m.0), done).await?;
                return Ok(Landing::Settled);
            }
        }
    }
}

fn works(shared: &Shared) {
    lock(&shared.window).success();
    if shared.stats.hold(None) {
        info!(sink = %shared.id, "deliveries go on");
    }
}

/// An error with what is beneath it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        text.push_str(": ");
        text.push_str(&e.to_string());
        next = e.source();
    }
    text
}

/// The bounds of two runs with half of the events each.
fn halves(batch: &tidegate_sinks::SinkBatch) -> Option<(SeqRange, SeqRange)> {
    let middle: Seq = batch.iter().nth((batch.len() / 2).checked_sub(1)?)?.0;
    let a = SeqRange::new(batch.range().first(), middle)?;
    let b = SeqRange::new(middle.next(), batch.range().last())?;
    Some((a, b))
}

fn make(
    shared: &Shared,
    part: Part,
    blocks: Option<Vec<Ahead>>,
    level: tidegate_proto::level::TelemetryLevel,
) -> Result<Made, Trouble> {
    let mut maker = lock(&shared.maker);
    let blocks = match blocks {
        Some(blocks) => blocks,
        None => {
            let (blocks, holes) = fetch_run(&*shared.ring, part, &mut maker.known)?;
            holes.iter().for_each(|h| shared.stats.missed(h));
            blocks
        }
    };
    let memory = shared.sink.staged().map(|_| shared.workshop.take());
    Ok(maker.make(part.range, blocks, level, memory)?)
}

/// What is to be put down of a run.
struct Outcome {
    part: Part,
    made: Made,
    done: Delivered,
    /// Dead letters are written already.
    written: AtomicBool,
}

/// Puts down what became of a run. Tried until it is done: what was delivered is not sent again
/// because a disk fails.
async fn settle(
    shared: &Arc<Shared>,
    part: Part,
    made: Option<Made>,
    done: Delivered,
) -> Result<(), Trouble> {
    let Some(made) = made else { return Ok(()) };
    let outcome = Arc::new(Outcome { part, made, done, written: AtomicBool::new(false) });
    let mut backoff = Backoff::new(shared.retry.first, shared.retry.most);
    loop {
        let this = Arc::clone(&outcome);
        let error = match blocking(shared, move |s| settle_now(s, &this)).await {
            Ok(()) => break,
            Err(e) if e.closed() => return Err(e),
            Err(e) => e.to_string(),
        };
        if shared.stats.hold(Some(&error)) {
            error!(sink = %shared.id, range = %part.range, %error, "what was delivered cannot be put down");
        }
        let pause = backoff.next(&mut **lock(&shared.chance));
        tokio::time::sleep(pause).await;
    }
    if let Ok(outcome) = Arc::try_unwrap(outcome) {
        match shared.sink.staged() {
            None => lock(&shared.maker).recycle(outcome.made.batch),
            Some(_) if outcome.made.batch.is_empty() => {}
            Some(_) => shared.workshop.give_back(outcome.made.batch.into_parts()),
        }
    }
    Ok(())
}

fn settle_now(shared: &Shared, outcome: &Outcome) -> Result<(), Trouble> {
    let Outcome { part, made, done, written } = outcome;
    let (part, range, now) = (*part, part.range, now_ns());
    let mut counts = Counts { delivered: made.levels, lost: made.lost.clone(), ..Counts::default() };
    let mut rejected = done.rejected.clone();
    rejected.sort_by_key(|r| r.seq);
    rejected.dedup_by_key(|r| r.seq);
    let mut next = rejected.iter().peekable();
    for (seq, event) in made.batch.iter() {
        while next.next_if(|r| r.seq < seq).is_some() {}
        if next.next_if(|r| r.seq == seq).is_some() {
            super::batch::count(&mut counts.rejected, event.head().telemetry_level);
        }
    }
    for (d, r) in counts.delivered.iter_mut().zip(counts.rejected) {
        *d = d.saturating_sub(r);
    }
    if let (Some(dead), false, false) = (&shared.dead, rejected.is_empty(), written.load(Ordering::Relaxed)) {
        let dead = lock(dead);
        let done = dead.write(&made.batch, &rejected, now);
        done.map_err(|e| Trouble::Dead(dead.path().display().to_string(), e))?;
        written.store(true, Ordering::Relaxed);
    }
    let sum = |l: &PerLevel| l.iter().sum::<u64>();
    let (delivered, refused) = (sum(&counts.delivered), sum(&counts.rejected));
    let left_out: u64 = counts.lost.values().map(sum).sum();
    let quiet = done.objects.is_empty() && delivered + refused == 0;
    let entry = if quiet { Vec::new() } else { receipt(shared.id.as_str(), &made.batch, &counts, done, now) };
    let settlement = Settlement {
        delivered: counts.delivered,
        rejected: counts.rejected,
        lost: counts.lost,
        receipt: entry,
    };
    match shared.ring.settle(&shared.id, part, &settlement) {
        Err(RingError::Misuse(why)) => settle_what_is_left(shared, part, settlement, &why)?,
        other => {
            other?;
        }
    }
    let stats = &shared.stats;
    Stats::add(&stats.delivered, delivered);
    Stats::add(&stats.rejected, refused);
    Stats::add(&stats.left_out, left_out);
    Stats::add(&stats.bytes, done.bytes);
    if delivered > 0 {
        Stats::add(&stats.deliveries, 1);
        stats.delivered_at(now);
    }
    if refused > 0 {
        let why = rejected.first().map(|r| (r.reason, r.detail.as_str()));
        let (reason, detail) = why.unwrap_or((RejectReason::Invalid, ""));
        warn!(sink = %shared.id, %range, events = refused, reason = reason.as_str(), detail, "the far side refused events for good");
    }
    Ok(())
}

/// Puts down an outcome that does not add up to what the ring holds of the run: events of it went, or could not
/// be read, when the batch was made. Counts what is there.
fn settle_what_is_left(
    shared: &Shared,
    part: Part,
    mut outcome: Settlement,
    why: &str,
) -> Result<(), Trouble> {
    let range = part.range;
    debug!(sink = %shared.id, %range, why, "counting again what the ring holds of a run");
    let mut known = SchemaInterner::new();
    let (blocks, _) = fetch_run(&*shared.ring, part, &mut known)?;
    let mut room = present(range, &blocks, &mut known)?;
    let mut fit = |levels: &mut PerLevel| {
        for (n, room) in levels.iter_mut().zip(&mut room) {
            *n = (*n).min(*room);
            *room -= *n;
        }
    };
    fit(&mut outcome.rejected);
    outcome.lost.values_mut().for_each(&mut fit);
    fit(&mut outcome.delivered);
    // what was not sent, because it was not there when the batch was made, stays to be counted
    if room != [0; 4] {
        let lost = outcome.lost.entry(LossReason::Corrupt).or_default();
        for (n, more) in lost.iter_mut().zip(room) {
            *n += more;
        }
        error!(sink = %shared.id, %range, events = ?room, "events of a run could not be read when it was sent");
    }
    shared.ring.settle(&shared.id, part, &outcome)?;
    Ok(())
}

impl Shared {
    /// Deliveries that may be under way now.
    pub fn allowed(&self) -> usize {
        lock(&self.window).allowed()
    }

    /// Whether nothing more is to be read for now: one of its deliveries waits for a place in the workshop, or
    /// the next would, and one is `under_way`.
    pub fn waits(&self, under_way: bool) -> bool {
        let next_would = under_way && self.sink.staged().is_some() && self.workshop.is_full();
        self.crowd.0.load(Ordering::Relaxed) > 0 || next_would
    }

    /// Notes how many places wait.
    pub fn waiting(&self, places: u64) {
        self.stats.waiting.store(places, Ordering::Relaxed);
    }
}
