//! Latency classes: when batches that are not full leave, and what waits on a metered network.

use tidegate_sinks::events::{Latency, LatencyRule, Urgency};

use super::super::soon::{LOOK, Metered};
use super::*;

pub(super) const REAL_TIME: u8 = 0;
pub(super) const NORMAL: u8 = 2;
pub(super) const DEFERRED: u8 = 3;

/// Levels stand for classes: Security and Basic are real-time, Enhanced normal, Full cost-deferred.
fn urgency() -> Urgency {
    let rule = |max_level, class| LatencyRule { provider: None, event: None, max_level, class };
    Urgency::new(vec![
        rule(Some(TelemetryLevel::Basic), Latency::RealTime),
        rule(Some(TelemetryLevel::Enhanced), Latency::Normal),
        rule(None, Latency::CostDeferred),
    ])
}

/// A sink that would rather wait an hour than send a batch that is not full.
pub(super) fn patient(name: &str) -> Arc<Fake> {
    let mut fake = Fake::bare(name, |_, _| Answer::Take);
    fake.limits.age = Duration::from_secs(3600);
    Arc::new(fake)
}

/// A network whose price can be changed.
pub(super) fn network(metered: bool) -> (Arc<AtomicBool>, Metered) {
    let now = Arc::new(AtomicBool::new(metered));
    let asked = Arc::clone(&now);
    (now, Metered::from_fn(move || asked.load(Ordering::Relaxed)))
}

pub(super) fn classes(metered: &Metered) -> SinkOptions {
    SinkOptions { urgency: Some(urgency()), metered: metered.clone(), ..options() }
}

/// Seconds until so many events have arrived; looks ten times a second.
pub(super) async fn seconds_until(sink: &Fake, events: usize) -> f64 {
    let begun = Instant::now();
    while places(sink).len() < events {
        assert!(begun.elapsed() < Duration::from_secs(600), "only {:?}", places(sink));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    begun.elapsed().as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn real_time_events_leave_within_two_seconds_and_normal_ones_within_thirty() {
    let (_, unmetered) = network(false);
    for (level, least, most) in [(REAL_TIME, 0.5, 2.0), (NORMAL, 10.0, 30.0), (DEFERRED, 10.0, 30.0)] {
        let mut bench = Bench::new();
        let sink = patient("stream");
        bench.serve(&sink, classes(&unmetered));
        bench.append(1, &[level; 3]).await;
        let took = seconds_until(&sink, 3).await;
        assert!((least..=most).contains(&took), "level {level}: {took} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_real_time_event_takes_along_what_waits_before_it() {
    let (mut bench, sink) = (Bench::new(), patient("stream"));
    bench.serve(&sink, classes(&Metered::always(false)));
    bench.append(5, &[NORMAL; 2]).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(places(&sink).len(), 0);
    bench.append(1, &[REAL_TIME]).await;
    let took = seconds_until(&sink, 11).await;
    assert!(took <= 2.0, "{took}");
    assert_eq!(ranges(&sink), [(1, 11)], "one batch");
}

#[tokio::test(start_paused = true)]
async fn without_classes_a_batch_waits_as_long_as_its_sink_says() {
    let (mut bench, sink) = (Bench::new(), patient("files"));
    bench.serve(&sink, SinkOptions { metered: Metered::always(true), ..options() });
    bench.append(1, &[REAL_TIME]).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(places(&sink).len(), 0);
    tokio::time::sleep(Duration::from_secs(3001)).await;
    assert_eq!(places(&sink).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_metered_network_holds_cost_deferred_events_only_and_none_is_lost_or_sent_twice() {
    let (mut bench, sink) = (Bench::new(), patient("stream"));
    let (price, metered) = network(true);
    let stats = bench.serve(&sink, classes(&metered));
    let mut others = 0;
    for _ in 0..40 {
        for level in [DEFERRED, DEFERRED, NORMAL, DEFERRED, REAL_TIME] {
            bench.append(1, &[level; 5]).await;
            others += if level == DEFERRED { 0 } else { 5 };
        }
        tokio::time::sleep(Duration::from_secs(7)).await;
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
    {
        let seen = sink.seen.lock().unwrap();
        assert_eq!(seen.events.len(), others);
        assert!(!seen.levels.contains(&Some(DEFERRED)), "{:?}", seen.levels);
    }
    assert_eq!(stats.progress().waiting, 40 * 15);
    price.store(false, Ordering::Relaxed);
    let took = seconds_until(&sink, 40 * 25).await;
    assert!(took <= 2.0 * LOOK.as_secs_f64() + 30.0, "{took}");
    assert_eq!(sink.seen.lock().unwrap().repeats, 0);
    bench.finish().await;
    let account = bench.account(&sink);
    assert_eq!((account.held, account.delivered.iter().sum::<u64>()), ([0; 4], 40 * 25));
    // a stretch of events is one batch, however many blocks it has
    assert_eq!(ranges(&sink).len(), 40 * 4);
}

#[tokio::test(start_paused = true)]
async fn what_a_metered_network_holds_stays_in_the_ring_over_a_restart() {
    let (mut bench, sink) = (Bench::new(), patient("stream"));
    let (price, metered) = network(true);
    bench.serve(&sink, classes(&metered));
    bench.append(3, &[DEFERRED; 4]).await;
    bench.append(1, &[REAL_TIME; 4]).await;
    seconds_until(&sink, 4).await;
    bench.finish().await;
    assert_eq!(bench.account(&sink).held, [0, 0, 0, 12]);
    bench.serve(&sink, classes(&metered));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(places(&sink), [13, 14, 15, 16]);
    price.store(false, Ordering::Relaxed);
    seconds_until(&sink, 16).await;
    bench.finish().await;
    assert_eq!(bench.account(&sink).delivered, [4, 0, 0, 12]);
    assert_eq!(sink.seen.lock().unwrap().repeats, 0);
}

#[test]
fn a_file_tells_whether_the_network_is_metered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metered");
    let metered = Metered::file(path.clone());
    assert!(!metered.now(), "no file");
    for (text, says) in [("yes\n", true), ("Yes (guessed)", true), ("1", true), ("no", false), ("", false)] {
        std::fs::write(&path, text).unwrap();
        assert_eq!(metered.now(), says, "{text}");
    }
    std::fs::write(&path, [0xff; 9999]).unwrap();
    assert!(!metered.now());
}
