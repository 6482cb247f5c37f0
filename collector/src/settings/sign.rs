//! Making keys and envelopes, for those who operate a fleet.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::envelope::open;
use super::{Document, PublicKey, SettingsError, signed_bytes};

/// A private key cannot be made or used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// It is no key of this kind.
    #[error("this is no Ed25519 private key in PKCS#8 (base64 or PEM)")]
    Key,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
    /// The document cannot be used.
    #[error(transparent)]
    Document(#[from] SettingsError),
}

/// A fresh private key as PEM, and its public key as the configuration has it.
///
/// # Errors
/// When the system gives no random numbers.
pub fn generate() -> Result<(String, String), SignError> {
    let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| SignError::Random)?;
    let pair = Ed25519KeyPair::from_pkcs8(key.as_ref()).map_err(|_| SignError::Key)?;
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        STANDARD.encode(key.as_ref())
    );
    Ok((pem, STANDARD.encode(pair.public_key())))
}

/// Signs a document with a private key, as PEM or base64. It is checked first, so that no host
/// gets one that it must refuse.
///
/// # Errors
/// See [`SignError`].
pub fn sign(document: &[u8], key_id: &str, private: &str) -> Result<Vec<u8>, SignError> {
    let body: String = private.lines().filter(|l| !l.starts_with("-----")).map(str::trim).collect();
    let der = STANDARD.decode(body).map_err(|_| SignError::Key)?;
    // OpenSSL leaves the public half out
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| SignError::Key)?;
    Document::parse(document)?;
    let envelope = serde_json::json!({
        "document": STANDARD.encode(document),
        "key": key_id,
        "signature": STANDARD.encode(pair.sign(&signed_bytes(document))),
    });
    Ok(envelope.to_string().into_bytes())
}

/// Opens an envelope as a collector would, and gives the document and the id of its key.
///
/// # Errors
/// Why a collector would refuse it.
pub fn verify(keys: &[PublicKey], envelope: &[u8]) -> Result<(Document, String), SettingsError> {
    open(keys, envelope)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_verifies_and_what_is_broken_is_not_signed() {
        let (private, public) = generate().unwrap();
        let envelope = sign(br#"{"format":1,"version":7}"#, "ops", &private).unwrap();
        let keys = [PublicKey::new("ops", &public).unwrap()];
        let (document, key) = verify(&keys, &envelope).unwrap();
        assert_eq!((document.version(), key.as_str()), (7, "ops"));
        let (_, other) = generate().unwrap();
        assert!(verify(&[PublicKey::new("ops", &other).unwrap()], &envelope).is_err());
        let bad = sign(b"{\"format\":1,\n\"vers\":7}", "ops", &private).unwrap_err().to_string();
        assert!(bad.contains(":2") && bad.contains("vers"), "{bad}");
        assert_eq!(sign(b"{}", "ops", "hunter2").unwrap_err(), SignError::Key);
    }
}
