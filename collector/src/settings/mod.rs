//! Remote settings: a small signed JSON document, fetched now and then, that can only reduce
//! what is collected and sent.
//!
//! The document:
//!
//! ```json
//! {
//!   "format": 1,
//!   "version": 42,
//!   "refresh_seconds": 3600,
//!   "ceiling": "Basic",
//!   "off": [{"provider": "Contoso.*", "event": "*Trace*"}],
//!   "sampling": [{"provider": "Noisy.*", "keep": 0.1}],
//!   "tenants_off": ["0123456789abcdef"]
//! }
//! ```
//!
//! Only `format` and `version` must be there; unknown members are refused, so that a document
//! for a newer program is not half obeyed. It is sent in an envelope, whose Ed25519 signature
//! is over the words `tidegate settings 1`, a line feed, and the document's bytes:
//!
//! ```json
//! {"document": "<base64>", "key": "<key id>", "signature": "<base64>"}
//! ```
//!
//! [`Settings`] holds what is in force and decides on replies; it does no I/O and reads no clock.
//! [`run`] drives it with a [`Fetch`] and a [`Store`].

mod document;
mod envelope;
mod poll;
pub mod remote;
mod run;
pub mod sign;
#[cfg(test)]
mod tests;

pub use document::{Document, OffRule, SettingsError};
pub use envelope::{KeyError, PublicKey, signed_bytes};
pub use poll::{Outcome, Refusal, Settings};
pub use run::{Fetch, FetchError, Fetched, Store, run};
