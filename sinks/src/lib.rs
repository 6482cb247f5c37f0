//! Ways out: the [`Sink`] contract and its implementations.
//!
//! A sink makes one attempt at delivering one batch. When to try again, what to
//! send and what becomes of failures is the dispatcher's business alone.
#![forbid(unsafe_code)]

pub mod blob;
mod clock;
mod config;
pub mod directory;
pub mod events;
pub mod format;
pub mod held;
pub mod holdings;
pub mod http;
pub mod kafka;
pub mod layout;
pub mod limits;
pub mod otlp;
pub mod secret;
mod sink;
pub mod stdout;
#[cfg(feature = "test-util")]
pub mod testing;
pub mod units;

pub use clock::Clock;
pub use config::{BuildError, SinkConfig, TlsEndpoint};
pub use sink::{
    BatchLimits, BoxError, BoxFuture, DeliverError, Delivered, Object, Origin, Ready, RejectReason, Rejected,
    Sink, SinkBatch, Staged,
};
