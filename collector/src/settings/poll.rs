//! What is in force, when to ask again, and what a reply changes: no I/O, no clock.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::envelope::open;
use super::{Document, FetchError, Fetched, PublicKey, SettingsError};
use crate::audit::{What, hex};

/// First pause after a failure; each further one doubles it.
const RETRY_FIRST: Duration = Duration::from_secs(60);

/// What is kept on disk: enough to begin with after a restart, and to refuse older documents
/// even when the one in force was withdrawn.
#[derive(Serialize, Deserialize)]
struct Kept {
    etag: Option<String>,
    seen: u64,
    #[serde(with = "as_text")]
    envelope: Vec<u8>,
}

mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer};

    /// An envelope is JSON, so text.
    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(std::str::from_utf8(bytes).unwrap_or_default())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        String::deserialize(d).map(String::into_bytes)
    }
}

/// A refused document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub error: SettingsError,
    /// For the audit log; `None` when the same bytes were refused the time before.
    pub audit: Option<What>,
}

/// What a reply did.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing changed.
    Same,
    /// There is a new document in force.
    Changed {
        /// The document.
        document: Arc<Document>,
        /// What to keep on disk for [`Settings::open`].
        keep: Vec<u8>,
        /// For the audit log.
        audit: What,
    },
    /// The reply was refused; the document in force stays.
    Refused(Refusal),
    /// The far side could not be asked; the document in force stays.
    Failed(FetchError),
}

/// The remote settings as they stand.
#[derive(Debug)]
pub struct Settings {
    keys: Vec<PublicKey>,
    document: Option<Arc<Document>>,
    digest: [u8; 32],
    etag: Option<String>,
    seen: u64,
    failures: u32,
    refused: Option<[u8; 32]>,
    asked: bool,
}

impl Settings {
    /// Begins with what [`Outcome::Changed`] gave to keep. The signature is verified again: a
    /// changed file, or one whose key is no longer configured, is refused, and nothing is in
    /// force until the next reply.
    #[must_use]
    pub fn open(keys: Vec<PublicKey>, kept: Option<&[u8]>) -> (Settings, Option<Refusal>) {
        let mut settings = Settings {
            keys,
            document: None,
            digest: [0; 32],
            etag: None,
            seen: 0,
            failures: 0,
            refused: None,
            asked: false,
        };
        let Some(kept) = kept else { return (settings, None) };
        let read: Result<Kept, _> = serde_json::from_slice(kept);
        let refusal = match read {
            Err(e) => Some(SettingsError::Envelope(format!("what was kept cannot be read: {e}"))),
            Ok(kept) => {
                settings.seen = kept.seen;
                match open(&settings.keys, &kept.envelope) {
                    Ok((document, _)) => {
                        settings.seen = settings.seen.max(document.version());
                        settings.digest = Sha256::digest(&kept.envelope).into();
                        settings.document = Some(Arc::new(document));
                        settings.etag = kept.etag;
                        None
                    }
                    Err(e) => Some(e),
                }
            }
        };
        let refusal = refusal.map(|error| Refusal { audit: Some(refused(&error)), error });
        (settings, refusal)
    }

    /// The document in force.
    #[must_use]
    pub fn document(&self) -> Option<&Arc<Document>> {
        self.document.as_ref()
    }

    /// The validator to ask with.
    #[must_use]
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// How long to wait before the next question: nothing at first, then the document's time,
    /// after failures one to `refresh`, doubling. `chance` (0 to 1) spreads it by a tenth, so
    /// that a fleet does not ask at once.
    #[must_use]
    pub fn next_poll(&self, chance: f64) -> Duration {
        if !self.asked {
            return Duration::ZERO;
        }
        let refresh = self.document.as_ref().map_or(Duration::from_secs(3600), |d| d.refresh());
        let wait = match self.failures {
            0 => refresh,
            n => RETRY_FIRST.saturating_mul(1 << n.saturating_sub(1).min(16)).min(refresh),
        };
        let chance = if chance.is_finite() { chance.clamp(0.0, 1.0) } else { 0.5 };
        wait.mul_f64(0.9 + chance / 5.0)
    }

    /// Takes a reply to the question that went out with [`Settings::etag`].
    pub fn reply(&mut self, reply: Result<Fetched, FetchError>) -> Outcome {
        self.asked = true;
        let (bytes, etag) = match reply {
            Err(e) => {
                self.failures = self.failures.saturating_add(1);
                return Outcome::Failed(e);
            }
            Ok(Fetched::NotModified) => {
                self.failures = 0;
                return Outcome::Same;
            }
            Ok(Fetched::Document { bytes, etag }) => (bytes, etag.filter(|e| e.len() <= 256)),
        };
        self.failures = 0;
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        if self.document.is_some() && digest == self.digest {
            self.etag = etag;
            return Outcome::Same;
        }
        let opened = open(&self.keys, &bytes).and_then(|(document, key)| {
            // the same version again may only be the same document
            let older = document.version() < self.seen
                || document.version() == self.seen && self.document.as_ref().is_some_and(|d| **d != document);
            if older {
                return Err(SettingsError::Older { offered: document.version(), seen: self.seen });
            }
            Ok((document, key))
        });
        match opened {
            Ok((document, key)) => {
                let document = Arc::new(document);
                self.seen = document.version();
                self.digest = digest;
                self.refused = None;
                self.document = Some(Arc::clone(&document));
                let kept = Kept { etag: etag.clone(), seen: self.seen, envelope: bytes };
                self.etag = etag;
                let audit = What::Settings { version: document.version(), key, sha256: hex(&digest) };
                Outcome::Changed { document, keep: serde_json::to_vec(&kept).unwrap_or_default(), audit }
            }
            Err(error) => {
                // its validator would hide a mended document of the same name
                self.etag = None;
                let again = self.refused == Some(digest);
                self.refused = Some(digest);
                Outcome::Refused(Refusal { audit: (!again).then(|| refused(&error)), error })
            }
        }
    }
}

fn refused(error: &SettingsError) -> What {
    What::SettingsRefused { reason: error.to_string() }
}
