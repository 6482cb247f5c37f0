//! Schemas that come beside the events: manifests in chunks and from users, embedded schemas,
//! kernel layouts of versions that no given trace holds.

use crate::build::{self, Event, START_TICKS, Trace, utf16};
use crate::events::{events, events_with};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tidegate_etl::{EtlFile, EventSchema, ManifestError, PayloadDecoder, Record, RecordReader, SchemaSource};
use tidegate_proto::batch::Batch;
use tidegate_proto::guid;
use tidegate_proto::schema::Decoder;

const PROVIDER: [u8; 16] = [0xAB; 16];

fn at(n: u64) -> u64 {
    START_TICKS + n
}

fn manifest(inner: &str) -> String {
    format!(
        r#"<?xml version="1.0"?><instrumentationManifest xmlns="http://schemas.microsoft.com/win/2004/08/events">
        <instrumentation><events><provider name="Made-Up" guid="{{{}}}" symbol="M">{inner}</provider></events></instrumentation>
        <localization><resources culture="en-US"><stringTable>
        <string id="red" value="Red &amp; warm"/><string id="bit0" value="First"/><string id="bit1" value="Second"/>
        <string id="task" value="The task"/><string id="msg" value="%1 happened"/>
        </stringTable></resources><resources culture="de-DE"><stringTable><string id="red" value="Rot"/></stringTable></resources>
        </localization></instrumentationManifest>"#,
        guid::format(&PROVIDER)
    )
}

/// The records that carry a manifest in chunks of a size.
fn chunks(text: &str, size: usize, pid: u32, time: u64) -> Vec<Vec<u8>> {
    let parts: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
    let e = Event { provider: PROVIDER, id: 0xFFFE, version: 1, opcode: 254, pid, bits32: false };
    let one = |(n, part): (usize, &&[u8])| {
        let mut data = vec![1, 1, 0, 0x5B];
        data.extend((parts.len() as u16).to_le_bytes());
        data.extend((n as u16).to_le_bytes());
        data.extend(*part);
        build::event(e, time + n as u64, &[], &data)
    };
    parts.iter().enumerate().map(one).collect()
}

fn event(id: u16, version: u8, time: u64, data: &[u8]) -> Vec<u8> {
    build::event(Event { provider: PROVIDER, id, version, ..Event::default() }, time, &[], data)
}

fn of_trace(records: &[Vec<u8>]) -> Vec<Value> {
    events(&Trace::new().buffer(0, 1, 0, records).bytes(), 1000).split_off(1)
}

const ONE: &str = r#"<events><event value="1" version="0" task="T" template="a"/></events>
    <templates><template tid="a"><data name="n" inType="win:UInt8"/></template></templates>"#;
const TWO: &str = r#"<events><event value="1" version="1" task="T" template="b"/></events>
    <templates><template tid="b"><data name="n" inType="win:UInt8"/><data name="m" inType="win:UInt16"/></template></templates>"#;

#[test]
fn a_manifest_in_chunks_explains_events_before_it() {
    let mut records = vec![event(1, 0, at(0), &[5])];
    records.extend(chunks(&manifest(ONE), 100, 1, at(10)));
    let all = of_trace(&records);
    assert_eq!(all[0]["decoder"], "eventsource");
    assert_eq!((&all[0]["provider"], &all[0]["event"]), (&json!("Made-Up"), &json!("T")));
    assert_eq!(all[0]["fields"], json!({"n": 5}));
    assert_eq!(all[1]["fields"]["TotalChunks"], records.len() - 1);
    assert_eq!(all.last().unwrap()["event"], "ManifestData");
}

#[test]
fn two_versions_of_one_source_are_kept_apart() {
    let mut records = Vec::new();
    // Two processes at once, their chunks between one another.
    let (one, two) = (manifest(ONE), manifest(TWO));
    let (a, b) = (chunks(&one, 90, 1, at(1)), chunks(&two, 90, 2, at(1)));
    for n in 0..a.len().max(b.len()) {
        records.extend(a.get(n).cloned());
        records.extend(b.get(n).cloned());
    }
    records.push(event(1, 0, at(500), &[5]));
    records.push(event(1, 1, at(501), &[5, 6, 0]));
    let all = of_trace(&records);
    let shown: Vec<&Value> = all.iter().rev().take(2).map(|e| &e["fields"]).collect();
    assert_eq!(shown, [&json!({"n": 5, "m": 6}), &json!({"n": 5})]);
}

