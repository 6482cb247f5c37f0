//! What damage to the journal may not do: bring an older switch back without a word.

use tidegate_proto::ids::{Seq, SinkId};

use crate::disk::Disk;
use crate::disk::fake::FakeDisk;
use crate::store::SledRing;
use crate::testing::block;
use crate::testing::contract::{append, closed_account, delivered, options, range};
use crate::{Ring, StartAt, UNSURE};

fn open(disk: &FakeDisk) -> SledRing {
    SledRing::over(Box::new(disk.clone()), disk.book(), options(), None).expect("opened")
}

fn value(ring: &SledRing, key: &str) -> Option<String> {
    let value = ring.get(key).expect("read");
    value.map(|v| String::from_utf8(v).expect("text"))
}

/// A ring whose switch was turned off, and things done before, between and behind: as it is when its
/// process is killed, and as it was closed.
fn switched_off() -> [FakeDisk; 2] {
    let disk = FakeDisk::default();
    let ring = open(&disk);
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    append(&ring, vec![block(&[2, 2, 2], 1)]);
    ring.put("level", Some(b"3")).expect("stored");
    ring.put("enabled", Some(b"1")).expect("stored");
    for n in 1..=2 {
        ring.plan(&sink, range(n, n).into()).expect("planned");
        ring.settle(&sink, range(n, n).into(), &delivered([0, 0, 1, 0])).expect("settled");
        ring.put("enabled", Some(b"0")).expect("stored");
    }
    ring.plan(&sink, range(3, 3).into()).expect("planned");
    let killed = disk.copy();
    drop(ring);
    [killed, disk]
}

#[test]
fn one_flipped_byte_of_the_journal_does_not_enable_telemetry_again() {
    for (disk, closed) in switched_off().into_iter().zip([false, true]) {
        let newest = {
            let files = disk.files();
            let generation = |name: &str| files[name][16..24].to_vec();
            if generation("a.journal") > generation("b.journal") { "a.journal" } else { "b.journal" }
        };
        for (name, bytes) in disk.files().into_iter().filter(|(n, _)| n.ends_with(".journal")) {
            let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
            for at in (0..used).step_by((super::damage::step() / 3).max(1)) {
                for without_book in [false, true] {
                    let mut bad = bytes.clone();
                    bad[at] ^= 0x41;
                    let copy = if without_book { disk.copy_without_rows() } else { disk.copy() };
                    copy.put(&name, bad);
                    let ring = open(&copy);
                    let what = format!("{name} flipped at {at}, closed: {closed}, no book: {without_book}");
                    assert_eq!(value(&ring, "enabled").as_deref(), Some("0"), "{what}");
                    assert_eq!(value(&ring, "level").as_deref(), Some("3"), "{what}");
                    // two things damaged are one too many to be sure
                    assert!(without_book || value(&ring, UNSURE).is_none(), "{what}");
                    closed_account(&ring);
                    // a record that is the last may be one that was being written
                    let status = ring.status();
                    let told = status.quarantined.iter().any(|r| r.contains(".journal"));
                    let same = status.cursors[&SinkId::new("s")].settled == Seq(2);
                    assert!(told || same, "{what}: {:?}", status.quarantined);
                    assert!(told || name != newest || at >= 36, "{what}: a bad header is told of");
                }
            }
        }
    }
}

#[test]
fn changes_behind_a_damaged_one_are_taken() {
    let disk = FakeDisk::default();
    let ring = open(&disk);
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    append(&ring, vec![block(&[2, 2, 2], 1)]);
    let before = disk.files()["a.journal"].clone();
    for n in 1..=3 {
        ring.plan(&sink, range(n, n).into()).expect("planned");
        ring.settle(&sink, range(n, n).into(), &delivered([0, 0, 1, 0])).expect("settled");
    }
    let after = disk.files()["a.journal"].clone();
    let at = (0..after.len()).find(|n| before[*n] != after[*n]).expect("a change");
    let copy = disk.copy();
    let mut bad = after;
    bad[at + 9] ^= 1;
    copy.put("a.journal", bad);
    let again = open(&copy);
    assert_eq!(again.status().cursors[&sink].settled, Seq(3));
    assert!(!again.status().quarantined.is_empty(), "it is reported");
    closed_account(&again);
    drop(again);
    assert_eq!(open(&copy).status().quarantined, Vec::<String>::new(), "it is mended");
}

#[test]
fn a_ring_whose_journal_is_gone_says_that_it_is_unsure() {
    let [_, disk] = switched_off();
    for file in ["a.journal", "b.journal"] {
        let mut bad = disk.files()[file].clone();
        bad[20] ^= 1;
        disk.put(file, bad);
    }
    for attempt in 0..2 {
        let ring = open(&disk);
        assert!(value(&ring, UNSURE).is_some(), "opened {attempt} times since");
        assert!(attempt > 0 || !ring.status().quarantined.is_empty());
    }
    let ring = open(&disk);
    ring.put(UNSURE, None).expect("removed");
    drop(ring);
    assert_eq!(value(&open(&disk), UNSURE), None);

    let [_, disk] = switched_off();
    for file in ["a.journal", "b.journal"] {
        disk.remove(file).expect("removed");
    }
    let disk = disk.copy_without_rows();
    assert!(value(&open(&disk), UNSURE).is_some(), "only the segments tell");
    assert_eq!(value(&open(&FakeDisk::default()), UNSURE), None, "a new ring has lost nothing");
}

#[test]
fn a_ring_that_loses_power_while_it_is_made_is_sure() {
    for operations in 1..80 {
        let disk = FakeDisk::default();
        disk.power_off_after(operations);
        if let Ok(ring) = SledRing::over(Box::new(disk.clone()), disk.book(), options(), None) {
            // it may be too late for this one
            let _ = ring.put("enabled", Some(b"0"));
        }
        disk.power_off();
        disk.power_on(&mut crate::testing::Random::new(operations));
        let ring = open(&disk);
        assert_eq!(value(&ring, UNSURE), None, "{operations}: {:?}", ring.status().quarantined);
    }
}
