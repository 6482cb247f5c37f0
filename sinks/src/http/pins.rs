//! Public-key pins: SHA-256 over the SubjectPublicKeyInfo of a certificate of the *verified*
//! chain, on top of the ordinary checks, never in place of them.
//!
//! Any certificate of the chain may carry a pin: the server's, an intermediate, the root. The
//! hashes are those of RFC 7469 (`openssl x509 -pubkey -noout | openssl pkey -pubin -outform der
//! | openssl dgst -sha256 -binary | base64`). There is no fallback: a chain without a pin is no
//! connection, unless its set only reports.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tidegate_proto::hex;

use super::der;
use crate::units::Span;
use tokio::sync::watch;

/// Most endpoints that a monitor keeps.
const ENDPOINTS_MAX: usize = 256;

/// SHA-256 of a SubjectPublicKeyInfo.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a key.
    #[must_use]
    pub fn of_spki(spki: &[u8]) -> Pin {
        Pin(Sha256::digest(spki).into())
    }

    /// The pin of a certificate's key; `None` when the bytes are no certificate.
    #[must_use]
    pub fn of_certificate(der: &[u8]) -> Option<Pin> {
        der::facts(der).map(|f| Pin::of_spki(&f.spki))
    }

    /// Reads `sha256/BASE64`, `sha256//BASE64` (curl's form), `BASE64` or 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Pin> {
        let text = text.trim();
        let text = match text.strip_prefix("sha256/") {
            // curl has a second slash; one that begins the base64 itself is among 44 characters
            Some(hash) if hash.len() == 45 => hash.strip_prefix('/')?,
            Some(hash) => hash,
            None => text,
        };
        let bytes = hex::decode(text).or_else(|| STANDARD.decode(text).ok()?.try_into().ok());
        bytes.map(Pin)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Pin, D::Error> {
        let text = String::deserialize(d)?;
        Pin::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!("\"{text}\" is no pin; write sha256/ and the hash in base64"))
        })
    }
}

/// `[[…tls.pins]]`: the pins of one endpoint.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinSet {
    /// `host`: a name, `*.suffix` for all names below a suffix, `*` for all. Default: `*`. The
    /// first set that fits a host counts.
    #[serde(default = "any_host")]
    pub host: String,
    /// `sha256`: one of these must be in the verified chain. At least two: the second is the
    /// backup, whose key is kept away from the server.
    pub sha256: Vec<Pin>,
    /// `no_backup`: one pin is enough. Losing its key then needs a new configuration everywhere.
    #[serde(default)]
    pub no_backup: bool,
    /// `report_only`: a miss is counted and logged, and the connection goes on.
    #[serde(default)]
    pub report_only: bool,
    /// `warn_before`: a pinned certificate that ends so soon is a warning. Default: 30 days.
    #[serde(default = "month")]
    pub warn_before: Span,
}

fn any_host() -> String {
    "*".to_owned()
}

fn month() -> Span {
    Span(Duration::from_secs(30 * 86_400))
}

impl PinSet {
    /// A set for one host with the usual settings.
    #[must_use]
    pub fn new(host: &str, sha256: Vec<Pin>) -> PinSet {
        let host = host.to_owned();
        PinSet { host, sha256, no_backup: false, report_only: false, warn_before: month() }
    }

    /// What is wrong with it, in words.
    pub(crate) fn problem(&self) -> Option<String> {
        let mut distinct = self.sha256.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let least = if self.no_backup { 1 } else { 2 };
        (distinct.len() < least).then(|| match distinct.len() {
            0 => format!("the pins of \"{}\" list no sha256", self.host),
            _ => format!("the pins of \"{}\" have no backup: add a second, or no_backup = true", self.host),
        })
    }

    /// Whether it counts for a host.
    #[must_use]
    pub fn fits(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let pattern = self.host.to_ascii_lowercase();
        match pattern.strip_prefix('*') {
            Some("") => true,
            Some(suffix) => host.len() > suffix.len() && suffix.starts_with('.') && host.ends_with(suffix),
            None => host == pattern,
        }
    }
}

/// What the pins of one host have seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinState {
    /// Connections whose chain had a pin.
    pub matched: u64,
    /// Connections refused, or reported only.
    pub missed: u64,
    /// Misses do not refuse connections.
    pub report_only: bool,
    /// The last check had a pin.
    pub ok: bool,
    /// When it was.
    pub last: SystemTime,
    /// Keys of the last verified chain, the server's first.
    pub chain: Vec<Pin>,
    /// The pinned certificate of the last chain ends then; `None` for a root of the system.
    pub not_after: Option<SystemTime>,
    /// It ends within the set's `warn_before`.
    pub expires_soon: bool,
}

