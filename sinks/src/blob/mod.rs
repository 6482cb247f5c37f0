//! Events as block blobs in an Azure Storage container.
//!
//! # Effectively once
//! A blob's name follows from the planned range and the partition alone (see
//! [`layout`](crate::layout)). Each upload creates its blob with `If-None-Match: *`; the digest
//! of its events stands in its metadata. When the name is taken:
//!
//! | what is there | then |
//! |---|---|
//! | ours, the same events | delivered (`found`): an earlier attempt had got through |
//! | ours, other events: the level or a filter has changed between the attempts | replaced, in one step, with `If-Match` on the ETag that was seen |
//! | ours, other events, and a policy keeps it from changing | delivered if it holds at least as many events, else held |
//! | not ours | held until someone looks |
//!
//! So no attempt, not even one that was given up here and is still under way there, can put a
//! second blob with the same events beside the first, and neither listing nor deleting is needed.
//! Where a level was lowered, the repeat takes out what may no longer be sent. Equal events with
//! other bytes (a newer compressor) count as the same.
//!
//! # Requests
//! We sign and send them ourselves: Put Blob, Put Block, Put Block List, Get Blob Properties and
//! Create Container are all that is needed (for purges, Get Blob and Delete Blob too). A client crate would bring its own HTTP client, TLS
//! set-up and retries beside those that carry our pins and our one-attempt rule, and the usual
//! ones fix an API version (`object_store` sends one constant, above what an Azure Stack Hub
//! takes). Signing is the few lines of `sign.rs`.
//!
//! Protocol: "Blob service REST API" and "Authorize with Shared Key" of the Azure Storage
//! documentation.

mod account;
mod api;
mod arc;
mod assertion;
mod auth;
mod broker;
mod config;
pub(crate) mod error;
mod holdings;
mod kept;
mod list;
mod sign;
mod token;
mod upload;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use tidegate_proto::ids::SinkId;

use self::api::Api;
pub use self::broker::BrokerConfig;
pub use self::config::{BlobConfig, BlobError, Profile};
pub use self::holdings::BlobHoldings;
pub use self::token::{IdentityConfig, IdentityKind};
use crate::http::{Client, HttpContext};
use crate::layout::Layout;
use crate::{BatchLimits, BoxFuture, DeliverError, Delivered, Object, Ready, Sink, SinkBatch, Staged};

/// Blobs of one batch on their way at a time.
const PARTS_AT_A_TIME: usize = 4;

/// See the module.
#[derive(Debug)]
pub struct BlobSink {
    id: SinkId,
    layout: Layout,
    limits: BatchLimits,
    api: Api,
    create_container: bool,
    container_made: AtomicBool,
    block_size: usize,
    single_put_max: usize,
}

impl BlobSink {
    /// A sink to a container. Reads the secrets that the settings name; opens no connection.
    ///
    /// # Errors
    /// When the settings cannot be used.
    pub fn new(id: &SinkId, config: &BlobConfig, ctx: &HttpContext) -> Result<BlobSink, BlobError> {
        let version = config.api_version()?;
        let (block_size, single_put_max) = config.sizes(&version)?;
        let own = BatchLimits {
            events: 100_000,
            bytes: 16 << 20,
            age: Duration::from_secs(60),
            in_flight: 2,
            // several requests may be one attempt
            timeout: config.http.timeout.0.saturating_mul(5),
        };
        let limits = config.batch.over(own)?;
        let layout = Layout::new(&config.layout, config.format, config.compression)?;
        let client = Client::new(&config.http, ctx)?;
        let (target, auth) = config.target(&client, ctx)?;
        Ok(BlobSink {
            id: id.clone(),
            layout,
            limits,
            api: Api { client, target, auth: Arc::new(auth), version, begun: None },
            create_container: config.create_container,
            container_made: AtomicBool::new(false),
            block_size,
            single_put_max,
        })
    }

    /// Creates the container, once a process, if asked to.
    async fn container(&self, api: &Api) -> Result<(), DeliverError> {
        if self.create_container && !self.container_made.load(Ordering::Relaxed) {
            api.create_container().await?;
            self.container_made.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Sink for BlobSink {
    fn id(&self) -> &SinkId {
        &self.id
    }

    fn limits(&self) -> BatchLimits {
        self.limits
    }

    fn rest(&self) -> Option<Duration> {
        self.api.client.rest()
    }

    /// Asks for a blob that does not exist: "no such blob" tells that address, credentials and
    /// container are right. Creates no container.
    fn check(&self) -> BoxFuture<'_, Result<(), DeliverError>> {
        Box::pin(async {
            match self.api.properties(".tidegate-check").await {
                Ok(_) => Ok(()),
                // it is going to be made
                Err(DeliverError::Stop { source, .. })
                    if self.create_container && error::is_no_container(source.as_ref()) =>
                {
                    Ok(())
                }
                Err(error) => Err(error),
            }
        })
    }

    fn staged(&self) -> Option<&dyn Staged> {
        Some(self)
    }

    fn deliver<'a>(&'a self, batch: &'a SinkBatch) -> BoxFuture<'a, Result<Delivered, DeliverError>> {
        Box::pin(async move { self.send(&self.encode(batch).await?).await })
    }
}

impl Staged for BlobSink {
    fn encode<'a>(&'a self, batch: &'a SinkBatch) -> BoxFuture<'a, Result<Ready, DeliverError>> {
        Box::pin(async move {
            let parts = self.layout.parts(batch).await.map_err(|e| match e.kind() {
                std::io::ErrorKind::InvalidInput => DeliverError::Split { source: Box::new(e) },
                _ => DeliverError::Retry { after: None, source: Box::new(e) },
            })?;
            Ok(Ready::new(batch, parts))
        })
    }

    fn send<'a>(&'a self, ready: &'a Ready) -> BoxFuture<'a, Result<Delivered, DeliverError>> {
        Box::pin(async move {
            let api = self.api.attempt();
            self.container(&api).await?;
            let uploads: Vec<BoxFuture<'_, _>> =
                ready.parts.iter().map(|part| Box::pin(self.upload(&api, ready, part)) as _).collect();
            let objects: Result<Vec<Object>, DeliverError> =
                futures_util::stream::iter(uploads).buffered(PARTS_AT_A_TIME).try_collect().await;
            let objects = match objects {
                // someone removed it while we run; the next attempt makes it again
                Err(DeliverError::Stop { source, .. })
                    if self.create_container && error::is_no_container(source.as_ref()) =>
                {
                    self.container_made.store(false, Ordering::Relaxed);
                    return Err(DeliverError::Retry { after: None, source });
                }
                other => other?,
            };
            let bytes = objects.iter().filter(|o| !o.found).map(|o| o.len).sum();
            Ok(Delivered { objects, rejected: Vec::new(), bytes })
        })
    }
}

#[cfg(test)]
mod tests;
