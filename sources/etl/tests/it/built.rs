//! What no given trace holds, in traces built from the description of the format.

use crate::build::{self, Event, START_NS, START_TICKS, Trace, field, metadata, traits};
use crate::events::events;
use serde_json::{Value, json};
use std::collections::HashMap;
use tidegate_etl::{EtlFile, EventReader, PayloadDecoder, RecordKind, RecordReader, TraceHeader};
use tidegate_proto::batch::Batch;
use tidegate_proto::{guid, time};

const PROVIDER: [u8; 16] = [0xAB; 16];

/// Time of a record of a clock of 10 MHz.
fn at(ticks: u64) -> u64 {
    START_TICKS + ticks
}

/// The events of one buffer, without the header record.
fn one_buffer(records: &[Vec<u8>]) -> Vec<Value> {
    events(&Trace::new().buffer(0, 1, 0, records).bytes(), 1000).split_off(1)
}

/// One TraceLogging event's fields.
fn fields(kinds: &[Vec<u8>], data: &[u8]) -> Value {
    let meta = metadata(&[0], "E", kinds);
    let event = Event { provider: PROVIDER, ..Event::default() };
    let items = [(12, traits("P", None)), (11, meta)];
    let mut all = one_buffer(&[build::event(event, at(1), &items, data)]);
    all.pop().unwrap()
}

#[test]
fn every_kind_of_record_is_read() {
    use RecordKind::*;
    let class = [0xCC; 16];
    let mut counters = perf_counters();
    counters.extend(8_u64.to_le_bytes());
    let records = [
        build::system(1, 3, 99, at(1), &[1; 5]),
        build::system(2, 3, 99, at(2), &[1; 5]),
        build::system(3, 3, 99, at(3), &[1; 5]),
        build::system(4, 3, 99, at(4), &[1; 5]),
        build::classic(10, class, 7, at(5), &[1; 5]),
        build::classic(11, class, 7, at(6), &[1; 5]),
        build::other(12, at(7), &[1; 5]),
        build::other(13, 0, &[1; 5]),
        build::classic(14, class, 7, at(9), &[1; 5]),
        message(at(10)),
        build::perfinfo(16, 2, 15, 99, at(11), &[1; 5]),
        build::perfinfo(17, 0x8202, 15, 99, at(12), &counters),
        build::event(Event { bits32: true, ..Event::default() }, at(13), &[], &[1; 5]),
        build::event(Event::default(), at(14), &[], &[1; 5]),
        build::classic(20, class, 7, at(15), &[1; 5]),
        build::classic(21, class, 7, at(16), &[1; 5]),
    ];
    let bytes = Trace::new().buffer(2, 1, 0, &records).bytes();
    let file = EtlFile::open(&bytes[..]).unwrap();
    let mut reader = RecordReader::new(&file);
    let mut kinds = Vec::new();
    let mut ticks = Vec::new();
    while let Some(r) = reader.next_record().unwrap() {
        kinds.push(r.kind);
        ticks.push(r.time.unwrap() - START_TICKS);
        let four = [System32, Compact32, PerfInfo32, Full32, Instance32, Event32].contains(&r.kind);
        assert_eq!(r.pointer_size, if four { 4 } else { 8 }, "{:?}", r.kind);
    }
    let all = [
        System64, System32, System64, Compact32, Compact64, Full32, Instance32, Timed, Error, Wnode, Message,
        PerfInfo32, PerfInfo64, Event32, Event64, Full64, Instance64,
    ];
    assert_eq!(kinds, all);
    // An error record has no time: it follows the one before.
    assert_eq!(ticks, [0, 1, 2, 3, 4, 5, 6, 7, 7, 9, 10, 11, 12, 13, 14, 15, 16]);
    assert_eq!(reader.problem_count(), 0);

    let shown = events(&bytes, 1000);
    let find = |n: u64| {
        let time = time::format_rfc3339(START_NS + n as i64 * 100);
        shown.iter().find(|e| e["time"] == time.as_str()).unwrap()
    };
    assert_eq!(find(1)["ext"], json!({"kernelTime": 7, "userTime": 9}));
    assert_eq!((&find(3)["pid"], &find(3)["tid"], &find(3)["cpu"]), (&json!(66), &json!(77), &json!(2)));
    assert_eq!(find(6)["ext"]["instanceId"], 8);
    assert_eq!(find(6)["ext"]["parentInstanceId"], 9);
    assert_eq!(find(6)["ext"]["parentGuid"], guid::format(&[0xEE; 16]));
    assert_eq!(find(12)["ext"], json!({"pebs": 5, "pmc": [6, 7]}));
    assert_eq!(find(12)["raw"], "CAAAAAAAAAA=");
    let wpp = find(10);
    assert_eq!(
        (&wpp["decoder"], &wpp["id"], &wpp["ext"]["sequence"]),
        (&json!("wpp"), &json!(34), &json!(3))
    );
    assert_eq!((&wpp["raw"], &wpp["guid"]), (&json!("aGVsbG8="), &json!(guid::format(&[0xDD; 16]))));
}

