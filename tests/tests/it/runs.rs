//! `run`, `replay` and `validate`: where events go, how a run ends, and what bad input gets.

#[cfg(unix)]
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tidegate_sinks::events::recorder::{Recorder, Step};

use crate::azurite;
use crate::support::{Daemon, Ran, finish, program, root, run, trace, until};

const SMALL: &str = "s4/waasmedic.20251005_113019_195";
const EVENTS: u64 = 21;
const TENANT: &str = "0123456789abcdef0123456789abcdef-01234567-89ab-cdef-0123-456789abcdef-0123";

fn replay(args: &[&str]) -> Ran {
    finish(program().args(["replay"]).arg(trace(SMALL)).args(args))
}

fn write(dir: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Lines in the files of a folder.
fn lines(dir: &Path) -> Vec<Value> {
    let files = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let texts = files.flat_map(|f| azurite::lines(&std::fs::read(f).unwrap()));
    texts.map(|l| serde_json::from_str(&l).unwrap()).collect()
}

#[test]
fn a_replay_prints_every_event_and_its_account_apart_from_them() {
    let ran = replay(&[]).code(0).says("the account closes");
    assert_eq!(ran.lines().len() as u64, EVENTS);
    let ran = replay(&["--quiet"]).code(0);
    assert_eq!((ran.lines().len() as u64, ran.stderr.as_str()), (EVENTS, ""));
}

/// A replay whose reader goes away after the first line; what was in its temporary folder at the end.
#[cfg(unix)]
fn read_one_line(args: &[&str]) -> (Ran, usize) {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = program();
    command.arg("replay").arg(trace("tx/HTTP_Server")).args(args).env("TMPDIR", temporary.path());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::with_capacity(1, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let left = std::fs::read_dir(temporary.path()).unwrap().count();
    (Ran { code: output.status.code().unwrap_or(-1), stdout: line, stderr }, left)
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_ends_a_replay_and_leaves_nothing_behind() {
    let (ran, left) = read_one_line(&[]);
    assert_eq!((ran.code, ran.stderr.as_str(), left), (0, "", 0));
    assert_eq!(ran.lines().len(), 1);
    // what goes elsewhere too goes there first
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let (ran, left) = read_one_line(&["--to", "stdout", "--to", &format!("dir:{}", out.display())]);
    assert_eq!((ran.code, ran.stderr.as_str(), left), (0, "", 0));
    let want = finish(program().args(["inspect", "--events"]).arg(trace("tx/HTTP_Server"))).lines().len();
    assert_eq!(lines(&out).len(), want);
}

#[test]
fn a_replay_into_a_folder_ends_with_a_summary() {
    let dir = tempfile::tempdir().unwrap();
    let to = format!("dir:{}", dir.path().join("out").display());
    let ran = replay(&["--to", &to, "--json"]).code(0);
    let summary = ran.json();
    assert_eq!(summary["run"]["read"], EVENTS);
    assert_eq!((&summary["complete"], &summary["account_closes"]), (&Value::Bool(true), &Value::Bool(true)));
    assert_eq!(lines(&dir.path().join("out")).len() as u64, EVENTS);
}

#[test]
fn a_capture_replays_to_the_same_events_as_its_trace() {
    let dir = tempfile::tempdir().unwrap();
    let capture = dir.path().join("x.cap");
    finish(program().args(["convert", "--to", "capture", "-o"]).arg(&capture).arg(trace(SMALL))).code(0);
    let ran = finish(program().args(["replay", "--quiet"]).arg(&capture)).code(0);
    assert_eq!(ran.stdout, replay(&["--quiet"]).stdout);
}

#[test]
fn json_lines_replay_by_their_content() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "log", "{\"time\":\"2026-01-01T00:00:00Z\",\"user\":\"x\"}\n{\"n\":2}\n");
    let ran = finish(program().args(["replay", "--quiet"]).arg(&file)).code(0);
    let events = ran.lines();
    assert_eq!(events.len(), 2);
    assert_eq!(events[0]["time"], "2026-01-01T00:00:00.0000000Z");
}

#[test]
fn a_lower_level_lets_less_pass_and_counts_what_it_drops() {
    let ran = replay(&["--level", "security", "--to", "stdout", "--json"]).code(0);
    assert_eq!(ran.stdout, "");
    let summary: Value = serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(summary["run"]["dropped"]["level"], EVENTS);
}

#[test]
fn a_time_window_and_several_sinks_go_together() {
    let dir = tempfile::tempdir().unwrap();
    let to = format!("dir:{}", dir.path().join("out").display());
    let ran = replay(&["--to", &to, "--to", "stdout", "--quiet", "--until", "2025-10-05T11:30:20Z"]).code(0);
    let some = ran.lines().len();
    assert!(some > 0 && (some as u64) < EVENTS, "{some}");
    assert_eq!(lines(&dir.path().join("out")).len(), some);
}

#[test]
fn a_cut_trace_replays_as_far_as_it_goes_with_code_65_and_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(trace(SMALL)).unwrap();
    let cut = write(dir.path(), "cut.etl", &whole[..whole.len() - 3000]);
    let ran = finish(program().arg("replay").arg(&cut)).code(65).says("cut.etl");
    let events = ran.lines();
    assert!(events.iter().any(|e| e["event"] == "Gap") && events.len() > 1);
}

