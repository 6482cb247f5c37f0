//! Plots without scripts: drawn here, coloured by the page's style sheet.

use std::fmt::Write as _;

use super::html::escape;

/// Width of every plot in its own units.
const WIDTH: f64 = 720.0;

/// Where axis lines are: up to four round numbers.
fn steps(most: u64) -> Vec<u64> {
    let most = most.max(1);
    let mut step = 1_u64;
    while most / step > 4 {
        step = match step.to_string().as_bytes().first() {
            Some(b'2') => step.saturating_mul(5) / 2,
            _ => step.saturating_mul(2),
        };
    }
    (0..=most / step).map(|n| n * step).collect()
}

/// A number with its thousands apart.
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, c) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(c);
    }
    out
}

#[expect(clippy::cast_precision_loss, reason = "drawn, not counted")]
fn part(n: u64, of: u64, size: f64) -> f64 {
    n as f64 / of.max(1) as f64 * size
}

/// Stored and dropped events over time: columns upon one another. `None` is a time that is not told.
pub(super) fn columns(title: &str, at: &[(String, Option<(u64, u64)>)]) -> String {
    const HEIGHT: f64 = 200.0;
    const LEFT: f64 = 64.0;
    const BOTTOM: f64 = 22.0;
    let most = at.iter().filter_map(|(_, c)| c.map(|(s, d)| s.saturating_add(d))).max().unwrap_or(0).max(1);
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{}\">\n",
        HEIGHT + BOTTOM + 8.0,
        escape(title)
    );
    for n in steps(most) {
        let y = 8.0 + HEIGHT - part(n, most, HEIGHT);
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick end\" x=\"{}\" y=\"{:.1}\">{}</text>",
            LEFT - 6.0,
            y + 4.0,
            number(n)
        );
    }
    let count = u32::try_from(at.len().max(1)).unwrap_or(u32::MAX);
    let step = (WIDTH - LEFT) / f64::from(count);
    let wide = (step * 0.84).max(0.5);
    let every = (at.len() / 6).max(1);
    for (n, (label, counts)) in (0_u32..).zip(at) {
        let x = LEFT + step * f64::from(n) + (step - wide) / 2.0;
        match counts {
            None => {
                let y = 8.0 + HEIGHT - 4.0;
                let _ = writeln!(
                    out,
                    "<rect class=\"hidden\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"4\"><title>{}: not told</title></rect>",
                    escape(label)
                );
            }
            Some((stored, dropped)) => {
                let (s, d) = (part(*stored, most, HEIGHT), part(*dropped, most, HEIGHT));
                let base = 8.0 + HEIGHT;
                let _ = writeln!(
                    out,
                    "<g><title>{}: {} stored, {} dropped</title>\
                     <rect class=\"stored\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{wide:.1}\" height=\"{s:.1}\"/>\
                     <rect class=\"dropped\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{wide:.1}\" height=\"{d:.1}\"/></g>",
                    escape(label),
                    number(*stored),
                    number(*dropped),
                    base - s,
                    base - s - d
                );
            }
        }
        if (n as usize).is_multiple_of(every) {
            // "2026-01-31T12:00…" as "01-31 12:00"
            let short: String = label.chars().skip(5).take(11).collect();
            let _ = writeln!(
                out,
                "<text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                8.0 + HEIGHT + 16.0,
                escape(&short.replace('T', " "))
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

/// Stored and dropped events of some names: bars, the longest first.
pub(super) fn bars(title: &str, rows: &[(String, u64, u64)]) -> String {
    const ROW: f64 = 24.0;
    const LEFT: f64 = 250.0;
    const RIGHT: f64 = 90.0;
    let most = rows.iter().map(|(_, s, d)| s.saturating_add(*d)).max().unwrap_or(0).max(1);
    let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{}\">\n",
        ROW * f64::from(count.max(1)),
        escape(title)
    );
    for (n, (name, stored, dropped)) in (0_u32..).zip(rows) {
        let y = ROW * f64::from(n);
        let size = WIDTH - LEFT - RIGHT;
        let (s, d) = (part(*stored, most, size), part(*dropped, most, size));
        let short: String = match name.char_indices().nth(36) {
            Some((at, _)) => format!("{}…", name.get(..at).unwrap_or_default()),
            None => name.clone(),
        };
        let _ = writeln!(
            out,
            "<g><title>{}: {} stored, {} dropped</title>\
             <text class=\"end\" x=\"{}\" y=\"{:.1}\">{}</text>\
             <rect class=\"stored\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{s:.1}\" height=\"{}\"/>\
             <rect class=\"dropped\" x=\"{:.1}\" y=\"{:.1}\" width=\"{d:.1}\" height=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
            escape(name),
            number(*stored),
            number(*dropped),
            LEFT - 8.0,
            y + 16.0,
            escape(&short),
            y + 4.0,
            ROW - 8.0,
            LEFT + s,
            y + 4.0,
            ROW - 8.0,
            LEFT + s + d + 6.0,
            y + 16.0,
            number(stored.saturating_add(*dropped))
        );
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn axes_have_few_round_numbers() {
        assert_eq!(super::steps(0), [0, 1]);
        assert_eq!(super::steps(7), [0, 2, 4, 6]);
        assert_eq!(super::steps(100), [0, 50, 100]);
        assert_eq!(super::steps(1_234_567), [0, 500_000, 1_000_000]);
        assert!(super::steps(u64::MAX).len() <= 5);
        assert_eq!(super::number(1_234_567), "1\u{202f}234\u{202f}567");
    }
}
