//! From the ring to one sink. Each sink has a dispatcher of its own: what happens to one never
//! holds up another.
//!
//! A run of places is planned in the ring before its first attempt and settled after the last:
//! delivered, rejected, or left out, each counted. Runs that were planned before a restart come
//! first, with the same bounds. What to send next is decided in pure parts ([`claims`],
//! [`retry`], [`breaker`], [`refusals`], [`limits`]); this module joins them to time and ring.

mod again;
mod batch;
pub mod breaker;
pub mod claims;
mod dead;
mod filter;
mod flight;
mod landing;
mod later;
pub mod limits;
mod network;
mod receipt;
pub mod refusals;
pub mod retry;
mod settle;
pub mod soon;
mod stats;
#[cfg(test)]
mod tests;
mod verdict;
mod workshop;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_proto::ids::{Seq, SeqRange, SinkId};
use tidegate_proto::wire::SchemaInterner;
use tidegate_ring::{Cursor, Lanes, Part, ReadLimit, Ring, RingError, StartAt, State};
use tidegate_sinks::events::Urgency;
use tidegate_sinks::{BatchLimits, Origin, Sink};
use tokio::sync::{RwLock, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

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
use later::Later;
use limits::{Bucket, Window};
use refusals::Refusals;
use retry::{Backoff, Chance, Xorshift};
use soon::Metered;
use stats::Why;
pub use stats::{Missed, Stats};
pub use workshop::Workshop;

/// How soon a sink that found no place in the workshop looks again.
const CROWDED: Duration = Duration::from_millis(20);

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
    /// Nothing is sent to it until it is told to go on; it keeps its place in the ring.
    pub paused: bool,
    /// Where chance begins; `None`: anywhere.
    pub seed: Option<u64>,
}

