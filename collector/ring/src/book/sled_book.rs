//! The book in sled.
//!
//! sled 0.34.7 was measured: values up to a few KiB survive `kill -9` and loss of power if its
//! file is really synced after its own flush (which only calls `sync_file_range`); larger values
//! do not. So values are cut into pieces of 1 KiB, and each sync is followed by a real one. sled
//! can panic on damaged files: every call is wrapped, and a book that failed once is not used
//! again but renewed from memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::{Book, Change, NoBook, Row};
use crate::disk::sync_folder;

const PIECE: usize = 1024;
const PREFIX: &str = "book-";
const ASIDE: &str = "damaged-book";
/// Its page cache.
const CACHE: u64 = 8 << 20;

/// Bytes that must be free on the disk before a book is opened.
const ROOM: usize = 128 << 10;

/// See the [module](self).
pub(crate) struct SledBook {
    folder: PathBuf,
    number: u64,
    db: Option<sled::Db>,
}

impl std::fmt::Debug for SledBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledBook").field("folder", &self.folder).field("number", &self.number).finish()
    }
}

fn guarded<T>(what: &str, f: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(done) => done.map_err(|e| format!("{what}: {e}")),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(format!("{what}: sled panicked: {text}"))
        }
    }
}

/// Whether what the system says has nothing to do with what the book holds.
fn passes(e: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    // too many open files have no kind of their own, and sled may have made the error anew
    matches!(e.kind(), PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
        || ["No space left", "Too many open files"].iter().any(|words| e.to_string().contains(words))
}

/// Closes a book; sled's own end may panic too.
fn close(db: sled::Db) -> Result<(), String> {
    guarded("cannot close the book", move || {
        drop(db);
        Ok(())
    })
}

fn text<E: std::fmt::Display>(e: E) -> String {
    e.to_string()
}

impl SledBook {
    /// A book in a folder. Nothing is opened until [`Book::load`].
    pub fn new(folder: &Path) -> SledBook {
        SledBook { folder: folder.to_owned(), number: 0, db: None }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{PREFIX}{number:08}"))
    }

    /// Numbers of the books that are there, newest first.
    fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.strip_prefix(PREFIX)?.parse().ok())
            .collect();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        numbers
    }

    fn open(path: &Path) -> Result<sled::Db, NoBook> {
        let mut cause = None;
        let opened = guarded("cannot open the book", || {
            sled::Config::new()
                .path(path)
                .cache_capacity(CACHE)
                .flush_every_ms(None)
                .mode(sled::Mode::LowSpace)
                .segment_size(64 << 10)
                .open()
                .map_err(|e| {
                    let said = e.to_string();
                    if let sled::Error::Io(e) = e {
                        cause = Some(e);
                    }
                    said
                })
        });
        opened.map_err(|why| match cause.filter(passes) {
            Some(e) => NoBook::Io(e),
            None => NoBook::Damaged(why),
        })
    }

    /// Fails where the disk is too full to open a book: sled writes then, and was seen to damage one that it could not
    /// finish.
    fn room(&self) -> io::Result<()> {
        let probe = self.folder.join("room");
        let done = File::create(&probe).and_then(|mut file| {
            file.write_all(&[0xa5; ROOM])?;
            file.sync_all()
        });
        // one that stays is emptied the next time
        let _ = fs::remove_file(&probe);
        done
    }

    fn read(db: &sled::Db) -> Result<Vec<Row>, String> {
        let rows = guarded("cannot read the book", || {
            db.iter().map(|row| row.map(|(k, v)| (k.to_vec(), v.to_vec())).map_err(text)).collect()
        });
        joined(rows?)
    }

    /// Closes what is open.
    fn shut(&mut self) {
        if let Some(Err(e)) = self.db.take().map(close) {
            tracing::warn!("{e}");
        }
    }

    fn write(db: &sled::Db, path: &Path, changes: &[Change]) -> Result<(), String> {
        guarded("cannot write the book", || {
            let mut batch = sled::Batch::default();
            for (key, value) in changes {
                let mut n = 0;
                if let Some(value) = value {
                    for piece in pieces(value) {
                        batch.insert(piece_key(key, n), piece);
                        n += 1;
                    }
                }
                // what a longer value had before
                while db.contains_key(piece_key(key, n)).map_err(text)? {
                    batch.remove(piece_key(key, n));
                    n += 1;
                }
            }
            db.apply_batch(batch).map_err(text)?;
            db.flush().map_err(text)?;
            let file = File::options().read(true).write(true).open(path.join("db")).map_err(text)?;
            file.sync_all().map_err(text)
        })
    }
}

