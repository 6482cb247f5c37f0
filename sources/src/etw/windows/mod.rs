//! A live session through ferrisetw, with its known defects contained:
//!
//! * it ends the process when a callback panics: no panic leaves [`live`];
//! * it hides payload and extended items: [`raw`] reads the system's own record;
//! * it drops records of providers it was not given, the system's notes of lost events among
//!   them: the class of these is given to it as one more provider;
//! * it tells no loss: [`control`] asks each second, the difference becomes a gap;
//! * it drops what is in the buffers when a trace is closed: the session is flushed and
//!   stopped first, and closed when all has come;
//! * it refuses a session name that is in use: a session a crash left behind is stopped and
//!   begun anew, one that is not ours is left alone;
//! * it leaves the session behind when a provider cannot be enabled: it is stopped here;
//! * it hands on only events whose provider was named: groups are read by [`consumer`].

mod consumer;
mod control;
mod live;
mod raw;
mod tdh;

pub(crate) use tdh::System;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ferrisetw::native::EvntraceNativeError;
use ferrisetw::provider::kernel_providers::KernelProvider;
use ferrisetw::provider::{Provider, ProviderBuilder, TraceFlags};
use ferrisetw::trace::{KernelTrace, LoggingMode, TraceError, TraceProperties, TraceTrait, UserTrace};
use tidegate_proto::guid;
use tidegate_proto::own::Gap;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{EtwConfig, EtwProvider, KernelFlag};
use crate::source::{BoxFuture, Outlet, Source, SourceEnd, SourceError, SourceInfo};
use consumer::Consumer;
use control::{Claim, Code, Stats};
use live::Live;
use raw::{guid_bytes, guid_of, raw};

/// How often a session is asked what it lost, and a part-filled batch handed over.
const TICK: Duration = Duration::from_secs(1);
/// How long the last events are waited for when a session ends.
const FAREWELL: Duration = Duration::from_millis(700);
/// Time until a lost session is begun again, doubled up to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Class of the records that tell a session what it lost, `6a399ae0-4bc6-4de9-870b-3657f8947e7e`.
/// Source: KernelTraceEventParser.cs (microsoft/perfview, MIT).
const LOST_EVENT: [u8; 16] =
    [0xe0, 0x9a, 0x39, 0x6a, 0xc6, 0x4b, 0xe9, 0x4d, 0x87, 0x0b, 0x36, 0x57, 0xf8, 0x94, 0x7e, 0x7e];

// Source: winerror.h.
const ACCESS_DENIED: u32 = 5;
const INVALID_PARAMETER: u32 = 87;
const ALREADY_EXISTS: u32 = 183;
const NO_SYSTEM_RESOURCES: u32 = 1450;
const INSTANCE_NOT_FOUND: u32 = 4201;

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Listens to a live session.
#[derive(Debug)]
pub(super) struct EtwSource {
    name: String,
    config: Arc<EtwConfig>,
}

impl EtwSource {
    pub(super) fn new(name: &str, config: EtwConfig) -> EtwSource {
        EtwSource { name: name.to_owned(), config: Arc::new(config) }
    }
}

impl Source for EtwSource {
    fn info(&self) -> SourceInfo {
        SourceInfo { name: self.name.clone(), kind: "etw", can_wait: false }
    }

    fn run(
        self: Box<Self>,
        out: Outlet,
        stop: CancellationToken,
    ) -> BoxFuture<'static, Result<SourceEnd, SourceError>> {
        Box::pin(async move {
            let EtwSource { config, .. } = *self;
            let _claim = Claim::of(&config.session).ok_or_else(|| {
                SourceError::Session(format!(
                    "another collector on this machine runs the session \"{0}\": stop it, or give this source \
                     another name with session = \"...\"; logman query \"{0}\" -ets shows the session",
                    config.session
                ))
            })?;
            let system = config.decoder.schemas(&config.session)?;
            let live = Arc::new(Live::new(&config.session, system, out));
            let mut end = SourceEnd::default();
            let mut wait = BACK_OFF.0;
            let mut ever = false;
            let mut gaps = Vec::new();
            loop {
                let (starting, with) = (Arc::clone(&config), Arc::clone(&live));
                let started = tokio::task::spawn_blocking(move || Session::start(&starting, &with)).await;
                let started = started.map_err(|_| died(&config.session))?;
                let ended = match started {
                    Ok(session) => {
                        ever = true;
                        live.tick(&std::mem::take(&mut gaps));
                        wait = BACK_OFF.0;
                        watch(session, &config, &live, &stop, &mut end).await
                    }
                    // what cannot work at first does not work later
                    Err(Failure { code: ACCESS_DENIED, words }) => return Err(SourceError::Denied(words)),
                    Err(Failure { words, .. }) if !ever => return Err(SourceError::Session(words)),
                    Err(Failure { words, .. }) => words,
                };
                if stop.is_cancelled() {
                    end.stopped = true;
                    return Ok(end);
                }
                tracing::warn!(
                    session = config.session,
                    reason = ended,
                    "the session is lost; it is begun anew"
                );
                note(&mut end, &config.session, &ended);
                gaps = vec![gap(&config.session, "session_lost", None, ended)];
                tokio::select! {
                    () = stop.cancelled() => {
                        live.tick(&gaps);
                        end.stopped = true;
                        return Ok(end);
                    }
                    () = tokio::time::sleep(jittered(wait)) => {}
                }
                wait = (wait * 2).min(BACK_OFF.1);
            }
        })
    }
}

