//! JSON lines: one object a line, one event each.
//!
//! The time, provider, name and level of an event come from members named in
//! [`JsonlKeys`]; all others are its fields, nested as they are. Lines that our own JSON
//! writes ([`tidegate_proto::json`]), dead letters too, come back as the events they were: with
//! types, tags and marks where they have the member [`types`](tidegate_proto::json::types), as
//! what their JSON is where they have not. A line that is no object or too long becomes a gap that names file and
//! line; lines that follow one another in this share one gap with their count.

mod event;
mod follow;
mod lines;
mod parse;
#[cfg(test)]
mod roundtrip;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_proto::batch::Batch;
use tidegate_proto::own::{Gap, push_gap};
use tokio_util::sync::CancellationToken;

pub use event::JsonlKeys;

use crate::content;
use crate::feed::{BATCH_BYTES, Feed, Halt, Input, drive};
use crate::files::{FileList, Playback};
use crate::pace::{Pace, Timestamp};
use crate::position::Position;
use crate::source::{BoxFuture, Outlet, Source, SourceEnd, SourceError, SourceInfo};
use event::Mapper;
use lines::{Line, Lines, Place};
use parse::parse;

/// Bad lines that share one gap.
const RUN: u64 = 1000;

/// Settings of a `jsonl` source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonlConfig {
    /// The files, read in this order; plain, gzip or zstd, told apart by content.
    pub paths: Vec<PathBuf>,
    /// Whether to wait at the end of the (single) file for more, through its rotation by
    /// renaming or by truncation.
    #[serde(default)]
    pub follow: bool,
    /// How often a followed file is looked at, in milliseconds.
    #[serde(default = "poll_ms")]
    pub poll_ms: u64,
    /// Longest line, in bytes; at most 64 MiB.
    #[serde(default = "max_line_bytes")]
    pub max_line_bytes: usize,
    /// Provider of events that name none; the source's name if not given.
    #[serde(default)]
    pub provider: Option<String>,
    /// Members that are no fields.
    #[serde(default)]
    pub keys: JsonlKeys,
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

fn poll_ms() -> u64 {
    1000
}

fn max_line_bytes() -> usize {
    1 << 20
}

impl JsonlConfig {
    /// Settings that read `paths` once.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>) -> JsonlConfig {
        JsonlConfig {
            paths,
            follow: false,
            poll_ms: poll_ms(),
            max_line_bytes: max_line_bytes(),
            provider: None,
            keys: JsonlKeys::default(),
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
        self.playback().check()?;
        if !(1..=64 << 20).contains(&self.max_line_bytes) {
            return Err("max_line_bytes must lie between 1 and 67108864".to_owned());
        }
        if !(1..=3_600_000).contains(&self.poll_ms) {
            return Err("poll_ms must lie between 1 and 3600000".to_owned());
        }
        if self.follow && self.paths.len() != 1 {
            return Err("follow takes one path; give each file a source of its own".to_owned());
        }
        if self.follow && (self.repeat || self.speed != Pace::FlatOut) {
            return Err("follow goes with neither loop nor speed: the file tells the pace".to_owned());
        }
        Ok(())
    }

    fn playback(&self) -> Playback {
        Playback { speed: self.speed, from: self.from, to: self.to, repeat: self.repeat }
    }

    /// Makes the source, to go on at `position`.
    ///
    /// # Errors
    /// Settings that contradict one another, or a position that is none.
    pub fn build(self, name: &str, position: Option<&[u8]>) -> Result<JsonlSource, SourceError> {
        self.check().map_err(|why| SourceError::Input { what: format!("source \"{name}\""), why })?;
        let position = Position::decode(name, position)?;
        Ok(JsonlSource { name: Arc::from(name), config: self, position })
    }
}

/// Reads JSON lines.
#[derive(Debug)]
pub struct JsonlSource {
    name: Arc<str>,
    config: JsonlConfig,
    position: Option<Position>,
}

/// Reads single lines that our own JSON writes, for those who look into files of it.
#[derive(Debug)]
pub struct LineDecoder(Mapper);

impl LineDecoder {
    /// Events that name no provider have this one.
    #[must_use]
    pub fn new(provider: &str) -> LineDecoder {
        LineDecoder(Mapper::new(JsonlKeys::default(), provider.to_owned(), 0))
    }

    /// Appends the event of a line, which has no line end.
    ///
    /// # Errors
    /// What is wrong with the line, in words; nothing is appended then.
    pub fn push(&mut self, batch: &mut Batch, line: &[u8]) -> Result<(), String> {
        self.0.push(batch, &parse(line)?);
        Ok(())
    }
}

impl Source for JsonlSource {
    fn info(&self) -> SourceInfo {
        SourceInfo { name: self.name.to_string(), kind: "jsonl", can_wait: true }
    }

    fn run(
        self: Box<Self>,
        out: Outlet,
        stop: CancellationToken,
    ) -> BoxFuture<'static, Result<SourceEnd, SourceError>> {
        let JsonlSource { name, config, position } = *self;
        let playback = config.playback();
        let provider = config.provider.clone().unwrap_or_else(|| name.to_string());
        let mapper = Mapper::new(config.keys.clone(), provider, position.map_or(0, |p| p.time_ns));
        drive(name, (playback.speed, playback.window()), out, stop, move |feed| {
            if config.follow {
                return follow::follow(feed, &config, mapper, position);
            }
            read_files(feed, &config, mapper, position)
        })
    }
}

