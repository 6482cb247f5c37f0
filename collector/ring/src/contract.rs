//! What a ring promises, whatever keeps it.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tidegate_proto::ids::{Seq, SeqRange, SinkId};
use tidegate_proto::level::{Class, DropReason, LossReason, TelemetryLevel};
use tidegate_proto::wire::{Changes, Unchanged};
use tokio::sync::{oneshot, watch};

/// A future that can be moved between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Events per telemetry level.
pub type PerLevel = [u64; 4];

/// Sets of lanes. Every block is in one lane, from 0 to 15. What is in different lanes can be settled
/// apart, however much they alternate: see [`Part`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lanes(pub(crate) u16);

impl Lanes {
    /// How many there are.
    pub const COUNT: u8 = 16;
    /// Every lane.
    pub const ALL: Lanes = Lanes(u16::MAX);
    /// None.
    pub const NONE: Lanes = Lanes(0);

    /// One lane. Those above 15 count as 15.
    #[must_use]
    pub fn of(lane: u8) -> Lanes {
        Lanes(1 << lane.min(Lanes::COUNT - 1))
    }

    /// Whether a lane is in it.
    #[must_use]
    pub fn has(self, lane: u8) -> bool {
        self.overlaps(Lanes::of(lane))
    }

    /// Whether two sets share a lane.
    #[must_use]
    pub fn overlaps(self, other: Lanes) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether all of another are in it.
    #[must_use]
    pub fn cover(self, other: Lanes) -> bool {
        other.0 & !self.0 == 0
    }

    /// What is in either.
    #[must_use]
    pub fn and(self, other: Lanes) -> Lanes {
        Lanes(self.0 | other.0)
    }

    /// What is not in the other.
    #[must_use]
    pub fn without(self, other: Lanes) -> Lanes {
        Lanes(self.0 & !other.0)
    }
}

/// The blocks of some lanes in a run of places: what is planned and settled at a time. Those of the other
/// lanes stay as they are, and may be planned by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// The run.
    pub range: SeqRange,
    /// The lanes.
    pub lanes: Lanes,
}

impl From<SeqRange> for Part {
    fn from(range: SeqRange) -> Part {
        Part { range, lanes: Lanes::ALL }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lanes {
            Lanes::ALL => write!(f, "{}", self.range),
            Lanes(lanes) => write!(f, "{} in lanes {lanes:#x}", self.range),
        }
    }
}

/// A run of encoded events of one class and one lane, before it has a place.
#[derive(Clone, Debug)]
pub struct NewBlock {
    /// The class it is kept in.
    pub class: Class,
    /// Its lane, 0 to 15: see [`Lanes`].
    pub lane: u8,
    /// An encoded [`tidegate_proto::pb::Block`], uncompressed.
    pub data: Bytes,
    /// Events in it, per telemetry level; at least one in all.
    pub levels: PerLevel,
    /// Earliest and latest event time, nanoseconds since 1970.
    pub time_ns: (i64, i64),
}

/// What the intake did since the group before: stored together with the group's
/// blocks, all or nothing, so that the account closes and a source goes on at
/// the right place after any crash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intake {
    /// Events read from sources.
    pub read: u64,
    /// Events dropped, by reason. `read` = their sum + the group's events.
    pub dropped: BTreeMap<DropReason, u64>,
    /// How far each source has been read, in the source's own form; at most
    /// [`Intake::MAX_POSITION`] bytes each.
    pub positions: BTreeMap<String, Vec<u8>>,
}

impl Intake {
    /// Longest position of a source, in bytes.
    pub const MAX_POSITION: usize = 1024;
}

/// The unit of appending: gets one gap-free run of places, in the order of its blocks.
/// May hold no block at all, only an intake.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Blocks, any classes.
    pub blocks: Vec<NewBlock>,
    /// What it took to make them.
    pub intake: Intake,
}

