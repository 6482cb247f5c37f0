//! `purge`: what slipped in goes from ring, dead letters and far sides, and nothing else does.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::azurite;
use crate::support::{Daemon, Ran, finish, program, until};

const SECRET: &str = "MARKER-7f3a-of-one-person";
const EVENTS: usize = 8;

/// Every file below a folder.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if path.is_file() {
            // not the socket of a collector that runs
            all.push(path);
        }
    }
    all
}

/// The files that hold the secret, as it stands or compressed.
fn holding(dir: &Path) -> Vec<String> {
    let secret = SECRET.as_bytes();
    let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|w| w == secret);
    let name = |path: PathBuf| path.strip_prefix(dir).unwrap().display().to_string();
    let found = files(dir).into_iter().filter(|path| {
        // a collector that runs may have removed it just now
        let Ok(bytes) = fs::read(path) else { return false };
        holds(&bytes)
            || (path.extension().is_some_and(|e| e == "zst") && holds(&zstd::decode_all(&bytes[..]).unwrap()))
    });
    let mut found: Vec<String> = found.map(name).collect();
    found.sort();
    found
}

fn line(n: usize, text: &str) -> String {
    format!(
        "{{\"time\":\"2026-01-0{}T00:00:00Z\",\"provider\":\"Contoso.App\",\"event\":\"Step\",\"fields\":{{\"n\":{n},\"text\":\"{text}\"}}}}",
        n + 1
    )
}

/// A collector that has delivered events in pairs, the first of every other pair with the
/// secret, to each of these sinks; one sink takes nothing, so that the ring holds them all.
fn collected(dir: &Path, sinks: &str, delivered: impl Fn() -> usize) -> PathBuf {
    let (config, daemon) = collecting(dir, sinks, delivered);
    daemon.terminate();
    config
}

/// The same, while it runs.
fn collecting(dir: &Path, sinks: &str, delivered: impl Fn() -> usize) -> (PathBuf, Daemon) {
    let text = |n: usize| if n.is_multiple_of(4) { SECRET } else { "nothing special" };
    let lines: String = (0..EVENTS).map(|n| line(n, text(n)) + "\n").collect();
    // not in the folder that is searched
    let input = dir.with_extension("input");
    fs::write(&input, lines).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = dir.join("tidegate.toml");
    fs::write(
        &config,
        format!(
            "[telemetry]\nlevel = \"Full\"\nscrub = false\npolicy_file = {:?}\n[health]\nevents = false\n\
             [ring]\npath = {:?}\ncompression = \"none\"\n[sources.app]\ntype = \"jsonl\"\npaths = [{input:?}]\n\
             [sinks.away]\ntype = \"otlp\"\nurl = \"http://127.0.0.1:{port}/v1/logs\"\n\
             [shutdown]\ndrain = \"1s\"\n{sinks}",
            dir.join("policy.toml"),
            dir.join("ring"),
        ),
    )
    .unwrap();
    let daemon = Daemon::start(&config, &dir.join("log"));
    until("everything is delivered", || delivered() == EVENTS);
    fs::remove_file(input).unwrap();
    (config, daemon)
}

fn purge(config: &Path, args: &[&str]) -> Ran {
    finish(program().args(["purge", "--json", "-c"]).arg(config).args(args))
}

fn audit(config: &Path) -> Vec<Value> {
    finish(program().args(["audit", "list", "--json", "-c"]).arg(config)).code(0).lines()
}

const FOLDERS: [(&str, &str, &str); 4] = [
    ("plain", "jsonl", "none"),
    ("zipped", "jsonl", "zstd"),
    ("table", "parquet", "none"),
    ("capture", "capture", "none"),
];

