//! Keys of the ring, of bundles and of receipts: made, sealed, rotated, read by reference, trusted.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use tidegate_ring::Keys;
use tidegate_ring::bundle::{PublicKey, SigningKey};
use tidegate_sinks::secret::dpapi::{self, Scope};
use tidegate_sinks::secret::{SECRET_MAX, SecretRef, create_private, replace_private};

use super::super::exit::{Done, Exit, Failure};
use super::super::out;
use crate::assemble;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file holds the secret part, 64 hexadecimal digits a line, and only its owner can read it (on Windows also \
administrators and the system). The public part of the first key is printed: give it to the other host, in a file or on \
the command line; a key of the ring needs none.

The ring is sealed with the first key of the file that [ring] key names, and opened with all of them:
  --rotate            puts a new key before the others; start the collector again to use it
  --rotate --keep 2   and forgets all but the newest two: do that once nothing older is held

On Windows --dpapi has the system seal the file (DPAPI), and the configuration names it dpapi:PATH. A copy of it is of no \
use on another computer. Sealed for the machine, it can be opened by whoever may read the file there; for the user, only by \
the account that ran this command: run it as the collector's. A service under another account than the system needs \
the right to read it: icacls FILE /grant \"ACCOUNT:R\". Elsewhere let systemd keep the key: cred:NAME.")]
pub(super) struct Args {
    /// The key file; made if it is not there.
    file: PathBuf,
    /// Windows: seal the file for this computer, or this user on it.
    #[arg(long, value_name = "FOR", num_args = 0..=1, require_equals = true, default_missing_value = "machine")]
    dpapi: Option<For>,
    /// Put a new key before those that are there.
    #[arg(long)]
    rotate: bool,
    /// Forget all but the newest N keys.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=Keys::MAX as i64))]
    keep: Option<u8>,
}

/// Who can open a sealed file.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum For {
    /// Who may read it on this computer.
    Machine,
    /// This user on this computer.
    User,
}

/// What is in a key file; `None` when there is none.
fn bytes_of(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let cannot = |e| super::super::no_input(path, &e);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(cannot(e)),
    };
    let mut bytes = Vec::new();
    file.take(2 * SECRET_MAX).read_to_end(&mut bytes).map_err(cannot)?;
    Ok(Some(bytes))
}

fn is_key(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#')
}

/// The text of a key file with a new key, and with the newest few only; comments stay.
fn changed(text: &str, new: Option<String>, keep: usize) -> String {
    let mut keys = 0;
    let mut out = String::new();
    for line in new.as_deref().into_iter().chain(text.lines()) {
        keys += usize::from(is_key(line));
        if keys <= keep || !is_key(line) {
            out += line;
            out.push('\n');
        }
    }
    out
}

pub(super) fn run(args: &Args) -> Done {
    let path = &args.file;
    let shown = path.display();
    let seal = args.dpapi.map(|f| match f {
        For::Machine => Scope::Machine,
        For::User => Scope::User,
    });
    if seal.is_some() {
        dpapi::available().map_err(|e| Failure::new(Exit::Unavailable, format!("--dpapi: {e}")))?;
    }
    let no_key = |why: String| {
        Failure::new(Exit::Data, format!("{shown}: {why}")).hint("name another file to make a key")
    };
    let before = bytes_of(path)?;
    let (text, was_sealed) = match &before {
        None => (String::new(), false),
        Some(bytes) => match String::from_utf8(bytes.clone()).ok().filter(|t| Keys::parse(t).is_ok()) {
            Some(text) => (text, false),
            None if seal.is_some() => {
                let plain = dpapi::unseal(bytes).map_err(|e| no_key(e.to_string()))?;
                (String::from_utf8(plain).unwrap_or_default(), true)
            }
            None => {
                return Err(Failure::new(Exit::Data, format!("{shown} holds no key that can be read"))
                    .hint("name another file to make a key; say --dpapi if Windows has sealed it"));
            }
        },
    };
    let new = match before.is_none() || args.rotate {
        true => Some(Keys::generate().map_err(|e| Failure::new(Exit::Software, e.to_string()))?),
        false => None,
    };
    let after = changed(&text, new, args.keep.map_or(usize::MAX, usize::from));
    Keys::parse(&after).map_err(|e| no_key(e.to_string()))?;
    let keys: Vec<&str> = after.lines().filter(|l| is_key(l)).collect();
    let first = keys.first().copied().unwrap_or_default();
    let public = SigningKey::parse(first).map_err(|e| no_key(e.to_string()))?.public();

    let to_seal = seal.is_some() && !was_sealed;
    if to_seal || keys != text.lines().filter(|l| is_key(l)).collect::<Vec<_>>() {
        let bytes = match seal {
            Some(scope) => dpapi::seal(after.as_bytes(), scope)
                .map_err(|e| Failure::new(Exit::Unavailable, assemble::chain(&e)))?,
            None => after.as_bytes().to_vec(),
        };
        let written = match before {
            Some(_) => replace_private(path, &bytes),
            None => create_private(path).and_then(|mut f| f.write_all(&bytes).and_then(|()| f.sync_all())),
        };
        written.map_err(|e| Failure::new(Exit::CantCreate, format!("cannot write {shown}: {e}")))?;
        let done = if before.is_some() { "changed" } else { "made" };
        let count = if keys.len() == 1 { "1 key".to_owned() } else { format!("{} keys", keys.len()) };
        eprintln!("{done} {shown}: {count}");
        if to_seal {
            eprintln!("name it in the configuration as dpapi:{shown}");
        }
    }
    let mut out = out::stdout();
    writeln!(out, "{public}").and_then(|()| out.flush()).map_err(|e| Failure::output(&e))?;
    Ok(Exit::Ok)
}

/// A reference to a secret; never the secret itself.
pub(super) fn reference(text: &str) -> Result<SecretRef, String> {
    let reference = SecretRef::parse(text);
    if reference.is_literal() {
        // what was given is not repeated
        return Err(format!("a key is given by reference only: {}", SecretRef::FORMS));
    }
    reference.available().map_err(|e| e.to_string())?;
    Ok(reference)
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
