//! Delivered objects that hold what a condition looks for, by the receipts.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tidegate_proto::batch::Batch;
use tidegate_proto::capture::CaptureReader;
use tidegate_proto::ids::Seq;
use tidegate_proto::time::parse_rfc3339;
use tidegate_proto::wire::{BlockReader, SchemaInterner};
use tidegate_ring::{Chain, PerLevel, PurgeRule, Ring, RingError};
use tidegate_sinks::DeliverError;
use tidegate_sinks::format::{self, Plain};
use tidegate_sinks::holdings::{Deletion, Fetched, Holdings};
use tidegate_sources::jsonl::LineDecoder;

/// Receipts read at a time.
const PAGE: usize = 256;
/// Bytes that are made of one object to look into it.
const MAX_PLAIN: u64 = 1 << 30;
/// An event's clock may be ahead of its delivery by so much.
const AHEAD_NS: i64 = 86_400_000_000_000;

/// One delivered object, or one delivery to a far side that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// The sink.
    pub sink: String,
    /// Number of the receipt.
    pub receipt: u64,
    /// First and last place of the run.
    pub range: (u64, u64),
    /// When it was delivered.
    pub time: String,
    /// Where it is.
    pub destination: String,
    /// What was found there.
    pub found: Found,
    /// What was done.
    pub place: Place,
}

/// What is known of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// It was read: so many events in it match.
    Events(u64),
    /// It cannot be read from here; the ring still held matching events of this run.
    Sure,
    /// It cannot be read from here; level and time do not speak against it.
    Perhaps,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Nothing was asked for.
    Listed,
    /// It is deleted.
    Deleted,
    /// It was gone already.
    Gone,
    /// It is not the object of the receipt any more, and was left alone.
    Changed,
    /// A policy or legal hold keeps it.
    Kept,
    /// No deletion can be asked for from here: ask whoever runs the far side.
    Unreachable,
    /// It could not be read or deleted; trying again may help.
    Failed(String),
}

impl Place {
    /// Whether events that matched may still be there, and this program can do something about it.
    #[must_use]
    pub fn again(&self) -> bool {
        matches!(self, Place::Failed(_))
    }
}

#[derive(Deserialize)]
struct Receipt {
    sink: String,
    epoch: String,
    first: u64,
    last: u64,
    time: String,
    #[serde(default)]
    delivered: PerLevel,
    #[serde(default)]
    objects: Vec<ReceiptObject>,
    #[serde(default)]
    more_objects: u64,
}

#[derive(Deserialize)]
struct ReceiptObject {
    to: String,
    sha256: String,
}

/// Looks for what a condition finds in everything that the receipts tell of, and deletes it
/// where `delete` says so. `places` are those of matching events that the ring still held.
/// Each one is told to `each` as soon as it is known. Returns the number of receipts looked at.
///
/// # Errors
/// When the receipts cannot be read. What goes wrong at a far side is told by [`Place::Failed`].
///
/// # Cancel safety
/// What was told to `each` is done; one object more may be deleted.
pub async fn look(
    ring: &dyn Ring,
    rule: &dyn PurgeRule,
    places: &[Seq],
    holdings: &BTreeMap<String, Option<Arc<dyn Holdings>>>,
    delete: bool,
    mut each: impl FnMut(Delivered) -> Result<(), RingError>,
) -> Result<u64, RingError> {
    let epoch = format!("{:016x}", ring.status().epoch);
    let (mut next, mut seen) = (1, 0);
    loop {
        let page = ring.chain_read(Chain::Receipts, next, PAGE)?;
        let Some(last) = page.last() else { return Ok(seen) };
        next = last.number.saturating_add(1);
        for entry in &page {
            seen += 1;
            let Ok(receipt) = serde_json::from_slice::<Receipt>(&entry.data) else { continue };
            let until = parse_rfc3339(&receipt.time).map_or(i64::MAX, |t| t.saturating_add(AHEAD_NS));
            if !rule.may_match(&receipt.delivered, (i64::MIN, until)) || receipt.delivered == [0; 4] {
                continue;
            }
            let told = |destination: &str, found, place| Delivered {
                sink: receipt.sink.clone(),
                receipt: entry.number,
                range: (receipt.first, receipt.last),
                time: receipt.time.clone(),
                destination: destination.to_owned(),
                found,
                place,
            };
            let held_here = receipt.epoch == epoch
                && places.iter().any(|s| (receipt.first..=receipt.last).contains(&s.0));
            let guess = if held_here { Found::Sure } else { Found::Perhaps };
            let from = holdings.get(&receipt.sink).and_then(Option::as_ref);
            let mut left = Vec::new();
            for object in &receipt.objects {
                match from.filter(|h| h.is_here(&object.to)) {
                    None => left.push(object.to.as_str()),
                    Some(from) => match one(&**from, object, rule, delete).await {
                        // it does not hold any, or not any more
                        (Found::Events(0), _) | (Found::Perhaps, Place::Gone) => {}
                        (found, place) => {
                            let found = if matches!(found, Found::Events(_)) { found } else { guess };
                            each(told(&object.to, found, place))?;
                        }
                    },
                }
            }
            if receipt.objects.is_empty() {
                left.push("(not named)");
            }
            for destination in left {
                each(told(destination, guess, Place::Unreachable))?;
            }
            if receipt.more_objects > 0 {
                let more = format!("{} further objects that the receipt does not name", receipt.more_objects);
                each(told(&more, guess, Place::Unreachable))?;
            }
        }
    }
}

