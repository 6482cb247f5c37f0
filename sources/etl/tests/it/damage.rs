//! Cut and altered traces: never a panic, the good part delivered, the bad part named.

use crate::build;
use crate::data::{Rng, trace, traces};
use tidegate_etl::{EtlError, EtlFile, EventReader, PayloadDecoder, Reason, RecordReader};
use tidegate_proto::batch::Batch;

/// Reads all there is both ways; returns the records in time order.
fn read(bytes: &[u8]) -> Option<u64> {
    let file = EtlFile::open(bytes).ok()?;
    let walk = file.walk(|_| ()).unwrap();
    let mut reader = RecordReader::new(&file);
    while reader.next_record().unwrap().is_some() {}
    assert_eq!(reader.records(), walk.records);
    assert_eq!(reader.problem_count(), walk.problem_count);
    Some(walk.records)
}

/// Reads all events; each record is one, and each problem that is told of is a gap.
fn decode(bytes: &[u8]) {
    let Ok(file) = EtlFile::open(bytes) else { return };
    let records = file.walk(|_| ()).unwrap().records;
    let mut reader = EventReader::new(&file, PayloadDecoder::new("damaged.etl")).unwrap();
    let mut batch = Batch::new();
    let mut events = 0;
    loop {
        let more = reader.next_batch(&mut batch, 500).unwrap();
        events += batch.len() as u64;
        batch.clear();
        if !more {
            break;
        }
    }
    assert_eq!(reader.records(), records);
    assert_eq!(reader.events(), events);
    assert!(events >= records + reader.problem_count().min(1000));
}

#[test]
fn a_trace_cut_anywhere_gives_its_good_part() {
    for (name, bytes) in traces() {
        let whole = read(&bytes).unwrap();
        // Some 400 lengths for the small ones, 40 for the others.
        let step = bytes.len() / if bytes.len() < 1_000_000 { 400 } else { 40 } + 1;
        let mut last = 0;
        for len in (0..bytes.len()).step_by(step) {
            let cut = bytes.get(..len).unwrap();
            match EtlFile::open(cut) {
                Ok(file) => {
                    let n = file.walk(|_| ()).unwrap().records;
                    assert!(n >= last && n <= whole, "{name} cut at {len}: {n} records, {last} before");
                    last = n;
                    let boundary = file.problems().is_empty();
                    let at_end = file.problems().iter().all(|p| matches!(p.reason, Reason::Truncated { .. }));
                    assert!(boundary || at_end, "{name} cut at {len}: {:?}", file.problems());
                }
                Err(EtlError::Empty | EtlError::TooShort { .. }) => assert_eq!(last, 0, "{name} {len}"),
                Err(e) => panic!("{name} cut at {len}: {e}"),
            }
        }
    }
}

#[test]
fn a_cut_inside_a_buffer_is_reported_where_it_is() {
    let bytes = trace("tx/HTTP_Server");
    let file = EtlFile::open(&bytes[..100_000]).unwrap();
    let buffer = u64::from(file.header().buffer_size);
    let [problem] = file.problems() else { panic!("{:?}", file.problems()) };
    assert_eq!(problem.offset, 100_000 / buffer * buffer);
    assert_eq!(problem.reason, Reason::Truncated { wanted: buffer, have: 100_000 % buffer });
    assert!(problem.to_string().starts_with("offset 98304: the file ends inside a buffer of 8192 bytes"));
}

#[test]
fn a_damaged_buffer_does_not_hide_the_next() {
    let bytes = trace("tx/HTTP_Server");
    let whole = read(&bytes).unwrap();
    let file = EtlFile::open(&bytes[..]).unwrap();
    let buffer = file.header().buffer_size as usize;
    for (at, value, lost_at_most) in [
        (3 * buffer, 0_u32, 120),              // no size
        (3 * buffer, 0xFFFF_FFFF, 120),        // a size past the end
        (3 * buffer, 80, 120),                 // a size into the middle of the buffer
        (3 * buffer + 0x30, 0xFFFF_FFFF, 120), // more used than there is
        (3 * buffer + 72, 0x0000_0000, 120),   // no first record
        (3 * buffer + 72, 0xC013_FFFF, 120),   // a first record longer than the buffer
    ] {
        let mut bad = bytes.clone();
        bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let file = EtlFile::open(&bad[..]).unwrap();
        let walk = file.walk(|_| ()).unwrap();
        assert!(
            walk.records < whole && walk.records + lost_at_most >= whole,
            "{at:#x} {value:#x} {}",
            walk.records
        );
        assert!(walk.problem_count > 0, "{at:#x} {value:#x}");
        let first = &walk.problems[0];
        assert!(first.offset >= 3 * buffer as u64 && first.offset < 4 * buffer as u64, "{first}");
    }
}

