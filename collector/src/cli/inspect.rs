//! `inspect`: what a trace holds.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use serde_json::{Value, json};
use tidegate_etl::{EtlFile, TraceHeader};
use tidegate_proto::{guid, time};

use super::exit::{Done, Failure};
use super::out::{Table, bytes, count, percent, plain, span};
use super::plot::Steps;
use super::tally::{self, Count, Kind, Provider, Tally};
use super::trace::{Damage, LineWriter, Lines};
use super::{filter, out, trace};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reads files of any size in bounded memory. The exit code is 65 when the file is cut or damaged; what \
could be read is shown all the same. Events that the session itself lost are told, and are no error.")]
#[command(group = clap::ArgGroup::new("view"))]
pub(super) struct Args {
    /// The trace.
    file: PathBuf,
    /// Print the session's facts and the counts by provider and event (the default).
    #[arg(long, group = "view")]
    summary: bool,
    /// Print the events, decoded, in time order.
    #[arg(long, group = "view")]
    events: bool,
    /// Print one line per provider: events, part decoded, first and last time.
    #[arg(long, group = "view")]
    providers: bool,
    /// Draw the rate of events over time.
    #[arg(long, group = "view")]
    stats: bool,
    /// Form of --events.
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Lines,
    /// Print the summary, the providers or the stats as one JSON object.
    #[arg(long, conflicts_with = "events")]
    json: bool,
    /// Rows of a table; 0 = all.
    #[arg(long, value_name = "N", default_value_t = 25)]
    top: usize,
    #[command(flatten)]
    decoding: trace::Decoding,
    #[command(flatten)]
    filter: filter::Options,
}

pub(super) fn run(args: &Args) -> Done {
    let file = trace::open(&args.file)?;
    let view = if args.events {
        events
    } else if args.providers {
        providers
    } else if args.stats {
        stats
    } else {
        summary
    };
    let damage = view(args, &file)?;
    Ok(damage.tell(&args.file))
}

type View = Result<Damage, Failure>;

fn events(args: &Args, file: &EtlFile<File>) -> View {
    let filter = args.filter.filter(trace::start_ns(file))?;
    let mut writer = LineWriter::new(out::stdout(), args.format).map_err(|e| Failure::output(&e))?;
    let damage = trace::each_event(&args.file, &args.decoding, file, &filter, |event| {
        writer.write(event).map_err(|e| Failure::output(&e))
    })?;
    writer.finish().map_err(|e| Failure::output(&e))?;
    Ok(damage)
}

/// Everything that is counted of the wanted events.
struct Counted {
    kinds: Vec<(Kind, Count)>,
    beyond: Count,
    providers: Vec<(Provider, Count)>,
    total: Count,
    tally: Tally,
    damage: Damage,
}

fn counted(args: &Args, file: &EtlFile<File>) -> Result<Counted, Failure> {
    let filter = args.filter.filter(trace::start_ns(file))?;
    let mut tally = Tally::default();
    let damage = trace::each_event(&args.file, &args.decoding, file, &filter, |event| {
        tally.add(event);
        Ok(())
    })?;
    let (kinds, beyond) = tally.kinds();
    let providers = tally::providers(&kinds);
    let mut total = tally::total(&providers);
    total.add(&beyond);
    Ok(Counted { kinds, beyond, providers, total, tally, damage })
}

fn print(value: &Value) -> Result<(), Failure> {
    let mut out = out::stdout();
    let written = serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from);
    written.and_then(|()| writeln!(out)).and_then(|()| out.flush()).map_err(|e| Failure::output(&e))
}

fn time_or_null(ns: i64, known: bool) -> Value {
    if known { json!(time::format_rfc3339(ns)) } else { Value::Null }
}

fn count_json(count: &Count) -> Value {
    let known = count.events > 0;
    json!({
        "events": count.events,
        "decoded": count.decoded(),
        "decoder": if count.decoded() > 0 { json!(count.decoder.as_str()) } else { Value::Null },
        "first": time_or_null(count.first_ns, known),
        "last": time_or_null(count.last_ns, known),
    })
}

/// The members of `a`, then those of `b`.
fn joined(mut a: Value, b: Value) -> Value {
    if let (Some(a), Value::Object(b)) = (a.as_object_mut(), b) {
        a.extend(b);
    }
    a
}

fn provider_json(p: &Provider) -> Value {
    json!({ "provider": p.name, "guid": guid::format(&p.guid) })
}

fn summary(args: &Args, file: &EtlFile<File>) -> View {
    let counted = counted(args, file)?;
    if args.json {
        print(&summary_json(args, file, &counted))?;
    } else {
        let mut out = out::stdout();
        let written = summary_text(args, file, &counted, &mut out).and_then(|()| out.flush());
        written.map_err(|e| Failure::output(&e))?;
    }
    Ok(counted.damage)
}

