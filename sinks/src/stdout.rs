//! Events as JSON Lines on standard output, for pipes and for looking on.
//!
//! At least once: what was written before an attempt failed is written again.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tidegate_proto::ids::SinkId;
use tidegate_proto::json;

use crate::limits::{BatchConfig, LimitError};
use crate::{BatchLimits, BoxFuture, DeliverError, Delivered, Object, Sink, SinkBatch};

/// `type = "stdout"`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StdoutConfig {
    /// `[….batch]`. Defaults: 10,000 events, 1 MiB, 1 s.
    pub batch: BatchConfig,
}

/// See the module.
pub struct StdoutSink {
    id: SinkId,
    limits: BatchLimits,
    to: Arc<Mutex<dyn Write + Send>>,
}

impl fmt::Debug for StdoutSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StdoutSink({})", self.id)
    }
}

impl StdoutSink {
    /// A sink to standard output.
    ///
    /// # Errors
    /// When a limit is out of bounds.
    pub fn new(id: &SinkId, config: &StdoutConfig) -> Result<StdoutSink, LimitError> {
        StdoutSink::to(id, config, io::stdout())
    }

    /// A sink to any writer.
    ///
    /// # Errors
    /// When a limit is out of bounds.
    pub fn to(
        id: &SinkId,
        config: &StdoutConfig,
        to: impl Write + Send + 'static,
    ) -> Result<StdoutSink, LimitError> {
        let own = BatchLimits {
            events: 10_000,
            bytes: 1 << 20,
            age: Duration::from_secs(1),
            in_flight: 1,
            timeout: Duration::from_secs(300),
        };
        // lines of two batches may not mix
        let limits = BatchLimits { in_flight: 1, ..config.batch.over(own)? };
        Ok(StdoutSink { id: id.clone(), limits, to: Arc::new(Mutex::new(to)) })
    }
}

fn failed(source: io::Error) -> DeliverError {
    if source.kind() == io::ErrorKind::BrokenPipe {
        let advice = "nobody reads standard output any more: start it again with a reader".to_owned();
        return DeliverError::Stop { after: None, advice, source: Box::new(source) };
    }
    DeliverError::Retry { after: None, source: Box::new(source) }
}

impl Sink for StdoutSink {
    fn id(&self) -> &SinkId {
        &self.id
    }

    fn limits(&self) -> BatchLimits {
        self.limits
    }

    fn check(&self) -> BoxFuture<'_, Result<(), DeliverError>> {
        Box::pin(async { Ok(()) })
    }

    fn deliver<'a>(&'a self, batch: &'a SinkBatch) -> BoxFuture<'a, Result<Delivered, DeliverError>> {
        Box::pin(async move {
            let mut lines = Vec::new();
            for (seq, event) in batch.iter() {
                json::write_line(&mut lines, event, Some(seq));
                lines.push(b'\n');
            }
            let bytes = lines.len() as u64;
            let to = Arc::clone(&self.to);
            // a pipe whose reader is slow blocks
            tokio::task::spawn_blocking(move || {
                let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
                to.write_all(&lines).and_then(|()| to.flush())
            })
            .await
            .unwrap_or_else(|e| Err(io::Error::other(e)))
            .map_err(failed)?;
            let object = Object {
                destination: "stdout".to_owned(),
                len: bytes,
                events: u32::try_from(batch.len()).unwrap_or(u32::MAX),
                ..Object::default()
            };
            Ok(Delivered { objects: vec![object], rejected: Vec::new(), bytes })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::batch;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Failing(io::ErrorKind);
    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn every_event_is_one_line() {
        let out = Shared::default();
        let sink = StdoutSink::to(&SinkId::new("out"), &StdoutConfig::default(), out.clone()).unwrap();
        let done = sink.deliver(&batch(1, 20)).await.unwrap();
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert_eq!((text.lines().count(), done.objects[0].events), (20, 20));
        for (n, line) in text.lines().enumerate() {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(event["seq"], n as u64 + 1);
        }
    }

    #[tokio::test]
    async fn a_broken_pipe_stops_and_another_failure_is_tried_again() {
        let sink =
            |kind| StdoutSink::to(&SinkId::new("out"), &StdoutConfig::default(), Failing(kind)).unwrap();
        let error = sink(io::ErrorKind::BrokenPipe).deliver(&batch(1, 1)).await.unwrap_err();
        let DeliverError::Stop { advice, .. } = &error else { panic!("{error}") };
        assert!(advice.contains("again with a reader"), "{advice}");
        let error = sink(io::ErrorKind::StorageFull).deliver(&batch(1, 1)).await.unwrap_err();
        assert!(matches!(error, DeliverError::Retry { .. }), "{error}");
    }
}
