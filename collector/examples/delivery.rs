//! What delivering costs: events a second, processor time and memory to blobs, for one, two and
//! four sinks; and the bytes of an event on the wire in every format.
//!
//! ```text
//! cargo run --release -p tidegate --example delivery -- --azurite http://127.0.0.1:10000
//! ```
//! Every row is a process of its own: this program starts itself. Without `--azurite` and
//! `--kafka` the rows that need them are left out. Processor time and memory are Linux's.
//!
//! The Kafka client does not tell how much it sends, so a proxy stands before the broker and counts the
//! produce requests. The broker must be on this machine and advertise the address that `--kafka` gives:
//! `tests/kafka/broker.sh` starts one.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};
use clap::Parser;
use rskafka::client::ClientBuilder;
use serde_json::{Value, json};
use tidegate::pipeline::{Pipeline, Until};
use tidegate::{assemble, config};
use tidegate_sinks::events::recorder::Recorder;

const TRACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/etl/traces/tx/HTTP_Server.etl");
/// Of no tenant.
const TENANT: &str = "0123456789abcdef0123456789abcdef-01234567-89ab-cdef-0123-456789abcdef-0123";

/// Where Kafka's rows go.
const TOPIC: &str = "events";

/// The settings of the sink with a number.
type MakeSink = Box<dyn Fn(usize) -> String>;

#[derive(Debug, Parser)]
#[command(name = "delivery")]
struct Args {
    /// Events of a row of the first table.
    #[arg(long, default_value_t = 2_000_000)]
    events: u64,
    /// The storage emulator.
    #[arg(long)]
    azurite: Option<String>,
    /// A broker without TLS on this machine, HOST:PORT as it advertises itself. The topic `events` is made
    /// where it is missing.
    #[arg(long)]
    kafka: Option<String>,
    /// Runs one configuration to its end; for itself.
    #[arg(long, hide = true)]
    one: Option<std::path::PathBuf>,
}

fn main() -> anyhow::Result<()> {
    tidegate_sources::arenas::few();
    let args = Args::parse();
    match &args.one {
        Some(config) => one(config),
        None => all(&args),
    }
}

/// Processor time in seconds and peak resident memory in bytes, as Linux tells them.
fn used() -> Option<(f64, u64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: f64 = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = peak.trim().strip_suffix("kB")?.trim().parse().ok()?;
    // a tick is a hundredth of a second on every Linux that Rust runs on
    Some((ticks / 100.0, kib << 10))
}

fn one(path: &Path) -> anyhow::Result<()> {
    let config = config::load(path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (before, begun) = (used(), Instant::now());
    let summary = runtime.block_on(async {
        let parts = assemble::open(assemble::check(config)?, Until::Delivered)?;
        let running = Pipeline::start(parts).await?;
        let handle = running.handle();
        tokio::select! {
            summary = running.wait() => anyhow::Ok(summary?),
            why = held(&handle) => anyhow::bail!("it would never end: {why}"),
        }
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(summary.complete(), "{summary}");
    let sinks = || summary.sinks.values();
    let (cpu, rss) = match (before, used()) {
        (Some((from, _)), Some((to, rss))) => (to - from, rss),
        _ => (f64::NAN, 0),
    };
    let result = json!({
        "read": summary.run.read, "seconds": seconds, "cpu": cpu, "rss": rss,
        "delivered": sinks().map(|s| s.delivered).sum::<u64>(), "bytes": sinks().map(|s| s.bytes).sum::<u64>(),
    });
    println!("{result}");
    Ok(())
}

/// Waits until a sink waits for someone to act; what is to be done.
async fn held(handle: &tidegate::pipeline::Handle) -> String {
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for (name, sink) in handle.progress().sinks {
            if let Some(advice) = sink.held {
                return format!("sink {name} holds: {advice}");
            }
        }
    }
}

/// Runs a configuration in a process of its own.
fn row(source: &str, sinks: &[String]) -> anyhow::Result<Value> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("tidegate.toml");
    let sinks: Vec<String> = (1..)
        .zip(sinks)
        .map(|(n, s)| format!("[sinks.s{n}]\n{}\n", s.replace("DIR", &dir.path().display().to_string())))
        .collect();
    let text = format!(
        "[host]\nname = \"bench\"\n[telemetry]\nlevel = \"Full\"\nscrub = false\npolicy_file = {:?}\n\
         [health]\nevents = false\n[ring]\npath = {:?}\nsize = \"1GiB\"\nfull = \"block\"\n[sources.s]\n{source}\n{}",
        dir.path().join("none.toml"),
        dir.path().join("ring"),
        sinks.concat(),
    );
    std::fs::write(&path, text)?;
    let ran = Command::new(std::env::current_exe()?).arg("--one").arg(&path).output()?;
    let said = String::from_utf8_lossy(&ran.stdout);
    serde_json::from_str(said.trim())
        .with_context(|| format!("{said}{}", String::from_utf8_lossy(&ran.stderr)))
}

/// A server that reads what it is sent and says at once that it has it.
fn at_once() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                // a client that goes away ends it
                let _ = answer(stream);
            });
        }
    });
    Ok(port)
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut held = Vec::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let end = loop {
            if let Some(at) = held.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                n => held.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            }
        };
        let head = String::from_utf8_lossy(held.get(..end).unwrap_or_default()).to_ascii_lowercase();
        let length = head.lines().find_map(|l| l.strip_prefix("content-length:"));
        let mut left = length.and_then(|l| l.trim().parse::<usize>().ok()).unwrap_or(0);
        let there = left.min(held.len() - end);
        held.drain(..end + there);
        left -= there;
        while left > 0 {
            let most = left.min(buffer.len());
            match stream.read(buffer.get_mut(..most).unwrap_or_default())? {
                0 => return Ok(()),
                n => left -= n,
            }
        }
        let status = if head.starts_with("put") { "201 Created" } else { "200 OK" };
        let kind = "Content-Type: application/x-protobuf\r\nETag: \"1\"\r\nx-ms-blob-type: BlockBlob";
        stream.write_all(format!("HTTP/1.1 {status}\r\n{kind}\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
    }
}

