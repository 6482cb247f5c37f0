//! A lowered level whose purge fails.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::control::ChangeError;

const BASIC: Option<TelemetryLevel> = Some(TelemetryLevel::Basic);
const FULL: Option<TelemetryLevel> = Some(TelemetryLevel::Full);

/// A run with events of Basic (even) and Enhanced (odd), of which nothing is taken before the switch is on.
async fn run(ring: &Arc<NeverClosed>, source: Counting) -> (Running, Arc<Fake>, Arc<AtomicBool>) {
    let taken = Arc::new(AtomicBool::new(false));
    let on = Arc::clone(&taken);
    let sink =
        Fake::new("s", move |_, _| if on.load(Ordering::Relaxed) { Answer::Take } else { Answer::Hang });
    let shared: Arc<dyn Ring> = Arc::clone(ring) as _;
    let mut parts = parts(&shared, source, &[&sink]);
    parts.options.level = FULL;
    parts.options.until = Until::Stopped;
    (Pipeline::start(parts).await.unwrap(), sink, taken)
}

fn source(from: u64) -> Counting {
    Counting {
        levels: vec![1, 2],
        pause: Duration::from_millis(100),
        step: 10,
        ..Counting::new(from, 1 << 40)
    }
}

fn new_ring() -> Arc<NeverClosed> {
    Arc::new(NeverClosed::new(MemoryRing::new(RingOptions::default())))
}

/// A run that holds events, and may send them now, whose next three purges fail.
async fn run_until_purges_fail(ring: &Arc<NeverClosed>) -> (Running, Arc<Fake>) {
    let (running, sink, taken) = run(ring, source(0)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    ring.1.store(3, Ordering::Relaxed);
    taken.store(true, Ordering::Relaxed);
    (running, sink)
}

fn who() -> Who {
    Who("test".to_owned())
}

fn is_owed(running: &Running) -> bool {
    running
        .progress()
        .alarms
        .iter()
        .any(|a| a.contains("has to be removed") && a.contains("rewrite 0001.seg"))
}

fn audited(ring: &NeverClosed) -> Vec<serde_json::Value> {
    let entries = ring.chain_read(Chain::Audit, 1, 100).unwrap();
    entries.iter().map(|e| serde_json::from_slice(&e.data).unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_lowering_whose_purge_fails_is_an_error_and_an_alarm_and_is_tried_again() {
    let ring = new_ring();
    let (running, sink) = run_until_purges_fail(&ring).await;
    let control = Arc::clone(running.handle().control());
    let e = control.set_level(BASIC, &who()).await.unwrap_err();
    assert!(matches!(e, ChangeError::Owed { level: TelemetryLevel::Basic, .. }), "{e}");
    assert!(e.to_string().contains("level 1 Basic is in force"), "{e}");
    assert!(is_owed(&running), "{:?}", running.progress().alarms);
    assert_eq!(control.now().level, TelemetryLevel::Basic);
    control.set_level(BASIC, &who()).await.expect_err("asked again, it is tried again");
    let before = audited(&ring).len();
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(is_owed(&running) && sink.numbers().is_empty(), "nothing is sent meanwhile");
    assert_eq!(audited(&ring).len(), before, "not an entry for each attempt");
    tokio::time::sleep(Duration::from_secs(65)).await;
    assert_eq!(running.progress().alarms, Vec::<String>::new());
    assert!(ring.account().sinks.values().next().unwrap().lost[&LossReason::Purged][2] > 0);
    let levels: Vec<_> = audited(&ring).into_iter().filter(|e| e["what"] == "level").collect();
    let [.., failed, done] = &levels[..] else { panic!("{levels:?}") };
    assert!(failed["purge_failed"].as_str().unwrap().contains("rewrite"), "{failed}");
    assert!(done["purged"][2].as_u64() > Some(0) && done["purge_failed"].is_null(), "{done}");
    let summary = running.stop(Duration::from_secs(60)).await.unwrap();
    assert!(!sink.numbers().is_empty());
    assert!(!sink.seen.lock().unwrap().levels.contains(&Some(2)));
    assert_eq!(summary.account_error, None);
}

#[tokio::test(start_paused = true)]
async fn a_raise_after_a_lowering_that_failed_sends_nothing_of_what_had_to_go() {
    let ring = new_ring();
    let (running, sink) = run_until_purges_fail(&ring).await;
    let control = Arc::clone(running.handle().control());
    control.set_level(BASIC, &who()).await.unwrap_err();
    let read = running.progress().read;
    control.set_level(None, &who()).await.expect_err("the raise waits for what is owed");
    assert!(is_owed(&running));
    assert_eq!(control.now().level, TelemetryLevel::Basic, "what would be purged is not gathered");
    control.set_enabled(false, &who()).await.expect_err("the switch does not forget it");
    control.set_enabled(true, &who()).await.expect("paid");
    assert_eq!(control.now().level, TelemetryLevel::Full);
    tokio::time::sleep(Duration::from_secs(30)).await;
    running.stop(Duration::from_secs(60)).await.unwrap();
    let enhanced: Vec<u64> = sink.numbers().into_iter().filter(|n| n % 2 == 1 && *n != u64::MAX).collect();
    assert!(enhanced.iter().all(|n| *n >= read), "{read}: {enhanced:?}");
    assert!(!enhanced.is_empty(), "what comes later leaves");
}

#[tokio::test(start_paused = true)]
async fn what_a_failed_lowering_has_to_remove_goes_before_anything_is_sent_after_a_restart_with_a_raise() {
    let ring = new_ring();
    let (running, _, _) = run(&ring, source(0)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    ring.1.store(1, Ordering::Relaxed);
    running.handle().control().set_level(BASIC, &who()).await.unwrap_err();
    let read = running.progress().read;
    running.stop(Duration::ZERO).await.unwrap();
    // as a raise does that is killed before anything else
    ring.put("telemetry.level", None).unwrap();
    ring.1.store(1, Ordering::Relaxed);
    let (running, sink, taken) = run(&ring, source(1_000_000)).await;
    taken.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(is_owed(&running) && sink.numbers().is_empty(), "{:?}", running.progress().alarms);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(running.progress().alarms, Vec::<String>::new());
    assert_eq!(running.handle().control().now().level, TelemetryLevel::Full);
    running.stop(Duration::from_secs(60)).await.unwrap();
    let numbers = sink.numbers();
    assert!(numbers.iter().all(|n| n % 2 == 0 || *n >= 1_000_000), "{read}: {numbers:?}");
    assert!(numbers.contains(&0) && numbers.iter().any(|n| n % 2 == 1));
}
