//! The control interface of a running collector: HTTP with JSON over a Unix socket or a named
//! pipe, nothing on the network unless the configuration says so.
//!
//! | who | may |
//! |---|---|
//! | root, and the user the collector runs as | everything |
//! | whoever else the socket's permissions let in (`[control] group`) | look |
//! | a client of the remote end point, known by its certificate | enable, disable, level, status |
//!
//! What can be asked is a table, [`Route`]; a module with more to offer gives a list of its own
//! and stands in [`routes::all`]. Requests are bounded in size, number and time, and run beside
//! the pipeline, never in it.

pub mod client;
#[cfg(windows)]
mod pipe;
pub mod remote;
pub mod routes;
mod serve;
mod sinks;
#[cfg(test)]
mod tests;
#[cfg(unix)]
mod unix;
mod views;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tidegate_ring::{Ring, RingError};
use tokio_util::sync::CancellationToken;

use crate::config::ControlConfig;
use crate::control::{ChangeError, KEY_HELP, OWED_HELP, Who};
use crate::pipeline::Handle;
use crate::purge::{Places, PurgeError};
use crate::reload::Reloader;

pub use views::level as level_view;

/// What a caller must be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// To look.
    Look,
    /// To change something.
    Change,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// For the audit log.
    pub who: Who,
    /// The most it may do.
    pub right: Right,
    /// Over the network: only routes that are open to it.
    pub remote: bool,
}

/// One request, read and bounded.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who calls.
    pub who: Who,
    /// Whether over the network.
    pub remote: bool,
    /// What stands behind `?`, decoded; of a name given twice the last counts.
    pub query: BTreeMap<String, String>,
    /// The body, at most [`Api::MAX_BODY`] bytes.
    pub body: Bytes,
}

/// Why a request gets no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// What is wrong, in one line.
    pub error: String,
    /// What the caller can do.
    pub help: &'static str,
}

impl Refusal {
    /// A mistake of the caller.
    #[must_use]
    pub fn bad(error: impl Into<String>) -> Refusal {
        Refusal { status: 400, error: error.into(), help: "mend the request" }
    }

    fn to_json(&self) -> Value {
        json!({ "error": self.error, "help": self.help })
    }
}

impl From<RingError> for Refusal {
    fn from(e: RingError) -> Refusal {
        let (status, help) = match &e {
            RingError::Closed => (503, "check the ring's disk"),
            e if e.is_missing_key() => (422, KEY_HELP),
            _ => (500, "check the ring's disk"),
        };
        Refusal { status, error: crate::assemble::chain(&e), help }
    }
}

impl From<ChangeError> for Refusal {
    fn from(e: ChangeError) -> Refusal {
        match e {
            ChangeError::Ring(e) => e.into(),
            e @ ChangeError::Owed { .. } => {
                Refusal { status: 503, error: crate::assemble::chain(&e), help: OWED_HELP }
            }
        }
    }
}

impl From<PurgeError> for Refusal {
    fn from(e: PurgeError) -> Refusal {
        let (status, help) = match &e {
            PurgeError::Rest(_) => (503, "tidegate status shows what the sinks do; try again"),
            PurgeError::Sink { .. } => (422, "mend the sink's settings, and start the collector again"),
            _ => (500, "what was purged from the ring stays purged; check the disk, and run it again"),
        };
        match e {
            PurgeError::Ring(e) if matches!(e, RingError::Closed) || e.is_missing_key() => e.into(),
            e => Refusal { status, error: crate::assemble::chain(&e), help },
        }
    }
}

/// What a handler gives back.
pub type Answer = Result<Value, Refusal>;

/// Answers one kind of request. It runs to its end even if the caller goes away.
pub type Handler = fn(Arc<Api>, Call) -> BoxFuture<'static, Answer>;

/// One thing that can be asked.
#[derive(Clone, Copy)]
pub struct Route {
    /// `GET`, `PUT` or `POST`.
    pub method: &'static str,
    /// The whole path, such as `/v1/status`.
    pub path: &'static str,
    /// What the caller must be allowed.
    pub right: Right,
    /// Whether it is offered over the network.
    pub remote: bool,
    /// What it does, in a few words.
    pub about: &'static str,
    /// Does it.
    pub run: Handler,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({:?})", self.method, self.path, self.right)
    }
}

