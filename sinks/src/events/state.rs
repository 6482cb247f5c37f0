//! What the sink remembers between deliveries: clock skew, held tenants, and
//! events that are settled though their batch is not. All of it may be lost: a
//! repeat then carries the same event ids.

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_proto::ids::Seq;
use tokio::time::Instant;

use super::reply::Kill;
use super::tenant::Tenant;
use crate::{Object, Rejected};

/// What the first request asks for.
pub(super) const USE_COLLECTOR_DELTA: &str = "use-collector-delta";
/// Settled events that are remembered at most.
const SETTLED_MAX: usize = 100_000;

/// The difference between the endpoint's clock and ours. The first reply that tells
/// it counts for as long as the process lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Skew {
    /// No reply has come yet: ask.
    #[default]
    Unknown,
    /// Milliseconds, server minus client.
    Known(i64),
    /// The endpoint does not tell: do not ask again.
    Untold,
}

impl Skew {
    /// The value of `time-delta-to-apply-millis`, if it is to be sent.
    pub fn header(self) -> Option<String> {
        match self {
            Skew::Unknown => Some(USE_COLLECTOR_DELTA.to_owned()),
            Skew::Known(ms) => Some(ms.to_string()),
            Skew::Untold => None,
        }
    }

    /// Learns from a reply.
    #[must_use]
    pub fn after(self, status: u16, told: Option<&str>) -> Skew {
        match (self, told.and_then(|t| t.trim().parse().ok())) {
            (Skew::Known(ms), _) | (_, Some(ms)) => Skew::Known(ms),
            // what answers with a failure need not be the endpoint itself
            (_, None) if (200..300).contains(&status) => Skew::Untold,
            (unchanged, None) => unchanged,
        }
    }
}

/// Which tenants are held until when.
#[derive(Debug)]
pub(super) struct Holds(Vec<Option<Instant>>, Vec<bool>);

/// How long an operator's hold stands before it is looked at again.
const OFF: Duration = Duration::from_secs(10);

impl Holds {
    pub fn new(tenants: usize) -> Holds {
        Holds(vec![None; tenants], Vec::new())
    }

    /// Tenants that the operator holds; all others are free of that.
    pub fn set_off(&mut self, off: Vec<bool>) {
        for (slot, before) in self.0.iter_mut().zip(&self.1) {
            // an endpoint's own hold may be forgotten with it: it is told again
            if *before {
                *slot = None;
            }
        }
        self.1 = off;
    }

    /// Goes on holding the tenants that the operator holds.
    pub fn extend_off(&mut self, now: Instant) {
        for (slot, off) in self.0.iter_mut().zip(&self.1) {
            if *off {
                *slot = Some(slot.map_or(now + OFF, |until| until.max(now + OFF)));
            }
        }
    }

    /// How long a tenant is still held; `None` when it is not.
    pub fn left(&self, tenant: usize, now: Instant) -> Option<Duration> {
        let until = (*self.0.get(tenant)?)?;
        (until > now).then(|| until - now)
    }

    /// How long until the first tenant is free again; `None` when one is free now.
    pub fn all_left(&self, now: Instant) -> Option<Duration> {
        let left: Option<Vec<Duration>> = (0..self.0.len()).map(|t| self.left(t, now)).collect();
        left?.into_iter().min()
    }

    /// Holds the tenants that an answer names. Gives their places, unknown tokens left out.
    pub fn kill(&mut self, kill: &Kill, tenants: &[Tenant], now: Instant) -> Vec<usize> {
        let mut named = Vec::new();
        for (place, tenant) in tenants.iter().enumerate() {
            if !kill.tokens.iter().any(|t| tenant.has(t)) {
                continue;
            }
            named.push(place);
            if let (Some(slot), Some(duration)) = (self.0.get_mut(place), kill.duration) {
                let until = now + duration;
                *slot = Some(slot.map_or(until, |before| before.max(until)));
            }
        }
        named
    }
}

/// Events whose outcome is known while their batch must be tried again.
#[derive(Debug, Default)]
pub(super) struct Settled {
    epoch: u64,
    events: BTreeMap<Seq, Option<Rejected>>,
    /// What the requests left there, by their first events.
    objects: BTreeMap<Seq, Object>,
}

