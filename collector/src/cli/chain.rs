//! What `audit` and `receipts` share: a chain read page by page and verified.

use serde_json::json;
use tidegate_ring::{Chain, ChainEntry, Ring};

use super::exit::{Done, Exit, Failure};
use super::state::{self, Of};
use crate::audit::{Broken, Head, Verified, hex, verify as links};

/// Entries read at a time.
const PAGE: usize = 1000;

/// Reads `NUMBER:HASH`.
pub(super) fn head(text: &str) -> Result<Head, String> {
    let wrong = || "NUMBER:HASH is expected, as verify prints it".to_owned();
    let (number, hex) = text.split_once(':').ok_or_else(wrong)?;
    let number = number.parse().map_err(|_| wrong())?;
    if hex.len() != 64 || !hex.is_ascii() {
        return Err(wrong());
    }
    let mut hash = [0; 32];
    for (n, byte) in hash.iter_mut().enumerate() {
        *byte = hex.get(n * 2..n * 2 + 2).and_then(|d| u8::from_str_radix(d, 16).ok()).ok_or_else(wrong)?;
    }
    Ok(Head { number, hash })
}

/// Verifies a chain and tells its head.
pub(super) fn verify(chain: Chain, head: Option<Head>, of: &Of) -> Done {
    let ring = state::ring(&of.config()?)?;
    match whole(&*ring, chain, head)? {
        Ok(good) => {
            let value =
                json!({ "whole": true, "entries": good.entries, "last": good.last, "head": good.head });
            let text = format!("{good}\nkeep elsewhere: {}:{}", good.last, good.head);
            state::print(of, &value, text)?;
            Ok(Exit::Ok)
        }
        Err(broken) if of.json => {
            state::print(of, &json!({ "whole": false, "problem": broken.to_string() }), "")?;
            Ok(Exit::Data)
        }
        Err(broken) => Err(Failure::new(Exit::Data, broken.to_string())
            .hint("someone changed the ring's files, or they are damaged; compare with a backup")),
    }
}

/// Verifies a chain page by page.
fn whole(ring: &dyn Ring, chain: Chain, kept: Option<Head>) -> Result<Result<Verified, Broken>, Failure> {
    let (number, hash) = ring.chain_anchor(chain).map_err(|e| state::ring_failed(&e))?;
    let mut at = Head { number, hash };
    let mut found = kept.is_none_or(|k| k == at);
    let mut all = Ok(Verified { entries: 0, last: number, head: hex(&hash) });
    pages(ring, chain, 1, |page| {
        if let Ok(sum) = &mut all {
            match links(at, page, None) {
                Ok(good) => {
                    sum.entries += good.entries;
                    (sum.last, sum.head) = (good.last, good.head);
                    found |= page.iter().any(|e| kept == Some(Head { number: e.number, hash: e.hash }));
                    if let Some(last) = page.last() {
                        at = Head { number: last.number, hash: last.hash };
                    }
                }
                Err(e) => all = Err(e),
            }
        }
        Ok(())
    })?;
    Ok(match (all, kept) {
        (Ok(_), Some(kept)) if !found => Err(Broken::NoHead { number: kept.number }),
        (all, _) => all,
    })
}

/// Reads a chain from a number on, page by page.
pub(super) fn pages(
    ring: &dyn Ring,
    chain: Chain,
    from: u64,
    mut each: impl FnMut(&[ChainEntry]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut next = from.max(1);
    loop {
        let page = ring.chain_read(chain, next, PAGE).map_err(|e| state::ring_failed(&e))?;
        let Some(last) = page.last() else { return Ok(()) };
        next = last.number.saturating_add(1);
        each(&page)?;
    }
}
