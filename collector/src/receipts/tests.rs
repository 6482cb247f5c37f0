//! Receipts against listings of every kind, and exports checked by programs that we did not write.

use std::collections::BTreeMap;
#[cfg(unix)]
use std::path::Path;
#[cfg(unix)]
use std::process::Command;

use sha2::{Digest as _, Sha256};
use tidegate_proto::ids::{Seq, SeqRange};
use tidegate_ring::ChainEntry;
#[cfg(unix)]
use tidegate_ring::chain_link;
use tidegate_sinks::holdings::Held;

use super::{Entry, Export, Object, Receipt, Reconciler, Report};

const BASE: &str = "https://acct.test/logs/";

fn name(first: u64, last: u64, tag: u64) -> String {
    format!("h/dt=2026-01-01/{first:020}-{last:020}-{tag:016x}.jsonl")
}

fn object(name: &str, bytes: &[u8]) -> Object {
    let sha256 = crate::audit::hex(&Sha256::digest(bytes));
    Object { to: format!("{BASE}{name}"), sha256, bytes: bytes.len() as u64, events: 1, ..Object::default() }
}

fn receipt(first: u64, last: u64, objects: Vec<Object>) -> Receipt {
    Receipt {
        sink: "archive".to_owned(),
        host: "h".to_owned(),
        stream: "events".to_owned(),
        epoch: "00000000000000aa".to_owned(),
        first,
        last,
        time: "2026-01-01T00:00:00Z".to_owned(),
        level: 2,
        delivered: [0, 1, 2, 0],
        rejected: [0; 4],
        lost: BTreeMap::new(),
        objects,
        more_objects: 0,
    }
}

fn held(name: &str, bytes: &[u8]) -> Held {
    let writer = ("h".to_owned(), "events".to_owned(), "00000000000000aa".to_owned());
    Held {
        destination: format!("{BASE}{name}"),
        name: name.to_owned(),
        len: bytes.len() as u64,
        sha256: Some(Sha256::digest(bytes).into()),
        writer: Some(writer),
    }
}

/// Three runs, the second in two objects.
fn receipts() -> [Receipt; 3] {
    let one = |f, l, t| object(&name(f, l, t), b"x");
    [
        receipt(1, 10, vec![one(1, 10, 1)]),
        receipt(11, 20, vec![one(11, 20, 2), one(11, 20, 3)]),
        receipt(31, 40, vec![one(31, 40, 4)]),
    ]
}

fn all_held() -> Vec<Held> {
    [(1, 10, 1), (11, 20, 2), (11, 20, 3), (31, 40, 4)].map(|(f, l, t)| held(&name(f, l, t), b"x")).to_vec()
}

fn report(planned: &[SeqRange], cut: bool, receipts: &[Receipt], held: &[Held]) -> Report {
    let mut both = Reconciler::new(planned.to_vec(), cut);
    receipts.iter().for_each(|r| both.receipt(r));
    held.iter().for_each(|h| both.held(h));
    both.finish()
}

fn of(held: &[Held]) -> Report {
    report(&[], false, &receipts(), held)
}

#[test]
fn what_was_delivered_and_is_there_fits() {
    let report = of(&all_held());
    assert!(report.fits(), "{report}");
    assert_eq!((report.receipts, report.expected, report.present), (3, 4, 4));
    assert!(report.to_string().contains("everything fits"));
    // the container was moved, and its metadata did not come along
    let moved = all_held().into_iter().map(|h| Held {
        destination: h.destination.replace("acct", "other"),
        writer: None,
        sha256: None,
        ..h
    });
    assert!(of(&moved.collect::<Vec<_>>()).fits());
}

#[test]
fn every_mismatch_is_named_with_its_range() {
    let mut some = all_held();
    some.remove(2);
    let report = of(&some);
    let missing = &report.missing.listed[0];
    assert!(!report.fits() && report.missing.count == 1);
    assert_eq!((missing.first, missing.last), (11, 20));
    assert!(missing.object.ends_with("03.jsonl"), "{missing:?}");

    let mut some = all_held();
    some[0] = held(&name(1, 10, 1), b"longer");
    some[3] = held(&name(31, 40, 4), b"y");
    let report = of(&some);
    assert_eq!((report.changed.count, report.present), (2, 2));
    assert!(
        report.changed.listed[0].why.contains("6 bytes") && report.changed.listed[1].why.contains("SHA-256")
    );

    let mut some = all_held();
    some.push(held(&name(1, 10, 1).replace("dt=2026-01-01", "copy"), b"x"));
    some.push(held(&name(1, 10, 99), b"x"));
    some.push(held(&name(5, 15, 99), b"x"));
    some.push(held(&name(35, 50, 99), b"x"));
    let report = of(&some);
    assert_eq!((report.duplicate.count, report.foreign.count), (4, 0), "{report}");

    let mut some = all_held();
    some.push(held(&name(21, 30, 99), b"x"));
    some.push(held(&name(41, 41, 99), b"x"));
    let report = of(&some);
    assert_eq!((report.duplicate.count, report.foreign.count), (0, 2), "{report}");
    assert_eq!((report.foreign.listed[0].first, report.foreign.listed[0].last), (21, 30));
    assert!(report.to_string().contains("MISMATCH"));
}

