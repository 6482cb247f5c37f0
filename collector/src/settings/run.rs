//! Drives the settings: asks, keeps, tells.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Document, Outcome, Settings};
use crate::audit::What;

/// Why the far side could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("remote settings cannot be fetched: {0}")]
pub struct FetchError(pub String);

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// 304: what the validator names is still right.
    NotModified,
    /// 200.
    Document {
        /// The body, at most twice [`Document::MAX_LEN`]; more need not be read.
        bytes: Vec<u8>,
        /// The `ETag` header.
        etag: Option<String>,
    },
}

/// Asks the far side once, with `If-None-Match` where there is a validator.
pub trait Fetch: Send + Sync {
    /// One attempt, no retry inside.
    ///
    /// # Cancel safety
    /// A dropped call has no effect.
    fn fetch<'a>(&'a self, etag: Option<&'a str>) -> BoxFuture<'a, Result<Fetched, FetchError>>;
}

/// Where settings are kept and changes are told.
pub trait Store: Send + Sync {
    /// Keeps the bytes for the next start; durable on return.
    ///
    /// # Errors
    /// In words; the settings are in force all the same.
    fn keep(&self, bytes: &[u8]) -> Result<(), String>;

    /// Writes an audit entry.
    fn audit(&self, what: What);
}

impl fmt::Debug for dyn Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fetch")
    }
}

/// Polls until it is told to stop, and publishes each document in force to `tell`. What is in
/// force at first is published at once. `chance` gives numbers from 0 to 1; `ask` has it
/// ask at once.
///
/// # Cancel safety
/// Can be dropped at any point.
pub async fn run(
    mut settings: Settings,
    fetch: &dyn Fetch,
    store: &dyn Store,
    tell: &watch::Sender<Option<Arc<Document>>>,
    mut chance: impl FnMut() -> f64 + Send,
    ask: &Notify,
    stop: CancellationToken,
) {
    tell.send_replace(settings.document().cloned());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(settings.next_poll(chance())) => {}
            () = ask.notified() => {}
        }
        let reply = tokio::select! {
            () = stop.cancelled() => return,
            reply = fetch.fetch(settings.etag()) => reply,
        };
        match settings.reply(reply) {
            Outcome::Same => {}
            Outcome::Changed { document, keep, audit } => {
                info!(version = document.version(), "remote settings are in force");
                if let Err(why) = store.keep(&keep) {
                    error!(%why, "remote settings could not be kept for the next start");
                }
                store.audit(audit);
                tell.send_replace(Some(document));
            }
            Outcome::Refused(refusal) => {
                error!(error = %refusal.error, "remote settings are refused, the ones in force stay");
                if let Some(audit) = refusal.audit {
                    store.audit(audit);
                }
            }
            Outcome::Failed(error) => warn!(%error, "the remote settings in force stay"),
        }
    }
}
