//! A soak of the whole way: synthetic events at a steady rate through gate and ring to sinks that
//! fail at random. Memory and disk are sampled to a table; at the end every count is compared.
//!
//! ```text
//! cargo run --release -p tidegate --example soak -- run --minutes 60 --csv soak.csv
//! cargo run --release -p tidegate --example soak -- plot soak.csv soak.svg
//! ```

mod plot;
mod sample;
mod sinks;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use serde_json::json;
use tidegate::config::RetryConfig;
use tidegate::dispatch::SinkOptions;
use tidegate::gate::Rules;
use tidegate::pipeline::{Handle, Parts, Pipeline, PipelineOptions, SinkPart, Summary, Until};
use tidegate_proto::level::TelemetryLevel;
use tidegate_ring::{Ring, RingOptions, SledRing};
use tidegate_sources::SourceConfig;

use sample::Sample;
use sinks::{Moody, Temper};

#[derive(Debug, Parser)]
#[command(name = "soak")]
enum Args {
    /// Run it.
    Run(Run),
    /// Make a picture of a table.
    Plot {
        /// The table.
        csv: PathBuf,
        /// The picture.
        svg: PathBuf,
        /// Bound of the ring in MiB, drawn as a line.
        #[arg(long, default_value_t = 512)]
        ring_mib: u64,
        /// What is written above it.
        #[arg(long, default_value = "Soak")]
        title: String,
    },
}

#[derive(Debug, clap::Args)]
struct Run {
    /// How long events come.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Events a second.
    #[arg(long, default_value_t = 50_000)]
    rate: u64,
    /// Bound of the ring.
    #[arg(long, default_value_t = 512)]
    ring_mib: u64,
    /// Seconds from sample to sample.
    #[arg(long, default_value_t = 5)]
    every: u64,
    /// Seed of events and failures.
    #[arg(long)]
    seed: Option<u64>,
    /// Where the ring goes; left there. [default: a temporary folder]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The table.
    #[arg(long, default_value = "soak.csv")]
    csv: PathBuf,
}

/// The sinks: name and temper.
const SINKS: [(&str, Temper); 4] = [
    (
        "steady",
        Temper {
            fails: 100,
            loses_answer: 50,
            hangs: 0,
            dawdles: 500,
            splits: 20,
            refuses: 0,
            refuses_some: 20,
            outage_every: 0,
            outage_most: 0,
        },
    ),
    (
        "flaky",
        Temper {
            fails: 2_500,
            loses_answer: 500,
            hangs: 10,
            dawdles: 1_000,
            splits: 100,
            refuses: 5,
            refuses_some: 100,
            outage_every: 120,
            outage_most: 20,
        },
    ),
    (
        "remote",
        Temper {
            fails: 300,
            loses_answer: 200,
            hangs: 5,
            dawdles: 3_000,
            splits: 20,
            refuses: 0,
            refuses_some: 0,
            outage_every: 400,
            outage_most: 120,
        },
    ),
    (
        "absent",
        Temper {
            fails: 200,
            loses_answer: 100,
            hangs: 0,
            dawdles: 200,
            splits: 0,
            refuses: 1,
            refuses_some: 10,
            outage_every: 500,
            outage_most: 900,
        },
    ),
];

fn main() -> anyhow::Result<()> {
    tidegate_sources::arenas::few();
    match Args::parse() {
        Args::Plot { csv, svg, ring_mib, title } => {
            let table = std::fs::read_to_string(&csv).with_context(|| format!("read {}", csv.display()))?;
            let picture = plot::svg(&table, &title, Some(ring_mib << 20))?;
            std::fs::write(&svg, picture).with_context(|| format!("write {}", svg.display()))
        }
        Args::Run(run) => {
            tracing_subscriber::fmt().with_env_filter("error").with_writer(std::io::stderr).init();
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(soak(&run))
        }
    }
}

fn seed() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |t| t.as_nanos() as u64 >> 10)
}

