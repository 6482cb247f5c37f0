//! The circuit breaker of a destination: after failures in a row only one delivery at a time is
//! tried, after a pause; the first success opens the way for all. What the far side asks to wait
//! is waited by all.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// What a delivery may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Go.
    Go,
    /// Go, alone: on the outcome depends what the others may.
    Probe,
    /// Wait until then.
    Wait(Instant),
    /// Wait for the one that probes, or that comes first.
    Queue,
}

/// The states, without waiting: pure but for the clock handed in.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    failures: u32,
    limit: u32,
    /// When the first of the failures in a row was.
    since: Option<Instant>,
    until: Option<Instant>,
    probing: bool,
    /// Nobody goes earlier, tripped or not.
    not_before: Option<Instant>,
}

impl Breaker {
    /// Trips after `limit` failures in a row, at least 1.
    #[must_use]
    pub fn new(limit: u32) -> Breaker {
        Breaker { limit: limit.max(1), ..Breaker::default() }
    }

    /// Whether only one at a time is tried.
    #[must_use]
    pub fn tripped(&self) -> bool {
        self.failures >= self.limit
    }

    /// How long nothing has got through, since the first failure.
    #[must_use]
    pub fn down(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Asks for a turn. After [`Turn::Probe`] one of the other methods must be called.
    pub fn turn(&mut self, now: Instant) -> Turn {
        if let Some(at) = self.not_before.filter(|at| *at > now) {
            return Turn::Wait(at);
        }
        if !self.tripped() {
            return Turn::Go;
        }
        if self.probing {
            return Turn::Queue;
        }
        match self.until {
            Some(until) if until > now => Turn::Wait(until),
            _ => {
                self.probing = true;
                Turn::Probe
            }
        }
    }

    /// A delivery got through, or the far side answered it in full. What it asked to wait before
    /// is waited all the same.
    pub fn success(&mut self) {
        *self = Breaker { not_before: self.not_before, ..Breaker::new(self.limit) };
    }

    /// An attempt failed and would be repeated after `pause`.
    pub fn failure(&mut self, now: Instant, pause: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.since.get_or_insert(now);
        self.probing = false;
        let until = now + pause;
        if self.tripped() {
            self.until = Some(self.until.map_or(until, |u| u.max(until)));
        }
    }

    /// Nothing will pass until someone acts: trips at once.
    pub fn hold(&mut self, now: Instant, pause: Duration) {
        self.failures = self.failures.max(self.limit);
        self.failure(now, pause);
    }

    /// Nobody goes for that long.
    pub fn rest(&mut self, now: Instant, pause: Duration) {
        let at = now + pause;
        self.not_before = Some(self.not_before.map_or(at, |before| before.max(at)));
    }

    /// The one that probed was called off without an outcome.
    pub fn called_off(&mut self) {
        self.probing = false;
    }
}

/// A breaker and who waits at it, in the order in which they came.
#[derive(Debug)]
struct Gate {
    breaker: Breaker,
    queue: BTreeSet<u64>,
    next: u64,
}

/// A [`Breaker`] that deliveries wait at. Who has waited longest probes: one that failed comes back
/// behind the others.
#[derive(Debug)]
pub struct Gatekeeper {
    gate: Mutex<Gate>,
    wake: Notify,
}

/// A place in the queue.
struct Place<'a> {
    keeper: &'a Gatekeeper,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.keeper.lock().queue.remove(&self.number);
        // the next one may be the first now
        self.keeper.wake.notify_waiters();
    }
}

impl Gatekeeper {
    /// Trips after `limit` failures in a row.
    #[must_use]
    pub fn new(limit: u32) -> Gatekeeper {
        let gate = Gate { breaker: Breaker::new(limit), queue: BTreeSet::new(), next: 0 };
        Gatekeeper { gate: Mutex::new(gate), wake: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether only one at a time is tried.
    pub fn tripped(&self) -> bool {
        self.lock().breaker.tripped()
    }

    /// How long nothing has got through.
    pub fn down(&self) -> Duration {
        self.lock().breaker.down(Instant::now())
    }

    /// Whether the far side has asked all to wait, and that is not over.
    pub fn resting(&self) -> bool {
        self.lock().breaker.not_before.is_some_and(|at| at > Instant::now())
    }

    /// Nobody goes for that long; who waits here for less waits on.
    pub fn rest(&self, pause: Duration) {
        self.lock().breaker.rest(Instant::now(), pause);
    }

    /// Waits for a turn.
    ///
    /// # Cancel safety
    /// A cancelled call has taken no turn; a dropped [`Pass`] gives it back.
    pub async fn pass(&self) -> Pass<'_> {
        let place = {
            let mut gate = self.lock();
            let number = gate.next;
            gate.next += 1;
            gate.queue.insert(number);
            Place { keeper: self, number }
        };
        loop {
            let mut woken = std::pin::pin!(self.wake.notified());
            woken.as_mut().enable();
            let turn = {
                let mut gate = self.lock();
                match gate.breaker.tripped() && gate.queue.first() != Some(&place.number) {
                    true => Turn::Queue,
                    false => gate.breaker.turn(Instant::now()),
                }
            };
            match turn {
                Turn::Go | Turn::Probe => return Pass { keeper: self, open: true },
                Turn::Queue => woken.await,
                Turn::Wait(until) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(until) => {}
                        () = woken => {}
                    }
                }
            }
        }
    }
}

