//! Lines of bounded length, with their places.

use std::io::{self, Read};

use memchr::memchr;

use crate::position::{Fnv, Position};

/// Bytes at the start of a file that tell which file it is.
pub(super) const PRINT: u64 = 1024;
const CHUNK: usize = 64 << 10;

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// A line without its end.
    Text(&'a [u8]),
    /// A line of more bytes than are kept.
    TooLong(u64),
    /// Nothing more for now.
    End,
}

/// Where a reader stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Offset of the next line.
    pub at: u64,
    /// Lines before it.
    pub lines: u64,
    /// Bytes covered by `print`, at most [`PRINT`].
    pub printed: u64,
    /// Hash of the first `printed` bytes.
    pub print: Fnv,
}

impl Place {
    pub(super) fn start() -> Place {
        Place { at: 0, lines: 0, printed: 0, print: Fnv::new() }
    }

    pub(super) fn of(p: Position) -> Place {
        Place { at: p.at, lines: p.then, printed: p.printed, print: Fnv::resume(p.print) }
    }

    fn consume(&mut self, bytes: &[u8]) {
        self.at += bytes.len() as u64;
        let room = usize::try_from(PRINT.saturating_sub(self.printed)).unwrap_or(0);
        let part = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.print.write(part);
        self.printed += part.len() as u64;
    }
}

/// Splits a stream into lines.
pub(super) struct Lines {
    from: Box<dyn Read + Send>,
    place: Place,
    max: usize,
    buf: Vec<u8>,
    /// Bytes of `buf` given out.
    done: usize,
    /// Bytes of `buf` searched for a line end, behind `done`.
    seen: usize,
    /// Length so far of a line that is too long.
    skipping: u64,
    /// Bytes to take from the line given out last.
    given: usize,
}

impl Lines {
    /// `from` stands at `place`.
    pub(super) fn new(from: Box<dyn Read + Send>, place: Place, max: usize) -> Lines {
        Lines { from, place, max, buf: Vec::new(), done: 0, seen: 0, skipping: 0, given: 0 }
    }

    /// Behind the line given out last.
    pub(super) fn place(&mut self) -> Place {
        self.settle();
        self.place
    }

    /// Bytes of a line whose end has not come yet.
    pub(super) fn partial(&mut self) -> u64 {
        self.settle();
        self.skipping + (self.buf.len() - self.done) as u64
    }

    fn settle(&mut self) {
        let end = self.done + self.given;
        if let Some(bytes) = self.buf.get(self.done..end).filter(|b| !b.is_empty()) {
            self.place.consume(bytes);
            self.done = end;
        }
        self.given = 0;
    }

    /// The next line. With `last`, what stands at the end without a line end is a line.
    ///
    /// After `End` it may be called again: the stream may have grown.
    pub(super) fn next(&mut self, last: bool) -> io::Result<Line<'_>> {
        self.settle();
        loop {
            let unseen = self.buf.get(self.done + self.seen..).unwrap_or_default();
            if let Some(n) = memchr(b'\n', unseen) {
                return Ok(self.give(self.seen + n, 1));
            }
            self.seen = self.buf.len() - self.done;
            if self.seen > self.max {
                self.drop_start();
            }
            if self.more()? {
                continue;
            }
            let rest = self.buf.len() - self.done;
            if !last || (rest == 0 && self.skipping == 0) {
                return Ok(Line::End);
            }
            return Ok(self.give(rest, 0));
        }
    }

    /// Gives out the next `len` bytes and passes over a line end of `end` bytes.
    fn give(&mut self, len: usize, end: usize) -> Line<'_> {
        self.seen = 0;
        self.given = len + end;
        self.place.lines += 1;
        let whole = std::mem::take(&mut self.skipping) + len as u64;
        if whole > self.max as u64 {
            return Line::TooLong(whole);
        }
        let text = self.buf.get(self.done..self.done + len).unwrap_or_default();
        Line::Text(text.strip_suffix(b"\r").unwrap_or(text))
    }

    /// Forgets the start of a line that is too long already.
    fn drop_start(&mut self) {
        self.skipping += self.seen as u64;
        self.given = self.seen;
        self.settle();
        self.seen = 0;
    }

    fn more(&mut self) -> io::Result<bool> {
        if self.done > 0 && (self.done == self.buf.len() || self.done >= CHUNK) {
            self.buf.drain(..self.done);
            self.done = 0;
        }
        let len = self.buf.len();
        self.buf.resize(len + CHUNK, 0);
        let read = loop {
            match self.from.read(self.buf.get_mut(len..).unwrap_or_default()) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buf.truncate(len + *read.as_ref().unwrap_or(&0));
        Ok(read? > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &'static [u8], max: usize) -> Vec<(u64, String)> {
        let mut lines = Lines::new(Box::new(text), Place::start(), max);
        let mut all = Vec::new();
        loop {
            let line = match lines.next(true).unwrap() {
                Line::Text(t) => String::from_utf8_lossy(t).into_owned(),
                Line::TooLong(n) => format!("too long: {n}"),
                Line::End => return all,
            };
            all.push((lines.place().at, line));
        }
    }

    fn owned(all: &[(u64, &str)]) -> Vec<(u64, String)> {
        all.iter().map(|(n, s)| (*n, (*s).to_owned())).collect()
    }

    #[test]
    fn lines_have_the_place_behind_them() {
        assert_eq!(lines(b"a\nbc\r\n\nd", 10), owned(&[(2, "a"), (6, "bc"), (7, ""), (8, "d")]));
        assert_eq!(lines(b"", 10), owned(&[]));
        assert_eq!(lines(b"\n", 10), owned(&[(1, "")]));
    }

    #[test]
    fn a_line_too_long_is_passed_over_in_bounded_memory() {
        let text = [b"a\n".to_vec(), vec![b'x'; 1 << 20], b"\nb\n".to_vec()].concat();
        let text: &'static [u8] = Box::leak(text.into());
        assert_eq!(
            lines(text, 1000),
            owned(&[(2, "a"), (2 + (1 << 20) + 1, "too long: 1048576"), ((1 << 20) + 5, "b")])
        );
        let mut lines = Lines::new(Box::new(text), Place::start(), 1000);
        while lines.next(true).unwrap() != Line::End {
            assert!(lines.buf.capacity() < 4 * CHUNK, "{}", lines.buf.capacity());
        }
        assert_eq!(lines.place().printed, PRINT);
        assert_eq!(lines.place().print.finish(), Fnv::of(&text[..1024]));
    }

    #[test]
    fn a_line_at_the_limit_is_kept() {
        assert_eq!(lines(b"abcd\nabcde\nabcd", 4), owned(&[(5, "abcd"), (11, "too long: 5"), (15, "abcd")]));
    }

    #[test]
    fn what_has_no_line_end_yet_waits() {
        let mut lines = Lines::new(Box::new(&b"a\nbc"[..]), Place::start(), 10);
        assert_eq!(lines.next(false).unwrap(), Line::Text(b"a"));
        assert_eq!(lines.next(false).unwrap(), Line::End);
        assert_eq!((lines.place().at, lines.partial()), (2, 2));
        assert_eq!(lines.next(true).unwrap(), Line::Text(b"bc"));
        assert_eq!(lines.next(true).unwrap(), Line::End);
    }
}
