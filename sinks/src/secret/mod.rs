//! Secrets, and references to them in configurations.

pub mod dpapi;
pub(crate) mod known;
#[cfg(windows)]
mod windows;

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

pub use dpapi::DpapiError;

/// Most bytes of a secret.
pub const SECRET_MAX: u64 = 64 << 10;
/// Most bytes of a sealed secret: DPAPI adds a few hundred.
const SEALED_MAX: u64 = SECRET_MAX + (16 << 10);

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
/// `$CREDENTIALS_DIRECTORY`), `dpapi:PATH` (a file that Windows has sealed, see [`dpapi`]), or the secret itself,
/// `value:…` or any other text.
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
    /// In a file that Windows has sealed; a line end at the secret's end does not count.
    Dpapi(PathBuf),
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
        source: io::Error,
    },
    /// The file is there, but it cannot be unsealed.
    #[error("cannot unseal {path}")]
    Dpapi {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: DpapiError,
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
    /// The forms of a reference, for messages.
    pub const FORMS: &str = "file:PATH, env:NAME, cred:NAME or, on Windows, dpapi:PATH";

    /// Reads a reference as it stands in a configuration.
    #[must_use]
    pub fn parse(text: &str) -> SecretRef {
        match text.split_once(':') {
            Some(("file", path)) => SecretRef::File(PathBuf::from(path)),
            Some(("env", name)) => SecretRef::Env(name.to_owned()),
            Some(("cred", name)) => SecretRef::Credential(name.to_owned()),
            Some(("dpapi", path)) => SecretRef::Dpapi(PathBuf::from(path)),
            Some(("value", value)) => SecretRef::Value(Secret::new(value.to_owned())),
            _ => SecretRef::Value(Secret::new(text.to_owned())),
        }
    }

    /// Whether the secret itself stands in the configuration.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        matches!(self, SecretRef::Value(_))
    }

    /// Whether this system has such secrets at all; looks nothing up.
    ///
    /// # Errors
    /// For `dpapi:` where this is not Windows.
    pub fn available(&self) -> Result<(), DpapiError> {
        if matches!(self, SecretRef::Dpapi(_)) { dpapi::available() } else { Ok(()) }
    }

    /// The file that it is in, if it is in one.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        match self {
            SecretRef::File(path) | SecretRef::Dpapi(path) => Some(path.clone()),
            SecretRef::Credential(name) => {
                std::env::var_os("CREDENTIALS_DIRECTORY").map(|dir| PathBuf::from(dir).join(name))
            }
            SecretRef::Value(_) | SecretRef::Env(_) => None,
        }
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
            SecretRef::File(path) => {
                (text_of(read(path, SECRET_MAX)?, path)?, format!("file:{}", path.display()))
            }
            SecretRef::Dpapi(path) => {
                let wrong = |source| SecretError::Dpapi { path: path.clone(), source };
                self.available().map_err(wrong)?;
                let plain = dpapi::unseal(&read(path, SEALED_MAX)?).map_err(wrong)?;
                (text_of(plain, path)?, format!("dpapi:{}", path.display()))
            }
            SecretRef::Credential(name) => {
                let plain = !name.is_empty() && !name.contains(['/', '\\', ':']) && !name.starts_with('.');
                if !plain {
                    return Err(SecretError::CredentialName(name.clone()));
                }
                let dir = std::env::var_os("CREDENTIALS_DIRECTORY")
                    .ok_or_else(|| SecretError::NoCredentials(name.clone()))?;
                let path = PathBuf::from(dir).join(name);
                (text_of(read(&path, SECRET_MAX)?, &path)?, format!("cred:{name}"))
            }
        };
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() || text.len() as u64 > SECRET_MAX {
            return Err(SecretError::Unusable(at));
        }
        known::note(text);
        Ok(Secret::new(text.to_owned()))
    }
}

/// At most one byte more than `most`, so that what is longer shows.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, SecretError> {
    let wrong = |source| SecretError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(wrong)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(wrong)?;
    Ok(bytes)
}

fn text_of(bytes: Vec<u8>, path: &Path) -> Result<String, SecretError> {
    String::from_utf8(bytes).map_err(|_| SecretError::Unusable(path.display().to_string()))
}

/// Makes a file that only its owner can read: mode 0600 on Unix; on Windows its owner, administrators and the system,
/// whatever the folder says.
///
/// # Errors
/// When it is there already, and what the system says.
pub fn create_private(path: &Path) -> io::Result<File> {
    #[cfg(windows)]
    return windows::create_private(path);
    #[cfg(not(windows))]
    {
        let mut options = File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(path)
    }
}

/// Puts new bytes in a file's place in one step; its owner and permissions stay. They are written to
/// `PATH.new` first; what a crash left of that is never in use.
///
/// # Errors
/// What the system says; the file is then as it was.
pub fn replace_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut second = path.as_os_str().to_owned();
    second.push(".new");
    let second = PathBuf::from(second);
    match std::fs::remove_file(&second) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = create_private(&second)?;
    let replaced = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| {
        drop(file);
        put_in_place(&second, path)
    });
    if replaced.is_err() {
        // the first error is the one to tell
        let _ = std::fs::remove_file(&second);
    }
    replaced
}

