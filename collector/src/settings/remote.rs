//! The settings' way over the network, and the file they are kept in.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tidegate_proto::level::TelemetryLevel;
use tidegate_ring::Ring;
use tidegate_sinks::http::{Body, Client, Method, Request, Url};
use tokio::sync::watch;
use tracing::error;

use super::{Document, Fetch, FetchError, Fetched, PublicKey, Store};
use crate::audit::{Record, What};
use crate::clock::now_ns;
use crate::control::InForce;

/// `[settings]`, ready to be used.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Where they are asked for.
    pub url: Url,
    /// Asks; with pins like a sink's.
    pub client: Client,
    /// Who may sign.
    pub keys: Vec<PublicKey>,
    /// Where the document in force is kept for the next start.
    pub cache: PathBuf,
}

/// Asks over the network, while telemetry is enabled.
pub(crate) struct HttpFetch {
    pub remote: Remote,
    pub ring: Arc<dyn Ring>,
    pub in_force: watch::Receiver<InForce>,
}

impl HttpFetch {
    async fn ask(&self, etag: Option<&str>) -> Result<Fetched, FetchError> {
        let failed = |e: &dyn std::error::Error| FetchError(crate::assemble::chain(e));
        // disabled, nothing leaves: not even the question
        let mut in_force = self.in_force.clone();
        let now = in_force.wait_for(|f| f.level.enabled).await;
        let level = now.map(|f| f.level.level).map_err(|e| failed(&e))?;
        let mut request = Request::new(Method::GET, self.remote.url.clone());
        request = request.header("accept", "application/json").map_err(|e| failed(&e))?;
        if let Some(etag) = etag {
            request = request.header("if-none-match", etag).map_err(|e| failed(&e))?;
        }
        // who this is, is basic device information
        if level >= TelemetryLevel::Basic {
            let ring = Arc::clone(&self.ring);
            let id = tokio::task::spawn_blocking(move || crate::device::id(&*ring)).await;
            if let Ok(Ok(id)) = id {
                request = request.header("tidegate-device", &id).map_err(|e| failed(&e))?;
            }
        }
        let reply = self.remote.client.send(request).await.map_err(|e| failed(&e))?;
        match (reply.status, &reply.body) {
            (304, _) => Ok(Fetched::NotModified),
            (200, Body::Whole(bytes)) => {
                let etag = reply.header("etag").map(str::to_owned);
                Ok(Fetched::Document { bytes: bytes.to_vec(), etag })
            }
            (200, Body::Cut(_)) => Err(FetchError("the reply was cut off".to_owned())),
            (200, Body::TooLong(_)) => {
                Err(FetchError(format!("the reply is longer than {} bytes", 2 * Document::MAX_LEN)))
            }
            (status, _) => Err(FetchError(format!("the far side answers {status}"))),
        }
    }
}

impl Fetch for HttpFetch {
    fn fetch<'a>(&'a self, etag: Option<&'a str>) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        Box::pin(self.ask(etag))
    }
}

/// Keeps the document in a file and puts changes down in the audit log.
pub(crate) struct Kept {
    pub cache: PathBuf,
    pub ring: Arc<dyn Ring>,
}

impl Kept {
    /// What was kept, if anything was.
    pub fn read(&self) -> Option<Vec<u8>> {
        let most = 16 * Document::MAX_LEN as u64;
        let fits = std::fs::metadata(&self.cache).is_ok_and(|m| m.is_file() && m.len() <= most);
        if fits { std::fs::read(&self.cache).ok() } else { None }
    }
}

impl Store for Kept {
    fn keep(&self, bytes: &[u8]) -> Result<(), String> {
        let new = self.cache.with_extension("new");
        let write = || {
            let mut file = std::fs::File::create(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&new, &self.cache)
        };
        write().map_err(|e| format!("{}: {e}", self.cache.display()))
    }

    fn audit(&self, what: What) {
        if let Err(e) = Record::new(now_ns(), "remote settings", what).append(&*self.ring) {
            error!(error = %e, "a change of the remote settings could not be written to the audit log");
        }
    }
}
