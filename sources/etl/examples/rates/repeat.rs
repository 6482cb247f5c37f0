//! Makes a long trace out of a short one: its TraceLogging records again and again.

use tidegate_etl::{EtlFile, ExtKind, Records};

const HEADER: usize = 72;

/// A trace with the header buffer of `source`, then its TraceLogging records repeated until
/// there are `records`, in buffers of 64 KiB on one CPU, 1 µs apart.
///
/// # Panics
/// When `source` is no uncompressed trace, or has no TraceLogging records.
pub fn tracelogging(source: &[u8], records: usize) -> Vec<u8> {
    const BUFFER: usize = 65_536;
    let file = EtlFile::open(source).expect("a trace");
    let step = file.header().buffer_size as usize;
    let mut out = source[..step].to_vec();
    let mut found: Vec<&[u8]> = Vec::new();
    for buffer in source.chunks(step).skip(1) {
        let used = u32::from_le_bytes(buffer[0x30..0x34].try_into().expect("four bytes")) as usize;
        let mut at = HEADER;
        for record in Records::new(&buffer[HEADER..used], 0) {
            let record = record.expect("a record");
            let size = usize::from(u16::from_le_bytes([buffer[at], buffer[at + 1]]));
            if record.ext.find(ExtKind::TlSchema).is_some() {
                found.push(&buffer[at..at + size]);
            }
            at += size.next_multiple_of(8);
        }
    }
    let mut time = u64::from_le_bytes(found[0][16..24].try_into().expect("eight bytes"));
    let mut left = found.iter().cycle().take(records).peekable();
    let mut sequence = 1_u64;
    while left.peek().is_some() {
        let start = out.len();
        out.extend_from_slice(&source[step..step + HEADER]);
        while let Some(record) = left.next_if(|r| out.len() - start + r.len() + 8 <= BUFFER) {
            let at = out.len();
            out.extend_from_slice(record);
            out[at + 16..at + 24].copy_from_slice(&time.to_le_bytes());
            out.resize(start + (out.len() - start).next_multiple_of(8), 0);
            time += 10;
        }
        let used = (out.len() - start) as u32;
        out.resize(start + BUFFER, 0xFF);
        let header = &mut out[start..start + HEADER];
        header[..4].copy_from_slice(&(BUFFER as u32).to_le_bytes());
        header[4..8].copy_from_slice(&used.to_le_bytes());
        header[0x30..0x34].copy_from_slice(&used.to_le_bytes());
        header[0x18..0x20].copy_from_slice(&sequence.to_le_bytes());
        header[0x28..0x2A].copy_from_slice(&[0, 0]);
        header[0x34..0x38].copy_from_slice(&[0x20, 0, 0, 0]);
        sequence += 1;
    }
    // BuffersWritten of the header record: some readers stop there.
    let written = HEADER + 32 + 36;
    out[written..written + 4].copy_from_slice(&(sequence as u32).to_le_bytes());
    out
}
