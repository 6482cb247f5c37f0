//! The ring over a disk that lies as far as it may, against a model of what must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;
use std::time::Duration;

use proptest::prelude::*;
use tidegate_proto::ids::{Seq, SinkId};
use tidegate_proto::level::TelemetryLevel;

use crate::disk::fake::FakeDisk;
use crate::store::SledRing;
use crate::testing::contract::{ALL_OF_IT, delivered};
use crate::testing::{Above, Random, block, group, sized_block, text, texts, wait};
use crate::{AppendError, Compression, FullPolicy, Health, Intake, Ring, RingOptions, StartAt, Ticket, runs};

#[derive(Clone, Debug)]
enum Action {
    Append {
        levels: Vec<u8>,
        blocks: u8,
        size: u16,
    },
    /// Waits for all tickets.
    Sync,
    /// Plans up to so many places, and settles the run or leaves it.
    Deliver {
        most: u8,
        settle: bool,
    },
    Purge,
    Put(u8),
    /// The power goes after so many more operations.
    PowerAfter(u8),
    FailSync,
    /// So much room is left on the disk.
    Room(Option<u16>),
    /// The power goes now, comes back, and the ring is opened.
    Crash(u64),
    /// Closed and opened in peace.
    Reopen,
    /// The clock goes on, or is set, by so many seconds.
    Clock(i32),
}

/// The clock of the rings here, in nanoseconds.
static NOW: AtomicI64 = AtomicI64::new(1 << 60);

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => (prop::collection::vec(0u8..4, 1..6), 1u8..3, 0u16..2000)
            .prop_map(|(levels, blocks, size)| Action::Append { levels, blocks, size }),
        4 => Just(Action::Sync),
        4 => (1u8..12, any::<bool>()).prop_map(|(most, settle)| Action::Deliver { most, settle }),
        1 => Just(Action::Purge),
        3 => any::<u8>().prop_map(Action::Put),
        2 => (1u8..40).prop_map(Action::PowerAfter),
        1 => Just(Action::FailSync),
        1 => prop::option::of(0u16..4000).prop_map(Action::Room),
        3 => any::<u64>().prop_map(Action::Crash),
        1 => Just(Action::Reopen),
    ]
}

/// For a ring that overflows: large events, and a clock that is set.
fn large_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => (prop::collection::vec(0u8..4, 1..6), 1u8..4, 2000u16..)
            .prop_map(|(levels, blocks, size)| Action::Append { levels, blocks, size }),
        2 => (-4000i32..4000).prop_map(Action::Clock),
        8 => action(),
    ]
}

/// A group that was handed over: its tag, its events' levels and block.
#[derive(Clone, Debug)]
struct Sent {
    tag: u64,
    events: Vec<(String, u8)>,
}

struct World {
    disk: FakeDisk,
    ring: Option<SledRing>,
    bound: u64,
    full: FullPolicy,
    max_age: Option<Duration>,
    tag: u64,
    waiting: Vec<(Sent, Ticket)>,
    /// Not known to be stored: told so when the power was gone, or not told at all.
    maybe: Vec<Sent>,
    /// Place → text and level of what is acknowledged.
    events: BTreeMap<u64, (String, u8)>,
    last_tag: u64,
    purged: BTreeSet<u64>,
    settled: Vec<runs::Run>,
    planned: BTreeMap<u64, u64>,
    value: Option<u8>,
}

fn sink() -> SinkId {
    SinkId::new("s")
}

impl World {
    fn new(bound: u64) -> World {
        World::with(bound, FullPolicy::DropOldest, None)
    }

    fn with(bound: u64, full: FullPolicy, max_age: Option<Duration>) -> World {
        let mut world = World {
            disk: FakeDisk::default(),
            ring: None,
            bound,
            full,
            max_age,
            tag: 1,
            waiting: Vec::new(),
            maybe: Vec::new(),
            events: BTreeMap::new(),
            last_tag: 0,
            purged: BTreeSet::new(),
            settled: Vec::new(),
            planned: BTreeMap::new(),
            value: None,
        };
        world.open();
        world
    }

