//! What a sink's far side holds, listed: the other half of reconciling with receipts.

use std::path::PathBuf;

use tidegate_proto::ids::SinkId;

use crate::blob::BlobSink;
use crate::directory::DirectorySink;
use crate::http::HttpContext;
use crate::{BuildError, DeliverError, SinkConfig};

/// One file or blob at the far side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// As in receipts ([`Object::destination`](crate::Object::destination)).
    pub destination: String,
    /// Path and name below the folder or container.
    pub name: String,
    /// Bytes.
    pub len: u64,
    /// SHA-256 of its bytes; only where they were read.
    pub sha256: Option<[u8; 32]>,
    /// Who wrote it, where the far side keeps that: the name of a host, its stream and the life of
    /// its ring, 16 hexadecimal digits.
    pub writer: Option<(String, String, String)>,
}

/// What is listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Only names that this host and stream can have, as far as the layout tells.
    pub of: Option<(String, String)>,
    /// Read every object, for its digest.
    pub read: bool,
}

/// Why a far side cannot be listed. Holds no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// This kind of far side does not tell what it holds.
    #[error("a sink of type \"{0}\" cannot be listed; directory and blob can")]
    Kind(&'static str),
    /// The sink cannot be made.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The far side did not answer, or refused.
    #[error(transparent)]
    FarSide(#[from] DeliverError),
    /// A file or folder cannot be read.
    #[error("{path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl SinkConfig {
    /// Lists what the far side holds, page by page, in no order that counts.
    ///
    /// # Errors
    /// [`ListError`]; what was listed until then was passed on.
    ///
    /// # Cancel safety
    /// Nothing is changed at the far side.
    pub async fn list(
        &self,
        name: &SinkId,
        ctx: &HttpContext,
        what: &Listing,
        each: &mut (dyn FnMut(Held) + Send),
    ) -> Result<(), ListError> {
        match self {
            SinkConfig::Directory(c) => {
                let sink = DirectorySink::new(name, c).map_err(BuildError::from)?;
                sink.list(what, each)
            }
            SinkConfig::Blob(c) => {
                let sink = BlobSink::new(name, c, ctx).map_err(BuildError::from)?;
                sink.list(what, each).await
            }
            other => Err(ListError::Kind(other.kind())),
        }
    }

    /// What destinations in receipts begin with: the folder or the container's URL, a slash behind
    /// it. `None` for other kinds.
    ///
    /// # Errors
    /// When the sink cannot be made.
    pub fn base(&self, name: &SinkId, ctx: &HttpContext) -> Result<Option<String>, BuildError> {
        Ok(match self {
            SinkConfig::Directory(c) => Some(DirectorySink::new(name, c)?.base()),
            SinkConfig::Blob(c) => Some(BlobSink::new(name, c, ctx)?.base()),
            _ => None,
        })
    }
}
