//! The system's own record as borrowed bytes, and back.
//!
//! ferrisetw keeps payload and extended data items to itself (they are `pub(crate)` in
//! 1.2.0, the version that the manifest pins). Its `EventRecord` is `repr(transparent)` over
//! `EVENT_RECORD`; that is what this relies on, and what the assertion below watches.
#![allow(unsafe_code)]

use std::slice;

use ferrisetw::EventRecord;
use tidegate_etl::{Ext, ExtItems, Identity, Record, RecordKind};
use windows::Win32::System::Diagnostics::Etw::{EVENT_HEADER_EXTENDED_DATA_ITEM, EVENT_RECORD};
use windows::core::GUID;

const _: () = assert!(
    size_of::<EventRecord>() == size_of::<EVENT_RECORD>()
        && align_of::<EventRecord>() == align_of::<EVENT_RECORD>()
);

/// Extended data items taken of one record; there are some twenty kinds.
const MAX_EXT: usize = 32;

// Source: evntcons.h.
const FLAG_TRACE_MESSAGE: u16 = 0x0008;
const FLAG_32_BIT: u16 = 0x0020;
const FLAG_64_BIT: u16 = 0x0040;
const FLAG_PROCESSOR_INDEX: u16 = 0x0200;
const FLAG_CLASSIC: u16 = 0x0100;

/// The bytes of a GUID as ETW keeps them.
pub(super) fn guid_bytes(guid: &GUID) -> [u8; 16] {
    let mut out = [0; 16];
    let parts = guid.data1.to_le_bytes().into_iter();
    let parts = parts.chain(guid.data2.to_le_bytes()).chain(guid.data3.to_le_bytes()).chain(guid.data4);
    for (to, from) in out.iter_mut().zip(parts) {
        *to = from;
    }
    out
}

/// The GUID of such bytes.
pub(super) fn guid_of(bytes: &[u8; 16]) -> GUID {
    let [a0, a1, a2, a3, b0, b1, c0, c1, d @ ..] = *bytes;
    GUID::from_values(
        u32::from_le_bytes([a0, a1, a2, a3]),
        u16::from_le_bytes([b0, b1]),
        u16::from_le_bytes([c0, c1]),
        d,
    )
}

/// The system's record behind ferrisetw's.
pub(super) fn raw(record: &EventRecord) -> &EVENT_RECORD {
    let ptr: *const EventRecord = record;
    // SAFETY: `EventRecord` is repr(transparent) over `EVENT_RECORD` of this very version of
    // `windows` (both versions are pinned), so the reference is valid for the same lifetime.
    unsafe { &*ptr.cast::<EVENT_RECORD>() }
}

/// `len` bytes at `ptr`; none when there is no pointer.
///
/// # Safety
/// A `ptr` that is not null must be readable for `len` bytes as long as `'a`.
unsafe fn bytes<'a>(ptr: *const u8, len: u16) -> &'a [u8] {
    if ptr.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise; u8 needs no alignment, and a u16 length is far below isize.
    unsafe { slice::from_raw_parts(ptr, usize::from(len)) }
}

