//! The whole live way against a STAND-IN for the trace functions of Windows (tests/windows/standin):
//! session, callback, gate, ring, directory, and the account of it. Run by tests/windows/run.sh
//! under Wine; on a real Windows there are no such sessions.
#![cfg(windows)]

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tidegate::pipeline::{Failed, Pipeline, Summary, Until};
use tidegate::{assemble, config};

/// A trace of the kernel, and its processes and images: some thousand events.
const TRACE: &str = "etlparser/ShutdownPerfDiagLogger";
const CLASSES: [&str; 2] = ["3d6fa8d0-fe05-11d0-9dda-00c04fd7ba7c", "2cb15d1d-5fc1-11d2-abe1-00a0c911f518"];

/// A run of one source into `DIR/out`, not yet begun. No path has a character that TOML escapes in
/// a literal string.
async fn start(dir: &Path, level: &str, source: &str, until: Until) -> tidegate::pipeline::Running {
    let dir = dir.display();
    let text = format!(
        "[host]\nname = \"test\"\n[health]\nevents = false\n\
         [ring]\npath = '{dir}/ring'\nsize = \"64MiB\"\ncommit_delay = \"5ms\"\n\
         [telemetry]\nlevel = \"{level}\"\npolicy_file = '{dir}/policy.toml'\n\
         [sources.trace]\n{source}\n\
         [sinks.out]\ntype = \"directory\"\npath = '{dir}/out'\nbatch = {{ age = \"100ms\" }}\n"
    );
    let checked = assemble::check(config::parse("test.toml", &text).unwrap()).unwrap();
    Pipeline::start(assemble::open(checked, until).unwrap()).await.unwrap()
}

/// Runs a live session until `enough` says that all has come.
async fn live(dir: &Path, level: &str, source: &str, enough: u64) -> Summary {
    let running = start(dir, level, source, Until::Stopped).await;
    loop {
        let progress = running.progress();
        if progress.stored + progress.dropped >= enough || progress.sources_running == 0 {
            return running.stop(Duration::from_secs(60)).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What was delivered, in order: events of the two classes with their time cut to 100 ns, without
/// their place in the ring; and the gaps.
fn delivered(folder: &Path) -> (Vec<String>, Vec<Value>) {
    let (mut events, mut gaps) = (Vec::new(), Vec::new());
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "jsonl") {
                for line in std::fs::read_to_string(&path).unwrap().lines() {
                    let mut event: Value = serde_json::from_str(line).unwrap();
                    let seq = event.as_object_mut().unwrap().shift_remove("seq").unwrap().as_u64().unwrap();
                    if event["event"] == "Gap" {
                        gaps.push(event);
                    } else if CLASSES.iter().any(|c| event["guid"] == *c) {
                        let time = event["time"].as_str().unwrap().trim_end_matches('Z').to_owned();
                        let (seconds, fraction) = time.split_once('.').unwrap_or((&time, ""));
                        event["time"] = format!("{seconds}.{fraction:0<7.7}").into();
                        events.push((seq, event.to_string()));
                    }
                }
            }
        }
    }
    events.sort();
    (events.into_iter().map(|(_, e)| e).collect(), gaps)
}

fn session(modes: &str) -> String {
    format!("type = \"etw\"\nsession = \"{TRACE} {modes}\"\nkernel = [\"process\", \"image-load\"]")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_events_arrive_as_those_of_the_file_and_the_account_closes() {
    let dir = tempfile::tempdir().unwrap();
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/etl/traces").join(format!("{TRACE}.etl"));
    let file = dir.path().join("file");
    let source = format!("type = \"etl\"\npaths = ['{}']", path.display());
    let replayed = start(&file, "Full", &source, Until::Delivered).await.wait().await.unwrap();
    assert!(replayed.complete(), "{replayed}");
    let (want, _) = delivered(&file.join("out"));
    assert!(want.len() > 1000, "{}", want.len());

    let dir = dir.path().join("live");
    // the record and the poll that tell of the loss come last
    let summary = live(&dir, "Full", &session("way"), want.len() as u64 + 2).await;
    let (got, gaps) = delivered(&dir.join("out"));
    assert_eq!(got.len(), want.len(), "{summary}");
    for (got, want) in got.iter().zip(&want) {
        assert_eq!(got, want);
    }
    assert!(
        gaps.iter().any(|g| g["fields"]["reason"] == "lost_events" && g["fields"]["events"] == 3),
        "{gaps:?}"
    );
    assert_eq!(summary.account_error, None, "{summary}");
    assert_eq!(summary.run.read, want.len() as u64 + gaps.len() as u64, "{summary}");
    assert_eq!(summary.run.stored.iter().sum::<u64>(), summary.run.read);
    assert!(summary.to_string().contains("the account closes"), "{summary}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gate_decides_on_live_events_too() {
    let dir = tempfile::tempdir().unwrap();
    let summary = live(dir.path(), "Basic", &session("gate"), 1000).await;
    let (got, _) = delivered(&dir.path().join("out"));
    assert!(got.is_empty(), "{got:?}");
    assert_eq!(summary.account_error, None, "{summary}");
    assert!(summary.run.dropped.values().sum::<u64>() > 1000, "{summary}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_may_not_be_had_is_told_as_that() {
    let dir = tempfile::tempdir().unwrap();
    let summary = live(dir.path(), "Full", &session("denied"), 1).await;
    let [source] = &summary.sources[..] else { panic!("{summary}") };
    assert_eq!(source.failed, Some(Failed::Denied), "{summary}");
    assert!(source.error.as_ref().unwrap().contains("administrator's rights"), "{summary}");
}
