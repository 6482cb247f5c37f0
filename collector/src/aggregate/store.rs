//! The files: one a day, one line an hour, written anew as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use tidegate_proto::time::format_rfc3339;

use super::{AggregateOptions, Hour};

/// Most bytes that are read of one file.
const MAX_FILE: u64 = 64 << 20;
const SUFFIX: &str = ".jsonl";
const DAY_NS: i64 = 86_400_000_000_000;

/// A folder of aggregates.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    keep_ns: i64,
    bytes: u64,
}

/// The day of a time, as files are named.
fn day(time_ns: i64) -> String {
    format_rfc3339(time_ns).chars().take(10).collect()
}

impl Store {
    /// Opens the folder, and makes it where it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(options: &AggregateOptions) -> io::Result<Store> {
        fs::create_dir_all(&options.path)?;
        let keep_ns = i64::try_from(options.keep.as_nanos()).unwrap_or(i64::MAX);
        Ok(Store { path: options.path.clone(), keep_ns, bytes: options.bytes })
    }

    fn file(&self, day: &str) -> PathBuf {
        self.path.join(format!("{day}{SUFFIX}"))
    }

    /// The hours from the first to the last beginning, in order. Lines that cannot be read are
    /// left out.
    ///
    /// # Errors
    /// When the folder or a file cannot be read.
    pub fn load(&self, first_ns: i64, last_ns: i64) -> io::Result<Vec<Hour>> {
        let (first, last) = (day(first_ns), day(last_ns));
        let days = self.days()?.into_iter().filter(|(d, _)| (&first..=&last).contains(&d));
        let mut all = BTreeMap::new();
        for (day, _) in days {
            for hour in self.of_day(&day)? {
                if (first_ns..=last_ns).contains(&hour.start_ns) {
                    all.insert(hour.start_ns, hour);
                }
            }
        }
        Ok(all.into_values().collect())
    }

    fn of_day(&self, day: &str) -> io::Result<Vec<Hour>> {
        let mut text = String::new();
        match File::open(self.file(day)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => {
                let mut bytes = Vec::new();
                file?.take(MAX_FILE).read_to_end(&mut bytes)?;
                text.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
        Ok(text.lines().filter_map(Hour::from_json).collect())
    }

    /// Days that are there, oldest first, and the size of each.
    fn days(&self) -> io::Result<BTreeMap<String, u64>> {
        let mut days = BTreeMap::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(day) = name.to_str().and_then(|n| n.strip_suffix(SUFFIX)) else { continue };
            let digits = day.len() == 10 && day.bytes().all(|b| b.is_ascii_digit() || b == b'-');
            if digits && let Ok(m) = entry.metadata() {
                days.insert(day.to_owned(), m.len());
            }
        }
        Ok(days)
    }

    /// Stores hours, in the place of what was stored of them, and lets go of what is too old or
    /// too much.
    ///
    /// # Errors
    /// When the disk fails; each day is then as it was or as it is to be.
    pub fn save(&self, hours: &[&Hour], now_ns: i64) -> io::Result<()> {
        let days: BTreeSet<String> = hours.iter().map(|h| day(h.start_ns)).collect();
        for name in days {
            let mut all: BTreeMap<i64, Hour> =
                self.of_day(&name)?.into_iter().map(|h| (h.start_ns, h)).collect();
            for hour in hours.iter().filter(|h| day(h.start_ns) == name) {
                all.insert(hour.start_ns, (*hour).clone());
            }
            // of a day that is too much by itself the newest hours stay
            let mut lines = Vec::new();
            let mut size = 0;
            for line in all.values().rev().map(Hour::to_json) {
                size += line.len() as u64 + 1;
                if size > self.bytes {
                    break;
                }
                lines.push(line);
            }
            lines.reverse();
            self.write(&self.file(&name), &lines)?;
        }
        self.trim(now_ns)
    }

    fn write(&self, path: &Path, lines: &[String]) -> io::Result<()> {
        let beside = path.with_extension("part");
        let done = (|| {
            let mut file = File::create(&beside)?;
            for line in lines {
                file.write_all(line.as_bytes())?;
                file.write_all(b"\n")?;
            }
            file.sync_all()?;
            fs::rename(&beside, path)
        })();
        if done.is_err() {
            // may not have been made
            let _ = fs::remove_file(&beside);
        }
        done
    }

    fn trim(&self, now_ns: i64) -> io::Result<()> {
        let days = self.days()?;
        let oldest = day(now_ns.saturating_sub(self.keep_ns).saturating_sub(DAY_NS).max(0));
        let mut total: u64 = days.values().sum();
        for (name, size) in &days {
            // the last one is the one just written
            if *name >= oldest && (total <= self.bytes || days.keys().last() == Some(name)) {
                continue;
            }
            fs::remove_file(self.file(name))?;
            total -= size;
        }
        Ok(())
    }
}