/// A PEBS index and two counters.
fn perf_counters() -> Vec<u8> {
    [5_u64, 6, 7].into_iter().flat_map(u64::to_le_bytes).collect()
}

/// A WPP message with sequence, GUID, time, thread and process.
fn message(time: u64) -> Vec<u8> {
    let mut record = vec![0, 0, 0, 0x90, 34, 0, 0xAB, 0];
    record.extend(3_u32.to_le_bytes());
    record.extend([0xDD; 16]);
    record.extend(time.to_le_bytes());
    record.extend([1, 0, 0, 0, 2, 0, 0, 0]);
    record.extend(b"hello");
    let size = record.len() as u16;
    record[..2].copy_from_slice(&size.to_le_bytes());
    record
}

#[test]
fn every_clock_gives_utc() {
    for (clock, ticks, ns) in [
        (0, START_TICKS + 30, 3_000),
        (1, START_TICKS + 30, 3_000),
        (2, time::unix_ns_to_filetime(START_NS) + 30, 3_000),
        (3, START_TICKS + 30, 15),
    ] {
        let mut trace = Trace::new();
        trace.clock = clock;
        let record = build::system(2, 3, 99, ticks, &[]);
        let all = events(&trace.buffer(0, 1, 0, &[record]).bytes(), 10);
        assert_eq!(all.last().unwrap()["time"], time::format_rfc3339(START_NS + ns), "clock {clock}");
    }
}

#[test]
fn every_compression_gives_the_same_events() {
    let records: Vec<Vec<u8>> =
        (0..400).map(|n| build::system(2, 3, 99, at(n), &vec![n as u8; (n % 90) as usize])).collect();
    let plain = events(&Trace::new().buffer(0, 1, 0, &records).bytes(), 1000);
    assert_eq!(plain.len(), 401);
    for compression in [2, 3, 4] {
        let mut trace = Trace::new();
        trace.compression = compression;
        let bytes = trace.buffer(0, 1, 0, &records).bytes();
        let packed = events(&bytes, 1000);
        assert_eq!(plain[1..], packed[1..], "format {compression}");
    }
    let mut trace = Trace::new();
    trace.compression = 3;
    let mut bytes = trace.buffer(0, 1, 0, &records).bytes();
    bytes[0x2C] = 9; // a format that there is not
    let all = events(&bytes, 1000);
    assert_eq!(all.len(), 2);
    assert_eq!(all[1]["fields"]["reason"], "damaged");
    assert!(
        all[1]["fields"]["detail"].as_str().unwrap().contains("unknown compression format 9"),
        "{}",
        all[1]
    );
}

#[test]
fn pointers_are_as_wide_as_each_record_says() {
    let meta = metadata(&[0], "E", &[field("p", &[16])]);
    let items = [(11, meta)];
    let e = Event { provider: PROVIDER, ..Event::default() };
    let records = [
        build::event(Event { bits32: true, ..e }, at(1), &items, &[1, 2, 3, 4]),
        build::event(e, at(2), &items, &[1, 2, 3, 4, 5, 6, 7, 8]),
        build::event(e, at(3), &items, &[1, 2, 3, 4]),
    ];
    let all = one_buffer(&records);
    assert_eq!(all[0]["fields"], json!({"p": "0x4030201"}));
    assert_eq!(all[1]["fields"], json!({"p": "0x807060504030201"}));
    // Too short: raw, and said to be so.
    assert_eq!((&all[2]["decoder"], &all[2]["raw"]), (&json!("raw"), &json!("AQIDBA==")));
    assert_eq!(all[2]["event"], "E");
}

