//! The endpoint's side, for tests: an HTTP server on a port of its own that
//! checks every request against the strict profile, keeps the events, and can be
//! told to misbehave.
//!
//! It runs on threads, so it serves tests with and without a runtime, and whole
//! programs. It is strict where the real endpoint is said to be lenient: what it
//! takes, every receiver takes.

mod check;
mod http;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

pub use check::check_line;

/// What the recorder does with one request. Each script entry is used once, in order;
/// without one a request is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Takes the events and says so.
    Take,
    /// Takes the events and closes without a reply: the reply is lost.
    TakeAndDrop,
    /// Takes the events and sends only the first bytes of the reply.
    TakeAndCut(usize),
    /// Closes without taking anything.
    Drop,
    /// Takes nothing and replies with a status, headers and a body.
    Reply {
        /// The status.
        status: u16,
        /// Headers, names and values.
        headers: Vec<(String, String)>,
        /// The body.
        body: String,
    },
    /// Takes all events but those at these places, which it names under this reason.
    Refuse {
        /// Places in the request, from 0.
        places: Vec<usize>,
        /// The word in `efi`.
        reason: String,
    },
    /// Takes all events but those at these places, and tells only their number.
    RefuseUnnamed(Vec<usize>),
    /// Takes the events and kills tenants with the reply.
    Kill {
        /// Tenant tokens, a header line each.
        tokens: Vec<String>,
        /// `kill-duration`.
        duration: String,
        /// The reply's status; the events are taken only with 200.
        status: u16,
    },
    /// 413 for every request of more than so many events, for as long as the recorder lives.
    LimitEvents(usize),
}

impl Step {
    /// A reply with a status and nothing else.
    #[must_use]
    pub fn status(status: u16) -> Step {
        Step::Reply { status, headers: Vec::new(), body: String::new() }
    }

    /// A reply with a status and a wish to wait.
    #[must_use]
    pub fn wait(status: u16, retry_after: &str) -> Step {
        let headers = vec![("Retry-After".to_owned(), retry_after.to_owned())];
        Step::Reply { status, headers, body: String::new() }
    }
}

/// An event's identity: `ext.utc.epoch` and `ext.utc.seq`.
pub type EventId = (String, u64);

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as sent.
    pub wire: Vec<u8>,
    /// The body, decoded.
    pub text: String,
    /// The events of its lines.
    pub events: Vec<Value>,
    /// Whether the events were taken (all or some).
    pub taken: bool,
}

impl Recorded {
    /// A header's value by its lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The ids of its events in order.
    #[must_use]
    pub fn ids(&self) -> Vec<EventId> {
        self.events.iter().filter_map(id_of).collect()
    }
}

/// The identity of an event, if it has one.
#[must_use]
pub fn id_of(event: &Value) -> Option<EventId> {
    let utc = event.get("ext")?.get("utc")?;
    Some((utc.get("epoch")?.as_str()?.to_owned(), utc.get("seq")?.as_u64()?))
}

#[derive(Debug, Default)]
struct State {
    tokens: Vec<String>,
    script: VecDeque<Step>,
    limit: Option<usize>,
    delta: Option<String>,
    told: bool,
    requests: Vec<Recorded>,
    events: BTreeMap<EventId, Value>,
    repeats: u64,
    faults: Vec<String>,
}

/// The running server. It ends with its value.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    /// Starts on a free port of the loopback address; `tokens` are the tenants it knows.
    ///
    /// # Errors
    /// When no port or thread is to be had.
    pub fn start(tokens: &[&str]) -> io::Result<Recorder> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let tokens = tokens.iter().map(|t| (*t).to_owned()).collect();
        let state = Arc::new(Mutex::new(State { tokens, delta: Some("0".to_owned()), ..State::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&state), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("recorder".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (shared, stopped) = (Arc::clone(&shared), Arc::clone(&stopped));
                std::thread::spawn(move || serve(&stream, &shared, &stopped));
            }
        })?;
        Ok(Recorder { address, state, stop, thread: Some(thread) })
    }

    /// Where events are to be posted.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/OneCollector/1.0/", self.address)
    }

    /// Appends steps to the script.
    pub fn script(&self, steps: impl IntoIterator<Item = Step>) {
        lock(&self.state).script.extend(steps);
    }

    /// Forgets the steps that are left: what follows is taken.
    pub fn end_script(&self) {
        lock(&self.state).script.clear();
    }

    /// What `time-delta-millis` of replies says; `None` leaves it out. `0` at first.
    pub fn set_delta(&self, delta: Option<&str>) {
        lock(&self.state).delta = delta.map(str::to_owned);
    }

    /// Every request so far, in the order they were read.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        lock(&self.state).requests.clone()
    }

    /// Every event taken, once each, by its id.
    #[must_use]
    pub fn events(&self) -> BTreeMap<EventId, Value> {
        lock(&self.state).events.clone()
    }

    /// The sequence numbers of all events taken.
    #[must_use]
    pub fn seqs(&self) -> BTreeSet<u64> {
        lock(&self.state).events.keys().map(|(_, seq)| *seq).collect()
    }

    /// How many events came again after they had been taken. Equal bytes each time, or it is a fault.
    #[must_use]
    pub fn repeats(&self) -> u64 {
        lock(&self.state).repeats
    }

    /// Everything in the requests that the profile forbids. Such requests got a 400.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        lock(&self.state).faults.clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // wakes the listener, which then sees that it is to stop
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves one connection until it ends.
fn serve(stream: &TcpStream, state: &Mutex<State>, stop: &AtomicBool) {
    // so that a thread whose client is gone ends too
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let mut reader = io::BufReader::new(stream);
    while let Ok(Some(request)) = http::read(&mut reader) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let Some(reply) = answer(request, &mut lock(state)) else { return };
        let mut writer = stream;
        if writer.write_all(&reply.bytes).is_err() || reply.close {
            return;
        }
    }
}

