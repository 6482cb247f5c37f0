//! The journal: what the book has to take still, durable at once.
//!
//! Two files of a fixed size are written in turn, so that cursors can be stored on a full disk
//! too. Each begins with a snapshot of all that the ring cannot do without (sums, sinks, holes,
//! values), then come the changes since. The one with the higher generation counts; the other is
//! only overwritten when that one is complete. So sled may lag, and may be lost.
//!
//! ```text
//! file   = "TIDEJRN\n" version:u16 0:u8*6 generation:u64 salt:u64 crc:u32 record*
//! record = len:u32 crc:u32 changes          crc over salt, offset, changes
//! ```
//! What was durable is told from what a crash tore by order: a header is written when its snapshot
//! is durable, a record when the one before it is. So a bad snapshot under the newest header, and a bad
//! record before a good one, are damage. Only the last record may be either; a journal that was closed
//! ends in an empty one, and whoever cannot lose a record has it in both files.

use std::io;

use super::{Change, Row};
use crate::RingError;
use crate::disk::{Disk, DiskFile};
use crate::enc::{Dec, Enc};
use crate::store::reader::is_damage;

const NAMES: [&str; 2] = ["a.journal", "b.journal"];
const MAGIC: &[u8; 8] = b"TIDEJRN\n";
const VERSION: u16 = 1;
const HEADER: usize = 36;
const RECORD: usize = 8;

/// What a journal held.
#[derive(Debug, Default)]
pub(crate) struct Journaled {
    /// The snapshot and the changes behind it, in order.
    pub records: Vec<Vec<Change>>,
    /// There is no snapshot: the changes belong on top of what the book has.
    pub headless: bool,
    /// What the file holds that does not count, when all of it is good: a witness.
    pub older: Option<Vec<Vec<Change>>>,
    /// What is damaged, in words.
    pub damaged: Vec<String>,
}

/// The writing side.
#[derive(Debug)]
pub(crate) struct Journal {
    generation: u64,
    size: u64,
    /// The file that the next generation goes to: never the one that counts.
    next: usize,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    file: Box<dyn DiskFile>,
    salt: u64,
    at: u64,
}

/// Why the journal cannot be read.
#[derive(Debug)]
pub(crate) enum NoJournal {
    Newer(u16),
    Io(io::Error),
}

pub(crate) fn newer(version: u16) -> RingError {
    let (version, known) = (u64::from(version), u64::from(VERSION));
    RingError::Newer { what: "the journal".to_owned(), version, known }
}

fn record_crc(salt: u64, at: u64, bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &at.to_le_bytes());
    crc32c::crc32c_append(crc, bytes)
}

fn encode_changes(changes: &[Change]) -> Vec<u8> {
    let mut e = Enc::default();
    e.n(changes.len() as u64);
    for (key, value) in changes {
        e.bytes(key);
        match value {
            Some(v) => e.n(1).bytes(v),
            None => e.n(0),
        };
    }
    e.0
}

fn decode_changes(bytes: &[u8]) -> Option<Vec<Change>> {
    Dec(bytes).list(|d| {
        let key = d.bytes()?.to_owned();
        let value = if d.n()? == 1 { Some(d.bytes()?.to_owned()) } else { None };
        Some((key, value))
    })
}

struct Found {
    generation: u64,
    records: Vec<Vec<Change>>,
    /// The first record is good.
    whole: bool,
    /// A record before a good one is not.
    damaged: bool,
}

enum Contents {
    Journal(Found),
    /// Zeros: it was being made when the end came.
    Nothing,
    Damaged,
}