#[test]
fn two_receipts_for_the_same_events_are_a_duplicate() {
    let mut list = receipts().to_vec();
    list.push(receipt(15, 25, vec![object(&name(15, 25, 9), b"x")]));
    let mut some = all_held();
    some.push(held(&name(15, 25, 9), b"x"));
    let report = report(&[], false, &list, &some);
    assert_eq!((report.duplicate.count, report.duplicate.listed[0].first), (1, 15), "{report}");
}

#[test]
fn what_explains_itself_is_counted_and_no_mismatch() {
    let planned = SeqRange::new(Seq(41), Seq(50)).unwrap();
    let cursor = [planned];
    let mut some = all_held();
    some.push(held(&name(41, 50, 7), b"x"));
    some.push(Held { name: "readme.txt".to_owned(), ..Held::default() });
    let mut other = held(&name(3, 4, 8), b"x");
    other.writer = Some(("other".to_owned(), "events".to_owned(), "00".to_owned()));
    some.push(other);
    let report = report(&cursor, false, &receipts(), &some);
    assert!(report.fits(), "{report}");
    assert_eq!((report.unsettled, report.not_ours, report.others["other/events/00"]), (1, 1, 1));
    // receipts before the first were let go
    let late = &receipts()[1..];
    assert!(self::report(&cursor, true, late, &some).fits());
    assert_eq!(self::report(&cursor, true, late, &some).older, 1);
    assert_eq!(self::report(&cursor, false, late, &some).foreign.count, 1);
}

#[test]
fn what_purge_deleted_is_named_and_is_no_mismatch() {
    let mut both = Reconciler::new(Vec::new(), false);
    receipts().iter().for_each(|r| both.receipt(r));
    both.purged(&receipts()[1].objects[0].to);
    // asked for, and there all the same
    both.purged(&receipts()[0].objects[0].to);
    let some = all_held();
    some.iter().filter(|h| h.name != name(11, 20, 2)).for_each(|h| both.held(h));
    let report = both.finish();
    assert!(report.fits(), "{report}");
    assert_eq!((report.purged.count, report.present), (1, 3));
    assert_eq!((report.purged.listed[0].first, report.purged.listed[0].last), (11, 20));
    assert!(report.to_string().contains("purged 11-20"), "{report}");
}

#[test]
fn what_is_delivered_while_it_looks_is_no_mismatch() {
    let range = |first, last| SeqRange::new(Seq(first), Seq(last)).unwrap();
    let mut both = Reconciler::new(vec![range(41, 50)], false);
    receipts().iter().for_each(|r| both.receipt(r));
    let mut some = all_held();
    for (first, last) in [(41, 50), (51, 60), (61, 70), (71, 80), (85, 95)] {
        some.push(held(&name(first, last, 9), b"x"));
    }
    some.iter().for_each(|h| both.held(h));
    // settled meanwhile, one of them after it was listed
    both.later(&receipt(51, 60, vec![object(&name(51, 60, 9), b"x")]));
    both.later(&receipt(81, 90, vec![object(&name(81, 90, 9), b"x")]));
    both.planned([range(61, 70)]);
    let report = both.finish();
    assert_eq!((report.unsettled, report.newer), (2, 1), "{report}");
    assert_eq!((report.foreign.count, report.foreign.listed[0].first), (1, 71));
    assert_eq!((report.duplicate.count, report.duplicate.listed[0].first), (1, 85));
    assert_eq!(report.missing.count, 0);
}

#[test]
fn objects_that_a_receipt_had_no_room_for_are_counted_by_their_range() {
    let mut list = receipts();
    let dropped = list[1].objects.pop();
    list[1].more_objects = 1;
    assert!(dropped.is_some());
    let whole = report(&[], false, &list, &all_held());
    assert!(whole.fits() && whole.expected == 4, "{whole}");
    let less = report(&[], false, &list, &all_held()[..2]);
    assert_eq!((less.missing.count, less.expected), (2, 4), "{less}");
    let mut more = all_held();
    more.push(held(&name(11, 20, 77), b"x"));
    assert_eq!(report(&[], false, &list, &more).duplicate.count, 1);
}

