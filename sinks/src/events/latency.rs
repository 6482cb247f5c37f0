//! How soon events are to leave: by their tags, else by the first rule that fits.

use serde::Deserialize;
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::schema::Schema;

use super::mapping::Pattern;

/// How soon an event is to leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Latency {
    /// When it costs little: not over a metered network.
    CostDeferred,
    /// Within 30 seconds.
    #[default]
    Normal,
    /// Within 2 seconds.
    RealTime,
}

/// Event tags of TraceLogging.
const TAGS: [(u32, Latency); 3] =
    [(0x0020_0000, Latency::RealTime), (0x0004_0000, Latency::CostDeferred), (0x0040_0000, Latency::Normal)];

/// Which events have another latency than normal. The first rule that fits counts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyRule {
    /// Provider names; without it every provider fits.
    pub provider: Option<Pattern>,
    /// Event names; without it every event fits.
    pub event: Option<Pattern>,
    /// Telemetry levels up to this one; without it every level fits.
    #[serde(default, deserialize_with = "level")]
    pub max_level: Option<TelemetryLevel>,
    /// How soon they leave.
    pub class: Latency,
}

/// A level by name or number.
fn level<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<TelemetryLevel>, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// Tells the latency of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Urgency(Vec<LatencyRule>);

impl Urgency {
    /// By tags, then by these rules; the first that fits counts.
    #[must_use]
    pub fn new(rules: Vec<LatencyRule>) -> Urgency {
        Urgency(rules)
    }

    /// The latency of an event of this kind and telemetry level.
    #[must_use]
    pub fn of(&self, schema: &Schema, level: Option<TelemetryLevel>) -> Latency {
        if let Some((_, latency)) = TAGS.iter().find(|(bit, _)| schema.event_tags & bit != 0) {
            return *latency;
        }
        let fits = |pattern: &Option<Pattern>, name: &str| pattern.as_ref().is_none_or(|p| p.matches(name));
        let rule = self.0.iter().find(|r| {
            fits(&r.provider, &schema.provider_name)
                && fits(&r.event, &schema.event_name)
                && r.max_level.is_none_or(|most| level.is_some_and(|l| l <= most))
        });
        rule.map(|r| r.class).unwrap_or_default()
    }
}
