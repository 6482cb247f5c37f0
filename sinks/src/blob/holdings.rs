//! Blobs that were delivered: listed, read, and deleted by their ETag.

use crate::blob::{BlobConfig, BlobError, BlobSink};
use crate::holdings::{Deletion, Fetched, Held, Holdings, ListError, Listing};
use crate::http::{HttpContext, Url, redact};
use crate::units::Size;
use crate::{BoxFuture, DeliverError};
use tidegate_proto::ids::SinkId;

/// A container's blobs.
#[derive(Debug)]
pub struct BlobHoldings(BlobSink);

/// What is asked for is not in this container.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not in this container")]
struct Elsewhere(String);

/// More than is read.
#[derive(Debug, thiserror::Error)]
#[error("{destination} {what}")]
struct Unread {
    destination: String,
    what: &'static str,
}

impl BlobHoldings {
    /// The holdings of a sink with these settings. Opens no connection.
    ///
    /// # Errors
    /// When the settings cannot be used.
    pub fn new(id: &SinkId, config: &BlobConfig, ctx: &HttpContext) -> Result<BlobHoldings, BlobError> {
        let mut config = config.clone();
        // replies are whole blobs here
        config.http.reply_max = Size(Fetched::MAX_BYTES);
        BlobSink::new(id, &config, ctx).map(BlobHoldings)
    }

    /// The blob's address; only ever one below our container.
    fn url(&self, destination: &str) -> Option<Url> {
        let container = &self.0.api.target.container;
        let url = Url::parse(destination).ok()?;
        let below = redact(container.as_str());
        let rest = redact(url.as_str()).strip_prefix(&below)?.strip_prefix('/')?.to_owned();
        if rest.is_empty() || url.query().is_some() || url.fragment().is_some() {
            return None;
        }
        // with the container's own query, if it has one
        let mut full = container.clone();
        full.set_path(url.path());
        Some(full)
    }

    fn here(&self, destination: &str) -> Result<Url, DeliverError> {
        self.url(destination).ok_or_else(|| DeliverError::Stop {
            after: None,
            advice: "set the sink to the container that it was delivered to".to_owned(),
            source: Box::new(Elsewhere(redact(destination))),
        })
    }
}

impl Holdings for BlobHoldings {
    fn base(&self) -> String {
        self.0.base()
    }

    fn list<'a>(
        &'a self,
        what: &'a Listing,
        each: &'a mut (dyn FnMut(Held) + Send),
    ) -> BoxFuture<'a, Result<(), ListError>> {
        Box::pin(self.0.list(what, each))
    }

    fn is_here(&self, destination: &str) -> bool {
        self.url(destination).is_some()
    }

    fn fetch<'a>(&'a self, destination: &'a str) -> BoxFuture<'a, Result<Option<Fetched>, DeliverError>> {
        Box::pin(async move {
            let url = self.here(destination)?;
            let Some((etag, body)) = self.0.api.get(url).await? else { return Ok(None) };
            let refused = |what| Unread { destination: redact(destination), what };
            let bytes = match body {
                crate::http::Body::Whole(bytes) => bytes,
                crate::http::Body::Cut(_) => {
                    let source = Box::new(refused("was cut on its way"));
                    return Err(DeliverError::Retry { after: None, source });
                }
                crate::http::Body::TooLong(_) => {
                    let source = Box::new(refused("is too large to be looked into"));
                    return Err(DeliverError::Split { source });
                }
            };
            Ok(Some(Fetched { destination: destination.to_owned(), bytes, etag }))
        })
    }

    fn delete<'a>(&'a self, held: &'a Fetched) -> BoxFuture<'a, Result<Deletion, DeliverError>> {
        Box::pin(async move {
            let url = self.here(&held.destination)?;
            self.0.api.delete(url, &held.etag).await
        })
    }
}
