//! A real trace through ring and sink with the daemon killed at random points: everything arrives,
//! once where the far side can tell, with the same id where it cannot.
//!
//! Each round has a ring of its own. The daemon is killed once or twice, either so many milliseconds after its
//! start or when so much has arrived, then left alone until all is there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate_sinks::events::recorder::Recorder;

use crate::azurite::{self, Container};
use crate::support::{Chance, Daemon, finish, program, rounds, trace, until};

/// Two thousand events of a kernel provider, classic and with embedded schemas.
const TRACE: &str = "tx/HTTP_Server";
/// What a sink may send in a second, besides a second's worth at once: so delivering takes long
/// enough to be killed in the middle of it.
const RATE: u64 = 1200;
/// A tenant's token as the endpoint's public clients have it, of no tenant.
const TENANT: &str = "0123456789abcdef0123456789abcdef-01234567-89ab-cdef-0123-456789abcdef-0123";

/// The events as `inspect` prints them, how often each.
fn expected() -> BTreeMap<String, u64> {
    let ran = finish(program().args(["inspect", "--events"]).arg(trace(TRACE))).code(0);
    bag(ran.stdout.lines().map(str::to_owned))
}

fn bag(lines: impl Iterator<Item = String>) -> BTreeMap<String, u64> {
    let mut bag = BTreeMap::new();
    for line in lines {
        *bag.entry(line).or_default() += 1;
    }
    bag
}

/// A line as a sink wrote it, without what only the ring and the gate know; and its place.
fn stripped(line: &str) -> (u64, String) {
    let mut event: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let members = event.as_object_mut().unwrap();
    let seq = members.shift_remove("seq").and_then(|s| s.as_u64()).expect("a place in the ring");
    members.shift_remove("telemetryLevel");
    members.shift_remove("types");
    (seq, event.to_string())
}

/// Every place of the ring is there, once.
fn check_places(sorted: &[u64], all: u64, round: u64) {
    let wrong = sorted.iter().zip(1..).find(|(got, want)| *got != want);
    assert_eq!(wrong, None, "round {round}: a place (first) is missing or there twice");
    assert_eq!(sorted.len() as u64, all, "round {round}");
}

/// Every event is there exactly once: by content, and by place.
fn check_once(lines: Vec<String>, want: &BTreeMap<String, u64>, round: u64) {
    let (mut seqs, texts): (Vec<u64>, Vec<String>) = lines.iter().map(|l| stripped(l)).unzip();
    seqs.sort_unstable();
    check_places(&seqs, want.values().sum(), round);
    let got = bag(texts.into_iter());
    for (line, n) in want {
        assert_eq!(got.get(line), Some(n), "round {round}: {line}");
    }
    assert_eq!(got.len(), want.len(), "round {round}: there is more than the trace holds");
}

struct Round {
    dir: tempfile::TempDir,
    config: PathBuf,
}

impl Round {
    fn new(sink: &str) -> Round {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("tidegate.toml");
        let text = format!(
            "[host]\nname = \"crash-test\"\n[telemetry]\nlevel = \"Full\"\nscrub = false\npolicy_file = {:?}\n\
             [health]\nevents = false\n[ring]\npath = {:?}\nfull = \"block\"\ncommit_delay = \"5ms\"\n\
             [sources.trace]\ntype = \"etl\"\npaths = [{:?}]\n[sinks.out]\n{sink}\n\
             max_events_per_second = {RATE}\n[sinks.out.retry]\nfirst = \"5ms\"\nmost = \"50ms\"\n",
            dir.path().join("no-policy.toml"),
            dir.path().join("ring"),
            trace(TRACE),
        );
        std::fs::write(&config, text).unwrap();
        Round { dir, config }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn start(&self) -> Daemon {
        Daemon::start(&self.config, &self.log())
    }

    /// Kills the daemon once or twice, then lets it finish. `arrived` tells how many events are there.
    /// Whether a kill came in the middle: something had arrived, and not all.
    fn go(&self, chance: &mut Chance, usual: Duration, all: u64, mut arrived: impl FnMut() -> u64) -> bool {
        let mut amid = false;
        for _ in 0..1 + chance.below(2) {
            let daemon = self.start();
            let begun = Instant::now();
            if chance.below(2) == 0 {
                let after = Duration::from_millis(chance.below(usual.as_millis() as u64));
                until("the moment to kill", || begun.elapsed() >= after);
            } else {
                let enough = 1 + chance.below(all - 1);
                until("enough to kill at", || arrived() >= enough);
                let more = Duration::from_millis(chance.below(100));
                let at = Instant::now() + more;
                until("the moment to kill", || Instant::now() >= at);
            }
            daemon.kill();
            amid |= (1..all).contains(&arrived());
        }
        self.finish(all, arrived);
        amid
    }

    fn finish(&self, all: u64, mut arrived: impl FnMut() -> u64) {
        std::fs::write(self.log(), "").unwrap();
        let mut daemon = self.start();
        // all may have arrived before this one is up
        until("it runs", || std::fs::read_to_string(self.log()).unwrap().contains("running"));
        until("everything arrives", || {
            assert!(!daemon.ended(), "{}", std::fs::read_to_string(self.log()).unwrap());
            arrived() >= all
        });
        let code = daemon.terminate();
        assert_eq!(code, Some(0), "{}", std::fs::read_to_string(self.log()).unwrap());
    }
}

/// Goes on until [`rounds`] rounds were killed in the middle; the first, 0, is not killed.
#[derive(Default)]
struct Kills {
    begun: u64,
    amid: u64,
}

impl Kills {
    fn next_round(&mut self) -> Option<u64> {
        if self.begun > 0 && self.amid >= rounds() {
            eprintln!("{} of {} rounds were killed in the middle of delivering", self.amid, self.begun - 1);
            return None;
        }
        let round = self.begun;
        assert!(round <= 5 * rounds(), "too few kills hit the middle: {} of {round} rounds", self.amid);
        self.begun += 1;
        Some(round)
    }

