//! The contract of [`Ring`], one function a sentence. [`ALL`] is the suite.

mod lanes;

use std::collections::BTreeMap;

use tidegate_proto::batch::EventRef;
use tidegate_proto::ids::{Seq, SeqRange, SinkId};
use tidegate_proto::level::{DropReason, LossReason, TelemetryLevel};
use tidegate_proto::wire::{Change, Changes, Place, Unchanged};

use super::{Above, MakeRing, TextRule, block, group, sized_block, text, texts, wait};
use crate::{
    AppendError, Chain, FullPolicy, Group, Health, Intake, NewBlock, PerLevel, PurgeRule, Read, ReadLimit,
    Ring, RingError, RingOptions, Settlement, StartAt,
};

/// A test of the suite.
pub type Test = fn(MakeRing<'_>);

/// Everything that a ring has to pass, by name.
pub const ALL: &[(&str, Test)] = &[
    ("places are given in order without a gap", places_are_given_in_order),
    ("a group without events keeps its intake", a_group_without_events_keeps_its_intake),
    ("reading stops at the limit and goes on behind it", reading_stops_at_the_limit),
    ("a sink settles what it planned", a_sink_settles_what_it_planned),
    ("runs settled out of order move the cursor once", runs_settle_out_of_order),
    ("a boundary inside of a block counts by level", a_boundary_inside_of_a_block),
    ("a split run is settled by halves", a_split_run),
    ("lanes are settled apart", lanes::are_settled_apart),
    ("parts of other lanes fly side by side", lanes::fly_side_by_side),
    ("a planned run is divided by lanes", lanes::divide_a_planned_run),
    ("lanes lose what is open", lanes::lose_what_is_open),
    ("wrong settlements are refused", wrong_settlements_are_refused),
    ("normal goes before critical", normal_goes_before_critical),
    ("what went in flight counts as the settlement says", evicted_in_flight),
    ("drop_newest refuses and keeps", drop_newest_refuses),
    ("a group without blocks finds room in a full ring", an_account_finds_room),
    ("block waits for the sinks", block_waits),
    ("a purge removes events and counts them", a_purge_removes),
    ("a purge takes a part of an event and counts none", a_purge_of_fields),
    ("a late sink begins where it is told", a_late_sink),
    ("a detached sink holds nothing back", a_detached_sink),
    ("chains link and values stay", chains_and_values),
    ("old events expire", old_events_expire),
    ("what cannot fit is refused", too_large_is_refused),
    ("a closed ring says so", a_closed_ring),
];

/// No limit.
pub const ALL_OF_IT: ReadLimit = ReadLimit { bytes: u64::MAX, events: u64::MAX };

/// Options for tests: no waiting for company.
#[must_use]
pub fn options() -> RingOptions {
    RingOptions {
        bound_bytes: RingOptions::MIN_BOUND,
        commit_delay: std::time::Duration::ZERO,
        compression: crate::Compression::None,
        ..RingOptions::default()
    }
}

/// Appends and waits until it is durable.
///
/// # Panics
/// When it is refused or holds no event.
pub fn append(ring: &dyn Ring, blocks: Vec<NewBlock>) -> SeqRange {
    let stored = wait(async { ring.append(group(blocks)).await.expect("room").await });
    stored.expect("stored").expect("events")
}

/// A range from numbers.
///
/// # Panics
/// When it is empty.
#[must_use]
pub fn range(first: u64, last: u64) -> SeqRange {
    SeqRange::new(Seq(first), Seq(last)).expect("a range")
}

/// The account, which must close.
///
/// # Panics
/// When it does not.
pub fn closed_account(ring: &dyn Ring) -> crate::Account {
    let account = ring.account();
    account.check().expect("the account closes");
    account
}

/// A settlement that delivered so many events per level.
#[must_use]
pub fn delivered(levels: [u64; 4]) -> Settlement {
    Settlement { delivered: levels, ..Settlement::default() }
}

fn read_all(ring: &dyn Ring, after: u64) -> Read {
    ring.read(Seq(after), ALL_OF_IT).expect("readable")
}

/// The texts of all that a read returned.
#[must_use]
pub fn all_texts(read: &Read) -> Vec<String> {
    read.blocks.iter().flat_map(|b| texts(&b.data)).collect()
}

fn is_misuse<T: std::fmt::Debug>(result: Result<T, RingError>) {
    assert!(matches!(result, Err(RingError::Misuse(_))), "{result:?}");
}

fn places_are_given_in_order(make: MakeRing<'_>) {
    let ring = make(options());
    assert_eq!(append(&*ring, vec![block(&[2, 2], 1), block(&[0], 2)]), range(1, 3));
    assert_eq!(append(&*ring, vec![block(&[3], 3)]), range(4, 4));
    let read = read_all(&*ring, 0);
    let ranges: Vec<_> = read.blocks.iter().map(|b| b.range).collect();
    assert_eq!(ranges, [range(1, 2), range(3, 3), range(4, 4)]);
    assert_eq!(all_texts(&read), [text(1, 0), text(1, 1), text(2, 0), text(3, 0)]);
    assert_eq!((read.end, read.holes.len()), (Seq(4), 0));
    assert!(read.blocks.iter().all(|b| b.seqs.is_none()));
    assert_eq!(ring.watch().borrow().durable, Seq(4));
    assert_eq!(ring.status().durable, Seq(4));
    assert_eq!(closed_account(&*ring).stored, [1, 0, 2, 1]);
}

fn a_group_without_events_keeps_its_intake(make: MakeRing<'_>) {
    let ring = make(options());
    let intake = Intake {
        read: 5,
        dropped: BTreeMap::from([(DropReason::Level, 3), (DropReason::Rule, 2)]),
        positions: BTreeMap::from([("etl".to_owned(), b"17".to_vec())]),
    };
    let ticket = wait(ring.append(Group { blocks: Vec::new(), intake: intake.clone() })).expect("room");
    assert_eq!(wait(ticket), Ok(None));
    let account = closed_account(&*ring);
    assert_eq!((account.read, account.dropped), (5, intake.dropped));
    assert_eq!(ring.source_position("etl"), Some(b"17".to_vec()));
    assert_eq!(ring.source_position("other"), None);
}

fn reading_stops_at_the_limit(make: MakeRing<'_>) {
    let ring = make(options());
    for tag in 0..10 {
        append(&*ring, vec![block(&[2, 2], tag)]);
    }
    let limit = ReadLimit { bytes: u64::MAX, events: 5 };
    let mut after = Seq::ZERO;
    let mut seen = Vec::new();
    while after < Seq(20) {
        let read = ring.read(after, limit).expect("readable");
        assert!((1..=2).contains(&read.blocks.len()));
        seen.extend(all_texts(&read));
        assert!(read.end > after);
        after = read.end;
    }
    assert_eq!(seen.len(), 20);
    let small = ring.read(Seq::ZERO, ReadLimit { bytes: 1, events: 1 }).expect("readable");
    assert_eq!((small.blocks.len(), small.end), (1, Seq(2)), "one block at least");
    let none = ring.read(Seq(20), limit).expect("readable");
    assert_eq!((none.blocks.len(), none.end), (0, Seq(20)));
}

fn a_sink_settles_what_it_planned(make: MakeRing<'_>) {
    let ring = make(options());
    let blob = SinkId::new("blob");
    ring.attach(&blob, StartAt::Oldest).expect("attached");
    append(&*ring, vec![block(&[2, 3], 1), block(&[0], 2)]);
    ring.plan(&blob, range(1, 3).into()).expect("planned");
    ring.plan(&blob, range(1, 3).into()).expect("the same bounds again");
    assert_eq!(ring.attach(&blob, StartAt::Now).expect("attached").planned, [range(1, 3).into()]);
    is_misuse(ring.plan(&blob, range(2, 3).into()));
    is_misuse(ring.plan(&blob, range(4, 4).into()));
    let mut outcome = delivered([1, 0, 0, 0]);
    outcome.rejected = [0, 0, 1, 0];
    outcome.lost = BTreeMap::from([(LossReason::Filtered, [0, 0, 0, 1])]);
    outcome.receipt = b"{}".to_vec();
    let cursor = ring.settle(&blob, range(1, 3).into(), &outcome).expect("settled");
    assert_eq!((cursor.settled, cursor.planned.len(), cursor.ahead.len()), (Seq(3), 0, 0));
    assert_eq!(ring.settle(&blob, range(1, 3).into(), &outcome).expect("settled again"), cursor);
    is_misuse(ring.plan(&blob, range(1, 3).into()));
    let account = closed_account(&*ring);
    let sink = &account.sinks[&blob];
    assert_eq!((sink.delivered, sink.rejected, sink.held), ([1, 0, 0, 0], [0, 0, 1, 0], [0; 4]));
    assert_eq!(ring.chain_read(Chain::Receipts, 1, 9).expect("chain").len(), 1, "one receipt");
    assert_eq!(ring.status().trimmed, Seq(3));
    assert_eq!(read_all(&*ring, 0).blocks.len(), 0, "what all have settled is gone");
    let other = SinkId::new("unknown");
    assert!(matches!(ring.plan(&other, range(1, 1).into()), Err(RingError::UnknownSink(_))));
}

fn runs_settle_out_of_order(make: MakeRing<'_>) {
    let ring = make(options());
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    for tag in 0..4 {
        append(&*ring, vec![block(&[2], tag)]);
    }
    for n in 1..=4 {
        ring.plan(&sink, range(n, n).into()).expect("planned");
    }
    let one = delivered([0, 0, 1, 0]);
    let settle = |n| ring.settle(&sink, range(n, n).into(), &one).expect("settled");
    assert_eq!(settle(3).settled, Seq(0));
    assert_eq!(settle(2).ahead, [range(2, 3)]);
    assert_eq!(closed_account(&*ring).sinks[&sink].held, [0, 0, 2, 0]);
    assert_eq!(settle(1).settled, Seq(3));
    assert_eq!(settle(4).settled, Seq(4));
    assert_eq!(closed_account(&*ring).sinks[&sink].delivered, [0, 0, 4, 0]);
}

fn a_boundary_inside_of_a_block(make: MakeRing<'_>) {
    let ring = make(options());
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    append(&*ring, vec![block(&[3, 2, 3, 2, 2], 1)]);
    ring.plan(&sink, range(1, 3).into()).expect("planned");
    is_misuse(ring.settle(&sink, range(1, 3).into(), &delivered([0, 0, 2, 1])));
    let cursor = ring.settle(&sink, range(1, 3).into(), &delivered([0, 0, 1, 2])).expect("settled");
    assert_eq!(cursor.settled, Seq(3));
    let account = closed_account(&*ring);
    assert_eq!(account.sinks[&sink].held, [0, 0, 2, 0]);
    let late = SinkId::new("late");
    ring.attach(&late, StartAt::Oldest).expect("attached");
    assert_eq!(closed_account(&*ring).sinks[&late].stored, [0, 0, 2, 0]);
    let read = read_all(&*ring, 3);
    assert_eq!(read.blocks.len(), 1, "the block is handed out whole");
    assert_eq!(read.blocks[0].range, range(1, 5));
}

fn a_split_run(make: MakeRing<'_>) {
    let ring = make(options());
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    append(&*ring, vec![block(&[2, 3, 2, 2], 1)]);
    ring.plan(&sink, range(1, 4).into()).expect("planned");
    is_misuse(ring.split(&sink, range(1, 4).into(), Seq(4)));
    is_misuse(ring.split(&sink, range(1, 3).into(), Seq(2)));
    ring.split(&sink, range(1, 4).into(), Seq(2)).expect("split");
    assert_eq!(ring.status().cursors[&sink].planned, [range(1, 2).into(), range(3, 4).into()]);
    ring.settle(&sink, range(3, 4).into(), &delivered([0, 0, 2, 0])).expect("settled");
    let cursor = ring.settle(&sink, range(1, 2).into(), &delivered([0, 0, 1, 1])).expect("settled");
    assert_eq!(cursor.settled, Seq(4));
    closed_account(&*ring);
}

fn wrong_settlements_are_refused(make: MakeRing<'_>) {
    let ring = make(options());
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    append(&*ring, vec![block(&[2, 2], 1)]);
    is_misuse(ring.settle(&sink, range(1, 2).into(), &delivered([0, 0, 2, 0])));
    ring.plan(&sink, range(1, 2).into()).expect("planned");
    for wrong in [[0, 0, 1, 0], [0, 0, 3, 0], [0, 0, 1, 1], [0, 0, 0, 2]] {
        is_misuse(ring.settle(&sink, range(1, 2).into(), &delivered(wrong)));
    }
    is_misuse(ring.settle(&sink, range(1, 1).into(), &delivered([0, 0, 1, 0])));
    assert_eq!(closed_account(&*ring).sinks[&sink].held, [0, 0, 2, 0]);
    ring.settle(&sink, range(1, 2).into(), &delivered([0, 0, 2, 0])).expect("settled");
}

/// Fills a ring of the smallest size several times.
fn flood(ring: &dyn Ring, groups: u64, levels: &[u8]) {
    for tag in 0..groups {
        append(ring, vec![sized_block(levels, 1000 + tag, (256 << 10) / levels.len())]);
    }
}

fn normal_goes_before_critical(make: MakeRing<'_>) {
    let ring = make(options());
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    append(&*ring, vec![block(&[0, 1], 1), block(&[2, 3], 2)]);
    flood(&*ring, 40, &[2]);
    let read = read_all(&*ring, 0);
    assert_eq!(texts(&read.blocks[0].data), [text(1, 0), text(1, 1)], "critical stays");
    assert!(!all_texts(&read).contains(&text(2, 0)), "normal went");
    assert_eq!(read.holes[0].reason, LossReason::Evicted);
    let account = closed_account(&*ring);
    let sink = &account.sinks[&sink];
    assert_eq!(sink.lost[&LossReason::Evicted][3], 1);
    let held: u64 = sink.held.iter().sum();
    let lost: u64 = read.holes.iter().map(|h| h.events).sum();
    assert_eq!(held + lost, 44);
    assert!(ring.status().disk_bytes <= ring.status().bound_bytes * 11 / 10);
    flood(&*ring, 40, &[1]);
    let account = closed_account(&*ring);
    let sink = account.sinks.values().next().expect("a sink");
    assert!(sink.lost[&LossReason::Evicted][1] > 0, "critical goes when nothing else is left");
    assert_eq!(sink.held[2], 0);
}

fn evicted_in_flight(make: MakeRing<'_>) {
    let ring = make(options());
    let (fast, slow) = (SinkId::new("fast"), SinkId::new("slow"));
    ring.attach(&fast, StartAt::Oldest).expect("attached");
    ring.attach(&slow, StartAt::Oldest).expect("attached");
    append(&*ring, vec![block(&[2, 3, 2], 1), block(&[3], 2)]);
    ring.plan(&fast, range(1, 2).into()).expect("planned");
    ring.plan(&slow, range(1, 4).into()).expect("planned");
    flood(&*ring, 40, &[2]);
    let account = closed_account(&*ring);
    assert_eq!(account.sinks[&fast].lost[&LossReason::Evicted][3], 2, "lost until it is settled");
    let cursor = ring.settle(&fast, range(1, 2).into(), &delivered([0, 0, 1, 1])).expect("settled");
    assert_eq!(cursor.settled, Seq(2));
    let account = closed_account(&*ring);
    assert_eq!(account.sinks[&fast].delivered, [0, 0, 1, 1]);
    assert_eq!(account.sinks[&fast].lost[&LossReason::Evicted][3], 1, "only the one not in flight");
    is_misuse(ring.settle(&slow, range(1, 4).into(), &delivered([0, 0, 3, 1])));
    ring.settle(&slow, range(1, 4).into(), &delivered([0, 0, 0, 1])).expect("settled with what it had");
    let account = closed_account(&*ring);
    assert_eq!(account.sinks[&slow].delivered, [0, 0, 0, 1]);
    assert_eq!(account.sinks[&slow].lost[&LossReason::Evicted][3], 1);
}

fn drop_newest_refuses(make: MakeRing<'_>) {
    let ring = make(RingOptions { full: FullPolicy::DropNewest, ..options() });
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    append(&*ring, vec![block(&[2], 1)]);
    let mut stored = 1;
    let refused = loop {
        let one = group(vec![sized_block(&[2], 2, 256 << 10)]);
        let done = wait(async { ring.append(one).await?.await });
        match done {
            Ok(_) => stored += 1,
            Err(e) => break e,
        }
        assert!(stored < 100);
    };
    assert_eq!(refused, AppendError::Full);
    assert_eq!(closed_account(&*ring).sinks[&sink].held, [0, 0, stored, 0]);
    assert_eq!(texts(&read_all(&*ring, 0).blocks[0].data), [text(1, 0)]);
    ring.plan(&sink, range(1, stored).into()).expect("planned");
    ring.settle(&sink, range(1, stored).into(), &delivered([0, 0, stored, 0])).expect("settled");
    assert_eq!(append(&*ring, vec![block(&[2], 3)]), range(stored + 1, stored + 1), "room again");
}

fn an_account_finds_room(make: MakeRing<'_>) {
    let ring = make(RingOptions { full: FullPolicy::DropNewest, ..options() });
    ring.attach(&SinkId::new("s"), StartAt::Oldest).expect("attached");
    let mut stored = 0;
    // to the brim
    for size in [256 << 10, 16 << 10] {
        for n in 0..2000 {
            let one = group(vec![sized_block(&[2], n, size)]);
            match wait(async { ring.append(one).await?.await }) {
                Ok(_) => stored += 1,
                Err(e) => {
                    assert_eq!(e, AppendError::Full);
                    break;
                }
            }
        }
    }
    for n in 1..=200u64 {
        let intake = Intake {
            read: 3,
            dropped: [(DropReason::RingFull, 3)].into(),
            positions: [("src".to_owned(), vec![n as u8; Intake::MAX_POSITION])].into(),
        };
        let taken = wait(async { ring.append(Group { blocks: Vec::new(), intake }).await?.await });
        assert_eq!(taken, Ok(None), "account {n}");
        assert_eq!(ring.source_position("src"), Some(vec![n as u8; Intake::MAX_POSITION]));
    }
    let account = closed_account(&*ring);
    assert_eq!((account.read, account.dropped[&DropReason::RingFull]), (stored + 600, 600));
    let status = ring.status();
    assert!(status.disk_bytes <= status.bound_bytes, "{status:?}");
}

fn block_waits(make: MakeRing<'_>) {
    let ring = make(RingOptions { full: FullPolicy::Block, ..options() });
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    let writer = std::thread::spawn({
        let ring = std::sync::Arc::clone(&ring);
        move || flood(&*ring, 60, &[2])
    });
    let mut after = 0;
    let mut watch = ring.watch();
    while after < 60 {
        let read = read_all(&*ring, after);
        assert_eq!(read.holes, [], "nothing is lost");
        if read.end.0 == after {
            wait(async { watch.changed().await }).expect("the ring lives");
            continue;
        }
        let run = range(after + 1, read.end.0);
        ring.plan(&sink, run.into()).expect("planned");
        ring.settle(&sink, run.into(), &delivered([0, 0, run.len(), 0])).expect("settled");
        after = read.end.0;
    }
    writer.join().expect("the writer ends");
    assert_eq!(closed_account(&*ring).sinks[&sink].delivered, [0, 0, 60, 0]);
}

/// Says of every block that it holds none, and of every event that it goes.
struct NotHere;

impl PurgeRule for NotHere {
    fn may_match(&self, _: &PerLevel, _: (i64, i64)) -> bool {
        false
    }
    fn matches(&self, _: EventRef<'_>) -> bool {
        true
    }
}

/// What a purge would remove.
fn find(ring: &dyn Ring, rule: &dyn PurgeRule) -> Vec<(Seq, TelemetryLevel)> {
    let mut found = Vec::new();
    ring.find(rule, &mut |place, level| found.push((place, level))).expect("found");
    found
}

fn a_purge_removes(make: MakeRing<'_>) {
    let ring = make(options());
    let (sink, fast) = (SinkId::new("s"), SinkId::new("fast"));
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    ring.attach(&fast, StartAt::Oldest).expect("attached");
    append(&*ring, vec![block(&[2, 3, 2, 3], 1), block(&[3, 3], 2)]);
    append(&*ring, vec![block(&[2], 3), block(&[0], 4)]);
    ring.plan(&fast, range(1, 2).into()).expect("planned");
    ring.settle(&fast, range(1, 2).into(), &delivered([0, 0, 1, 1])).expect("settled");
    ring.plan(&sink, range(1, 3).into()).expect("planned");
    let losses = ring.losses();
    let (found, account) = (find(&*ring, &Above(TelemetryLevel::Enhanced)), ring.account());
    assert_eq!(found, [2, 4, 5, 6].map(|n| (Seq(n), TelemetryLevel::Full)));
    let purged = ring.purge(&Above(TelemetryLevel::Enhanced)).expect("purged");
    assert_eq!((purged.events, purged.blocks), ([0, 0, 0, 4], 2));
    assert_ne!(ring.account(), account, "finding them changed nothing, removing them did");
    assert_eq!(find(&*ring, &Above(TelemetryLevel::Enhanced)), []);
    assert_eq!(ring.watch().borrow().purges, 1);
    assert!(ring.losses() > losses, "who had read them is told");
    let read = read_all(&*ring, 0);
    assert_eq!(all_texts(&read), [text(1, 0), text(1, 2), text(3, 0), text(4, 0)]);
    assert_eq!(read.blocks[0].range, range(1, 4));
    assert_eq!(read.blocks[0].seqs.as_deref(), Some(&[Seq(1), Seq(3)][..]));
    assert!(read.holes.iter().all(|h| h.reason == LossReason::Purged));
    assert_eq!(read.holes.iter().map(|h| h.events).sum::<u64>(), 4);
    let account = closed_account(&*ring);
    assert_eq!(account.sinks[&sink].lost[&LossReason::Purged], [0, 0, 0, 4]);
    assert_eq!(account.sinks[&fast].lost[&LossReason::Purged], [0, 0, 0, 3]);
    ring.settle(&sink, range(1, 3).into(), &delivered([0, 0, 2, 1])).expect("the purged one was in flight");
    let account = closed_account(&*ring);
    assert_eq!(account.sinks[&sink].lost[&LossReason::Purged], [0, 0, 0, 3]);
    let again = ring.purge(&TextRule(|t: &str| t == text(1, 2))).expect("purged");
    assert_eq!(again.events, [0, 0, 1, 0]);
    let none = ring.purge(&TextRule(|_: &str| false)).expect("purged");
    assert_eq!((none.blocks, ring.watch().borrow().purges), (0, 2));
    // what a block holds for sure not is looked for in neither
    assert_eq!(find(&*ring, &NotHere), []);
    assert_eq!(ring.purge(&NotHere).expect("purged").blocks, 0);
    closed_account(&*ring);
}

/// Replaces the text of events of one level.
struct WithoutText(TelemetryLevel);

impl PurgeRule for WithoutText {
    fn may_match(&self, _: &PerLevel, _: (i64, i64)) -> bool {
        true
    }
    fn matches(&self, _: EventRef<'_>) -> bool {
        false
    }
    fn changes(&self, event: EventRef<'_>, put: &mut dyn FnMut(&dyn Changes)) -> bool {
        let on = event.head().telemetry_level == Some(self.0);
        put(if on { &NoText } else { &Unchanged });
        on
    }
}

struct NoText;

impl Changes for NoText {
    fn is_empty(&self) -> bool {
        false
    }
    fn at(&self, place: Place) -> Option<Change<'_>> {
        (place == Place::Field(0)).then_some(Change::Replace("-", 1))
    }
}

