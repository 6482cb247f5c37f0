//! `buffer`: the ring looked at, carried over an air gap, purged, mended, drained.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Daemon, Ran, finish, program, trace, until};

const TRACE: &str = "tx/HTTP_Server";

/// A configuration in a folder of its own; `more` are its sources and sinks.
fn configuration(dir: &Path, host: &str, more: &str) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    let config = dir.join("tidegate.toml");
    let text = format!(
        "[host]\nname = \"{host}\"\n[telemetry]\nlevel = \"Full\"\nscrub = false\npolicy_file = {:?}\n\
         [health]\nevents = false\n[ring]\npath = {:?}\nfull = \"block\"\ncommit_delay = \"5ms\"\n{more}",
        dir.join("no-policy.toml"),
        dir.join("ring"),
    );
    std::fs::write(&config, text).unwrap();
    config
}

fn directory(out: &Path) -> String {
    format!(
        "[sinks.out]\ntype = \"directory\"\npath = {out:?}\nlayout = \"{{host}}\"\n\
         batch = {{ events = 300, age = \"50ms\" }}\n"
    )
}

fn buffer(config: &Path, args: &[&str]) -> Ran {
    finish(program().arg("buffer").args(args).arg("-c").arg(config))
}

/// Puts the events of a trace into the ring of a host without sinks.
fn fill(config: &Path) -> u64 {
    let ran = finish(program().arg("replay").arg(trace(TRACE)).arg("--json").arg("-c").arg(config)).code(0);
    let stored =
        ran.json()["total"]["stored"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert!(stored > 1000);
    stored
}

/// Files below a folder with their bytes, by path.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((path.strip_prefix(folder).unwrap().to_owned(), std::fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for (name, bytes) in files(from) {
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// A key file; its path as a reference, and its public part.
fn key(dir: &Path, name: &str) -> (String, String) {
    let path = dir.join(name);
    let made = finish(program().args(["buffer", "key"]).arg(&path)).code(0).stdout;
    let shown = finish(program().args(["buffer", "key"]).arg(&path)).code(0).stdout;
    assert_eq!(made, shown, "a key that is there is shown, not made anew");
    (format!("file:{}", path.display()), made.trim().to_owned())
}

fn sum(levels: &Value) -> u64 {
    levels.as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn events_cross_an_air_gap_under_their_own_names_and_receipts_settle_them() {
    let dir = tempfile::tempdir().unwrap();
    let usb = dir.path().join("usb");
    std::fs::create_dir(&usb).unwrap();
    let edge = configuration(&dir.path().join("edge"), "edge-7", "");
    let out = dir.path().join("carried");
    let hub = configuration(&dir.path().join("hub"), "hub", &directory(&out));
    let ((edge_key, edge_public), (hub_key, hub_public)) =
        (key(dir.path(), "edge.key"), key(dir.path(), "hub.key"));
    let stored = fill(&edge);

    // what the first host would have delivered itself
    let straight = dir.path().join("straight");
    let twin = configuration(&dir.path().join("twin"), "edge-7", &directory(&straight));
    copy(&dir.path().join("edge/ring"), &dir.path().join("twin/ring"));
    buffer(&twin, &["drain", "--quiet"]).code(0);

    let export = |more: &[&str]| {
        let args = ["export", "--json", "--to", text(&usb), "--key", &edge_key];
        buffer(&edge, &[&args[..], more].concat())
    };
    let made = export(&[]).code(0).json();
    assert_eq!(made["events"].as_u64(), Some(stored));
    let bundle = PathBuf::from(made["bundle"].as_str().unwrap());
    assert_eq!(export(&[]).code(0).json()["bundle"], Value::Null, "nothing follows");
    // the stick was lost: the same run again
    std::fs::remove_file(&bundle).unwrap();
    assert_eq!(export(&["--again"]).code(0).json(), made);
    assert_eq!(export(&["--again", "--first", "1"]).code(0).json(), made);
    export(&["--again", "--first", "2"]).code(64).says("begin at 1");
    export(&["--first", "1"]).code(64);
    let waits = buffer(&edge, &["status", "--json"]).code(0).json();
    assert_eq!(sum(&waits["sinks"]["bundle"]["held"]), stored);
    assert_eq!(waits["sinks"]["bundle"]["planned"].as_array().unwrap().len(), 1);

    let import = |trust: &str, bundle: &Path| {
        buffer(&hub, &["import", text(bundle), "--json", "--trust", trust, "--key", &hub_key])
    };
    import(&hub_public, &bundle).code(65).says("not signed by a trusted key");
    let mut bytes = std::fs::read(&bundle).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let tampered = usb.join("tampered.bundle");
    std::fs::write(&tampered, bytes).unwrap();
    import(&edge_public, &tampered).code(65).says("changed");
    assert!(!out.exists(), "nothing of a bundle that is refused is delivered");

    let done = import(&edge_public, &bundle).code(0).json()["bundles"][0].clone();
    assert_eq!((sum(&done["delivered"]), done["held"].as_u64()), (stored, Some(0)));
    let (carried, straight) = (files(&out), files(&straight));
    assert!(carried.len() > 3 && carried == straight, "names and bytes are those of the first host");
    let receipt = PathBuf::from(done["receipt"].as_str().unwrap());
    // once more changes nothing
    import(&edge_public, &bundle).code(0);
    assert_eq!(files(&out), carried);

    let settle = |trust: &str| buffer(&edge, &["settle", text(&receipt), "--json", "--trust", trust]);
    settle(&edge_public).code(65).says("not signed by a trusted key");
    assert_eq!(settle(&hub_public).code(0).json()["new"].as_u64(), Some(1));
    assert_eq!(settle(&hub_public).code(0).json()["new"].as_u64(), Some(0), "a receipt may be taken twice");
    let after = buffer(&edge, &["status", "--json"]).code(0).json();
    assert_eq!(after["account"]["problem"], Value::Null);
    let sink = &after["sinks"]["bundle"];
    assert_eq!((sum(&sink["held"]), sum(&sink["delivered"])), (0, stored));
    assert_eq!(sink["settled"], after["durable"]);
    let receipts = finish(program().args(["receipts", "list", "--json", "-c"]).arg(&edge)).code(0).lines();
    assert_eq!(receipts[0]["receipt"]["sink"], "out@hub");
    assert!(receipts[0]["receipt"]["objects"].as_array().unwrap().len() > 3);
    let audit = finish(program().args(["audit", "list", "-c"]).arg(&edge)).code(0).stdout;
    assert!(audit.contains("export"), "{audit}");

    // the export will not go on: the ring keeps nothing for it any more
    let told = buffer(&edge, &["status"]).code(0).stdout;
    assert!(told.contains("tidegate buffer detach bundle"), "{told}");
    buffer(&edge, &["detach", "nobody"]).code(64).says("no sink");
    assert_eq!(buffer(&edge, &["detach", "bundle", "--json"]).code(0).json()["held"].as_u64(), Some(0));
    let gone = buffer(&edge, &["status", "--json"]).code(0).json();
    assert_eq!(gone["sinks"].as_object().unwrap().len(), 0);
    assert_eq!(gone["account"]["problem"], Value::Null);
    buffer(&hub, &["detach", "out"]).code(64).says("is configured");

    // a receipt of another host's ring
    let other = configuration(&dir.path().join("other"), "edge-8", "");
    fill(&other);
    buffer(&other, &["settle", text(&receipt), "--trust", &hub_public]).code(65).says("epoch");
    buffer(&other, &["export", "--to", text(&usb), "--key", "0123abcd"]).code(64).says("by reference only");
}

#[test]
fn what_is_above_the_level_of_the_importing_host_stays_out_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let edge = configuration(&dir.path().join("edge"), "edge-7", "");
    let out = dir.path().join("out");
    let hub = configuration(&dir.path().join("hub"), "hub", &directory(&out));
    let strict = std::fs::read_to_string(&hub).unwrap().replace("level = \"Full\"", "level = \"Basic\"");
    std::fs::write(&hub, strict).unwrap();
    let (key, public) = key(dir.path(), "key");
    let stored = fill(&edge);
    let bundle = dir.path().join("x.bundle");
    buffer(&edge, &["export", "--to", text(&bundle), "--key", &key]).code(0);
    let args = ["import", text(&bundle), "--json", "--trust", &public, "--key", &key];
    let done = buffer(&hub, &args).code(0).json()["bundles"][0].clone();
    let left_out = done["left_out"].as_u64().unwrap();
    assert!(left_out > 0);
    assert_eq!(sum(&done["delivered"]) + left_out, stored);
    buffer(&edge, &["settle", text(&dir.path().join("x.receipt")), "--trust", &public]).code(0);
    let status = buffer(&edge, &["status", "--json"]).code(0).json();
    assert_eq!(status["account"]["problem"], Value::Null);
    assert_eq!(sum(&status["sinks"]["bundle"]["lost"]["level"]), left_out);
    let told = buffer(&edge, &["status"]).code(0).stdout;
    assert!(told.contains(" level; settled up to") && !told.contains("lost"), "{told}");
}

#[test]
fn a_drain_over_a_metered_network_says_what_waits_for_another() {
    let dir = tempfile::tempdir().unwrap();
    fill(&configuration(dir.path(), "here", ""));
    let cloud = "[network]\nmetered = \"yes\"\n[sinks.cloud]\ntype = \"events\"\n\
                 url = \"http://127.0.0.1:9/OneCollector/1.0/\"\n\
                 tenant = \"value:0123456789abcdef0123456789abcdef-11111111-2222-3333-4444-555555555555-6789\"\n\
                 [[sinks.cloud.latency]]\nclass = \"cost-deferred\"\n";
    let config = configuration(dir.path(), "here", cloud);
    let told = buffer(&config, &["drain", "--patience", "5s"]).code(75).stdout;
    assert!(told.contains("wait for a network that is not metered"), "{told}");
}

#[test]
fn a_running_collector_keeps_the_others_out_and_says_who_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path(), "here", "");
    buffer(&config, &["status"]).code(66).says("there is no ring");
    buffer(&config, &["drain"]).code(78).says("no sink");
    fill(&config);
    let sources = format!("[sources.t]\ntype = \"etl\"\npaths = [{:?}]\n", trace(TRACE));
    let run = configuration(dir.path(), "here", &(sources + &directory(&dir.path().join("out"))));
    let daemon = Daemon::start(&run, &dir.path().join("log"));
    // asking for the ring would keep the collector from it
    until("the collector delivers", || !files(&dir.path().join("out")).is_empty());
    for command in ["status", "inspect", "verify", "repair"] {
        let ran = buffer(&config, &[command]).code(75).says("the collector runs");
        assert!(!cfg!(unix) || ran.stderr.contains("by process "), "{}", ran.stderr);
    }
    assert_eq!(daemon.terminate(), Some(0));
    buffer(&config, &["status"]).code(0);
}

