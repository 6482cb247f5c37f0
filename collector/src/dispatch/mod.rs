//! From the ring to one sink. Each sink has a dispatcher of its own: what happens to one never
//! holds up another.
//!
//! A run of places is planned in the ring before its first attempt and settled after the last:
//! delivered, rejected, or left out, each counted. Runs that were planned before a restart come
//! first, with the same bounds. What to send next is decided in pure parts ([`claims`],
//! [`retry`], [`breaker`], [`limits`]); this module joins them to time and ring.

mod again;
mod batch;
pub mod breaker;
pub mod claims;
mod dead;
mod filter;
mod flight;
pub mod limits;
mod receipt;
pub mod retry;
pub mod soon;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_proto::ids::{Seq, SeqRange, SinkId};
use tidegate_proto::wire::SchemaInterner;
use tidegate_ring::{Cursor, ReadLimit, Ring, RingError, StartAt, State};
use tidegate_sinks::events::Urgency;
use tidegate_sinks::{BatchLimits, Origin, Sink};
use tokio::sync::{RwLock, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use crate::clock::now_ns;
use crate::config::{FilterConfig, Order, RetryConfig};
use crate::control::InForce;
use crate::intake::Filters;

use again::Again;
use batch::{Cut, FetchError, Fetched, Maker, cut, fetch};
use breaker::Gatekeeper;
pub use dead::DeadLetters;
pub use filter::Filter;
use flight::{Job, Landing, Shared, fly};
use limits::{Bucket, Window};
use retry::{Backoff, Chance, Xorshift};
use soon::{May, Metered};
pub use stats::{Missed, Stats};

/// How a sink is served.
#[derive(Clone, Debug, Default)]
pub struct SinkOptions {
    /// Where it begins when the ring does not know it.
    pub start: StartAt,
    /// What goes first when there is a backlog.
    pub order: Order,
    /// What it gets.
    pub filter: FilterConfig,
    /// How often failures are tried again.
    pub retry: RetryConfig,
    /// Most events a second.
    pub events_per_second: Option<u64>,
    /// Most encoded bytes a second.
    pub bytes_per_second: Option<u64>,
    /// Where refused events go; `None` keeps them nowhere.
    pub dead_letters: Option<PathBuf>,
    /// How soon events leave; `None`: by the batch's age alone.
    pub urgency: Option<Urgency>,
    /// Whether the network is metered.
    pub metered: Metered,
    /// Where chance begins; `None`: anywhere.
    pub seed: Option<u64>,
}

/// What a dispatcher is told while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Go on for ever.
    #[default]
    Running,
    /// Nothing more will come: send what is there without waiting for more, then end.
    Finish,
}

/// A sink cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// Its filter is wrong.
    #[error("the filter of sink \"{0}\": {1}")]
    Filter(SinkId, String),
    /// The ring does not take it.
    #[error(transparent)]
    Ring(#[from] RingError),
}

/// What joins a dispatcher to the rest.
#[derive(Debug)]
pub struct Parts {
    /// The sink.
    pub sink: Arc<dyn Sink>,
    /// How it is served.
    pub options: SinkOptions,
    /// Where its events are.
    pub ring: Arc<dyn Ring>,
    /// Whose they are.
    pub origin: Arc<Origin>,
    /// What may leave.
    pub in_force: watch::Receiver<InForce>,
    /// By which rules: what other rules have let into the ring is judged again. `None`: nothing is.
    pub rules: Option<watch::Receiver<Arc<Filters>>>,
    /// Held by each delivery from its first byte to its place in the account; a purge of a collector
    /// that runs takes it alone.
    pub sending: Arc<RwLock<()>>,
    /// What it is told.
    pub phase: watch::Receiver<Phase>,
    /// Ends it at once; runs under way stay planned.
    pub abort: CancellationToken,
    /// What it counts.
    pub stats: Arc<Stats>,
}

