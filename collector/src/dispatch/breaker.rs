//! The circuit breaker of a destination: after failures in a row only one delivery at a time is
//! tried, after a pause; the first success opens the way for all.

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
    /// Wait for the one that probes.
    Queue,
}

/// The states, without waiting: pure but for the clock handed in.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    failures: u32,
    limit: u32,
    until: Option<Instant>,
    probing: bool,
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

    /// Asks for a turn. After [`Turn::Probe`] one of the other methods must be called.
    pub fn turn(&mut self, now: Instant) -> Turn {
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

    /// A delivery got through, or the far side answered it in full.
    pub fn success(&mut self) {
        *self = Breaker::new(self.limit);
    }

    /// An attempt failed and would be repeated after `pause`.
    pub fn failure(&mut self, now: Instant, pause: Duration) {
        self.failures = self.failures.saturating_add(1);
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

    /// The one that probed was called off without an outcome.
    pub fn called_off(&mut self) {
        self.probing = false;
    }
}

/// A [`Breaker`] that deliveries wait at.
#[derive(Debug)]
pub struct Gatekeeper {
    breaker: Mutex<Breaker>,
    wake: Notify,
}

impl Gatekeeper {
    /// Trips after `limit` failures in a row.
    #[must_use]
    pub fn new(limit: u32) -> Gatekeeper {
        Gatekeeper { breaker: Mutex::new(Breaker::new(limit)), wake: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether only one at a time is tried.
    pub fn tripped(&self) -> bool {
        self.lock().tripped()
    }

    /// Waits for a turn.
    ///
    /// # Cancel safety
    /// A cancelled call has taken no turn; a dropped [`Pass`] gives it back.
    pub async fn pass(&self) -> Pass<'_> {
        loop {
            let mut woken = std::pin::pin!(self.wake.notified());
            woken.as_mut().enable();
            let turn = self.lock().turn(Instant::now());
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
        with(&mut self.keeper.lock());
        self.keeper.wake.notify_waiters();
    }

    /// The far side works.
    pub fn success(mut self) {
        self.end(Breaker::success);
    }

    /// It failed and will be repeated after `pause`.
    pub fn failure(mut self, pause: Duration) {
        self.end(|b| b.failure(Instant::now(), pause));
    }

    /// Nothing will pass until someone acts.
    pub fn hold(mut self, pause: Duration) {
        self.end(|b| b.hold(Instant::now(), pause));
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
        keeper.pass().await.hold(SECOND);
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
        keeper.pass().await.failure(SECOND);
        drop(keeper.pass().await);
        keeper.pass().await.success();
        assert!(!keeper.tripped());
    }
}
