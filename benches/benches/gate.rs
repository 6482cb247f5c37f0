//! The gate, and the encoder behind it, on events of about 256 bytes. Throughput is in events.

#![allow(missing_docs)] // criterion's macros make a public function

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate::gate::{Gate, Rules, Verdict};
use tidegate_benches::events;
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::wire::{BlockBuilder, Unchanged};

const EVENTS: usize = 4096;

fn gate(c: &mut Criterion) {
    let batch = events(EVENTS, 1);
    let mut group = c.benchmark_group("gate");
    group.throughput(Throughput::Elements(EVENTS as u64));
    for (name, scrub) in [("levels", false), ("levels and scrubbing", true)] {
        let rules =
            Rules::builder().and_then(|b| b.scrub(scrub).build()).expect("the shipped rules are sound");
        let mut gate = Gate::new(rules);
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut passed = |e| matches!(gate.clear(e, TelemetryLevel::Full), Verdict::Pass(_));
                batch.iter().filter_map(|e| passed(e).then_some(())).count()
            });
        });
    }
}

fn encode(c: &mut Criterion) {
    let batch = events(EVENTS, 1);
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(EVENTS as u64));
    let mut buffer = Vec::new();
    group.bench_function("block", |b| {
        b.iter(|| {
            let mut block = BlockBuilder::with_buffer(std::mem::take(&mut buffer));
            for event in batch.iter() {
                block.push(event, TelemetryLevel::Full, &Unchanged);
            }
            buffer = block.finish();
            buffer.len()
        });
    });
    println!("encode: {} bytes an event", buffer.len() / EVENTS);
}

criterion_group!(benches, gate, encode);
criterion_main!(benches);
