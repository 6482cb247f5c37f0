//! The events sink: Common Schema 4.0 JSON to a OneCollector endpoint, in the
//! strictest profile that every public client and receiver agrees on.
//!
//! ```text
//! SinkBatch ─► plan: name, tenant, flags per kind ─► lines ─► requests (≤ 500 events, ≤ 2 MiB)
//!                                                               │ gzip or raw deflate
//!              Delivered / Retry / Split / Reject / Stop ◄─ reply ◄─ POST
//! ```
//!
//! # Delivery
//! At least once: an event's id, `ext.utc.epoch` and `ext.utc.seq`, is the same each
//! time, and so is its line, for the far side to dedupe. A batch is one request unless
//! its JSON is larger than a request may be; then it is several, one after the other,
//! cut at the same places each time. When a later one fails, the earlier ones are
//! remembered and not sent again while the process lives.
//!
//! # Tenants
//! A request carries the events of several tenants. When the endpoint kills one
//! (`kill-tokens`), its events must neither be lost nor keep the others back, and a
//! cursor moves over a gap-free run only. So: while another tenant may send, events of
//! the held one are rejected as [`RejectReason::Held`](crate::RejectReason::Held), which
//! puts them into the dead letters with that reason, to be replayed when the hold is
//! over. When no tenant may send, which with one tenant is always so, nothing is set
//! aside: the batch is tried again when the first hold ends.
//!
//! # Clock
//! The first request asks for the difference of the clocks, and no other is on its way
//! until a reply has come.

mod body;
mod config;
mod envelope;
mod latency;
mod mapping;
mod names;
mod pii;
#[cfg(any(test, feature = "test-util"))]
pub mod recorder;
mod reply;
mod sink;
mod state;
mod tenant;
#[cfg(test)]
mod tests;
mod transport;

pub use body::{BODY_BYTES_MAX, Compression, EVENT_BYTES_MAX, EVENTS_MAX};
pub use config::{EventsConfig, EventsError, TenantConfig};
pub use envelope::{BASE_TYPE, SDK_VERSION};
pub use latency::{Latency, LatencyRule, Urgency};
pub use mapping::{Pattern, PiiRule};
pub use names::{NAME_MAX, NAME_MIN, is_event_name, is_property_name};
pub use pii::PiiKind;
pub use sink::EventsSink;
pub use tenant::{NoToken, Tenant, TenantError};