fn a_purge_of_fields(make: MakeRing<'_>) {
    let ring = make(options());
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    append(&*ring, vec![block(&[1, 2, 1], 1), block(&[2], 2)]);
    ring.plan(&sink, range(1, 2).into()).expect("planned");
    let before = ring.account();
    let purged = ring.purge(&WithoutText(TelemetryLevel::Basic)).expect("purged");
    assert_eq!((purged.events, purged.blocks), ([0; 4], 1));
    assert_eq!(ring.watch().borrow().purges, 1, "who has read it reads it again");
    let read = read_all(&*ring, 0);
    assert_eq!(all_texts(&read), ["-", &text(1, 1), "-", &text(2, 0)]);
    assert!(read.holes.is_empty());
    assert_eq!(closed_account(&*ring), before);
    ring.settle(&sink, range(1, 2).into(), &delivered([0, 1, 1, 0])).expect("settled as planned");
    let again = ring.purge(&TextRule(|t: &str| t == text(1, 1))).expect("purged");
    assert_eq!(again.events, [0, 0, 1, 0]);
    closed_account(&*ring);
}

fn a_late_sink(make: MakeRing<'_>) {
    let ring = make(options());
    append(&*ring, vec![block(&[2, 2], 1)]);
    let (old, new) = (SinkId::new("old"), SinkId::new("new"));
    assert_eq!(ring.attach(&old, StartAt::Oldest).expect("attached").settled, Seq(0));
    assert_eq!(ring.attach(&new, StartAt::Now).expect("attached").settled, Seq(2));
    append(&*ring, vec![block(&[3], 2)]);
    let account = closed_account(&*ring);
    assert_eq!(account.sinks[&old].held, [0, 0, 2, 1]);
    assert_eq!(account.sinks[&new].held, [0, 0, 0, 1]);
    assert_eq!(ring.attach(&new, StartAt::Oldest).expect("attached").settled, Seq(2), "not new any more");
}

