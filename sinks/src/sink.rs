//! The contract between the dispatcher and a sink.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tidegate_proto::batch::{Batch, EventRef};
use tidegate_proto::ids::{Seq, SeqRange, SinkId};
use tidegate_proto::level::TelemetryLevel;

use crate::blob::error::{NotUnderstood, ServiceError};
use crate::http::HttpError;
use crate::http::classify::BadReply;
use crate::layout::Part;

/// A future that can be moved between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// What went wrong underneath, for logs. Never holds a secret.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// One way out.
///
/// # Contract
/// * [`deliver`](Sink::deliver) is one attempt, without a retry inside.
/// * It may be called again with an equal batch (same origin, range, events) after a
///   failure, a lost reply, a cancelled call or a crash, and must then have the same
///   effect as one call, as far as the far side allows; where it does not (the events
///   endpoint), repeats carry the same event ids.
/// * Several calls may be in flight at once, up to [`BatchLimits::in_flight`], for
///   ranges that do not overlap.
/// * `Ok` means the far side has said that it holds every event of the batch, but those
///   in [`Delivered::rejected`].
/// * What is not understood is [`DeliverError::Retry`], never a reject.
/// * It holds no event longer than the call.
pub trait Sink: fmt::Debug + Send + Sync + 'static {
    /// Its configured name.
    fn id(&self) -> &SinkId;

    /// What a batch may be.
    fn limits(&self) -> BatchLimits;

    /// Tenants to which nothing is to be sent from now on, by their keys or ids; all others are
    /// free. Sinks without tenants have nothing to do.
    fn hold_tenants(&self, _keys: &[String]) {}

    /// The two steps of a delivery, of a sink that has them: whoever calls them one after the other can let the
    /// events go in between, while the far side is waited for. [`deliver`](Sink::deliver) does both.
    fn staged(&self) -> Option<&dyn Staged> {
        None
    }

    /// How long the far side wants to be asked nothing (`Retry-After`), whatever else it answered.
    /// Whoever calls [`deliver`](Sink::deliver) waits that long before.
    fn rest(&self) -> Option<Duration> {
        None
    }

    /// Asks the far side whether deliveries could work, without leaving anything there.
    ///
    /// # Errors
    /// As for [`deliver`](Sink::deliver). A failed check is reported, it does not keep the
    /// sink from starting.
    fn check(&self) -> BoxFuture<'_, Result<(), DeliverError>>;

    /// Delivers a batch: one attempt.
    ///
    /// # Errors
    /// See [`DeliverError`]; each variant is another thing to do.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the batch delivered; call again with the same batch.
    fn deliver<'a>(&'a self, batch: &'a SinkBatch) -> BoxFuture<'a, Result<Delivered, DeliverError>>;
}

/// A delivery in two steps. Together they promise what [`deliver`](Sink::deliver) does.
pub trait Staged: Sync {
    /// Makes the bytes that go. Waits for nothing but a processor.
    ///
    /// # Errors
    /// As for [`deliver`](Sink::deliver).
    ///
    /// # Cancel safety
    /// Nothing but memory is held.
    fn encode<'a>(&'a self, batch: &'a SinkBatch) -> BoxFuture<'a, Result<Ready, DeliverError>>;

    /// Delivers them: one attempt. May be called again.
    ///
    /// # Errors
    /// As for [`deliver`](Sink::deliver).
    ///
    /// # Cancel safety
    /// As for [`deliver`](Sink::deliver).
    fn send<'a>(&'a self, ready: &'a Ready) -> BoxFuture<'a, Result<Delivered, DeliverError>>;
}

/// A batch as the files or blobs that it becomes: holds none of its events.
#[derive(Clone, Debug)]
pub struct Ready {
    pub(crate) origin: Arc<Origin>,
    pub(crate) range: SeqRange,
    pub(crate) level: TelemetryLevel,
    pub(crate) parts: Vec<Part>,
}

impl Ready {
    /// What a batch became.
    #[must_use]
    pub fn new(batch: &SinkBatch, parts: Vec<Part>) -> Ready {
        Ready { origin: Arc::clone(&batch.origin), range: batch.range, level: batch.level, parts }
    }

