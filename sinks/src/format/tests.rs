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

#[cfg(feature = "parquet")]
#[test]
fn parquet_reads_back_row_by_row() {
    use ::parquet::file::reader::{FileReader as _, SerializedFileReader};
    for compression in ALL {
        let encoded = encode(Format::Parquet, compression, 300);
        assert_eq!(encoded, encode(Format::Parquet, compression, 300));
        assert_eq!(encoded.canonical, encode(Format::Jsonl, compression, 300).canonical);
        let reader = SerializedFileReader::new(encoded.bytes).unwrap();
        let rows: Vec<serde_json::Value> =
            reader.get_row_iter(None).unwrap().map(|r| row_json(&r.unwrap())).collect();
        assert_eq!(rows.len(), 300);
        for ((seq, event), row) in batch(1, 300).iter().zip(&rows) {
            let mut line = Vec::new();
            json::write_event(&mut line, event, Some(seq));
            let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
            for (column, member) in [
                ("seq", "seq"),
                ("provider", "provider"),
                ("guid", "guid"),
                ("event", "event"),
                ("id", "id"),
                ("pid", "pid"),
                ("activity", "activity"),
                ("telemetry_level", "telemetryLevel"),
                ("decoder", "decoder"),
            ] {
                assert_eq!(row[column], line[member], "{column}");
            }
            let json = |column: &str| -> serde_json::Value {
                row[column].as_str().map_or(serde_json::Value::Null, |t| serde_json::from_str(t).unwrap())
            };
            assert_eq!((json("fields"), json("ext")), (line["fields"].clone(), line["ext"].clone()));
            assert_eq!(row["raw"].is_null(), line["raw"].is_null());
        }
    }
}

#[cfg(feature = "parquet")]
#[test]
fn row_groups_follow_one_another() {
    use ::parquet::file::reader::{FileReader as _, SerializedFileReader};
    let mut rows = parquet::Rows::with_groups(Vec::new(), Compression::Zstd, 100).unwrap();
    for (seq, event) in batch(1, 250).iter() {
        rows.push(seq, event).unwrap();
    }
    let reader = SerializedFileReader::new(bytes::Bytes::from(rows.finish().unwrap())).unwrap();
    assert_eq!(reader.metadata().num_row_groups(), 3);
    let seqs: Vec<_> =
        reader.get_row_iter(None).unwrap().map(|r| row_json(&r.unwrap())["seq"].clone()).collect();
    assert_eq!(seqs, (1..=250_u64).map(serde_json::Value::from).collect::<Vec<_>>());
}

#[cfg(feature = "parquet")]
fn row_json(row: &::parquet::record::Row) -> serde_json::Value {
    use ::parquet::record::Field;
    let value = |field: &Field| match field {
        Field::Null => serde_json::Value::Null,
        Field::ULong(n) => (*n).into(),
        Field::UInt(n) => (*n).into(),
        Field::UShort(n) => (*n).into(),
        Field::UByte(n) => (*n).into(),
        Field::Str(s) => s.clone().into(),
        Field::Bytes(b) => std::str::from_utf8(b.data()).map_or("binary", |s| s).into(),
        other => other.to_string().into(),
    };
    row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect()
}

/// `tests/parquet/install.sh` prints the Python to put into `TIDEGATE_PARQUET_PYTHON`. With
/// `TIDEGATE_PARQUET_ROWS=70000` files have several row groups.
#[cfg(feature = "parquet")]
#[test]
fn readers_we_did_not_write_read_every_row_of_parquet() {
    let Some(python) = std::env::var_os("TIDEGATE_PARQUET_PYTHON") else {
        eprintln!("SKIPPED: TIDEGATE_PARQUET_PYTHON is not set");
        assert!(std::env::var_os("CI").is_none(), "never skipped in CI");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/parquet/check.py");
    let rows = std::env::var("TIDEGATE_PARQUET_ROWS").map_or(1000, |n| n.parse().unwrap());
    for compression in ALL {
        let (parquet, lines) = (dir.path().join("e.parquet"), dir.path().join("e.jsonl"));
        std::fs::write(&parquet, encode(Format::Parquet, compression, rows).bytes).unwrap();
        std::fs::write(&lines, encode(Format::Jsonl, Compression::None, rows).bytes).unwrap();
        let done =
            std::process::Command::new(&python).arg(script).arg(&parquet).arg(&lines).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(said.lines().count(), 2, "{said}");
    }
}
