//! Reading everything that is held, to say whether it is sound.

use super::frame::Header;
use super::reader::Unreadable;
use super::scan::{header_is_good, scan};
use super::{Shared, segment_name};
use crate::RingError;

/// What reading all of a ring found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Segment files read.
    pub segments: u64,
    /// Blocks read and unpacked.
    pub blocks: u64,
    /// Events in them.
    pub events: u64,
    /// Their bytes as stored.
    pub bytes: u64,
    /// What is wrong, in words; bounded, [`problem_count`](Verified::problem_count) is the number.
    pub problems: Vec<String>,
    /// Number of all problems.
    pub problem_count: u64,
}

/// Problems that are told.
const MOST: usize = 100;

impl Verified {
    fn problem(&mut self, text: String) {
        self.problem_count += 1;
        if self.problems.len() < MOST {
            self.problems.push(text);
        }
    }
}

impl Shared {
    /// See [`SledRing::verify`](crate::SledRing::verify).
    pub fn verify(&self) -> Result<Verified, RingError> {
        let mut out = Verified::default();
        let _files = self.lock_files();
        let segments: Vec<_> = {
            let state = self.lock();
            let live = state.segments.iter().filter(|(n, s)| s.sealed && !state.dead.contains(n));
            live.map(|(n, s)| (*n, s.clone(), state.blocks_of(*n))).collect()
        };
        for (number, segment, blocks) in segments {
            out.segments += 1;
            let name = segment_name(number);
            let failed = |source| RingError::Io { what: format!("read {name}"), source };
            let header =
                Header { epoch: self.epoch, number, salt: segment.salt, created_ns: 0, kept: segment.kept };
            let file = self.disk.open(&name).map_err(failed)?;
            if !header_is_good(&*file, &header).map_err(failed)? {
                out.problem(format!("the header of segment {number:016x} is damaged"));
            }
            for (from, to) in scan(&*file, header).map_err(failed)?.damaged {
                out.problem(format!("bytes {from} to {to} of segment {number:016x} are damaged"));
            }
            for block in blocks {
                match self.load(&block) {
                    Ok(_) => {
                        out.blocks += 1;
                        out.events += block.events();
                        out.bytes += u64::from(block.place.len);
                    }
                    Err(Unreadable::Damaged(why, _)) => {
                        out.problem(format!("events {}-{} are damaged ({why})", block.first, block.last));
                    }
                    Err(Unreadable::Io(source)) => return Err(failed(source)),
                }
            }
        }
        Ok(out)
    }
}