fn a_detached_sink(make: MakeRing<'_>) {
    let ring = make(options());
    let (a, b) = (SinkId::new("a"), SinkId::new("b"));
    ring.attach(&a, StartAt::Oldest).expect("attached");
    ring.attach(&b, StartAt::Oldest).expect("attached");
    append(&*ring, vec![block(&[2, 2], 1)]);
    ring.plan(&a, range(1, 2).into()).expect("planned");
    ring.settle(&a, range(1, 2).into(), &delivered([0, 0, 2, 0])).expect("settled");
    assert_eq!(ring.status().trimmed, Seq(0));
    ring.detach(&b).expect("detached");
    ring.detach(&b).expect("nothing to do");
    assert_eq!(ring.status().trimmed, Seq(2));
    assert_eq!(closed_account(&*ring).sinks.len(), 1);
    assert_eq!(ring.attach(&b, StartAt::Oldest).expect("attached").settled, Seq(2));
}

fn chains_and_values(make: MakeRing<'_>) {
    let ring = make(options());
    let one = ring.chain_append(Chain::Audit, b"one").expect("appended");
    let two = ring.chain_append(Chain::Audit, b"two").expect("appended");
    assert_eq!((one.number, two.number), (1, 2));
    assert_eq!(one.hash, crate::chain_link(&[0; 32], 1, b"one"));
    assert_eq!(two.hash, crate::chain_link(&one.hash, 2, b"two"));
    assert_eq!(ring.chain_read(Chain::Audit, 2, 10).expect("read"), [two]);
    assert_eq!(ring.chain_read(Chain::Receipts, 1, 10).expect("read"), []);
    assert_eq!(ring.chain_anchor(Chain::Audit).expect("read"), (0, [0; 32]));
    is_misuse(ring.chain_append(Chain::Audit, &vec![0; 65 << 10]));
    assert_eq!(ring.get("switch").expect("read"), None);
    ring.put("switch", Some(&vec![7; 64 << 10])).expect("stored");
    assert_eq!(ring.get("switch").expect("read"), Some(vec![7; 64 << 10]));
    is_misuse(ring.put("switch", Some(&vec![7; 65 << 10])));
    ring.put("switch", None).expect("removed");
    assert_eq!(ring.get("switch").expect("read"), None);
}