fn died(session: &str) -> SourceError {
    SourceError::Session(format!("starting session \"{session}\" failed inside of the program"))
}

/// Up to a quarter more, so that many collectors do not come back at once.
fn jittered(wait: Duration) -> Duration {
    let share = u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos());
    wait + wait.mul_f64((share % 1000) as f64 / 4000.0)
}

fn note(end: &mut SourceEnd, session: &str, words: &str) {
    end.problem_count += 1;
    if end.problems.len() < 100 {
        end.problems.push(format!("session \"{session}\": {words}"));
    }
}

fn gap(session: &str, reason: &str, events: Option<u64>, detail: String) -> Gap {
    Gap {
        origin: session.to_owned(),
        reason: reason.to_owned(),
        events,
        detail,
        offset: None,
        time_ns: now_ns(),
    }
}

/// Runs a session until it is stopped or lost; says in words how it ended.
async fn watch(
    mut session: Session,
    config: &EtwConfig,
    live: &Live,
    stop: &CancellationToken,
    end: &mut SourceEnd,
) -> String {
    let name = config.session.as_str();
    let mut seen = Stats::default();
    let mut over = false;
    let mut clock = tokio::time::interval(TICK);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let ended = loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break "stopped".to_owned(),
            result = &mut session.ended => {
                over = true;
                break result.unwrap_or_else(|_| "the processing thread died".to_owned());
            }
            _ = clock.tick() => {
                let gaps = losses(name, &mut seen, end);
                if !live.tick(&gaps) {
                    stop.cancelled().await;
                    break "nobody takes its events".to_owned();
                }
            }
        }
    };
    // Flushed and stopped, the session hands over all it has; then processing ends by itself.
    let _ = control::flush(name);
    let gaps = losses(name, &mut seen, end);
    let stopped = control::stop(name);
    if !over && stopped.is_ok() {
        let _ = tokio::time::timeout(FAREWELL, &mut session.ended).await;
    }
    live.tick(&gaps);
    // closing waits for a callback that runs
    let _ = tokio::task::spawn_blocking(move || drop(session)).await;
    ended
}

/// What was lost since the last look.
fn losses(session: &str, seen: &mut Stats, end: &mut SourceEnd) -> Vec<Gap> {
    let Ok(now) = control::query(session) else { return Vec::new() };
    let events = now.events_lost.wrapping_sub(seen.events_lost);
    let buffers = now.buffers_lost.wrapping_sub(seen.buffers_lost);
    *seen = now;
    let mut gaps = Vec::new();
    if events > 0 {
        let detail =
            format!("the session had no buffer for {events} events: raise max_buffers or buffer_kib");
        note(end, session, &detail);
        gaps.push(gap(session, "lost_events", Some(u64::from(events)), detail));
    }
    if buffers > 0 {
        let detail = format!("{buffers} full buffers were not taken in time: raise max_buffers");
        note(end, session, &detail);
        gaps.push(gap(session, "lost_buffer", None, detail));
    }
    gaps
}

/// Why a session does not start.
struct Failure {
    code: u32,
    words: String,
}

/// A session that runs; stopped when it is dropped, if it was not before.
struct Session {
    name: String,
    /// Tells in words how processing ended.
    ended: oneshot::Receiver<String>,
    _trace: Trace,
}

/// What ferrisetw holds of a session.
enum Trace {
    User {
        _trace: UserTrace,
    },
    Kernel {
        _trace: KernelTrace,
    },
    /// Nothing: a [`Consumer`] reads it.
    Own,
}

impl Drop for Session {
    fn drop(&mut self) {
        // gone already, mostly
        let _ = control::stop(&self.name);
    }
}

impl Session {
    fn start(config: &EtwConfig, live: &Arc<Live>) -> Result<Session, Failure> {
        let started = match Session::try_start(config, live) {
            Err(Failure { code: ALREADY_EXISTS, words }) => {
                // no collector that runs has the name: a crash left it behind, or it is not ours
                if !control::query(&config.session).is_ok_and(|stats| stats.live_only) {
                    return Err(Failure { code: ALREADY_EXISTS, words });
                }
                tracing::info!(
                    session = config.session,
                    "a session of this name was left behind: stopping it"
                );
                let _ = control::stop(&config.session);
                Session::try_start(config, live)
            }
            other => other,
        };
        if let Err(Failure { code, .. }) = &started
            && *code != ALREADY_EXISTS
        {
            // begun, perhaps, and then a provider could not be enabled
            let _ = control::stop(&config.session);
        }
        started
    }