    fn options(&self) -> RingOptions {
        RingOptions {
            bound_bytes: self.bound,
            segment_bytes: Some(64 << 10),
            commit_delay: Duration::ZERO,
            compression: Compression::None,
            retry: Duration::from_millis(1),
            full: self.full,
            max_age: self.max_age,
            now: || NOW.load(Ordering::SeqCst),
            ..RingOptions::default()
        }
    }

    fn open(&mut self) {
        let disk = Box::new(self.disk.clone());
        let ring = SledRing::over(disk, self.disk.book(), self.options(), None).expect("opened");
        ring.attach(&sink(), StartAt::Oldest).expect("attached");
        self.ring = Some(ring);
        self.check();
    }

    fn ring(&self) -> &SledRing {
        self.ring.as_ref().expect("open")
    }

    fn append(&mut self, levels: &[u8], blocks: u8, size: u16) {
        let tag = self.tag;
        self.tag += u64::from(blocks);
        let mut sent = Sent { tag: self.tag - 1, events: Vec::new() };
        let mut all = Vec::new();
        for n in 0..u64::from(blocks) {
            all.push(sized_block(levels, tag + n, usize::from(size)));
            sent.events.extend(levels.iter().enumerate().map(|(i, l)| (text(tag + n, i), *l)));
        }
        let mut group = group(all);
        group.intake.positions.insert("model".into(), sent.tag.to_be_bytes().to_vec());
        let done = match self.full {
            // one that has to wait is called off
            FullPolicy::Block => {
                let mut append = pin!(self.ring().append(group));
                wait(poll_fn(|cx| {
                    Poll::Ready(match append.as_mut().poll(cx) {
                        Poll::Ready(done) => Some(done),
                        Poll::Pending => None,
                    })
                }))
            }
            _ => Some(wait(self.ring().append(group))),
        };
        match done {
            Some(Ok(ticket)) => self.waiting.push((sent, ticket)),
            Some(Err(AppendError::ReadOnly(_))) | None => {}
            Some(Err(AppendError::Full)) if self.full == FullPolicy::DropNewest => {}
            Some(Err(e)) => panic!("{e}"),
        }
    }

    /// Whether the ring may let go of what was acknowledged.
    fn lets_go(&self) -> bool {
        self.max_age.is_some() || self.full == FullPolicy::DropOldest && self.bound < 8 << 20
    }

    fn sync(&mut self) {
        for (sent, ticket) in std::mem::take(&mut self.waiting) {
            match wait(ticket) {
                Ok(range) => {
                    let range = range.expect("events");
                    let next = self.events.last_key_value().map_or(1, |(p, _)| p + 1);
                    assert!(range.first().0 >= next, "places only go on");
                    assert_eq!(range.len(), sent.events.len() as u64);
                    self.acknowledged(range.first().0, sent);
                }
                Err(AppendError::ReadOnly(_)) => self.maybe.push(sent),
                Err(e) => panic!("{e}"),
            }
        }
    }

    fn acknowledged(&mut self, first: u64, sent: Sent) {
        self.last_tag = sent.tag;
        self.events.extend((first..).zip(sent.events));
    }

    fn deliver(&mut self, most: u8, settle: bool) {
        let mut after = self.settled.iter().map(|r| r.1).max().unwrap_or(0);
        after = after.max(self.planned.values().copied().max().unwrap_or(0));
        let run = match self.planned.first_key_value() {
            Some((first, last)) if settle => (*first, *last),
            _ => {
                let end = self.ring().status().durable.0.min(after + u64::from(most));
                if end <= after {
                    return;
                }
                let run = (after + 1, end);
                if self.ring().plan(&sink(), runs::range(run).expect("a run").into()).is_err() {
                    return;
                }
                self.planned.insert(run.0, run.1);
                run
            }
        };
        if !settle {
            return;
        }
        let Ok(read) = self.ring().read(Seq(run.0 - 1), ALL_OF_IT) else { return };
        let mut levels = [0u64; 4];
        for b in &read.blocks {
            let seqs = b.seqs.clone();
            let seqs = seqs.unwrap_or_else(|| (b.range.first().0..=b.range.last().0).map(Seq).collect());
            for seq in seqs.iter().filter(|s| run.0 <= s.0 && s.0 <= run.1) {
                levels[usize::from(self.events[&seq.0].1)] += 1;
            }
        }
        let range = runs::range(run).expect("a run");
        match self.ring().settle(&sink(), range.into(), &delivered(levels)) {
            Ok(_) => {
                self.planned.remove(&run.0);
                runs::add(&mut self.settled, run);
            }
            Err(crate::RingError::Misuse(e)) => panic!("{e}"),
            // it may have been written all the same
            Err(_) => {}
        }
    }

