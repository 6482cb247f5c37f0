//! Catalogues compiled into rules, and rules worked out for one kind of event.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::schema::{Decoder, Schema};
use toml::Spanned;

use super::catalogue::{
    CatalogueToml, FieldToml, Globs, Guids, PrivacyToml, RuleToml, RulesError, line_of, read_toml,
};
use super::names;
use super::scrub::{self, Action, Actions, Kind, PseudonymKey};

/// The catalogue that comes with the program.
pub const SHIPPED: &str = include_str!("catalogue.toml");

/// What is constant for a kind of event, as rules look at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'a> {
    pub provider: &'a str,
    pub guid: [u8; 16],
    pub group: Option<[u8; 16]>,
    pub event: &'a str,
    pub tags: u32,
    pub decoder: Decoder,
}

impl<'a> From<&'a Schema> for Key<'a> {
    fn from(s: &'a Schema) -> Key<'a> {
        Key {
            provider: &s.provider_name,
            guid: s.provider_guid,
            group: s.group_guid,
            event: &s.event_name,
            tags: s.event_tags,
            decoder: s.decoder,
        }
    }
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Level(TelemetryLevel),
    Drop,
}

/// One rule with its conditions resolved.
#[derive(Debug)]
pub(super) struct Rule {
    pub name: String,
    pub file: String,
    pub line: usize,
    provider: Option<Globs>,
    family: Option<Globs>,
    guid: Option<Guids>,
    group: Option<[u8; 16]>,
    event: Option<Globs>,
    tag: Option<u64>,
    decoder: Option<Decoder>,
    ids: Option<Vec<u16>>,
    keyword: Option<u64>,
    pub outcome: Outcome,
}

impl Rule {
    fn fits(&self, key: &Key<'_>) -> bool {
        self.provider.as_ref().is_none_or(|g| g.matches(key.provider))
            && self.family.as_ref().is_none_or(|g| g.matches(key.provider))
            && self.guid.as_ref().is_none_or(|g| g.0.contains(&key.guid))
            && self.group.is_none_or(|g| key.group == Some(g))
            && self.event.as_ref().is_none_or(|g| g.matches(key.event))
            && self.tag.is_none_or(|t| u64::from(key.tags) & t != 0)
            && self.decoder.is_none_or(|d| d == key.decoder)
    }
}

#[derive(Debug)]
struct Member {
    provider: Option<Globs>,
    guid: Option<Guids>,
    group: [u8; 16],
}

/// Providers that are switched together.
#[derive(Debug)]
struct Switch {
    name: String,
    title: String,
    providers: Vec<Globs>,
    /// Bits of the switches that take this one along.
    with: u64,
}

/// A part of the collection that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchInfo<'a> {
    /// Its name in commands.
    pub name: &'a str,
    /// What it is, in words.
    pub title: &'a str,
}

/// A name that no switch has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no switch is called \"{name}\"; known are {known}")]
pub struct UnknownSwitch {
    name: String,
    known: String,
}

/// Everything the gate decides by. Immutable; share it in an `Arc`.
#[derive(Debug)]
pub struct Rules {
    pub(super) default_level: TelemetryLevel,
    pub(super) trust_event_level: bool,
    pub(super) rules: Vec<Rule>,
    pub(super) privacy: Vec<PrivacyToml>,
    pub(super) scrub: scrub::Policy,
    members: Vec<Member>,
    switches: Vec<Switch>,
    fields: Vec<FieldToml>,
    /// Of everything that they were made from.
    digest: u64,
}

/// Collects catalogues. What is added later stands before what was added earlier.
pub struct RulesBuilder {
    files: Vec<(String, String, CatalogueToml)>,
    default_level: Option<TelemetryLevel>,
    trust: Option<bool>,
    scrub: Option<bool>,
    key: Option<PseudonymKey>,
}

