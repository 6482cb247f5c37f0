//! Real events: every trace shipped with the project, as lines of the strict profile.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tidegate_etl::{EtlFile, EventReader, PayloadDecoder};
use tidegate_proto::batch::EventRef;
use tidegate_proto::json;

use super::super::body::{self, Caps, Pass};
use super::super::recorder::{check_line, id_of};
use super::*;

/// Larger traces hold more of the same and take seconds in a debug build;
/// `TIDEGATE_ALL_TRACES=1` reads them too.
const SMALL: u64 = 300_000;

fn traces() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/etl/traces");
    let all = std::env::var_os("TIDEGATE_ALL_TRACES").is_some();
    let mut found = Vec::new();
    for folder in std::fs::read_dir(root).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let file = file.unwrap();
            if all || file.metadata().unwrap().len() <= SMALL {
                found.push(file.path());
            }
        }
    }
    found.sort();
    assert!(found.len() >= 15, "the traces are there");
    found
}

/// Bytes an event takes on the wire, for the table of sizes; prints with `--nocapture`.
#[test]
fn what_an_event_takes_on_the_wire() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/etl/traces/tx/HTTP_Server.etl");
    let bytes = std::fs::read(path).unwrap();
    let file = EtlFile::open(bytes.as_slice()).unwrap();
    let mut reader = EventReader::new(&file, PayloadDecoder::new("trace")).unwrap();
    let mut events = Batch::new();
    reader.next_batch(&mut events, EVENTS_MAX).unwrap();
    let count = events.len();
    let caps = Caps { events: EVENTS_MAX, body_bytes: BODY_BYTES_MAX, event_bytes: EVENT_BYTES_MAX };
    let planned = body::plan(&mapping(), &batch(1, events), caps, |_, _| Pass::Send);
    let body = &planned.requests[0].body;
    let size = |compression: Compression| compression.apply(body.clone()).unwrap().len() / count;
    let (plain, gzip, deflate) =
        (size(Compression::None), size(Compression::Gzip), size(Compression::Deflate));
    println!("{count} events: {plain} B each as JSON, {gzip} B with gzip, {deflate} B with deflate");
    assert!(gzip * 5 < plain && deflate <= gzip, "{plain} {gzip} {deflate}");
}

/// What is in the payload is in the line: under its own name, with the same text or number.
fn compare(event: EventRef<'_>, line: &Value) {
    let mut plain = Vec::new();
    json::write_fields(&mut plain, event.fields());
    let plain: Value = serde_json::from_slice(&plain).unwrap();
    let data = line["data"].as_object().unwrap();
    for (name, value) in plain.as_object().unwrap() {
        let same_name = is_property_name(name) && !name.starts_with("base") && name != "PartA_PrivTags";
        if same_name && (value.is_string() || value.is_boolean()) {
            let hex = value.as_str().is_some_and(|s| s.starts_with("0x"));
            let ours = data.get(name).unwrap_or_else(|| panic!("{name} is missing"));
            assert!(ours == value || (hex && ours.is_number()), "{name}: {ours} for {value}");
        }
    }
    let head = event.head();
    let base = &data["baseData"];
    assert_eq!(base["eventId"], head.id);
    assert_eq!(base["keyword"], head.keyword);
    assert_eq!(
        base.get("provider").and_then(Value::as_str).unwrap_or_default(),
        event.schema().provider_name
    );
    assert_eq!(line["ext"]["utc"]["op"], head.opcode.to_string());
}

#[test]
fn every_event_of_every_trace_keeps_to_the_profile() {
    let caps = Caps { events: EVENTS_MAX, body_bytes: BODY_BYTES_MAX, event_bytes: EVENT_BYTES_MAX };
    let mapping = mapping();
    let mut total = 0;
    for path in traces() {
        let bytes = std::fs::read(&path).unwrap();
        let Ok(file) = EtlFile::open(bytes.as_slice()) else { continue };
        let mut reader = EventReader::new(&file, PayloadDecoder::new("trace")).unwrap();
        let mut first = 1;
        loop {
            let mut events = Batch::new();
            let more = reader.next_batch(&mut events, 1000).unwrap();
            if !events.is_empty() {
                let count = events.len() as u64;
                let batch = batch(first, events);
                let planned = body::plan(&mapping, &batch, caps, |_, _| Pass::Send);
                assert_eq!(planned.rejected, [], "{}", path.display());
                let text: Vec<String> =
                    planned.requests.into_iter().map(|r| String::from_utf8(r.body).unwrap()).collect();
                let lines: Vec<&str> = text.iter().flat_map(|t| t.split('\n')).collect();
                assert_eq!(lines.len(), batch.len());
                for (line, (seq, event)) in lines.iter().zip(batch.iter()) {
                    let value =
                        check_line(line).unwrap_or_else(|e| panic!("{}: {e} in {line}", path.display()));
                    assert_eq!(id_of(&value).unwrap().1, seq.0);
                    compare(event, &value);
                }
                first += count;
            }
            if !more {
                break;
            }
        }
        total += first - 1;
    }
    assert!(total > 1_000, "{total} events");
}
