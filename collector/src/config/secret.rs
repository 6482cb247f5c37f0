//! Secrets by reference: the configuration names where one is, never what it is.

use std::fmt;
use std::io::Read as _;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a secret is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// `file:PATH`: the content of a file, without the line end.
    File(PathBuf),
    /// `env:NAME`: an environment variable.
    Env(String),
    /// `cred:NAME`: a systemd credential, the file of that name in `$CREDENTIALS_DIRECTORY`.
    Cred(String),
}

/// A text that refers to no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a secret is given by reference only: \"file:PATH\", \"env:NAME\" or \"cred:NAME\"")]
pub struct NoReference;

impl FromStr for SecretRef {
    type Err = NoReference;
    fn from_str(s: &str) -> Result<SecretRef, NoReference> {
        match s.split_once(':') {
            Some((_, "")) | None => Err(NoReference),
            Some(("file", path)) => Ok(SecretRef::File(PathBuf::from(path))),
            Some(("env", name)) => Ok(SecretRef::Env(name.to_owned())),
            Some(("cred", name)) if !name.contains(['/', '\\']) && name != ".." => {
                Ok(SecretRef::Cred(name.to_owned()))
            }
            Some(_) => Err(NoReference),
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretRef::File(path) => write!(f, "file:{}", path.display()),
            SecretRef::Env(name) => write!(f, "env:{name}"),
            SecretRef::Cred(name) => write!(f, "cred:{name}"),
        }
    }
}

/// A secret's bytes. `Debug` shows none of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret {0}: {1}")]
    Io(SecretRef, std::io::Error),
    /// The variable is not set.
    #[error("the secret {0} is not set")]
    Missing(SecretRef),
}

impl SecretRef {
    /// Longest secret, in bytes; the rest is not read.
    pub const MAX_LEN: u64 = 64 << 10;

    /// Reads it.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub fn read(&self) -> Result<Secret, SecretError> {
        let path = match self {
            SecretRef::Env(name) => {
                let value = std::env::var_os(name).ok_or_else(|| SecretError::Missing(self.clone()))?;
                return Ok(Secret(value.into_encoded_bytes()));
            }
            SecretRef::File(path) => path.clone(),
            SecretRef::Cred(name) => {
                let dir = std::env::var_os("CREDENTIALS_DIRECTORY");
                PathBuf::from(dir.ok_or_else(|| SecretError::Missing(self.clone()))?).join(name)
            }
        };
        let mut out = Vec::new();
        let read = std::fs::File::open(&path).and_then(|f| f.take(Self::MAX_LEN).read_to_end(&mut out));
        read.map_err(|e| SecretError::Io(self.clone(), e))?;
        while out.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
            out.pop();
        }
        Ok(Secret(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_from_where_the_reference_says_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "hunter2\n").unwrap();
        let reference: SecretRef = format!("file:{}", path.display()).parse().unwrap();
        let secret = reference.read().unwrap();
        assert_eq!(secret.bytes(), b"hunter2");
        assert_eq!(format!("{secret:?}"), "***");
        let missing: SecretRef = "env:TIDEGATE_NO_SUCH_VARIABLE".parse().unwrap();
        assert!(matches!(missing.read(), Err(SecretError::Missing(_))));
    }

    #[test]
    fn a_bare_secret_is_no_reference() {
        for bad in ["hunter2", "", "file:", "http:x", "cred:../x"] {
            let e = bad.parse::<SecretRef>().unwrap_err().to_string();
            assert!(e.contains("by reference only") && !e.contains("hunter2"), "{e}");
        }
    }
}
