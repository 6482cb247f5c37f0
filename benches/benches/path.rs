//! The collector's own way: from a source through gate and encoder into a ring, from the ring to
//! a sink, and the whole. Ring and sink are in memory, so that what is measured is the way and
//! not a disk. Throughput is in events of about 256 bytes.

#![allow(missing_docs)] // criterion's macros make a public function

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate::dispatch::SinkOptions;
use tidegate::gate::Rules;
use tidegate::pipeline::{Parts, Pipeline, PipelineOptions, SinkPart, Until};
use tidegate_benches::events;
use tidegate_proto::batch::Batch;
use tidegate_proto::ids::SinkId;
use tidegate_proto::level::TelemetryLevel;
use tidegate_ring::{MemoryRing, RingOptions};
use tidegate_sinks::{BatchLimits, BoxFuture, DeliverError, Delivered, Sink, SinkBatch};
use tidegate_sources::{Outlet, Source, SourceEnd, SourceError, SourceInfo};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const BATCH: usize = 1024;
const BATCHES: usize = 128;

/// Hands out the same batch again and again.
#[derive(Debug)]
struct Same {
    events: Arc<Batch>,
    times: usize,
}

impl Source for Same {
    fn info(&self) -> SourceInfo {
        SourceInfo { name: "same".to_owned(), kind: "synthetic", can_wait: true }
    }

    fn run(
        self: Box<Self>,
        out: Outlet,
        _: CancellationToken,
    ) -> BoxFuture<'static, Result<SourceEnd, SourceError>> {
        Box::pin(async move {
            for _ in 0..self.times {
                let mut batch = out.batch();
                self.events.iter().for_each(|e| batch.push_copy(e));
                if out.send(batch, Vec::new()).await.is_err() {
                    break;
                }
            }
            Ok(SourceEnd::default())
        })
    }
}

/// Takes everything and looks at nothing.
#[derive(Debug)]
struct Void(SinkId);

impl Sink for Void {
    fn id(&self) -> &SinkId {
        &self.0
    }
    fn limits(&self) -> BatchLimits {
        BatchLimits {
            events: 50_000,
            bytes: 4 << 20,
            age: Duration::from_secs(1),
            in_flight: 2,
            timeout: Duration::from_secs(60),
        }
    }
    fn check(&self) -> BoxFuture<'_, Result<(), DeliverError>> {
        Box::pin(async { Ok(()) })
    }
    fn deliver<'a>(&'a self, _: &'a SinkBatch) -> BoxFuture<'a, Result<Delivered, DeliverError>> {
        Box::pin(async { Ok(Delivered::default()) })
    }
}

struct Way {
    runtime: Runtime,
    rules: Arc<Rules>,
    events: Arc<Batch>,
}

impl Way {
    fn parts(&self, times: usize, sinks: usize) -> Parts {
        let sinks = (0..sinks).map(|n| SinkPart {
            sink: Arc::new(Void(SinkId::new(&format!("void{n}")))),
            options: SinkOptions::default(),
        });
        Parts {
            ring: MemoryRing::shared(RingOptions { bound_bytes: 1 << 30, ..RingOptions::default() }),
            rules: Arc::clone(&self.rules),
            sources: vec![Box::new(Same { events: Arc::clone(&self.events), times })],
            sinks: sinks.collect(),
            options: PipelineOptions {
                level: Some(TelemetryLevel::Full),
                until: Until::Delivered,
                ..PipelineOptions::default()
            },
        }
    }

    /// The time of one run to its end.
    fn run(&self, times: usize, sinks: usize) -> Duration {
        self.runtime.block_on(async {
            let parts = self.parts(times, sinks);
            let begun = Instant::now();
            let running = Pipeline::start(parts).await.expect("it starts");
            let summary = running.wait().await.expect("it ends");
            let took = begun.elapsed();
            assert_eq!(summary.run.read, (times * BATCH) as u64, "{summary}");
            assert_eq!(summary.account_error, None);
            took
        })
    }
}

fn path(c: &mut Criterion) {
    for scrub in [false, true] {
        let rules = Rules::builder().and_then(|b| b.scrub(scrub).build()).expect("the rules are sound");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let way = Way { runtime, rules: Arc::new(rules), events: Arc::new(events(BATCH, 1)) };
        let name = if scrub { "path, scrubbing" } else { "path" };
        let mut group = c.benchmark_group(name);
        group.sample_size(10).throughput(Throughput::Elements((BATCH * BATCHES) as u64));
        for (name, sinks) in [("source to ring", 0), ("source to sink", 1), ("source to four sinks", 4)] {
            group.bench_function(name, |b| {
                b.iter_custom(|n| (0..n).map(|_| way.run(BATCHES, sinks)).sum());
            });
        }
    }
}

criterion_group!(benches, path);
criterion_main!(benches);
