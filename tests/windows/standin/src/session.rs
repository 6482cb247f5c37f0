//! Sessions, and the functions of advapi32.dll that control and read them.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Condvar, Mutex, MutexGuard};

use tidegate_etl::{Identity, Record};
use windows::Win32::System::Diagnostics::Etw::{
    ENABLE_TRACE_PARAMETERS, EVENT_TRACE_LOGFILEW, EVENT_TRACE_PROPERTIES,
};
use windows::core::{GUID, PCWSTR};

use crate::play::{self, Audience};

/// Events that a played session says it lost.
const LOST: u32 = 3;

// Source: winerror.h.
const ACCESS_DENIED: u32 = 5;
const INVALID_HANDLE: u32 = 6;
const INVALID_PARAMETER: u32 = 87;
const ALREADY_EXISTS: u32 = 183;
const INSTANCE_NOT_FOUND: u32 = 4201;

// Source: evntrace.h, evntprov.h.
const CONTROL_STOP: u32 = 1;
const ENABLE_PROVIDER: u32 = 1;
const CAPTURE_STATE: u32 = 2;
const PROPERTY_STACK_TRACE: u32 = 0x4;
const PROPERTY_PROVIDER_GROUP: u32 = 0x20;
const FILTER_PID: u32 = 0x8000_0004;
const FILTER_EVENT_ID: u32 = 0x8000_0200;
const REAL_TIME: u32 = 0x100;
const SYSTEM_LOGGER: u32 = 0x0200_0000;
const INDEPENDENT: u32 = 0x0800_0000;

/// What a session wants of a provider or group.
#[derive(Clone, Default)]
struct Enabled {
    guid: [u8; 16],
    group: bool,
    stack: bool,
    state: bool,
    level: u8,
    any: u64,
    all: u64,
    /// Whether these are the wanted ids, or those that are not.
    ids_in: bool,
    ids: Vec<u16>,
    pids: Vec<u32>,
}

impl Enabled {
    fn wants(&self, record: &Record<'_>) -> bool {
        let ours = if self.group { group(record) == Some(self.guid) } else { record.provider == self.guid };
        let leveled = self.level == 0 || record.level <= self.level;
        let keyword = record.keyword == 0
            || (self.any == 0 || record.keyword & self.any != 0) && record.keyword & self.all == self.all;
        let id = self.ids.is_empty() || self.ids.contains(&record.id) == self.ids_in;
        ours && leveled && keyword && id && (self.pids.is_empty() || self.pids.contains(&record.pid))
    }
}

/// The group in the traits that an event carries: a size, the name, then traits of a size, a kind
/// and data. Source: TraceLoggingProvider.h.
fn group(record: &Record<'_>) -> Option<[u8; 16]> {
    let traits = record.ext.into_iter().find(|e| e.kind == 12)?.data;
    let name = traits.get(2..)?.iter().position(|b| *b == 0)?;
    let mut rest = traits.get(2 + name + 1..)?;
    while let [low, high, kind, ..] = *rest {
        let size = usize::from(u16::from_le_bytes([low, high]));
        if kind == 1 {
            return rest.get(3..19)?.try_into().ok();
        }
        rest = rest.get(size.max(3)..)?;
    }
    None
}

#[derive(Default)]
struct Session {
    name: String,
    running: bool,
    /// Another had the name before, and still has it.
    other: bool,
    begun: u32,
    played: bool,
    mode: u32,
    kernel_flags: u32,
    enabled: Vec<Enabled>,
}

impl Session {
    fn is(&self, mode: &str) -> bool {
        self.name.split(' ').any(|word| word == mode)
    }
}

struct Consumer {
    session: u64,
    audience: Audience,
}

#[derive(Default)]
struct World {
    /// By handle.
    sessions: BTreeMap<u64, Session>,
    consumers: BTreeMap<u64, Consumer>,
    last: u64,
}

static WORLD: Mutex<World> =
    Mutex::new(World { sessions: BTreeMap::new(), consumers: BTreeMap::new(), last: 0 });
static STOPPED: Condvar = Condvar::new();

fn world() -> MutexGuard<'static, World> {
    WORLD.lock().unwrap()
}

