//! What the operator, and the remote settings, say on sampling.

use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::gate::Globs;
use crate::settings::OffRule;

/// All of a million.
pub const WHOLE_PPM: u32 = 1_000_000;

/// One rule. Without a provider or event it fits all. Each of `keep`, `per_second` and `repeats`
/// is answered by the first rule that fits and says something on it.
///
/// ```toml
/// [[sampling]]
/// provider = "Contoso.*"    # or a list
/// event = "*Trace*"
/// keep = 0.1                # of all such events, decided by what the event is
/// per_second = 50           # events of this rule together
/// burst = 200               # by default twice the rate
/// repeats = "10s"           # equal events within so long become one and a count
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleRule {
    provider: Option<Globs>,
    event: Option<Globs>,
    #[serde(default, deserialize_with = "share")]
    keep: Option<u32>,
    #[serde(default, deserialize_with = "rate")]
    per_second: Option<f64>,
    #[serde(default, deserialize_with = "rate")]
    burst: Option<f64>,
    #[serde(default, deserialize_with = "seconds")]
    repeats: Option<Duration>,
}

impl SampleRule {
    /// Longest time over which repeats are put together.
    pub const MOST_REPEATS: Duration = Duration::from_secs(3600);

    /// Whether the rule is on such events.
    #[must_use]
    pub fn fits(&self, provider: &str, event: &str) -> bool {
        self.provider.as_ref().is_none_or(|g| g.matches(provider))
            && self.event.as_ref().is_none_or(|g| g.matches(event))
    }

    /// The share that is kept, in parts of a million.
    #[must_use]
    pub fn keep_ppm(&self) -> Option<u32> {
        self.keep
    }

    /// Events a second, and how many at once.
    pub(super) fn rate(&self) -> Option<(f64, f64)> {
        self.per_second.map(|rate| (rate, self.burst.unwrap_or(rate * 2.0).max(1.0)))
    }

    pub(super) fn repeats_ns(&self) -> i64 {
        let most = self.repeats.unwrap_or_default().min(Self::MOST_REPEATS);
        i64::try_from(most.as_nanos()).unwrap_or(0)
    }
}

/// `keep`: a share between 0 and 1, exact to a millionth; what is not 0 keeps something.
fn share<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    let n = f64::deserialize(d)?;
    if !(0.0..=1.0).contains(&n) {
        return Err(D::Error::custom(format!(
            "keep = {n}: a share between 0 and 1 is expected, such as 0.1"
        )));
    }
    let ppm = (n * f64::from(WHOLE_PPM)).round() as u32;
    Ok(Some(if n > 0.0 { ppm.max(1) } else { 0 }))
}

fn rate<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
    let n = f64::deserialize(d)?;
    if !(0.0..=1e9).contains(&n) {
        return Err(D::Error::custom(format!(
            "{n}: a number of events between 0 and 1000000000 is expected"
        )));
    }
    Ok(Some(n))
}

/// A time such as `10s`, `2m`, `500ms`, or a number of seconds.
fn seconds<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Raw {
        Number(u64),
        Text(String),
    }
    let wrong =
        |t: &str| D::Error::custom(format!("\"{t}\" is no time up to an hour; write it as 10s, 2m or 500ms"));
    let time = match Raw::deserialize(d)? {
        Raw::Number(n) => Duration::from_secs(n),
        Raw::Text(text) => {
            let (unit, scale) = match text.trim() {
                t if t.ends_with("ms") => (2, 1),
                t if t.ends_with('s') => (1, 1000),
                t if t.ends_with('m') => (1, 60_000),
                t if t.ends_with('h') => (1, 3_600_000),
                _ => return Err(wrong(&text)),
            };
            let trimmed = text.trim();
            let number = trimmed.get(..trimmed.len() - unit).and_then(|n| n.trim().parse::<u64>().ok());
            Duration::from_millis(number.and_then(|n| n.checked_mul(scale)).ok_or_else(|| wrong(&text))?)
        }
    };
    if time > SampleRule::MOST_REPEATS {
        return Err(wrong(&format!("{}s", time.as_secs())));
    }
    Ok(Some(time))
}

/// All rules, from the configuration and the remote settings.
#[derive(Clone, Debug, Default)]
pub struct SamplingRules {
    rules: Vec<SampleRule>,
    per_second: Option<f64>,
    remote: Vec<SampleRule>,
    off: Vec<OffRule>,
}

impl SamplingRules {
    /// The configuration's rules, and the most events a second of all providers together, which
    /// they share fairly.
    #[must_use]
    pub fn new(rules: Vec<SampleRule>, per_second: Option<f64>) -> SamplingRules {
        let per_second = per_second.filter(|n| n.is_finite() && *n >= 0.0);
        SamplingRules { rules, per_second, ..SamplingRules::default() }
    }

    /// The same with the remote settings' rules. Of those only the shares count, the lowest of
    /// all that fit, and they never raise what the configuration says.
    #[must_use]
    pub fn with_remote(mut self, remote: Vec<SampleRule>) -> SamplingRules {
        self.remote = remote;
        self
    }

    /// The same with kinds of events that the remote settings switch off.
    #[must_use]
    pub fn with_off(mut self, off: Vec<OffRule>) -> SamplingRules {
        self.off = off;
        self
    }

    /// Whether everything is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.remote.is_empty() && self.off.is_empty() && self.per_second.is_none()
    }

    pub(super) fn rules(&self) -> &[SampleRule] {
        &self.rules
    }

    pub(super) fn per_second(&self) -> Option<f64> {
        self.per_second
    }

    pub(super) fn is_off(&self, provider: &str, event: &str) -> bool {
        self.off.iter().any(|r| r.fits(provider, event))
    }

    pub(super) fn remote_ppm(&self, provider: &str, event: &str) -> u32 {
        let fitting = self.remote.iter().filter(|r| r.fits(provider, event));
        fitting.filter_map(|r| r.keep).min().unwrap_or(WHOLE_PPM)
    }
}
