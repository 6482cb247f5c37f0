use tidegate_proto::level::Class;

use crate::PerLevel;
use crate::runs::{Run, common};

/// Where the bytes of a block are; unused by rings that hold them in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Number of the segment.
    pub segment: u64,
    /// Offset of the stored bytes in its file.
    pub offset: u64,
    /// Stored bytes.
    pub len: u32,
    /// CRC32C of the stored bytes.
    pub crc: u32,
    /// How the bytes were made.
    pub codec: u8,
    /// Which key sealed them, 0 = none.
    pub key: u8,
}

/// A block as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub first: u64,
    pub last: u64,
    /// One bit a place of the run, set where its event is there; `None`: all are.
    pub keep: Option<Box<[u8]>>,
    pub class: Class,
    /// 0 to 15.
    pub lane: u8,
    /// Events that are there, per level.
    pub levels: [u32; 4],
    pub time_ns: (i64, i64),
    pub stored_ns: i64,
    /// Bytes before compression.
    pub raw_len: u32,
    pub place: Place,
}

impl Block {
    pub fn run(&self) -> Run {
        (self.first, self.last)
    }

    pub fn per_level(&self) -> PerLevel {
        self.levels.map(u64::from)
    }

    pub fn events(&self) -> u64 {
        self.per_level().iter().sum()
    }

    pub fn has(&self, place: u64) -> bool {
        if place < self.first || place > self.last {
            return false;
        }
        let n = usize::try_from(place - self.first).unwrap_or(usize::MAX);
        self.keep.as_ref().is_none_or(|bits| bits.get(n / 8).is_some_and(|b| b & (1 << (n % 8)) != 0))
    }

    /// The places that hold an event, ascending.
    pub fn places(&self) -> impl Iterator<Item = u64> + '_ {
        (self.first..=self.last).filter(|p| self.has(*p))
    }

    /// How many events lie in a run.
    pub fn count(&self, run: Run) -> u64 {
        let Some((a, b)) = common(run, self.run()) else { return 0 };
        if self.keep.is_none() { b - a + 1 } else { (a..=b).filter(|p| self.has(*p)).count() as u64 }
    }

    /// The only level that its events have.
    pub fn one_level(&self) -> Option<usize> {
        let mut with = self.levels.iter().enumerate().filter(|(_, n)| **n > 0);
        let (level, _) = with.next()?;
        with.next().is_none().then_some(level)
    }

    /// A bitmap of the run with only `places` set.
    pub fn bitmap(run: Run, places: impl Iterator<Item = u64>) -> Box<[u8]> {
        let len = usize::try_from((run.1 - run.0) / 8 + 1).unwrap_or(0);
        let mut bits = vec![0u8; len];
        for p in places {
            let n = usize::try_from(p.saturating_sub(run.0)).unwrap_or(usize::MAX);
            if let Some(b) = bits.get_mut(n / 8) {
                *b |= 1 << (n % 8);
            }
        }
        bits.into()
    }
}