    fn purge(&mut self) {
        self.sync();
        let rule = Above(TelemetryLevel::Enhanced);
        let done = self.ring().purge(&rule);
        // what a purge that failed did until then stays done
        for (place, (_, level)) in &self.events {
            if *level == 3 {
                self.purged.insert(*place);
            }
        }
        if done.is_ok() {
            let files = self.disk.files();
            let len = text(0, 0).len();
            let there: BTreeSet<&[u8]> =
                files.values().flat_map(|f| f.windows(len)).filter(|w| w.starts_with(b"tag-")).collect();
            for (place, (text, level)) in &self.events {
                let found = there.contains(text.as_bytes());
                assert!(*level < 3 || !found, "purged event {place} can be read back");
            }
        }
    }

    fn crash(&mut self, seed: u64) {
        self.disk.power_off();
        self.sync_after_power_loss();
        self.ring = None;
        self.disk.power_on(&mut Random::new(seed));
        self.disk.set_capacity(None);
        self.open();
    }

    fn sync_after_power_loss(&mut self) {
        for (sent, ticket) in std::mem::take(&mut self.waiting) {
            match wait(ticket) {
                Ok(range) => self.acknowledged(range.expect("events").first().0, sent),
                Err(_) => self.maybe.push(sent),
            }
        }
    }

    fn reopen(&mut self) {
        self.sync();
        // with the power gone unnoticed, closing fails
        let closed = self.ring().close();
        self.ring = None;
        let mut random = Random::new(self.tag);
        if closed.is_err() {
            self.disk.power_off();
        }
        self.disk.power_on(&mut random);
        self.disk.set_capacity(None);
        self.open();
    }

