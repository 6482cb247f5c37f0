//! `pin`, and what wrong pins do to a running collector, with a real TLS server and a made chain.

use std::path::{Path, PathBuf};

use tidegate_sinks::http::pins::Pin;
use tidegate_sinks::testing::CannedServer;
use tidegate_sinks::testing::chain::Chain;
use tokio::runtime::Runtime;

use crate::support::{Daemon, Ran, finish, program, until};

struct Bench {
    chain: Chain,
    server: CannedServer,
    // the server's
    _runtime: Runtime,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let runtime = Runtime::new().unwrap();
        let chain = Chain::new();
        let server = runtime.block_on(chain.serve());
        Bench { chain, server, _runtime: runtime, dir: tempfile::tempdir().unwrap() }
    }

    fn address(&self) -> String {
        self.server.url().replace("https://", "")
    }

    fn ca(&self) -> PathBuf {
        self.chain.file("ca.pem", tidegate_sinks::testing::chain::pem("CERTIFICATE", &self.chain.root.der))
    }

    /// A configuration with an OTLP sink to the server.
    fn configuration(&self) -> PathBuf {
        let dir = self.dir.path();
        let config = dir.join("tidegate.toml");
        let text = format!(
            "[host]\nname = \"pins-test\"\n[telemetry]\npolicy_file = {:?}\n[health]\nevents = false\n\
             [ring]\npath = {:?}\n[sources.demo]\ntype = \"synthetic\"\nrate = 1000\nevents = 50\n\
             [sinks.out]\ntype = \"otlp\"\nurl = \"{}/v1/logs\"\nbatch = {{ age = \"50ms\" }}\n\
             [sinks.out.http.tls]\nca_file = {:?}\n[sinks.local]\ntype = \"directory\"\npath = {:?}\n",
            dir.join("no-policy.toml"),
            dir.join("ring"),
            self.server.url(),
            self.ca(),
            dir.join("out"),
        );
        std::fs::write(&config, text).unwrap();
        config
    }
}

fn pin(config: &Path, args: &[&str]) -> Ran {
    finish(program().arg("pin").args(args).arg("-c").arg(config))
}

fn text(pin: Pin) -> String {
    pin.to_string()
}

#[test]
fn a_server_is_shown_pinned_and_checked() {
    let bench = Bench::new();
    let (address, config, ca) = (bench.address(), bench.configuration(), bench.ca());
    let ca = ca.to_str().unwrap();
    let keys = [&bench.chain.leaf, &bench.chain.middle, &bench.chain.root].map(|m| text(m.pin()));

    let shown = finish(program().args(["pin", "show", &address, "--ca", ca])).code(0).stdout;
    assert!(shown.contains("the chain verifies") && keys.iter().all(|k| shown.contains(k)), "{shown}");
    let shown = finish(program().args(["pin", "show", &address, "--json"])).code(65).json();
    assert_eq!((&shown["verified"], &shown["sent"][0]["pin"]), (&false.into(), &keys[0].clone().into()));
    let shown = pin(&config, &["show", &address, "--sink", "out", "--json"]).code(0).json();
    assert_eq!(shown["chain"][2]["subject"], "Root");
    finish(program().args(["pin", "show", "a/b"])).code(64);

    let checked = pin(&config, &["check", "--json"]).code(0).json();
    assert_eq!(checked["endpoints"][0]["state"], "no-pins");
    let printed = pin(&config, &["add", &address, "--sink", "out"]).code(0).stdout;
    assert!(printed.contains("[[sinks.out.http.tls.pins]]") && printed.contains(&keys[2]), "{printed}");
    assert!(!bench.dir.path().join("conf.d").exists(), "only printed");
    pin(&config, &["add", &address, "--sink", "out", "--pin", "leaf"]).code(64).says("no backup");
    let foreign = text(Pin::of_spki(b"elsewhere"));
    pin(&config, &["add", &address, "--sink", "out", "--no-backup", "--pin", &foreign])
        .code(64)
        .says("would be refused");
    pin(&config, &["add", &address, "--sink", "local"]).code(64).says("does not use TLS");

    let add = ["add", &address, "--sink", "out", "--pin", "leaf", "--pin", &foreign, "--write"];
    let said = pin(&config, &add).code(0).stdout;
    assert!(said.contains("next start") && said.contains("a reload is not enough"), "{said}");
    pin(&config, &[&add[..], &["--report-only"]].concat()).code(64).says("are enforced for localhost");
    let checked = pin(&config, &["check"]).code(0).stdout;
    assert!(checked.contains("out localhost") && checked.contains("pinned: localhost"), "{checked}");
    // a second time: what is there stays
    pin(&config, &["add", &address, "--sink", "out", "--pin", "root", "--pin", "intermediate", "--write"])
        .code(0);
    let written = std::fs::read_to_string(bench.dir.path().join("conf.d/pins-out.toml")).unwrap();
    assert!(written.contains(&foreign) && keys.iter().all(|k| written.contains(k)), "{written}");
    assert_eq!(written.matches("[[sinks.out.http.tls.pins]]").count(), 1);

    // the certificate ends in 2039: too soon for who wants to know a hundred years before
    let early = written.replace("2592000s", "36500d");
    std::fs::write(bench.dir.path().join("conf.d/pins-out.toml"), early).unwrap();
    let checked = pin(&config, &["check"]).code(0).stdout;
    assert!(checked.contains("WARNING: the pinned certificate ends 2039-01-01"), "{checked}");
}

