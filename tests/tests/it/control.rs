//! A collector that runs, told and asked from outside: level, switch, policy, audit.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use serde_json::Value;
use tidegate_sinks::events::recorder::{Recorder, Step};
use tidegate_sinks::testing::chain::{Chain, pem};
use tidegate_sinks::testing::{Canned, CannedServer};

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

    /// Writes the configuration of level Full, with more at its end.
    fn configure(&self, more: &str) {
        self.configure_at("Full", more);
    }

    fn configure_at(&self, level: &str, more: &str) {
        let at = |name: &str| self.path(name).display().to_string();
        self.put(
            "tidegate.toml",
            &format!(
                "[telemetry]\nlevel = {level:?}\npolicy_file = {:?}\ncatalogues = [{:?}]\n\
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
        self.say_with(level, text, "-");
    }

    /// The same with a field that may have a level of its own.
    fn say_with(&self, level: &str, text: &str, detail: &str) {
        let mut file = fs::File::options().append(true).open(self.path("in.jsonl")).unwrap();
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        writeln!(
            file,
            "{{\"time\":{time},\"provider\":\"Contoso.App\",\"event\":\"{level}\",\"text\":\"{text}\",\"detail\":\"{detail}\"}}"
        )
        .unwrap();
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
fn lowering_the_level_removes_single_fields_above_it_from_events_that_stay() {
    let site = Site::new();
    let levels = fs::read_to_string(site.path("levels.toml")).unwrap();
    site.put("levels.toml", &format!("{levels}[[field]]\nname = [\"detail\"]\nlevel = \"Enhanced\"\n"));
    let daemon = site.start();
    site.say_with("Basic", "marker-basic", "marker-detail");
    until("it is stored", || site.stored("marker-basic") && site.stored("marker-detail"));
    site.json(&["level", "set", "1"]);
    assert!(site.stored("marker-basic") && !site.stored("marker-detail"), "the command has returned");
    site.json(&["level", "set", "none"]);
    site.say_with("Basic", "second-basic", "second-detail");
    until("it is stored", || site.stored("second-detail"));
    assert_eq!(daemon.terminate(), Some(0), "{}", site.log());

    // the same while none runs
    site.json(&["level", "set", "1"]);
    assert!(site.stored("second-basic") && !site.stored("second-detail"));
    let daemon = site.start();
    site.back();
    until("the rest arrives", || site.arrived("marker-basic") && site.arrived("second-basic"));
    assert!(!site.arrived("marker-detail") && !site.arrived("second-detail"));
    assert_eq!(site.json(&["status"])["account_closes"], true);
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

#[test]
fn disabled_nothing_is_gathered_or_sent_until_it_is_enabled_again() {
    let site = Site::new();
    site.back();
    let daemon = site.start();
    site.say("Basic", "before-off");
    until("it arrives", || site.arrived("before-off"));
    assert_eq!(site.json(&["telemetry", "disable"])["enabled"], false);
    until("the sources have stopped", || site.json(&["status"])["sources_running"] == 0);
    let requests = site.far.requests().len();
    site.say("Basic", "while-off");
    // it holds over a restart, and nothing is gathered first
    assert_eq!(daemon.terminate(), Some(0), "{}", site.log());
    let daemon = site.start();
    let status = site.json(&["telemetry", "status"]);
    assert_eq!((&status["enabled"], &status["ceilings"]["switch"]), (&false.into(), &false.into()));
    assert_eq!(site.json(&["status"])["sources_running"], 0);
    assert!(!site.stored("while-off"));
    assert_eq!(site.far.requests().len(), requests);
    assert_eq!(site.json(&["telemetry", "enable"])["enabled"], true);
    site.say("Basic", "after-on");
    until("the new one arrives", || site.arrived("after-on"));
    assert!(!site.arrived("while-off") && !site.stored("while-off"), "what happened while off stays there");
    assert_eq!(site.json(&["status"])["account_closes"], true);
    let turned = |to: bool| {
        let turn = |e: &&Value| e["to"]["enabled"] == to && e["from"]["enabled"] == !to;
        site.audit().iter().filter(|e| e["what"] == "level").any(|e| turn(&e))
    };
    assert!(turned(true) && turned(false), "{:?}", site.audit());
    // the transition is an event of its own
    let told = |e: &Value| e.to_string().contains("fromEnabled");
    until("the far side is told", || site.far.events().values().any(told));
    assert_eq!(daemon.terminate(), Some(0), "{}", site.log());
}

#[test]
fn a_changed_configuration_is_taken_over_and_a_broken_one_is_not() {
    let site = Site::new();
    site.back();
    let daemon = site.start();
    site.say("Full", "first-full");
    until("it arrives", || site.arrived("first-full"));
    site.configure_at("Basic", "[[sampling]]\nevent = \"Basic*\"\nkeep = 0\n[log]\nlevel = \"debug\"\n");
    let done = site.json(&["reload"]);
    assert_eq!(done["changed"].to_string(), "[\"sampling\",\"telemetry.level\"]");
    assert_eq!(done["restart"].to_string(), "[\"log.level\"]");
    assert_eq!(site.json(&["level", "show"])["level"], 1);
    site.say("Basic", "sampled-out");
    site.say("Security", "kept-security");
    until("what is kept arrives", || site.arrived("kept-security"));
    assert!(!site.arrived("sampled-out"));
    assert_eq!(site.json(&["status"])["account"]["dropped"]["sample"], 1);

    // a catalogue with a mistake, by signal
    site.put("levels.toml", "version = 1\n[[rule]]\nname = \"x\"\nprovidr = \"y\"\n");
    daemon.hang_up();
    until("it is refused", || site.audit().iter().any(|e| e["what"] == "refused"));
    let audit = site.audit();
    let entry = audit.iter().find(|e| e["what"] == "refused").unwrap();
    let (file, reason) = (entry["file"].as_str().unwrap(), entry["reason"].as_str().unwrap());
    assert!(file.ends_with("levels.toml") && reason.contains("line 4"), "{entry}");
    assert!(reason.contains("providr") && entry["who"] == "signal HUP", "{entry}");
    site.say("Security", "still-here");
    until("the old one counts", || site.arrived("still-here"));
    // and a configuration with one, by command
    site.put("levels.toml", "version = 1\n");
    fs::create_dir(site.path("conf.d")).unwrap();
    site.put("conf.d/x.toml", "[ring]\nsise = 1\n");
    site.tidegate(&["reload"]).code(78).says("x.toml:2").says("sise");
    fs::remove_file(site.path("conf.d/x.toml")).unwrap();
    let done = site.json(&["reload"]);
    assert!(done["changed"].to_string().contains("levels.toml"), "{done}");
    assert_eq!(site.audit().iter().filter(|e| e["what"] == "catalogue").count(), 2);
    assert_eq!(daemon.terminate(), Some(0), "{}", site.log());
}

/// A far side that offers one signed document at a time.
struct Offers {
    site: Site,
    private: PathBuf,
    public: String,
    current: Arc<Mutex<(String, String)>>,
    server: CannedServer,
    _runtime: tokio::runtime::Runtime,
}

impl Offers {
    fn new() -> Offers {
        let site = Site::new();
        let private = site.path("settings.key");
        let public = keygen(&private);
        let current = Arc::new(Mutex::new((String::new(), String::new())));
        let (runtime, chain) = (tokio::runtime::Runtime::new().unwrap(), Chain::new());
        let shown = Arc::clone(&current);
        let server = runtime.block_on(chain.answer(move |seen| {
            let (etag, body) = shown.lock().unwrap().clone();
            if seen.header("if-none-match") == Some(&etag) {
                return Canned::status(304);
            }
            Canned::status(200).with("ETag", &etag).saying(body)
        }));
        site.put("ca.pem", &pem("CERTIFICATE", &chain.root.der));
        site.configure(&format!(
            "[settings]\nurl = \"{}/settings\"\nkeys = {{ ops = {public:?} }}\n[settings.http.tls]\nca_file = {:?}\n\
             pins = [{{ host = \"localhost\", sha256 = [\"{}\"], no_backup = true }}]\n",
            server.url(),
            site.path("ca.pem"),
            chain.leaf.pin(),
        ));
        Offers { site, private, public, current, server, _runtime: runtime }
    }

    fn sign(&self, key: &Path, document: &str) -> String {
        self.site.put("document.json", document);
        let mut sign = program();
        sign.args(["settings", "sign", "--key-id", "ops", "--key"]).arg(key);
        finish(sign.arg(self.site.path("document.json"))).code(0).stdout.trim().to_owned()
    }

    fn offer(&self, etag: &str, envelope: String) {
        *self.current.lock().unwrap() = (etag.to_owned(), envelope);
    }

    /// Signs, offers and has it asked for.
    fn bring(&self, etag: &str, key: &Path, document: &str) {
        self.offer(etag, self.sign(key, document));
        self.site.json(&["settings", "refresh"]);
    }

    fn version(&self) -> Value {
        self.site.json(&["status"])["settings"]["version"].clone()
    }

    fn audited(&self, what: &str) -> usize {
        self.site.audit().iter().filter(|e| e["what"] == what).count()
    }
}

fn keygen(path: &Path) -> String {
    finish(program().args(["settings", "keygen"]).arg(path)).code(0).stdout.trim().to_owned()
}

#[test]
fn remote_settings_reduce_and_what_is_forged_or_older_is_refused() {
    let far = Offers::new();
    let site = &far.site;
    site.back();
    far.offer("first", far.sign(&far.private, "{\"format\": 1, \"version\": 5}"));
    let daemon = site.start();
    until("the first one counts", || far.version() == 5);
    site.say("Enhanced", "before-settings");
    until("it arrives", || site.arrived("before-settings"));
    far.bring("a", &far.private, "{\"format\": 1, \"version\": 4, \"ceiling\": 3}");
    until("the older one is refused", || far.audited("settings_refused") == 1);
    let other = site.path("other.key");
    assert_ne!(keygen(&other), far.public);
    far.bring("b", &other, "{\"format\": 1, \"version\": 9}");
    until("the forged one is refused", || far.audited("settings_refused") == 2);
    assert_eq!(far.version(), 5);

    let document = "{\"format\": 1, \"version\": 6, \"ceiling\": \"Enhanced\",\n\
        \"off\": [{\"event\": \"Basic*\"}], \"sampling\": [{\"event\": \"Enhanced*\", \"keep\": 0}]}";
    far.bring("c", &far.private, document);
    until("the new one counts", || far.version() == 6);
    let level = site.json(&["level", "show"]);
    assert_eq!((&level["level"], &level["decided_by"]), (&2.into(), &"remote settings".into()));
    let gone = ["no-full", "no-basic", "no-enhanced"];
    for (level, text) in ["Full", "Basic", "Enhanced"].iter().zip(gone) {
        site.say(level, text);
    }
    site.say("Security", "yes-security");
    until("what is left arrives", || site.arrived("yes-security"));
    assert!(gone.iter().all(|t| !site.arrived(t) && !site.stored(t)));
    // the same again is not sent again
    site.json(&["settings", "refresh"]);
    let asked_with = |etag| far.server.seen().iter().any(|s| s.header("if-none-match") == Some(etag));
    until("it asks with its validator", || asked_with("c"));
    assert_eq!(daemon.terminate(), Some(0), "{}", site.log());
}

#[test]
fn a_tenant_that_is_switched_off_gets_nothing_even_after_a_restart() {
    let far = Offers::new();
    let site = &far.site;
    site.back();
    let off = format!("{{\"format\": 1, \"version\": 7, \"tenants_off\": [{:?}]}}", &TENANT[..32]);
    far.offer("off", far.sign(&far.private, &off));
    let daemon = site.start();
    until("the kill switch counts", || far.version() == 7);
    site.say("Basic", "held-back");
    until("it is kept", || site.stored("held-back"));
    // who asks is known by a random id, at level Basic and above
    let id = site.json(&["device", "show"])["id"].as_str().unwrap().to_owned();
    assert!(far.server.seen().iter().all(|s| s.header("tidegate-device") == Some(&id)));
    let new = site.json(&["device", "reset-id"])["id"].as_str().unwrap().to_owned();
    assert!(new != id && far.audited("device_id") == 1);
    assert_eq!(daemon.terminate(), Some(0), "{}", site.log());
    // the settings' far side is away now: what was kept counts
    far.offer("x", "nothing that can be read".to_owned());
    let daemon = site.start();
    assert_eq!(far.version(), 7);
    until("the answer is refused", || far.audited("settings_refused") == 1);
    assert!(!site.arrived("held-back") && site.stored("held-back"));
    site.tidegate(&["audit", "verify"]).code(0);
    assert_eq!(daemon.terminate(), Some(0), "{}", site.log());
}
