//! What a newer version wrote is left alone.

use tidegate_proto::ids::SinkId;

use crate::book::record::{self, VERSION};
use crate::disk::fake::FakeDisk;
use crate::ledger::Key;
use crate::store::SledRing;
use crate::testing::block;
use crate::testing::contract::{append, options};
use crate::{Ring, RingError, StartAt};

fn closed_ring() -> FakeDisk {
    let disk = FakeDisk::default();
    let ring = SledRing::over(Box::new(disk.clone()), disk.book(), options(), None).expect("opened");
    ring.attach(&SinkId::new("s"), StartAt::Oldest).expect("attached");
    append(&ring, vec![block(&[2, 3], 1)]);
    ring.close().expect("closed");
    drop(ring);
    disk
}

/// The next version in a header of `len` bytes with a checksum at its end.
fn newer(bytes: Vec<u8>, len: usize) -> Vec<u8> {
    with_version(bytes, len, 2)
}

fn with_version(mut bytes: Vec<u8>, len: usize, version: u8) -> Vec<u8> {
    bytes[8] = version;
    let crc = crc32c::crc32c(&bytes[..len - 4]);
    bytes[len - 4..len].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn is_refused_and_left_alone(disk: &FakeDisk, what: &str) {
    let before = (disk.files(), disk.rows());
    let refused = SledRing::over(Box::new(disk.clone()), disk.book(), options(), None);
    let Err(e @ RingError::Newer { version: 2, .. }) = refused else { panic!("{what}: {refused:?}") };
    let why = e.to_string();
    assert!(why.contains("format 2") && why.contains("use the version that wrote it"), "{what}: {why}");
    assert!((disk.files(), disk.rows()) == before, "{what}: something was changed");
}

#[test]
fn a_segment_of_a_newer_version_is_refused_and_nothing_is_changed() {
    let disk = closed_ring();
    for (name, bytes) in disk.files().into_iter().filter(|(n, _)| n.ends_with(".seg")) {
        let copy = disk.copy();
        copy.put(&name, newer(bytes, crate::store::frame::HEADER_LEN));
        copy.put("left.tmp", b"over".to_vec());
        is_refused_and_left_alone(&copy, &name);
    }
}

#[test]
fn a_journal_of_a_newer_version_is_refused_and_nothing_is_changed() {
    let disk = closed_ring();
    let journals = disk.files().into_iter().filter(|(_, bytes)| bytes.starts_with(b"TIDEJRN\n"));
    let journals: Vec<_> = journals.collect();
    assert!(!journals.is_empty());
    for (name, bytes) in journals {
        let copy = disk.copy();
        copy.put(&name, newer(bytes, 36));
        is_refused_and_left_alone(&copy, &name);
    }
}

#[test]
fn a_book_of_a_newer_version_is_refused_and_nothing_is_changed() {
    let disk = closed_ring();
    let copy = FakeDisk::default();
    for (name, bytes) in disk.files().into_iter().filter(|(n, _)| !n.ends_with(".journal")) {
        copy.put(&name, bytes);
    }
    let mut rows = disk.rows();
    let totals = rows.get_mut(&record::key_bytes(&Key::Meta)).expect("totals");
    assert_eq!(u64::from(totals[0]), VERSION);
    totals[0] += 1;
    copy.set_rows(rows);
    is_refused_and_left_alone(&copy, "book");
}

#[test]
fn a_version_that_never_was_is_damage() {
    let disk = closed_ring();
    let mut seen = 0;
    for (name, bytes) in disk.files() {
        let copy = disk.copy();
        let len = if name.ends_with(".seg") { crate::store::frame::HEADER_LEN } else { 36 };
        copy.put(&name, with_version(bytes, len, 0));
        let ring = SledRing::over(Box::new(copy.clone()), copy.book(), options(), None).expect("opened");
        let told = ring.status().quarantined;
        assert!(told.iter().any(|t| t.contains("damaged")), "{name}: {told:?}");
        assert_eq!(ring.account().sinks[&SinkId::new("s")].held, [0, 0, 1, 1], "{name}");
        seen += 1;
    }
    assert!(seen >= 2, "a segment and a journal: {seen}");
}