#[test]
fn a_manifest_without_its_end_is_no_schema() {
    let mut records = chunks(&manifest(ONE), 100, 1, at(10));
    records.pop();
    records.push(event(1, 0, at(500), &[5]));
    let last = of_trace(&records).pop().unwrap();
    assert_eq!((&last["decoder"], &last["raw"]), (&json!("raw"), &json!("BQ==")));
}

const FULL: &str = r#"
    <tasks><task name="Work" value="1" message="$(string.task)"><opcodes><opcode name="Half" value="11"/></opcodes></task></tasks>
    <opcodes><opcode name="Whole" value="12"/></opcodes>
    <maps><valueMap name="color"><map value="1" message="$(string.red)"/></valueMap>
    <bitMap name="bits"><map value="0x1" message="$(string.bit0)"/><map value="0x2" message="$(string.bit1)"/></bitMap></maps>
    <events>
      <event value="7" version="0" task="Work" opcode="Half" template="t" message="$(string.msg)" symbol="Seven"/>
      <event value="8" version="0" symbol="Eight" template="sized"/>
      <event value="9" version="0" task="Work" opcode="win:Stop"/>
      <event value="10" version="0" template="gone" task="Work"/>
      <event value="11" version="0" template="odd" task="Work"/>
    </events>
    <templates>
      <template tid="t">
        <data name="c" inType="win:UInt32" map="color"/>
        <data name="d" inType="win:UInt32" map="color"/>
        <data name="b" inType="win:UInt16" map="bits" outType="win:HexInt16"/>
        <data name="err" inType="win:UInt32" outType="win:Win32Error"/>
        <data name="ip" inType="win:UInt32" outType="win:IPv4"/>
        <data name="v6" inType="win:Binary" length="16" outType="win:IPv6"/>
      </template>
      <template tid="sized">
        <data name="n" inType="win:UInt8"/>
        <data name="text" inType="win:UnicodeString" length="n"/>
        <data name="list" inType="win:UInt16" count="n"/>
        <struct name="pairs" count="n"><data name="k" inType="win:UInt8"/><data name="v" inType="win:AnsiString"/></struct>
        <data name="two" inType="win:Boolean" count="2"/>
        <data name="blob" inType="win:Binary" length="n"/>
        <data name="cu" inType="win:CountedUnicodeString"/>
        <data name="cb" inType="win:CountedBinary"/>
        <data name="p" inType="win:Pointer"/>
      </template>
      <template tid="odd"><data name="x" inType="win:NoSuchType"/></template>
    </templates>"#;

fn with_manifest(text: &[u8], records: &[Vec<u8>]) -> Vec<Value> {
    let mut decoder = PayloadDecoder::new("test.etl");
    assert_eq!(decoder.add_manifest(text).unwrap(), 5);
    events_with(&Trace::new().buffer(0, 1, 0, records).bytes(), decoder, 1000).split_off(1)
}

#[test]
fn a_users_manifest_decodes_its_events() {
    let mut seven = [1_u32, 9].into_iter().flat_map(u32::to_le_bytes).collect::<Vec<u8>>();
    seven.extend([3, 0, 5, 0, 0, 0, 10, 0, 0, 1]);
    seven.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let mut eight = vec![2];
    eight.extend(utf16("hi"));
    eight.extend([1, 0, 2, 0]);
    eight.extend(b"\x01a\0\x02bc\0");
    eight.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    eight.extend([0xAA, 0xBB]);
    eight.extend([2, 0]);
    eight.extend(utf16("z"));
    eight.extend([1, 0, 0xCC]);
    eight.extend(0x1234_u64.to_le_bytes());
    let records = [
        event(7, 0, at(1), &seven),
        event(8, 0, at(2), &eight),
        event(9, 0, at(3), &[]),
        event(10, 0, at(4), &[1]),
        event(11, 0, at(5), &[1]),
        event(12, 0, at(6), &[1]),
    ];
    let text = manifest(FULL);
    let wide: Vec<u8> = [vec![0xFF, 0xFE], utf16(&text)].concat();
    let big: Vec<u8> = [vec![0xFE, 0xFF], text.encode_utf16().flat_map(u16::to_be_bytes).collect()].concat();
    for form in [text.clone().into_bytes(), wide, big] {
        let all = with_manifest(&form, &records);
        assert_eq!(all[0]["decoder"], "manifest");
        assert_eq!((&all[0]["event"], &all[0]["message"]), (&json!("Work/Half"), &json!("%1 happened")));
        assert_eq!(all[0]["taskName"], "The task");
        assert_eq!(
            all[0]["fields"],
            json!({"c": "Red & warm", "d": 9, "b": "First|Second", "err": "0x5", "ip": "10.0.0.1", "v6": "2001:db8::1"})
        );
        assert_eq!(all[1]["event"], "Eight");
        assert_eq!(
            all[1]["fields"],
            json!({"n": 2, "text": "hi", "list": [1, 2], "pairs": [{"k": 1, "v": "a"}, {"k": 2, "v": "bc"}],
                "two": [true, false], "blob": "qrs=", "cu": "z", "cb": "zA==", "p": "0x1234"})
        );
        assert_eq!(all[1].get("raw"), None);
        assert_eq!((&all[2]["event"], &all[2]["decoder"]), (&json!("Work/Stop"), &json!("manifest")));
        // A template that is not there, a type that is not known, an event that is not described.
        for other in &all[3..] {
            assert_eq!((&other["decoder"], &other["raw"]), (&json!("raw"), &json!("AQ==")), "{other}");
            assert_eq!(other["provider"], "Made-Up");
        }
    }
}