#[test]
fn blocks_and_events_are_listed_and_a_purge_leaves_no_byte_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let lines = dir.path().join("in.jsonl");
    let event = |n: u64, text: &str| {
        format!(
            "{{\"time\":\"2024-01-01T00:00:{:02}Z\",\"provider\":\"Shop.{}\",\"event\":\"Sold\",\"data\":{{\"card\":\"{text}\"}}}}\n",
            n % 60,
            n % 3
        )
    };
    let text_of = |n: u64| if n == 50 { "secret-4711-\\\"card" } else { "an ordinary value" };
    std::fs::write(&lines, (0..300).map(|n| event(n, text_of(n))).collect::<String>()).unwrap();
    let config = configuration(dir.path(), "here", "");
    let plain =
        std::fs::read_to_string(&config).unwrap().replace("[ring]\n", "[ring]\ncompression = \"none\"\n");
    std::fs::write(&config, plain).unwrap();
    finish(program().arg("replay").arg(&lines).arg("--quiet").arg("-c").arg(&config)).code(0);

    let holds = |needle: &str| {
        let bytes = needle.as_bytes();
        files(&dir.path().join("ring")).iter().any(|(_, f)| f.windows(bytes.len()).any(|w| w == bytes))
    };
    assert!(holds("secret-4711"));
    let blocks = buffer(&config, &["inspect", "--json"]).code(0).lines();
    assert_eq!(blocks.iter().map(|b| b["events"].as_u64().unwrap()).sum::<u64>(), 300);
    let table = buffer(&config, &["inspect"]).code(0).stdout;
    assert_eq!(table.lines().count(), blocks.len() + 1, "{table}");
    let events = buffer(&config, &["inspect", "--events"]).code(0).lines();
    assert_eq!(events.len(), 300);
    assert!(events.is_sorted_by(|a, b| a["seq"].as_u64() < b["seq"].as_u64()));
    let some = buffer(&config, &["inspect", "--events", "--provider", "Shop.1", "--limit", "7"]).code(0);
    assert_eq!(some.lines().len(), 7);
    let after = buffer(&config, &["inspect", "--events", "--after", "290"]).code(0).lines();
    assert_eq!(after.len(), 10);

    buffer(&config, &["purge"]).code(64).says("which events?");
    let gone = buffer(&config, &["purge", "--json", "--match", "any like '*4711-\"card'"]).code(0);
    assert!(!gone.stdout.contains("4711"), "what is looked for is not repeated: {}", gone.stdout);
    assert_eq!(sum(&gone.json()["events"]), 1);
    assert!(!holds("secret-4711"), "it can still be found in a file");
    assert_eq!(
        sum(&buffer(&config, &["purge", "--json", "--provider", "Shop.2"]).code(0).json()["events"]),
        99
    );
    assert_eq!(buffer(&config, &["inspect", "--json", "--provider", "Shop.2"]).code(0).stdout, "");
    let audit = finish(program().args(["audit", "list", "-c"]).arg(&config)).code(0).stdout;
    assert!(audit.contains("purge") && audit.contains("Shop.2") && !audit.contains("4711"), "{audit}");
    assert_eq!(
        sum(&buffer(&config, &["purge", "--json", "--older-than", "1h"]).code(0).json()["events"]),
        200
    );
    let status = buffer(&config, &["status", "--json"]).code(0).json();
    assert_eq!(status["account"]["problem"], Value::Null);
    buffer(&config, &["verify"]).code(0);
}

