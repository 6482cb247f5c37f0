mod bounds;
mod damage;
mod downgrade;
mod foreign;
mod journal;
mod look;
mod model;
mod overlap;
mod purge;

use std::sync::Arc;

use super::*;
use crate::testing::contract;
use crate::{Ring, RingOptions};

#[test]
fn the_ring_on_disk_keeps_the_contract() {
    for (name, test) in contract::ALL {
        eprintln!("{name}");
        let folders = std::cell::RefCell::new(Vec::new());
        test(&|options: RingOptions| {
            let folder = tempfile::tempdir().expect("folder");
            let ring = SledRing::open(folder.path(), options).expect("opened");
            folders.borrow_mut().push(folder);
            Arc::new(ring) as Arc<dyn Ring>
        });
    }
}

use tidegate_proto::ids::{Seq, SinkId};

use crate::testing::contract::{all_texts, append, closed_account, delivered, options, range};
use crate::testing::{block, text};
use crate::{Chain, StartAt};

fn open(folder: &std::path::Path) -> SledRing {
    SledRing::open(folder, options()).expect("opened")
}

/// A ring with five events, two of them settled, one planned, and something in each corner.
fn furnished(folder: &std::path::Path) -> SledRing {
    let ring = open(folder);
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    append(&ring, vec![block(&[2, 3], 1), block(&[0], 2)]);
    append(&ring, vec![block(&[2, 2], 3)]);
    ring.plan(&sink, range(1, 2).into()).expect("planned");
    ring.plan(&sink, range(3, 3).into()).expect("planned");
    ring.settle(&sink, range(1, 2).into(), &delivered([0, 0, 1, 1])).expect("settled");
    ring.put("switch", Some(b"on")).expect("stored");
    ring.chain_append(Chain::Audit, b"entry").expect("appended");
    ring
}

fn is_furnished(ring: &SledRing, with_chain: bool) {
    let sink = SinkId::new("s");
    let account = closed_account(ring);
    assert_eq!(account.stored, [1, 0, 3, 1]);
    assert_eq!(account.sinks[&sink].delivered, [0, 0, 1, 1]);
    let cursor = ring.attach(&sink, StartAt::Now).expect("attached");
    assert_eq!((cursor.settled, cursor.planned), (Seq(2), vec![range(3, 3).into()]));
    let read = ring.read(cursor.settled, contract::ALL_OF_IT).expect("readable");
    assert_eq!(all_texts(&read), [text(2, 0), text(3, 0), text(3, 1)]);
    assert_eq!(ring.get("switch").expect("read").as_deref(), Some(&b"on"[..]));
    if with_chain {
        assert_eq!(ring.chain_read(Chain::Audit, 1, 9).expect("read").len(), 1);
    }
    assert_eq!(ring.chain_append(Chain::Audit, b"more").expect("appended").number, 2);
    assert_eq!(append(ring, vec![block(&[2], 4)]), range(6, 6));
}

#[test]
fn a_ring_that_is_opened_again_goes_on_where_it_was() {
    let folder = tempfile::tempdir().expect("folder");
    furnished(folder.path()).close().expect("closed");
    let ring = open(folder.path());
    assert_eq!(ring.status().quarantined, Vec::<String>::new());
    is_furnished(&ring, true);
}

#[test]
fn without_its_book_the_ring_knows_all_but_its_chains() {
    let folder = tempfile::tempdir().expect("folder");
    furnished(folder.path()).close().expect("closed");
    std::fs::remove_dir_all(folder.path().join("book")).expect("removed");
    is_furnished(&open(folder.path()), false);
}

#[test]
fn without_book_and_journal_the_ring_is_made_anew_from_the_segments() {
    let folder = tempfile::tempdir().expect("folder");
    let ring = furnished(folder.path());
    ring.close().expect("closed");
    drop(ring);
    std::fs::remove_dir_all(folder.path().join("book")).expect("removed");
    for name in ["a.journal", "b.journal"] {
        // the second one is only there after the first turn
        let _ = std::fs::remove_file(folder.path().join("segments").join(name));
    }
    let ring = open(folder.path());
    assert!(!ring.status().quarantined.is_empty(), "it is reported");
    is_furnished(&ring, false);
}

#[test]
fn a_second_process_is_kept_out() {
    let folder = tempfile::tempdir().expect("folder");
    let ring = furnished(folder.path());
    let second = SledRing::open(folder.path(), options()).expect_err("locked");
    assert!(second.to_string().contains("lock"), "{second}");
    drop(ring);
    is_furnished(&open(folder.path()), true);
}