/// Makes the topic where it is missing.
fn make_topic(broker: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let made = runtime.block_on(async {
        let client = ClientBuilder::new(vec![broker.to_owned()]).build().await?;
        if client.list_topics().await?.iter().any(|t| t.name == TOPIC) {
            return anyhow::Ok(());
        }
        Ok(client.controller_client()?.create_topic(TOPIC, 1, 1, 10_000).await?)
    });
    made.with_context(|| {
        format!("cannot make the topic \"{TOPIC}\" at {broker}; make it there, or mend --kafka")
    })
}

/// A way to a broker that counts the bytes of produce requests, and has every connection go through itself.
fn counted(broker: &str) -> anyhow::Result<(u16, Arc<AtomicU64>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (port, sent) = (listener.local_addr()?.port(), Arc::new(AtomicU64::new(0)));
    let (host, real) = broker.rsplit_once(':').context("--kafka takes HOST:PORT")?;
    let address = |port: u16| [host.as_bytes(), &u32::from(port).to_be_bytes()].concat();
    let (theirs, ours) = (address(real.parse()?), address(port));
    let (broker, counter) = (broker.to_owned(), Arc::clone(&sent));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&broker) else { continue };
            let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else {
                continue;
            };
            let (theirs, ours, sent) = (theirs.clone(), ours.clone(), Arc::clone(&counter));
            // either side going away ends it
            std::thread::spawn(move || {
                frames(from_client, server, |frame| {
                    if frame.get(4..6) == Some(&[0, 0]) {
                        sent.fetch_add(frame.len() as u64, Ordering::Relaxed);
                    }
                })
            });
            std::thread::spawn(move || {
                frames(from_server, client, |frame| {
                    let mut at = 0;
                    while let Some(found) =
                        frame.get(at..).and_then(|f| f.windows(theirs.len()).position(|w| w == theirs))
                    {
                        at += found + ours.len();
                        if let Some(place) = frame.get_mut(at - ours.len()..at) {
                            place.copy_from_slice(&ours);
                        }
                    }
                })
            });
        }
    });
    Ok((port, sent))
}

/// Passes on what comes, frame by frame: four bytes of length, then so many.
fn frames(mut from: TcpStream, mut to: TcpStream, mut each: impl FnMut(&mut [u8])) -> std::io::Result<()> {
    loop {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let mut frame = length.to_vec();
        (&mut from).take(u64::from(u32::from_be_bytes(length))).read_to_end(&mut frame)?;
        each(&mut frame);
        to.write_all(&frame)?;
    }
}

