//! Writing goes on while a sync is under way.

use std::collections::BTreeSet;
use std::time::Duration;

use tidegate_proto::ids::Seq;

use crate::disk::fake::FakeDisk;
use crate::store::SledRing;
use crate::testing::contract::{ALL_OF_IT, all_texts, options};
use crate::testing::{group, sized_block, text, wait};
use crate::{AppendError, Health, Ring, RingOptions};

fn open(disk: &FakeDisk) -> SledRing {
    let options = RingOptions {
        // each group makes a sync begin, none waits for it
        commit_bytes: 1,
        commit_delay: Duration::from_millis(20),
        retry: Duration::from_millis(1),
        ..options()
    };
    SledRing::over(Box::new(disk.clone()), disk.book(), options, None).expect("opened")
}

#[test]
fn groups_become_durable_in_their_order_and_a_failed_sync_refuses_what_was_written_behind_it() {
    let disk = FakeDisk::default();
    let ring = open(&disk);
    let send = |tag| wait(ring.append(group(vec![sized_block(&[2], tag, 2000)])));
    let first: Vec<_> = (1..=20).map(|tag| send(tag).expect("room")).collect();
    let places: Vec<u64> =
        first.into_iter().map(|t| wait(t).expect("stored").expect("events").first().0).collect();
    assert_eq!(places, (1..=20).collect::<Vec<u64>>());

    disk.fail_syncs(1);
    let mut stored: BTreeSet<String> = (1..=20).map(|tag| text(tag, 0)).collect();
    let mut refused = 0;
    let tickets: Vec<_> = (21..=40).map(|tag| (tag, send(tag))).collect();
    for (tag, ticket) in tickets {
        match ticket.map(wait) {
            Ok(Ok(_)) => {
                stored.insert(text(tag, 0));
            }
            Ok(Err(AppendError::ReadOnly(_))) | Err(AppendError::ReadOnly(_)) => refused += 1,
            other => panic!("{tag}: {other:?}"),
        }
    }
    assert!(refused > 0);
    let mut watch = ring.watch();
    wait(watch.wait_for(|s| s.health == Health::Good)).expect("it can write again");
    wait(send(41).expect("room")).expect("stored");
    stored.insert(text(41, 0));
    let held = |ring: &SledRing| -> BTreeSet<String> {
        all_texts(&ring.read(Seq::ZERO, ALL_OF_IT).expect("read")).into_iter().collect()
    };
    assert_eq!(held(&ring), stored);
    drop(ring);
    let ring = open(&disk);
    assert_eq!(held(&ring), stored, "the same after it was opened again");
    ring.account().check().expect("closes");
    assert_eq!(ring.status().quarantined, Vec::<String>::new());
}
