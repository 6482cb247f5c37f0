//! The gate: the one place that decides what may be written at all, and the
//! only maker of [`Cleared`], without which nothing can be encoded.
//!
//! A [`Gate`] belongs to one thread and holds a small cache; the [`Rules`] are
//! shared. Reloading the rules is making a new gate from new rules.

mod catalogue;
mod diff;
mod edits;
mod explain;
pub(crate) mod glob;
pub mod level;
#[cfg(test)]
mod levels_doc;
pub(crate) mod names;
pub mod registry;
mod rules;
pub mod scrub;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tidegate_proto::batch::EventRef;
use tidegate_proto::level::{Class, DropReason, TelemetryLevel};
use tidegate_proto::wire::{Changes, Judged, Unchanged};

pub(crate) use catalogue::Globs;
pub use catalogue::{RawPolicy, RulesError};
pub use diff::{DiffError, DiffRow, Differ, LevelDiff};
pub use edits::{Change, Edit, Edits, Place};
pub use explain::{EventKey, Explanation, RulePlace};
pub use rules::{Rules, RulesBuilder, SHIPPED, SwitchInfo, UnknownSwitch};

use rules::{Key, Outcome, Plan};

/// What is allowed at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// Nothing above it passes.
    pub level: TelemetryLevel,
    /// `false`: nothing passes.
    pub enabled: bool,
}

impl From<TelemetryLevel> for Permit {
    fn from(level: TelemetryLevel) -> Permit {
        Permit { level, enabled: true }
    }
}

impl From<&level::LevelInForce> for Permit {
    fn from(l: &level::LevelInForce) -> Permit {
        Permit { level: l.level, enabled: l.enabled }
    }
}

/// An event that the gate let through, and what must be changed in it when it
/// is written. Nothing but [`Gate::clear`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct Cleared<'a> {
    event: EventRef<'a>,
    level: TelemetryLevel,
    edits: &'a Edits,
    sample_ppm: u32,
    judged: Judged,
}

impl<'a> Cleared<'a> {
    /// The event as it was read: to be written with [`Cleared::edits`] only.
    #[must_use]
    pub fn event(&self) -> EventRef<'a> {
        self.event
    }

    /// Its telemetry level.
    #[must_use]
    pub fn level(&self) -> TelemetryLevel {
        self.level
    }

    /// The class it is kept in.
    #[must_use]
    pub fn class(&self) -> Class {
        Class::of(self.level)
    }

    /// The rate it was sampled at, parts of a million; 0 = it was not sampled.
    #[must_use]
    pub fn sample_ppm(&self) -> u32 {
        self.sample_ppm
    }

    /// The same with the rate that sampling kept it at.
    pub(crate) fn sampled(self, sample_ppm: u32) -> Cleared<'a> {
        Cleared { sample_ppm, ..self }
    }

    /// By which rules and at which level in force it was let through.
    #[must_use]
    pub fn judged(&self) -> Judged {
        self.judged
    }

    /// The changes to make.
    #[must_use]
    pub fn edits(&self) -> &'a Edits {
        self.edits
    }
}

/// The gate's answer.
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'a> {
    /// It may be written.
    Pass(Cleared<'a>),
    /// It may not; to be counted under this reason.
    Drop(DropReason),
}

/// One thread's gate.
#[derive(Debug)]
pub struct Gate {
    rules: Arc<Rules>,
    off: u64,
    digest: u64,
    cache: Vec<Option<Box<Plan>>>,
    scrubber: scrub::Scrubber,
    edits: Edits,
}

impl Gate {
    /// Kinds of events whose decisions are kept; more of them only cost time.
    pub const CACHED: usize = 1024;

    /// A gate with every switch on.
    #[must_use]
    pub fn new(rules: impl Into<Arc<Rules>>) -> Gate {
        let rules = rules.into();
        let scrubber = scrub::Scrubber::new(&rules.scrub);
        let cache = std::iter::repeat_with(|| None).take(Self::CACHED).collect();
        let digest = rules.digest(0);
        Gate { rules, off: 0, digest, cache, scrubber, edits: Edits::default() }
    }

