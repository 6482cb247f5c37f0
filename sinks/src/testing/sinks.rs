//! Sinks that remember, fail and hang.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_proto::ids::{Seq, SeqRange, SinkId};
use tidegate_proto::json;
use tokio::sync::Notify;

use crate::{BatchLimits, BoxFuture, DeliverError, Delivered, Object, Sink, SinkBatch};

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn small_limits() -> BatchLimits {
    BatchLimits {
        events: 1000,
        bytes: 1 << 20,
        age: Duration::from_secs(1),
        in_flight: 2,
        timeout: Duration::from_secs(30),
    }
}

/// Keeps what it gets in memory. A range that comes again is counted, not kept twice.
#[derive(Debug)]
pub struct RecordingSink {
    id: SinkId,
    limits: BatchLimits,
    state: Mutex<Recorded>,
}

#[derive(Debug, Default)]
struct Recorded {
    ranges: Vec<SeqRange>,
    events: Vec<(Seq, String)>,
    repeats: u64,
}

impl RecordingSink {
    /// A sink with small limits.
    #[must_use]
    pub fn new(name: &str) -> Arc<RecordingSink> {
        RecordingSink::with_limits(name, small_limits())
    }

    /// A sink with these limits.
    #[must_use]
    pub fn with_limits(name: &str, limits: BatchLimits) -> Arc<RecordingSink> {
        Arc::new(RecordingSink { id: SinkId::new(name), limits, state: Mutex::default() })
    }

    /// The events as JSON, in the order of their places.
    #[must_use]
    pub fn events(&self) -> Vec<(Seq, String)> {
        let mut events = lock(&self.state).events.clone();
        events.sort();
        events
    }

    /// The ranges in the order they came.
    #[must_use]
    pub fn ranges(&self) -> Vec<SeqRange> {
        lock(&self.state).ranges.clone()
    }

    /// How often a range came again.
    #[must_use]
    pub fn repeats(&self) -> u64 {
        lock(&self.state).repeats
    }
}

impl Sink for RecordingSink {
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
            let mut state = lock(&self.state);
            let found = state.ranges.contains(&batch.range());
            if found {
                state.repeats += 1;
            } else {
                state.ranges.push(batch.range());
                for (seq, event) in batch.iter() {
                    let mut text = Vec::new();
                    json::write_event(&mut text, event, Some(seq));
                    state.events.push((seq, String::from_utf8_lossy(&text).into_owned()));
                }
            }
            let object = Object {
                destination: format!("memory:{}/{}", self.id, batch.range()),
                events: u32::try_from(batch.len()).unwrap_or(u32::MAX),
                found,
                ..Object::default()
            };
            Ok(Delivered { objects: vec![object], ..Delivered::default() })
        })
    }
}

/// What goes wrong with one attempt.
#[derive(Clone, Debug)]
pub enum Mishap {
    /// Nothing.
    None,
    /// It fails before anything is delivered.
    Before,
    /// It is delivered, and the reply is lost.
    LostReply,
    /// The far side asks to wait.
    RetryAfter(Duration),
    /// Someone must act.
    Stop,
    /// Too large.
    Split,
}

/// A sink in front of another, with a list of mishaps; when it is used up, none.
#[derive(Debug)]
pub struct UnreliableSink {
    inner: Arc<dyn Sink>,
    mishaps: Mutex<VecDeque<Mishap>>,
}

impl UnreliableSink {
    /// Puts mishaps before a sink.
    #[must_use]
    pub fn new(inner: Arc<dyn Sink>, mishaps: impl IntoIterator<Item = Mishap>) -> Arc<UnreliableSink> {
        Arc::new(UnreliableSink { inner, mishaps: Mutex::new(mishaps.into_iter().collect()) })
    }

    /// Mishaps still to come.
    #[must_use]
    pub fn left(&self) -> usize {
        lock(&self.mishaps).len()
    }
}

impl Sink for UnreliableSink {
    fn id(&self) -> &SinkId {
        self.inner.id()
    }

    fn limits(&self) -> BatchLimits {
        self.inner.limits()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), DeliverError>> {
        self.inner.check()
    }

    fn deliver<'a>(&'a self, batch: &'a SinkBatch) -> BoxFuture<'a, Result<Delivered, DeliverError>> {
        Box::pin(async move {
            let mishap = lock(&self.mishaps).pop_front().unwrap_or(Mishap::None);
            let retry = |after, what: &str| DeliverError::Retry { after, source: what.into() };
            match mishap {
                Mishap::None => self.inner.deliver(batch).await,
                Mishap::Before => Err(retry(None, "failed before anything was sent")),
                Mishap::LostReply => {
                    self.inner.deliver(batch).await?;
                    Err(retry(None, "the reply was lost"))
                }
                Mishap::RetryAfter(after) => Err(retry(Some(after), "asked to wait")),
                Mishap::Stop => Err(DeliverError::Stop {
                    after: None,
                    advice: "mend the test's far side".to_owned(),
                    source: "refused".into(),
                }),
                Mishap::Split => Err(DeliverError::Split { source: "too large".into() }),
            }
        })
    }
}

/// A sink in front of another that holds every delivery until it is let go.
#[derive(Debug)]
pub struct StallingSink {
    inner: Arc<dyn Sink>,
    free: Mutex<bool>,
    changed: Notify,
}

impl StallingSink {
    /// Holds deliveries to a sink.
    #[must_use]
    pub fn new(inner: Arc<dyn Sink>) -> Arc<StallingSink> {
        Arc::new(StallingSink { inner, free: Mutex::new(false), changed: Notify::new() })
    }

    /// Lets all go, those to come too.
    pub fn release(&self) {
        *lock(&self.free) = true;
        self.changed.notify_waiters();
    }
}

impl Sink for StallingSink {
    fn id(&self) -> &SinkId {
        self.inner.id()
    }

    fn limits(&self) -> BatchLimits {
        self.inner.limits()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), DeliverError>> {
        self.inner.check()
    }

    fn deliver<'a>(&'a self, batch: &'a SinkBatch) -> BoxFuture<'a, Result<Delivered, DeliverError>> {
        Box::pin(async move {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                // registered before the look, so no release is missed
                changed.as_mut().enable();
                if *lock(&self.free) {
                    break;
                }
                changed.await;
            }
            self.inner.deliver(batch).await
        })
    }
}
