//! `receipts`: what was delivered, proved against a folder and a container.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::azurite::{self, Container};
use crate::support::{Daemon, Ran, finish, program, trace, until};

const TRACE: &str = "tx/HTTP_Server";

/// A configuration with one sink, in a folder of its own.
fn configuration(dir: &Path, sink: &str) -> PathBuf {
    let config = dir.join("tidegate.toml");
    let text = format!(
        "[host]\nname = \"receipts-test\"\n[telemetry]\nlevel = \"Full\"\nscrub = false\npolicy_file = {:?}\n\
         [health]\nevents = false\n[ring]\npath = {:?}\nfull = \"block\"\ncommit_delay = \"5ms\"\n\
         [sources.trace]\ntype = \"etl\"\npaths = [{:?}]\n[sinks.out]\n{sink}\n\
         batch = {{ events = 300, age = \"50ms\" }}\n",
        dir.join("no-policy.toml"),
        dir.join("ring"),
        trace(TRACE),
    );
    std::fs::write(&config, text).unwrap();
    config
}

fn receipts(config: &Path, args: &[&str]) -> Ran {
    finish(program().arg("receipts").args(args).arg("-c").arg(config))
}

/// Files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn deliver(config: &Path, all: impl Fn() -> bool) {
    let daemon = Daemon::start(config, &config.with_extension("log"));
    until("everything is delivered", all);
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn a_folder_is_reconciled_and_its_receipts_are_checked_without_us() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let config = configuration(
        dir.path(),
        &format!("type = \"directory\"\npath = {out:?}\nlayout = \"{{host}}/{{date}}\""),
    );
    let lines =
        || files(&out).iter().map(|f| azurite::lines(&std::fs::read(f).unwrap()).len()).sum::<usize>();
    let want = finish(program().args(["inspect", "--events"]).arg(trace(TRACE))).stdout.lines().count();
    receipts(&config, &["list"]).code(66).says("there is no ring");
    let daemon = Daemon::start(&config, &dir.path().join("log"));
    until("everything is delivered", || lines() == want);
    // a collector that runs is asked
    assert!(receipts(&config, &["list"]).code(0).stdout.contains("delivered 300 to"));
    until("every receipt is written", || {
        let report = receipts(&config, &["reconcile", "out", "--read", "--json"]).code(0).json();
        report["present"].as_u64() == Some(files(&out).len() as u64)
    });
    let export = dir.path().join("export-running");
    let done = receipts(&config, &["export", export.to_str().unwrap(), "--json"]).code(0).json();
    assert!(done["receipts"].as_u64() > Some(0), "{done}");
    assert!(Command::new("sh").arg(export.join("check.sh")).status().unwrap().success());
    let audit = finish(program().args(["audit", "list", "-c"]).arg(&config)).code(0).stdout;
    assert!(audit.contains("export-running"), "{audit}");
    let first = files(&out)[0].clone();
    let kept = std::fs::read(&first).unwrap();
    std::fs::remove_file(&first).unwrap();
    receipts(&config, &["reconcile", "out"]).code(65);
    std::fs::write(&first, kept).unwrap();
    assert_eq!(daemon.terminate(), Some(0));

    let list = receipts(&config, &["list", "--json", "--sink", "out"]).code(0).lines();
    let delivered: u64 = list
        .iter()
        .flat_map(|e| e["receipt"]["delivered"].as_array().unwrap())
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(delivered, want as u64);
    let text = receipts(&config, &["list"]).code(0).stdout;
    assert!(text.lines().count() == list.len() && text.contains("delivered 300 to"), "{text}");
    assert!(receipts(&config, &["list", "--sink", "other"]).code(0).stdout.is_empty());
    let whole = receipts(&config, &["verify", "--json"]).code(0).json();
    assert_eq!(whole["entries"].as_u64(), Some(list.len() as u64));
    let kept = format!("{}:{}", whole["last"], whole["head"].as_str().unwrap());
    receipts(&config, &["verify", "--head", &kept]).code(0);
    receipts(&config, &["verify", "--head", &format!("3:{}", "0".repeat(64))]).code(65).says("not in it");

    let export = dir.path().join("export");
    let done = receipts(&config, &["export", export.to_str().unwrap(), "--json"]).code(0).json();
    assert_eq!(done["receipts"].as_u64(), Some(list.len() as u64));
    receipts(&config, &["export", export.to_str().unwrap()]).code(73).says("not empty");
    let audit = finish(program().args(["audit", "list", "-c"]).arg(&config)).code(0).stdout;
    assert!(audit.contains("export") && audit.contains("receipts"), "{audit}");
    let sums = |list: &Path, at: &Path| {
        Command::new("sha256sum")
            .args(["--quiet", "-c"])
            .arg(list)
            .current_dir(at)
            .status()
            .unwrap()
            .success()
    };
    assert!(sums(Path::new("SHA256SUMS"), &export));
    assert!(Command::new("sh").arg(export.join("check.sh")).status().unwrap().success());
    assert!(sums(&export.join("objects/out"), &out));

    let report = receipts(&config, &["reconcile", "out", "--read", "--json"]).code(0).json();
    assert_eq!(report["fits"], Value::Bool(true));
    assert_eq!(report["present"].as_u64(), Some(files(&out).len() as u64));
    let all = files(&out);
    std::fs::copy(&all[0], out.join("receipts-test").join(all[0].file_name().unwrap())).unwrap();
    std::fs::remove_file(&all[1]).unwrap();
    let mut text = std::fs::read(&all[2]).unwrap();
    text[0] ^= 1;
    std::fs::write(&all[2], text).unwrap();
    let planted = format!("{:020}-{:020}-0123456789abcdef.jsonl", 900_000, 900_009);
    std::fs::write(out.join("receipts-test").join(planted), "").unwrap();
    std::fs::write(out.join("notes.txt"), "").unwrap();
    let report = receipts(&config, &["reconcile", "out", "--read", "--json"]).code(65).json();
    for kind in ["missing", "changed", "duplicate", "foreign"] {
        assert_eq!(report[kind]["count"], 1, "{kind}: {report}");
    }
    assert_eq!((&report["foreign"]["listed"][0]["first"], &report["not_ours"]), (&900_000.into(), &0.into()));
    let text = receipts(&config, &["reconcile", "out", "--all"]).code(65).stdout;
    assert!(text.contains("MISMATCH") && text.contains("names that no collector gives"), "{text}");
    receipts(&config, &["reconcile", "uot"]).code(64).says("has no sink \"uot\"");
}