    /// The whole run, as the batch had it.
    #[must_use]
    pub fn range(&self) -> SeqRange {
        self.range
    }
}

/// What a sink wants in a batch. The dispatcher keeps to all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Most events; at least 1.
    pub events: u32,
    /// Most bytes, counted as encoded protobuf before compression; one event may exceed it.
    pub bytes: u64,
    /// A batch that is not full goes when its oldest event has waited so long.
    pub age: Duration,
    /// Most deliveries at a time; at least 1.
    pub in_flight: u32,
    /// An attempt that takes longer is cancelled and counts as [`DeliverError::Retry`].
    pub timeout: Duration,
}

/// Whose events these are. Part of blob names and event ids.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The host's configured name; `[A-Za-z0-9._-]`, 1 to 63 characters.
    pub host: String,
    /// Name of the stream, usually `events`; same characters.
    pub stream: String,
    /// Which life of the ring the sequence numbers belong to: random, made with the ring.
    pub epoch: u64,
}

/// A run of the ring as one sink gets it: what the send-time gate and the sink's filter left.
#[derive(Debug)]
pub struct SinkBatch {
    origin: Arc<Origin>,
    range: SeqRange,
    level: TelemetryLevel,
    events: Batch,
    seqs: Vec<Seq>,
}

impl SinkBatch {
    /// Joins events with their places. `None` when there is not one place for each event,
    /// or they are not ascending and in `range`.
    #[must_use]
    pub fn new(
        origin: Arc<Origin>,
        range: SeqRange,
        level: TelemetryLevel,
        events: Batch,
        seqs: Vec<Seq>,
    ) -> Option<SinkBatch> {
        let sound = seqs.len() == events.len()
            && seqs.iter().all(|s| range.contains(*s))
            && seqs.is_sorted_by(|a, b| a < b);
        sound.then_some(SinkBatch { origin, range, level, events, seqs })
    }

    /// Whose events these are.
    #[must_use]
    pub fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// The whole run, left-out events included: planned before the first attempt.
    #[must_use]
    pub fn range(&self) -> SeqRange {
        self.range
    }

    /// The level in force when the batch was made.
    #[must_use]
    pub fn level(&self) -> TelemetryLevel {
        self.level
    }

    /// The events with their places, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Seq, EventRef<'_>)> + Clone {
        self.seqs.iter().copied().zip(self.events.iter())
    }

    /// Number of events to deliver.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seqs.len()
    }

    /// Whether there is nothing to deliver. The dispatcher settles such a run by itself.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seqs.is_empty()
    }

    /// Takes the events out: the batch has none any more, but for that it stays what it is.
    #[must_use]
    pub fn let_go(&mut self) -> (Batch, Vec<Seq>) {
        (std::mem::take(&mut self.events), std::mem::take(&mut self.seqs))
    }

    /// Takes the memory back for the next batch.
    #[must_use]
    pub fn into_parts(self) -> (Batch, Vec<Seq>) {
        (self.events, self.seqs)
    }
}

/// What a delivery left at the far side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Blobs, files or requests, for the receipt.
    pub objects: Vec<Object>,
    /// Events that the far side refused for good; all others are held by it.
    pub rejected: Vec<Rejected>,
    /// Bytes over the wire (bodies, as sent).
    pub bytes: u64,
}

/// One thing at the far side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// Where: URL without query, or path. Never holds a secret.
    pub destination: String,
    /// SHA-256 of the bytes as stored there.
    pub sha256: [u8; 32],
    /// Length of these bytes.
    pub len: u64,
    /// Events in it.
    pub events: u32,
    /// The server's name for it: ETag or request id; empty when it gave none.
    pub server_id: String,
    /// It was there already, with the same bytes: an earlier attempt had got through.
    pub found: bool,
}

/// An event that the far side will never take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its place.
    pub seq: Seq,
    /// Why.
    pub reason: RejectReason,
    /// What the far side said, at most 200 characters, without secrets.
    pub detail: String,
}

/// Why an event is refused for good. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum RejectReason {
    /// Larger than the far side takes.
    TooLarge = 0,
    /// The far side calls it invalid.
    Invalid = 1,
    /// This format cannot hold it.
    Unencodable = 2,
    /// The far side wants nothing of this tenant for now; to be replayed later.
    Held = 3,
}