/// Resolves when the group would survive power loss. `None`: it held no event.
#[derive(Debug)]
pub struct Ticket(pub(crate) oneshot::Receiver<Result<Option<SeqRange>, AppendError>>);

impl Ticket {
    /// A ticket that resolves with what is sent; for rings outside of this crate. A sender that
    /// is dropped means that the ring was closed.
    #[must_use]
    pub fn new(receiver: oneshot::Receiver<Result<Option<SeqRange>, AppendError>>) -> Ticket {
        Ticket(receiver)
    }
}

impl Future for Ticket {
    type Output = Result<Option<SeqRange>, AppendError>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|r| r.unwrap_or(Err(AppendError::Closed)))
    }
}

/// Why a group is not stored.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AppendError {
    /// Full, and the policy keeps what is there (`drop_newest`), or the call may not wait.
    #[error("the ring is full")]
    Full,
    /// A block that could never fit the ring, even empty.
    #[error("a block of {bytes} bytes does not fit a ring of {bound}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The ring's bound.
        bound: u64,
    },
    /// The disk refuses writes; the ring is read-only until it is mended.
    #[error("the ring is read-only: {0}")]
    ReadOnly(String),
    /// The ring was closed.
    #[error("the ring is closed")]
    Closed,
}

/// How much to read at a time. At least one block is returned where there is one.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimit {
    /// Most bytes of uncompressed blocks.
    pub bytes: u64,
    /// Most events.
    pub events: u64,
}

/// A stored block.
#[derive(Clone, Debug)]
pub struct StoredBlock {
    /// Its run of places; purged or evicted ones may be missing from it.
    pub range: SeqRange,
    /// The place of each event in `data`, ascending. `None`: every place of `range` has one.
    pub seqs: Option<Vec<Seq>>,
    /// Its class.
    pub class: Class,
    /// Its lane.
    pub lane: u8,
    /// An encoded [`tidegate_proto::pb::Block`], uncompressed, checksum verified.
    pub data: Bytes,
    /// When it was stored, nanoseconds since 1970.
    pub stored_ns: i64,
}

/// Places that hold no event any more; already in the account of the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Which.
    pub range: SeqRange,
    /// How many events of it are gone: fewer than places where others were delivered before.
    pub events: u64,
    /// Why.
    pub reason: LossReason,
}

/// What follows a place. Every place from there to `end` is in a block or in a hole.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// Blocks in order.
    pub blocks: Vec<StoredBlock>,
    /// Holes in order, between and inside of the blocks.
    pub holes: Vec<Hole>,
    /// Last place explained; equal to the place asked from when nothing follows.
    pub end: Seq,
}

/// Why the ring cannot be read or its book not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// No such sink is attached.
    #[error("sink \"{0}\" is not attached to the ring")]
    UnknownSink(SinkId),
    /// A settlement or plan that does not fit what is stored.
    #[error("{0}")]
    Misuse(String),
    /// The disk failed.
    #[error("cannot {what}")]
    Io {
        /// What was tried, with the file.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The book failed.
    #[error("the ring's book failed: {0}")]
    Book(String),
    /// A newer version wrote it.
    #[error("{what} has format {version}, this version reads up to {known}: use the version that wrote it")]
    Newer {
        /// What of it.
        what: String,
        /// Its format.
        version: u64,
        /// The highest that is read.
        known: u64,
    },
    /// The ring was closed.
    #[error("the ring is closed")]
    Closed,
}

impl RingError {
    /// Whether a block cannot be read for want of the key that sealed it: other settings open it.
    #[must_use]
    pub fn is_missing_key(&self) -> bool {
        matches!(self, RingError::Io { source, .. } if crate::store::is_missing_key(source))
    }
}

/// Where a sink that is new to the ring begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StartAt {
    /// With the oldest event held.
    #[default]
    Oldest,
    /// With the next event stored.
    Now,
}