fn number(value: &Value, key: &str) -> f64 {
    value.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn all(args: &Args) -> anyhow::Result<()> {
    let port = at_once()?;
    if cfg!(debug_assertions) {
        println!("A debug build: rates are left out; measure them with --release.");
    } else {
        rates(args, port)?;
    }
    wire(args, port)
}

fn synthetic(events: u64) -> String {
    format!("type = \"synthetic\"\nevents = {events}\nsize = {{ mean = 256, spread = \"fixed\" }}")
}

/// Events a second, processor time and memory, to blobs.
fn rates(args: &Args, port: u16) -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
    let common = "type = \"blob\"\nlayout = \"\"\nformat = \"jsonl\"\ncompression = \"zstd\"";
    let near = move |n: usize| {
        format!(
            "{common}\ncontainer = \"bench-{n}\"\naccount = \"a\"\nkey = \"value:a2V5\"\nendpoint = \"http://127.0.0.1:{port}/a\"\npath_style = true"
        )
    };
    println!("| blobs, JSON Lines, zstd | sinks | events/s | CPU s per million delivered | peak memory |");
    println!("|---|---:|---:|---:|---:|");
    let mut far: Vec<(&str, MakeSink)> = vec![("a server that answers at once", Box::new(near))];
    if let Some(url) = args.azurite.clone() {
        let url = url.trim_end_matches('/').to_owned();
        far.push((
            "Azurite",
            Box::new(move |n| {
                format!("{common}\ncontainer = \"b{now:x}-{n}\"\ncreate_container = true\nconnection_string = \"UseDevelopmentStorage=true\"\nendpoint = \"{url}/devstoreaccount1\"")
            }),
        ));
    }
    for (name, sink) in &far {
        for count in [1, 2, 4] {
            let sinks: Vec<String> = (0..count).map(|n| sink(count * 10 + n)).collect();
            let r = row(&synthetic(args.events), &sinks)?;
            println!(
                "| {name} | {count} | {:.0} | {:.2} | {:.0} MiB |",
                number(&r, "read") / number(&r, "seconds"),
                number(&r, "cpu") / number(&r, "delivered") * 1e6,
                number(&r, "rss") / f64::from(1 << 20),
            );
        }
    }
    Ok(())
}

/// Bytes an event, by format.
fn wire(args: &Args, port: u16) -> anyhow::Result<()> {
    println!("\n| bytes an event on the wire | a real trace | synthetic, 256 B |");
    println!("|---|---:|---:|");
    let mut wire: Vec<(String, String)> = Vec::new();
    for format in ["jsonl", "capture", "parquet"] {
        for compression in ["none", "gzip", "zstd"] {
            wire.push((
                format!("{format}, {compression}"),
                format!("type = \"directory\"\npath = \"DIR/out\"\nformat = \"{format}\"\ncompression = \"{compression}\""),
            ));
        }
    }
    let recorder = Recorder::start(&[TENANT])?;
    recorder.set_delta(None);
    for compression in ["none", "gzip", "deflate"] {
        wire.push((
            format!("events endpoint, {compression}"),
            format!("type = \"events\"\nurl = \"{}\"\ntenant = \"value:{TENANT}\"\ncompression = \"{compression}\"", recorder.url()),
        ));
    }
    for compression in ["none", "gzip"] {
        wire.push((
            format!("OTLP over HTTP, {compression}"),
            format!(
                "type = \"otlp\"\nurl = \"http://127.0.0.1:{port}/v1/logs\"\ncompression = \"{compression}\""
            ),
        ));
    }
    let mut counter = None;
    if let Some(broker) = &args.kafka {
        make_topic(broker)?;
        let (port, sent) = counted(broker)?;
        counter = Some(sent);
        for (value, compression) in
            [("json", "none"), ("json", "gzip"), ("json", "zstd"), ("protobuf", "zstd")]
        {
            wire.push((
                format!("Kafka, {value}, {compression}"),
                format!("type = \"kafka\"\nbrokers = [\"127.0.0.1:{port}\"]\ntopic = \"{TOPIC}\"\nvalue = \"{value}\"\ncompression = \"{compression}\""),
            ));
        }
    }
    let trace = format!("type = \"etl\"\npaths = [{TRACE:?}]");
    for (name, sink) in wire {
        let mut cells = Vec::new();
        for source in [&trace, &synthetic(50_000)] {
            let before = counter.as_ref().map(|c| c.load(Ordering::Relaxed));
            let r = row(source, std::slice::from_ref(&sink))?;
            let bytes = match counter.as_ref().zip(before).filter(|_| name.starts_with("Kafka")) {
                #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
                Some((counter, before)) => (counter.load(Ordering::Relaxed) - before) as f64,
                None => number(&r, "bytes"),
            };
            cells.push(format!("{:.0}", bytes / number(&r, "delivered")));
        }
        println!("| {name} | {} |", cells.join(" | "));
    }
    Ok(())
}