impl SinkOptions {
    /// The file of dead letters, to be handed to dispatcher and [`Control`](crate::control::Control) alike.
    #[must_use]
    pub fn letters(&self) -> Option<Arc<Mutex<DeadLetters>>> {
        self.dead_letters.clone().map(|path| Arc::new(Mutex::new(DeadLetters::new(path))))
    }
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
    /// Where refused events go, of [`SinkOptions::letters`]; whoever writes the file anew holds it meanwhile.
    pub dead: Option<Arc<Mutex<DeadLetters>>>,
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
    /// Where its batches become bytes; one for all sinks.
    pub workshop: Arc<Workshop>,
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
    /// What failed and waits outside of the window.
    later: Later,
    /// Read ahead for the run that begins behind this place.
    ahead: (Seq, Fetched),
    purges: u64,
    /// When the batch that is not full goes.
    due: Option<Instant>,
    known: SchemaInterner,
    backoff: Backoff,
    urgency: Option<Arc<Urgency>>,
    /// Whether what was read ahead is for a metered network.
    holding: bool,
    /// Lanes that were passed over lately: where there are none of their blocks they are passed over all the
    /// same, so that the cursor has one run.
    deferred: Lanes,
    /// How many events were passed over.
    passed: u64,
    /// Pieces of blocks that wait for a network that is not metered.
    held: Vec<SeqRange>,
    /// Planned parts that do.
    parked: Vec<Job>,
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
        let Parts {
            sink,
            options,
            dead,
            ring,
            origin,
            in_force,
            rules,
            sending,
            phase,
            abort,
            stats,
            workshop,
        } = parts;
        let id = sink.id().clone();
        let filter = Filter::new(&options.filter).map_err(|e| DispatchError::Filter(id.clone(), e))?;
        let cursor = ring.attach(&id, options.start)?;
        stats.pause(options.paused);
        let limits = sink.limits();
        let seed = options.seed.unwrap_or_else(|| {
            use std::hash::{BuildHasher, RandomState};
            RandomState::new().hash_one(id.as_str())
        });
        let chance: Box<dyn Chance> = Box::new(Xorshift::new(seed));
        let backoff = Backoff::new(options.retry.first, options.retry.most);
        stats.free_all();
        let again = rules.map(Again::new);
        let urgency = options.urgency.clone().filter(|_| options.metered.can_be()).map(Arc::new);
        let maker = Maker {
            origin,
            filter,
            known: SchemaInterner::new(),
            spare: Vec::new(),
            again,
            urgency: urgency.clone(),
        };
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
            refusals: Mutex::new(Refusals::new(backoff)),
            broken: Mutex::new(backoff),
            dead,
            retry: options.retry,
            workshop,
            crowd: Default::default(),
            metered: urgency.as_ref().map(|_| options.metered.clone()),
            work: TaskTracker::new(),
            stats,
            ring,
            sink,
        });
        let mut dispatcher = Dispatcher {
            backoff,
            shared,
            limits,
            phase,
            abort,
            claims: claims::Claims::default(),
            jobs: VecDeque::new(),
            later: Later::default(),
            ahead: Default::default(),
            purges: 0,
            due: None,
            known: SchemaInterner::new(),
            urgency,
            holding: false,
            deferred: Lanes::NONE,
            passed: 0,
            held: Vec::new(),
            parked: Vec::new(),
            looked: None,
            options,
        };
        dispatcher.begin_from(&cursor);
        Ok(dispatcher)
    }

    /// Takes over where a cursor stands.
    fn begin_from(&mut self, cursor: &Cursor) {
        self.claims = claims::Claims::of(cursor);
        self.jobs = cursor.planned.iter().map(|part| Job::of(*part)).collect();
        if self.claims.has_passed() {
            let durable = self.shared.state.borrow().durable;
            let held = self.shared.ring.account().sinks.get(&self.shared.id).map(|s| s.held.iter().sum());
            let others = self.claims.left(durable) + self.jobs.iter().map(|j| j.events).sum::<u64>();
            self.passed = held.map_or(0, |held: u64| held.saturating_sub(others));
        }
        self.forget();
    }

    /// Takes over where a cursor stands, but for what is on its way.
    fn reconsider(&mut self, cursor: &Cursor, under_way: impl Iterator<Item = Part>) {
        self.claims = claims::Claims::of(cursor);
        let jobs = self.jobs.iter().chain(&self.parked).chain(self.later.jobs()).map(|j| j.part);
        under_way.chain(jobs).for_each(|part| self.claims.take(part));
        self.held.iter().for_each(|range| self.claims.add(*range));
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
        let mut under_way: HashMap<Id, (Part, u64)> = HashMap::new();
        let asked = tokio::spawn(ask(Arc::clone(&self.shared)));
        let mut state = self.shared.ring.watch();
        let mut in_force = self.shared.in_force.clone();
        let mut paused = self.shared.stats.watch_paused();
        'serve: loop {
            let now = state.borrow_and_update().clone();
            let rests = *paused.borrow_and_update();
            let may = !rests && {
                let f = in_force.borrow_and_update();
                f.level.enabled && f.carried_through
            };
            let phase = *self.phase.borrow_and_update();
            if rests && phase == Phase::Finish {
                // what was under way stays planned
                break;
            }
            let mut pause = None;
            self.look_at_network();
            self.jobs.extend(self.later.due(Instant::now()));
            while may && flights.len() < self.shared.allowed() && !self.shared.waits(!flights.is_empty()) {
                match self.next_job(&now, phase == Phase::Finish).await {
                    Ok(Some(job)) => {
                        self.readable();
                        let (shared, what) = (Arc::clone(&self.shared), (job.part, job.events));
                        under_way.insert(flights.spawn(fly(shared, job)).id(), what);
                    }
                    Ok(None) => {
                        self.readable();
                        break;
                    }
                    Err(FetchError::Ring(RingError::Closed)) => break 'serve,
                    Err(e) => {
                        let text = e.to_string();
                        if self.shared.stats.hold(Why::Ring, &text, "") {
                            error!(sink = %self.shared.id, error = %text, "the ring cannot be read");
                        }
                        self.forget();
                        pause = Some(Instant::now() + self.pause());
                        break;
                    }
                }
            }
            let jobs = self.jobs.iter().chain(&self.parked).map(|j| j.events);
            let jobs = jobs.chain(self.held.iter().map(|r| r.len()));
            let taken = jobs.chain(under_way.values().map(|(_, events)| *events)).sum::<u64>();
            let taken = taken + self.later.places();
            self.shared.waiting(self.claims.left(now.durable) + self.passed + taken);
            self.shared.stats.metered.store(self.waits_for_network(), Ordering::Relaxed);
            let idle = flights.is_empty() && (self.jobs.is_empty() && self.later.is_empty() || !may);
            if phase == Phase::Finish && idle && (self.claims.cover(now.durable, self.holding) || !may) {
                break;
            }
            // only while something waits for it
            let look = self.waits_for_network().then(|| Instant::now() + soon::LOOK);
            let wake = match pause {
                Some(pause) => Some(pause),
                None => {
                    let room = may && flights.len() < self.shared.allowed();
                    let due = if self.shared.waits(!flights.is_empty()) {
                        // others' places come free untold; what is due already must not spin here until then
                        let soon = Instant::now() + CROWDED;
                        let more = self.claims.left(now.durable) > 0 || !self.jobs.is_empty();
                        let later = self.later.next().map(|due| due.max(soon));
                        more.then_some(soon).into_iter().chain(later).min()
                    } else {
                        self.due.into_iter().chain(self.later.next()).min()
                    };
                    due.filter(|_| room)
                }
            };
            tokio::select! {
                biased;
                () = self.abort.cancelled() => break,
                Some(landed) = flights.join_next_with_id(), if !flights.is_empty() => {
                    let (id, landed) = match landed {
                        Ok((id, landing)) => (id, Ok(landing)),
                        Err(e) => (e.id(), Err(e)),
                    };
                    if let Some((part, _)) = under_way.remove(&id) {
                        self.landed(part, landed, under_way.values().map(|(part, _)| *part));
                    }
                }
                changed = in_force.changed() => if changed.is_err() { break },
                changed = paused.changed() => if changed.is_err() { break },
                changed = self.phase.changed() => if changed.is_err() { break },
                changed = state.changed(), if pause.is_none() => if changed.is_err() { break },
                () = self.shared.crowd.1.notified() => {}
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

    /// The ring was read.
    fn readable(&mut self) {
        self.backoff.reset();
        if self.shared.stats.free(Why::Ring) {
            info!(sink = %self.shared.id, "the ring is read again");
        }
    }

    /// The next part to be delivered, if one is due.
    async fn next_job(&mut self, now: &State, flush: bool) -> Result<Option<Job>, FetchError> {
        if let Some(job) = self.jobs.pop_front() {
            return Ok(Some(job));
        }
        if !self.later.may_begin(self.limits.in_flight as usize) {
            self.due = None;
            return Ok(None);
        }
        if self.purges != now.purges {
            self.purges = now.purges;
            self.forget();
        }
        let batch = u64::from(self.limits.events.max(1));
        let (free, last) = loop {
            let next = self.claims.next(now.durable, self.options.order, batch, self.holding);
            let Some(free) = next else {
                self.due = None;
                return Ok(None);
            };
            let after = Seq(free.range.first().0 - 1);
            if self.ahead.0 != after {
                self.ahead = (after, Fetched { end: after, ..Fetched::default() });
            }
            match self.until(free, now.durable, flush).await? {
                Upto::Last(last) => break (free, last),
                Upto::Wait => return Ok(None),
                Upto::Piece(range) => self.hold(range),
                Upto::Over(range) => self.pass_over(range),
            }
        };
        self.due = None;
        let Some(range) = SeqRange::new(free.range.first(), last) else { return Ok(None) };
        let (_, fetched) = std::mem::take(&mut self.ahead);
        let Fetched { blocks, holes, mut over, end } = fetched;
        let (mut taken, mut rest) = (Vec::new(), Vec::new());
        for block in blocks {
            let reaches = block.block.range.last();
            // what is left of a block with both kinds is read again, for its next piece
            let mixed = self.holding && block.looked.is_some_and(|l| l.deferred);
            if reaches > last && !mixed {
                rest.push(block.clone());
            }
            if block.block.range.first() <= last {
                taken.push(block);
            }
        }
        let mut part = Part { range, lanes: free.lanes };
        if self.holding {
            self.deferred = self.deferred.and(over.lanes(last));
            let sent = taken.iter().fold(Lanes::NONE, |all, a| all.and(Lanes::of(a.block.lane)));
            part.lanes = part.lanes.without(self.deferred.without(sent));
            self.passed += over.events(last);
        }
        let inside = |seq: &Seq| range.contains(*seq);
        let events = taken.iter().flat_map(|a| &a.events).filter(|(seq, _)| inside(seq)).count() as u64;
        if free.lanes != Lanes::ALL {
            self.passed = self.passed.saturating_sub(events);
        }
        self.claims.take(part);
        let (gone, holes): (Vec<_>, Vec<_>) = holes.into_iter().partition(|h| h.range.first() <= last);
        gone.iter().filter(|h| h.range.first() >= range.first()).for_each(|h| self.shared.stats.missed(h));
        over.forget(last);
        self.ahead = (last, Fetched { blocks: rest, holes, over, end: end.max(last) });
        Ok(Some(Job { events, blocks: Some(taken), ..Job::of(part) }))
    }

    /// Where the batch ends that begins with `free`.
    async fn until(&mut self, free: Part, durable: Seq, flush: bool) -> Result<Upto, FetchError> {
        let after = Seq(free.range.first().0 - 1);
        loop {
            let ahead = &self.ahead.1;
            let most = ahead.over.stop.map_or(free.range.last(), |stop| stop.min(free.range.last()));
            if let Some(range) = ahead.over.piece.and_then(|end| SeqRange::new(after.next(), end.min(most))) {
                return Ok(Upto::Piece(range));
            }
            match cut(ahead, after, most, &self.limits) {
                Cut::Full(last) => return Ok(Upto::Last(last)),
                Cut::Open(end, events) if end < most => self.read_on(events, after, free.lanes).await?,
                Cut::Open(end, events) => {
                    if events == 0 && ahead.over.events(end) > 0 {
                        return Ok(SeqRange::new(after.next(), end).map_or(Upto::Wait, Upto::Over));
                    }
                    // nothing follows that could fill it, or nothing is to be waited for
                    if flush || events == 0 || end < durable || self.is_due() {
                        return Ok(Upto::Last(end));
                    }
                    return Ok(Upto::Wait);
                }
            }
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
                    let latency = urgency.map(|u| soon::look(u, ahead, &mut self.known).latency);
                    let waited = u64::try_from(now_ns().saturating_sub(ahead.block.stored_ns)).unwrap_or(0);
                    let wait = soon::wait(latency, self.limits.age);
                    *ahead.due.insert(now + wait.saturating_sub(Duration::from_nanos(waited)))
                }
            };
            self.due = Some(self.due.map_or(due, |d| d.min(due)));
        }
        self.due.is_none_or(|due| due <= now)
    }

    async fn read_on(&mut self, have: u64, begin: Seq, lanes: Lanes) -> Result<(), FetchError> {
        let bytes: u64 = self.ahead.1.blocks.iter().map(|a| a.block.data.len() as u64).sum();
        let limit = ReadLimit {
            bytes: self.limits.bytes.saturating_sub(bytes).max(1),
            events: u64::from(self.limits.events.max(1)).saturating_sub(have).max(1),
        };
        let (ring, after) = (Arc::clone(&self.shared.ring), self.ahead.1.end);
        let mut known = std::mem::take(&mut self.known);
        let mut ahead = std::mem::take(&mut self.ahead.1);
        let urgency = self.urgency.clone().filter(|_| self.holding);
        let whole = self.held.len() >= soon::PIECES;
        let read = tokio::task::spawn_blocking(move || {
            let read = fetch(&*ring, after, limit, lanes, &mut known).map(|read| {
                let forth = read.end > after;
                ahead.end = read.end;
                ahead.holes.extend(read.holes);
                match urgency {
                    Some(u) => soon::pass_over(&u, begin, &mut ahead, read.blocks, &mut known, whole),
                    None => ahead.blocks.extend(read.blocks),
                }
                (ahead, forth)
            });
            (read, known)
        });
        let (read, known) = read.await.map_err(|e| RingError::Book(format!("reading ended early: {e}")))?;
        self.known = known;
        let (ahead, forth) = read?;
        self.ahead.1 = ahead;
        if !forth {
            return Err(
                RingError::Book(format!("nothing was read behind {after}, though more is there")).into()
            );
        }
        Ok(())
    }
}

/// Where a batch ends.
enum Upto {
    /// With this place.
    Last(Seq),
    /// Nowhere yet.
    Wait,
    /// It does not begin: this piece of a block waits.
    Piece(SeqRange),
    /// It does not begin: the blocks of this run are passed over.
    Over(SeqRange),
}

/// Asks the far side whether deliveries could work, and says so if not.
async fn ask(shared: Arc<Shared>) {
    let limit = shared.sink.limits().timeout;
    match tokio::time::timeout(limit, shared.sink.check()).await {
        Ok(Ok(())) => debug!(sink = %shared.id, "the far side is ready"),
        Ok(Err(e)) => {
            warn!(sink = %shared.id, error = %verdict::told(&e, verdict::TOLD_MOST), "the far side is not ready, events wait")
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