fn clock_name(header: &TraceHeader) -> String {
    match header.clock.kind {
        2 => "system time, 100 ns".to_owned(),
        3 => format!("CPU cycles at {} MHz", header.cpu_mhz),
        0 | 1 => format!("performance counter at {} Hz", count(header.perf_freq)),
        other => format!("kind {other}"),
    }
}

fn filetime(filetime: u64) -> String {
    time::format_rfc3339(time::filetime_to_unix_ns(filetime))
}

fn mode(header: &TraceHeader) -> Vec<&'static str> {
    let flag = |bit: u32, name| (header.mode & bit != 0).then_some(name);
    let flags = [
        flag(TraceHeader::MODE_COMPRESSED, "compressed"),
        flag(TraceHeader::MODE_CIRCULAR, "circular"),
        (!header.closed()).then_some("never closed"),
    ];
    flags.into_iter().flatten().collect()
}

fn summary_json(args: &Args, file: &EtlFile<File>, c: &Counted) -> Value {
    let h = file.header();
    let kind = |(k, n): &(Kind, Count)| {
        let id = json!({ "event": k.name, "id": k.id, "version": k.version, "opcode": k.opcode });
        joined(joined(provider_json(&k.provider), id), count_json(n))
    };
    let gap = |(reason, g): (&String, &tally::Gaps)| json!({ "reason": reason, "gaps": g.gaps, "events": g.events });
    json!({
        "file": args.file.display().to_string(),
        "bytes": file.size(),
        "session": {
            "name": h.session_name,
            "file": h.file_name,
            "os": format!("{}.{}.{}", h.os.0, h.os.1, h.os_build),
            "processors": h.processors,
            "pointerSize": h.pointer_size,
            "started": filetime(h.start_time),
            "ended": if h.closed() { json!(filetime(h.end_time)) } else { Value::Null },
            "booted": if h.boot_time != 0 { json!(filetime(h.boot_time)) } else { Value::Null },
            "utcBiasMinutes": h.utc_bias_minutes,
            "clock": clock_name(h),
            "mode": format!("0x{:x}", h.mode),
            "modeNames": mode(h),
            "bufferSize": h.buffer_size,
            "buffers": file.buffers(),
            "buffersWritten": h.buffers_written,
            "eventsLost": h.events_lost,
            "buffersLost": h.buffers_lost,
        },
        "total": count_json(&c.total),
        "gaps": c.tally.gaps.iter().map(gap).collect::<Vec<_>>(),
        "damagedParts": c.damage.count,
        "damage": c.damage.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "providers": c.providers.iter().map(|(p, n)| joined(provider_json(p), count_json(n))).collect::<Vec<_>>(),
        "events": c.kinds.iter().map(kind).collect::<Vec<_>>(),
        "eventsBeyond": c.beyond.events,
    })
}

fn summary_text(args: &Args, file: &EtlFile<File>, c: &Counted, out: &mut impl Write) -> io::Result<()> {
    let h = file.header();
    let fact = |out: &mut dyn Write, name: &str, text: &str| writeln!(out, "  {name:<10} {text}");
    writeln!(out, "{}  {}", args.file.display(), bytes(file.size()))?;
    fact(out, "session", &plain(&h.session_name))?;
    let bits = u32::from(h.pointer_size) * 8;
    let os = format!(
        "Windows {}.{} build {}, {} processors, {bits}-bit",
        h.os.0, h.os.1, h.os_build, h.processors
    );
    fact(out, "machine", &os)?;
    let end = if h.closed() { filetime(h.end_time) } else { "never closed".to_owned() };
    fact(out, "session of", &format!("{} to {end}", filetime(h.start_time)))?;
    fact(out, "clock", &clock_name(h))?;
    let mode = mode(h).into_iter().map(|m| format!(", {m}")).collect::<String>();
    fact(
        out,
        "buffers",
        &format!("{} of {}{mode}", count(file.buffers() as u64), bytes(h.buffer_size.into())),
    )?;
    if c.total.events > 0 {
        let length = u64::try_from(c.total.last_ns.saturating_sub(c.total.first_ns)).unwrap_or(0);
        let (first, last) = (time::format_rfc3339(c.total.first_ns), time::format_rfc3339(c.total.last_ns));
        fact(out, "events of", &format!("{first} to {last} ({})", span(length)))?;
    }
    let chosen = if args.filter.given() { ", chosen by the filter" } else { "" };
    fact(out, "events", &format!("{}{chosen}", count(c.total.events)))?;
    let decoded = percent(c.total.decoded(), c.total.events);
    fact(out, "decoded", &format!("{decoded}, {} stay raw", count(c.total.raw)))?;
    let lost = format!(
        "{} events, {} buffers, says the session",
        count(h.events_lost.into()),
        count(h.buffers_lost.into())
    );
    fact(out, "lost", &lost)?;
    if c.damage.count > 0 {
        fact(out, "damaged", &format!("{} parts of the file", count(c.damage.count)))?;
    }
    for (reason, gaps) in &c.tally.gaps {
        let events = if gaps.events > 0 { format!(", {} events", count(gaps.events)) } else { String::new() };
        fact(out, "gap", &format!("{} {}{events}", count(gaps.gaps), plain(reason)))?;
    }
    writeln!(out)?;
    provider_table(args, &c.providers, out)?;
    writeln!(out)?;
    let mut table = Table::new(&["provider", "event", ">id", ">ver", ">op", ">events", "decoded by"]);
    let shown = if args.top == 0 { usize::MAX } else { args.top };
    for (kind, n) in c.kinds.iter().take(shown) {
        table.row([
            kind.provider.label(),
            plain(&kind.name),
            kind.id.to_string(),
            kind.version.to_string(),
            kind.opcode.to_string(),
            count(n.events),
            decoded_by(n),
        ]);
    }
    table.write(out)?;
    let hidden = c.kinds.len().saturating_sub(shown);
    if hidden > 0 {
        writeln!(out, "  ... {} more kinds of event (--top 0 shows all)", count(hidden as u64))?;
    }
    Ok(())
}