#[test]
fn a_receipt_is_read_back_as_it_was_written() {
    let one = receipt(1, 2, vec![object("a", b"x")]);
    let data = serde_json::to_vec(&one).unwrap();
    let entry = Entry::from(&ChainEntry { number: 7, hash: [1; 32], data });
    assert_eq!(entry.receipt.as_ref(), Some(&one));
    let line = entry.to_string();
    assert!(line.contains("archive 1-2 delivered 3 to https://acct.test/logs/a"), "{line}");
    let odd = Entry::from(&ChainEntry { number: 8, hash: [1; 32], data: b"\xff".to_vec() });
    assert!(odd.receipt.is_none() && odd.to_string().contains("not a receipt"));
}

/// An export of a ring whose first receipts were let go, with the objects beside it.
#[cfg(unix)]
fn exported(dir: &Path) -> super::Exported {
    let receipts = (4001..=4200_u64).map(|number| {
        let (first, bytes) = (number * 10 + 1, number.to_string());
        let objects = if number > 4190 {
            vec![object(&name(first, first + 9, number), bytes.as_bytes())]
        } else {
            Vec::new()
        };
        for object in &objects {
            let path = dir.join("container").join(object.to.strip_prefix(BASE).unwrap());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, &bytes).unwrap();
        }
        serde_json::to_vec(&receipt(first, first + 9, objects)).unwrap()
    });
    export_of(&dir.join("export"), receipts)
}

/// An export of these, which begin at number 4001.
#[cfg(unix)]
fn export_of(folder: &Path, receipts: impl Iterator<Item = Vec<u8>>) -> super::Exported {
    let anchor = (4000, [7; 32]);
    let mut hash = anchor.1;
    let mut all = Vec::new();
    for (number, data) in (4001..).zip(receipts) {
        hash = chain_link(&hash, number, &data);
        all.push(ChainEntry { number, hash, data });
    }
    let bases = BTreeMap::from([("archive".to_owned(), BASE.to_owned())]);
    let mut export = Export::begin(folder, anchor, bases).unwrap();
    for page in all.chunks(70) {
        export.add(page).unwrap();
    }
    export.finish().unwrap()
}

