//! `[sinks.NAME.batch]`: what every sink lets the operator change about its batches.

use std::time::Duration;

use serde::Deserialize;

use crate::BatchLimits;
use crate::units::{Size, Span};

/// Overrides of a sink's own [`BatchLimits`]; what is absent stays as the sink has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchConfig {
    /// `events`: most events, 1 to 1,000,000.
    pub events: Option<u32>,
    /// `bytes`: most bytes before compression, 1 KiB to 256 MiB.
    pub bytes: Option<Size>,
    /// `age`: how long the oldest event of a batch that is not full waits, up to a day.
    pub age: Option<Span>,
    /// `in_flight`: most deliveries at a time, 1 to 64.
    pub in_flight: Option<u32>,
    /// `timeout`: of one attempt, 1 s to an hour.
    pub timeout: Option<Span>,
}

/// A limit out of its bounds.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("batch.{key} is out of range: {allowed} is allowed")]
pub struct LimitError {
    /// Which.
    pub key: &'static str,
    /// What is allowed.
    pub allowed: &'static str,
}

fn within<T: PartialOrd>(
    value: Option<T>,
    default: T,
    (least, most): (T, T),
    key: &'static str,
    allowed: &'static str,
) -> Result<T, LimitError> {
    let value = value.unwrap_or(default);
    if value < least || value > most { Err(LimitError { key, allowed }) } else { Ok(value) }
}

impl BatchConfig {
    /// A sink's limits with the overrides.
    ///
    /// # Errors
    /// When one is out of bounds.
    pub fn over(self, own: BatchLimits) -> Result<BatchLimits, LimitError> {
        let day = Duration::from_secs(86_400);
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        let span = |s: Option<Span>| s.map(|s| s.0);
        Ok(BatchLimits {
            events: within(self.events, own.events, (1, 1_000_000), "events", "1 to 1000000")?,
            bytes: within(
                self.bytes.map(|s| s.0),
                own.bytes,
                (1 << 10, 256 << 20),
                "bytes",
                "1KiB to 256MiB",
            )?,
            age: within(span(self.age), own.age, (Duration::ZERO, day), "age", "0s to 1d")?,
            in_flight: within(self.in_flight, own.in_flight, (1, 64), "in_flight", "1 to 64")?,
            timeout: within(span(self.timeout), own.timeout, (second, hour), "timeout", "1s to 1h")?,
        })
    }
}
