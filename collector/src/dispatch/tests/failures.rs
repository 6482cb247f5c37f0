//! What a far side can do wrong, for long: how often it is asked, what is told, what stays.

use std::sync::Mutex;

use tidegate_sinks::http::HttpError;

use super::super::later::BLOCKED_MOST;
use super::super::refusals::{REFUSED_MOST, SPLITS_FREE};
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// What the policy allows to be tried in any minute.
const A_MINUTE: usize = 30;

fn stop(after: Option<Duration>) -> DeliverError {
    DeliverError::Stop { after, advice: "renew the key".into(), source: "403".into() }
}

fn retry_after(after: Duration) -> DeliverError {
    DeliverError::Retry { after: Some(after), source: "429".into() }
}

fn blocked(what: Seq) -> DeliverError {
    DeliverError::Blocked { advice: format!("move away what is at {what}"), source: "foreign".into() }
}

fn split() -> DeliverError {
    DeliverError::Split { source: "413".into() }
}

fn reject() -> DeliverError {
    DeliverError::Reject { reason: RejectReason::Invalid, source: "400".into() }
}

/// A panic that is not written to the log of the tests.
fn broken() -> ! {
    std::panic::resume_unwind(Box::new("broken"))
}

fn first(batch: &tidegate_sinks::SinkBatch) -> Seq {
    batch.range().first()
}

fn holds(batch: &tidegate_sinks::SinkBatch, seq: u64) -> bool {
    batch.iter().any(|(s, _)| s == Seq(seq))
}

/// A sink of batches of ten events, one second old at most.
fn tens(
    in_flight: u32,
    behaviour: impl Fn(u64, &tidegate_sinks::SinkBatch) -> Answer + Send + Sync + 'static,
) -> Arc<Fake> {
    let mut sink = Fake::bare("s", behaviour);
    sink.limits.events = 10;
    sink.limits.in_flight = in_flight;
    Arc::new(sink)
}

/// Whether a switch is on.
#[derive(Clone, Debug, Default)]
struct Switch(Arc<AtomicBool>);