#[test]
fn what_cannot_be_replayed_is_said_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let replay = |path: &Path| finish(program().arg("replay").arg(path));
    replay(&dir.path().join("missing.etl")).code(66).says("missing.etl");
    replay(&write(dir.path(), "empty.etl", "")).code(65).says("empty");
    replay(&write(dir.path(), "x.bin", [7; 500])).code(65).says("neither an event trace log");
    finish(program().args(["replay", "--to", "dri:x"]).arg(trace(SMALL)))
        .code(64)
        .says("--to dri:x: no such sink");
    finish(program().args(["replay", "--speed", "fast"]).arg(trace(SMALL))).code(64).says("is no speed");
}

#[test]
fn a_wrong_key_is_told_nothing_is_lost_and_the_next_replay_goes_on() {
    let Some(emulator) = azurite::emulator() else { return };
    let container = azurite::Container::create(&emulator, "wrong-key");
    let dir = tempfile::tempdir().unwrap();
    let ring = dir.path().join("ring");
    let right = container.connection_string();
    let wrong = right.replace("AccountKey=E", "AccountKey=F");
    let to = format!("blob:{}", container.name);
    let replay = |connection: &str| {
        let mut command = program();
        command.args(["replay", "--patience", "2s", "--to", &to, "--ring"]).arg(&ring).arg(trace(SMALL));
        finish(command.env("AZURE_STORAGE_CONNECTION_STRING", connection))
    };
    let ran = replay(&wrong).code(75);
    assert!(ran.stdout.contains("403") || ran.stdout.contains("holds"), "{}{}", ran.stdout, ran.stderr);
    for text in [&ran.stdout, &ran.stderr] {
        assert!(!text.contains("by8vdM02xNOcqFlqUwJPLl"), "a key is shown: {text}");
    }
    assert_eq!(container.list(), Vec::<String>::new());
    replay(&right).code(0);
    let stored: usize = container.list().iter().map(|b| azurite::lines(&container.get(b)).len()).sum();
    assert_eq!(stored as u64, EVENTS);
}

#[test]
fn an_endpoint_that_is_not_there_is_given_up_and_the_ring_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    // a port that was free a moment ago, and that nobody listens at
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let to = format!("events:http://127.0.0.1:{port}/OneCollector/1.0/");
    let mut command = program();
    command.args(["replay", "--patience", "1s", "--to", &to]).arg(trace(SMALL));
    command.env("TIDEGATE_TENANT", TENANT).env("TMPDIR", dir.path());
    let ran = finish(&mut command).code(75).says("--ring");
    assert!(!ran.stderr.contains(TENANT));
    let kept = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let recorder = Recorder::start(&[TENANT]).unwrap();
    let mut command = program();
    command
        .args(["replay", "--to", &format!("events:{}", recorder.url()), "--ring"])
        .arg(kept)
        .arg(trace(SMALL));
    finish(command.env("TIDEGATE_TENANT", TENANT)).code(0);
    assert_eq!(recorder.seqs().len() as u64, EVENTS);
}

