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
mod run;

pub use dead::{DeadPurged, dead_letters};
pub use delivered::{Delivered, Found, Place, look};
pub use expr::{Expr, ExprError};
pub use run::{Asked, Places, PurgeError, Report, purge};

use tidegate_proto::ids::Seq;
use tidegate_ring::{PerLevel, PurgeRule, Ring, RingError};

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

/// Counts what a purge by a condition would remove, without changing anything.
///
/// # Errors
/// When the ring cannot be read.
pub fn search(ring: &dyn Ring, rule: &dyn PurgeRule) -> Result<InRing, RingError> {
    let mut found = InRing::default();
    ring.find(rule, &mut |place, level| {
        if let Some(count) = found.events.get_mut(usize::from(level as u8)) {
            *count += 1;
        }
        if found.places.len() < MAX_PLACES {
            found.places.push(place);
        }
    })?;
    Ok(found)
}
