//! Identities of machines outside of Azure that Azure Arc manages.
//!
//! The agent on the machine refuses the first request with 401 and names a file
//! (`WWW-Authenticate: Basic realm=PATH`) that only members of its group can read; what is in
//! there goes with the second request. A file is read only where the agent puts its own, as
//! Microsoft's client libraries do: whoever else answers at the agent's port must not make us
//! read and send something.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::http::Reply;
use crate::http::classify::printable;
use crate::secret::Secret;

/// Where the agent answers.
pub(super) const ENDPOINT: &str = "http://localhost:40342/metadata/identity/oauth2/token";
pub(super) const API_VERSION: &str = "2020-06-01";
/// Most bytes of a key file.
const KEY_MAX: u64 = 4096;

/// Why there is no answer to the agent.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArcError {
    #[error("the Arc agent names no key file")]
    NoFile,
    #[error("the Arc agent names {0}, which is none of its key files")]
    Elsewhere(String),
    #[error("the Arc agent's key file {0} is empty, longer than {KEY_MAX} bytes or no text")]
    Unusable(String),
    #[error("cannot read the Arc agent's key file {path}")]
    Read { path: String, source: std::io::Error },
}

/// The folder of the agent's key files.
pub(super) fn folder() -> PathBuf {
    if cfg!(windows) {
        let data = std::env::var_os("ProgramData").unwrap_or_else(|| "C:\\ProgramData".into());
        return PathBuf::from(data).join("AzureConnectedMachineAgent").join("Tokens");
    }
    PathBuf::from("/var/opt/azcmagent/tokens")
}

/// What is in the key file that a refusal names.
pub(super) fn key(reply: &Reply, folder: &Path) -> Result<Secret<String>, ArcError> {
    let challenge = reply.header("www-authenticate").ok_or(ArcError::NoFile)?;
    let (scheme, path) = challenge.trim().split_once(" realm=").ok_or(ArcError::NoFile)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(ArcError::NoFile);
    }
    let path = Path::new(path.trim().trim_matches('"'));
    let shown = printable(&path.to_string_lossy(), 200);
    // the text of the path is compared: a way around with ".." is another folder
    if path.parent() != Some(folder) || path.extension().is_none_or(|e| e != "key") {
        return Err(ArcError::Elsewhere(shown));
    }
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(KEY_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|source| ArcError::Read { path: shown.clone(), source })?;
    let text = Some(bytes).filter(|b| b.len() as u64 <= KEY_MAX).and_then(|b| String::from_utf8(b).ok());
    let text = text.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
    text.map(Secret::new).ok_or(ArcError::Unusable(shown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::header::{HeaderMap, HeaderName, HeaderValue};

    fn refusal(challenge: &str) -> Reply {
        let name = HeaderName::from_static("www-authenticate");
        let headers = HeaderMap::from_iter([(name, HeaderValue::from_str(challenge).unwrap())]);
        let body = crate::http::Body::Whole(bytes::Bytes::new());
        Reply { status: 401, headers, body, trailers: HeaderMap::new() }
    }

    #[test]
    fn a_key_file_is_read_only_from_the_agents_folder_and_only_if_it_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("tokens");
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        let file = |name: &str, len: usize| {
            let path = folder.join(name);
            std::fs::write(&path, "k".repeat(len)).unwrap();
            path.display().to_string()
        };
        let read = |path: &str| key(&refusal(&format!("Basic realm={path}")), &folder);
        let sound = file("1.key", 4096);
        assert_eq!(read(&sound).unwrap().expose().len(), 4096);
        assert_eq!(read(&format!("\"{sound}\"")).unwrap().expose().len(), 4096);
        for long in [file("2.key", 4097), file("3.key", 0)] {
            assert!(matches!(read(&long), Err(ArcError::Unusable(_))), "{long}");
        }
        let outside = dir.path().join("4.key");
        std::fs::write(&outside, "secret").unwrap();
        let around = folder.join("..").join("4.key").display().to_string();
        let below = file("sub/5.key", 5);
        for elsewhere in
            [&*outside.display().to_string(), &around, &below, &file("6.txt", 5), "/etc/passwd", "1.key"]
        {
            assert!(matches!(read(elsewhere), Err(ArcError::Elsewhere(_))), "{elsewhere}");
        }
        let missing = folder.join("7.key").display().to_string();
        assert!(matches!(read(&missing), Err(ArcError::Read { .. })));
        for odd in ["Bearer realm=/x", "Basic", "Basic realm"] {
            assert!(matches!(key(&refusal(odd), &folder), Err(ArcError::NoFile)), "{odd}");
        }
    }
}
