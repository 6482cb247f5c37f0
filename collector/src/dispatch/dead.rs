//! Dead letters: events that the far side refuses for good, kept in a file of their own with the
//! reason, one JSON object a line, in the form that the `jsonl` source reads back.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::{json, time};
use tidegate_sinks::{Rejected, SinkBatch};

/// The file of one sink. At [`DeadLetters::MAX_BYTES`] it becomes `NAME.old`, and the one that
/// had this name before is gone.
#[derive(Debug)]
pub struct DeadLetters {
    path: PathBuf,
    max_bytes: u64,
}

impl DeadLetters {
    /// Bytes of one file; there are two at most.
    pub const MAX_BYTES: u64 = 64 << 20;

    /// Nothing is opened yet.
    #[must_use]
    pub fn new(path: PathBuf) -> DeadLetters {
        DeadLetters { path, max_bytes: Self::MAX_BYTES }
    }

    /// Another bound.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> DeadLetters {
        self.max_bytes = bytes;
        self
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes events of a batch with why they are refused, but for those above a level; they are on stable
    /// storage when it returns. A crash right after may leave them there twice, with the same `seq`.
    ///
    /// # Errors
    /// When the file cannot be written; some of the events may be in it.
    pub fn write(
        &self,
        batch: &SinkBatch,
        rejected: &[Rejected],
        level: TelemetryLevel,
        now_ns: i64,
    ) -> io::Result<()> {
        let mut out = Vec::new();
        let mut wanted = rejected.iter().peekable();
        for (seq, event) in batch.iter() {
            while wanted.next_if(|r| r.seq < seq).is_some() {}
            let Some(r) = wanted.next_if(|r| r.seq == seq) else { continue };
            if event.head().telemetry_level.is_none_or(|l| l > level) {
                continue;
            }
            json::write_line(&mut out, event, Some(seq));
            // the object goes on with what became of it
            out.pop();
            out.extend_from_slice(b",\"deadLetter\":{\"reason\":");
            json::string(&mut out, r.reason.as_str());
            out.extend_from_slice(b",\"detail\":");
            json::string(&mut out, &r.detail);
            out.extend_from_slice(b",\"refused\":");
            json::string(&mut out, &time::format_rfc3339(now_ns));
            out.extend_from_slice(b"}}\n");
        }
        if out.is_empty() {
            return Ok(());
        }
        self.append(&out)
    }

    fn append(&self, lines: &[u8]) -> io::Result<()> {
        // opened each time, so that a purge may put another file in its place
        let at = match fs::metadata(&self.path) {
            Ok(file) => file.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(e),
        };
        if at > 0 && at + lines.len() as u64 > self.max_bytes {
            let mut old = self.path.clone().into_os_string();
            old.push(".old");
            fs::rename(&self.path, old)?;
        }
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        // events may hold what not everyone may read
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&self.path)?;
        file.write_all(lines)?;
        file.sync_data()
    }
}
