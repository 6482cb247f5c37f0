//! The table as a picture: memory, bytes on disk, events a second, events that wait.

use std::fmt::Write as _;

use anyhow::{Context as _, bail};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 90.0;
const HIGH: f64 = 130.0;
const GAP: f64 = 56.0;
/// Points of a line at most; each shows the largest of its share.
const POINTS: usize = 430;
const COLOURS: [&str; 5] = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b"];

struct Line {
    name: String,
    values: Vec<f64>,
}

struct Panel {
    title: String,
    lines: Vec<Line>,
    /// A bound to draw.
    bound: Option<f64>,
    show: fn(f64) -> String,
}

/// Makes an SVG of a table.
pub fn svg(csv: &str, title: &str, bound: Option<u64>) -> anyhow::Result<String> {
    let mut rows = csv.lines();
    let names: Vec<&str> = rows.next().context("the table is empty")?.split(',').collect();
    let mut columns: Vec<Vec<f64>> = vec![Vec::new(); names.len()];
    for (n, row) in rows.enumerate() {
        let cells: Vec<&str> = row.split(',').collect();
        if cells.len() != names.len() {
            bail!("line {} has {} cells, not {}", n + 2, cells.len(), names.len());
        }
        for (column, cell) in columns.iter_mut().zip(cells) {
            // empty: the system did not tell
            let value = if cell.is_empty() {
                0.0
            } else {
                cell.parse().with_context(|| format!("line {}", n + 2))?
            };
            column.push(value);
        }
    }
    let column = |name: &str| {
        let at =
            names.iter().position(|n| *n == name).with_context(|| format!("there is no column {name}"))?;
        Ok::<_, anyhow::Error>(columns[at].clone())
    };
    let seconds = column("seconds")?;
    if seconds.len() < 2 {
        bail!("two rows at least are needed");
    }
    let rate = |values: Vec<f64>| {
        let steps = values.windows(2).zip(seconds.windows(2));
        let mut out: Vec<f64> = steps.map(|(v, t)| (v[1] - v[0]) / (t[1] - t[0]).max(1e-3)).collect();
        out.insert(0, out.first().copied().unwrap_or(0.0));
        out
    };
    let of_sinks = |suffix: &str| {
        let named = names.iter().filter_map(|n| n.strip_suffix(suffix)).map(|name| {
            let values = column(&format!("{name}{suffix}"))?;
            Ok(Line { name: name.to_owned(), values })
        });
        named.collect::<anyhow::Result<Vec<Line>>>()
    };
    let one = |name: &str, values| vec![Line { name: name.to_owned(), values }];
    let panels = [
        Panel {
            title: "resident memory".into(),
            lines: one("", column("rss_bytes")?),
            bound: None,
            show: mib,
        },
        Panel {
            title: "bytes on disk, all files of the ring; dashed: its bound".into(),
            lines: one("", column("disk_bytes")?),
            bound: bound.map(|b| b as f64),
            show: mib,
        },
        Panel {
            title: "events stored a second".into(),
            lines: one("", rate(column("stored")?)),
            bound: None,
            show: thousands,
        },
        Panel {
            title: "events held for a sink".into(),
            lines: of_sinks("_held")?,
            bound: None,
            show: thousands,
        },
        Panel {
            title: "events evicted before a sink had them, in all".into(),
            lines: of_sinks("_lost")?,
            bound: None,
            show: thousands,
        },
    ];
    Ok(draw(title, &seconds, &panels))
}

fn mib(n: f64) -> String {
    format!("{:.0} MiB", n / f64::from(1 << 20))
}

fn thousands(n: f64) -> String {
    if n >= 1e6 { format!("{:.1} M", n / 1e6) } else { format!("{:.0} k", n / 1e3) }
}

fn draw(title: &str, seconds: &[f64], panels: &[Panel]) -> String {
    let (last, mut top) = (seconds.last().copied().unwrap_or(1.0).max(1.0), 44.0);
    let height = top + (HIGH + GAP) * panels.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{title}</text>\n"
    );
    let wide = WIDTH - LEFT - 20.0;
    for panel in panels {
        let values = panel.lines.iter().flat_map(|l| &l.values).copied();
        let most = values.chain(panel.bound).fold(1.0, f64::max) * 1.08;
        let y = |v: f64| top + HIGH - v / most * HIGH;
        let x = |t: f64| LEFT + t / last * wide;
        let _ = writeln!(
            out,
            "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{}</text>",
            top - 6.0,
            panel.title
        );
        for part in 0..=2 {
            let v = most / 1.08 * f64::from(part) / 2.0;
            let _ = writeln!(
                out,
                "<path d=\"M{LEFT} {0:.1}H{1}\" stroke=\"#ddd\"/><text x=\"{2}\" y=\"{3:.1}\" text-anchor=\"end\">{4}</text>",
                y(v),
                LEFT + wide,
                LEFT - 6.0,
                y(v) + 4.0,
                (panel.show)(v)
            );
        }
        if let Some(bound) = panel.bound {
            let _ = writeln!(
                out,
                "<path d=\"M{LEFT} {:.1}H{}\" stroke=\"#555\" stroke-dasharray=\"6 4\"/>",
                y(bound),
                LEFT + wide
            );
        }
        for (line, colour) in panel.lines.iter().zip(COLOURS.iter().cycle()) {
            let share = line.values.len().div_ceil(POINTS).max(1);
            let mut path = String::new();
            for (v, t) in line.values.chunks(share).zip(seconds.chunks(share)) {
                let verb = if path.is_empty() { 'M' } else { 'L' };
                let v = v.iter().copied().fold(0.0, f64::max);
                let _ = write!(path, "{verb}{:.1} {:.1}", x(t[0]), y(v));
            }
            let _ =
                writeln!(out, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.4\"/>");
        }
        let mut at = LEFT + wide;
        let coloured: Vec<_> = panel.lines.iter().zip(COLOURS.iter().cycle()).collect();
        for (line, colour) in coloured.into_iter().rev() {
            let _ = writeln!(
                out,
                "<text x=\"{at}\" y=\"{}\" fill=\"{colour}\" text-anchor=\"end\">{}</text>",
                top - 6.0,
                line.name
            );
            at -= 14.0 + 7.0 * line.name.len() as f64;
        }
        let (step, unit) = if last > 300.0 { (60.0, "min") } else { (1.0, "s") };
        for part in 0..=6 {
            let t = last * f64::from(part) / 6.0;
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{:.0} {unit}</text>",
                x(t),
                top + HIGH + 16.0,
                t / step
            );
        }
        top += HIGH + GAP;
    }
    out + "</svg>\n"
}