/// Leave for one attempt.
#[derive(Debug)]
pub struct Pass<'a> {
    keeper: &'a Gatekeeper,
    open: bool,
}

impl Pass<'_> {
    fn end(&mut self, with: impl FnOnce(&mut Breaker)) {
        self.open = false;
        with(&mut self.keeper.lock().breaker);
        self.keeper.wake.notify_waiters();
    }

    /// The far side works.
    pub fn success(mut self) {
        self.end(Breaker::success);
    }

    /// The far side answers, and nobody is to ask it again before `pause` is over.
    pub fn rest(mut self, pause: Duration) {
        self.end(|b| {
            b.success();
            b.rest(Instant::now(), pause);
        });
    }

    /// It failed and will be repeated after `pause`. `after` is what the far side asks all to wait.
    pub fn failure(mut self, pause: Duration, after: Option<Duration>) {
        self.end_badly(after, |b, now| b.failure(now, pause));
    }

    /// Nothing will pass until someone acts.
    pub fn hold(mut self, pause: Duration, after: Option<Duration>) {
        self.end_badly(after, |b, now| b.hold(now, pause));
    }

    fn end_badly(&mut self, after: Option<Duration>, with: impl FnOnce(&mut Breaker, Instant)) {
        self.end(|b| {
            let now = Instant::now();
            with(b, now);
            if let Some(after) = after {
                b.rest(now, after);
            }
        });
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.open {
            self.end(Breaker::called_off);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn after_failures_in_a_row_only_one_is_tried_at_a_time() {
        let now = Instant::now();
        let mut b = Breaker::new(3);
        b.failure(now, SECOND);
        b.failure(now, SECOND);
        assert_eq!(b.turn(now), Turn::Go);
        b.failure(now, SECOND);
        assert_eq!(b.turn(now), Turn::Wait(now + SECOND));
        assert_eq!(b.turn(now + SECOND), Turn::Probe);
        assert_eq!(b.turn(now + SECOND), Turn::Queue);
        b.failure(now + SECOND, 2 * SECOND);
        assert_eq!(b.turn(now + SECOND), Turn::Wait(now + 3 * SECOND));
        assert_eq!(b.turn(now + 3 * SECOND), Turn::Probe);
        b.called_off();
        assert_eq!(b.turn(now + 3 * SECOND), Turn::Probe);
        b.success();
        assert_eq!(b.turn(now + 3 * SECOND), Turn::Go);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_go_when_the_probe_gets_through() {
        let keeper = Gatekeeper::new(1);
        keeper.pass().await.hold(SECOND, None);
        let begun = Instant::now();
        let probe = keeper.pass().await;
        assert_eq!(begun.elapsed(), SECOND);
        let second = async {
            keeper.pass().await.success();
            begun.elapsed()
        };
        let first = async {
            tokio::time::sleep(SECOND).await;
            probe.success();
        };
        let (elapsed, ()) = tokio::join!(second, first);
        assert_eq!(elapsed, 2 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_pass_lets_the_next_one_probe() {
        let keeper = Gatekeeper::new(1);
        keeper.pass().await.failure(SECOND, None);
        drop(keeper.pass().await);
        keeper.pass().await.success();
        assert!(!keeper.tripped());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_far_side_asks_to_wait_is_waited_by_all() {
        let keeper = Gatekeeper::new(5);
        let begun = Instant::now();
        let (first, second) = (keeper.pass().await, keeper.pass().await);
        first.failure(SECOND, Some(100 * SECOND));
        // it was under way before, and makes the wish no smaller
        second.success();
        assert!(keeper.resting());
        keeper.pass().await.failure(SECOND, Some(SECOND));
        assert_eq!(begun.elapsed(), 100 * SECOND);
        keeper.pass().await.rest(7 * SECOND);
        keeper.pass().await.success();
        assert_eq!(begun.elapsed(), 108 * SECOND);
        assert!(!keeper.tripped());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_failed_does_not_probe_again_before_others() {
        let keeper = Gatekeeper::new(1);
        let order = Mutex::new(Vec::new());
        keeper.pass().await.hold(SECOND, None);
        let delivery = |name: char| {
            let (keeper, order) = (&keeper, &order);
            async move {
                for _ in 0..3 {
                    let pass = keeper.pass().await;
                    order.lock().unwrap().push(name);
                    pass.hold(SECOND, None);
                    tokio::time::sleep(SECOND).await;
                }
            }
        };
        // one that is called off keeps nobody waiting
        let gone = async {
            let _ = tokio::time::timeout(SECOND / 2, keeper.pass()).await;
        };
        tokio::join!(gone, delivery('a'), delivery('b'), delivery('c'));
        let order: String = order.into_inner().unwrap().into_iter().collect();
        assert_eq!(order, "abcabcabc");
    }

    #[tokio::test(start_paused = true)]
    async fn how_long_nothing_got_through_counts_from_the_first_failure() {
        let keeper = Gatekeeper::new(2);
        assert_eq!(keeper.down(), Duration::ZERO);
        keeper.pass().await.failure(SECOND, None);
        tokio::time::sleep(3 * SECOND).await;
        keeper.pass().await.failure(SECOND, None);
        tokio::time::sleep(SECOND).await;
        assert_eq!(keeper.down(), 4 * SECOND);
        keeper.pass().await.success();
        assert_eq!(keeper.down(), Duration::ZERO);
    }
}
