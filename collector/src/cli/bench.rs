//! `bench`: what this machine can do, in under a minute.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tidegate_proto::ids::SinkId;
use tidegate_proto::json;
use tidegate_proto::level::TelemetryLevel;
use tidegate_ring::{Ring, RingOptions, SledRing};
use tidegate_sinks::{BatchLimits, BoxFuture, DeliverError, Delivered, Sink, SinkBatch};
use tidegate_sources::{Source, SourceConfig};
use tokio::time::Instant;

use super::exit::{Done, Exit, Failure};
use super::out::{self, Scratch, Table};
use crate::assemble;
use crate::dispatch::SinkOptions;
use crate::gate::Rules;
use crate::pipeline::{Handle, Parts, Pipeline, PipelineOptions, Running, SinkPart, Summary, Until};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Three stages, each for --seconds: synthetic events through the gate into the ring; what the ring holds through \
the dispatcher into a sink that writes JSON Lines to memory; both at once. Bytes are those of the events as \
stored, before compression. The ring is on the disk of --dir: that disk is measured too.")]
pub(super) struct Args {
    /// Seconds that a stage takes.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Bytes of an event.
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(150..=16384))]
    size: u32,
    /// Seed of the events.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Look for personal data in the events and change it, as a collector does by default.
    #[arg(long)]
    scrub: bool,
    /// Folder for the ring; emptied at the end. [default: the temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print the numbers as one JSON object.
    #[arg(long)]
    json: bool,
}

/// What a stage did.
#[derive(Clone, Copy, Debug)]
struct Rate {
    stage: &'static str,
    events: u64,
    bytes: u64,
    seconds: f64,
}

#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
impl Rate {
    fn events_per_second(&self) -> f64 {
        self.events as f64 / self.seconds.max(1e-9)
    }

    fn mb_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds.max(1e-9)
    }
}

pub(super) fn run(args: &Args) -> Done {
    let scratch = Scratch::create(args.dir.as_deref(), "bench")?;
    let runtime = super::daemon::runtime()?;
    let bar = bar(3 * args.seconds);
    let bench = Bench { args, bar: bar.clone() };
    let rates = runtime.block_on(bench.stages(&scratch.path))?;
    bar.finish_and_clear();
    let mut out = out::stdout();
    let written = if args.json { as_json(args, &rates, &mut out) } else { as_table(args, &rates, &mut out) };
    written.and_then(|()| out.flush()).map_err(|e| Failure::output(&e))?;
    Ok(Exit::Ok)
}

fn bar(seconds: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(seconds * 10), ProgressDrawTarget::stderr_with_hz(5));
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} %  {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

fn as_json(args: &Args, rates: &[Rate], out: &mut impl io::Write) -> io::Result<()> {
    let rate = |r: &Rate| {
        json!({
            "stage": r.stage, "events": r.events, "bytes": r.bytes, "seconds": r.seconds,
            "eventsPerSecond": r.events_per_second(), "megabytesPerSecond": r.mb_per_second(),
        })
    };
    let all = json!({
        "version": env!("CARGO_PKG_VERSION"), "optimised": !cfg!(debug_assertions),
        "eventBytes": args.size, "seed": args.seed, "scrub": args.scrub,
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "stages": rates.iter().map(rate).collect::<Vec<_>>(),
    });
    writeln!(out, "{all}")
}

fn as_table(args: &Args, rates: &[Rate], out: &mut impl io::Write) -> io::Result<()> {
    let mut table = Table::new(&["stage", ">events/s", ">MB/s", ">events", ">seconds"]);
    for r in rates {
        table.row([
            r.stage.to_owned(),
            out::rounded(r.events_per_second()),
            format!("{:.1}", r.mb_per_second()),
            out::count(r.events),
            format!("{:.1}", r.seconds),
        ]);
    }
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let scrub = if args.scrub { "with scrubbing" } else { "without scrubbing" };
    writeln!(out, "events of {} bytes, {scrub}, {cpus} CPUs", args.size)?;
    if cfg!(debug_assertions) {
        writeln!(out, "NOT OPTIMISED: this is a debug build; measure with cargo run --release -- bench")?;
    }
    writeln!(out)?;
    table.write(out)
}

struct Bench<'a> {
    args: &'a Args,
    bar: ProgressBar,
}

