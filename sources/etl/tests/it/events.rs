//! Traces as events: payloads against the oracles, positions, gaps.

use crate::data::{oracle, trace, traces};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tidegate_etl::{EtlFile, EventReader, PayloadDecoder};
use tidegate_proto::batch::Batch;
use tidegate_proto::schema::Decoder;
use tidegate_proto::value::ValueRef;
use tidegate_proto::{json, time};

/// All events of a trace as JSON, in batches of a size.
pub fn events(bytes: &[u8], batch_size: usize) -> Vec<Value> {
    events_with(bytes, PayloadDecoder::new("test.etl"), batch_size)
}

/// The same with a decoder that knows more.
pub fn events_with(bytes: &[u8], decoder: PayloadDecoder, batch_size: usize) -> Vec<Value> {
    let file = EtlFile::open(bytes).unwrap();
    let mut reader = EventReader::new(&file, decoder).unwrap();
    rest(&mut reader, batch_size)
}

fn rest(reader: &mut EventReader<'_, &[u8]>, batch_size: usize) -> Vec<Value> {
    let mut all = Vec::new();
    let mut batch = Batch::new();
    loop {
        batch.clear();
        let more = reader.next_batch(&mut batch, batch_size).unwrap();
        for event in batch.iter() {
            let mut text = Vec::new();
            json::write_event(&mut text, event, None);
            all.push(serde_json::from_slice(&text).unwrap());
        }
        if !more {
            return all;
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Equal, but for how times and bytes are written and that the oracle shows some signed numbers
/// unsigned.
fn same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::String(a), Value::String(b)) => {
            let zoned = |t: &str| time::parse_rfc3339(t).or_else(|| time::parse_rfc3339(&format!("{t}Z")));
            let bytes = || STANDARD.decode(a).is_ok_and(|d| hex(&d) == *b);
            a == b || bytes() || zoned(a).is_some_and(|n| zoned(b) == Some(n))
        }
        (Value::Number(a), Value::Number(b)) => {
            let wide = |n: &serde_json::Number| n.as_u64().or_else(|| n.as_i64().map(i64::cast_unsigned));
            a == b || wide(a).is_some_and(|n| wide(b) == Some(n)) || a.as_f64() == b.as_f64()
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((k, v), (l, w))| k == l && same(v, w))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(v, w)| same(v, w)),
        _ => ours == theirs,
    }
}

