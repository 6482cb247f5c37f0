//! What a sink gets: by level, provider and event.

use std::collections::HashMap;

use tidegate_proto::batch::EventRef;
use tidegate_proto::level::{LossReason, TelemetryLevel};
use tidegate_proto::schema::Schema;

use crate::config::FilterConfig;
use crate::gate::glob::Glob;

/// Kinds of events whose answers are kept.
const CACHED: usize = 4096;

/// A compiled [`FilterConfig`].
#[derive(Clone, Debug, Default)]
pub struct Filter {
    level: Option<TelemetryLevel>,
    providers: Vec<Glob>,
    not_providers: Vec<Glob>,
    events: Vec<Glob>,
    not_events: Vec<Glob>,
    // by schema id
    cache: HashMap<u64, bool>,
}

fn globs(patterns: &[String]) -> Result<Vec<Glob>, String> {
    patterns.iter().map(|p| Glob::new(p)).collect()
}

impl Filter {
    /// Compiles a filter.
    ///
    /// # Errors
    /// A pattern that is none, in words.
    pub fn new(config: &FilterConfig) -> Result<Filter, String> {
        Ok(Filter {
            level: config.level,
            providers: globs(&config.providers)?,
            not_providers: globs(&config.not_providers)?,
            events: globs(&config.events)?,
            not_events: globs(&config.not_events)?,
            cache: HashMap::new(),
        })
    }

    fn names(&self, schema: &Schema) -> bool {
        let any = |list: &[Glob], name: &str| list.iter().any(|g| g.matches(name));
        let (provider, event) = (&schema.provider_name, &schema.event_name);
        (self.providers.is_empty() || any(&self.providers, provider))
            && !any(&self.not_providers, provider)
            && (self.events.is_empty() || any(&self.events, event))
            && !any(&self.not_events, event)
    }

    /// Why an event of this level does not go to the sink, if it does not. Its level comes from
    /// the stored event; an event without one is above all.
    pub fn left_out(&mut self, event: EventRef<'_>, in_force: TelemetryLevel) -> Option<LossReason> {
        let level = event.head().telemetry_level;
        if level.is_none_or(|l| l > in_force) {
            return Some(LossReason::Level);
        }
        if self.level.is_some_and(|most| level.is_some_and(|l| l > most)) {
            return Some(LossReason::Filtered);
        }
        let schema = event.schema();
        let passes = match self.cache.get(&schema.id()) {
            Some(passes) => *passes,
            None => {
                if self.cache.len() >= CACHED {
                    self.cache.clear();
                }
                let passes = self.names(schema);
                self.cache.insert(schema.id(), passes);
                passes
            }
        };
        (!passes).then_some(LossReason::Filtered)
    }
}