#[test]
fn what_slipped_in_is_found_in_no_file_after_a_purge() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("all");
    fs::create_dir(&dir).unwrap();
    let sinks: String = FOLDERS
        .iter()
        .map(|(name, format, compression)| {
            format!(
                "[sinks.{name}]\ntype = \"directory\"\npath = {:?}\nformat = \"{format}\"\n\
                 compression = \"{compression}\"\nbatch = {{ events = 2, age = \"100ms\" }}\n",
                dir.join(name)
            )
        })
        .collect();
    let done = || {
        let pairs = |name: &str| {
            files(&dir.join(name)).iter().filter(|p| !p.display().to_string().ends_with(".part")).count()
        };
        FOLDERS.iter().map(|(name, ..)| pairs(name) * 2).min().unwrap()
    };
    let config = collected(&dir, &sinks, done);
    let dead = dir.join("dead/away.jsonl");
    fs::create_dir_all(dir.join("dead")).unwrap();
    let good = line(2, "nothing special");
    fs::write(&dead, format!("{}\n{good}\n{{\"cut\":\"{SECRET}", line(4, SECRET))).unwrap();
    fs::write(dir.join("dead/away.jsonl.old"), line(0, SECRET) + "\n").unwrap();
    let before = holding(&dir);
    for place in ["ring/segments", "plain", "zipped", "table", "capture", "dead/away.jsonl"] {
        assert!(before.iter().any(|f| f.starts_with(place)), "{place}: {before:?}");
    }

    let condition = format!("provider = contoso.app and field.text = {SECRET}");
    let args = ["--match", condition.as_str(), "--delivered"];
    let shown = purge(&config, &[&args[..], &["--dry-run"]].concat()).code(0).json();
    assert_eq!(shown["ring"], serde_json::json!([0, 0, 0, 2]));
    assert_eq!(shown["dead_letters"]["away"], serde_json::json!({ "events": 2, "unreadable": 1, "kept": 1 }));
    let listed = shown["delivered"].as_array().unwrap();
    // two of the four files of each folder; nothing got through to the sink that is away
    assert_eq!(listed.len(), 8, "{listed:#?}");
    assert!(listed.iter().all(|d| d["place"] == "listed" && d["found"]["events"] == 1), "{listed:#?}");
    assert_eq!(holding(&dir), before, "a dry run has changed something");
    assert!(audit(&config).iter().all(|e| e["entry"]["what"] != "purge"));

    let ran = purge(&config, &args).code(0);
    assert!(!ran.stdout.contains(SECRET) && !ran.stderr.contains(SECRET));
    assert!(ran.json()["delivered"].as_array().unwrap().iter().all(|d| d["place"] == "deleted"));
    assert_eq!(holding(&dir), Vec::<String>::new());
    // the others are still there
    assert_eq!(fs::read_to_string(&dead).unwrap(), good + "\n");
    assert_eq!(files(&dir.join("plain")).len(), 2);
    let left = purge(&config, &["--match", "level <= Full", "--dry-run"]).code(0).json();
    assert_eq!(left["ring"], serde_json::json!([0, 0, 0, EVENTS - 2]));
    // and all of it is in the log of changes
    let log = audit(&config);
    let of = |what: &str| {
        log.iter().filter(|e| e["entry"]["what"] == what).map(|e| e["entry"].clone()).collect::<Vec<_>>()
    };
    let (asked, purged) = (of("purge_asked"), of("purge"));
    assert_eq!((asked.len(), purged.len()), (1, 2));
    assert_eq!(purged[0]["events"], serde_json::json!([0, 0, 0, 2]));
    assert_eq!(purged[0]["dead_letters"], 3);
    assert_eq!(purged[1]["blobs"].as_array().unwrap().len(), 8);
    assert_eq!(purged[0]["matching"], "(provider = \"contoso.app\" and field.text = …)");
    finish(program().args(["audit", "verify", "-c"]).arg(&config)).code(0);
    // what was deleted on purpose is not missing
    let reconcile = ["receipts", "reconcile", "plain", "--json", "-c"];
    let report = finish(program().args(reconcile).arg(&config)).code(0).json();
    assert_eq!((&report["purged"]["count"], &report["present"]), (&2.into(), &2.into()), "{report}");
}

