//! Traces built from the description of the format, for what no given trace holds.

use tidegate_etl::TraceHeader;
use tidegate_proto::time::unix_ns_to_filetime;

/// Start of every built trace, nanoseconds since 1970.
pub const START_NS: i64 = 1_700_000_000_000_000_000;
/// Clock of the header record.
pub const START_TICKS: u64 = 5_000;
/// Buffer size in the header.
pub const BUFFER: usize = 65_536;

/// A trace in the making.
pub struct Trace {
    pub clock: u32,
    pub perf_freq: u64,
    pub cpu_mhz: u32,
    pub mode: u32,
    pub events_lost: u32,
    pub buffers_lost: u32,
    /// 0 = none, else the RtlCompressBuffer number.
    pub compression: u16,
    buffers: Vec<(u16, i64, u16, Vec<u8>)>,
}

impl Trace {
    pub fn new() -> Trace {
        Trace {
            clock: 1,
            perf_freq: 10_000_000,
            cpu_mhz: 2_000,
            mode: 1,
            events_lost: 0,
            buffers_lost: 0,
            compression: 0,
            buffers: Vec::new(),
        }
    }

    /// Adds a buffer of records.
    pub fn buffer(&mut self, cpu: u16, sequence: i64, flags: u16, records: &[Vec<u8>]) -> &mut Trace {
        let mut payload = Vec::new();
        for record in records {
            payload.extend_from_slice(record);
            payload.resize(payload.len().next_multiple_of(8), 0);
        }
        assert!(payload.len() + 72 <= BUFFER);
        self.buffers.push((cpu, sequence, flags, payload));
        self
    }

    fn header_record(&self) -> Vec<u8> {
        let mut info = vec![0; 280];
        let mut put = |at: usize, b: &[u8]| info[at..at + b.len()].copy_from_slice(b);
        put(0, &(BUFFER as u32).to_le_bytes());
        put(4, &[10, 0]);
        put(8, &26_100_u32.to_le_bytes());
        put(12, &4_u32.to_le_bytes());
        put(16, &unix_ns_to_filetime(START_NS + 60_000_000_000).to_le_bytes());
        let mode = self.mode | if self.compression > 0 { TraceHeader::MODE_COMPRESSED } else { 0 };
        put(32, &mode.to_le_bytes());
        put(44, &8_u32.to_le_bytes());
        put(48, &self.events_lost.to_le_bytes());
        put(52, &self.cpu_mhz.to_le_bytes());
        put(256, &self.perf_freq.to_le_bytes());
        put(264, &unix_ns_to_filetime(START_NS).to_le_bytes());
        put(272, &self.clock.to_le_bytes());
        put(276, &self.buffers_lost.to_le_bytes());
        info.extend(utf16("built\0built.etl\0"));
        let mut record = system(2, 0, 0, START_TICKS, &info);
        record[0..2].copy_from_slice(&2_u16.to_le_bytes());
        record
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let state = if self.compression > 0 { u32::from(self.compression) } else { 3 };
        put_buffer(&mut out, 0, 0, 1, 4, state, &self.header_record(), None);
        for (cpu, sequence, flags, payload) in &self.buffers {
            let packed = match self.compression {
                2 => Some(lznt1(payload)),
                3 => Some(xpress(payload)),
                4 => Some(huffman(payload)),
                _ => None,
            };
            put_buffer(&mut out, *cpu, *sequence, *flags, 0, 3, payload, packed);
        }
        out
    }
}

