//! Fakes for tests of intake, dispatch and pipeline.
#![allow(dead_code)] // not every test module uses all of it

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_proto::batch::{Batch, Head};
use tidegate_proto::ids::{Seq, SinkId};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::schema::{Decoder, FieldDef, Schema, SchemaParts};
use tidegate_proto::value::{Format, ValueRef};
use tidegate_sinks::{BatchLimits, DeliverError, Delivered, Sink, SinkBatch};
use tidegate_sources::{Outlet, Source, SourceEnd, SourceError, SourceInfo};
use tokio_util::sync::CancellationToken;

use crate::gate::Rules;

/// A kind of event whose level the rules of [`rules`] take from its keyword.
pub fn schema() -> Arc<Schema> {
    static SCHEMA: std::sync::LazyLock<Arc<Schema>> = std::sync::LazyLock::new(|| {
        Schema::new(SchemaParts {
            provider_name: "Test.Provider".into(),
            event_name: "Tick".into(),
            decoder: Decoder::Synthetic,
            fields: vec![FieldDef { name: "n".into(), tags: 0 }, FieldDef { name: "text".into(), tags: 0 }],
            ..SchemaParts::default()
        })
    });
    Arc::clone(&SCHEMA)
}

/// Appends event `n` of a telemetry level.
pub fn push(batch: &mut Batch, n: u64, level: u8) {
    push_text(batch, n, level, &format!("text of level {level}"));
}

/// Appends event `n` with a text of `len` bytes.
pub fn push_sized(batch: &mut Batch, n: u64, level: u8, len: usize) {
    push_text(batch, n, level, &"x".repeat(len));
}

/// Appends event `n` with a text.
pub fn push_text(batch: &mut Batch, n: u64, level: u8, text: &str) {
    let time_ns = i64::try_from(n).unwrap();
    let head = Head { time_ns, keyword: 1 << level, ..Head::default() };
    let mut event = batch.begin(&schema(), head);
    event.value(0, Format::Default, ValueRef::U64(n));
    event.value(1, Format::Default, ValueRef::Str(text));
    event.finish();
}

/// A batch of events of one level.
pub fn batch(numbers: std::ops::Range<u64>, level: u8) -> Batch {
    let mut batch = Batch::new();
    for n in numbers {
        push(&mut batch, n, level);
    }
    batch
}

/// Keyword bit 0 is Security, 1 Basic, 2 Enhanced, 3 Full; no scrubbing.
pub fn rules() -> Arc<Rules> {
    let mut text = "version = 1\n".to_owned();
    for level in TelemetryLevel::ALL {
        let bit = 1 << level as u8;
        text += &format!(
            "[[rule]]\nname = \"{level}\"\nprovider = \"Test.*\"\nkeyword = {bit}\nlevel = \"{level}\"\n"
        );
    }
    text += "[[rule]]\nname = \"own\"\nprovider = \"Tidegate\"\nlevel = \"Security\"\n";
    let builder = Rules::empty_builder().catalogue("test", &text).unwrap();
    Arc::new(builder.scrub(false).build().unwrap())
}

/// The number of an event.
pub fn number(event: tidegate_proto::batch::EventRef<'_>) -> u64 {
    match event.fields().next().map(|f| f.value) {
        Some(ValueRef::U64(n)) => n,
        _ => u64::MAX,
    }
}

/// Sends events `from..to`, `step` at a time, with positions; goes on from one.
#[derive(Debug)]
pub struct Counting {
    pub name: String,
    pub from: u64,
    pub to: u64,
    pub step: u64,
    pub levels: Vec<u8>,
    pub pause: Duration,
}

impl Counting {
    pub fn new(from: u64, to: u64) -> Counting {
        let (name, step, levels) = ("count".to_owned(), 100, vec![2]);
        Counting { name, from, to, step, levels, pause: Duration::ZERO }
    }

    /// Goes on where a ring says.
    pub fn resumed(mut self, ring: &dyn tidegate_ring::Ring) -> Counting {
        if let Some(p) = ring.source_position(&self.name) {
            self.from = u64::from_le_bytes(p.try_into().unwrap());
        }
        self
    }
}

impl Source for Counting {
    fn info(&self) -> SourceInfo {
        SourceInfo { name: self.name.clone(), kind: "synthetic", can_wait: true }
    }

    fn run(
        self: Box<Self>,
        out: Outlet,
        stop: CancellationToken,
    ) -> tidegate_sinks::BoxFuture<'static, Result<SourceEnd, SourceError>> {
        Box::pin(async move {
            let mut at = self.from;
            while at < self.to {
                if stop.is_cancelled() {
                    return Ok(SourceEnd { stopped: true, ..SourceEnd::default() });
                }
                let end = (at + self.step).min(self.to);
                let mut batch = out.batch();
                for n in at..end {
                    push(&mut batch, n, self.levels[n as usize % self.levels.len()]);
                }
                at = end;
                if out.send(batch, at.to_le_bytes().to_vec()).await.is_err() {
                    break;
                }
                if self.pause > Duration::ZERO {
                    tokio::select! {
                        () = tokio::time::sleep(self.pause) => {}
                        () = stop.cancelled() => {}
                    }
                }
            }
            Ok(SourceEnd::default())
        })
    }
}

