//! The contract, kept by every source that can run everywhere.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tidegate_proto::batch::Batch;
use tidegate_proto::capture::{CaptureWriter, Compression};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::wire::{BlockBuilder, Unchanged};
use tidegate_sources::capture::CaptureConfig;
use tidegate_sources::contract;
use tidegate_sources::etl::EtlConfig;
use tidegate_sources::jsonl::JsonlConfig;
use tidegate_sources::pace::Pace;
use tidegate_sources::synthetic::{Maker, SyntheticConfig};
use tidegate_sources::{SourceConfig, intake};
use tokio_util::sync::CancellationToken;

pub fn trace(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/etl/traces").join(name)
}

pub fn synthetic(events: u64) -> SyntheticConfig {
    SyntheticConfig {
        events: Some(events),
        start: Some("2026-01-01T00:00:00Z".parse().unwrap()),
        ..SyntheticConfig::default()
    }
}

/// Lines of which some are bad, in runs, and some are blank.
pub fn json_lines(lines: usize) -> String {
    let mut text = String::from("\u{feff}");
    for n in 0..lines {
        match n % 100 {
            50..53 => text.push_str("{\"cut\": \n"),
            70 => text.push('\n'),
            71 => text.push_str("[1,2]\r\n"),
            _ => {
                let time = 1_760_000_000_000u64 + n as u64 * 10;
                writeln!(
                    text,
                    "{{\"time\":{time},\"event\":\"E{}\",\"n\":{n},\"deep\":{{\"list\":[1,{n}]}}}}",
                    n % 7
                )
                .unwrap();
            }
        }
    }
    // no line end, and bad
    text.push_str("{\"last\"");
    text
}

/// A capture of `events` events in blocks of `each`.
pub fn capture(path: &Path, compression: Compression, events: u64, each: usize) {
    let mut writer = CaptureWriter::new(std::fs::File::create(path).unwrap(), compression).unwrap();
    let mut maker = Maker::new(&synthetic(events), None, 0);
    let mut more = true;
    while more {
        let mut batch = Batch::new();
        more = maker.fill(&mut batch, each);
        let mut block = BlockBuilder::new();
        batch.iter().for_each(|e| block.push(e, TelemetryLevel::Full, &Unchanged));
        writer.push(&block.finish(), batch.len() as u64).unwrap();
    }
    writer.finish().unwrap();
}

#[tokio::test]
async fn synthetic_keeps_the_contract() {
    contract::all(&|position| Box::new(synthetic(3500).build("s", position).unwrap())).await;
}

#[tokio::test(start_paused = true)]
async fn synthetic_with_a_rate_keeps_the_contract() {
    let config = SyntheticConfig { rate: Some(500.0), ..synthetic(60) };
    contract::all(&|position| Box::new(config.clone().build("s", position).unwrap())).await;
}

#[tokio::test]
async fn jsonl_keeps_the_contract() {
    let dir = TempDir::new().unwrap();
    let plain = dir.path().join("a.jsonl");
    let gzip = dir.path().join("b.gz");
    std::fs::write(&plain, json_lines(2500)).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(json_lines(1200).as_bytes()).unwrap();
    std::fs::write(&gzip, gz.finish().unwrap()).unwrap();
    let zst = dir.path().join("c.zst");
    std::fs::write(&zst, zstd::bulk::compress(json_lines(300).as_bytes(), 1).unwrap()).unwrap();
    let config = JsonlConfig::new(vec![plain, gzip, zst]);
    contract::all(&|position| Box::new(config.clone().build("j", position).unwrap())).await;
}

#[tokio::test(start_paused = true)]
async fn a_paced_replay_keeps_the_contract() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.jsonl");
    std::fs::write(&path, json_lines(120)).unwrap();
    let config = JsonlConfig { speed: Pace::Times(2.0), ..JsonlConfig::new(vec![path]) };
    contract::all(&|position| Box::new(config.clone().build("j", position).unwrap())).await;
}

#[tokio::test]
async fn capture_keeps_the_contract() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (dir.path().join("a.cap"), dir.path().join("b.cap"));
    // blocks larger and smaller than a batch
    capture(&a, Compression::Zstd, 4000, 2700);
    capture(&b, Compression::Gzip, 900, 70);
    // a damaged frame in the second, and its end cut off
    let mut bytes = std::fs::read(&b).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    bytes.truncate(bytes.len() - 100);
    std::fs::write(&b, bytes).unwrap();
    let config = CaptureConfig::new(vec![a, b]);
    contract::all(&|position| Box::new(config.clone().build("c", position).unwrap())).await;
}

#[tokio::test]
async fn etl_keeps_the_contract() {
    let dir = TempDir::new().unwrap();
    let cut = dir.path().join("cut.etl");
    let mut bytes = std::fs::read(trace("tx/HTTP_Server.etl")).unwrap();
    bytes.truncate(bytes.len() * 2 / 3 + 11);
    std::fs::write(&cut, bytes).unwrap();
    let config = EtlConfig::new(vec![trace("perfview/gcevents.etl"), cut]);
    contract::all(&|position| Box::new(config.clone().build("e", position).unwrap())).await;
}

#[tokio::test(start_paused = true)]
async fn a_paced_trace_keeps_the_contract() {
    let config =
        EtlConfig { speed: Pace::Times(50.0), ..EtlConfig::new(vec![trace("perfview/primitive-types.etl")]) };
    contract::all(&|position| Box::new(config.clone().build("e", position).unwrap())).await;
}

#[tokio::test]
async fn no_bytes_make_a_source_panic() {
    let dir = TempDir::new().unwrap();
    let cap = dir.path().join("whole.cap");
    capture(&cap, Compression::None, 60, 20);
    let inputs = [json_lines(60).into_bytes(), std::fs::read(&cap).unwrap()];
    let mut seed = 0x5eed_0001_u64;
    println!("seed {seed:#x}");
    for round in 0..60 {
        let mut bytes = inputs[round % 2].clone();
        for _ in 0..8 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            // the header of a capture stays
            let at = 8 + (seed >> 16) as usize % (bytes.len() - 8);
            bytes[at] = seed as u8;
        }
        let path = dir.path().join("damaged");
        std::fs::write(&path, bytes).unwrap();
        let source = match round % 2 {
            0 => SourceConfig::Jsonl(JsonlConfig::new(vec![path])),
            _ => SourceConfig::Capture(CaptureConfig::new(vec![path])),
        };
        let source = source.build("d", None).unwrap();
        let (mut intake, stop) = (intake(8), CancellationToken::new());
        let ended = tokio::spawn(source.run(intake.outlet("d"), stop));
        intake = intake.seal();
        while intake.next().await.is_some() {}
        // a damaged block may say it is of a newer format: an error, but no panic
        let _ = ended.await.expect("the source panicked");
    }
}