impl RulesBuilder {
    /// Adds a catalogue's text; `name` stands in error messages and explanations.
    ///
    /// # Errors
    /// What is wrong with it, with line, key and advice; nothing of it is taken.
    pub fn catalogue(mut self, name: &str, text: &str) -> Result<RulesBuilder, RulesError> {
        let file: CatalogueToml = read_toml(name, text)?;
        if *file.version.get_ref() != 1 {
            return Err(error(
                name,
                text,
                &file.version,
                "version",
                "this program reads version 1 only".to_owned(),
            ));
        }
        self.files.push((name.to_owned(), text.to_owned(), file));
        Ok(self)
    }

    /// The level of events that no rule knows; without it the catalogues decide.
    #[must_use]
    pub fn default_level(mut self, level: TelemetryLevel) -> RulesBuilder {
        self.default_level = Some(level);
        self
    }

    /// Whether an event's own telemetry level may lower what the rules say.
    #[must_use]
    pub fn trust_event_level(mut self, trust: bool) -> RulesBuilder {
        self.trust = Some(trust);
        self
    }

    /// Switches all scrubbing on or off, whatever the catalogues say.
    #[must_use]
    pub fn scrub(mut self, on: bool) -> RulesBuilder {
        self.scrub = Some(on);
        self
    }

    /// The key of pseudonyms; without one they are masks.
    #[must_use]
    pub fn pseudonym_key(mut self, key: PseudonymKey) -> RulesBuilder {
        self.key = Some(key);
        self
    }

