//! A list of files that are read one after another, perhaps over and over.

use std::path::PathBuf;

use crate::pace::{Pace, Timestamp, Window};
use crate::position::{Fnv, Position};

/// How a recording is played.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Playback {
    pub speed: Pace,
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    pub repeat: bool,
}

impl Playback {
    pub(crate) fn check(&self) -> Result<(), String> {
        match (self.from, self.to) {
            (Some(from), Some(to)) if from >= to => Err("from must lie before to".to_owned()),
            _ => Ok(()),
        }
    }

    pub(crate) fn window(&self) -> Window {
        Window { from_ns: self.from.map(|t| t.unix_ns), to_ns: self.to.map(|t| t.unix_ns) }
    }
}

/// The files still to be read.
#[derive(Debug)]
pub(crate) struct FileList {
    paths: Vec<PathBuf>,
    repeat: bool,
    round: u64,
    next: usize,
    resume: Option<Position>,
    /// Events when the round began.
    events: u64,
}

/// One file to be read.
#[derive(Debug)]
pub(crate) struct Turn {
    pub path: PathBuf,
    /// Names the file in positions.
    pub base: Position,
    /// Where in it to go on; `None`: at its start.
    pub resume: Option<Position>,
}

fn hash(path: &std::path::Path) -> u64 {
    Fnv::of(path.as_os_str().as_encoded_bytes())
}

impl FileList {
    pub(crate) fn check(paths: &[PathBuf]) -> Result<(), String> {
        if paths.is_empty() { Err("paths must name at least one file".to_owned()) } else { Ok(()) }
    }

    /// Begins at a position. One in a file that is not in the list any more counts as none.
    pub(crate) fn new(paths: &[PathBuf], position: Option<Position>, repeat: bool) -> FileList {
        let mut list = FileList { paths: paths.to_vec(), repeat, round: 0, next: 0, resume: None, events: 0 };
        if let Some(position) = position {
            let is = |n: &usize| paths.get(*n).is_some_and(|p| hash(p) == position.path);
            let told = usize::try_from(position.file).ok().filter(is);
            match told.or_else(|| (0..paths.len()).find(is)) {
                Some(n) => {
                    list.next = n;
                    list.round = position.round;
                    list.resume = Some(position);
                    // behind the last event of a round nothing more comes in it
                    list.events = u64::MAX;
                }
                None => tracing::warn!(
                    "the file read last is not in the list any more: reading the list from its start"
                ),
            }
        }
        list
    }

    /// The next file; `events` are those delivered so far. A whole round without any is the last.
    pub(crate) fn next(&mut self, events: u64) -> Option<Turn> {
        if self.next >= self.paths.len() {
            if !self.repeat || events == self.events {
                return None;
            }
            self.events = events;
            self.next = 0;
            self.round += 1;
        }
        let path = self.paths.get(self.next)?.clone();
        let base =
            Position { round: self.round, file: self.next as u64, path: hash(&path), ..Position::new() };
        self.next += 1;
        Some(Turn { path, base, resume: self.resume.take() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_loop_ends_when_a_round_gives_nothing() {
        let mut list = FileList::new(&paths(&["a", "b"]), None, true);
        let mut seen = Vec::new();
        for events in [0, 5, 10, 15, 15, 15] {
            if let Some(turn) = list.next(events) {
                seen.push((turn.path.display().to_string(), turn.base.round));
            }
        }
        let want = [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)];
        assert_eq!(seen, want.map(|(p, r)| (p.to_owned(), r)));
        assert!(list.next(15).is_none());
    }

    #[test]
    fn a_position_is_found_where_its_file_stands_now() {
        let mut list = FileList::new(&paths(&["a", "b"]), None, false);
        list.next(0);
        let position = Position { at: 7, ..list.next(0).unwrap().base };
        let mut list = FileList::new(&paths(&["b", "c"]), Some(position), false);
        let turn = list.next(0).unwrap();
        assert_eq!((turn.path, turn.resume.map(|p| p.at)), (PathBuf::from("b"), Some(7)));
        assert_eq!(list.next(0).unwrap().resume, None);
        let mut list = FileList::new(&paths(&["x"]), Some(position), false);
        assert_eq!(list.next(0).unwrap().resume, None);
    }
}