fn read_file(file: &dyn DiskFile) -> Result<Contents, NoJournal> {
    let len = file.len().map_err(NoJournal::Io)?;
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let read = file.read_at(0, &mut bytes).map_err(NoJournal::Io)?;
    bytes.truncate(read);
    let start = bytes.get(..HEADER.min(read)).unwrap_or_default();
    if start.iter().all(|b| *b == 0) {
        return Ok(Contents::Nothing);
    }
    let Some((header, crc)) = bytes.get(..HEADER).and_then(|h| h.split_last_chunk::<4>()) else {
        return Ok(Contents::Damaged);
    };
    if crc32c::crc32c(header) != u32::from_le_bytes(*crc) || !header.starts_with(MAGIC) {
        return Ok(Contents::Damaged);
    }
    let mut d = Dec(header.get(8..).unwrap_or_default());
    let version = u16::from_le_bytes(d.fixed().unwrap_or_default());
    if version > VERSION {
        return Err(NoJournal::Newer(version));
    }
    if version == 0 {
        return Ok(Contents::Damaged);
    }
    let _: Option<[u8; 6]> = d.fixed();
    let generation = u64::from_le_bytes(d.fixed().unwrap_or_default());
    let salt = u64::from_le_bytes(d.fixed().unwrap_or_default());
    let mut found = Found { generation, records: Vec::new(), whole: false, damaged: false };
    // most of it may never have been written to: no record begins there
    let zeros = [0; 4096];
    let unused = bytes.rchunks(zeros.len()).take_while(|c| zeros.starts_with(c));
    let used = bytes.len() - unused.map(<[u8]>::len).sum::<usize>();
    // zeros, or what an older generation left, end it in peace
    let mut reader = Reader { bytes: &bytes, salt, effort: bytes.len().saturating_mul(16) };
    let mut at = HEADER;
    loop {
        if let Some((changes, len)) = reader.record(at) {
            found.whole |= at == HEADER;
            found.records.push(changes);
            at += RECORD + len;
            continue;
        }
        let next = (at..used).find(|n| reader.record(*n).is_some());
        // who had to give up looking cannot say that nothing is there
        found.damaged |= next.is_some() || reader.effort == 0;
        match next {
            Some(next) => at = next,
            None => return Ok(Contents::Journal(found)),
        }
    }
}

struct Reader<'b> {
    bytes: &'b [u8],
    salt: u64,
    /// Bytes that may still be checked.
    effort: usize,
}

impl Reader<'_> {
    /// The changes of the record at a place, and their length.
    fn record(&mut self, at: usize) -> Option<(Vec<Change>, usize)> {
        let mut d = Dec(self.bytes.get(at..)?);
        let len = usize::try_from(u32::from_le_bytes(d.fixed()?)).ok()?;
        let crc = u32::from_le_bytes(d.fixed()?);
        let body = d.0.get(..len).filter(|b| are_changes(b))?;
        self.effort = self.effort.saturating_sub(len);
        if self.effort == 0 || record_crc(self.salt, at as u64, body) != crc {
            return None;
        }
        decode_changes(body).map(|c| (c, len))
    }
}

/// Whether bytes have the form of changes: little is left to check of what has not.
fn are_changes(bytes: &[u8]) -> bool {
    let mut d = Dec(bytes);
    let change = |d: &mut Dec<'_>| {
        d.bytes()?;
        match d.n()? {
            0 => Some(()),
            1 => d.bytes().map(|_| ()),
            _ => None,
        }
    };
    d.count().is_some_and(|n| (0..n).all(|_| change(&mut d).is_some())) && d.0.is_empty()
}

impl Journal {
    /// Reads what is there.
    pub fn load(disk: &dyn Disk, size: u64) -> Result<(Journal, Journaled), NoJournal> {
        let names = disk.list().map_err(NoJournal::Io)?;
        let mut out = Journaled::default();
        let mut found = Vec::new();
        for (n, name) in NAMES.iter().enumerate() {
            if !names.iter().any(|(have, _)| have == name) {
                continue;
            }
            let contents = disk.open(name).map_err(NoJournal::Io).and_then(|f| read_file(&*f));
            let contents = match contents {
                Err(NoJournal::Io(e)) if is_damage(disk, &e) => {
                    let aside = format!("{name}.bad");
                    disk.rename(name, &aside).map_err(NoJournal::Io)?;
                    out.damaged.push(format!("{name} cannot be read ({e}) and is set aside as {aside}"));
                    continue;
                }
                other => other?,
            };
            match contents {
                Contents::Journal(journal) => found.push((n, *name, journal)),
                Contents::Nothing => {}
                Contents::Damaged => out.damaged.push(format!("the header of {name} is damaged")),
            }
        }
        found.sort_by_key(|(_, _, f)| f.generation);
        let Some((n, name, mut newest)) = found.pop() else {
            return Ok((Journal { generation: 0, size, next: 0, current: None }, out));
        };
        let older = found.pop().map(|(_, _, f)| f).filter(|f| f.whole);
        if newest.damaged && newest.whole {
            out.damaged.push(format!("a part of {name} is damaged: what follows it counts"));
        }
        // never the one that counts is the next to be overwritten
        let next = if newest.whole { 1 - n } else { n };
        if newest.whole {
            out.older = older.filter(|f| !f.damaged).map(|f| f.records);
        } else {
            out.damaged.push(format!("the snapshot in {name} is damaged: an older one counts"));
            out.headless = older.is_none();
            let later = std::mem::take(&mut newest.records);
            newest.records = older.map(|f| f.records).unwrap_or_default();
            newest.records.extend(later);
        }
        out.records = newest.records;
        Ok((Journal { generation: newest.generation, size, next, current: None }, out))
    }

