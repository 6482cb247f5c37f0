//! Schemas of the system: registered manifests and classes, asked of TDH.
#![allow(unsafe_code)]

use tidegate_etl::{EventSchema, Record, SchemaSource};
use windows::Win32::System::Diagnostics::Etw::{
    EVENT_MAP_INFO, EVENT_RECORD, TRACE_EVENT_INFO, TdhGetEventInformation, TdhGetEventMapInformation,
};
use windows::core::PCWSTR;

use super::raw::with_raw;

/// Largest schema or value map asked of the system, in bytes.
const MAX_ANSWER: u32 = 1 << 20;
/// Value maps asked for one event.
const MAX_MAPS: usize = 64;
/// What TDH says when the buffer is too small. Source: winerror.h.
const INSUFFICIENT_BUFFER: u32 = 122;

/// This very Windows.
#[derive(Debug)]
pub(crate) struct System;

impl SchemaSource for System {
    fn schema(&mut self, record: &Record<'_>) -> Option<EventSchema> {
        with_raw(record, |raw| {
            let info = event_info(raw)?;
            let names = EventSchema::map_names(&info);
            let maps = names.iter().take(MAX_MAPS).filter_map(|name| event_map(raw, name)).collect();
            Some(EventSchema { info, maps })
        })
    }
}

/// Asks twice: for the size, and for the answer. `ask` gets a buffer of that many bytes, aligned
/// for the structures of TDH.
fn answer(mut ask: impl FnMut(Option<*mut u64>, &mut u32) -> u32) -> Option<Vec<u8>> {
    let mut size = 0;
    if ask(None, &mut size) != INSUFFICIENT_BUFFER || !(1..=MAX_ANSWER).contains(&size) {
        return None;
    }
    let mut buffer = vec![0u64; (size as usize).div_ceil(8)];
    let room = size;
    if ask(Some(buffer.as_mut_ptr()), &mut size) != 0 || size > room {
        return None;
    }
    let mut bytes: Vec<u8> = buffer.iter().flat_map(|n| n.to_ne_bytes()).collect();
    bytes.truncate(room as usize);
    Some(bytes)
}

/// The TRACE_EVENT_INFO of a record.
fn event_info(raw: &EVENT_RECORD) -> Option<Vec<u8>> {
    answer(|buffer, size| {
        let info = buffer.map(<*mut u64>::cast::<TRACE_EVENT_INFO>);
        // SAFETY: `raw` and all it points at are valid for the call; a buffer has room for `size`
        // bytes and is aligned.
        unsafe { TdhGetEventInformation(raw, None, info, size) }
    })
}

/// The EVENT_MAP_INFO of a value map of a record.
fn event_map(raw: &EVENT_RECORD, name: &str) -> Option<Vec<u8>> {
    let name: Vec<u16> = name.encode_utf16().chain([0]).collect();
    answer(|buffer, size| {
        let map = buffer.map(<*mut u64>::cast::<EVENT_MAP_INFO>);
        // SAFETY: as above; the name ends with a zero and outlives the call.
        unsafe { TdhGetEventMapInformation(raw, PCWSTR::from_raw(name.as_ptr()), map, size) }
    })
}