#[test]
fn a_secret_that_is_not_there_is_a_configuration_error() {
    let mut command = program();
    command
        .args(["replay", "--to", "blob:x"])
        .arg(trace(SMALL))
        .env_remove("AZURE_STORAGE_CONNECTION_STRING");
    finish(&mut command).code(78).says("AZURE_STORAGE_CONNECTION_STRING");
}

#[test]
fn a_ring_on_a_full_disk_is_told_and_nothing_that_was_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1500k", "tmpfs"])
        .arg(&disk)
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|s| s.success()) {
        eprintln!("SKIPPED: a small disk cannot be mounted here (needs root)");
        assert!(std::env::var_os("CI").is_none(), "never skipped in CI");
        return;
    }
    let _unmount = Unmount(disk.clone());
    // so much does not fit, whatever the compression
    let config = write(
        dir.path(),
        "tidegate.toml",
        format!(
            "[telemetry]\nlevel = \"Full\"\nscrub = false\n[health]\nevents = false\n[ring]\npath = {:?}\n\
             full = \"block\"\ncompression = \"none\"\n[sinks.out]\ntype = \"stdout\"\n",
            disk.join("ring")
        ),
    );
    let mut command = program();
    command
        .args(["replay", "--patience", "2s", "-c"])
        .arg(&config)
        .arg(trace("etlparser/ShutdownPerfDiagLogger"));
    let ran = finish(&mut command);
    assert!(matches!(ran.code, 73 | 75), "{} {}", ran.code, ran.stderr);
    assert!(ran.stderr.contains("No space left") || ran.stderr.contains("full"), "{}", ran.stderr);
    // what was stored before was delivered once each
    let mut seqs: Vec<u64> = ran.lines().iter().map(|e| e["seq"].as_u64().unwrap()).collect();
    let all = seqs.len();
    seqs.dedup();
    assert_eq!(seqs.len(), all);
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        // lazily: the program may not have let go of it yet
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_under_the_output_is_code_74() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = program();
    command.args(["inspect", "--events"]).arg(trace(SMALL)).stdout(full).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(74), "{text}");
    assert!(text.contains("No space left"), "{text}");
}

fn daemon_config(dir: &Path, sink: &str) -> PathBuf {
    write(
        dir,
        "tidegate.toml",
        format!(
            "[telemetry]\nlevel = \"Full\"\n[health]\nevents = false\n[ring]\npath = {:?}\n\
             [shutdown]\ndrain = \"1s\"\n[sources.trace]\ntype = \"etl\"\npaths = [{:?}]\n[sinks.out]\n{sink}\n",
            dir.join("ring"),
            trace(SMALL)
        ),
    )
}

#[test]
fn a_stopped_daemon_leaves_the_rest_in_the_ring_for_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(&[TENANT]).unwrap();
    recorder.set_delta(None);
    // nothing gets through at first
    recorder.script(std::iter::repeat_with(|| Step::status(503)).take(10_000));
    let tenant = write(dir.path(), "tenant", TENANT);
    let sink =
        format!("type = \"events\"\nurl = {:?}\ntenant = \"file:{}\"", recorder.url(), tenant.display());
    let config = daemon_config(dir.path(), &sink);
    let log = dir.path().join("log");
    let daemon = Daemon::start(&config, &log);
    until("an attempt", || !recorder.requests().is_empty());
    assert_eq!(daemon.terminate(), Some(0), "{}", std::fs::read_to_string(&log).unwrap());
    assert_eq!(recorder.seqs().len(), 0);

    let second = Recorder::start(&[TENANT]).unwrap();
    let sink = format!("type = \"events\"\nurl = {:?}\ntenant = \"file:{}\"", second.url(), tenant.display());
    let daemon = Daemon::start(&daemon_config(dir.path(), &sink), &log);
    until("everything arrives", || second.seqs().len() as u64 == EVENTS);
    assert_eq!(daemon.terminate(), Some(0), "{}", std::fs::read_to_string(&log).unwrap());
}