    /// What must hold of a ring that was just opened.
    fn check(&mut self) {
        let ring = self.ring.take().expect("open");
        let account = ring.account();
        account.check().expect("the account closes");
        let status = ring.status();
        let read = ring.read(Seq::ZERO, ALL_OF_IT).expect("readable");
        assert_eq!(
            status.quarantined,
            Vec::<String>::new(),
            "nothing counts as damage: {account:?} {status:?} {:?} known {:?} maybe {:?}",
            read.holes,
            self.events,
            self.maybe
        );
        let mut held = BTreeMap::new();
        for b in &read.blocks {
            let seqs = b.seqs.clone();
            let seqs = seqs.unwrap_or_else(|| (b.range.first().0..=b.range.last().0).map(Seq).collect());
            held.extend(seqs.iter().map(|s| s.0).zip(texts(&b.data)));
        }
        // groups that were not acknowledged are there whole and in order, or not at all
        let mut next = self.events.last_key_value().map_or(1, |(p, _)| p + 1);
        for sent in std::mem::take(&mut self.maybe) {
            let there = (next..).zip(&sent.events).all(|(p, (text, _))| held.get(&p) == Some(text));
            if there {
                next += sent.events.len() as u64;
                self.acknowledged(next - sent.events.len() as u64, sent);
            }
        }
        assert_eq!(status.durable.0, next - 1, "places hold what was sent");
        assert_eq!(account.stored.iter().sum::<u64>(), next - 1);
        let position = ring.source_position("model").map(|p| u64::from_be_bytes(p.try_into().expect("8")));
        assert_eq!(position, (self.last_tag > 0).then_some(self.last_tag));
        let cursor = &status.cursors[&sink()];
        for (place, (text, level)) in &self.events {
            if *place <= status.trimmed.0 {
                continue;
            }
            match held.get(place) {
                Some(t) => assert_eq!(t, text),
                None => {
                    let hole = read.holes.iter().any(|h| h.range.contains(Seq(*place)));
                    assert!(hole, "place {place} is nowhere");
                    let purged = self.purged.contains(place);
                    assert!(purged || self.lets_go(), "{place} of level {level} is lost");
                }
            }
        }
        // settled and planned runs are what was answered, or what was on its way
        let settled: Vec<runs::Run> = cursor.ahead.iter().map(|r| runs::run(*r)).collect();
        for run in &self.settled {
            let there = run.1 <= cursor.settled.0 || runs::overlaps(&settled, *run);
            assert!(there, "{run:?} was settled");
        }
        self.settled = settled;
        if cursor.settled.0 > 0 {
            runs::add(&mut self.settled, (1, cursor.settled.0));
        }
        for (first, last) in &self.planned {
            let run = (*first, *last);
            let planned = cursor.planned.iter().any(|p| runs::run(p.range) == run);
            assert!(planned || runs::rest(run, 0, &self.settled).is_empty(), "{run:?} was planned");
        }
        self.planned = cursor.planned.iter().map(|p| runs::run(p.range)).collect();
        let value = ring.get("v").expect("readable");
        let kept = value.as_deref() == self.value.as_ref().map(std::slice::from_ref);
        assert!(kept || self.value.is_none() || value.is_some(), "a value is gone");
        self.ring = Some(ring);
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Append { levels, blocks, size } => self.append(levels, *blocks, *size),
            Action::Sync => self.sync(),
            Action::Deliver { most, settle } => {
                self.sync();
                self.deliver(*most, *settle);
            }
            Action::Purge => self.purge(),
            Action::Put(v) => {
                // large, so that the journal turns now and then
                self.ring().put("large", Some(&vec![*v; 30_000])).ok();
                if self.ring().put("v", Some(&[*v])).is_ok() {
                    self.value = Some(*v);
                }
            }
            Action::PowerAfter(n) => self.disk.power_off_after(u64::from(*n)),
            Action::FailSync => self.disk.fail_syncs(1),
            Action::Room(room) => {
                let used = self.disk.used();
                self.disk.set_capacity(room.map(|r| used + usize::from(r)));
            }
            Action::Crash(seed) => self.crash(*seed),
            Action::Reopen => self.reopen(),
            Action::Clock(seconds) => {
                NOW.fetch_add(i64::from(*seconds) * 1_000_000_000, Ordering::SeqCst);
            }
        }
        self.ring().account().check().expect("the account closes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_acknowledged_is_there_whatever_the_disk_did(
        actions in prop::collection::vec(action(), 1..60),
        seed in any::<u64>(),
    ) {
        let mut world = World::new(64 << 20);
        for action in &actions {
            world.act(action);
        }
        world.crash(seed);
        world.crash(seed ^ 1);
    }
}

const HOUR: Duration = Duration::from_secs(3600);

proptest! {
    #![proptest_config(ProptestConfig { cases: cases() / 2, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_ring_that_overflows_lets_go_of_is_counted_and_nothing_else_goes(
        actions in prop::collection::vec(large_action(), 20..80),
        full in prop_oneof![
            3 => Just(FullPolicy::DropOldest), 1 => Just(FullPolicy::Block), 1 => Just(FullPolicy::DropNewest),
        ],
        aged in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut world = World::with(4 << 20, full, aged.then_some(HOUR));
        for action in &actions {
            world.act(action);
        }
        world.crash(seed);
        if aged && full == FullPolicy::DropOldest {
            world.ages();
        }
    }
}

impl World {
    /// Whatever the clock said before: what is older than the limit goes.
    fn ages(&mut self) {
        for _ in 0..2 {
            self.append(&[2], 1, 0);
            self.sync();
            self.act(&Action::Clock(2 * 3600 + 600));
        }
        let last = self.tag;
        self.append(&[0], 1, 0);
        self.sync();
        let read = self.ring().read(Seq::ZERO, ALL_OF_IT).expect("readable");
        let held: Vec<String> = read.blocks.iter().flat_map(|b| texts(&b.data)).collect();
        let old: Vec<&String> = held.iter().filter(|t| **t != text(last, 0)).collect();
        assert!(old.is_empty(), "older than an hour: {old:?}");
    }
}

