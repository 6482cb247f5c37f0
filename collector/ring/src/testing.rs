//! For tests of rings and of what uses them: blocks made from a seed, and the contract as a
//! suite that every ring passes. Panics where the contract is broken.

pub mod contract;

use std::sync::Arc;

use bytes::Bytes;
use tidegate_proto::batch::{Batch, EventRef, Head};
use tidegate_proto::level::{Class, TelemetryLevel};
use tidegate_proto::schema::{Decoder, FieldDef, Schema, SchemaParts};
use tidegate_proto::value::{Format, ValueRef};
use tidegate_proto::wire::{BlockBuilder, BlockReader, SchemaInterner, Unchanged};

use crate::{Group, Intake, NewBlock, PurgeRule};

/// The text field that [`block`] gives to event `n` of a block with tag `tag`.
#[must_use]
pub fn text(tag: u64, n: usize) -> String {
    format!("tag-{tag:08}-event-{n:04}.")
}

/// A block with one event for each telemetry level named; `tag` stands in the bytes.
///
/// # Panics
/// When a number is no level.
#[must_use]
pub fn block(levels: &[u8], tag: u64) -> NewBlock {
    sized_block(levels, tag, 0)
}

/// As [`block`], with `bytes` bytes of text that hardly compresses in each event.
///
/// # Panics
/// When a number is no level.
#[must_use]
pub fn sized_block(levels: &[u8], tag: u64, bytes: usize) -> NewBlock {
    let schema = Schema::new(SchemaParts {
        provider_name: "Tidegate.Test".into(),
        event_name: "Tick".into(),
        decoder: Decoder::Synthetic,
        fields: ["text", "noise"].map(|n| FieldDef { name: n.into(), tags: 0 }).into(),
        ..SchemaParts::default()
    });
    let mut random = Random::new(tag);
    let mut counts = [0; 4];
    let mut builder = BlockBuilder::new();
    let time = |n: usize| i64::try_from(tag).unwrap_or(0) * 1_000_000 + i64::try_from(n).unwrap_or(0);
    for (n, level) in levels.iter().enumerate() {
        let level = TelemetryLevel::from_u8(*level).expect("a level");
        counts[usize::from(level as u8)] += 1;
        let mut batch = Batch::new();
        let head = Head { time_ns: time(n), telemetry_level: Some(level), ..Head::default() };
        let mut event = batch.begin(&schema, head);
        event.value(0, Format::Default, ValueRef::Str(&text(tag, n)));
        let noise: Vec<u8> = (0..bytes).map(|_| random.next() as u8).collect();
        event.value(1, Format::Default, ValueRef::Bytes(&noise));
        event.finish();
        builder.push(batch.get(0).expect("one event"), level, &Unchanged);
    }
    let lowest = levels.iter().min().copied().unwrap_or(3);
    NewBlock {
        class: Class::of(TelemetryLevel::from_u8(lowest).expect("a level")),
        lane: 0,
        data: Bytes::from(builder.finish()),
        levels: counts,
        time_ns: (time(0), time(levels.len().saturating_sub(1))),
    }
}

/// A group of blocks whose intake read just their events.
#[must_use]
pub fn group(blocks: Vec<NewBlock>) -> Group {
    let read = blocks.iter().flat_map(|b| b.levels).sum();
    Group { blocks, intake: Intake { read, ..Intake::default() } }
}

/// The texts of the events in the bytes of a block.
///
/// # Panics
/// When the bytes are no block.
#[must_use]
pub fn texts(data: &[u8]) -> Vec<String> {
    let mut batch = Batch::new();
    let reader = BlockReader::new(data, &mut SchemaInterner::new()).expect("a block");
    reader.read_into(&mut batch).expect("events");
    batch.iter().map(event_text).collect()
}

fn event_text(event: EventRef<'_>) -> String {
    match event.fields().next().map(|f| f.value) {
        Some(ValueRef::Str(s)) => s.to_owned(),
        other => panic!("no text but {other:?}"),
    }
}

/// Purges the events whose text the function takes.
pub struct TextRule<F>(pub F);

impl<F: Fn(&str) -> bool + Send + Sync> PurgeRule for TextRule<F> {
    fn may_match(&self, _: &[u64; 4], _: (i64, i64)) -> bool {
        true
    }
    fn matches(&self, event: EventRef<'_>) -> bool {
        (self.0)(&event_text(event))
    }
}

/// Purges the events above a telemetry level.
#[derive(Clone, Copy, Debug)]
pub struct Above(pub TelemetryLevel);

impl PurgeRule for Above {
    fn may_match(&self, levels: &[u64; 4], _: (i64, i64)) -> bool {
        TelemetryLevel::ALL.iter().zip(levels).any(|(l, n)| *l > self.0 && *n > 0)
    }
    fn matches(&self, event: EventRef<'_>) -> bool {
        event.head().telemetry_level.is_none_or(|l| l > self.0)
    }
}

/// A small generator for tests (xorshift64*): the same numbers for the same seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// A number below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

/// Runs a future to its end on this thread.
///
/// # Panics
/// When no runtime can be made.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// How a suite makes its rings.
pub type MakeRing<'a> = &'a dyn Fn(crate::RingOptions) -> Arc<dyn crate::Ring>;
