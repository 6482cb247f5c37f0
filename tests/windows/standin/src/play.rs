//! Recorded records as `EVENT_RECORD`s.

use std::ffi::c_void;
use std::fs::File;
use std::path::{Path, PathBuf};

use tidegate_etl::{EtlFile, Identity, Record, RecordReader};
use tidegate_proto::time::unix_ns_to_filetime;
use windows::Win32::System::Diagnostics::Etw::{EVENT_HEADER_EXTENDED_DATA_ITEM, EVENT_RECORD};
use windows::core::GUID;

/// What a consumer gives to `OpenTraceW`.
pub type Callback = unsafe extern "system" fn(*mut EVENT_RECORD);

/// Class of the records that tell of lost events, and the type of lost events.
const LOST_EVENT: [u8; 16] =
    [0xe0, 0x9a, 0x39, 0x6a, 0xc6, 0x4b, 0xe9, 0x4d, 0x87, 0x0b, 0x36, 0x57, 0xf8, 0x94, 0x7e, 0x7e];
/// A stack of two calls: a match id, then addresses.
const STACK: [u64; 3] = [0, 0x7ff6_0000_1000, 0x7ff6_0000_2000];

// Source: evntcons.h.
const EXT_STACK_TRACE64: u16 = 6;
const FLAG_32_BIT: u16 = 0x20;
const FLAG_64_BIT: u16 = 0x40;
const FLAG_CLASSIC: u16 = 0x100;
const FLAG_PROCESSOR_INDEX: u16 = 0x200;

pub fn bytes(guid: &GUID) -> [u8; 16] {
    let mut out = [0; 16];
    out[..4].copy_from_slice(&guid.data1.to_le_bytes());
    out[4..6].copy_from_slice(&guid.data2.to_le_bytes());
    out[6..8].copy_from_slice(&guid.data3.to_le_bytes());
    out[8..].copy_from_slice(&guid.data4);
    out
}

fn guid(b: &[u8; 16]) -> GUID {
    let four = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let two = |n: usize| u16::from_le_bytes([b[n], b[n + 1]]);
    GUID::from_values(four, two(4), two(6), [b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]])
}

/// A recorded trace by the name that tests use.
pub fn open(name: &str) -> EtlFile<File> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/etl/traces");
    let path: PathBuf = folder.join(format!("{name}.etl"));
    let file = File::open(&path).unwrap_or_else(|e| panic!("the stand-in's trace {}: {e}", path.display()));
    EtlFile::open(file).expect("the stand-in's trace")
}

/// Every record in order, with its time as FILETIME; goes on while `each` says so.
pub fn records(file: &EtlFile<File>, mut each: impl FnMut(&Record<'_>, u64) -> bool) {
    let clock = file.header().clock;
    let mut reader = RecordReader::new(file);
    while let Some(record) = reader.next_record().expect("the stand-in's trace") {
        let time = unix_ns_to_filetime(clock.unix_ns(record.time.unwrap_or(0)));
        if !each(&record, time) {
            return;
        }
    }
}

/// One who is shown records.
#[derive(Clone, Copy)]
pub struct Audience {
    pub callback: Callback,
    pub context: usize,
}

impl Audience {
    /// Shows a recorded record as a live one.
    pub fn show(self, record: &Record<'_>, filetime: u64, stack: bool) {
        let item = |kind: u16, data: &[u8]| EVENT_HEADER_EXTENDED_DATA_ITEM {
            ExtType: kind,
            DataSize: u16::try_from(data.len()).unwrap(),
            DataPtr: data.as_ptr() as u64,
            ..Default::default()
        };
        let calls: Vec<u8> = STACK.iter().flat_map(|n| n.to_le_bytes()).collect();
        let mut items: Vec<EVENT_HEADER_EXTENDED_DATA_ITEM> =
            record.ext.into_iter().map(|ext| item(ext.kind, ext.data)).collect();
        if stack {
            items.push(item(EXT_STACK_TRACE64, &calls));
        }
        // exactly as long as they say, so that a read beyond is one outside of the allocation
        let mut data: Box<[u8]> = record.data.into();
        let mut raw = EVENT_RECORD::default();
        let header = &mut raw.EventHeader;
        header.Flags = if record.pointer_size == 4 { FLAG_32_BIT } else { FLAG_64_BIT };
        header.Flags |= FLAG_PROCESSOR_INDEX;
        if record.identity != Identity::Event {
            header.Flags |= FLAG_CLASSIC;
        }
        header.ThreadId = record.tid;
        header.ProcessId = record.pid;
        header.TimeStamp = filetime.cast_signed();
        header.ProviderId = guid(&record.class());
        header.ActivityId = guid(&record.activity);
        header.Anonymous.ProcessorTime = record.processor_time;
        header.EventDescriptor.Id = record.id;
        header.EventDescriptor.Version = record.version as u8;
        header.EventDescriptor.Channel = record.channel;
        header.EventDescriptor.Level = record.level;
        header.EventDescriptor.Opcode = record.opcode;
        header.EventDescriptor.Task = record.task;
        header.EventDescriptor.Keyword = record.keyword;
        raw.BufferContext.Anonymous.ProcessorIndex = record.cpu;
        raw.ExtendedDataCount = u16::try_from(items.len()).unwrap();
        raw.ExtendedData = items.as_mut_ptr();
        raw.UserDataLength = u16::try_from(data.len()).unwrap();
        raw.UserData = data.as_mut_ptr().cast();
        self.call(&mut raw);
    }

    /// Shows what the system does not promise not to show: nothing at all, and a record that
    /// points nowhere.
    pub fn show_nothing(self) {
        // SAFETY: the callback is the one that was opened with, and takes a null pointer
        unsafe { (self.callback)(std::ptr::null_mut()) };
        let mut raw = EVENT_RECORD::default();
        raw.ExtendedDataCount = 9;
        raw.UserDataLength = 99;
        // of nobody's provider; groups get it
        self.call(&mut raw);
    }

    /// Shows the record by which the system tells of lost events.
    pub fn show_loss(self, filetime: u64) {
        let mut raw = EVENT_RECORD::default();
        raw.EventHeader.Flags = FLAG_64_BIT | FLAG_CLASSIC;
        raw.EventHeader.ProviderId = guid(&LOST_EVENT);
        raw.EventHeader.TimeStamp = filetime.cast_signed();
        raw.EventHeader.EventDescriptor.Opcode = 32;
        self.call(&mut raw);
    }

    fn call(self, raw: &mut EVENT_RECORD) {
        raw.UserContext = self.context as *mut c_void;
        // SAFETY: the callback is the one that was opened with; all it is shown lives until it returns
        unsafe { (self.callback)(raw) };
    }
}
