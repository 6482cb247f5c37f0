//! The signature around a document.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::Deserialize;

use super::{Document, SettingsError};

/// Stands in front of what is signed, so that the key's other signatures are none here.
const DOMAIN: &[u8] = b"tidegate settings 1\n";

/// The bytes that are signed for a document. With OpenSSL:
/// `printf 'tidegate settings 1\n' | cat - document.json > signed`, then
/// `openssl pkeyutl -sign -rawin -inkey key.pem -in signed`.
#[must_use]
pub fn signed_bytes(document: &[u8]) -> Vec<u8> {
    [DOMAIN, document].concat()
}

/// A key that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the settings key \"{id}\": {why}")]
pub struct KeyError {
    /// The key's id.
    pub id: String,
    /// What is wrong.
    pub why: &'static str,
}

/// An Ed25519 public key that settings may be signed with, and its id. Several are possible,
/// for the time of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    id: String,
    bytes: [u8; 32],
}

impl PublicKey {
    /// Reads a key as the configuration has it: base64 of the 32 bytes, or of the 44 bytes that
    /// `openssl pkey -pubout -outform DER` gives.
    ///
    /// # Errors
    /// An id of other than 1 to 32 characters, no base64, a key of another kind.
    pub fn new(id: &str, base64: &str) -> Result<PublicKey, KeyError> {
        let wrong = |why| KeyError { id: id.chars().take(40).collect(), why };
        if id.is_empty() || id.len() > 32 {
            return Err(wrong("an id has 1 to 32 characters"));
        }
        let bytes = STANDARD.decode(base64.trim()).map_err(|_| wrong("no base64"))?;
        // RFC 8410: the header of an Ed25519 key
        const HEADER: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        let key = bytes.strip_prefix(&HEADER).unwrap_or(&bytes);
        let bytes = key.try_into().map_err(|_| wrong("an Ed25519 public key has 32 bytes"))?;
        Ok(PublicKey { id: id.to_owned(), bytes })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    document: String,
    key: String,
    signature: String,
}

/// Opens an envelope: signature first, then the document; the id of the key as well.
pub(super) fn open(keys: &[PublicKey], bytes: &[u8]) -> Result<(Document, String), SettingsError> {
    if bytes.len() > Document::MAX_LEN * 2 {
        return Err(SettingsError::Envelope(format!("{} bytes are more than one may have", bytes.len())));
    }
    let bad = |what: &str, e: &dyn std::fmt::Display| SettingsError::Envelope(format!("{what}: {e}"));
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|e| bad("no signed envelope", &e))?;
    let document = STANDARD.decode(&envelope.document).map_err(|e| bad("document", &e))?;
    if document.len() > Document::MAX_LEN {
        return Err(SettingsError::Envelope("the document is larger than 32 KiB".to_owned()));
    }
    let signature = STANDARD.decode(&envelope.signature).map_err(|e| bad("signature", &e))?;
    let named: String = envelope.key.chars().take(40).collect();
    let key =
        keys.iter().find(|k| k.id == envelope.key).ok_or_else(|| SettingsError::UnknownKey(named.clone()))?;
    UnparsedPublicKey::new(&ED25519, &key.bytes)
        .verify(&signed_bytes(&document), &signature)
        .map_err(|_| SettingsError::Signature(named.clone()))?;
    Ok((Document::parse(&document)?, named))
}
