//! TLS of a client: rustls with ring, versions 1.2 and 1.3.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use serde::Deserialize;

use super::HttpContext;
use super::pins::{PinSet, PinVerifier};
use crate::secret::{SecretError, SecretRef};

/// `[….tls]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// `ca_file`: PEM file of the roots to trust in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// `system_roots`: with `ca_file`, trust the system's roots too. Default: false.
    pub system_roots: bool,
    /// `client_cert`: PEM file of the client's certificate and its intermediates.
    pub client_cert: Option<PathBuf>,
    /// `client_key`: the client's key in PEM, as a secret's reference.
    pub client_key: Option<SecretRef>,
    /// `min_version`: `"1.2"` (default) or `"1.3"`.
    pub min_version: TlsVersion,
    /// `[[….tls.pins]]`
    pub pins: Vec<PinSet>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    #[serde(rename = "1.2")]
    V12,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    V13,
}

impl TlsVersion {
    /// This and those above it, in words.
    pub(super) fn on(self) -> &'static str {
        match self {
            TlsVersion::V12 => "1.2 or 1.3",
            TlsVersion::V13 => "1.3",
        }
    }
}

/// What keeps a server from speaking TLS with us until someone acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It misses the client's certificate, or does not take it.
    ClientCertificate,
    /// No version in common.
    Version,
}

impl Refusal {
    /// Reads it from what rustls says within an error's text: HTTP/2 and the client of Kafka keep
    /// its words alone. A test tells when they change.
    pub(crate) fn of(text: &str) -> Option<Refusal> {
        let behind = |lead| {
            let parts = text.split(lead).skip(1);
            parts.filter_map(|rest: &str| rest.split(|c: char| !c.is_ascii_alphanumeric()).next())
        };
        let of_alert = |name| match name {
            "CertificateRequired"
            | "UnknownCA"
            | "BadCertificate"
            | "UnsupportedCertificate"
            | "CertificateRevoked"
            | "CertificateExpired"
            | "CertificateUnknown"
            | "AccessDenied" => Some(Refusal::ClientCertificate),
            "ProtocolVersion" => Some(Refusal::Version),
            _ => None,
        };
        let of_ours = |name| match name {
            "ServerDoesNotSupportTls12Or13" | "ServerTlsVersionIsDisabledByOurConfig" => {
                Some(Refusal::Version)
            }
            _ => None,
        };
        behind("received fatal alert: ")
            .find_map(of_alert)
            .or_else(|| behind("peer is incompatible: ").find_map(of_ours))
    }

    /// What to do about it, for a sink.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Refusal::ClientCertificate => {
                "the server wants a client certificate that it accepts: see that tls.client_cert and \
                 tls.client_key of this sink are set, that the certificate has not ended, and that the \
                 server trusts its CA"
            }
            Refusal::Version => {
                "have the server speak a newer TLS, check the address, or lower tls.min_version of this sink"
            }
        }
    }
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A PEM file that cannot be read or holds nothing usable.
    #[error("{what} {path}: {why}")]
    Pem {
        /// What it is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The client's key.
    #[error("tls.client_key")]
    Key(#[source] SecretError),
    /// The client's key is no key, or not the certificate's.
    #[error("tls.client_key is no private key in PEM, or not the key of tls.client_cert")]
    KeyUnusable,
    /// One of `client_cert` and `client_key` is missing.
    #[error("tls.client_cert and tls.client_key belong together")]
    HalfIdentity,
    /// The pins are incomplete.
    #[error("{0}")]
    Pins(String),
    /// The system has no roots.
    #[error("no trusted root: {0}")]
    Roots(String),
}

#[derive(Debug)]
struct RustlsClock(crate::Clock);

impl TimeProvider for RustlsClock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.0.now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Some(UnixTime::since_unix_epoch(since))
    }
}

fn certificates(what: &'static str, path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |why: String| TlsError::Pem { what, path: path.clone(), why };
    let list: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
    match list {
        Ok(list) if list.is_empty() => Err(wrong("holds no certificate".to_owned())),
        Ok(list) => Ok(list),
        Err(e) => Err(wrong(e.to_string())),
    }
}