#[test]
fn time_that_runs_backwards_loses_no_event() {
    let at = |n: u64| build::START_TICKS.wrapping_add(n);
    let backwards: Vec<_> = (0..50).rev().map(|n| build::system(2, 3, 99, at(n), &[n as u8])).collect();
    // Before the session, at the end of time, and one of another CPU between.
    let odd = [0, u64::MAX, at(7)].map(|t| build::system(2, 3, 99, t, &[]));
    let bytes = build::Trace::new().buffer(0, 1, 0, &backwards).buffer(1, 2, 0, &odd).bytes();
    assert_eq!(read(&bytes), Some(54));
    decode(&bytes);
}

#[test]
fn structs_deeper_than_any_event_needs_stay_raw() {
    let deep = |n: usize| {
        let fields: Vec<_> =
            (0..n).map(|_| build::field("s", &[0x98, 1])).chain([build::field("n", &[4])]).collect();
        let meta = build::metadata(&[0], "E", &fields);
        let bytes = build::Trace::new()
            .buffer(
                0,
                1,
                0,
                &[build::event(build::Event::default(), build::START_TICKS, &[(11, meta)], &[5])],
            )
            .bytes();
        let file = EtlFile::open(&bytes[..]).unwrap();
        let mut reader = EventReader::new(&file, PayloadDecoder::new("deep.etl")).unwrap();
        let mut batch = Batch::new();
        reader.next_batch(&mut batch, 10).unwrap();
        batch.get(1).unwrap().schema().decoder
    };
    use tidegate_proto::schema::Decoder;
    assert_eq!((deep(3), deep(1000)), (Decoder::TraceLogging, Decoder::None));
}

/// Cut, bent and turned-back traces say which file, where and why.
#[test]
fn a_damaged_part_becomes_a_gap_with_file_place_and_reason() {
    let mut bytes = trace("tx/HTTP_Server");
    let step = EtlFile::open(&bytes[..]).unwrap().header().buffer_size as usize;
    bytes[3 * step + 72..3 * step + 76].copy_from_slice(&[0xFF, 0xFF, 0x13, 0xC0]);
    bytes.truncate(10 * step + 100);
    let file = EtlFile::open(&bytes[..]).unwrap();
    let mut reader = EventReader::new(&file, PayloadDecoder::new("bent.etl")).unwrap();
    let mut batch = Batch::new();
    while reader.next_batch(&mut batch, usize::MAX).unwrap() {}
    let mut gaps = Vec::new();
    for event in batch.iter().filter(|e| e.schema().event_name == "Gap") {
        let mut text = Vec::new();
        tidegate_proto::json::write_fields(&mut text, event.fields());
        gaps.push(serde_json::from_slice::<serde_json::Value>(&text).unwrap());
    }
    let found = |offset: usize, why: &str| {
        gaps.iter().any(|g| {
            g["origin"] == "bent.etl"
                && g["reason"] == "damaged"
                && g["offset"] == offset
                && g["detail"].as_str().is_some_and(|d| d.contains(why))
        })
    };
    assert!(found(3 * step + 72, "impossible record size 65535"), "{gaps:?}");
    assert!(found(10 * step, "the file ends inside a buffer"), "{gaps:?}");
    assert!(batch.len() > 100);
}

#[test]
fn flipped_bits_never_panic() {
    let mut rng = Rng(0xE71_0001);
    println!("seed {:#x}", rng.0);
    let mut opened = 0;
    for (_, bytes) in traces().into_iter().filter(|(_, b)| b.len() < 400_000) {
        for _ in 0..60 {
            let mut bad = bytes.clone();
            for _ in 0..=rng.below(20) {
                // Half of the damage goes where headers are dense.
                let room = if rng.below(2) == 0 { bad.len().min(1024) } else { bad.len() };
                let at = rng.below(room);
                bad[at] = if rng.below(2) == 0 { bad[at] ^ 1 << rng.below(8) } else { rng.next() as u8 };
            }
            opened += u32::from(read(&bad).is_some());
            decode(&bad);
        }
    }
    assert!(opened > 300, "{opened}");
}
