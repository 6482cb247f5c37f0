//! What is looked at every few seconds.

use std::io::{self, Write};
use std::path::Path;

use tidegate::pipeline::Progress;
use tidegate_ring::{Account, PerLevel, Status};

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Sample {
    pub seconds: f64,
    /// Resident memory of the process; `None` where the system does not tell.
    pub rss: Option<u64>,
    /// Bytes that the ring's folder takes on disk, all files.
    pub disk: u64,
    /// What the ring says of it.
    pub said: u64,
    pub read: u64,
    pub stored: u64,
    /// Per sink: delivered, rejected, lost, held.
    pub sinks: Vec<[u64; 4]>,
}

fn sum(levels: &PerLevel) -> u64 {
    levels.iter().sum()
}

impl Sample {
    pub fn take(
        seconds: f64,
        folder: &Path,
        progress: &Progress,
        account: &Account,
        status: &Status,
    ) -> Sample {
        let sinks = account.sinks.values().map(|s| {
            let lost = s.lost.values().map(sum).sum();
            [sum(&s.delivered), sum(&s.rejected), lost, sum(&s.held)]
        });
        Sample {
            seconds,
            rss: resident(),
            disk: on_disk(folder).unwrap_or(0),
            said: status.disk_bytes,
            read: progress.read,
            stored: progress.stored,
            sinks: sinks.collect(),
        }
    }

    pub fn heading(sinks: &[String], out: &mut dyn Write) -> io::Result<()> {
        write!(out, "seconds,rss_bytes,disk_bytes,ring_bytes,read,stored")?;
        for name in sinks {
            write!(out, ",{name}_delivered,{name}_rejected,{name}_lost,{name}_held")?;
        }
        writeln!(out)
    }

    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let rss = self.rss.map(|n| n.to_string()).unwrap_or_default();
        let Sample { seconds, disk, said, read, stored, .. } = self;
        write!(out, "{seconds:.1},{rss},{disk},{said},{read},{stored}")?;
        for n in self.sinks.iter().flatten() {
            write!(out, ",{n}")?;
        }
        writeln!(out)?;
        out.flush()
    }
}

/// `VmRSS` of `/proc/self/status`, proc_pid_status(5).
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Bytes of all files below a folder: allocated ones where the system tells, else lengths.
fn on_disk(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // files come and go while we look
        let Ok(meta) = entry.metadata() else { continue };
        bytes += if meta.is_dir() { on_disk(&entry.path()).unwrap_or(0) } else { taken(&meta) };
    }
    Ok(bytes)
}

#[cfg(unix)]
fn taken(meta: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    meta.blocks() * 512
}

#[cfg(not(unix))]
fn taken(meta: &std::fs::Metadata) -> u64 {
    meta.len()
}