#[test]
fn the_small_model_evicts() {
    let mut world = World::with(4 << 20, FullPolicy::DropOldest, None);
    for _ in 0..40 {
        world.append(&[2, 0, 2], 2, 60_000);
        world.sync();
    }
    let account = world.ring().account();
    let lost = &account.sinks[&sink()].lost[&tidegate_proto::level::LossReason::Evicted];
    assert!(lost[2] > 50, "{lost:?}");
    world.crash(1);
    for full in [FullPolicy::Block, FullPolicy::DropNewest] {
        let mut world = World::with(4 << 20, full, None);
        for _ in 0..40 {
            world.append(&[2, 0, 2], 2, 60_000);
            world.sync();
        }
        assert!(world.events.len() < 40 * 6 && world.ring().account().sinks[&sink()].lost.is_empty());
        world.crash(1);
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|v| v.parse().ok()).unwrap_or(48)
}

#[test]
fn a_full_disk_makes_the_ring_read_only_until_there_is_room() {
    let mut world = World::new(64 << 20);
    world.append(&[2, 0], 1, 100);
    world.sync();
    world.disk.set_capacity(Some(world.disk.used() + 10));
    world.append(&[2, 2], 1, 1000);
    let (_, ticket) = world.waiting.pop().expect("a ticket");
    assert!(matches!(wait(ticket), Err(AppendError::ReadOnly(_))));
    let refused = wait(async { world.ring().append(group(vec![block(&[2], 9)])).await?.await });
    assert!(matches!(refused, Err(AppendError::ReadOnly(_))));
    assert!(matches!(world.ring().watch().borrow().health, Health::ReadOnly(_)));
    // reading and settling go on
    world.deliver(1, true);
    assert_eq!(world.settled, [(1, 1)]);
    let mut watch = world.ring().watch();
    world.disk.set_capacity(None);
    wait(watch.wait_for(|s| s.health == Health::Good)).expect("it recovers by itself");
    world.append(&[3], 1, 100);
    world.sync();
    assert_eq!(world.events.len(), 3);
    world.reopen();
}

#[test]
fn a_read_only_disk_is_reported_and_still_read() {
    let mut world = World::new(64 << 20);
    world.append(&[2, 0], 1, 100);
    world.sync();
    world.disk.set_read_only(true);
    world.append(&[2], 1, 1000);
    let (_, ticket) = world.waiting.pop().expect("a ticket");
    assert!(matches!(wait(ticket), Err(AppendError::ReadOnly(_))));
    assert_eq!(world.ring().read(Seq::ZERO, ALL_OF_IT).expect("readable").blocks.len(), 1);
    assert!(world.ring().plan(&sink(), runs::range((1, 1)).expect("a run").into()).is_err());
    // and opened again as it is
    world.ring = None;
    let disk = Box::new(world.disk.clone());
    let ring = SledRing::over(disk, world.disk.book(), world.options(), None).expect("opened");
    assert_eq!(ring.read(Seq::ZERO, ALL_OF_IT).expect("readable").blocks.len(), 1);
}

#[test]
fn a_group_without_events_counts_after_a_crash_too() {
    let mut world = World::new(64 << 20);
    let intake = Intake {
        read: 3,
        dropped: [(tidegate_proto::level::DropReason::Level, 3)].into(),
        ..Intake::default()
    };
    let nothing = crate::Group { blocks: Vec::new(), intake };
    let ticket = wait(world.ring().append(nothing)).expect("room");
    assert_eq!(wait(ticket), Ok(None));
    world.crash(1);
    assert_eq!(world.ring().account().read, 3);
}

#[test]
fn a_segment_that_was_dropped_is_not_taken_for_a_new_one() {
    for seed in 0..40 {
        let mut world = World::new(64 << 20);
        for _ in 0..3 {
            world.append(&[2], 1, 10);
            world.sync();
            world.deliver(1, true);
            world.crash(seed);
            world.append(&[2, 2], 1, 10);
            world.sync();
            world.crash(seed + 1);
        }
        assert_eq!(world.events.len(), 9);
    }
}

#[test]
fn a_purge_that_could_not_remove_a_settled_segment_does_not_say_that_it_did() {
    for operations in 1..20 {
        let mut world = World::new(64 << 20);
        world.append(&[3], 1, 0);
        world.sync();
        world.deliver(1, true);
        world.disk.power_off_after(operations);
        world.purge();
        world.crash(operations);
        world.purge();
    }
}