#[test]
fn what_a_session_lost_becomes_gaps() {
    let mut trace = Trace::new();
    (trace.events_lost, trace.buffers_lost) = (41, 3);
    let lost = guid::parse("6a399ae0-4bc6-4de9-870b-3657f8947e7e").unwrap();
    trace.buffer(0, 1, 2, &[build::system(2, 3, 99, at(10), &[])]);
    trace.buffer(
        1,
        2,
        4,
        &[build::classic(20, lost, 32, at(20), &[]), build::classic(20, lost, 33, at(21), &[])],
    );
    let bytes = trace.bytes();
    let all = events(&bytes, 1000);
    let gaps: Vec<(&str, Option<u64>, Option<u64>)> = all
        .iter()
        .filter(|e| e["event"] == "Gap")
        .map(|e| {
            let f = &e["fields"];
            assert_eq!(f["origin"], "test.etl");
            (f["reason"].as_str().unwrap(), f["events"].as_u64(), f["offset"].as_u64())
        })
        .collect();
    assert_eq!(
        gaps,
        [
            ("lost_events", Some(41), None),
            ("lost_buffer", None, None),
            // The first buffer of each CPU is opened before the second of any.
            ("lost_buffer", None, Some(131_072)),
            ("lost_events", None, Some(65_536)),
            ("lost_events", None, None),
            ("lost_buffer", None, None),
        ]
    );
    assert_eq!(EtlFile::open(&bytes[..]).unwrap().lost_flags(), (1, 1));
}

#[test]
fn buffers_go_by_sequence_and_time_not_by_place() {
    // A circular file: the newest buffers stand where the oldest were.
    let record = |n| build::system(2, 3, 99, at(n), &[n as u8]);
    let mut trace = Trace::new();
    trace.mode = TraceHeader::MODE_CIRCULAR;
    trace
        .buffer(0, 5, 0, &[record(50), record(55)])
        .buffer(1, 6, 0, &[record(52), record(60)])
        .buffer(0, 3, 0, &[record(30), record(41)])
        .buffer(1, 4, 0, &[record(40), record(42)]);
    let all = events(&trace.bytes(), 1000);
    let times: Vec<i64> = all[1..]
        .iter()
        .map(|e| (time::parse_rfc3339(e["time"].as_str().unwrap()).unwrap() - START_NS) / 100)
        .collect();
    assert_eq!(times, [30, 40, 41, 42, 50, 52, 55, 60]);
}

