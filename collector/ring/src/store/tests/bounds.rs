//! Sizes, clocks, keys, and what can be read from the files.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};

use tidegate_proto::ids::{Seq, SinkId};
use tidegate_proto::level::{DropReason, LossReason};

use super::open;
use crate::crypt::Keys;
use crate::disk::fake::FakeDisk;
use crate::store::SledRing;
use crate::testing::contract::{ALL_OF_IT, all_texts, append, closed_account, delivered, options, range};
use crate::testing::{TextRule, block, sized_block, text, wait};
use crate::{Chain, Compression, FullPolicy, Group, Intake, ReadLimit, Ring, RingOptions, StartAt};

fn on_disk(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).expect("folder").flatten();
    entries
        .map(|e| if e.path().is_dir() { on_disk(&e.path()) } else { e.metadata().map_or(0, |m| m.len()) })
        .sum()
}

/// Whether any file of a folder holds a text.
fn holds(path: &Path, text: &str) -> bool {
    let entries = std::fs::read_dir(path).expect("folder").flatten();
    entries.map(|e| e.path()).any(|p| {
        if p.is_dir() {
            return holds(&p, text);
        }
        let bytes = std::fs::read(&p).unwrap_or_default();
        bytes.windows(text.len()).any(|w| w == text.as_bytes())
    })
}

#[test]
fn the_bound_holds_whatever_goes_through() {
    // many times its size with `TIDEGATE_ENDURANCE=50`
    let times = std::env::var("TIDEGATE_ENDURANCE").ok().and_then(|v| v.parse().ok()).unwrap_or(2u64);
    let folder = tempfile::tempdir().expect("folder");
    let ring = open(folder.path());
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    let blocks: Vec<_> = (0..8).map(|n| sized_block(&[if n % 4 == 0 { 1 } else { 2 }], n, 60_000)).collect();
    let bound = ring.status().bound_bytes;
    let groups = times * bound / 480_000;
    let mut after = 0;
    let mut most = 0;
    for n in 0..groups {
        append(&ring, blocks.clone());
        if n % 3 == 0 {
            let limit = ReadLimit { bytes: 100_000, events: 2 };
            let read = ring.read(Seq(after), limit).expect("readable");
            let run = range(after + 1, read.end.0);
            let mut levels = [0; 4];
            for b in &read.blocks {
                crate::ledger::add(&mut levels, &crate::bundle::events_in(run, b));
            }
            ring.plan(&sink, run.into()).expect("planned");
            let outcome = crate::Settlement { receipt: vec![b'r'; 300], ..delivered(levels) };
            ring.settle(&sink, run.into(), &outcome).expect("settled");
            after = run.last().0;
        }
        most = most.max(on_disk(folder.path()));
    }
    assert!(most * 10 <= bound * 11, "{most} of {bound}");
    let account = closed_account(&ring);
    let lost: u64 = account.sinks[&sink].lost.values().flatten().sum();
    assert!(lost > 0 && lost + 8 <= groups * 8);
    drop(ring);
    let ring = open(folder.path());
    assert_eq!(closed_account(&ring), account, "the same after it was opened again");
    assert!(on_disk(folder.path()) * 10 <= bound * 11);
}

#[test]
fn the_bound_holds_when_nearly_all_is_critical() {
    for (bound, ratio) in [(4 << 20, 28), (4 << 20, 36), (16 << 20, 32)] {
        let disk = FakeDisk::default();
        let options = RingOptions { bound_bytes: bound, ..options() };
        let ring = SledRing::over(Box::new(disk.clone()), disk.book(), options, None).expect("opened");
        ring.attach(&SinkId::new("s"), StartAt::Oldest).expect("attached");
        // some 40 blocks a segment
        let size = usize::try_from(bound / 16 / 40).expect("small");
        let critical = sized_block(&[0], 0, size);
        let (mut written, mut n) = (0, 0);
        while written < 2 * bound {
            let blocks: Vec<_> = (0..7)
                .map(|_| {
                    n += 1;
                    if n % (ratio + 1) == 0 { sized_block(&[2], n, size) } else { critical.clone() }
                })
                .collect();
            written += 7 * size as u64;
            append(&ring, blocks);
        }
        let peak = disk.peak() as u64;
        assert!(peak * 10 <= bound * 11, "{ratio} critical to one: {peak} bytes of {bound}");
        closed_account(&ring);
    }
}

