//! `report`: from a running collector's counts to a page that a browser shows as it should.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Daemon, finish, program, root, until};

const EVENTS: usize = 400;

/// A collector that has taken events of a few providers, and ended.
fn collected(dir: &Path) -> PathBuf {
    let mut lines = String::new();
    for n in 0..EVENTS {
        let (provider, event) = match n % 10 {
            0..=4 => ("Contoso.StorageResource", "DiskUsage"),
            5..=7 => ("Contoso.NetworkResource", "AdapterInventory"),
            8 => ("Contoso.UpdateResource", "Trace"),
            _ if n < 30 => ("Ada.Private", "Diary"),
            _ if n < 60 => ("Bob.Private", "Notes"),
            _ => ("Contoso.StorageResource", "CriticalAlert"),
        };
        lines += &format!(
            "{{\"time\":\"2026-01-01T00:00:00Z\",\"provider\":\"{provider}\",\"event\":\"{event}\",\"fields\":{{\"n\":{n},\"text\":\"SECRETWORD\"}}}}\n"
        );
    }
    let input = dir.join("input.jsonl");
    fs::write(&input, lines).unwrap();
    let config = dir.join("tidegate.toml");
    fs::write(
        &config,
        format!(
            "[telemetry]\npolicy_file = {:?}\n[health]\nevents = false\n[aggregates]\nk = 5\n[ring]\npath = {:?}\n\
             [sources.app]\ntype = \"jsonl\"\npaths = [{input:?}]\n\
             [sinks.out]\ntype = \"directory\"\npath = {:?}\nbatch = {{ age = \"100ms\" }}\n",
            dir.join("policy.toml"),
            dir.join("ring"),
            dir.join("out"),
        ),
    )
    .unwrap();
    let daemon = Daemon::start(&config, &dir.join("log"));
    until("something is delivered", || {
        fs::read_dir(dir.join("out"))
            .is_ok_and(|d| d.flatten().any(|e| e.path().extension().is_some_and(|e| e == "jsonl")))
    });
    assert_eq!(daemon.terminate(), Some(0));
    config
}

fn report(config: &Path, args: &[&str]) -> crate::support::Ran {
    finish(program().args(["report", "-c"]).arg(config).args(args))
}

#[test]
fn a_report_counts_what_was_collected_and_names_no_rare_thing() {
    let dir = tempfile::tempdir().unwrap();
    let config = collected(dir.path());
    let made = report(&config, &["--json"]).code(0).json();
    assert_eq!((&made["events"], &made["k"]), (&serde_json::json!(EVENTS), &serde_json::json!(5)));
    let kinds = made["kinds"]["lines"].as_array().unwrap();
    let of = |event: &str| kinds.iter().find(|l| l["event"] == event).cloned().unwrap_or_default();
    assert_eq!(of("DiskUsage")["stored"], 200);
    assert_eq!(of("CriticalAlert")["stored"], 34);
    // Full is above the level in force, so it was dropped
    assert_eq!((of("Trace")["stored"].as_u64(), of("Trace")["dropped"].as_u64()), (Some(0), Some(40)));
    assert_eq!(made["critical_alerts"]["lines"][0]["stored"], 34);
    assert_eq!(made["configuration"].as_str().unwrap().len(), 16);
    let page = report(&config, &[]).code(0).stdout;
    for text in [made.to_string(), page] {
        assert!(["Ada.", "Bob.", "Diary", "Notes", "SECRETWORD"].iter().all(|word| !text.contains(word)));
    }
    // a flag makes it only stricter
    assert_eq!(report(&config, &["--json", "--k", "2"]).code(0).json()["k"], 5);
    assert_eq!(report(&config, &["--json", "--k", "50"]).code(0).json()["k"], 50);
    report(&config, &["--k", "1"]).code(64);
    report(&config, &["--last", "soon"]).code(64).says("length of time");
    let none = dir.path().join("none.toml");
    fs::write(
        &none,
        format!(
            "[ring]\npath = {:?}\n[sinks.out]\ntype = \"stdout\"\n[sources.s]\ntype = \"synthetic\"\n",
            dir.path().join("no")
        ),
    )
    .unwrap();
    report(&none, &[]).code(66).says("no aggregates");
}

/// The browser that `tests/run` has installed.
fn browser() -> Option<String> {
    let found = std::env::var("TIDEGATE_CHROMIUM").ok();
    if found.is_none() {
        let advice = "TIDEGATE_CHROMIUM is not set: start the tests with tests/run";
        assert!(std::env::var_os("CI").is_none(), "{advice}");
        eprintln!("SKIPPED: {advice}");
    }
    found
}

#[test]
fn a_browser_shows_the_page_without_a_complaint() {
    let Some(browser) = browser() else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = collected(dir.path());
    let page = dir.path().join("report.html");
    report(&config, &["--output", page.to_str().unwrap()]).code(0);
    let show = |args: &[String]| {
        let output = Command::new(&browser)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--enable-logging=stderr",
                "--v=0",
            ])
            .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
            .args(args)
            .arg(format!("file://{}", page.display()))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // what pages complain of, such as styles that the policy refuses
        assert!(!said.contains(":CONSOLE"), "{said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let shown = show(&["--dump-dom".to_owned()]);
    assert!(shown.contains("What was collected") && shown.contains("Contoso.StorageResource"), "{shown}");
    let picture = dir.path().join("report.png");
    show(&["--window-size=1000,1500".to_owned(), format!("--screenshot={}", picture.display())]);
    let bytes = fs::read(&picture).unwrap();
    // a page without its style sheet would be nearly empty
    assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 20_000, "{} bytes", bytes.len());
    if std::env::var_os("TIDEGATE_WRITE_DOCS").is_some() {
        fs::copy(&picture, root().join("collector/docs/report.png")).unwrap();
    }
}