impl Bench<'_> {
    async fn stages(&self, dir: &Path) -> Result<Vec<Rate>, Failure> {
        let seconds = Duration::from_secs(self.args.seconds);
        let first = dir.join("first");
        let running = self.start(&first, true, None, Until::Stopped).await?;
        let summary = self.stop_after(running, seconds, "source → gate → ring").await?;
        let stored: u64 = summary.run.stored.iter().sum();
        let into = rate("source → gate → ring", stored, summary.stored_bytes, summary.elapsed);
        // of one event, for the stages that count no bytes
        let each = summary.stored_bytes.checked_div(stored).unwrap_or(0);

        let running = self.start(&first, false, Some("drain"), Until::Delivered).await?;
        let summary = self.stop_after(running, seconds, "ring → sink").await?;
        let events = delivered(&summary);
        let from = rate("ring → sink", events, events * each, summary.elapsed);

        let running = self.start(&dir.join("second"), true, Some("through"), Until::Stopped).await?;
        let summary = self.stop_after(running, seconds, "end to end").await?;
        let events = delivered(&summary);
        Ok(vec![into, from, rate("end to end", events, events * each, summary.elapsed)])
    }

    async fn start(
        &self,
        dir: &Path,
        source: bool,
        sink: Option<&str>,
        until: Until,
    ) -> Result<Running, Failure> {
        let wrong = |e: &dyn std::error::Error| {
            Failure::new(Exit::Io, assemble::chain(e)).hint("check the disk of --dir")
        };
        let ring = SledRing::open(dir, RingOptions::default()).map_err(|e| wrong(&e))?;
        let rules = Rules::builder().and_then(|b| b.scrub(self.args.scrub).build());
        let rules = rules.map_err(|e| Failure::new(Exit::Software, assemble::chain(&e)))?;
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        if source {
            let config: SourceConfig = serde_json::from_value(json!({
                "type": "synthetic", "seed": self.args.seed, "size": { "mean": self.args.size, "spread": "fixed" },
            }))
            .map_err(|e| Failure::new(Exit::Software, format!("the synthetic source: {e}")))?;
            sources.push(config.build("bench", None).map_err(|e| wrong(&e))?);
        }
        let sinks = sink.map(|name| SinkPart {
            sink: Arc::new(MemorySink { id: SinkId::new(name) }),
            options: SinkOptions::default(),
        });
        let options =
            PipelineOptions { level: Some(TelemetryLevel::Full), until, ..PipelineOptions::default() };
        let parts = Parts {
            ring: Arc::new(ring) as Arc<dyn Ring>,
            rules: Arc::new(rules),
            sources,
            sinks: sinks.into_iter().collect(),
            options,
        };
        Pipeline::start(parts).await.map_err(|e| Failure::new(Exit::Software, assemble::chain(&e)))
    }

    /// Lets it run for a while, or to its own end if that is sooner.
    async fn stop_after(&self, running: Running, time: Duration, stage: &str) -> Result<Summary, Failure> {
        let watcher = tokio::spawn(show(running.handle(), self.bar.clone(), stage.to_owned(), time));
        let summary = running.wait().await;
        watcher.abort();
        summary.map_err(|e| Failure::new(Exit::Software, assemble::chain(&e)))
    }
}

async fn show(handle: Handle, bar: ProgressBar, stage: String, time: Duration) {
    let end = Instant::now() + time;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    while Instant::now() < end {
        tick.tick().await;
        let progress = handle.progress();
        let delivered: u64 = progress.sinks.values().map(|s| s.delivered).sum();
        let done = if progress.sinks.is_empty() { progress.stored } else { delivered };
        bar.set_message(format!("{stage}: {} events", out::count(done)));
        bar.inc(1);
    }
    // without a sink nothing but the intake is left to finish, and the ring is needed again
    let drain = if handle.progress().sinks.is_empty() { Duration::from_secs(10) } else { Duration::ZERO };
    handle.stop(drain);
}

fn rate(stage: &'static str, events: u64, bytes: u64, elapsed: Duration) -> Rate {
    Rate { stage, events, bytes, seconds: elapsed.as_secs_f64() }
}

fn delivered(summary: &Summary) -> u64 {
    summary.sinks.values().map(|s| s.delivered).sum()
}

/// Does what every sink does, and lets go of it.
#[derive(Debug)]
struct MemorySink {
    id: SinkId,
}

impl Sink for MemorySink {
    fn id(&self) -> &SinkId {
        &self.id
    }

    fn limits(&self) -> BatchLimits {
        BatchLimits {
            events: 4_096,
            bytes: 1 << 20,
            age: Duration::from_secs(1),
            in_flight: 2,
            timeout: Duration::from_secs(60),
        }
    }

    fn check(&self) -> BoxFuture<'_, Result<(), DeliverError>> {
        Box::pin(async { Ok(()) })
    }

    fn deliver<'a>(&'a self, batch: &'a SinkBatch) -> BoxFuture<'a, Result<Delivered, DeliverError>> {
        Box::pin(async move {
            let mut lines = Vec::new();
            for (seq, event) in batch.iter() {
                json::write_event(&mut lines, event, Some(seq));
                lines.push(b'\n');
            }
            Ok(Delivered { bytes: lines.len() as u64, ..Delivered::default() })
        })
    }
}
