//! Every region of every file of a small ring is flipped, cut, taken away and swapped in turn.

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_proto::ids::{Seq, SinkId};

use crate::disk::fake::FakeDisk;
use crate::store::SledRing;
use crate::store::frame::HEADER_LEN;
use crate::testing::contract::{ALL_OF_IT, append, delivered, range};
use crate::testing::{block, sized_block, text, texts};
use crate::{Chain, Compression, Ring, RingOptions, StartAt};

fn options() -> RingOptions {
    RingOptions {
        bound_bytes: 64 << 20,
        segment_bytes: Some(64 << 10),
        commit_delay: Duration::ZERO,
        compression: Compression::Zstd(1),
        ..RingOptions::default()
    }
}

fn open(disk: &FakeDisk) -> SledRing {
    SledRing::over(Box::new(disk.clone()), disk.book(), options(), None).expect("opened")
}

/// Three segments; events 1-2 settled, 3 planned. Returns place → text.
fn small_ring() -> (FakeDisk, BTreeMap<u64, String>) {
    let disk = FakeDisk::default();
    let ring = open(&disk);
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    let mut events = BTreeMap::new();
    for tag in 1..=6u64 {
        let new = vec![sized_block(&[2, 3], tag, 500), block(&[0], tag + 100)];
        let got = append(&ring, new);
        let names = [text(tag, 0), text(tag, 1), text(tag + 100, 0)];
        events.extend((got.first().0..).zip(names));
        if tag == 2 {
            ring.plan(&sink, range(1, 2).into()).expect("planned");
            ring.plan(&sink, range(3, 3).into()).expect("planned");
            ring.settle(&sink, range(1, 2).into(), &delivered([0, 0, 1, 1])).expect("settled");
            ring.put("k", Some(b"value")).expect("stored");
            ring.chain_append(Chain::Audit, b"entry").expect("appended");
        }
        if tag % 2 == 0 && tag < 6 {
            // closes the segment
            let none = ring.purge(&crate::testing::TextRule(|_: &str| false)).expect("purged");
            assert_eq!(none.blocks, 0);
        }
    }
    drop(ring);
    (disk, events)
}

/// Opens a damaged ring; nothing may panic or hang, and what is there must be right. Returns how
/// many events are gone.
fn survives(disk: &FakeDisk, events: &BTreeMap<u64, String>, what: &str) -> u64 {
    let ring = open(disk);
    ring.account().check().unwrap_or_else(|e| panic!("{what}: {e}"));
    let read = ring.read(Seq::ZERO, ALL_OF_IT).unwrap_or_else(|e| panic!("{what}: {e}"));
    ring.account().check().unwrap_or_else(|e| panic!("{what}, read: {e}"));
    let mut seen = 0;
    for b in &read.blocks {
        assert!(b.seqs.is_none(), "{what}");
        for (place, found) in (b.range.first().0..).zip(texts(&b.data)) {
            assert_eq!(events.get(&place), Some(&found), "{what}: place {place}");
            seen += 1;
        }
    }
    let last = *events.last_key_value().expect("events").0;
    let lost: u64 = read.holes.iter().map(|h| h.events).sum();
    if let Some(cursor) = ring.status().cursors.get(&SinkId::new("s")) {
        assert!(cursor.settled <= Seq(last), "{what}");
    }
    // it goes on
    let next = append(&ring, vec![block(&[2], 999)]);
    assert_eq!(next.first(), ring.status().durable, "{what}");
    // and is opened again as it is, whatever was put right
    drop(ring);
    let again = open(disk);
    again.account().check().unwrap_or_else(|e| panic!("{what}, again: {e}"));
    let read = again.read(Seq::ZERO, ALL_OF_IT).unwrap_or_else(|e| panic!("{what}, again: {e}"));
    let held: usize = read.blocks.iter().map(|b| texts(&b.data).len()).sum();
    assert_eq!(held as u64, seen + 1, "{what}: as much as before and one more");
    lost
}

pub(super) fn step() -> usize {
    std::env::var("TIDEGATE_SWEEP_STEP").ok().and_then(|v| v.parse().ok()).unwrap_or(23)
}

/// One damaged file of the journal keeps the values, and is told of where it moves a cursor.
fn keeps_the_journal(disk: &FakeDisk, name: &str, what: &str) {
    if !name.ends_with(".journal") {
        return;
    }
    let ring = open(disk);
    assert_eq!(ring.get("k").expect("read").as_deref(), Some(&b"value"[..]), "{what}");
    assert_eq!(ring.get(crate::UNSURE).expect("read"), None, "{what}");
    let status = ring.status();
    let same = status.cursors[&SinkId::new("s")].planned == [range(3, 3).into()];
    assert!(same || !status.quarantined.is_empty(), "{what}");
}

