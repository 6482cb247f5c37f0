//! The process is killed in the middle, again and again: every event of the trace comes out
//! exactly once. The test starts itself as the process that is killed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{configuration, delivered, to_the_end, trace};

const CHILD: &str = "TIDEGATE_KILL_CHILD";
const TRACE: &str = "etlparser/ShutdownPerfDiagLogger.etl";

#[test]
fn child_that_is_killed() {
    // only does something when it is started by the test below
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        // small batches, so that there is something to be killed in
        let sink = "batch = { events = 1000, age = \"10ms\" }";
        let config = configuration(Path::new(&dir), &trace(TRACE), sink, "level = \"Full\"");
        let summary = to_the_end(config).await;
        assert!(summary.complete(), "{summary}");
    });
}

#[test]
fn killed_at_random_points_every_event_comes_out_exactly_once() {
    let rounds = std::env::var("TIDEGATE_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = seed | 1;
    let dir = tempfile::tempdir().unwrap();
    let child = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child_that_is_killed"])
            .env(CHILD, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut killed = 0;
    for _ in 0..rounds {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut process = child();
        std::thread::sleep(Duration::from_millis(10 + random % 200));
        killed += u32::from(process.try_wait().unwrap().is_none());
        process.kill().unwrap();
        process.wait().unwrap();
    }
    println!("killed in the middle {killed} times of {rounds}");
    let begun = Instant::now();
    assert!(child().wait().unwrap().success(), "the last one goes through");
    println!("the rest took {:?}", begun.elapsed());
    let (events, twice) = delivered(&dir.path().join("out"));
    assert_eq!(twice, 0);
    // what one undisturbed run delivers
    let calm = tempfile::tempdir().unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child_that_is_killed"])
        .env(CHILD, calm.path())
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    let (want, _) = delivered(&calm.path().join("out"));
    assert!(want.len() > 500);
    let sorted = |events: std::collections::BTreeMap<u64, String>| {
        let mut all: Vec<String> = events.into_values().collect();
        all.sort();
        all
    };
    assert_eq!(sorted(events), sorted(want));
}
