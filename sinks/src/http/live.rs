//! The client library's client, made anew when the files that it was made of are others.
//!
//! The library takes CA, client certificate, key and proxy password once. So that a renewed
//! certificate or password counts without a restart, as secrets do everywhere else, these files
//! are looked into before each request. Times of files are too coarse to tell every change.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::{HttpBuildError, HttpConfig};

/// Bytes of a file that are looked into.
const FILE_MAX: u64 = 4 << 20;

/// Of what a file holds; none while it is not there.
type Print = Option<u64>;

type Make = Box<dyn Fn() -> Result<reqwest::Client, HttpBuildError> + Send + Sync>;

/// A client that keeps up with its files.
pub(super) struct Live {
    files: Vec<PathBuf>,
    make: Make,
    now: Mutex<(Vec<Print>, reqwest::Client)>,
}

fn prints(files: &[PathBuf]) -> Vec<Print> {
    let print = |path: &PathBuf| {
        let mut bytes = Vec::new();
        File::open(path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut bytes)).ok()?;
        let mut hash = DefaultHasher::new();
        hash.write(&bytes);
        Some(hash.finish())
    };
    files.iter().map(print).collect()
}

impl Live {
    pub fn new(config: &HttpConfig, make: Make) -> Result<Live, HttpBuildError> {
        let tls = &config.tls;
        let mut files: Vec<PathBuf> = tls.ca_file.iter().chain(&tls.client_cert).cloned().collect();
        files.extend(tls.client_key.as_ref().and_then(|key| key.file()));
        files.extend(config.proxy.iter().filter_map(|p| p.password.as_ref()?.file()));
        // before they are read: what changes meanwhile counts the next time
        let seen = prints(&files);
        let client = make()?;
        Ok(Live { files, make, now: Mutex::new((seen, client)) })
    }

    /// The client to use now. May read the files again, which blocks shortly. While they are not
    /// usable, a certificate without its key for example, the client stays what it was.
    pub fn client(&self) -> reqwest::Client {
        let seen = prints(&self.files);
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.0 != seen {
            now.0 = seen;
            match (self.make)() {
                Ok(client) => now.1 = client,
                Err(e) => {
                    tracing::warn!(error = %e, "certificates, keys or the proxy's password have changed and cannot be used; those of before still are")
                }
            }
        }
        now.1.clone()
    }
}