async fn soak(run: &Run) -> anyhow::Result<()> {
    ensure!(run.rate > 0 && run.every > 0 && run.minutes > 0.0, "rate, every and minutes must not be 0");
    let seed = run.seed.unwrap_or_else(seed);
    let events = (run.minutes * 60.0 * run.rate as f64) as u64;
    let bound = run.ring_mib << 20;
    println!("seed {seed}; {events} events at {} a second; ring of {} MiB", run.rate, run.ring_mib);
    let scratch = match &run.dir {
        Some(_) => None,
        None => Some(tempfile::tempdir()?),
    };
    let folder = run.dir.clone().or(scratch.as_ref().map(|s| s.path().join("ring"))).context("no folder")?;
    let options = RingOptions { bound_bytes: bound, ..RingOptions::default() };
    let ring: Arc<dyn Ring> = Arc::new(SledRing::open(&folder, options)?);
    ensure!(ring.account().read == 0, "{} has been used: give an empty folder", folder.display());
    let source: SourceConfig = serde_json::from_value(
        json!({ "type": "synthetic", "seed": seed, "rate": run.rate, "events": events }),
    )?;
    let sinks: Vec<Arc<Moody>> = (1..)
        .zip(SINKS)
        .map(|(n, (name, temper))| Arc::new(Moody::new(name, seed.wrapping_add(n), temper)))
        .collect();
    let retry = RetryConfig {
        first: Duration::from_millis(50),
        most: Duration::from_secs(5),
        held: Duration::from_secs(10),
        breaker: 5,
    };
    let part = |sink: &Arc<Moody>| SinkPart {
        sink: Arc::clone(sink) as _,
        options: SinkOptions { retry, seed: Some(seed), ..SinkOptions::default() },
    };
    let parts = Parts {
        ring,
        rules: Arc::new(Rules::shipped()?),
        sources: vec![source.build("soak", None)?],
        sinks: sinks.iter().map(part).collect(),
        options: PipelineOptions {
            level: Some(TelemetryLevel::Full),
            own_events: Some(Duration::from_secs(60)),
            until: Until::Delivered,
            ..PipelineOptions::default()
        },
    };
    let running = Pipeline::start(parts).await?;
    let (handle, every) = (running.handle(), Duration::from_secs(run.every));
    let out = File::create(&run.csv).with_context(|| format!("create {}", run.csv.display()))?;
    let sampler = tokio::spawn(watch(handle, folder, every, BufWriter::new(out)));
    let summary = running.wait().await?;
    let samples = sampler.await??;
    println!("{summary:#}");
    judge(&summary, &sinks, &samples, bound, events)
}

/// Samples until the ring is closed.
async fn watch(
    handle: Handle,
    folder: PathBuf,
    every: Duration,
    mut out: BufWriter<File>,
) -> anyhow::Result<Vec<Sample>> {
    let (begun, mut samples) = (Instant::now(), Vec::new());
    let mut tick = tokio::time::interval(every);
    // in the order of the account
    let names: Vec<String> = handle.progress().sinks.keys().cloned().collect();
    Sample::heading(&names, &mut out)?;
    loop {
        tick.tick().await;
        let (handle, folder) = (handle.clone(), folder.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let ring = handle.ring();
            let closed = ring.watch().borrow().health == tidegate_ring::Health::Closed;
            let account = ring.account();
            let sound = account.check();
            let sample = Sample::take(
                begun.elapsed().as_secs_f64(),
                &folder,
                &handle.progress(),
                &account,
                &ring.status(),
            );
            (closed, sound, sample)
        });
        let (closed, sound, sample) = looked.await?;
        if closed {
            return Ok(samples);
        }
        if let Err(why) = sound {
            bail!("after {:.0} s the account does not close: {why}", sample.seconds);
        }
        sample.write(&mut out)?;
        samples.push(sample);
    }
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

/// Says what came of it, and whether it is as it must be.
fn judge(
    summary: &Summary,
    sinks: &[Arc<Moody>],
    samples: &[Sample],
    bound: u64,
    events: u64,
) -> anyhow::Result<()> {
    let sum = |levels: &[u64; 4]| levels.iter().sum::<u64>();
    let mut wrong = Vec::new();
    if let Some(why) = &summary.account_error {
        wrong.push(format!("the account does not close: {why}"));
    }
    if summary.total.read < events {
        wrong.push(format!("{} events were read, not {events}", summary.total.read));
    }
    for sink in sinks {
        use tidegate_sinks::Sink as _;
        let (id, count) = (sink.id(), sink.count());
        let Some(account) = summary.total.sinks.get(id) else {
            wrong.push(format!("{id} has no account"));
            continue;
        };
        let (delivered, rejected) = (sum(&account.delivered), sum(&account.rejected));
        let (lost, held) = (account.lost.values().map(sum).sum::<u64>(), sum(&account.held));
        println!(
            "{id}: {} attempts, {} outages; delivered {delivered}, rejected {rejected}, evicted {lost}, held {held}; \
             {} batches came again after a lost answer, {} of them changed",
            count.attempts,
            count.outages,
            count.repeats + count.changed,
            count.changed
        );
        if (count.taken, count.refused) != (delivered, rejected) {
            wrong.push(format!(
                "{id} took {} and refused {}, the account says otherwise",
                count.taken, count.refused
            ));
        }
        if held > 0 {
            wrong.push(format!("{id} has {held} events left"));
        }
        if count.changed > 0 {
            wrong.push(format!("{id} was given {} batches that had changed", count.changed));
        }
    }
    let disk = samples.iter().map(|s| s.disk).max().unwrap_or(0);
    println!("most on disk: {disk} bytes, {:.1} % of the bound", disk as f64 * 100.0 / bound as f64);
    if disk > bound + bound / 10 {
        wrong.push("the ring took more than 110 % of its bound".to_owned());
    }
    let memory: Vec<u64> = samples.iter().filter_map(|s| s.rss).collect();
    let fifth = memory.len() / 5;
    if fifth > 0 {
        let early = median(memory[fifth..2 * fifth].to_vec());
        let late = median(memory[4 * fifth..].to_vec());
        let most = memory.iter().max().copied().unwrap_or(0);
        println!("resident: median {early} in the second fifth, {late} in the last, {most} at most");
        if late > early + early / 5 + (16 << 20) {
            wrong.push(format!("memory grew from {early} to {late} bytes"));
        }
    }
    std::io::stdout().flush()?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("every count agrees");
    Ok(())
}
