use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tidegate_proto::ids::{Seq, SeqRange, SinkId};
use tidegate_ring::{
    Account, Chain, ChainEntry, Cursor, Lanes, MemoryRing, Part, PurgeRule, Purged, ReadLimit, RingError,
    RingOptions, Settlement, StartAt, State, Status, Ticket,
};
use tidegate_sources::{Outlet, intake as way_in};

use super::*;
use tidegate_proto::batch::Batch;

use crate::gate::level::Ceilings;
use crate::testing::{batch, number, push_sized, rules};

type Stored = Result<Option<SeqRange>, AppendError>;

/// A ring that fails when it is told to.
#[derive(Debug)]
struct Flaky {
    inner: Arc<dyn Ring>,
    /// Appends fail.
    read_only: AtomicBool,
    /// What appends are refused with, whatever the group holds.
    refuses: Mutex<Option<AppendError>>,
    refused: AtomicU64,
    /// So many of the next tickets fail.
    bad_tickets: AtomicU64,
    /// Tickets wait until they are let go.
    hold: AtomicBool,
    held: Mutex<Vec<oneshot::Sender<Stored>>>,
}

impl Flaky {
    fn new(options: RingOptions) -> Arc<Flaky> {
        Arc::new(Flaky {
            inner: MemoryRing::shared(options),
            read_only: AtomicBool::new(false),
            refuses: Mutex::default(),
            refused: AtomicU64::new(0),
            bad_tickets: AtomicU64::new(0),
            hold: AtomicBool::new(false),
            held: Mutex::default(),
        })
    }
}

impl Ring for Flaky {
    fn append(&self, group: Group) -> tidegate_ring::BoxFuture<'_, Result<Ticket, AppendError>> {
        Box::pin(async move {
            if self.read_only.load(Ordering::Relaxed) {
                return Err(AppendError::ReadOnly("no room left".into()));
            }
            if let Some(e) = self.refuses.lock().unwrap().clone() {
                // who asks without a pause would never let the test end
                assert!(self.refused.fetch_add(1, Ordering::Relaxed) < 1000, "asked again and again");
                return Err(e);
            }
            let (done, ticket) = oneshot::channel();
            let bad =
                self.bad_tickets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            if bad.is_ok() {
                let _ = done.send(Err(AppendError::ReadOnly("lost the disk".into())));
                return Ok(Ticket::new(ticket));
            }
            let outcome = self.inner.append(group).await?.await;
            if self.hold.load(Ordering::Relaxed) {
                // it is stored, but nobody says so yet
                self.held.lock().unwrap().push(done);
            } else {
                let _ = done.send(outcome);
            }
            Ok(Ticket::new(ticket))
        })
    }
    fn attach(&self, sink: &SinkId, start: StartAt) -> Result<Cursor, RingError> {
        self.inner.attach(sink, start)
    }
    fn detach(&self, sink: &SinkId) -> Result<(), RingError> {
        self.inner.detach(sink)
    }
    fn read(&self, after: Seq, limit: ReadLimit) -> Result<tidegate_ring::Read, RingError> {
        self.inner.read(after, limit)
    }
    fn losses(&self) -> u64 {
        self.inner.losses()
    }
    fn holes(&self, after: Seq) -> Vec<tidegate_ring::Hole> {
        self.inner.holes(after)
    }
    fn plan(&self, sink: &SinkId, part: Part) -> Result<(), RingError> {
        self.inner.plan(sink, part)
    }
    fn settle(&self, sink: &SinkId, part: Part, outcome: &Settlement) -> Result<Cursor, RingError> {
        self.inner.settle(sink, part, outcome)
    }
    fn split(&self, sink: &SinkId, part: Part, at: Seq) -> Result<(), RingError> {
        self.inner.split(sink, part, at)
    }
    fn divide(&self, sink: &SinkId, part: Part, lanes: Lanes) -> Result<(), RingError> {
        self.inner.divide(sink, part, lanes)
    }
    fn source_position(&self, source: &str) -> Option<Vec<u8>> {
        self.inner.source_position(source)
    }
    fn purge(&self, rule: &dyn PurgeRule) -> Result<Purged, RingError> {
        self.inner.purge(rule)
    }
    fn find(&self, rule: &dyn PurgeRule, each: &mut dyn FnMut(Seq, TelemetryLevel)) -> Result<(), RingError> {
        self.inner.find(rule, each)
    }
    fn chain_append(&self, chain: Chain, data: &[u8]) -> Result<ChainEntry, RingError> {
        self.inner.chain_append(chain, data)
    }
    fn chain_read(&self, chain: Chain, from: u64, most: usize) -> Result<Vec<ChainEntry>, RingError> {
        self.inner.chain_read(chain, from, most)
    }
    fn chain_anchor(&self, chain: Chain) -> Result<(u64, [u8; 32]), RingError> {
        self.inner.chain_anchor(chain)
    }
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, RingError> {
        self.inner.get(key)
    }
    fn put(&self, key: &str, value: Option<&[u8]>) -> Result<(), RingError> {
        self.inner.put(key, value)
    }
    fn account(&self) -> Account {
        self.inner.account()
    }
    fn status(&self) -> Status {
        self.inner.status()
    }
    fn watch(&self) -> watch::Receiver<State> {
        self.inner.watch()
    }
    fn close(&self) -> Result<(), RingError> {
        self.inner.close()
    }
}

