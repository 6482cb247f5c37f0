//! Replay of captures: blocks as [`tidegate_proto::capture`] keeps them.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_proto::batch::Batch;
use tidegate_proto::capture::{CaptureError, CaptureReader};
use tidegate_proto::own::{Gap, push_gap};
use tidegate_proto::wire::{BlockReader, SchemaInterner, WireError};
use tokio_util::sync::CancellationToken;

use crate::content::{self, Stoppable};
use crate::feed::{BATCH_BYTES, Feed, Halt, Input, drive};
use crate::files::{FileList, Playback, Turn};
use crate::pace::{Pace, Timestamp};
use crate::position::Position;
use crate::source::{BoxFuture, Outlet, Source, SourceEnd, SourceError, SourceInfo};

/// Settings of a `capture` source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureConfig {
    /// The captures, replayed in this order.
    pub paths: Vec<PathBuf>,
    /// How fast.
    #[serde(default)]
    pub speed: Pace,
    /// The earliest event time.
    #[serde(default)]
    pub from: Option<Timestamp>,
    /// The first event time that is left out again.
    #[serde(default)]
    pub to: Option<Timestamp>,
    /// Whether to begin anew at the end.
    #[serde(default, rename = "loop")]
    pub repeat: bool,
}

impl CaptureConfig {
    /// Settings that replay `paths` once, flat out.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>) -> CaptureConfig {
        CaptureConfig { paths, speed: Pace::FlatOut, from: None, to: None, repeat: false }
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// In words, naming the key.
    pub fn check(&self) -> Result<(), String> {
        FileList::check(&self.paths)?;
        self.playback().check()
    }

    fn playback(&self) -> Playback {
        Playback { speed: self.speed, from: self.from, to: self.to, repeat: self.repeat }
    }

    /// Makes the source, to go on at `position`.
    ///
    /// # Errors
    /// Settings that contradict one another, or a position that is none.
    pub fn build(self, name: &str, position: Option<&[u8]>) -> Result<CaptureSource, SourceError> {
        self.check().map_err(|why| SourceError::Input { what: format!("source \"{name}\""), why })?;
        let position = Position::decode(name, position)?;
        Ok(CaptureSource { name: Arc::from(name), config: self, position })
    }
}

/// Replays captures.
#[derive(Debug)]
pub struct CaptureSource {
    name: Arc<str>,
    config: CaptureConfig,
    position: Option<Position>,
}

impl Source for CaptureSource {
    fn info(&self) -> SourceInfo {
        SourceInfo { name: self.name.to_string(), kind: "capture", can_wait: true }
    }

    fn run(
        self: Box<Self>,
        out: Outlet,
        stop: CancellationToken,
    ) -> BoxFuture<'static, Result<SourceEnd, SourceError>> {
        let CaptureSource { name, config, position } = *self;
        let playback = config.playback();
        drive(name, (playback.speed, playback.window()), out, stop, move |feed| {
            let mut list = FileList::new(&config.paths, position, config.repeat);
            let mut interner = SchemaInterner::new();
            while let Some(turn) = list.next(feed.events()) {
                feed.restart();
                replay(feed, turn, &mut interner)?;
            }
            Ok(())
        })
    }
}

fn replay(feed: &mut Feed, turn: Turn, interner: &mut SchemaInterner) -> Result<(), Halt> {
    let Turn { path, base, resume } = turn;
    let input_error = |why: String| SourceError::Input { what: path.display().to_string(), why };
    let stop = feed.token();
    let file = File::open(&path).map_err(|e| Halt::io(&path, e))?;
    let size = file.metadata().map_err(|e| Halt::io(&path, e))?.len();
    let file = BufReader::with_capacity(64 << 10, Stoppable::new(file, Some(stop.clone())));
    let mut reader = CaptureReader::new(file).map_err(|e| match e {
        CaptureError::Io { .. } if stop.is_cancelled() => Halt::Stopped,
        CaptureError::Io { source, .. } => Halt::io(&path, source),
        other => input_error(other.to_string()).into(),
    })?;
    let (printed, print) = content::fingerprint(&path, size, resume)?;
    let mut skip = 0;
    if resume.is_some_and(|r| r.at >= size) {
        return Ok(());
    }
    if let Some(resume) = resume {
        reader.resume(resume.at).map_err(|e| input_error(e.to_string()))?;
        skip = resume.then;
    }
    let base = Position { printed, print, at: reader.offset(), ..base };
    let mut input = CaptureInput {
        path: path.display().to_string(),
        reader,
        size,
        interner,
        held: Batch::new(),
        given: 0,
        skip: usize::try_from(skip).unwrap_or(usize::MAX),
        place: base,
        last_ns: resume.map_or(0, |r| r.time_ns),
        stop,
        problems: Vec::new(),
    };
    let result = feed.pump(&mut input);
    for problem in input.problems {
        feed.problem(|| problem);
    }
    result
}

