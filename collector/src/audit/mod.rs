//! The audit log: every change that an operator may want to prove later. Entries are JSON in
//! the ring's chain [`Chain::Audit`](tidegate_ring::Chain::Audit), each linked to the one before
//! by its hash.

mod record;
#[cfg(test)]
mod tests;
mod verify;

pub use record::{InForce, Listed, Record, What};
pub(crate) use tidegate_proto::hex::encode as hex;
pub use verify::{Broken, Head, Verified, is_cut, verify};
