//! Files are known by their content.

use std::io::Write as _;

use tempfile::TempDir;
use tidegate_proto::capture::Compression;
use tidegate_sources::{Kind, Replay, SourceConfig, SourceError, detect};

use crate::conformance::{capture, trace};

#[test]
fn a_file_is_known_by_its_content_whatever_it_is_called() {
    let dir = TempDir::new().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let etl = file("events.jsonl", &std::fs::read(trace("s4/CldFlt0.etl")).unwrap());
    assert_eq!(detect(&etl).unwrap(), Kind::Etl);
    for name in ["sawbuck/image_data_32_v0.etl", "tx/HTTP_Server.etl", "perfview/smallEtlFile.etl"] {
        assert_eq!(detect(&trace(name)).unwrap(), Kind::Etl, "{name}");
    }
    assert_eq!(detect(&file("x.etl", b"\xef\xbb\xbf \n{\"a\":1}\n")).unwrap(), Kind::Jsonl);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(b"{\"a\":1}\n").unwrap();
    assert_eq!(detect(&file("y", &gz.finish().unwrap())).unwrap(), Kind::Jsonl);
    let packed = zstd::bulk::compress(b"{\"a\":1}\n", 1).unwrap();
    assert_eq!(detect(&file("z.gz", &packed)).unwrap(), Kind::Jsonl);
    let cap = dir.path().join("c.etl");
    capture(&cap, Compression::None, 3, 3);
    assert_eq!(detect(&cap).unwrap(), Kind::Capture);
    assert_eq!(SourceConfig::of_file(&cap, Replay::default()).unwrap().kind(), "capture");
}

#[test]
fn what_is_none_of_them_says_so() {
    let dir = TempDir::new().unwrap();
    let why = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        detect(&path).unwrap_err().to_string()
    };
    assert!(why("a", b"").ends_with("the file is empty (0 bytes)"));
    assert!(why("b", b"MZ\x90\0").contains("neither"));
    assert!(why("c", b"\xff\xfe{\0").contains("UTF-16"));
    let packed = zstd::bulk::compress(&std::fs::read(trace("s4/CldFlt0.etl")).unwrap(), 1).unwrap();
    assert!(why("d", &packed).contains("decompress it first"));
    assert!(why("e", &packed[..3]).contains("neither"));
    assert!(why("f", b"\x1f\x8bgarbage").contains("damaged compressed file"));
    assert!(matches!(detect(&dir.path().join("none")), Err(SourceError::Io { .. })));
}