#[allow(clippy::too_many_arguments)] // the fields of a buffer header
fn put_buffer(
    out: &mut Vec<u8>,
    cpu: u16,
    sequence: i64,
    flags: u16,
    kind: u16,
    state: u32,
    payload: &[u8],
    packed: Option<Vec<u8>>,
) {
    let used = (72 + payload.len()) as u32;
    let size = packed.as_ref().map_or(BUFFER, |p| 72 + p.len());
    let flags = flags | 0x20 | if packed.is_some() { 0x40 } else { 0 };
    let mut header = vec![0; 72];
    header[0..4].copy_from_slice(&(size as u32).to_le_bytes());
    header[4..8].copy_from_slice(&used.to_le_bytes());
    header[0x18..0x20].copy_from_slice(&sequence.to_le_bytes());
    header[0x28..0x2A].copy_from_slice(&cpu.to_le_bytes());
    header[0x2C..0x30].copy_from_slice(&state.to_le_bytes());
    header[0x30..0x34].copy_from_slice(&used.to_le_bytes());
    header[0x34..0x36].copy_from_slice(&flags.to_le_bytes());
    header[0x36..0x38].copy_from_slice(&kind.to_le_bytes());
    out.extend(header);
    let start = out.len();
    match packed {
        Some(packed) => out.extend(packed),
        None => {
            out.extend_from_slice(payload);
            out.resize(start + BUFFER - 72, 0xFF);
        }
    }
}

/// Chunks of literals behind flag bytes of zero.
fn lznt1(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in data.chunks(4096) {
        let mut body = Vec::new();
        for eight in chunk.chunks(8) {
            body.push(0);
            body.extend_from_slice(eight);
        }
        // Stored when that is smaller, which with literals alone it always is: every second
        // chunk is compressed nevertheless, as long as its length can be told.
        if out.len() % 2 == 0 && body.len() <= 4096 {
            out.extend_from_slice(&(0xB000 | (body.len() as u16 - 1)).to_le_bytes());
            out.extend(body);
        } else {
            out.extend_from_slice(&(0x3000 | (chunk.len() as u16 - 1)).to_le_bytes());
            out.extend_from_slice(chunk);
        }
    }
    out
}

/// Literals, 32 behind each flag word of zero.
fn xpress(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for some in data.chunks(32) {
        out.extend_from_slice(&0_u32.to_le_bytes());
        out.extend_from_slice(some);
    }
    out
}

/// Literals; all 512 symbols have nine bits, so a symbol's code is its number.
fn huffman(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for block in data.chunks(65_536) {
        out.extend_from_slice(&[0x99; 256]);
        let (mut bits, mut have) = (0_u32, 0);
        let symbols = block.iter().map(|b| u32::from(*b)).chain(std::iter::once(256));
        for symbol in symbols {
            bits = bits << 9 | symbol;
            have += 9;
            if have >= 16 {
                have -= 16;
                out.extend_from_slice(&((bits >> have) as u16).to_le_bytes());
            }
        }
        out.extend_from_slice(&((bits << (16 - have)) as u16).to_le_bytes());
        // The decoder reads ahead.
        out.extend_from_slice(&[0, 0]);
    }
    out
}

pub fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// `{size at 0}, marker` of a record, then its header from offset 4 and its payload.
fn sized(kind: u8, head: &[u8], data: &[u8]) -> Vec<u8> {
    let mut record = ((4 + head.len() + data.len()) as u16).to_le_bytes().to_vec();
    record.extend([kind, 0xC0]);
    record.extend(head);
    record.extend(data);
    record
}

/// SYSTEM (1, 2) or COMPACT (3, 4) record.
pub fn system(kind: u8, group: u8, opcode: u8, time: u64, data: &[u8]) -> Vec<u8> {
    let header = if kind < 3 { 32 } else { 24 };
    let mut record = vec![0, 0, kind, 0xC0];
    record.extend(((header + data.len()) as u16).to_le_bytes());
    record.extend([opcode, group]);
    record.extend(77_u32.to_le_bytes());
    record.extend(66_u32.to_le_bytes());
    record.extend(time.to_le_bytes());
    if kind < 3 {
        record.extend([7, 0, 0, 0, 9, 0, 0, 0]);
    }
    record.extend(data);
    record
}