#[cfg(unix)]
#[test]
fn a_collector_that_runs_is_purged_and_goes_on() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("all");
    fs::create_dir(&dir).unwrap();
    let sinks = format!(
        "[sinks.plain]\ntype = \"directory\"\npath = {:?}\nbatch = {{ events = 2, age = \"100ms\" }}\n",
        dir.join("plain")
    );
    let done = || {
        files(&dir.join("plain")).iter().filter(|p| !p.display().to_string().ends_with(".part")).count() * 2
    };
    let (config, daemon) = collecting(&dir, &sinks, done);
    let dead = dir.join("dead/away.jsonl");
    fs::create_dir_all(dir.join("dead")).unwrap();
    fs::write(&dead, line(4, SECRET) + "\n").unwrap();
    // the receipt of the last pair may still be on its way
    let settled = || {
        let ran = finish(program().args(["status", "--json", "-c"]).arg(&config)).code(0).json();
        ran["ring"]["sinks"]["plain"]["held"] == 0
    };
    until("all is settled", settled);
    let args = ["--match", &format!("field.text = {SECRET}"), "--delivered"];
    let shown = purge(&config, &[&args[..], &["--dry-run"]].concat()).code(0).json();
    assert!(holding(&dir).iter().any(|f| f.starts_with("ring/")));
    let ran = purge(&config, &args).code(0);
    assert!(!ran.stdout.contains(SECRET) && !ran.stderr.contains(SECRET));
    let told = ran.json();
    assert_eq!(told["ring"], serde_json::json!([0, 0, 0, 2]));
    for same in ["ring", "dead_letters", "receipts", "matching"] {
        assert_eq!(told[same], shown[same], "{same}: a dry run told something else");
    }
    let places: Vec<&Value> = told["delivered"].as_array().unwrap().iter().map(|d| &d["place"]).collect();
    assert_eq!(places, ["deleted", "deleted"]);
    assert_eq!(holding(&dir), Vec::<String>::new());
    let diff = finish(program().args(["level", "diff", "Basic", "Full", "--json", "-c"]).arg(&config));
    assert_eq!(diff.code(0).json()["seen"], EVENTS - 2);
    assert_eq!(daemon.terminate(), Some(0));
    finish(program().args(["buffer", "verify", "-c"]).arg(&config)).code(0);
    let log = audit(&config);
    let of = |what: &str| log.iter().filter(|e| e["entry"]["what"] == what).count();
    assert_eq!((of("purge_asked"), of("purge")), (1, 2));
    let left = purge(&config, &["--match", "level <= Full", "--dry-run"]).code(0).json();
    // and, of level Basic, the record that tells the far side of the purge
    assert_eq!(left["ring"], serde_json::json!([0, 1, 0, EVENTS - 2]));
    let diff = finish(program().args(["level", "diff", "Basic", "Full", "--json", "-c"]).arg(&config));
    assert_eq!(diff.code(0).json()["seen"], EVENTS - 1);
}

#[test]
fn blobs_that_hold_what_slipped_in_are_deleted_by_their_etag() {
    let Some(emulator) = azurite::emulator() else { return };
    let container = azurite::Container::create(&emulator, "purge");
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("all");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("connection"), container.connection_string()).unwrap();
    let sinks = format!(
        "[sinks.cloud]\ntype = \"blob\"\ncontainer = {:?}\nconnection_string = {:?}\nlayout = \"\"\n\
         batch = {{ events = 2, age = \"100ms\" }}\n",
        container.name,
        format!("file:{}", dir.join("connection").display()),
    );
    let config = collected(&dir, &sinks, || container.list().len() * 2);
    let all = container.list();
    let holds = |name: &String| azurite::lines(&container.get(name)).iter().any(|l| l.contains(SECRET));
    assert_eq!(all.iter().filter(|b| holds(b)).count(), 2);
    let args = ["--match", "any like 'MARKER-*'", "--delivered"];
    let ran = purge(&config, &args).code(0).json();
    let places: Vec<&Value> = ran["delivered"].as_array().unwrap().iter().map(|d| &d["place"]).collect();
    assert_eq!(places, ["deleted", "deleted"]);
    let left = container.list();
    assert_eq!(left.len(), 2);
    assert!(!left.iter().any(holds) && holding(&dir).is_empty());
    // again: nothing is left to do
    assert_eq!(purge(&config, &args).code(0).json()["delivered"], serde_json::json!([]));
}

#[test]
fn a_condition_that_is_none_changes_nothing_and_tells_where_it_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("tidegate.toml");
    purge(&config, &["--match", "level = 9"]).code(64).says("at character 9");
    purge(&config, &["--match", "any ~ '('"]).code(64).says("regular expression");
    purge(&config, &[]).code(64).says("--match");
}