/// A sink's place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Everything up to here is settled: delivered, rejected or lost.
    pub settled: Seq,
    /// Runs behind it that are settled out of order.
    pub ahead: Vec<SeqRange>,
    /// Runs behind it that are settled in some lanes only.
    pub passed: Vec<Part>,
    /// Runs that were planned and are not settled: after a restart they are sent again
    /// with the same bounds.
    pub planned: Vec<Part>,
}

/// The outcome of a planned run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settlement {
    /// Delivered events, per telemetry level.
    pub delivered: PerLevel,
    /// Rejected by the far side, per telemetry level.
    pub rejected: PerLevel,
    /// Left out by the dispatcher (level, filter), per reason and telemetry level.
    pub lost: BTreeMap<LossReason, PerLevel>,
    /// Entry for the receipts chain, written with the cursor or not at all; empty = none.
    pub receipt: Vec<u8>,
}

/// One sink's side of the account, per telemetry level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkAccount {
    /// Events stored since it was attached (with those held then, if it began at the oldest).
    pub stored: PerLevel,
    /// Delivered.
    pub delivered: PerLevel,
    /// Rejected.
    pub rejected: PerLevel,
    /// Lost, by reason.
    pub lost: BTreeMap<LossReason, PerLevel>,
    /// Of these, events of runs that are planned: the settlement may take them back. Those of a run that
    /// was split count with both halves.
    pub lost_in_flight: BTreeMap<LossReason, PerLevel>,
    /// Still waiting: counted from what is in the ring, not from the others.
    pub held: PerLevel,
}

/// The closed sum over the ring's life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Events read from sources.
    pub read: u64,
    /// Dropped before the ring, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Stored, per telemetry level.
    pub stored: PerLevel,
    /// Per attached sink.
    pub sinks: BTreeMap<SinkId, SinkAccount>,
}