    /// A digest of all that decides: the texts, the settings, and this version of the scrubber.
    fn digest(&self) -> u64 {
        let mut hash = Sha256::new();
        let mut put = |part: &[u8]| {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        };
        put(env!("CARGO_PKG_VERSION").as_bytes());
        for (_, text, _) in &self.files {
            put(text.as_bytes());
        }
        let settings =
            (self.default_level, self.trust, self.scrub, self.key.as_ref().map(PseudonymKey::name));
        put(format!("{settings:?}").as_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        u64::from_le_bytes(digest.first_chunk().copied().unwrap_or_default())
    }

    /// Puts the catalogues together.
    ///
    /// # Errors
    /// Names that no catalogue defines, rules without a result, and other
    /// contradictions, with line, key and advice.
    pub fn build(self) -> Result<Rules, RulesError> {
        let digest = self.digest();
        let mut groups = BTreeMap::new();
        let mut families = BTreeMap::new();
        let mut switch_names: Vec<String> = Vec::new();
        for (_, _, file) in &self.files {
            groups.extend(file.provider_groups.iter().map(|(n, g)| (n.clone(), g.0)));
            families.extend(file.families.iter().map(|f| (f.name.get_ref().clone(), f.provider.clone())));
            for s in &file.switches {
                if !switch_names.contains(s.name.get_ref()) {
                    switch_names.push(s.name.get_ref().clone());
                }
            }
        }
        let mut rules = Rules {
            default_level: TelemetryLevel::Full,
            trust_event_level: false,
            rules: Vec::new(),
            privacy: Vec::new(),
            scrub: scrub::Policy::new(self.key),
            members: Vec::new(),
            switches: switch_names
                .iter()
                .map(|n| Switch { name: n.clone(), title: String::new(), providers: Vec::new(), with: 0 })
                .collect(),
            fields: Vec::new(),
            digest,
        };
        // settings: later files win
        for (_, _, file) in &self.files {
            rules.default_level = file.default_level.map_or(rules.default_level, |l| l.0);
            rules.trust_event_level = file.trust_event_level.unwrap_or(rules.trust_event_level);
            rules.scrub.apply(&file.scrub);
        }
        rules.default_level = self.default_level.unwrap_or(rules.default_level);
        rules.trust_event_level = self.trust.unwrap_or(rules.trust_event_level);
        rules.scrub.enabled = self.scrub.unwrap_or(rules.scrub.enabled);
        // lists: later files stand first
        for (name, text, file) in self.files.into_iter().rev() {
            let find_group = |g: &Spanned<String>| find(&groups, &name, text.as_str(), g, "group").copied();
            for m in file.members {
                if m.provider.is_none() && m.guid.is_none() {
                    let why = "a member needs a provider or a guid".to_owned();
                    return Err(error(&name, &text, &m.group, "group", why));
                }
                rules.members.push(Member {
                    group: find_group(&m.group)?,
                    provider: m.provider,
                    guid: m.guid,
                });
            }
            for s in file.switches {
                let mut with = 0;
                for w in &s.with {
                    with |= switch_bit(&switch_names, &name, &text, w)?;
                }
                let bit = switch_bit(&switch_names, &name, &text, &s.name)?;
                let Some(slot) = rules.switches.get_mut(bit.trailing_zeros() as usize) else { continue };
                for f in &s.family {
                    slot.providers.push(find(&families, &name, &text, f, "family")?.clone());
                }
                slot.providers.extend(s.provider);
                slot.with |= with;
                if slot.title.is_empty() {
                    slot.title = s.title;
                }
            }
            for r in file.rules {
                let family = match &r.family {
                    Some(f) => Some(find(&families, &name, &text, f, "family")?.clone()),
                    None => None,
                };
                let group = r.group.as_ref().map(find_group).transpose()?;
                rules.rules.push(rule(&name, &text, r, family, group)?);
            }
            rules.privacy.extend(file.privacy);
            for f in file.fields {
                check_field(&name, &text, &f)?;
                rules.fields.push(f);
            }
        }
        Ok(rules)
    }
}

fn rule(
    file: &str,
    text: &str,
    r: RuleToml,
    family: Option<Globs>,
    group: Option<[u8; 16]>,
) -> Result<Rule, RulesError> {
    let outcome = match (r.level, r.drop) {
        (Some(level), false) => Outcome::Level(level.0),
        (None, true) => Outcome::Drop,
        (Some(_), true) => {
            return Err(error(
                file,
                text,
                &r.name,
                "drop",
                "a rule has either a level or drop = true".to_owned(),
            ));
        }
        (None, false) => {
            let why = format!(
                "rule \"{}\" says nothing; give it level = \"Full\" or drop = true",
                r.name.get_ref()
            );
            return Err(error(file, text, &r.name, "level", why));
        }
    };
    Ok(Rule {
        line: line_of(text, r.name.span().start),
        file: file.to_owned(),
        name: r.name.into_inner(),
        provider: r.provider,
        family,
        guid: r.guid,
        group,
        event: r.event,
        tag: r.tag.map(|t| t.0),
        decoder: r.decoder.map(|d| d.0),
        ids: r.id.map(|i| i.0),
        keyword: r.keyword.map(|k| k.0),
        outcome,
    })
}

fn check_field(file: &str, text: &str, f: &FieldToml) -> Result<(), RulesError> {
    let (line, what) = match &f.name {
        Some(n) => (line_of(text, n.span().start), "name"),
        None => (1, "field"),
    };
    let problem = if f.name.is_none() && f.tag.is_none() {
        "a [[field]] needs a name or a tag"
    } else if f.level.is_none() && f.kind.is_none() && f.action.is_none() {
        "a [[field]] says nothing; give it a level, a kind or an action"
    } else {
        return Ok(());
    };
    Err(RulesError { file: file.to_owned(), line, key: what.to_owned(), problem: problem.to_owned() })
}

fn error<T>(file: &str, text: &str, at: &Spanned<T>, key: &str, problem: String) -> RulesError {
    RulesError { file: file.to_owned(), line: line_of(text, at.span().start), key: key.to_owned(), problem }
}

fn find<'m, T>(
    map: &'m BTreeMap<String, T>,
    file: &str,
    text: &str,
    name: &Spanned<String>,
    what: &str,
) -> Result<&'m T, RulesError> {
    map.get(name.get_ref()).ok_or_else(|| unknown(file, text, name, what, map.keys().map(String::as_str)))
}

fn unknown<'m>(
    file: &str,
    text: &str,
    name: &Spanned<String>,
    what: &str,
    known: impl Iterator<Item = &'m str>,
) -> RulesError {
    let hint = match names::suggest(name.get_ref(), known) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("define it in a catalogue, or remove \"{what}\""),
    };
    error(file, text, name, what, format!("unknown {what} \"{}\"; {hint}", name.get_ref()))
}