fn read_files(
    feed: &mut Feed,
    config: &JsonlConfig,
    mut mapper: Mapper,
    position: Option<Position>,
) -> Result<(), Halt> {
    let mut list = FileList::new(&config.paths, position, config.repeat);
    while let Some(turn) = list.next(feed.events()) {
        feed.restart();
        let input = JsonlInput::open(feed, config, &turn.path, turn.base, turn.resume, mapper);
        mapper = input.map_err(|(halt, _)| halt)?.pump(feed)?;
    }
    Ok(())
}

/// The lines of one file.
struct JsonlInput {
    path: String,
    lines: Lines,
    compressed: bool,
    mapper: Mapper,
    base: Position,
    /// Behind the last event read.
    place: Place,
    /// Whether what has no line end is a line.
    last: bool,
    run: Run,
    problems: Vec<String>,
}

/// Bad lines that follow one another.
#[derive(Default)]
struct Run {
    count: u64,
    first: u64,
    offset: u64,
    why: String,
}

impl JsonlInput {
    fn open(
        feed: &Feed,
        config: &JsonlConfig,
        path: &Path,
        base: Position,
        resume: Option<Position>,
        mapper: Mapper,
    ) -> Result<JsonlInput, (Halt, Box<Mapper>)> {
        let place = resume.map_or_else(Place::start, Place::of);
        let opened = content::is_compressed(path)
            .and_then(|compressed| Ok((compressed, open_at(path, place, &feed.token())?)))
            .map_err(|e| Halt::io(path, e))
            .and_then(|(compressed, from)| Ok((compressed, from.ok_or_else(|| content::replaced(path))?)));
        let (compressed, from) = match opened {
            Ok(opened) => opened,
            Err(halt) => return Err((halt, Box::new(mapper))),
        };
        Ok(JsonlInput {
            path: path.display().to_string(),
            lines: Lines::new(from, place, config.max_line_bytes),
            compressed,
            mapper,
            base,
            place,
            last: true,
            run: Run::default(),
            problems: Vec::new(),
        })
    }

    /// Hands over everything.
    fn pump(mut self, feed: &mut Feed) -> Result<Mapper, Halt> {
        self.pump_more(feed, true)?;
        Ok(self.mapper)
    }

    /// Hands over what there is; `last`: what has no line end yet, too.
    fn pump_more(&mut self, feed: &mut Feed, last: bool) -> Result<(), Halt> {
        self.last = last;
        let result = feed.pump(self);
        for problem in self.problems.drain(..) {
            feed.problem(|| problem);
        }
        result
    }

    fn read_on(&mut self, batch: &mut Batch, most: usize) -> Result<bool, Halt> {
        let end = batch.len() + most;
        while batch.len() < end && batch.bytes() < BATCH_BYTES {
            let Place { at, lines, .. } = self.lines.place();
            let text = match self.lines.next(self.last).map_err(|e| Halt::io(Path::new(&self.path), e))? {
                Line::End => return Ok(false),
                Line::TooLong(n) => {
                    let why = format!("{n} bytes, more than max_line_bytes");
                    self.run.add(lines + 1, at, why);
                    if self.run.count >= RUN {
                        self.end_run(batch);
                    }
                    continue;
                }
                Line::Text(text) if at == 0 => text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text),
                Line::Text(text) => text,
            };
            if text.trim_ascii().is_empty() {
                self.end_run(batch);
                continue;
            }
            match parse(text) {
                Ok(tape) => {
                    // disjoint fields: `tape` borrows the line
                    self.run.end(batch, &self.path, self.mapper.last_ns(), &mut self.problems);
                    self.mapper.push(batch, &tape);
                }
                Err(why) => {
                    self.run.add(lines + 1, at, why);
                    if self.run.count >= RUN {
                        self.end_run(batch);
                    }
                }
            }
        }
        Ok(true)
    }

    fn end_run(&mut self, batch: &mut Batch) {
        self.run.end(batch, &self.path, self.mapper.last_ns(), &mut self.problems);
    }
}

impl Run {
    fn add(&mut self, line: u64, offset: u64, why: String) {
        if self.count == 0 {
            *self = Run { count: 0, first: line, offset, why };
        }
        self.count += 1;
    }

    /// Makes a gap of it, if there is one.
    fn end(&mut self, batch: &mut Batch, path: &str, time_ns: i64, problems: &mut Vec<String>) {
        let Run { count, first, offset, why } = std::mem::take(self);
        if count == 0 {
            return;
        }
        let last = first + count - 1;
        let lines = if count == 1 { format!("line {first}") } else { format!("lines {first} to {last}") };
        let gap = Gap {
            origin: path.to_owned(),
            reason: "bad_line".to_owned(),
            events: Some(count),
            detail: format!("{lines}: {why}"),
            offset: Some(offset),
            time_ns,
        };
        push_gap(batch, &gap);
        problems.push(format!("{}: {}", gap.origin, gap.detail));
    }
}

impl Input for JsonlInput {
    fn read(&mut self, batch: &mut Batch, most: usize) -> Result<bool, Halt> {
        let result = self.read_on(batch, most);
        // A good line or the limit ended every run but one at the end or before a failure.
        self.end_run(batch);
        self.place = self.lines.place();
        result
    }

    fn position(&self) -> Position {
        let Place { at, lines, printed, print } = self.place;
        let time_ns = self.mapper.last_ns();
        Position { at, then: lines, printed, print: print.finish(), time_ns, ..self.base }
    }
}

/// Opens the file at a place; `None` when it is another file, or shorter.
fn open_at(path: &Path, place: Place, stop: &CancellationToken) -> io::Result<Option<Box<dyn Read + Send>>> {
    if place.printed > 0 && content::print(path, place.printed)? != Some(place.print.finish()) {
        return Ok(None);
    }
    content::open_at(path, Some(stop.clone()), place.at)
}
