use std::io::Read as _;

use tidegate_proto::capture::CaptureReader;

use super::*;
use crate::testing::batch;

fn encode(format: Format, compression: Compression, last: u64) -> Encoded {
    let batch = batch(1, last);
    let mut encoder = Encoder::new(format, compression).unwrap();
    for (seq, event) in batch.iter() {
        encoder.push(seq, event).unwrap();
    }
    encoder.finish().unwrap()
}

fn unpacked(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match compression {
        Compression::None => out.extend_from_slice(bytes),
        Compression::Gzip => {
            flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
        }
        Compression::Zstd => out = zstd::decode_all(bytes).unwrap(),
    }
    out
}

const ALL: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

#[test]
fn json_lines_hold_every_event_and_their_digest_is_the_canonical_one() {
    for compression in ALL {
        let encoded = encode(Format::Jsonl, compression, 1000);
        let text = unpacked(compression, &encoded.bytes);
        assert_eq!(<[u8; 32]>::from(Sha256::digest(&text)), encoded.canonical);
        assert_eq!(<[u8; 32]>::from(Sha256::digest(&encoded.bytes)), encoded.sha256);
        let lines: Vec<serde_json::Value> = text
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap())
            .collect();
        assert_eq!((lines.len(), encoded.events), (1000, 1000));
        for (n, line) in lines.iter().enumerate() {
            assert_eq!(line["seq"], n as u64 + 1);
        }
    }
}

#[test]
fn the_same_events_give_the_same_bytes() {
    for compression in ALL {
        for format in [Format::Jsonl, Format::Capture] {
            // schemas of two batches are different values with other ids
            assert_eq!(encode(format, compression, 500), encode(format, compression, 500));
        }
        assert_eq!(
            encode(Format::Jsonl, compression, 500).canonical,
            encode(Format::Capture, Compression::Zstd, 500).canonical
        );
        assert_ne!(
            encode(Format::Jsonl, compression, 500).canonical,
            encode(Format::Jsonl, compression, 499).canonical
        );
    }
}

#[test]
fn a_capture_reads_back_with_every_event() {
    for compression in ALL {
        let encoded = encode(Format::Capture, compression, 200);
        let mut reader = CaptureReader::new(&encoded.bytes[..]).unwrap();
        let block = reader.next_block().unwrap().unwrap();
        let mut interner = tidegate_proto::wire::SchemaInterner::new();
        let block = tidegate_proto::wire::BlockReader::new(block, &mut interner).unwrap();
        let mut events = tidegate_proto::batch::Batch::new();
        block.read_into(&mut events).unwrap();
        let (mut got, mut expected) = (Vec::new(), Vec::new());
        for event in events.iter() {
            json::write_event(&mut got, event, None);
        }
        for (_, event) in batch(1, 200).iter() {
            json::write_event(&mut expected, event, None);
        }
        assert_eq!(String::from_utf8(got), String::from_utf8(expected));
        assert!(reader.next_block().unwrap().is_none());
    }
}

#[test]
fn gzip_tells_no_time() {
    assert_eq!(encode(Format::Jsonl, Compression::Gzip, 3).bytes[4..8], [0; 4]);
}
