//! What ferrisetw has no call for: a session's own statistics, filters by process, events
//! left out, the state of providers, flushing.
#![allow(unsafe_code)]

use windows::Win32::Foundation::{CloseHandle, ERROR_ALREADY_EXISTS, GetLastError, HANDLE};
use windows::Win32::System::Diagnostics::Etw::{
    CONTROLTRACE_HANDLE, ControlTraceW, ENABLE_TRACE_PARAMETERS, ENABLE_TRACE_PARAMETERS_VERSION_2,
    EVENT_CONTROL_CODE_CAPTURE_STATE, EVENT_CONTROL_CODE_ENABLE_PROVIDER,
    EVENT_ENABLE_PROPERTY_PROVIDER_GROUP, EVENT_ENABLE_PROPERTY_STACK_TRACE, EVENT_FILTER_DESCRIPTOR,
    EVENT_TRACE_CONTROL, EVENT_TRACE_CONTROL_FLUSH, EVENT_TRACE_CONTROL_QUERY, EVENT_TRACE_CONTROL_STOP,
    EVENT_TRACE_PROPERTIES, EVENT_TRACE_REAL_TIME_MODE, EnableTraceEx2,
};
use windows::Win32::System::Threading::CreateMutexW;
use windows::core::PCWSTR;

use super::raw::guid_of;
use crate::etw::EtwProvider;

/// Room for each of the two names behind the properties, in characters.
const NAME: usize = 1024;
// Source: evntprov.h.
const FILTER_TYPE_PID: u32 = 0x8000_0004;
const FILTER_TYPE_EVENT_ID: u32 = 0x8000_0200;

/// A code of the system, as `GetLastError` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code(pub u32);

/// What a running session says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stats {
    handle: u64,
    /// Events that found no buffer.
    pub events_lost: u32,
    /// Buffers that were not taken in time.
    pub buffers_lost: u32,
    /// Whether it is a session of the kind that this program begins: live, and to no file.
    pub live_only: bool,
}

#[repr(C)]
struct Properties {
    head: EVENT_TRACE_PROPERTIES,
    names: [[u16; NAME]; 2],
}

fn control(session: &str, code: EVENT_TRACE_CONTROL) -> Result<Stats, Code> {
    let name: Vec<u16> = session.encode_utf16().chain([0]).collect();
    let mut properties =
        Box::new(Properties { head: EVENT_TRACE_PROPERTIES::default(), names: [[0; NAME]; 2] });
    let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    properties.head.Wnode.BufferSize = size(size_of::<Properties>());
    properties.head.LoggerNameOffset = size(size_of::<EVENT_TRACE_PROPERTIES>());
    properties.head.LogFileNameOffset = size(size_of::<EVENT_TRACE_PROPERTIES>() + 2 * NAME);
    let head = (&raw mut *properties).cast::<EVENT_TRACE_PROPERTIES>();
    // SAFETY: the name ends with a zero and outlives the call; `head` is the start of a
    // structure of the size it tells, with room for both names where its offsets say.
    let status = unsafe {
        ControlTraceW(CONTROLTRACE_HANDLE { Value: 0 }, PCWSTR::from_raw(name.as_ptr()), head, code)
    };
    if status.0 != 0 {
        return Err(Code(status.0));
    }
    let head = &properties.head;
    // SAFETY: both members of the union are plain numbers of the same bytes.
    let handle = unsafe { head.Wnode.Anonymous1.HistoricalContext };
    let [_, [file, ..]] = properties.names;
    Ok(Stats {
        handle,
        events_lost: head.EventsLost,
        buffers_lost: head.RealTimeBuffersLost,
        live_only: head.LogFileMode & EVENT_TRACE_REAL_TIME_MODE != 0 && file == 0,
    })
}

/// Asks for a session's statistics.
pub(super) fn query(session: &str) -> Result<Stats, Code> {
    control(session, EVENT_TRACE_CONTROL_QUERY)
}

/// Hands over the events of buffers that are not full.
pub(super) fn flush(session: &str) -> Result<(), Code> {
    control(session, EVENT_TRACE_CONTROL_FLUSH).map(drop)
}

