//! One receipt and its JSON, as the dispatcher writes it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tidegate_proto::ids::{Seq, SeqRange};
use tidegate_ring::{ChainEntry, PerLevel};

/// What one delivery did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The sink's name.
    pub sink: String,
    /// The host's name.
    pub host: String,
    /// The stream.
    pub stream: String,
    /// Which life of the ring, 16 hexadecimal digits.
    pub epoch: String,
    /// First place of the planned range.
    pub first: u64,
    /// Last place of it, inclusive.
    pub last: u64,
    /// When it was settled, RFC 3339 in UTC.
    pub time: String,
    /// The telemetry level in force, 0 to 3.
    pub level: u8,
    /// Events delivered, per telemetry level.
    pub delivered: PerLevel,
    /// Events that the far side refused for good, per telemetry level.
    pub rejected: PerLevel,
    /// Events left out or gone from the ring, by reason, per telemetry level.
    #[serde(default)]
    pub lost: BTreeMap<String, PerLevel>,
    /// What it left at the far side.
    #[serde(default)]
    pub objects: Vec<Object>,
    /// Objects that had no room in the receipt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_objects: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's form
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// One file, blob or request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Where: URL without query, or path.
    pub to: String,
    /// SHA-256 of its bytes as stored there, in hex.
    pub sha256: String,
    /// Their number.
    pub bytes: u64,
    /// Events in it.
    pub events: u32,
    /// The server's name for it.
    #[serde(default)]
    pub id: String,
    /// It was there already, with the same events.
    #[serde(default)]
    pub found: bool,
}

impl Receipt {
    /// The planned range; `None` where its ends are the wrong way round.
    #[must_use]
    pub fn range(&self) -> Option<SeqRange> {
        SeqRange::new(Seq(self.first), Seq(self.last))
    }
}

/// An entry of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its number.
    pub number: u64,
    /// Its hash, in hex.
    pub hash: String,
    /// Its content; `None` where it is no receipt that this version reads.
    pub receipt: Option<Receipt>,
}

impl From<&ChainEntry> for Entry {
    fn from(e: &ChainEntry) -> Entry {
        let receipt = serde_json::from_slice(&e.data).ok();
        Entry { number: e.number, hash: crate::audit::hex(&e.hash), receipt }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(r) = &self.receipt else {
            return write!(f, "{:6} not a receipt that this version reads", self.number);
        };
        let sum = |l: &PerLevel| l.iter().sum::<u64>();
        write!(
            f,
            "{:6} {} {} {}-{} delivered {}",
            self.number,
            r.time,
            r.sink,
            r.first,
            r.last,
            sum(&r.delivered)
        )?;
        if sum(&r.rejected) > 0 {
            write!(f, " rejected {}", sum(&r.rejected))?;
        }
        for (reason, n) in &r.lost {
            write!(f, " {reason} {}", sum(n))?;
        }
        match (r.objects.as_slice(), r.more_objects) {
            ([], 0) => Ok(()),
            ([one], 0) => write!(f, " to {}{}", one.to, if one.found { " (found)" } else { "" }),
            ([first, rest @ ..], more) => write!(f, " to {} and {} more", first.to, rest.len() as u64 + more),
            ([], more) => write!(f, " to {more} objects"),
        }
    }
}