struct Bench {
    ring: Arc<Flaky>,
    out: Outlet,
    in_force: watch::Sender<InForce>,
    commands: mpsc::Sender<Command>,
    counters: Arc<Counters>,
    task: tokio::task::JoinHandle<Result<(), IntakeError>>,
}

fn level(level: TelemetryLevel) -> InForce {
    let level = Ceilings { config: Some(level), ..Ceilings::default() }.in_force();
    InForce { level, carried_through: true, quiet: Default::default() }
}

fn bench(options: RingOptions, config: IntakeConfig) -> Bench {
    bench_with(options, config, SamplingRules::default())
}

fn bench_with(options: RingOptions, config: IntakeConfig, sampling: SamplingRules) -> Bench {
    let filters = Arc::new(Filters::new(rules(), Vec::new(), sampling).unwrap());
    bench_by(options, config, watch::channel(filters).1)
}

fn bench_by(options: RingOptions, config: IntakeConfig, filters: watch::Receiver<Arc<Filters>>) -> Bench {
    let ring = Flaky::new(options);
    let in_force = watch::Sender::new(level(TelemetryLevel::Full));
    let (commands, received) = mpsc::channel(1);
    let counters = Arc::new(Counters::default());
    let intake = way_in(config.queue);
    let out = intake.outlet("src");
    let task = tokio::spawn(run(Parts {
        intake: intake.seal(),
        filters,
        ring: Arc::clone(&ring) as Arc<dyn Ring>,
        in_force: in_force.subscribe(),
        commands: received,
        counters: Arc::clone(&counters),
        config,
        aggregates: None,
        apart: Apart::default(),
    }));
    Bench { ring, out, in_force, commands, counters, task }
}

