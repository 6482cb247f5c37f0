//! What every source that keeps a position must do, as checks that panic with what is wrong.
//! For tests.

use std::time::{Duration, Instant};

use tidegate_proto::json::write_event;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{Item, Source, SourceEnd, SourceError, intake};

/// Makes the source anew at a position.
pub type Make<'a> = &'a (dyn Fn(Option<&[u8]>) -> Box<dyn Source> + Sync);

/// Longest that a source may take to stop, with room for a busy machine.
const STOPS: Duration = Duration::from_secs(3);
/// Longest stored position; the ring's own bound.
const POSITION: usize = 1024;

/// The events of an item as JSON.
#[must_use]
pub fn lines(item: &Item) -> Vec<String> {
    let line = |event| {
        let mut out = Vec::new();
        write_event(&mut out, event, None);
        String::from_utf8_lossy(&out).into_owned()
    };
    item.events.iter().map(line).collect()
}

/// Runs a source to its end.
///
/// # Panics
/// When it fails.
pub async fn run(source: Box<dyn Source>) -> (Vec<Item>, SourceEnd) {
    let mut intake = intake(4);
    let out = intake.outlet(&source.info().name);
    let stop = CancellationToken::new();
    let ended = tokio::spawn(source.run(out, stop));
    intake = intake.seal();
    let mut items = Vec::new();
    while let Some(item) = intake.next().await {
        items.push(item);
    }
    let end = ended.await.expect("the source panicked").expect("the source failed");
    (items, end)
}

/// All checks. The source must come to an end of at least two items by itself, and be the
/// same every time.
///
/// # Panics
/// When a check fails.
pub async fn all(make: Make<'_>) {
    resumes_at_every_position(make).await;
    stops_and_goes_on(make).await;
    stops_while_nobody_takes(make).await;
    ends_when_the_intake_is_gone(make).await;
}

/// Every item's position leads to the events behind it: none twice, none left out.
///
/// # Panics
/// When that is not so.
pub async fn resumes_at_every_position(make: Make<'_>) {
    let (items, end) = run(make(None)).await;
    assert!(!end.stopped, "it says it was stopped");
    assert!(items.len() >= 2, "the suite needs an input of two items, this has {}", items.len());
    let all: Vec<String> = items.iter().flat_map(lines).collect();
    let mut before = 0;
    for (n, item) in items.iter().enumerate() {
        assert!(!item.events.is_empty(), "item {n} is empty");
        assert!(!item.position.is_empty() && item.position.len() <= POSITION, "position of item {n}");
        before += item.events.len();
        let (rest, _) = run(make(Some(&item.position))).await;
        let rest: Vec<String> = rest.iter().flat_map(lines).collect();
        let want = &all[before..];
        assert_eq!(rest.len(), want.len(), "events behind item {n}");
        if let Some(at) = rest.iter().zip(want).position(|(a, b)| a != b) {
            panic!("behind item {n}, event {at} is\n{}\nnot\n{}", rest[at], want[at]);
        }
    }
}

/// A source that is stopped in the middle goes on where it stopped.
///
/// # Panics
/// When that is not so.
pub async fn stops_and_goes_on(make: Make<'_>) {
    let (items, _) = run(make(None)).await;
    let all: Vec<String> = items.iter().flat_map(lines).collect();
    let mut intake = intake(1);
    let source = make(None);
    let out = intake.outlet(&source.info().name);
    let stop = CancellationToken::new();
    let ended = tokio::spawn(source.run(out, stop.clone()));
    intake = intake.seal();
    let first = intake.next().await.expect("no first item");
    let (mut got, mut position) = (lines(&first), first.position);
    stop.cancel();
    while let Some(item) = intake.next().await {
        got.extend(lines(&item));
        position = item.position;
    }
    ended.await.expect("the source panicked").expect("a stopped source failed");
    let (rest, _) = run(make(Some(&position))).await;
    got.extend(rest.iter().flat_map(lines));
    assert_eq!(got.len(), all.len(), "events of both parts");
    assert!(got == all, "the parts are not the whole");
}

/// Nobody takes its events: it stops all the same.
///
/// # Panics
/// When it does not.
pub async fn stops_while_nobody_takes(make: Make<'_>) {
    let intake = intake(1);
    let source = make(None);
    let out = intake.outlet(&source.info().name);
    let stop = CancellationToken::new();
    let ended = tokio::spawn(source.run(out, stop.clone()));
    // the intake is full once an item lies in it
    while intake.is_idle() {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    soon(ended).await;
}

/// The intake is gone: it ends.
///
/// # Panics
/// When it does not.
pub async fn ends_when_the_intake_is_gone(make: Make<'_>) {
    let intake = intake(1);
    let source = make(None);
    let out = intake.outlet(&source.info().name);
    drop(intake);
    soon(tokio::spawn(source.run(out, CancellationToken::new()))).await;
}

/// Waits by the wall clock: tests pause the other one.
async fn soon(ended: JoinHandle<Result<SourceEnd, SourceError>>) {
    let start = Instant::now();
    while !ended.is_finished() {
        assert!(start.elapsed() < STOPS, "it does not end");
        tokio::task::yield_now().await;
    }
    ended.await.expect("the source panicked").expect("a source that is stopped failed");
}
