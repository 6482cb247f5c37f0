//! The control: plain files with `fdatasync` and no ring, on the same disk that loses power. It
//! tells what the file system itself keeps of what it said was synced.
//!
//! ext4's shutdown aborts its journal while a sync is under way. `ext4_sync_file` looks for the
//! shutdown only at its beginning; when the conversion of the blocks just written fails behind
//! that, no error reaches the file's mapping, and the transaction it then waits for is an older
//! one that is complete: it returns 0 for blocks that read as zeros afterwards. A disk without
//! power returns nothing. So only what a file system that still takes writes has said counts;
//! this control shows both counts.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::child::{alive, say};

pub const FOLDER: &str = "TIDEGATE_PLAIN_CHILD";
const RECORD: usize = 16 << 10;
const FILES: u64 = 3;

/// What became of the records that were said to be synced.
#[derive(Debug, Default)]
pub struct Count {
    pub rounds: u64,
    /// Said by a sync after which the file system still took a write, and gone of them.
    pub sure: (u64, u64),
    /// Said by a sync that may have overlapped the shutdown, and gone of them.
    pub unsure: (u64, u64),
}

fn record(file: u64, n: u64) -> Vec<u8> {
    [file, n, file ^ n ^ 0x5bd1_e995].iter().cycle().flat_map(|w| w.to_le_bytes()).take(RECORD).collect()
}

fn name(folder: &Path, round: u64, file: u64) -> std::path::PathBuf {
    folder.join(format!("plain-{round:06}-{file}"))
}

/// Appends and syncs until the disk fails.
pub fn run(folder: &Path, round: u64) {
    static OVER: AtomicBool = AtomicBool::new(false);
    std::fs::create_dir_all(folder).expect("folder");
    let write = |file: u64| {
        let out = File::create(name(folder, round, file)).expect("created");
        for n in 0.. {
            if out.write_all_at(&record(file, n), n * RECORD as u64).is_err() {
                return;
            }
            let synced = out.sync_data();
            if synced.is_ok() {
                let sure = !OVER.load(Ordering::Relaxed) && alive(folder);
                OVER.fetch_or(!sure, Ordering::Relaxed);
                say(&format!("{} {file} {n}", if sure { "sure" } else { "unsure" }));
            } else {
                return;
            }
        }
    };
    // the names must be there before anything counts
    std::thread::scope(|s| {
        for file in 0..FILES {
            s.spawn(move || write(file));
        }
    });
}

/// One round: `end` takes the power away, `again` gives it back.
pub fn round(folder: &Path, count: &mut Count, end: impl FnOnce(&mut Child), again: impl FnOnce()) {
    count.rounds += 1;
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "child", "--nocapture", "--test-threads", "1"])
        .env(FOLDER, folder)
        .env(crate::child::ROUND, count.rounds.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    let mut out = child.stdout.take().expect("its output");
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        // what it said until it was killed
        let _ = std::io::Read::read_to_string(&mut out, &mut said);
        said
    });
    end(&mut child);
    child.wait().expect("ended");
    let said = reader.join().expect("read");
    again();
    let whole = said.rfind('\n').map_or("", |end| &said[..=end]);
    for line in whole.lines().filter_map(|l| l.strip_prefix('@')) {
        let words: Vec<&str> = line.split(' ').collect();
        let (file, n): (u64, u64) = (words[1].parse().expect("a file"), words[2].parse().expect("a number"));
        let mut found = vec![0; RECORD];
        let there = File::open(name(folder, count.rounds, file))
            .and_then(|f| f.read_exact_at(&mut found, n * RECORD as u64));
        let gone = there.is_err() || found != record(file, n);
        let sum = if words[0] == "sure" { &mut count.sure } else { &mut count.unsure };
        *sum = (sum.0 + 1, sum.1 + u64::from(gone));
    }
    for file in 0..FILES {
        // room for the next round
        let _ = std::fs::remove_file(name(folder, count.rounds, file));
    }
}
