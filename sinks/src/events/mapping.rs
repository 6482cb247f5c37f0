//! What is decided once for a kind of event: its name, tenant, flags, and what
//! its properties are called.

use std::collections::HashMap;

use serde::Deserialize;
use tidegate_proto::batch::Head;
use tidegate_proto::level::{Class, TelemetryLevel};
use tidegate_proto::schema::Schema;

use super::latency::{Latency, Urgency};
use super::names;
use super::pii::PiiKind;
use super::tenant::Tenant;

/// Event tags of TraceLogging that the envelope takes over.
mod tags {
    pub const CRITICAL: u32 = 0x0080_0000;
    pub const NORMAL_PERSISTENCE: u32 = 0x0100_0000;
    pub const DROP_PII: u32 = 0x0200_0000;
    pub const HASH_PII: u32 = 0x0400_0000;
    pub const MARK_PII: u32 = 0x0800_0000;
    /// Field tags have other bits than event tags of the same names.
    pub const FIELD_DROP_PII: u32 = 0x0400_0000;
    pub const FIELD_HASH_PII: u32 = 0x0800_0000;
}

/// Bits of the envelope's `flags` on the wire.
mod wire {
    pub const PERSIST_NORMAL: u32 = 0x01;
    pub const PERSIST_CRITICAL: u32 = 0x02;
    pub const NORMAL: u32 = 0x0100;
    pub const REAL_TIME: u32 = 0x0200;
    pub const COST_DEFERRED: u32 = 0x0300;
    pub const MARK_PII: u32 = 0x0008_0000;
    pub const HASH_PII: u32 = 0x0010_0000;
    pub const DROP_PII: u32 = 0x0020_0000;
    pub const SCRUB_IP: u32 = 0x0040_0000;
}

/// A pattern of names: `*` stands for any run of characters, upper and lower case are one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Pattern(String);

impl Pattern {
    /// Takes the text of a pattern; every text is one.
    #[must_use]
    pub fn new(text: &str) -> Pattern {
        Pattern(text.to_owned())
    }

    /// Whether a name fits it.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        // where to go on when the run that the last star stands for must grow
        let mut back: Option<(usize, usize)> = None;
        while n < name.len() {
            match (pattern.get(p), name.get(n)) {
                (Some(b'*'), _) => {
                    back = Some((p + 1, n));
                    p += 1;
                }
                (Some(a), Some(b)) if a.eq_ignore_ascii_case(b) => {
                    p += 1;
                    n += 1;
                }
                _ => {
                    let Some((after, from)) = back else { return false };
                    back = Some((after, from + 1));
                    p = after;
                    n = from + 1;
                }
            }
        }
        pattern.iter().skip(p).all(|b| *b == b'*')
    }
}

/// Which properties hold personal data.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PiiRule {
    /// Field names as the provider has them, at any depth.
    pub field: Pattern,
    /// Provider names; without it every provider fits.
    pub provider: Option<Pattern>,
    /// What they hold.
    pub kind: PiiKind,
}

/// The settings of the mapping.
#[derive(Debug)]
pub(super) struct Mapping {
    /// The tenants; the first gets what no rule sends elsewhere.
    pub tenants: Vec<Tenant>,
    /// Provider patterns and places in `tenants`; the first that fits counts.
    pub routes: Vec<(Pattern, usize)>,
    pub urgency: Urgency,
    pub pii: Vec<PiiRule>,
    /// Whether the configured host name goes along.
    pub host: bool,
    /// Whether the far side is asked to leave out our address.
    pub scrub_ip: bool,
}

/// What one kind of event has in common.
#[derive(Debug)]
pub(super) struct Plan {
    pub name: String,
    pub tenant: usize,
    /// Envelope flags but for latency, and for persistence that hangs on the level.
    flags: u32,
    critical: Option<bool>,
    /// By place in the schema's fields.
    pub fields: Vec<FieldPlan>,
    /// Every name that a property of this kind has.
    taken: HashMap<String, u32>,
}

/// What is known of a property before its value.
#[derive(Debug)]
pub(super) struct FieldPlan {
    pub name: String,
    /// Equal for equal names.
    pub name_id: u32,
    pub pii: Option<PiiKind>,
    /// It is not payload but part of the envelope.
    pub is_priv_tags: bool,
}

