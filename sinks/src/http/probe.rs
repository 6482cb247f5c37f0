//! Looking at a server's certificates: what it shows, whether that verifies, what its pins are.
//!
//! A connection is made as a sink makes it (its roots, its proxy), the handshake is completed
//! whatever the certificates are, and a `HEAD` request without credentials ends it. The answer does
//! not count. Nothing else is ever sent over a connection whose certificates were not verified.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::pins::{Link, PinSet, verified_chain};
use super::{Client, HttpBuildError, HttpConfig, HttpContext, HttpError, Method, Request, Url};

/// What a server showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its certificates as sent, its own first.
    pub sent: Vec<Link>,
    /// The chain that verifies, the root last; or why none does.
    pub verified: Result<Vec<Link>, String>,
}

/// Why nothing was seen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The settings.
    #[error(transparent)]
    Build(#[from] HttpBuildError),
    /// The server did not get as far as its certificates.
    #[error(transparent)]
    Far(HttpError),
    /// It is no address.
    #[error("\"{0}\" is no host, with or without a port")]
    Address(String),
}

/// Records what a server shows and lets it pass.
#[derive(Debug)]
struct Recorder {
    host: String,
    ordinary: Arc<dyn ServerCertVerifier>,
    roots: Arc<RootCertStore>,
    algorithms: rustls::crypto::WebPkiSupportedAlgorithms,
    sets: Vec<PinSet>,
    seen: Arc<Mutex<Option<Shown>>>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let checked = self.ordinary.verify_server_cert(end_entity, intermediates, server_name, ocsp, now);
        // a proxy that is reached by https is not who is asked for
        if server_name.to_str() != self.host {
            return checked;
        }
        let sent = std::iter::once(end_entity).chain(intermediates).filter_map(|c| Link::of(c)).collect();
        let set = self.sets.iter().find(|s| s.fits(&self.host));
        let pins = set.map_or(&[][..], |s| s.sha256.as_slice());
        let verified = checked
            .and_then(|_| verified_chain(&self.roots, &self.algorithms, end_entity, intermediates, now, pins))
            .map_err(|e| match e {
                Error::InvalidCertificate(why) => why.to_string(),
                other => other.to_string(),
            });
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Shown { sent, verified });
        Ok(ServerCertVerified::assertion())
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

/// Looks at a server's certificates. `address` is `HOST` or `HOST:PORT`; 443 without a port.
///
/// # Errors
/// When there is no handshake.
///
/// # Cancel safety
/// Nothing is changed anywhere.
pub async fn probe(address: &str, config: &HttpConfig, ctx: &HttpContext) -> Result<Shown, ProbeError> {
    let wrong = || ProbeError::Address(address.to_owned());
    let url: Url = format!("https://{address}/").parse().map_err(|_| wrong())?;
    let plain = url.path() == "/" && url.username().is_empty() && url.query().is_none();
    let host = url.host_str().filter(|_| plain).ok_or_else(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let seen = Arc::new(Mutex::new(None));
    let tls = config.tls.with_verifier(ctx, |ordinary, roots, provider| {
        Ok(Arc::new(Recorder {
            host: host.clone(),
            ordinary,
            roots: roots()?,
            algorithms: provider.signature_verification_algorithms,
            sets: config.tls.pins.clone(),
            seen: Arc::clone(&seen),
        }))
    });
    let tls = tls.map_err(HttpBuildError::from)?;
    let client = Client::over(config, ctx, false, move || Ok(tls.clone()))?;
    // over the client without its own look at the pins, which would refuse some addresses
    let client = Client { pins: Arc::from([]), ..client };
    let answered = client.send(Request::new(Method::HEAD, url)).await;
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (seen, answered) {
        (Some(shown), _) => Ok(shown),
        (None, Err(e)) => Err(ProbeError::Far(e)),
        (None, Ok(_)) => Err(wrong()),
    }
}
