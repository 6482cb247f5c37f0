//! Replay of event trace logs of Windows, on any system.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_etl::{EtlError, EtlFile, EventReader, PayloadDecoder};
use tidegate_proto::batch::Batch;
use tokio_util::sync::CancellationToken;

use crate::content::{self, Stoppable};
use crate::feed::{BATCH_BYTES, Feed, Halt, Input, drive};
use crate::files::{FileList, Playback, Turn};
use crate::pace::{Pace, Timestamp, Window};
use crate::position::Position;
use crate::source::{BoxFuture, Outlet, Source, SourceEnd, SourceError, SourceInfo};
use crate::system::DecoderChoice;

/// Events between two looks at a batch's size.
const STRIDE: usize = 64;

/// Settings of an `etl` source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtlConfig {
    /// The traces, replayed in this order.
    pub paths: Vec<PathBuf>,
    /// Instrumentation manifests (`.man`) that describe events the traces do not.
    #[serde(default)]
    pub manifests: Vec<PathBuf>,
    /// Who explains events that neither the traces nor the manifests do.
    #[serde(default)]
    pub decoder: DecoderChoice,
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

impl EtlConfig {
    /// Settings that replay `paths` once, flat out.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>) -> EtlConfig {
        EtlConfig {
            paths,
            manifests: Vec::new(),
            decoder: DecoderChoice::Own,
            speed: Pace::FlatOut,
            from: None,
            to: None,
            repeat: false,
        }
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
    pub fn build(self, name: &str, position: Option<&[u8]>) -> Result<EtlSource, SourceError> {
        self.check().map_err(|why| SourceError::Input { what: format!("source \"{name}\""), why })?;
        let position = Position::decode(name, position)?;
        // said before it runs
        self.decoder.schemas(name)?;
        Ok(EtlSource { name: Arc::from(name), config: self, position })
    }
}

/// Replays traces.
#[derive(Debug)]
pub struct EtlSource {
    name: Arc<str>,
    config: EtlConfig,
    position: Option<Position>,
}

impl Source for EtlSource {
    fn info(&self) -> SourceInfo {
        SourceInfo { name: self.name.to_string(), kind: "etl", can_wait: true }
    }

    fn run(
        self: Box<Self>,
        out: Outlet,
        stop: CancellationToken,
    ) -> BoxFuture<'static, Result<SourceEnd, SourceError>> {
        let EtlSource { name, config, position } = *self;
        let playback = config.playback();
        drive(name, (playback.speed, playback.window()), out, stop, move |feed| {
            let mut manifests = Vec::new();
            for path in &config.manifests {
                manifests.push((path, std::fs::read(path).map_err(|source| Halt::io(path, source))?));
            }
            let mut list = FileList::new(&config.paths, position, config.repeat);
            while let Some(turn) = list.next(feed.events()) {
                feed.restart();
                let mut decoder = PayloadDecoder::new(&turn.path.display().to_string());
                for (path, bytes) in &manifests {
                    decoder.add_manifest(bytes).map_err(|e| SourceError::Input {
                        what: path.display().to_string(),
                        why: e.to_string(),
                    })?;
                }
                if let Some(system) = config.decoder.schemas(&turn.path.display().to_string())? {
                    decoder.set_system(system);
                }
                replay(feed, turn, decoder)?;
            }
            Ok(())
        })
    }
}

fn failed(path: &Path, stop: &CancellationToken, e: EtlError) -> Halt {
    match e {
        EtlError::Io { .. } if stop.is_cancelled() => Halt::Stopped,
        EtlError::Io { source, .. } => Halt::io(path, source),
        other => SourceError::Input { what: path.display().to_string(), why: other.to_string() }.into(),
    }
}

fn replay(feed: &mut Feed, turn: Turn, decoder: PayloadDecoder) -> Result<(), Halt> {
    let Turn { path, base, resume } = turn;
    let stop = feed.token();
    let file = File::open(&path).map_err(|e| Halt::io(&path, e))?;
    let file =
        EtlFile::open(Stoppable::new(file, Some(stop.clone()))).map_err(|e| failed(&path, &stop, e))?;
    let (printed, print) = content::fingerprint(&path, file.size(), resume)?;
    let mut reader = EventReader::new(&file, decoder).map_err(|e| failed(&path, &stop, e))?;
    let mut known = 0;
    if let Some(resume) = resume {
        reader.skip(resume.at).map_err(|e| failed(&path, &stop, e))?;
        known = reader.problem_count();
    }
    let window = feed.window();
    let base = Position { printed, print, ..base };
    let mut input = EtlInput { path: &path, reader, window, stop, base };
    let result = feed.pump(&mut input);
    let reader = input.reader;
    let kept = reader.problems();
    for n in known..reader.problem_count() {
        feed.problem(|| match usize::try_from(n).ok().and_then(|n| kept.get(n)) {
            Some(problem) => format!("{}: {problem}", path.display()),
            None => format!("{}: another damaged part", path.display()),
        });
    }
    result
}

/// The events of one trace.
struct EtlInput<'f> {
    path: &'f Path,
    reader: EventReader<'f, Stoppable>,
    window: Window,
    stop: CancellationToken,
    base: Position,
}

impl Input for EtlInput<'_> {
    fn read(&mut self, batch: &mut Batch, most: usize) -> Result<bool, Halt> {
        let end = batch.len() + most;
        while batch.len() < end && batch.bytes() < BATCH_BYTES {
            let until = end.min(batch.len() + STRIDE);
            let more = if self.window.is_all() {
                self.reader.next_batch(batch, until)
            } else {
                let window = self.window;
                self.reader.next_batch_where(batch, until, |_, time_ns| window.holds(time_ns))
            };
            if !more.map_err(|e| failed(self.path, &self.stop, e))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn position(&self) -> Position {
        Position { at: self.reader.events(), ..self.base }
    }
}