#[test]
fn a_container_is_reconciled() {
    let Some(emulator) = azurite::emulator() else { return };
    let container = Container::create(&emulator, "receipts");
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("connection");
    std::fs::write(&secret, container.connection_string()).unwrap();
    let sink = format!(
        "type = \"blob\"\ncontainer = \"{}\"\nconnection_string = \"file:{}\"\ncompression = \"gzip\"",
        container.name,
        secret.display()
    );
    let config = configuration(dir.path(), &sink);
    let want = finish(program().args(["inspect", "--events"]).arg(trace(TRACE))).stdout.lines().count();
    let lines = || container.list().iter().map(|b| azurite::lines(&container.get(b)).len()).sum::<usize>();
    deliver(&config, || lines() == want);
    let report = receipts(&config, &["reconcile", "out", "--read", "--json"]).code(0).json();
    let blobs = container.list();
    assert_eq!(report["present"].as_u64(), Some(blobs.len() as u64), "{report}");

    // a blob of another host, one that is missing, and a copy of a third
    let third = container.get(&blobs[2]);
    container.put(&format!("copies/{}", blobs[2].rsplit('/').next().unwrap()), &third);
    let foreign = blobs[1].replace("-0", "-9");
    container.put(&foreign, b"x");
    container.delete(&blobs[0]);
    let report = receipts(&config, &["reconcile", "out", "--all", "--json"]).code(65).json();
    for (kind, count) in [("missing", 1), ("changed", 0), ("duplicate", 1)] {
        assert_eq!(report[kind]["count"], count, "{kind}: {report}");
    }
    assert_eq!(
        report["missing"]["listed"][0]["object"].as_str().unwrap().rsplit('/').next(),
        blobs[0].rsplit('/').next()
    );

    std::fs::write(&secret, container.connection_string().replace("AccountKey=E", "AccountKey=F")).unwrap();
    let ran = receipts(&config, &["reconcile", "out"]).code(78).says("cannot list sink");
    assert!(!ran.stderr.contains("AccountKey"), "{}", ran.stderr);
}
