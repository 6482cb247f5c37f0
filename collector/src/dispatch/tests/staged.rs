//! Deliveries in two steps: events are let go in between, and come back where they are needed.

use std::collections::HashMap;
use std::sync::Mutex;

use tidegate_proto::ids::SinkId;
use tidegate_sinks::{BatchLimits, BoxFuture, Delivered, Ready, SinkBatch, Staged};

use super::*;

/// What it does with the bytes of a run; the first argument counts its attempts.
type Does = dyn Fn(u64, SeqRange) -> Answer + Send + Sync;

/// A sink with two steps.
struct Stepwise {
    id: SinkId,
    limits: BatchLimits,
    does: Box<Does>,
    attempts: std::sync::atomic::AtomicU64,
    encoded: std::sync::atomic::AtomicU64,
    /// Places of a run, from its first step.
    ready: Mutex<HashMap<(u64, u64), Vec<u64>>>,
    taken: Mutex<Vec<u64>>,
    /// It panics over the run with this place, before there is a byte.
    breaks: Mutex<Option<Seq>>,
}

impl std::fmt::Debug for Stepwise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.id.as_str())
    }
}

impl Stepwise {
    fn new(name: &str, does: impl Fn(u64, SeqRange) -> Answer + Send + Sync + 'static) -> Arc<Stepwise> {
        Arc::new(Stepwise {
            id: SinkId::new(name),
            limits: BatchLimits { events: 10, ..Fake::bare(name, |_, _| Answer::Take).limits },
            does: Box::new(does),
            attempts: Default::default(),
            encoded: Default::default(),
            ready: Mutex::default(),
            taken: Mutex::default(),
            breaks: Mutex::default(),
        })
    }

    fn taken(&self) -> Vec<u64> {
        let mut taken = self.taken.lock().unwrap().clone();
        taken.sort_unstable();
        taken
    }
}

impl Sink for Stepwise {
    fn id(&self) -> &SinkId {
        &self.id
    }

    fn limits(&self) -> BatchLimits {
        self.limits
    }

    fn check(&self) -> BoxFuture<'_, Result<(), DeliverError>> {
        Box::pin(async { Ok(()) })
    }

    fn deliver<'a>(&'a self, batch: &'a SinkBatch) -> BoxFuture<'a, Result<Delivered, DeliverError>> {
        Box::pin(async move { self.send(&self.encode(batch).await?).await })
    }

    fn staged(&self) -> Option<&dyn Staged> {
        Some(self)
    }
}

impl Staged for Stepwise {
    fn encode<'a>(&'a self, batch: &'a SinkBatch) -> BoxFuture<'a, Result<Ready, DeliverError>> {
        let breaks = *self.breaks.lock().unwrap();
        if breaks.is_some_and(|place| batch.range().contains(place)) {
            std::panic::resume_unwind(Box::new("broken"));
        }
        Box::pin(async move {
            self.encoded.fetch_add(1, Ordering::Relaxed);
            let run = (batch.range().first().0, batch.range().last().0);
            self.ready.lock().unwrap().insert(run, batch.iter().map(|(seq, _)| seq.0).collect());
            Ok(Ready::new(batch, Vec::new()))
        })
    }

    fn send<'a>(&'a self, ready: &'a Ready) -> BoxFuture<'a, Result<Delivered, DeliverError>> {
        Box::pin(async move {
            let attempt = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
            let mut done = Delivered::default();
            match (self.does)(attempt, ready.range()) {
                Answer::Take | Answer::AskToWait(..) => {}
                Answer::TakeAfter(pause) => tokio::time::sleep(pause).await,
                Answer::Hang => std::future::pending().await,
                Answer::Fail(e) => return Err(e),
                Answer::TakeBut(rejected) => done.rejected = rejected,
            }
            let run = (ready.range().first().0, ready.range().last().0);
            let places = self.ready.lock().unwrap()[&run].clone();
            let but = |p: &u64| !done.rejected.iter().any(|r| r.seq.0 == *p);
            self.taken.lock().unwrap().extend(places.into_iter().filter(but));
            Ok(done)
        })
    }
}

impl Bench {
    fn serve_stepwise(&mut self, sink: &Arc<Stepwise>, options: SinkOptions) -> Arc<Stats> {
        self.serve_any(Arc::clone(sink) as Arc<dyn Sink>, options)
    }
}

fn all(events: u64) -> Vec<u64> {
    (1..=events).collect()
}