impl World {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The session of a name; made, not yet running, when there was none.
    fn named(&mut self, name: &str) -> u64 {
        if let Some((handle, _)) = self.sessions.iter().find(|(_, s)| s.name == name) {
            return *handle;
        }
        let mut session = Session { name: name.to_owned(), ..Session::default() };
        session.other = session.is("left") || session.is("foreign");
        let handle = self.next();
        self.sessions.insert(handle, session);
        handle
    }
}

/// # Safety
/// The text must end with a zero.
unsafe fn text(at: *const u16) -> String {
    // SAFETY: the caller's promise
    unsafe { PCWSTR::from_raw(at).to_string() }.expect("a session's name")
}

/// # Safety
/// As of the function of Windows.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn StartTraceW(
    handle: *mut u64,
    name: *const u16,
    properties: *mut EVENT_TRACE_PROPERTIES,
) -> u32 {
    // SAFETY: the caller's promise
    let (name, properties) = unsafe { (text(name), &*properties) };
    let mut world = world();
    let own = world.named(&name);
    let session = world.sessions.get_mut(&own).unwrap();
    if session.is("denied") {
        return ACCESS_DENIED;
    }
    if session.running || session.other {
        return ALREADY_EXISTS;
    }
    let mode = properties.LogFileMode;
    let kernel = mode & SYSTEM_LOGGER != 0;
    // what Windows refuses together, and what this program promises
    if mode & REAL_TIME == 0 || kernel && mode & INDEPENDENT != 0 || properties.BufferSize == 0 {
        return INVALID_PARAMETER;
    }
    session.running = true;
    session.begun += 1;
    session.played = false;
    session.mode = mode;
    session.kernel_flags = properties.EnableFlags.0;
    session.enabled.clear();
    // SAFETY: the caller's promise
    unsafe { *handle = own };
    0
}

/// # Safety
/// As of the function of Windows.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn ControlTraceW(
    handle: u64,
    name: *const u16,
    properties: *mut EVENT_TRACE_PROPERTIES,
    code: u32,
) -> u32 {
    let mut world = world();
    // SAFETY: the caller's promise
    let own = if name.is_null() { handle } else { world.named(&unsafe { text(name) }) };
    let Some(session) = world.sessions.get_mut(&own) else { return INSTANCE_NOT_FOUND };
    // SAFETY: the caller's promise
    let properties = unsafe { &mut *properties };
    if session.other {
        if code == CONTROL_STOP {
            if session.is("foreign") {
                eprintln!("the stand-in: a session of somebody else was stopped");
                std::process::abort();
            }
            session.other = false;
        }
        properties.LogFileMode = if session.is("foreign") { 1 } else { REAL_TIME };
        return 0;
    }
    if !session.running {
        return INSTANCE_NOT_FOUND;
    }
    properties.Wnode.Anonymous1.HistoricalContext = own;
    properties.LogFileMode = session.mode;
    properties.EventsLost = if session.played { LOST } else { 0 };
    properties.RealTimeBuffersLost = 0;
    if code == CONTROL_STOP {
        session.running = false;
        STOPPED.notify_all();
    }
    0
}

/// # Safety
/// As of the function of Windows.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn EnableTraceEx2(
    handle: u64,
    provider: *const GUID,
    code: u32,
    level: u8,
    any: u64,
    all: u64,
    _timeout: u32,
    parameters: *const ENABLE_TRACE_PARAMETERS,
) -> u32 {
    let mut world = world();
    let Some(session) = world.sessions.get_mut(&handle).filter(|s| s.running) else { return INVALID_HANDLE };
    if session.is("refuses") {
        return ACCESS_DENIED;
    }
    // SAFETY: the caller's promise
    let guid = play::bytes(unsafe { &*provider });
    if code == CAPTURE_STATE {
        let Some(enabled) = session.enabled.iter_mut().find(|e| e.guid == guid) else {
            return INVALID_PARAMETER;
        };
        enabled.state = true;
        return 0;
    }
    if code != ENABLE_PROVIDER {
        return INVALID_PARAMETER;
    }
    let mut enabled = Enabled { guid, level, any, all, ..Enabled::default() };
    // SAFETY: the caller's promise
    if let Some(parameters) = unsafe { parameters.as_ref() } {
        enabled.group = parameters.EnableProperty & PROPERTY_PROVIDER_GROUP != 0;
        enabled.stack = parameters.EnableProperty & PROPERTY_STACK_TRACE != 0;
        for n in 0..parameters.FilterDescCount as usize {
            // SAFETY: the caller's promise: so many descriptors, each of so many bytes
            let (filter, data) = unsafe {
                let filter = &*parameters.EnableFilterDesc.add(n);
                (filter, std::slice::from_raw_parts(filter.Ptr as *const u8, filter.Size as usize))
            };
            let halves = || data.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
            match filter.Type {
                FILTER_PID => {
                    enabled.pids = data.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
                }
                FILTER_EVENT_ID => {
                    enabled.ids_in = data[0] != 0;
                    enabled.ids = halves().skip(2).collect();
                    if usize::from(halves().nth(1).unwrap()) != enabled.ids.len() {
                        return INVALID_PARAMETER;
                    }
                }
                _ => return INVALID_PARAMETER,
            }
        }
    }
    session.enabled.retain(|e| e.guid != guid);
    session.enabled.push(enabled);
    0
}