    /// Bytes of both files.
    pub fn disk_bytes(&self) -> u64 {
        self.size * 2
    }

    /// Whether changes of so many bytes fit in this generation.
    pub fn has_room(&self, changes: &[Change]) -> bool {
        let need: usize = changes.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Vec::len) + 16).sum();
        self.current.as_ref().is_some_and(|c| c.at + need as u64 + 64 <= self.size)
    }

    /// Appends changes; durable on return. After a failure only a new generation helps.
    pub fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        let Some(current) = &mut self.current else {
            return Err(io::Error::other("no journal is open"));
        };
        let done = current.append(&encode_changes(changes)).and_then(|()| current.file.sync());
        if done.is_err() {
            self.current = None;
        }
        done
    }

    /// Notes that nothing follows, so that the last record is not taken for a torn one if it is bad.
    pub fn end(&mut self) -> io::Result<()> {
        if self.has_room(&[]) { self.append(&[]) } else { Ok(()) }
    }

    /// Begins a generation with a snapshot; durable on return.
    pub fn turn(&mut self, disk: &dyn Disk, snapshot: &[Change]) -> io::Result<()> {
        self.current = None;
        self.generation += 1;
        let body = encode_changes(snapshot);
        self.size = self.size.max((body.len() as u64 * 2).next_multiple_of(4096));
        let name = NAMES.get(self.next).copied().unwrap_or("a.journal");
        let there = disk.list()?.iter().any(|(n, len)| n == name && *len >= self.size);
        let file = if there { disk.open_to_write(name)? } else { disk.create(name)? };
        if !there {
            // all of it is written once, so that it has its place on the disk
            let zeros = vec![0; 64 << 10];
            let mut at = 0;
            while at < self.size {
                let len = usize::try_from(self.size - at).unwrap_or(usize::MAX).min(zeros.len());
                file.write_at(at, zeros.get(..len).unwrap_or_default())?;
                at += len as u64;
            }
        }
        let salt = crate::group::random_epoch();
        let mut e = Enc::default();
        e.fixed(MAGIC).fixed(&VERSION.to_le_bytes()).fixed(&[0; 6]);
        e.fixed(&self.generation.to_le_bytes()).fixed(&salt.to_le_bytes());
        let crc = crc32c::crc32c(&e.0);
        e.fixed(&crc.to_le_bytes());
        let mut current = Current { file, salt, at: HEADER as u64 };
        current.append(&body)?;
        current.file.sync()?;
        // until here the old header stands, and its generation is not the newest
        current.file.write_at(0, &e.0)?;
        current.file.sync()?;
        if !there {
            disk.sync_dir()?;
        }
        self.current = Some(current);
        self.next = 1 - self.next;
        Ok(())
    }
}

impl Current {
    fn append(&mut self, body: &[u8]) -> io::Result<()> {
        let len = u32::try_from(body.len()).map_err(|_| io::Error::other("a record of 4 GiB"))?;
        let crc = record_crc(self.salt, self.at, body);
        let record = [&len.to_le_bytes()[..], &crc.to_le_bytes(), body].concat();
        self.file.write_at(self.at, &record)?;
        self.at += record.len() as u64;
        Ok(())
    }
}

/// Whether a key's value may stand in the book alone: indexes of segments, entries of chains.
pub(crate) fn lags(key: &[u8]) -> bool {
    matches!(key.first(), Some(b'g' | b'c'))
}

