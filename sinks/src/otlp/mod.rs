//! The OTLP sink: events as OpenTelemetry logs, over HTTP with protobuf bodies or over gRPC.
//!
//! One batch is one request; what is larger than `max_bytes` goes in halves. Delivery is at
//! least once: OTLP has no identity of a record, so each carries `tidegate.epoch` (resource)
//! and `tidegate.seq` for the far side to dedupe. The same batch makes the same bytes.
//!
//! The mapping stands at `convert`, what answers mean at `reply`.

mod config;
mod convert;
mod messages;
mod reply;
mod sink;
#[cfg(test)]
mod tests;

pub use config::{OtlpCompression, OtlpConfig, OtlpError, OtlpProtocol};
pub use sink::OtlpSink;
