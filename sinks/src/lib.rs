//! Ways out: the [`Sink`] contract and its implementations.
//!
//! A sink makes one attempt at delivering one batch. When to try again, what to
//! send and what becomes of failures is the dispatcher's business alone.
#![forbid(unsafe_code)]

pub mod events;
mod sink;

pub use sink::{
    BatchLimits, BoxError, BoxFuture, DeliverError, Delivered, Object, Origin, RejectReason, Rejected, Sink,
    SinkBatch,
};
