//! What damage to the journal may not do: bring an older switch back without a word.

use tidegate_proto::ids::{Seq, SinkId};

use crate::book::{Book, Change, NoBook, Row};
use crate::disk::Disk;
use crate::disk::fake::FakeDisk;
use crate::store::SledRing;
use crate::testing::block;
use crate::testing::contract::{append, closed_account, delivered, options, range};
use crate::{CUT, Chain, Ring, RingError, StartAt, UNSURE};

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
        assert_eq!(value(&ring, CUT), None, "{operations}: {:?}", ring.status().quarantined);
    }
}

#[test]
fn a_ring_whose_book_is_lost_says_which_chain_was_cut_and_goes_on_with_its_newest_entries() {
    let disk = FakeDisk::default();
    let ring = open(&disk);
    // what the journal has no room for is in the book alone
    let data = vec![7; 1000];
    for _ in 0..400 {
        ring.chain_append(Chain::Audit, &data).expect("appended");
    }
    let newest = ring.chain_read(Chain::Audit, 400, 1).expect("read");
    assert_eq!(newest.len(), 1);
    ring.close().expect("closed");
    drop(ring);
    assert_eq!(value(&open(&disk.copy()), CUT), None);

    let copy = disk.copy_without_rows();
    let ring = open(&copy);
    assert_eq!(value(&ring, CUT).as_deref(), Some("01"));
    assert!(ring.status().quarantined.iter().any(|r| r.contains("chain")), "{:?}", ring.status().quarantined);
    let (first, _) = ring.chain_anchor(Chain::Audit).expect("read");
    assert!(first > 0);
    // who kept the head finds it in the chain
    let left = ring.chain_read(Chain::Audit, 0, 1000).expect("read");
    assert_eq!((left.first().map(|e| e.number), left.last()), (Some(first + 1), newest.first()));
    let next = ring.chain_append(Chain::Audit, b"next").expect("appended");
    assert_eq!(next.number, 401);
    drop(ring);
    let ring = open(&copy);
    assert_eq!(value(&ring, CUT).as_deref(), Some("01"), "until someone has told");
    ring.put(CUT, None).expect("removed");
    drop(ring);
    let ring = open(&copy);
    assert_eq!((value(&ring, CUT), ring.status().quarantined), (None, Vec::new()));
    assert_eq!(ring.chain_read(Chain::Audit, 401, 1).expect("read")[0].hash, next.hash);
}

#[test]
fn a_chain_of_which_nothing_is_left_but_its_head_goes_on_behind_it_and_is_cut() {
    let disk = FakeDisk::default();
    let ring = open(&disk);
    for n in 0..5 {
        ring.chain_append(Chain::Audit, format!("entry {n}").as_bytes()).expect("appended");
    }
    // the journal turns, and what it had of the chain goes to the book
    for n in 0..2000 {
        ring.put("much", Some(&[n as u8; 2000])).expect("stored");
    }
    ring.close().expect("closed");
    drop(ring);
    let ring = open(&disk.copy_without_rows());
    assert_eq!(value(&ring, CUT).as_deref(), Some("01"));
    assert_eq!(ring.chain_read(Chain::Audit, 0, 9).expect("read"), []);
    assert_eq!(ring.chain_append(Chain::Audit, b"next").expect("appended").number, 6);
}

#[test]
fn a_ring_of_which_only_segments_are_left_says_that_its_chains_are_gone() {
    let disk = FakeDisk::default();
    let ring = open(&disk);
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    append(&ring, vec![block(&[2, 2, 2], 1)]);
    append(&ring, vec![block(&[2], 2)]);
    ring.plan(&sink, range(1, 3).into()).expect("planned");
    let outcome = crate::Settlement { receipt: b"receipt".to_vec(), ..delivered([0, 0, 3, 0]) };
    ring.settle(&sink, range(1, 3).into(), &outcome).expect("settled");
    ring.close().expect("closed");
    drop(ring);
    assert_eq!(value(&open(&disk.copy()), CUT), None);
    let bare = disk.copy_without_rows();
    for file in ["a.journal", "b.journal"] {
        bare.remove(file).expect("removed");
    }
    let ring = open(&bare);
    assert_eq!(value(&ring, CUT).as_deref(), Some("11"));
}

/// A book on a disk that is too full to open it.
#[derive(Debug)]
struct Full;

impl Book for Full {
    fn load(&mut self) -> Result<Vec<Row>, NoBook> {
        Err(NoBook::Io(std::io::ErrorKind::StorageFull.into()))
    }

    fn apply(&mut self, _: &[Change]) -> Result<(), String> {
        Err("full".to_owned())
    }

    fn renew(&mut self, _: &[Row], _: bool) -> Result<(), String> {
        panic!("a whole book is made anew")
    }

    fn clear(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

#[test]
fn a_book_that_a_full_disk_keeps_closed_is_not_taken_for_damaged() {
    let [disk, _] = switched_off();
    let refused = SledRing::over(Box::new(disk.clone()), Box::new(Full), options(), None);
    let full = std::io::ErrorKind::StorageFull;
    assert!(matches!(refused, Err(RingError::Io { source, .. }) if source.kind() == full));
    let ring = open(&disk);
    assert_eq!((value(&ring, CUT), ring.status().quarantined), (None, Vec::new()));
    assert_eq!(value(&ring, "enabled").as_deref(), Some("0"));
}