/// Shows a live record as the decoder takes it. Its time is a FILETIME.
pub(super) fn with_record<T>(raw: &EVENT_RECORD, show: impl FnOnce(&Record<'_>) -> T) -> T {
    let header = &raw.EventHeader;
    let descriptor = &header.EventDescriptor;
    // SAFETY: for the length of the callback, which `raw` does not outlive, the system keeps
    // UserDataLength bytes readable at UserData.
    let data = unsafe { bytes(raw.UserData.cast::<u8>().cast_const(), raw.UserDataLength) };
    let mut items = [Ext { kind: 0, data: &[] }; MAX_EXT];
    let count = usize::from(raw.ExtendedDataCount).min(MAX_EXT);
    let count = if raw.ExtendedData.is_null() { 0 } else { count };
    for (n, to) in items.iter_mut().enumerate().take(count) {
        // SAFETY: the system keeps ExtendedDataCount items at ExtendedData, and `n` is below it.
        let item = unsafe { &*raw.ExtendedData.add(n) };
        // SAFETY: the system keeps DataSize bytes readable at DataPtr for the callback's length.
        let data = unsafe { bytes(item.DataPtr as *const u8, item.DataSize) };
        *to = Ext { kind: item.ExtType, data };
    }
    let narrow = header.Flags & FLAG_32_BIT != 0;
    let classic = header.Flags & FLAG_CLASSIC != 0;
    let identity = if header.Flags & FLAG_TRACE_MESSAGE != 0 {
        Identity::Message { number: descriptor.Id, flags: 2, sequence: None, component: None }
    } else if classic {
        Identity::Classic
    } else {
        Identity::Event
    };
    let kind = match (identity, narrow) {
        (Identity::Message { .. }, _) => RecordKind::Message,
        (Identity::Classic, true) => RecordKind::Full32,
        (Identity::Classic, false) => RecordKind::Full64,
        (_, true) => RecordKind::Event32,
        (_, false) => RecordKind::Event64,
    };
    // SAFETY: both members of the unions are plain numbers of the same bytes.
    let (index, processor_time) =
        unsafe { (raw.BufferContext.Anonymous.ProcessorIndex, header.Anonymous.ProcessorTime) };
    // without the flag only the low byte is the processor, the other is an alignment
    let cpu = if header.Flags & FLAG_PROCESSOR_INDEX != 0 { index } else { index & 0xff };
    let event = identity == Identity::Event;
    show(&Record {
        kind,
        identity,
        provider: guid_bytes(&header.ProviderId),
        id: if event { descriptor.Id } else { 0 },
        version: u16::from(descriptor.Version),
        channel: descriptor.Channel,
        level: descriptor.Level,
        opcode: descriptor.Opcode,
        task: descriptor.Task,
        keyword: descriptor.Keyword,
        activity: guid_bytes(&header.ActivityId),
        time: Some(header.TimeStamp.cast_unsigned()),
        pid: header.ProcessId,
        tid: header.ThreadId,
        cpu,
        pointer_size: if narrow { 4 } else { 8 },
        processor_time,
        instance: None,
        parent_class: [0; 16],
        ext: ExtItems::from_list(items.get(..count).unwrap_or_default()),
        data,
    })
}

/// Shows a record, of a file or live, as the system's functions take it; its time is left out.
/// What it points at is only to be read.
pub(super) fn with_raw<T>(record: &Record<'_>, show: impl FnOnce(&EVENT_RECORD) -> T) -> T {
    let items = record.ext.into_iter().take(MAX_EXT);
    let mut items: Vec<EVENT_HEADER_EXTENDED_DATA_ITEM> = items
        .map(|ext| EVENT_HEADER_EXTENDED_DATA_ITEM {
            ExtType: ext.kind,
            DataSize: u16::try_from(ext.data.len()).unwrap_or(0),
            DataPtr: ext.data.as_ptr() as u64,
            ..Default::default()
        })
        .collect();
    let mut raw = EVENT_RECORD::default();
    let header = &mut raw.EventHeader;
    header.Flags = if record.pointer_size == 4 { FLAG_32_BIT } else { FLAG_64_BIT };
    header.Flags |= match record.identity {
        Identity::Classic | Identity::Kernel { .. } => FLAG_CLASSIC,
        Identity::Message { .. } => FLAG_TRACE_MESSAGE,
        Identity::Event | Identity::Other => 0,
    };
    header.ThreadId = record.tid;
    header.ProcessId = record.pid;
    header.ProviderId = guid_of(&record.class());
    header.ActivityId = guid_of(&record.activity);
    header.EventDescriptor.Id = record.id;
    header.EventDescriptor.Version = u8::try_from(record.version).unwrap_or(u8::MAX);
    header.EventDescriptor.Channel = record.channel;
    header.EventDescriptor.Level = record.level;
    header.EventDescriptor.Opcode = record.opcode;
    header.EventDescriptor.Task = record.task;
    header.EventDescriptor.Keyword = record.keyword;
    raw.ExtendedDataCount = u16::try_from(items.len()).unwrap_or(0);
    raw.ExtendedData = items.as_mut_ptr();
    raw.UserDataLength = u16::try_from(record.data.len()).unwrap_or(0);
    raw.UserData = record.data.as_ptr().cast_mut().cast();
    show(&raw)
}
