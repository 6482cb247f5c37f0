//! Entries, their JSON, and chains that were tampered with.

use sha2::{Digest as _, Sha256};
use tidegate_ring::ChainEntry;

use super::{Broken, Head, InForce, Listed, Record, What, verify};

fn chain(contents: &[&[u8]]) -> Vec<ChainEntry> {
    let mut hash = [0_u8; 32];
    let link = |(n, data): (usize, &&[u8])| {
        let number = n as u64 + 1;
        hash = Sha256::digest([hash.as_slice(), &number.to_be_bytes(), data].concat()).into();
        ChainEntry { number, hash, data: data.to_vec() }
    };
    contents.iter().enumerate().map(link).collect()
}

fn level() -> Record {
    let at = |level, by: &str| InForce { level, enabled: true, decided_by: by.to_owned(), alarm: None };
    let what = What::Level {
        from: at(3, "configuration"),
        to: at(1, "policy"),
        purged: [0, 0, 4, 9],
        dead_letters: 2,
        purge_failed: None,
    };
    Record::new(1_700_000_000_000_000_000, "policy file /etc/tidegate/policy.toml", what)
}

#[test]
fn an_entry_is_one_flat_line_of_json_and_is_read_back() {
    let json = String::from_utf8(level().to_json()).unwrap();
    assert!(json.starts_with(
        r#"{"time":"2023-11-14T22:13:20.0000000Z","who":"policy file /etc/tidegate/policy.toml","what":"level","from":{"level":3"#
    ), "{json}");
    assert!(json.contains(r#""purged":[0,0,4,9]"#) && !json.contains('\n'));
    assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), level());
    let newer = r#"{"time":"t","who":"w","what":"teleport","to":"mars"}"#;
    assert_eq!(serde_json::from_str::<Record>(newer).unwrap().what, What::Unknown);
    assert_eq!(Record::new(0, &"x".repeat(999), What::Unknown).who.len(), Record::MAX_WHO);
}

#[test]
fn a_whole_chain_is_verified_from_its_start_and_from_a_kept_head() {
    let entries = chain(&[b"a", b"b", b"c"]);
    let whole = verify(Head::default(), &entries, None).unwrap();
    assert_eq!((whole.entries, whole.last, whole.head), (3, 3, super::hex(&entries[2].hash)));
    let second = Head { number: 2, hash: entries[1].hash };
    assert_eq!(verify(second, &entries[2..], Some(second)).unwrap().entries, 1);
    assert_eq!(verify(Head::default(), &entries, Some(second)).unwrap().last, 3);
    assert_eq!(verify(Head::default(), [], None).unwrap().last, 0);
}

#[test]
fn every_kind_of_tampering_is_named_with_its_place() {
    let good = chain(&[b"a", b"b", b"c", b"d"]);
    let broken = |entries: &[ChainEntry]| verify(Head::default(), entries, None).unwrap_err();
    let mut changed = good.clone();
    changed[1].data = b"B".to_vec();
    assert_eq!(broken(&changed), Broken::Changed { number: 2 });
    let missing = [good[0].clone(), good[2].clone()];
    assert_eq!(broken(&missing), Broken::Gap { expected: 2, found: 3 });
    let swapped = [good[1].clone(), good[0].clone()];
    assert_eq!(broken(&swapped), Broken::Gap { expected: 1, found: 2 });
    // a rewritten chain is whole in itself: only a head kept elsewhere tells
    let rewritten = chain(&[b"a", b"x", b"c", b"d"]);
    assert!(verify(Head::default(), &rewritten, None).is_ok());
    let kept = Head { number: 3, hash: good[2].hash };
    assert_eq!(verify(Head::default(), &rewritten, Some(kept)).unwrap_err(), Broken::NoHead { number: 3 });
    assert_eq!(verify(Head::default(), &good[..2], Some(kept)).unwrap_err(), Broken::NoHead { number: 3 });
}

#[test]
fn any_single_changed_bit_is_found() {
    let good = chain(&[b"one entry", b"another"]);
    for bit in 0..8 * good[0].data.len() {
        let mut bad = good.clone();
        bad[0].data[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(verify(Head::default(), &bad, None).unwrap_err(), Broken::Changed { number: 1 });
    }
}

#[test]
fn a_listed_entry_is_one_line_whatever_it_holds() {
    let entry = ChainEntry { number: 7, hash: [0; 32], data: level().to_json() };
    let line = Listed::from(&entry).to_string();
    assert!(
        line.contains("level") && line.contains(r#"purged=[0,0,4,9]"#) && !line.contains("purge_failed"),
        "{line}"
    );
    let line = Listed::from(&ChainEntry { data: b"\xff\n".to_vec(), ..entry }).to_string();
    assert!(!line.contains('\n'), "{line}");
}