struct Answer {
    bytes: Vec<u8>,
    close: bool,
}

/// Decides on one request; `None` closes the connection.
fn answer(request: http::Request, state: &mut State) -> Option<Answer> {
    if request.method == "OPTIONS" {
        return Some(Answer { bytes: http::reply(200, &[], ""), close: false });
    }
    let mut headers: Vec<(String, String)> = Vec::new();
    if let Some(delta) = &state.delta {
        headers.push(("time-delta-millis".to_owned(), delta.clone()));
    }
    let checked =
        check::request(&request, &state.tokens, state.told.then_some(state.delta.as_deref()).flatten());
    let (text, events) = match checked {
        Ok(checked) => checked,
        Err(fault) => {
            headers.push(("Collector-Error".to_owned(), fault.clone()));
            state.faults.push(fault);
            return Some(Answer { bytes: http::reply(400, &headers, ""), close: false });
        }
    };
    let step = state.script.pop_front().unwrap_or(Step::Take);
    if let Step::LimitEvents(most) = step {
        state.limit = Some(most);
    }
    let over = state.limit.is_some_and(|most| events.len() > most);
    let refused: BTreeSet<usize> = match &step {
        _ if over => (0..events.len()).collect(),
        Step::Take | Step::TakeAndDrop | Step::TakeAndCut(_) | Step::LimitEvents(_) => BTreeSet::new(),
        Step::Kill { status: 200, .. } => BTreeSet::new(),
        Step::Drop | Step::Reply { .. } | Step::Kill { .. } => (0..events.len()).collect(),
        Step::Refuse { places, .. } | Step::RefuseUnnamed(places) => places.iter().copied().collect(),
    };
    let mut accepted = 0;
    for (place, event) in events.iter().enumerate() {
        let Some(id) = id_of(event).filter(|_| !refused.contains(&place)) else { continue };
        accepted += 1;
        match state.events.get(&id) {
            None => {
                state.events.insert(id, event.clone());
            }
            Some(before) => {
                state.repeats += 1;
                if before != event {
                    state.faults.push(format!("event {id:?} came again with another content"));
                }
            }
        }
    }
    let count = events.len();
    let recorded =
        Recorded { headers: request.headers, wire: request.body, text, events, taken: accepted > 0 };
    state.requests.push(recorded);
    let (status, body) = if over {
        (413, String::new())
    } else {
        match step {
            Step::Drop | Step::TakeAndDrop => return None,
            Step::Reply { status, headers: more, body } => {
                headers.extend(more);
                (status, body)
            }
            Step::Refuse { places, reason } => {
                let reason = Value::from(reason);
                (
                    200,
                    format!(
                        "{{\"acc\":{accepted},\"rej\":{},\"efi\":{{{reason}:{places:?}}}}}",
                        count - accepted
                    ),
                )
            }
            Step::RefuseUnnamed(_) => (200, format!("{{\"acc\":{accepted},\"rej\":{}}}", count - accepted)),
            Step::Kill { tokens, duration, status } => {
                headers.extend(tokens.into_iter().map(|t| ("kill-tokens".to_owned(), t)));
                headers.push(("kill-duration".to_owned(), duration));
                (status, if status == 200 { format!("{{\"acc\":{accepted}}}") } else { String::new() })
            }
            Step::TakeAndCut(keep) => {
                let mut bytes = http::reply(200, &headers, &format!("{{\"acc\":{accepted}}}"));
                bytes.truncate(keep);
                return Some(Answer { bytes, close: true });
            }
            Step::Take | Step::LimitEvents(_) => (200, format!("{{\"acc\":{accepted}}}")),
        }
    };
    state.told = state.delta.is_some();
    Some(Answer { bytes: http::reply(status, &headers, &body), close: false })
}
