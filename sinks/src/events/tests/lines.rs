//! Events as lines.

use serde_json::Value;
use tidegate_proto::batch::EventBuilder;

use super::super::body::{self, Caps, Pass};
use super::super::latency::{LatencyRule, Urgency};
use super::super::mapping::PiiRule;
use super::super::recorder::check_line;
use super::*;

fn text(mapping: &Mapping, events: Batch) -> String {
    let planned = body::plan(mapping, &batch(41, events), CAPS, |_, _| Pass::Send);
    assert!(planned.rejected.is_empty() && planned.held.is_empty());
    assert_eq!(planned.requests.len(), 1);
    String::from_utf8(planned.requests.into_iter().next().unwrap().body).unwrap()
}

/// The lines of a batch, each of which keeps to the profile.
fn lines(mapping: &Mapping, events: Batch) -> Vec<Value> {
    let text = text(mapping, events);
    text.split('\n').map(|line| check_line(line).unwrap_or_else(|e| panic!("{e} in {line}"))).collect()
}

fn one(
    mapping: &Mapping,
    schema: &Arc<Schema>,
    head: Head,
    write: impl FnOnce(&mut EventBuilder<'_>),
) -> Value {
    let mut events = Batch::new();
    let mut event = events.begin(schema, head);
    write(&mut event);
    event.finish();
    lines(mapping, events).remove(0)
}

/// An event with everything in it.
fn full() -> Batch {
    let fields: Vec<FieldDef> = [
        "text",
        "bool",
        "i8",
        "u8",
        "i16",
        "u16",
        "i32",
        "u32",
        "i64",
        "u64",
        "f32",
        "f64",
        "nan",
        "bytes",
        "guid",
        "filetime",
        "systemtime",
        "noDate",
        "sid",
        "ipv4",
        "ipv6",
        "sockaddr",
        "pointer",
        "named",
        "unnamed",
        "null",
        "struct",
        "inner",
        "when",
        "numbers",
        "mixed",
        "structs",
        "addresses",
        "PartA_PrivTags",
        "text",
        "baseType",
        "key with space",
        "тест",
        "",
    ]
    .into_iter()
    .map(|name| FieldDef { name: name.to_owned(), tags: 0 })
    .collect();
    let schema = Schema::new(SchemaParts {
        provider_name: "Contoso.App".into(),
        provider_guid: guid::parse("d3dd3dd4-aac2-4e2a-8dd4-a8fb61b77615").unwrap(),
        group_guid: guid::parse("4f50731a-89cf-4782-b3e0-dce8c90476ba"),
        event_name: "Everything".into(),
        event_tags: 0x0080_0000 | 0x0020_0000 | 0x0800_0000,
        task_name: "Task".into(),
        opcode_name: "Start".into(),
        message: "left out".into(),
        decoder: Decoder::TraceLogging,
        fields,
    });
    let head = Head {
        time_ns: time::parse_rfc3339("2026-11-23T09:39:29.379123456Z").unwrap(),
        keyword: 0x8000_4000_0000_0001,
        priv_tags: 0x800,
        pid: 4711,
        tid: 42,
        cpu: 3,
        id: 7,
        task: 9,
        version: 2,
        channel: 11,
        level: 5,
        opcode: 1,
        activity: guid::parse("01020304-0506-0708-090a-0b0c0d0e0f10").unwrap(),
        related: guid::parse("11121314-1516-1718-191a-1b1c1d1e1f20").unwrap(),
        telemetry_level: Some(TelemetryLevel::Enhanced),
        sample_ppm: 0,
    };
    let mut events = Batch::new();
    let mut e = events.begin(&schema, head);
    let sid = [1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 32, 2, 0, 0];
    let date = [0xea, 7, 11, 0, 1, 0, 23, 0, 9, 0, 39, 0, 29, 0, 123, 1];
    let values = [
        ValueRef::Str("naïve – 日本語 😀 \"q\"\\\n\u{1}"),
        ValueRef::Bool(true),
        ValueRef::I8(-8),
        ValueRef::U8(8),
        ValueRef::I16(-16),
        ValueRef::U16(16),
        ValueRef::I32(i32::MIN),
        ValueRef::U32(u32::MAX),
        ValueRef::I64(i64::MIN),
        ValueRef::U64(u64::MAX),
        ValueRef::F32(1.5),
        ValueRef::F64(1e300),
        ValueRef::F64(f64::NAN),
        ValueRef::Bytes(&[0, 1, 255]),
        ValueRef::Guid([7; 16]),
        ValueRef::FileTime(133_000_000_000_000_001),
        ValueRef::SystemTime(date),
        ValueRef::SystemTime([0; 16]),
        ValueRef::Sid(&sid),
        ValueRef::Ipv4([10, 1, 2, 3]),
        ValueRef::Ipv6([0xfd; 16]),
        ValueRef::SockAddr(&[2, 0, 0x01, 0xbb, 10, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0]),
        ValueRef::Pointer(0xffff_8000_0000_0000),
        ValueRef::Enum { value: 2, label: "Blue" },
        ValueRef::Enum { value: -2, label: "" },
        ValueRef::Null,
    ];
    for (name, value) in values.into_iter().enumerate() {
        e.value(name as u32, Format::Default, value);
    }
    e.begin_struct(26);
    e.value(27, Format::Hex, ValueRef::U32(255));
    e.value(28, Format::Default, ValueRef::FileTime(133_000_000_000_000_000));
    e.end();
    e.begin_array(29);
    (1..=3).for_each(|n| e.value(NO_NAME, Format::Default, ValueRef::I64(n)));
    e.end();
    e.begin_array(30);
    e.value(NO_NAME, Format::Default, ValueRef::I64(1));
    e.value(NO_NAME, Format::Default, ValueRef::Str("two"));
    e.value(NO_NAME, Format::Default, ValueRef::Null);
    e.end();
    e.begin_array(31);
    for n in 0..2 {
        e.begin_struct(NO_NAME);
        e.value(27, Format::Default, ValueRef::U32(n));
        e.end();
    }
    e.end();
    e.begin_array(32);
    e.value(NO_NAME, Format::Default, ValueRef::Ipv4([1, 2, 3, 4]));
    e.value(NO_NAME, Format::Default, ValueRef::Ipv4([5, 6, 7, 8]));
    e.end();
    e.value(33, Format::Default, ValueRef::U64(0x100_0000));
    e.value(34, Format::Default, ValueRef::Str("the second of this name"));
    e.value(35, Format::Default, ValueRef::Str("not Part B"));
    e.value(36, Format::Default, ValueRef::Str("x"));
    e.value(37, Format::Default, ValueRef::Str("y"));
    e.value(38, Format::Default, ValueRef::Str("z"));
    e.ext(ExtKey::Sid, ValueRef::Sid(&sid));
    e.ext(ExtKey::ProcessStartKey, ValueRef::U64(5));
    e.ext(ExtKey::Other, ValueRef::Bytes(b"a"));
    e.ext(ExtKey::Other, ValueRef::Bytes(b"b"));
    e.begin_ext_array(ExtKey::Stack);
    e.value(NO_NAME, Format::Default, ValueRef::Pointer(0x7fff));
    e.end();
    e.raw(b"raw");
    e.finish();
    events
}

/// Lines that were released are never edited: the far side dedupes by them. To add one,
/// print `text(…)`, look at it, and keep it under the next number.
#[test]
fn kept_lines_come_out_byte_by_byte() {
    let line = text(&mapping(), full()).replace(SDK_VERSION, "SDK");
    assert_eq!(line, include_str!("../../../golden/events-v1.jsonl").trim_end());
}

#[test]
fn an_event_with_everything_keeps_to_the_profile() {
    let event = lines(&mapping(), full()).remove(0);
    let at =
        |pointer: &str| event.pointer(pointer).cloned().unwrap_or_else(|| panic!("{pointer} is missing"));
    for (pointer, want) in [
        ("/name", Value::from("Contoso.App.Everything")),
        ("/time", "2026-11-23T09:39:29.3791234Z".into()),
        ("/iKey", "o:fedcba9876543210fedcba9876543210".into()),
        // scrub address, mark personal data, real time, critical
        ("/flags", 0x0048_0202.into()),
        ("/ext/utc/epoch", "1122334455667788".into()),
        ("/ext/utc/seq", 41.into()),
        ("/ext/sdk/seq", 41.into()),
        ("/ext/utc/cat", 0x8000_4000_0000_0001_u64.cast_signed().into()),
        ("/ext/utc/eventFlags", 0x0202.into()),
        ("/ext/utc/op", "1".into()),
        ("/ext/utc/aId", "01020304-0506-0708-090a-0b0c0d0e0f10".into()),
        ("/ext/utc/raId", "11121314-1516-1718-191a-1b1c1d1e1f20".into()),
        ("/ext/device/localId", "c:host-1".into()),
        ("/ext/metadata/privTags", 0x100_0800.into()),
        ("/data/baseType", BASE_TYPE.into()),
        ("/data/baseData/eventId", 7.into()),
        ("/data/baseData/pid", 4711.into()),
        ("/data/baseData/raw", "cmF3".into()),
        ("/data/baseData/ext/sid", "S-1-5-32-544".into()),
        ("/data/baseData/ext/other_2", "Yg==".into()),
        ("/ext/metadata/f/baseData/f/ext/f/sid/t", 321.into()),
        ("/ext/metadata/f/baseData/f/ext/f/stack/a/t", 5.into()),
        ("/data/u64", u64::MAX.into()),
        ("/data/nan", Value::Null),
        ("/ext/metadata/f/nan/t", 6.into()),
        ("/data/named", "Blue".into()),
        ("/data/unnamed", (-2).into()),
        ("/ext/metadata/f/unnamed/t", 4.into()),
        ("/data/ipv4", "10.1.2.3".into()),
        ("/ext/metadata/f/ipv4/t", 97.into()),
        ("/data/sockaddr", "10.1.2.3:443".into()),
        ("/data/struct/inner", 255.into()),
        ("/ext/metadata/f/struct/f/inner/t", 3.into()),
        ("/data/numbers/2", 3.into()),
        ("/ext/metadata/f/numbers/a/t", 4.into()),
        ("/data/structs/1/inner", 1.into()),
        ("/data/addresses", r#"["1.2.3.4","5.6.7.8"]"#.into()),
        ("/ext/metadata/f/addresses/t", 97.into()),
        ("/data/text_2", "the second of this name".into()),
        ("/data/baseType_2", "not Part B".into()),
        ("/data/key_with_space", "x".into()),
        ("/data/____", "y".into()),
        ("/data/field38", "z".into()),
    ] {
        assert_eq!(at(pointer), want, "{pointer}");
    }
    for missing in ["/data/null", "/data/PartA_PrivTags", "/ext/metadata/f/mixed", "/ext/metadata/f/structs"]
    {
        assert_eq!(event.pointer(missing), None, "{missing}");
    }
}

#[test]
fn personal_data_is_marked_by_rule_tag_and_scrubber() {
    let mut parts = SchemaParts {
        provider_name: "P".into(),
        event_name: "Event".into(),
        fields: ["UserName", "userId", "tagged", "scrubbed", "masked", "plain"]
            .into_iter()
            .map(|n| FieldDef { name: n.into(), tags: 0 })
            .collect(),
        ..SchemaParts::default()
    };
    parts.fields[2].tags = 0x0800_0000;
    let mut mapping = mapping();
    let rule = |field: &str, provider: Option<&str>| PiiRule {
        field: Pattern::new(field),
        provider: provider.map(Pattern::new),
        kind: PiiKind::Identity,
    };
    mapping.pii = vec![rule("user*", Some("P")), rule("plain", Some("Q"))];
    let event = one(&mapping, &Schema::new(parts), Head::default(), |e| {
        e.value(0, Format::Default, ValueRef::Str("ada"));
        e.value(1, Format::Default, ValueRef::I64(7));
        e.begin_struct(2);
        e.value(5, Format::Default, ValueRef::U8(1));
        e.end();
        e.value(3, Format::Default, ValueRef::Str("<email#k1.abc>"));
        e.scrubbed(3 << 8 | 3);
        e.value(4, Format::Default, ValueRef::Str("<email>"));
        e.scrubbed(4 << 8 | 3);
        e.value(5, Format::Default, ValueRef::Str("x"));
    });
    let meta = &event["ext"]["metadata"]["f"];
    assert_eq!(meta["UserName"]["t"], 321);
    assert_eq!(
        (&event["data"]["userId"], &meta["userId"]["t"]),
        (&"7".into(), &324.into()),
        "text, type kept"
    );
    assert_eq!((&event["data"]["tagged"], &meta["tagged"]["t"]), (&r#"{"plain":1}"#.into(), &65.into()));
    assert_eq!(meta["scrubbed"]["t"], 289);
    assert_eq!((meta.get("masked"), meta.get("plain")), (None, None));
}

#[test]
fn latency_and_persistence_come_from_tags_rules_and_level() {
    let mut mapping = mapping();
    mapping.scrub_ip = false;
    mapping.urgency = Urgency::new(vec![
        LatencyRule {
            provider: Some(Pattern::new("Fast*")),
            event: None,
            max_level: None,
            class: Latency::RealTime,
        },
        LatencyRule {
            provider: None,
            event: Some(Pattern::new("Bulk")),
            max_level: Some(TelemetryLevel::Basic),
            class: Latency::CostDeferred,
        },
    ]);
    let flags = |provider: &str, event: &str, level: Option<u8>, tags: u32| {
        let parts = SchemaParts {
            provider_name: provider.into(),
            event_name: event.into(),
            event_tags: tags,
            ..SchemaParts::default()
        };
        let head = Head { telemetry_level: level.and_then(TelemetryLevel::from_u8), ..Head::default() };
        one(&mapping, &Schema::new(parts), head, |_| {})["flags"].clone()
    };
    assert_eq!(flags("Slow", "Event", None, 0), 0x0101);
    assert_eq!(flags("Slow", "Event", Some(1), 0), 0x0102, "Basic is kept longest");
    assert_eq!(flags("FastOne", "Event", Some(3), 0), 0x0201);
    assert_eq!(flags("Slow", "bulk", Some(0), 0), 0x0302);
    assert_eq!(flags("Slow", "bulk", Some(3), 0), 0x0101);
    assert_eq!(flags("FastOne", "Event", None, 0x0040_0000 | 0x0200_0000), 0x0020_0101, "tags count first");
}

#[test]
fn names_that_repeat_stay_apart_however_many() {
    let names: Vec<String> =
        (0..100).map(|n| if n % 2 == 0 { "same name".into() } else { format!("n{n}") }).collect();
    let mut fields: Vec<&str> = names.iter().map(String::as_str).collect();
    // what the second of the first name would be called
    fields.push("same_name_2");
    let event = one(&mapping(), &schema("P", "Event", &fields), Head::default(), |e| {
        (0..fields.len()).for_each(|n| e.value(n as u32, Format::Default, ValueRef::U32(n as u32)));
    });
    let data = event["data"].as_object().unwrap();
    assert_eq!(data.len(), 2 + 101);
    assert_eq!(
        (&data["same_name"], &data["same_name_2"], &data["same_name_50"]),
        (&0.into(), &100.into(), &98.into())
    );
}

#[test]
fn requests_are_cut_at_events_and_bytes_and_always_alike() {
    let mapping = mapping();
    let caps = Caps { events: 4, body_bytes: 2_500, event_bytes: 2_000 };
    let make = || {
        let schema = schema("P", "Event", &["text"]);
        let mut events = Batch::new();
        for len in [0, 0, 0, 0, 0, 5_000, 1_200, 0, 1_200] {
            let mut event = events.begin(&schema, Head::default());
            event.value(0, Format::Default, ValueRef::Str(&"x".repeat(len)));
            event.finish();
        }
        batch(1, events)
    };
    let cut = || body::plan(&mapping, &make(), caps, |_, _| Pass::Send);
    let planned = cut();
    let sizes: Vec<usize> = planned.requests.iter().map(|r| r.events.len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 8);
    assert!(
        planned
            .requests
            .iter()
            .all(|r| r.events.len() <= 4 && r.body.len() <= 2_500 && !r.body.ends_with(b"\n"))
    );
    assert_eq!(planned.rejected.len(), 1);
    assert_eq!(
        (planned.rejected[0].seq, planned.rejected[0].reason),
        (Seq(6), crate::RejectReason::TooLarge)
    );
    for (a, b) in planned.requests.iter().zip(cut().requests) {
        assert_eq!((&a.body, &a.events), (&b.body, &b.events));
    }
}

#[test]
fn bodies_are_compressed_as_the_protocol_understands_it() {
    use std::io::Read as _;
    let body = b"{\"a\":1}\n".repeat(1000);
    let gzip = Compression::Gzip.apply(body.clone()).unwrap();
    assert_eq!(gzip, Compression::Gzip.apply(body.clone()).unwrap(), "no time of day in it");
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(&*gzip).read_to_end(&mut out).unwrap();
    assert_eq!(out, body);
    out.clear();
    let raw = Compression::Deflate.apply(body.clone()).unwrap();
    flate2::read::DeflateDecoder::new(&*raw).read_to_end(&mut out).unwrap();
    assert_eq!(out, body);
    assert_eq!(Compression::None.apply(body.clone()).unwrap(), body);
}

/// What the recorded client wrote for these typed values, we write too: `sinks/golden/captures.jsonl`
/// holds bodies of our own recordings (see the protocol notes).
#[test]
fn types_and_values_are_those_of_the_recorded_client() {
    let recorded: Value =
        include_str!("../../../golden/captures.jsonl").lines().next().unwrap().parse().unwrap();
    let names =
        ["t_i32", "t_u32", "t_i64", "t_u64", "nan", "bool_t", "str", "quote", "exp", "t_guid", "t_date"];
    let mut fields: Vec<&str> = names.to_vec();
    fields.push("t_arr_i64");
    let time = time::parse_rfc3339("2024-01-02T03:04:05.678Z").unwrap();
    let event = one(&mapping(), &schema("Oracle", "Types", &fields), Head::default(), |e| {
        let values = [
            ValueRef::I32(-5),
            ValueRef::U32(5),
            ValueRef::I64(5),
            ValueRef::U64(5),
            ValueRef::F64(f64::INFINITY),
            ValueRef::Bool(true),
            ValueRef::Str("text"),
            ValueRef::Str("a\"b\\c\nnewline\ttab\u{1}"),
            ValueRef::F64(1e300),
            ValueRef::Guid(guid::parse("12345678-1234-1234-1234-1234567890ab").unwrap()),
            ValueRef::FileTime(time::unix_ns_to_filetime(time)),
        ];
        for (n, value) in values.into_iter().enumerate() {
            e.value(n as u32, Format::Default, value);
        }
        e.begin_array(11);
        e.value(NO_NAME, Format::Default, ValueRef::I64(1));
        e.value(NO_NAME, Format::Default, ValueRef::I64(2));
        e.end();
    });
    for name in fields {
        let (ours, theirs) = (&event["data"][name], &recorded["data"][name]);
        match name {
            "t_date" => {
                assert_eq!(ours.as_str().map(time::parse_rfc3339), theirs.as_str().map(time::parse_rfc3339))
            }
            _ => assert_eq!(ours, theirs, "{name}"),
        }
        assert_eq!(
            event["ext"]["metadata"]["f"].get(name),
            recorded["ext"]["metadata"]["f"].get(name),
            "{name}"
        );
    }
    let known = ["name", "time", "ver", "iKey", "ext", "data", "flags"];
    assert!(event.as_object().unwrap().keys().all(|k| known.contains(&k.as_str())));
}

#[test]
fn a_sampled_event_says_the_percentage_kept() {
    let mut events = Batch::new();
    events.begin(&Schema::new(Default::default()), Head { sample_ppm: 125_000, ..Head::default() }).finish();
    events.begin(&Schema::new(Default::default()), Head::default()).finish();
    let lines = lines(&mapping(), events);
    assert_eq!(lines[0]["popSample"], 12.5);
    assert!(lines[1].get("popSample").is_none());
}

#[test]
fn the_check_finds_what_the_profile_forbids() {
    let good = text(&mapping(), full());
    check_line(&good).unwrap();
    for (from, to) in [
        ("\"4.0\"", "\"3.0\""),
        ("Contoso.App.Everything", "Contoso..Everything"),
        ("1234Z\"", "1234+01:00\""),
        ("\"iKey\":\"o:", "\"iKey\":\""),
        ("\"seq\":41", "\"seq\":0"),
        ("\"i8\":-8", "\"i8\":3000000000"),
        ("\"i8\":{\"t\":2},", ""),
        ("\"ipv4\":\"10.1.2.3\"", "\"ipv4\":10"),
        ("\"numbers\":{\"a\":{\"t\":4}}", "\"numbers\":{\"a\":{\"t\":97}}"),
        ("\"key_with_space\"", "\"key with space\""),
        ("\"baseType\":\"Tidegate.Event\",", ""),
        ("\"guid\":\"07", "\"guid\":\"x7"),
        ("\"flags\":", "\"Flags\":"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        assert!(check_line(&bad).is_err(), "{from} to {to}");
    }
}