impl TlsConfig {
    /// The roots; none of the system's unless asked for.
    fn roots(&self, system: bool) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        if system {
            let native = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(native.certs);
            if added == 0 && self.ca_file.is_none() {
                return Err(TlsError::Roots("the system's store is empty; set tls.ca_file".to_owned()));
            }
        }
        if let Some(path) = &self.ca_file {
            let (added, _) = roots.add_parsable_certificates(certificates("tls.ca_file", path)?);
            if added == 0 {
                let why = "holds no usable root".to_owned();
                return Err(TlsError::Pem { what: "tls.ca_file", path: path.clone(), why });
            }
        }
        Ok(roots)
    }

    /// Builds the client's side for another protocol than HTTP.
    pub(crate) fn build_plain(&self, ctx: &HttpContext) -> Result<ClientConfig, TlsError> {
        let mut config = self.build(ctx)?;
        config.alpn_protocols.clear();
        Ok(config)
    }

    /// Builds the client's side.
    pub(super) fn build(&self, ctx: &HttpContext) -> Result<ClientConfig, TlsError> {
        if let Some(problem) = self.pins.iter().find_map(PinSet::problem) {
            return Err(TlsError::Pins(problem));
        }
        self.with_verifier(ctx, |ordinary, roots, provider| {
            if self.pins.is_empty() {
                return Ok(ordinary);
            }
            Ok(Arc::new(PinVerifier {
                ordinary,
                roots: roots()?,
                algorithms: provider.signature_verification_algorithms,
                sets: self.pins.clone(),
                monitor: ctx.pins.clone(),
            }))
        })
    }

    /// Builds the client's side with a verifier made of the ordinary one and the roots that chains
    /// may end in.
    pub(super) fn with_verifier(
        &self,
        ctx: &HttpContext,
        make: impl FnOnce(
            Arc<dyn ServerCertVerifier>,
            &dyn Fn() -> Result<Arc<RootCertStore>, TlsError>,
            &Arc<CryptoProvider>,
        ) -> Result<Arc<dyn ServerCertVerifier>, TlsError>,
    ) -> Result<ClientConfig, TlsError> {
        // explicit, so that no other crate's choice of a process-wide provider counts
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let store = |e: String| TlsError::Roots(e);
        let roots = || self.roots(self.ca_file.is_none() || self.system_roots).map(Arc::new);
        let ordinary: Arc<dyn ServerCertVerifier> = match &self.ca_file {
            None => platform(&provider)?,
            Some(_) => WebPkiServerVerifier::builder_with_provider(roots()?, Arc::clone(&provider))
                .build()
                .map_err(|e| store(e.to_string()))?,
        };
        let verifier = make(ordinary, &roots, &provider)?;
        let versions: &[&rustls::SupportedProtocolVersion] = match self.min_version {
            TlsVersion::V12 => &[&rustls::version::TLS12, &rustls::version::TLS13],
            TlsVersion::V13 => &[&rustls::version::TLS13],
        };
        let clock = Arc::new(RustlsClock(ctx.clock.clone()));
        let builder = ClientConfig::builder_with_details(provider, clock)
            .with_protocol_versions(versions)
            .map_err(|e| store(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match (&self.client_cert, &self.client_key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = certificates("tls.client_cert", cert)?;
                let pem = key.resolve().map_err(TlsError::Key)?;
                let key = PrivateKeyDer::from_pem_slice(pem.expose().as_bytes())
                    .map_err(|_| TlsError::KeyUnusable)?;
                builder.with_client_auth_cert(chain, key).map_err(|_| TlsError::KeyUnusable)?
            }
            _ => return Err(TlsError::HalfIdentity),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Counts how often a server asks for the client's certificate.
#[derive(Debug)]
pub(super) struct Asked {
    inner: Arc<dyn ResolvesClientCert>,
    times: Arc<AtomicU64>,
}

impl Asked {
    /// Has a set-up count from now on.
    pub fn count(config: &mut ClientConfig, times: &Arc<AtomicU64>) {
        let inner = Arc::clone(&config.client_auth_cert_resolver);
        config.client_auth_cert_resolver = Arc::new(Asked { inner, times: Arc::clone(times) });
    }
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, roots: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.times.fetch_add(1, Ordering::Relaxed);
        self.inner.resolve(roots, schemes)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.inner.only_raw_public_keys()
    }

    fn has_certs(&self) -> bool {
        self.inner.has_certs()
    }
}

/// The system's own verifier.
fn platform(provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    rustls_platform_verifier::Verifier::new(Arc::clone(provider))
        .map(|v| Arc::new(v) as Arc<dyn ServerCertVerifier>)
        .map_err(|e| TlsError::Roots(e.to_string()))
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription as Alert, Error, PeerIncompatible};

    use super::*;

    #[test]
    fn what_a_server_refuses_is_read_from_the_words_of_the_library() {
        for alert in [
            Alert::CertificateRequired,
            Alert::UnknownCA,
            Alert::BadCertificate,
            Alert::UnsupportedCertificate,
            Alert::CertificateRevoked,
            Alert::CertificateExpired,
            Alert::CertificateUnknown,
            Alert::AccessDenied,
        ] {
            let text = format!("connection error: {}, and more", Error::AlertReceived(alert));
            assert_eq!(Refusal::of(&text), Some(Refusal::ClientCertificate), "{text}");
        }
        for error in [
            Error::AlertReceived(Alert::ProtocolVersion),
            PeerIncompatible::ServerDoesNotSupportTls12Or13.into(),
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into(),
        ] {
            let text = error.to_string();
            assert_eq!(Refusal::of(&text), Some(Refusal::Version), "{text}");
        }
        let several = format!(
            "{}, {}",
            Error::AlertReceived(Alert::InternalError),
            Error::AlertReceived(Alert::UnknownCA)
        );
        assert_eq!(Refusal::of(&several), Some(Refusal::ClientCertificate));
        for text in
            ["", "CertificateRequired", "received fatal alert: ", "received fatal alert: InternalError"]
        {
            assert_eq!(Refusal::of(text), None, "{text}");
        }
    }
}