/// Ends a session, whoever began it. What its buffers hold is still handed over.
pub(super) fn stop(session: &str) -> Result<(), Code> {
    control(session, EVENT_TRACE_CONTROL_STOP).map(drop)
}

/// Enables a provider again with the filters that ferrisetw has not, and asks for its state.
pub(super) fn refine(stats: Stats, provider: &EtwProvider, guid: &[u8; 16]) -> Result<(), Code> {
    let filtered = !provider.ids.is_empty() || !provider.except_ids.is_empty() || !provider.pids.is_empty();
    if filtered {
        enable(stats, provider, guid, EVENT_CONTROL_CODE_ENABLE_PROVIDER.0)?;
    }
    if provider.rundown {
        enable(stats, provider, guid, EVENT_CONTROL_CODE_CAPTURE_STATE.0)?;
    }
    Ok(())
}

fn enable(stats: Stats, provider: &EtwProvider, guid: &[u8; 16], code: u32) -> Result<(), Code> {
    // EVENT_FILTER_EVENT_ID: whether the ids are in, a reserved byte, their number, the ids
    let (within, ids) = if provider.ids.is_empty() { (0, &provider.except_ids) } else { (1, &provider.ids) };
    let count = u16::try_from(ids.len()).unwrap_or(0);
    let by_id: Vec<u16> = [within, count].into_iter().chain(ids.iter().copied()).collect();
    let by_pid = &provider.pids;
    let mut filters = Vec::new();
    let mut filter = |ptr: u64, size: usize, kind: u32| {
        let size = u32::try_from(size).unwrap_or(0);
        filters.push(EVENT_FILTER_DESCRIPTOR { Ptr: ptr, Size: size, Type: kind });
    };
    if count > 0 {
        filter(by_id.as_ptr() as u64, by_id.len() * 2, FILTER_TYPE_EVENT_ID);
    }
    if !by_pid.is_empty() {
        filter(by_pid.as_ptr() as u64, by_pid.len() * 4, FILTER_TYPE_PID);
    }
    let parameters = ENABLE_TRACE_PARAMETERS {
        Version: ENABLE_TRACE_PARAMETERS_VERSION_2,
        EnableProperty: if provider.stack { EVENT_ENABLE_PROPERTY_STACK_TRACE } else { 0 }
            | if provider.group { EVENT_ENABLE_PROPERTY_PROVIDER_GROUP } else { 0 },
        EnableFilterDesc: filters.as_mut_ptr(),
        FilterDescCount: u32::try_from(filters.len()).unwrap_or(0),
        ..ENABLE_TRACE_PARAMETERS::default()
    };
    let handle = CONTROLTRACE_HANDLE { Value: stats.handle };
    let guid = guid_of(guid);
    // SAFETY: `guid`, `parameters`, the descriptors and the lists they point at all live
    // until the call returns, which copies what it keeps.
    let status = unsafe {
        EnableTraceEx2(
            handle,
            &raw const guid,
            code,
            provider.level,
            provider.any,
            provider.all,
            0,
            Some(&raw const parameters),
        )
    };
    if status.0 == 0 { Ok(()) } else { Err(Code(status.0)) }
}

/// The right to a session's name on this machine, among collectors: what tells a session that a
/// crash left behind from one that another collector runs.
pub(super) struct Claim {
    mutex: HANDLE,
}

impl Claim {
    /// Claims a name; none when another collector has it.
    pub(super) fn of(session: &str) -> Option<Claim> {
        // a backslash would be a place in the system's tree of names
        let name = format!("Global\\Tidegate-etw-{}", session.replace('\\', "/"));
        let name: Vec<u16> = name.encode_utf16().chain([0]).collect();
        // SAFETY: the name ends with a zero and outlives the call.
        let made = unsafe { CreateMutexW(None, false, PCWSTR::from_raw(name.as_ptr())) };
        // SAFETY: no memory is passed; nothing was called since.
        let there = unsafe { GetLastError() } == ERROR_ALREADY_EXISTS;
        // one of another account may not even be opened: that is an error too
        let claim = Claim { mutex: made.ok()? };
        (!there).then_some(claim)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // SAFETY: the handle is open and closed only here.
        let _ = unsafe { CloseHandle(self.mutex) };
    }
}