#[test]
fn what_is_no_manifest_is_refused_with_its_place() {
    let mut decoder = PayloadDecoder::new("");
    assert!(matches!(decoder.add_manifest(b""), Err(ManifestError::NoProvider)));
    assert!(matches!(decoder.add_manifest(b"<a><b></a>"), Err(ManifestError::Xml { .. })));
    let nested = "<a>".repeat(100);
    assert!(matches!(decoder.add_manifest(nested.as_bytes()), Err(ManifestError::Xml { .. })));
    let huge = vec![b' '; (16 << 20) + 1];
    assert!(matches!(decoder.add_manifest(&huge), Err(ManifestError::TooLarge { .. })));
    // No document types, no entities of one's own.
    let bomb = br#"<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>
        <provider name="&b;" guid="{11111111-1111-1111-1111-111111111111}"><events><event value="1"/></events></provider>"#;
    assert_eq!(decoder.add_manifest(bomb).unwrap(), 1);
}

/// A TRACE_EVENT_INFO in the making: properties, then texts.
struct Info {
    head: Vec<u8>,
    properties: Vec<Vec<u8>>,
    texts: Vec<u8>,
    top: u32,
}

impl Info {
    fn new(id: u16, properties: usize, top: u32) -> Info {
        let mut head = [PROVIDER, [0; 16]].concat();
        head.extend(id.to_le_bytes());
        head.resize(112, 0);
        head[100..104].copy_from_slice(&(properties as u32).to_le_bytes());
        head[104..108].copy_from_slice(&top.to_le_bytes());
        let texts = Vec::new();
        Info { head, properties: Vec::with_capacity(properties), texts, top }
    }

    /// Places a text; its offset.
    fn text(&mut self, text: &str) -> u32 {
        let at = 112 + 24 * self.properties.capacity() + self.texts.len();
        self.texts.extend(utf16(text));
        self.texts.extend([0, 0]);
        at as u32
    }

    fn label(&mut self, at: usize, text: &str) {
        let offset = self.text(text);
        self.head[at..at + 4].copy_from_slice(&offset.to_le_bytes());
    }

    /// flags, name, in type or first member, out type or members, map, count, length.
    fn property(
        &mut self,
        flags: u32,
        name: &str,
        kind: (u16, u16),
        map: Option<&str>,
        count: u16,
        length: u16,
    ) {
        let name = self.text(name);
        let map = map.map_or(0, |m| self.text(m));
        let mut p = flags.to_le_bytes().to_vec();
        p.extend(name.to_le_bytes());
        p.extend(kind.0.to_le_bytes());
        p.extend(kind.1.to_le_bytes());
        p.extend(map.to_le_bytes());
        p.extend(count.to_le_bytes());
        p.extend(length.to_le_bytes());
        p.extend([0; 4]);
        self.properties.push(p);
    }

    fn blob(&self) -> Vec<u8> {
        assert!(self.top as usize <= self.properties.len());
        [self.head.clone(), self.properties.concat(), self.texts.clone()].concat()
    }
}

/// Class of embedded schemas.
fn meta(opcode: u8, time: u64, data: &[u8]) -> Vec<u8> {
    let class = guid::parse("bbccf6c1-6cd1-48c4-80ff-839482e37671").unwrap();
    build::classic(20, class, opcode, time, data)
}

