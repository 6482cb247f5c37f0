//! What must hold for any input: no panic, bounded memory, and views that agree. Shared by the
//! fuzz target and the test that replays its corpus.

use tidegate_etl::{
    EtlFile, EventReader, Ext, ExtItems, Identity, PayloadDecoder, Record, RecordKind, RecordReader,
};
use tidegate_proto::batch::Batch;
use tidegate_proto::{json, own};

/// Values that one payload byte may become: an item of a struct in an array is three at most.
const NODES_PER_BYTE: usize = 8;

/// The first byte chooses what the rest is taken for.
pub fn check(input: &[u8]) {
    let Some((mode, data)) = input.split_first() else { return };
    match mode % 6 {
        0 => trace(data),
        1 => trace(&wrapped(data)),
        2 => {
            let _ = PayloadDecoder::new("fuzz").add_manifest(data);
        }
        3 => schema_and_payload(data, |decoder, schema| {
            decoder.add_event_map([7; 16], schema);
            decoder.add_event_info(schema);
            None
        }),
        4 => schema_and_payload(data, |_, schema| Some(schema.to_vec())),
        _ => schema_and_payload(data, |decoder, schema| {
            let _ = decoder.add_manifest(schema);
            None
        }),
    }
}

/// A trace with a good header, and the input as the records of its second buffer.
fn wrapped(data: &[u8]) -> Vec<u8> {
    let seed = include_bytes!("../data/etl/traces/s4/CldFlt2.etl");
    let mut bytes = seed.to_vec();
    let start = bytes.len();
    bytes.extend_from_slice(&seed[..72]);
    let room = bytes.len() - 72;
    bytes.extend_from_slice(&data[..data.len().min(room - 72)]);
    let used = ((bytes.len() - start) as u32).to_le_bytes();
    bytes.resize(2 * start, 0xFF);
    for at in [4, 0x30] {
        bytes[start + at..start + at + 4].copy_from_slice(&used);
    }
    bytes[start + 0x34..start + 0x38].fill(0);
    bytes
}

fn trace(data: &[u8]) {
    let Ok(file) = EtlFile::open(data) else { return };
    let walk = file.walk(|_| ()).expect("memory does not fail");
    let summary = file.summary().expect("memory does not fail");
    assert_eq!(walk.records, summary.records);
    assert_eq!(walk.problem_count, summary.problem_count);
    let mut records = RecordReader::new(&file);
    let mut last = None;
    while let Some(record) = records.next_record().expect("memory does not fail") {
        assert!(record.time.is_some());
        last = record.time;
    }
    let _ = last;
    assert_eq!(records.records(), walk.records);

    let mut reader = EventReader::new(&file, PayloadDecoder::new("fuzz")).expect("memory does not fail");
    let mut batch = Batch::new();
    let (mut events, mut gaps, mut more) = (0, 0, true);
    let mut text = Vec::new();
    while more {
        batch.clear();
        more = reader.next_batch(&mut batch, 64).expect("memory does not fail");
        for event in batch.iter() {
            events += 1;
            let own = event.schema().provider_guid == own::PROVIDER_GUID;
            gaps += u64::from(own && event.head().id == own::GAP_ID);
            text.clear();
            json::write_event(&mut text, event, None);
        }
    }
    assert_eq!(reader.records(), walk.records);
    assert_eq!(reader.events(), events);
    assert!(events - gaps <= walk.records && events >= walk.records);

    // A second reader goes on behind any event.
    let mut again = EventReader::new(&file, PayloadDecoder::new("fuzz")).expect("memory does not fail");
    assert_eq!(again.skip(events / 2).expect("memory does not fail"), events / 2);
    let mut rest = 0;
    more = true;
    while more {
        batch.clear();
        more = again.next_batch(&mut batch, 1000).expect("memory does not fail");
        rest += batch.len() as u64;
    }
    assert_eq!(rest, events - events / 2);
}

/// `length of the schema`, schema, payload.
fn schema_and_payload(data: &[u8], give: impl FnOnce(&mut PayloadDecoder, &[u8]) -> Option<Vec<u8>>) {
    let Some((len, rest)) = data.split_first_chunk::<2>() else { return };
    let Some((schema, payload)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len))) else {
        return;
    };
    let mut decoder = PayloadDecoder::new("fuzz");
    let in_event = give(&mut decoder, schema);
    let items: Vec<Ext<'_>> = in_event.iter().map(|m| Ext { kind: 11, data: m }).collect();
    // What a TRACE_EVENT_INFO is about; manifests of the corpus describe the other one.
    let info = schema.first_chunk::<35>().filter(|_| !schema.starts_with(b"<"));
    let provider = info.and_then(|i| i.first_chunk().copied()).unwrap_or([0x11; 16]);
    let [id0, id1, version] = info.map_or([1, 0, 0], |i| [i[32], i[33], i[34]]);
    let record = Record {
        kind: RecordKind::Event64,
        identity: Identity::Event,
        provider,
        id: u16::from_le_bytes([id0, id1]),
        version: u16::from(version),
        channel: 0,
        level: 0,
        opcode: 0,
        task: 0,
        keyword: 0,
        activity: [0; 16],
        time: Some(1),
        pid: 1,
        tid: 1,
        cpu: 0,
        pointer_size: if payload.len() % 2 == 0 { 8 } else { 4 },
        processor_time: 0,
        instance: None,
        parent_class: [0; 16],
        ext: ExtItems::from_list(&items),
        data: payload,
    };
    let mut batch = Batch::new();
    decoder.decode(&record, 1, &mut batch);
    decoder.decode(&record, 2, &mut batch);
    assert_eq!(batch.len(), 2);
    assert!(batch.bytes() <= 2 * (1 << 20) + payload.len() * NODES_PER_BYTE * 32, "{}", batch.bytes());
    let mut text = Vec::new();
    for event in batch.iter() {
        json::write_event(&mut text, event, None);
    }
}
