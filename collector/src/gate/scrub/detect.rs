//! The recognisers by themselves, without rules or events.

use super::Kind;
use super::cues::Hit;
use super::find::{Finder, Found};

/// One finding in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// First byte.
    pub start: usize,
    /// Byte behind the last. Both lie on character borders.
    pub end: usize,
    /// What it is.
    pub kind: Kind,
}

/// Finds data of every class in texts: for purging by content, and for measuring
/// the recognisers. The gate uses the same recognisers with the rules' actions.
#[derive(Debug)]
pub struct Detector {
    finder: Finder,
    wanted: u16,
    hits: Vec<Hit>,
    found: Vec<Found>,
}

impl Detector {
    /// Looks for every class; `hosts` are further host names.
    #[must_use]
    pub fn new(hosts: &[String]) -> Detector {
        Self::of(&Kind::ALL, hosts)
    }

    /// Looks for some classes only.
    #[must_use]
    pub fn of(kinds: &[Kind], hosts: &[String]) -> Detector {
        let wanted = kinds.iter().fold(0, |w, k| w | k.bit());
        Detector { finder: Finder::new(hosts), wanted, hits: Vec::new(), found: Vec::new() }
    }

    /// All findings of a text, in order and without overlaps. Time grows with the
    /// text's length only.
    pub fn find(&mut self, text: &str) -> impl ExactSizeIterator<Item = Finding> + '_ {
        self.found.clear();
        self.finder.find(text, self.wanted, &mut self.hits, &mut self.found);
        self.found.iter().map(|f| Finding { start: f.start, end: f.end, kind: f.kind })
    }
}
