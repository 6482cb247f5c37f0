//! Blocks sealed at rest: ChaCha20-Poly1305 (RFC 8439) with keys from a file.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use tidegate_proto::hex;

/// A key's number, as it stands in each block, and what tells it from others of that number; zeros for
/// one that is not known.
pub(crate) type KeyCheck = (u8, [u8; 8]);

/// The value that a ring keeps the checks of its keys in.
pub(crate) const SEALED_BY: &str = "ring.keys";

pub(crate) fn encode_checks(checks: &BTreeSet<KeyCheck>) -> Vec<u8> {
    checks.iter().flat_map(|(id, check)| std::iter::once(*id).chain(*check)).collect()
}

pub(crate) fn decode_checks(bytes: &[u8]) -> BTreeSet<KeyCheck> {
    let split = |b: &[u8]| Some((*b.first()?, b.get(1..)?.try_into().ok()?));
    bytes.chunks(9).filter_map(split).collect()
}

fn check_of(key: &[u8; 32]) -> KeyCheck {
    let id = Sha256::digest(key).first().copied().unwrap_or(1).max(1);
    let told = Sha256::new().chain_update(b"tidegate key check\n").chain_update(key).finalize();
    (id, told.first_chunk().copied().unwrap_or_default())
}

/// Keys to seal and open blocks with. The first one seals, all open: to rotate, put a new key
/// first and take the old one away when nothing that it sealed is held any more.
pub struct Keys {
    keys: Vec<(KeyCheck, LessSafeKey)>,
    /// Numbers that only keys that are here have sealed with.
    sure: BTreeSet<u8>,
    prefix: [u8; 8],
    used: AtomicU64,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys(*** x {})", self.keys.len())
    }
}

/// Why a text holds no keys. Says nothing of the text itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A line that is no key.
    #[error("line {0} of the key file is no key: 64 hexadecimal digits a line are expected")]
    Line(usize),
    /// No key at all.
    #[error("the key file holds no key")]
    Empty,
    /// More keys than anyone rotates.
    #[error("the key file holds more than {} keys", Keys::MAX)]
    TooMany,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

impl Keys {
    /// Most keys of a file.
    pub const MAX: usize = 64;

