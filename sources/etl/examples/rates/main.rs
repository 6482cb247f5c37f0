//! How fast traces are walked and decoded, as JSON Lines; `benches/peers/etl.py` reads them.
//!
//! * `rates FILE…`: the best of several runs on each file, on one thread;
//! * `rates --decode FILE`: decodes for some seconds and prints the rate, for a profiler;
//! * `rates --repeat RECORDS SOURCE OUT`: writes the long TraceLogging trace of the benches.

mod repeat;

use std::time::SystemTime;
use tidegate_etl::{Coverage, EtlFile, EventReader, PayloadDecoder};
use tidegate_proto::batch::Batch;
use tidegate_proto::schema::Decoder;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, records, source, out] = args.as_slice()
        && flag == "--repeat"
    {
        let trace = repeat::tracelogging(&std::fs::read(source)?, records.parse()?);
        return Ok(std::fs::write(out, trace)?);
    }
    if let [flag, path] = args.as_slice()
        && flag == "--decode"
    {
        let bytes = std::fs::read(path)?;
        let (mut batch, mut records) = (Batch::new(), 0);
        let took = best(|| decode(&bytes, &mut batch).map(|d| records = d.0))?;
        println!("{:.0}", records as f64 / took);
        return Ok(());
    }
    args.iter().try_for_each(|path| rates(path))
}

/// Decodes a whole trace; opening and the pass for schemas are part of it. Records, and how many
/// of them got their fields.
fn decode(bytes: &[u8], batch: &mut Batch) -> Result<(u64, u64), Failure> {
    let file = EtlFile::open(bytes)?;
    let mut reader = EventReader::new(&file, PayloadDecoder::new("rates"))?;
    while reader.next_batch(batch, 1000)? {
        batch.clear();
    }
    batch.clear();
    let raw = |c: &Coverage| matches!(c.decoder, Decoder::None | Decoder::Wpp);
    let with_fields = reader.coverage().iter().filter(|c| !raw(c)).map(|c| c.events).sum();
    Ok((reader.records(), with_fields))
}

/// CPU time of this thread in seconds, where the system tells it; else the clock's.
fn now() -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let ns = told.and_then(|t| t.split(' ').next().and_then(|n| n.parse::<u64>().ok()));
    let clock = || SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64();
    ns.map_or_else(clock, |ns| ns as f64 / 1e9)
}

/// Seconds of a run: the mean over about a second (the system updates CPU times in steps of
/// milliseconds), the best of three such means.
fn best(mut run: impl FnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
    let mut fastest = f64::MAX;
    for _ in 0..3 {
        let (start, mut runs) = (now(), 0.0);
        let mut took = 0.0;
        while took < 1.0 {
            run()?;
            runs += 1.0;
            took = now() - start;
        }
        fastest = fastest.min(took / runs);
    }
    Ok(fastest)
}

fn rates(path: &str) -> Result<(), Failure> {
    let bytes = std::fs::read(path)?;
    let file = EtlFile::open(bytes.as_slice())?;
    let walk = file.walk(|_| ())?;
    let walked = best(|| {
        let mut sum = 0;
        file.walk(|r| sum += r.data.len())?;
        std::hint::black_box(sum);
        Ok(())
    })?;
    let counted = best(|| {
        std::hint::black_box(file.summary()?);
        Ok(())
    })?;
    let mut batch = Batch::new();
    let mut with_fields = 0;
    let decoded = best(|| decode(&bytes, &mut batch).map(|d| with_fields = d.1))?;
    let (n, size) = (walk.records as f64, walk.bytes as f64);
    println!(
        "{{\"file\":{path:?},\"records\":{},\"bytes\":{},\"walk_per_s\":{:.0},\"walk_mb_per_s\":{:.0},\"summary_mb_per_s\":{:.0},\"decoded\":{with_fields},\"decode_per_s\":{:.0}}}",
        walk.records,
        walk.bytes,
        n / walked,
        size / walked / 1e6,
        size / counted / 1e6,
        n / decoded
    );
    Ok(())
}
