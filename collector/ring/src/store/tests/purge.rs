//! Purges while other things happen, and what they leave on the disk.

use tidegate_proto::ids::{Seq, SinkId};
use tidegate_proto::level::LossReason;

use crate::disk::fake::FakeDisk;
use crate::store::SledRing;
use crate::store::frame::FRAME_MAGIC;
use crate::testing::contract::{ALL_OF_IT, all_texts, append, closed_account, options, range};
use crate::testing::{TextRule, block, sized_block, text};
use crate::{Ring, RingOptions, StartAt};

#[test]
fn a_purge_reaches_what_eviction_moves_away_from_it() {
    let disk = FakeDisk::default();
    let options = RingOptions { bound_bytes: RingOptions::MIN_BOUND, ..options() };
    let ring = SledRing::over(Box::new(disk.clone()), disk.book(), options, None).expect("opened");
    ring.attach(&SinkId::new("s"), StartAt::Oldest).expect("attached");
    let secrets: std::collections::BTreeSet<String> = (0..120).map(|n| text(n, 0)).collect();
    for n in 0..120 {
        append(&ring, vec![sized_block(&[0], n, 1000), sized_block(&[2], 1000 + n, 30_000)]);
    }
    let held = |ring: &SledRing| {
        let read = ring.read(Seq::ZERO, ALL_OF_IT).expect("readable");
        all_texts(&read).iter().filter(|t| secrets.contains(*t)).count()
    };
    assert_eq!(held(&ring), 120);
    let rule = TextRule(|t: &str| secrets.contains(t));
    ring.seal().expect("sealed");
    let mut purge = ring.shared.begin_purge(&rule);
    assert!(purge.step().expect("purged"));
    let mut next = 10_000;
    // each time, the oldest segment is evicted and its critical block moved
    while purge.step().expect("purged") {
        for _ in 0..16 {
            append(&ring, vec![sized_block(&[2], next, 30_000)]);
            next += 1;
        }
    }
    assert!(!purge.is_through(), "what was moved is in a segment that is not closed");
    ring.seal().expect("sealed");
    while purge.step().expect("purged") {}
    assert!(purge.is_through());
    let purged = purge.end(Ok(())).expect("purged");
    assert_eq!((held(&ring), purged.events), (0, [120, 0, 0, 0]));
    closed_account(&ring);
    drop(ring);
    for (name, bytes) in disk.files() {
        let found = secrets.iter().find(|s| bytes.windows(s.len()).any(|w| w == s.as_bytes()));
        assert_eq!(found, None, "in {name}");
    }
}

#[test]
fn a_purge_removes_the_damaged_book() {
    let folder = tempfile::tempdir().expect("folder");
    let book = folder.path().join("book");
    let open = || SledRing::open(folder.path(), options()).expect("opened");
    append(&open(), vec![sized_block(&[2], 1, 0)]);
    for entry in std::fs::read_dir(&book).expect("book").flatten() {
        let db = entry.path().join("db");
        let len = std::fs::metadata(&db).expect("db").len();
        std::fs::write(db, vec![0x5a; usize::try_from(len).expect("small")]).expect("damaged");
    }
    let ring = open();
    assert!(book.join("damaged-book").exists());
    ring.purge(&TextRule(|_: &str| false)).expect("purged");
    assert!(!book.join("damaged-book").exists());
}

#[test]
fn a_purge_that_fails_on_a_full_disk_leaves_no_file() {
    let disk = FakeDisk::default();
    let ring = SledRing::over(Box::new(disk.clone()), disk.book(), options(), None).expect("opened");
    append(&ring, vec![sized_block(&[2], 1, 30_000), sized_block(&[2], 2, 30_000)]);
    ring.seal().expect("sealed");
    disk.set_capacity(Some(disk.used() + 10_000));
    ring.purge(&TextRule(|t: &str| t == text(1, 0))).expect_err("the disk is full");
    assert!(!disk.files().keys().any(|n| n.ends_with(".tmp")));
    disk.set_capacity(None);
    ring.purge(&TextRule(|t: &str| t == text(1, 0))).expect("purged");
    assert_eq!(all_texts(&ring.read(Seq::ZERO, ALL_OF_IT).expect("readable")), [text(2, 0)]);
}

#[test]
fn a_segment_that_cannot_be_purged_does_not_keep_what_has_to_go_in_the_others() {
    let disk = FakeDisk::default();
    let ring = SledRing::over(Box::new(disk.clone()), disk.book(), options(), None).expect("opened");
    append(&ring, vec![sized_block(&[2], 1, 60_000), sized_block(&[2], 2, 60_000)]);
    ring.seal().expect("sealed");
    append(&ring, vec![sized_block(&[2], 3, 100), sized_block(&[2], 4, 100)]);
    ring.seal().expect("sealed");
    disk.set_capacity(Some(disk.used() + 30_000));
    let rule = TextRule(|t: &str| t == text(1, 0) || t == text(3, 0));
    ring.purge(&rule).expect_err("the first has no room");
    let held = || all_texts(&ring.read(Seq::ZERO, ALL_OF_IT).expect("readable"));
    assert_eq!(held(), [text(1, 0), text(2, 0), text(4, 0)]);
    disk.set_capacity(None);
    ring.purge(&rule).expect("purged");
    assert_eq!(held(), [text(2, 0), text(4, 0)]);
}

#[test]
fn damage_beside_a_purge_counts_as_damage() {
    let disk = FakeDisk::default();
    let ring = SledRing::over(Box::new(disk.clone()), disk.book(), options(), None).expect("opened");
    ring.attach(&SinkId::new("s"), StartAt::Oldest).expect("attached");
    for tag in 1..=3 {
        append(&ring, vec![block(&[2, 2], tag)]);
    }
    ring.purge(&TextRule(|t: &str| t == text(1, 0) || t == text(1, 1))).expect("purged");
    // neither book nor journal, no note since the purge, and the head of the second group is damaged
    let copy = disk.copy_without_book();
    drop(ring);
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).rposition(|w| w == what);
    for (name, mut bytes) in copy.files() {
        let Some(body) = find(&bytes, text(2, 0).as_bytes()) else { continue };
        let head = find(&bytes[..body], FRAME_MAGIC).expect("a frame");
        bytes[head + 30] ^= 1;
        copy.put(&name, bytes);
    }
    let ring = SledRing::over(Box::new(copy.clone()), copy.book(), options(), None).expect("opened");
    let holes = ring.read(Seq::ZERO, ALL_OF_IT).expect("readable").holes;
    let told: Vec<_> = holes.iter().map(|h| (h.range, h.events, h.reason)).collect();
    assert_eq!(told, [(range(1, 2), 2, LossReason::Purged), (range(3, 4), 2, LossReason::Corrupt)]);
    closed_account(&ring);
}
