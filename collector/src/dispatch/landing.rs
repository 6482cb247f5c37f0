//! What a dispatcher does with a delivery that came to its end.

use tidegate_ring::Part;
use tokio::task::JoinError;
use tokio::time::Instant;
use tracing::{debug, error, info};

use super::Dispatcher;
use super::flight::{Alone, Job, Landing};
use super::stats::Why;

impl Dispatcher {
    /// Goes by how the delivery of a part ended. `under_way` are those that did not end.
    pub(super) fn landed(
        &mut self,
        part: Part,
        landed: Result<Landing, JoinError>,
        under_way: impl Iterator<Item = Part>,
    ) {
        match landed {
            Ok(Landing::Settled) => self.alone(part, None),
            Ok(Landing::Split(a, b)) => {
                debug!(sink = %self.shared.id, %part, "split");
                self.alone(part, None);
                self.jobs.push_front(Job::of(b));
                self.jobs.push_front(Job::of(a));
            }
            Ok(Landing::Deferred(go, stay)) => {
                self.alone(part, None);
                self.looked = Some((Instant::now(), true));
                self.jobs.extend(go.map(Job::of));
                self.parked.push(Job::of(stay));
            }
            Ok(Landing::Stale(cursor)) => {
                self.alone(part, None);
                self.reconsider(&cursor, under_way);
            }
            Ok(Landing::Later { job, pause, alone }) => {
                if alone.is_some() {
                    self.alone(part, alone);
                }
                self.later.add(job, Instant::now() + pause);
            }
            Ok(Landing::Closed) => self.abort.cancel(),
            Err(e) => {
                let advice = "its delivery broke down, which is a fault of this program: report it";
                self.alone(part, Some(Alone { advice: advice.to_owned(), cause: e.to_string() }));
                let at = Instant::now() + self.shared.retry.held;
                self.later.add(Job::of(part), at);
            }
        }
    }

    /// Notes whether a part waits alone, and keeps the alarm for those that do.
    fn alone(&mut self, part: Part, alone: Option<Alone>) {
        let sink = &self.shared.id;
        match alone {
            Some(Alone { advice, cause }) => {
                if self.later.block(part, advice.clone()) {
                    error!(%sink, %part, error = %cause, %advice, "a batch waits until someone acts");
                } else {
                    debug!(%sink, %part, error = %cause, "the batch still waits");
                }
            }
            None => {
                if self.later.unblock(part) {
                    info!(%sink, %part, "the batch waits alone no more");
                }
            }
        }
        match self.later.alarm() {
            Some(words) => {
                self.shared.stats.hold(Why::Blocked, &words, "");
            }
            None => {
                self.shared.stats.free(Why::Blocked);
            }
        }
    }
}
