//! What a far side holds of what was delivered: listed for reconciling with receipts, looked into and
//! deleted for purges.

use std::path::PathBuf;

use bytes::Bytes;

use crate::{BoxFuture, DeliverError};

/// Access to delivered objects. Beside [`Sink`](crate::Sink), which only ever adds.
///
/// # Contract
/// * An object is named by its [`Object::destination`](crate::Object::destination).
/// * One attempt a call, errors as for [`Sink::deliver`](crate::Sink::deliver).
/// * Nothing is deleted that was not fetched: what has changed since stays.
pub trait Holdings: std::fmt::Debug + Send + Sync + 'static {
    /// What destinations in receipts begin with: the folder or the container's URL, a slash behind it.
    fn base(&self) -> String;

    /// Lists what the far side holds, page by page, in no order that counts. Files that are not finished are left
    /// out; a container's credentials need the right to list it.
    ///
    /// # Errors
    /// [`ListError`]; what was listed until then was passed on.
    ///
    /// # Cancel safety
    /// Nothing is changed at the far side.
    fn list<'a>(
        &'a self,
        what: &'a Listing,
        each: &'a mut (dyn FnMut(Held) + Send),
    ) -> BoxFuture<'a, Result<(), ListError>>;

    /// Whether this far side is the one that the object is at; `false` where the settings
    /// have changed since.
    fn is_here(&self, destination: &str) -> bool;

    /// Reads an object; `None` when it is gone.
    ///
    /// # Errors
    /// See the contract. Objects of more than [`Fetched::MAX_BYTES`] are refused.
    fn fetch<'a>(&'a self, destination: &'a str) -> BoxFuture<'a, Result<Option<Fetched>, DeliverError>>;

    /// Deletes an object, if it is still as it was fetched.
    ///
    /// # Errors
    /// See the contract.
    ///
    /// # Cancel safety
    /// Dropping the future may leave it deleted.
    fn delete<'a>(&'a self, held: &'a Fetched) -> BoxFuture<'a, Result<Deletion, DeliverError>>;
}

/// An object as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Where.
    pub destination: String,
    /// Its bytes.
    pub bytes: Bytes,
    /// The server's name for this state of it; empty where there is none.
    pub etag: String,
}

impl Fetched {
    /// Largest object that is read, in bytes.
    pub const MAX_BYTES: u64 = 256 << 20;
}

/// What became of a request to delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// It is deleted. (A far side with soft deletion keeps it for as long as it is set to.)
    Done,
    /// It was gone already.
    Gone,
    /// It has changed since it was read, and stays.
    Changed,
    /// A policy or legal hold of the far side keeps it.
    Kept,
}

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
