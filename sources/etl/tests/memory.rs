//! Memory stays bounded whatever a trace says: traces that are made as they are read, so that they
//! take none themselves, under an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tidegate_etl::{EtlFile, EventReader, PayloadDecoder, ReadAt};
use tidegate_proto::batch::Batch;
use tidegate_proto::guid;

#[allow(dead_code)] // shared with the other tests
#[path = "it/build.rs"]
mod build;

/// Bytes given out now, and the most there ever were.
struct Counting(AtomicUsize, AtomicUsize);

// SAFETY: every call goes to the system's allocator unchanged; only numbers are kept beside.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = self.0.fetch_add(layout.size(), Relaxed) + layout.size();
        self.1.fetch_max(now, Relaxed);
        // SAFETY: the caller's promises are the system allocator's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.0.fetch_sub(layout.size(), Relaxed);
        let now = self.0.fetch_add(size, Relaxed) + size;
        self.1.fetch_max(now, Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        self.0.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static MEMORY: Counting = Counting(AtomicUsize::new(0), AtomicUsize::new(0));

const MIB: usize = 1 << 20;
const BUFFER: usize = build::BUFFER;

/// A trace of one header buffer and `buffers` others of `size` bytes, each made when it is read.
struct Made<F> {
    first: Vec<u8>,
    buffers: u64,
    size: usize,
    make: F,
}

impl<F: Fn(u64) -> Vec<u8>> ReadAt for Made<F> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.first.len() as u64 + self.buffers * self.size as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let behind = match offset.checked_sub(self.first.len() as u64) {
            None => return self.first.as_slice().read_at(offset, out),
            Some(behind) => behind,
        };
        let (n, at) = (behind / self.size as u64, behind % self.size as u64);
        if n >= self.buffers {
            return Ok(0);
        }
        let made = (self.make)(n);
        assert_eq!(made.len(), self.size);
        made.as_slice().read_at(at, out)
    }
}

/// A header buffer; its state is the compression format.
fn first(compression: u16) -> Vec<u8> {
    let mut trace = build::Trace::new();
    trace.compression = compression;
    trace.bytes()
}

/// A buffer of `size` bytes with these records.
fn buffer(n: u64, cpu: u16, size: usize, records: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![0; 72];
    for record in records {
        out.extend_from_slice(record);
        out.resize(out.len().next_multiple_of(8), 0);
    }
    let used = out.len() as u32;
    assert!(out.len() <= size, "{} bytes of records", out.len());
    out.resize(size, 0xFF);
    header(&mut out, n, cpu, used, 0x20);
    out
}

fn header(out: &mut [u8], n: u64, cpu: u16, used: u32, flags: u16) {
    let size = out.len() as u32;
    out[0..4].copy_from_slice(&size.to_le_bytes());
    out[4..8].copy_from_slice(&used.to_le_bytes());
    out[0x18..0x20].copy_from_slice(&(n + 1).to_le_bytes());
    out[0x28..0x2A].copy_from_slice(&cpu.to_le_bytes());
    out[0x30..0x34].copy_from_slice(&used.to_le_bytes());
    out[0x34..0x36].copy_from_slice(&flags.to_le_bytes());
}

/// Reads all events in batches; the most memory that took, and the events.
fn peak<F: Fn(u64) -> Vec<u8>>(trace: Made<F>) -> (usize, u64) {
    let before = MEMORY.0.load(Relaxed);
    MEMORY.1.store(before, Relaxed);
    let file = EtlFile::open(trace).unwrap();
    let mut reader = EventReader::new(&file, PayloadDecoder::new("made.etl")).unwrap();
    let mut batch = Batch::new();
    while reader.next_batch(&mut batch, 4096).unwrap() {
        batch.clear();
    }
    (MEMORY.1.load(Relaxed) - before, reader.events())
}