    /// The rules it goes by.
    #[must_use]
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// Turns the named switches off, with all that go with them, and every other on.
    ///
    /// # Errors
    /// A name that no switch has; nothing is changed then.
    pub fn set_off(&mut self, names: &[&str]) -> Result<(), UnknownSwitch> {
        self.off = self.rules.off_bits(names)?;
        self.digest = self.rules.digest(self.off);
        Ok(())
    }

    /// A digest of the rules and switches: what another gate of the same digest has let through, this
    /// one lets through unchanged. Never 0.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Hands over, once, what has to change in an event that was let through before, for it to stay at a level; whether
    /// anything has. What the rules would drop by now stays as it is: that is asked again when it is sent.
    pub(crate) fn changes(
        &mut self,
        event: EventRef<'_>,
        level: TelemetryLevel,
        put: &mut dyn FnMut(&dyn Changes),
    ) -> bool {
        match self.clear(event, level) {
            Verdict::Pass(cleared) if !cleared.edits().is_empty() => {
                put(cleared.edits());
                true
            }
            _ => {
                put(&Unchanged);
                false
            }
        }
    }

    /// Decides on one event. Total and without side effects on the event: it
    /// never fails, and never passes what is above the permitted level.
    pub fn clear<'a>(&'a mut self, event: EventRef<'a>, permit: impl Into<Permit>) -> Verdict<'a> {
        let permit = permit.into();
        if !permit.enabled {
            return Verdict::Drop(DropReason::Disabled);
        }
        let schema = event.schema();
        let id = schema.id();
        // ids count up from 1, so neighbours never share a slot
        let slot = usize::try_from(id % Self::CACHED as u64).unwrap_or(0);
        let Some(slot) = self.cache.get_mut(slot) else { return Verdict::Drop(DropReason::Rule) };
        if slot.as_ref().is_none_or(|p| p.schema != id) {
            *slot = Some(Box::new(self.rules.plan(id, Key::from(&**schema), &schema.fields)));
        }
        let Some(plan) = slot.as_deref() else { return Verdict::Drop(DropReason::Rule) };
        if plan.switches & self.off != 0 {
            return Verdict::Drop(DropReason::Disabled);
        }
        let head = event.head();
        let level = match plan.decide(head.id, head.keyword).0 {
            Outcome::Level(level) => self.rules.with_own_level(level, head.telemetry_level),
            Outcome::Drop => return Verdict::Drop(DropReason::Rule),
        };
        let mut priv_tags = head.priv_tags;
        if let Some(index) = plan.priv_tags {
            priv_tags |= scrub::priv_tags_of(event, index);
        }
        let level = self.rules.with_privacy(level, priv_tags);
        if level > permit.level {
            return Verdict::Drop(DropReason::Level);
        }
        self.edits.clear();
        if self.rules.scrub.enabled || plan.any_field_level {
            let whole = self.rules.action_of(priv_tags);
            let job = scrub::Job { policy: &self.rules.scrub, plan, permit: permit.level, whole };
            if self.scrubber.run(&job, event, &mut self.edits).is_err() {
                return Verdict::Drop(DropReason::Privacy);
            }
        }
        let judged = Judged { rules: self.digest, in_force: Some(permit.level) };
        Verdict::Pass(Cleared { event, level, edits: &self.edits, sample_ppm: head.sample_ppm, judged })
    }
}

impl Rules {
    /// The action that privacy tags ask for on every value of an event.
    fn action_of(&self, priv_tags: u64) -> Option<scrub::Action> {
        if priv_tags == 0 || !self.scrub.enabled {
            return None;
        }
        let tagged = self.privacy.iter().filter(|p| p.tag.0 & priv_tags != 0);
        tagged.filter_map(|p| p.action).max_by_key(|a| a.rank()).filter(|a| *a != scrub::Action::Keep)
    }
}
