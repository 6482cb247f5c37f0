//! Measures the scrubber on a labelled corpus, as `benches/peers/scrub_corpus.py`
//! makes it: recall and precision by class, and MB/s on one core.
//!
//! `cargo run --release -p tidegate --example scrub -- corpus.jsonl [--json] [--misses N]`

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tidegate::gate::scrub::{Detector, Finding, Kind};

#[derive(Deserialize)]
struct Record {
    text: String,
    spans: Vec<Span>,
}

#[derive(Deserialize)]
struct Span {
    start: usize,
    end: usize,
    kind: String,
}

/// What is counted for one class.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Score {
    labelled: u64,
    found: u64,
    reported: u64,
    right: u64,
}

impl Score {
    fn recall(self) -> f64 {
        if self.labelled == 0 { 1.0 } else { self.found as f64 / self.labelled as f64 }
    }

    fn precision(self) -> f64 {
        if self.reported == 0 { 1.0 } else { self.right as f64 / self.reported as f64 }
    }
}

/// Bytes that two ranges share.
fn shared(a: (usize, usize), b: (usize, usize)) -> usize {
    a.1.min(b.1).saturating_sub(a.0.max(b.0))
}

/// A label counts as found when findings of its class cover 90 % of it; a finding as right
/// when half of it lies in labels of its class. The peers are judged by the same rule.
fn judge(record: &Record, findings: &[Finding], scores: &mut BTreeMap<String, Score>) -> bool {
    let mut clean = true;
    for s in &record.spans {
        let score = scores.entry(s.kind.clone()).or_default();
        score.labelled += 1;
        let covered: usize = findings
            .iter()
            .filter(|f| f.kind.as_str() == s.kind)
            .map(|f| shared((f.start, f.end), (s.start, s.end)))
            .sum();
        let found = covered * 10 >= (s.end - s.start) * 9;
        score.found += u64::from(found);
        clean &= found;
    }
    for f in findings {
        let score = scores.entry(f.kind.as_str().to_owned()).or_default();
        score.reported += 1;
        let inside: usize = record
            .spans
            .iter()
            .filter(|s| s.kind == f.kind.as_str())
            .map(|s| shared((f.start, f.end), (s.start, s.end)))
            .sum();
        let right = inside * 2 >= f.end - f.start;
        score.right += u64::from(right);
        clean &= right;
    }
    clean
}

/// MB/s over texts, the best of a few rounds that take half a second together at least.
fn speed(detector: &mut Detector, texts: &[&str]) -> f64 {
    let bytes: usize = texts.iter().map(|t| t.len()).sum();
    let (mut best, mut all) = (Duration::MAX, Duration::ZERO);
    while all < Duration::from_millis(500) {
        let start = Instant::now();
        for text in texts {
            black_box(detector.find(black_box(text)).len());
        }
        let took = start.elapsed();
        best = best.min(took);
        all += took;
    }
    bytes as f64 / best.as_secs_f64() / 1e6
}

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let (mut path, mut json, mut misses) = (None, false, 0_usize);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--json" => json = true,
            "--misses" => misses = args.next().context("--misses needs a number")?.parse()?,
            other if !other.starts_with('-') => path = Some(other.to_owned()),
            other => bail!("unknown option {other}"),
        }
    }
    let path = path.context("name the corpus, made by benches/peers/scrub_corpus.py")?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let records: Vec<Record> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;

    let mut detector = Detector::new(&[]);
    let mut scores = BTreeMap::new();
    for record in &records {
        let findings: Vec<Finding> = detector.find(&record.text).collect();
        if !judge(record, &findings, &mut scores) && misses > 0 {
            misses -= 1;
            let show =
                |start, end, kind: &str| format!("{kind}:{:?}", record.text.get(start..end).unwrap_or("?"));
            let want: Vec<_> = record.spans.iter().map(|s| show(s.start, s.end, &s.kind)).collect();
            let got: Vec<_> = findings.iter().map(|f| show(f.start, f.end, f.kind.as_str())).collect();
            eprintln!("{:?}\n  want {}\n  got  {}", record.text, want.join(" "), got.join(" "));
        }
    }
    let all: Vec<&str> = records.iter().map(|r| r.text.as_str()).collect();
    let neutral: Vec<&str> = records.iter().filter(|r| r.spans.is_empty()).map(|r| r.text.as_str()).collect();
    // the event text of the gate's own timing: words and numbers, nothing to find
    let plain =
        "worker 17 finished batch 2044 in state ready after 3 retries and went on to the next of its queue, "
            .repeat(10);
    let speed_all = speed(&mut detector, &all);
    let speed_neutral = speed(&mut detector, &neutral);
    let speed_plain = speed(&mut detector, &[plain.as_str(); 200]);

    if json {
        let report = serde_json::json!({
            "records": records.len(), "scores": scores,
            "mb_s": speed_all, "mb_s_neutral": speed_neutral, "mb_s_plain": speed_plain,
        });
        println!("{report}");
        return Ok(());
    }
    println!("{:8} {:>8} {:>8} {:>10}", "class", "labelled", "recall", "precision");
    let mut sum = Score::default();
    for kind in Kind::ALL {
        let Some(s) = scores.get(kind.as_str()) else { continue };
        println!("{:8} {:8} {:8.4} {:10.4}", kind.as_str(), s.labelled, s.recall(), s.precision());
        sum.labelled += s.labelled;
        sum.found += s.found;
        sum.reported += s.reported;
        sum.right += s.right;
    }
    println!("{:8} {:8} {:8.4} {:10.4}", "all", sum.labelled, sum.recall(), sum.precision());
    println!(
        "\nMB/s on one core: corpus {speed_all:.0}, its neutral half {speed_neutral:.0}, plain text {speed_plain:.0}"
    );
    Ok(())
}
