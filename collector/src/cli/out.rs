//! Standard output, tables, numbers, progress.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::exit::{Exit, Failure};

/// Standard output, buffered.
pub(super) fn stdout() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(64 << 10, io::stdout().lock())
}

/// `1234567` as `1,234,567`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number of things a second, to three digits that count.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "never negative; the largest number is shown"
)]
pub(super) fn rounded(n: f64) -> String {
    let scale = 10_f64.powi((n.max(1.0).log10() as i32 - 2).max(0));
    count(((n / scale).round() * scale) as u64)
}

/// Bytes in the largest unit that leaves a number of at least 1.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let (mut value, mut unit) = (n as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS.get(unit).copied().unwrap_or_default())
}

/// A span of time in the unit that suits it.
#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
pub(super) fn span(ns: u64) -> String {
    let seconds = ns as f64 / 1e9;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} µs", seconds * 1e6),
        1_000_000..1_000_000_000 => format!("{:.1} ms", seconds * 1e3),
        1_000_000_000..120_000_000_000 => format!("{seconds:.2} s"),
        120_000_000_000..7_200_000_000_000 => format!("{:.1} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

/// A part of a whole in per cent.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    format!("{:.1} %", part as f64 * 100.0 / whole as f64)
}

/// Rows under headings; a heading that begins with `>` is right-aligned.
#[derive(Debug)]
pub(super) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(headings: &[&'static str]) -> Table {
        Table { headings: headings.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    /// Writes it, indented by two spaces.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let bare = |h: &'static str| h.strip_prefix('>').unwrap_or(h);
        let width = |n: usize| {
            let cells = self.rows.iter().filter_map(|r| r.get(n)).map(|c| c.chars().count());
            cells.chain(self.headings.get(n).map(|h| bare(h).chars().count())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let line = |cells: &[&str]| {
            let mut line = String::new();
            for ((cell, heading), width) in cells.iter().zip(&self.headings).zip(&widths) {
                line.push_str("  ");
                if heading.starts_with('>') {
                    line.push_str(&format!("{cell:>width$}"));
                } else {
                    line.push_str(&format!("{cell:<width$}"));
                }
            }
            line
        };
        let headings: Vec<&str> = self.headings.iter().map(|h| bare(h)).collect();
        writeln!(out, "{}", line(&headings).trim_end())?;
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            writeln!(out, "{}", line(&cells).trim_end())?;
        }
        Ok(())
    }
}

/// Text from outside, safe to show on a terminal: control characters become spaces.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A folder for one run, in the temporary folder or a given one; gone with this unless kept.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) path: PathBuf,
    kept: bool,
}

impl Scratch {
    /// Makes it; `what` is part of its name.
    pub(super) fn create(within: Option<&Path>, what: &str) -> Result<Scratch, Failure> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let name = format!("tidegate-{what}-{}-{:x}", std::process::id(), now.as_nanos());
        let path = within.map_or_else(std::env::temp_dir, Path::to_path_buf).join(name);
        std::fs::create_dir(&path).map_err(|e| {
            Failure::new(Exit::CantCreate, format!("cannot create {}: {e}", path.display()))
                .hint("name a folder that you may write to")
        })?;
        Ok(Scratch { path, kept: false })
    }

    /// Leaves it there.
    pub(super) fn keep(mut self) -> PathBuf {
        self.kept = true;
        self.path.clone()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.kept {
            // nothing in it is needed any more; what stays is in the temporary folder
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A progress line on standard error, only where a person sees it.
pub(super) fn progress(what: &'static str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) =
        ProgressStyle::with_template("{spinner} {msg} {human_pos} events  {per_sec}  {elapsed}")
    {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_for_people() {
        assert_eq!((count(0), count(999), count(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
        assert_eq!(
            (bytes(17), bytes(1536), bytes(5 << 30)),
            ("17 B".into(), "1.5 KiB".into(), "5.0 GiB".into())
        );
        assert_eq!((span(900), span(1_500_000_000)), ("900 ns".into(), "1.50 s".into()));
        assert_eq!((rounded(1_234_567.0), rounded(7.4)), ("1,230,000".into(), "7".into()));
        assert_eq!((percent(1, 3), percent(0, 0)), ("33.3 %".into(), "-".into()));
    }

    #[test]
    fn a_table_lines_up() {
        let mut table = Table::new(&["name", ">n"]);
        table.row(["a".into(), "1,000".into()]);
        table.row(["long name".into(), "2".into()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        let want = "  name           n\n  a          1,000\n  long name      2\n";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }

    #[test]
    fn what_a_trace_says_cannot_steer_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\nc"), "a [2Jb c");
    }
}
