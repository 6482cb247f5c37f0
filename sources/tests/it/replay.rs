//! Replay: pace, window, loop, and what goes wrong.

use std::time::Duration;

use tempfile::TempDir;
use tidegate_proto::capture::Compression;
use tidegate_sources::contract::{lines, run};
use tidegate_sources::etl::EtlConfig;
use tidegate_sources::jsonl::JsonlConfig;
use tidegate_sources::pace::Pace;
use tidegate_sources::{Item, Replay, SourceConfig, SourceEnd, SourceError, intake};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::conformance::{capture, synthetic, trace};

fn line(seconds: u32) -> String {
    format!("{{\"time\":{},\"n\":{seconds}}}\n", 1_760_000_000 + seconds)
}

async fn run_config(config: SourceConfig) -> (Vec<Item>, SourceEnd) {
    run(config.build("r", None).unwrap()).await
}

fn events(items: &[Item]) -> usize {
    items.iter().map(|i| i.events.len()).sum()
}

#[tokio::test(start_paused = true)]
async fn events_come_when_they_are_due() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.jsonl");
    std::fs::write(&path, [0, 10, 10, 40].map(line).concat()).unwrap();
    for (speed, factor) in [(Pace::Times(1.0), 1), (Pace::Times(10.0), 10)] {
        let config = JsonlConfig { speed, ..JsonlConfig::new(vec![path.clone(), path.clone()]) };
        let mut intake = intake(8);
        let start = Instant::now();
        let source = SourceConfig::Jsonl(config).build("r", None).unwrap();
        let ended = tokio::spawn(source.run(intake.outlet("r"), CancellationToken::new()));
        intake = intake.seal();
        let mut came = Vec::new();
        while let Some(item) = intake.next().await {
            came.push((start.elapsed().as_millis() / 100 * factor, item.events.len()));
        }
        // the second file begins at once
        let want = [(0, 1), (100, 2), (400, 1), (400, 1), (500, 2), (800, 1)];
        assert_eq!(came, want, "{speed}");
        ended.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_stops_in_the_middle_of_a_long_wait() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.jsonl");
    std::fs::write(&path, [0, 1_000_000].map(line).concat()).unwrap();
    let config = JsonlConfig { speed: Pace::Times(1.0), ..JsonlConfig::new(vec![path]) };
    let source = SourceConfig::Jsonl(config).build("r", None).unwrap();
    let mut intake = intake(8);
    let stop = CancellationToken::new();
    let ended = tokio::spawn(source.run(intake.outlet("r"), stop.clone()));
    assert_eq!(intake.next().await.unwrap().events.len(), 1);
    let start = Instant::now();
    stop.cancel();
    assert!(ended.await.unwrap().unwrap().stopped);
    assert!(start.elapsed() <= Duration::from_secs(1));
}

#[tokio::test]
async fn a_window_keeps_its_events_and_all_gaps() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.jsonl");
    let text = [line(0), "bad\n".to_owned(), line(10), line(20), line(30)].concat();
    std::fs::write(&path, text).unwrap();
    let at = |s: u32| {
        let ns = i64::from(1_760_000_000 + s) * 1_000_000_000;
        Some(tidegate_proto::time::format_rfc3339(ns).parse().unwrap())
    };
    let replay = Replay { from: at(10), to: at(30), ..Replay::default() };
    let (items, end) = run_config(SourceConfig::of_file(&path, replay).unwrap()).await;
    assert_eq!(events(&items), 3);
    assert_eq!(end.problem_count, 1);
    assert!(end.problems[0].contains("line 2: expected value"), "{:?}", end.problems);

    let whole = trace("perfview/primitive-types.etl");
    let (items, _) = run_config(SourceConfig::of_file(&whole, Replay::default()).unwrap()).await;
    let times: Vec<i64> = items.iter().flat_map(|i| i.events.iter().map(|e| e.head().time_ns)).collect();
    let (from, to) = (times[times.len() / 4], times[times.len() / 2]);
    let want = times.iter().filter(|t| (from..to).contains(*t)).count();
    let time = |ns| Some(tidegate_proto::time::format_rfc3339(ns).parse().unwrap());
    let replay = Replay { from: time(from), to: time(to), ..Replay::default() };
    let (items, _) = run_config(SourceConfig::of_file(&whole, replay).unwrap()).await;
    assert!(want > 0 && want < times.len());
    assert_eq!(events(&items), want);
}

#[tokio::test]
async fn a_loop_goes_on_in_its_round_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.jsonl");
    std::fs::write(&path, [0, 1, 2].map(line).concat()).unwrap();
    let config = JsonlConfig { repeat: true, ..JsonlConfig::new(vec![path]) };
    let mut position: Option<Vec<u8>> = None;
    let mut positions = Vec::new();
    for _ in 0..3 {
        let source = SourceConfig::Jsonl(config.clone()).build("r", position.as_deref()).unwrap();
        let mut intake = intake(1);
        let stop = CancellationToken::new();
        let ended = tokio::spawn(source.run(intake.outlet("r"), stop.clone()));
        let item = intake.next().await.unwrap();
        assert_eq!(lines(&item).len(), 3);
        stop.cancel();
        drop(intake);
        assert!(ended.await.unwrap().unwrap().stopped);
        positions.push(String::from_utf8(item.position.clone()).unwrap());
        position = Some(item.position);
    }
    // the position is behind the round's last event: the next run is a new round
    assert!(positions[2].contains("\"round\":2"), "{positions:?}");
}