    fn try_start(config: &EtwConfig, live: &Arc<Live>) -> Result<Session, Failure> {
        let (done, ended) = oneshot::channel();
        let properties = TraceProperties {
            buffer_size: config.buffer_kib,
            min_buffer: config.min_buffers,
            max_buffer: config.max_buffers,
            flush_timer: Duration::from_secs(u64::from(config.flush_ms.div_ceil(1000))),
            log_file_mode: if config.independent && config.kernel.is_empty() {
                LoggingMode::EVENT_TRACE_REAL_TIME_MODE | LoggingMode::EVENT_TRACE_INDEPENDENT_SESSION_MODE
            } else {
                LoggingMode::EVENT_TRACE_REAL_TIME_MODE
            },
        };
        let listen = |builder: ProviderBuilder| {
            let live = Arc::clone(live);
            builder.add_callback(move |record, _| live.take(raw(record))).build()
        };
        let lost = Provider::by_guid(guid_of(&LOST_EVENT));
        // nobody knows the providers of a group: all events go to a consumer of our own
        let groups = config.providers.iter().any(|p| p.group);
        let trace = if config.kernel.is_empty() {
            let mut builder = UserTrace::new().named(config.session.clone()).set_trace_properties(properties);
            let mut resolved = Vec::new();
            for provider in &config.providers {
                let guid = resolve(provider);
                if !resolved.iter().any(|(_, g)| *g == guid) {
                    let mut flags = TraceFlags::empty();
                    flags.set(TraceFlags::EVENT_ENABLE_PROPERTY_STACK_TRACE, provider.stack);
                    flags.set(TraceFlags::EVENT_ENABLE_PROPERTY_PROVIDER_GROUP, provider.group);
                    let wanted = Provider::by_guid(guid_of(&guid))
                        .level(provider.level)
                        .any(provider.any)
                        .all(provider.all)
                        .trace_flags(flags);
                    builder = builder.enable(if groups { wanted.build() } else { listen(wanted) });
                    resolved.push((provider, guid));
                }
            }
            let lost = if groups { lost.build() } else { listen(lost) };
            let (trace, handle) =
                builder.enable(lost).start().map_err(|e| failure("starting", config, code_of(&e)))?;
            // before anything is read: what the filters leave out must not come first
            for (provider, guid) in resolved {
                let refined =
                    control::query(&config.session).and_then(|stats| control::refine(stats, provider, &guid));
                refined.map_err(|code| {
                    let what = format!("enabling provider \"{}\" in", provider.provider);
                    failure(&what, config, code)
                })?;
            }
            if groups {
                // What is opened and not read would hold the buffers back. ferrisetw would close it
                // once more, when another session may have the same handle: it never comes to that.
                consumer::close(handle);
                std::mem::forget(trace);
                read_own(config, live, done)?;
                Trace::Own
            } else {
                process(config, done, move || {
                    UserTrace::process_from_handle(handle).map_err(|e| code_of(&e))
                })?;
                Trace::User { _trace: trace }
            }
        } else {
            let mut builder =
                KernelTrace::new().named(config.session.clone()).set_trace_properties(properties);
            for (class, flags) in classes(&config.kernel) {
                builder =
                    builder.enable(listen(Provider::kernel(&KernelProvider::new(guid_of(&class), flags))));
            }
            let builder = builder.enable(listen(lost));
            let (trace, handle) = builder.start().map_err(|e| failure("starting", config, code_of(&e)))?;
            process(config, done, move || KernelTrace::process_from_handle(handle).map_err(|e| code_of(&e)))?;
            Trace::Kernel { _trace: trace }
        };
        Ok(Session { name: config.session.clone(), ended, _trace: trace })
    }
}

/// Reads a session that was begun, with a consumer of our own.
fn read_own(config: &EtwConfig, live: &Arc<Live>, done: oneshot::Sender<String>) -> Result<(), Failure> {
    let consumer = Consumer::open(&config.session, Arc::clone(live));
    let consumer = consumer.map_err(|code| failure("opening", config, code))?;
    process(config, done, move || match consumer.process() {
        Code(0) => Ok(()),
        code => Err(code),
    })
}

