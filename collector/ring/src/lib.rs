//! The disk-persisted ring buffer: the one place where events wait.
//!
//! ```text
//!   trimmed   cursor(blob)  cursor(events)   durable   next
//!  ────┼───────────┼──────────────┼─────────────┼────────┼──►   Seq
//!  gone│    kept for blob         │  for both   │ queued │ unused
//! ```
//! Always: trimmed <= every cursor <= durable < next.
#![forbid(unsafe_code)]

mod book;
pub mod bundle;
mod codec;
mod contract;
mod crypt;
mod disk;
mod enc;
mod group;
mod ledger;
mod levels;
mod memory;
mod options;
mod purge;
mod runs;
mod store;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;

pub use contract::*;
pub use crypt::{KeyError, Keys};
pub use ledger::chain_link;
pub use memory::MemoryRing;
pub use options::{Compression, FullPolicy, RingOptions};
pub use store::SledRing;
