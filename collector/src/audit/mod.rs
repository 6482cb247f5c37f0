//! The audit log: every change that an operator may want to prove later. Entries are JSON in
//! the ring's chain [`Chain::Audit`](tidegate_ring::Chain::Audit), each linked to the one before
//! by its hash.

mod record;
#[cfg(test)]
mod tests;
mod verify;

pub use record::{InForce, Listed, Record, What};
pub use verify::{Broken, Head, Verified, verify};

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}
