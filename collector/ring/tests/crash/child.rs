//! The process that is killed. It says each thing on standard output after it is done:
//!
//! ```text
//! open DURABLE                      the ring is open
//! ack TAG FIRST LAST                a group is acknowledged
//! deliver FIRST LAST TEXT,TEXT,…    a planned run is at its destination (again, maybe)
//! lost FIRST LAST                   a hole was read
//! settled FIRST LAST                the run is settled
//! report TEXT                       the ring found damage
//! stopped TEXT                      the disk fails
//! bad TEXT                          an account did not close, or another thing that must not be
//! ```

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidegate_proto::ids::{Seq, SeqRange, SinkId};
use tidegate_ring::testing::{Random, group, sized_block, texts, wait};
use tidegate_ring::{
    Chain, Compression, PerLevel, Read, ReadLimit, Ring, RingOptions, Settlement, SledRing, StartAt,
};

pub const FOLDER: &str = "TIDEGATE_RING_CHILD";
pub const SEED: &str = "TIDEGATE_RING_SEED";
pub const ROUND: &str = "TIDEGATE_RING_ROUND";
pub const BOUND: &str = "TIDEGATE_RING_BOUND";

thread_local! {
    static RECORDED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What `f` says, instead of saying it.
pub fn record(f: impl FnOnce()) -> String {
    RECORDED.set(Some(String::new()));
    f();
    RECORDED.take().unwrap_or_default()
}

pub fn say(line: &str) {
    let recorded = RECORDED.with_borrow_mut(|r| r.as_mut().map(|r| *r += &format!("\n@{line}\n")).is_some());
    if recorded {
        return;
    }
    // one write, so that a line is there whole or not at all; the parent may be gone
    let _ = std::io::stdout().lock().write_all(format!("\n@{line}\n").as_bytes());
}

pub fn options(bound: u64) -> RingOptions {
    RingOptions {
        bound_bytes: bound,
        segment_bytes: Some(256 << 10),
        commit_delay: Duration::from_millis(2),
        compression: Compression::Lz4,
        ..RingOptions::default()
    }
}

pub fn run(folder: &Path) {
    let var = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(1u64);
    let (seed, round) = (var(SEED), var(ROUND));
    let ring: Arc<dyn Ring> = match SledRing::open(folder, options(var(BOUND))) {
        Ok(ring) => Arc::new(ring),
        Err(e @ tidegate_ring::RingError::Io { .. }) => return say(&format!("stopped {e}")),
        Err(e) => return say(&format!("bad cannot open: {e}")),
    };
    say(&format!("open {}", ring.status().durable));
    for report in ring.status().quarantined {
        say(&format!("report {report}"));
    }
    check(&*ring);
    for n in 0..2 {
        let (ring, folder) = (Arc::clone(&ring), folder.to_owned());
        std::thread::spawn(move || {
            fill(&*ring, &folder, Random::new(seed + n), round * 1000 + n * 500_000_000)
        });
    }
    if let Err(e) = drain(&*ring, Random::new(seed + 9), None) {
        say(&format!("stopped {e}"));
    }
}

fn check(ring: &dyn Ring) {
    if let Err(e) = ring.account().check() {
        say(&format!("bad {e}"));
    }
    if ring.get(tidegate_ring::CUT).is_ok_and(|cut| cut.is_some()) {
        say("bad chain: entries are lost");
    }
    let entries = ring.chain_read(Chain::Receipts, 0, usize::MAX).unwrap_or_default();
    for pair in entries.windows(2) {
        let hash = tidegate_ring::chain_link(&pair[0].hash, pair[1].number, &pair[1].data);
        if hash != pair[1].hash {
            say(&format!("bad receipt {} does not link", pair[1].number));
        }
    }
}

/// Whether the file system takes writes.
pub fn alive(folder: &Path) -> bool {
    std::fs::write(folder.join("alive"), b"?").is_ok()
}

/// Appends until the end comes. Tags of one writer and round: 1000 numbers.
fn fill(ring: &dyn Ring, folder: &Path, mut random: Random, first_tag: u64) {
    let mut waiting = VecDeque::new();
    for tag in first_tag..first_tag + 1000 {
        let levels: Vec<u8> = match random.below(4) {
            0 => vec![0, 1, 1],
            _ => (0..=random.below(6)).map(|n| 2 + (n % 2) as u8).collect(),
        };
        let size = [0, 100, 4_000, 60_000][random.below(4) as usize];
        let block = sized_block(&levels, tag, size);
        match wait(ring.append(group(vec![block]))) {
            Ok(ticket) => waiting.push_back((tag, ticket)),
            Err(_) => return,
        }
        while waiting.len() > random.below(6) as usize {
            let Some((tag, ticket)) = waiting.pop_front() else { break };
            // a sync that overlaps the shutdown of ext4 may say that all is well, which no disk does
            // (see `plain`): only what the living file system said counts
            if let (Ok(Some(range)), true) = (wait(ticket), alive(folder)) {
                say(&format!("ack {tag} {} {}", range.first(), range.last()));
            }
        }
    }
}

/// Delivers run after run. `upto`: ends there instead of never.
pub fn drain(ring: &dyn Ring, mut random: Random, upto: Option<Seq>) -> Result<(), tidegate_ring::RingError> {
    let sink = SinkId::new("s");
    let cursor = ring.attach(&sink, StartAt::Oldest)?;
    let mut after = cursor.settled;
    let mut planned: VecDeque<SeqRange> = cursor.planned.iter().map(|p| p.range).collect();
    for run in cursor.ahead.iter().chain(&planned) {
        after = after.max(run.last());
    }
    let mut watch = ring.watch();
    loop {
        if planned.len() < 3 {
            let limit = ReadLimit { bytes: 1 << 20, events: 1 + random.below(40) };
            let read = ring.read(after, limit)?;
            // now and then a boundary inside of a block
            let end = if random.below(3) == 0 { Seq(read.end.0.saturating_sub(1)) } else { read.end };
            if let Some(run) = SeqRange::new(after.next(), end.max(after.next())).filter(|_| read.end > after)
            {
                ring.plan(&sink, run.into())?;
                planned.push_back(run);
                after = run.last();
                continue;
            }
        }
        let next = random.below(planned.len() as u64) as usize;
        let Some(run) = planned.remove(next) else {
            if upto.is_some_and(|u| after >= u) {
                return Ok(());
            }
            wait(async { watch.changed().await }).map_err(|_| tidegate_ring::RingError::Closed)?;
            continue;
        };
        deliver(ring, &sink, run)?;
        if random.below(20) == 0 {
            check(ring);
        }
    }
}

fn deliver(ring: &dyn Ring, sink: &SinkId, run: SeqRange) -> Result<(), tidegate_ring::RingError> {
    let before = Seq(run.first().0 - 1);
    let mut read = Read::default();
    while read.end < run.last() {
        let from = read.end.max(before);
        let next = ring.read(from, ReadLimit { bytes: u64::MAX, events: u64::MAX })?;
        if next.end == from {
            break;
        }
        read.blocks.extend(next.blocks);
        read.end = next.end;
    }
    let mut levels: PerLevel = [0; 4];
    let mut names = Vec::new();
    for block in &read.blocks {
        let seqs = block
            .seqs
            .clone()
            .unwrap_or_else(|| (block.range.first().0..=block.range.last().0).map(Seq).collect());
        for ((seq, text), level) in seqs.iter().zip(texts(&block.data)).zip(levels_of(&block.data)) {
            if run.contains(*seq) {
                levels[level] += 1;
                names.push(format!("{seq}:{text}"));
            }
        }
    }
    say(&format!("deliver {} {} {}", run.first(), run.last(), names.join(",")));
    let receipt = format!("{{\"run\":\"{run}\"}}").into_bytes();
    let outcome = Settlement { delivered: levels, receipt, ..Settlement::default() };
    match ring.settle(sink, run.into(), &outcome) {
        Ok(_) => say(&format!("settled {} {}", run.first(), run.last())),
        Err(e @ tidegate_ring::RingError::Misuse(_)) => say(&format!("bad {e}")),
        Err(e) => return Err(e),
    }
    Ok(())
}

fn levels_of(data: &[u8]) -> Vec<usize> {
    use tidegate_proto::batch::Batch;
    use tidegate_proto::wire::{BlockReader, SchemaInterner};
    let mut batch = Batch::new();
    BlockReader::new(data, &mut SchemaInterner::new())
        .and_then(|r| r.read_into(&mut batch))
        .expect("a block");
    batch.iter().map(|e| e.head().telemetry_level.map_or(3, |l| l as usize)).collect()
}