#[test]
fn damage_is_found_without_touching_a_file_then_set_aside_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let small = "[intake]\nseal_bytes = \"8KiB\"\n";
    let config = configuration(dir.path(), "here", small);
    let stored = fill(&config);
    let ring = dir.path().join("ring");
    let sound = buffer(&config, &["verify", "--json"]).code(0).json();
    assert_eq!((sound["sound"].as_bool(), sound["events"].as_u64()), (Some(true), Some(stored)));
    let segment = segment(&ring);
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 16].fill(0xa5);
    std::fs::write(&segment, bytes).unwrap();
    let not_the_lock = |all: Vec<(PathBuf, Vec<u8>)>| -> Vec<_> {
        all.into_iter().filter(|(name, _)| name.as_os_str() != "lock").collect()
    };
    let before = not_the_lock(files(&ring));
    let found = buffer(&config, &["verify", "--json"]).code(65).json();
    assert!(!found["problems"].as_array().unwrap().is_empty());
    buffer(&config, &["verify"]).code(65).says("tidegate buffer repair");
    buffer(&config, &["status"]).code(0);
    assert!(not_the_lock(files(&ring)) == before, "looking changed a file");

    let mended = buffer(&config, &["repair", "--json"]).code(0).json();
    assert_eq!(mended["segments"].as_u64(), Some(1), "{mended}");
    buffer(&config, &["verify"]).code(0);
    let again = buffer(&config, &["repair"]).code(0);
    assert!(again.stdout.contains("nothing was damaged"), "{}", again.stdout);
    let audit = finish(program().args(["audit", "list", "-c"]).arg(&config)).code(0).stdout;
    assert!(audit.contains("repair"), "{audit}");
    // the rest goes on to where it is wanted
    let config = configuration(dir.path(), "here", &(small.to_owned() + &directory(&out)));
    let drained = buffer(&config, &["drain", "--json"]).code(0).json();
    let delivered = sum(&drained["total"]["sinks"]["out"]["delivered"]);
    let report = mended.to_string();
    assert!(
        delivered == stored || delivered > 0 && report.contains("count as lost"),
        "{delivered}: {report}"
    );
}

