//! One planned run on its way: made into a batch, tried until it is settled.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tidegate_proto::ids::{Seq, SeqRange, SinkId};
use tidegate_ring::{Cursor, Lanes, Part, Ring, RingError, StartAt, State};
use tidegate_sinks::{DeliverError, Delivered, Ready, Rejected, Sink, SinkBatch};
use tokio::sync::{Notify, OwnedSemaphorePermit, RwLock, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use super::batch::{Ahead, FetchError, Made, Maker, fetch_run};
use super::breaker::Gatekeeper;
use super::dead::DeadLetters;
use super::limits::{Bucket, Window};
use super::refusals::{Halving, Refusals};
use super::retry::{Backoff, Chance, Step, next_step};
use super::settle::settle;
use super::soon::Metered;
use super::stats::{Stats, Why};
use super::verdict::{
    TOLD_MOST, answers, asked_to_wait, broke_down, cause, is_far_sides, refused, taken, tell_down, told,
    works,
};
use super::workshop::Workshop;
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
    pub refusals: Mutex<Refusals>,
    /// Pauses of all while the sink breaks down.
    pub broken: Mutex<Backoff>,
    pub dead: Option<Arc<Mutex<DeadLetters>>>,
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
    /// Its own pauses, once the sink broke down over it.
    pub broken: Option<Backoff>,
    /// How many deliveries had got through when the sink first stopped over it.
    pub stopped: Option<u64>,
}

impl Job {
    /// A part of which nothing is read and known.
    pub fn of(part: Part) -> Job {
        Job { part, events: part.range.len(), blocks: None, broken: None, stopped: None }
    }

    /// The same part, to be read again.
    pub fn anew(&mut self) -> Job {
        let broken = self.broken.take();
        Job { events: self.events, broken, stopped: self.stopped, ..Job::of(self.part) }
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
    /// Again after `pause`, and until then the place in the window is another's. With `alone`: the others
    /// go on meanwhile, and this is to be done about it.
    Later { job: Job, pause: Duration, alone: Option<Alone> },
    /// The ring is closed: the run stays planned.
    Closed,
}

/// Why a run waits alone.
#[derive(Debug)]
pub(super) struct Alone {
    /// What is to be done.
    pub advice: String,
    /// What happened, for the log.
    pub cause: String,
}

/// Why a batch could not be made or settled.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
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
    pub fn closed(&self) -> bool {
        matches!(self, Trouble::Fetch(FetchError::Ring(RingError::Closed)))
    }
}

/// Time-outs in a row after which a batch is halved: what is too slow whole may get through.
const LATE_MOST: u32 = 3;
/// Batches of fewer bytes are not: a far side that hangs for hours must not cut all to single events.
const LATE_BYTES: u64 = 256 << 10;

/// What the batch in hand was made under.
#[derive(Clone, PartialEq, Eq)]
struct Under {
    level: tidegate_proto::level::TelemetryLevel,
    purges: u64,
}

pub(super) fn lock<T: ?Sized>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs blocking work where that is allowed.
pub(super) async fn blocking<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<T, Trouble> + Send + 'static,
) -> Result<T, Trouble> {
    let this = Arc::clone(shared);
    let done = shared.work.spawn_blocking(move || work(&this)).await;
    done.unwrap_or_else(|e| Err(Trouble::Task(e.to_string())))
}

