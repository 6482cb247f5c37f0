//! The side that survives: what was said, and whether it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tidegate_proto::ids::SinkId;
use tidegate_proto::level::LossReason;
use tidegate_ring::testing::Random;
use tidegate_ring::{Ring, SledRing};

use crate::child;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A ring with room for all of it: nothing may be missing.
    Keep,
    /// A ring that overflows: what is missing must be counted.
    Full,
}

impl Mode {
    fn bound(self) -> u64 {
        match self {
            Mode::Keep => 1 << 30,
            Mode::Full => 4 << 20,
        }
    }
}

/// All that was said so far.
#[derive(Debug)]
pub struct Ledger {
    mode: Mode,
    rounds: u64,
    /// Events acknowledged, as places.
    pub acknowledged: u64,
    acks: BTreeMap<u64, (u64, u64)>,
    /// Run → what was delivered as it, the latest.
    runs: BTreeMap<u64, (u64, String)>,
    delivered_again: u64,
    books_renewed: u64,
    durable: u64,
    lost: u64,
    duplicated: u64,
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rounds, {} events acknowledged, {} lost uncounted, {} duplicated, {} runs delivered again under the same bounds, {} times the book was made anew",
            self.rounds,
            self.acknowledged,
            self.lost,
            self.duplicated,
            self.delivered_again,
            self.books_renewed
        )
    }
}

impl Ledger {
    pub fn new(mode: Mode) -> Ledger {
        Ledger {
            mode,
            rounds: 0,
            acknowledged: 0,
            acks: BTreeMap::new(),
            runs: BTreeMap::new(),
            delivered_again: 0,
            books_renewed: 0,
            durable: 0,
            lost: 0,
            duplicated: 0,
        }
    }