#[tokio::test(start_paused = true)]
async fn sinks_that_hang_take_no_place_from_others() {
    let mut bench = Bench::new();
    let hanging = Stepwise::new("hanging", |_, _| Answer::Hang);
    let failing = Stepwise::new("failing", |_, _| Answer::Fail(retry()));
    let fine = Stepwise::new("fine", |_, _| Answer::Take);
    bench.append(20, &[2; 10]).await;
    for sink in [&hanging, &failing, &fine] {
        bench.serve_stepwise(sink, options());
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(fine.taken(), all(200));
    // nothing is encoded again, however often it is sent
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(failing.attempts.load(Ordering::Relaxed) > 10);
    assert!(failing.encoded.load(Ordering::Relaxed) <= 4);
    // events wait for nobody
    let memory = bench.workshop.take();
    assert!(memory.1.capacity() >= 10 && bench.workshop.try_place().is_some());
    bench.abort.cancel();
}

#[tokio::test(start_paused = true)]
async fn events_come_back_to_be_split_rejected_and_kept_as_dead_letters() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new();
    bench.append(3, &[2; 10]).await;
    let bad = |seq| Rejected { seq: Seq(seq), reason: RejectReason::Invalid, detail: "bad".into() };
    let sink = Stepwise::new("s", move |_, range| {
        let of = (range.first().0, range.last().0);
        match of {
            (1, 10) => Answer::Fail(DeliverError::Split { source: "too large".into() }),
            (11, 20) => {
                Answer::Fail(DeliverError::Reject { reason: RejectReason::Invalid, source: "never".into() })
            }
            (21, 30) => Answer::TakeBut(vec![bad(24), bad(29)]),
            _ => Answer::Take,
        }
    });
    let dead = dir.path().join("dead.jsonl");
    bench.serve_stepwise(&sink, SinkOptions { dead_letters: Some(dead.clone()), ..options() });
    bench.finish().await;
    let want: Vec<u64> = (1..=10).chain(21..=30).filter(|n| *n != 24 && *n != 29).collect();
    assert_eq!(sink.taken(), want);
    let account = bench.ring.account();
    account.check().unwrap();
    let own = &account.sinks[sink.id()];
    assert_eq!((own.delivered, own.rejected), ([0, 0, 18, 0], [0, 0, 12, 0]));
    assert_eq!(std::fs::read_to_string(&dead).unwrap().lines().count(), 12);
}

#[tokio::test(start_paused = true)]
async fn a_lowered_level_takes_what_is_encoded_along() {
    let mut bench = Bench::new();
    bench.append(1, &[1, 2, 3, 1, 2, 3, 1, 2, 3, 1]).await;
    let sink = Stepwise::new("s", |attempt, _| match attempt {
        1 => Answer::Fail(retry()),
        _ => Answer::Take,
    });
    bench.serve_stepwise(&sink, options());
    while sink.attempts.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench.in_force.send_replace(in_force(TelemetryLevel::Basic));
    bench.finish().await;
    assert_eq!(sink.taken(), [1, 4, 7, 10]);
    let account = bench.ring.account();
    account.check().unwrap();
    assert_eq!(account.sinks[sink.id()].lost[&LossReason::Level], [0, 0, 3, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_breaks_down_before_there_are_bytes_waits_alone() {
    let mut bench = Bench::new();
    let sink = Stepwise::new("s", |_, _| Answer::Take);
    *sink.breaks.lock().unwrap() = Some(Seq(15));
    bench.append(20, &[2; 10]).await;
    let stats = bench.serve_stepwise(&sink, options());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let others: Vec<u64> = (1..=10).chain(21..=200).collect();
    assert_eq!(sink.taken(), others);
    assert!(stats.progress().held.unwrap().contains("broke down"));
    let panics = stats.progress().attempts["panic"];
    assert!((25..=150).contains(&panics), "{panics} attempts at it, a minute or two apart at last");
    assert!(bench.workshop.try_place().is_some(), "it gave its place back");
    *sink.breaks.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_secs(121)).await;
    assert_eq!((sink.taken(), stats.progress().held), (all(200), None));
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn whole_refusals_are_told_from_single_ones_though_the_events_were_let_go() {
    let reason = RejectReason::Invalid;
    let bad = move |seq| Rejected { seq: Seq(seq), reason, detail: "bad".into() };
    for whole in [false, true] {
        let mut bench = Bench::new();
        bench.append(40, &[2; 10]).await;
        let sink = Stepwise::new("s", move |_, range| {
            let last = if whole { range.last() } else { range.first() };
            Answer::TakeBut((range.first().0..=last.0).map(bad).collect())
        });
        let stats = bench.serve_stepwise(&sink, options());
        tokio::time::sleep(Duration::from_secs(60)).await;
        let held = stats.progress().held;
        assert_eq!(held.is_some(), whole, "{held:?}");
        let own = bench.ring.account().sinks[sink.id()].clone();
        let (delivered, rejected) = if whole { (0, 90) } else { (360, 40) };
        assert_eq!((own.delivered[2], own.rejected[2]), (delivered, rejected), "{whole}");
        bench.abort.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_waits_for_a_place_without_spinning_and_without_being_forgotten() {
    let mut bench = Bench::new();
    let sink = Stepwise::new("s", |attempt, _| if attempt == 1 { Answer::Hang } else { Answer::Take });
    bench.append(1, &[2; 10]).await;
    let (dispatcher, _) = bench.dispatcher(Arc::clone(&sink) as Arc<dyn Sink>, options());
    let mut run = Box::pin(dispatcher.run());
    let polls = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = Arc::clone(&polls);
    bench.tasks.push(tokio::spawn(std::future::poll_fn(move |cx| {
        // a loop that never rests would keep the paused clock from going on
        assert!(counted.fetch_add(1, Ordering::Relaxed) < 5_000, "it spins");
        run.as_mut().poll(cx)
    })));
    while sink.attempts.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // the first is under way, another sink has the only place, and the second comes
    let place = bench.workshop.try_place().unwrap();
    bench.append(1, &[2; 5]).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(sink.taken(), [0; 0]);
    assert!(!bench.tasks[0].is_finished(), "{} polls", polls.load(Ordering::Relaxed));
    drop(place);
    // its age counts by the wall clock, which stood still
    tokio::time::sleep(sink.limits.age + CROWDED * 2).await;
    assert_eq!(sink.taken(), (11..=15).collect::<Vec<u64>>());
    bench.finish().await;
    assert_eq!(sink.taken(), all(15));
}