/// What a fake sink does with an attempt.
pub type Behaviour = dyn Fn(u64, &SinkBatch) -> Answer + Send + Sync;

/// Its answer.
pub enum Answer {
    /// Takes it.
    Take,
    /// Takes it after a while.
    TakeAfter(Duration),
    /// Never answers.
    Hang,
    /// Fails.
    Fail(DeliverError),
    /// Takes it, but for these.
    TakeBut(Vec<tidegate_sinks::Rejected>),
    /// Asks to wait, besides.
    AskToWait(Duration, Box<Answer>),
}

/// Keeps what it was given.
pub struct Fake {
    id: SinkId,
    pub limits: BatchLimits,
    behaviour: Box<Behaviour>,
    pub seen: Mutex<Seen>,
}

/// What a fake sink holds.
#[derive(Debug, Default)]
pub struct Seen {
    pub attempts: u64,
    /// Event number by place; each delivered once.
    pub events: BTreeMap<Seq, u64>,
    pub repeats: u64,
    pub ranges: Vec<(u64, u64)>,
    pub levels: BTreeSet<Option<u8>>,
    pub at: Vec<tokio::time::Instant>,
    /// Until when it asks to wait.
    pub rest: Option<tokio::time::Instant>,
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.id.as_str())
    }
}

impl Fake {
    pub fn new(
        name: &str,
        behaviour: impl Fn(u64, &SinkBatch) -> Answer + Send + Sync + 'static,
    ) -> Arc<Fake> {
        Arc::new(Fake::bare(name, behaviour))
    }

    pub fn bare(name: &str, behaviour: impl Fn(u64, &SinkBatch) -> Answer + Send + Sync + 'static) -> Fake {
        let limits = BatchLimits {
            events: 1000,
            bytes: 1 << 20,
            age: Duration::from_secs(1),
            in_flight: 4,
            timeout: Duration::from_secs(30),
        };
        Fake { id: SinkId::new(name), limits, behaviour: Box::new(behaviour), seen: Mutex::default() }
    }

    /// Takes everything.
    pub fn fine(name: &str) -> Arc<Fake> {
        Fake::new(name, |_, _| Answer::Take)
    }

    pub fn numbers(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.seen.lock().unwrap().events.values().copied().collect();
        all.sort_unstable();
        all
    }

    fn keep(&self, batch: &SinkBatch, but: &[tidegate_sinks::Rejected]) {
        let mut seen = self.seen.lock().unwrap();
        seen.ranges.push((batch.range().first().0, batch.range().last().0));
        for (seq, event) in batch.iter() {
            if but.iter().any(|r| r.seq == seq) {
                continue;
            }
            seen.levels.insert(event.head().telemetry_level.map(|l| l as u8));
            if seen.events.insert(seq, number(event)).is_some() {
                seen.repeats += 1;
            }
        }
    }
}

impl Sink for Fake {
    fn id(&self) -> &SinkId {
        &self.id
    }

    fn limits(&self) -> BatchLimits {
        self.limits
    }

    fn rest(&self) -> Option<Duration> {
        let until = self.seen.lock().unwrap().rest?;
        Some(until.saturating_duration_since(tokio::time::Instant::now())).filter(|left| !left.is_zero())
    }

    fn check(&self) -> tidegate_sinks::BoxFuture<'_, Result<(), DeliverError>> {
        Box::pin(async { Ok(()) })
    }

    fn deliver<'a>(
        &'a self,
        batch: &'a SinkBatch,
    ) -> tidegate_sinks::BoxFuture<'a, Result<Delivered, DeliverError>> {
        Box::pin(async move {
            let attempt = {
                let mut seen = self.seen.lock().unwrap();
                seen.attempts += 1;
                seen.at.push(tokio::time::Instant::now());
                seen.attempts
            };
            let mut done = Delivered { bytes: batch.len() as u64, ..Delivered::default() };
            let mut answer = (self.behaviour)(attempt, batch);
            if let Answer::AskToWait(wait, then) = answer {
                self.seen.lock().unwrap().rest = Some(tokio::time::Instant::now() + wait);
                answer = *then;
            }
            match answer {
                Answer::Take | Answer::AskToWait(..) => {}
                Answer::TakeAfter(pause) => tokio::time::sleep(pause).await,
                Answer::Hang => std::future::pending().await,
                Answer::Fail(e) => return Err(e),
                Answer::TakeBut(rejected) => done.rejected = rejected,
            }
            self.keep(batch, &done.rejected);
            Ok(done)
        })
    }
}

/// A failure that is tried again.
pub fn retry() -> DeliverError {
    DeliverError::Retry { after: None, source: "the far side is away".into() }
}
