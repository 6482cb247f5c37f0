//! A process that fills and drains a ring is killed at random, or its disk loses power, and what
//! it said was acknowledged must be there.
//!
//! Rounds: `TIDEGATE_KILL_ROUNDS` (default 12) and `TIDEGATE_POWER_ROUNDS` (default 0, `tests/run`
//! sets 5 where it can; needs root, loop devices, `mkfs.ext4` and `python3`). Seed: `TIDEGATE_SEED`. `TIDEGATE_POWER_CONTROL` rounds
//! (default 0) show what the file system of the power rounds keeps of plain files.

mod child;
mod parent;
#[cfg(unix)]
mod plain;
mod power;

use parent::{Ledger, Mode};
use tidegate_ring::testing::Random;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = number("TIDEGATE_SEED", now.map_or(1, |d| d.as_nanos() as u64 % 1_000_000_007));
    println!("TIDEGATE_SEED={seed}");
    seed
}

/// Not a test of its own: what the others start.
#[test]
fn child() {
    if let Ok(folder) = std::env::var(child::FOLDER) {
        child::run(folder.as_ref());
    }
    #[cfg(unix)]
    if let Ok(folder) = std::env::var(plain::FOLDER) {
        plain::run(folder.as_ref(), number(child::ROUND, 1));
    }
}

#[test]
#[cfg(unix)]
fn the_file_system_of_the_power_rounds_keeps_what_it_said_while_it_took_writes() {
    let rounds = number("TIDEGATE_POWER_CONTROL", 0);
    if rounds == 0 {
        println!("skipped: set TIDEGATE_POWER_CONTROL, as root");
        return;
    }
    let mut random = Random::new(seed());
    let disk = power::Disk::new();
    let mut count = plain::Count::default();
    for _ in 0..rounds {
        let plug = |child: &mut std::process::Child| {
            disk.pull_the_plug(random.next());
            child.kill().expect("killed");
        };
        plain::round(&disk.ring(), &mut count, plug, || disk.power_up());
    }
    println!("plain files: {count:?}");
    assert_eq!(count.sure.1, 0, "synced records are gone");
}

fn kill_rounds(rounds: u64, mode: Mode, random: &mut Random) -> Ledger {
    let folder = tempfile::tempdir().expect("folder");
    let mut ledger = Ledger::new(mode);
    for round in 0..rounds {
        let after = std::time::Duration::from_micros(random.below(250_000));
        ledger.round(folder.path(), round + 1, random.next(), false, |child| {
            std::thread::sleep(after);
            child.kill().expect("killed");
        });
    }
    ledger.finish(folder.path());
    ledger
}

#[test]
fn nothing_acknowledged_is_lost_to_a_kill() {
    let rounds = number("TIDEGATE_KILL_ROUNDS", 12);
    let mut random = Random::new(seed());
    let keep = kill_rounds(rounds.div_ceil(2), Mode::Keep, &mut random);
    println!("room for all: {keep}");
    let full = kill_rounds(rounds / 2, Mode::Full, &mut random);
    println!("overflowing: {full}");
    assert!(keep.acknowledged > 0);
}

#[test]
fn nothing_acknowledged_is_lost_to_a_loss_of_power() {
    let rounds = number("TIDEGATE_POWER_ROUNDS", 0);
    if rounds == 0 {
        eprintln!("NOT TESTED: set TIDEGATE_POWER_ROUNDS, as root; tests/run does");
        return;
    }
    let mut random = Random::new(seed());
    for (mode, rounds) in [(Mode::Keep, rounds.div_ceil(2)), (Mode::Full, rounds / 2)] {
        let disk = power::Disk::new();
        let mut ledger = Ledger::new(mode);
        for round in 0..rounds {
            ledger.round(&disk.ring(), round + 1, random.next(), true, |child| {
                disk.pull_the_plug(random.next());
                child.kill().expect("killed");
            });
            disk.power_up();
        }
        ledger.finish(&disk.ring());
        println!("power, {mode:?}: {ledger}");
        assert!(rounds == 0 || ledger.acknowledged > 0);
    }
}
