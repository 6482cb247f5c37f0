//! The book: what the ring is, in small values that survive a loss of power. A trait, so that
//! the engine underneath can be changed; what the values mean is in [`record`].

pub(crate) mod journal;
pub(crate) mod record;
pub(crate) mod sled_book;

use std::{fmt, io};

/// Key and value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);
/// Key and new value; `None` removes.
pub(crate) type Change = (Vec<u8>, Option<Vec<u8>>);

/// Why a book cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoBook {
    /// It does not hold what it should.
    #[error("{0}")]
    Damaged(String),
    /// It may be whole: the system does not let it be opened now, for want of room, rights or open files.
    #[error("cannot open the book: {0}")]
    Io(io::Error),
}

/// A store for small values. Used from one thread only.
pub(crate) trait Book: fmt::Debug + Send {
    /// All that it holds.
    fn load(&mut self) -> Result<Vec<Row>, NoBook>;
    /// Makes changes, all or none, durable on return.
    fn apply(&mut self, changes: &[Change]) -> Result<(), String>;
    /// Puts a new book with just these values in place of it, durable on return. What was there
    /// is set aside when it is `damaged`, else removed.
    fn renew(&mut self, values: &[Row], damaged: bool) -> Result<(), String>;
    /// Removes what was set aside.
    fn clear(&mut self) -> Result<(), String>;
    /// Bytes on disk, what was set aside included.
    fn disk_bytes(&self) -> u64;
}