fn switch_bit(all: &[String], file: &str, text: &str, name: &Spanned<String>) -> Result<u64, RulesError> {
    match all.iter().position(|n| n == name.get_ref()) {
        Some(n) if n < 64 => Ok(1 << n),
        Some(_) => Err(error(file, text, name, "switch", "at most 64 switches are possible".to_owned())),
        None => Err(unknown(file, text, name, "switch", all.iter().map(String::as_str))),
    }
}

/// What the rules come to for one field of one kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FieldPlan {
    pub level: Option<TelemetryLevel>,
    /// The whole value is of this kind; `None` searches it.
    pub whole: Option<(Kind, Action)>,
}

/// A rule whose remaining conditions are on the single event.
#[derive(Debug)]
struct Step {
    keyword: Option<u64>,
    ids: Option<Box<[u16]>>,
    rule: u32,
    outcome: Outcome,
}

/// What the rules come to for one kind of event.
#[derive(Debug)]
pub(super) struct Plan {
    pub schema: u64,
    pub switches: u64,
    pub fields: Box<[FieldPlan]>,
    pub any_field_level: bool,
    pub actions: Actions,
    pub wanted: u16,
    /// Index of a payload field `PartA_PrivTags`.
    pub priv_tags: Option<u32>,
    steps: Box<[Step]>,
    last: Outcome,
}

impl Plan {
    /// The outcome for one event, and the index of the rule behind it.
    pub fn decide(&self, id: u16, keyword: u64) -> (Outcome, Option<u32>) {
        for step in &self.steps {
            let fits = step.keyword.is_none_or(|k| keyword & k != 0)
                && step.ids.as_ref().is_none_or(|ids| ids.contains(&id));
            if fits {
                return (step.outcome, Some(step.rule));
            }
        }
        (self.last, None)
    }
}

impl Rules {
    /// A builder that holds the shipped catalogue.
    ///
    /// # Errors
    /// None in a released program: a test reads the shipped catalogue.
    pub fn builder() -> Result<RulesBuilder, RulesError> {
        Self::empty_builder().catalogue("catalogue.toml (shipped)", SHIPPED)
    }

    /// A builder without any catalogue: every event has the default level, Full.
    #[must_use]
    pub fn empty_builder() -> RulesBuilder {
        RulesBuilder { files: Vec::new(), default_level: None, trust: None, scrub: None, key: None }
    }

    /// The shipped rules as they are.
    ///
    /// # Errors
    /// As [`Rules::builder`].
    pub fn shipped() -> Result<Rules, RulesError> {
        Self::builder()?.build()
    }

    /// A digest of the rules with these switches off; never 0.
    pub(super) fn digest(&self, off: u64) -> u64 {
        // an odd factor: other switches, another digest
        (self.digest ^ off.wrapping_mul(0x9e37_79b9_7f4a_7c15)).max(1)
    }

    /// The level of events that no rule knows.
    #[must_use]
    pub fn default_level(&self) -> TelemetryLevel {
        self.default_level
    }

    /// Whether fields can have a level above this one, whatever their event's.
    #[must_use]
    pub fn has_fields_above(&self, level: TelemetryLevel) -> bool {
        self.fields.iter().any(|f| f.level.is_some_and(|l| l.0 > level))
    }