/// Collects what pins see, for health and the audit log. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PinMonitor(Arc<Monitored>);

#[derive(Debug, Default)]
struct Monitored {
    states: Mutex<BTreeMap<String, PinState>>,
    /// Counts what was news.
    news: watch::Sender<u64>,
}

impl PinMonitor {
    /// The state of every host with pins that was talked to.
    #[must_use]
    pub fn states(&self) -> BTreeMap<String, PinState> {
        self.0.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes whenever a host is new, a match becomes a miss or the other way round, the chain
    /// changes, or a pinned certificate begins to end soon.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.0.news.subscribe()
    }

    /// Whether it is news.
    fn note(&self, host: &str, seen: PinState) -> bool {
        let mut states = self.0.states.lock().unwrap_or_else(PoisonError::into_inner);
        let room = states.len() < ENDPOINTS_MAX;
        let news = match states.get_mut(host) {
            Some(state) => {
                let (matched, missed) = (state.matched + seen.matched, state.missed + seen.missed);
                let key = |s: &PinState| (s.ok, s.expires_soon, s.report_only);
                let news = key(state) != key(&seen) || state.chain != seen.chain;
                *state = PinState { matched, missed, ..seen };
                news
            }
            None => {
                if room {
                    states.insert(host.to_owned(), seen);
                }
                true
            }
        };
        drop(states);
        if news {
            self.0.news.send_modify(|n| *n += 1);
        }
        news
    }
}

/// A verified chain that has no pin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no pin of {host} is in its verified chain; its keys are {}", show(chain))]
pub struct PinMiss {
    /// The host.
    pub host: String,
    /// Keys of the chain, the server's first.
    pub chain: Vec<Pin>,
}

fn show(chain: &[Pin]) -> String {
    chain.iter().map(Pin::to_string).collect::<Vec<_>>().join(", ")
}

/// The ordinary checks, then the pins.
#[derive(Debug)]
pub(crate) struct PinVerifier {
    pub ordinary: Arc<dyn ServerCertVerifier>,
    /// Where verified chains end. The system's own verifier does not tell its chain, so it is
    /// built once more from these.
    pub roots: Arc<RootCertStore>,
    pub algorithms: rustls::crypto::WebPkiSupportedAlgorithms,
    pub sets: Vec<PinSet>,
    pub monitor: PinMonitor,
}

/// A certificate of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its key's pin.
    pub pin: Pin,
    /// Common name of whom it is for; empty when there is none.
    pub subject: String,
    /// When it ends; `None` for a root of the system, which is trusted by its key.
    pub not_after: Option<SystemTime>,
}

impl Link {
    /// Of a certificate; `None` when the bytes are none.
    pub(super) fn of(der: &[u8]) -> Option<Link> {
        der::facts(der).map(|f| Link {
            pin: Pin::of_spki(&f.spki),
            subject: f.subject,
            not_after: Some(f.not_after),
        })
    }
}

/// The verified chain that has a pin, or the first one that verifies. The system's own verifier
/// does not tell its chain, so it is built once more.
pub(super) fn verified_chain(
    roots: &RootCertStore,
    algorithms: &rustls::crypto::WebPkiSupportedAlgorithms,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    pins: &[Pin],
) -> Result<Vec<Link>, Error> {
    let bad = |_| Error::InvalidCertificate(CertificateError::UnknownIssuer);
    let leaf = webpki::EndEntityCert::try_from(end_entity).map_err(bad)?;
    let links = |path: &webpki::VerifiedPath<'_>| -> Vec<Link> {
        let certificates = std::iter::once(path.end_entity().der())
            .chain(path.intermediate_certificates().map(webpki::Cert::der));
        let anchor = path.anchor();
        let root = Link {
            pin: Pin::of_spki(&webpki::spki_for_anchor(anchor)),
            subject: der::common_name(&anchor.subject).unwrap_or_default(),
            not_after: None,
        };
        certificates.filter_map(|der| Link::of(&der)).chain(std::iter::once(root)).collect()
    };
    let pinned = |path: &webpki::VerifiedPath<'_>| {
        let found = links(path).iter().any(|link| pins.contains(&link.pin));
        if found { Ok(()) } else { Err(webpki::Error::UnknownIssuer) }
    };
    let usage = webpki::KeyUsage::server_auth;
    let (algorithms, anchors) = (algorithms.all, roots.roots.as_slice());
    // a chain can be built in several ways, over a cross-signed root for instance
    leaf.verify_for_usage(algorithms, anchors, intermediates, now, usage(), None, Some(&pinned))
        .or_else(|_| leaf.verify_for_usage(algorithms, anchors, intermediates, now, usage(), None, None))
        .map(|path| links(&path))
        .map_err(bad)
}

