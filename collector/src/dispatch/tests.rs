use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidegate_proto::ids::{Seq, SeqRange};
use tidegate_proto::level::{LossReason, TelemetryLevel};
use tidegate_ring::testing::{block, group, sized_block, wait};
use tidegate_ring::{Chain, MemoryRing, Ring, RingOptions, SinkAccount, StartAt};
use tidegate_sinks::{DeliverError, Origin, RejectReason, Rejected, Sink};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::{FilterConfig, Order};
use crate::control::InForce;
use crate::gate::level::Ceilings;
use crate::testing::{Answer, Fake, retry};

mod failures;
mod latency;
mod metered;
mod staged;

fn in_force(level: TelemetryLevel) -> InForce {
    let level = Ceilings { config: Some(level), ..Ceilings::default() }.in_force();
    InForce { level, carried_through: true, quiet: Default::default() }
}

/// A ring with dispatchers.
struct Bench {
    ring: Arc<dyn Ring>,
    in_force: watch::Sender<InForce>,
    sending: Arc<RwLock<()>>,
    phase: watch::Sender<Phase>,
    abort: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    workshop: Arc<Workshop>,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(RingOptions::default())
    }

    fn with(options: RingOptions) -> Bench {
        Bench {
            ring: MemoryRing::shared(options),
            in_force: watch::Sender::new(in_force(TelemetryLevel::Full)),
            sending: Arc::default(),
            phase: watch::Sender::new(Phase::Running),
            abort: CancellationToken::new(),
            tasks: Vec::new(),
            workshop: Arc::new(Workshop::new(1)),
        }
    }

    async fn append(&self, blocks: u64, levels: &[u8]) {
        for tag in 0..blocks {
            let made = sized_block(levels, tag, 20);
            self.ring.append(group(vec![made])).await.unwrap().await.unwrap();
        }
    }

    fn serve(&mut self, sink: &Arc<Fake>, options: SinkOptions) -> Arc<Stats> {
        self.serve_any(Arc::clone(sink) as Arc<dyn Sink>, options)
    }

    fn serve_any(&mut self, sink: Arc<dyn Sink>, options: SinkOptions) -> Arc<Stats> {
        let (dispatcher, stats) = self.dispatcher(sink, options);
        self.tasks.push(tokio::spawn(dispatcher.run()));
        stats
    }

    fn dispatcher(&self, sink: Arc<dyn Sink>, options: SinkOptions) -> (Dispatcher, Arc<Stats>) {
        let stats = Arc::new(Stats::default());
        let dispatcher = Dispatcher::new(Parts {
            sink,
            dead: options.letters(),
            options,
            ring: Arc::clone(&self.ring),
            origin: Arc::new(Origin {
                host: "h".into(),
                stream: "events".into(),
                epoch: self.ring.status().epoch,
            }),
            in_force: self.in_force.subscribe(),
            rules: None,
            sending: Arc::clone(&self.sending),
            phase: self.phase.subscribe(),
            abort: self.abort.clone(),
            stats: Arc::clone(&stats),
            workshop: Arc::clone(&self.workshop),
        });
        (dispatcher.unwrap(), stats)
    }

    /// Lets the sinks take all there is.
    async fn finish(&mut self) {
        self.phase.send_replace(Phase::Finish);
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
        self.phase.send_replace(Phase::Running);
    }

    fn account(&self, sink: &Fake) -> SinkAccount {
        let account = self.ring.account();
        account.check().expect("the account closes");
        account.sinks[sink.id()].clone()
    }
}

fn options() -> SinkOptions {
    SinkOptions { seed: Some(7), ..SinkOptions::default() }
}

fn places(sink: &Fake) -> Vec<u64> {
    sink.seen.lock().unwrap().events.keys().map(|s| s.0).collect()
}

fn ranges(sink: &Fake) -> Vec<(u64, u64)> {
    sink.seen.lock().unwrap().ranges.clone()
}

