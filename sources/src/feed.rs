//! What all replaying sources share: a thread that reads, and a future that paces, hands
//! over and stops it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use tidegate_proto::batch::{Batch, EventRef};
use tidegate_proto::own::{Gap, push_gap};
use tidegate_proto::schema::Decoder;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::pace::{Pace, Pacer, Window};
use crate::position::Position;
use crate::source::{BoxFuture, Outlet, SourceEnd, SourceError};

/// Events handed over together.
pub(crate) const BATCH_EVENTS: usize = 1000;
/// A batch is handed over when it takes more memory than this.
pub(crate) const BATCH_BYTES: usize = 1 << 20;
/// Problems kept in words.
const PROBLEMS: usize = 100;
/// How long a stopped reader is waited for.
const FAREWELL: Duration = Duration::from_millis(500);

/// Why reading ends early.
#[derive(Debug)]
pub(crate) enum Halt {
    /// It was asked to, or nobody takes the events any more.
    Stopped,
    /// The input failed.
    Failed(SourceError),
}

impl Halt {
    /// A file that cannot be opened or read.
    pub(crate) fn io(path: &Path, source: io::Error) -> Halt {
        Halt::Failed(SourceError::Io { what: path.display().to_string(), source })
    }
}

impl From<SourceError> for Halt {
    fn from(e: SourceError) -> Halt {
        Halt::Failed(e)
    }
}

/// One input that events come from, in an order that never changes.
pub(crate) trait Input {
    /// Appends up to `most` events more, at least one unless it is the end; false at the end.
    /// Should return early when the batch takes more than [`BATCH_BYTES`].
    fn read(&mut self, batch: &mut Batch, most: usize) -> Result<bool, Halt>;

    /// The place behind the last event read.
    fn position(&self) -> Position;
}

struct Step {
    batch: Batch,
    position: Vec<u8>,
    /// Time of its last event; `None`: due at once.
    time_ns: Option<i64>,
    restart: bool,
}

/// The reading thread's end.
pub(crate) struct Feed {
    steps: mpsc::Sender<Step>,
    out: Outlet,
    stop: CancellationToken,
    awake: std_mpsc::Receiver<()>,
    window: Window,
    pace: Pace,
    restart: bool,
    events: u64,
    end: SourceEnd,
}