#[test]
fn the_server_of_remote_settings_is_checked_too() {
    let bench = Bench::new();
    let (address, config, keys) = (bench.address(), bench.configuration(), ["one", "two"]);
    let wrong = keys.map(|k| text(Pin::of_spki(k.as_bytes())));
    let settings = format!(
        "[settings]\nurl = \"https://{address}/settings\"\nkeys = {{ a = \"{}=\" }}\n\
         [settings.http.tls]\nca_file = {:?}\n[[settings.http.tls.pins]]\nsha256 = {wrong:?}\n",
        "A".repeat(43),
        bench.ca(),
    );
    std::fs::create_dir(bench.dir.path().join("conf.d")).unwrap();
    std::fs::write(bench.dir.path().join("conf.d/settings.toml"), settings).unwrap();
    let checked = pin(&config, &["check", "--json"]).code(65).json();
    let states = [&checked["endpoints"][0], &checked["endpoints"][1]].map(|e| (&e["section"], &e["state"]));
    assert_eq!(states, [(&"sinks.out".into(), &"no-pins".into()), (&"settings".into(), &"miss".into())]);
    let checked = pin(&config, &["check"]).code(65).stdout;
    assert!(checked.contains(&format!("[settings] {address}: miss")), "{checked}");
}

#[test]
fn wrong_pins_send_nothing_and_stand_in_the_audit_log() {
    let bench = Bench::new();
    let config = bench.configuration();
    let wrong = [text(Pin::of_spki(b"one")), text(Pin::of_spki(b"two"))];
    let pins = format!("[[sinks.out.http.tls.pins]]\nsha256 = {wrong:?}\n");
    std::fs::create_dir(bench.dir.path().join("conf.d")).unwrap();
    std::fs::write(bench.dir.path().join("conf.d/pins-out.toml"), pins).unwrap();
    let checked = pin(&config, &["check", "--json"]).code(65).json();
    assert_eq!(checked["endpoints"][0]["state"], "miss");
    let seen = bench.server.seen().len();

    let log = bench.dir.path().join("log");
    let daemon = Daemon::start(&config, &log);
    until("the sink holds", || std::fs::read_to_string(&log).unwrap().contains("the sink holds until"));
    let audit = || finish(program().args(["audit", "list", "--json", "-c"]).arg(&config));
    assert_eq!(daemon.terminate(), Some(0));
    assert_eq!(bench.server.seen().len(), seen, "nothing was sent");
    let entries = audit().code(0).lines();
    let failure = entries.iter().find(|e| e["entry"]["what"] == "pin_failure").expect("an entry");
    assert_eq!(failure["entry"]["endpoint"], "localhost");
    let reason = failure["entry"]["reason"].as_str().unwrap();
    assert!(reason.contains(&text(bench.chain.leaf.pin())), "{reason}");
    let text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(text.matches("no pin of localhost is in its verified chain; ").count() / 2, 1, "{text}");
}