/// Delivers a run: returns when it is settled, split or put off, or the ring is closed.
///
/// # Cancel safety
/// A cancelled delivery leaves the run planned: it is sent again with the same bounds.
pub(super) async fn fly(shared: Arc<Shared>, mut job: Job) -> Landing {
    let mut own = Backoff::new(shared.retry.first, shared.retry.most);
    loop {
        let done = attempt_all(&shared, &mut job).await;
        let why = Why::Making(job.part);
        match done {
            Ok(landing) => {
                shared.stats.free(why);
                return landing;
            }
            Err(e) if e.closed() => return Landing::Closed,
            Err(e) => {
                let text = e.to_string();
                if shared.stats.hold(why, &text, "") {
                    error!(sink = %shared.id, range = %job.part.range, error = %text, "a delivery waits");
                }
                job.blocks = None;
                let pause = own.next(&mut **lock(&shared.chance));
                tokio::time::sleep(pause).await;
                if let Trouble::Misfit(cursor, _) = e {
                    shared.stats.free(why);
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
    let mut late = 0;
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
                // nothing is asked of the far side yet
                let encoded = AssertUnwindSafe(async { staged.encode(&fresh.batch).await }).catch_unwind();
                ready = match encoded.await {
                    Ok(encoded) => Some(encoded),
                    Err(panic) => return Ok(broke_down(shared, job, None, &*panic)),
                };
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
        if let Some(rest) = shared.sink.rest() {
            asked_to_wait(shared, rest);
            continue;
        }
        // nothing is purged meanwhile; who waits for a purge here looks again
        let sending = shared.sending.read().await;
        let stricter =
            shared.in_force.borrow().level != in_force.level || *shared.stats.watch_paused().borrow();
        if stricter || shared.state.borrow().purges != under.purges {
            // things changed while it waited
            continue;
        }
        // limits are for the wire: each attempt pays
        paid = false;
        let timeout = shared.sink.limits().timeout;
        // what it could not be made into is the outcome of one attempt
        let unmade = match &ready {
            Some(Err(_)) => ready.take().and_then(Result::err),
            _ => None,
        };
        // a call may panic before there is a future
        let attempt = AssertUnwindSafe(async {
            match (unmade, &ready, shared.sink.staged()) {
                (Some(e), ..) => Err(e),
                (None, Some(Ok(ready)), Some(staged)) => staged.send(ready).await,
                _ => shared.sink.deliver(&batch.batch).await,
            }
        })
        .catch_unwind();
        let outcome = tokio::select! {
            biased;
            () = restricted(shared, under) => continue,
            outcome = tokio::time::timeout(timeout, attempt) => outcome,
        };
        let timed_out = outcome.is_err();
        let outcome = match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => return Ok(broke_down(shared, job, Some(pass), &*panic)),
            Err(_) => {
                let source = format!("no answer within {timeout:?}").into();
                Err(DeliverError::Retry { after: None, source })
            }
        };
        let error = match outcome {
            Ok(done) => {
                if !done.rejected.is_empty() {
                    whole(shared, part, &mut made).await?;
                }
                match made.as_ref().and_then(|(made, _)| taken(&made.batch, &done)) {
                    Some(true) => lock(&shared.refusals).success(),
                    Some(false) if lock(&shared.refusals).refused() => {
                        Stats::add(&shared.stats.failures, 1);
                        let detail = done.rejected.first().map(|r| r.detail.as_str()).unwrap_or_default();
                        return Ok(refused(shared, job, pass, detail));
                    }
                    _ => {}
                }
                shared.stats.attempt("ok");
                pass.success();
                works(shared);
                settle(shared, part, made.take().map(|m| m.0), done).await?;
                return Ok(Landing::Settled);
            }
            Err(error) => error,
        };
        Stats::add(&shared.stats.failures, 1);
        let events = batch.events;
        late = if timed_out || error.is_late() { late + 1 } else { 0 };
        let halve = late >= LATE_MOST && events > 1 && batch.bytes >= LATE_BYTES;
        let step = next_step(&error, events, shared.retry.held, &mut backoff, &mut **lock(&shared.chance));
        let halving = match &step {
            Step::Split => lock(&shared.refusals).split(&mut **lock(&shared.chance)),
            Step::Reject(reason) if is_far_sides(*reason) && lock(&shared.refusals).refused() => {
                Halving::Hold
            }
            _ => Halving::After(Duration::ZERO),
        };
        let Halving::After(rest) = halving else {
            return Ok(refused(shared, job, pass, &cause(&error)));
        };
        shared.stats.attempt(match &step {
            Step::Wait { .. } if timed_out => "timeout",
            Step::Wait { .. } => "retry",
            Step::Hold { .. } => "hold",
            Step::Block(_) => "blocked",
            Step::Split => "split",
            Step::Reject(_) => "reject",
        });
        match step {
            Step::Wait { pause, after } => {
                drop(sending);
                lock(&shared.window).failure();
                let tripped = shared.keeper.tripped();
                pass.failure(pause, after);
                if shared.keeper.tripped() && !tripped {
                    warn!(sink = %shared.id, error = %told(&error, TOLD_MOST), ?pause, "deliveries fail, one at a time is tried now");
                } else {
                    debug!(sink = %shared.id, %range, error = %told(&error, TOLD_MOST), ?pause, "delivery failed, will retry");
                }
                tell_down(shared, &error, timed_out, after);
                tokio::time::sleep(pause).await;
                if halve && let Some(halves) = split(shared, part, &mut made).await? {
                    return Ok(halves);
                }
            }
            Step::Hold { pause, after, advice } => {
                let through = shared.stats.deliveries.load(Ordering::Relaxed);
                let before = *job.stopped.get_or_insert(through);
                // more got through than can have been under way when it was stopped: it is not the sink
                if through - before >= u64::from(shared.sink.limits().in_flight.max(1)) {
                    pass.rest(after.unwrap_or_default());
                    let alone = Some(Alone { advice, cause: cause(&error) });
                    return Ok(Landing::Later { job: job.anew(), pause, alone });
                }
                lock(&shared.window).failure();
                pass.hold(pause, after);
                shared.stats.free(Why::Unreachable);
                if shared.stats.hold(Why::Stopped, &advice, &cause(&error)) {
                    error!(sink = %shared.id, error = %told(&error, TOLD_MOST), %advice, "the sink holds until someone acts");
                }
                return Ok(Landing::Later { job: job.anew(), pause, alone: None });
            }
            Step::Block(advice) => {
                pass.success();
                answers(shared);
                let alone = Some(Alone { advice, cause: cause(&error) });
                return Ok(Landing::Later { job: job.anew(), pause: shared.retry.held, alone });
            }
            Step::Split => {
                // fewer at a time, so that single events are reached before all is halved
                lock(&shared.window).failure();
                pass.rest(rest);
                answers(shared);
                if let Some(halves) = split(shared, part, &mut made).await? {
                    return Ok(halves);
                }
                // never: a batch of one event is not split
                drop(sending);
                tokio::time::sleep(shared.retry.first).await;
            }
            Step::Reject(reason) => {
                pass.success();
                works(shared);
                let detail = told(&error, 200);
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

/// Makes two runs of one, with half of the events each.
async fn split(
    shared: &Arc<Shared>,
    part: Part,
    made: &mut Option<(Made, Under)>,
) -> Result<Option<Landing>, Trouble> {
    whole(shared, part, made).await?;
    let Some((a, b)) = made.as_ref().and_then(|(made, _)| halves(&made.batch)) else { return Ok(None) };
    let at = a.last();
    blocking(shared, move |s| Ok(s.ring.split(&s.id, part, at)?)).await?;
    let of = |range| Part { range, ..part };
    Ok(Some(Landing::Split(of(a), of(b))))
}

/// The bounds of two runs with half of the events each.
fn halves(batch: &SinkBatch) -> Option<(SeqRange, SeqRange)> {
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