fn lines(path: &str) -> Vec<Value> {
    oracle(path).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn tracelogging_events_are_those_of_the_oracle() {
    let mut count = 0;
    for name in [
        "s4/SIH.20230422.034724.362.1",
        "perfview/SelfDescribingSingleEvent",
        "etlparser/lxcore_kernel",
        "perfview/primitive-types",
        "s4/waasmedic.20251005_113019_195",
    ] {
        let mut known = lines(&format!("tl/{}.ndjson", name.split('/').nth(1).unwrap()));
        known.sort_by_key(|l| (l["raw_ts"].as_u64(), l["cpu"].as_u64()));
        let mut ours = events(&trace(name), 1000);
        ours.retain(|e| e["decoder"] == "tracelogging");
        assert_eq!(ours.len(), known.len(), "{name}");
        for (a, b) in ours.iter().zip(&known) {
            for (key, oracle) in
                [("provider", "provider_name"), ("guid", "provider"), ("event", "event"), ("id", "id")]
            {
                assert_eq!(a[key], b[oracle], "{name}");
            }
            for key in ["level", "opcode", "channel", "keyword", "version", "pid", "tid", "cpu"] {
                assert_eq!(a[key], b[key], "{name} {key}");
            }
            let [a_ns, b_ns] =
                [&a["time"], &b["ts"]].map(|t| time::parse_rfc3339(t.as_str().unwrap()).unwrap());
            assert!((a_ns - b_ns).abs() <= 1000, "{name} {a_ns} {b_ns}");
            assert!(same(&a["fields"], &b["fields"]), "{name}\n{a}\n{b}");
            count += 1;
        }
    }
    assert_eq!(count, 35);
}

#[test]
fn every_record_is_one_event_whatever_the_batch() {
    for (name, bytes) in traces().into_iter().filter(|(_, b)| b.len() < 400_000) {
        let file = EtlFile::open(&bytes[..]).unwrap();
        let records = file.walk(|_| ()).unwrap().records;
        let all = events(&bytes, 100_000);
        let gaps = all.iter().filter(|e| e["event"] == "Gap").count() as u64;
        assert_eq!(all.len() as u64, records + gaps, "{name}");
        assert_eq!(all, events(&bytes, 7), "{name}");
        let times: Vec<_> = all.iter().map(|e| e["time"].as_str().unwrap()).collect();
        assert!(times.is_sorted() || gaps > 0, "{name}");
    }
}

#[test]
fn a_reader_goes_on_at_exactly_the_same_event() {
    let mut bytes = trace("tx/HTTP_Server");
    bytes[5 * 8192 + 72..][..4].fill(0); // a gap within
    bytes.truncate(30 * 8192 + 100); // and one of the chain
    let all = events(&bytes, 1000);
    assert!(all.iter().filter(|e| e["event"] == "Gap").count() >= 2);
    let file = EtlFile::open(&bytes[..]).unwrap();
    for at in [0, 1, 2, 3, 399, all.len() / 2, all.len() - 1, all.len(), all.len() + 9] {
        let mut reader = EventReader::new(&file, PayloadDecoder::new("test.etl")).unwrap();
        assert_eq!(reader.skip(at as u64).unwrap(), at.min(all.len()) as u64);
        assert_eq!(reader.events(), at.min(all.len()) as u64);
        assert_eq!(rest(&mut reader, 50), all[at.min(all.len())..], "from {at}");
    }
}

#[test]
fn the_summary_counts_what_a_walk_finds() {
    for (name, bytes) in traces() {
        let file = EtlFile::open(&bytes[..]).unwrap();
        let summary = file.summary().unwrap();
        let walk = file.walk(|_| ()).unwrap();
        assert_eq!(summary.records, walk.records, "{name}");
        assert_eq!(summary.kinds.iter().map(|k| k.records).sum::<u64>(), walk.records, "{name}");
        assert!(summary.kinds.iter().all(|k| k.kind.is_some() && k.first_ns <= k.last_ns), "{name}");
        assert_eq!(summary.problem_count, 0, "{name}");
    }
    let bytes = trace("perfview/primitive-types");
    let summary = EtlFile::open(&bytes[..]).unwrap().summary().unwrap();
    let kind = summary.kinds.iter().find(|k| k.records == 5).unwrap();
    assert_eq!(kind.provider_name, "solar_system");
    assert_eq!(kind.kind.as_ref().unwrap().name, "PrimitiveTypesTest");
}

#[test]
fn eventsource_events_are_those_of_the_oracle() {
    let mut count = 0;
    for name in ["tx/BondEtwSample.hist", "perfview/net.4.5.2.x64"] {
        let known = lines(&format!("eventsource/{}.ndjson", name.split('/').nth(1).unwrap()));
        let file = EtlFile::open(trace(name)).unwrap();
        let mut reader = EventReader::new(&file, PayloadDecoder::new("test.etl")).unwrap();
        let mut ours = Vec::new();
        let mut batch = Batch::new();
        while reader.next_batch(&mut batch, 1000).unwrap() || !batch.is_empty() {
            for event in batch.iter().filter(|e| e.schema().decoder == Decoder::EventSource) {
                let mut text = Vec::new();
                json::write_event(&mut text, event, None);
                let mut value: Value = serde_json::from_slice(&text).unwrap();
                // The oracle shows the numbers, not their names.
                for field in event.fields() {
                    if let ValueRef::Enum { value: n, .. } = field.value {
                        value["fields"][field.name.unwrap()] = n.into();
                    }
                }
                ours.push(value);
            }
            batch.clear();
        }
        let mut known: Vec<&Value> = known.iter().collect();
        known.sort_by_key(|l| (l["raw_ts"].as_u64(), l["cpu"].as_u64()));
        assert_eq!(ours.len(), known.len(), "{name}");
        for (a, b) in ours.iter().zip(known) {
            for (key, oracle) in [("provider", "provider_name"), ("guid", "provider"), ("id", "id")] {
                assert_eq!(a[key], b[oracle], "{name} {a} {b}");
            }
            for key in ["level", "opcode", "keyword", "version", "pid", "tid", "cpu"] {
                assert_eq!(a[key], b[key], "{name} {key}");
            }
            if b["event"] == "ManifestData" {
                assert_eq!(a["event"], "ManifestData");
            } else {
                let task = b["task_name"].as_str().or_else(|| b["symbol"].as_str()).unwrap();
                assert!(a["event"].as_str().unwrap().starts_with(task), "{a} {b}");
                assert!(same(&a["fields"], &b["fields"]), "{name}\n{a}\n{b}");
                count += 1;
            }
        }
    }
    assert_eq!(count, 129);
}
