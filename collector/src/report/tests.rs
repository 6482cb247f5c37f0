use tidegate_proto::level::DropReason;

use super::*;
use crate::aggregate::Row;

const HOUR: i64 = 3_600_000_000_000;
const NOON: i64 = 1_769_860_800_000_000_000;

fn row(provider: &str, event: &str, stored: u64) -> Row {
    let mut row = Row { provider: provider.into(), event: event.into(), level: Some(2), ..Row::default() };
    row.counts[0] = stored;
    row
}

fn hours() -> Vec<Hour> {
    let mut dropped = row("Contoso.Net", "Packet", 0);
    dropped.counts[Outcome::Dropped(DropReason::Sample).index()] = 40;
    let critical = Row { critical: 12, ..row("Contoso.Disk", "CriticalAlert", 12) };
    let sinks = |n| [("out".to_owned(), SinkCounts { delivered: n, ..SinkCounts::default() })].into();
    vec![
        Hour {
            start_ns: NOON,
            rows: vec![
                row("Contoso.Disk", "Mount", 100),
                dropped,
                critical,
                row("Ada's <b>tool</b>", "Secret", 3),
            ],
            sinks: sinks(90),
        },
        Hour {
            start_ns: NOON + 2 * HOUR,
            rows: vec![row("Contoso.Disk", "Mount", 60), row("Bob", "X", 4)],
            sinks: sinks(1),
        },
    ]
}

fn report(k: u64) -> Report {
    make(&hours(), (NOON, NOON + 3 * HOUR), k, "00ff")
}

#[test]
fn rows_of_few_events_are_suppressed_and_counted_together() {
    let r = report(5);
    assert_eq!((r.k, r.events), (5, Some(219)));
    let names: Vec<&str> = r.providers.lines.iter().map(|l| l.name.provider.as_str()).collect();
    assert_eq!(names, ["Contoso.Disk", "Contoso.Net"]);
    assert_eq!(r.providers.suppressed, Suppressed { rows: 2, events: Some(7) });
    assert_eq!(r.kinds.lines.len(), 3);
    assert_eq!(r.reasons.lines, [Line { name: Reason { reason: "sample" }, stored: 0, dropped: 40 }]);
    assert_eq!(r.critical_alerts.lines[0].stored, 12);
    assert_eq!(r.sinks["out"].delivered, 91);
    let all = serde_json::to_string(&r).unwrap() + &page(&r);
    assert!(!all.contains("Ada") && !all.contains("Bob") && !all.contains("Secret"));
    for table in [r.providers.suppressed, r.kinds.suppressed] {
        assert!(table.events.is_none_or(|n| n >= 5));
    }
}

#[test]
fn no_sum_tells_what_a_single_row_was() {
    let table = |counts: &[u64], k| {
        let all = counts.iter().enumerate().map(|(n, c)| (n, (*c, 0))).collect();
        let table = anonymise(all, k);
        (
            table.lines.iter().map(|l| l.stored).collect::<Vec<_>>(),
            table.suppressed.rows,
            table.suppressed.events,
        )
    };
    assert_eq!(table(&[50, 20, 10], 10), (vec![50, 20, 10], 0, Some(0)));
    // one alone takes the next with it
    assert_eq!(table(&[50, 20, 3], 10), (vec![50], 2, Some(23)));
    // two that are too few do as well
    assert_eq!(table(&[50, 20, 3, 2], 10), (vec![50], 3, Some(25)));
    assert_eq!(table(&[50, 9, 3], 10), (vec![50], 2, Some(12)));
    // nothing to hide behind
    assert_eq!(table(&[3], 10), (vec![], 1, None));
    assert_eq!(table(&[3, 2], 10), (vec![], 2, None));
    assert_eq!(table(&[], 10), (vec![], 0, Some(0)));
    // for every table: nothing below k is told, nor can be told apart
    let mut state = 1_u64;
    for _ in 0..2000 {
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let (k, rows) = (2 + next(20), next(8));
        let counts: Vec<u64> = (0..rows).map(|_| next(40)).collect();
        let (lines, gone, events) = table(&counts, k);
        assert!(lines.iter().all(|n| *n >= k), "{counts:?} {k}");
        let whole = counts.iter().filter(|c| **c > 0).count() as u64;
        assert_eq!(lines.len() as u64 + gone, whole, "{counts:?} {k}");
        if let (1.., Some(events)) = (gone, events) {
            assert!(gone >= 2 && events >= k, "{counts:?} {k}");
            assert_eq!(events + lines.iter().sum::<u64>(), counts.iter().sum::<u64>());
        }
    }
}

#[test]
fn a_name_cannot_leave_its_place_in_the_page() {
    let page = page(&report(2));
    assert!(page.contains("Ada&#39;s &lt;b&gt;tool&lt;/b&gt;") && !page.contains("<b>"));
    assert!(!page.contains("<script") && !page.contains("http://") && !page.contains("https://"));
    assert!(!page.contains("style=\"") && page.contains("default-src 'none'"));
    // noon, an hour without anything, and another
    assert_eq!(page.matches("class=\"hidden\"").count(), 1);
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    let empty = super::page(&make(&[], (NOON, NOON), 5, ""));
    assert!(empty.matches("Nothing to tell").count() >= 6);
}
