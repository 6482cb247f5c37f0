//! `settings`: keys and signatures of remote settings.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;
use tidegate_sinks::secret::create_private;

use super::exit::{Done, Exit, Failure};
use super::state::{self, Of};
use super::{no_input, out};
use crate::settings::sign::{self, SignError};
use crate::settings::{PublicKey, SettingsError};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Remote settings are a small JSON document that can only reduce what is collected and sent. Sign it where the private \
key is, put the result where [settings] url says; collectors poll it. A document needs a higher version than the one \
before.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key: the private one into a file of its own, the public one is printed.
    Keygen {
        /// The file, which must not be there yet.
        private: PathBuf,
    },
    /// Check a document, sign it, and print what collectors fetch.
    Sign {
        /// The document.
        document: PathBuf,
        /// The private key's file, PEM.
        #[arg(long)]
        key: PathBuf,
        /// Its id in [settings.keys].
        #[arg(long)]
        key_id: String,
    },
    /// Have a collector that runs ask for them now.
    Refresh(Of),
    /// Check a signed document as a collector would.
    Verify {
        /// What collectors fetch.
        envelope: PathBuf,
        /// ID=BASE64, a public key as in [settings.keys].
        #[arg(long = "public", value_name = "ID=BASE64", required = true, value_parser = public)]
        keys: Vec<PublicKey>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

fn public(text: &str) -> Result<PublicKey, String> {
    let (id, key) = text.split_once('=').ok_or("ID=BASE64 is expected")?;
    PublicKey::new(id, key).map_err(|e| e.to_string())
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|e| no_input(path, &e))
}

fn refused(error: &SettingsError) -> Failure {
    Failure::new(Exit::Data, error.to_string()).hint("a collector would refuse it and keep what it has")
}

pub(super) fn run(args: &Args) -> Done {
    let mut out = out::stdout();
    let text = match &args.command {
        Command::Refresh(of) => {
            let Some(client) = state::running(&of.config()?)? else {
                return Err(Failure::new(Exit::TempFail, "no collector runs with this configuration")
                    .hint("it asks when it starts"));
            };
            let value = state::ask(&client, "POST", "/v1/settings/refresh", &serde_json::Value::Null)?;
            return state::print(of, &value, "asked; status shows what is in force").map(|()| Exit::Ok);
        }
        Command::Keygen { private } => keygen(private)?,
        Command::Sign { document, key, key_id } => {
            let private = String::from_utf8_lossy(&read(key)?).into_owned();
            let envelope = sign::sign(&read(document)?, key_id, &private).map_err(|e| match e {
                SignError::Document(e) => refused(&e),
                e => Failure::new(Exit::Data, e.to_string())
                    .hint("tidegate settings keygen FILE makes one, openssl genpkey -algorithm ed25519 too"),
            })?;
            String::from_utf8_lossy(&envelope).into_owned()
        }
        Command::Verify { envelope, keys, json } => {
            let (document, key) = sign::verify(keys, &read(envelope)?).map_err(|e| refused(&e))?;
            if *json {
                json!({ "version": document.version(), "key": key }).to_string()
            } else {
                format!("version {}, signed with the key {key}", document.version())
            }
        }
    };
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|e| Failure::output(&e))?;
    Ok(Exit::Ok)
}

fn keygen(path: &Path) -> Result<String, Failure> {
    let (private, public) = sign::generate().map_err(|e| Failure::new(Exit::Software, e.to_string()))?;
    let written = create_private(path).and_then(|mut file| {
        file.write_all(private.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|e| {
        Failure::new(Exit::CantCreate, format!("cannot write {}: {e}", path.display()))
            .hint("name a file that is not there, in a folder that can be written")
    })?;
    Ok(public)
}