#[cfg(unix)]
fn ok(program: &mut Command) -> bool {
    let output = program.output().unwrap();
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

#[cfg(unix)]
fn check(folder: &Path) -> bool {
    ok(Command::new("sh").arg(folder.join("check.sh")))
}

#[cfg(unix)]
#[test]
fn an_export_is_checked_by_sha256sum_alone() {
    let dir = tempfile::tempdir().unwrap();
    let done = exported(dir.path());
    assert!(done.receipts == 200 && done.objects == 10 && done.unnamed == 0, "{done:?}");
    let folder = dir.path().join("export");
    let sums = |list: &Path, of: &str| {
        ok(Command::new("sha256sum").args(["--quiet", "-c"]).arg(list).current_dir(dir.path().join(of)))
    };
    assert!(sums(Path::new("SHA256SUMS"), "export") && check(&folder));
    let objects = folder.join("objects/archive");
    assert!(sums(&objects, "container"));

    // a delivered object that was changed
    let some = std::fs::read_to_string(&objects).unwrap();
    let (_, path) = some.lines().next().unwrap().split_once("  ").unwrap();
    std::fs::write(dir.path().join("container").join(path), "changed").unwrap();
    assert!(!sums(&objects, "container"));

    // a receipt that was changed
    let last = format!("receipts/{:020}", 4200);
    let sound = std::fs::read(folder.join(&last)).unwrap();
    let mut bad = sound.clone();
    bad[60] ^= 1;
    std::fs::write(folder.join(&last), &bad).unwrap();
    assert!(!sums(Path::new("SHA256SUMS"), "export") && !check(&folder));

    // and one whose sum was made to fit: the links do not
    std::fs::write(folder.join(&last), &sound).unwrap();
    let middle = format!("receipts/{:020}", 4100);
    let mut bad = std::fs::read(folder.join(&middle)).unwrap();
    let old = crate::audit::hex(&Sha256::digest(&bad));
    bad[60] ^= 1;
    std::fs::write(folder.join(&middle), &bad).unwrap();
    let list = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    let list = list.replace(&old, &crate::audit::hex(&Sha256::digest(&bad)));
    std::fs::write(folder.join("SHA256SUMS"), list).unwrap();
    assert!(sums(Path::new("SHA256SUMS"), "export") && !check(&folder));
}

#[cfg(unix)]
#[test]
fn nothing_in_an_export_can_be_changed_without_its_check_telling() {
    let dir = tempfile::tempdir().unwrap();
    exported(dir.path());
    let folder = dir.path().join("export");
    assert!(check(&folder));
    let text = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
    let refused = |file: &str, changed: Option<String>| {
        let path = folder.join(file);
        let sound = std::fs::read(&path).ok();
        match changed {
            Some(text) => std::fs::write(&path, text).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        assert!(!check(&folder), "{file}");
        match sound {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
    };
    let other = "0".repeat(64);
    let without_first = |text: &str| text.split_once('\n').unwrap().1.to_owned();

    let objects = text("objects/archive");
    let hash = objects.get(..64).unwrap();
    refused("objects/archive", Some(objects.replacen(hash, &other, 1)));
    refused("objects/archive", Some(without_first(&objects)));
    refused("objects/archive", Some(objects.replacen("-0000", "-0001", 1)));
    // of what sha256sum only says that it is no line
    refused("objects/archive", Some(objects.replacen(hash, &format!("\\{hash}"), 1)));
    refused("objects/archive", Some(objects.replacen(hash, &format!("#{hash}"), 1)));
    refused("objects/archive", Some(format!("{objects}{other}  h/planted.jsonl\n")));
    refused("objects/archive", Some(format!("{objects}{objects}")));
    refused("objects/archive", None);
    refused("objects/others", Some(objects.clone()));

    let lines = text("receipts.jsonl");
    refused("receipts.jsonl", Some(lines.replacen("\"level\":2", "\"level\":1", 1)));
    refused("receipts.jsonl", Some(lines.replacen("\"receipt\":{", "\"receipt\": {", 1)));
    refused("receipts.jsonl", Some(without_first(&lines)));
    refused("receipts.jsonl", Some(format!("{lines}{{}}")));

    let (some, hidden) = (format!("receipts/{:020}", 4100), format!("receipts/.{:020}", 4100));
    for file in ["receipts/planted", &hidden] {
        refused(file, Some("x".to_owned()));
    }
    refused(&some, None);
    let sums = text("SHA256SUMS");
    refused("SHA256SUMS", Some(without_first(&sums)));
    refused("SHA256SUMS", Some(sums.replacen("  ", " ", 1)));
    refused("SHA256SUMS", Some(String::new()));
    refused("anchor", Some(format!("0 {other}\n")));
    assert!(check(&folder), "all is as it was");
}

#[cfg(unix)]
#[test]
fn sinks_and_folders_of_odd_names_are_checked_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let sinks = ["archive", "a b", "a/b", "A.B", "a.b", ".é\"\\", "kafka"];
    let receipts = (0..70_u64).map(|n| {
        let first = n * 10 + 1;
        let sink = sinks[n as usize % sinks.len()];
        let base = if sink == "archive" { "" } else { "http://other/say%20\"x\"/" };
        let named = |tag| match sink {
            "kafka" => Object { to: "kafka://broker/topic".to_owned(), ..object("", b"x") },
            "a b" => Object {
                to: format!("/out\\x/{}", name(first, first + 9, tag)),
                ..object("", &tag.to_le_bytes())
            },
            _ => object(&format!("{base}{}", name(first, first + 9, tag)), &tag.to_le_bytes()),
        };
        let one = Receipt {
            sink: sink.to_owned(),
            more_objects: u64::from(n == 7),
            ..receipt(first, first + 9, vec![named(3 * n), named(3 * n + 1), named(3 * n + 2)])
        };
        // members in the order of the alphabet, as deliveries write them, and as they are declared
        let bytes = serde_json::to_vec(&one).unwrap();
        if n % 2 == 0 { bytes } else { serde_json::to_value(&one).unwrap().to_string().into_bytes() }
    });
    let done = export_of(dir.path(), receipts);
    assert_eq!((done.receipts, done.objects), (70, 180));
    let output = Command::new("sh").arg(dir.path().join("check.sh")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 more objects had no room"), "{text}");

    // lists of sinks whose names differ in odd signs alone
    for list in ["a_b", "a_b~2", "A.B", "a.b~2", "_______"] {
        let path = dir.path().join("objects").join(list);
        let sound = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, sound.split_once('\n').unwrap().1).unwrap();
        assert!(!check(dir.path()), "{list}");
        std::fs::write(&path, sound).unwrap();
    }
}

#[test]
fn an_export_goes_into_an_empty_folder_only() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x"), "").unwrap();
    assert!(Export::begin(dir.path(), (0, [0; 32]), BTreeMap::new()).is_err());
    let empty = Export::begin(&dir.path().join("new"), (0, [0; 32]), BTreeMap::new()).unwrap();
    assert_eq!(empty.finish().unwrap(), super::Exported::default());
}
