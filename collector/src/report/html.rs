//! The report as one page: no scripts, nothing from elsewhere, light or dark as the reader has it.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::svg::{bars, columns, number};
use super::{Report, Suppressed, Table};
use crate::aggregate::Hour;
use tidegate_proto::time::{format_rfc3339, parse_rfc3339};

const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#1d2530;--soft:#5a6675;--line:#d9dfe6;--stored:#2f6fb0;--dropped:#d9822b;--hidden:#a9b4c0}
@media (prefers-color-scheme:dark){:root{--bg:#14181d;--fg:#e4e9ef;--soft:#98a4b1;--line:#303843;--stored:#6aa9e8;--dropped:#eda55d;--hidden:#55606c}}
body{margin:2rem auto;max-width:60rem;padding:0 1rem;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .4rem}
p{margin:.3rem 0}.soft{color:var(--soft)}
svg{width:100%;height:auto;font:12px system-ui,sans-serif}svg text{fill:var(--fg)}svg .tick{fill:var(--soft);font-size:11px}svg .end{text-anchor:end}
.grid{stroke:var(--line);stroke-width:1}.stored{fill:var(--stored)}.dropped{fill:var(--dropped)}.hidden{fill:var(--hidden)}
table{border-collapse:collapse;width:100%;font-size:.92rem}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--line)}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.key{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 .8em}.key.stored{background:var(--stored)}.key.dropped{background:var(--dropped)}.key.hidden{background:var(--hidden)}
";

/// Most bars of one plot, and rows of one table.
const MAX_BARS: usize = 20;
const MAX_ROWS: usize = 200;
/// Most columns of the plot over time; above it several hours are one.
const MAX_COLUMNS: usize = 168;
const HOUR_NS: i64 = 3_600_000_000_000;

/// A text that stands in a page or in an attribute.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // not allowed in a page
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn suppressed(s: Suppressed, k: u64) -> String {
    match (s.rows, s.events) {
        (0, _) => String::new(),
        (rows, Some(events)) => format!(
            "<p class=\"soft\">{} more with fewer than {k} events each, or needed to hide one: {} events.</p>\n",
            number(rows),
            number(events)
        ),
        (rows, None) => {
            format!(
                "<p class=\"soft\">{} more with so few events that they are not told.</p>\n",
                number(rows)
            )
        }
    }
}

fn section<N>(out: &mut String, title: &str, table: &Table<N>, k: u64, name: impl Fn(&N) -> String) {
    let _ = writeln!(out, "<h2>{}</h2>", escape(title));
    let rows: Vec<_> =
        table.lines.iter().take(MAX_BARS).map(|l| (name(&l.name), l.stored, l.dropped)).collect();
    if rows.is_empty() {
        out.push_str("<p class=\"soft\">Nothing to tell.</p>\n");
    } else {
        out.push_str(&bars(title, &rows));
    }
    out.push_str(&suppressed(table.suppressed, k));
}

/// The columns over time: every hour between the first and the last that is told.
fn over_time(report: &Report) -> Vec<(String, Option<(u64, u64)>)> {
    let at = |text: &str| parse_rfc3339(text).unwrap_or(0);
    let (Some(first), Some(last)) = (report.hours.lines.first(), report.hours.lines.last()) else {
        return Vec::new();
    };
    let (first, last) = (at(&first.name.hour), at(&last.name.hour));
    let hours = usize::try_from((last - first) / HOUR_NS + 1).unwrap_or(1);
    let step = hours.div_ceil(MAX_COLUMNS).max(1);
    let mut all: Vec<(String, Option<(u64, u64)>)> = (0..hours.div_ceil(step))
        .map(|n| {
            let ahead = i64::try_from(n * step).unwrap_or(0).saturating_mul(HOUR_NS);
            (format_rfc3339(Hour::start_of(first.saturating_add(ahead))), None)
        })
        .collect();
    for line in &report.hours.lines {
        let n = usize::try_from((at(&line.name.hour) - first) / HOUR_NS).unwrap_or(0) / step;
        if let Some((_, counts)) = all.get_mut(n) {
            let (s, d) = counts.unwrap_or_default();
            *counts = Some((s.saturating_add(line.stored), d.saturating_add(line.dropped)));
        }
    }
    all
}

/// The page.
#[must_use]
pub fn page(report: &Report) -> String {
    let digest = STANDARD.encode(Sha256::digest(STYLE));
    let k = report.k;
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{digest}'; \
         img-src data:; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>Tidegate report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
    );
    let events = report.events.map_or_else(|| "few".to_owned(), number);
    let _ = writeln!(
        out,
        "<h1>What was collected</h1>\n<p>{} to {}: {events} events.</p>\n\
         <p class=\"soft\">Counts only, no contents. Rows of fewer than {k} events are suppressed. \
         Hardware configuration {}.<span class=\"key stored\"></span>stored\
         <span class=\"key dropped\"></span>dropped<span class=\"key hidden\"></span>not told</p>",
        escape(&report.from),
        escape(&report.to),
        escape(&report.configuration)
    );
    let columns_now = over_time(report);
    let _ = writeln!(out, "<h2>Over time</h2>");
    if columns_now.is_empty() {
        out.push_str("<p class=\"soft\">Nothing to tell.</p>\n");
    } else {
        out.push_str(&columns("Events over time", &columns_now));
    }
    out.push_str(&suppressed(report.hours.suppressed, k));
    section(&mut out, "By provider", &report.providers, k, |n| n.provider.clone());
    section(&mut out, "By telemetry level", &report.levels, k, |n| n.level.to_owned());
    section(&mut out, "Dropped, by reason", &report.reasons, k, |n| n.reason.to_owned());
    section(&mut out, "Critical alerts on this hardware", &report.critical_alerts, k, |n| n.provider.clone());
    out.push_str("<h2>By kind of event</h2>\n");
    if report.kinds.lines.is_empty() {
        out.push_str("<p class=\"soft\">Nothing to tell.</p>\n");
    } else {
        out.push_str(
            "<table><thead><tr><th>Provider</th><th>Event</th><th class=\"n\">Stored</th>\
             <th class=\"n\">Dropped</th></tr></thead><tbody>\n",
        );
        for line in report.kinds.lines.iter().take(MAX_ROWS) {
            let _ = writeln!(
                out,
                "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                escape(&line.name.provider),
                escape(&line.name.event),
                number(line.stored),
                number(line.dropped)
            );
        }
        out.push_str("</tbody></table>\n");
        if let more @ 1.. = report.kinds.lines.len().saturating_sub(MAX_ROWS) {
            let _ = writeln!(out, "<p class=\"soft\">{more} further kinds are in the JSON report.</p>");
        }
    }
    out.push_str(&suppressed(report.kinds.suppressed, k));
    out.push_str("<h2>Sinks</h2>\n");
    if report.sinks.is_empty() {
        out.push_str("<p class=\"soft\">Nothing to tell.</p>\n");
    } else {
        out.push_str(
            "<table><thead><tr><th>Sink</th><th class=\"n\">Delivered</th><th class=\"n\">Rejected</th>\
             <th class=\"n\">Lost</th></tr></thead><tbody>\n",
        );
        for (name, c) in &report.sinks {
            let _ = writeln!(
                out,
                "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                escape(name),
                number(c.delivered),
                number(c.rejected),
                number(c.lost)
            );
        }
        out.push_str("</tbody></table>\n");
    }
    out.push_str("</body>\n</html>\n");
    out
}
