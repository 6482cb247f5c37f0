//! The live path against a STAND-IN for the trace functions of Windows (tests/windows/standin,
//! which tells what a session's name means to it): start, enable, callback, losses, gaps, stop.
//! Run by tests/windows/run.sh under Wine, with the stand-in in the place of Wine's functions;
//! on a real Windows there are no such sessions, so it does not run as a part of `cargo test`.
#![cfg(windows)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tidegate_proto::guid;
use tidegate_sources::contract::{lines, run};
use tidegate_sources::etl::EtlConfig;
use tidegate_sources::etw::{EtwConfig, EtwProvider, KernelFlag};
use tidegate_sources::{DecoderChoice, SourceConfig, SourceEnd, SourceError, intake};
use tokio_util::sync::CancellationToken;

const TRACELOGGING: [&str; 4] = [
    "perfview/primitive-types",
    "etlparser/lxcore_kernel",
    "s4/SIH.20230422.034724.362.1",
    "s4/waasmedic.20251005_113019_195",
];
/// Provider group of Windows' telemetry.
const TELEMETRY: &str = "windows-telemetry";

fn path(trace: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/etl/traces").join(format!("{trace}.etl"))
}

/// An event as text, its time cut to the 100 ns that a live session tells it in.
fn cut(line: &str) -> String {
    let mut event: Value = serde_json::from_str(line).unwrap();
    let time = event["time"].as_str().unwrap();
    let (seconds, fraction) = time.trim_end_matches('Z').split_once('.').unwrap_or((time, ""));
    event["time"] = format!("{seconds}.{:0<7.7}", fraction).into();
    event.to_string()
}

/// Events of a recorded trace that `wanted` takes by text, and their providers.
async fn recorded(trace: &str, wanted: fn(&str) -> bool) -> (Vec<String>, Vec<String>) {
    recorded_of(trace, None, wanted).await
}

/// The same of one provider group.
async fn recorded_of(
    trace: &str,
    group: Option<&str>,
    wanted: fn(&str) -> bool,
) -> (Vec<String>, Vec<String>) {
    let group = group.and_then(guid::parse);
    let config = EtlConfig::new(vec![path(trace)]);
    let (items, _) = run(SourceConfig::Etl(config).build("file", None).unwrap()).await;
    let mut providers = BTreeSet::new();
    let mut events = Vec::new();
    for item in &items {
        for (event, line) in item.events.iter().zip(lines(item)) {
            let schema = event.schema();
            if wanted(&line) && (group.is_none() || schema.group_guid == group) {
                providers.insert(guid::format(&schema.provider_guid));
                events.push(cut(&line));
            }
        }
    }
    (events, providers.into_iter().collect())
}