/// The first segment of a ring.
fn segment(ring: &Path) -> PathBuf {
    let found = files(ring).into_iter().map(|f| f.0).find(|n| n.extension().is_some_and(|e| e == "seg"));
    ring.join(found.unwrap())
}

#[test]
fn one_repair_mends_a_damaged_header() {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path(), "here", "");
    let stored = fill(&config);
    let segment = segment(&dir.path().join("ring"));
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[3] ^= 0x5a;
    std::fs::write(&segment, bytes).unwrap();
    buffer(&config, &["verify"]).code(65).says("tidegate buffer repair");
    let mended = buffer(&config, &["repair", "--json"]).code(0).json();
    assert_eq!(mended["segments"].as_u64(), Some(1), "{mended}");
    let sound = buffer(&config, &["verify", "--json"]).code(0).json();
    assert_eq!((sound["sound"].as_bool(), sound["events"].as_u64()), (Some(true), Some(stored)));
    let again = buffer(&config, &["repair"]).code(0);
    assert!(again.stdout.contains("nothing was damaged"), "{}", again.stdout);
}

#[test]
fn stray_files_beside_the_segments_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path(), "here", "");
    let stored = fill(&config);
    let segments = dir.path().join("ring/segments");
    let stray = ["1.seg", "ffffffffffffffff.seg"].map(|n| segments.join(n));
    stray.iter().for_each(|f| std::fs::write(f, "not of the ring").unwrap());
    let lines = dir.path().join("more.jsonl");
    let line = "{\"time\":\"2024-01-01T00:00:00Z\",\"provider\":\"Shop.1\",\"event\":\"Sold\"}\n";
    std::fs::write(&lines, line.repeat(100)).unwrap();
    finish(program().arg("replay").arg(&lines).arg("--quiet").arg("-c").arg(&config)).code(0);
    let sound = buffer(&config, &["verify", "--json"]).code(0).json();
    assert_eq!((sound["sound"].as_bool(), sound["events"].as_u64()), (Some(true), Some(stored + 100)));
    stray.iter().for_each(|f| assert_eq!(std::fs::read(f).unwrap(), b"not of the ring"));
}