impl Settled {
    /// Forgets another ring's events.
    pub fn enter(&mut self, epoch: u64) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.events.clear();
            self.objects.clear();
        }
    }

    pub fn contains(&self, seq: Seq) -> bool {
        self.events.contains_key(&seq)
    }

    /// Notes an outcome. When too many are noted the oldest is forgotten.
    pub fn insert(&mut self, seq: Seq, rejected: Option<Rejected>) {
        self.events.insert(seq, rejected);
        if self.events.len() > SETTLED_MAX {
            self.events.pop_first();
        }
    }

    /// Notes what a request has left, by its first event.
    pub fn object(&mut self, first: Seq, object: Object) {
        self.objects.insert(first, object);
        if self.objects.len() > SETTLED_MAX {
            self.objects.pop_first();
        }
    }

    /// Takes out what is known of an event, once its batch is done.
    pub fn take(&mut self, seq: Seq) -> (Option<Object>, Option<Rejected>) {
        (self.objects.remove(&seq), self.events.remove(&seq).flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_delta_that_is_told_counts() {
        let skew = Skew::default();
        assert_eq!(skew.header().as_deref(), Some("use-collector-delta"));
        assert_eq!(skew.after(500, None), Skew::Unknown, "a failure without it settles nothing");
        assert_eq!(skew.after(200, None), Skew::Untold);
        assert_eq!(skew.after(200, Some("soon")), Skew::Untold);
        let known = skew.after(503, Some(" -1234 "));
        assert_eq!(known.header().as_deref(), Some("-1234"));
        assert_eq!(known.after(200, Some("999")), known, "later ones are passed over");
        assert_eq!(Skew::Untold.header(), None);
        assert_eq!(Skew::Untold.after(200, Some("5")), Skew::Known(5));
    }

    #[test]
    fn the_operators_hold_stands_until_it_is_taken_away() {
        let mut holds = Holds::new(2);
        let mut now = Instant::now();
        holds.set_off(vec![false, true]);
        for _ in 0..100 {
            holds.extend_off(now);
            assert!(holds.left(0, now).is_none() && holds.left(1, now).is_some());
            assert!(holds.all_left(now).is_none(), "the other one is served");
            now += OFF * 3;
        }
        holds.set_off(vec![true, true]);
        holds.extend_off(now);
        assert_eq!(holds.all_left(now), Some(OFF));
        holds.set_off(vec![false, false]);
        holds.extend_off(now);
        assert!(holds.left(0, now).is_none() && holds.left(1, now).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_kill_holds_one_tenant_for_its_time() {
        let token = |n: u32| format!("{n:032x}-11111111-2222-3333-4444-555555555555-6789");
        let tenants = [Tenant::parse(&token(1)).unwrap(), Tenant::parse(&token(2)).unwrap()];
        let mut holds = Holds::new(2);
        let kill = |t: &str, s: Option<u64>| Kill {
            tokens: vec![t.to_owned()],
            duration: s.map(Duration::from_secs),
        };
        let now = Instant::now();
        assert_eq!(holds.kill(&kill(&token(2), Some(60)), &tenants, now), [1]);
        assert_eq!(holds.kill(&kill(&token(2), Some(5)), &tenants, now), [1]);
        assert_eq!(holds.kill(&kill("someone else's", Some(5)), &tenants, now), [0; 0]);
        assert_eq!(holds.kill(&kill(&token(1), None), &tenants, now), [0], "for this request only");
        assert_eq!(holds.left(0, now), None);
        assert_eq!(holds.left(1, now), Some(Duration::from_secs(60)), "the longer hold counts");
        assert_eq!(holds.all_left(now), None);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(holds.left(1, Instant::now()), None);
    }

    #[test]
    fn what_is_settled_is_bounded_and_belongs_to_one_ring() {
        let mut settled = Settled::default();
        settled.enter(1);
        (1..=SETTLED_MAX as u64 + 5).for_each(|n| settled.insert(Seq(n), None));
        assert_eq!(settled.events.len(), SETTLED_MAX);
        assert!(!settled.contains(Seq(5)) && settled.contains(Seq(6)));
        settled.enter(2);
        assert!(!settled.contains(Seq(6)));
    }
}