#[tokio::test]
async fn a_trace_replayed_twice_is_the_same() {
    let config = || SourceConfig::Etl(EtlConfig::new(vec![trace("tx/HTTP_Server.etl")]));
    let (first, _) = run_config(config()).await;
    let (second, _) = run_config(config()).await;
    assert!(events(&first) > 100);
    let all = |items: &[Item]| items.iter().flat_map(lines).collect::<Vec<_>>();
    assert!(all(&first) == all(&second));
}

#[tokio::test]
async fn what_cannot_be_read_is_one_clear_error() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    async fn error(config: SourceConfig) -> SourceError {
        let source = config.build("r", None).unwrap();
        let mut intake = intake(4);
        let ended = tokio::spawn(source.run(intake.outlet("r"), CancellationToken::new()));
        intake = intake.seal();
        while intake.next().await.is_some() {}
        ended.await.unwrap().unwrap_err()
    }
    let text = error(SourceConfig::Etl(EtlConfig::new(vec![path("a.etl", b"MZ")]))).await.to_string();
    assert!(text.contains("a.etl") && text.contains("cut inside its header"), "{text}");
    let missing = dir.path().join("none.etl");
    assert!(matches!(error(SourceConfig::Etl(EtlConfig::new(vec![missing]))).await, SourceError::Io { .. }));
    // what stands before the failure is delivered
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    std::io::Write::write_all(&mut gz, (0..100).map(line).collect::<String>().as_bytes()).unwrap();
    let mut bytes = gz.finish().unwrap();
    bytes.truncate(bytes.len() / 2);
    let cut = JsonlConfig::new(vec![path("cut.gz", &bytes)]);
    let mut intake = intake(4);
    let source = SourceConfig::Jsonl(cut).build("r", None).unwrap();
    let ended = tokio::spawn(source.run(intake.outlet("r"), CancellationToken::new()));
    intake = intake.seal();
    assert!(intake.next().await.unwrap().events.len() > 10);
    assert!(matches!(ended.await.unwrap(), Err(SourceError::Io { .. })));
}

#[tokio::test]
async fn a_stored_place_in_another_file_is_refused() {
    let dir = TempDir::new().unwrap();
    let (log, cap) = (dir.path().join("a.jsonl"), dir.path().join("a.cap"));
    std::fs::write(&log, line(1)).unwrap();
    capture(&cap, Compression::Zstd, 100, 10);
    for path in [&log, &cap] {
        let config = SourceConfig::of_file(path, Replay::default()).unwrap();
        let (items, _) = run_config(config.clone()).await;
        let position = items[0].position.clone();
        let mut other = std::fs::read(path).unwrap();
        other[20] ^= 1;
        std::fs::write(path, other).unwrap();
        let source = config.build("r", Some(&position)).unwrap();
        let error = source.run(intake(1).outlet("r"), CancellationToken::new()).await.unwrap_err();
        assert!(error.to_string().contains("another file"), "{error}");
    }
}

#[tokio::test]
async fn losses_of_a_session_and_damage_are_gaps_and_problems() {
    let dir = TempDir::new().unwrap();
    let cut = dir.path().join("cut.etl");
    let mut bytes = std::fs::read(trace("perfview/gcevents.etl")).unwrap();
    bytes.truncate(bytes.len() - 1000);
    std::fs::write(&cut, bytes).unwrap();
    let (items, end) = run_config(SourceConfig::Etl(EtlConfig::new(vec![cut]))).await;
    assert!(end.problem_count > 0 && end.problems[0].contains("cut.etl"), "{end:?}");
    let gaps = items.iter().flat_map(lines).filter(|l| l.contains("\"event\":\"Gap\"")).count();
    assert_eq!(gaps as u64, end.problem_count);
}

#[test]
fn settings_are_read_the_same_on_every_system() {
    let read = |json: &str| serde_json::from_str::<SourceConfig>(json);
    let etw =
        read(r#"{"type":"etw","providers":[{"provider":"Microsoft-Windows-DNS-Client","any":1}]}"#).unwrap();
    assert_eq!(etw.check(), Ok(()));
    if cfg!(not(windows)) {
        let error = etw.build("live", None).unwrap_err().to_string();
        assert!(error.contains("\"live\"") && error.contains("needs Windows"), "{error}");
    }
    let etl =
        read(r#"{"type":"etl","paths":["a.etl"],"speed":"10x","loop":true,"from":"2026-01-01T00:00:00Z"}"#);
    let SourceConfig::Etl(etl) = etl.unwrap() else { panic!() };
    assert!(etl.repeat && etl.speed == Pace::Times(10.0));
    let error = read(r#"{"type":"etl","paths":["a.etl"],"sped":2}"#).unwrap_err().to_string();
    assert!(error.contains("unknown field `sped`"), "{error}");
    assert!(read(r#"{"type":"synthetic"}"#).unwrap().check().is_ok());
    let follow = read(r#"{"type":"jsonl","paths":["a","b"],"follow":true}"#).unwrap();
    assert!(follow.check().unwrap_err().contains("one path"));
    assert_eq!(SourceConfig::Synthetic(synthetic(1)).kind(), "synthetic");
}
