//! The ring on disk against a plain segment file with a CRC and `fdatasync`, the physical limit
//! here. Prints tables; `cargo bench --bench ring -- quick` takes seconds, without an argument
//! about two minutes. `-- endurance [MIB] [TIMES]` only writes 50 (TIMES) times the size of a ring
//! of 64 MiB (MIB) through it, `-- open [MIB]` only opens one of 1 GiB (MIB).
//!
//! Not criterion: one measurement is gigabytes long, and what is wanted besides time (bytes
//! written, memory, time to open) it does not take.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use tidegate_benches::events;
use tidegate_proto::ids::{Seq, SinkId};
use tidegate_proto::level::{Class, TelemetryLevel};
use tidegate_proto::wire::{BlockBuilder, Unchanged};
use tidegate_ring::{
    Compression, Group, Intake, MemoryRing, NewBlock, ReadLimit, Ring, RingOptions, Settlement, SledRing,
    StartAt,
};

const MIB: u64 = 1 << 20;

/// Blocks of about `bytes`, as the collector makes them.
fn blocks(bytes: usize) -> Vec<NewBlock> {
    some_blocks(bytes, if bytes < 4096 { 4096 } else { (24 << 20) / bytes })
}

fn some_blocks(bytes: usize, count: usize) -> Vec<NewBlock> {
    let batch = events(16 * 1024, 7);
    let mut all = batch.iter().cycle();
    let mut out = Vec::new();
    for _ in 0..count {
        let mut builder = BlockBuilder::new();
        let (mut first, mut last) = (0, 0);
        for event in all.by_ref() {
            let time = event.head().time_ns;
            first = if builder.is_empty() { time } else { first };
            last = time;
            builder.push(event, TelemetryLevel::Enhanced, &Unchanged);
            if builder.len() >= bytes {
                break;
            }
        }
        let n = u64::from(builder.events());
        let data = builder.finish().into();
        out.push(NewBlock {
            class: Class::Normal,
            lane: 0,
            data,
            levels: [0, 0, n, 0],
            time_ns: (first, last),
        });
    }
    out
}

fn count(block: &NewBlock) -> u64 {
    block.levels.iter().sum()
}

/// A field of a file in /proc/self, in its own unit; 0 where there is none.
fn proc(file: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(field));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Seconds of processor time that this process has taken, in steps of 10 ms.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().map(|rest| rest.split_whitespace().skip(11).take(2));
    ticks.into_iter().flatten().filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / 100.0
}

struct Measured {
    cpu: f64,
    events: f64,
    bytes: f64,
    seconds: f64,
    /// Bytes that the kernel was given for the disk, per byte of payload as stored.
    amplification: f64,
    stored: f64,
}

fn drive(ring: &dyn Ring, blocks: &[NewBlock], total: u64, a_group: usize) -> Measured {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (written, cpu_before) = (proc("io", "write_bytes:"), cpu());
    let begin = Instant::now();
    let (mut events, mut bytes) = (0, 0);
    let mut tickets = Vec::new();
    let mut all = blocks.iter().cycle();
    runtime.block_on(async {
        while bytes < total {
            let group: Vec<NewBlock> = all.by_ref().take(a_group).cloned().collect();
            let read = group.iter().map(count).sum();
            events += read;
            bytes += group.iter().map(|b| b.data.len() as u64).sum::<u64>();
            let intake = Intake { read, ..Intake::default() };
            tickets.push(ring.append(Group { blocks: group, intake }).await.expect("room"));
        }
        for ticket in tickets {
            ticket.await.expect("stored");
        }
    });
    let seconds = begin.elapsed().as_secs_f64();
    let stored = ring.status().disk_bytes;
    Measured {
        cpu: cpu() - cpu_before,
        events: events as f64,
        bytes: bytes as f64,
        seconds,
        amplification: (proc("io", "write_bytes:") - written) as f64 / stored as f64,
        stored: stored as f64,
    }
}

