//! The Kafka sink: one record an event, to a topic of Apache Kafka or of Event Hubs.
//!
//! | record | from |
//! |---|---|
//! | key | the event's id: the ring's epoch in 16 hexadecimal digits, `-`, the place in the ring |
//! | value | the event as our JSON, or as a protobuf block of one event |
//! | headers | `host`, `stream`, `level` (telemetry level in force), `format` |
//! | timestamp | the event's time |
//!
//! One batch is one produce request to one partition, written by all in-sync replicas or not
//! at all. Delivery is at least once: after a lost reply the same records are written again
//! with the same keys, which compaction of the topic or the reader removes. All events of one
//! stream go to one partition, in order, unless `spread = "batch"` deals batches out.

mod config;
mod error;
mod sink;
#[cfg(test)]
mod tests;

pub use config::{KafkaAuth, KafkaCompression, KafkaConfig, KafkaError, KafkaSpread, KafkaValue};
pub use sink::KafkaSink;