impl Account {
    /// Whether `read = dropped + stored` and, for each sink, `stored = delivered + rejected +
    /// lost + held`, level by level.
    ///
    /// # Errors
    /// The first sum that does not close, in words.
    pub fn check(&self) -> Result<(), String> {
        let stored: u64 = self.stored.iter().sum();
        let dropped: u64 = self.dropped.values().sum();
        if self.read != dropped + stored {
            return Err(format!("read {} is not dropped {dropped} + stored {stored}", self.read));
        }
        for (id, sink) in &self.sinks {
            for (n, level) in TelemetryLevel::ALL.into_iter().enumerate() {
                let lost: u64 = sink.lost.values().map(|l| l[n]).sum();
                let sum = sink.delivered[n] + sink.rejected[n] + lost + sink.held[n];
                if sink.stored[n] != sum {
                    return Err(format!(
                        "sink {id}, level {level}: stored {} is not delivered {} + rejected {} + lost {lost} + held {}",
                        sink.stored[n], sink.delivered[n], sink.rejected[n], sink.held[n],
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Whether the ring takes writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// All is well.
    #[default]
    Good,
    /// Writes fail, for this reason; reading goes on. It recovers by itself.
    ReadOnly(String),
    /// Closed.
    Closed,
}

/// What watchers see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Last durable place.
    pub durable: Seq,
    /// Whether it takes writes.
    pub health: Health,
    /// Counts purges, so that readers drop what they have read ahead.
    pub purges: u64,
}

/// Where the ring stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Which life of the ring this is: random, made with it.
    pub epoch: u64,
    /// Everything up to here is gone.
    pub trimmed: Seq,
    /// Last durable place.
    pub durable: Seq,
    /// Bytes on disk: segments, book, quarantine.
    pub disk_bytes: u64,
    /// The bound on them.
    pub bound_bytes: u64,
    /// When the oldest block was stored, nanoseconds since 1970.
    pub oldest_stored_ns: Option<i64>,
    /// Cursors.
    pub cursors: BTreeMap<SinkId, Cursor>,
    /// What was found damaged and set aside, in words, newest last; bounded.
    pub quarantined: Vec<String>,
}

/// What a purge says about one event: it goes, stays, or stays without a part of it.
pub trait PurgeRule: Send + Sync {
    /// Whether a block can hold anything to purge; `true` when not known.
    fn may_match(&self, levels: &PerLevel, time_ns: (i64, i64)) -> bool;
    /// Whether the event goes. The event is decoded from the stored block.
    fn matches(&self, event: tidegate_proto::batch::EventRef<'_>) -> bool;
    /// Hands over, exactly once, the changes under which an event stays; whether there are any. Left as it
    /// is here, an event stays as it is. An event keeps its place and its level.
    fn changes(&self, event: tidegate_proto::batch::EventRef<'_>, put: &mut dyn FnMut(&dyn Changes)) -> bool {
        let _ = event;
        put(&Unchanged);
        false
    }
}

/// What a purge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Events removed, per telemetry level.
    pub events: PerLevel,
    /// Blocks rewritten or removed.
    pub blocks: u64,
}

/// The value that a ring gives itself when damage may have taken values newer than those it has. Who
/// keeps a switch with a ring takes the careful side while it is there, and removes it when
/// someone has said how the switch stands.
pub const UNSURE: &str = "ring.unsure";

/// The value that a ring gives itself when a chain lost entries to damage: for receipts, then for the audit log,
/// `1` when it did, else `0`. Who has told of it removes it.
pub const CUT: &str = "ring.cut";

/// Hash-chained logs that live with the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Chain {
    /// One entry a delivery.
    Receipts = 0,
    /// One entry a change an operator may want to prove.
    Audit = 1,
}

/// An entry of a chain. `hash` = SHA-256 over the hash before (32 zero bytes at first), the
/// entry's number as 8 bytes big-endian, and `data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainEntry {
    /// Number, from 1.
    pub number: u64,
    /// Its link.
    pub hash: [u8; 32],
    /// Content, JSON by convention.
    pub data: Vec<u8>,
}

/// A ring.
///
/// # Contract
/// * Places are given in the order of [`append`](Ring::append) calls, without a gap.
/// * A ticket that resolved `Ok` says that the group is on stable storage: it is there after
///   `kill -9` and power loss, until it is settled by all sinks, evicted or purged, and then
///   counted once.
/// * A group is stored whole with its intake or not at all.
/// * Methods without a future block on the disk for milliseconds: call them where that is
///   allowed. All can be called from any thread.
/// * Nothing panics, whatever the files hold.
pub trait Ring: fmt::Debug + Send + Sync + 'static {
    /// Waits for room as the full-policy says, then hands over a ticket for durability. A group without
    /// blocks needs none: a ring that is full takes it too.
    ///
    /// # Errors
    /// See [`AppendError`]. An error here or in the ticket means: not stored, not counted.
    ///
    /// # Cancel safety
    /// A cancelled call has stored nothing.
    fn append(&self, group: Group) -> BoxFuture<'_, Result<Ticket, AppendError>>;

    /// Attaches a sink, or finds it attached. A new one begins at `start`.
    ///
    /// # Errors
    /// When the book cannot be written.
    fn attach(&self, sink: &SinkId, start: StartAt) -> Result<Cursor, RingError>;

    /// Forgets a sink: its cursor and its side of the account. Nothing when it is unknown.
    ///
    /// # Errors
    /// When the book cannot be written.
    fn detach(&self, sink: &SinkId) -> Result<(), RingError>;

    /// Reads what follows `after`, never past the durable place.
    ///
    /// # Errors
    /// When the disk fails. Damaged blocks are no error but a hole.
    fn read(&self, after: Seq, limit: ReadLimit) -> Result<Read, RingError>;

    /// Counts, since the ring was opened, how often events went from it that were not settled. Who
    /// read a run and finds this unchanged after [`plan`](Ring::plan) has read all that the plan covers.
    fn losses(&self) -> u64;

    /// What is missing behind a place, as [`read`](Ring::read) would tell it; nothing is read for it.
    fn holes(&self, after: Seq) -> Vec<Hole>;

    /// Stores the bounds of a run that is about to be sent; durable on return.
    ///
    /// # Errors
    /// [`RingError::Misuse`] when it overlaps a planned or settled run with other bounds and a lane in common.
    fn plan(&self, sink: &SinkId, part: Part) -> Result<(), RingError>;

    /// Settles a planned run: counts, receipt, cursor, in one durable step. Events of the run
    /// that were evicted or purged while it was in flight count as the settlement says.
    /// Settling a settled run again changes nothing.
    ///
    /// # Errors
    /// [`RingError::Misuse`] when the run was not planned or the counts do not add up to it.
    fn settle(&self, sink: &SinkId, part: Part, outcome: &Settlement) -> Result<Cursor, RingError>;

    /// Splits a planned run in two behind `at`, so that the halves can be sent alone.
    ///
    /// # Errors
    /// [`RingError::Misuse`] when no such run is planned or `at` is not inside of it.
    fn split(&self, sink: &SinkId, part: Part, at: Seq) -> Result<(), RingError>;

    /// Splits a planned part in two over the same run: these lanes, and the others.
    ///
    /// # Errors
    /// [`RingError::Misuse`] when no such part is planned, or one of the two would have no lane.
    fn divide(&self, sink: &SinkId, part: Part, lanes: Lanes) -> Result<(), RingError>;

    /// How far a source had been read, by the last durable group.
    fn source_position(&self, source: &str) -> Option<Vec<u8>>;

    /// Removes events so that nothing of them can be read back from the files.
    ///
    /// # Errors
    /// When the disk fails; what was purged until then stays purged, the rest is untouched.
    fn purge(&self, rule: &dyn PurgeRule) -> Result<Purged, RingError>;

    /// Tells place and telemetry level of each event that [`purge`](Ring::purge) would remove now, in the order
    /// of places. Blocks that hold none for sure are not read. Changes nothing.
    ///
    /// # Errors
    /// When the disk fails.
    fn find(&self, rule: &dyn PurgeRule, each: &mut dyn FnMut(Seq, TelemetryLevel)) -> Result<(), RingError>;

    /// Appends to a chain; durable on return.
    ///
    /// # Errors
    /// When the book cannot be written.
    fn chain_append(&self, chain: Chain, data: &[u8]) -> Result<ChainEntry, RingError>;

    /// Reads a chain from an entry's number on.
    ///
    /// # Errors
    /// When the book cannot be read.
    fn chain_read(&self, chain: Chain, from: u64, most: usize) -> Result<Vec<ChainEntry>, RingError>;

    /// Number and hash of the newest entry that was let go for newer ones: the oldest entry kept
    /// hangs on it. 0 and zeros when the chain is kept from its start. Of each chain the newest
    /// 4096 are kept, and of those 1 MiB, or 1/64 of a smaller ring's bound.
    ///
    /// # Errors
    /// When the book cannot be read.
    fn chain_anchor(&self, chain: Chain) -> Result<(u64, [u8; 32]), RingError>;

    /// A small value kept with the ring: switches, cached settings.
    ///
    /// # Errors
    /// When the book cannot be read.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, RingError>;

    /// Stores a small value (64 KiB at most), `None` removes it; durable on return.
    ///
    /// # Errors
    /// When the book cannot be written.
    fn put(&self, key: &str, value: Option<&[u8]>) -> Result<(), RingError>;

    /// The account, counted at one moment.
    fn account(&self) -> Account;

    /// Where the ring stands.
    fn status(&self) -> Status;

    /// Durable place and health, as they change.
    fn watch(&self) -> watch::Receiver<State>;

    /// Makes everything durable and closes: later calls fail with `Closed`.
    ///
    /// # Errors
    /// When the last writes fail.
    fn close(&self) -> Result<(), RingError>;
}