/// A plain segment file: 8 MiB a file, CRC32C of each block, `fdatasync` each 4 MiB.
fn plain(folder: &Path, blocks: &[NewBlock], total: u64) -> Measured {
    let (written, cpu_before) = (proc("io", "write_bytes:"), cpu());
    let begin = Instant::now();
    let (mut events, mut bytes, mut unsynced, mut files) = (0, 0u64, 0, 0);
    let mut in_file = u64::MAX;
    let mut file = File::create(folder.join("first")).expect("a file");
    let mut buffer = Vec::new();
    for block in blocks.iter().cycle() {
        if bytes >= total {
            break;
        }
        if in_file >= 8 * MIB {
            file.sync_data().expect("synced");
            files += 1;
            file = File::create(folder.join(format!("{files}.seg"))).expect("a file");
            (in_file, unsynced) = (0, 0);
        }
        buffer.clear();
        buffer.extend_from_slice(&(block.data.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&crc32c::crc32c(&block.data).to_le_bytes());
        buffer.extend_from_slice(&block.data);
        file.write_all(&buffer).expect("written");
        let len = buffer.len() as u64;
        (bytes, in_file, unsynced) = (bytes + len, in_file + len, unsynced + len);
        events += count(block);
        if unsynced >= 4 * MIB {
            file.sync_data().expect("synced");
            unsynced = 0;
        }
    }
    file.sync_data().expect("synced");
    let seconds = begin.elapsed().as_secs_f64();
    let amplification = (proc("io", "write_bytes:") - written) as f64 / bytes as f64;
    let cpu = cpu() - cpu_before;
    Measured { cpu, events: events as f64, bytes: bytes as f64, seconds, amplification, stored: bytes as f64 }
}

fn row(name: &str, block: &str, m: &Measured) {
    println!(
        "| {name} | {block} | {:.2} M | {:.0} | {:.0} | {:.3} | {:.0} |",
        m.events / m.seconds / 1e6,
        m.cpu * 1e9 / m.events,
        m.bytes / m.seconds / MIB as f64,
        m.amplification,
        m.stored / m.events,
    );
}

fn options(compression: Compression) -> RingOptions {
    RingOptions { bound_bytes: 4 << 30, compression, ..RingOptions::default() }
}

fn append_table(total: u64) {
    println!(
        "\n| store | block | events/s | CPU ns/event | MiB/s of payload | written/stored | bytes/event stored |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (name, size, a_group) in [("256 B", 256, 256), ("64 KiB", 64 << 10, 1), ("256 KiB", 256 << 10, 1)] {
        let blocks = blocks(size);
        let total = if size < 4096 { total / 16 } else { total };
        let folder = tempfile::tempdir().expect("folder");
        row("plain file", name, &plain(folder.path(), &blocks, total));
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd(1)] {
            let folder = tempfile::tempdir().expect("folder");
            let ring = SledRing::open(folder.path(), options(compression)).expect("opened");
            let m = drive(&ring, &blocks, total, a_group);
            row(&format!("ring, {compression:?}"), name, &m);
        }
        let memory = MemoryRing::new(options(Compression::None));
        row("memory ring", name, &drive(&memory, &blocks, total.min(1 << 30), a_group));
    }
}

fn open_table(bytes: u64) {
    let folder = tempfile::tempdir().expect("folder");
    let blocks = blocks(64 << 10);
    let options = || RingOptions { bound_bytes: bytes * 5 / 4, ..options(Compression::None) };
    let ring = SledRing::open(folder.path(), options()).expect("opened");
    drive(&ring, &blocks, bytes, 1);
    drop(ring);
    println!("\n| opening {} MiB | seconds |", bytes / MIB);
    println!("|---|---|");
    let time = |what: &str| {
        let before = proc("status", "VmRSS:");
        let begin = Instant::now();
        let ring = SledRing::open(folder.path(), options()).expect("opened");
        let seconds = begin.elapsed().as_secs_f64();
        let grown = proc("status", "VmRSS:").saturating_sub(before) / 1024;
        println!("| {what} (+{grown} MiB resident) | {seconds:.3} |");
        drop(ring);
    };
    time("as it was closed");
    std::fs::remove_dir_all(folder.path().join("book")).expect("removed");
    for name in ["a.journal", "b.journal"] {
        std::fs::remove_file(folder.path().join("segments").join(name)).ok();
    }
    time("without book and journal");
}

