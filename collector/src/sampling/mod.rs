//! Between gate and encoder: which of the cleared events are kept.
//!
//! Three things, each by rule of provider and event, in this order:
//! * **repeats**: of events that are equal in all but their times, the first passes; an event
//!   `Repeats` of our own tells how many followed, and when the first and last did;
//! * **sampling**: a share of the events is kept, decided by what the event is, so that a replay
//!   decides the same; the rate stands in each event kept, for the far side to weigh by;
//! * **rates**: so many a second for a rule, and so many for all, shared fairly.
//!
//! What is left out is counted as [`DropReason::Sample`](tidegate_proto::level::DropReason).
//! Events of level Security and the collector's own are never left out, but
//! for kinds that the remote settings switch off: those go whatever their level, the collector's own excepted. Time is given by the
//! caller: nothing here reads a clock.

mod rate;
mod repeats;
mod rules;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tidegate_proto::batch::{Batch, EventRef, Head};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::schema::Decoder;

use crate::gate::Cleared;
use rate::{Bucket, FairShares};
use repeats::Repeats;
pub use rules::{SampleRule, SamplingRules, WHOLE_PPM};

/// What becomes of a cleared event.
#[derive(Clone, Copy, Debug)]
pub enum Sampled<'a> {
    /// It goes on, with the rate it was kept at.
    Keep(Cleared<'a>),
    /// It is left out, to be counted as `DropReason::Sample`.
    Drop,
    /// The remote settings switch its kind off, to be counted as `DropReason::Rule`.
    Off,
}

/// What the rules come to for one kind of event.
#[derive(Debug)]
struct Plan {
    schema: u64,
    keep_ppm: u32,
    /// Index of the bucket of the rule that limits the rate.
    bucket: Option<usize>,
    repeats_ns: i64,
    provider: usize,
    exempt: bool,
    off: bool,
}

/// One thread's sampler. Bounded: [`Sampler::CACHED`] kinds of events, [`Sampler::PROVIDERS`]
/// providers and as many repeats under way as [`Sampler::REPEATS`].
#[derive(Debug)]
pub struct Sampler {
    rules: Arc<SamplingRules>,
    cache: Vec<Option<Box<Plan>>>,
    buckets: Vec<Option<Bucket>>,
    shares: Option<FairShares>,
    repeats: Repeats,
    idle: bool,
}

impl Sampler {
    /// Kinds of events whose plans are kept; more of them only cost time.
    pub const CACHED: usize = 1024;
    /// Providers that have a share of their own; all further ones have one together.
    pub const PROVIDERS: usize = 1024;
    /// Repeats under way; with more, the one that is oldest is told early.
    pub const REPEATS: usize = 4096;

    /// A sampler of some rules; it keeps everything while there are none.
    #[must_use]
    pub fn new(rules: impl Into<Arc<SamplingRules>>) -> Sampler {
        let rules = rules.into();
        let idle = rules.is_empty();
        Sampler {
            cache: std::iter::repeat_with(|| None).take(if idle { 0 } else { Self::CACHED }).collect(),
            buckets: rules
                .rules()
                .iter()
                .map(|r| r.rate().map(|(rate, burst)| Bucket::new(rate, burst)))
                .collect(),
            shares: rules.per_second().map(FairShares::new),
            repeats: Repeats::default(),
            idle,
            rules,
        }
    }

    /// Takes other rules. Repeats under way are told by [`Sampler::take_repeats`] all the same.
    pub fn set_rules(&mut self, rules: impl Into<Arc<SamplingRules>>) {
        let repeats = std::mem::take(&mut self.repeats);
        *self = Sampler { repeats, ..Sampler::new(rules) };
    }

