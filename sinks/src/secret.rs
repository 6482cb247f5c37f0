//! Secrets, and references to them in configurations.

use std::fmt;
use std::io::Read as _;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

/// Most bytes of a secret.
pub const SECRET_MAX: u64 = 64 << 10;

/// A value that no log and no error shows: its `Debug` is `***`, and it has no `Display`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Hides a value.
    pub fn new(value: T) -> Secret<T> {
        Secret(value)
    }

    /// The value. Only for the place that sends or signs with it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a secret is: `file:PATH`, `env:NAME`, `cred:NAME` (a systemd credential: a file in
/// `$CREDENTIALS_DIRECTORY`), or the secret itself, `value:…` or any other text.
///
/// It is looked up at each use, so a file that is replaced takes effect without a restart.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// The secret stands in the configuration.
    Value(Secret<String>),
    /// In a file; a line end at its end does not count.
    File(PathBuf),
    /// In an environment variable.
    Env(String),
    /// In a systemd credential.
    Credential(String),
}

/// Why a secret cannot be had. Names the place, never the secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret from {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The environment variable is not set, or not text.
    #[error("environment variable {0} is not set")]
    Env(String),
    /// There is no credentials directory.
    #[error("no credential \"{0}\": CREDENTIALS_DIRECTORY is not set (systemd sets it with LoadCredential=)")]
    NoCredentials(String),
    /// The name of a credential may not leave its directory.
    #[error("\"{0}\" is no name of a credential")]
    CredentialName(String),
    /// It is there, but empty, too long or not text.
    #[error("the secret at {0} is empty, longer than 64 KiB or not UTF-8 text")]
    Unusable(String),
}

impl SecretRef {
    /// Reads a reference as it stands in a configuration.
    #[must_use]
    pub fn parse(text: &str) -> SecretRef {
        match text.split_once(':') {
            Some(("file", path)) => SecretRef::File(PathBuf::from(path)),
            Some(("env", name)) => SecretRef::Env(name.to_owned()),
            Some(("cred", name)) => SecretRef::Credential(name.to_owned()),
            Some(("value", value)) => SecretRef::Value(Secret::new(value.to_owned())),
            _ => SecretRef::Value(Secret::new(text.to_owned())),
        }
    }

    /// Whether the secret itself stands in the configuration.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        matches!(self, SecretRef::Value(_))
    }

    /// Looks the secret up. Reads a file of at most [`SECRET_MAX`] bytes, so it may block shortly.
    ///
    /// # Errors
    /// When it is not there or not usable.
    pub fn resolve(&self) -> Result<Secret<String>, SecretError> {
        let (text, at) = match self {
            SecretRef::Value(secret) => (secret.expose().clone(), "the configuration".to_owned()),
            SecretRef::Env(name) => {
                let text = std::env::var(name).map_err(|_| SecretError::Env(name.clone()))?;
                (text, format!("env:{name}"))
            }
            SecretRef::File(path) => (read(path)?, format!("file:{}", path.display())),
            SecretRef::Credential(name) => {
                let plain = !name.is_empty() && !name.contains(['/', '\\', ':']) && !name.starts_with('.');
                if !plain {
                    return Err(SecretError::CredentialName(name.clone()));
                }
                let dir = std::env::var_os("CREDENTIALS_DIRECTORY")
                    .ok_or_else(|| SecretError::NoCredentials(name.clone()))?;
                (read(&PathBuf::from(dir).join(name))?, format!("cred:{name}"))
            }
        };
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() || text.len() as u64 > SECRET_MAX {
            return Err(SecretError::Unusable(at));
        }
        Ok(Secret::new(text.to_owned()))
    }
}

fn read(path: &PathBuf) -> Result<String, SecretError> {
    let wrong = |source| SecretError::File { path: path.clone(), source };
    let file = std::fs::File::open(path).map_err(wrong)?;
    let mut bytes = Vec::new();
    file.take(SECRET_MAX + 1).read_to_end(&mut bytes).map_err(wrong)?;
    String::from_utf8(bytes).map_err(|_| SecretError::Unusable(path.display().to_string()))
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretRef::Value(_) => f.write_str("***"),
            SecretRef::File(path) => write!(f, "file:{}", path.display()),
            SecretRef::Env(name) => write!(f, "env:{name}"),
            SecretRef::Credential(name) => write!(f, "cred:{name}"),
        }
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<SecretRef, D::Error> {
        String::deserialize(d).map(|text| SecretRef::parse(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(format!("{:?}", SecretRef::parse("hunter2")), "***");
        assert_eq!(format!("{:?}", SecretRef::parse("value:file:x")), "***");
    }

    #[test]
    fn a_replaced_file_takes_effect_at_the_next_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "one\n").unwrap();
        let reference = SecretRef::parse(&format!("file:{}", path.display()));
        assert_eq!(reference.resolve().unwrap().expose(), "one");
        std::fs::write(&path, "two\r\n").unwrap();
        assert_eq!(reference.resolve().unwrap().expose(), "two");
        std::fs::write(&path, "").unwrap();
        assert!(matches!(reference.resolve(), Err(SecretError::Unusable(_))));
        std::fs::write(&path, vec![b'x'; 70_000]).unwrap();
        assert!(matches!(reference.resolve(), Err(SecretError::Unusable(_))));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(reference.resolve(), Err(SecretError::File { .. })));
    }

    #[test]
    fn what_is_not_there_is_named_by_its_place() {
        let error = SecretRef::parse("env:TIDEGATE_NO_SUCH_VARIABLE").resolve().unwrap_err();
        assert!(error.to_string().contains("TIDEGATE_NO_SUCH_VARIABLE"), "{error}");
        for outside in ["cred:../passwd", "cred:", "cred:a/b", "cred:C:x"] {
            let error = SecretRef::parse(outside).resolve().unwrap_err();
            assert!(matches!(error, SecretError::CredentialName(_)), "{outside}: {error}");
        }
        assert_eq!(SecretRef::parse("value:env:x").resolve().unwrap().expose(), "env:x");
    }
}
