//! Receipts as files that need nothing but `sha256sum` to be checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tidegate_ring::ChainEntry;

use super::Entry;

/// What stands in the export's `README`: the format.
pub const README: &str = "\
Receipts of deliveries, exported by tidegate.

receipts/NUMBER    one file a receipt, NUMBER in 20 digits. Its bytes:
                     32  SHA-256 of the receipt before (zeros before number 1)
                      8  its number, big-endian
                      n  the receipt, JSON in UTF-8
SHA256SUMS         the SHA-256 of each of these files. It is the receipt's hash,
                   and stands at the beginning of the receipt that follows.
check.sh           checks all of this: sh check.sh
anchor             number and hash of the receipt before the first one here;
                   0 and zeros when none is missing before it
receipts.jsonl     the same receipts for reading, one a line, with number and hash
objects/SINK       what the receipts of a sink name, as sha256sum reads it, with
                   paths below the folder or container. Signs that no file should
                   have are \"_\" in SINK; what is taken by another has ~2, ~3 behind
                   it. In a copy of it:
                     sha256sum -c /path/to/objects/SINK

A receipt's JSON: sink; host, stream, epoch (whose events); first, last (their places,
inclusive); time (settled, UTC); level (the telemetry level in force, 0 to 3); delivered,
rejected, lost (events per telemetry level: Security, Basic, Enhanced, Full); objects
(to = where, sha256, bytes, events, id = the server's name for it, found = an earlier
attempt had got through); more_objects (how many had no room).

What check.sh proves: each file in receipts/ has its hash in SHA256SUMS, and no other file
is there; each receipt names the hash of the one before, from the anchor to the head, with
no number left out; receipts.jsonl has the same JSON, line by line; and each line of
objects/SINK, by hash and file name, stands in a receipt of that sink, and the other way
round. Not proved: the folder before a file name (sha256sum -c reads the file there, and its
content has to have the hash), and objects that had no room in their receipt, whose number it
prints.

It prints the head: number and hash of the last receipt. Someone who made all files anew has
another one. So look in SHA256SUMS for a head that was kept elsewhere, of tidegate receipts
verify: when it is there, nothing up to it was changed, added or left out since.
";

const CHECK: &str = include_str!("check.sh");

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Receipts.
    pub receipts: u64,
    /// Objects that they name, each once.
    pub objects: u64,
    /// Objects that their receipts had no room to name.
    pub unnamed: u64,
}

/// An export under way.
#[derive(Debug)]
pub struct Export {
    folder: PathBuf,
    sums: fs::File,
    lines: io::BufWriter<fs::File>,
    before: [u8; 32],
    /// Per sink: what its destinations begin with.
    bases: BTreeMap<String, String>,
    objects: BTreeMap<String, BTreeSet<(String, String)>>,
    done: Exported,
}

fn is_plain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')
}

/// The name of the file that a destination ends with; requests are no files.
fn file_name(to: &str) -> Option<&str> {
    let name = to.rsplit(['/', '\\']).next()?;
    let named = tidegate_sinks::layout::Named::parse(name).is_some() && name.bytes().all(is_plain);
    named.then_some(name)
}

/// A receipt as its chain has it, where that can stand in a line of JSON.
fn shown(data: &[u8]) -> &str {
    let text = std::str::from_utf8(data).unwrap_or_default();
    if text.starts_with('{') && !text.contains(|c| c < ' ') { text } else { "null" }
}

/// A file's name for each sink, no two alike. Names are made of letters, digits, `.`, `_` and `-`
/// in a configuration and stand as they are; receipts may have others, of an older one. `check.sh` makes
/// the same of what their JSON has.
fn file_names<'s>(sinks: impl Iterator<Item = &'s String>) -> Vec<(&'s String, String)> {
    let plain = |sink: &str| {
        let json = serde_json::Value::from(sink).to_string();
        let inner = json.get(1..json.len() - 1).unwrap_or_default();
        let text: String = inner.bytes().map(|b| if is_plain(b) { char::from(b) } else { '_' }).collect();
        if text.starts_with('.') { text.replacen('.', "_", 1) } else { text }
    };
    let mut named: Vec<(&String, String)> = sinks.map(|sink| (sink, plain(sink))).collect();
    // names that stand as they are come first, and keep it
    named.sort_by_key(|(sink, plain)| *sink != plain);
    let mut taken = BTreeSet::new();
    for (_, name) in &mut named {
        let plain = name.clone();
        // some file systems take large and small letters for the same
        let mut number = 1_u64;
        while !taken.insert(name.to_ascii_lowercase()) {
            number += 1;
            *name = format!("{plain}~{number}");
        }
    }
    named
}

