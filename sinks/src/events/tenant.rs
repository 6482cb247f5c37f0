//! Tenants: whose events they are at the far side.

use std::fmt;

use crate::secret::{SecretError, SecretRef, known};

/// A tenant's ingestion token, `<32 hex>-<GUID>-<4 digits>`: a secret, so its
/// `Debug` shows none of it. Its first part is public and says which tenant it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Tenant {
    token: String,
    key_len: usize,
    from: Option<SecretRef>,
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tenant(***)")
    }
}

/// A text that is no tenant token. It does not hold the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a tenant token: it must be 32 hexadecimal digits, a GUID and 4 digits, joined by \"-\"")]
pub struct NoToken;

/// Why a tenant's token cannot be had. Does not hold it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TenantError {
    /// Its reference leads nowhere.
    #[error("{0}")]
    Secret(#[from] SecretError),
    /// What is there is no token.
    #[error(transparent)]
    NoToken(#[from] NoToken),
    /// What is there is the token of another tenant than before.
    #[error("the token of tenant o:{0} was replaced by that of another tenant")]
    Other(String),
}

impl Tenant {
    /// The tenant whose token a reference leads to. It is looked up again for each request.
    ///
    /// # Errors
    /// When there is no token.
    pub(super) fn of(reference: &SecretRef) -> Result<Tenant, TenantError> {
        let tenant = Tenant::parse(reference.resolve()?.expose())?;
        Ok(Tenant { from: Some(reference.clone()), ..tenant })
    }

    /// The whole token as it is now, for the `apikey` header only.
    pub(super) fn token_now(&self) -> Result<String, TenantError> {
        let Some(from) = &self.from else { return Ok(self.token.clone()) };
        let now = Tenant::parse(from.resolve()?.expose())?;
        if now.key() != self.key() {
            return Err(TenantError::Other(self.key().to_owned()));
        }
        Ok(now.token)
    }

    /// Whether a token is one of this tenant.
    pub(super) fn has(&self, token: &str) -> bool {
        token.split_once('-').is_some_and(|(key, _)| key == self.key())
    }

    /// Takes a token; white space around it is ignored, as secret files often end in a line end.
    ///
    /// # Errors
    /// [`NoToken`] when the text has another form.
    pub fn parse(token: &str) -> Result<Tenant, NoToken> {
        let token = token.trim();
        let shape = [32, 8, 4, 4, 4, 12];
        let mut parts = token.split('-');
        let hex = shape.iter().all(|len| {
            parts.next().is_some_and(|p| p.len() == *len && p.bytes().all(|b| b.is_ascii_hexdigit()))
        });
        let digits = parts.next().is_some_and(|p| p.len() == 4 && p.bytes().all(|b| b.is_ascii_digit()));
        if !(hex && digits && parts.next().is_none()) {
            return Err(NoToken);
        }
        // of a token the rest alone is secret, so it counts alone
        known::note(token.get(shape[0] + 1..).unwrap_or_default());
        Ok(Tenant { token: token.to_owned(), key_len: shape[0], from: None })
    }

    /// The public part, as an event's `iKey` has it after `o:`.
    #[must_use]
    pub fn key(&self) -> &str {
        self.token.get(..self.key_len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub const TOKEN: &str = "0123456789abcdef0123456789abcdef-11111111-2222-3333-4444-555555555555-6789";

    #[test]
    fn a_token_is_taken_and_never_shown() {
        let tenant = Tenant::parse(&format!("{TOKEN}\n")).unwrap();
        assert_eq!(tenant.key(), "0123456789abcdef0123456789abcdef");
        assert_eq!(tenant.token_now().unwrap(), TOKEN);
        assert!(!format!("{tenant:?}").contains("0123"));
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_repeated() {
        for bad in [
            "",
            "secret",
            &TOKEN[..73],
            &format!("{TOKEN}0"),
            &TOKEN.replace('-', "_"),
            &format!("{TOKEN}-1"),
        ] {
            let error = Tenant::parse(bad).unwrap_err();
            assert!(!error.to_string().contains("secret"));
        }
    }
}