    /// Starts a child, has `end` end it, and takes what it said. Two rounds of three end when the
    /// ring is open, the others at any time.
    pub fn round(&mut self, folder: &Path, round: u64, seed: u64, power: bool, end: impl FnOnce(&mut Child)) {
        let wait_for_open = !seed.is_multiple_of(3);
        self.rounds += 1;
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "child", "--nocapture", "--test-threads", "1"])
            .env(child::FOLDER, folder)
            .env(child::SEED, seed.to_string())
            .env(child::ROUND, round.to_string())
            .env(child::BOUND, self.mode.bound().to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a child");
        let mut out = child.stdout.take().expect("its output");
        let (is_open, opened) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut said = Vec::new();
            let mut part = vec![0; 64 << 10];
            loop {
                let len = out.read(&mut part)?;
                if len == 0 {
                    return Ok::<_, std::io::Error>(said);
                }
                said.extend_from_slice(&part[..len]);
                if said.windows(6).any(|w| w == b"@open ") {
                    // nobody waits any more: fine
                    let _ = is_open.send(());
                }
            }
        });
        if wait_for_open {
            // a child that fails to open ends, and the sender with it
            let _ = opened.recv();
        }
        end(&mut child);
        child.wait().expect("ended");
        let said = reader.join().expect("read").expect("read");
        self.take(&String::from_utf8_lossy(&said), round, seed, power);
    }

    fn take(&mut self, said: &str, round: u64, seed: u64, power: bool) {
        // the last line may be cut
        let whole = said.rfind('\n').map_or("", |end| &said[..=end]);
        for line in whole.lines().filter_map(|l| l.strip_prefix('@')) {
            let mut words = line.split(' ');
            let what = words.next().unwrap_or_default();
            let mut number = || words.next().and_then(|w| w.parse::<u64>().ok()).expect("a number");
            match what {
                "open" => {
                    let durable = number();
                    let known = self.durable;
                    assert!(
                        durable >= known,
                        "round {round}, seed {seed}: places went back from {known} to {durable}"
                    );
                }
                "ack" => {
                    let (tag, first, last) = (number(), number(), number());
                    self.acknowledged += last - first + 1;
                    self.durable = self.durable.max(last);
                    let old = self.acks.insert(tag, (first, last));
                    assert_eq!(old, None, "round {round}: tag {tag} acknowledged twice");
                }
                "deliver" => {
                    let (first, last) = (number(), number());
                    self.deliver(first, last, words.next().unwrap_or_default(), round, seed);
                }
                "report" if power && line.contains("os error 5") => {}
                // sled was damaged by the kill; the journal has what counts
                "report" if line.contains("made anew from the journal") => self.books_renewed += 1,
                "settled" => {}
                // a disk without power fails
                "stopped" if power => {}
                other => panic!("round {round}, seed {seed}: {other}: {line}"),
            }
        }
    }

    fn deliver(&mut self, first: u64, last: u64, text: &str, round: u64, seed: u64) {
        if let Some((old_last, old)) = self.runs.get(&first) {
            assert_eq!(*old_last, last, "round {round}, seed {seed}: run {first} has other bounds now");
            self.delivered_again += 1;
            if self.mode == Mode::Keep {
                assert_eq!(old, text, "round {round}, seed {seed}: run {first}-{last} has other events now");
            } else {
                let subset: BTreeSet<&str> = old.split(',').collect();
                assert!(text.is_empty() || text.split(',').all(|t| subset.contains(t)), "run {first}-{last}");
                return;
            }
        }
        self.runs.insert(first, (last, text.to_owned()));
    }

    /// Drains the ring and compares.
    pub fn finish(&mut self, folder: &Path) {
        let ring = SledRing::open(folder, child::options(self.mode.bound())).expect("opened");
        let reports = ring.status().quarantined;
        assert!(reports.iter().all(|r| r.contains("made anew from the journal")), "{reports:?}");
        let end = ring.status().durable;
        self.drain_here(&ring, end);
        let account = ring.account();
        account.check().expect("the account closes");
        let sink = &account.sinks[&SinkId::new("s")];
        assert_eq!(sink.held, [0; 4]);
        let evicted: u64 = sink.lost.get(&LossReason::Evicted).map_or(0, |l| l.iter().sum());
        assert_eq!(sink.lost.values().flatten().sum::<u64>(), evicted, "lost for no other reason");
        if self.mode == Mode::Keep {
            assert_eq!(evicted, 0);
        }
        self.compare(account.stored.iter().sum(), evicted);
    }

    // the final round is a child that is left alone until it has nothing to do
    fn drain_here(&mut self, ring: &SledRing, end: tidegate_proto::ids::Seq) {
        let said = child::record(|| child::drain(ring, Random::new(1), Some(end)).expect("drained"));
        self.take(&said, self.rounds + 1, 1, false);
    }

    fn compare(&mut self, stored: u64, evicted: u64) {
        let mut seen: BTreeMap<u64, String> = BTreeMap::new();
        let mut texts = BTreeSet::new();
        let mut next = 1;
        for (first, (last, text)) in &self.runs {
            assert!(*first >= next, "runs overlap at {first}");
            next = last + 1;
            for event in text.split(',').filter(|t| !t.is_empty()) {
                let (seq, name) = event.split_once(':').expect("a place and a text");
                if !texts.insert(name.to_owned()) {
                    self.duplicated += 1;
                }
                seen.insert(seq.parse().expect("a place"), name.to_owned());
            }
        }
        let mut missing = 0u64;
        for (tag, (first, last)) in &self.acks {
            for (n, place) in (*first..=*last).enumerate() {
                match seen.get(&place) {
                    Some(name) => assert_eq!(*name, tidegate_ring::testing::text(*tag, n), "place {place}"),
                    None => missing += 1,
                }
            }
        }
        // delivered and then evicted before it was settled: at the destination and counted as lost
        self.lost = missing.saturating_sub(evicted);
        assert_eq!(self.lost, 0, "{missing} acknowledged events are missing, {evicted} were counted");
        assert_eq!(self.duplicated, 0);
        assert!(seen.len() as u64 + evicted >= stored, "{} + {evicted} of {stored}", seen.len());
    }
}