/// Writes `times` the bound through a ring with a sink that keeps up with half of it. What waits for
/// the disk, and what the sink reads, are bytes of their own, as in the collector: the memory shown is
/// the most that the process ever took, with nothing left out.
fn endurance(bound: u64, times: u64) {
    let folder = tempfile::tempdir().expect("folder");
    let options = RingOptions { bound_bytes: bound, ..options(Compression::None) };
    let ring = SledRing::open(folder.path(), options).expect("opened");
    let sink = SinkId::new("bench");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    let blocks = some_blocks(64 << 10, 16);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (mut most_disk, mut last) = (0, 0);
    let mut after = Seq::ZERO;
    for _ in 0..times * 8 {
        let mut written = 0;
        runtime.block_on(async {
            let mut all = blocks.iter().cycle();
            let mut newest = None;
            while written < bound / 8 {
                let Some(block) = all.next() else { break };
                let data = bytes::Bytes::copy_from_slice(&block.data);
                let block = NewBlock { data, ..block.clone() };
                written += block.data.len() as u64;
                let intake = Intake { read: count(&block), ..Intake::default() };
                newest = Some(ring.append(Group { blocks: vec![block], intake }).await.expect("room"));
            }
            if let Some(ticket) = newest {
                ticket.await.expect("stored");
            }
        });
        let mut read_back = 0;
        while read_back < bound / 16 {
            let Ok(read) = ring.read(after, ReadLimit { bytes: MIB, events: u64::MAX }) else { break };
            let Some(run) = tidegate_proto::ids::SeqRange::new(after.next(), read.end) else { break };
            ring.plan(&sink, run.into()).expect("planned");
            let n = read.blocks.iter().map(|b| b.range.len()).sum();
            let outcome = Settlement { delivered: [0, 0, n, 0], ..Settlement::default() };
            ring.settle(&sink, run.into(), &outcome).expect("settled");
            after = read.end;
            read_back += read.blocks.iter().map(|b| b.data.len() as u64).sum::<u64>();
        }
        most_disk = most_disk.max(disk(folder.path()));
        last = proc("status", "VmRSS:") / 1024;
    }
    ring.account().check().expect("the account closes");
    println!(
        "\n{times} x {} MiB through the ring: at most {:.1} % of its bound on disk; {} MiB resident at most, {last} \
         at the end",
        bound / MIB,
        most_disk as f64 * 100.0 / bound as f64,
        proc("status", "VmHWM:") / 1024,
    );
}

fn disk(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let size = |e: std::fs::DirEntry| match e.metadata() {
        Ok(m) if m.is_dir() => disk(&e.path()),
        Ok(m) => m.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

fn settle_latency() {
    let folder = tempfile::tempdir().expect("folder");
    let ring = SledRing::open(folder.path(), options(Compression::None)).expect("opened");
    let sink = SinkId::new("bench");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    drive(&ring, &blocks(64 << 10), 8 * MIB, 1);
    let mut times: Vec<Duration> = Vec::new();
    for n in 1..=500 {
        let run = tidegate_proto::ids::SeqRange::new(Seq(n), Seq(n)).expect("a run");
        ring.plan(&sink, run.into()).expect("planned");
        let begin = Instant::now();
        let receipt = vec![b'x'; 200];
        let outcome = Settlement { delivered: [0, 0, 1, 0], receipt, ..Settlement::default() };
        ring.settle(&sink, run.into(), &outcome).expect("settled");
        times.push(begin.elapsed());
    }
    times.sort();
    println!(
        "\nsettling a run durably, with a receipt: median {:?}, 99 % under {:?}",
        times[250], times[494]
    );
}

fn main() {
    tidegate_sources::arenas::few();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let number = |n: usize, default| arguments.get(n).and_then(|a| a.parse().ok()).unwrap_or(default);
    let quick = match arguments.first().map(String::as_str) {
        // alone, so that the memory that they show is their own
        Some("endurance") => return endurance(number(1, 64) * MIB, number(2, 50)),
        Some("open") => return open_table(number(1, 1024) * MIB),
        first => first == Some("quick"),
    };
    append_table(if quick { 128 * MIB } else { 1 << 30 });
    settle_latency();
    open_table(if quick { 128 * MIB } else { 1 << 30 });
    endurance(if quick { 16 * MIB } else { 64 * MIB }, 4);
}
