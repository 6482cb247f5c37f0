//! What a purge would remove, block by block.

use tidegate_proto::ids::Seq;
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::wire::SchemaInterner;

use super::Shared;
use super::reader::ATTEMPTS;
use crate::purge::lost;
use crate::{PurgeRule, RingError};

impl Shared {
    /// See [`Ring::find`](crate::Ring::find).
    pub fn find(
        &self,
        rule: &dyn PurgeRule,
        each: &mut dyn FnMut(Seq, TelemetryLevel),
    ) -> Result<(), RingError> {
        let mut known = SchemaInterner::new();
        let (mut from, mut tries) = (0, 0);
        loop {
            let state = self.lock();
            if state.closed {
                return Err(RingError::Closed);
            }
            let durable = state.ledger.durable;
            let next = state.ledger.blocks.range(from..).next().map(|(_, block)| block.clone());
            drop(state);
            let Some(block) = next.filter(|b| b.last <= durable) else { return Ok(()) };
            if rule.may_match(&block.per_level(), block.time_ns) {
                let data = match self.load(&block) {
                    Ok(data) => data,
                    Err(why) if tries < ATTEMPTS => {
                        // it counts as lost, or it has moved and is looked at where it is now
                        self.damaged(&block, why)?;
                        tries += 1;
                        continue;
                    }
                    Err(_) => {
                        let source = std::io::Error::other("it moved again and again");
                        return Err(RingError::Io { what: format!("read event {}", block.first), source });
                    }
                };
                for (place, level) in lost(&block, &data, rule, &mut known) {
                    each(Seq(place), TelemetryLevel::from_u8(level).unwrap_or(TelemetryLevel::Full));
                }
            }
            (from, tries) = (block.last + 1, 0);
        }
    }
}