fn old_events_expire(make: MakeRing<'_>) {
    use std::sync::atomic::{AtomicI64, Ordering};
    static NOW: AtomicI64 = AtomicI64::new(0);
    const HOUR: i64 = 3_600_000_000_000;
    // one clock for all rings of the process that run this test: it only goes on
    let start = NOW.fetch_add(100 * HOUR, Ordering::SeqCst) + 100 * HOUR;
    let max_age = Some(std::time::Duration::from_secs(3600));
    let ring = make(RingOptions { max_age, now: || NOW.load(Ordering::SeqCst), ..options() });
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    append(&*ring, vec![block(&[2], 1), block(&[0], 2)]);
    assert!(ring.status().oldest_stored_ns >= Some(start));
    NOW.fetch_add(HOUR / 2, Ordering::SeqCst);
    append(&*ring, vec![block(&[3], 3)]);
    NOW.fetch_add(HOUR * 3 / 4, Ordering::SeqCst);
    append(&*ring, vec![block(&[3], 4)]);
    let read = read_all(&*ring, 0);
    assert_eq!(all_texts(&read), [text(3, 0), text(4, 0)]);
    assert_eq!(read.holes.iter().map(|h| h.events).sum::<u64>(), 2);
    assert_eq!(closed_account(&*ring).sinks[&sink].lost[&LossReason::Expired], [1, 0, 1, 0]);
}