#[test]
fn a_ring_of_a_newer_version_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path(), "here", "");
    fill(&config);
    let segment = segment(&dir.path().join("ring"));
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[8] = 2;
    let crc = bytes[..48].iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| c >> 1 ^ if c & 1 == 1 { 0x82f6_3b78 } else { 0 })
    });
    bytes[48..52].copy_from_slice(&(!crc).to_le_bytes());
    std::fs::write(&segment, bytes).unwrap();
    let before = files(&dir.path().join("ring/segments"));
    for command in [&["buffer", "status"][..], &["buffer", "repair"], &["run"]] {
        let ran = finish(program().args(command).arg("-c").arg(&config)).code(65);
        ran.says("format 2").says("use the version that wrote it").says("nothing that it holds was changed");
    }
    assert!(files(&dir.path().join("ring/segments")) == before);
}

#[test]
fn receipts_taken_again_count_nothing_and_a_longer_bundle_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let edge = configuration(&dir.path().join("edge"), "edge-7", "[intake]\nseal_bytes = \"8KiB\"\n");
    let hub = configuration(&dir.path().join("hub"), "hub", &directory(&dir.path().join("out")));
    let (key, public) = key(dir.path(), "key");
    let stored = fill(&edge);
    let import = |bundle: &Path| buffer(&hub, &["import", text(bundle), "--trust", &public, "--key", &key]);
    let bundles = ["a", "b"].map(|n| dir.path().join(n).with_extension("bundle"));
    for (bundle, most) in bundles.iter().zip(["100", "1000000"]) {
        buffer(&edge, &["export", "--to", text(bundle), "--key", &key, "--max-events", most]).code(0);
        let mut longer = std::fs::read(bundle).unwrap();
        longer.push(b'?');
        let twisted = bundle.with_extension("longer");
        std::fs::write(&twisted, longer).unwrap();
        import(&twisted).code(65).says("more follows");
        import(bundle).code(0);
    }
    let receipts = bundles.map(|b| b.with_extension("receipt"));
    let settle = |receipts: &[&str]| {
        let args = [&["settle", "--json", "--trust", &public][..], receipts].concat();
        let told = buffer(&edge, &args).code(0).json();
        ["runs", "new", "delivered"].map(|n| told[n].as_u64().unwrap())
    };
    let [one, both] = [&[text(&receipts[0])][..], &[text(&receipts[0]), text(&receipts[1])]];
    let first = settle(one)[2];
    assert!(0 < first && first < stored);
    assert_eq!(settle(both), [2, 1, stored - first], "what was settled before counts once");
    assert_eq!(settle(both), [2, 0, 0]);
}