impl RejectReason {
    /// Its label in accounts, dead letters and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Invalid => "invalid",
            Self::Unencodable => "unencodable",
            Self::Held => "held",
        }
    }
}

/// Why a batch was not delivered: each variant is another thing to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeliverError {
    /// Not known to be stored; try the same batch again, not before `after`.
    #[error("not delivered, will be tried again")]
    Retry {
        /// The far side's wish (Retry-After).
        after: Option<Duration>,
        /// What happened.
        #[source]
        source: BoxError,
    },
    /// Too much at once: try the halves. Of a single event: [`RejectReason::TooLarge`].
    #[error("too large for one request")]
    Split {
        /// What happened.
        #[source]
        source: BoxError,
    },
    /// The far side will never take any event of this batch.
    #[error("refused for good: {}", reason.as_str())]
    Reject {
        /// Why.
        reason: RejectReason,
        /// What happened.
        #[source]
        source: BoxError,
    },
    /// Nothing will pass until someone acts (credentials, container, pins, configuration).
    /// The dispatcher holds the sink, raises an alarm, and tries again rarely, not before `after`.
    #[error("held until someone acts: {advice}")]
    Stop {
        /// The far side's wish (Retry-After).
        after: Option<Duration>,
        /// What to do, in a sentence.
        advice: String,
        /// What happened.
        #[source]
        source: BoxError,
    },
    /// This batch will not pass until someone acts (another's blob has its name); others may. The
    /// dispatcher lets the others go on, raises an alarm, and tries this one again rarely.
    #[error("one batch is held until someone acts: {advice}")]
    Blocked {
        /// What to do, in a sentence.
        advice: String,
        /// What happened.
        #[source]
        source: BoxError,
    },
}

impl DeliverError {
    /// Whether the far side was reached and the time for the request was over before it had answered.
    #[must_use]
    pub fn is_late(&self) -> bool {
        let source = std::error::Error::source(self);
        matches!(source.and_then(|e| e.downcast_ref::<HttpError>()), Some(HttpError::Timeout(_)))
    }

    /// What happened, in our own words: for alarms, which may leave this host. `None` where only the far
    /// side's words would tell, since those may quote what it was sent.
    #[must_use]
    pub fn cause(&self) -> Option<String> {
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            if let Some(e) = error.downcast_ref::<HttpError>() {
                return Some(e.to_string());
            }
            if let Some(e) = error.downcast_ref::<BadReply>() {
                return Some(e.outline());
            }
            if let Some(e) = error.downcast_ref::<ServiceError>() {
                return Some(e.reply.outline());
            }
            if let Some(e) = error.downcast_ref::<NotUnderstood>() {
                return Some(e.to_string());
            }
            if let Some(e) = error.downcast_ref::<std::io::Error>() {
                return Some(e.kind().to_string());
            }
            next = error.source();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_for_alarms_quotes_nothing_that_the_far_side_said() {
        let retry = |source: BoxError| DeliverError::Retry { after: None, source }.cause();
        let dns = HttpError::Dns { host: "h".into(), detail: "none".into() };
        assert_eq!(
            retry(Box::new(dns)).unwrap(),
            "h: the name is not found, check the address and DNS: none"
        );
        let reply = |status, said| BadReply::new("https://h/c", status, said);
        assert_eq!(retry(Box::new(reply(503, "secret"))).unwrap(), "https://h/c answered 503");
        let moved = "redirected to https://login/, which is not followed: check the address";
        assert_eq!(retry(Box::new(reply(302, moved))).unwrap(), format!("https://h/c answered 302: {moved}"));
        let code = "ServerBusy".to_owned();
        let service = ServiceError { code, request_id: String::new(), reply: reply(503, "secret") };
        assert_eq!(retry(Box::new(service)).unwrap(), "https://h/c answered 503");
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(retry(Box::new(full)).unwrap(), "no storage space");
        assert_eq!(retry("status 429: secret".into()), None);
        let late = |error: HttpError| DeliverError::from(error).is_late();
        assert!(late(HttpError::Timeout("h".into())));
        assert!(!late(HttpError::Connect { host: "h".into(), detail: "no answer in time".into() }));
    }
}
