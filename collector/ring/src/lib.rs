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

pub use contract::*;
