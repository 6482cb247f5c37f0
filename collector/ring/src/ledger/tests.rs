use super::*;

#[test]
fn a_chain_keeps_its_anchor_when_old_entries_go() {
    let mut chain = ChainState { most_bytes: 40, ..ChainState::default() };
    let all: Vec<_> = (0..10).map(|n| chain.append(format!("entry {n}").as_bytes()).0).collect();
    assert_eq!(chain.anchor, (5, all[4].hash));
    assert_eq!(chain.read(0, 99), all[5..]);
    let mut loaded = ChainState { anchor: chain.anchor, ..ChainState::default() };
    assert!(loaded.load(all.clone()));
    assert_eq!(loaded.entries, chain.entries);
    let mut bad = all[6].clone();
    bad.data.push(0);
    let mut loaded = ChainState { anchor: chain.anchor, ..ChainState::default() };
    assert!(!loaded.load([all[5].clone(), bad]));
    assert_eq!((loaded.anchor, loaded.entries.len()), ((7, all[6].hash), 0));
    // the newest stay, so that a head that was kept is found
    let mut loaded = ChainState::default();
    assert!(!loaded.load(all[3..].to_vec()));
    assert_eq!((loaded.anchor, loaded.head()), ((4, all[3].hash), (10, all[9].hash)));
    let absurd = ChainEntry { number: u64::MAX, ..all[0].clone() };
    assert!(!loaded.load([absurd]));
    assert_eq!(loaded.head().0, 10);
}

mod lanes {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use tidegate_proto::ids::SeqRange;
    use tidegate_proto::level::{Class, LossReason};

    use super::*;

    fn id() -> SinkId {
        SinkId::new("s")
    }

    fn block(first: u64, len: u64, lane: u8) -> Block {
        Block {
            first,
            last: first + len - 1,
            keep: None,
            class: Class::Normal,
            lane,
            levels: [0, 0, len as u32, 0],
            time_ns: (0, 0),
            stored_ns: 0,
            raw_len: 1,
            place: Place::default(),
        }
    }

    proptest! {
        #[test]
        fn what_is_settled_is_what_a_set_of_places_says(
            blocks in prop::collection::vec((1u64..4, 0u8..3), 1..24),
            steps in prop::collection::vec((0u64..70, 0u64..12, 1u16..8, 0u8..8), 0..40),
        ) {
            let mut ledger = Ledger::default();
            ledger.attach(&id(), StartAt::Oldest).unwrap();
            let mut lane_of = vec![u8::MAX];
            for (len, lane) in blocks {
                ledger.publish(vec![block(lane_of.len() as u64, len, lane)], &Intake::default());
                lane_of.extend(std::iter::repeat_n(lane, len as usize));
            }
            ledger.read = ledger.stored.iter().sum();
            let (mut done, mut gone) = (BTreeSet::new(), BTreeSet::new());
            for (first, more, lanes, what) in steps {
                // lanes that no block has: now all, now none
                let lanes = if lanes == 7 { Lanes::ALL } else { Lanes(lanes) };
                let last = (first + more).min(ledger.durable);
                let Some(range) = SeqRange::new(Seq(first.max(1)), Seq(last)) else { continue };
                if what == 0 {
                    let Some(b) = ledger.blocks_in((first, last)).next().map(Block::run) else { continue };
                    ledger.lose(b.0, &Lost::All, LossReason::Evicted).unwrap();
                    gone.extend((b.0..=b.1).filter(|p| !done.contains(p)));
                } else if ledger.plan(&id(), Part { range, lanes }).is_ok() {
                    // what was let go is settled
                    let first = first.max(ledger.trimmed + 1);
                    let there = (first..=last).filter(|p| lanes.has(lane_of[*p as usize]));
                    let there: Vec<u64> = there.filter(|p| !gone.contains(p)).collect();
                    prop_assert!(there.iter().all(|p| !done.contains(p)), "{there:?} of {done:?}");
                    let delivered = [0, 0, there.len() as u64, 0];
                    let outcome = Settlement { delivered, ..Settlement::default() };
                    let cursor = ledger.settle(&id(), Part { range, lanes }, &outcome).unwrap();
                    done.extend(there);
                    let open = (1..=cursor.settled.0).find(|p| !done.contains(p) && !gone.contains(p));
                    prop_assert_eq!(open, None);
                }
                let account = ledger.account().unwrap();
                account.check().unwrap();
                prop_assert_eq!(account.sinks[&id()].delivered[2], done.len() as u64);
                prop_assert_eq!(account.sinks[&id()].held[2], (lane_of.len() - 1 - done.len() - gone.len()) as u64);
                let sink = &ledger.sinks[&id()];
                let stored = crate::book::record::encode_sink(sink);
                let read = crate::book::record::decode_sink(&stored);
                prop_assert_eq!(read.as_ref(), Some(sink));
            }
        }
    }
}