/// The events of one capture.
struct CaptureInput<'i> {
    path: String,
    reader: CaptureReader<BufReader<Stoppable>>,
    size: u64,
    interner: &'i mut SchemaInterner,
    /// The events of a block that is given out in parts.
    held: Batch,
    /// How many of `held` are given out.
    given: usize,
    /// Events of the next block that were given out before.
    skip: usize,
    /// Behind the last event given out.
    place: Position,
    last_ns: i64,
    stop: CancellationToken,
    problems: Vec<String>,
}

impl CaptureInput<'_> {
    fn gap(&mut self, batch: &mut Batch, offset: u64, detail: String) {
        self.problems.push(format!("{}: {detail}", self.path));
        let last = batch.iter().next_back().map_or(self.last_ns, |e| e.head().time_ns);
        push_gap(batch, &damage(&self.path, offset, None, detail, last));
    }

    /// Takes the next block: into `batch` if it has room for it, to be given out in parts if
    /// not. False at the end.
    fn block(&mut self, batch: &mut Batch, room: usize) -> Result<bool, Halt> {
        let offset = self.reader.offset();
        let data = match self.reader.next_block() {
            Ok(Some(data)) => data,
            Ok(None) => return Ok(false),
            Err(CaptureError::Io { .. }) if self.stop.is_cancelled() => return Err(Halt::Stopped),
            Err(CaptureError::Io { source, .. }) => return Err(Halt::io(Path::new(&self.path), source)),
            Err(e) => {
                // one gap stands for the frame
                self.gap(batch, offset, e.to_string());
                // behind a cut nothing can be read, now or later
                let damaged = matches!(e, CaptureError::Damaged { .. });
                let at = if damaged { self.reader.offset() } else { self.size };
                self.place = Position { at, then: 0, ..self.place };
                return Ok(true);
            }
        };
        let reader = match BlockReader::new(data, self.interner) {
            Ok(reader) => reader,
            Err(e @ WireError::Newer(_)) => {
                return Err(SourceError::Input { what: self.path.clone(), why: e.to_string() }.into());
            }
            Err(e) => {
                self.gap(batch, offset, format!("block at offset {offset}: {e}"));
                self.place = Position { at: self.reader.offset(), then: 0, ..self.place };
                return Ok(true);
            }
        };
        let from = std::mem::take(&mut self.skip);
        let whole = from == 0 && reader.events() <= room;
        self.held.clear();
        self.given = 0;
        let into = if whole { &mut *batch } else { &mut self.held };
        for n in from..reader.events() {
            if let Err(e) = reader.read_one(n, into) {
                let detail = format!("event {} of the block at offset {offset}: {e}", n + 1);
                self.problems.push(format!("{}: {detail}", self.path));
                let last = into.iter().next_back().map_or(self.last_ns, |e| e.head().time_ns);
                push_gap(into, &damage(&self.path, offset, Some(1), detail, last));
            }
        }
        if whole {
            self.place = Position { at: self.reader.offset(), then: 0, ..self.place };
        } else {
            self.place = Position { at: offset, then: from as u64, ..self.place };
        }
        Ok(true)
    }
}

impl Input for CaptureInput<'_> {
    fn read(&mut self, batch: &mut Batch, most: usize) -> Result<bool, Halt> {
        let end = batch.len() + most;
        let mut more = true;
        while more && batch.len() < end && batch.bytes() < BATCH_BYTES {
            match self.held.get(self.given) {
                Some(event) => {
                    batch.push_copy(event);
                    self.given += 1;
                    self.place.then += 1;
                    if self.given == self.held.len() {
                        self.held.clear();
                        self.given = 0;
                        self.place = Position { at: self.reader.offset(), then: 0, ..self.place };
                    }
                }
                None => more = self.block(batch, end - batch.len())?,
            }
        }
        if let Some(last) = batch.iter().next_back() {
            self.last_ns = last.head().time_ns;
        }
        Ok(more)
    }

    fn position(&self) -> Position {
        Position { time_ns: self.last_ns, ..self.place }
    }
}

fn damage(path: &str, offset: u64, events: Option<u64>, detail: String, time_ns: i64) -> Gap {
    Gap {
        origin: path.to_owned(),
        reason: "damaged".to_owned(),
        events,
        detail,
        offset: Some(offset),
        time_ns,
    }
}
