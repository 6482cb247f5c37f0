//! Whether a chain is whole.

use std::fmt;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tidegate_ring::{CUT, Chain, ChainEntry, Ring, RingError};

use super::hex;

/// A place in a chain that is known to be right: an entry's number and hash. One that is kept
/// elsewhere proves later that nothing before it was changed or cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Head {
    /// The entry's number; 0 before the first.
    pub number: u64,
    /// Its hash; zeros before the first.
    pub hash: [u8; 32],
}

/// A chain without a break.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Entries looked at.
    pub entries: u64,
    /// Number of the last one, or of the place begun from.
    pub last: u64,
    /// Hash of the last one, in hex: to be kept elsewhere.
    pub head: String,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries, unbroken up to number {}; head {}", self.entries, self.last, self.head)
    }
}

/// The first place where a chain does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// An entry is missing, or stands twice or in another place.
    #[error("the chain is broken: entry {expected} is expected, {found} is there")]
    Gap {
        /// The number that follows.
        expected: u64,
        /// The number that is there.
        found: u64,
    },
    /// An entry, or one before it, was changed.
    #[error("the chain is broken at entry {number}: its hash does not fit its content and the entry before")]
    Changed {
        /// Its number.
        number: u64,
    },
    /// Damage to the ring took entries, and nobody has taken note of it.
    #[error(
        "the chain was cut: damage to the ring's files took entries; what is left begins with number {next}"
    )]
    Lost {
        /// The first number that is there, or would be next.
        next: u64,
    },
    /// It ends before a head that was kept elsewhere, or has another entry in its place.
    #[error("the chain was cut or replaced: entry {number} with the hash that was kept is not in it")]
    NoHead {
        /// The number kept.
        number: u64,
    },
}

/// Whether damage to the ring took entries of a chain since someone took note of it.
///
/// # Errors
/// When the ring cannot be read.
pub fn is_cut(ring: &dyn Ring, chain: Chain) -> Result<bool, RingError> {
    let which = if chain == Chain::Receipts { 0 } else { 1 };
    Ok(ring.get(CUT)?.is_some_and(|cut| cut.get(which) == Some(&b'1')))
}

/// Verifies entries that follow `from` (`Head::default()` = the first entry), and that they hold
/// `kept`, where one was kept elsewhere. Pure: no ring, no clock.
///
/// # Errors
/// The first break.
pub fn verify<'a>(
    from: Head,
    entries: impl IntoIterator<Item = &'a ChainEntry>,
    kept: Option<Head>,
) -> Result<Verified, Broken> {
    let mut at = from;
    let mut count = 0;
    let mut found = kept.is_none_or(|k| k == from);
    for entry in entries {
        let expected = at.number.saturating_add(1);
        if entry.number != expected {
            return Err(Broken::Gap { expected, found: entry.number });
        }
        let hash: [u8; 32] = Sha256::new()
            .chain_update(at.hash)
            .chain_update(entry.number.to_be_bytes())
            .chain_update(&entry.data)
            .finalize()
            .into();
        if hash != entry.hash {
            return Err(Broken::Changed { number: entry.number });
        }
        at = Head { number: entry.number, hash };
        found |= kept == Some(at);
        count += 1;
    }
    match kept {
        Some(kept) if !found => Err(Broken::NoHead { number: kept.number }),
        _ => Ok(Verified { entries: count, last: at.number, head: hex(&at.hash) }),
    }
}