/// Serves one sink. Made by [`Dispatcher::new`], which attaches it to the ring.
pub struct Dispatcher {
    shared: Arc<Shared>,
    options: SinkOptions,
    limits: BatchLimits,
    phase: watch::Receiver<Phase>,
    abort: CancellationToken,
    claims: claims::Claims,
    jobs: VecDeque<Job>,
    /// Read ahead for the run that begins behind this place.
    ahead: (Seq, Fetched),
    purges: u64,
    /// When the batch that is not full goes.
    due: Option<Instant>,
    known: SchemaInterner,
    backoff: Backoff,
    /// What waits for a network that is not metered.
    held: Vec<SeqRange>,
    /// When the network was looked at last, and whether it was metered.
    looked: Option<(Instant, bool)>,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").field("sink", &self.shared.id).finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// Attaches the sink to the ring. Blocks on the disk for milliseconds.
    ///
    /// # Errors
    /// A wrong filter, or a ring that does not take the sink.
    pub fn new(parts: Parts) -> Result<Dispatcher, DispatchError> {
        let Parts { sink, options, ring, origin, in_force, rules, sending, phase, abort, stats } = parts;
        let id = sink.id().clone();
        let filter = Filter::new(&options.filter).map_err(|e| DispatchError::Filter(id.clone(), e))?;
        let cursor = ring.attach(&id, options.start)?;
        let limits = sink.limits();
        let seed = options.seed.unwrap_or_else(|| {
            use std::hash::{BuildHasher, RandomState};
            RandomState::new().hash_one(id.as_str())
        });
        let chance: Box<dyn Chance> = Box::new(Xorshift::new(seed));
        let again = rules.map(Again::new);
        let maker = Maker { origin, filter, known: SchemaInterner::new(), spare: Vec::new(), again };
        let shared = Arc::new(Shared {
            id,
            in_force,
            sending,
            state: ring.watch(),
            maker: Mutex::new(maker),
            keeper: Gatekeeper::new(options.retry.breaker),
            window: Mutex::new(Window::new(limits.in_flight)),
            events: Mutex::new(Bucket::new(options.events_per_second)),
            bytes: Mutex::new(Bucket::new(options.bytes_per_second)),
            chance: Mutex::new(chance),
            dead: options.dead_letters.clone().map(|p| Mutex::new(DeadLetters::new(p))),
            retry: options.retry,
            work: TaskTracker::new(),
            stats,
            ring,
            sink,
        });
        let mut dispatcher = Dispatcher {
            backoff: Backoff::new(options.retry.first, options.retry.most),
            shared,
            limits,
            phase,
            abort,
            claims: claims::Claims::default(),
            jobs: VecDeque::new(),
            ahead: Default::default(),
            purges: 0,
            due: None,
            known: SchemaInterner::new(),
            held: Vec::new(),
            looked: None,
            options,
        };
        dispatcher.begin_from(&cursor);
        Ok(dispatcher)
    }

    /// Takes over where a cursor stands.
    fn begin_from(&mut self, cursor: &Cursor) {
        self.claims = claims::Claims::of(cursor);
        self.held.clear();
        let planned = cursor.planned.iter();
        self.jobs = planned.map(|range| Job { range: *range, blocks: None }).collect();
        self.forget();
    }

    /// Drops what was read ahead.
    fn forget(&mut self) {
        self.ahead = Default::default();
        self.due = None;
    }