/// What a set says of a verified chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// A pin is in it.
    pub ok: bool,
    /// The pinned certificate ends then; `None` for a root.
    pub not_after: Option<SystemTime>,
    /// That is within the set's `warn_before`.
    pub expires_soon: bool,
}

impl PinSet {
    /// Looks for a pin in a verified chain.
    #[must_use]
    pub fn judge(&self, links: &[Link], at: SystemTime) -> Judged {
        let hit = links.iter().find(|link| self.sha256.contains(&link.pin));
        let not_after = hit.and_then(|link| link.not_after);
        let expires_soon = not_after.is_some_and(|end| end < at + self.warn_before.0);
        Judged { ok: hit.is_some(), not_after, expires_soon }
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.ordinary.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)?;
        let host = server_name.to_str();
        let Some(set) = self.sets.iter().find(|set| set.fits(&host)) else { return Ok(verified) };
        // an error: the system trusts it over a root that it does not show us. No chain, so no pin
        let links =
            verified_chain(&self.roots, &self.algorithms, end_entity, intermediates, now, &set.sha256)
                .unwrap_or_default();
        let at = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let Judged { ok, not_after, expires_soon } = set.judge(&links, at);
        let chain: Vec<Pin> = links.iter().map(|link| link.pin).collect();
        let news = self.monitor.note(
            &host,
            PinState {
                matched: u64::from(ok),
                missed: u64::from(!ok),
                report_only: set.report_only,
                ok,
                last: at,
                chain: chain.clone(),
                not_after,
                expires_soon,
            },
        );
        // each connection comes by here: said once, the state stays in health
        if expires_soon && news {
            tracing::warn!(%host, "the pinned certificate ends soon: see that its successor's pin is listed");
        }
        if ok {
            return Ok(verified);
        }
        let miss = PinMiss { host: host.into_owned(), chain };
        if set.report_only {
            if news {
                tracing::warn!(host = %miss.host, "{miss} (report only: connected all the same)");
            }
            return Ok(verified);
        }
        if news {
            tracing::error!(host = %miss.host, "{miss}");
        }
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(miss)))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.ordinary.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.ordinary.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.ordinary.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(host: &str, pins: &[&str]) -> PinSet {
        let list = pins.iter().map(|p| format!("\"{p}\"")).collect::<Vec<_>>().join(",");
        toml::from_str(&format!("host = \"{host}\"\nsha256 = [{list}]")).unwrap()
    }

    #[test]
    fn pins_are_read_in_all_their_forms() {
        let pin = Pin::of_spki(b"key");
        let hex: String = pin.0.iter().map(|b| format!("{b:02x}")).collect();
        let base64 = pin.to_string();
        for text in [hex.as_str(), base64.as_str(), &base64["sha256/".len()..]] {
            assert_eq!(Pin::parse(text), Some(pin), "{text}");
        }
        // curl's form; and a hash that begins with a slash of its own
        assert_eq!(Pin::parse(&base64.replacen('/', "//", 1)), Some(pin));
        let slash =
            (0..u32::MAX).map(|n| Pin::of_spki(&n.to_le_bytes())).find(|p| p.0[0] >> 2 == 63).unwrap();
        let base64 = slash.to_string();
        assert!(base64.starts_with("sha256//"));
        assert_eq!(Pin::parse(&base64), Some(slash));
        assert_eq!(Pin::parse(&base64.replacen('/', "//", 1)), Some(slash));
        for bad in ["", "sha256/", "sha256///", "sha256/AAAA", "zz", &"g".repeat(64)] {
            assert_eq!(Pin::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_set_needs_a_backup_that_is_another_key() {
        let (a, b) = (Pin::of_spki(b"a").to_string(), Pin::of_spki(b"b").to_string());
        assert!(set("*", &[&a, &b]).problem().is_none());
        assert!(set("*", &[&a, &a]).problem().unwrap().contains("no backup"));
        assert!(set("*", &[]).problem().is_some());
        let alone = PinSet { no_backup: true, ..set("*", &[&a]) };
        assert!(alone.problem().is_none());
    }

    #[test]
    fn a_pattern_fits_names_below_its_suffix_only() {
        let below = set("*.blob.test", &[]);
        assert!(below.fits("a.blob.test") && below.fits("A.Blob.Test."));
        assert!(!below.fits("blob.test") && !below.fits("ablob.test") && !below.fits("a.blob.test.evil"));
        assert!(set("h.test", &[]).fits("H.test") && !set("h.test", &[]).fits("g.h.test"));
        assert!(set("*", &[]).fits("127.0.0.1") && !set("*est", &[]).fits("h.test"));
    }
}