impl Call {
    /// The body as JSON.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_slice(&self.body).map_err(|e| Refusal::bad(format!("the body: {e}")))
    }

    /// A number behind `?`.
    ///
    /// # Errors
    /// When it is none.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.query.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| Refusal::bad(format!("{name}={text}: a number is expected")))
    }
}

/// What handlers work with.
#[derive(Debug)]
pub struct Api {
    handle: Handle,
    routes: Vec<Route>,
    config: ControlConfig,
    reloader: Option<Reloader>,
    places: Places,
}

impl Api {
    /// Longest body of a request, in bytes.
    pub const MAX_BODY: usize = 64 << 10;

    /// Answers for a run; without a reloader its configuration cannot be read again. `places` is where
    /// a purge looks besides the ring.
    #[must_use]
    pub fn new(
        handle: Handle,
        config: ControlConfig,
        reloader: Option<Reloader>,
        places: Places,
    ) -> Arc<Api> {
        Arc::new(Api { handle, routes: routes::all(), config, reloader, places })
    }

    /// Where a purge looks besides the ring.
    #[must_use]
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Reads the configuration again.
    #[must_use]
    pub fn reloader(&self) -> Option<&Reloader> {
        self.reloader.as_ref()
    }

    /// The run.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Everything that can be asked.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Does something with the ring where blocking is allowed.
    ///
    /// # Errors
    /// The ring's.
    pub async fn ring<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Ring) -> Result<T, RingError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let ring = Arc::clone(self.handle.ring());
        let done = tokio::task::spawn_blocking(move || work(&*ring)).await;
        Ok(done.map_err(|e| RingError::Book(e.to_string())).flatten()?)
    }

    /// Finds what is asked for, and whether this caller may.
    fn find(&self, caller: &Caller, method: &str, path: &str) -> Result<&Route, Refusal> {
        let refuse = |status, error: String, help| Err(Refusal { status, error, help });
        let offered = || self.routes.iter().filter(|r| r.path == path && (r.remote || !caller.remote));
        let Some(route) = offered().find(|r| r.method == method) else {
            return match offered().next() {
                Some(other) => refuse(405, format!("{path} takes {}", other.method), "see GET /v1"),
                None => refuse(404, format!("there is no {path} here"), "see GET /v1"),
            };
        };
        if route.right > caller.right {
            let why = format!("{} {path} is for administrators", route.method);
            return refuse(403, why, "run as root, or as the user that the collector runs as");
        }
        Ok(route)
    }

    /// Answers one call. What it begins goes on when the future is dropped.
    pub(crate) async fn answer(
        self: &Arc<Api>,
        caller: &Caller,
        method: &str,
        path: &str,
        query: &str,
        body: Bytes,
    ) -> (u16, Value) {
        let done = match self.find(caller, method, path) {
            Err(refusal) => Err(refusal),
            Ok(route) => {
                let call =
                    Call { who: caller.who.clone(), remote: caller.remote, query: serve::query(query), body };
                // a change that is half done is worse than one whose caller has gone
                let done = tokio::spawn((route.run)(Arc::clone(self), call)).await;
                done.unwrap_or_else(|e| {
                    let error = format!("the request broke down: {e}");
                    Err(Refusal { status: 500, error, help: "this is a defect; see the log" })
                })
            }
        };
        match done {
            Ok(value) => (200, value),
            Err(refusal) => (refusal.status, refusal.to_json()),
        }
    }
}

/// Listens where the configuration says, until it is told to stop.
///
/// # Errors
/// When the socket or pipe cannot be made; the collector can run without.
///
/// # Cancel safety
/// Dropping the future closes the socket; requests under way are cut off, what they began is
/// done to its end.
pub async fn listen(api: Arc<Api>, stop: CancellationToken) -> std::io::Result<()> {
    #[cfg(unix)]
    return unix::listen(api, stop).await;
    #[cfg(windows)]
    return pipe::listen(api, stop).await;
    #[cfg(not(any(unix, windows)))]
    {
        let _ = (api, stop);
        Err(std::io::ErrorKind::Unsupported.into())
    }
}
