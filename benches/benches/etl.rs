//! Traces: walking the records, and decoding them into events. Throughput is in file bytes for
//! `walk` and in events for `decode`.

#![allow(missing_docs)] // criterion's macros make a public function

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate_benches::trace;
use tidegate_etl::{EtlFile, EventReader, PayloadDecoder};
use tidegate_proto::batch::Batch;

#[path = "../../sources/etl/examples/rates/repeat.rs"]
mod repeat;

/// One trace a kind: compressed and merged; EventSource; kernel records. TraceLogging is made.
const TRACES: [&str; 3] =
    ["perfview/net.4.5.2.x64", "tx/BondEtwSample.hist", "etlparser/ShutdownPerfDiagLogger"];

/// The traces, and 50,000 TraceLogging events of twelve fields.
fn traces() -> Vec<(String, Vec<u8>)> {
    let read = |name: &str| std::fs::read(trace(name)).expect("the trace is in the tree");
    let mut all: Vec<_> = TRACES.iter().map(|name| ((*name).to_owned(), read(name))).collect();
    all.push(("tracelogging".to_owned(), repeat::tracelogging(&read("perfview/primitive-types"), 50_000)));
    all
}

fn walk(c: &mut Criterion) {
    let mut group = c.benchmark_group("etl/walk");
    for (name, bytes) in traces() {
        let file = EtlFile::open(bytes.as_slice()).expect("it opens");
        let uncompressed = file.walk(|_| ()).expect("it reads").bytes;
        group.throughput(Throughput::Bytes(uncompressed));
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut records = 0u64;
                file.walk(|record| records += record.data.len() as u64).expect("it reads");
                records
            });
        });
    }
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("etl/decode");
    group.sample_size(20);
    for (name, bytes) in traces() {
        let file = EtlFile::open(bytes.as_slice()).expect("it opens");
        let mut batch = Batch::new();
        let mut all = || {
            let mut reader = EventReader::new(&file, PayloadDecoder::new("bench")).expect("it reads");
            let mut more = true;
            while more {
                batch.clear();
                more = reader.next_batch(&mut batch, 4096).expect("it reads");
            }
            reader.events()
        };
        group.throughput(Throughput::Elements(all()));
        group.bench_function(name, |b| b.iter(&mut all));
    }
}

criterion_group!(benches, walk, decode);
criterion_main!(benches);