/// Whether a key's value must not be lost with one file.
pub(crate) fn is_value(key: &[u8]) -> bool {
    key.first() == Some(&b'v')
}

/// The rows of the book with what the journal has on top.
pub(crate) fn merge(book: Vec<Row>, journaled: &Journaled) -> Vec<Row> {
    if journaled.records.is_empty() {
        return book;
    }
    // what every snapshot has in full counts from there
    let book = book.into_iter().filter(|(k, _)| journaled.headless || lags(k));
    on_top(book.collect(), &journaled.records)
}

/// Rows with changes made to them.
pub(crate) fn on_top(
    mut rows: std::collections::BTreeMap<Vec<u8>, Vec<u8>>,
    records: &[Vec<Change>],
) -> Vec<Row> {
    for (key, value) in records.iter().flatten() {
        match value {
            Some(v) => rows.insert(key.clone(), v.clone()),
            None => rows.remove(key),
        };
    }
    rows.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fake::FakeDisk;

    fn change(key: &str, value: Option<&str>) -> Change {
        (key.into(), value.map(|v| v.into()))
    }

    fn load(disk: &FakeDisk) -> Vec<Vec<Change>> {
        Journal::load(disk, 4096).expect("read").1.records
    }

    #[test]
    fn the_newest_whole_generation_counts() {
        let disk = FakeDisk::default();
        let (mut journal, none) = Journal::load(&disk, 4096).expect("empty");
        assert!(none.records.is_empty() && none.damaged.is_empty());
        journal.turn(&disk, &[change("m", Some("1"))]).expect("turned");
        journal.append(&[change("s", Some("x")), change("t", None)]).expect("appended");
        let first = load(&disk);
        assert_eq!(first, [vec![change("m", Some("1"))], vec![change("s", Some("x")), change("t", None)]]);
        journal.turn(&disk, &[change("m", Some("2"))]).expect("turned");
        assert_eq!(load(&disk), [vec![change("m", Some("2"))]]);
        // the third generation overwrites the first file; cut anywhere, the second counts, and is
        // not what the next one overwrites
        journal.turn(&disk, &[change("m", Some("3"))]).expect("turned");
        journal.append(&[change("s", Some("y"))]).expect("appended");
        let whole = disk.files()["a.journal"].clone();
        let used = 200;
        for n in 0..used {
            let torn = disk.copy();
            let mut bytes = whole.clone();
            bytes[n..].fill(0);
            torn.put("a.journal", bytes);
            let records = load(&torn);
            assert!(records.len() == 1 || records.len() == 2 && records[0][0].1 == Some(b"3".to_vec()));
            let (next, _) = Journal::load(&torn, 4096).expect("read");
            let third = records[0][0].1 == Some(b"3".to_vec());
            assert_eq!(NAMES[next.next], if third { "b.journal" } else { "a.journal" });
        }
        assert_eq!(load(&disk).len(), 2, "nothing of the first generation follows");
    }

    #[test]
    fn a_full_disk_takes_changes_still() {
        let disk = FakeDisk::default();
        let (mut journal, _) = Journal::load(&disk, 4096).expect("empty");
        for n in 0..2 {
            journal.turn(&disk, &[change("m", Some(&n.to_string()))]).expect("turned");
        }
        disk.set_capacity(Some(disk.used()));
        journal.append(&[change("s", Some("x"))]).expect("appended");
        journal.turn(&disk, &[change("m", Some("3"))]).expect("turned");
        assert_eq!(load(&disk), [vec![change("m", Some("3"))]]);
    }

    #[test]
    fn the_book_lags_behind_the_journal() {
        let row = |k: &str, v: &str| (Vec::from(k), Vec::from(v));
        let book = vec![row("c1", "old"), row("g1", "index"), row("s-gone", "x"), row("v", "old")];
        let records =
            vec![vec![change("v", Some("new"))], vec![change("g1", None), change("c2", Some("entry"))]];
        let merged = merge(book.clone(), &Journaled { records, ..Journaled::default() });
        assert_eq!(merged, [row("c1", "old"), row("c2", "entry"), row("v", "new")]);
        assert_eq!(merge(book.clone(), &Journaled::default()), book);
    }
}