    /// Whether it keeps everything, without looking at it.
    #[inline]
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.idle
    }

    /// Decides on one event. `now_ns` is any clock that does not go back, in nanoseconds; it
    /// moves rates and repeats. Sampling itself does not depend on it.
    #[inline]
    pub fn decide<'a>(&mut self, cleared: Cleared<'a>, now_ns: i64) -> Sampled<'a> {
        if self.idle { Sampled::Keep(cleared) } else { self.by_rules(cleared, now_ns) }
    }

    fn by_rules<'a>(&mut self, cleared: Cleared<'a>, now_ns: i64) -> Sampled<'a> {
        let event = cleared.event();
        let id = event.schema().id();
        let slot = usize::try_from(id % Self::CACHED as u64).unwrap_or(0);
        let Some(slot) = self.cache.get_mut(slot) else { return Sampled::Keep(cleared) };
        if slot.as_ref().is_none_or(|p| p.schema != id) {
            *slot = Some(Box::new(plan(&self.rules, event)));
        }
        let Some(plan) = slot.as_deref() else { return Sampled::Keep(cleared) };
        if plan.off {
            return Sampled::Off;
        }
        if plan.exempt || cleared.level() == TelemetryLevel::Security {
            return Sampled::Keep(cleared);
        }
        if plan.repeats_ns > 0 && self.repeats.seen(event, cleared.level(), now_ns, plan.repeats_ns) {
            return Sampled::Drop;
        }
        let mut ppm = cleared.sample_ppm();
        if plan.keep_ppm < WHOLE_PPM {
            if draw(event.head(), &event.schema().provider_guid) >= plan.keep_ppm {
                return Sampled::Drop;
            }
            // an event that was sampled before stands for even more
            let before = if ppm == 0 { WHOLE_PPM } else { ppm };
            let both = u64::from(before) * u64::from(plan.keep_ppm) / u64::from(WHOLE_PPM);
            ppm = u32::try_from(both).unwrap_or(WHOLE_PPM).max(1);
        }
        let bucket = plan.bucket.and_then(|n| self.buckets.get_mut(n)).and_then(Option::as_mut);
        if bucket.is_some_and(|b| !b.take(now_ns)) {
            return Sampled::Drop;
        }
        if self.shares.as_mut().is_some_and(|s| !s.take(plan.provider, now_ns)) {
            return Sampled::Drop;
        }
        Sampled::Keep(cleared.sampled(ppm))
    }

    /// When repeats are next to be told, by the clock of [`Sampler::decide`].
    #[must_use]
    pub fn next_repeats(&self) -> Option<i64> {
        self.repeats.next_due()
    }

    /// Appends an event `Repeats` of our own for each run of repeats that has ended by
    /// `now_ns`, to be read like any other event; `i64::MAX` ends them all, for a shutdown.
    /// Runs without a repeat are forgotten in silence.
    pub fn take_repeats(&mut self, now_ns: i64, batch: &mut Batch) {
        self.repeats.take(now_ns, batch);
    }
}

fn plan(rules: &SamplingRules, event: EventRef<'_>) -> Plan {
    let schema = event.schema();
    let mut plan = Plan {
        schema: schema.id(),
        keep_ppm: WHOLE_PPM,
        bucket: None,
        repeats_ns: 0,
        provider: rate::slot_of(&schema.provider_name, &schema.provider_guid),
        exempt: schema.decoder == Decoder::Own,
        off: schema.decoder != Decoder::Own && rules.is_off(&schema.provider_name, &schema.event_name),
    };
    for (n, rule) in rules.rules().iter().enumerate() {
        if !rule.fits(&schema.provider_name, &schema.event_name) {
            continue;
        }
        // each question is answered by the first rule that says something on it
        if let (Some(keep), WHOLE_PPM) = (rule.keep_ppm(), plan.keep_ppm) {
            plan.keep_ppm = keep;
        }
        if plan.bucket.is_none() && rule.rate().is_some() {
            plan.bucket = Some(n);
        }
        if plan.repeats_ns == 0 {
            plan.repeats_ns = rule.repeats_ns();
        }
    }
    // the remote settings only ever reduce
    plan.keep_ppm = plan.keep_ppm.min(rules.remote_ppm(&schema.provider_name, &schema.event_name));
    plan
}

/// A number below a million that depends on what the event is only: its activity, where it has
/// one, so that what belongs together is kept together, else its place and time.
fn draw(head: &Head, provider: &[u8; 16]) -> u32 {
    let seed = if head.activity == [0; 16] {
        let place = u64::from(head.pid) << 32 | u64::from(head.tid);
        let more = u64::from(head.cpu) << 16 | u64::from(head.id);
        mix(mix(head.time_ns.cast_unsigned()) ^ place) ^ more ^ fold(provider)
    } else {
        fold(&head.activity)
    };
    // the high half times a million: no remainder, so no bias worth the name
    let scaled = ((mix(seed) >> 32) * u64::from(WHOLE_PPM)) >> 32;
    u32::try_from(scaled).unwrap_or(WHOLE_PPM)
}

/// Both halves of a GUID in one number.
fn fold(guid: &[u8; 16]) -> u64 {
    let n = u128::from_le_bytes(*guid);
    mix(n as u64) ^ (n >> 64) as u64
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit in changes every bit out.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}
