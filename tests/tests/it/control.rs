//! A collector that runs, told and asked from outside: level, switch, policy, audit.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tidegate_sinks::events::recorder::{Recorder, Step};

use crate::support::{Daemon, Ran, finish, program, until};

const TENANT: &str = "0123456789abcdef0123456789abcdef-01234567-89ab-cdef-0123-456789abcdef-0123";

/// What an operator has at hand: a folder with a configuration, an input and a far side.
struct Site {
    dir: tempfile::TempDir,
    far: Recorder,
}

impl Site {
    /// A far side that is away; the input is a file that is followed.
    fn new() -> Site {
        let site = Site { dir: tempfile::tempdir().unwrap(), far: Recorder::start(&[TENANT]).unwrap() };
        site.far.set_delta(None);
        site.away();
        let levels = ["Security", "Basic", "Enhanced", "Full"];
        let rule = |l: &str| {
            format!(
                "[[rule]]\nname = \"my-{l}\"\nprovider = \"Contoso.*\"\nevent = \"{l}*\"\nlevel = \"{l}\"\n"
            )
        };
        site.put("levels.toml", &format!("version = 1\n{}", levels.map(rule).concat()));
        site.put("tenant", TENANT);
        site.put("in.jsonl", "");
        site.configure("");
        site
    }

    /// Writes the configuration, with more at its end.
    fn configure(&self, more: &str) {
        let at = |name: &str| self.path(name).display().to_string();
        self.put(
            "tidegate.toml",
            &format!(
                "[telemetry]\nlevel = \"Full\"\npolicy_file = {:?}\ncatalogues = [{:?}]\n\
                 [ring]\npath = {:?}\ncompression = \"none\"\ncommit_delay = \"10ms\"\n\
                 [shutdown]\ndrain = \"0s\"\n\
                 [sources.app]\ntype = \"jsonl\"\npaths = [{:?}]\nfollow = true\n\
                 [sinks.far]\ntype = \"events\"\nurl = {:?}\ntenant = \"file:{}\"\nbatch = {{ age = \"10ms\" }}\n\
                 [sinks.far.retry]\nfirst = \"10ms\"\nmost = \"50ms\"\n{more}",
                at("policy.toml"),
                at("levels.toml"),
                at("ring"),
                at("in.jsonl"),
                self.far.url(),
                at("tenant"),
            ),
        );
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        // renamed, so that nobody reads half of it
        let new = self.path(&format!("{name}.new"));
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    fn away(&self) {
        self.far.script(std::iter::repeat_with(|| Step::status(503)).take(100_000));
    }

    fn back(&self) {
        self.far.end_script();
    }

    /// Appends an event whose name says its level.
    fn say(&self, level: &str, text: &str) {
        let mut file = fs::File::options().append(true).open(self.path("in.jsonl")).unwrap();
        writeln!(file, "{{\"provider\":\"Contoso.App\",\"event\":\"{level}\",\"text\":\"{text}\"}}").unwrap();
    }

    fn start(&self) -> Daemon {
        let daemon = Daemon::start(&self.path("tidegate.toml"), &self.path("log"));
        until("it can be asked", || self.path("control.sock").exists());
        daemon
    }

    fn tidegate(&self, args: &[&str]) -> Ran {
        finish(program().args(args).arg("-c").arg(self.path("tidegate.toml")))
    }

    fn json(&self, args: &[&str]) -> Value {
        self.tidegate(&[args, &["--json"]].concat()).code(0).json()
    }

    /// Whether the ring's files hold a text.
    fn stored(&self, text: &str) -> bool {
        holds(&self.path("ring"), text.as_bytes())
    }

    /// Whether the far side has a text.
    fn arrived(&self, text: &str) -> bool {
        self.far.events().values().any(|e| e.to_string().contains(text))
    }

    fn audit(&self) -> Vec<Value> {
        let listed = self.tidegate(&["audit", "list", "--json"]).code(0).lines();
        listed.into_iter().map(|l| l["entry"].clone()).collect()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }
}

fn holds(folder: &Path, text: &[u8]) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, text);
        }
        // a file may be gone again
        fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|w| w == text))
    })
}

