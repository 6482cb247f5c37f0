//! What went from the ring is told to the far side: each event once, whatever ends the run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_proto::value::ValueRef;
use tidegate_ring::testing::{group, sized_block};

use super::*;

/// Reason, events and places of each gap record.
type Told = Arc<Mutex<Vec<(String, u64, String)>>>;

/// A sink that takes everything while it may, and keeps the gap records.
fn listener(away: &Arc<AtomicBool>) -> (Arc<Fake>, Told) {
    let (told, away) = (Told::default(), Arc::clone(away));
    let kept = Arc::clone(&told);
    let sink = Fake::new("s", move |_, batch| {
        if away.load(Ordering::Relaxed) {
            return Answer::Fail(retry());
        }
        for (_, event) in batch.iter().filter(|(_, e)| &*e.schema().event_name == "Gap") {
            let fields: Vec<_> = event.fields().map(|f| f.value).collect();
            let [
                ValueRef::Str(origin),
                ValueRef::Str(reason),
                ValueRef::U64(events),
                ValueRef::Str(detail),
                ..,
            ] = fields[..]
            else {
                panic!("another gap: {fields:?}")
            };
            assert_eq!(origin, "ring, sink s");
            kept.lock().unwrap().push((reason.to_owned(), events, detail.to_owned()));
        }
        Answer::Take
    });
    (sink, told)
}

fn small() -> Arc<dyn Ring> {
    let ring = MemoryRing::new(RingOptions { bound_bytes: 4 << 20, ..RingOptions::default() });
    Arc::new(NeverClosed::new(ring))
}

/// More than the ring holds, at one blow.
async fn flood(ring: &Arc<dyn Ring>) {
    for tag in 0..60 {
        ring.append(group(vec![sized_block(&[2], tag, 100_000)])).await.unwrap().await.unwrap();
    }
}

fn lost(ring: &Arc<dyn Ring>) -> u64 {
    let account = ring.account();
    account.check().unwrap();
    account.sinks.values().next().unwrap().lost.get(&LossReason::Evicted).map_or(0, |l| l.iter().sum())
}

fn sum(told: &Told) -> u64 {
    told.lock().unwrap().iter().map(|(_, n, _)| n).sum()
}

fn daemon(ring: &Arc<dyn Ring>, sink: &Arc<Fake>) -> Parts {
    let mut parts = parts(ring, Counting::new(0, 10), &[sink]);
    parts.options.until = Until::Stopped;
    parts
}

#[tokio::test(start_paused = true)]
async fn what_went_before_a_start_is_told_once_with_its_places() {
    let ring = small();
    ring.attach(&SinkId::new("s"), StartAt::Oldest).unwrap();
    flood(&ring).await;
    let lost = lost(&ring);
    assert!(lost > 10);
    let (sink, told) = listener(&Arc::default());
    for _ in 0..2 {
        let running = Pipeline::start(daemon(&ring, &sink)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(200)).await;
        running.stop(Duration::from_secs(10)).await.unwrap();
        let want = ("evicted".to_owned(), lost, format!("between places 1 and {lost}"));
        assert_eq!(*told.lock().unwrap(), [want]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_goes_while_the_sink_is_away_is_told_but_not_what_it_gets_after_all() {
    let (ring, away) = (small(), Arc::new(AtomicBool::new(true)));
    let (sink, told) = listener(&away);
    let running = Pipeline::start(daemon(&ring, &sink)).await.unwrap();
    // runs of it are under way when it goes
    ring.append(group(vec![sized_block(&[2; 20], 1000, 50_000)])).await.unwrap().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    for _ in 0..3 {
        flood(&ring).await;
        tokio::time::sleep(Duration::from_secs(70)).await;
    }
    let in_flight = ring.account().sinks.values().next().unwrap().lost_in_flight.clone();
    assert!(in_flight.contains_key(&LossReason::Evicted), "{in_flight:?}");
    away.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(600)).await;
    let summary = running.stop(Duration::from_secs(10)).await.unwrap();
    assert_eq!(summary.account_error, None);
    assert_eq!(sum(&told), lost(&ring), "{told:?}");
    assert!(told.lock().unwrap().len() >= 2, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn what_went_just_before_a_stop_is_told_by_the_run_that_stops() {
    let ring = small();
    let (sink, told) = listener(&Arc::default());
    let running = Pipeline::start(daemon(&ring, &sink)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    flood(&ring).await;
    running.stop(Duration::from_secs(10)).await.unwrap();
    assert!(lost(&ring) > 10);
    assert_eq!(sum(&told), lost(&ring), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn at_level_security_no_gap_is_told_and_at_basic_it_is_told_later() {
    let ring = small();
    ring.attach(&SinkId::new("s"), StartAt::Oldest).unwrap();
    flood(&ring).await;
    let (sink, told) = listener(&Arc::default());
    for (level, want) in [(TelemetryLevel::Security, false), (TelemetryLevel::Basic, true)] {
        let mut p = daemon(&ring, &sink);
        p.options.level = Some(level);
        let running = Pipeline::start(p).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        running.stop(Duration::from_secs(10)).await.unwrap();
        let evicted: u64 =
            told.lock().unwrap().iter().filter(|(r, ..)| r == "evicted").map(|(_, n, _)| n).sum();
        assert_eq!(evicted, if want { lost(&ring) } else { 0 }, "at {level}");
    }
}
