//! What the document says, checked.

use serde::Deserialize;
use tidegate_proto::level::TelemetryLevel;

use crate::gate::Globs;
use crate::gate::level::Ceilings;
use crate::sampling::{SampleRule, SamplingRules};

/// Why a document is refused; the one in force stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// It is no envelope, or larger than one may be.
    #[error("remote settings: {0}")]
    Envelope(String),
    /// No key of that id is configured.
    #[error("remote settings are signed with the key \"{0}\", which is not configured")]
    UnknownKey(String),
    /// The signature does not fit document and key.
    #[error("remote settings: the signature of the key \"{0}\" does not fit")]
    Signature(String),
    /// It was signed, but says something that cannot be used.
    #[error("remote settings:{line}{}: {problem}", if key.is_empty() { String::new() } else { format!(" ({key})") })]
    Document {
        /// Line, from 1.
        line: usize,
        /// The key concerned, empty where none is.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// It is older than one seen before, or says something else under the same version.
    #[error("remote settings of version {offered} are refused: version {seen} was in force")]
    Older {
        /// Its version.
        offered: u64,
        /// The highest seen.
        seen: u64,
    },
}

/// Providers or events that are switched off.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OffRule {
    provider: Option<Globs>,
    event: Option<Globs>,
}

impl OffRule {
    /// Whether it is on such events.
    #[must_use]
    pub fn fits(&self, provider: &str, event: &str) -> bool {
        self.provider.as_ref().is_none_or(|g| g.matches(provider))
            && self.event.as_ref().is_none_or(|g| g.matches(event))
    }
}

/// A checked document. All it can say reduces.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    format: u32,
    version: u64,
    #[serde(default = "hour")]
    refresh_seconds: u64,
    #[serde(default, deserialize_with = "level")]
    ceiling: Option<TelemetryLevel>,
    #[serde(default)]
    off: Vec<OffRule>,
    #[serde(default)]
    sampling: Vec<SampleRule>,
    #[serde(default)]
    tenants_off: Vec<String>,
}

fn hour() -> u64 {
    3600
}

fn level<'de, D: serde::de::Deserializer<'de>>(d: D) -> Result<Option<TelemetryLevel>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Raw {
        Number(u64),
        Text(String),
    }
    let text = match Option::<Raw>::deserialize(d)? {
        None => return Ok(None),
        Some(Raw::Number(n)) => n.to_string(),
        Some(Raw::Text(t)) => t,
    };
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

impl Document {
    /// Largest document, in bytes.
    pub const MAX_LEN: usize = 32 * 1024;
    /// Most entries in each list.
    pub const MAX_RULES: usize = 256;
    /// Bounds of the time between polls, in seconds: one minute, one week.
    pub const REFRESH: (u64, u64) = (60, 7 * 86_400);

    /// Reads and checks a document's bytes, whose signature was verified.
    ///
    /// # Errors
    /// [`SettingsError::Document`], with line and key.
    pub(super) fn parse(bytes: &[u8]) -> Result<Document, SettingsError> {
        let text = std::str::from_utf8(bytes).map_err(|e| wrong(1, "", &format!("no UTF-8: {e}")))?;
        let document: Document = serde_json::from_str(text).map_err(|e| {
            let line = text.lines().nth(e.line().saturating_sub(1)).unwrap_or_default();
            wrong(e.line().max(1), key_in(line, e.column()), &e.to_string())
        })?;
        let at = |key: &str| {
            let quoted = format!("\"{key}\"");
            text.lines().position(|l| l.contains(&quoted)).map_or(1, |n| n + 1)
        };
        if document.format != 1 {
            return Err(wrong(at("format"), "format", "this program reads format 1 only"));
        }
        if document.version == 0 {
            return Err(wrong(at("version"), "version", "versions count from 1"));
        }
        let lists = [
            ("off", document.off.len()),
            ("sampling", document.sampling.len()),
            ("tenants_off", document.tenants_off.len()),
        ];
        if let Some((key, _)) = lists.iter().find(|(_, n)| *n > Self::MAX_RULES) {
            return Err(wrong(at(key), key, "at most 256 entries are possible"));
        }
        if document.off.iter().any(|r| r.provider.is_none() && r.event.is_none()) {
            let why =
                "an entry needs a provider or an event; to switch everything off set ceiling and tenants_off";
            return Err(wrong(at("off"), "off", why));
        }
        if document.tenants_off.iter().any(|t| t.is_empty() || t.len() > 128) {
            return Err(wrong(at("tenants_off"), "tenants_off", "a tenant has 1 to 128 characters"));
        }
        Ok(document)
    }

    /// Counts up with each change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Time between polls, within [`Document::REFRESH`].
    #[must_use]
    pub fn refresh(&self) -> std::time::Duration {
        let (least, most) = Self::REFRESH;
        std::time::Duration::from_secs(self.refresh_seconds.clamp(least, most))
    }

    /// The ceiling, if it has one.
    #[must_use]
    pub fn ceiling(&self) -> Option<TelemetryLevel> {
        self.ceiling
    }

    /// Puts the ceiling among the others, of which the lowest is in force.
    pub fn set_ceiling(&self, ceilings: &mut Ceilings) {
        ceilings.remote = self.ceiling;
    }

    /// Whether events of this kind are off. They are dropped like events a rule drops.
    #[must_use]
    pub fn is_off(&self, provider: &str, event: &str) -> bool {
        self.off.iter().any(|r| r.fits(provider, event))
    }

    /// Whether any kind of event is off at all.
    #[must_use]
    pub fn has_off(&self) -> bool {
        !self.off.is_empty()
    }

    /// The configuration's sampling, reduced by the document's, and without what it switches off.
    #[must_use]
    pub fn sampling(&self, own: SamplingRules) -> SamplingRules {
        own.with_remote(self.sampling.clone()).with_off(self.off.clone())
    }

    /// Tenants to which nothing is sent, as their keys or ids are configured.
    #[must_use]
    pub fn tenants_off(&self) -> &[String] {
        &self.tenants_off
    }

    /// Whether nothing is to be sent to a tenant.
    #[must_use]
    pub fn is_tenant_off(&self, tenant: &str) -> bool {
        self.tenants_off.iter().any(|t| t == tenant)
    }
}

fn wrong(line: usize, key: &str, problem: &str) -> SettingsError {
    SettingsError::Document { line, key: key.to_owned(), problem: problem.to_owned() }
}

/// The last key that begins in front of a column.
fn key_in(line: &str, column: usize) -> &str {
    let end = line.char_indices().nth(column).map_or(line.len(), |(n, _)| n);
    let keys = line.match_indices("\":").filter_map(|(close, _)| {
        let open = line.get(..close)?.rfind('"')?;
        (open < end).then(|| line.get(open + 1..close))?
    });
    keys.last().unwrap_or_default()
}
