//! The gate once more, at send time, for blocks that were judged by other rules than those in
//! force now: what they drop stays back, what they scrub goes out scrubbed.
//!
//! A block says by which rules, by their digest, and at which level in force it was judged. As long
//! as both are those of now nothing is looked at again: one comparison a block.

use std::sync::Arc;

use tidegate_proto::batch::{Batch, BatchMark};
use tidegate_proto::level::{DropReason, LossReason, TelemetryLevel};
use tidegate_proto::wire::{BlockBuilder, BlockReader, Judged, SchemaInterner, WireError};
use tokio::sync::watch;

use crate::gate::{Gate, Verdict};
use crate::intake::Filters;

/// One sink's second gate.
#[derive(Debug)]
pub(super) struct Again {
    rules: watch::Receiver<Arc<Filters>>,
    gate: Gate,
    known: SchemaInterner,
    buffer: Vec<u8>,
    /// Whether the block at hand is judged again.
    on: bool,
}

impl Again {
    pub fn new(mut rules: watch::Receiver<Arc<Filters>>) -> Again {
        let gate = rules.borrow_and_update().gate();
        Again { rules, gate, known: SchemaInterner::new(), buffer: Vec::new(), on: false }
    }

    /// Notes by what the next block was judged.
    pub fn begin(&mut self, judged: Judged, in_force: TelemetryLevel) {
        if self.rules.has_changed().unwrap_or(false) {
            self.gate = self.rules.borrow_and_update().gate();
        }
        // a lower level has fewer fields too
        self.on = judged.rules != self.gate.digest() || judged.in_force.is_none_or(|l| l > in_force);
    }

    /// Judges the event at `at`, the last of a batch, which began at `mark`; what is changed in it is
    /// written in its place.
    pub fn judge(
        &mut self,
        batch: &mut Batch,
        mark: BatchMark,
        at: usize,
        in_force: TelemetryLevel,
    ) -> Result<Option<LossReason>, WireError> {
        let Some(event) = batch.get(at).filter(|_| self.on) else { return Ok(None) };
        let level = event.head().telemetry_level;
        let cleared = match self.gate.clear(event, in_force) {
            Verdict::Drop(DropReason::Level) => return Ok(Some(LossReason::Level)),
            Verdict::Drop(_) => return Ok(Some(LossReason::Rule)),
            Verdict::Pass(cleared) => cleared,
        };
        if cleared.edits().is_empty() {
            return Ok(None);
        }
        let mut block = BlockBuilder::with_buffer(std::mem::take(&mut self.buffer));
        block.push(event, level, cleared.edits());
        let bytes = block.finish();
        batch.reset_to(mark);
        let written = BlockReader::new(&bytes, &mut self.known).and_then(|r| r.read_into(batch));
        self.buffer = bytes;
        written.map(|()| None)
    }
}
