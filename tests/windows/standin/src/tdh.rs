//! The functions of tdh.dll: schemas are those that one recorded trace carries, as merging wrote
//! them there.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::OnceLock;

use tidegate_etl::{Identity, Record};
use windows::Win32::System::Diagnostics::Etw::EVENT_RECORD;
use windows::core::PCWSTR;

use crate::play;

/// The trace whose schemas the system has.
const REGISTERED: &str = "perfview/net.4.5.2.x64";
/// Class of the records that hold them; types of an event's schema, and of a value map.
const META: [u8; 16] =
    [0xc1, 0xf6, 0xcc, 0xbb, 0xd1, 0x6c, 0xc4, 0x48, 0x80, 0xff, 0x83, 0x94, 0x82, 0xe3, 0x76, 0x71];
const META_EVENT: u8 = 32;
const META_MAP: u8 = 33;

// Source: winerror.h.
const INSUFFICIENT_BUFFER: u32 = 122;
const NOT_FOUND: u32 = 1168;

#[derive(Default)]
struct Registered {
    /// By provider, id and version, or by class, type and version.
    events: HashMap<([u8; 16], u16, u8), Vec<u8>>,
    maps: HashMap<([u8; 16], String), Vec<u8>>,
}

fn number(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap())
}

fn id(b: &[u8], at: usize) -> [u8; 16] {
    b[at..at + 16].try_into().unwrap()
}

impl Registered {
    fn take(&mut self, record: &Record<'_>) {
        if record.identity != Identity::Classic || record.provider != META {
            return;
        }
        let b = record.data;
        match record.opcode {
            META_EVENT => {
                let key = if number(b, 48) == 1 {
                    (id(b, 16), u16::from(b[37]), b[34])
                } else {
                    (id(b, 0), u16::from_le_bytes([b[32], b[33]]), b[34])
                };
                self.events.entry(key).or_insert_with(|| b.to_vec());
            }
            META_MAP => {
                let map = &b[16..];
                let name =
                    map[number(map, 0) as usize..].as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
                let name = String::from_utf16_lossy(&name.take_while(|n| *n != 0).collect::<Vec<u16>>());
                self.maps.entry((id(b, 0), name)).or_insert_with(|| map.to_vec());
            }
            _ => {}
        }
    }
}

fn registered() -> &'static Registered {
    static ALL: OnceLock<Registered> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = Registered::default();
        play::records(&play::open(REGISTERED), |record, _| {
            all.take(record);
            true
        });
        all
    })
}

/// # Safety
/// `buffer`, if not null, must have room for `*size` bytes.
unsafe fn give(found: Option<&Vec<u8>>, buffer: *mut u8, size: *mut u32) -> u32 {
    let Some(found) = found else { return NOT_FOUND };
    // SAFETY: the caller's promise
    unsafe {
        let room = *size as usize;
        *size = u32::try_from(found.len()).unwrap();
        if buffer.is_null() || room < found.len() {
            return INSUFFICIENT_BUFFER;
        }
        std::ptr::copy_nonoverlapping(found.as_ptr(), buffer, found.len());
    }
    0
}

/// # Safety
/// As of the function of Windows.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn TdhGetEventInformation(
    event: *const EVENT_RECORD,
    _context_count: u32,
    _context: *const c_void,
    buffer: *mut u8,
    size: *mut u32,
) -> u32 {
    // SAFETY: the caller's promise
    let header = unsafe { &(*event).EventHeader };
    let (descriptor, classic) = (&header.EventDescriptor, header.Flags & 0x100 != 0);
    let number = if classic { u16::from(descriptor.Opcode) } else { descriptor.Id };
    let key = (play::bytes(&header.ProviderId), number, descriptor.Version);
    // SAFETY: the caller's promise
    unsafe { give(registered().events.get(&key), buffer, size) }
}

/// # Safety
/// As of the function of Windows.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn TdhGetEventMapInformation(
    event: *const EVENT_RECORD,
    name: *const u16,
    buffer: *mut u8,
    size: *mut u32,
) -> u32 {
    // SAFETY: the caller's promise
    let (provider, name) =
        unsafe { (play::bytes(&(*event).EventHeader.ProviderId), PCWSTR::from_raw(name).to_string()) };
    let found = registered().maps.get(&(provider, name.unwrap_or_default()));
    // SAFETY: the caller's promise
    unsafe { give(found, buffer, size) }
}
