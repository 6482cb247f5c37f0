//! Reading a segment file whose contents are not known.

use std::io;

use super::frame::{FRAME_MAGIC, HEADER_LEN, Head, Header, MAX_HEAD, PREFIX_LEN, Prefix, frame_crc};
use crate::codec;
use crate::disk::DiskFile;
use crate::ledger::Block;
use crate::store::reader::unreadable;

/// A frame that was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub offset: u64,
    /// Offset behind its body, which may lie behind the end of the file.
    pub end: u64,
    pub head: Head,
}

/// What was found in a segment file.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub frames: Vec<Found>,
    /// Runs of bytes between frames, or behind them, that are no frame.
    pub damaged: Vec<(u64, u64)>,
}

const WINDOW: usize = 64 << 10;
/// Where a window cannot be read, parts of it are tried.
const SECTOR: usize = 4 << 10;

struct Scanner<'f> {
    file: &'f dyn DiskFile,
    header: Header,
    len: u64,
    /// Bytes that may still be checked while looking for the next good frame.
    effort: u64,
    /// What cannot be read is gone round.
    around: bool,
}

/// Whether a file begins with the header that it should have.
pub(crate) fn header_is_good(file: &dyn DiskFile, header: &Header) -> io::Result<bool> {
    let mut bytes = [0; HEADER_LEN];
    let len = file.read_at(0, &mut bytes)?;
    let found = Header::decode(bytes.get(..len).unwrap_or_default());
    // when it was made is told nowhere else
    Ok(found.is_ok_and(|h| Header { created_ns: header.created_ns, ..h } == *header))
}

/// Reads the frames of a file; bodies are not looked at.
pub(crate) fn scan(file: &dyn DiskFile, header: Header) -> io::Result<Scan> {
    scan_file(file, header, false)
}

/// As [`scan`]; what the medium cannot read is damaged.
pub(crate) fn scan_around(file: &dyn DiskFile, header: Header) -> io::Result<Scan> {
    scan_file(file, header, true)
}

fn scan_file(file: &dyn DiskFile, header: Header, around: bool) -> io::Result<Scan> {
    let len = file.len()?;
    let mut scanner = Scanner { file, header, len, effort: len.saturating_mul(4), around };
    let mut out = Scan::default();
    let mut at = HEADER_LEN as u64;
    while at < len {
        if let Some(found) = scanner.frame(at)? {
            at = found.end;
            out.frames.push(found);
            continue;
        }
        let next = scanner.search(at + 1)?;
        out.damaged.push((at, next.unwrap_or(len)));
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    Ok(out)
}

impl Scanner<'_> {
    /// The bytes read; none where the medium cannot read them.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.read_at(offset, buffer) {
            Err(e) if self.around && unreadable(&e) => Ok(0),
            other => other,
        }
    }

    fn frame(&mut self, offset: u64) -> io::Result<Option<Found>> {
        let mut prefix = [0; PREFIX_LEN];
        if self.read(offset, &mut prefix)? < PREFIX_LEN {
            return Ok(None);
        }
        let Some(p) = Prefix::decode(&prefix) else { return Ok(None) };
        let head_at = offset + PREFIX_LEN as u64;
        let head_len = u64::from(p.head_len.min(MAX_HEAD));
        if head_at + head_len > self.len {
            return Ok(None);
        }
        self.effort = self.effort.saturating_sub(head_len);
        let mut head = vec![0; usize::try_from(head_len).unwrap_or(0)];
        if self.read(head_at, &mut head)? < head.len() {
            return Ok(None);
        }
        let checked = prefix.get(..PREFIX_LEN - 4).unwrap_or_default();
        if frame_crc(self.header.salt, offset, checked, &head) != p.crc {
            return Ok(None);
        }
        let body_at = head_at + head_len;
        let decoded = Head::decode(p.kind, &head, self.header.number, body_at);
        let found = decoded.filter(|h| h.body_len() == p.body_len).map(|head| Found {
            offset,
            end: body_at.saturating_add(p.body_len),
            head,
        });
        Ok(found)
    }

    /// The next place that holds a good frame.
    fn search(&mut self, from: u64) -> io::Result<Option<u64>> {
        let mut at = from;
        let mut window = vec![0; WINDOW];
        while at < self.len && self.effort > 0 {
            let mut len = self.read(at, &mut window)?;
            if len == 0 {
                len = self.read(at, window.get_mut(..SECTOR).unwrap_or_default())?;
            }
            if len == 0 {
                at = (at / SECTOR as u64 + 1) * SECTOR as u64;
                continue;
            }
            let bytes = window.get(..len).unwrap_or_default();
            for n in 0..len.saturating_sub(FRAME_MAGIC.len() - 1) {
                if bytes.get(n..).is_some_and(|b| b.starts_with(FRAME_MAGIC)) {
                    let place = at + n as u64;
                    if self.effort > 0 && self.frame(place)?.is_some() {
                        return Ok(Some(place));
                    }
                }
            }
            if at + len as u64 >= self.len {
                break;
            }
            // a magic may lie across two windows
            at += len.saturating_sub(FRAME_MAGIC.len() - 1).max(1) as u64;
        }
        Ok(None)
    }
}

/// Whether the stored bytes of a block are good.
pub(crate) fn body_is_good(file: &dyn DiskFile, block: &Block) -> io::Result<bool> {
    let mut stored = vec![0; usize::try_from(block.place.len).unwrap_or(0)];
    let len = file.read_at(block.place.offset, &mut stored)?;
    Ok(len == stored.len() && codec::intact(&block.place, &stored))
}