fn map(name: &str, flags: u32, entries: &[(u32, &str)]) -> Vec<u8> {
    let mut texts = Vec::new();
    let mut table = Vec::new();
    let base = 16 + 8 * entries.len();
    let mut place = |text: &str| {
        let at = (base + texts.len()) as u32;
        texts.extend(utf16(text));
        texts.extend([0, 0]);
        at.to_le_bytes()
    };
    let name = place(name);
    for (value, text) in entries {
        table.extend(place(text));
        table.extend(value.to_le_bytes());
    }
    let count = (entries.len() as u32).to_le_bytes();
    [PROVIDER.to_vec(), name.to_vec(), flags.to_le_bytes().to_vec(), count.to_vec(), vec![0; 4], table, texts]
        .concat()
}

#[test]
fn embedded_schemas_and_maps_decode_structs_counts_and_lengths() {
    let mut info = Info::new(5, 6, 4);
    info.label(52, "Emb");
    info.label(68, "Task ");
    info.label(72, "win:Start");
    info.property(0, "n", (4, 0), None, 1, 1);
    info.property(1 | 4, "rows", (4, 2), None, 0, 0);
    info.property(2, "blob", (14, 0), None, 1, 0);
    info.property(0, "mode", (8, 0), Some("modes"), 1, 4);
    info.property(0, "k", (6, 0), None, 1, 2);
    info.property(0, "v", (1, 0), None, 1, 0);
    let mut data = vec![2];
    for (k, v) in [(7_u16, "a\0"), (8, "\0")] {
        data.extend(k.to_le_bytes());
        data.extend(utf16(v));
    }
    data.extend([0xAA, 0xBB]);
    data.extend(6_u32.to_le_bytes());
    let records = [
        event(5, 0, at(1), &data),
        meta(33, at(2), &map("modes", 2, &[(4, "Four"), (2, "Two ")])),
        meta(32, at(3), &info.blob()),
    ];
    let all = of_trace(&records);
    assert_eq!((&all[0]["provider"], &all[0]["event"]), (&json!("Emb"), &json!("Task/Start")));
    assert_eq!(all[0]["decoder"], "embedded");
    assert_eq!(
        all[0]["fields"],
        json!({"n": 2, "rows": [{"k": 7, "v": "a"}, {"k": 8, "v": ""}], "blob": "qrs=", "mode": "Four|Two"})
    );
    assert_eq!(all[2]["event"], "MetaData/EventInfo");
}

