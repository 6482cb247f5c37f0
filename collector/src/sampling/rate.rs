//! Rates: a bucket of tokens for a rule, and a fair share of the whole for each provider.

use super::{Sampler, fold, mix};

const SECOND_NS: i64 = 1_000_000_000;

/// Fills at a rate up to a bound; each event takes one.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: f64,
    burst: f64,
    level: f64,
    last_ns: Option<i64>,
}

impl Bucket {
    pub fn new(rate: f64, burst: f64) -> Bucket {
        Bucket { rate, burst, level: burst, last_ns: None }
    }

    /// Whether one more may pass.
    pub fn take(&mut self, now_ns: i64) -> bool {
        let passed = self.last_ns.map_or(0, |last| now_ns.saturating_sub(last).max(0));
        self.last_ns = Some(now_ns.max(self.last_ns.unwrap_or(now_ns)));
        self.level = (self.level + self.rate * passed as f64 / SECOND_NS as f64).min(self.burst);
        let pass = self.level >= 1.0 && self.rate > 0.0;
        if pass {
            self.level -= 1.0;
        }
        pass
    }
}

/// The place of a provider among the shares. Two may meet in one; they share it then.
pub(super) fn slot_of(name: &str, guid: &[u8; 16]) -> usize {
    let mut hash = mix(fold(guid));
    if *guid == [0; 16] {
        hash = name.bytes().fold(hash, |h, b| mix(h ^ u64::from(b)));
    }
    usize::try_from(hash % Sampler::PROVIDERS as u64).unwrap_or(0)
}

#[derive(Clone, Copy, Debug, Default)]
struct Share {
    wanted: u32,
    passed: u32,
    before: u32,
}

/// So many events in each second for all providers. What each wanted in the second before tells
/// how the second is shared: who wants less than an equal share has what it wants, and the rest
/// is shared among the others (max-min fairness). Nobody is left out below an equal share of
/// the providers that speak, even when that goes beyond the bound: so a noisy one crowds out no
/// other, and a second passes at most twice the bound.
#[derive(Debug)]
pub(super) struct FairShares {
    per_second: f64,
    shares: Vec<Share>,
    /// Providers seen in this second or the one before.
    live: Vec<usize>,
    second: Option<i64>,
    level: u32,
    equal: u32,
    passed: u64,
}

impl FairShares {
    pub fn new(per_second: f64) -> FairShares {
        let all = per_second.min(f64::from(u32::MAX)) as u32;
        FairShares {
            per_second,
            shares: vec![Share::default(); Sampler::PROVIDERS],
            live: Vec::new(),
            second: None,
            level: all,
            equal: all,
            passed: 0,
        }
    }

    pub fn take(&mut self, provider: usize, now_ns: i64) -> bool {
        let second = now_ns.div_euclid(SECOND_NS);
        match self.second {
            Some(at) if second <= at => {}
            at => {
                // after a pause nobody has wanted anything
                let follows = at.is_some_and(|at| second == at + 1);
                self.turn(follows);
                self.second = Some(second);
            }
        }
        let Some(share) = self.shares.get_mut(provider) else { return true };
        if share.wanted == 0 && share.before == 0 {
            self.live.push(provider);
            self.equal = equal(self.per_second, self.live.len());
        }
        share.wanted = share.wanted.saturating_add(1);
        let within = share.passed < self.level && (self.passed as f64) < self.per_second;
        let pass = within || share.passed < self.equal;
        if pass {
            share.passed += 1;
            self.passed += 1;
        }
        pass
    }

    /// Begins a new second.
    fn turn(&mut self, follows: bool) {
        let shares = &mut self.shares;
        self.live.retain(|n| {
            let Some(share) = shares.get_mut(*n) else { return false };
            *share = Share { before: if follows { share.wanted } else { 0 }, ..Share::default() };
            share.before > 0
        });
        self.live.sort_unstable_by_key(|n| shares.get(*n).map_or(0, |s| s.before));
        self.passed = 0;
        // water filling, from the least wanted up
        let mut rest = self.per_second;
        let mut level = rest;
        for (n, provider) in self.live.iter().enumerate() {
            level = rest / (self.live.len() - n) as f64;
            let wanted = self.shares.get(*provider).map_or(0.0, |s| f64::from(s.before));
            if wanted > level {
                break;
            }
            rest -= wanted;
            level = rest.max(level);
        }
        self.level = level.min(f64::from(u32::MAX)) as u32;
        self.equal = equal(self.per_second, self.live.len());
    }
}

fn equal(per_second: f64, providers: usize) -> u32 {
    (per_second / providers.max(1) as f64).min(f64::from(u32::MAX)) as u32
}
