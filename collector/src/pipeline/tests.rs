use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidegate_proto::ids::{Seq, SinkId};
use tidegate_proto::level::{DropReason, LossReason, TelemetryLevel};
use tidegate_ring::{
    Account, AppendError, Chain, ChainEntry, Cursor, Lanes, MemoryRing, Part, PurgeRule, Purged, ReadLimit,
    Ring, RingError, RingOptions, Settlement, StartAt, State, Status, Ticket,
};
use tidegate_sinks::{RejectReason, Rejected};
use tokio::sync::watch;

use super::*;
use crate::control::Who;
use crate::testing::{Answer, Counting, Fake, retry, rules};

mod gaps;
mod latency;
mod owed;
mod pause;

fn parts(ring: &Arc<dyn Ring>, source: Counting, sinks: &[&Arc<Fake>]) -> Parts {
    let sinks = sinks.iter().map(|s| SinkPart {
        sink: Arc::clone(s) as Arc<dyn Sink>,
        options: SinkOptions { seed: Some(1), ..SinkOptions::default() },
    });
    Parts {
        ring: Arc::clone(ring),
        rules: rules(),
        sources: vec![Box::new(source)],
        sinks: sinks.collect(),
        options: PipelineOptions { until: Until::Delivered, ..PipelineOptions::default() },
    }
}

/// Events delivered, but for the collector's own.
fn numbers(sink: &Fake) -> usize {
    sink.numbers().iter().filter(|n| **n != u64::MAX).count()
}

fn ring() -> Arc<dyn Ring> {
    MemoryRing::shared(RingOptions::default())
}

