use prost::Message as _;

use super::*;
use crate::batch::{Batch, ExtKey, Head, NO_NAME};
use crate::level::TelemetryLevel;
use crate::pb;
use crate::schema::{Decoder, FieldDef, Schema, SchemaParts};
use crate::value::{Format, ValueRef};

fn schema(fields: &[&str]) -> std::sync::Arc<Schema> {
    Schema::new(SchemaParts {
        provider_name: "Contoso.Storage".into(),
        provider_guid: [9; 16],
        group_guid: Some([8; 16]),
        event_name: "DriveState".into(),
        event_tags: 5,
        task_name: "Task".into(),
        opcode_name: "Start".into(),
        message: "Drive %1".into(),
        decoder: Decoder::TraceLogging,
        fields: fields.iter().map(|n| FieldDef { name: (*n).into(), tags: 3 }).collect(),
    })
}

fn head(n: i64) -> Head {
    Head {
        time_ns: 1_700_000_000_000_000_000 + n,
        keyword: 0x8000_0000_0000_0001,
        priv_tags: 0x0200_0000,
        pid: 4,
        tid: 0,
        cpu: 3,
        id: 17,
        task: 2,
        version: 1,
        channel: 11,
        level: 4,
        opcode: 1,
        activity: [1; 16],
        related: [2; 16],
        telemetry_level: None,
        sample_ppm: 0,
    }
}

