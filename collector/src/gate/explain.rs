//! Which rule decides, for `tidegate level explain`.

use std::fmt;

use tidegate_proto::batch::EventRef;
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::schema::Decoder;

use super::names;
use super::rules::{Key, Outcome, Rules};

/// An event as an operator names it, where no real one is at hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventKey {
    /// Provider name; empty = unknown.
    pub provider: String,
    /// Provider GUID, Windows byte order; zero = unknown.
    pub guid: [u8; 16],
    /// Provider group.
    pub group: Option<[u8; 16]>,
    /// Event name; empty = unknown.
    pub event: String,
    /// TraceLogging event tags.
    pub tags: u32,
    /// What decoded it.
    pub decoder: Decoder,
    /// Event id.
    pub id: u16,
    /// Keyword bits.
    pub keyword: u64,
    /// Privacy tags.
    pub priv_tags: u64,
    /// The level the event carries itself.
    pub own_level: Option<TelemetryLevel>,
}

/// What the rules say on an event and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Its telemetry level; `None` when a rule drops it at every level.
    pub level: Option<TelemetryLevel>,
    /// The deciding rule and where it stands; `None` = no rule knows the event.
    pub rule: Option<RulePlace>,
    /// What the rule alone, or the default, gives.
    pub by_rule: Option<TelemetryLevel>,
    /// Set when the event's own level or a privacy tag changed the rule's result.
    pub changed_by: Option<&'static str>,
    /// Switches that turn it off.
    pub switches: Vec<String>,
    /// Known names of its keyword bits.
    pub keywords: Vec<&'static str>,
}

/// Where a rule stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulePlace {
    /// The rule's name.
    pub name: String,
    /// The catalogue.
    pub file: String,
    /// Line in it, from 1.
    pub line: usize,
}

impl Explanation {
    /// Whether the event passes at a level.
    #[must_use]
    pub fn passes_at(&self, in_force: TelemetryLevel) -> bool {
        self.level.is_some_and(|l| l <= in_force)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Some(level) => write!(f, "level {} {level}", level as u8)?,
            None => f.write_str("dropped at every level")?,
        }
        match (&self.rule, self.by_rule) {
            (Some(r), _) => write!(f, ", by rule \"{}\" ({}:{})", r.name, r.file, r.line)?,
            (None, Some(_)) => f.write_str(", the default: no rule knows this event")?,
            (None, None) => {}
        }
        if let (Some(by), Some(from)) = (self.changed_by, self.by_rule) {
            write!(f, "; the rule alone gives {from}, changed by {by}")?;
        }
        if !self.keywords.is_empty() {
            write!(f, "; keywords {}", self.keywords.join(", "))?;
        }
        if !self.switches.is_empty() {
            write!(f, "; switched off with {}", self.switches.join(", "))?;
        }
        Ok(())
    }
}

impl Rules {
    /// What the rules say on a real event. Slow path: works the rules out anew.
    #[must_use]
    pub fn explain(&self, event: EventRef<'_>) -> Explanation {
        let head = event.head();
        let key = Key::from(&**event.schema());
        self.explain_parts(key, head.id, head.keyword, head.priv_tags, head.telemetry_level)
    }

    /// What the rules say on an event of which only some facts are known.
    #[must_use]
    pub fn explain_key(&self, k: &EventKey) -> Explanation {
        let key = Key {
            provider: &k.provider,
            guid: k.guid,
            group: k.group,
            event: &k.event,
            tags: k.tags,
            decoder: k.decoder,
        };
        self.explain_parts(key, k.id, k.keyword, k.priv_tags, k.own_level)
    }

    fn explain_parts(
        &self,
        key: Key<'_>,
        id: u16,
        keyword: u64,
        priv_tags: u64,
        own: Option<TelemetryLevel>,
    ) -> Explanation {
        let plan = self.plan(0, key, &[]);
        let (outcome, rule) = plan.decide(id, keyword);
        let rule = rule.and_then(|n| self.rules.get(usize::try_from(n).ok()?));
        let by_rule = match outcome {
            Outcome::Level(l) => Some(l),
            Outcome::Drop => None,
        };
        let own_done = by_rule.map(|l| self.with_own_level(l, own));
        let level = own_done.map(|l| self.with_privacy(l, priv_tags));
        let changed_by = if level != own_done {
            Some("a privacy tag")
        } else if own_done != by_rule {
            Some("the event's own level")
        } else {
            None
        };
        Explanation {
            level,
            rule: rule.map(|r| RulePlace { name: r.name.clone(), file: r.file.clone(), line: r.line }),
            by_rule,
            changed_by,
            switches: self.switch_names(plan.switches),
            keywords: names::KEYWORDS.iter().filter(|(_, bit)| keyword & bit != 0).map(|(n, _)| *n).collect(),
        }
    }

    /// An event may raise its level; it may lower it only where it is trusted.
    pub(super) fn with_own_level(
        &self,
        by_rule: TelemetryLevel,
        own: Option<TelemetryLevel>,
    ) -> TelemetryLevel {
        match own {
            Some(own) if self.trust_event_level => own,
            Some(own) => by_rule.max(own),
            None => by_rule,
        }
    }

    /// Privacy tags only ever raise.
    pub(super) fn with_privacy(&self, level: TelemetryLevel, priv_tags: u64) -> TelemetryLevel {
        if priv_tags == 0 {
            return level;
        }
        let tagged = self.privacy.iter().filter(|p| p.tag.0 & priv_tags != 0);
        tagged.filter_map(|p| p.level).fold(level, |l, p| l.max(p.0))
    }
}
