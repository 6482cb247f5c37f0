//! Purges while other things happen, and what they leave on the disk.

use tidegate_proto::ids::{Seq, SinkId};

use crate::disk::fake::FakeDisk;
use crate::store::SledRing;
use crate::testing::contract::{ALL_OF_IT, all_texts, append, closed_account, options};
use crate::testing::{TextRule, sized_block, text};
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
