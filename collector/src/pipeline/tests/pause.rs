//! A sink that is paused keeps its place.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_paused_sink_gets_nothing_keeps_its_place_and_goes_on() {
    let ring = ring();
    let (sink, other) = (Fake::fine("s"), Fake::fine("other"));
    let mut p = parts(&ring, Counting::new(0, 1000), &[&sink, &other]);
    p.options.until = Until::Stopped;
    p.sinks[0].options.paused = true;
    let running = Pipeline::start(p).await.unwrap();
    let handle = running.handle();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!((sink.seen.lock().unwrap().attempts, other.numbers().len()), (0, 1000));
    let progress = handle.progress();
    assert!(progress.sinks["s"].paused && !progress.sinks["other"].paused);
    assert_eq!(ring.account().sinks[&SinkId::new("s")].held, [0, 0, 1000, 0]);
    assert_eq!(ring.status().trimmed, Seq::ZERO, "it holds the trim as a slow one does");
    assert!(handle.pause("s", false) && !handle.pause("nobody", false));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(sink.numbers(), (0..1000).collect::<Vec<_>>());
    assert!(running.stop(Duration::from_secs(5)).await.unwrap().complete());
}

#[tokio::test(start_paused = true)]
async fn a_sink_paused_in_the_middle_of_its_failures_is_not_tried_and_holds_up_no_stop() {
    let ring = ring();
    let sink = Fake::new("s", |_, _| Answer::Fail(retry()));
    let mut p = parts(&ring, Counting::new(0, 1000), &[&sink]);
    p.options.until = Until::Stopped;
    let running = Pipeline::start(p).await.unwrap();
    let handle = running.handle();
    tokio::time::sleep(Duration::from_secs(20)).await;
    handle.pause("s", true);
    let before = sink.seen.lock().unwrap().attempts;
    assert!(before > 1);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(sink.seen.lock().unwrap().attempts, before);
    handle.pause("s", false);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(sink.seen.lock().unwrap().attempts > before);
    handle.pause("s", true);
    let begun = tokio::time::Instant::now();
    let summary = running.stop(Duration::from_secs(3600)).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(summary.account_error, None);
}
