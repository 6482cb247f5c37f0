//! Keyed pseudonyms: HMAC-SHA256, so that nobody without the key can test a guess.

use std::fmt;
use std::time::Duration;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::Kind;

/// A key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Fewer than 16 bytes can be guessed.
    #[error("a pseudonym key needs at least 16 bytes; make one with: openssl rand -hex 32")]
    Short,
    /// The id appears in events.
    #[error("a pseudonym key's id needs 1 to 16 of the characters a-z, A-Z, 0-9 and -")]
    Id,
    /// The shortest period is an hour.
    #[error("a pseudonym key's rotation period may not be shorter than one hour")]
    Period,
}

/// A key, its id, and how often pseudonyms change.
#[derive(Clone)]
pub struct PseudonymKey {
    id: String,
    secret: Vec<u8>,
    period_ns: i64,
}

impl fmt::Debug for PseudonymKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PseudonymKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl PseudonymKey {
    /// # Errors
    /// A short secret, an id that does not fit into a text, a period below one hour.
    pub fn new(id: &str, secret: &[u8], period: Duration) -> Result<PseudonymKey, KeyError> {
        if secret.len() < 16 {
            return Err(KeyError::Short);
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if id.is_empty() || id.len() > 16 || !id.bytes().all(plain) {
            return Err(KeyError::Id);
        }
        if period < Duration::from_secs(3600) {
            return Err(KeyError::Period);
        }
        let period_ns = i64::try_from(period.as_nanos()).unwrap_or(i64::MAX);
        Ok(PseudonymKey { id: id.to_owned(), secret: secret.to_vec(), period_ns })
    }

    /// What tells it from others, without the secret: id and period.
    pub(in crate::gate) fn name(&self) -> (&str, i64) {
        (&self.id, self.period_ns)
    }

    /// Appends `<kind#key.period#16 hex digits>`. The period is that of the
    /// event's time, so a replay gives the same pseudonyms.
    pub(super) fn write(&self, out: &mut String, kind: Kind, value: &[u8], time_ns: i64) {
        use fmt::Write as _;
        let period = time_ns.div_euclid(self.period_ns);
        // HMAC takes keys of any length, so the other arm is never taken; it masks
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.secret) else {
            let _ = write!(out, "<{}>", kind.as_str());
            return;
        };
        mac.update(&[kind as u8]);
        mac.update(&period.to_be_bytes());
        mac.update(&value.to_ascii_lowercase());
        let tag = mac.finalize().into_bytes();
        let _ = write!(out, "<{}#{}.{period}#", kind.as_str(), self.id);
        for byte in tag.iter().take(8) {
            let _ = write!(out, "{byte:02x}");
        }
        out.push('>');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_meet_within_a_period_only() {
        let day = Duration::from_secs(86_400);
        let key = PseudonymKey::new("k1", &[7; 32], day).unwrap();
        let make = |key: &PseudonymKey, kind, value: &str, time| {
            let mut out = String::new();
            key.write(&mut out, kind, value.as_bytes(), time);
            out
        };
        let a = make(&key, Kind::Email, "Bob@contoso.com", 5);
        assert_eq!(a, make(&key, Kind::Email, "bob@contoso.com", 86_399_999_999_999));
        assert!(a.starts_with("<email#k1.0#") && a.len() == "<email#k1.0#".len() + 17, "{a}");
        assert_ne!(a, make(&key, Kind::Email, "bob@contoso.com", 86_400_000_000_000));
        let other = PseudonymKey::new("k1", &[8; 32], day).unwrap();
        assert_ne!(a, make(&other, Kind::Email, "bob@contoso.com", 5));
        assert_ne!(a[6..], make(&key, Kind::User, "bob@contoso.com", 5)[5..]);
        assert!(!format!("{key:?}").contains('7'));
        assert!(make(&key, Kind::Ip, "x", -1).contains(".-1#"));
    }

    #[test]
    fn weak_keys_are_refused() {
        let day = Duration::from_secs(86_400);
        assert_eq!(PseudonymKey::new("k", &[1; 15], day).unwrap_err(), KeyError::Short);
        assert_eq!(PseudonymKey::new("k:1", &[1; 16], day).unwrap_err(), KeyError::Id);
        assert_eq!(PseudonymKey::new("k", &[1; 16], Duration::ZERO).unwrap_err(), KeyError::Period);
    }
}
