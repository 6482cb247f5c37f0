//! Sensitive data that slipped in, found later: removed from ring and dead letters by a
//! condition, and looked for in what was delivered.
//!
//! Where it is looked for:
//!
//! | place | what happens |
//! |---|---|
//! | ring | segments are written again without the events; nothing of them is left in its files |
//! | dead letters | the file is written anew |
//! | delivered objects | those of the receipts are read and, where they hold such events, deleted as a whole, if they are still what was read |
//! | far sides that cannot be read | the receipts that may hold such events are listed, for the operator to write to whoever runs them |
//!
//! Everything is in the audit log, with the condition but without what was looked for.

mod dead;
mod delivered;
mod expr;
mod matching;

pub use dead::{DeadPurged, dead_letters};
pub use delivered::{Delivered, Found, Place, look};
pub use expr::{Expr, ExprError};

use tidegate_proto::batch::Batch;
use tidegate_proto::ids::Seq;
use tidegate_proto::wire::{BlockReader, SchemaInterner, WireError};
use tidegate_ring::{PerLevel, PurgeRule, ReadLimit, Ring, RingError};

/// Places that are kept of what was found in the ring; more of them are only counted.
const MAX_PLACES: usize = 100_000;

/// What a condition finds in a ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InRing {
    /// Events, per level.
    pub events: PerLevel,
    /// Their places, ascending; the first [`InRing::MAX_PLACES`] of them.
    pub places: Vec<Seq>,
}

impl InRing {
    /// Most places that are kept.
    pub const MAX_PLACES: usize = MAX_PLACES;
}

/// Why the ring could not be searched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// The ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A block that this version cannot read.
    #[error("a stored block cannot be read")]
    Unreadable(#[from] WireError),
}

/// Counts what a condition finds, without changing anything.
///
/// # Errors
/// When the ring cannot be read.
pub fn search(ring: &dyn Ring, rule: &dyn PurgeRule) -> Result<InRing, SearchError> {
    let limit = ReadLimit { bytes: 4 << 20, events: 100_000 };
    let mut after = ring.status().trimmed;
    let mut found = InRing::default();
    let mut batch = Batch::new();
    loop {
        let read = ring.read(after, limit)?;
        if read.end <= after {
            return Ok(found);
        }
        after = read.end;
        for block in &read.blocks {
            batch.clear();
            let mut known = SchemaInterner::new();
            BlockReader::new(&block.data, &mut known)?.read_into(&mut batch)?;
            for (n, event) in batch.iter().enumerate() {
                if !rule.matches(event) {
                    continue;
                }
                let level = event.head().telemetry_level.map_or(3, |l| usize::from(l as u8));
                if let Some(count) = found.events.get_mut(level) {
                    *count += 1;
                }
                let place = match &block.seqs {
                    Some(seqs) => seqs.get(n).copied(),
                    None => Some(Seq(block.range.first().0.saturating_add(n as u64))),
                };
                if found.places.len() < MAX_PLACES {
                    found.places.extend(place);
                }
            }
        }
    }
}
