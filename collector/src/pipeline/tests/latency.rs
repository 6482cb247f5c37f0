//! A stream in which every class comes at every moment, over a metered network.

use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_proto::batch::{Batch, Head};
use tidegate_proto::schema::{Decoder, FieldDef, Schema, SchemaParts};
use tidegate_proto::value::{Format, ValueRef};
use tidegate_sinks::BoxFuture;
use tidegate_sinks::events::Urgency;
use tidegate_sources::{Outlet, SourceEnd, SourceError, SourceInfo};

use super::*;
use crate::dispatch::soon::{LOOK, Metered};

const REAL_TIME: u32 = 0x0020_0000;
const DEFERRED: u32 = 0x0004_0000;

/// Event `n`'s class, by its event tags.
fn tags(n: u64) -> u32 {
    match n % 10 {
        0 => REAL_TIME,
        1..=4 => 0,
        _ => DEFERRED,
    }
}

/// Ten events of one level at a time, of every class.
#[derive(Debug)]
struct Mixed(u64);

impl Source for Mixed {
    fn info(&self) -> SourceInfo {
        SourceInfo { name: "mixed".to_owned(), kind: "synthetic", can_wait: true }
    }

    fn run(
        self: Box<Self>,
        out: Outlet,
        stop: CancellationToken,
    ) -> BoxFuture<'static, Result<SourceEnd, SourceError>> {
        let schema = |tags: u32| {
            Schema::new(SchemaParts {
                provider_name: "Test.Provider".into(),
                event_name: format!("Tick.{tags:x}"),
                event_tags: tags,
                decoder: Decoder::Synthetic,
                fields: vec![FieldDef { name: "n".into(), tags: 0 }],
                ..SchemaParts::default()
            })
        };
        Box::pin(async move {
            for tens in 0..self.0 / 10 {
                let mut batch: Batch = out.batch();
                for n in tens * 10..tens * 10 + 10 {
                    let head = Head { time_ns: n.cast_signed(), keyword: 1 << 2, ..Head::default() };
                    let mut event = batch.begin(&schema(tags(n)), head);
                    event.value(0, Format::Default, ValueRef::U64(n));
                    event.finish();
                }
                if out.send(batch, Vec::new()).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            stop.cancelled().await;
            Ok(SourceEnd { stopped: true, ..SourceEnd::default() })
        })
    }
}

async fn all_of(sink: &Fake, wanted: impl Fn(u64) -> bool, events: u64, within: Duration) {
    let want: Vec<u64> = (0..events).filter(|n| wanted(*n)).collect();
    let end = tokio::time::Instant::now() + within;
    while tokio::time::Instant::now() < end && sink.numbers().len() < want.len() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(sink.numbers(), want);
}

#[tokio::test(start_paused = true)]
async fn no_cost_deferred_event_of_a_mixed_stream_leaves_over_a_metered_network() {
    let ring = ring();
    let mut sink = Fake::bare("stream", |_, _| Answer::Take);
    sink.limits.age = Duration::from_secs(3600);
    let sink = Arc::new(sink);
    let price = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&price);
    let metered = Metered::from_fn(move || asked.load(Ordering::Relaxed));
    let mut parts = parts(&ring, Counting::new(0, 0), &[&sink]);
    let events = 20_000;
    parts.sources = vec![Box::new(Mixed(events))];
    parts.options.until = Until::Stopped;
    parts.sinks[0].options.urgency = Some(Urgency::default());
    parts.sinks[0].options.metered = metered;
    let running = Pipeline::start(parts).await.unwrap();
    // each real-time event takes along what stands before it
    tokio::time::sleep(Duration::from_secs(20)).await;
    let early = sink.numbers();
    assert!(early.len() > 4000 && early.iter().all(|n| tags(*n) != DEFERRED), "{}", early.len());
    tokio::time::sleep(Duration::from_secs(20)).await;
    all_of(&sink, |n| tags(n) != DEFERRED, events, Duration::from_secs(2)).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    all_of(&sink, |n| tags(n) != DEFERRED, events, Duration::ZERO).await;
    price.store(false, Ordering::Relaxed);
    all_of(&sink, |_| true, events, LOOK + Duration::from_secs(30)).await;
    let handle = running.handle();
    handle.stop(Duration::from_secs(10));
    let summary = running.wait().await.unwrap();
    assert_eq!(summary.account_error, None);
    assert_eq!(summary.run.sinks.values().next().unwrap().held, [0; 4]);
    assert_eq!(sink.seen.lock().unwrap().repeats, 0);
}
