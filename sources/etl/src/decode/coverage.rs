//! How much of each provider's events could be decoded, and by what.

use super::cache::{Cache, Entry};
use std::collections::BTreeMap;
use tidegate_proto::schema::Decoder;

/// Providers counted one by one; those beyond are counted together, under a zero GUID.
const MAX_PROVIDERS: usize = 16_384;

/// Events of one provider that one decoder turned into fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Provider, event class or message GUID.
    pub provider: [u8; 16],
    /// Its name; empty when nothing tells it.
    pub name: String,
    /// What decoded them; [`Decoder::None`] = their payload stayed raw.
    pub decoder: Decoder,
    /// How many.
    pub events: u64,
}

/// Counts by provider and decoder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals(BTreeMap<([u8; 16], u8), (String, Decoder, u64)>);

impl Totals {
    pub(crate) fn add(&mut self, entry: &Entry) {
        for (decoder, n) in [(entry.decoder, entry.decoded), (Decoder::None, entry.raw)] {
            if n == 0 {
                continue;
            }
            let mut key = (entry.schema.provider_guid, decoder as u8);
            if self.0.len() >= MAX_PROVIDERS && !self.0.contains_key(&key) {
                key.0 = [0; 16];
            }
            let (name, _, events) = self.0.entry(key).or_insert_with(|| (String::new(), decoder, 0));
            *events += n;
            if name.is_empty() && key.0 != [0; 16] {
                *name = name_of(&entry.schema.provider_name);
            }
        }
    }
}

pub(crate) fn collect(cache: &Cache) -> Vec<Coverage> {
    let mut totals = cache.past.clone();
    for entry in cache.iter() {
        totals.add(entry);
    }
    let each = |((provider, _), (name, decoder, events))| Coverage { provider, name, decoder, events };
    totals.0.into_iter().map(each).collect()
}

/// The start of a name; longer ones are no names, and many of them would take memory.
pub(crate) fn name_of(text: &str) -> String {
    text.chars().take(256).collect()
}