impl Plan {
    fn new(mapping: &Mapping, schema: &Schema, head: &Head) -> Plan {
        let provider = &*schema.provider_name;
        let route = mapping.routes.iter().find(|(pattern, _)| pattern.matches(provider));
        let tag = |bit| schema.event_tags & bit != 0;
        let mut flags = if mapping.scrub_ip { wire::SCRUB_IP } else { 0 };
        for (bit, flag) in [
            (tags::MARK_PII, wire::MARK_PII),
            (tags::HASH_PII, wire::HASH_PII),
            (tags::DROP_PII, wire::DROP_PII),
        ] {
            if tag(bit) {
                flags |= flag;
            }
        }
        let persistence = [(tags::CRITICAL, true), (tags::NORMAL_PERSISTENCE, false)];
        let mut taken = HashMap::new();
        let fields = schema.fields.iter().enumerate().map(|(index, field)| {
            let name = names::property_name(&field.name, index);
            let next = u32::try_from(taken.len()).unwrap_or(u32::MAX);
            let name_id = *taken.entry(name.clone()).or_insert(next);
            let rule = mapping.pii.iter().find(|r| {
                r.field.matches(&field.name) && r.provider.as_ref().is_none_or(|p| p.matches(provider))
            });
            let tagged = field.tags & (tags::FIELD_DROP_PII | tags::FIELD_HASH_PII) != 0;
            FieldPlan {
                name,
                name_id,
                pii: rule.map(|r| r.kind).or(tagged.then_some(PiiKind::GenericData)),
                is_priv_tags: field.name == "PartA_PrivTags",
            }
        });
        Plan {
            fields: fields.collect(),
            name: names::event_name(schema, head),
            tenant: route.map_or(0, |(_, tenant)| *tenant),
            flags,
            critical: persistence.into_iter().find(|(bit, _)| tag(*bit)).map(|(_, critical)| critical),
            taken,
        }
    }

    /// The envelope's flags of one event.
    pub fn flags(&self, mapping: &Mapping, schema: &Schema, level: Option<TelemetryLevel>) -> u32 {
        let latency = mapping.urgency.of(schema, level);
        let critical = self.critical.unwrap_or(level.is_some_and(|l| Class::of(l) == Class::Critical));
        self.flags
            | if critical { wire::PERSIST_CRITICAL } else { wire::PERSIST_NORMAL }
            | match latency {
                Latency::Normal => wire::NORMAL,
                Latency::RealTime => wire::REAL_TIME,
                Latency::CostDeferred => wire::COST_DEFERRED,
            }
    }

    /// A name that no other property of this kind has, for the `nth` of one name in one object.
    pub fn numbered(&self, name: &str, nth: u32) -> String {
        let mut text = format!("{name}_{nth}");
        while self.taken.contains_key(&text) {
            text.push('_');
        }
        text
    }
}

/// The plans of one batch.
#[derive(Debug)]
pub(super) struct Plans<'m> {
    mapping: &'m Mapping,
    by_kind: HashMap<(u64, u16, u8), Plan>,
}

impl<'m> Plans<'m> {
    pub fn new(mapping: &'m Mapping) -> Plans<'m> {
        Plans { mapping, by_kind: HashMap::new() }
    }

    pub fn of(&mut self, schema: &Schema, head: &Head) -> &Plan {
        // the numbers only make a name where the schema has none
        let nameless = schema.event_name.is_empty() && schema.task_name.is_empty();
        let numbers = if nameless { (head.id, head.opcode) } else { (0, 0) };
        let key = (schema.id(), numbers.0, numbers.1);
        self.by_kind.entry(key).or_insert_with(|| Plan::new(self.mapping, schema, head))
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn patterns_fit_as_a_reader_expects() {
        for (pattern, name, fits) in [
            ("Microsoft-Windows-*", "microsoft-windows-dns", true),
            ("Microsoft-Windows-*", "Contoso", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("*a*b", "xxaxxbxb", true),
            ("*a*b", "xxaxxbx", false),
            ("exact", "exactly", false),
            ("**", "x", true),
        ] {
            assert_eq!(Pattern::new(pattern).matches(name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn a_hostile_pattern_ends_soon() {
        let pattern = Pattern::new(&"*a".repeat(40));
        assert!(!pattern.matches(&("a".repeat(4_000) + "b")));
    }
}