/// `%20` and the like as what they stand for; others stay.
fn decoded(url: &str) -> String {
    let mut bytes = Vec::with_capacity(url.len());
    let mut rest = url.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        match digits.filter(|_| *first == b'%').and_then(|d| u8::from_str_radix(d, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| url.to_owned())
}

impl Export {
    /// Begins an export into a folder that is empty or not there. `anchor` is what the first
    /// receipt hangs on, `bases` what the destinations of each sink begin with.
    ///
    /// # Errors
    /// When the folder holds something, or cannot be written.
    pub fn begin(
        folder: &Path,
        anchor: (u64, [u8; 32]),
        bases: BTreeMap<String, String>,
    ) -> io::Result<Export> {
        fs::create_dir_all(folder)?;
        if fs::read_dir(folder)?.next().is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the folder is not empty"));
        }
        fs::create_dir(folder.join("receipts"))?;
        fs::create_dir(folder.join("objects"))?;
        fs::write(folder.join("README"), README)?;
        fs::write(folder.join("check.sh"), CHECK)?;
        fs::write(folder.join("anchor"), format!("{} {}\n", anchor.0, crate::audit::hex(&anchor.1)))?;
        Ok(Export {
            sums: fs::File::create(folder.join("SHA256SUMS"))?,
            lines: io::BufWriter::new(fs::File::create(folder.join("receipts.jsonl"))?),
            folder: folder.to_owned(),
            before: anchor.1,
            bases,
            objects: BTreeMap::new(),
            done: Exported::default(),
        })
    }

    /// Adds the receipts that follow.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn add(&mut self, entries: &[ChainEntry]) -> io::Result<()> {
        let mut sums = String::new();
        for entry in entries {
            let name = format!("receipts/{:020}", entry.number);
            let mut bytes = self.before.to_vec();
            bytes.extend_from_slice(&entry.number.to_be_bytes());
            bytes.extend_from_slice(&entry.data);
            fs::write(self.folder.join(&name), bytes)?;
            let read = Entry::from(entry);
            // writing to a text does not fail
            let _ = writeln!(sums, "{}  {name}", read.hash);
            let (hash, receipt) = (&read.hash, shown(&entry.data));
            writeln!(self.lines, r#"{{"number":{},"hash":"{hash}","receipt":{receipt}}}"#, entry.number)?;
            self.before = entry.hash;
            self.done.receipts += 1;
            let Some(receipt) = read.receipt else { continue };
            self.done.unnamed += receipt.more_objects;
            let base = self.bases.get(&receipt.sink).map(String::as_str).unwrap_or_default();
            let listed = self.objects.entry(receipt.sink).or_default();
            for object in receipt.objects {
                let Some(name) = file_name(&object.to) else { continue };
                let below = object.to.strip_prefix(base).unwrap_or(&object.to);
                let mut path = if object.to.contains("://") {
                    decoded(below)
                } else {
                    below.replace(std::path::MAIN_SEPARATOR, "/")
                };
                // what sha256sum reads otherwise, in the path of a sink that is configured no more
                if path.contains(['\n', '\r', '\\']) {
                    name.clone_into(&mut path);
                }
                listed.insert((path, object.sha256));
            }
        }
        self.sums.write_all(sums.as_bytes())
    }

    /// Ends the export.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn finish(mut self) -> io::Result<Exported> {
        self.objects.retain(|_, objects| !objects.is_empty());
        for (sink, name) in file_names(self.objects.keys()) {
            let Some(objects) = self.objects.get(sink) else { continue };
            let text: String = objects.iter().map(|(path, sha256)| format!("{sha256}  {path}\n")).collect();
            fs::write(self.folder.join("objects").join(name), text)?;
            self.done.objects += objects.len() as u64;
        }
        self.lines.flush()?;
        self.sums.sync_all()?;
        Ok(self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinks_whose_names_differ_in_signs_alone_have_files_of_their_own() {
        let sinks = ["../x", ".x", "A.B", "a b", "a.b", "a_b", "a/b", "\"é"].map(str::to_owned);
        let mut names = file_names(sinks.iter());
        names.sort();
        let names: Vec<(&str, &str)> = names.iter().map(|(s, n)| (s.as_str(), n.as_str())).collect();
        assert_eq!(
            names,
            [
                ("\"é", "____"),
                ("../x", "_._x"),
                (".x", "_x"),
                ("A.B", "A.B"),
                ("a b", "a_b~2"),
                ("a.b", "a.b~2"),
                ("a/b", "a_b~3"),
                ("a_b", "a_b"),
            ]
        );
    }
}