/// Places to damage in a file: all of it in the long run, and not the zeros of a journal.
fn places(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
    (0..used).step_by(step())
}

#[test]
fn a_flipped_byte_takes_no_more_than_its_group() {
    let (disk, events) = small_ring();
    for with_book in [true, false] {
        for (name, bytes) in disk.files() {
            for at in places(&bytes) {
                let copy = if with_book { disk.copy() } else { disk.copy_without_book() };
                let mut bad = bytes.clone();
                bad[at] ^= 0x41;
                copy.put(&name, bad);
                let what = format!("{name} flipped at {at}, book: {with_book}");
                if with_book {
                    keeps_the_journal(&copy.copy(), &name, &what);
                }
                let lost = survives(&copy, &events, &what);
                // without a book, a header is all that tells of a segment
                let most = if with_book { 3 } else { 6 };
                assert!(lost <= most, "{name} flipped at {at}: {lost} lost");
            }
        }
    }
}

#[test]
fn a_damaged_header_is_mended_once_and_for_all() {
    let (disk, events) = small_ring();
    for (name, bytes) in disk.files().into_iter().filter(|(n, _)| n.ends_with(".seg")) {
        for at in (0..HEADER_LEN).step_by(5) {
            let copy = disk.copy();
            let mut bad = bytes.clone();
            bad[at] ^= 0x41;
            copy.put(&name, bad);
            let what = format!("{name} flipped at {at}");
            let ring = open(&copy);
            assert_eq!(ring.verify().expect("read").problem_count, 1, "{what}");
            assert_eq!(ring.mend().expect("mended"), 1, "{what}");
            assert_eq!(ring.verify().expect("read").problems, Vec::<String>::new(), "{what}");
            drop(ring);
            let ring = open(&copy);
            assert_eq!(ring.status().quarantined, Vec::<String>::new(), "{what}");
            assert_eq!(ring.mend().expect("mended"), 0, "{what}");
            drop(ring);
            assert_eq!(survives(&copy.copy_without_rows(), &events, &what), 0);
        }
    }
}

#[test]
fn a_cut_file_takes_no_more_than_what_was_in_it() {
    let (disk, events) = small_ring();
    for (name, bytes) in disk.files() {
        for at in places(&bytes) {
            let copy = disk.copy();
            copy.put(&name, bytes[..at].to_vec());
            keeps_the_journal(&copy.copy(), &name, &format!("{name} cut at {at}"));
            let lost = survives(&copy, &events, &format!("{name} cut at {at}"));
            assert!(lost <= 6, "{name} cut at {at}: {lost} lost");
        }
    }
}

#[test]
fn files_may_be_missing_or_swapped() {
    let (disk, events) = small_ring();
    let files = disk.files();
    let names: Vec<&String> = files.keys().collect();
    for name in &names {
        let copy = disk.copy();
        crate::disk::Disk::remove(&copy, name).expect("removed");
        crate::disk::Disk::sync_dir(&copy).expect("synced");
        let lost = survives(&copy, &events, &format!("without {name}"));
        assert!(lost <= 6, "{lost}");
    }
    let copy = disk.copy();
    let segments: Vec<&&String> = names.iter().filter(|n| n.ends_with(".seg")).collect();
    copy.put(segments[0], files[*segments[1]].clone());
    copy.put(segments[1], files[*segments[0]].clone());
    assert_eq!(survives(&copy, &events, "two segments swapped"), 0);
    let copy = disk.copy();
    copy.put("00000000000000ff.seg", files[*segments[0]].clone());
    copy.put("notes.txt", b"not ours".to_vec());
    assert_eq!(survives(&copy, &events, "a copy and a strange file"), 0);
    let other = small_ring().0;
    let copy = disk.copy();
    copy.put("00000000000000fe.seg", other.files()[*segments[0]].clone());
    assert_eq!(survives(&copy, &events, "a segment of another ring"), 0);
}

