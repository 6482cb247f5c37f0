//! Groups on their way into the ring, in order: those that wait, the one that waits for room,
//! and those that wait to be durable.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tidegate_proto::level::{DropReason, TelemetryLevel};
use tidegate_ring::{AppendError, Group, NewBlock, Ring, Ticket};

use crate::encode::drop_above;

/// A group and what it weighs.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    group: Group,
    events: u64,
    bytes: u64,
    /// Which it is, from 1.
    number: u64,
}

impl Waiting {
    pub fn new(group: Group) -> Waiting {
        let mut waiting = Waiting { group, events: 0, bytes: 0, number: 0 };
        waiting.weigh();
        waiting
    }

    fn weigh(&mut self) {
        self.events = self.group.blocks.iter().flat_map(|b| b.levels).sum();
        self.bytes = self.group.blocks.iter().map(|b| b.data.len() as u64).sum();
    }

    fn count_dropped(&mut self, reason: DropReason, n: u64) {
        if n > 0 {
            *self.group.intake.dropped.entry(reason).or_default() += n;
            self.weigh();
        }
    }
}

/// What became of the group that was waited for.
#[derive(Debug)]
pub(super) enum Done {
    /// The ring has taken one and will make it durable.
    Submitted,
    /// One is on stable storage.
    Stored { events: u64, bytes: u64 },
    /// The first one was refused; it and all behind it wait again.
    Failed(AppendError),
}

pub(super) struct Queue {
    ring: Arc<dyn Ring>,
    waiting: VecDeque<Waiting>,
    /// The first of `waiting`, on its way.
    submitting: Option<BoxFuture<'static, Result<Ticket, AppendError>>>,
    submitted: VecDeque<(Waiting, Ticket)>,
    /// Refused by their tickets, until all tickets behind them are answered.
    failed: Option<(AppendError, Vec<Waiting>)>,
    // groups handed over so far, and of these the ones that were answered
    handed: u64,
    passed: u64,
    // number of the newest group
    pushed: u64,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("waiting", &self.waiting.len())
            .field("submitted", &self.submitted.len())
            .finish_non_exhaustive()
    }
}

impl Queue {
    pub fn new(ring: Arc<dyn Ring>) -> Queue {
        Queue {
            ring,
            waiting: VecDeque::new(),
            submitting: None,
            submitted: VecDeque::new(),
            failed: None,
            handed: 0,
            passed: 0,
            pushed: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.submitted.is_empty() && self.failed.is_none()
    }

    /// Bytes that the ring has not taken yet.
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting.iter().map(|w| w.bytes).sum()
    }

    pub fn push(&mut self, group: Waiting) {
        self.pushed += 1;
        self.waiting.push_back(Waiting { number: self.pushed, ..group });
    }

    /// Number of the newest group; they count from 1.
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Number of the oldest group that is not in the ring yet.
    pub fn oldest(&self) -> Option<u64> {
        let refused = self.failed.iter().flat_map(|(_, back)| back);
        let all = self.waiting.iter().chain(self.submitted.iter().map(|(group, _)| group)).chain(refused);
        all.map(|group| group.number).min()
    }

    /// Offers the next group to the ring, if none is on offer.
    pub fn submit(&mut self) {
        if self.submitting.is_some() || self.failed.is_some() {
            return;
        }
        let Some(first) = self.waiting.front() else { return };
        let (ring, group) = (Arc::clone(&self.ring), first.group.clone());
        self.submitting = Some(Box::pin(async move { ring.append(group).await }));
    }

    /// Waits for whatever happens next; for ever when nothing is under way.
    ///
    /// # Cancel safety
    /// A cancelled call has lost nothing.
    pub async fn next(&mut self) -> Done {
        loop {
            if self.submitted.is_empty()
                && let Some(error) = self.put_back()
            {
                return Done::Failed(error);
            }
            let durable = async {
                match self.submitted.front_mut() {
                    Some((_, ticket)) => ticket.await,
                    None => std::future::pending().await,
                }
            };
            let room = async {
                match self.submitting.as_mut() {
                    Some(append) => append.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                done = durable => {
                    let Some((first, _)) = self.submitted.pop_front() else { continue };
                    self.passed += 1;
                    match done {
                        Ok(_) => {
                            self.overtakes(&first);
                            return Done::Stored { events: first.events, bytes: first.bytes };
                        }
                        Err(e) => {
                            self.submitting = None;
                            self.failed.get_or_insert_with(|| (e, Vec::new())).1.push(first);
                        }
                    }
                }
                room = room => {
                    self.submitting = None;
                    match room {
                        Ok(ticket) => {
                            if let Some(first) = self.waiting.pop_front() {
                                self.handed += 1;
                                self.submitted.push_back((first, ticket));
                            }
                            return Done::Submitted;
                        }
                        Err(e) => return Done::Failed(e),
                    }
                }
            }
        }
    }

    /// A refused group that a later one has overtaken must not take a source's position back.
    fn overtakes(&mut self, later: &Waiting) {
        for earlier in self.failed.iter_mut().flat_map(|(_, back)| back) {
            for source in later.group.intake.positions.keys() {
                earlier.group.intake.positions.remove(source);
            }
        }
    }

    /// Puts refused groups back in their order.
    fn put_back(&mut self) -> Option<AppendError> {
        let (error, back) = self.failed.take()?;
        for group in back.into_iter().rev() {
            self.waiting.push_front(group);
        }
        Some(error)
    }

    /// The events of the first group are given up; their account and the positions go on.
    /// Returns how many they were; `None` when nothing is left to give up.
    pub fn give_up_first(&mut self, reason: DropReason) -> Option<u64> {
        let first = self.waiting.front_mut()?;
        if first.group.blocks.is_empty() {
            // positions that are too long are no positions
            let positions = &mut first.group.intake.positions;
            let too_long = reason == DropReason::Oversize && !positions.is_empty();
            return too_long.then(|| positions.clear()).map(|()| 0);
        }
        let events = first.events;
        first.group.blocks.clear();
        first.weigh();
        first.count_dropped(reason, events);
        Some(events)
    }

    /// Takes events above a level out of the groups that the ring has not taken.
    pub fn drop_above(&mut self, level: TelemetryLevel) -> u64 {
        let mut all = 0;
        for waiting in &mut self.waiting {
            let gone = drop_above(&mut waiting.group.blocks, level);
            waiting.count_dropped(DropReason::Level, gone);
            all += gone;
        }
        if all > 0 {
            // a cancelled append has stored nothing
            self.submitting = None;
        }
        all
    }

    /// Changes the blocks of the groups that the ring has not taken; `change` says whether it did.
    pub fn rewrite(&mut self, mut change: impl FnMut(&mut [NewBlock]) -> bool) {
        let mut any = false;
        for waiting in &mut self.waiting {
            any |= change(&mut waiting.group.blocks);
        }
        if any {
            // a cancelled append has stored nothing
            self.submitting = None;
        }
    }

    /// What [`passed`](Queue::passed) must reach for all that the ring has taken to be answered.
    pub fn barrier(&self) -> u64 {
        self.handed
    }

    /// Groups handed over and answered.
    pub fn passed(&self) -> u64 {
        self.passed
    }
}
