//! The contract between a source and the intake.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tidegate_proto::batch::Batch;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A future that can be moved between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is known of a source before it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceInfo {
    /// Its configured name; the key of its stored position.
    pub name: String,
    /// `etl`, `jsonl`, `capture`, `synthetic`, `etw`, `census`.
    pub kind: &'static str,
    /// Whether it can be made to wait. One that cannot offers, and loss is counted.
    pub can_wait: bool,
}

/// How a source came to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceEnd {
    /// It was asked to stop, and could go on at its last position.
    pub stopped: bool,
    /// Parts of the input that could not be read, in words; each was sent as a gap event too.
    pub problems: Vec<String>,
    /// Number of all such parts.
    pub problem_count: u64,
}

/// Why a source ended before its input did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The input cannot be opened or read.
    #[error("cannot read {what}")]
    Io {
        /// Which input.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The input is not what the source reads.
    #[error("{what}: {why}")]
    Input {
        /// Which input.
        what: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// This platform has no such source.
    #[error("source \"{name}\" needs {needs}")]
    Unsupported {
        /// Which source.
        name: String,
        /// What it needs.
        needs: String,
    },
    /// The account lacks a right; the text says which and what mends it.
    #[error("{0}")]
    Denied(String),
    /// The session could not be started or was lost.
    #[error("{0}")]
    Session(String),
}

/// Something that produces events.
///
/// # Contract
/// * [`run`](Source::run) goes on until `stop`, the end of its input, or a failure. On `stop`
///   it hands over what it holds and returns within a second.
/// * It never panics, whatever the input; bad parts become gap events
///   ([`tidegate_proto::own::push_gap`]) and the rest goes on.
/// * Each item carries the position behind its last event. A source that is given a position
///   at its making goes on there: no event twice, none left out.
/// * Its memory is bounded, whatever the input says.
pub trait Source: std::fmt::Debug + Send {
    /// What is known before it runs.
    fn info(&self) -> SourceInfo;

    /// Runs to the end.
    fn run(
        self: Box<Self>,
        out: Outlet,
        stop: CancellationToken,
    ) -> BoxFuture<'static, Result<SourceEnd, SourceError>>;
}

/// A batch on its way to the gate.
#[derive(Debug)]
pub struct Item {
    /// The source's name.
    pub source: Arc<str>,
    /// Events in order.
    pub events: Batch,
    /// Where the source stands behind the last of them; empty = it keeps no position.
    pub position: Vec<u8>,
}

/// The intake is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the intake is closed")]
pub struct Closed;

/// What became of an offered batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is on its way.
    Taken,
    /// There was no room: its events are counted as dropped, `intake_full`.
    Full,
    /// The intake is gone.
    Closed,
}

#[derive(Debug)]
struct Shared {
    spare: Mutex<Vec<Batch>>,
    refused: AtomicU64,
}

/// A source's end of the intake.
#[derive(Clone, Debug)]
pub struct Outlet {
    source: Arc<str>,
    items: mpsc::Sender<Item>,
    shared: Arc<Shared>,
    /// The last position handed over.
    last: Arc<Mutex<Vec<u8>>>,
}

/// The gate's end of the intake.
#[derive(Debug)]
pub struct Intake {
    items: mpsc::Receiver<Item>,
    sender: mpsc::Sender<Item>,
    shared: Arc<Shared>,
}

/// Batches kept for use again.
const SPARE: usize = 16;

/// An intake that holds `room` batches.
#[must_use]
pub fn intake(room: usize) -> Intake {
    let (sender, items) = mpsc::channel(room.max(1));
    let shared = Arc::new(Shared { spare: Mutex::new(Vec::new()), refused: AtomicU64::new(0) });
    Intake { items, sender, shared }
}

impl Intake {
    /// A way in for one source.
    #[must_use]
    pub fn outlet(&self, source: &str) -> Outlet {
        Outlet {
            source: Arc::from(source),
            items: self.sender.clone(),
            shared: Arc::clone(&self.shared),
            last: Arc::default(),
        }
    }

    /// No further outlet is handed out: [`next`](Intake::next) ends when those there are gone.
    #[must_use]
    pub fn seal(self) -> Intake {
        let (sender, _) = mpsc::channel(1);
        Intake { sender, ..self }
    }

    /// The next batch; `None` when all outlets are gone.
    ///
    /// # Cancel safety
    /// A cancelled call has taken nothing.
    pub async fn next(&mut self) -> Option<Item> {
        self.items.recv().await
    }

    /// The next batch, if one is there.
    pub fn try_next(&mut self) -> Option<Item> {
        self.items.try_recv().ok()
    }

    /// The next batch; waits on a thread that is not the runtime's.
    pub fn blocking_next(&mut self) -> Option<Item> {
        self.items.blocking_recv()
    }

    /// Gives a batch's memory back.
    pub fn recycle(&self, mut batch: Batch) {
        batch.clear();
        if let Ok(mut spare) = self.shared.spare.lock()
            && spare.len() < SPARE
        {
            spare.push(batch);
        }
    }

    /// Whether no batch lies in it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.items.is_empty()
    }

    /// Events refused since the last call because there was no room: to be counted as
    /// read and dropped, `intake_full`.
    #[must_use]
    pub fn take_refused(&self) -> u64 {
        self.shared.refused.swap(0, Ordering::Relaxed)
    }
}

impl Outlet {
    /// An empty batch, of used memory where there is some.
    #[must_use]
    pub fn batch(&self) -> Batch {
        self.shared.spare.lock().ok().and_then(|mut s| s.pop()).unwrap_or_default()
    }

    /// The last position that was handed over by this outlet or its clones, empty when none was:
    /// where a source that was stopped is to go on in the same run.
    #[must_use]
    pub fn last_position(&self) -> Vec<u8> {
        self.last.lock().map(|last| last.clone()).unwrap_or_default()
    }

    fn handed_over(&self, position: Vec<u8>) {
        if !position.is_empty()
            && let Ok(mut last) = self.last.lock()
        {
            *last = position;
        }
    }

    fn item(&self, events: Batch, position: Vec<u8>) -> Item {
        Item { source: Arc::clone(&self.source), events, position }
    }

    /// Hands over a batch; waits for room.
    ///
    /// # Errors
    /// When the intake is gone.
    ///
    /// # Cancel safety
    /// A cancelled call has handed over nothing; the batch is gone.
    pub async fn send(&self, events: Batch, position: Vec<u8>) -> Result<(), Closed> {
        self.items.send(self.item(events, position.clone())).await.map_err(|_| Closed)?;
        self.handed_over(position);
        Ok(())
    }

    /// Hands over a batch from a thread that is not the runtime's; waits for room.
    ///
    /// # Errors
    /// When the intake is gone.
    pub fn blocking_send(&self, events: Batch, position: Vec<u8>) -> Result<(), Closed> {
        self.items.blocking_send(self.item(events, position.clone())).map_err(|_| Closed)?;
        self.handed_over(position);
        Ok(())
    }

    /// For callback threads: never waits, never panics, counts what is refused.
    pub fn offer(&self, events: Batch) -> Offer {
        let count = events.len() as u64;
        match self.items.try_send(self.item(events, Vec::new())) {
            Ok(()) => Offer::Taken,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.shared.refused.fetch_add(count, Ordering::Relaxed);
                Offer::Full
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Offer::Closed,
        }
    }
}