/// Length first, so that the pieces of one value stand together whatever the key's bytes are.
fn piece_key(key: &[u8], n: u16) -> Vec<u8> {
    let len = u16::try_from(key.len()).unwrap_or(u16::MAX);
    [&len.to_be_bytes(), key, &n.to_be_bytes()].concat()
}

/// The first piece says how many there are and the CRC of the whole.
fn pieces(value: &[u8]) -> Vec<Vec<u8>> {
    let count = u16::try_from(value.len().div_ceil(PIECE).max(1)).unwrap_or(u16::MAX);
    let head = [&count.to_be_bytes()[..], &crc32c::crc32c(value).to_be_bytes()].concat();
    let mut out: Vec<Vec<u8>> = value.chunks(PIECE).map(<[u8]>::to_vec).collect();
    match out.first_mut() {
        Some(first) => *first = [head.as_slice(), first].concat(),
        None => out.push(head),
    }
    out
}

fn joined(rows: Vec<Row>) -> Result<Vec<Row>, String> {
    let mut out: Vec<Row> = Vec::new();
    let mut left = (0u16, 0u32);
    let complete = |out: &Vec<Row>, left: (u16, u32)| {
        left.0 == 0 && out.last().is_none_or(|(_, v)| crc32c::crc32c(v) == left.1)
    };
    for (key, value) in rows {
        let (key, n) = key.split_last_chunk::<2>().ok_or("a key of another kind")?;
        let (_, key) = key.split_first_chunk::<2>().ok_or("a key of another kind")?;
        if u16::from_be_bytes(*n) == 0 {
            if !complete(&out, left) {
                return Err("a value is damaged".to_owned());
            }
            let (count, rest) = value.split_first_chunk::<2>().ok_or("a value is cut")?;
            let (crc, rest) = rest.split_first_chunk::<4>().ok_or("a value is cut")?;
            left = (u16::from_be_bytes(*count).saturating_sub(1), u32::from_be_bytes(*crc));
            out.push((key.to_vec(), rest.to_vec()));
        } else {
            let whole = out.last_mut().filter(|(k, _)| k == key).ok_or("a piece without its value")?;
            whole.1.extend_from_slice(&value);
            left.0 = left.0.checked_sub(1).ok_or("a piece too many")?;
        }
    }
    if complete(&out, left) { Ok(out) } else { Err("a value is damaged".to_owned()) }
}

fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::options().read(true).write(true).open(entry.path())?.sync_all()?;
        }
    }
    sync_folder(path)
}

fn tree_bytes(path: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        sum += if meta.is_dir() { tree_bytes(&entry.path()) } else { meta.len() };
    }
    sum
}

impl Book for SledBook {
    fn load(&mut self) -> Result<Vec<Row>, NoBook> {
        fs::create_dir_all(&self.folder).map_err(NoBook::Io)?;
        let numbers = self.numbers();
        let Some(newest) = numbers.first().copied() else { return Ok(Vec::new()) };
        self.number = newest;
        // a book is renamed into place when it is complete, so older ones are left-overs
        for old in numbers.iter().skip(1) {
            fs::remove_dir_all(self.path(*old)).map_err(NoBook::Io)?;
        }
        self.room().map_err(NoBook::Io)?;
        let db = Self::open(&self.path(newest))?;
        let rows = Self::read(&db);
        self.db = Some(db);
        rows.map_err(NoBook::Damaged)
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), String> {
        let path = self.path(self.number);
        let Some(db) = &self.db else { return Err("the book is not open".to_owned()) };
        let done = Self::write(db, &path, changes);
        if done.is_err() {
            self.shut();
        }
        done
    }

