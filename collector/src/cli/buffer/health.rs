//! `buffer verify` and `buffer repair`.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::json;
use tidegate_ring::{CUT, Chain, Ring, SledRing, Verified};

use super::super::chain;
use super::super::exit::{Done, Exit, Failure};
use super::super::out::{bytes, count};
use super::super::state::{self, Of, Reach};
use super::{audit, look, open};
use crate::audit::{Broken, What};

const CHAINS: [(Chain, &str); 2] = [(Chain::Receipts, "receipts"), (Chain::Audit, "audit log")];

/// Everything that is wrong with a ring, in words.
fn problems(ring: &Arc<SledRing>, found: &Verified) -> Result<Vec<String>, Failure> {
    let mut all = ring.status().quarantined;
    all.extend(found.problems.iter().cloned());
    let more = found.problem_count - found.problems.len() as u64;
    if more > 0 {
        all.push(format!("{more} more of this kind"));
    }
    let reach = Reach::Stopped(Arc::clone(ring) as Arc<dyn Ring>);
    for (chain, name) in CHAINS {
        if let Err(broken) = chain::whole(&reach, chain, None)? {
            all.push(format!("the {name}: {broken}"));
        }
    }
    all.extend(ring.account().check().err().map(|why| format!("the account does not close: {why}")));
    Ok(all)
}

pub(super) fn verify(of: &Of) -> Done {
    let config = of.config()?;
    let ring = Arc::new(look(&config)?);
    let found = ring.verify().map_err(|e| state::ring_failed(&e))?;
    let problems = problems(&ring, &found)?;
    let value = json!({
        "sound": problems.is_empty(),
        "segments": found.segments, "blocks": found.blocks, "events": found.events, "bytes": found.bytes,
        "problems": problems,
    });
    let mut text = format!(
        "read {} events in {} blocks of {} files, {}\n",
        count(found.events),
        count(found.blocks),
        count(found.segments),
        bytes(found.bytes)
    );
    for problem in &problems {
        let _ = writeln!(text, "damaged: {problem}");
    }
    if problems.is_empty() {
        text.push_str("everything is sound: checksums, receipts, audit log, account");
        state::print(of, &value, text)?;
        return Ok(Exit::Ok);
    }
    state::print(of, &value, text.trim_end())?;
    eprintln!("tidegate buffer repair sets damaged parts aside and counts what they held as lost");
    Ok(Exit::Data)
}

pub(super) fn repair(of: &Of) -> Done {
    let config = of.config()?;
    let ring = Arc::new(open(&config)?);
    let segments = ring.mend().map_err(|e| state::ring_failed(&e))?;
    let mut reports = ring.status().quarantined;
    let reach = Reach::Stopped(Arc::clone(&ring) as Arc<dyn Ring>);
    for (chain, name) in CHAINS {
        if let Err(lost @ Broken::Lost { .. }) = chain::whole(&reach, chain, None)? {
            reports.push(format!("the {name}: {lost}"));
        }
    }
    if segments > 0 || !reports.is_empty() {
        audit(&*ring, What::Repair { segments, found: reports.clone() })?;
        // the audit log tells of it from here on
        ring.put(CUT, None).map_err(|e| state::ring_failed(&e))?;
    }
    let found = ring.verify().map_err(|e| state::ring_failed(&e))?;
    let mut left = problems(&ring, &found)?;
    // those are told, and mended
    left.retain(|p| !reports.contains(p));
    let value = json!({ "segments": segments, "mended": reports, "left": left });
    let mut text = String::new();
    for report in &reports {
        let _ = writeln!(text, "mended: {report}");
    }
    for problem in &left {
        let _ = writeln!(text, "left: {problem}");
    }
    let _ = match (reports.is_empty() && segments == 0, left.is_empty()) {
        (true, true) => write!(text, "nothing was damaged"),
        (_, true) => write!(text, "{segments} files were written anew; everything that is left is sound"),
        (_, false) => write!(text, "not all could be mended"),
    };
    state::print(of, &value, text)?;
    ring.close().map_err(|e| state::ring_failed(&e))?;
    Ok(if left.is_empty() { Exit::Ok } else { Exit::Data })
}
