//! A disk in memory that fills up, fails, and loses power: of what was not synced then, any part
//! may be there or not, in any order, and torn.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile};
use crate::book::{Book, Change, NoBook, Row};
use crate::testing::Random;

const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Write {
    Bytes(usize, Vec<u8>),
    Len(usize),
}

#[derive(Clone, Debug)]
enum Entry {
    Put(String, usize),
    Rename(String, String, usize),
    Remove(String),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Write>,
}

#[derive(Debug, Default)]
struct Inner {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced: Vec<Entry>,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    capacity: Option<usize>,
    /// Operations until the power goes.
    power: Option<u64>,
    off: bool,
    fail_syncs: u32,
    read_only: bool,
    /// Files and the runs of their bytes that cannot be read.
    bad: Vec<(usize, std::ops::Range<usize>)>,
    /// Most bytes of all files so far.
    peak: usize,
}

/// See the [module](self). Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeDisk(Arc<Mutex<Inner>>);

/// What the system says of a medium that fails: `EIO`, or Windows' `ERROR_IO_DEVICE`.
fn eio() -> io::Error {
    io::Error::from_raw_os_error(if cfg!(windows) { 1117 } else { 5 })
}

fn apply(bytes: &mut Vec<u8>, write: &Write) {
    match write {
        Write::Len(len) => bytes.resize(*len, 0),
        Write::Bytes(at, data) => {
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0);
            }
            bytes[*at..at + data.len()].copy_from_slice(data);
        }
    }
}

impl Inner {
    fn step(&mut self, writes: bool) -> io::Result<()> {
        if let Some(left) = &mut self.power {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.off = true;
            }
        }
        if self.off {
            return Err(eio());
        }
        if writes && self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }

    fn used(&self) -> usize {
        self.names.values().map(|n| self.inodes[*n].now.len()).sum()
    }
}

impl FakeDisk {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Most bytes of all files, `None`: no limit.
    pub fn set_capacity(&self, capacity: Option<usize>) {
        self.lock().capacity = capacity;
    }

    pub fn used(&self) -> usize {
        self.lock().used()
    }

    /// A run of a file's bytes cannot be read any more.
    pub fn wear_out(&self, name: &str, bytes: std::ops::Range<usize>) {
        let mut inner = self.lock();
        let n = inner.names[name];
        inner.bad.push((n, bytes));
    }

    /// Most bytes that all files ever had together.
    pub fn peak(&self) -> usize {
        self.lock().peak
    }

    pub fn set_read_only(&self, read_only: bool) {
        self.lock().read_only = read_only;
    }

    /// Lets the next syncs fail.
    pub fn fail_syncs(&self, n: u32) {
        self.lock().fail_syncs = n;
    }

    /// The power goes after so many operations.
    pub fn power_off_after(&self, operations: u64) {
        self.lock().power = Some(operations.max(1));
    }

    /// The power goes now.
    pub fn power_off(&self) {
        self.lock().off = true;
    }

    /// The power is back: what was not synced is there in part.
    pub fn power_on(&self, random: &mut Random) {
        let mut inner = self.lock();
        let entries = std::mem::take(&mut inner.unsynced);
        for entry in entries {
            if random.below(2) == 0 {
                continue;
            }
            match entry {
                Entry::Put(name, n) => {
                    inner.durable_names.insert(name, n);
                }
                Entry::Rename(from, to, n) => {
                    inner.durable_names.remove(&from);
                    inner.durable_names.insert(to, n);
                }
                Entry::Remove(name) => {
                    inner.durable_names.remove(&name);
                }
            }
        }
        inner.names = inner.durable_names.clone();
        for inode in &mut inner.inodes {
            for write in std::mem::take(&mut inode.unsynced) {
                match (&write, random.below(4)) {
                    (_, 0) => {}
                    (Write::Bytes(at, data), 1) => {
                        let cut = random.below(data.len() as u64 / SECTOR as u64 + 1) as usize * SECTOR;
                        apply(&mut inode.durable, &Write::Bytes(*at, data[..cut.min(data.len())].to_vec()));
                    }
                    (Write::Bytes(at, data), 2) => {
                        // some sectors of it
                        for (n, sector) in data.chunks(SECTOR).enumerate() {
                            if random.below(2) == 0 {
                                apply(&mut inode.durable, &Write::Bytes(at + n * SECTOR, sector.to_vec()));
                            }
                        }
                    }
                    _ => apply(&mut inode.durable, &write),
                }
            }
            inode.now = inode.durable.clone();
        }
        inner.power = None;
        inner.off = false;
        inner.fail_syncs = 0;
    }

