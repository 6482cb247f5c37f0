//! What `audit` and `receipts` share: a chain read page by page and verified.

use std::fmt::Display;
use std::io::Write as _;

use serde::Serialize;
use serde_json::{Value, json};
use tidegate_proto::hex;
use tidegate_ring::{Chain, ChainEntry};

use super::exit::{Done, Exit, Failure};
use super::out;
use super::state::{self, Of, Reach};
use crate::api::client::Client;
use crate::audit::{Broken, Head, Verified, is_cut, verify as links};

/// Entries read at a time.
const PAGE: usize = 1000;

/// Reads `NUMBER:HASH`.
pub(super) fn head(text: &str) -> Result<Head, String> {
    let wrong = || "NUMBER:HASH is expected, as verify prints it".to_owned();
    let (number, digits) = text.split_once(':').ok_or_else(wrong)?;
    let number = number.parse().map_err(|_| wrong())?;
    Ok(Head { number, hash: hex::decode(digits).ok_or_else(wrong)? })
}

/// Prints a chain from a number on, one entry a line; those that `shown` makes nothing of are left out.
pub(super) fn list<T: Serialize + Display>(
    chain: Chain,
    from: u64,
    of: &Of,
    shown: impl Fn(&ChainEntry) -> Option<T>,
) -> Done {
    let reach = state::reach(&of.config()?)?;
    let mut out = out::stdout();
    pages(&reach, chain, from, |page| {
        for entry in page.iter().filter_map(&shown) {
            let line = if of.json {
                serde_json::to_string(&entry).map_err(|e| Failure::new(Exit::Software, e.to_string()))?
            } else {
                entry.to_string()
            };
            writeln!(out, "{line}").map_err(|e| Failure::output(&e))?;
        }
        Ok(())
    })?;
    out.flush().map_err(|e| Failure::output(&e))?;
    Ok(Exit::Ok)
}

/// Verifies a chain and tells its head.
pub(super) fn verify(chain: Chain, head: Option<Head>, of: &Of) -> Done {
    match whole(&state::reach(&of.config()?)?, chain, head)? {
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
        Err(broken @ Broken::Lost { .. }) => Err(Failure::new(Exit::Data, broken.to_string())
            .hint("compare with an export; tidegate buffer repair takes note of it in the audit log")),
        Err(broken) => Err(Failure::new(Exit::Data, broken.to_string())
            .hint("someone changed the ring's files, or they are damaged; compare with a backup")),
    }
}

/// Verifies a chain page by page.
pub(super) fn whole(
    reach: &Reach,
    chain: Chain,
    kept: Option<Head>,
) -> Result<Result<Verified, Broken>, Failure> {
    let (number, hash) = anchor(reach, chain)?;
    let mut at = Head { number, hash };
    let mut found = kept.is_none_or(|k| k == at);
    let mut all = Ok(Verified { entries: 0, last: number, head: hex::encode(&hash) });
    pages(reach, chain, 1, |page| {
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
        (Ok(_), _) if cut(reach, chain)? => Err(Broken::Lost { next: number.saturating_add(1) }),
        (all, _) => all,
    })
}

/// What a collector that runs answers on a chain.
fn asked(client: &Client, chain: Chain, from: u64, most: usize) -> Result<Value, Failure> {
    let name = if chain == Chain::Audit { "audit" } else { "receipts" };
    state::ask(client, "GET", &format!("/v1/{name}?from={from}&most={most}"), &Value::Null)
}

/// Number and hash of the last entry that was let go, zero where none was.
pub(super) fn anchor(reach: &Reach, chain: Chain) -> Result<(u64, [u8; 32]), Failure> {
    match reach {
        Reach::Stopped(ring) => ring.chain_anchor(chain).map_err(|e| state::ring_failed(&e)),
        Reach::Running(client) => {
            let value = asked(client, chain, 1, 1)?;
            value.get("anchor").and_then(link).ok_or_else(state::unreadable)
        }
    }
}

/// Whether damage took entries of a chain since someone took note of it.
pub(super) fn cut(reach: &Reach, chain: Chain) -> Result<bool, Failure> {
    Ok(match reach {
        Reach::Stopped(ring) => is_cut(&**ring, chain).map_err(|e| state::ring_failed(&e))?,
        // one of an earlier version does not know
        Reach::Running(client) => asked(client, chain, 1, 1)?.get("cut").is_some_and(|cut| *cut == true),
    })
}

/// Reads a chain from a number on, page by page.
pub(super) fn pages(
    reach: &Reach,
    chain: Chain,
    from: u64,
    mut each: impl FnMut(&[ChainEntry]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut next = from.max(1);
    loop {
        let page = match reach {
            Reach::Stopped(ring) => ring.chain_read(chain, next, PAGE).map_err(|e| state::ring_failed(&e))?,
            Reach::Running(client) => {
                let value = asked(client, chain, next, PAGE)?;
                let entries = value.get("entries").and_then(Value::as_array);
                entries
                    .into_iter()
                    .flatten()
                    .map(entry)
                    .collect::<Option<_>>()
                    .ok_or_else(state::unreadable)?
            }
        };
        let Some(last) = page.last() else { return Ok(()) };
        next = last.number.saturating_add(1);
        each(&page)?;
    }
}

/// An entry as the control interface gives it.
fn entry(value: &Value) -> Option<ChainEntry> {
    let (number, hash) = link(value)?;
    Some(ChainEntry { number, hash, data: value.get("data")?.as_str()?.as_bytes().to_vec() })
}

fn link(value: &Value) -> Option<(u64, [u8; 32])> {
    Some((value.get("number")?.as_u64()?, hex::decode(value.get("hash")?.as_str()?)?))
}