#[test]
fn a_file_that_cannot_be_read_takes_no_more_than_what_was_in_it() {
    let (disk, events) = small_ring();
    for with_book in [true, false] {
        for (name, bytes) in disk.files() {
            let copy = || if with_book { disk.copy() } else { disk.copy_without_rows() };
            let what = format!("{name} cannot be read, book: {with_book}");
            let worn = copy();
            worn.wear_out(&name, 0..bytes.len());
            let ring = open(&worn);
            assert!(!ring.status().quarantined.is_empty() || name.ends_with(".seg"), "{what}");
            assert_eq!(ring.get("k").expect("read").as_deref(), Some(&b"value"[..]), "{what}");
            drop(ring);
            let worn = copy();
            worn.wear_out(&name, 0..bytes.len());
            let lost = survives(&worn, &events, &what);
            assert!(lost <= if name.ends_with(".seg") { 6 } else { 0 }, "{what}: {lost} lost");
            if !name.ends_with(".seg") {
                continue;
            }
            for at in (0..bytes.len()).step_by(512) {
                let worn = copy();
                worn.wear_out(&name, at..at + 512);
                let what = format!("{name} cannot be read at {at}, book: {with_book}");
                let lost = survives(&worn, &events, &what);
                assert!(lost <= 6, "{what}: {lost} lost");
            }
        }
    }
}

#[test]
fn what_is_set_aside_leaves_the_ring_its_room() {
    let bound = RingOptions::MIN_BOUND;
    let open = |disk: &FakeDisk| {
        let options = RingOptions { bound_bytes: bound, segment_bytes: None, ..options() };
        SledRing::over(Box::new(disk.clone()), disk.book(), options, None).expect("opened")
    };
    let make = |blocks: u64| {
        let disk = FakeDisk::default();
        let ring = open(&disk);
        ring.attach(&SinkId::new("s"), StartAt::Oldest).expect("attached");
        (0..blocks).for_each(|n| {
            append(&ring, vec![sized_block(&[2], n, 30_000)]);
        });
        drop(ring);
        disk
    };
    // the segments of one ring with the book of another
    let (old, disk) = (make(200), make(3));
    disk.files().keys().filter(|n| n.ends_with(".seg")).for_each(|n| {
        crate::disk::Disk::remove(&disk, n).expect("removed");
    });
    let segments = old.files().into_iter().filter(|(n, _)| n.ends_with(".seg"));
    segments.for_each(|(n, bytes)| disk.put(&n, bytes));
    for told in [true, false] {
        let ring = open(&disk);
        let aside = disk.files().into_iter().filter(|(n, _)| n.ends_with(".bad"));
        let aside: u64 = aside.map(|(_, bytes)| bytes.len() as u64).sum();
        assert!(0 < aside && aside <= bound / 8, "{aside}");
        assert_eq!(ring.status().quarantined.iter().any(|r| r.contains("not kept")), told);
        append(&ring, (0..8).map(|n| sized_block(&[2], n, 32_000)).collect());
        ring.account().check().expect("closes");
    }
}

#[test]
fn a_disk_that_neither_reads_nor_writes_is_not_taken_for_damage() {
    let (disk, events) = small_ring();
    for (name, bytes) in disk.files() {
        let worn = disk.copy();
        worn.wear_out(&name, 0..bytes.len());
        worn.set_read_only(true);
        SledRing::over(Box::new(worn.clone()), worn.book(), options(), None).expect_err("it may be back");
        assert_eq!(worn.files(), disk.files(), "{name}");
    }
    assert_eq!(survives(&disk.copy(), &events, "whole"), 0);
}

#[test]
fn a_damaged_sled_is_set_aside_and_nothing_is_lost() {
    let folder = tempfile::tempdir().expect("folder");
    let ring = SledRing::open(folder.path(), options()).expect("opened");
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    append(&ring, vec![block(&[2, 2], 1)]);
    ring.plan(&sink, range(1, 1).into()).expect("planned");
    ring.settle(&sink, range(1, 1).into(), &delivered([0, 0, 1, 0])).expect("settled");
    drop(ring);
    let book =
        std::fs::read_dir(folder.path().join("book")).expect("book").next().expect("one").expect("one");
    let db = book.path().join("db");
    let good = std::fs::read(&db).expect("db");
    for at in (0..good.len()).step_by(good.len() / 12 + 1) {
        let here = std::fs::read_dir(folder.path().join("book")).expect("book");
        let db = here.flatten().find(|e| e.file_name().to_string_lossy().starts_with("book-"));
        let db = db.expect("a book").path().join("db");
        let mut bad = std::fs::read(&db).expect("db");
        let end = bad.len().min(at + 300);
        if let Some(part) = bad.get_mut(at..end) {
            part.iter_mut().for_each(|b| *b ^= 0x5a);
        }
        std::fs::write(&db, bad).expect("damaged");
        let ring = SledRing::open(folder.path(), options()).expect("opened");
        ring.account().check().expect("closes");
        assert_eq!(ring.status().cursors[&sink].settled, Seq(1));
        assert_eq!(ring.read(Seq(1), ALL_OF_IT).expect("readable").blocks.len(), 1);
    }
}