#[test]
fn a_purged_event_can_be_found_in_no_file() {
    let folder = tempfile::tempdir().expect("folder");
    let ring = SledRing::open(folder.path(), options()).expect("opened");
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    append(&ring, vec![block(&[2, 3], 1), block(&[2, 2], 2)]);
    append(&ring, vec![block(&[2], 3)]);
    // settled, but still in a file with others
    ring.plan(&sink, range(1, 2).into()).expect("planned");
    ring.settle(&sink, range(1, 2).into(), &delivered([0, 0, 1, 1])).expect("settled");
    let secret = [text(1, 0), text(2, 1)];
    assert!(secret.iter().all(|s| holds(folder.path(), s)));
    let purged = ring.purge(&TextRule(|t: &str| t == text(1, 0) || t == text(2, 1))).expect("purged");
    assert_eq!(purged.events, [0, 0, 1, 0], "what was settled is not counted");
    assert!(!secret.iter().any(|s| holds(folder.path(), s)));
    let left = ring.read(Seq(2), ALL_OF_IT).expect("readable");
    assert_eq!(all_texts(&left), [text(2, 0), text(3, 0)]);
    closed_account(&ring);
}

#[test]
fn an_account_is_taken_by_a_ring_that_was_made_smaller() {
    for full in [FullPolicy::DropNewest, FullPolicy::Block] {
        let disk = FakeDisk::default();
        let open = |bound_bytes| {
            let options = RingOptions { bound_bytes, full, ..options() };
            SledRing::over(Box::new(disk.clone()), disk.book(), options, None).expect("opened")
        };
        let sink = SinkId::new("s");
        let ring = open(16 << 20);
        ring.attach(&sink, StartAt::Oldest).expect("attached");
        for n in 0..100 {
            append(&ring, vec![sized_block(&[2], n, 100_000)]);
        }
        drop(ring);
        let ring = open(RingOptions::MIN_BOUND);
        let before = disk.used();
        for n in 0..3000u64 {
            let intake = Intake {
                read: 2,
                dropped: [(DropReason::RingFull, 2)].into(),
                positions: [("src".to_owned(), n.to_le_bytes().to_vec())].into(),
            };
            let group = Group { blocks: Vec::new(), intake };
            let mut append = ring.append(group);
            let at_once = append.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            let Poll::Ready(Ok(ticket)) = at_once else { panic!("{full:?}, account {n}: {at_once:?}") };
            assert_eq!(wait(ticket), Ok(None));
        }
        let after = disk.used();
        assert!(after < before + (96 << 10), "{full:?}: {before} became {after}");
        drop(ring);
        let ring = open(RingOptions::MIN_BOUND);
        let account = closed_account(&ring);
        assert_eq!((account.read, account.sinks[&sink].held[2]), (6100, 100), "{full:?}");
        assert_eq!(ring.source_position("src"), Some(2999u64.to_le_bytes().to_vec()));
    }
}

#[test]
fn a_missing_key_is_no_damage_even_if_another_has_its_number() {
    let folder = tempfile::tempdir().expect("folder");
    let open = |text: &str| {
        let keys = Some(Keys::parse(text).expect("keys"));
        SledRing::open_sealed(folder.path(), options(), keys).expect("opened")
    };
    let number = |text: &str| Keys::parse(text).expect("keys").seal(b"", b"").expect("sealed").0;
    let key = Keys::generate().expect("key");
    let twin = std::iter::repeat_with(|| Keys::generate().expect("key")).find(|k| number(k) == number(&key));
    let twin = twin.expect("one in 256");
    append(&open(&key), vec![block(&[2], 1)]);
    let ring = open(&twin);
    ring.read(Seq::ZERO, ALL_OF_IT).expect_err("the key is missing");
    assert_eq!(ring.status().quarantined, Vec::<String>::new());
    append(&ring, vec![block(&[2], 2)]);
    drop(ring);
    let ring = open(&format!("{twin}\n{key}"));
    let read = ring.read(Seq::ZERO, ALL_OF_IT).expect("readable");
    assert_eq!(all_texts(&read), [text(1, 0), text(2, 0)]);
}

#[test]
fn a_block_whose_key_was_taken_away_too_early_can_be_evicted() {
    let disk = FakeDisk::default();
    let sink = SinkId::new("s");
    let open = |key: &str| {
        let keys = Some(Keys::parse(key).expect("keys"));
        SledRing::over(Box::new(disk.clone()), disk.book(), options(), keys).expect("opened")
    };
    let ring = open(&Keys::generate().expect("key"));
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    append(&ring, vec![block(&[3, 2], 1)]);
    ring.plan(&sink, range(1, 1).into()).expect("planned");
    ring.settle(&sink, range(1, 1).into(), &delivered([0, 0, 0, 1])).expect("settled");
    drop(ring);
    // the levels of what is left of the block cannot be read
    let ring = open(&Keys::generate().expect("key"));
    for n in 0..200 {
        append(&ring, vec![sized_block(&[1], n, 30_000)]);
    }
    assert!(ring.status().trimmed >= Seq(2) || ring.read(Seq::ZERO, ALL_OF_IT).is_ok(), "it is evicted");
    let account = closed_account(&ring).sinks[&sink].clone();
    assert_eq!(account.delivered, [0, 0, 0, 1]);
    assert_eq!(account.lost.keys().collect::<Vec<_>>(), [&LossReason::Evicted]);
    assert_eq!(account.lost[&LossReason::Evicted][2..], [1, 0], "{account:?}");
}