#[test]
fn every_extended_item_is_kept() {
    let stack = |width: usize| {
        let mut b = 9_u64.to_le_bytes().to_vec();
        for n in 1..=2_u64 {
            b.extend(&n.to_le_bytes()[..width]);
        }
        b
    };
    let sid = vec![1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
    let n = |n: u64| n.to_le_bytes().to_vec();
    let cases: Vec<(u16, Vec<u8>, Value)> = vec![
        (2, sid, json!({"sid": "S-1-5-18"})),
        (3, vec![2, 0, 0, 0], json!({"tsId": 2})),
        (5, stack(4), json!({"stackKey": "0x9", "stack": ["0x1", "0x2"]})),
        (6, stack(8), json!({"stackKey": "0x9", "stack": ["0x1", "0x2"]})),
        (7, n(3), json!({"pebs": 3})),
        (8, [n(1), n(2)].concat(), json!({"pmc": [1, 2]})),
        (9, n(4), json!({"psmKey": 4})),
        (10, n(5), json!({"eventKey": 5})),
        (13, n(6), json!({"processStartKey": 6})),
        (14, vec![0xAA; 16], json!({"controlGuid": guid::format(&[0xAA; 16])})),
        (15, n(7), json!({"qpcDelta": 7})),
        (16, guid::format(&[0xBB; 16]).into_bytes(), json!({"containerId": guid::format(&[0xBB; 16])})),
        (99, vec![1, 2, 3], json!({"other": "AQID"})),
        (13, vec![1], json!({"other": "AQ=="})),
    ];
    let instance = [vec![1, 0, 0, 0, 2, 0, 0, 0], vec![0xAA; 16]].concat();
    for (kind, data, wanted) in cases {
        let all = one_buffer(&[build::event(Event::default(), at(1), &[(kind, data)], &[])]);
        assert_eq!(all[0]["ext"], wanted, "item {kind}");
    }
    let all =
        one_buffer(&[build::event(Event::default(), at(1), &[(4, instance), (1, vec![0x11; 16])], &[])]);
    assert_eq!(all[0]["ext"]["instanceId"], 1);
    assert_eq!(all[0]["related"], guid::format(&[0x11; 16]));
}

#[test]
fn every_tracelogging_type_is_decoded() {
    let le = |n: u64, w: usize| n.to_le_bytes()[..w].to_vec();
    let counted = |b: &[u8]| [(b.len() as u16).to_le_bytes().to_vec(), b.to_vec()].concat();
    let system = [0xE7, 7, 9, 0, 4, 0, 9, 0, 14, 0, 59, 0, 35, 0, 0x1F, 3].to_vec();
    let sockaddr = vec![2, 0, 0x01, 0xBB, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let sid = vec![1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
    let v6 = vec![0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    // In type, out type, payload, what is shown.
    let cases: Vec<(u8, u8, Vec<u8>, Value)> = vec![
        (1, 0, build::utf16("Grüße\0"), json!("Grüße")),
        (2, 0, vec![b'a', 0xE4, 0x80, 0], json!("aä€")),
        (2, 35, "aä€\0".into(), json!("aä€")),
        (2, 11, "<a/>\0".into(), json!("<a/>")),
        (2, 12, "{\"a\":\"ä\"}\0".into(), json!("{\"a\":\"ä\"}")),
        (3, 0, vec![0xFE], json!(-2)),
        (4, 0, vec![0xFE], json!(254)),
        (4, 3, vec![1], json!(true)),
        (4, 4, vec![0xFE], json!("0xfe")),
        (5, 0, le(0xFFFE, 2), json!(-2)),
        (6, 0, le(0xFFFE, 2), json!(65534)),
        (6, 7, vec![1, 0xBB], json!(443)),
        (7, 0, le(0xFFFF_FFFE, 4), json!(-2)),
        (8, 0, le(7, 4), json!(7)),
        (8, 3, le(0, 4), json!(false)),
        (8, 5, le(7, 4), json!(7)),
        (8, 6, le(7, 4), json!(7)),
        (8, 8, vec![10, 1, 2, 3], json!("10.1.2.3")),
        (8, 13, le(5, 4), json!("0x5")),
        (8, 14, le(0xC000_0005, 4), json!("0xc0000005")),
        (7, 15, le(0x8007_0005, 4), json!("0x80070005")),
        (9, 0, le(u64::MAX - 1, 8), json!(-2)),
        (10, 0, le(9, 8), json!(9)),
        (10, 37, le(0x1234, 8), json!("0x1234")),
        (11, 0, 1.5_f32.to_le_bytes().to_vec(), json!(1.5)),
        (12, 0, 2.25_f64.to_le_bytes().to_vec(), json!(2.25)),
        (13, 0, le(1, 4), json!(true)),
        (13, 3, le(0, 4), json!(false)),
        (14, 0, counted(&[1, 2, 3]), json!("AQID")),
        (14, 9, counted(&v6), json!("2001:db8::1")),
        (14, 10, counted(&sockaddr), json!("10.0.0.1:443")),
        (15, 0, vec![0xAA; 16], json!(guid::format(&[0xAA; 16]))),
        (16, 0, le(0xFFFF, 8), json!("0xffff")),
        (17, 0, le(132_756_731_758_001_560, 8), json!("2021-09-09T14:59:35.8001560Z")),
        (17, 38, le(132_756_731_758_001_560, 8), json!("2021-09-09T14:59:35.8001560Z")),
        (19, 0, sid, json!("S-1-5-18")),
        (20, 0, le(0xBEEF, 4), json!("0xbeef")),
        (21, 0, le(0xBEEF, 8), json!("0xbeef")),
        (22, 0, counted(&build::utf16("a\0b")), json!("a\0b")),
        (23, 0, counted(&[b'x', 0xE4]), json!("xä")),
        (23, 35, counted("xä".as_bytes()), json!("xä")),
        (25, 0, counted(&[1, 2, 3]), json!("AQID")),
        (25, 9, counted(&v6), json!("2001:db8::1")),
    ];
    for (input, output, data, wanted) in &cases {
        let types = if *output == 0 { vec![*input] } else { vec![input | 0x80, *output] };
        let event = fields(&[field("f", &types)], data);
        assert_eq!(event["decoder"], "tracelogging");
        assert_eq!(event["fields"], json!({ "f": wanted }), "in {input} out {output}");
        // The same twice: constant count, and counted in the payload.
        let two = [data.clone(), data.clone()].concat();
        for (bits, head) in [(0x20_u8, vec![]), (0x40, vec![2, 0])] {
            let mut types = vec![input | bits | if *output == 0 { 0 } else { 0x80 }];
            if *output != 0 {
                types.push(*output);
            }
            if bits == 0x20 {
                types.extend([2, 0]);
            }
            let event = fields(&[field("f", &types)], &[head, two.clone()].concat());
            assert_eq!(
                event["fields"],
                json!({ "f": [wanted, wanted] }),
                "in {input} out {output} {bits:#x}"
            );
        }
        // Cut short: raw, nothing decoded.
        if data.len() > 1 && !matches!(input, 1 | 2) {
            let event = fields(&[field("f", &types)], &data[..data.len() - 1]);
            assert_eq!((&event["decoder"], &event["fields"]), (&json!("raw"), &json!({})), "in {input}");
        }
    }
    let shown = fields(&[field("t", &[18])], &system)["fields"]["t"].clone();
    assert!(shown.as_str().unwrap().starts_with("2023-09-09T14:59:35.799"), "{shown}");
}

#[test]
fn characters_in_a_row_are_text() {
    let event = fields(
        &[field("w", &[0xC6, 2]), field("n", &[0xA4, 2, 3, 0]), field("c", &[0x86, 2])],
        &[vec![2, 0, b'h', 0, b'i', 0], b"abc".to_vec(), vec![b'x', 0]].concat(),
    );
    assert_eq!(event["fields"], json!({"w": "hi", "n": "abc", "c": 120}));
}

#[test]
fn structs_nest_and_repeat() {
    // a { b, c[] { d, e[2] } }, f
    let kinds = [
        field("a", &[0x98, 2]),
        field("b", &[4]),
        field("c", &[0xD8, 2]),
        field("d", &[6]),
        field("e", &[0x24, 2, 0]),
        field("f", &[4]),
    ];
    let event = fields(&kinds, &[1, 2, 0, 3, 0, 4, 5, 6, 0, 7, 8, 9]);
    assert_eq!(
        event["fields"],
        json!({"a": {"b": 1, "c": [{"d": 3, "e": [4, 5]}, {"d": 6, "e": [7, 8]}]}, "f": 9})
    );
    assert_eq!(event.get("raw"), None);
    // What is left over stays raw.
    let event = fields(&kinds, &[1, 0, 0, 9, 0xFF]);
    assert_eq!(event["fields"], json!({"a": {"b": 1, "c": []}, "f": 9}));
    assert_eq!(event["raw"], "/w==");
}

#[test]
fn tags_groups_and_custom_fields_are_kept() {
    // Tags of two bytes; a field with tags; a field of the provider's own encoding.
    let meta = metadata(
        &[0x81, 0x40],
        "Tagged",
        &[field("t", &[0x84, 0x80, 0x82, 0x01]), field("x", &[0x6E, 2, 0, 0xAA, 0xBB]), field("y", &[4])],
    );
    let items = [(12, traits("P", Some([0x77; 16]))), (11, meta)];
    let record =
        build::event(Event { provider: PROVIDER, ..Event::default() }, at(1), &items, &[5, 3, 0, 1, 2, 3, 6]);
    let bytes = Trace::new().buffer(0, 1, 0, &[record]).bytes();
    let all = events(&bytes, 10);
    let event = &all[1];
    assert_eq!(event["tags"], (1 << 21) | (0x40 << 14));
    assert_eq!(event["group"], guid::format(&[0x77; 16]));
    assert_eq!(event["fields"], json!({"t": 5, "x": "AQID", "y": 6}));
    let file = EtlFile::open(&bytes[..]).unwrap();
    let mut reader = EventReader::new(&file, PayloadDecoder::new("test.etl")).unwrap();
    let mut batch = Batch::new();
    reader.next_batch(&mut batch, 10).unwrap();
    let schema = batch.get(1).unwrap().schema().clone();
    let tags: HashMap<&str, u32> = schema.fields.iter().map(|f| (f.name.as_str(), f.tags)).collect();
    assert_eq!(tags["t"], (2 << 21) | (1 << 14));
    assert_eq!(tags["y"], 0);
}
