//! The disk-persisted ring buffer: the one place where events wait.
//!
//! ```text
//!   trimmed   cursor(blob)  cursor(events)   durable   next
//!  ────┼───────────┼──────────────┼─────────────┼────────┼──►   Seq
//!  gone│    kept for blob         │  for both   │ queued │ unused
//! ```
//! Always: trimmed <= every cursor <= durable < next.
#![forbid(unsafe_code)]

mod contract;
mod group;
#[allow(dead_code)] // what the ring on disk needs of it
mod ledger;
mod levels;
mod memory;
mod options;
mod purge;
#[allow(dead_code)]
mod runs;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;

pub use contract::*;
pub use ledger::chain_link;
pub use memory::MemoryRing;
pub use options::{Compression, FullPolicy, RingOptions};