fn too_large_is_refused(make: MakeRing<'_>) {
    let ring = make(options());
    let large = group(vec![sized_block(&[2], 1, 5 << 20)]);
    let refused = wait(ring.append(large)).expect_err("does not fit");
    assert!(matches!(refused, AppendError::TooLarge { .. }), "{refused:?}");
    let mut small = group(vec![block(&[2], 1)]);
    small.intake.positions.insert("s".into(), vec![0; Intake::MAX_POSITION + 1]);
    let refused = wait(ring.append(small)).expect_err("a position too long");
    assert!(matches!(refused, AppendError::TooLarge { .. }), "{refused:?}");
    assert_eq!(append(&*ring, vec![block(&[2], 1)]), range(1, 1));
}

fn a_closed_ring(make: MakeRing<'_>) {
    let ring = make(options());
    append(&*ring, vec![block(&[2], 1)]);
    ring.close().expect("closed");
    ring.close().expect("closed already");
    assert_eq!(wait(ring.append(group(vec![block(&[2], 1)]))).expect_err("closed"), AppendError::Closed);
    assert!(matches!(ring.read(Seq::ZERO, ALL_OF_IT), Err(RingError::Closed)));
    assert!(matches!(ring.put("k", None), Err(RingError::Closed)));
    assert_eq!(ring.watch().borrow().health, Health::Closed);
    assert_eq!(closed_account(&*ring).stored, [0, 0, 1, 0]);
}
