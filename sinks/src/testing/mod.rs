//! Fakes and suites for tests of this and other crates (feature `test-util`).
//!
//! Functions here panic when a test's own set-up fails.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod batches;
pub mod chain;
pub mod contract;
mod server;
mod sinks;

pub use batches::{batch, batch_of, origin};
pub use server::{Canned, CannedServer, Seen};
pub use sinks::{Mishap, RecordingSink, StallingSink, UnreliableSink};