/// The test of the way out: one sink hangs, one refuses, one is slow, one is fine, for ten
/// minutes.
#[tokio::test(start_paused = true)]
async fn for_ten_minutes_no_sink_holds_up_another() {
    let mut bench = Bench::new();
    let hanging = Fake::new("hanging", |_, _| Answer::Hang);
    let refusing = Fake::new("refusing", |_, _| Answer::Fail(retry()));
    let slow = Fake::new("slow", |_, _| Answer::TakeAfter(Duration::from_secs(20)));
    let fine = Fake::fine("fine");
    for sink in [&hanging, &refusing, &slow, &fine] {
        bench.serve(sink, options());
    }
    let begun = Instant::now();
    let mut appended = 0;
    while begun.elapsed() < Duration::from_secs(600) {
        bench.append(1, &[2; 50]).await;
        appended += 50;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(places(&fine).len(), appended, "the fine one has everything");
    assert_eq!(fine.seen.lock().unwrap().repeats, 0);
    // four at a time, twenty seconds each, a batch a second waits: all of it in the end
    assert!(places(&slow).len() as u64 >= 4 * 28, "{}", places(&slow).len());
    assert_eq!(places(&hanging).len() + places(&refusing).len(), 0);
    let attempts = refusing.seen.lock().unwrap().at.clone();
    let within = |from: u64, seconds| {
        let from = begun + Duration::from_secs(from);
        attempts.iter().filter(|t| (from..from + Duration::from_secs(seconds)).contains(t)).count()
    };
    for minute in 0..10 {
        assert!(within(60 * minute, 60) <= 30, "hot in minute {minute}");
    }
    for minute in 0..8 {
        assert!(within(60 * minute, 180) >= 1, "silent from minute {minute} on");
    }
    let timeouts = hanging.seen.lock().unwrap().attempts;
    assert!((10..=80).contains(&timeouts), "{timeouts} attempts of thirty seconds");
    bench.abort.cancel();
    for task in bench.tasks.drain(..) {
        task.await.unwrap();
    }
    let account = bench.account(&refusing);
    assert_eq!(account.held[2], appended as u64, "and the refusing one's events wait");
}

#[tokio::test(start_paused = true)]
async fn a_batch_keeps_to_the_sinks_limits_and_leaves_at_its_age() {
    let mut bench = Bench::new();
    let mut sink = Fake::bare("s", |_, _| Answer::Take);
    sink.limits.events = 7;
    sink.limits.age = Duration::from_secs(5);
    let sink = Arc::new(sink);
    bench.serve(&sink, options());
    bench.append(2, &[2, 2, 2, 2, 2]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(ranges(&sink), [(1, 7)], "the full one goes at once");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(ranges(&sink), [(1, 7), (8, 10)], "the other at its age");
    // by bytes
    let mut bench = Bench::new();
    let mut sink = Fake::bare("s", |_, _| Answer::Take);
    sink.limits.bytes = 3000;
    let sink = Arc::new(sink);
    for tag in 0..3 {
        let blocks = vec![sized_block(&[2, 2, 2], tag, 900)];
        bench.ring.append(group(blocks)).await.unwrap().await.unwrap();
    }
    bench.serve(&sink, options());
    bench.finish().await;
    let mut all = ranges(&sink);
    all.sort_unstable();
    assert_eq!(all, [(1, 3), (4, 6), (7, 9)]);
    // an event larger than a batch goes alone
    let mut bench = Bench::new();
    let mut sink = Fake::bare("s", |_, _| Answer::Take);
    sink.limits.bytes = 100;
    let sink = Arc::new(sink);
    bench.ring.append(group(vec![sized_block(&[2, 2], 1, 900)])).await.unwrap().await.unwrap();
    bench.serve(&sink, options());
    bench.finish().await;
    let mut all = ranges(&sink);
    all.sort_unstable();
    assert_eq!(all, [(1, 1), (2, 2)]);
}

#[tokio::test(start_paused = true)]
async fn planned_runs_are_sent_again_with_the_same_bounds_after_a_restart() {
    let mut bench = Bench::new();
    bench.append(10, &[2, 3]).await;
    let mut away = Fake::bare("s", |_, _| Answer::Hang);
    away.limits.events = 6;
    away.limits.in_flight = 2;
    let away = Arc::new(away);
    bench.serve(&away, options());
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.abort.cancel();
    for task in bench.tasks.drain(..) {
        task.await.unwrap();
    }
    let planned = bench.ring.status().cursors[away.id()].planned.clone();
    let of = |a, b| SeqRange::new(Seq(a), Seq(b)).unwrap();
    assert_eq!(planned, [of(1, 6).into(), of(7, 12).into()]);
    // other limits now
    bench.abort = CancellationToken::new();
    let mut back = Fake::bare("s", |_, _| Answer::Take);
    back.limits.events = 4;
    back.limits.in_flight = 1;
    let back = Arc::new(back);
    bench.serve(&back, options());
    bench.finish().await;
    assert_eq!(ranges(&back), [(1, 6), (7, 12), (13, 16), (17, 20)]);
    assert_eq!(bench.account(&back).delivered, [0, 0, 10, 10]);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_split_down_to_the_one_event_that_is() {
    let mut bench = Bench::new();
    bench.append(1, &[2; 16]).await;
    let sink = Fake::new("s", |_, batch| {
        if batch.iter().any(|(seq, _)| seq == Seq(11)) {
            Answer::Fail(DeliverError::Split { source: "413".into() })
        } else {
            Answer::Take
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let dead = dir.path().join("dead/s.jsonl");
    let stats = bench.serve(&sink, SinkOptions { dead_letters: Some(dead.clone()), ..options() });
    bench.finish().await;
    let want: Vec<u64> = (1..=16).filter(|n| *n != 11).collect();
    assert_eq!(places(&sink), want);
    let account = bench.account(&sink);
    assert_eq!((account.delivered[2], account.rejected[2], account.held), (15, 1, [0; 4]));
    let lines = std::fs::read_to_string(&dead).unwrap();
    let line: serde_json::Value = serde_json::from_str(lines.trim()).unwrap();
    assert_eq!((line["seq"].as_u64(), line["deadLetter"]["reason"].as_str()), (Some(11), Some("too_large")));
    assert_eq!(stats.progress().rejected, 1);
}

#[tokio::test(start_paused = true)]
async fn events_refused_for_good_are_counted_and_kept_with_the_reason() {
    let mut bench = Bench::new();
    bench.append(1, &[2, 3, 2, 1]).await;
    let sink = Fake::new("s", |_, _| {
        let refuse = |seq| Rejected {
            seq: Seq(seq),
            reason: RejectReason::Invalid,
            detail: "no \"such\" field".into(),
        };
        // one of them is none of the batch's
        Answer::TakeBut(vec![refuse(4), refuse(2), refuse(99)])
    });
    let all = Fake::new("all", |_, _| {
        Answer::Fail(DeliverError::Reject { reason: RejectReason::Unencodable, source: "cannot".into() })
    });
    let dir = tempfile::tempdir().unwrap();
    let dead = dir.path().join("s.jsonl");
    bench.serve(&sink, SinkOptions { dead_letters: Some(dead.clone()), ..options() });
    bench.serve(&all, options());
    bench.finish().await;
    let account = bench.account(&sink);
    assert_eq!((account.delivered, account.rejected), ([0, 0, 2, 0], [0, 1, 0, 1]));
    assert_eq!(bench.account(&all).rejected, [0, 1, 2, 1]);
    let text = std::fs::read_to_string(&dead).unwrap();
    let seqs: Vec<u64> = text
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, [2, 4]);
}

#[tokio::test(start_paused = true)]
async fn an_event_above_a_level_that_was_lowered_meanwhile_becomes_no_dead_letter() {
    let mut bench = Bench::new();
    bench.append(1, &[1, 2, 3, 1]).await;
    let lower = bench.in_force.clone();
    let sink = Fake::new("s", move |_, batch| {
        lower.send_replace(in_force(TelemetryLevel::Basic));
        let refuse = |(seq, _)| Rejected { seq, reason: RejectReason::Invalid, detail: "no".into() };
        Answer::TakeBut(batch.iter().map(refuse).collect())
    });
    let dir = tempfile::tempdir().unwrap();
    let dead = dir.path().join("s.jsonl");
    bench.serve(&sink, SinkOptions { dead_letters: Some(dead.clone()), ..options() });
    bench.finish().await;
    assert_eq!(bench.account(&sink).rejected, [0, 2, 1, 1]);
    let text = std::fs::read_to_string(&dead).unwrap();
    assert!(text.lines().count() == 2 && !text.contains("Enhanced") && !text.contains("Full"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_after_a_purge_is_in_the_file_that_took_the_old_ones_place() {
    let mut bench = Bench::new();
    let sink = Fake::new("s", |_, batch| {
        let seq = batch.range().first();
        Answer::TakeBut(vec![Rejected { seq, reason: RejectReason::Invalid, detail: "no".into() }])
    });
    let dir = tempfile::tempdir().unwrap();
    let dead = dir.path().join("s.jsonl");
    bench.serve(&sink, SinkOptions { dead_letters: Some(dead.clone()), ..options() });
    let seqs = || -> Vec<u64> {
        let lines = std::fs::read_to_string(&dead).unwrap_or_default();
        lines
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["seq"].as_u64().unwrap())
            .collect()
    };
    let refused = async |n: usize| {
        while seqs().len() < n {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    bench.append(1, &[2]).await;
    refused(1).await;
    bench.append(1, &[3]).await;
    refused(2).await;
    let rule = crate::purge::Expr::parse("level = Enhanced").unwrap();
    assert_eq!(crate::purge::dead_letters(&dead, &rule, false).unwrap().events, 1);
    assert_eq!(seqs(), [2]);
    bench.append(1, &[2]).await;
    refused(2).await;
    assert_eq!(seqs(), [2, 3]);
    bench.finish().await;
    assert_eq!(bench.account(&sink).rejected, [0, 0, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn no_delivery_begins_while_a_purge_goes_on_and_none_is_cut_off_by_it() {
    let mut bench = Bench::new();
    bench.append(4, &[2; 10]).await;
    let mut slow = Fake::bare("s", |_, _| Answer::TakeAfter(Duration::from_secs(5)));
    slow.limits.events = 10;
    let slow = Arc::new(slow);
    let away = Fake::new("away", |_, _| Answer::Fail(retry()));
    bench.serve(&slow, options());
    bench.serve(&away, options());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = slow.seen.lock().unwrap().attempts;
    assert!(begun > 0);
    let rest = Arc::clone(&bench.sending);
    let rest = rest.write().await;
    let account = bench.account(&slow);
    assert_eq!(account.delivered[2], 10 * begun, "what was on the wire is in the account");
    assert_eq!(places(&slow).len() as u64, 10 * begun);
    let tried = away.seen.lock().unwrap().attempts;
    bench.append(4, &[2; 10]).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(slow.seen.lock().unwrap().attempts, begun);
    assert!(away.seen.lock().unwrap().attempts <= tried + 1, "one may have been on the wire");
    drop(rest);
    bench.phase.send_replace(Phase::Finish);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(places(&slow).len(), 80);
    bench.abort.cancel();
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_needs_someone_to_act_says_so_once_and_is_tried_rarely() {
    let mut bench = Bench::new();
    let mended = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&mended);
    let sink = Fake::new("s", move |_, _| {
        if now.load(Ordering::Relaxed) {
            return Answer::Take;
        }
        Answer::Fail(DeliverError::Stop { after: None, advice: "renew the key".into(), source: "403".into() })
    });
    let stats = bench.serve(&sink, options());
    for _ in 0..60 {
        bench.append(1, &[2; 10]).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    let attempts = sink.seen.lock().unwrap().attempts;
    assert!((12..=18).contains(&attempts), "{attempts} attempts in an hour, one each five minutes");
    assert_eq!(stats.progress().held.as_deref(), Some("renew the key"));
    mended.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(places(&sink).len(), 600, "nothing is lost");
    assert_eq!(stats.progress().held, None);
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_gate_at_the_sink_counts_what_it_holds_back() {
    let mut bench = Bench::new();
    bench.append(3, &[0, 1, 2, 3]).await;
    bench.in_force.send_replace(in_force(TelemetryLevel::Enhanced));
    let basic = Fake::fine("basic");
    let filter = FilterConfig { level: Some(TelemetryLevel::Basic), ..FilterConfig::default() };
    bench.serve(&basic, SinkOptions { filter, ..options() });
    let none = Fake::fine("none");
    let filter = FilterConfig { not_events: vec!["Ti*".into()], ..FilterConfig::default() };
    bench.serve(&none, SinkOptions { filter, ..options() });
    bench.finish().await;
    let account = bench.account(&basic);
    assert_eq!(account.delivered, [3, 3, 0, 0]);
    let want = BTreeMap::from([(LossReason::Filtered, [0, 0, 3, 0]), (LossReason::Level, [0, 0, 0, 3])]);
    assert_eq!(account.lost, want);
    let account = bench.account(&none);
    assert_eq!(account.delivered, [0; 4]);
    assert_eq!(none.seen.lock().unwrap().attempts, 0, "an empty batch is settled without an attempt");
    let wrong = FilterConfig { providers: vec![String::new()], ..FilterConfig::default() };
    assert!(Filter::new(&wrong).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_level_lowered_while_a_delivery_hangs_calls_it_off() {
    let mut bench = Bench::new();
    bench.append(1, &[1, 3, 3]).await;
    let sink = Fake::new("s", |attempt, _| if attempt == 1 { Answer::Hang } else { Answer::Take });
    bench.serve(&sink, options());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begun = Instant::now();
    bench.in_force.send_replace(in_force(TelemetryLevel::Basic));
    bench.finish().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "not only at the attempt's time-out");
    assert_eq!(places(&sink), [1]);
    assert_eq!(bench.account(&sink).lost[&LossReason::Level], [0, 0, 0, 2]);
}

#[tokio::test(start_paused = true)]
async fn what_is_purged_while_a_delivery_waits_is_not_sent() {
    let mut bench = Bench::new();
    bench.append(1, &[1, 3, 3]).await;
    let sink = Fake::new("s", |attempt, _| if attempt == 1 { Answer::Fail(retry()) } else { Answer::Take });
    bench.serve(&sink, options());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(sink.seen.lock().unwrap().attempts, 1);
    bench.ring.purge(&tidegate_ring::testing::Above(TelemetryLevel::Enhanced)).unwrap();
    bench.finish().await;
    assert_eq!(places(&sink), [1]);
    let account = bench.account(&sink);
    assert_eq!((account.delivered, account.lost[&LossReason::Purged]), ([0, 1, 0, 0], [0, 0, 0, 2]));
}

#[tokio::test(start_paused = true)]
async fn events_evicted_before_they_were_planned_count_once() {
    let options_small = RingOptions { bound_bytes: RingOptions::MIN_BOUND, ..RingOptions::default() };
    let mut bench = Bench::with(options_small);
    let sink = Fake::new("s", |_, _| Answer::TakeAfter(Duration::from_millis(300)));
    let stats = bench.serve(&sink, options());
    for tag in 0..200 {
        let made = sized_block(&[2; 4], tag, 64 << 10);
        bench.ring.append(group(vec![made])).await.unwrap().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.finish().await;
    let account = bench.account(&sink);
    assert_eq!(account.held, [0; 4]);
    assert!(account.lost[&LossReason::Evicted][2] > 0, "{account:?}");
    assert_eq!(account.delivered[2] + account.lost[&LossReason::Evicted][2], 800);
    assert_eq!(places(&sink).len() as u64, account.delivered[2], "what was sent does not count as evicted");
    let missed = stats.take_missed()[&LossReason::Evicted];
    assert!(missed.first <= missed.last && missed.last <= Seq(800), "{missed:?}");
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_order_is_the_one_that_was_asked_for() {
    for (order, first) in [(Order::OldestFirst, 1), (Order::NewestFirst, 91)] {
        let mut bench = Bench::new();
        bench.append(10, &[2; 10]).await;
        let mut sink = Fake::bare("s", |_, _| Answer::Take);
        sink.limits.events = 10;
        sink.limits.in_flight = 1;
        let sink = Arc::new(sink);
        bench.serve(&sink, SinkOptions { order, ..options() });
        bench.finish().await;
        let ranges = ranges(&sink);
        assert_eq!(ranges[0].0, first, "{order:?}: {ranges:?}");
        assert_eq!(places(&sink), (1..=100).collect::<Vec<_>>());
        assert_eq!(bench.account(&sink).held, [0; 4]);
    }
    let mut bench = Bench::new();
    bench.append(10, &[2; 10]).await;
    let mut sink = Fake::bare("s", |_, _| Answer::Take);
    sink.limits.events = 10;
    sink.limits.in_flight = 1;
    let sink = Arc::new(sink);
    bench.serve(&sink, SinkOptions { order: Order::Interleaved, ..options() });
    bench.finish().await;
    let firsts: Vec<u64> = ranges(&sink).iter().take(4).map(|r| r.0).collect();
    assert_eq!(firsts, [1, 91, 11, 81]);
}

#[tokio::test(start_paused = true)]
async fn rate_limits_are_kept() {
    let mut bench = Bench::new();
    bench.append(10, &[2; 100]).await;
    let mut sink = Fake::bare("s", |_, _| Answer::Take);
    sink.limits.events = 50;
    let sink = Arc::new(sink);
    bench.serve(&sink, SinkOptions { events_per_second: Some(100), ..options() });
    let begun = Instant::now();
    bench.finish().await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(8) && took <= Duration::from_secs(11), "{took:?}");
    assert_eq!(places(&sink).len(), 1000);
}

#[tokio::test(start_paused = true)]
async fn each_delivery_leaves_one_receipt_in_the_chain() {
    let mut bench = Bench::new();
    bench.append(2, &[2, 3]).await;
    let mut sink = Fake::bare("s", |_, _| Answer::Take);
    sink.limits.events = 2;
    sink.limits.in_flight = 1;
    let sink = Arc::new(sink);
    bench.serve(&sink, options());
    bench.finish().await;
    let receipts = bench.ring.chain_read(Chain::Receipts, 1, 10).unwrap();
    assert_eq!(receipts.len(), 2);
    let r: serde_json::Value = serde_json::from_slice(&receipts[1].data).unwrap();
    assert_eq!((r["sink"].as_str(), r["first"].as_u64(), r["last"].as_u64()), (Some("s"), Some(3), Some(4)));
    assert_eq!(r["delivered"], serde_json::json!([0, 0, 1, 1]));
    assert_eq!(r["epoch"].as_str().unwrap().len(), 16);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_starts_now_gets_only_what_comes() {
    let mut bench = Bench::new();
    bench.append(2, &[2, 2]).await;
    let sink = Fake::fine("late");
    bench.serve(&sink, SinkOptions { start: StartAt::Now, ..options() });
    bench.append(1, &[2]).await;
    bench.finish().await;
    assert_eq!(places(&sink), [5]);
}

#[tokio::test(start_paused = true)]
async fn chance_decides_and_the_account_closes_all_the_same() {
    let given = std::env::var("TIDEGATE_SEED").ok().and_then(|s| s.parse().ok());
    let seed = given.unwrap_or(u64::from(std::process::id()) ^ 0x5eed);
    println!("TIDEGATE_SEED={seed}");
    let mut chance = Xorshift::new(seed);
    for _ in 0..10 {
        let mut bench = Bench::new();
        let salt = chance.next();
        let mut sink = Fake::bare("s", move |attempt, batch| {
            let n = Xorshift::new(salt ^ attempt).next() % 10;
            match n {
                0..3 => Answer::Take,
                3..5 => Answer::Fail(retry()),
                5 => Answer::Fail(DeliverError::Split { source: "413".into() }),
                6 => Answer::Hang,
                7 => Answer::TakeAfter(Duration::from_secs(3)),
                8 => {
                    Answer::Fail(DeliverError::Reject { reason: RejectReason::Invalid, source: "bad".into() })
                }
                _ => {
                    let seq = batch.iter().next().unwrap().0;
                    Answer::TakeBut(vec![Rejected {
                        seq,
                        reason: RejectReason::Invalid,
                        detail: String::new(),
                    }])
                }
            }
        });
        sink.limits.events = (1 + chance.next() % 40) as u32;
        sink.limits.in_flight = (1 + chance.next() % 6) as u32;
        let sink = Arc::new(sink);
        for _ in 0..3 {
            bench.serve(&sink, SinkOptions { seed: Some(chance.next()), ..options() });
            bench.append(1 + chance.next() % 8, &[0, 1, 2, 3, 2]).await;
            tokio::time::sleep(Duration::from_secs(chance.next() % 40)).await;
            // an end in mid-flight
            bench.abort.cancel();
            for task in bench.tasks.drain(..) {
                task.await.unwrap();
            }
            bench.abort = CancellationToken::new();
            bench.account(&sink);
        }
        bench.serve(&sink, SinkOptions { seed: Some(chance.next()), ..options() });
        bench.finish().await;
        let account = bench.account(&sink);
        assert_eq!(account.held, [0; 4]);
        assert_eq!(account.lost, BTreeMap::new());
    }
}

#[test]
fn a_broken_block_is_named() {
    let ring = MemoryRing::shared(RingOptions::default());
    let mut made = block(&[2, 2], 1);
    made.data = bytes::Bytes::from_static(b"\x08\x63");
    wait(async { ring.append(group(vec![made])).await.unwrap().await.unwrap() });
    let e =
        fetch(&*ring, Seq::ZERO, ReadLimit { bytes: 1, events: 1 }, Lanes::ALL, &mut SchemaInterner::new())
            .unwrap_err();
    assert!(e.to_string().contains("block 1-2") && e.to_string().contains("format 99"), "{e}");
}
