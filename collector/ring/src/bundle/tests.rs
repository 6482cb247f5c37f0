use super::*;
use crate::testing::contract::{ALL_OF_IT, append, options};
use crate::testing::{Above, block, text, texts};
use crate::{Chain, MemoryRing};
use tidegate_proto::level::{LossReason, TelemetryLevel};

fn key() -> SigningKey {
    SigningKey::parse(&SigningKey::generate().expect("random")).expect("a key")
}

fn ring() -> MemoryRing {
    let ring = MemoryRing::new(options());
    append(&ring, vec![block(&[2, 3, 0], 1), block(&[2], 2)]);
    ring.purge(&Above(TelemetryLevel::Enhanced)).expect("purged");
    ring
}

fn exported(ring: &MemoryRing, key: &SigningKey, which: Which) -> Option<(Exported, Vec<u8>)> {
    let mut out = Vec::new();
    let sink = SinkId::new("bundle");
    let done = export(ring, &sink, ("edge-7", "events"), ALL_OF_IT, which, key, &mut out).expect("exported");
    done.map(|e| (e, out))
}

#[test]
fn a_later_bundle_that_was_lost_is_made_again() {
    let (ring, key) = (MemoryRing::new(options()), key());
    let export = |which| exported(&ring, &key, which).map(|(done, _)| done);
    append(&ring, vec![block(&[2, 2], 1)]);
    let first = export(Which::Next).expect("events");
    append(&ring, vec![block(&[2], 2)]);
    let second = export(Which::Next).expect("events");
    assert_eq!(export(Which::Oldest), Some(first));
    assert_eq!(export(Which::At(Seq(3))), Some(second));
    assert_eq!(export(Which::At(Seq(1))), Some(first));
    assert_eq!(export(Which::At(Seq(2))), None, "no run begins there");
}

#[test]
fn events_travel_with_their_places_and_the_receipt_settles_them() {
    let (ring, edge, hub) = (ring(), key(), key());
    let sink = SinkId::new("bundle");
    let (done, bytes) = exported(&ring, &edge, Which::Next).expect("events");
    assert_eq!((done.range.len(), done.events, done.blocks), (4, 3, 2));
    assert_eq!(exported(&ring, &edge, Which::Next), None, "nothing follows");
    assert_eq!(exported(&ring, &edge, Which::Oldest).expect("again").0, done, "the same bounds");
    let mut bundle = Bundle::open(&bytes[..], &[hub.public(), edge.public()]).expect("sound");
    let origin = BundleOrigin { host: "edge-7".into(), stream: "events".into(), epoch: ring.status().epoch };
    assert_eq!((bundle.origin(), bundle.range()), (&origin, done.range));
    let mut delivered = [0; 4];
    let mut names = Vec::new();
    while let Some(b) = bundle.next_block().expect("sound") {
        crate::ledger::add(&mut delivered, &events_in(done.range, &b));
        names.extend(texts(&b.data));
    }
    assert_eq!(names, [text(1, 0), text(1, 2), text(2, 0)]);
    let lost = [(LossReason::Filtered, [0, 0, 1, 0])].into();
    delivered[2] -= 1;
    let runs = vec![Settled { range: done.range, delivered, rejected: [0; 4], lost }];
    let receipt = Receipt { epoch: origin.epoch, runs, detail: b"{}".to_vec() };
    let mut bytes = Vec::new();
    receipt.write(&hub, &mut bytes).expect("written");
    let taken = Receipt::read(&mut &bytes[..], &[hub.public()]).expect("sound");
    assert_eq!(taken, receipt);
    let now = taken.settle(&ring, &sink).expect("settled");
    assert_eq!(now, Taken { runs: 1, delivered });
    assert_eq!(taken.settle(&ring, &sink).expect("settled already"), Taken::default());
    ring.account().check().expect("closes");
    assert_eq!(ring.status().cursors[&sink].settled, Seq(4));
    assert_eq!(ring.chain_read(Chain::Receipts, 1, 9).expect("chain").len(), 1);
    let longer = [&bytes[..], b"?"].concat();
    assert!(matches!(Receipt::read(&mut &longer[..], &[hub.public()]), Err(BundleError::Damaged(_))));
    let other = Receipt { epoch: origin.epoch ^ 1, ..receipt };
    assert!(matches!(other.settle(&ring, &sink), Err(BundleError::OtherRing { .. })));
    assert!(matches!(Receipt::read(&mut &bytes[..], &[edge.public()]), Err(BundleError::Untrusted)));
}

