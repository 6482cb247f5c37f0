//! Events counted by provider and kind, in bounded memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tidegate_proto::batch::EventRef;
use tidegate_proto::own;
use tidegate_proto::schema::{Decoder, Schema};
use tidegate_proto::value::ValueRef;

/// Kinds counted by their schema before they are folded into one count per name.
const QUICK: usize = 65_536;
/// Kinds counted one by one; those beyond are counted together.
const KINDS: usize = 262_144;

/// What names a kind of event.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) provider: Provider,
    pub(super) name: String,
    pub(super) id: u16,
    pub(super) version: u8,
    pub(super) opcode: u8,
}

/// What names a provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Provider {
    pub(super) guid: [u8; 16],
    pub(super) name: String,
}

impl Provider {
    /// Its name, or its GUID when nothing tells the name.
    pub(super) fn label(&self) -> String {
        if self.name.is_empty() {
            tidegate_proto::guid::format(&self.guid)
        } else {
            super::out::plain(&self.name)
        }
    }
}

/// Counts of one kind, or of a sum of kinds.
#[derive(Clone, Debug)]
pub(super) struct Count {
    pub(super) events: u64,
    /// Events whose payload stayed raw.
    pub(super) raw: u64,
    pub(super) first_ns: i64,
    pub(super) last_ns: i64,
    /// What decoded the others; the last seen.
    pub(super) decoder: Decoder,
}

impl Default for Count {
    fn default() -> Count {
        Count { events: 0, raw: 0, first_ns: i64::MAX, last_ns: i64::MIN, decoder: Decoder::None }
    }
}

impl Count {
    pub(super) fn add(&mut self, other: &Count) {
        self.events += other.events;
        self.raw += other.raw;
        self.first_ns = self.first_ns.min(other.first_ns);
        self.last_ns = self.last_ns.max(other.last_ns);
        if other.decoder != Decoder::None {
            self.decoder = other.decoder;
        }
    }

    pub(super) fn decoded(&self) -> u64 {
        self.events - self.raw
    }
}

/// Gaps of one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gaps {
    pub(super) gaps: u64,
    /// Events missing, as far as it is known.
    pub(super) events: u64,
}

/// Schema, event id, version, opcode.
type QuickKey = (u64, u16, u8, u8);

/// The counts while events are read.
#[derive(Debug, Default)]
pub(super) struct Tally {
    quick: HashMap<QuickKey, (Arc<Schema>, Count)>,
    kinds: BTreeMap<Kind, Count>,
    /// Kinds beyond [`KINDS`].
    beyond: Count,
    pub(super) gaps: BTreeMap<String, Gaps>,
}

impl Tally {
    pub(super) fn add(&mut self, event: EventRef<'_>) {
        let (head, schema) = (event.head(), event.schema());
        if schema.provider_guid == own::PROVIDER_GUID && schema.decoder == Decoder::Own {
            return self.gap(event);
        }
        if self.quick.len() >= QUICK {
            self.fold();
        }
        let key = (schema.id(), head.id, head.version, head.opcode);
        let (_, count) = self.quick.entry(key).or_insert_with(|| (Arc::clone(schema), Count::default()));
        count.events += 1;
        count.raw += u64::from(schema.decoder == Decoder::None);
        count.first_ns = count.first_ns.min(head.time_ns);
        count.last_ns = count.last_ns.max(head.time_ns);
    }

    fn gap(&mut self, event: EventRef<'_>) {
        let (mut reason, mut events) = ("", 0);
        for field in event.fields() {
            match (field.name, field.value) {
                (Some("reason"), ValueRef::Str(text)) => reason = text,
                (Some("events"), ValueRef::U64(n)) => events = n,
                _ => {}
            }
        }
        let gaps = self.gaps.entry(reason.to_owned()).or_default();
        gaps.gaps += 1;
        gaps.events = gaps.events.saturating_add(events);
    }

    fn fold(&mut self) {
        for ((_, id, version, opcode), (schema, mut count)) in self.quick.drain() {
            let kind = Kind {
                provider: Provider { guid: schema.provider_guid, name: schema.provider_name.clone() },
                name: schema.event_name.clone(),
                id,
                version,
                opcode,
            };
            count.decoder = schema.decoder;
            if self.kinds.len() < KINDS || self.kinds.contains_key(&kind) {
                self.kinds.entry(kind).or_default().add(&count);
            } else {
                self.beyond.add(&count);
            }
        }
    }

    /// All kinds, most frequent first, and the count of those not told apart.
    pub(super) fn kinds(&mut self) -> (Vec<(Kind, Count)>, Count) {
        self.fold();
        let mut kinds: Vec<_> = self.kinds.iter().map(|(k, c)| (k.clone(), c.clone())).collect();
        kinds.sort_by(|(a, x), (b, y)| y.events.cmp(&x.events).then_with(|| a.cmp(b)));
        (kinds, self.beyond.clone())
    }
}

/// The same, added up by provider.
pub(super) fn providers(kinds: &[(Kind, Count)]) -> Vec<(Provider, Count)> {
    let mut sums: BTreeMap<[u8; 16], (String, Count)> = BTreeMap::new();
    for (kind, count) in kinds {
        let (name, sum) = sums.entry(kind.provider.guid).or_default();
        if name.is_empty() {
            name.clone_from(&kind.provider.name);
        }
        sum.add(count);
    }
    let provider = |(guid, (name, count))| (Provider { guid, name }, count);
    let mut list: Vec<(Provider, Count)> = sums.into_iter().map(provider).collect();
    list.sort_by(|(a, x), (b, y)| y.events.cmp(&x.events).then_with(|| a.cmp(b)));
    list
}

/// Everything in one count.
pub(super) fn total(counts: &[(Provider, Count)]) -> Count {
    let mut sum = Count::default();
    counts.iter().for_each(|(_, c)| sum.add(c));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_proto::batch::{Batch, Head};
    use tidegate_proto::schema::SchemaParts;

    #[test]
    fn one_kind_under_two_schemas_is_counted_once_and_gaps_apart() {
        let parts = |decoder| SchemaParts {
            provider_name: "P".into(),
            provider_guid: [1; 16],
            event_name: "E".into(),
            decoder,
            ..SchemaParts::default()
        };
        let (known, raw) = (Schema::new(parts(Decoder::TraceLogging)), Schema::new(parts(Decoder::None)));
        let mut batch = Batch::new();
        for (n, schema) in [(5, &known), (3, &raw), (9, &known)] {
            batch.begin(schema, Head { time_ns: n, id: 2, ..Head::default() }).finish();
        }
        let gap = own::Gap { reason: "lost_events".into(), events: Some(4), ..own::Gap::default() };
        own::push_gap(&mut batch, &gap);
        let mut tally = Tally::default();
        batch.iter().for_each(|e| tally.add(e));
        let (kinds, beyond) = tally.kinds();
        let [(kind, count)] = kinds.as_slice() else { panic!("{kinds:?}") };
        assert_eq!((kind.name.as_str(), kind.id, beyond.events), ("E", 2, 0));
        assert_eq!((count.events, count.raw, count.first_ns, count.last_ns), (3, 1, 3, 9));
        assert_eq!(count.decoder, Decoder::TraceLogging);
        assert_eq!(tally.gaps.get("lost_events"), Some(&Gaps { gaps: 1, events: 4 }));
        assert_eq!(total(&providers(&kinds)).decoded(), 2);
    }
}
