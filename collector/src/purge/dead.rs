//! Purging dead letters: the file is written anew beside itself and takes its own place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidegate_proto::batch::Batch;
use tidegate_ring::PurgeRule;
use tidegate_sources::jsonl::LineDecoder;

/// What a purge found in one sink's dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadPurged {
    /// Lines whose event matched.
    pub events: u64,
    /// Lines that cannot be read: what cannot be judged must not stay.
    pub unreadable: u64,
    /// Lines that stay.
    pub kept: u64,
}

/// Longest line that is taken for an event, in bytes.
const MAX_LINE: u64 = 64 << 20;

/// Removes the matching events from a file of dead letters and from the one before it
/// (`NAME.old`). With `dry_run` they are only counted. No delivery may write to it meanwhile.
///
/// # Errors
/// When a file cannot be read or written; each file is then either as it was or purged.
pub fn dead_letters(path: &Path, rule: &dyn PurgeRule, dry_run: bool) -> io::Result<DeadPurged> {
    let mut sum = DeadPurged::default();
    let mut old = path.to_owned().into_os_string();
    old.push(".old");
    for path in [path.to_owned(), PathBuf::from(old)] {
        let from = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let done = one(&path, from, rule, dry_run)?;
        sum.events += done.events;
        sum.unreadable += done.unreadable;
        sum.kept += done.kept;
    }
    Ok(sum)
}

fn one(path: &Path, from: File, rule: &dyn PurgeRule, dry_run: bool) -> io::Result<DeadPurged> {
    let mut beside = path.to_owned().into_os_string();
    beside.push(".purge");
    let beside = PathBuf::from(beside);
    let mut out = None;
    if !dry_run {
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        out = Some(BufWriter::new(options.open(&beside)?));
    }
    let sifted = sift(from, rule, out.as_mut());
    let done = sifted.and_then(|done| {
        let Some(out) = out else { return Ok(done) };
        let changed = done.events + done.unreadable > 0;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        if !changed {
            drop(file);
            fs::remove_file(&beside)?;
            return Ok(done);
        }
        file.sync_all()?;
        drop(file);
        if done.kept == 0 {
            fs::remove_file(&beside)?;
            fs::remove_file(path)?;
        } else {
            fs::rename(&beside, path)?;
        }
        // Windows has no such call and needs none
        if let (true, Some(dir)) = (cfg!(unix), path.parent().filter(|p| !p.as_os_str().is_empty())) {
            File::open(dir)?.sync_all()?;
        }
        Ok(done)
    });
    if done.is_err() {
        // it holds what has to go, perhaps
        let _ = fs::remove_file(&beside);
    }
    done
}

fn sift(from: File, rule: &dyn PurgeRule, mut out: Option<&mut BufWriter<File>>) -> io::Result<DeadPurged> {
    let mut from = BufReader::new(from);
    let mut decoder = LineDecoder::new("");
    let (mut line, mut batch) = (Vec::new(), Batch::new());
    let mut done = DeadPurged::default();
    loop {
        line.clear();
        batch.clear();
        if (&mut from).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(done);
        }
        let text = line.trim_ascii_end();
        if text.is_empty() {
            continue;
        }
        match decoder.push(&mut batch, text) {
            Err(_) => done.unreadable += 1,
            Ok(()) if batch.iter().any(|e| rule.matches(e)) => done.events += 1,
            Ok(()) => {
                done.kept += 1;
                if let Some(out) = &mut out {
                    out.write_all(text)?;
                    out.write_all(b"\n")?;
                }
            }
        }
    }
}