#[test]
fn a_ring_that_another_process_has_open_is_code_75() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let config = daemon_config(dir.path(), &format!("type = \"directory\"\npath = {out:?}"));
    let daemon = Daemon::start(&config, &dir.path().join("log"));
    until("it has the ring", || out.exists());
    finish(program().args(["run", "-c"]).arg(&config)).code(75).says("in use by another process");
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn every_mistake_in_a_configuration_is_named_with_code_78() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        write(dir.path(), "bad.toml", "[ring]\nsise = \"1GiB\"\n[sources.a]\ntype = \"etl\"\npath = \"x\"\n");
    for command in ["validate", "run"] {
        finish(program().arg(command).arg("-c").arg(&config))
            .code(78)
            .says("bad.toml:2")
            .says("did you mean \"size\"");
    }
    let text = "[sources.a]\ntype = \"etl\"\npahts = [\"x\"]\n[sinks.b]\ntype = \"directry\"\n[sinks.c]\ntype = \"stdout\"\ncolour = 1\n";
    let config = write(dir.path(), "bad.toml", text);
    finish(program().arg("validate").arg("-c").arg(&config))
        .code(78)
        .says("did you mean \"paths\"?")
        .says("did you mean \"directory\"?")
        .says("sinks.c");
    let ran = finish(program().args(["validate", "--json", "-c"]).arg(&config)).code(78);
    assert_eq!(ran.json()["problems"].as_array().map(Vec::len), Some(3));
    run(["run", "-c", "/nowhere.toml"]).code(78).says("/nowhere.toml");
}

/// Each was called valid once, and refused by `run`.
#[test]
fn what_run_refuses_is_not_valid() {
    let dir = tempfile::tempdir().unwrap();
    let connection = "connection_string = \"UseDevelopmentStorage=true\"";
    for (sink, word) in [
        ("type = \"events\"\nurl = \"ftp://x\"\ntenant = \"value:x\"", "sinks.out"),
        ("type = \"otlp\"\nurl = \"nonsense\"", "sinks.out"),
        ("type = \"otlp\"\nurl = \"http://h\"\nbatch = { events = 0 }", "events"),
        ("type = \"kafka\"\nbrokers = []\ntopic = \"t\"", "brokers"),
        ("type = \"directory\"\npath = \"out\"\nlayout = \"{nope}/x\"", "nope"),
        ("type = \"blob\"\ncontainer = \"logs\"", "connection_string"),
        (&format!("type = \"blob\"\ncontainer = \"BAD NAME\"\n{connection}"), "container"),
        (&format!("type = \"blob\"\ncontainer = \"logs\"\nhttp.proxy.url = \"bad\"\n{connection}"), "proxy"),
    ] {
        let config = daemon_config(dir.path(), sink);
        for command in ["validate", "run"] {
            finish(program().arg(command).arg("-c").arg(&config)).code(78).says("sinks.out").says(word);
        }
    }
    // what is elsewhere may be right there
    let sink = "type = \"blob\"\ncontainer = \"logs\"\nconnection_string = \"file:/nowhere/secret\"";
    let config = daemon_config(dir.path(), sink);
    let ran = finish(program().args(["validate", "-c"]).arg(&config)).code(0);
    assert!(ran.stdout.contains("missing  sinks.out: connection_string"), "{}", ran.stdout);
    let ran = finish(program().args(["validate", "--json", "-c"]).arg(&config)).code(0).json();
    assert_eq!((&ran["valid"], &ran["missing"][0]["key"]), (&true.into(), &"sinks.out".into()));
    finish(program().args(["run", "-c"]).arg(&config)).code(78).says("/nowhere/secret");
}

#[test]
fn the_example_configuration_is_valid() {
    let example = root().join("collector/tidegate.toml");
    let ran = finish(program().args(["validate", "-c"]).arg(example)).code(0);
    assert!(ran.stdout.contains("is valid"), "{}", ran.stdout);
}

#[test]
fn the_bench_measures_every_stage() {
    let ran = run(["bench", "--seconds", "2", "--json"]).code(0).json();
    let stages = ran["stages"].as_array().unwrap().clone();
    assert_eq!(stages.len(), 3);
    for stage in &stages {
        assert!(stage["events"].as_u64().unwrap() > 0, "{stage}");
    }
}