impl Switch {
    fn on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn attempts(sink: &Fake) -> usize {
    sink.seen.lock().unwrap().at.len()
}

/// Most attempts in any minute.
fn most_in_a_minute(sink: &Fake) -> usize {
    let at = sink.seen.lock().unwrap().at.clone();
    at.iter().map(|from| at.iter().filter(|t| (*from..*from + MINUTE).contains(t)).count()).max().unwrap_or(0)
}

/// Lets time go by, ten events every five seconds; how often an alarm was raised.
async fn alarms(bench: &Bench, stats: &Stats, seconds: u64) -> usize {
    let (mut raised, mut before) = (0, stats.progress().held.is_some());
    for _ in 0..seconds / 5 {
        bench.append(1, &[2; 10]).await;
        tokio::time::sleep(5 * SECOND).await;
        let held = stats.progress().held.is_some();
        raised += usize::from(held && !before);
        before = held;
    }
    raised
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_a_far_side_is_asked_so_often_a_minute_and_no_more() {
    type Wrong = Arc<dyn Fn(&tidegate_sinks::SinkBatch) -> Answer + Send + Sync>;
    let all = |batch: &tidegate_sinks::SinkBatch| {
        let reason = RejectReason::Invalid;
        batch.iter().map(|(seq, _)| Rejected { seq, reason, detail: "no".into() }).collect()
    };
    let cases: Vec<(&str, Wrong)> = vec![
        ("retry", Arc::new(|_| Answer::Fail(retry()))),
        ("retry after no time", Arc::new(|_| Answer::Fail(retry_after(Duration::ZERO)))),
        ("retry after", Arc::new(|_| Answer::Fail(retry_after(7 * SECOND)))),
        ("stop", Arc::new(|_| Answer::Fail(stop(None)))),
        ("blocked", Arc::new(|batch| Answer::Fail(blocked(first(batch))))),
        ("split", Arc::new(|_| Answer::Fail(split()))),
        ("reject", Arc::new(|_| Answer::Fail(reject()))),
        ("all rejected", Arc::new(move |batch| Answer::TakeBut(all(batch)))),
        ("panic", Arc::new(|_| broken())),
    ];
    for (name, wrong) in cases {
        for in_flight in [1, 4] {
            let mut bench = Bench::new();
            let wrong = Arc::clone(&wrong);
            let mut sink = Fake::bare("s", move |_, batch| wrong(batch));
            sink.limits.in_flight = in_flight;
            let sink = Arc::new(sink);
            bench.append(100, &[2; 50]).await;
            let stats = bench.serve(&sink, options());
            let raised = alarms(&bench, &stats, 900).await;
            let most = most_in_a_minute(&sink);
            assert!(most <= A_MINUTE, "{name}, {in_flight} at a time: {most} in a minute");
            assert!(attempts(&sink) >= 3, "{name}: {} attempts", attempts(&sink));
            assert_eq!(raised, 1, "{name}, {in_flight} at a time: alarms");
            let account = bench.account(&sink);
            assert_eq!((account.delivered, &account.lost), ([0; 4], &BTreeMap::new()), "{name}");
            let refused = account.rejected[2];
            assert!(refused < u64::from(REFUSED_MOST) * 1000, "{name}: {refused} refused");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_blocked_does_not_stop_the_others() {
    let mut bench = Bench::new();
    let mended = Switch::default();
    let now = mended.clone();
    let sink = tens(2, move |_, batch| match holds(batch, 1) && !now.on() {
        true => Answer::Fail(blocked(Seq(1))),
        false => Answer::Take,
    });
    let stats = bench.serve(&sink, options());
    let raised = alarms(&bench, &stats, 3600).await;
    assert_eq!(raised, 1, "told once, for as long as it waits");
    let held = stats.progress().held.unwrap();
    assert!(held.contains("others go on") && held.contains("move away what is at 1"), "{held}");
    assert!(places(&sink).len() >= 7_180, "{} of 7,200 delivered", places(&sink).len());
    let blocked = stats.progress().attempts["blocked"];
    assert!((11..=13).contains(&blocked), "{blocked} attempts at it in an hour");
    let cursor = bench.ring.status().cursors[sink.id()].clone();
    assert_eq!(
        (cursor.settled, cursor.planned),
        (Seq::ZERO, vec![SeqRange::new(Seq(1), Seq(10)).unwrap().into()])
    );
    mended.set();
    assert_eq!(alarms(&bench, &stats, 305).await, 0);
    assert_eq!(stats.progress().held, None);
    bench.finish().await;
    assert_eq!(places(&sink).len() as u64, bench.ring.status().durable.0);
    assert_eq!(sink.seen.lock().unwrap().repeats, 0);
}

#[tokio::test(start_paused = true)]
async fn when_too_many_batches_are_blocked_nothing_new_is_sent_and_that_is_told() {
    let mut bench = Bench::new();
    let mended = Switch::default();
    let now = mended.clone();
    let sink = tens(4, move |_, batch| match now.on() {
        true => Answer::Take,
        false => Answer::Fail(blocked(first(batch))),
    });
    let stats = bench.serve(&sink, options());
    alarms(&bench, &stats, 1000).await;
    let held = stats.progress().held.unwrap();
    assert!(held.contains("nothing new is sent"), "{held}");
    let planned = bench.ring.status().cursors[sink.id()].planned.len();
    assert!((BLOCKED_MOST..BLOCKED_MOST + 4).contains(&planned), "{planned} planned");
    assert!(attempts(&sink) <= 5 * (BLOCKED_MOST + 4), "{} attempts", attempts(&sink));
    mended.set();
    tokio::time::sleep(301 * SECOND).await;
    assert_eq!(stats.progress().held, None);
    bench.finish().await;
    assert_eq!(places(&sink).len(), 2_000);
}

/// A stop that a sink takes for its own, though only one batch is concerned.
#[tokio::test(start_paused = true)]
async fn after_a_stop_another_run_is_tried_first() {
    for in_flight in [1, 3] {
        let mut bench = Bench::new();
        let sink = tens(in_flight, |_, batch| match holds(batch, 1) {
            true => Answer::Fail(stop(None)),
            false => Answer::Take,
        });
        let stats = bench.serve(&sink, options());
        alarms(&bench, &stats, 3600).await;
        let delivered = places(&sink).len();
        assert!(delivered >= 7_180, "{in_flight} at a time: {delivered} of 7,200 delivered");
        let held = stats.progress().held.unwrap();
        assert!(held.contains("others go on: renew the key"), "it is the batch, not the sink: {held}");
        let planned = bench.ring.status().cursors[sink.id()].planned.len();
        assert!(planned <= in_flight as usize + 2, "{planned} planned");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wish_to_wait_holds_all_deliveries() {
    let mut bench = Bench::new();
    let sink = tens(4, |n, _| match n {
        4 => Answer::Fail(retry_after(600 * SECOND)),
        _ => Answer::TakeAfter(SECOND),
    });
    bench.append(100, &[2; 10]).await;
    let stats = bench.serve(&sink, options());
    tokio::time::sleep(599 * SECOND).await;
    assert_eq!(attempts(&sink), 4, "those that were under way, and no more");
    assert!(stats.progress().held.unwrap().contains("asks to wait 600 s"));
    tokio::time::sleep(MINUTE).await;
    assert_eq!((places(&sink).len(), stats.progress().held), (1000, None));
}

#[tokio::test(start_paused = true)]
async fn a_wish_to_wait_holds_all_deliveries_whatever_else_is_answered() {
    type Then = fn(&tidegate_sinks::SinkBatch) -> Answer;
    let refused: Then = |batch| {
        let (seq, reason) = (first(batch), RejectReason::Invalid);
        Answer::TakeBut(vec![Rejected { seq, reason, detail: "no".into() }])
    };
    let cases: [(&str, Then, u64); 6] = [
        ("taken", |_| Answer::Take, 100),
        ("taken but for one", refused, 99),
        ("split", |_| Answer::Fail(split()), 100),
        ("rejected", |_| Answer::Fail(reject()), 90),
        ("blocked", |batch| Answer::Fail(blocked(first(batch))), 100),
        ("not understood", |_| Answer::Fail(retry()), 100),
    ];
    for (name, then, delivered) in cases {
        for (wait, told) in [(6, false), (600, true)] {
            let mut bench = Bench::new();
            let wait = wait * SECOND;
            let sink = tens(1, move |n, batch| match n {
                1 => Answer::AskToWait(wait, Box::new(then(batch))),
                _ => Answer::Take,
            });
            bench.append(10, &[2; 10]).await;
            let stats = bench.serve(&sink, options());
            tokio::time::sleep(wait - SECOND).await;
            assert_eq!(attempts(&sink), 1, "{name} {wait:?}");
            let held = stats.progress().held.unwrap_or_default();
            assert_eq!(held.contains("asks to wait"), told, "{name}: {held}");
            tokio::time::sleep(310 * SECOND).await;
            assert_eq!(bench.account(&sink).delivered[2], delivered, "{name} {wait:?}");
            assert_eq!(stats.progress().held, None, "{name} {wait:?}");
        }
    }
}

/// As a sink's check may be told before the first delivery.
#[tokio::test(start_paused = true)]
async fn what_was_asked_before_the_first_delivery_is_waited() {
    let mut bench = Bench::new();
    let sink = tens(4, |_, _| Answer::Take);
    sink.seen.lock().unwrap().rest = Some(Instant::now() + 8 * SECOND);
    bench.append(10, &[2; 10]).await;
    bench.serve(&sink, options());
    tokio::time::sleep(7 * SECOND).await;
    assert_eq!(attempts(&sink), 0);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(places(&sink).len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_wish_to_wait_is_honoured_for_two_hours_and_for_a_day_at_most() {
    for (after, waits) in [(7200, 7200), (1_000_000, 86_400)] {
        for kind in ["retry", "stop"] {
            let mut bench = Bench::new();
            let after = after * SECOND;
            let sink = tens(4, move |n, _| match n {
                4 if kind == "retry" => Answer::Fail(retry_after(after)),
                4 => Answer::Fail(stop(Some(after))),
                _ => Answer::TakeAfter(SECOND),
            });
            bench.append(10, &[2; 10]).await;
            bench.serve(&sink, options());
            tokio::time::sleep(waits * SECOND - SECOND).await;
            assert_eq!(attempts(&sink), 4, "{kind} {after:?}");
            tokio::time::sleep(30 * SECOND).await;
            assert_eq!(places(&sink).len(), 100, "{kind} {after:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_far_side_that_refuses_every_batch_keeps_the_rest_in_the_ring() {
    let mut bench = Bench::new();
    let mended = Switch::default();
    let now = mended.clone();
    let sink = tens(4, move |_, _| if now.on() { Answer::Take } else { Answer::Fail(reject()) });
    bench.append(200, &[2; 10]).await;
    let stats = bench.serve(&sink, options());
    tokio::time::sleep(3600 * SECOND).await;
    let held = stats.progress().held.unwrap();
    assert!(held.contains("refused 10 batches in a row") && !held.contains("400"), "{held}");
    assert_eq!(stats.progress().cause.as_deref(), Some("400"));
    assert!((10 + 10..=10 + 16).contains(&attempts(&sink)), "{} attempts", attempts(&sink));
    let refused = u64::from(REFUSED_MOST - 1) * 10;
    assert_eq!(bench.account(&sink).rejected[2], refused);
    mended.set();
    bench.finish().await;
    assert_eq!(stats.progress().held, None);
    let account = bench.account(&sink);
    assert_eq!((account.delivered[2], account.rejected[2], account.held), (2000 - refused, refused, [0; 4]));
}

#[tokio::test(start_paused = true)]
async fn a_far_side_that_finds_everything_too_large_keeps_the_rest_in_the_ring() {
    let mut bench = Bench::new();
    let mended = Switch::default();
    let now = mended.clone();
    let sink = Fake::new("s", move |_, _| if now.on() { Answer::Take } else { Answer::Fail(split()) });
    bench.append(40, &[2; 50]).await;
    let stats = bench.serve(&sink, options());
    tokio::time::sleep(3600 * SECOND).await;
    let held = stats.progress().held.unwrap();
    assert!(held.contains("refused 10 batches in a row"), "{held}");
    let account = bench.account(&sink);
    assert_eq!(account.rejected[2], u64::from(REFUSED_MOST - 1), "single events");
    assert!(attempts(&sink) <= 60, "{} attempts", attempts(&sink));
    mended.set();
    bench.finish().await;
    let account = bench.account(&sink);
    assert_eq!((account.delivered[2], account.held), (2000 - u64::from(REFUSED_MOST - 1), [0; 4]));
}

#[tokio::test(start_paused = true)]
async fn a_single_bad_event_is_found_without_a_pause() {
    // the place that takes the most splits before anything gets through
    for bad in [1, 777, 1000] {
        let mut bench = Bench::new();
        let mut sink = Fake::bare("s", move |_, batch| match holds(batch, bad) {
            true => Answer::Fail(split()),
            false => Answer::Take,
        });
        sink.limits.in_flight = 1;
        let sink = Arc::new(sink);
        bench.append(20, &[2; 50]).await;
        bench.serve(&sink, options());
        let begun = Instant::now();
        bench.finish().await;
        assert!(begun.elapsed() < 2 * SECOND, "event {bad}: {:?}", begun.elapsed());
        let account = bench.account(&sink);
        assert_eq!((account.delivered[2], account.rejected[2], account.held), (999, 1, [0; 4]));
        assert!(attempts(&sink) <= 2 * SPLITS_FREE as usize, "{} attempts", attempts(&sink));
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_with_successes_between_are_counted_and_nothing_holds() {
    let mut bench = Bench::new();
    let sink = tens(1, |n, batch| {
        let (seq, reason) = (first(batch), RejectReason::Invalid);
        match n % 9 {
            0 => Answer::Take,
            // of every batch one event
            _ if n > 180 => Answer::TakeBut(vec![Rejected { seq, reason, detail: "no".into() }]),
            _ => Answer::Fail(reject()),
        }
    });
    bench.append(360, &[2; 10]).await;
    let stats = bench.serve(&sink, options());
    let begun = Instant::now();
    bench.finish().await;
    assert!(begun.elapsed() < 2 * SECOND, "{:?}", begun.elapsed());
    assert_eq!(stats.progress().held, None);
    let whole = 160 * 10;
    let single = (181..=360).filter(|n| n % 9 != 0).count() as u64;
    assert_eq!(bench.account(&sink).rejected[2], whole + single);
}

#[tokio::test(start_paused = true)]
async fn what_the_sink_itself_cannot_send_never_stops_it() {
    for reason in [RejectReason::Unencodable, RejectReason::Held] {
        let mut bench = Bench::new();
        let sink = tens(2, move |n, batch| match n % 2 {
            0 => Answer::Fail(DeliverError::Reject { reason, source: "cannot".into() }),
            _ => Answer::TakeBut(
                batch.iter().map(|(seq, _)| Rejected { seq, reason, detail: String::new() }).collect(),
            ),
        });
        bench.append(100, &[2; 10]).await;
        let stats = bench.serve(&sink, options());
        bench.finish().await;
        assert_eq!((bench.account(&sink).rejected[2], stats.progress().held), (1000, None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_far_side_that_cannot_be_reached_becomes_an_alarm_after_minutes() {
    let mut bench = Bench::new();
    let back = Switch::default();
    let now = back.clone();
    let sink = tens(4, move |n, _| match now.on() {
        true => Answer::Take,
        // not always with the same words
        false => Answer::Fail(DeliverError::Retry {
            after: None,
            source: Box::new(HttpError::Dns { host: "blobs.example".into(), detail: format!("{n}") }),
        }),
    });
    let stats = bench.serve(&sink, options());
    assert_eq!(alarms(&bench, &stats, 290).await, 0, "a short outage is none");
    assert_eq!(alarms(&bench, &stats, 3600).await, 1);
    let held = stats.progress().held.unwrap();
    assert!(held.contains("check the address and DNS") && held.contains("nothing gets through"), "{held}");
    assert!(!held.contains("will be tried again"), "{held}");
    back.set();
    tokio::time::sleep(121 * SECOND).await;
    assert_eq!(stats.progress().held, None, "ended by the first success");
    bench.finish().await;
    assert_eq!(places(&sink).len() as u64, bench.ring.status().durable.0);
}

fn late() -> DeliverError {
    DeliverError::from(HttpError::Timeout("blobs.example".into()))
}

/// One batch of ten events, 100 kB each.
async fn heavy(bench: &Bench) {
    let blocks = vec![sized_block(&[2; 10], 1, 100_000)];
    bench.ring.append(group(blocks)).await.unwrap().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_too_slow_for_its_time_out_gets_through_in_halves() {
    for hangs in [true, false] {
        let mut bench = Bench::new();
        let sink = Fake::new("s", move |_, batch| match batch.len() {
            ..=3 => Answer::Take,
            _ if hangs => Answer::Hang,
            _ => Answer::Fail(late()),
        });
        heavy(&bench).await;
        let stats = bench.serve(&sink, options());
        tokio::time::sleep(3600 * SECOND).await;
        assert_eq!((places(&sink).len(), stats.progress().held), (10, None));
        assert_eq!(bench.account(&sink).rejected, [0; 4]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_far_side_that_is_silent_for_hours_does_not_cut_batches_to_events() {
    for (hangs, limit) in [(true, "a longer batch.timeout"), (false, "a longer http.timeout")] {
        let mut bench = Bench::new();
        let mended = Switch::default();
        let now = mended.clone();
        let sink = Fake::new("s", move |_, _| match now.on() {
            true => Answer::Take,
            false if hangs => Answer::Hang,
            false => Answer::Fail(late()),
        });
        heavy(&bench).await;
        let stats = bench.serve(&sink, options());
        tokio::time::sleep(10 * 3600 * SECOND).await;
        let held = stats.progress().held.unwrap();
        assert!(held.contains(limit) && held.contains("no answer in time"), "{held}");
        mended.set();
        bench.finish().await;
        assert_eq!((places(&sink).len(), ranges(&sink).len()), (10, 3));
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_over_which_the_sink_panics_waits_alone() {
    let mut bench = Bench::new();
    let mended = Switch::default();
    let now = mended.clone();
    let sink = tens(1, move |_, batch| {
        if holds(batch, 1) && !now.on() {
            broken();
        }
        Answer::Take
    });
    let stats = bench.serve(&sink, options());
    assert_eq!(alarms(&bench, &stats, 3600).await, 1, "one alarm");
    assert!(stats.progress().held.unwrap().contains("broke down"));
    assert!(places(&sink).len() >= 7_180, "{} delivered", places(&sink).len());
    let panics = stats.progress().attempts["panic"];
    assert!((25..=150).contains(&panics), "{panics} attempts at it, a minute or two apart at last");
    mended.set();
    tokio::time::sleep(121 * SECOND).await;
    assert_eq!(stats.progress().held, None);
    bench.finish().await;
    assert_eq!(places(&sink).len() as u64, bench.ring.status().durable.0);
}

#[tokio::test(start_paused = true)]
async fn the_reasons_to_hold_are_told_beside_each_other_and_end_alone() {
    let mut bench = Bench::new();
    let (stuck, mended) = (Switch::default(), Switch::default());
    let (met, now) = (stuck.clone(), mended.clone());
    let sink = tens(2, move |_, batch| match (holds(batch, 1), now.on()) {
        (true, _) => {
            met.set();
            Answer::Fail(blocked(Seq(1)))
        }
        (false, true) => Answer::Take,
        // which of the two is encoded first is chance, and whoever stops the sink first is asked alone
        (false, false) if !met.on() => Answer::Fail(retry()),
        (false, false) => Answer::Fail(stop(None)),
    });
    bench.append(2, &[2; 10]).await;
    let stats = bench.serve(&sink, options());
    tokio::time::sleep(10 * SECOND).await;
    let held = stats.progress().held.unwrap();
    assert!(held.contains("renew the key") && held.contains("move away"), "{held}");
    mended.set();
    tokio::time::sleep(310 * SECOND).await;
    let held = stats.progress().held.unwrap();
    assert!(!held.contains("renew the key") && held.contains("move away"), "{held}");
}

#[tokio::test(start_paused = true)]
async fn the_byte_limit_is_kept_and_every_attempt_pays() {
    // one attempt a batch, then two
    for tries in [1, 2] {
        let mut bench = Bench::new();
        for tag in 0..40 {
            let made = sized_block(&[2; 10], tag, 1000);
            bench.ring.append(group(vec![made])).await.unwrap().await.unwrap();
        }
        let seen = Mutex::new(BTreeMap::<Seq, u64>::new());
        let sink = tens(1, move |_, batch| {
            let mut seen = seen.lock().unwrap();
            let n = seen.entry(first(batch)).or_default();
            *n += 1;
            if *n < tries { Answer::Fail(retry()) } else { Answer::Take }
        });
        let retry = RetryConfig {
            first: Duration::from_millis(1),
            most: Duration::from_millis(1),
            ..RetryConfig::default()
        };
        bench.serve(&sink, SinkOptions { bytes_per_second: Some(20_000), retry, ..options() });
        let begun = Instant::now();
        bench.finish().await;
        // a second's worth is at hand
        let least = 40 * 10 * 1000 * tries / 20_000 - 2;
        let took = begun.elapsed().as_secs();
        assert!((least..=least + 8).contains(&took), "{tries} tries: {took} s, {least} at least");
        assert_eq!(places(&sink).len(), 400);
    }
}

#[tokio::test(start_paused = true)]
async fn fewer_are_tried_at_a_time_after_failures_and_more_again_after_successes() {
    let mut bench = Bench::new();
    let sink =
        tens(8, |n, _| if (9..=11).contains(&n) { Answer::Fail(split()) } else { Answer::TakeAfter(SECOND) });
    bench.append(60, &[2; 10]).await;
    bench.serve(&sink, options());
    bench.finish().await;
    assert_eq!(places(&sink).len(), 600);
    let at = sink.seen.lock().unwrap().at.clone();
    let mut waves: BTreeMap<Instant, usize> = BTreeMap::new();
    at.into_iter().for_each(|t| *waves.entry(t).or_default() += 1);
    let mut waves: Vec<usize> = waves.into_values().collect();
    // what is left at last need not fill the window
    waves.pop();
    assert_eq!(waves[0], 8, "{waves:?}");
    assert!(waves[2] <= 4 && waves[2..].is_sorted(), "{waves:?}");
    assert_eq!(waves.last(), Some(&8), "{waves:?}");
}
