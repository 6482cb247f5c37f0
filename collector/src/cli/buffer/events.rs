//! `buffer inspect`: blocks and events.

use std::io::Write as _;

use serde_json::json;
use tidegate_proto::batch::Batch;
use tidegate_proto::ids::Seq;
use tidegate_proto::json::write_event;
use tidegate_proto::level::{Class, TelemetryLevel};
use tidegate_proto::wire::{BlockReader, SchemaInterner};
use tidegate_ring::{ReadLimit, Ring, StoredBlock};

use super::super::exit::{Done, Exit, Failure};
use super::super::state::{self, Of};
use super::super::{filter, out};
use super::{look, time};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Blocks are told as a table, with --json as one object a line; events as JSON Lines with their places. Only blocks \
that hold a wanted event are listed. With +DURATION times count from the oldest event's block.")]
pub(super) struct Args {
    /// Print the events.
    #[arg(long)]
    events: bool,
    /// Behind this place. [default: the oldest]
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// Blocks or events at most; 0 = all.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: u64,
    /// Only of this telemetry level. May be repeated.
    #[arg(long, value_name = "LEVEL")]
    level: Vec<TelemetryLevel>,
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    filter: filter::Options,
}

pub(super) fn run(args: &Args) -> Done {
    let config = args.of.config()?;
    let ring = look(&config)?;
    let status = ring.status();
    let filter = args.filter.filter(status.oldest_stored_ns.unwrap_or(0))?;
    let mut after = Seq(args.after.unwrap_or(0)).max(status.trimmed);
    let mut left = if args.limit == 0 { u64::MAX } else { args.limit };
    let (mut batch, mut known, mut line) = (Batch::new(), SchemaInterner::new(), Vec::new());
    let mut out = out::stdout();
    let failed = |e: std::io::Error| Failure::output(&e);
    if !args.events && !args.of.json {
        writeln!(out, "{HEADING}").map_err(failed)?;
    }
    'read: loop {
        let read = ring.read(after, ReadLimit { bytes: 1 << 20, events: u64::MAX });
        let read = read.map_err(|e| state::ring_failed(&e))?;
        if read.end <= after {
            break;
        }
        after = read.end;
        for block in &read.blocks {
            batch.clear();
            let decoded = BlockReader::new(&block.data, &mut known).and_then(|r| r.read_into(&mut batch));
            decoded.map_err(|e| {
                Failure::new(Exit::Data, format!("block {} cannot be read: {e}", block.range))
                    .hint("it was written by a newer version")
            })?;
            let places = places(block);
            let wanted = places.iter().zip(batch.iter()).filter(|(seq, event)| {
                let level = event.head().telemetry_level.unwrap_or(TelemetryLevel::Full);
                args.after.is_none_or(|a| seq.0 > a)
                    && (args.level.is_empty() || args.level.contains(&level))
                    && filter.event(*event)
            });
            if args.events {
                for (seq, event) in wanted {
                    if left == 0 {
                        break 'read;
                    }
                    left -= 1;
                    line.clear();
                    write_event(&mut line, event, Some(*seq));
                    line.push(b'\n');
                    out.write_all(&line).map_err(failed)?;
                }
                continue;
            }
            let matching = wanted.count();
            if matching == 0 {
                continue;
            }
            if left == 0 {
                break 'read;
            }
            left -= 1;
            row(args, block, &batch, matching, &mut out).map_err(failed)?;
        }
    }
    out.flush().map_err(failed)?;
    if left == 0 {
        eprintln!("there may be more: --limit 0 prints all, --after SEQ goes on behind a place");
    }
    Ok(Exit::Ok)
}

const HEADING: &str = "\
     first       last  class      events  matching     bytes  stored                          first event";

/// The place of each event.
pub(super) fn places(block: &StoredBlock) -> Vec<Seq> {
    let all = || (block.range.first().0..=block.range.last().0).map(Seq).collect();
    block.seqs.clone().unwrap_or_else(all)
}

fn row(
    args: &Args,
    block: &StoredBlock,
    batch: &Batch,
    matching: usize,
    out: &mut dyn std::io::Write,
) -> std::io::Result<()> {
    let times = || batch.iter().map(|e| e.head().time_ns);
    let (from, to) = (times().min().unwrap_or(0), times().max().unwrap_or(0));
    let class = if block.class == Class::Critical { "critical" } else { "normal" };
    let (first, last, len) = (block.range.first().0, block.range.last().0, block.data.len());
    if args.of.json {
        let value = json!({
            "first": first, "last": last, "class": class, "events": batch.len(), "matching": matching,
            "bytes": len, "stored": time(block.stored_ns), "from": time(from), "to": time(to),
        });
        return writeln!(out, "{value}");
    }
    writeln!(
        out,
        "{first:>10} {last:>10}  {class:<8} {:>8}  {matching:>8} {len:>9}  {:<30}  {}",
        batch.len(),
        time(block.stored_ns),
        time(from)
    )
}