fn decoded_by(n: &Count) -> String {
    let part = if n.raw > 0 && n.raw < n.events {
        format!(" ({})", percent(n.decoded(), n.events))
    } else {
        String::new()
    };
    format!("{}{part}", n.decoder.as_str())
}

fn provider_table(args: &Args, providers: &[(Provider, Count)], out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(&["provider", "guid", ">events", ">decoded", "first"]);
    let shown = if args.top == 0 { usize::MAX } else { args.top };
    for (provider, n) in providers.iter().take(shown) {
        let name = if provider.name.is_empty() { "-".to_owned() } else { provider.label() };
        let decoded = percent(n.decoded(), n.events);
        table.row([
            name,
            guid::format(&provider.guid),
            count(n.events),
            decoded,
            time::format_rfc3339(n.first_ns),
        ]);
    }
    table.write(out)?;
    let hidden = providers.len().saturating_sub(shown);
    if hidden > 0 {
        writeln!(out, "  ... {} more providers (--top 0 shows all)", count(hidden as u64))?;
    }
    Ok(())
}

fn providers(args: &Args, file: &EtlFile<File>) -> View {
    let counted = counted(args, file)?;
    if args.json {
        let list = counted.providers.iter().map(|(p, n)| joined(provider_json(p), count_json(n)));
        print(&json!({ "providers": list.collect::<Vec<_>>() }))?;
    } else {
        let mut out = out::stdout();
        let written = provider_table(args, &counted.providers, &mut out).and_then(|()| out.flush());
        written.map_err(|e| Failure::output(&e))?;
    }
    Ok(counted.damage)
}

/// Columns of the picture, and steps of its JSON form.
const STEPS: usize = 72;
const ROWS: usize = 6;

fn stats(args: &Args, file: &EtlFile<File>) -> View {
    let filter = args.filter.filter(trace::start_ns(file))?;
    let whole = file.summary().map_err(|e| trace::failure(&args.file, &e))?.span_ns.unwrap_or((0, 0));
    let mut steps = Steps::new(filter.window(whole), STEPS);
    let mut events = 0;
    let damage = trace::each_event(&args.file, &args.decoding, file, &filter, |event| {
        events += 1;
        steps.add(event.head().time_ns);
        Ok(())
    })?;
    if args.json {
        let list = steps.counts().map(|(ns, n)| json!({ "time": time::format_rfc3339(ns), "events": n }));
        print(&json!({ "events": events, "stepNs": steps.step_ns(), "steps": list.collect::<Vec<_>>() }))?;
    } else {
        let mut out = out::stdout();
        let written = stats_text(args, &steps, events, &mut out).and_then(|()| out.flush());
        written.map_err(|e| Failure::output(&e))?;
    }
    Ok(damage)
}

fn stats_text(args: &Args, steps: &Steps, events: u64, out: &mut impl Write) -> io::Result<()> {
    let step = span(steps.step_ns().unsigned_abs());
    writeln!(out, "{}  {} events, a column is {step}", args.file.display(), count(events))?;
    writeln!(out)?;
    let peak = format!("{:.0}/s", steps.peak_rate());
    for (n, row) in steps.draw(ROWS).into_iter().enumerate() {
        writeln!(out, "{:>10} │{row}", if n == 0 { peak.as_str() } else { "" })?;
    }
    writeln!(out, "{:>10} └{}", "0", "─".repeat(STEPS))?;
    let (first, last) = steps.span_ns();
    writeln!(out, "{:>11} {} to {}", "", time::format_rfc3339(first), time::format_rfc3339(last))
}
