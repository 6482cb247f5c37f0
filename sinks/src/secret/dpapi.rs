//! Secrets that Windows seals: DPAPI (`CryptProtectData`).
//!
//! A sealed file is what `CryptProtectData` gives, without entropy of our own, so that what
//! `[Security.Cryptography.ProtectedData]::Protect` makes can be read too. A constant of ours in
//! this source would keep nobody out.
//!
//! It can be opened only on the computer that it was sealed on. So a copy of the file, a backup or
//! a disk without its machine tells nothing. Who may read the file on that machine is for its
//! permissions to say: see [`create_private`](super::create_private).

use std::io;

/// What every blob begins with: its version.
const BEGIN: [u8; 4] = 1_u32.to_le_bytes();

/// Who can open what is sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Every user of this computer who may read the file. The default: a key is mostly made by an administrator, and
    /// used by a service under another account.
    #[default]
    Machine,
    /// Only the user who sealed it, on this computer.
    User,
}

/// Why nothing can be sealed or opened. Says nothing of the secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DpapiError {
    /// This is not Windows.
    #[error(
        "only Windows has DPAPI: here give file:PATH, or cred:NAME of a credential that systemd decrypts \
         (systemd-creds encrypt, LoadCredentialEncrypted=)"
    )]
    NotHere,
    /// It is no DPAPI blob.
    #[error("it was not sealed by DPAPI")]
    NotSealed,
    /// The system does not open it.
    #[error("Windows cannot unseal it: it is damaged, or was sealed on another computer or by another user")]
    Unseal(#[source] io::Error),
    /// The system does not seal it.
    #[error("Windows cannot seal it")]
    Seal(#[source] io::Error),
}

/// Whether this system has DPAPI.
///
/// # Errors
/// [`DpapiError::NotHere`] where it has not.
pub fn available() -> Result<(), DpapiError> {
    if cfg!(windows) { Ok(()) } else { Err(DpapiError::NotHere) }
}

/// Seals bytes. Asks the system, which may block shortly.
///
/// # Errors
/// Where there is no DPAPI, and when the system refuses.
pub fn seal(plain: &[u8], scope: Scope) -> Result<Vec<u8>, DpapiError> {
    #[cfg(windows)]
    return super::windows::seal(plain, scope).map_err(DpapiError::Seal);
    #[cfg(not(windows))]
    {
        let _ = (plain, scope);
        Err(DpapiError::NotHere)
    }
}

/// Opens what was sealed. Asks the system, which may block shortly.
///
/// # Errors
/// Where there is no DPAPI, and when the system cannot open it.
pub fn unseal(sealed: &[u8]) -> Result<Vec<u8>, DpapiError> {
    available()?;
    if !sealed.starts_with(&BEGIN) {
        return Err(DpapiError::NotSealed);
    }
    #[cfg(windows)]
    return super::windows::unseal(sealed).map_err(DpapiError::Unseal);
    #[cfg(not(windows))]
    Err(DpapiError::NotHere)
}