    fn renew(&mut self, values: &[Row], damaged: bool) -> Result<(), String> {
        self.shut();
        let made = self.folder.join("new-book");
        if made.exists() {
            fs::remove_dir_all(&made).map_err(text)?;
        }
        let db = Self::open(&made).map_err(text)?;
        let changes: Vec<Change> = values.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
        let written = Self::write(&db, &made, &changes);
        close(db)?;
        written?;
        sync_tree(&made).map_err(text)?;
        // on a full disk sled was seen to say that it wrote what it had not
        let db = Self::open(&made).map_err(text)?;
        let there = Self::read(&db);
        close(db)?;
        if there?.into_iter().collect::<BTreeMap<_, _>>() != values.iter().cloned().collect() {
            return Err("the new book does not hold what was written".to_owned());
        }
        let old = self.path(self.number);
        let number = self.number + 1;
        fs::rename(&made, self.path(number)).map_err(text)?;
        sync_folder(&self.folder).map_err(text)?;
        if damaged && old.exists() {
            // one is enough to look at, and it counts into the bound
            let aside = self.folder.join(ASIDE);
            if aside.exists() {
                fs::remove_dir_all(&aside).map_err(text)?;
            }
            fs::rename(&old, &aside).map_err(text)?;
        } else if old.exists() {
            fs::remove_dir_all(&old).map_err(text)?;
        }
        self.number = number;
        self.db = Some(Self::open(&self.path(number)).map_err(text)?);
        Ok(())
    }

    fn clear(&mut self) -> Result<(), String> {
        match fs::remove_dir_all(self.folder.join(ASIDE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.and_then(|()| sync_folder(&self.folder)).map_err(text),
        }
    }

    fn disk_bytes(&self) -> u64 {
        tree_bytes(&self.folder)
    }
}

impl Drop for SledBook {
    fn drop(&mut self) {
        self.shut();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_cut_and_joined_and_damage_is_seen() {
        let folder = tempfile::tempdir().expect("folder");
        let mut book = SledBook::new(folder.path());
        assert_eq!(book.load().expect("empty"), []);
        book.renew(&[], false).expect("made");
        let long = vec![7u8; 3000];
        book.apply(&[(b"a".to_vec(), Some(long.clone())), (b"b".to_vec(), Some(Vec::new()))])
            .expect("stored");
        book.apply(&[(b"c".to_vec(), Some(b"x".to_vec()))]).expect("stored");
        drop(book);
        let mut book = SledBook::new(folder.path());
        let all = book.load().expect("loaded");
        assert_eq!(all, [(b"a".to_vec(), long), (b"b".to_vec(), vec![]), (b"c".to_vec(), b"x".to_vec())]);
        book.apply(&[(b"a".to_vec(), Some(b"short".to_vec())), (b"c".to_vec(), None)]).expect("stored");
        book.renew(&[(b"z".to_vec(), b"1".to_vec())], false).expect("renewed");
        drop(book);
        let mut book = SledBook::new(folder.path());
        assert_eq!(book.load().expect("loaded"), [(b"z".to_vec(), b"1".to_vec())]);
        let row = |n: u16, v: &[u8]| (piece_key(b"k", n), v.to_vec());
        let good = pieces(&[1; 2000]);
        assert!(joined(vec![row(0, &good[0]), row(1, &good[1])]).is_ok());
        assert!(joined(vec![row(0, &good[0])]).is_err());
        assert!(joined(vec![row(1, &good[1])]).is_err());
        assert!(joined(vec![row(0, &good[1]), row(1, &good[0])]).is_err());
    }
}
