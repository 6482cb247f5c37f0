//! Damaged files and bytes that are set aside for inspection: never many, and none after a purge.

use std::io;

use super::Shared;
use crate::disk::Disk;
use crate::{RingError, RingOptions};

/// How the names of such files end.
const ENDING: &str = ".bad";

pub(crate) fn is_set_aside(name: &str) -> bool {
    name.ends_with(ENDING)
}

/// Bytes of such files that are kept at most.
pub(crate) fn most(options: &RingOptions) -> u64 {
    options.bound() / 8
}

/// Removes the oldest until the rest is within `most` bytes. Returns the bytes that stay, and the
/// names that went.
pub(crate) fn trim(disk: &dyn Disk, most: u64) -> io::Result<(u64, Vec<String>)> {
    let mut files = disk.list()?;
    files.retain(|(name, _)| is_set_aside(name));
    // numbers of segments, then journals
    files.sort();
    let (mut left, mut gone) = (0, Vec::new());
    for (name, len) in files.into_iter().rev() {
        if left + len <= most {
            left += len;
        } else {
            disk.remove(&name)?;
            gone.push(name);
        }
    }
    Ok((left, gone))
}

/// What is told of files that went.
pub(crate) fn report(gone: &[String]) -> Option<String> {
    let last = gone.first()?;
    Some(format!(
        "{} damaged files, up to {last}, are not kept: newer ones take the room for such",
        gone.len()
    ))
}

impl Shared {
    /// Keeps bytes for inspection, and lets older ones go.
    pub fn set_aside(&self, name: &str, bytes: &[u8]) {
        let most = most(&self.options);
        // a ring that is closed may be another process's by now
        if bytes.is_empty() || bytes.len() as u64 > most || self.lock().closed {
            return;
        }
        let kept = self.disk.create(name).and_then(|f| f.write_at(0, bytes));
        if let Err(e) = &kept {
            tracing::warn!("cannot set {name} aside: {e}");
        }
        match trim(&*self.disk, most) {
            Ok((left, gone)) => {
                let mut state = self.lock();
                state.aside_bytes = left;
                if let Some(text) = report(&gone) {
                    state.report(text);
                }
            }
            Err(e) => tracing::warn!("cannot remove what was set aside: {e}"),
        }
    }

    /// Removes all of it, in the book's folder too.
    pub fn remove_set_aside(&self) -> Result<(), RingError> {
        let files = self.lock_files();
        if self.lock().closed {
            return Err(RingError::Closed);
        }
        let failed = |source| RingError::Io { what: "remove damaged files".to_owned(), source };
        let (_, gone) = trim(&*self.disk, 0).map_err(failed)?;
        if !gone.is_empty() {
            self.disk.sync_dir().map_err(failed)?;
        }
        self.lock().aside_bytes = 0;
        drop(files);
        self.keeper.sync_and_clear()
    }
}
