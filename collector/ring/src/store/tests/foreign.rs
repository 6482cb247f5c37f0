//! Files in a ring's folder that are not its own.

use tidegate_proto::ids::{Seq, SinkId};

use crate::disk::Disk as _;
use crate::disk::fake::FakeDisk;
use crate::ledger::Key;
use crate::store::frame::{HEADER_LEN, Header};
use crate::store::{SledRing, segment_name};
use crate::testing::contract::{ALL_OF_IT, all_texts, append, closed_account, options};
use crate::testing::{block, text};
use crate::{Ring, StartAt};

fn open(disk: &FakeDisk) -> SledRing {
    SledRing::over(Box::new(disk.clone()), disk.book(), options(), None).expect("opened")
}

/// Two segments, an event in each.
fn a_ring() -> FakeDisk {
    let disk = FakeDisk::default();
    for n in 1..=2 {
        let ring = open(&disk);
        ring.attach(&SinkId::new("s"), StartAt::Oldest).expect("attached");
        append(&ring, vec![block(&[2], n)]);
    }
    disk
}

/// A header that is good in all but its number.
fn header(disk: &FakeDisk, number: u64) -> Vec<u8> {
    let mut bytes = disk.files()[&segment_name(1)].clone();
    let good = Header::decode(&bytes).expect("a header");
    bytes[..HEADER_LEN].copy_from_slice(&Header { number, ..good }.encode());
    bytes
}

#[test]
fn a_name_that_is_no_segments_takes_nothing_from_one() {
    let disk = a_ring();
    let junk = || b"x".repeat(100);
    let last = "ffffffffffffffff.seg";
    let cases = [
        ("1.seg", junk()),
        ("1.seg", Vec::new()),
        ("+2.seg", junk()),
        ("000000000000000A.seg", junk()),
        ("notes.seg", junk()),
        (last, junk()),
        (last, Vec::new()),
        (last, header(&disk, u64::MAX)),
        ("4000000000000000.seg", junk()),
        ("notes.seg", header(&disk, u64::MAX)),
    ];
    for (name, bytes) in cases {
        for with_book in [true, false] {
            let what = format!("{name} of {} bytes, book: {with_book}", bytes.len());
            let copy = if with_book { disk.copy() } else { disk.copy_without_book() };
            copy.put(name, bytes.clone());
            for n in 3..6 {
                let ring = open(&copy);
                append(&ring, vec![block(&[2], n)]);
                assert_eq!(ring.verify().expect("read").problems, Vec::<String>::new(), "{what}");
            }
            let ring = open(&copy);
            let read = ring.read(Seq::ZERO, ALL_OF_IT).expect("readable");
            let all: Vec<String> = (1..6).map(|n| text(n, 0)).collect();
            assert_eq!(all_texts(&read), all, "{what}");
            assert_eq!(read.holes, [], "{what}");
            closed_account(&ring);
            assert_eq!(copy.files().get(name), Some(&bytes), "{what}: it is left alone");
        }
    }
}

#[test]
fn a_second_copy_with_another_name_is_set_aside() {
    let disk = a_ring();
    disk.put("+2.seg", disk.files()[&segment_name(2)].clone());
    let ring = open(&disk);
    assert!(ring.status().quarantined.iter().any(|t| t.contains("second copy")));
    assert_eq!(ring.read(Seq::ZERO, ALL_OF_IT).expect("readable").blocks.len(), 2);
}

#[test]
fn no_file_is_written_over_by_a_new_segment() {
    let disk = a_ring();
    let ring = open(&disk);
    let mine = b"came while it was open".to_vec();
    disk.put(&segment_name(3), mine.clone());
    append(&ring, vec![block(&[2], 3)]);
    assert_eq!(ring.read(Seq::ZERO, ALL_OF_IT).expect("readable").blocks.len(), 3);
    assert_eq!(disk.files()[&segment_name(3)], mine);
    assert!(disk.open(&segment_name(4)).is_ok(), "the next number is taken");
}

#[test]
fn a_book_that_once_counted_such_a_number_is_counted_on_from_the_files() {
    let disk = a_ring();
    let ring = open(&disk);
    let mut state = ring.shared.lock();
    state.next_segment = u64::MAX;
    state.ledger.dirty.insert(Key::Meta);
    drop(state);
    drop(ring);
    let ring = open(&disk);
    append(&ring, vec![block(&[2], 3)]);
    assert_eq!(ring.read(Seq::ZERO, ALL_OF_IT).expect("readable").blocks.len(), 3);
    assert!(disk.open(&segment_name(3)).is_ok());
}
