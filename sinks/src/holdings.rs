//! What a far side holds of what was delivered: to look into it and to ask for its deletion.

use bytes::Bytes;

use crate::{BoxFuture, DeliverError};

/// Access to delivered objects, for purges. Beside [`Sink`](crate::Sink), which only ever adds.
///
/// # Contract
/// * An object is named by its [`Object::destination`](crate::Object::destination).
/// * One attempt a call, errors as for [`Sink::deliver`](crate::Sink::deliver).
/// * Nothing is deleted that was not fetched: what has changed since stays.
pub trait Holdings: std::fmt::Debug + Send + Sync + 'static {
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