#[test]
fn hostile_embedded_schemas_leave_events_raw() {
    let cases: Vec<Vec<u8>> = {
        let mut own = Info::new(5, 1, 1);
        own.property(1, "s", (0, 1), None, 1, 0); // a struct that holds itself
        let mut far = Info::new(5, 1, 1);
        far.property(0, "x", (4, 0), None, 1, 0);
        far.head[100..104].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut late = Info::new(5, 2, 2);
        late.property(2, "b", (14, 0), None, 1, 1); // its length stands behind it
        late.property(0, "n", (4, 0), None, 1, 1);
        let mut text = Info::new(5, 2, 2);
        text.property(0, "t", (1, 0), None, 1, 0);
        text.property(2, "b", (14, 0), None, 1, 0); // its length is a text
        let mut odd = Info::new(5, 1, 1);
        odd.property(0, "x", (999, 0), None, 1, 0);
        vec![own.blob(), far.blob(), late.blob(), text.blob(), odd.blob()]
    };
    for blob in cases {
        let all = of_trace(&[meta(32, at(1), &blob), event(5, 0, at(2), &[9; 20])]);
        assert_eq!(all[1]["decoder"], "raw");
        assert_eq!(all.len(), 2);
    }
    // Names outside the blob are empty, not an end.
    let mut info = Info::new(5, 1, 1);
    info.property(0, "x", (4, 0), None, 1, 1);
    info.properties[0][4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let all = of_trace(&[meta(32, at(1), &info.blob()), event(5, 0, at(2), &[9])]);
    assert_eq!(all[1]["fields"], json!({"field0": 9}));
}

#[test]
fn counts_that_cost_work_without_bytes_are_stopped() {
    // 65535 empty structs in 65535 more.
    let kinds = [build::field("a", &[0xD8, 1]), build::field("b", &[0xD8, 0])];
    let items = [(11, build::metadata(&[0], "E", &kinds))];
    let e = Event { provider: PROVIDER, ..Event::default() };
    let data = [0xFF; 40_000];
    let all = of_trace(&[build::event(e, at(1), &items, &data)]);
    assert_eq!(all[0]["decoder"], "raw");
    // Structs nested deeper than any program does.
    let kinds: Vec<Vec<u8>> = (0..200).map(|_| build::field("s", &[0x98, 1])).collect();
    let items = [(11, build::metadata(&[0], "E", &kinds))];
    let all = of_trace(&[build::event(e, at(1), &items, &[1])]);
    assert_eq!(all[0]["decoder"], "raw");
}

#[test]
fn kernel_layouts_of_older_versions() {
    let p = |n: u64| n.to_le_bytes().to_vec();
    let process_v1 = [
        p(0x1000),
        vec![7, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        vec![0, 0, 0, 0],
        b"old.exe\0".to_vec(),
    ];
    let mut record = build::system(2, 3, 1, at(1), &process_v1.concat());
    record[0] = 1;
    let all = of_trace(&[record]);
    assert_eq!(all[0]["event"], "Process/Start");
    assert_eq!(
        all[0]["fields"],
        json!({"PageDirectoryBase": "0x1000", "ProcessId": 7, "ParentId": 3, "SessionId": 1, "ExitStatus": 0,
            "UserSID": null, "ImageFileName": "old.exe"})
    );
    // FileIo create of both generations, and a context switch.
    let tail = [[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0].to_vec(), utf16("C:\\x\0")].concat();
    let v2 = [p(1), p(2), p(3), tail.clone()].concat();
    let v3 = [p(1), p(3), vec![2, 0, 0, 0], tail].concat();
    for (version, data) in [(2, v2), (3, v3)] {
        let mut record = build::system(2, 4, 64, at(1), &data);
        record[0] = version;
        let all = of_trace(&[record]);
        let f = &all[0]["fields"];
        assert_eq!(
            (&f["OpenPath"], &f["FileObject"], &f["TTID"]),
            (&json!("C:\\x"), &json!("0x3"), &json!(2))
        );
        assert_eq!(all[0].get("raw"), None);
    }
    let all = of_trace(&[build::perfinfo(17, 2, 5, 36, at(1), &[1; 24])]);
    assert_eq!(
        (&all[0]["event"], &all[0]["fields"]["NewThreadId"]),
        (&json!("Thread/CSwitch"), &json!(16_843_009))
    );
}

/// A system that knows one event, with a value map; notes the ids it was asked for.
#[derive(Debug)]
struct System {
    info: Vec<u8>,
    map: Vec<u8>,
    asked: Arc<Mutex<Vec<u16>>>,
}

impl SchemaSource for System {
    fn schema(&mut self, record: &Record<'_>) -> Option<EventSchema> {
        self.asked.lock().unwrap().push(record.id);
        (record.id == 5).then(|| EventSchema { info: self.info.clone(), maps: vec![self.map.clone()] })
    }
}

#[test]
fn the_system_is_asked_once_for_each_kind_that_nothing_else_explains() {
    let mut info = Info::new(5, 1, 1);
    info.label(52, "Sys");
    info.property(0, "mode", (8, 0), Some("modes"), 1, 4);
    assert_eq!(EventSchema::map_names(&info.blob()), ["modes"]);
    assert!(EventSchema::map_names(&info.blob()[..120]).is_empty());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let mut system: Option<Box<dyn SchemaSource>> = Some(Box::new(System {
        info: info.blob(),
        map: map("modes", 1, &[(4, "Four")])[16..].to_vec(),
        asked: Arc::clone(&asked),
    }));
    let records = [(5, 0), (6, 1), (5, 2), (6, 3), (5, 4)].map(|(id, n)| event(id, 0, at(n), &[4, 0, 0, 0]));
    let bytes = Trace::new().buffer(0, 1, 0, &records).bytes();
    let file = EtlFile::open(&bytes[..]).unwrap();
    let mut decoder = PayloadDecoder::new("live");
    let mut batch = Batch::new();
    let mut reader = RecordReader::new(&file);
    // the header, which everybody knows
    reader.next_record().unwrap();
    let mut by = Vec::new();
    let mut n = 0;
    while let Some(record) = reader.next_record().unwrap() {
        by.push(decoder.decode(&record, n, &mut batch));
        if n == 0 {
            // what was seen before is asked for too
            decoder.set_system(system.take().unwrap());
        }
        n += 1;
    }
    assert_eq!(by, [Decoder::None, Decoder::None, Decoder::Manifest, Decoder::None, Decoder::Manifest]);
    assert_eq!(*asked.lock().unwrap(), [6, 5]);
    let shown: Vec<String> = batch.iter().map(|e| format!("{e:?}")).collect();
    assert!(
        shown[2].contains(r#""provider":"Sys""#) && shown[2].contains(r#""mode":"Four""#),
        "{}",
        shown[2]
    );
    let coverage = decoder.coverage();
    let of = |d| coverage.iter().filter(|c| c.decoder == d).map(|c| c.events).sum::<u64>();
    assert_eq!((of(Decoder::None), of(Decoder::Manifest)), (3, 2));
}