    /// Names and contents of the files.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let inner = self.lock();
        inner.names.iter().map(|(name, n)| (name.clone(), inner.inodes[*n].now.clone())).collect()
    }

    /// Puts a file there, durably.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut inner = self.lock();
        let n = inner.inodes.len();
        inner.inodes.push(Inode { now: bytes.clone(), durable: bytes, unsynced: Vec::new() });
        inner.names.insert(name.to_owned(), n);
        inner.durable_names.insert(name.to_owned(), n);
    }

    /// Another disk with the same files and book.
    pub fn copy(&self) -> FakeDisk {
        let copy = FakeDisk::default();
        for (name, bytes) in self.files() {
            copy.put(&name, bytes);
        }
        copy.lock().rows = self.lock().rows.clone();
        copy
    }

    /// As [`copy`](FakeDisk::copy), but without the book.
    pub fn copy_without_rows(&self) -> FakeDisk {
        let copy = self.copy();
        copy.lock().rows.clear();
        copy
    }

    /// As [`copy`](FakeDisk::copy), but neither book nor journal.
    pub fn copy_without_book(&self) -> FakeDisk {
        let copy = FakeDisk::default();
        for (name, bytes) in self.files().into_iter().filter(|(n, _)| !n.ends_with(".journal")) {
            copy.put(&name, bytes);
        }
        copy
    }

    /// What its book holds.
    pub fn rows(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.lock().rows.clone()
    }

    /// Gives it another book.
    pub fn set_rows(&self, rows: BTreeMap<Vec<u8>, Vec<u8>>) {
        self.lock().rows = rows;
    }

    /// The book on this disk.
    pub fn book(&self) -> Box<dyn Book> {
        Box::new(FakeBook(self.clone()))
    }
}

impl Disk for FakeDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut inner = self.lock();
        inner.step(false)?;
        Ok(inner.names.iter().map(|(name, n)| (name.clone(), inner.inodes[*n].now.len() as u64)).collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut inner = self.lock();
        inner.step(true)?;
        let n = inner.inodes.len();
        inner.inodes.push(Inode::default());
        inner.names.insert(name.to_owned(), n);
        inner.unsynced.push(Entry::Put(name.to_owned(), n));
        Ok(Box::new(FakeFile(self.clone(), n)))
    }

    fn create_new(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        if self.lock().names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut inner = self.lock();
        inner.step(false)?;
        let n = *inner.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(FakeFile(self.clone(), n)))
    }

    fn open_to_write(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.step(true)?;
        let n = inner.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inner.names.insert(to.to_owned(), n);
        inner.unsynced.push(Entry::Rename(from.to_owned(), to.to_owned(), n));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.step(true)?;
        inner.names.remove(name);
        inner.unsynced.push(Entry::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.step(true)?;
        inner.unsynced.clear();
        inner.durable_names = inner.names.clone();
        Ok(())
    }
}

#[derive(Debug)]
struct FakeFile(FakeDisk, usize);

impl DiskFile for FakeFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.step(true)?;
        let at = offset as usize;
        let used = inner.used();
        let capacity = inner.capacity;
        let inode = &mut inner.inodes[self.1];
        let grows = (at + bytes.len()).saturating_sub(inode.now.len());
        let room = capacity.map_or(usize::MAX, |c| c.saturating_sub(used));
        // as much as there is room for comes to the disk
        let fits = bytes.len() - grows.saturating_sub(room).min(bytes.len());
        let write = Write::Bytes(at, bytes[..fits].to_vec());
        apply(&mut inode.now, &write);
        inode.unsynced.push(write);
        inner.peak = inner.peak.max(used + grows);
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.0.lock();
        inner.step(false)?;
        let bytes = &inner.inodes[self.1].now;
        let from = bytes.len().min(offset as usize);
        let len = buffer.len().min(bytes.len() - from);
        if inner.bad.iter().any(|(n, bad)| *n == self.1 && bad.start < from + len && from < bad.end) {
            return Err(eio());
        }
        buffer[..len].copy_from_slice(&bytes[from..from + len]);
        Ok(len)
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.step(true)?;
        if inner.fail_syncs > 0 {
            // as Linux does it: the pages count as clean from now on, and are not on the disk
            inner.fail_syncs -= 1;
            inner.inodes[self.1].unsynced.clear();
            return Err(eio());
        }
        let inode = &mut inner.inodes[self.1];
        for write in std::mem::take(&mut inode.unsynced) {
            apply(&mut inode.durable, &write);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.step(true)?;
        let write = Write::Len(len as usize);
        let inode = &mut inner.inodes[self.1];
        apply(&mut inode.now, &write);
        inode.unsynced.push(write);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut inner = self.0.lock();
        inner.step(false)?;
        Ok(inner.inodes[self.1].now.len() as u64)
    }
}

/// A book that keeps its word, and fails with its disk.
#[derive(Debug)]
struct FakeBook(FakeDisk);

impl Book for FakeBook {
    fn load(&mut self) -> Result<Vec<Row>, NoBook> {
        let mut inner = self.0.lock();
        inner.step(false).map_err(|e| NoBook::Damaged(e.to_string()))?;
        Ok(inner.rows.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), String> {
        let mut inner = self.0.lock();
        let was_on = !inner.off;
        let done = inner.step(true).map_err(|e| e.to_string());
        // where the power goes in the middle, it may have been done all the same
        if done.is_ok() || was_on && inner.off && changes.len().is_multiple_of(2) {
            for (key, value) in changes {
                match value {
                    Some(v) => inner.rows.insert(key.clone(), v.clone()),
                    None => inner.rows.remove(key),
                };
            }
        }
        done
    }

    fn renew(&mut self, values: &[Row], _: bool) -> Result<(), String> {
        let mut inner = self.0.lock();
        inner.step(true).map_err(|e| e.to_string())?;
        inner.rows = values.iter().cloned().collect();
        Ok(())
    }

    fn clear(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        self.0.lock().rows.iter().map(|(k, v)| (k.len() + v.len()) as u64).sum()
    }
}