fn stored(ring: &dyn Ring) -> Vec<u64> {
    let read = ring.read(Seq::ZERO, ReadLimit { bytes: u64::MAX, events: u64::MAX }).unwrap();
    let mut known = tidegate_proto::wire::SchemaInterner::new();
    let mut all = Batch::new();
    for block in read.blocks {
        let reader = tidegate_proto::wire::BlockReader::new(&block.data, &mut known).unwrap();
        reader.read_into(&mut all).unwrap();
    }
    let mut numbers: Vec<u64> = all.iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

fn closed(ring: &dyn Ring) -> Account {
    let account = ring.account();
    account.check().expect("the account closes");
    account
}

#[tokio::test(start_paused = true)]
async fn a_group_is_sealed_at_its_age_and_carries_the_position() {
    let b = bench(RingOptions::default(), IntakeConfig::default());
    b.out.send(batch(0..10, 2), vec![10]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(b.ring.source_position("src"), None, "it waits for company");
    b.out.send(batch(10..20, 1), vec![20]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(b.ring.source_position("src"), Some(vec![20]));
    assert_eq!(stored(&*b.ring), (0..20).collect::<Vec<_>>());
    assert_eq!(closed(&*b.ring).stored, [0, 10, 10, 0]);
    drop(b.out);
    b.task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_batch_larger_than_a_block_is_one_group_of_several() {
    let config = IntakeConfig { seal_bytes: 4 << 10, ..IntakeConfig::default() };
    let b = bench(RingOptions::default(), config);
    b.out.send(batch(0..2000, 2), vec![1]).await.unwrap();
    drop(b.out);
    b.task.await.unwrap().unwrap();
    let read = b.ring.read(Seq::ZERO, ReadLimit { bytes: u64::MAX, events: u64::MAX }).unwrap();
    assert!(read.blocks.len() > 5);
    assert!(read.blocks.iter().all(|b| b.data.len() < 5 << 10));
    assert_eq!(stored(&*b.ring).len(), 2000);
    assert_eq!(b.ring.source_position("src"), Some(vec![1]));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_too_large_is_dropped_and_counted() {
    let config = IntakeConfig { max_event: 2000, ..IntakeConfig::default() };
    let b = bench(RingOptions::default(), config);
    let mut mixed = batch(0..2, 2);
    push_sized(&mut mixed, 2, 2, 3000);
    push_sized(&mut mixed, 3, 2, 10);
    b.out.send(mixed, Vec::new()).await.unwrap();
    drop(b.out);
    b.task.await.unwrap().unwrap();
    assert_eq!(stored(&*b.ring), [0, 1, 3]);
    assert_eq!(closed(&*b.ring).dropped, BTreeMap::from([(DropReason::Oversize, 1)]));
}

#[tokio::test(start_paused = true)]
async fn while_the_ring_cannot_write_sources_wait_and_nothing_is_lost() {
    let b = bench(RingOptions::default(), IntakeConfig { queue: 1, ..IntakeConfig::default() });
    b.ring.read_only.store(true, Ordering::Relaxed);
    let out = b.out.clone();
    let sender = tokio::spawn(async move {
        for n in 0..400_u64 {
            out.send(batch(n * 50..n * 50 + 50, 2), n.to_le_bytes().to_vec()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(b.counters.trouble().unwrap().contains("no room left"));
    assert_eq!(b.counters.stored(), 0);
    b.ring.read_only.store(false, Ordering::Relaxed);
    sender.await.unwrap();
    drop(b.out);
    b.task.await.unwrap().unwrap();
    assert_eq!(stored(&*b.ring), (0..20_000).collect::<Vec<_>>());
    assert_eq!(closed(&*b.ring).dropped, BTreeMap::new());
    assert_eq!(b.counters.trouble(), None);
}

#[tokio::test(start_paused = true)]
async fn what_a_source_that_cannot_wait_loses_meanwhile_is_counted_as_ring_failed() {
    let config = IntakeConfig { queue: 1, seal_bytes: 4 << 10, ..IntakeConfig::default() };
    let b = bench(RingOptions::default(), config);
    b.ring.read_only.store(true, Ordering::Relaxed);
    for n in 0..200 {
        b.out.offer(batch(n * 50..n * 50 + 50, 2));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    b.ring.read_only.store(false, Ordering::Relaxed);
    drop(b.out);
    b.task.await.unwrap().unwrap();
    let account = closed(&*b.ring);
    assert_eq!(account.read, 10_000, "what was refused counts as read");
    assert!(account.dropped[&DropReason::RingFailed] > 0, "{account:?}");
}

#[tokio::test(start_paused = true)]
async fn groups_whose_tickets_fail_are_stored_again_in_order() {
    let b = bench(RingOptions::default(), IntakeConfig::default());
    b.ring.bad_tickets.store(3, Ordering::Relaxed);
    for n in 0..6_u8 {
        b.out.send(batch(u64::from(n) * 10..u64::from(n) * 10 + 10, 2), vec![n]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(70)).await;
    }
    drop(b.out);
    b.task.await.unwrap().unwrap();
    assert_eq!(stored(&*b.ring), (0..60).collect::<Vec<_>>());
    assert_eq!(b.ring.source_position("src"), Some(vec![5]));
    assert_eq!(closed(&*b.ring).read, 60, "each is counted once");
}

#[tokio::test(start_paused = true)]
async fn a_full_ring_that_keeps_the_old_counts_the_new_as_dropped() {
    let options = RingOptions {
        bound_bytes: RingOptions::MIN_BOUND,
        full: tidegate_ring::FullPolicy::DropNewest,
        ..RingOptions::default()
    };
    let b = bench(options, IntakeConfig::default());
    for n in 0..100 {
        let mut big = Batch::new();
        push_sized(&mut big, n, 2, 100_000);
        b.out.send(big, vec![n as u8]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    drop(b.out);
    b.task.await.unwrap().unwrap();
    let account = closed(&*b.ring);
    assert_eq!(account.read, 100);
    assert!(account.dropped[&DropReason::RingFull] > 0);
    assert_eq!(b.ring.source_position("src"), Some(vec![99]), "the source went on");
    assert_eq!(b.counters.dropped(DropReason::RingFull), account.dropped[&DropReason::RingFull]);
}

#[tokio::test(start_paused = true)]
async fn a_ring_that_refuses_an_account_too_is_asked_again_after_pauses() {
    let too_large = AppendError::TooLarge { bytes: 9, bound: 1 };
    for (refusal, reason) in [(AppendError::Full, DropReason::RingFull), (too_large, DropReason::Oversize)] {
        let b = bench(RingOptions::default(), IntakeConfig::default());
        *b.ring.refuses.lock().unwrap() = Some(refusal.clone());
        b.out.send(batch(0..10, 2), vec![1]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let refused = b.ring.refused.load(Ordering::Relaxed);
        assert!((3..30).contains(&refused), "{refusal}: asked {refused} times");
        assert_eq!(b.counters.dropped(reason), 10, "{refusal}");
        assert!(b.counters.trouble().is_some(), "{refusal}");
        *b.ring.refuses.lock().unwrap() = None;
        b.out.send(batch(10..20, 2), vec![2]).await.unwrap();
        tokio::time::sleep(PAUSE_MOST * 2).await;
        let account = closed(&*b.ring);
        assert_eq!((account.read, account.dropped), (20, BTreeMap::from([(reason, 10)])), "{refusal}");
        assert_eq!(stored(&*b.ring), (10..20).collect::<Vec<_>>());
        assert_eq!(b.ring.source_position("src"), Some(vec![2]));
        assert_eq!(b.counters.trouble(), None);
        drop(b.out);
        b.task.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_goes_on_behind_what_a_full_ring_refused() {
    let b = bench(RingOptions::default(), IntakeConfig::default());
    *b.ring.refuses.lock().unwrap() = Some(AppendError::Full);
    b.out.send(batch(0..10, 2), vec![1]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    *b.ring.refuses.lock().unwrap() = None;
    tokio::time::sleep(PAUSE_MOST).await;
    assert_eq!(b.ring.source_position("src"), Some(vec![1]), "its position was not given up");
    drop(b.out);
    b.task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn lowering_answers_when_all_that_was_on_its_way_is_in_the_ring() {
    let b = bench(RingOptions::default(), IntakeConfig::default());
    b.ring.hold.store(true, Ordering::Relaxed);
    b.out.send(batch(0..10, 3), vec![1]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    // these have not left the encoder
    b.out.send(batch(10..20, 3), vec![2]).await.unwrap();
    b.out.send(batch(20..25, 1), vec![3]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    b.in_force.send_replace(level(TelemetryLevel::Basic));
    let (done, mut answer) = oneshot::channel();
    b.commands.send(Command::Lower(TelemetryLevel::Basic, done)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(answer.try_recv().is_err(), "a group is on its way");
    b.ring.hold.store(false, Ordering::Relaxed);
    for done in b.ring.held.lock().unwrap().drain(..) {
        let _ = done.send(Ok(None));
    }
    answer.await.unwrap();
    drop(b.out);
    b.task.await.unwrap().unwrap();
    let kept = stored(&*b.ring);
    assert!(!kept.iter().any(|n| (10..20).contains(n)), "{kept:?}");
    assert!(kept.contains(&24));
    assert_eq!(closed(&*b.ring).dropped[&DropReason::Level], 10);
}

#[tokio::test(start_paused = true)]
async fn lowering_reaches_groups_that_wait_for_a_ring_that_cannot_write() {
    let b = bench(RingOptions::default(), IntakeConfig::default());
    b.ring.read_only.store(true, Ordering::Relaxed);
    b.out.send(batch(0..10, 3), vec![1]).await.unwrap();
    b.out.send(batch(10..15, 1), vec![2]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    b.in_force.send_replace(level(TelemetryLevel::Basic));
    let (done, answer) = oneshot::channel();
    b.commands.send(Command::Lower(TelemetryLevel::Basic, done)).await.unwrap();
    answer.await.unwrap();
    b.ring.read_only.store(false, Ordering::Relaxed);
    drop(b.out);
    b.task.await.unwrap().unwrap();
    assert_eq!(stored(&*b.ring), (10..15).collect::<Vec<_>>());
    assert_eq!(closed(&*b.ring).dropped, BTreeMap::from([(DropReason::Level, 10)]));
}

#[tokio::test(start_paused = true)]
async fn a_flush_is_answered_when_all_that_was_read_is_in_the_ring() {
    let config = IntakeConfig { seal_age: Duration::from_secs(3600), ..IntakeConfig::default() };
    let b = bench(RingOptions::default(), config);
    b.ring.read_only.store(true, Ordering::Relaxed);
    b.out.send(batch(0..10, 2), vec![1]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (done, mut answer) = oneshot::channel();
    b.commands.send(Command::Flush(done)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(answer.try_recv().is_err(), "the ring has not taken it");
    // what comes later is not waited for
    b.out.send(batch(10..20, 2), vec![2]).await.unwrap();
    b.ring.read_only.store(false, Ordering::Relaxed);
    answer.await.unwrap();
    assert_eq!(stored(&*b.ring), (0..10).collect::<Vec<_>>());
    // a ticket that fails has stored nothing: its group is on its way again
    b.ring.bad_tickets.store(1, Ordering::Relaxed);
    let (done, answer) = oneshot::channel();
    b.commands.send(Command::Flush(done)).await.unwrap();
    answer.await.unwrap();
    assert_eq!(stored(&*b.ring), (0..20).collect::<Vec<_>>());
    drop(b.out);
    b.task.await.unwrap().unwrap();
    closed(&*b.ring);
}

#[tokio::test(start_paused = true)]
async fn a_closed_ring_ends_the_intake_with_a_reason() {
    let b = bench(RingOptions::default(), IntakeConfig::default());
    b.ring.close().unwrap();
    b.out.send(batch(0..10, 2), vec![1]).await.unwrap();
    assert!(matches!(b.task.await.unwrap(), Err(IntakeError::Closed)));
}

fn sampled(rules: &str) -> SamplingRules {
    #[derive(serde::Deserialize)]
    struct All {
        sampling: Vec<crate::sampling::SampleRule>,
    }
    SamplingRules::new(toml::from_str::<All>(rules).unwrap().sampling, None)
}

#[tokio::test(start_paused = true)]
async fn a_sampled_share_is_kept_with_its_rate_and_the_rest_is_counted() {
    let rules = sampled("[[sampling]]\nevent = \"Tick\"\nkeep = 0.25");
    let bench = bench_with(RingOptions::default(), IntakeConfig::default(), rules);
    bench.out.send(batch(0..4000, 2), Vec::new()).await.unwrap();
    let Bench { ring, out, counters, task, .. } = bench;
    drop(out);
    task.await.unwrap().unwrap();
    let (kept, dropped) = (counters.stored(), counters.dropped(DropReason::Sample));
    assert!((800..1200).contains(&kept), "{kept}");
    assert_eq!((kept + dropped, counters.read()), (4000, 4000));
    ring.account().check().unwrap();
    let mut known = tidegate_proto::wire::SchemaInterner::new();
    for block in ring.read(Seq::ZERO, ReadLimit { bytes: 1 << 30, events: 1 << 30 }).unwrap().blocks {
        let reader = tidegate_proto::wire::BlockReader::new(&block.data, &mut known).unwrap();
        let mut events = Batch::new();
        reader.read_into(&mut events).unwrap();
        assert!(events.iter().all(|e| e.head().sample_ppm == 250_000));
    }
}

#[tokio::test(start_paused = true)]
async fn repeats_become_the_first_and_a_count_when_their_time_is_up() {
    let rules = sampled("[[sampling]]\nprovider = \"Test.*\"\nrepeats = \"10s\"");
    let bench = bench_with(RingOptions::default(), IntakeConfig::default(), rules);
    let mut same = Batch::new();
    for _ in 0..50 {
        crate::testing::push(&mut same, 7, 2);
    }
    bench.out.send(same, Vec::new()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    // told without anything more coming
    assert_eq!((bench.counters.read(), bench.counters.stored()), (51, 2));
    assert_eq!(bench.counters.dropped(DropReason::Sample), 49);
    let Bench { ring, out, task, .. } = bench;
    drop(out);
    task.await.unwrap().unwrap();
    ring.account().check().unwrap();
}

#[tokio::test(start_paused = true)]
async fn filters_that_are_exchanged_count_from_the_next_batch() {
    let (tell, filters) =
        watch::channel(Arc::new(Filters::new(rules(), Vec::new(), SamplingRules::default()).unwrap()));
    let bench = bench_by(RingOptions::default(), IntakeConfig::default(), filters);
    bench.out.send(batch(0..10, 2), Vec::new()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let off: crate::settings::OffRule = serde_json::from_str("{\"provider\": \"Test.*\"}").unwrap();
    let sampling = SamplingRules::default().with_off(vec![off]);
    tell.send_replace(Arc::new(Filters::new(rules(), Vec::new(), sampling).unwrap()));
    bench.out.send(batch(10..20, 0), Vec::new()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((bench.counters.stored(), bench.counters.dropped(DropReason::Rule)), (10, 10));
    assert!(Filters::new(rules(), vec!["nonsense".to_owned()], SamplingRules::default()).is_err());
}

#[tokio::test(start_paused = true)]
async fn what_happened_while_telemetry_was_disabled_is_not_gathered_later() {
    let bench = bench(RingOptions::default(), IntakeConfig::default());
    bench.in_force.send_modify(|f| f.quiet = Arc::from([(100, 200), (300, 400)]));
    // their numbers are their times
    bench.out.send(batch(50..450, 2), Vec::new()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((bench.counters.stored(), bench.counters.dropped(DropReason::Disabled)), (200, 200));
}
