//! Client assertions: a short-lived token that an application signs with the key of its
//! certificate ("Microsoft identity platform application authentication certificate
//! credentials"; RFC 7523, RFC 7515).
//!
//! ```text
//! header  {"alg":"PS256","typ":"JWT","x5t#S256":SHA-256 of the certificate}
//! claims  {"aud":the token endpoint,"iss":client id,"sub":client id,"jti":random,"nbf","iat","exp"}
//! ```
//! For AD FS, which knows the older form only: `RS256`, and `x5t` with a SHA-1.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::Clock;
use crate::secret::{Secret, SecretError, SecretRef};

/// How long an assertion holds; the authority allows ten minutes.
const LIFE: Duration = Duration::from_secs(600);
/// It holds from so long before, for clocks that go slow.
const BEFORE: Duration = Duration::from_secs(60);
/// Certificates that are sent along.
const CHAIN_MAX: usize = 8;

/// Who signs.
#[derive(Debug)]
pub(super) struct Signer {
    pub certificate: PathBuf,
    pub key: SecretRef,
    pub send_chain: bool,
    pub legacy: bool,
}

/// An assertion cannot be made. Holds nothing of the key.
#[derive(Debug, thiserror::Error)]
pub(super) enum AssertionError {
    #[error("identity.client_certificate {path} holds no certificate: {why}")]
    Certificate { path: PathBuf, why: String },
    #[error("identity.client_key")]
    Secret(#[from] SecretError),
    #[error("identity.client_key is no RSA key of 2048 to 4096 bits in PEM")]
    Key,
    #[error("identity.client_key is not the key of identity.client_certificate")]
    OtherKey,
    #[error("the assertion cannot be signed")]
    Sign,
}

impl Signer {
    /// A fresh assertion for a token endpoint.
    pub fn assertion(
        &self,
        audience: &str,
        client_id: &str,
        clock: &Clock,
    ) -> Result<Secret<String>, AssertionError> {
        let bad = |why: String| AssertionError::Certificate { path: self.certificate.clone(), why };
        let chain = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(|list| list.take(CHAIN_MAX).collect::<Result<Vec<_>, _>>())
            .map_err(|e| bad(e.to_string()))?;
        let certificate = chain.first().ok_or_else(|| bad("it has none".to_owned()))?;
        let pem = self.key.resolve()?;
        let key = PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()).map_err(|_| AssertionError::Key)?;
        let pair = match &key {
            PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            _ => return Err(AssertionError::Key),
        };
        let pair = pair.map_err(|_| AssertionError::Key)?;
        // the key stands at the end of the certificate's SubjectPublicKeyInfo
        let spki = crate::http::spki(certificate).ok_or_else(|| bad("it is not X.509".to_owned()))?;
        if !spki.ends_with(pair.public().as_ref()) {
            return Err(AssertionError::OtherKey);
        }

        let random = SystemRandom::new();
        let mut id = [0; 16];
        random.fill(&mut id).map_err(|_| AssertionError::Sign)?;
        let now = clock.since_epoch();
        let mut header = if self.legacy {
            let sha1 = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, certificate);
            json!({ "alg": "RS256", "typ": "JWT", "x5t": URL_SAFE_NO_PAD.encode(sha1) })
        } else {
            let sha256 = URL_SAFE_NO_PAD.encode(Sha256::digest(certificate));
            json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": sha256 })
        };
        if let (true, Some(members)) = (self.send_chain, header.as_object_mut()) {
            let list: Vec<String> = chain.iter().map(|c| STANDARD.encode(c)).collect();
            members.insert("x5c".to_owned(), list.into());
        }
        let claims = json!({
            "aud": audience,
            "iss": client_id,
            "sub": client_id,
            "jti": URL_SAFE_NO_PAD.encode(id),
            "nbf": now.saturating_sub(BEFORE).as_secs(),
            "iat": now.as_secs(),
            "exp": (now + LIFE).as_secs(),
        });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let mut signature = vec![0; pair.public().modulus_len()];
        let scheme: &dyn ring::signature::RsaEncoding =
            if self.legacy { &RSA_PKCS1_SHA256 } else { &RSA_PSS_SHA256 };
        pair.sign(scheme, &random, signed.as_bytes(), &mut signature).map_err(|_| AssertionError::Sign)?;
        let assertion = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        crate::secret::known::note_passing(&assertion);
        Ok(Secret::new(assertion))
    }
}