/// A thread that processes a session and tells how that ended.
fn process(
    config: &EtwConfig,
    done: oneshot::Sender<String>,
    run: impl FnOnce() -> Result<(), Code> + Send + 'static,
) -> Result<(), Failure> {
    let started = std::thread::Builder::new().name("etw".to_owned()).spawn(move || {
        let words = match run() {
            Ok(()) => "somebody stopped it".to_owned(),
            Err(Code(code)) => format!("processing ended with error {code}"),
        };
        let _ = done.send(words);
    });
    started
        .map(drop)
        .map_err(|e| Failure { code: 0, words: format!("no thread for session \"{}\": {e}", config.session) })
}

/// The registered GUID of a name, or the one that the name gives.
fn resolve(provider: &EtwProvider) -> [u8; 16] {
    if provider.group || guid::parse(&provider.provider).is_some() {
        return provider.own_guid();
    }
    match Provider::by_name(&provider.provider) {
        Ok(builder) => guid_bytes(&builder.build().guid()),
        Err(_) => provider.own_guid(),
    }
}

/// The classes of kernel events, each once: a record goes to every provider of its class.
fn classes(flags: &[KernelFlag]) -> BTreeMap<[u8; 16], u32> {
    let mut all: BTreeMap<[u8; 16], u32> = BTreeMap::new();
    for flag in flags {
        for text in classes_of(*flag) {
            if let Some(class) = guid::parse(text) {
                *all.entry(class).or_default() |= flag.bit();
            }
        }
    }
    all
}

/// Source: evntrace.h and the NT Kernel Logger's documentation.
fn classes_of(flag: KernelFlag) -> &'static [&'static str] {
    match flag {
        KernelFlag::Process => &["3d6fa8d0-fe05-11d0-9dda-00c04fd7ba7c"],
        KernelFlag::Thread | KernelFlag::ContextSwitch => &["3d6fa8d1-fe05-11d0-9dda-00c04fd7ba7c"],
        KernelFlag::ImageLoad => &["2cb15d1d-5fc1-11d2-abe1-00a0c911f518"],
        KernelFlag::DiskIo => &["3d6fa8d4-fe05-11d0-9dda-00c04fd7ba7c"],
        KernelFlag::DiskFileIo | KernelFlag::FileIo => &["90cbdc39-4a3e-11d1-84f4-0000f80464e3"],
        KernelFlag::Registry => &["ae53722e-c863-11d2-8659-00c04fa321a1"],
        KernelFlag::NetworkTcpip => {
            &["9a280ac0-c8e0-11d1-84e2-00c04fb998a2", "bf3a50c5-a9c9-4988-a005-2df0b7c80f80"]
        }
        KernelFlag::HardFault => &["3d6fa8d3-fe05-11d0-9dda-00c04fd7ba7c"],
        KernelFlag::Profile => &["ce1dbfb4-137e-4da6-87b0-3f59aa102cbc"],
    }
}

/// ferrisetw keeps an HRESULT where a system code belongs.
fn code_of(error: &TraceError) -> Code {
    match error {
        TraceError::InvalidTraceName => Code(INVALID_PARAMETER),
        TraceError::EtwNativeError(EvntraceNativeError::AlreadyExist) => Code(ALREADY_EXISTS),
        TraceError::EtwNativeError(EvntraceNativeError::InvalidHandle) => Code(6),
        TraceError::EtwNativeError(EvntraceNativeError::IoError(e)) => {
            let code = e.raw_os_error().unwrap_or(0).cast_unsigned();
            // FACILITY_WIN32
            Code(if code >> 16 == 0x8007 { code & 0xffff } else { code })
        }
    }
}

/// Says what is missing and what mends it.
fn failure(what: &str, config: &EtwConfig, Code(code): Code) -> Failure {
    let session = &config.session;
    let why = match code {
        ACCESS_DENIED if config.kernel.is_empty() => {
            "access denied: the account is in neither \"Administrators\" nor \"Performance Log Users\"; \
             add it with: net localgroup \"Performance Log Users\" ACCOUNT /add (and sign in anew), or run \
             as a service"
                .to_owned()
        }
        ACCESS_DENIED => "access denied: kernel events need administrator's rights; run elevated or as a \
                          service"
            .to_owned(),
        ALREADY_EXISTS => {
            format!(
                "a session of this name runs that is not Tidegate's, or cannot be stopped; give this source \
                 another name with session = \"...\", or stop that one with: logman stop \"{session}\" -ets"
            )
        }
        NO_SYSTEM_RESOURCES => "all sessions that Windows has are in use; see them with: logman query -ets, \
                                and stop one with: logman stop NAME -ets"
            .to_owned(),
        INVALID_PARAMETER => "Windows refuses the settings; see buffer_kib and max_buffers".to_owned(),
        INSTANCE_NOT_FOUND => "the session is gone: somebody stopped it".to_owned(),
        _ => std::io::Error::from_raw_os_error(code.cast_signed()).to_string(),
    };
    Failure { code, words: format!("{what} session \"{session}\" failed (error {code}): {why}") }
}