#[test]
fn sealed_events_cannot_be_found_and_keys_rotate() {
    let folder = tempfile::tempdir().expect("folder");
    let (old, new) = (Keys::generate().expect("key"), Keys::generate().expect("key"));
    let keys = |text: &str| Some(Keys::parse(text).expect("keys"));
    let ring = SledRing::open_sealed(folder.path(), options(), keys(&old)).expect("opened");
    append(&ring, vec![block(&[2], 1)]);
    assert!(!holds(folder.path(), &text(1, 0)));
    drop(ring);
    let both = format!("{new}\n{old}\n");
    let ring = SledRing::open_sealed(folder.path(), options(), keys(&both)).expect("opened");
    append(&ring, vec![block(&[2], 2)]);
    let read = ring.read(Seq::ZERO, ALL_OF_IT).expect("readable");
    assert_eq!(all_texts(&read), [text(1, 0), text(2, 0)]);
    drop(ring);
    // without the key nothing is read, and nothing counts as lost
    let ring = SledRing::open(folder.path(), options()).expect("opened");
    assert!(ring.read(Seq::ZERO, ALL_OF_IT).is_err());
    drop(ring);
    let ring = SledRing::open_sealed(folder.path(), options(), keys(&both)).expect("opened");
    assert_eq!(ring.read(Seq::ZERO, ALL_OF_IT).expect("readable").blocks.len(), 2);
}

#[test]
fn a_clock_set_back_changes_no_order_and_expires_nothing() {
    static NOW: AtomicI64 = AtomicI64::new(1_000_000_000_000);
    let folder = tempfile::tempdir().expect("folder");
    let max_age = Some(std::time::Duration::from_secs(60));
    let options = || RingOptions { now: || NOW.load(Ordering::SeqCst), max_age, ..options() };
    let ring = SledRing::open(folder.path(), options()).expect("opened");
    append(&ring, vec![block(&[2], 1)]);
    NOW.fetch_sub(500_000_000_000, Ordering::SeqCst);
    append(&ring, vec![block(&[2], 2)]);
    drop(ring);
    let ring = SledRing::open(folder.path(), options()).expect("opened");
    append(&ring, vec![block(&[2], 3)]);
    let read = ring.read(Seq::ZERO, ALL_OF_IT).expect("readable");
    assert_eq!(all_texts(&read), [text(1, 0), text(2, 0), text(3, 0)]);
}

#[test]
fn max_age_goes_on_after_the_clock_ran_ahead() {
    const SECOND: i64 = 1_000_000_000;
    static NOW: AtomicI64 = AtomicI64::new(1_000_000 * SECOND);
    let go = |seconds: i64| NOW.fetch_add(seconds * SECOND, Ordering::SeqCst);
    let folder = tempfile::tempdir().expect("folder");
    let max_age = Some(std::time::Duration::from_secs(60));
    let options = || RingOptions { now: || NOW.load(Ordering::SeqCst), max_age, ..options() };
    let ring = SledRing::open(folder.path(), options()).expect("opened");
    ring.attach(&SinkId::new("s"), StartAt::Oldest).expect("attached");
    let held = |ring: &SledRing| all_texts(&ring.read(Seq::ZERO, ALL_OF_IT).expect("readable"));
    append(&ring, vec![block(&[2], 1)]);
    const YEAR: i64 = 365 * 86_400;
    go(YEAR);
    append(&ring, vec![block(&[2], 2)]);
    go(10 - YEAR);
    append(&ring, vec![block(&[2], 3)]);
    drop(ring);
    let ring = SledRing::open(folder.path(), options()).expect("opened");
    // expired by the clock that ran ahead
    assert_eq!(held(&ring), [text(2, 0), text(3, 0)]);
    go(30);
    append(&ring, vec![block(&[2], 4)]);
    assert_eq!(held(&ring), [text(2, 0), text(3, 0), text(4, 0)], "none is 60 s old");
    go(40);
    append(&ring, vec![block(&[2], 5)]);
    assert_eq!(held(&ring), [text(4, 0), text(5, 0)]);
    go(50);
    append(&ring, vec![block(&[2], 6)]);
    assert_eq!(held(&ring), [text(5, 0), text(6, 0)]);
    let lost = &closed_account(&ring).sinks[&SinkId::new("s")].lost;
    assert_eq!(lost[&LossReason::Expired], [0, 0, 4, 0]);
}

