//! Rules of the tree that no compiler holds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::root;

/// Which of our crates a crate may use, tests and build scripts aside.
const ARROWS: [(&str, &[&str]); 9] = [
    ("tidegate-proto", &[]),
    ("tidegate-etl", &["tidegate-proto"]),
    ("tidegate-sources", &["tidegate-proto", "tidegate-etl"]),
    ("tidegate-ring", &["tidegate-proto"]),
    ("tidegate-sinks", &["tidegate-proto"]),
    ("tidegate", &["tidegate-proto", "tidegate-etl", "tidegate-sources", "tidegate-ring", "tidegate-sinks"]),
    (
        "tidegate-benches",
        &[
            "tidegate-proto",
            "tidegate-etl",
            "tidegate-sources",
            "tidegate-ring",
            "tidegate-sinks",
            "tidegate",
        ],
    ),
    ("tidegate-tests", &["tidegate"]),
    ("tidegate-trace-standin", &["tidegate-proto", "tidegate-etl"]),
];

/// Crates of others that only one of ours may use.
const CONFINED: [(&str, &str); 8] = [
    ("sled", "tidegate-ring"),
    ("reqwest", "tidegate-sinks"),
    ("rustls-platform-verifier", "tidegate-sinks"),
    ("ferrisetw", "tidegate-sources"),
    ("clap", "tidegate"),
    ("indicatif", "tidegate"),
    ("tracing-subscriber", "tidegate"),
    ("criterion", "tidegate-benches"),
];

/// Lines a source file may have.
const LINES: usize = 700;
/// Files that are longer, with the most they may have: to be lowered, never raised.
const LONG: &[(&str, usize)] = &[];

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Where code may be unsafe, by crate: to speak to the system.
const UNSAFE: &[(&str, &[&str])] = &[
    (
        "tidegate-sources",
        &[
            "sources/src/arenas.rs",
            "sources/src/census/windows/raw.rs",
            "sources/src/etw/windows/consumer.rs",
            "sources/src/etw/windows/control.rs",
            "sources/src/etw/windows/raw.rs",
            "sources/src/etw/windows/tdh.rs",
        ],
    ),
    ("tidegate-sinks", &["sinks/src/secret/windows.rs"]),
];

#[test]
fn crates_depend_only_along_the_arrows() {
    let arrows = BTreeMap::from(ARROWS);
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        let allowed = arrows.get(name).unwrap_or_else(|| panic!("{name} has no arrows: add it to ARROWS"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let used = dependency["name"].as_str().unwrap();
            let normal = dependency["kind"].is_null();
            if used.starts_with("tidegate") {
                assert!(!normal || allowed.contains(&used), "{name} may not use {used}");
            }
            for (crate_name, only) in CONFINED {
                assert!(
                    !normal || used != crate_name || name == only,
                    "{used} belongs to {only}, not {name}"
                );
            }
        }
    }
}

#[test]
fn every_crate_takes_the_lints_and_forbids_unsafe() {
    for package in packages() {
        let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap());
        let text = std::fs::read_to_string(&manifest).unwrap();
        assert!(text.contains("[lints]\nworkspace = true"), "{} takes no lints", manifest.display());
        for target in package["targets"].as_array().unwrap() {
            let kind = target["kind"][0].as_str().unwrap();
            if matches!(kind, "lib" | "bin") {
                let source = target["src_path"].as_str().unwrap();
                let text = std::fs::read_to_string(source).unwrap();
                // where a crate speaks to the system, it argues each unsafe block instead
                let speaks = UNSAFE.iter().any(|(crate_name, _)| package["name"] == *crate_name);
                let level = if speaks { "deny" } else { "forbid" };
                assert!(text.contains(&format!("#![{level}(unsafe_code)]")), "{source} allows unsafe code");
            }
        }
    }
    let places: BTreeSet<&str> = UNSAFE.iter().flat_map(|(_, places)| places.iter().copied()).collect();
    for (name, text) in texts(&["rs"]) {
        let allows = text.contains(&["allow(", "unsafe_code"].concat());
        assert!(!allows || places.contains(name.as_str()), "{name} allows unsafe code");
    }
}

/// Files of the tree, without what is built, fetched or given.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            let built = matches!(name.as_str(), "target" | "node_modules" | ".git" | "corpus" | "artifacts");
            if !built && path != root().join("tests/data") {
                files(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

fn texts(endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    files(root(), &mut found);
    let ending = |p: &Path| p.extension().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default();
    found.retain(|p| endings.contains(&ending(p).as_str()));
    let name = |p: &Path| p.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
    found.iter().filter_map(|p| Some((name(p), std::fs::read_to_string(p).ok()?))).collect()
}

#[test]
fn source_files_stay_short() {
    let long: BTreeMap<&str, usize> = LONG.iter().copied().collect();
    let mut seen = BTreeSet::new();
    for (name, text) in texts(&["rs"]) {
        let (lines, limit) = (text.lines().count(), long.get(name.as_str()).copied().unwrap_or(LINES));
        assert!(lines <= limit, "{name} has {lines} lines, {limit} are allowed: split it by idea");
        if lines > LINES {
            seen.insert(name);
        }
    }
    for (name, _) in LONG {
        assert!(seen.contains(*name), "{name} is short enough now: take it off the list");
    }
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    for (name, text) in texts(&["md"]) {
        let dir = root().join(&name).parent().unwrap().to_owned();
        for rest in text.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            assert!(dir.join(path).exists(), "{name} links to {path}, which is not there");
        }
    }
}

#[test]
fn no_text_tells_of_the_machine_it_was_written_on() {
    // put together here so that this file does not hold them
    let words = [
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["registry.", "npmjs"],
        ["TO", "DO"],
        ["FIX", "ME"],
        ["Cla", "ude"],
        ["Anth", "ropic"],
        ["Chat", "GPT"],
        ["Copi", "lot"],
    ]
    .map(|w| w.concat());
    for (name, text) in
        texts(&["rs", "md", "toml", "json", "sh", "proto", "yml", "yaml", "html", "js", "css"])
    {
        for word in &words {
            let at = text.lines().position(|l| l.contains(word.as_str()));
            assert!(at.is_none(), "{name}:{}: \"{word}\" does not belong here", at.unwrap_or(0) + 1);
        }
    }
}