impl Feed {
    /// Whether to end.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.is_cancelled() || self.steps.is_closed()
    }

    /// A token that tells the same to what runs inside of a reader.
    pub(crate) fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// The window asked for.
    pub(crate) fn window(&self) -> Window {
        self.window
    }

    /// Sleeps, or wakes up to end.
    pub(crate) fn wait(&self, time: Duration) -> Result<(), Halt> {
        match self.awake.recv_timeout(time) {
            Err(std_mpsc::RecvTimeoutError::Timeout) if !self.stopped() => Ok(()),
            _ => Err(Halt::Stopped),
        }
    }

    /// Events handed over so far.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// The next event is due at once: another file, or the same anew.
    pub(crate) fn restart(&mut self) {
        self.restart = true;
    }

    /// Notes a part that could not be read. The caller has made a gap of it.
    pub(crate) fn problem(&mut self, words: impl FnOnce() -> String) {
        self.end.problem_count += 1;
        if self.end.problems.len() < PROBLEMS {
            self.end.problems.push(words());
        }
    }

    /// Notes and hands over a gap by itself.
    pub(crate) fn gap(&mut self, gap: &Gap, position: Position) -> Result<(), Halt> {
        self.problem(|| format!("{}: {}", gap.origin, gap.detail));
        let mut batch = self.out.batch();
        push_gap(&mut batch, gap);
        self.send(batch, position, None)
    }

    fn send(&mut self, batch: Batch, position: Position, time_ns: Option<i64>) -> Result<(), Halt> {
        self.events += batch.len() as u64;
        let restart = std::mem::take(&mut self.restart);
        let step = Step { batch, position: position.encode(), time_ns, restart };
        if self.stopped() {
            return Err(Halt::Stopped);
        }
        self.steps.blocking_send(step).map_err(|_| Halt::Stopped)
    }

    /// Hands over everything that `input` has.
    pub(crate) fn pump(&mut self, input: &mut impl Input) -> Result<(), Halt> {
        match self.pace.slice_ns() {
            None if self.window.is_all() => self.pump_whole(input),
            slice_ns => self.pump_each(input, slice_ns),
        }
    }

    /// Whole batches as they were read.
    fn pump_whole(&mut self, input: &mut impl Input) -> Result<(), Halt> {
        loop {
            let mut batch = self.out.batch();
            let more = self.fill(input, &mut batch)?;
            if !batch.is_empty() {
                self.send(batch, input.position(), None)?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// A failure comes behind what was read before it.
    fn fill(&mut self, input: &mut impl Input, batch: &mut Batch) -> Result<bool, Halt> {
        match input.read(batch, BATCH_EVENTS) {
            Err(Halt::Failed(e)) if !batch.is_empty() => {
                self.send(std::mem::take(batch), input.position(), None)?;
                Err(Halt::Failed(e))
            }
            other => other,
        }
    }

    /// Event by event: some are left out, or they are handed over when they are due.
    fn pump_each(&mut self, input: &mut impl Input, slice_ns: Option<i64>) -> Result<(), Halt> {
        let (mut batch, mut one) = (self.out.batch(), Batch::new());
        let (mut first_ns, mut last_ns) = (None, None);
        let mut behind = input.position();
        let window = self.window;
        loop {
            one.clear();
            let read = input.read(&mut one, 1);
            // What one read gives stays together: only behind it is a place to go on from.
            let own = |event: &EventRef<'_>| event.schema().decoder == Decoder::Own;
            let kept = |event: &EventRef<'_>| own(event) || window.holds(event.head().time_ns);
            let times = one.iter().filter(|e| kept(e) && !own(e)).map(|e| e.head().time_ns);
            let (earliest, latest) = (times.clone().min(), times.max());
            let late = match (slice_ns, first_ns, latest) {
                (Some(slice), Some(first), Some(latest)) => latest.saturating_sub(first) > slice,
                _ => false,
            };
            if !batch.is_empty() && (late || batch.len() >= BATCH_EVENTS || batch.bytes() > BATCH_BYTES) {
                let full = std::mem::replace(&mut batch, self.out.batch());
                self.send(full, behind, last_ns)?;
                (first_ns, last_ns) = (None, None);
            }
            first_ns = first_ns.or(earliest);
            last_ns = last_ns.max(latest);
            one.iter().filter(kept).for_each(|event| batch.push_copy(event));
            behind = input.position();
            match read {
                Ok(true) if self.stopped() => return Err(Halt::Stopped),
                Ok(true) => {}
                ended => {
                    if !batch.is_empty() {
                        self.send(batch, behind, last_ns)?;
                    }
                    return ended.map(|_| ());
                }
            }
        }
    }
}

/// Runs `read` on a thread of its own and hands over what it feeds.
pub(crate) fn drive(
    name: Arc<str>,
    (pace, window): (Pace, Window),
    out: Outlet,
    stop: CancellationToken,
    read: impl FnOnce(&mut Feed) -> Result<(), Halt> + Send + 'static,
) -> BoxFuture<'static, Result<SourceEnd, SourceError>> {
    Box::pin(async move {
        // one read ahead
        let (steps, mut taken) = mpsc::channel(1);
        let (done, mut ended) = oneshot::channel();
        let (wake, awake) = std_mpsc::channel::<()>();
        // cancelled too when this future is dropped
        let inner = stop.child_token();
        let guard = inner.clone().drop_guard();
        let mut feed = Feed {
            steps,
            out: out.clone(),
            stop: inner,
            awake,
            window,
            pace,
            restart: true,
            events: 0,
            end: SourceEnd::default(),
        };
        // not of the runtime's pool: it lives long, and the runtime's end does not wait for it
        std::thread::Builder::new()
            .name(format!("source {name}").chars().take(15).collect())
            .spawn(move || {
                let result = read(&mut feed);
                let Feed { end, .. } = feed;
                let _ = done.send((result, end));
            })
            .map_err(|source| SourceError::Io { what: "the reading thread".to_owned(), source })?;
        let mut pacer = Pacer::new(pace);
        let halted = loop {
            let step = tokio::select! {
                biased;
                () = stop.cancelled() => break true,
                step = taken.recv() => step,
            };
            let Some(Step { batch, position, time_ns, restart }) = step else { break false };
            if let Some(pacer) = &mut pacer {
                if restart {
                    pacer.restart();
                }
                if let Some(time_ns) = time_ns {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break true,
                        () = tokio::time::sleep_until(pacer.due(time_ns)) => {}
                    }
                }
            }
            // What is not handed over is read again from the position before it.
            tokio::select! {
                biased;
                sent = out.send(batch, position) => if sent.is_err() { break true },
                () = stop.cancelled() => break true,
            }
        };
        drop(guard);
        drop(wake);
        drop(taken);
        let result = if halted {
            match tokio::time::timeout(FAREWELL, &mut ended).await {
                Ok(result) => result,
                Err(_) => return Ok(SourceEnd { stopped: true, ..SourceEnd::default() }),
            }
        } else {
            ended.await
        };
        match result {
            Ok((Ok(()), end)) => Ok(SourceEnd { stopped: halted, ..end }),
            Ok((Err(Halt::Stopped), end)) => Ok(SourceEnd { stopped: true, ..end }),
            // what a stopped reader met on its way out is no failure
            Ok((Err(Halt::Failed(_)), end)) if halted => Ok(SourceEnd { stopped: true, ..end }),
            Ok((Err(Halt::Failed(e)), _)) => Err(e),
            Err(_) => Err(SourceError::Session(format!("the reading thread of source \"{name}\" died"))),
        }
    })
}