#[test]
fn a_ring_with_a_key_holds_no_readable_event_and_opens_only_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let lines = dir.path().join("in.jsonl");
    let line = "{\"time\":\"2024-01-01T00:00:00Z\",\"provider\":\"Shop.1\",\"event\":\"Sold\",\"data\":{\"what\":\"plain-4711\"}}\n";
    std::fs::write(&lines, line.repeat(100)).unwrap();
    let (reference, _) = key(dir.path(), "at-rest.key");
    let config = configuration(dir.path(), "here", "");
    let unsealed = std::fs::read_to_string(&config).unwrap();
    let sealed =
        unsealed.replace("[ring]\n", &format!("[ring]\ncompression = \"none\"\nkey = {reference:?}\n"));
    std::fs::write(&config, &sealed).unwrap();
    finish(program().arg("replay").arg(&lines).arg("--quiet").arg("-c").arg(&config)).code(0);
    for (path, bytes) in files(&dir.path().join("ring")) {
        assert!(!bytes.windows(10).any(|w| w == b"plain-4711"), "it can be read in {}", path.display());
    }
    let events = buffer(&config, &["inspect", "--events"]).code(0).lines();
    assert_eq!(events.len(), 100);
    assert!(events[0].to_string().contains("plain-4711"), "{}", events[0]);
    buffer(&config, &["verify"]).code(0);

    // without the key, and with a broken one, nothing is shown and nothing is lost
    std::fs::write(&config, unsealed).unwrap();
    let refused = buffer(&config, &["inspect", "--events"]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("key"), "{}", refused.stderr);
    std::fs::write(dir.path().join("bad.key"), "no key").unwrap();
    std::fs::write(&config, sealed.replace("at-rest.key", "bad.key")).unwrap();
    buffer(&config, &["status"]).code(78).says("ring.key").says("64 hexadecimal digits");
    std::fs::write(&config, sealed).unwrap();
    assert_eq!(buffer(&config, &["inspect", "--events"]).code(0).lines().len(), 100);
}

#[test]
fn a_rotated_key_file_seals_with_the_new_key_and_opens_what_the_old_one_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let lines = dir.path().join("in.jsonl");
    let line = "{\"time\":\"2024-01-01T00:00:00Z\",\"provider\":\"Shop.1\",\"event\":\"Sold\"}\n";
    std::fs::write(&lines, line.repeat(100)).unwrap();
    let (reference, old) = key(dir.path(), "at-rest.key");
    let file = dir.path().join("at-rest.key");
    let config = configuration(dir.path(), "here", "");
    let sealed = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, sealed.replace("[ring]\n", &format!("[ring]\nkey = {reference:?}\n"))).unwrap();
    let fill = |lines: &Path| {
        finish(program().arg("replay").arg(lines).arg("--quiet").arg("-c").arg(&config)).code(0);
    };
    let held = || buffer(&config, &["inspect", "--events"]).code(0).lines().len();
    let change = |args: &[&str]| finish(program().args(["buffer", "key"]).arg(&file).args(args)).code(0);
    fill(&lines);
    std::fs::write(&file, format!("# of the ring\n{}", std::fs::read_to_string(&file).unwrap())).unwrap();
    let new = change(&["--rotate"]).says("2 keys").stdout;
    assert_ne!(new.trim(), old);
    assert_eq!(change(&[]).stdout, new, "the newest key is shown");
    let more = dir.path().join("more.jsonl");
    std::fs::write(&more, line.repeat(50)).unwrap();
    fill(&more);
    assert_eq!(held(), 150);
    // without the old key nothing that it sealed is shown, and nothing is lost of it
    let both = std::fs::read_to_string(&file).unwrap();
    assert_eq!(change(&["--keep", "1"]).says("1 key").stdout, new);
    assert!(std::fs::read_to_string(&file).unwrap().contains("# of the ring"), "a comment went with a key");
    buffer(&config, &["inspect", "--events"]).says("key");
    std::fs::write(&file, both).unwrap();
    assert_eq!(held(), 150);
    buffer(&config, &["verify"]).code(0);
    std::fs::write(&file, "no key").unwrap();
    let refused = finish(program().args(["buffer", "key"]).arg(&file).arg("--rotate")).code(65);
    refused.says("holds no key");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "no key", "what is no key file was written over");
}