#[tokio::test(start_paused = true)]
async fn everything_read_is_delivered_to_every_sink_once_and_the_account_closes() {
    let ring = ring();
    let (a, b) = (Fake::fine("a"), Fake::fine("b"));
    let source = Counting { levels: vec![0, 1, 2, 3], ..Counting::new(0, 10_000) };
    let summary = Pipeline::start(parts(&ring, source, &[&a, &b])).await.unwrap().wait().await.unwrap();
    // Full is above the default level
    let want: Vec<u64> = (0..10_000).filter(|n| n % 4 != 3).collect();
    assert_eq!(a.numbers(), want);
    assert_eq!(b.numbers(), want);
    assert_eq!(a.seen.lock().unwrap().repeats, 0);
    assert_eq!(summary.run.read, 10_000);
    assert_eq!(summary.run.dropped[&DropReason::Level], 2500);
    assert_eq!(summary.run.stored, [2500, 2500, 2500, 0]);
    assert!(summary.complete(), "{summary}");
    assert_eq!(summary.account_error, None);
    let json = summary.to_json();
    assert_eq!(json["run"]["sinks"]["a"]["delivered"]["Basic"], 2500);
    assert_eq!(json["complete"], true);
    let shown = summary.to_string();
    assert!(shown.contains("sink a: delivered 7500") && shown.contains("the account closes"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_failing_sink_gets_all_in_the_end_and_holds_up_nobody() {
    let ring = ring();
    let bad =
        Fake::new("bad", |attempt, _| if attempt % 3 == 0 { Answer::Take } else { Answer::Fail(retry()) });
    let good = Fake::fine("good");
    let summary = Pipeline::start(parts(&ring, Counting::new(0, 5000), &[&bad, &good]))
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(bad.numbers(), (0..5000).collect::<Vec<_>>());
    assert_eq!(good.numbers(), (0..5000).collect::<Vec<_>>());
    assert!(summary.sinks["bad"].failures > 0);
    assert!(summary.complete());
}

#[tokio::test(start_paused = true)]
async fn what_a_stopped_run_leaves_the_next_one_delivers() {
    let ring: Arc<dyn Ring> = Arc::new(NeverClosed::new(MemoryRing::new(RingOptions::default())));
    let away = Fake::new("s", |_, _| Answer::Fail(retry()));
    let source = || Counting { pause: Duration::from_millis(10), ..Counting::new(0, 100_000) };
    let mut first = parts(&ring, source(), &[&away]);
    first.options.until = Until::Stopped;
    let running = Pipeline::start(first).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(running.progress().sources_running == 1);
    let handle = running.handle();
    assert!(handle.progress().sinks["s"].failures > 0);
    let begun = tokio::time::Instant::now();
    handle.stop(Duration::from_secs(3));
    let summary = running.wait().await.unwrap();
    assert!(begun.elapsed() <= Duration::from_secs(4), "{:?}", begun.elapsed());
    let read = summary.run.read;
    assert!(read > 0 && read < 100_000, "{read}");
    assert_eq!(summary.run.sinks.values().next().unwrap().held.iter().sum::<u64>(), read);
    assert!(!summary.complete() && summary.account_error.is_none());
    let back = Fake::fine("s");
    let next = parts(&ring, Counting { pause: Duration::ZERO, ..source().resumed(&*ring) }, &[&back]);
    let summary = Pipeline::start(next).await.unwrap().wait().await.unwrap();
    assert_eq!(back.numbers(), (0..100_000).collect::<Vec<_>>(), "each once, over both runs");
    assert!(summary.complete() && summary.total.read == 100_000, "{summary}");
}

/// A ring in memory that outlives its runs; so many purges fail.
#[derive(Debug)]
struct NeverClosed(MemoryRing, AtomicU64);

impl NeverClosed {
    fn new(ring: MemoryRing) -> NeverClosed {
        NeverClosed(ring, AtomicU64::new(0))
    }
}

impl Ring for NeverClosed {
    fn append(
        &self,
        group: tidegate_ring::Group,
    ) -> tidegate_ring::BoxFuture<'_, Result<Ticket, AppendError>> {
        self.0.append(group)
    }
    fn attach(&self, sink: &SinkId, start: StartAt) -> Result<Cursor, RingError> {
        self.0.attach(sink, start)
    }
    fn detach(&self, sink: &SinkId) -> Result<(), RingError> {
        self.0.detach(sink)
    }
    fn read(&self, after: Seq, limit: ReadLimit) -> Result<tidegate_ring::Read, RingError> {
        self.0.read(after, limit)
    }
    fn losses(&self) -> u64 {
        self.0.losses()
    }
    fn holes(&self, after: Seq) -> Vec<tidegate_ring::Hole> {
        self.0.holes(after)
    }
    fn plan(&self, sink: &SinkId, part: Part) -> Result<(), RingError> {
        self.0.plan(sink, part)
    }
    fn settle(&self, sink: &SinkId, part: Part, outcome: &Settlement) -> Result<Cursor, RingError> {
        self.0.settle(sink, part, outcome)
    }
    fn split(&self, sink: &SinkId, part: Part, at: Seq) -> Result<(), RingError> {
        self.0.split(sink, part, at)
    }
    fn divide(&self, sink: &SinkId, part: Part, lanes: Lanes) -> Result<(), RingError> {
        self.0.divide(sink, part, lanes)
    }
    fn source_position(&self, source: &str) -> Option<Vec<u8>> {
        self.0.source_position(source)
    }
    fn purge(&self, rule: &dyn PurgeRule) -> Result<Purged, RingError> {
        let fails = self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
        if fails {
            let source = std::io::ErrorKind::StorageFull.into();
            return Err(RingError::Io { what: "rewrite 0001.seg".to_owned(), source });
        }
        self.0.purge(rule)
    }
    fn find(&self, rule: &dyn PurgeRule, each: &mut dyn FnMut(Seq, TelemetryLevel)) -> Result<(), RingError> {
        self.0.find(rule, each)
    }
    fn chain_append(&self, chain: Chain, data: &[u8]) -> Result<ChainEntry, RingError> {
        self.0.chain_append(chain, data)
    }
    fn chain_read(&self, chain: Chain, from: u64, most: usize) -> Result<Vec<ChainEntry>, RingError> {
        self.0.chain_read(chain, from, most)
    }
    fn chain_anchor(&self, chain: Chain) -> Result<(u64, [u8; 32]), RingError> {
        self.0.chain_anchor(chain)
    }
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, RingError> {
        self.0.get(key)
    }
    fn put(&self, key: &str, value: Option<&[u8]>) -> Result<(), RingError> {
        self.0.put(key, value)
    }
    fn account(&self) -> Account {
        self.0.account()
    }
    fn status(&self) -> Status {
        self.0.status()
    }
    fn watch(&self) -> watch::Receiver<State> {
        self.0.watch()
    }
    fn close(&self) -> Result<(), RingError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn lowering_the_level_purges_before_anything_more_is_sent() {
    let ring = ring();
    // nothing goes out until the level is lowered
    let open = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let gate = Arc::clone(&open);
    let sink =
        Fake::new("s", move |_, _| if gate.load(Ordering::Relaxed) { Answer::Take } else { Answer::Hang });
    let source = Counting { levels: vec![1, 2], pause: Duration::from_millis(20), ..Counting::new(0, 2000) };
    let running = Pipeline::start(parts(&ring, source, &[&sink])).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let handle = running.handle();
    let control = Arc::clone(handle.control());
    open.store(true, Ordering::Relaxed);
    control.set_level(Some(TelemetryLevel::Basic), &Who("test".into())).await.unwrap();
    let held = ring.read(Seq::ZERO, ReadLimit { bytes: u64::MAX, events: u64::MAX });
    for block in held.unwrap().blocks {
        assert_eq!(
            block.class,
            tidegate_proto::level::Class::Critical,
            "nothing of Enhanced can be read back"
        );
    }
    let audit = ring.chain_read(Chain::Audit, 1, 10).unwrap();
    let last: serde_json::Value = serde_json::from_slice(&audit.last().unwrap().data).unwrap();
    assert_eq!((last["who"].as_str(), last["to"]["level"].as_u64()), (Some("test"), Some(1)));
    let summary = running.wait().await.unwrap();
    assert!(!sink.seen.lock().unwrap().levels.contains(&Some(2)));
    assert_eq!(numbers(&sink), 1000);
    let account = &summary.run.sinks.values().next().unwrap();
    assert!(account.lost[&LossReason::Purged][2] > 0, "{summary}");
    assert!(summary.run.dropped[&DropReason::Level] > 0);
    assert_eq!(summary.account_error, None);
}

#[tokio::test(start_paused = true)]
async fn disabled_nothing_is_gathered_and_nothing_leaves_until_it_is_enabled() {
    let ring = ring();
    let sink = Fake::fine("s");
    let source = Counting { pause: Duration::from_millis(10), ..Counting::new(0, 10_000) };
    let running = Pipeline::start(parts(&ring, source, &[&sink])).await.unwrap();
    let handle = running.handle();
    let who = Who("test".into());
    tokio::time::sleep(Duration::from_millis(300)).await;
    handle.control().set_enabled(false, &who).await.unwrap();
    let before = sink.numbers().len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(sink.numbers().len(), before, "nothing leaves");
    assert_eq!(ring.get("telemetry.enabled").unwrap(), Some(b"0".to_vec()), "and it holds over a restart");
    handle.control().set_enabled(true, &who).await.unwrap();
    let summary = running.wait().await.unwrap();
    let disabled = summary.run.dropped[&DropReason::Disabled];
    assert!(disabled > 0);
    assert_eq!(sink.numbers().len() as u64, 10_000 - disabled);
    assert!(summary.complete());
}

#[tokio::test(start_paused = true)]
async fn two_of_one_name_are_refused() {
    let ring = ring();
    let (a, b) = (Fake::fine("a"), Fake::fine("a"));
    let e = Pipeline::start(parts(&ring, Counting::new(0, 1), &[&a, &b])).await.unwrap_err();
    assert!(e.to_string().contains("two sinks called \"a\""), "{e}");
    let mut p = parts(&ring, Counting { name: OWN_SOURCE.into(), ..Counting::new(0, 1) }, &[]);
    p.sinks.clear();
    assert!(matches!(Pipeline::start(p).await.unwrap_err(), StartError::OwnName(_)));
}

#[tokio::test(start_paused = true)]
async fn the_collector_tells_about_itself_on_the_same_way() {
    let ring = ring();
    let sink = Fake::fine("s");
    let source = Counting { pause: Duration::from_secs(1), ..Counting::new(0, 100_000) };
    let mut p = parts(&ring, source, &[&sink]);
    p.options.own_events = Some(Duration::from_secs(60));
    p.options.until = Until::Stopped;
    let running = Pipeline::start(p).await.unwrap();
    tokio::time::sleep(Duration::from_secs(200)).await;
    let summary = running.stop(Duration::from_secs(5)).await.unwrap();
    let own = sink.numbers().iter().filter(|n| **n == u64::MAX).count();
    assert_eq!(own, 1, "the settings begin with a text");
    assert_eq!(summary.run.read as usize, sink.numbers().len());
    assert!(summary.account_error.is_none());
}

/// How often a text is in the files of a folder.
fn grep(folder: &std::path::Path, text: &[u8]) -> usize {
    let mut found = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found += grep(&path, text);
        } else if let Ok(bytes) = std::fs::read(&path) {
            found += bytes.windows(text.len()).filter(|w| *w == text).count();
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_above_a_lowered_level_is_left_in_the_files_of_the_ring() {
    let dir = tempfile::tempdir().unwrap();
    let options = RingOptions {
        compression: tidegate_ring::Compression::None,
        commit_delay: Duration::from_millis(2),
        ..RingOptions::default()
    };
    let ring = tidegate_ring::SledRing::open(&dir.path().join("ring"), options).unwrap();
    let ring: Arc<dyn Ring> = Arc::new(ring);
    let away = Fake::new("s", |_, _| Answer::Fail(retry()));
    let source = Counting { levels: vec![1, 2, 3], ..Counting::new(0, 3000) };
    let mut p = parts(&ring, source, &[&away]);
    p.options.level = Some(TelemetryLevel::Full);
    let running = Pipeline::start(p).await.unwrap();
    while running.progress().stored < 3000 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(grep(dir.path(), b"text of level 3") > 0 && grep(dir.path(), b"text of level 2") > 0);
    let who = Who("test".into());
    running.handle().control().set_level(Some(TelemetryLevel::Basic), &who).await.unwrap();
    assert_eq!(grep(dir.path(), b"text of level 3"), 0);
    assert_eq!(grep(dir.path(), b"text of level 2"), 0);
    assert!(grep(dir.path(), b"text of level 1") > 0);
    let summary = running.stop(Duration::ZERO).await.unwrap();
    // a run that was under way counts them itself
    let mut gone = [0; 4];
    for (reason, levels) in &summary.run.sinks.values().next().unwrap().lost {
        assert!(matches!(reason, LossReason::Purged | LossReason::Level), "{reason}");
        gone.iter_mut().zip(levels).for_each(|(sum, n)| *sum += n);
    }
    assert_eq!(gone, [0, 0, 1000, 1000]);
    assert_eq!(summary.account_error, None);
    // and the next start holds to it
    drop((ring, away));
    let ring = tidegate_ring::SledRing::open(&dir.path().join("ring"), RingOptions::default()).unwrap();
    let ring: Arc<dyn Ring> = Arc::new(ring);
    let back = Fake::fine("s");
    let mut p = parts(&ring, Counting::new(0, 0), &[&back]);
    p.options.level = Some(TelemetryLevel::Full);
    Pipeline::start(p).await.unwrap().wait().await.unwrap();
    assert!(back.seen.lock().unwrap().levels.iter().all(|l| *l <= Some(1)));
    assert_eq!(numbers(&back), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_level_lowered_while_nothing_ran_is_carried_through_at_the_start() {
    let ring = MemoryRing::new(RingOptions::default());
    let ring: Arc<dyn Ring> = Arc::new(NeverClosed::new(ring));
    let away = Fake::new("s", |_, _| Answer::Fail(retry()));
    let source = Counting { levels: vec![1, 3], ..Counting::new(0, 1000) };
    let mut p = parts(&ring, source, &[&away]);
    p.options.level = Some(TelemetryLevel::Full);
    let running = Pipeline::start(p).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    running.stop(Duration::ZERO).await.unwrap();
    let back = Fake::fine("s");
    let mut p = parts(&ring, Counting::new(0, 0), &[&back]);
    p.options.level = Some(TelemetryLevel::Basic);
    let running = Pipeline::start(p).await.unwrap();
    let lost = ring.account().sinks.values().next().unwrap().lost.clone();
    assert_eq!(lost[&LossReason::Purged], [0, 0, 0, 500], "before anything is sent");
    running.wait().await.unwrap();
    assert_eq!(numbers(&back), 500);
}

#[tokio::test(start_paused = true)]
async fn a_lowered_level_removes_dead_letters_above_it_at_once_and_at_a_start() {
    let ring = MemoryRing::new(RingOptions::default());
    let ring: Arc<dyn Ring> = Arc::new(NeverClosed::new(ring));
    let dir = tempfile::tempdir().unwrap();
    let dead = dir.path().join("dead/s.jsonl");
    let sink = Fake::new("s", |_, batch| {
        let refuse = |(seq, _)| Rejected { seq, reason: RejectReason::Invalid, detail: "no".into() };
        Answer::TakeBut(batch.iter().step_by(7).map(refuse).collect())
    });
    let parts = |level| {
        let source = Counting { levels: vec![1, 2, 3], ..Counting::new(0, 300) };
        let mut p = parts(&ring, source, &[&sink]);
        p.options.level = Some(level);
        p.options.until = Until::Stopped;
        p.sinks[0].options.dead_letters = Some(dead.clone());
        p
    };
    let levels = || {
        let text = std::fs::read_to_string(&dead).unwrap();
        let levels = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        levels.map(|l| l["telemetryLevel"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let told = || {
        let audit = ring.chain_read(Chain::Audit, 1, 100).unwrap();
        let mut entries = audit.iter().map(|e| serde_json::from_slice::<serde_json::Value>(&e.data).unwrap());
        entries.rfind(|e| e["what"] == "level").unwrap()
    };
    let running = Pipeline::start(parts(TelemetryLevel::Full)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(["Basic", "Enhanced", "Full"].iter().all(|l| levels().iter().any(|k| k == l)), "{:?}", levels());
    let full = levels().iter().filter(|l| *l == "Full").count();
    running.handle().control().set_level(Some(TelemetryLevel::Enhanced), &Who("test".into())).await.unwrap();
    assert!(levels().iter().all(|l| l != "Full") && levels().iter().any(|l| l == "Enhanced"));
    assert_eq!(told()["dead_letters"], full);
    running.stop(Duration::ZERO).await.unwrap();
    let enhanced = levels().iter().filter(|l| *l == "Enhanced").count();

    let running = Pipeline::start(parts(TelemetryLevel::Basic)).await.unwrap();
    assert_eq!(told()["dead_letters"], enhanced);
    assert!(!levels().is_empty() && levels().iter().all(|l| l == "Basic"));
    running.stop(Duration::ZERO).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn disabling_stops_the_sources_and_enabling_lets_them_go_on_where_they_stood() {
    let ring = ring();
    let sink = Fake::fine("a");
    let source = || Counting { pause: Duration::from_millis(100), step: 10, ..Counting::new(1, 1_000_001) };
    let mut parts = parts(&ring, source(), &[&sink]);
    parts.options.until = Until::Stopped;
    let remake = Remake::new(move |position| {
        let from = u64::from_le_bytes(position.unwrap().try_into().unwrap());
        Ok(Box::new(Counting { from, ..source() }))
    });
    parts.options.remake.insert("count".to_owned(), remake);
    let running = Pipeline::start(parts).await.unwrap();
    let (handle, who) = (running.handle(), Who("me".to_owned()));
    tokio::time::sleep(Duration::from_secs(10)).await;
    handle.control().set_enabled(false, &who).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (read, delivered) = (handle.progress().read, sink.numbers().len());
    assert!(read > 500 && handle.progress().sources_running == 0, "{:?}", handle.progress());
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((handle.progress().read, sink.numbers().len()), (read, delivered));
    handle.control().set_enabled(true, &who).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(handle.progress().sources_running, 1);
    let summary = running.stop(Duration::from_secs(60)).await.unwrap();
    assert_eq!(summary.account_error, None);
    let numbers = sink.numbers();
    assert!(numbers.len() > delivered + 500);
    // none twice, and the only ones left out were on their way when it was disabled
    let lost = summary.total.dropped.get(&DropReason::Disabled).copied().unwrap_or(0);
    assert_eq!(numbers.last().unwrap() - numbers.first().unwrap() + 1, numbers.len() as u64 + lost);
    assert_eq!(sink.seen.lock().unwrap().repeats, 0);
}

/// A source of 100 events, in a collector that starts disabled and so makes nothing anew.
fn disabled_parts(ring: &Arc<dyn Ring>, sink: &Arc<Fake>) -> Parts {
    let mut parts = parts(ring, Counting::new(0, 100), &[sink]);
    parts.options.until = Until::Stopped;
    parts.options.remake.insert("count".to_owned(), Remake::new(|_| unreachable!("it never ran")));
    parts
}

#[tokio::test(start_paused = true)]
async fn disabled_at_the_start_no_source_runs_until_it_is_enabled() {
    let ring = ring();
    ring.put("telemetry.enabled", Some(b"0")).unwrap();
    let sink = Fake::fine("a");
    let running = Pipeline::start(disabled_parts(&ring, &sink)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((running.progress().read, running.progress().sources_running), (0, 0));
    running.handle().control().set_enabled(true, &Who("me".to_owned())).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(sink.numbers().len(), 100);
    let summary = running.stop(Duration::from_secs(10)).await.unwrap();
    assert!(summary.sources.iter().all(|s| !s.stopped), "its input had ended");
}

#[tokio::test(start_paused = true)]
async fn a_ring_that_may_have_lost_the_switch_starts_disabled_until_someone_enables() {
    let ring = ring();
    ring.put("telemetry.enabled", Some(b"1")).unwrap();
    ring.put(tidegate_ring::UNSURE, Some(b"1")).unwrap();
    let sink = Fake::fine("a");
    let running = Pipeline::start(disabled_parts(&ring, &sink)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(running.progress().read, 0);
    assert!(ring.get(tidegate_ring::UNSURE).unwrap().is_some(), "another start is disabled too");
    running.handle().control().set_enabled(true, &Who("me".to_owned())).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(sink.numbers().len(), 100);
    assert_eq!(ring.get(tidegate_ring::UNSURE).unwrap(), None);
    running.stop(Duration::from_secs(10)).await.unwrap();
}

/// Rules that call every event of the tests Enhanced; with `more` of the catalogue.
fn rules_with(scrub: bool, more: &str) -> Arc<Rules> {
    let text = format!("version = 1\n{more}\n[scrub]\nemail = \"mask\"\n");
    let builder = Rules::empty_builder().catalogue("test", &text).unwrap();
    Arc::new(builder.default_level(TelemetryLevel::Basic).scrub(scrub).build().unwrap())
}

/// Runs until the first ring group is stored, with a sink that takes nothing.
async fn stored_under(ring: &Arc<dyn Ring>, rules: Arc<Rules>, level: TelemetryLevel) {
    let away = Fake::new("s", |_, _| Answer::Fail(retry()));
    let mut p = parts(ring, Counting::new(0, 100), &[&away]);
    (p.rules, p.options.level, p.options.until) = (rules, Some(level), Until::Stopped);
    let running = Pipeline::start(p).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    running.stop(Duration::ZERO).await.unwrap();
}

/// Delivers what is there under other rules: texts delivered, and the account.
async fn delivered_under(
    ring: &Arc<dyn Ring>,
    rules: Arc<Rules>,
    level: TelemetryLevel,
) -> (Vec<String>, Account) {
    let texts = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&texts);
    let back = Fake::new("s", move |_, batch| {
        for (_, event) in batch.iter() {
            let fields = event.fields().skip(1).map(|f| format!("{:?}", f.value));
            seen.lock().unwrap().push(fields.collect::<String>());
        }
        Answer::Take
    });
    let mut p = parts(ring, Counting::new(0, 0), &[&back]);
    (p.rules, p.options.level) = (rules, Some(level));
    let summary = Pipeline::start(p).await.unwrap().wait().await.unwrap();
    assert!(summary.account_error.is_none(), "{summary}");
    let texts = std::mem::take(&mut *texts.lock().unwrap());
    (texts, summary.total)
}

#[tokio::test(start_paused = true)]
async fn what_stricter_rules_would_not_have_stored_does_not_leave_either() {
    let (full, basic) = (TelemetryLevel::Full, TelemetryLevel::Basic);
    let loose = || rules_with(false, "");
    let new_ring =
        || -> Arc<dyn Ring> { Arc::new(NeverClosed::new(MemoryRing::new(RingOptions::default()))) };
    for (rules, level, texts, lost) in [
        // nothing has changed
        (loose(), full, Some("Str(\"text of level 2\")"), None),
        // a rule drops them now
        (
            rules_with(false, "[[rule]]\nname = \"x\"\nprovider = \"Test.*\"\ndrop = true"),
            full,
            None,
            Some(LossReason::Rule),
        ),
        // or wants a higher level
        (
            rules_with(false, "[[rule]]\nname = \"x\"\nprovider = \"Test.*\"\nlevel = \"Full\""),
            basic,
            None,
            Some(LossReason::Level),
        ),
        // a field is left out
        (rules_with(true, "[[field]]\nname = \"text\"\naction = \"drop\""), full, Some(""), None),
        // or masked
        (
            rules_with(true, "[[field]]\nname = \"text\"\nkind = \"user\"\naction = \"mask\""),
            full,
            Some("Str(\"<user>\")"),
            None,
        ),
        // or has a level of its own
        (rules_with(false, "[[field]]\nname = \"text\"\nlevel = \"Full\""), basic, Some(""), None),
    ] {
        let ring = new_ring();
        stored_under(&ring, loose(), full).await;
        let (found, account) = delivered_under(&ring, rules, level).await;
        match texts {
            Some(text) => assert_eq!(found, vec![text.to_owned(); 100]),
            None => assert_eq!(found, Vec::<String>::new()),
        }
        let sink = account.sinks.values().next().unwrap();
        let want = lost.map(|reason| (reason, [0, 100, 0, 0]));
        assert_eq!(sink.lost.clone().into_iter().collect::<Vec<_>>(), want.into_iter().collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_field_above_a_lowered_level_does_not_leave_though_the_rules_are_the_same() {
    let rules = || rules_with(false, "[[field]]\nname = \"text\"\nlevel = \"Full\"");
    let ring: Arc<dyn Ring> = Arc::new(NeverClosed::new(MemoryRing::new(RingOptions::default())));
    stored_under(&ring, rules(), TelemetryLevel::Full).await;
    let (found, _) = delivered_under(&ring, rules(), TelemetryLevel::Basic).await;
    assert_eq!(found, vec![String::new(); 100]);
}