#[cfg(unix)]
fn put_in_place(second: &Path, path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let (old, new) = (std::fs::metadata(path)?, std::fs::metadata(second)?);
    if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
        chown(second, Some(old.uid()), Some(old.gid()))?;
    }
    std::fs::set_permissions(second, old.permissions())?;
    std::fs::rename(second, path)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(windows)]
use windows::put_in_place;

#[cfg(not(any(unix, windows)))]
fn put_in_place(second: &Path, path: &Path) -> io::Result<()> {
    std::fs::rename(second, path)
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretRef::Value(_) => f.write_str("***"),
            SecretRef::File(path) => write!(f, "file:{}", path.display()),
            SecretRef::Env(name) => write!(f, "env:{name}"),
            SecretRef::Credential(name) => write!(f, "cred:{name}"),
            SecretRef::Dpapi(path) => write!(f, "dpapi:{}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<SecretRef, D::Error> {
        let reference = SecretRef::parse(&String::deserialize(d)?);
        // what can never be had here is known before it is needed
        reference.available().map_err(serde::de::Error::custom)?;
        Ok(reference)
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

    #[cfg(not(windows))]
    #[test]
    fn where_there_is_no_dpapi_it_is_said_what_to_use_instead() {
        let reference = SecretRef::parse("dpapi:ring.key");
        let error = reference.resolve().unwrap_err();
        assert!(
            matches!(&error, SecretError::Dpapi { path, source: DpapiError::NotHere } if path.ends_with("ring.key"))
        );
        let deserializer =
            serde::de::value::StrDeserializer::<serde::de::value::Error>::new("dpapi:ring.key");
        let text = SecretRef::deserialize(deserializer).unwrap_err().to_string();
        assert!(text.contains("cred:NAME") && text.contains("LoadCredentialEncrypted="), "{text}");
        assert!(matches!(dpapi::seal(b"key", dpapi::Scope::User), Err(DpapiError::NotHere)));
    }

    #[cfg(unix)]
    #[test]
    fn a_private_file_is_for_its_owner_alone_and_never_another() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create_private(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(create_private(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);

        // a group that may read it still may after it was replaced, also where an earlier change was cut off
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::fs::write(dir.path().join("key.new"), "cut").unwrap();
        replace_private(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(!dir.path().join("key.new").exists());
    }
}

#[cfg(all(test, windows))]
mod dpapi_tests {
    use super::dpapi::{Scope, seal, unseal};
    use super::*;

    #[test]
    fn what_is_sealed_opens_again_and_cannot_be_read_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sealed.key");
        for scope in [Scope::Machine, Scope::User] {
            let sealed = seal(b"hunter2-hunter2\r\n", scope).unwrap();
            assert!(!sealed.windows(7).any(|w| w == b"hunter2"));
            assert_eq!(unseal(&sealed).unwrap(), b"hunter2-hunter2\r\n");
            std::fs::write(&path, &sealed).unwrap();
            let reference = SecretRef::parse(&format!("dpapi:{}", path.display()));
            assert_eq!(reference.resolve().unwrap().expose(), "hunter2-hunter2");
            assert!(format!("{reference:?}").starts_with("dpapi:"));
        }
        // nothing of it is text, or too much of it
        for unusable in [vec![0xff; 40], vec![b'\n'; 2], vec![b'x'; SECRET_MAX as usize + 1]] {
            std::fs::write(&path, seal(&unusable, Scope::Machine).unwrap()).unwrap();
            let error = SecretRef::Dpapi(path.clone()).resolve().unwrap_err();
            assert!(matches!(error, SecretError::Unusable(_)), "{error}");
        }
    }

    #[test]
    fn what_is_damaged_is_an_error_and_no_panic() {
        let secret = b"hunter2-hunter2";
        let sealed = seal(secret, Scope::Machine).unwrap();
        let check = |blob: &[u8], what: &str| match unseal(blob) {
            // a description and the like is not covered everywhere
            Ok(plain) => assert_eq!(plain, secret, "{what}: something else was unsealed"),
            Err(e) => {
                let text = format!("{e} {e:?}");
                let known = matches!(e, DpapiError::NotSealed | DpapiError::Unseal(_));
                assert!(known && !text.contains("hunter2"), "{what}: {text}");
            }
        };
        let mut refused = 0;
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 0x41;
            check(&flipped, &format!("byte {at} flipped"));
            refused += u32::from(unseal(&flipped).is_err());
            assert!(unseal(&sealed[..at]).is_err(), "cut to {at} bytes");
        }
        assert!(refused > 32, "{refused} of {} flipped bytes were noticed", sealed.len());
        for foreign in [&b""[..], b"no blob at all", &[0xff; 4096], &[0; 300]] {
            assert!(matches!(unseal(foreign), Err(DpapiError::NotSealed)));
        }
    }

    #[test]
    fn a_private_file_is_readable_to_its_owner_and_never_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create_private(&path).unwrap().write_all(b"x").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
        assert_eq!(create_private(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        replace_private(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(!dir.path().join("key.new").exists());
    }
}