/// Looks into one object. The first is [`Found::Perhaps`] where that could not be done.
async fn one(
    from: &dyn Holdings,
    object: &ReceiptObject,
    rule: &dyn PurgeRule,
    delete: bool,
) -> (Found, Place) {
    let held = match from.fetch(&object.to).await {
        Err(e) => return (Found::Perhaps, Place::Failed(told(&e))),
        Ok(None) => return (Found::Perhaps, Place::Gone),
        Ok(Some(held)) => held,
    };
    // what is not of our making is neither read nor deleted
    if crate::audit::hex(&Sha256::digest(&held.bytes)) != object.sha256 {
        return (Found::Perhaps, Place::Changed);
    }
    let events = match matching(&held, rule) {
        Err(why) => return (Found::Perhaps, Place::Failed(why)),
        Ok(n) => n,
    };
    if events == 0 || !delete {
        return (Found::Events(events), Place::Listed);
    }
    let place = match from.delete(&held).await {
        Ok(Deletion::Done) => Place::Deleted,
        Ok(Deletion::Gone) => Place::Gone,
        Ok(Deletion::Changed) => Place::Changed,
        Ok(Deletion::Kept) => Place::Kept,
        Err(e) => Place::Failed(told(&e)),
    };
    (Found::Events(events), place)
}

/// An error for the operator, without secrets as all errors of sinks are.
fn told(error: &DeliverError) -> String {
    match error {
        DeliverError::Stop { advice, .. } => format!("{}; {advice}", crate::assemble::chain(error)),
        _ => crate::assemble::chain(error),
    }
}

/// How many events of an object match.
fn matching(held: &Fetched, rule: &dyn PurgeRule) -> Result<u64, String> {
    let plain = format::read(held, MAX_PLAIN).map_err(|e| format!("cannot be looked into: {e}"))?;
    let mut batch = Batch::new();
    let mut count = 0;
    match plain {
        Plain::Lines(text) => {
            let mut decoder = LineDecoder::new("");
            for line in text.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                batch.clear();
                decoder.push(&mut batch, line).map_err(|e| format!("a line cannot be read: {e}"))?;
                count += batch.iter().filter(|e| rule.matches(*e)).count() as u64;
            }
        }
        Plain::Capture(bytes) => {
            let mut reader = CaptureReader::new(&bytes[..]).map_err(|e| e.to_string())?;
            let mut known = SchemaInterner::new();
            while let Some(block) = reader.next_block().map_err(|e| e.to_string())? {
                batch.clear();
                let read = BlockReader::new(block, &mut known).and_then(|r| r.read_into(&mut batch));
                read.map_err(|e| e.to_string())?;
                count += batch.iter().filter(|e| rule.matches(*e)).count() as u64;
            }
        }
    }
    Ok(count)
}
