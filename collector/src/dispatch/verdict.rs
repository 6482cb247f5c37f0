//! What an answer of the far side, or none, means for the sink and for a run, and what is told of it.

use std::time::Duration;

use tidegate_proto::ids::Seq;
use tidegate_sinks::http::classify::printable;
use tidegate_sinks::{DeliverError, Delivered, RejectReason, SinkBatch};
use tracing::{error, info};

use crate::assemble::chain;

use super::breaker::Pass;
use super::flight::{Alone, Job, Landing, Shared, lock};
use super::refusals::REFUSED_MOST;
use super::retry::{AFTER_MOST, Backoff};
use super::stats::{Stats, Why};

/// An alarm tells after that long that nothing gets through.
const DOWN_TOLD: Duration = Duration::from_secs(5 * 60);
/// Most characters of a cause in an alarm.
const CAUSE_MOST: usize = 300;
/// Most characters of an error in the log.
pub(super) const TOLD_MOST: usize = 1000;

/// A delivery came to its end.
pub(super) fn works(shared: &Shared) {
    lock(&shared.window).success();
    answers(shared);
}

/// The far side answers: what told otherwise has ended.
pub(super) fn answers(shared: &Shared) {
    lock(&shared.broken).reset();
    if shared.keeper.resting() {
        // it was under way before; nothing goes for now
        return;
    }
    let held = [Why::Stopped, Why::Refused, Why::Unreachable].map(|why| shared.stats.free(why));
    if held.contains(&true) {
        info!(sink = %shared.id, "deliveries go on");
    }
}

/// Whether the far side has said so, not the sink by itself, and not for now only.
pub(super) fn is_far_sides(reason: RejectReason) -> bool {
    matches!(reason, RejectReason::Invalid | RejectReason::TooLarge)
}

/// Whether the far side took anything; `None` where that is not for it to say.
pub(super) fn taken(batch: &SinkBatch, done: &Delivered) -> Option<bool> {
    if done.rejected.is_empty() {
        // its events may have been let go
        return Some(true);
    }
    let mut refused: Vec<Seq> = done.rejected.iter().map(|r| r.seq).collect();
    refused.sort_unstable();
    let all = batch.iter().all(|(seq, _)| refused.binary_search(&seq).is_ok());
    if !all || done.objects.iter().any(|o| o.events > 0) {
        return Some(true);
    }
    done.rejected.iter().all(|r| is_far_sides(r.reason)).then_some(false)
}

/// The sink takes nothing, whatever it is sent: all of it waits.
pub(super) fn refused(shared: &Shared, job: &mut Job, pass: Pass<'_>, cause: &str) -> Landing {
    shared.stats.attempt("hold");
    lock(&shared.window).failure();
    let pause = shared.retry.held;
    pass.hold(pause, None);
    shared.stats.free(Why::Unreachable);
    let advice = format!(
        "the far side has refused {REFUSED_MOST} batches in a row and taken none, so the events wait: check \
         the sink's address, format and size limits"
    );
    if shared.stats.hold(Why::Refused, &advice, &printable(cause, CAUSE_MOST)) {
        error!(sink = %shared.id, range = %job.part.range, error = %cause, %advice, "the sink holds until someone acts");
    }
    Landing::Later { job: job.anew(), pause, alone: None }
}

/// The sink panicked over a batch: it waits alone, longer each time.
pub(super) fn broke_down(
    shared: &Shared,
    job: &mut Job,
    pass: Option<Pass<'_>>,
    panic: &(dyn std::any::Any + Send),
) -> Landing {
    Stats::add(&shared.stats.failures, 1);
    shared.stats.attempt("panic");
    lock(&shared.window).failure();
    let mut own = job.broken.take().unwrap_or(Backoff::new(shared.retry.first, shared.retry.most));
    let pause = {
        let mut chance = lock(&shared.chance);
        own.next(&mut **chance).max(lock(&shared.broken).next(&mut **chance))
    };
    if let Some(pass) = pass {
        pass.failure(pause, None);
    }
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    let advice = "the sink broke down over it, which is a fault of this program: report it".to_owned();
    let alone = Some(Alone { advice, cause: printable(said, CAUSE_MOST) });
    Landing::Later { job: Job { broken: Some(own), ..job.anew() }, pause, alone }
}

/// The far side wants to be asked nothing, whatever it answered last, or to the sink's check.
pub(super) fn asked_to_wait(shared: &Shared, rest: Duration) {
    let rest = rest.min(AFTER_MOST);
    shared.keeper.rest(rest);
    // some of it may have gone by
    let seconds = (rest + Duration::from_millis(500)).as_secs();
    if seconds >= DOWN_TOLD.as_secs() {
        let words = format!("the far side asks to wait {seconds} s");
        if shared.stats.hold(Why::Unreachable, &words, "") {
            error!(sink = %shared.id, alarm = %words, "events wait for the far side");
        }
    }
}

/// Raises an alarm when nothing has got through for long, or will not.
pub(super) fn tell_down(shared: &Shared, error: &DeliverError, timed_out: bool, after: Option<Duration>) {
    let known = error.cause().or_else(|| timed_out.then(|| "no answer in time".to_owned()));
    let mut known = known.map(|c| format!(": {c}")).unwrap_or_default();
    if timed_out || error.is_late() {
        let limit = if timed_out { "batch.timeout" } else { "http.timeout" };
        known += &format!("; if the way is slow, set a longer {limit} or smaller batch.bytes");
    }
    let words = match after {
        Some(after) if after >= DOWN_TOLD => {
            format!("the far side asks to wait {} s{known}", after.as_secs())
        }
        _ if shared.keeper.down() >= DOWN_TOLD => {
            format!("nothing gets through for {} minutes or longer{known}", DOWN_TOLD.as_secs() / 60)
        }
        _ => return,
    };
    let cause = cause(error);
    let told = shared.stats.holds(Why::Unreachable);
    shared.stats.hold(Why::Unreachable, &words, &cause);
    if !told {
        error!(sink = %shared.id, error = %cause, alarm = %words, "events wait for the far side");
    }
}

/// What happened, without what follows from it.
pub(super) fn cause(error: &DeliverError) -> String {
    let all = std::error::Error::source(error).map_or_else(|| error.to_string(), chain);
    printable(&all, CAUSE_MOST)
}

/// An error with what is beneath it, for the log and dead letters: without secrets, whatever the
/// sink has let through.
pub(super) fn told(error: &DeliverError, max: usize) -> String {
    printable(&chain(error), max)
}
