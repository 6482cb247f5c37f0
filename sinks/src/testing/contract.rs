//! The [`Sink`] contract as a suite that every sink's tests run.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_proto::ids::Seq;

use super::{batch, batch_of};
use crate::{BoxFuture, Sink};

/// A far side that a suite looks into.
pub trait FarSide: Sync {
    /// A new sink on the same far side, as after a restart.
    fn open(&self) -> Arc<dyn Sink>;
    /// The place of every event that the far side holds, repeats included.
    fn held(&self) -> BoxFuture<'_, Vec<Seq>>;
}

async fn counts(far: &impl FarSide) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for seq in far.held().await {
        *counts.entry(seq.0).or_default() += 1;
    }
    counts
}

async fn holds_once(far: &impl FarSide, expected: impl Iterator<Item = u64>, when: &str) {
    let expected: BTreeMap<u64, usize> = expected.map(|n| (n, 1)).collect();
    assert_eq!(counts(far).await, expected, "{when}");
}

/// Runs the whole suite against an empty far side that holds each event once.
///
/// # Panics
/// When the sink breaks the contract.
pub async fn run(far: &impl FarSide) {
    let sink = far.open();
    let limits = sink.limits();
    assert!(limits.events > 0 && limits.bytes > 0 && limits.in_flight > 0, "{limits:?}");

    sink.check().await.expect("the far side is sound");
    holds_once(far, 0..0, "a check leaves nothing").await;

    let first = batch(1, 40);
    let done = sink.deliver(&first).await.expect("the first batch");
    assert_eq!(done.objects.iter().map(|o| o.events).sum::<u32>(), 40);
    assert!(done.objects.iter().all(|o| !o.found && !o.destination.is_empty()), "{done:?}");
    assert!(done.rejected.is_empty());
    holds_once(far, 1..=40, "one batch").await;

    let again = sink.deliver(&batch(1, 40)).await.expect("the same again");
    assert!(again.objects.iter().all(|o| o.found), "{again:?}");
    let facts = |d: &crate::Delivered| {
        d.objects.iter().map(|o| (o.destination.clone(), o.sha256, o.len, o.events)).collect::<Vec<_>>()
    };
    assert_eq!(facts(&again), facts(&done), "a repeat is the same objects");
    holds_once(far, 1..=40, "a repeat adds nothing").await;

    let restarted = far.open();
    restarted.deliver(&batch(1, 40)).await.expect("the same after a restart");
    holds_once(far, 1..=40, "a repeat after a restart adds nothing").await;

    let gaps = batch_of(41, 60, |n| n % 3 == 0);
    sink.deliver(&gaps).await.expect("a batch with events left out");
    let so_far = || (1..=40).chain((41..=60).filter(|n| n % 3 == 0));
    holds_once(far, so_far(), "left-out events stay out").await;

    // cancelled at its first wait: delivered or not, the repeat has the same effect
    let third = batch(61, 80);
    tokio::select! {
        biased;
        _ = sink.deliver(&third) => {}
        () = std::future::ready(()) => {}
    }
    sink.deliver(&third).await.expect("after a cancelled call");
    holds_once(far, so_far().chain(61..=80), "a cancelled call").await;

    let (a, b) = (batch(81, 90), batch(91, 100));
    let (one, two) = tokio::join!(sink.deliver(&a), sink.deliver(&b));
    one.and(two).expect("two at a time");
    holds_once(far, so_far().chain(61..=100), "two at a time").await;

    let (a, b) = (batch(101, 110), batch(101, 110));
    let (one, two) = tokio::join!(sink.deliver(&a), restarted.deliver(&b));
    assert!(one.is_ok() || two.is_ok(), "one of two equal calls gets through");
    sink.deliver(&a).await.expect("and then both are");
    holds_once(far, so_far().chain(61..=110), "an equal call at the same time").await;

    let alone = batch(111, 111);
    sink.deliver(&alone).await.expect("a single event");
    holds_once(far, so_far().chain(61..=111), "a single event").await;
}
