//! Keys of bundles and receipts: made, read by reference, trusted.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::PathBuf;

use tidegate_ring::bundle::{PublicKey, SigningKey};
use tidegate_sinks::secret::SecretRef;

use super::super::exit::{Done, Exit, Failure};
use super::super::out;
use crate::assemble;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file holds the secret part, 64 hexadecimal digits, and only its owner can read it. The public part is printed: \
give it to the other host, in a file or on the command line.")]
pub(super) struct Args {
    /// The key file; made if it is not there.
    file: PathBuf,
}

pub(super) fn run(args: &Args) -> Done {
    let cannot = |what: &str, e: io::Error| {
        Failure::new(Exit::CantCreate, format!("cannot {what} {}: {e}", args.file.display()))
    };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let text = match options.open(&args.file) {
        Ok(mut file) => {
            let text = SigningKey::generate().map_err(|e| Failure::new(Exit::Software, e.to_string()))?;
            let written = writeln!(file, "{text}").and_then(|()| file.sync_all());
            written.map_err(|e| cannot("write", e))?;
            eprintln!("made {}", args.file.display());
            text
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::read_to_string(&args.file).map_err(|e| super::super::no_input(&args.file, &e))?
        }
        Err(e) => return Err(cannot("create", e)),
    };
    let key = SigningKey::parse(&text).map_err(|e| {
        Failure::new(Exit::Data, format!("{}: {e}", args.file.display()))
            .hint("name another file to make a key")
    })?;
    let mut out = out::stdout();
    writeln!(out, "{}", key.public()).and_then(|()| out.flush()).map_err(|e| Failure::output(&e))?;
    Ok(Exit::Ok)
}

/// A reference to a secret; never the secret itself.
pub(super) fn reference(text: &str) -> Result<SecretRef, String> {
    match SecretRef::parse(text) {
        // what was given is not repeated
        SecretRef::Value(_) => {
            Err("a key is given by reference only: file:PATH, env:NAME or cred:NAME".to_owned())
        }
        reference => Ok(reference),
    }
}

/// The key that a reference names.
pub(super) fn signing(reference: &SecretRef) -> Result<SigningKey, Failure> {
    let hint = "tidegate buffer key FILE makes one";
    let secret = reference
        .resolve()
        .map_err(|e| Failure::new(Exit::NoInput, format!("--key: {}", assemble::chain(&e))).hint(hint))?;
    SigningKey::parse(secret.expose()).map_err(|e| Failure::new(Exit::Data, format!("--key: {e}")).hint(hint))
}

/// Keys whose signatures are taken: hexadecimal, or files of such lines.
pub(super) fn trusted(given: &[String]) -> Result<Vec<PublicKey>, Failure> {
    let mut keys = Vec::new();
    for text in given {
        if let Ok(key) = text.parse() {
            keys.push(key);
            continue;
        }
        let path = PathBuf::from(text.strip_prefix("file:").unwrap_or(text));
        let lines = std::fs::read_to_string(&path).map_err(|e| super::super::no_input(&path, &e))?;
        for line in lines.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let key = line.parse().map_err(|_| {
                Failure::new(Exit::Data, format!("{} holds a line that is no public key", path.display()))
                    .hint("tidegate buffer key FILE prints the public part of a key, 64 hexadecimal digits")
            })?;
            keys.push(key);
        }
    }
    if keys.is_empty() {
        return Err(
            Failure::new(Exit::Usage, "--trust names no key").hint("give the other host's public key")
        );
    }
    Ok(keys)
}