/// # Safety
/// As of the function of Windows.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn OpenTraceW(logfile: *mut EVENT_TRACE_LOGFILEW) -> u64 {
    // SAFETY: the caller's promise; it has set PROCESS_TRACE_MODE_EVENT_RECORD
    let (name, callback, context) = unsafe {
        let logfile = &*logfile;
        (text(logfile.LoggerName.0), logfile.Anonymous2.EventRecordCallback, logfile.Context as usize)
    };
    let mut world = world();
    let session = world.named(&name);
    let Some(callback) = callback.filter(|_| world.sessions[&session].running) else { return u64::MAX };
    let handle = world.next();
    world.consumers.insert(handle, Consumer { session, audience: Audience { callback, context } });
    handle
}

/// # Safety
/// As of the function of Windows.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn CloseTrace(handle: u64) -> u32 {
    if world().consumers.remove(&handle).is_some() { 0 } else { INVALID_HANDLE }
}

/// # Safety
/// As of the function of Windows.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn ProcessTrace(
    handles: *const u64,
    _count: u32,
    _start: *const c_void,
    _end: *const c_void,
) -> u32 {
    // SAFETY: the caller's promise
    let handle = unsafe { *handles };
    let (own, audience, name, kernel, enabled, breaks) = {
        let world = world();
        let Some(consumer) = world.consumers.get(&handle) else { return INVALID_HANDLE };
        let s = &world.sessions[&consumer.session];
        let kernel = (s.mode & SYSTEM_LOGGER != 0).then_some(s.kernel_flags);
        let breaks = s.is("breaks") && s.begun == 1;
        (consumer.session, consumer.audience, s.name.clone(), kernel, s.enabled.clone(), breaks)
    };
    audience.show_nothing();
    let mut states: Vec<[u8; 16]> = enabled.iter().filter(|e| e.state).map(|e| e.guid).collect();
    let (mut played, mut last) = (0, 0);
    play::records(&play::open(name.split(' ').next().unwrap_or_default()), |record, time| {
        let wanted = match (record.identity, kernel) {
            (Identity::Kernel { group }, Some(flags)) => kernel_flag(group, record.opcode) & flags != 0,
            (Identity::Event | Identity::Classic, None) => enabled.iter().any(|e| e.wants(record)),
            _ => false,
        };
        if !wanted {
            return true;
        }
        let stack = enabled.iter().any(|e| e.stack && e.wants(record));
        if let Some(at) = states.iter().position(|g| *g == record.provider) {
            states.remove(at);
            audience.show(record, time, stack);
        }
        audience.show(record, time, stack);
        (played, last) = (played + 1, time);
        !(breaks && played == 3)
    });
    let mut world = world();
    if breaks {
        world.sessions.get_mut(&own).unwrap().running = false;
        return 0;
    }
    drop(world);
    audience.show_loss(last);
    world = self::world();
    world.sessions.get_mut(&own).unwrap().played = true;
    while world.sessions[&own].running && world.consumers.contains_key(&handle) {
        world = STOPPED.wait(world).unwrap();
    }
    0
}

/// The flag that makes the kernel write an event. Source: evntrace.h.
fn kernel_flag(group: u8, opcode: u8) -> u32 {
    match (group, opcode) {
        (3, 10) | (20, _) => 0x4,
        (3, _) => 0x1,
        (5, 36) => 0x10,
        (5, _) => 0x2,
        _ => 0,
    }
}