/// PERFINFO (16, 17) record with a version word.
pub fn perfinfo(kind: u8, version: u16, group: u8, opcode: u8, time: u64, data: &[u8]) -> Vec<u8> {
    let mut record = version.to_le_bytes().to_vec();
    record.extend([kind, 0xC0]);
    record.extend(((16 + data.len()) as u16).to_le_bytes());
    record.extend([opcode, group]);
    record.extend(time.to_le_bytes());
    record.extend(data);
    record
}

/// FULL (10, 20), INSTANCE (11, 21), WNODE (14) record.
pub fn classic(kind: u8, class: [u8; 16], opcode: u8, time: u64, data: &[u8]) -> Vec<u8> {
    let mut head = vec![opcode, 4, 1, 0];
    head.extend(77_u32.to_le_bytes());
    head.extend(66_u32.to_le_bytes());
    head.extend(time.to_le_bytes());
    head.extend(class);
    head.extend(3_u64.to_le_bytes());
    if matches!(kind, 11 | 21) {
        head.extend(8_u32.to_le_bytes());
        head.extend(9_u32.to_le_bytes());
        head.extend([0xEE; 16]);
    }
    sized(kind, &head, data)
}

/// TIMED (12) and ERROR (13) records.
pub fn other(kind: u8, time: u64, data: &[u8]) -> Vec<u8> {
    let head = [vec![0; 4], time.to_le_bytes().to_vec()].concat();
    sized(kind, if kind == 12 { &head } else { &[0; 4] }, data)
}

/// Descriptor of an event.
#[derive(Clone, Copy, Default)]
pub struct Event {
    pub provider: [u8; 16],
    pub id: u16,
    pub version: u8,
    pub opcode: u8,
    pub pid: u32,
    pub bits32: bool,
}

/// EVENT (18, 19) record with extended items.
pub fn event(e: Event, time: u64, items: &[(u16, Vec<u8>)], data: &[u8]) -> Vec<u8> {
    let mut head = vec![u8::from(!items.is_empty()), 0, 0, 0];
    head.extend(77_u32.to_le_bytes());
    head.extend(e.pid.to_le_bytes());
    head.extend(time.to_le_bytes());
    head.extend(e.provider);
    head.extend(e.id.to_le_bytes());
    head.extend([e.version, 11, 4, e.opcode, 0, 0]);
    head.extend(0x8000_u64.to_le_bytes());
    head.extend([0; 8]);
    head.extend([0; 16]);
    for (n, (kind, item)) in items.iter().enumerate() {
        let size = (8 + item.len()).next_multiple_of(8);
        head.extend((size as u16).to_le_bytes());
        head.extend(kind.to_le_bytes());
        head.extend(u16::from(n + 1 < items.len()).to_le_bytes());
        head.extend((item.len() as u16).to_le_bytes());
        head.extend(item);
        head.resize(head.len() - 8 - item.len() + size, 0);
    }
    sized(if e.bits32 { 18 } else { 19 }, &head, data)
}

/// TraceLogging metadata: tags and name, then encoded fields.
pub fn metadata(tags: &[u8], name: &str, fields: &[Vec<u8>]) -> Vec<u8> {
    let body = [tags, name.as_bytes(), &[0], &fields.concat()].concat();
    [((body.len() + 2) as u16).to_le_bytes().to_vec(), body].concat()
}

/// A field: name, then its type bytes.
pub fn field(name: &str, types: &[u8]) -> Vec<u8> {
    [name.as_bytes(), &[0], types].concat()
}

/// Provider traits with a group.
pub fn traits(name: &str, group: Option<[u8; 16]>) -> Vec<u8> {
    let mut body = [name.as_bytes(), &[0]].concat();
    if let Some(group) = group {
        body.extend([19, 0, 1]);
        body.extend(group);
    }
    [((body.len() + 2) as u16).to_le_bytes().to_vec(), body].concat()
}