    /// Serves the sink until it is told to end.
    pub async fn run(mut self) {
        let mut flights: JoinSet<Landing> = JoinSet::new();
        let mut under_way: HashMap<Id, SeqRange> = HashMap::new();
        let asked = tokio::spawn(ask(Arc::clone(&self.shared)));
        let mut state = self.shared.ring.watch();
        let mut in_force = self.shared.in_force.clone();
        'serve: loop {
            let now = state.borrow_and_update().clone();
            let may = {
                let f = in_force.borrow_and_update();
                f.level.enabled && f.carried_through
            };
            let phase = *self.phase.borrow_and_update();
            let mut pause = None;
            self.take_up_held();
            while may && flights.len() < self.shared.allowed() {
                match self.next_job(&now, phase == Phase::Finish).await {
                    Ok(Some(job)) => {
                        let (shared, range) = (Arc::clone(&self.shared), job.range);
                        under_way.insert(flights.spawn(fly(shared, job)).id(), range);
                    }
                    Ok(None) => break,
                    Err(FetchError::Ring(RingError::Closed)) => break 'serve,
                    Err(e) => {
                        let text = e.to_string();
                        if self.shared.stats.hold(Some(&text)) {
                            error!(sink = %self.shared.id, error = %text, "the ring cannot be read");
                        }
                        self.forget();
                        pause = Some(Instant::now() + self.pause());
                        break;
                    }
                }
            }
            let jobs = self.jobs.iter().map(|j| j.range.len());
            let jobs = jobs.chain(self.held.iter().map(|r| r.len()));
            let taken = jobs.chain(under_way.values().map(|r| r.len())).sum::<u64>();
            self.shared.waiting(self.claims.left(now.durable) + taken);
            let idle = flights.is_empty() && (self.jobs.is_empty() || !may);
            if phase == Phase::Finish && idle && (self.claims.cover(now.durable) || !may) {
                break;
            }
            // only while something waits for it
            let look = (!self.held.is_empty()).then(|| Instant::now() + soon::LOOK);
            let wake = match (pause, self.due) {
                (Some(pause), _) => Some(pause),
                (None, due) => due.filter(|_| may && flights.len() < self.shared.allowed()),
            };
            tokio::select! {
                biased;
                () = self.abort.cancelled() => break,
                Some(landed) = flights.join_next_with_id(), if !flights.is_empty() => {
                    let (id, landed) = match landed {
                        Ok((id, landing)) => (id, Ok(landing)),
                        Err(e) => (e.id(), Err(e)),
                    };
                    if let Some(range) = under_way.remove(&id) {
                        self.landed(range, landed);
                    }
                }
                changed = in_force.changed() => if changed.is_err() { break },
                changed = self.phase.changed() => if changed.is_err() { break },
                changed = state.changed(), if pause.is_none() => if changed.is_err() { break },
                () = at(wake) => {}
                () = at(look) => {}
            }
        }
        asked.abort();
        // what is under way stays planned and is sent again with the same bounds
        flights.shutdown().await;
        // whoever serves the sink next finds the ring at rest
        self.shared.work.close();
        self.shared.work.wait().await;
    }

    fn pause(&mut self) -> Duration {
        let mut chance = self.shared.chance.lock().unwrap_or_else(PoisonError::into_inner);
        self.backoff.next(&mut **chance)
    }

    fn landed(&mut self, range: SeqRange, landed: Result<Landing, tokio::task::JoinError>) {
        match landed {
            Ok(Landing::Settled) => {}
            Ok(Landing::Split(a, b)) => {
                debug!(sink = %self.shared.id, %range, "split");
                self.jobs.push_front(Job { range: b, blocks: None });
                self.jobs.push_front(Job { range: a, blocks: None });
            }
            Ok(Landing::Closed) => self.abort.cancel(),
            Err(e) => {
                error!(sink = %self.shared.id, %range, error = %e, "a delivery broke down, it is tried again");
                self.jobs.push_back(Job { range, blocks: None });
            }
        }
    }

    /// The next run to be delivered, if one is due.
    async fn next_job(&mut self, now: &State, flush: bool) -> Result<Option<Job>, FetchError> {
        if let Some(job) = self.jobs.pop_front() {
            return Ok(Some(job));
        }
        if self.purges != now.purges {
            self.purges = now.purges;
            self.forget();
        }
        let batch = u64::from(self.limits.events.max(1));
        let (free, last) = loop {
            let Some(free) = self.claims.next(now.durable, self.options.order, batch) else {
                self.due = None;
                return Ok(None);
            };
            let after = Seq(free.first().0 - 1);
            if self.ahead.0 != after {
                self.ahead = (after, Fetched { end: after, ..Fetched::default() });
            }
            match self.until(free, now.durable, flush).await? {
                Upto::Last(last) => break (free, last),
                Upto::Wait => return Ok(None),
                Upto::Held(range) => self.hold(range),
            }
        };
        self.due = None;
        let Some(range) = SeqRange::new(free.first(), last) else { return Ok(None) };
        self.claims.add(range);
        let (_, fetched) = std::mem::take(&mut self.ahead);
        let end = fetched.end;
        let (mut taken, mut rest) = (Vec::new(), Vec::new());
        for block in fetched.blocks {
            let reaches = block.block.range.last();
            if reaches > last {
                rest.push(block.clone());
            }
            if block.block.range.first() <= last {
                taken.push(block);
            }
        }
        let (gone, holes): (Vec<_>, Vec<_>) =
            fetched.holes.into_iter().partition(|h| h.range.first() <= last);
        gone.iter().filter(|h| h.range.first() >= range.first()).for_each(|h| self.shared.stats.missed(h));
        self.ahead = (last, Fetched { blocks: rest, holes, end: end.max(last) });
        Ok(Some(Job { range, blocks: Some(taken) }))
    }

    /// Where the batch ends that begins with `free`.
    async fn until(&mut self, free: SeqRange, durable: Seq, flush: bool) -> Result<Upto, FetchError> {
        let after = Seq(free.first().0 - 1);
        loop {
            let most = match self.may(after, free.last()) {
                May::All => free.last(),
                May::Not(range) => return Ok(Upto::Held(range)),
                May::Until(most) => most,
            };
            match cut(&self.ahead.1, after, most, &self.limits) {
                Cut::Full(last) => return Ok(Upto::Last(last)),
                Cut::Open(end, events) if end < most => self.read_on(events).await?,
                Cut::Open(end, events) => {
                    // nothing follows that could fill it, or nothing is to be waited for
                    if flush || events == 0 || end < durable || self.is_due() {
                        return Ok(Upto::Last(end));
                    }
                    return Ok(Upto::Wait);
                }
            }
        }
    }

    /// Whether the network is metered; looked at again after a while.
    fn metered(&mut self) -> bool {
        let now = Instant::now();
        match self.looked {
            Some((at, metered)) if now.duration_since(at) < soon::LOOK => metered,
            _ => {
                let metered = self.options.metered.now();
                self.looked = Some((now, metered));
                metered
            }
        }
    }

    /// What may leave of what was read ahead.
    fn may(&mut self, after: Seq, last: Seq) -> May {
        if self.options.urgency.is_none() || !self.metered() {
            return May::All;
        }
        if let Some(urgency) = &self.options.urgency {
            for ahead in &mut self.ahead.1.blocks {
                soon::latency(urgency, ahead, &mut self.known);
            }
        }
        soon::may(&self.ahead.1, after, last)
    }

    /// Passes a run over until the network is not metered.
    fn hold(&mut self, range: SeqRange) {
        if self.held.is_empty() {
            debug!(sink = %self.shared.id, "cost-deferred events wait for a network that is not metered");
        }
        self.claims.add(range);
        match self.held.last_mut().filter(|h| h.last().next() == range.first()) {
            Some(last) => *last = SeqRange::new(last.first(), range.last()).unwrap_or(*last),
            None => self.held.push(range),
        }
        // the rest of what was read is still good
        let fetched = &mut self.ahead.1;
        fetched.blocks.retain(|a| a.block.range.last() > range.last());
        fetched.holes.retain(|h| h.range.last() > range.last());
        fetched.end = fetched.end.max(range.last());
        self.ahead.0 = range.last();
    }

    /// Gives back what was passed over, once the network is not metered.
    fn take_up_held(&mut self) {
        if !self.held.is_empty() && !self.metered() {
            for range in std::mem::take(&mut self.held) {
                self.claims.release(range);
            }
            self.forget();
        }
    }

    /// Whether the batch that is not full has waited long enough; begins the wait.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        self.due = None;
        for ahead in &mut self.ahead.1.blocks {
            let due = match ahead.due {
                Some(due) => due,
                None => {
                    let urgency = self.options.urgency.as_ref();
                    let latency = urgency.map(|u| soon::latency(u, ahead, &mut self.known));
                    let waited = u64::try_from(now_ns().saturating_sub(ahead.block.stored_ns)).unwrap_or(0);
                    let wait = soon::wait(latency, self.limits.age);
                    *ahead.due.insert(now + wait.saturating_sub(Duration::from_nanos(waited)))
                }
            };
            self.due = Some(self.due.map_or(due, |d| d.min(due)));
        }
        self.due.is_none_or(|due| due <= now)
    }

    async fn read_on(&mut self, have: u64) -> Result<(), FetchError> {
        let bytes: u64 = self.ahead.1.blocks.iter().map(|a| a.block.data.len() as u64).sum();
        let limit = ReadLimit {
            bytes: self.limits.bytes.saturating_sub(bytes).max(1),
            events: u64::from(self.limits.events.max(1)).saturating_sub(have).max(1),
        };
        let (ring, after) = (Arc::clone(&self.shared.ring), self.ahead.1.end);
        let mut known = std::mem::take(&mut self.known);
        let read = tokio::task::spawn_blocking(move || {
            let read = fetch(&*ring, after, limit, &mut known);
            (read, known)
        });
        let (read, known) = read.await.map_err(|e| RingError::Book(format!("reading ended early: {e}")))?;
        self.known = known;
        let read = read?;
        if read.end <= after {
            return Err(
                RingError::Book(format!("nothing was read behind {after}, though more is there")).into()
            );
        }
        self.ahead.1.end = read.end;
        self.ahead.1.blocks.extend(read.blocks);
        self.ahead.1.holes.extend(read.holes);
        Ok(())
    }
}

/// Where a batch ends.
enum Upto {
    /// With this place.
    Last(Seq),
    /// Nowhere yet.
    Wait,
    /// It does not begin: this run is passed over.
    Held(SeqRange),
}

/// Asks the far side whether deliveries could work, and says so if not.
async fn ask(shared: Arc<Shared>) {
    let limit = shared.sink.limits().timeout;
    match tokio::time::timeout(limit, shared.sink.check()).await {
        Ok(Ok(())) => debug!(sink = %shared.id, "the far side is ready"),
        Ok(Err(e)) => {
            warn!(sink = %shared.id, error = %flight::chain(&e), "the far side is not ready, events wait")
        }
        Err(_) => warn!(sink = %shared.id, "the far side gives no answer, events wait"),
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
