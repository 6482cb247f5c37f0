use std::fs;

use tidegate_proto::schema::SchemaParts;
use tidegate_ring::SinkAccount;

use super::*;

const HOUR: i64 = 3_600_000_000_000;
/// 2026-01-31T12:00:00Z
const NOON: i64 = 1_769_860_800_000_000_000;

fn options(path: &std::path::Path) -> AggregateOptions {
    AggregateOptions { path: path.to_owned(), keep: Duration::from_secs(90 * 86_400), bytes: 1 << 20 }
}

fn kind(event: &str) -> std::sync::Arc<Schema> {
    Schema::new(SchemaParts {
        provider_name: "Contoso.Disk".to_owned(),
        event_name: event.to_owned(),
        ..SchemaParts::default()
    })
}

fn account(delivered: u64) -> Account {
    let sink = SinkAccount { delivered: [0, delivered, 0, 0], ..SinkAccount::default() };
    Account { sinks: [(tidegate_proto::ids::SinkId::new("out"), sink)].into(), ..Account::default() }
}

fn days(path: &std::path::Path) -> Vec<String> {
    let mut all: Vec<String> =
        fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    all.sort();
    all
}

#[test]
fn counts_come_back_by_kind_level_and_outcome_over_restarts_and_hours() {
    let dir = tempfile::tempdir().unwrap();
    let (mount, alert) = (kind("Mount"), kind("CriticalAlert"));
    let stored = Outcome::Stored(TelemetryLevel::Basic);
    let count = |all: &Aggregates, now, times| {
        let mut counting = all.counting(now);
        (0..times).for_each(|_| counting.add(&mount, false, stored));
        counting.add(&mount, false, Outcome::Dropped(DropReason::Level));
        counting.add(&alert, true, stored);
    };
    let first = Aggregates::open(&options(dir.path()), NOON + 5).unwrap();
    count(&first, NOON + 5, 3);
    assert_eq!(first.save(&account(2), NOON + 6).unwrap(), []);
    assert_eq!(first.save(&account(5), NOON + 7).unwrap(), []);
    drop(first);
    // the same hour goes on
    let second = Aggregates::open(&options(dir.path()), NOON + 8).unwrap();
    count(&second, NOON + 8, 2);
    // and another begins; a clock set back counts to it
    count(&second, NOON + HOUR, 1);
    count(&second, NOON + HOUR - 9, 1);
    let ended = second.save(&account(9), NOON + HOUR + 1).unwrap();
    assert_eq!(ended.len(), 1);
    let all = Store::open(&options(dir.path())).unwrap().load(NOON, NOON + HOUR).unwrap();
    assert_eq!(all.len(), 2);
    let [noon, one] = all.as_slice() else { panic!() };
    let row = |hour: &Hour, event: &str, level| {
        hour.rows.iter().find(|r| r.event == event && r.level == level).unwrap().clone()
    };
    assert_eq!(row(noon, "Mount", Some(1)).counts[0], 5);
    assert_eq!(row(noon, "Mount", None).counts[Outcome::Dropped(DropReason::Level).index()], 2);
    assert_eq!((row(noon, "CriticalAlert", Some(1)).critical, noon.rows.len()), (2, 3));
    assert_eq!(noon.sinks["out"].delivered, 3);
    assert_eq!((one.start_ns, row(one, "Mount", Some(1)).counts[0]), (NOON + HOUR, 2));
    assert_eq!(ended[0], *noon);
    assert_eq!(Hour::from_json(&noon.to_json()).unwrap(), *noon);
    // nothing but names and counts
    let text = fs::read_to_string(dir.path().join("2026-01-31.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 2);
    assert!(days(dir.path()) == ["2026-01-31.jsonl"]);
}

#[test]
fn old_days_give_way_to_age_and_size_and_kinds_have_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let small =
        AggregateOptions { bytes: 25_000, keep: Duration::from_secs(3 * 86_400), ..options(dir.path()) };
    let store = Store::open(&small).unwrap();
    let mut tally = Tally::new(NOON);
    for n in 0..600 {
        tally.add(&kind(&format!("Event{n}")), false, Outcome::Stored(TelemetryLevel::Full));
    }
    let hour = tally.hour();
    assert_eq!((hour.rows.len(), hour.rows.last().unwrap().provider.as_str()), (513, "(other)"));
    assert_eq!(hour.rows.iter().map(Row::events).sum::<u64>(), 600);
    let day = 24 * HOUR;
    // an hour of its own that is larger than the bound leaves nothing
    store.save(&[&hour], NOON).unwrap();
    assert_eq!(store.load(NOON, NOON).unwrap(), []);
    let rows = hour.rows[..100].to_vec();
    for n in 0..10 {
        let hour = Hour { start_ns: NOON + n * day, rows: rows.clone(), ..Hour::default() };
        store.save(&[&hour], NOON + n * day).unwrap();
    }
    let left = days(dir.path());
    assert!(left.len() <= 5 && left.last().unwrap() == "2026-02-09.jsonl", "{left:?}");
    let bytes: u64 = left.iter().map(|f| fs::metadata(dir.path().join(f)).unwrap().len()).sum();
    assert!(bytes <= 25_000, "{bytes}");
    // what is no file of ours, or damaged, is left alone
    fs::write(dir.path().join("notes.txt"), "x").unwrap();
    fs::write(dir.path().join("2026-02-09.jsonl"), "{\nnonsense\n").unwrap();
    assert_eq!(store.load(NOON + 9 * day, NOON + 9 * day).unwrap(), []);
    store.save(&[&Hour { start_ns: NOON + 9 * day, rows, ..Hour::default() }], NOON + 9 * day).unwrap();
    assert_eq!(store.load(0, i64::MAX).unwrap().last().unwrap().start_ns, NOON + 9 * day);
}
