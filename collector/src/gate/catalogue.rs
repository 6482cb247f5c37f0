//! The catalogue's TOML form and its error messages.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::schema::Decoder;
use toml::Spanned;

use super::glob::Glob;
use super::names;
use super::scrub::{Action, Kind};

/// Something is wrong in a catalogue or policy; nothing of it was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}{}: {problem}", if key.is_empty() { String::new() } else { format!(" ({key})") })]
pub struct RulesError {
    /// The file's name as the operator knows it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// The key concerned, empty where none is.
    pub key: String,
    /// What is wrong and what to do.
    pub problem: String,
}

/// Line number, from 1, of a byte offset.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|b| *b == b'\n').count()
}

/// Reads TOML into a type that refuses unknown keys, with a suggestion for them.
pub(super) fn read_toml<T: serde::de::DeserializeOwned>(file: &str, text: &str) -> Result<T, RulesError> {
    toml::from_str(text).map_err(|e| {
        let at = e.span().map_or(text.len(), |s| s.start);
        let line_text = text.get(..at).map_or("", |t| t.rsplit('\n').next().unwrap_or_default());
        let rest = text.get(at..).unwrap_or_default();
        let whole = format!("{line_text}{}", rest.split('\n').next().unwrap_or_default());
        let key = whole.split('=').next().map(str::trim).filter(|k| is_key(k)).unwrap_or_default();
        RulesError {
            file: file.to_owned(),
            line: line_of(text, at),
            key: key.to_owned(),
            problem: advise(e.message()),
        }
    })
}

fn is_key(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Adds "did you mean" to serde's message on unknown keys and variants.
fn advise(message: &str) -> String {
    let Some((_, rest)) = message.split_once("unknown field `") else { return message.to_owned() };
    let Some((wrong, expected)) = rest.split_once('`') else { return message.to_owned() };
    let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    match names::suggest(wrong, known.iter().copied()) {
        Some(near) => format!("unknown key \"{wrong}\"; did you mean \"{near}\"?"),
        None => format!("unknown key \"{wrong}\"; known are {}", known.join(", ")),
    }
}

/// One value or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Number(u64),
    Many(Vec<OneOrMany>),
}

impl OneOrMany {
    fn list(self) -> Vec<String> {
        match self {
            Self::One(s) => vec![s],
            Self::Number(n) => vec![n.to_string()],
            Self::Many(list) => list.into_iter().flat_map(Self::list).collect(),
        }
    }
}

/// Reads a text, number or list into many of something.
fn many<'de, D: Deserializer<'de>, T>(
    d: D,
    what: &str,
    each: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, D::Error> {
    let list = OneOrMany::deserialize(d)
        .map_err(|_| D::Error::custom(format!("{what}: a text or a list of texts is expected")))?
        .list();
    if list.is_empty() {
        return Err(D::Error::custom(format!(
            "{what}: the list is empty and would match nothing; leave it out"
        )));
    }
    list.iter().map(|s| each(s).map_err(D::Error::custom)).collect()
}

/// A telemetry level as a name or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LevelText(pub TelemetryLevel);

impl<'de> Deserialize<'de> for LevelText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(i64),
            Text(String),
        }
        let text = match Raw::deserialize(d) {
            Ok(Raw::Number(n)) => n.to_string(),
            Ok(Raw::Text(t)) => t,
            Err(_) => {
                return Err(D::Error::custom(
                    "a telemetry level is expected: 0 Security, 1 Basic, 2 Enhanced or 3 Full",
                ));
            }
        };
        text.parse().map(LevelText).map_err(D::Error::custom)
    }
}

/// One or more name patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Globs(pub Vec<Glob>);

impl Globs {
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|g| g.matches(name))
    }
}

impl<'de> Deserialize<'de> for Globs {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        many(d, "name patterns", Glob::new).map(Globs)
    }
}

/// One or more GUIDs.
#[derive(Clone, Debug)]
pub(super) struct Guids(pub Vec<[u8; 16]>);

impl<'de> Deserialize<'de> for Guids {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        many(d, "GUIDs", |s| {
            tidegate_proto::guid::parse(s).ok_or_else(|| {
                format!("\"{s}\" is no GUID; write it as 4f50731a-89cf-4782-b3e0-dce8c90476ba")
            })
        })
        .map(Guids)
    }
}

macro_rules! masks {
    ($($(#[$m:meta])* $name:ident($table:expr, $what:literal);)*) => {$(
        $(#[$m])*
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $name(pub u64);
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let all = many(d, $what, |s| names::bits($table, $what, s))?;
                Ok($name(all.into_iter().fold(0, |a, b| a | b)))
            }
        }
    )*};
}
masks! {
    /// Keyword bits, any of which fits.
    Keywords(names::KEYWORDS, "keyword");
    /// Event tag bits, any of which fits.
    EventTags(names::EVENT_TAGS, "event tag");
    /// Field tag bits, any of which fits.
    FieldTags(names::FIELD_TAGS, "field tag");
    /// Privacy tag bits, any of which fits.
    PrivacyTags(names::PRIVACY_TAGS, "privacy tag");
}

/// Event ids, any of which fits.
#[derive(Clone, Debug)]
pub(super) struct EventIds(pub Vec<u16>);

