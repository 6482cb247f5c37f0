//! The first record of a trace: what the session was.

use crate::bytes::{u8_at, u16_at, u32_at, u64_at, utf16_text, utf16z};
use crate::clock::Clock;
use crate::error::EtlError;

/// Bytes of payload that a header record has at least, with pointers of `p` bytes.
fn fixed_size(p: usize) -> usize {
    264 + 2 * p
}

/// Facts about the session that wrote a trace. Times are FILETIME (100 ns since 1601, UTC).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceHeader {
    /// Size of an uncompressed buffer in bytes.
    pub buffer_size: u32,
    /// Version of Windows, major and minor.
    pub os: (u8, u8),
    /// Build of Windows.
    pub os_build: u32,
    /// Number of processors.
    pub processors: u32,
    /// When the session started.
    pub start_time: u64,
    /// When the session ended; 0 when it never did.
    pub end_time: u64,
    /// When the machine started.
    pub boot_time: u64,
    /// LogFileMode flags.
    pub mode: u32,
    /// Buffers written, as the session counted; 0 or 1 when it was never closed.
    pub buffers_written: u32,
    /// Pointer size of the program that started the session, 4 or 8. Says nothing about the
    /// pointers in other records.
    pub pointer_size: u8,
    /// Events that the session lost.
    pub events_lost: u32,
    /// Buffers that the session lost.
    pub buffers_lost: u32,
    /// Speed of the CPU in MHz.
    pub cpu_mhz: u32,
    /// Ticks of the performance counter in a second.
    pub perf_freq: u64,
    /// Minutes from local time to UTC (UTC = local + bias).
    pub utc_bias_minutes: i32,
    /// Name of the session.
    pub session_name: String,
    /// Name of the file that the session wrote.
    pub file_name: String,
    /// Converts record times.
    pub clock: Clock,
}

impl TraceHeader {
    /// Buffers after the first may be compressed.
    pub const MODE_COMPRESSED: u32 = 0x0400_0000;
    /// The oldest buffers were overwritten when the file was full.
    pub const MODE_CIRCULAR: u32 = 2;

    /// Whether the session was closed properly.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.end_time != 0
    }

    /// Time of the header record, in ticks.
    pub(crate) fn clock_start(&self) -> u64 {
        self.clock.start_ticks()
    }

    /// Reads the header record at the start of `payload`, which lies at `offset` in the file.
    pub(crate) fn parse(payload: &[u8], offset: u64) -> Result<TraceHeader, EtlError> {
        let not = |at: u64, what| EtlError::NotATrace { offset: offset + at, what };
        let short = || EtlError::TooShort {
            size: offset + payload.len() as u64,
            needed: offset + 32 + fixed_size(4) as u64,
        };
        let marker = u32_at(payload, 0).ok_or_else(short)?;
        let kind = (marker >> 16) as u8;
        if marker >> 24 != 0xC0 || !matches!(kind, 1 | 2) {
            return Err(not(0, "no header record"));
        }
        if u16_at(payload, 6).ok_or_else(short)? != 0 {
            return Err(not(6, "the first record is not the header record"));
        }
        let size = usize::from(u16_at(payload, 4).ok_or_else(short)?);
        let start_ticks = u64_at(payload, 16).ok_or_else(short)?;
        let info = payload.get(32..size.min(payload.len())).unwrap_or_default();
        let pointer_size = match u32_at(info, 44).ok_or_else(short)? {
            4 => 4_u8,
            8 => 8,
            _ => kind * 4,
        };
        let p = usize::from(pointer_size);
        if info.len() < fixed_size(p) {
            return Err(if size < 32 + fixed_size(p) {
                not(4, "the header record is too small")
            } else {
                short()
            });
        }
        let u32 = |at| u32_at(info, at).ok_or_else(short);
        let u64 = |at| u64_at(info, at).ok_or_else(short);
        let names = info.get(fixed_size(p)..).unwrap_or_default();
        let (session, used) = utf16z(names);
        let (file, _) = utf16z(names.get(used..).unwrap_or_default());
        let (start_time, perf_freq, cpu_mhz) = (u64(248 + 2 * p)?, u64(240 + 2 * p)?, u32(52)?);
        Ok(TraceHeader {
            buffer_size: u32(0)?,
            os: (u8_at(info, 4).ok_or_else(short)?, u8_at(info, 5).ok_or_else(short)?),
            os_build: u32(8)?,
            processors: u32(12)?,
            start_time,
            end_time: u64(16)?,
            boot_time: u64(232 + 2 * p)?,
            mode: u32(32)?,
            buffers_written: u32(36)?,
            pointer_size,
            events_lost: u32(48)?,
            buffers_lost: u32(260 + 2 * p)?,
            cpu_mhz,
            perf_freq,
            utc_bias_minutes: u32(56 + 2 * p)?.cast_signed(),
            session_name: utf16_text(session),
            file_name: utf16_text(file),
            clock: Clock::new(u32(256 + 2 * p)?, start_time, start_ticks, perf_freq, cpu_mhz),
        })
    }
}