#[test]
fn a_changed_or_cut_bundle_is_refused_wherever_it_was_touched() {
    let edge = key();
    let (_, bytes) = exported(&ring(), &edge, Which::Next).expect("events");
    let read = |bytes: &[u8]| -> Result<(), BundleError> {
        let mut bundle = Bundle::open(bytes, &[edge.public()])?;
        while bundle.next_block()?.is_some() {}
        Ok(())
    };
    read(&bytes).expect("sound");
    for n in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[n] ^= 0x20;
        assert!(read(&bad).is_err(), "flipped at {n}");
        assert!(read(&bytes[..n]).is_err(), "cut at {n}");
    }
    let longer = [&bytes[..], b"?"].concat();
    assert!(matches!(read(&longer), Err(BundleError::Damaged(_))), "bytes behind its end");
    let ring = Bundle::open(&longer[..], &[edge.public()]).expect("sound so far").into_ring();
    assert!(matches!(ring, Err(BundleError::Damaged(_))));
    let mut newer = bytes.clone();
    newer[8] = 9;
    assert!(matches!(read(&newer), Err(BundleError::Newer(9))));
    let stranger = Bundle::open(&bytes[..], &[key().public()]).expect_err("not trusted");
    assert!(matches!(stranger, BundleError::Untrusted));
}

#[test]
fn keys_do_not_show_and_texts_that_are_none_are_refused() {
    let key = key();
    assert_eq!(format!("{key:?}"), "SigningKey(***)");
    let public: PublicKey = key.public().to_string().parse().expect("a key");
    assert_eq!(public, key.public());
    assert!(matches!(SigningKey::parse("12"), Err(BundleError::Key)));
    assert!(matches!("xy".parse::<PublicKey>(), Err(BundleError::Key)));
}

#[test]
fn the_ring_of_a_bundle_has_the_places_of_the_first_one() {
    let (ring, edge) = (ring(), key());
    // another sink has had the first event, so that the bundle begins inside of a block
    let (sink, first) = (SinkId::new("bundle"), SeqRange::new(Seq(1), Seq(1)).expect("a range"));
    ring.attach(&SinkId::new("other"), StartAt::Oldest).expect("attached");
    ring.plan(&SinkId::new("other"), first.into()).expect("planned");
    let one = Settlement { delivered: [0, 0, 1, 0], ..Settlement::default() };
    ring.settle(&SinkId::new("other"), first.into(), &one).expect("settled");
    let (done, bytes) = exported(&ring, &edge, Which::Next).expect("events");
    assert_eq!(done.range, SeqRange::new(Seq(2), Seq(4)).expect("a range"));
    let carried = Bundle::open(&bytes[..], &[edge.public()]).expect("sound").into_ring().expect("a ring");
    assert_eq!(carried.status().epoch, ring.status().epoch);
    assert_eq!((carried.status().trimmed, carried.status().durable), (Seq(1), Seq(4)));
    carried.attach(&sink, StartAt::Oldest).expect("attached");
    assert_eq!(carried.account().sinks[&sink].held, [1, 0, 1, 0]);
    let read = carried.read(Seq(1), ALL_OF_IT).expect("read");
    assert_eq!((read.blocks.len(), read.end), (2, Seq(4)));
    carried.plan(&sink, done.range.into()).expect("planned");
    let two = Settlement { delivered: [1, 0, 1, 0], ..Settlement::default() };
    assert_eq!(carried.settle(&sink, done.range.into(), &two).expect("settled").settled, Seq(4));
    carried.account().check().expect("closes");
    assert_eq!(carried.account().sinks[&sink].held, [0; 4]);
}