fn tracelogging(line: &str) -> bool {
    line.contains(r#""decoder":"tracelogging""#)
}

/// What came of a live session.
struct Heard {
    events: Vec<String>,
    gaps: Vec<String>,
    end: Result<SourceEnd, SourceError>,
}

impl Heard {
    fn gap(&self, part: &str) -> bool {
        self.gaps.iter().any(|g| g.contains(part))
    }

    fn refused(self) -> String {
        assert!(self.events.is_empty(), "{:?}", self.events);
        self.end.unwrap_err().to_string()
    }
}

/// Listens until the session tells what it lost, which is when all was played.
async fn live(config: EtwConfig) -> Heard {
    let source = SourceConfig::Etw(config).build("live", None).unwrap();
    assert!(!source.info().can_wait);
    let mut intake = intake(2048);
    let stop = CancellationToken::new();
    let ended = tokio::spawn(source.run(intake.outlet("live"), stop.clone()));
    intake = intake.seal();
    let (mut events, mut gaps) = (Vec::new(), Vec::new());
    while let Some(item) = intake.next().await {
        for line in lines(&item) {
            if line.contains(r#""event":"Gap""#) {
                if line.contains(r#""events":3"#) {
                    stop.cancel();
                }
                gaps.push(line);
            } else {
                events.push(cut(&line));
            }
        }
    }
    assert_eq!(intake.take_refused(), 0);
    Heard { events, gaps, end: ended.await.unwrap() }
}

fn session(trace: &str, modes: &str, providers: Vec<EtwProvider>) -> EtwConfig {
    EtwConfig { session: format!("{trace} {modes}"), ..EtwConfig::new(providers) }
}

fn all(providers: &[String]) -> Vec<EtwProvider> {
    providers.iter().map(|p| EtwProvider::new(p)).collect()
}

fn same(got: &[String], want: &[String]) {
    if let Some(at) = got.iter().zip(want).position(|(a, b)| a != b) {
        panic!("event {at} is\n{}\nnot\n{}", got[at], want[at]);
    }
    assert_eq!(got.len(), want.len());
}

#[tokio::test]
async fn a_live_session_gives_what_the_file_gives() {
    for trace in TRACELOGGING {
        let (want, providers) = recorded(trace, tracelogging).await;
        assert!(!want.is_empty());
        let heard = live(session(trace, "plain", all(&providers))).await;
        same(&heard.events, &want);
        // asked for, and told by a record
        assert!(heard.gap(r#""reason":"lost_events","events":3"#), "{:?}", heard.gaps);
        assert_eq!(heard.gaps.len(), 2, "{:?}", heard.gaps);
        let end = heard.end.unwrap();
        assert!(end.stopped && end.problem_count == 1, "{end:?}");
    }
}

#[tokio::test]
async fn a_provider_is_named_by_what_its_guid_is_made_of() {
    let (want, providers) = recorded("s4/waasmedic.20251005_113019_195", tracelogging).await;
    let event: Value = serde_json::from_str(&want[0]).unwrap();
    let name = event["provider"].as_str().unwrap();
    let named = EtwProvider::new(name);
    let want: Vec<String> =
        want.into_iter().filter(|e| e.contains(&format!(r#""provider":"{name}""#))).collect();
    assert!(!providers.is_empty());
    let heard = live(session("s4/waasmedic.20251005_113019_195", "named", vec![named])).await;
    same(&heard.events, &want);
}

#[tokio::test]
async fn a_session_that_a_crash_left_behind_is_begun_anew() {
    let (want, providers) = recorded(TRACELOGGING[0], tracelogging).await;
    let heard = live(session(TRACELOGGING[0], "left", all(&providers))).await;
    same(&heard.events, &want);
}

#[tokio::test]
async fn a_session_of_somebody_else_is_left_alone_and_named() {
    let (_, providers) = recorded(TRACELOGGING[0], tracelogging).await;
    let config = session(TRACELOGGING[0], "foreign", all(&providers));
    let stop = format!("logman stop \"{}\" -ets", config.session);
    let error = live(config).await.refused();
    assert!(error.contains("not Tidegate's") && error.contains(&stop), "{error}");
}

#[tokio::test]
async fn a_session_of_another_collector_is_left_alone() {
    let (want, providers) = recorded(TRACELOGGING[0], tracelogging).await;
    let config = session(TRACELOGGING[0], "shared", all(&providers));
    let source = SourceConfig::Etw(config.clone()).build("first", None).unwrap();
    let mut first = intake(64);
    let stop = CancellationToken::new();
    let running = tokio::spawn(source.run(first.outlet("first"), stop.clone()));
    first = first.seal();
    let mut heard = 0;
    let mut second = None;
    while let Some(item) = first.next().await {
        heard += lines(&item).iter().filter(|l| tracelogging(l)).count();
        if second.is_none() && heard > 0 {
            second = Some(live(config.clone()).await.refused());
            stop.cancel();
        }
    }
    assert!(running.await.unwrap().unwrap().stopped);
    assert_eq!(heard, want.len());
    let error = second.unwrap();
    assert!(error.contains("another collector") && error.contains("session = "), "{error}");
}

#[tokio::test]
async fn a_missing_right_is_named_with_what_mends_it() {
    let (_, providers) = recorded(TRACELOGGING[0], tracelogging).await;
    let heard = live(session(TRACELOGGING[0], "denied", all(&providers))).await;
    assert!(matches!(heard.end, Err(SourceError::Denied(_))), "{:?}", heard.end);
    let error = heard.refused();
    assert!(error.contains("access denied") && error.contains("net localgroup"), "{error}");
    // after the session was begun: it is not left behind
    for _ in 0..2 {
        let heard = live(session(TRACELOGGING[0], "refuses", all(&providers))).await;
        assert!(matches!(heard.end, Err(SourceError::Denied(_))), "{:?}", heard.end);
    }
}

#[tokio::test]
async fn a_session_that_breaks_off_is_begun_anew_and_told() {
    let (want, providers) = recorded(TRACELOGGING[0], tracelogging).await;
    let heard = live(session(TRACELOGGING[0], "breaks", all(&providers))).await;
    assert!(heard.gap("session_lost"), "{:?}", heard.gaps);
    // three events, and then all
    let twice: Vec<String> = want[..3].iter().chain(&want).cloned().collect();
    same(&heard.events, &twice);
    assert_eq!(heard.end.unwrap().problem_count, 2);
}

#[tokio::test]
async fn level_and_filters_choose_the_events() {
    let trace = "perfview/gcevents";
    let (events, providers) = recorded(trace, |l| l.contains(r#""decoder":"raw""#)).await;
    let base = EtwProvider::new(&providers[0]);
    let parsed: Vec<Value> = events.iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    let number = |e: &Value, key: &str| e[key].as_u64().unwrap();
    // all have keyword 0x1 but one, which has none, and passes every filter of keywords
    type Kept<'a> = &'a dyn Fn(&Value) -> bool;
    let cases: [(&str, EtwProvider, Kept<'_>, usize); 7] = [
        ("level", EtwProvider { level: 4, ..base.clone() }, &|e| number(e, "level") <= 4, 48),
        ("any", EtwProvider { any: 0x2, ..base.clone() }, &|e| e["keyword"] == "0x0", 1),
        ("all", EtwProvider { all: 0x3, ..base.clone() }, &|e| e["keyword"] == "0x0", 1),
        ("ids", EtwProvider { ids: vec![5, 2], ..base.clone() }, &|e| matches!(number(e, "id"), 2 | 5), 9),
        ("except", EtwProvider { except_ids: vec![202], ..base.clone() }, &|e| number(e, "id") != 202, 56),
        ("pids", EtwProvider { pids: vec![1, 179_596], ..base.clone() }, &|_| true, 69),
        ("others", EtwProvider { pids: vec![1], ..base.clone() }, &|_| false, 0),
    ];
    for (name, provider, kept, count) in cases {
        let heard = live(session(trace, name, vec![provider])).await;
        let want: Vec<String> =
            events.iter().zip(&parsed).filter(|(_, e)| kept(e)).map(|(line, _)| line.clone()).collect();
        assert_eq!(want.len(), count, "{name}");
        same(&heard.events, &want);
    }
}

#[tokio::test]
async fn stacks_and_the_state_of_a_provider_come_when_they_are_wanted() {
    let (want, providers) = recorded(TRACELOGGING[0], tracelogging).await;
    let wanted = |p: &String| EtwProvider { stack: true, rundown: true, ..EtwProvider::new(p) };
    let heard = live(session(TRACELOGGING[0], "stacks", providers.iter().map(wanted).collect())).await;
    // the stand-in's provider tells its first event once more
    assert_eq!(heard.events.len(), want.len() + providers.len());
    for event in &heard.events {
        assert!(event.contains(r#""stack":["0x7ff600001000","0x7ff600002000"]"#), "{event}");
    }
}

#[tokio::test]
async fn a_group_gives_the_events_of_all_its_providers() {
    let mut found = 0;
    for trace in TRACELOGGING {
        let group = Some("4f50731a-89cf-4782-b3e0-dce8c90476ba");
        let (want, _) = recorded_of(trace, group, tracelogging).await;
        let group = EtwProvider { group: true, ..EtwProvider::new(TELEMETRY) };
        let heard = live(session(trace, "group", vec![group])).await;
        // and a record that points nowhere, which a consumer of all events is shown
        let events: Vec<String> = heard.events.into_iter().filter(|e| tracelogging(e)).collect();
        same(&events, &want);
        assert_eq!(heard.gaps.len(), 2, "{:?}", heard.gaps);
        assert!(heard.end.unwrap().stopped);
        found += want.len();
    }
    assert!(found > 0);
}

#[tokio::test]
async fn kernel_events_come_in_a_session_of_their_own() {
    let trace = "etlparser/ShutdownPerfDiagLogger";
    let kernel = ["3d6fa8d0-fe05-11d0-9dda-00c04fd7ba7c", "2cb15d1d-5fc1-11d2-abe1-00a0c911f518"];
    let (all, _) = recorded(trace, |l| l.contains(r#""decoder":"kernel""#)).await;
    let want: Vec<String> = all.into_iter().filter(|e| kernel.iter().any(|k| e.contains(k))).collect();
    assert!(want.len() > 1000);
    let config = EtwConfig {
        kernel: vec![KernelFlag::Process, KernelFlag::ImageLoad],
        ..session(trace, "kernel", Vec::new())
    };
    let heard = live(config).await;
    same(&heard.events, &want);
}

/// The schemas of the system explain what the events do not: the same as those that merging has
/// written into the file.
#[tokio::test]
async fn the_system_s_schemas_and_value_maps_explain_live_events() {
    let trace = "perfview/net.4.5.2.x64";
    let (want, providers) = recorded(trace, |l| l.contains(r#""decoder":"embedded""#)).await;
    let config = EtwConfig { decoder: DecoderChoice::System, ..session(trace, "system", all(&providers)) };
    let heard = live(config).await;
    let events = heard.events.iter().filter(|e| e.contains(r#""decoder":"manifest""#));
    let events: Vec<String> =
        events.map(|e| e.replace(r#""decoder":"manifest""#, r#""decoder":"embedded""#)).collect();
    assert!(want.len() > 60_000);
    same(&events, &want);
}

#[tokio::test]
async fn the_system_s_schemas_explain_the_events_of_a_file() {
    let file = || EtlConfig::new(vec![path("perfview/gcevents")]);
    let run = async |config| run(SourceConfig::Etl(config).build("file", None).unwrap()).await;
    let raw = run(file()).await.0.iter().flat_map(lines).filter(|l| l.contains(r#""decoder":"raw""#)).count();
    let items = run(EtlConfig { decoder: DecoderChoice::System, ..file() }).await.0;
    let told: Vec<String> = items.iter().flat_map(lines).collect();
    let decoded: Vec<&String> = told.iter().filter(|l| l.contains(r#""decoder":"manifest""#)).collect();
    // those whose ids and versions the other trace, too, has
    assert_eq!((raw, decoded.len()), (69, 36));
    // as the baseline of perfview has it, the value map's name too
    let start = decoded.iter().find(|e| e.contains("GarbageCollection/Start")).expect("a GC start");
    assert!(start.contains(r#""Reason":"Induced","Type":"NonConcurrentGC""#), "{start}");
}
