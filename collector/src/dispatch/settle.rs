//! What became of a run, put down in the ring: counts, receipt, dead letters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_proto::level::LossReason;
use tidegate_proto::wire::SchemaInterner;
use tidegate_ring::{Part, PerLevel, RingError, Settlement};
use tidegate_sinks::{Delivered, RejectReason};
use tracing::{debug, error, info, warn};

use super::batch::{Made, fetch_run, present};
use super::flight::{Shared, Trouble, blocking, lock};
use super::receipt::{Counts, receipt};
use super::retry::Backoff;
use super::stats::{Stats, Why};
use crate::clock::now_ns;

/// What is to be put down of a run.
struct Outcome {
    part: Part,
    made: Made,
    done: Delivered,
    /// Dead letters are written already.
    written: AtomicBool,
}

/// Puts down what became of a run. Tried until it is done: what was delivered is not sent again
/// because a disk fails.
pub(super) async fn settle(
    shared: &Arc<Shared>,
    part: Part,
    made: Option<Made>,
    done: Delivered,
) -> Result<(), Trouble> {
    let Some(made) = made else { return Ok(()) };
    let outcome = Arc::new(Outcome { part, made, done, written: AtomicBool::new(false) });
    let mut backoff = Backoff::new(shared.retry.first, shared.retry.most);
    let why = Why::Settling(part);
    loop {
        let this = Arc::clone(&outcome);
        let error = match blocking(shared, move |s| settle_now(s, &this)).await {
            Ok(()) => break,
            Err(e) if e.closed() => return Err(e),
            Err(e) => e.to_string(),
        };
        if shared.stats.hold(why, &error, "") {
            error!(sink = %shared.id, range = %part.range, %error, "what was delivered cannot be put down");
        }
        let pause = backoff.next(&mut **lock(&shared.chance));
        tokio::time::sleep(pause).await;
    }
    if shared.stats.free(why) {
        info!(sink = %shared.id, range = %part.range, "it is put down now");
    }
    if let Ok(outcome) = Arc::try_unwrap(outcome) {
        match shared.sink.staged() {
            None => lock(&shared.maker).recycle(outcome.made.batch),
            Some(_) if outcome.made.batch.is_empty() => {}
            Some(_) => shared.workshop.give_back(outcome.made.batch.into_parts()),
        }
    }
    Ok(())
}

fn settle_now(shared: &Shared, outcome: &Outcome) -> Result<(), Trouble> {
    let Outcome { part, made, done, written } = outcome;
    let (part, range, now) = (*part, part.range, now_ns());
    let mut counts = Counts { delivered: made.levels, lost: made.lost.clone(), ..Counts::default() };
    let mut rejected = done.rejected.clone();
    rejected.sort_by_key(|r| r.seq);
    rejected.dedup_by_key(|r| r.seq);
    let mut next = rejected.iter().peekable();
    for (seq, event) in made.batch.iter() {
        while next.next_if(|r| r.seq < seq).is_some() {}
        if next.next_if(|r| r.seq == seq).is_some() {
            super::batch::count(&mut counts.rejected, event.head().telemetry_level);
        }
    }
    for (d, r) in counts.delivered.iter_mut().zip(counts.rejected) {
        *d = d.saturating_sub(r);
    }
    if let (Some(dead), false, false) = (&shared.dead, rejected.is_empty(), written.load(Ordering::Relaxed)) {
        let dead = lock(dead);
        // lowered since: what is above went from the file, or goes once this is written
        let level = shared.in_force.borrow().level.level;
        let done = dead.write(&made.batch, &rejected, level, now);
        done.map_err(|e| Trouble::Dead(dead.path().display().to_string(), e))?;
        written.store(true, Ordering::Relaxed);
    }
    let sum = |l: &PerLevel| l.iter().sum::<u64>();
    let (delivered, refused) = (sum(&counts.delivered), sum(&counts.rejected));
    let left_out: u64 = counts.lost.values().map(sum).sum();
    let quiet = done.objects.is_empty() && delivered + refused == 0;
    let entry = if quiet { Vec::new() } else { receipt(shared.id.as_str(), &made.batch, &counts, done, now) };
    let settlement = Settlement {
        delivered: counts.delivered,
        rejected: counts.rejected,
        lost: counts.lost,
        receipt: entry,
    };
    match shared.ring.settle(&shared.id, part, &settlement) {
        Err(RingError::Misuse(why)) => settle_what_is_left(shared, part, settlement, &why)?,
        other => {
            other?;
        }
    }
    let stats = &shared.stats;
    Stats::add(&stats.delivered, delivered);
    Stats::add(&stats.rejected, refused);
    Stats::add(&stats.left_out, left_out);
    Stats::add(&stats.bytes, done.bytes);
    if delivered > 0 {
        Stats::add(&stats.deliveries, 1);
        stats.delivered_at(now);
    }
    if refused > 0 {
        let why = rejected.first().map(|r| (r.reason, r.detail.as_str()));
        let (reason, detail) = why.unwrap_or((RejectReason::Invalid, ""));
        warn!(sink = %shared.id, %range, events = refused, reason = reason.as_str(), detail, "the far side refused events for good");
    }
    Ok(())
}

/// Puts down an outcome that does not add up to what the ring holds of the run: events of it went, or could not
/// be read, when the batch was made. Counts what is there.
fn settle_what_is_left(
    shared: &Shared,
    part: Part,
    mut outcome: Settlement,
    why: &str,
) -> Result<(), Trouble> {
    let range = part.range;
    debug!(sink = %shared.id, %range, why, "counting again what the ring holds of a run");
    let mut known = SchemaInterner::new();
    let (blocks, _) = fetch_run(&*shared.ring, part, &mut known)?;
    let mut room = present(range, &blocks, &mut known)?;
    let mut fit = |levels: &mut PerLevel| {
        for (n, room) in levels.iter_mut().zip(&mut room) {
            *n = (*n).min(*room);
            *room -= *n;
        }
    };
    fit(&mut outcome.rejected);
    outcome.lost.values_mut().for_each(&mut fit);
    fit(&mut outcome.delivered);
    // what was not sent, because it was not there when the batch was made, stays to be counted
    if room != [0; 4] {
        let lost = outcome.lost.entry(LossReason::Corrupt).or_default();
        for (n, more) in lost.iter_mut().zip(room) {
            *n += more;
        }
        error!(sink = %shared.id, %range, events = ?room, "events of a run could not be read when it was sent");
    }
    shared.ring.settle(&shared.id, part, &outcome)?;
    Ok(())
}
