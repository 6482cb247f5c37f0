//! A consumer of a session's own, for what ferrisetw does not hand on: it gives an event only to
//! the provider that was named by the event's GUID, and of a group nobody knows the providers.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::Arc;

use windows::Win32::Foundation::GetLastError;
use windows::Win32::System::Diagnostics::Etw::{
    CloseTrace, EVENT_RECORD, EVENT_TRACE_LOGFILEW, EVENT_TRACE_LOGFILEW_0, EVENT_TRACE_LOGFILEW_1,
    OpenTraceW, PROCESS_TRACE_MODE_EVENT_RECORD, PROCESS_TRACE_MODE_REAL_TIME, PROCESSTRACE_HANDLE,
    ProcessTrace,
};
use windows::core::PWSTR;

use super::control::Code;
use super::live::Live;

/// A session, opened for reading; closed when it is dropped.
pub(super) struct Consumer {
    handle: PROCESSTRACE_HANDLE,
    /// What the callback's context points at.
    _live: Arc<Live>,
}

/// Takes one record for the [`Live`] that is the context.
///
/// # Safety
/// Only the system may call it, with a record of a session that [`Consumer::open`] opened, within
/// [`Consumer::process`].
unsafe extern "system" fn callback(record: *mut EVENT_RECORD) {
    // SAFETY: the system gives a valid record, or none, for the length of the call.
    let Some(record) = (unsafe { record.as_ref() }) else { return };
    // SAFETY: the context is the `Live` that the consumer owns; `process` borrows the consumer.
    let Some(live) = (unsafe { record.UserContext.cast::<Live>().cast_const().as_ref() }) else { return };
    live.take(record);
}

impl Consumer {
    /// Opens a running session.
    pub(super) fn open(session: &str, live: Arc<Live>) -> Result<Consumer, Code> {
        let mut name: Vec<u16> = session.encode_utf16().chain([0]).collect();
        let mut file = EVENT_TRACE_LOGFILEW {
            LoggerName: PWSTR(name.as_mut_ptr()),
            Anonymous1: EVENT_TRACE_LOGFILEW_0 {
                ProcessTraceMode: PROCESS_TRACE_MODE_REAL_TIME | PROCESS_TRACE_MODE_EVENT_RECORD,
            },
            Anonymous2: EVENT_TRACE_LOGFILEW_1 { EventRecordCallback: Some(callback) },
            Context: Arc::as_ptr(&live).cast_mut().cast::<c_void>(),
            ..EVENT_TRACE_LOGFILEW::default()
        };
        // SAFETY: the name ends with a zero and outlives the call; the context outlives the
        // handle, since the consumer owns it.
        let handle = unsafe { OpenTraceW(&raw mut file) };
        if handle.Value == u64::MAX || handle.Value == u64::from(u32::MAX) {
            // SAFETY: no memory is passed
            return Err(Code(unsafe { GetLastError() }.0));
        }
        Ok(Consumer { handle, _live: live })
    }

    /// Shows the events until the session ends; tells how.
    pub(super) fn process(&self) -> Code {
        // SAFETY: the handle is open; the callback takes what is shown to it.
        Code(unsafe { ProcessTrace(&[self.handle], None, None) }.0)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        close(self.handle);
    }
}

/// Closes a session that was opened for reading. It goes on, and others may read it.
pub(super) fn close(handle: PROCESSTRACE_HANDLE) {
    // SAFETY: no memory is passed; a handle that is closed already is refused
    let _ = unsafe { CloseTrace(handle) };
}