#[test]
fn lowering_the_level_of_a_running_collector_removes_what_is_queued_above_it() {
    let site = Site::new();
    let daemon = site.start();
    for (level, text) in [("Full", "marker-full"), ("Enhanced", "marker-enhanced"), ("Basic", "marker-basic")]
    {
        site.say(level, text);
    }
    until("all is stored", || {
        ["marker-full", "marker-enhanced", "marker-basic"].iter().all(|t| site.stored(t))
    });
    until("sending was tried", || !site.far.requests().is_empty());
    let set = site.json(&["level", "set", "1"]);
    assert_eq!((&set["level"], &set["decided_by"]), (&1.into(), &"run-time switch".into()));
    // the command has returned: nothing is left, and nothing is sent any more
    assert!(!site.stored("marker-full") && !site.stored("marker-enhanced") && site.stored("marker-basic"));
    let seen = site.far.requests().len();
    site.back();
    site.say("Full", "later-full");
    site.say("Basic", "later-basic");
    until("the rest arrives", || site.arrived("marker-basic") && site.arrived("later-basic"));
    assert!(!site.arrived("marker-full") && !site.arrived("marker-enhanced") && !site.arrived("later-full"));
    let after = &site.far.requests()[seen..];
    assert!(!after.iter().any(|r| r.events.iter().any(|e| e.to_string().contains("-full"))));
    assert!(!site.stored("later-full"));

    let audit = site.audit();
    let entry = audit.iter().rfind(|e| e["what"] == "level").unwrap();
    assert_eq!((&entry["from"]["level"], &entry["to"]["level"]), (&3.into(), &1.into()), "{entry}");
    assert_eq!((&entry["purged"][3], &entry["purged"][2]), (&1.into(), &1.into()), "{entry}");
    assert!(entry["who"].as_str().unwrap().contains("uid"), "{entry}");
    site.tidegate(&["audit", "verify"]).code(0);
    let status = site.json(&["status"]);
    assert_eq!((&status["telemetry"]["level"], &status["account_closes"]), (&1.into(), &true.into()));
    assert!(site.tidegate(&["status"]).code(0).stdout.contains("sink far: "));

    // it holds over a restart, and the chain goes on
    assert_eq!(daemon.terminate(), Some(0), "{}", site.log());
    assert!(!site.path("control.sock").exists());
    assert_eq!(site.json(&["level", "show"])["level"], 1);
    site.tidegate(&["status"]).code(75).says("no collector answers");
    let daemon = site.start();
    assert_eq!(site.json(&["level", "set", "none"])["level"], 3);
    site.say("Full", "last-full");
    until("it is allowed again", || site.arrived("last-full"));
    site.tidegate(&["audit", "verify"]).code(0);
    assert_eq!(daemon.terminate(), Some(0), "{}", site.log());
}

#[test]
fn a_policy_that_changes_is_noticed_and_a_broken_one_closes_the_gate() {
    let site = Site::new();
    let _daemon = site.start();
    site.say("Enhanced", "marker-enhanced");
    until("it is stored", || site.stored("marker-enhanced"));
    site.put("policy.toml", "allow_telemetry = 1\n");
    until("the policy counts", || site.json(&["level", "show"])["level"] == 1);
    until("what is above it is gone", || !site.stored("marker-enhanced"));
    // a switch cannot go beyond it
    let set = site.json(&["level", "set", "3"]);
    assert_eq!((&set["level"], &set["decided_by"]), (&1.into(), &"policy".into()));
    site.put("policy.toml", "# ours\nallow_telemtry = 1\n");
    until("the broken policy counts", || site.json(&["level", "show"])["level"] == 0);
    let alarm = site.json(&["status"])["alarms"].to_string();
    assert!(alarm.contains("policy.toml:2") && alarm.contains("allow_telemtry"), "{alarm}");
    fs::remove_file(site.path("policy.toml")).unwrap();
    until("no policy is none", || site.json(&["level", "show"])["level"] == 3);
    let audit = site.audit();
    let by_policy = |to: u64| {
        audit.iter().any(|e| {
            e["what"] == "level" && e["to"]["level"] == to && e["who"].as_str().unwrap().contains("policy")
        })
    };
    assert!(by_policy(1) && by_policy(0) && by_policy(3), "{audit:?}");
}