    /// Reads keys from a text: one of 64 hexadecimal digits a line, newest first; empty lines and
    /// lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn parse(text: &str) -> Result<Keys, KeyError> {
        let mut keys = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key: [u8; 32] = hex::decode(line).ok_or(KeyError::Line(n + 1))?;
            let unbound = UnboundKey::new(&CHACHA20_POLY1305, &key).map_err(|_| KeyError::Line(n + 1))?;
            keys.push((check_of(&key), LessSafeKey::new(unbound)));
        }
        if keys.is_empty() {
            return Err(KeyError::Empty);
        }
        if keys.len() > Self::MAX {
            return Err(KeyError::TooMany);
        }
        let mut prefix = [0; 8];
        SystemRandom::new().fill(&mut prefix).map_err(|_| KeyError::Random)?;
        Ok(Keys { keys, sure: BTreeSet::new(), prefix, used: AtomicU64::new(0) })
    }

    /// A new key for a file, as text.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn generate() -> Result<String, KeyError> {
        let mut key = [0u8; 32];
        SystemRandom::new().fill(&mut key).map_err(|_| KeyError::Random)?;
        Ok(hex::encode(&key))
    }

    /// Nonce, ciphertext and tag; and which key sealed it.
    pub(crate) fn seal(&self, bound_to: &[u8], plain: &[u8]) -> Result<(u8, Vec<u8>), String> {
        let ((id, _), key) = self.keys.first().ok_or("no key")?;
        // random for each process, counted within it: no nonce comes twice under one key
        let count = self.used.fetch_add(1, Ordering::Relaxed);
        let count = u32::try_from(count).map_err(|_| "2^32 blocks sealed by one process: restart it")?;
        let mut nonce = [0; NONCE_LEN];
        for (to, from) in nonce.iter_mut().zip(self.prefix.iter().copied().chain(count.to_le_bytes())) {
            *to = from;
        }
        let mut out = Vec::with_capacity(NONCE_LEN + plain.len() + CHACHA20_POLY1305.tag_len());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plain);
        let body = out.get_mut(NONCE_LEN..).unwrap_or_default();
        let tag = key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound_to), body)
            .map_err(|_| "sealing failed")?;
        out.extend_from_slice(tag.as_ref());
        Ok((*id, out))
    }

    /// Takes note of all that ever sealed, the first of these keys among them.
    pub(crate) fn know(&mut self, checks: &mut BTreeSet<KeyCheck>) {
        checks.extend(self.keys.first().map(|(check, _)| *check));
        let strange = checks.iter().filter(|c| !self.keys.iter().any(|(check, _)| check == *c));
        let strange: BTreeSet<u8> = strange.map(|(id, _)| *id).collect();
        self.sure = checks.iter().map(|(id, _)| *id).filter(|id| !strange.contains(id)).collect();
    }

    /// Whether what was sealed with this number and cannot be opened was changed since: no key that
    /// is not here has the number too.
    pub(crate) fn is_sure_of(&self, id: u8) -> bool {
        self.sure.contains(&id)
    }

    pub(crate) fn open(&self, id: u8, bound_to: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>()?;
        self.keys.iter().filter(|((i, _), _)| *i == id).find_map(|(_, key)| {
            let mut body = body.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let len = key.open_in_place(nonce, Aad::from(bound_to), &mut body).ok()?.len();
            body.truncate(len);
            Some(body)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_key_opens_what_the_old_one_sealed() {
        let (old, new) = (Keys::generate().expect("key"), Keys::generate().expect("key"));
        let first = Keys::parse(&old).expect("keys");
        let (id, sealed) = first.seal(b"bound", b"plain").expect("sealed");
        let both = Keys::parse(&format!("# rotated\n{new}\n\n{old}\n")).expect("keys");
        assert_eq!(both.open(id, b"bound", &sealed).as_deref(), Some(&b"plain"[..]));
        assert_eq!(both.open(id, b"other", &sealed), None, "bound to its block");
        let only_new = Keys::parse(&new).expect("keys");
        assert_eq!(only_new.open(id, b"bound", &sealed), None);
        let mut bad = sealed.clone();
        bad[20] ^= 1;
        assert_eq!(both.open(id, b"bound", &bad), None);
        assert_eq!(both.open(id, b"bound", b"short"), None);
    }

    #[test]
    fn a_key_is_sure_of_its_number_where_no_other_has_it() {
        let one = Keys::generate().expect("key");
        let id = |text: &str| Keys::parse(text).expect("keys").keys[0].0.0;
        let twin = std::iter::repeat_with(|| Keys::generate().expect("key")).find(|k| id(k) == id(&one));
        let twin = twin.expect("one in 256");
        let mut checks = BTreeSet::new();
        let mut keys = Keys::parse(&one).expect("keys");
        assert!(!keys.is_sure_of(id(&one)), "nothing is known of the ring");
        keys.know(&mut checks);
        assert!(keys.is_sure_of(id(&one)));
        assert_eq!(decode_checks(&encode_checks(&checks)), checks);
        let mut keys = Keys::parse(&twin).expect("keys");
        keys.know(&mut checks);
        assert!(!keys.is_sure_of(id(&one)));
        let mut keys = Keys::parse(&format!("{twin}\n{one}")).expect("keys");
        keys.know(&mut checks);
        assert!(keys.is_sure_of(id(&one)));
        checks.insert((id(&one), [0; 8]));
        keys.know(&mut checks);
        assert!(!keys.is_sure_of(id(&one)), "someone else may have sealed");
    }

    #[test]
    fn no_key_shows_in_debug_or_errors() {
        let key = Keys::generate().expect("key");
        let keys = Keys::parse(&key).expect("keys");
        assert_eq!(format!("{keys:?}"), "Keys(*** x 1)");
        let error = Keys::parse(&key[..60]).expect_err("too short");
        assert_eq!(error, KeyError::Line(1));
        assert!(!error.to_string().contains(&key[..8]));
        assert_eq!(Keys::parse("# none\n").expect_err("none"), KeyError::Empty);
    }
}