#[test]
fn compressed_blocks_are_smaller_and_read_the_same() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd(1), Compression::Zstd(19)] {
        let folder = tempfile::tempdir().expect("folder");
        let options = RingOptions { compression, ..options() };
        let ring = SledRing::open(folder.path(), options).expect("opened");
        let levels = [2; 200];
        append(&ring, vec![block(&levels, 1)]);
        let names: Vec<String> = (0..200).map(|n| text(1, n)).collect();
        assert_eq!(all_texts(&ring.read(Seq::ZERO, ALL_OF_IT).expect("readable")), names);
        let stored: u64 = ring.shared.lock().ledger.blocks.values().map(|b| u64::from(b.place.len)).sum();
        let raw: u64 = ring.shared.lock().ledger.blocks.values().map(|b| u64::from(b.raw_len)).sum();
        assert_eq!(compression == Compression::None, stored == raw);
    }
}

#[test]
fn a_chain_is_kept_in_its_bound_and_goes_on_after_opening() {
    let folder = tempfile::tempdir().expect("folder");
    let ring = open(folder.path());
    for n in 0..20 {
        ring.chain_append(Chain::Receipts, &vec![n; 8000]).expect("appended");
    }
    let kept = ring.chain_read(Chain::Receipts, 0, 99).expect("read");
    assert!(kept.len() < 20, "old entries went");
    drop(ring);
    let ring = open(folder.path());
    assert_eq!(ring.status().quarantined, Vec::<String>::new());
    assert_eq!(ring.chain_read(Chain::Receipts, 0, 99).expect("read"), kept);
    assert_eq!(ring.chain_append(Chain::Receipts, b"next").expect("appended").number, 21);
    let (number, hash) = ring.chain_anchor(Chain::Receipts).unwrap();
    assert_eq!(number + 1, ring.chain_read(Chain::Receipts, 0, 1).expect("read")[0].number);
    let first = &ring.chain_read(Chain::Receipts, 0, 1).expect("read")[0];
    assert_eq!(crate::chain_link(&hash, first.number, &first.data), first.hash);
}

/// `TIDEGATE_SMALL_DISK` names another folder on a file system of a few MiB.
#[test]
#[cfg(target_os = "linux")]
fn a_small_disk_that_is_full_is_mended_by_room() {
    let mounted;
    let folder = match std::env::var_os("TIDEGATE_SMALL_DISK") {
        Some(small) => Path::new(&small).join("ring"),
        None => {
            let Some(m) = super::look::Mounted::new("size=6m") else { return };
            mounted = m;
            mounted.0.path().join("ring")
        }
    };
    let options =
        RingOptions { bound_bytes: 64 << 20, retry: std::time::Duration::from_millis(5), ..options() };
    let ring = SledRing::open(&folder, options).expect("opened");
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    let mut stored = 0;
    let full = loop {
        let group = crate::testing::group(vec![sized_block(&[2], stored, 60_000)]);
        match wait(async { ring.append(group).await?.await }) {
            Ok(_) => stored += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(full, crate::AppendError::ReadOnly(_)), "{full}");
    for n in 1..=stored {
        ring.plan(&sink, range(n, n).into()).expect("planned on a full disk");
        ring.settle(&sink, range(n, n).into(), &delivered([0, 0, 1, 0])).expect("settled on a full disk");
    }
    let mut watch = ring.watch();
    wait(watch.wait_for(|s| s.health == crate::Health::Good)).expect("it recovers");
    append(&ring, vec![block(&[2], 1)]);
    closed_account(&ring);
}

#[test]
#[cfg(target_os = "linux")]
fn a_ring_that_finds_its_disk_full_keeps_its_book() {
    let Some(mounted) = super::look::Mounted::new("size=6m") else { return };
    let folder = mounted.0.path().join("ring");
    let open = || SledRing::open(&folder, options());
    let ring = open().expect("opened");
    ring.chain_append(Chain::Audit, b"entry").expect("appended");
    drop(ring);
    let filler = mounted.0.path().join("filler");
    let mut file = std::fs::File::create(&filler).expect("made");
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    drop(file);
    let full = std::io::ErrorKind::StorageFull;
    let refused = open();
    assert!(
        matches!(&refused, Err(crate::RingError::Io { source, .. }) if source.kind() == full),
        "{refused:?}"
    );
    std::fs::remove_file(filler).expect("removed");
    let ring = open().expect("opened");
    assert_eq!(ring.status().quarantined, Vec::<String>::new());
    assert_eq!(ring.chain_read(Chain::Audit, 0, 9).expect("read").len(), 1);
}