/// A name that no other number gives.
fn name(n: u64) -> String {
    format!("{:x}-{n}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// One test, as tests of one program run at the same time and the allocator counts them together.
#[test]
fn no_trace_takes_more_than_64_mib_beside_one_buffer_per_cpu() {
    // TIDEGATE_MEMORY_SCALE makes the traces as many times as long.
    let scale: u64 = std::env::var("TIDEGATE_MEMORY_SCALE").map_or(1, |n| n.parse().unwrap());
    let provider = [0x5A; 16];
    let e = build::Event { provider, ..build::Event::default() };
    let mut told = Vec::new();
    let mut tell = |what, window: usize, (peak, events): (usize, u64)| {
        println!("{what}: {:.1} MiB for {events} events", peak as f64 / MIB as f64);
        told.push((what, window, peak, events));
    };

    // Every event is of a kind of its own, with fields of its own.
    let kinds = |n: u64| {
        let kind = |k: u64| {
            let fields: Vec<_> = (0..40).map(|f| build::field(&format!("{}{f}", name(k)), &[4])).collect();
            build::metadata(&[0], &name(k), &fields)
        };
        let records: Vec<_> =
            (0..40).map(|k| build::event(e, n * 40 + k, &[(11, kind(n * 40 + k))], &[1; 40])).collect();
        buffer(n, 0, BUFFER, &records)
    };
    let made = Made { first: first(0), buffers: 160 * scale, size: BUFFER, make: kinds };
    tell("kinds of TraceLogging events", BUFFER, peak(made));

    // Every record is a schema of an event that comes behind it.
    let meta = guid::parse("bbccf6c1-6cd1-48c4-80ff-839482e37671").unwrap();
    let schemas = |n: u64| {
        let records: Vec<_> = (0..30)
            .flat_map(|k| {
                let (id, version) = ((n * 30 + k) as u16, ((n * 30 + k) >> 16) as u8);
                let mut info = vec![0; 2000];
                info[..16].copy_from_slice(&provider);
                info[32..34].copy_from_slice(&id.to_le_bytes());
                info[34] = version;
                let of = build::Event { id, version, ..e };
                [build::classic(20, meta, 32, n, &info), build::event(of, n, &[], &[1; 40])]
            })
            .collect();
        buffer(n, 0, BUFFER, &records)
    };
    let made = Made { first: first(0), buffers: 250 * scale, size: BUFFER, make: schemas };
    tell("embedded schemas", BUFFER, peak(made));

    // Every record is the manifest of a provider of its own.
    let manifests = |n: u64| {
        let mut id = [0x11; 16];
        id[..8].copy_from_slice(&n.to_le_bytes());
        let events: String = (0..400).map(|k| format!("<event value=\"{k}\" symbol=\"s{k}\"/>")).collect();
        let text = format!(
            "<instrumentationManifest><instrumentation><events><provider name=\"{}\" guid=\"{{{}}}\"><events>\
             {events}</events></provider></events></instrumentation></instrumentationManifest>",
            name(n),
            guid::format(&id)
        );
        let head = [1, 1, 0, 0x5B, 1, 0, 0, 0];
        let chunk = [&head, text.as_bytes()].concat();
        let of = build::Event { provider: id, id: 0xFFFE, version: 1, opcode: 254, ..e };
        buffer(n, 0, BUFFER, &[build::event(of, n, &[], &chunk)])
    };
    let made = Made { first: first(0), buffers: 450 * scale, size: BUFFER, make: manifests };
    tell("manifests", BUFFER, peak(made));

    // Manifests in chunks whose last never comes.
    let endless = |n: u64| {
        let head = [1, 1, 0, 0x5B, 0xFF, 0xFF, 0, 0];
        let chunk = [&head[..], &[b'x'; 60_000]].concat();
        let of = build::Event { id: 0xFFFE, version: 1, opcode: 254, pid: n as u32, ..e };
        buffer(n, 0, BUFFER, &[build::event(of, n, &[], &chunk)])
    };
    let made = Made { first: first(0), buffers: 300 * scale, size: BUFFER, make: endless };
    tell("manifests without their end", BUFFER, peak(made));

    // A hundred bytes that expand to the largest buffer there may be: one literal, one match.
    const LARGEST: usize = 16 << 20;
    let make = |n: u64| {
        let mut out = vec![0; 128];
        header(&mut out, n, 0, LARGEST as u32, 0x60);
        let mut packed = 0x7FFF_FFFF_u32.to_le_bytes().to_vec();
        packed.extend([0, 7, 0, 15, 255, 0, 0]);
        packed.extend((LARGEST as u32).to_le_bytes());
        out[72..72 + packed.len()].copy_from_slice(&packed);
        out
    };
    let made = Made { first: first(3), buffers: 8 * scale, size: 128, make };
    tell("compressed buffers of the largest size", LARGEST, peak(made));

    // Compressed buffers of the usual size: some are kept between the two passes, not all.
    let packed = |n: u64, whole: Vec<u8>| {
        let used = u32::from_le_bytes(whole[4..8].try_into().unwrap());
        let mut out = vec![0; BUFFER + 8192];
        let mut at = 72;
        for literals in whole[72..used as usize].chunks(32) {
            out[at + 4..at + 4 + literals.len()].copy_from_slice(literals);
            at += 4 + literals.len();
        }
        header(&mut out, n, 0, used, 0x60);
        out
    };
    let make = |n: u64| {
        let records: Vec<_> = (0..60).map(|k| build::system(2, 3, 99, n, &[k; 1000])).collect();
        packed(n, buffer(n, 0, BUFFER, &records))
    };
    let made = Made { first: first(3), buffers: 450 * scale, size: BUFFER + 8192, make };
    tell("compressed buffers", BUFFER, peak(made));

    // All of it in one.
    let make = |n: u64| {
        packed(n, [&kinds as &dyn Fn(u64) -> Vec<u8>, &schemas, &manifests, &endless][n as usize % 4](n / 4))
    };
    let made = Made { first: first(3), buffers: 1600 * scale, size: BUFFER + 8192, make };
    tell("all together", BUFFER, peak(made));

    // As many buffers as there is index for, with nothing in them, of more CPUs than there are.
    let make = |n: u64| buffer(n, n as u16, 72, &[]);
    let made = Made { first: first(0), buffers: (1 << 20) - 1, size: 72, make };
    tell("buffers", 0, peak(made));

    for (what, window, peak, events) in told {
        assert!(peak <= 64 * MIB + window, "{what}: {peak} bytes");
        assert!(events > 0, "{what}");
    }
}