impl<'de> Deserialize<'de> for EventIds {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        many(d, "event ids", |s| s.parse().map_err(|_| format!("\"{s}\" is no event id; use 0 to 65535")))
            .map(EventIds)
    }
}

/// What decoded the event, by its label in coverage tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct DecoderText(pub Decoder);

impl<'de> Deserialize<'de> for DecoderText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let all = || (0..64).map(Decoder::from_u32);
        all().find(|k| k.as_str() == text).map(DecoderText).ok_or_else(|| {
            let hint = names::suggest(&text, all().map(Decoder::as_str));
            let hint = hint.map(|n| format!("; did you mean \"{n}\"?")).unwrap_or_default();
            D::Error::custom(format!("unknown decoder \"{text}\"{hint}"))
        })
    }
}

/// A whole catalogue.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CatalogueToml {
    /// Form of the file; 1 is the only one.
    pub version: Spanned<u32>,
    pub default_level: Option<LevelText>,
    pub trust_event_level: Option<bool>,
    #[serde(default)]
    pub provider_groups: BTreeMap<String, GuidText>,
    #[serde(default, rename = "member")]
    pub members: Vec<MemberToml>,
    #[serde(default, rename = "family")]
    pub families: Vec<FamilyToml>,
    #[serde(default, rename = "switch")]
    pub switches: Vec<SwitchToml>,
    #[serde(default, rename = "rule")]
    pub rules: Vec<RuleToml>,
    #[serde(default, rename = "privacy")]
    pub privacy: Vec<PrivacyToml>,
    #[serde(default, rename = "field")]
    pub fields: Vec<FieldToml>,
    #[serde(default)]
    pub scrub: ScrubToml,
}

/// A single GUID.
#[derive(Debug)]
pub(super) struct GuidText(pub [u8; 16]);

impl<'de> Deserialize<'de> for GuidText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let list = Guids::deserialize(d)?.0;
        match list.as_slice() {
            [one] => Ok(GuidText(*one)),
            _ => Err(D::Error::custom("exactly one GUID is expected")),
        }
    }
}

/// Providers known to belong to a provider group, for input that does not carry the trait.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MemberToml {
    pub provider: Option<Globs>,
    pub guid: Option<Guids>,
    pub group: Spanned<String>,
}

/// A family of providers that rules can name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FamilyToml {
    pub name: Spanned<String>,
    /// For readers of the file.
    #[serde(rename = "title")]
    pub _title: Option<String>,
    pub provider: Globs,
}

/// Providers that are switched together.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SwitchToml {
    pub name: Spanned<String>,
    pub title: String,
    /// Switches that take this one with them when they go off.
    #[serde(default)]
    pub with: Vec<Spanned<String>>,
    pub provider: Option<Globs>,
    #[serde(default)]
    pub family: Vec<Spanned<String>>,
}

/// Conditions, all of which must hold, and what follows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleToml {
    pub name: Spanned<String>,
    pub provider: Option<Globs>,
    pub guid: Option<Guids>,
    pub family: Option<Spanned<String>>,
    pub group: Option<Spanned<String>>,
    pub event: Option<Globs>,
    pub id: Option<EventIds>,
    pub keyword: Option<Keywords>,
    pub tag: Option<EventTags>,
    pub decoder: Option<DecoderText>,
    pub level: Option<LevelText>,
    #[serde(default)]
    pub drop: bool,
}

/// What follows from a privacy tag of the event.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PrivacyToml {
    pub tag: PrivacyTags,
    pub level: Option<LevelText>,
    pub action: Option<Action>,
}

/// What follows from a field's name or tag.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FieldToml {
    pub name: Option<Spanned<Globs>>,
    pub tag: Option<FieldTags>,
    pub provider: Option<Globs>,
    pub event: Option<Globs>,
    pub level: Option<LevelText>,
    pub kind: Option<Kind>,
    pub action: Option<Action>,
}

/// What is done with undecoded payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawPolicy {
    /// Kept as it is.
    Keep,
    /// Searched as text in 8 and 16 bit characters; left out when anything is found.
    #[default]
    Scan,
    /// Left out always.
    Drop,
}

/// What the scrubber does; absent keys keep what lower catalogues say.
#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct ScrubToml {
    pub enabled: Option<bool>,
    pub email: Option<Action>,
    pub card: Option<Action>,
    pub user: Option<Action>,
    pub sid: Option<Action>,
    pub secret: Option<Action>,
    pub ip: Option<Action>,
    pub mac: Option<Action>,
    pub phone: Option<Action>,
    pub host: Option<Action>,
    pub gps: Option<Action>,
    pub tagged: Option<Action>,
    pub raw: Option<RawPolicy>,
    #[serde(default)]
    pub hosts: Vec<String>,
}

impl ScrubToml {
    /// The actions given, by kind.
    pub fn actions(&self) -> [(Kind, Option<Action>); 11] {
        [
            (Kind::Email, self.email),
            (Kind::Card, self.card),
            (Kind::User, self.user),
            (Kind::Sid, self.sid),
            (Kind::Secret, self.secret),
            (Kind::Ip, self.ip),
            (Kind::Mac, self.mac),
            (Kind::Phone, self.phone),
            (Kind::Host, self.host),
            (Kind::Gps, self.gps),
            (Kind::Tagged, self.tagged),
        ]
    }
}
