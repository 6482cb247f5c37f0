//! Calls to the system, each behind a safe function; its answers are read as plain bytes.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::windows::fs::OpenOptionsExt as _;
use std::os::windows::io::AsRawHandle as _;

use windows::Win32::Foundation::{ERROR_SUCCESS, HANDLE};
use windows::Win32::NetworkManagement::IpHelper::{FreeMibTable, GetIfTable2, MIB_IF_TABLE2};
use windows::Win32::System::IO::DeviceIoControl;
use windows::Win32::System::SystemInformation::{
    GetLogicalProcessorInformationEx, GlobalMemoryStatusEx, LOGICAL_PROCESSOR_RELATIONSHIP, MEMORYSTATUSEX,
    RelationProcessorCore, RelationProcessorPackage, SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX,
};

/// Largest answer that is taken of the system.
const MAX_ANSWER: u32 = 1 << 20;
/// Interfaces that are looked at; filters make dozens of each adapter.
const MAX_INTERFACES: usize = 4096;

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

/// Memory that the system uses, in bytes; 0 where it is not told.
pub(super) fn memory_bytes() -> u64 {
    let length = u32::try_from(size_of::<MEMORYSTATUSEX>()).unwrap_or(0);
    let mut status = MEMORYSTATUSEX { dwLength: length, ..MEMORYSTATUSEX::default() };
    // SAFETY: `status` is a valid structure of the length that it says, for the call's duration.
    let told = unsafe { GlobalMemoryStatusEx(&mut status) };
    if told.is_ok() { status.ullTotalPhys } else { 0 }
}

/// How many things of a relationship there are; 0 where it is not told.
fn related(what: LOGICAL_PROCESSOR_RELATIONSHIP) -> u32 {
    let mut len = 0_u32;
    // SAFETY: without a buffer only the length that is needed is written.
    let _ = unsafe { GetLogicalProcessorInformationEx(what, None, &mut len) };
    if len == 0 || len > MAX_ANSWER {
        return 0;
    }
    // of u64, since the records begin at places that are multiples of eight
    let mut buffer = vec![0_u64; (len as usize).div_ceil(8)];
    let to = buffer.as_mut_ptr().cast::<SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX>();
    // SAFETY: `to` is writable for `len` bytes and as aligned as the records have to be.
    if unsafe { GetLogicalProcessorInformationEx(what, Some(to), &mut len) }.is_err() {
        return 0;
    }
    let bytes: Vec<u8> = buffer.iter().flat_map(|n| n.to_ne_bytes()).collect();
    let bytes = bytes.get(..len as usize).unwrap_or_default();
    let (mut at, mut count) = (0_usize, 0_u32);
    // each record: relationship, its own size, the rest
    while let Some(size) = number(bytes, at.saturating_add(4)).map(u32::from_ne_bytes).filter(|s| *s >= 8) {
        count = count.saturating_add(1);
        at = at.saturating_add(size as usize);
    }
    count
}

/// Processor cores.
pub(super) fn cores() -> u32 {
    related(RelationProcessorCore)
}

/// Processor sockets.
pub(super) fn sockets() -> u32 {
    related(RelationProcessorPackage)
}

/// A network interface, without name and address.
#[derive(Debug)]
pub(super) struct Interface {
    pub kind: u32,
    pub hardware: bool,
    pub description: String,
    pub bits_per_second: u64,
}

/// All network interfaces.
pub(super) fn interfaces() -> Vec<Interface> {
    let mut table: *mut MIB_IF_TABLE2 = std::ptr::null_mut();
    // SAFETY: on success `table` points to a table that the system has allocated.
    if unsafe { GetIfTable2(&mut table) } != ERROR_SUCCESS || table.is_null() {
        return Vec::new();
    }
    // SAFETY: the table is valid until it is freed below; NumEntries is in front of the rows.
    let (count, first) = unsafe { ((*table).NumEntries, (&raw const (*table).Table).cast()) };
    let count = (count as usize).min(MAX_INTERFACES);
    // SAFETY: NumEntries rows follow one another from the first; no more are taken.
    let rows: &[windows::Win32::NetworkManagement::IpHelper::MIB_IF_ROW2] =
        unsafe { std::slice::from_raw_parts(first, count) };
    let all = rows.iter().map(|row| {
        let len = row.Description.iter().position(|c| *c == 0).unwrap_or(row.Description.len());
        Interface {
            kind: row.Type,
            // the first bit is HardwareInterface
            hardware: row.InterfaceAndOperStatusFlags._bitfield & 1 != 0,
            description: String::from_utf16_lossy(row.Description.get(..len).unwrap_or_default()),
            bits_per_second: row.ReceiveLinkSpeed,
        }
    });
    let all = all.collect();
    // SAFETY: the table came from GetIfTable2, is freed once, and nothing borrows from it any more.
    unsafe { FreeMibTable(table.cast_const().cast()) };
    all
}

/// A drive, without its serial number.
#[derive(Debug)]
pub(super) struct RawDrive {
    pub bytes: u64,
    pub bus: u32,
    pub removable: bool,
    /// Whether going to another place takes time.
    pub seeks: Option<bool>,
}

// Source: winioctl.h, ntddstor.h.
const GEOMETRY_EX: u32 = 0x0007_00a0;
const QUERY_PROPERTY: u32 = 0x002d_1400;
const DEVICE_PROPERTY: u32 = 0;
const SEEK_PENALTY_PROPERTY: u32 = 7;

/// The physical drive of a number; `None` when there is none.
pub(super) fn drive(number_of: u32) -> Option<RawDrive> {
    // no right to read is asked for: its properties are for everyone
    let open = OpenOptions::new().access_mode(0).open(format!(r"\\.\PhysicalDrive{number_of}"));
    let file = open.ok()?;
    let query = |property: u32| {
        let mut query = [0_u8; 12];
        // property id, then a standard query, then nothing
        query[..4].copy_from_slice(&property.to_le_bytes());
        control(&file, QUERY_PROPERTY, &query)
    };
    let geometry = control(&file, GEOMETRY_EX, &[])?;
    let bytes = u64::try_from(number(&geometry, 24).map(i64::from_le_bytes)?).ok()?;
    let device = query(DEVICE_PROPERTY).unwrap_or_default();
    let seeks = query(SEEK_PENALTY_PROPERTY).and_then(|s| s.get(8).map(|b| *b != 0));
    Some(RawDrive {
        bytes,
        bus: number(&device, 28).map_or(0, u32::from_le_bytes),
        removable: device.get(10).is_some_and(|b| *b != 0),
        seeks,
    })
}

/// Asks a device; its answer, 1 KiB at most.
fn control(file: &File, code: u32, question: &[u8]) -> Option<Vec<u8>> {
    // of u64, as aligned as any answer
    let mut answer = [0_u64; 128];
    let mut len = 0_u32;
    let asked = (!question.is_empty()).then(|| question.as_ptr().cast());
    let question_len = u32::try_from(question.len()).ok()?;
    let room = u32::try_from(size_of_val(&answer)).ok()?;
    let to = Some(answer.as_mut_ptr().cast());
    // SAFETY: the handle is open as long as `file`; question and answer are valid for the lengths
    // that are said, and the call does not return before it is done, since it is not overlapped.
    let done = unsafe {
        let handle = HANDLE(file.as_raw_handle() as _);
        DeviceIoControl(handle, code, asked, question_len, to, room, Some(&mut len), None)
    };
    done.ok()?;
    let bytes: Vec<u8> = answer.iter().flat_map(|n| n.to_ne_bytes()).collect();
    bytes.get(..len as usize).map(<[u8]>::to_vec)
}
