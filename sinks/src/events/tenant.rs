//! Tenants: whose events they are at the far side.

use std::fmt;

/// A tenant's ingestion token, `<32 hex>-<GUID>-<4 digits>`: a secret, so its
/// `Debug` shows none of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tenant {
    token: String,
    key_len: usize,
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

impl Tenant {
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
        Ok(Tenant { token: token.to_owned(), key_len: shape[0] })
    }

    /// The whole token, for the `apikey` header only.
    pub(super) fn token(&self) -> &str {
        &self.token
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
        assert_eq!(tenant.token(), TOKEN);
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