/// Two events that hold every kind of value.
fn sample() -> Batch {
    let mut batch = Batch::new();
    let names: Vec<String> = (0..30).map(|n| format!("field{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let s = schema(&names);
    let mut e = batch.begin(&s, head(0));
    let sid = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
    let long = "x".repeat(20_000);
    let values = [
        ValueRef::Null,
        ValueRef::Bool(false),
        ValueRef::I8(-8),
        ValueRef::I16(-16),
        ValueRef::I32(i32::MIN),
        ValueRef::I64(i64::MIN),
        ValueRef::U8(8),
        ValueRef::U16(16),
        ValueRef::U32(u32::MAX),
        ValueRef::U64(u64::MAX),
        ValueRef::F32(1.25),
        ValueRef::F64(-0.5),
        ValueRef::Str("ä text"),
        ValueRef::Bytes(&[0, 255]),
        ValueRef::Guid([7; 16]),
        ValueRef::FileTime(133_000_000_000_000_000),
        ValueRef::SystemTime([6; 16]),
        ValueRef::Sid(&sid),
        ValueRef::Ipv4([192, 0, 2, 1]),
        ValueRef::Ipv6([5; 16]),
        ValueRef::SockAddr(&[2, 0, 0, 80, 1, 2, 3, 4]),
        ValueRef::Pointer(0xffff_8000_0000_0000),
        ValueRef::Enum { value: -2, label: "Minus" },
        ValueRef::Str(&long),
    ];
    for (n, v) in (0..).zip(values) {
        e.value(n, if n == 8 { Format::Hex } else { Format::Default }, v);
    }
    e.begin_struct(24);
    e.value(25, Format::Default, ValueRef::U8(1));
    e.begin_array(26);
    for n in 0..3 {
        e.value(NO_NAME, Format::Default, ValueRef::U32(n));
    }
    e.end();
    e.end();
    e.ext(ExtKey::Sid, ValueRef::Sid(&sid));
    e.begin_ext_array(ExtKey::Stack);
    e.value(NO_NAME, Format::Default, ValueRef::Pointer(1));
    e.end();
    e.finish();
    let mut e = batch.begin(&schema(&[]), Head::default());
    e.raw(&[1, 2, 3]);
    e.finish();
    batch
}

fn encode(batch: &Batch) -> Vec<u8> {
    let mut block = BlockBuilder::new();
    for event in batch.iter() {
        block.push(event, TelemetryLevel::Enhanced, &Unchanged);
    }
    block.finish()
}

fn json(batch: &Batch) -> Vec<String> {
    let lines = batch.iter().map(|e| {
        let mut out = Vec::new();
        crate::json::write_event(&mut out, e, None);
        String::from_utf8(out).unwrap()
    });
    lines.collect()
}

/// Schemas first, as prost writes them.
fn reordered(bytes: &[u8]) -> Vec<u8> {
    pb::Block::decode(bytes).unwrap().encode_to_vec()
}

#[test]
fn prost_reads_and_writes_the_same_bytes() {
    let bytes = encode(&sample());
    let block = pb::Block::decode(bytes.as_slice()).unwrap();
    assert_eq!((block.schemas.len(), block.events.len()), (2, 2));
    assert_eq!(block.events[0].pid, 5);
    assert_eq!(block.events[0].tid, 1);
    assert_eq!(block.events[1].raw, [1, 2, 3]);
    // one event only: then nothing stands out of order
    let mut one = BlockBuilder::new();
    one.push(sample().get(0).unwrap(), TelemetryLevel::Enhanced, &Unchanged);
    let one = one.finish();
    assert_eq!(reordered(&one), one);
}

#[test]
fn the_rate_of_sampling_is_kept_and_written_again() {
    let batch = sample();
    let mut block = BlockBuilder::new();
    block.push_sampled(batch.get(0).unwrap(), TelemetryLevel::Basic, &Unchanged, 2500);
    let bytes = block.finish();
    let mut read = Batch::new();
    BlockReader::new(&bytes, &mut SchemaInterner::new()).unwrap().read_into(&mut read).unwrap();
    assert_eq!(read.get(0).unwrap().head().sample_ppm, 2500);
    assert!(json(&read)[0].contains("\"samplePpm\":2500"));
    let mut again = BlockBuilder::new();
    again.push(read.get(0).unwrap(), TelemetryLevel::Basic, &Unchanged);
    assert_eq!(again.finish(), bytes);
    assert_eq!(pb::Block::decode(bytes.as_slice()).unwrap().events[0].sample_ppm, 2500);
}

#[test]
fn a_copied_event_is_the_same_event() {
    let batch = sample();
    let mut copy = Batch::new();
    batch.iter().for_each(|event| copy.push_copy(event));
    assert_eq!(encode(&copy), encode(&batch));
}

#[test]
fn what_is_written_is_read() {
    let bytes = encode(&sample());
    let mut batch = Batch::new();
    let mut interner = SchemaInterner::new();
    let reader = BlockReader::new(&bytes, &mut interner).unwrap();
    assert_eq!(reader.events(), 2);
    reader.read_into(&mut batch).unwrap();
    for e in batch.iter() {
        assert_eq!(e.head().telemetry_level, Some(TelemetryLevel::Enhanced));
    }
    let read = json(&batch);
    for (read, written) in read.iter().zip(json(&sample())) {
        let level = "\"telemetryLevel\":\"Enhanced\",";
        assert_eq!(read.replace(level, ""), written);
    }
    // prost's order of the same messages reads the same
    let other = reordered(&bytes);
    let mut batch = Batch::new();
    BlockReader::new(&other, &mut interner).unwrap().read_into(&mut batch).unwrap();
    assert_eq!(json(&batch), read);
}

struct Scripted(Vec<(Place, Option<&'static str>)>);
impl Changes for Scripted {
    fn is_empty(&self) -> bool {
        false
    }
    fn at(&self, place: Place) -> Option<Change<'_>> {
        let (_, text) = self.0.iter().find(|(p, _)| *p == place)?;
        Some(text.map_or(Change::Drop, |t| Change::Replace(t, 9)))
    }
}

#[test]
fn changes_reach_the_right_nodes() {
    let batch = sample();
    let changes = Scripted(vec![
        (Place::Field(12), Some("<masked>")),
        (Place::Field(23), None),
        (Place::Field(28), Some("second item")), // 24 struct, 25 member, 26 array, 27.. items
        (Place::Ext(0), None),
    ]);
    let mut block = BlockBuilder::new();
    block.push(batch.get(0).unwrap(), TelemetryLevel::Full, &changes);
    let block = pb::Block::decode(block.finish().as_slice()).unwrap();
    let fields = &block.events[0].fields;
    assert_eq!(fields.len(), 24);
    assert_eq!(fields[12].value, Some(pb::field::Value::Text("<masked>".into())));
    assert_eq!(fields[12].scrub, 9);
    let Some(pb::field::Value::Struct(members)) = &fields[23].value else { panic!("{:?}", fields[23]) };
    let Some(pb::field::Value::Array(list)) = &members.items[1].value else { panic!() };
    assert_eq!(list.items[1].value, Some(pb::field::Value::Text("second item".into())));
    assert_eq!(list.items[2].value, Some(pb::field::Value::U32(2)));
    assert_eq!(block.events[0].ext.len(), 1);
}

#[test]
fn golden_bytes_of_version_1() {
    let golden = include_bytes!("../../golden/block-v1.bin");
    let bytes = encode(&sample());
    if std::env::var_os("TIDEGATE_WRITE_GOLDEN").is_some() {
        std::fs::write("golden/block-v1.bin", &bytes).unwrap();
    }
    assert!(bytes == golden, "the stored form changed: old rings and captures must stay readable");
    let mut batch = Batch::new();
    BlockReader::new(golden, &mut SchemaInterner::new()).unwrap().read_into(&mut batch).unwrap();
    assert_eq!(batch.len(), 2);
}

#[test]
fn newer_formats_are_refused() {
    let newer = pb::Block { format: 2, ..pb::Block::default() }.encode_to_vec();
    let error = BlockReader::new(&newer, &mut SchemaInterner::new()).unwrap_err();
    assert_eq!(error, WireError::Newer(2));
}

#[test]
fn no_bytes_make_it_panic() {
    let bytes = encode(&sample());
    let seed = std::process::id();
    println!("seed {seed}");
    let mut state = u64::from(seed) | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let read = |bytes: &[u8]| {
        let mut batch = Batch::new();
        if let Ok(reader) = BlockReader::new(bytes, &mut SchemaInterner::new()) {
            let _ = reader.read_into(&mut batch);
        }
        assert!(batch.bytes() <= 400 * (bytes.len() + 1));
        json(&batch);
    };
    for cut in 0..bytes.len().min(900) {
        read(&bytes[..cut]);
    }
    for _ in 0..3000 {
        let mut bytes = bytes[..900].to_vec();
        for _ in 0..=random() % 4 {
            let at = random() as usize % bytes.len();
            bytes[at] = random() as u8;
        }
        read(&bytes);
    }
}

#[test]
fn a_block_goes_back_to_a_mark_as_if_nothing_had_been_written_since() {
    let batch = sample();
    let (first, second) = (batch.get(0).unwrap(), batch.get(1).unwrap());
    let full = TelemetryLevel::Full;
    let mut plain = BlockBuilder::new();
    plain.push(first, full, &Unchanged);
    plain.push(second, full, &Unchanged);
    let mut marked = BlockBuilder::new();
    let mark = marked.mark();
    marked.push(second, full, &Unchanged);
    marked.reset_to(mark);
    assert!(marked.is_empty());
    marked.push(first, full, &Unchanged);
    let mark = marked.mark();
    marked.push(second, full, &Unchanged);
    marked.reset_to(mark);
    assert_eq!(marked.events(), 1);
    marked.push(second, full, &Unchanged);
    assert_eq!(marked.finish(), plain.finish());
}

#[test]
fn a_block_says_by_what_it_was_judged_and_older_ones_say_nothing() {
    let judged = Judged { rules: u64::MAX - 5, in_force: Some(TelemetryLevel::Security) };
    let mut block = BlockBuilder::new();
    block.set_judged(judged);
    let batch = sample();
    batch.iter().for_each(|e| block.push(e, TelemetryLevel::Full, &Unchanged));
    let bytes = block.finish();
    let reader = BlockReader::new(&bytes, &mut SchemaInterner::new()).unwrap();
    assert_eq!((reader.judged(), reader.events()), (judged, batch.len()));
    // as any other reader of protobuf has it
    let message = pb::Block::decode(&bytes[..]).unwrap();
    assert_eq!((message.rules, message.in_force), (u64::MAX - 5, 1));
    let golden = include_bytes!("../../golden/block-v1.bin");
    assert_eq!(BlockReader::new(golden, &mut SchemaInterner::new()).unwrap().judged(), Judged::default());
}

#[test]
fn a_mark_on_an_extended_item_is_read_back_and_copied() {
    let schema = Schema::new(SchemaParts::default());
    let mut batch = Batch::new();
    let mut event = batch.begin(&schema, Head::default());
    event.value(NO_NAME, Format::Default, ValueRef::U32(1));
    event.ext(ExtKey::Sid, ValueRef::Sid(&[1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0]));
    event.ext(ExtKey::TsId, ValueRef::U32(2));
    event.finish();
    let mut block = BlockBuilder::new();
    let changes = Scripted(vec![(Place::Ext(0), Some("<sid#5>"))]);
    block.push(batch.get(0).unwrap(), TelemetryLevel::Full, &changes);
    let bytes = block.finish();
    let (mut read, mut copy) = (Batch::new(), Batch::new());
    BlockReader::new(&bytes, &mut SchemaInterner::new()).unwrap().read_into(&mut read).unwrap();
    copy.push_copy(read.get(0).unwrap());
    for batch in [read, copy] {
        let event = batch.get(0).unwrap();
        let marks: Vec<u16> = event.fields().chain(event.ext().fields()).map(|f| f.scrub).collect();
        assert_eq!(marks, [0, 9, 0]);
    }
}
