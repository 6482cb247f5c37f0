//! Sources from the outside.

mod conformance;
mod detect;
mod follow;
mod replay;
