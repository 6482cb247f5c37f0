//! One entry and its JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tidegate_proto::time::format_rfc3339;
use tidegate_ring::{Chain, ChainEntry, PerLevel, Ring, RingError};

use crate::gate::level::LevelInForce;

/// The level in force as entries have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// 0 to 3.
    pub level: u8,
    /// Whether telemetry is enabled.
    pub enabled: bool,
    /// Who decided.
    pub decided_by: String,
    /// What an operator must look at.
    pub alarm: Option<String>,
}

impl From<&LevelInForce> for InForce {
    fn from(l: &LevelInForce) -> InForce {
        InForce {
            level: l.level as u8,
            enabled: l.enabled,
            decided_by: l.decided_by.as_str().to_owned(),
            alarm: l.alarm.clone(),
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
#[non_exhaustive]
pub enum What {
    /// The level in force, or whether telemetry is enabled, changed.
    Level {
        /// Before.
        from: InForce,
        /// Since then.
        to: InForce,
        /// Events that lowering it removed from the ring, per level.
        purged: PerLevel,
        /// Removed from dead letters.
        #[serde(default)]
        dead_letters: u64,
        /// Why they could not be removed.
        purge_failed: Option<String>,
    },
    /// The administrator's policy says something else.
    Policy {
        /// What it says now, in words.
        now: String,
    },
    /// A switch such as `sql` was turned, with all that go with it.
    Switch {
        /// Its name.
        name: String,
        /// On or off.
        on: bool,
        /// The others that went along.
        with: Vec<String>,
    },
    /// Other catalogues are in force.
    Catalogue {
        /// SHA-256 in hex of each, by name.
        files: BTreeMap<String, String>,
    },
    /// Catalogues or a configuration were refused; the old ones stay.
    Refused {
        /// The file.
        file: String,
        /// Why, with line and key.
        reason: String,
    },
    /// Remote settings are in force.
    Settings {
        /// The document's version.
        version: u64,
        /// The id of the key that signed it.
        key: String,
        /// SHA-256 in hex of the envelope.
        sha256: String,
    },
    /// Remote settings were refused; the old ones stay.
    SettingsRefused {
        /// Why.
        reason: String,
    },
    /// A server did not show a pinned key.
    PinFailure {
        /// The endpoint, without secrets.
        endpoint: String,
        /// What was shown.
        reason: String,
    },
    /// Someone asked for events to be removed by their content; the entries of what was done follow.
    PurgeAsked {
        /// The condition, as given but for the values looked for.
        matching: String,
        /// Whether delivered blobs are to go too.
        delivered: bool,
    },
    /// Events were removed by their content or age.
    Purge {
        /// The condition, as given but for the values looked for.
        matching: String,
        /// Events removed from the ring, per level.
        events: PerLevel,
        /// Removed from dead letters.
        dead_letters: u64,
        /// Delivered blobs that deletion was asked for.
        blobs: Vec<String>,
    },
    /// Damaged parts of the ring were set aside.
    Repair {
        /// Files written anew.
        segments: u64,
        /// What was found, in words.
        found: Vec<String>,
    },
    /// Events or logs were copied out.
    Export {
        /// Of what.
        of: String,
        /// To where.
        to: String,
        /// How many.
        entries: u64,
    },
    /// A sink was taken from the ring; events of its side of the account, per level.
    Detach {
        /// Its name.
        sink: String,
        /// Everything up to here was settled.
        settled: u64,
        /// Delivered.
        delivered: PerLevel,
        /// Refused by the far side.
        rejected: PerLevel,
        /// Lost, for any reason.
        lost: PerLevel,
        /// Held for it then, and not delivered to it.
        held: PerLevel,
    },
    /// Someone looked at events.
    Viewer {
        /// `true` when the session began.
        open: bool,
        /// The session's id; not its token.
        session: String,
    },
    /// The device's random id was made anew.
    DeviceId {
        /// Why.
        reason: String,
    },
    /// An entry of a kind that this version does not know.
    #[serde(other)]
    Unknown,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// By whom or what: a user, `policy file /etc/…`, `remote settings`.
    pub who: String,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

impl Record {
    /// Longest `who`, in characters; more is cut.
    pub const MAX_WHO: usize = 200;

    /// An entry of a time in nanoseconds since 1970.
    #[must_use]
    pub fn new(time_ns: i64, who: &str, what: What) -> Record {
        Record { time: format_rfc3339(time_ns), who: who.chars().take(Self::MAX_WHO).collect(), what }
    }

    /// Its JSON, one line.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // texts, numbers and maps with text keys: nothing that JSON cannot say
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Appends it to the ring's audit chain; durable on return.
    ///
    /// # Errors
    /// When the ring's book cannot be written.
    pub fn append(&self, ring: &dyn Ring) -> Result<ChainEntry, RingError> {
        ring.chain_append(Chain::Audit, &self.to_json())
    }
}

/// An entry as `audit list` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listed {
    /// Its number.
    pub number: u64,
    /// Its hash in hex.
    pub hash: String,
    /// Its content; `null` where it is no JSON.
    pub entry: serde_json::Value,
}

impl From<&ChainEntry> for Listed {
    fn from(e: &ChainEntry) -> Listed {
        let entry = serde_json::from_slice(&e.data).unwrap_or_default();
        Listed { number: e.number, hash: super::hex(&e.hash), entry }
    }
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |key: &str| self.entry.get(key).and_then(serde_json::Value::as_str).unwrap_or("?");
        write!(f, "{:6} {} {:16} {}", self.number, text("time"), text("what"), text("who"))?;
        let rest = self.entry.as_object().into_iter().flatten();
        for (key, value) in
            rest.filter(|(k, v)| !matches!(k.as_str(), "time" | "what" | "who") && !v.is_null())
        {
            write!(f, " {key}={value}")?;
        }
        Ok(())
    }
}