    /// Every switch, in the order of the catalogues.
    pub fn switches(&self) -> impl Iterator<Item = SwitchInfo<'_>> {
        self.switches.iter().map(|s| SwitchInfo { name: &s.name, title: &s.title })
    }

    /// The names of all switches that go off when the given ones do.
    ///
    /// # Errors
    /// A name that no switch has.
    pub fn switched_off_by(&self, names: &[&str]) -> Result<Vec<&str>, UnknownSwitch> {
        let off = self.off_bits(names)?;
        Ok(self
            .switches
            .iter()
            .enumerate()
            .filter(|(n, _)| off >> n & 1 == 1)
            .map(|(_, s)| s.name.as_str())
            .collect())
    }

    /// Bits of the given switches and of all that go with them.
    pub(super) fn off_bits(&self, names: &[&str]) -> Result<u64, UnknownSwitch> {
        let mut off = 0_u64;
        for name in names {
            let at = self.switches.iter().position(|s| s.name == *name).ok_or_else(|| UnknownSwitch {
                name: (*name).to_owned(),
                known: self.switches.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", "),
            })?;
            off |= 1 << at;
        }
        loop {
            let more = self
                .switches
                .iter()
                .enumerate()
                .filter(|(_, s)| s.with & off != 0)
                .fold(off, |bits, (n, _)| bits | 1 << n);
            if more == off {
                return Ok(off);
            }
            off = more;
        }
    }

    pub(super) fn switch_names(&self, bits: u64) -> Vec<String> {
        self.switches
            .iter()
            .enumerate()
            .filter(|(n, _)| bits >> n & 1 == 1)
            .map(|(_, s)| s.name.clone())
            .collect()
    }

    /// Works the rules out for one kind of event.
    pub(super) fn plan(
        &self,
        schema: u64,
        key: Key<'_>,
        fields: &[tidegate_proto::schema::FieldDef],
    ) -> Plan {
        let group = key.group.or_else(|| {
            let fits = |m: &&Member| {
                m.provider.as_ref().is_none_or(|g| g.matches(key.provider))
                    && m.guid.as_ref().is_none_or(|g| g.0.contains(&key.guid))
            };
            self.members.iter().find(fits).map(|m| m.group)
        });
        let key = Key { group, ..key };
        let mut steps = Vec::new();
        for (n, rule) in self.rules.iter().enumerate().filter(|(_, r)| r.fits(&key)) {
            let ids = rule.ids.as_deref().map(Box::from);
            let last = rule.keyword.is_none() && ids.is_none();
            let rule_no = u32::try_from(n).unwrap_or(u32::MAX);
            steps.push(Step { keyword: rule.keyword, ids, rule: rule_no, outcome: rule.outcome });
            // nothing behind an unconditional rule is ever reached
            if last {
                break;
            }
        }
        let switches = self
            .switches
            .iter()
            .enumerate()
            .filter(|(_, s)| s.providers.iter().any(|g| g.matches(key.provider)))
            .fold(0, |bits, (n, _)| bits | 1 << n);
        let actions = self.scrub.actions_for(key.tags);
        let plans: Box<[FieldPlan]> = fields.iter().map(|f| self.field_plan(&key, f, &actions)).collect();
        Plan {
            schema,
            switches,
            any_field_level: plans.iter().any(|f| f.level.is_some()),
            priv_tags: fields
                .iter()
                .position(|f| f.name == "PartA_PrivTags")
                .and_then(|n| u32::try_from(n).ok()),
            fields: plans,
            wanted: scrub::wanted(&actions),
            actions,
            steps: steps.into(),
            last: Outcome::Level(self.default_level),
        }
    }

    fn field_plan(
        &self,
        key: &Key<'_>,
        def: &tidegate_proto::schema::FieldDef,
        actions: &Actions,
    ) -> FieldPlan {
        // separators and case carry no meaning in field names
        let name: String = def.name.chars().filter(|c| !matches!(c, '_' | '-' | '.' | ' ')).collect();
        let fits = |f: &&FieldToml| {
            f.name.as_ref().is_none_or(|g| g.get_ref().matches(&name) || g.get_ref().matches(&def.name))
                && f.tag.is_none_or(|t| u64::from(def.tags) & t.0 != 0)
                && f.provider.as_ref().is_none_or(|g| g.matches(key.provider))
                && f.event.as_ref().is_none_or(|g| g.matches(key.event))
        };
        let level = self.fields.iter().filter(fits).find_map(|f| f.level).map(|l| l.0);
        let whole =
            self.fields.iter().filter(fits).find(|f| f.kind.is_some() || f.action.is_some()).map(|f| {
                let kind = f.kind.unwrap_or(Kind::Tagged);
                (
                    kind,
                    f.action.unwrap_or_else(|| actions.get(kind as usize).copied().unwrap_or(Action::Mask)),
                )
            });
        FieldPlan { level, whole: whole.filter(|(_, a)| *a != Action::Keep) }
    }
}