#[test]
fn what_a_lowered_level_could_not_remove_is_told_and_goes_before_the_level_rises() {
    let dir = tempfile::tempdir().unwrap();
    let (reference, _) = key(dir.path(), "at-rest.key");
    let key_line = format!("key = {reference:?}\n");
    let config = configuration(dir.path(), "here", &key_line);
    fill(&config);
    let tell = |args: &[&str]| finish(program().args(args).arg("-c").arg(&config));
    tell(&["telemetry", "disable"]).code(0);
    configuration(dir.path(), "here", &format!("{key_line}{}", directory(&dir.path().join("out"))));
    buffer(&config, &["drain"]).code(75).says("telemetry is disabled");
    configuration(dir.path(), "here", &key_line);
    tell(&["telemetry", "enable"]).code(0);
    let file = dir.path().join("at-rest.key");
    let good = std::fs::read(&file).unwrap();
    key(dir.path(), "other.key");
    std::fs::copy(dir.path().join("other.key"), &file).unwrap();
    buffer(&config, &["verify"]).code(78).says("[ring] key");
    buffer(&config, &["status"]).code(0);
    buffer(&config, &["purge", "--above", "basic"]).code(78).says("[ring] key");
    tell(&["level", "set", "basic"]).code(75).says("level 1 Basic is in force").says("key that sealed it");
    let shown = tell(&["level", "show", "--json"]).code(0).json();
    assert!(shown["alarm"].as_str().unwrap().contains("has to be removed"), "{shown}");
    tell(&["level", "set", "none"]).code(75).says("level 1 Basic is in force");
    std::fs::write(&file, good).unwrap();
    let raised = tell(&["level", "set", "none", "--json"]).code(0).json();
    assert_eq!((raised["level"].as_u64(), &raised["alarm"]), (Some(3), &Value::Null));
    let left = buffer(&config, &["inspect", "--events"]).code(0).lines();
    assert!(
        left.iter().all(|e| e["telemetryLevel"] == "Security" || e["telemetryLevel"] == "Basic"),
        "{:?}",
        left.first()
    );
}

#[cfg(not(windows))]
#[test]
fn where_there_is_no_dpapi_it_is_said_what_to_use_instead() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sealed.key");
    let refused = finish(program().args(["buffer", "key", "--dpapi"]).arg(&file)).code(69);
    assert!(refused.stderr.contains("LoadCredentialEncrypted="), "{}", refused.stderr);
    assert!(!file.exists());
    let config = configuration(dir.path(), "here", "");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("[ring]\n", "[ring]\nkey = \"dpapi:sealed.key\"\n")).unwrap();
    for command in [&["validate"][..], &["buffer", "status"]] {
        let ran = finish(program().args(command).arg("-c").arg(&config)).code(78);
        ran.says("ring.key").says("only Windows has DPAPI").says("cred:NAME");
    }
    // a sink's secret as well
    let tenant =
        format!("[sinks.a]\ntype = \"events\"\nurl = \"https://h.example/\"\ntenant = \"dpapi:x\"\n{text}");
    std::fs::write(&config, tenant).unwrap();
    finish(program().args(["validate", "-c"]).arg(&config))
        .code(78)
        .says("only Windows has DPAPI")
        .says("sinks.a");
}