    fn count(&mut self, amid: bool) {
        self.amid += u64::from(amid);
    }
}

/// Files of the directory sink that have their final names.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "jsonl"))
        .collect()
}

fn file_lines(dir: &Path) -> Vec<String> {
    files(dir).iter().flat_map(|p| azurite::lines(&std::fs::read(p).unwrap())).collect()
}

#[test]
fn a_killed_daemon_leaves_every_event_in_the_folder_exactly_once() {
    let (want, mut chance) = (expected(), Chance::new("folder"));
    let all = want.values().sum();
    let settings = |out: &Path| {
        format!("type = \"directory\"\npath = {out:?}\nbatch = {{ events = 80, age = \"20ms\" }}")
    };
    let mut usual = Duration::from_millis(500);
    let mut kills = Kills::default();
    while let Some(round) = kills.next_round() {
        let out = tempfile::tempdir().unwrap();
        let out = out.path().join("out");
        let this = Round::new(&settings(&out));
        let arrived = || file_lines(&out).len() as u64;
        let begun = Instant::now();
        if round == 0 {
            // nobody disturbs the first: it tells how long one takes
            this.finish(all, arrived);
            usual = begun.elapsed();
        } else {
            kills.count(this.go(&mut chance, usual, all, arrived));
        }
        check_once(file_lines(&out), &want, round);
    }
}

#[test]
fn a_killed_daemon_leaves_nothing_out_at_the_events_endpoint_and_repeats_have_the_same_id() {
    let (want, mut chance) = (expected(), Chance::new("events"));
    let all: u64 = want.values().sum();
    let mut usual = Duration::from_millis(500);
    let mut repeats = 0;
    let mut kills = Kills::default();
    while let Some(round) = kills.next_round() {
        let recorder = Recorder::start(&[TENANT]).unwrap();
        // a new process asks for the difference of the clocks again, which the recorder would hold against it
        recorder.set_delta(None);
        let tenant = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(tenant.path(), TENANT).unwrap();
        let sink = format!(
            "type = \"events\"\nurl = {:?}\ntenant = \"file:{}\"\nbatch = {{ events = 80, age = \"20ms\" }}",
            recorder.url(),
            tenant.path().display(),
        );
        let this = Round::new(&sink);
        let arrived = || recorder.seqs().len() as u64;
        let begun = Instant::now();
        if round == 0 {
            this.finish(all, arrived);
            usual = begun.elapsed();
        } else {
            kills.count(this.go(&mut chance, usual, all, arrived));
        }
        // the recorder calls it a fault when a repeat is not the same to the byte
        assert_eq!(recorder.faults(), Vec::<String>::new(), "round {round}");
        assert_eq!(
            recorder.seqs().into_iter().collect::<Vec<_>>(),
            (1..=all).collect::<Vec<_>>(),
            "round {round}"
        );
        let epochs: std::collections::BTreeSet<String> =
            recorder.events().into_keys().map(|(e, _)| e).collect();
        assert_eq!(epochs.len(), 1, "round {round}: the ring has one epoch");
        repeats += recorder.repeats();
    }
    eprintln!("events: {repeats} events came again, each with its first id");
}

#[test]
fn a_killed_daemon_leaves_every_event_in_the_container_exactly_once() {
    let Some(emulator) = azurite::emulator() else { return };
    let (want, mut chance) = (expected(), Chance::new("container"));
    let all = want.values().sum();
    let mut usual = Duration::from_millis(800);
    let mut kills = Kills::default();
    while let Some(round) = kills.next_round() {
        let container = Container::create(&emulator, "crash");
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret.path(), container.connection_string()).unwrap();
        let sink = format!(
            "type = \"blob\"\ncontainer = {:?}\nconnection_string = \"file:{}\"\nbatch = {{ events = 80, age = \"20ms\" }}",
            container.name,
            secret.path().display(),
        );
        let this = Round::new(&sink);
        let mut known = BTreeMap::new();
        let mut lines = || {
            for name in container.list() {
                // blobs never change: each is fetched once
                known.entry(name.clone()).or_insert_with(|| azurite::lines(&container.get(&name)));
            }
            known.values().flatten().cloned().collect::<Vec<_>>()
        };
        let begun = Instant::now();
        if round == 0 {
            this.finish(all, || lines().len() as u64);
            usual = begun.elapsed();
        } else {
            kills.count(this.go(&mut chance, usual, all, || lines().len() as u64));
        }
        check_once(lines(), &want, round);
    }
}
