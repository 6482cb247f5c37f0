use std::collections::VecDeque;

use sha2::{Digest, Sha256};

use crate::ChainEntry;

/// A chain's newest entries, and the number and hash that they hang on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChainState {
    /// The last entry that was let go: number (0 = none) and hash.
    pub anchor: (u64, [u8; 32]),
    pub entries: VecDeque<ChainEntry>,
    pub bytes: usize,
    /// Most bytes of data kept.
    pub most_bytes: usize,
}

impl Default for ChainState {
    fn default() -> ChainState {
        ChainState { anchor: (0, [0; 32]), entries: VecDeque::new(), bytes: 0, most_bytes: 1 << 20 }
    }
}

impl ChainState {
    /// Most entries kept.
    pub const MOST: usize = 4096;

    /// Number and hash of the newest entry, kept or not.
    pub fn head(&self) -> (u64, [u8; 32]) {
        self.entries.back().map_or(self.anchor, |e| (e.number, e.hash))
    }

    /// Appends; also the numbers of the entries that were let go for it.
    pub fn append(&mut self, data: &[u8]) -> (ChainEntry, Vec<u64>) {
        let (number, hash) = self.head();
        let number = number.saturating_add(1);
        let hash = chain_link(&hash, number, data);
        let entry = ChainEntry { number, hash, data: data.to_owned() };
        self.bytes += data.len();
        self.entries.push_back(entry.clone());
        (entry, self.prune())
    }

    fn prune(&mut self) -> Vec<u64> {
        let mut gone = Vec::new();
        while self.entries.len() > Self::MOST || (self.bytes > self.most_bytes && self.entries.len() > 1) {
            let Some(old) = self.entries.pop_front() else { break };
            self.bytes -= old.data.len();
            self.anchor = (old.number, old.hash);
            gone.push(old.number);
        }
        gone
    }

    /// The entries from a number on.
    pub fn read(&self, from: u64, most: usize) -> Vec<ChainEntry> {
        self.entries.iter().filter(|e| e.number >= from).take(most).cloned().collect()
    }

    /// Lets every entry go; the next hangs on this one.
    pub fn begin_behind(&mut self, anchor: (u64, [u8; 32])) {
        self.entries.clear();
        self.bytes = 0;
        self.anchor = anchor;
    }

    /// Takes entries that were stored, in order. Whether all link; where one does not, those behind it stay,
    /// and hang on its hash.
    pub fn load(&mut self, entries: impl IntoIterator<Item = ChainEntry>) -> bool {
        let mut all = true;
        for entry in entries {
            let (number, hash) = self.head();
            if entry.number <= number {
                continue;
            }
            // no chain gets so long
            if entry.number >= 1 << 62 {
                all = false;
                continue;
            }
            if entry.number != number + 1 || chain_link(&hash, entry.number, &entry.data) != entry.hash {
                all = false;
                self.begin_behind((entry.number, entry.hash));
                continue;
            }
            self.bytes += entry.data.len();
            self.entries.push_back(entry);
        }
        self.prune();
        all
    }
}

/// The hash of an entry from the hash before it, see [`ChainEntry`].
#[must_use]
pub fn chain_link(before: &[u8; 32], number: u64, data: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(number.to_be_bytes());
    hash.update(data);
    hash.finalize().into()
}
