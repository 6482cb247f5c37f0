//! Events as log records.

use tidegate_proto::batch::{Batch, ExtKey, Head, NO_NAME};
use tidegate_proto::ids::{Seq, SeqRange};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::schema::{Decoder, FieldDef, Schema, SchemaParts};
use tidegate_proto::value::{Format, ValueRef};

use super::super::convert;
use super::super::messages::{AnyValue, ArrayValue, KeyValueList, LogRecord};
use super::*;
use crate::SinkBatch;

fn one(
    parts: SchemaParts,
    head: Head,
    write: impl FnOnce(&mut tidegate_proto::batch::EventBuilder<'_>),
) -> ExportRequest {
    let mut events = Batch::new();
    let mut event = events.begin(&Schema::new(parts), head);
    write(&mut event);
    event.finish();
    let range = SeqRange::new(Seq(9), Seq(9)).unwrap();
    let batch = SinkBatch::new(crate::testing::origin(), range, TelemetryLevel::Full, events, vec![Seq(9)]);
    convert::request(&batch.unwrap())
}

fn record(request: &ExportRequest) -> &LogRecord {
    &request.resource_logs[0].scope_logs[0].log_records[0]
}

#[test]
fn every_kind_of_value_has_its_form() {
    let names = ["i", "u", "big", "f", "s", "b", "g", "ft", "ip", "e", "n", "st", "inner", "arr", "i"];
    let parts = SchemaParts {
        provider_name: "Contoso".into(),
        event_name: "Everything".into(),
        fields: names.iter().map(|n| FieldDef { name: (*n).into(), tags: 0 }).collect(),
        ..SchemaParts::default()
    };
    let request = one(parts, Head::default(), |e| {
        let values = [
            ValueRef::I64(i64::MIN),
            ValueRef::U8(8),
            ValueRef::U64(u64::MAX),
            ValueRef::F32(1.5),
            ValueRef::Str("naïve \"q\""),
            ValueRef::Bytes(&[0, 255]),
            ValueRef::Guid([7; 16]),
            ValueRef::FileTime(133_000_000_000_000_000),
            ValueRef::Ipv4([10, 1, 2, 3]),
            ValueRef::Enum { value: 2, label: "Blue" },
            ValueRef::Null,
        ];
        for (n, value) in values.into_iter().enumerate() {
            e.value(n as u32, Format::Default, value);
        }
        e.begin_struct(11);
        e.value(12, Format::Hex, ValueRef::U32(255));
        e.end();
        e.begin_array(13);
        e.value(NO_NAME, Format::Default, ValueRef::Bool(true));
        e.end();
        e.value(14, Format::Default, ValueRef::I8(-1));
    });
    let body = record(&request).body.clone().unwrap().value.unwrap();
    let text = |s: &str| Value::Text(s.to_owned());
    let map = |key: &str, value| KeyValueList { values: vec![KeyValue::new(key, value)] };
    let Value::Map(fields) = body else { panic!("a map") };
    let want = [
        ("i", Some(Value::Int(i64::MIN))),
        ("u", Some(Value::Int(8))),
        ("big", Some(text("18446744073709551615"))),
        ("f", Some(Value::Double(1.5))),
        ("s", Some(text("naïve \"q\""))),
        ("b", Some(Value::Bytes(vec![0, 255]))),
        ("g", Some(text("07070707-0707-0707-0707-070707070707"))),
        ("ft", Some(text("2022-06-18T04:26:40.0000000Z"))),
        ("ip", Some(text("10.1.2.3"))),
        ("e", Some(text("Blue"))),
        ("n", None),
        ("st", Some(Value::Map(map("inner", Value::Int(255))))),
        ("arr", Some(Value::Array(ArrayValue { values: vec![Value::Bool(true).into()] }))),
        ("i#2", Some(Value::Int(-1))),
    ];
    let want: Vec<KeyValue> = want
        .into_iter()
        .map(|(key, value)| KeyValue { key: key.to_owned(), value: Some(AnyValue { value }) })
        .collect();
    assert_eq!(fields.values, want);
}

#[test]
fn the_header_becomes_attributes_severity_and_scope() {
    let parts = SchemaParts {
        provider_name: "Microsoft-Windows-Kernel".into(),
        provider_guid: [3; 16],
        task_name: "Process".into(),
        opcode_name: "Start".into(),
        decoder: Decoder::Manifest,
        ..SchemaParts::default()
    };
    let head = Head {
        time_ns: 1_700_000_000_123_456_789,
        keyword: 0x8000_0000_0000_0001,
        pid: 4,
        id: 1,
        level: 2,
        activity: [1; 16],
        telemetry_level: Some(TelemetryLevel::Basic),
        ..Head::default()
    };
    let request = one(parts, head, |e| {
        e.ext(ExtKey::Other, ValueRef::U8(1));
        e.ext(ExtKey::Other, ValueRef::U8(2));
        e.raw(b"raw");
    });
    let resource = request.resource_logs[0].resource.clone().unwrap();
    assert_eq!(attribute(&resource.attributes, "host.name"), Some(Value::Text("host-1".into())));
    assert_eq!(
        attribute(&resource.attributes, "tidegate.epoch"),
        Some(Value::Text("00000000feed0042".into()))
    );
    let scope = request.resource_logs[0].scope_logs[0].scope.clone().unwrap();
    assert_eq!(scope.name, "Microsoft-Windows-Kernel");
    let r = record(&request);
    assert_eq!(
        (r.time_unix_nano, r.severity_number, &*r.severity_text),
        (1_700_000_000_123_456_789, 17, "Error")
    );
    assert_eq!(r.event_name, "Process/Start");
    for (key, want) in [
        ("tidegate.seq", Some(Value::Int(9))),
        ("tidegate.level", Some(Value::Text("Basic".into()))),
        ("process.pid", Some(Value::Int(4))),
        ("thread.id", None),
        ("etw.keyword", Some(Value::Text("0x8000000000000001".into()))),
        ("etw.activity.id", Some(Value::Text("01010101-0101-0101-0101-010101010101".into()))),
        ("etw.raw", Some(Value::Bytes(b"raw".to_vec()))),
        ("etw.ext.other", Some(Value::Int(1))),
        ("etw.ext.other.2", Some(Value::Int(2))),
    ] {
        assert_eq!(attribute(&r.attributes, key), want, "{key}");
    }
}

#[test]
fn each_provider_is_a_scope_and_order_stays_inside() {
    let request = convert::request(&batch(1, 9));
    let scopes = &request.resource_logs[0].scope_logs;
    assert_eq!(scopes.len(), 3);
    assert!(scopes.iter().all(|s| s.log_records.len() == 3));
    assert_eq!(seqs(&request), (1..=9).collect::<Vec<i64>>());
    assert_eq!(convert::request(&batch(1, 9)).encode_to_vec(), request.encode_to_vec());
}
