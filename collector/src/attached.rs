//! Sinks that the ring knows and nothing serves: removed from the configuration, renamed, or made
//! by an export that was tried once. The ring keeps events for them until they are detached.

use tidegate_proto::ids::SinkId;
use tidegate_ring::{Ring, RingError, SinkAccount, Status};

use crate::audit::{Record, What};
use crate::clock::now_ns;
use crate::control::Who;

/// The names of those that are attached and not served.
#[must_use]
pub fn not_served(status: &Status, served: impl Fn(&str) -> bool) -> Vec<String> {
    let names = status.cursors.keys().map(|id| id.as_str().to_owned());
    names.filter(|name| !served(name)).collect()
}

/// What an operator can do about one.
#[must_use]
pub fn advice(name: &str) -> String {
    format!(
        "sink \"{name}\" is attached to the ring and not configured: events are kept for it. An export under this name \
         goes on with it; tidegate buffer detach {name} lets it go"
    )
}

/// Takes a sink from the ring, with its side of the account, which the audit log keeps. What was held for it
/// alone is gone then. `None` when no such sink is attached.
///
/// # Errors
/// When the ring's book cannot be written.
pub fn detach(ring: &dyn Ring, name: &str, who: &Who) -> Result<Option<SinkAccount>, RingError> {
    let id = SinkId::new(name);
    let Some(account) = ring.account().sinks.remove(&id) else { return Ok(None) };
    let settled = ring.status().cursors.get(&id).map_or(0, |c| c.settled.0);
    let mut lost = [0; 4];
    for levels in account.lost.values() {
        lost.iter_mut().zip(levels).for_each(|(sum, n)| *sum += n);
    }
    // first the entry: what is gone without one could not be explained
    let what = What::Detach {
        sink: name.to_owned(),
        settled,
        delivered: account.delivered,
        rejected: account.rejected,
        lost,
        held: account.held,
    };
    Record::new(now_ns(), &who.0, what).append(ring)?;
    ring.detach(&id)?;
    Ok(Some(account))
}
