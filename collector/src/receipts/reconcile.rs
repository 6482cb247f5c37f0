//! What receipts say against what the far side holds. Pure: no ring, no network.
//!
//! An object is known again by its name without the path: range and tag say it all (see
//! [`layout`](tidegate_sinks::layout)), so a folder or container that was moved still fits.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use serde::Serialize;
use tidegate_proto::ids::SeqRange;
use tidegate_sinks::held::Held;
use tidegate_sinks::layout;

use super::Receipt;

/// Findings of one kind that are listed; more are only counted.
const LISTED_MAX: usize = 1000;

/// One object that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Named {
    /// First place of its range.
    pub first: u64,
    /// Last place of it.
    pub last: u64,
    /// Where it is, or should be.
    pub object: String,
    /// What is wrong.
    pub why: String,
}

/// All of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub listed: Vec<Named>,
}

impl Finding {
    fn add(&mut self, range: SeqRange, object: &str, why: impl Into<String>) {
        self.count += 1;
        if self.listed.len() < LISTED_MAX {
            let (first, last) = (range.first().0, range.last().0);
            self.listed.push(Named { first, last, object: object.to_owned(), why: why.into() });
        }
    }
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Receipts of the sink that were compared.
    pub receipts: u64,
    /// Objects that they name.
    pub expected: u64,
    /// Of these, there with the right size (and digest, where it was read).
    pub present: u64,
    /// In a receipt, not there.
    pub missing: Finding,
    /// In a receipt, not there, since `purge` deleted it. No mismatch.
    pub purged: Finding,
    /// There with another size or digest.
    pub changed: Finding,
    /// There, with events that another object or receipt has too.
    pub duplicate: Finding,
    /// There, with a range that no receipt covers.
    pub foreign: Finding,
    /// There, of a run that is not settled yet: its receipt comes with the next attempt.
    pub unsettled: u64,
    /// There, delivered while this looked.
    pub newer: u64,
    /// There, from before the oldest receipt that is kept.
    pub older: u64,
    /// There, written by other hosts, streams or lives of the ring, by `host/stream/epoch`.
    pub others: BTreeMap<String, u64>,
    /// There, with names that no collector gives.
    pub not_ours: u64,
}

impl Report {
    /// Whether everything fits; what was purged does.
    #[must_use]
    pub fn fits(&self) -> bool {
        [&self.missing, &self.changed, &self.duplicate, &self.foreign].iter().all(|f| f.count == 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} receipts name {} objects, {} are there", self.receipts, self.expected, self.present)?;
        for (word, found) in [
            ("missing", &self.missing),
            ("purged", &self.purged),
            ("changed", &self.changed),
            ("duplicate", &self.duplicate),
            ("foreign", &self.foreign),
        ] {
            for n in &found.listed {
                writeln!(f, "{word} {}-{} {}: {}", n.first, n.last, n.object, n.why)?;
            }
            if found.count > found.listed.len() as u64 {
                writeln!(f, "{word}: {} more", found.count - found.listed.len() as u64)?;
            }
        }
        for (count, what) in [
            (self.unsettled, "are of runs that are not settled yet"),
            (self.newer, "were delivered while this looked"),
            (self.older, "are older than the oldest receipt kept"),
            (self.not_ours, "have names that no collector gives"),
        ] {
            if count > 0 {
                writeln!(f, "{count} objects {what}")?;
            }
        }
        for (writer, count) in &self.others {
            writeln!(f, "{count} objects were written by {writer}")?;
        }
        write!(
            f,
            "{}: missing {}, changed {}, duplicate {}, foreign {}",
            if self.fits() { "everything fits" } else { "MISMATCH" },
            self.missing.count,
            self.changed.count,
            self.duplicate.count,
            self.foreign.count
        )
    }
}

struct Expected {
    object: super::Object,
    range: SeqRange,
    seen: bool,
}

/// Takes receipts, then what is held, then what happened meanwhile, then reports.
#[derive(Default)]
pub struct Reconciler {
    report: Report,
    expected: HashMap<String, Expected>,
    /// Ranges with receipts by their first place; how many of their objects are not named.
    ranges: BTreeMap<u64, (SeqRange, u64)>,
    planned: Vec<SeqRange>,
    /// Runs with a receipt that is newer than the listing.
    late: Vec<SeqRange>,
    /// What no receipt so far explains.
    unsure: Vec<(SeqRange, String)>,
    /// Destinations that were deleted on purpose.
    purged: HashSet<String>,
    /// `host/stream/epoch` of the newest receipt.
    writer: Option<String>,
    /// Receipts before the first one were let go.
    cut: bool,
}

impl fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconciler").field("report", &self.report).finish_non_exhaustive()
    }
}

/// The part of a destination that does not depend on where the folder or container is.
fn key(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

impl Reconciler {
    /// For a sink with these runs planned; `cut` tells that receipts before the first one that is
    /// going to be added were let go.
    #[must_use]
    pub fn new(planned: Vec<SeqRange>, cut: bool) -> Reconciler {
        Reconciler { planned, cut, ..Reconciler::default() }
    }

    /// Tells that an object was deleted on purpose.
    pub fn purged(&mut self, destination: &str) {
        self.purged.insert(destination.to_owned());
    }

    /// Adds a receipt that came after what is held was listed: it explains, and nothing has to be there
    /// for it.
    pub fn later(&mut self, receipt: &Receipt) {
        self.late.extend(receipt.range());
    }

    /// Adds runs that were planned after what is held was listed.
    pub fn planned(&mut self, runs: impl IntoIterator<Item = SeqRange>) {
        self.planned.extend(runs);
    }

    /// Adds a receipt of the sink.
    pub fn receipt(&mut self, receipt: &Receipt) {
        let Some(range) = receipt.range() else { return };
        self.report.receipts += 1;
        self.writer = Some(format!("{}/{}/{}", receipt.host, receipt.stream, receipt.epoch));
        if let Some((other, _)) = self.covering(range) {
            let why = format!("its events have the receipt of {other} too");
            let object = receipt.objects.first().map_or("", |o| o.to.as_str());
            self.report.duplicate.add(range, object, why);
        }
        self.ranges.insert(range.first().0, (range, receipt.more_objects));
        for object in &receipt.objects {
            self.report.expected += 1;
            let expected = Expected { object: object.clone(), range, seen: false };
            self.expected.insert(key(&object.to).to_owned(), expected);
        }
    }

    /// A range with a receipt that shares a place with this one.
    fn covering(&self, range: SeqRange) -> Option<(SeqRange, u64)> {
        // ranges do not overlap one another, unless that was reported already
        let before = self.ranges.range(..=range.last().0).next_back();
        before.map(|(_, found)| *found).filter(|(found, _)| found.last() >= range.first())
    }

    /// Adds one object of the far side.
    pub fn held(&mut self, held: &Held) {
        let Some(named) = layout::Named::parse(&held.name) else {
            self.report.not_ours += 1;
            return;
        };
        let writer = held.writer.as_ref().map(|(h, s, e)| format!("{h}/{s}/{e}"));
        let report = &mut self.report;
        if let Some(expected) = self.expected.get_mut(key(&held.name)) {
            if std::mem::replace(&mut expected.seen, true) {
                let why = format!("a copy of {}", expected.object.to);
                report.duplicate.add(named.range, &held.destination, why);
                return;
            }
            let digest = held.sha256.as_ref().map(|d| crate::audit::hex(d));
            if held.len != expected.object.bytes {
                let why = format!("{} bytes, the receipt says {}", held.len, expected.object.bytes);
                report.changed.add(named.range, &held.destination, why);
            } else if digest.is_some_and(|d| d != expected.object.sha256) {
                report.changed.add(named.range, &held.destination, "its SHA-256 is not the receipt's");
            } else {
                report.present += 1;
            }
            return;
        }
        if let Some(writer) = writer.filter(|w| self.writer.as_ref().is_some_and(|own| own != w)) {
            *report.others.entry(writer).or_default() += 1;
            return;
        }
        let oldest = self.ranges.keys().next().copied();
        if self.cut && oldest.is_none_or(|first| named.range.last().0 < first) {
            self.report.older += 1;
        } else {
            self.unsure.push((named.range, held.destination.clone()));
        }
    }

    /// What an object is that no receipt names.
    fn resolve(&mut self, named: SeqRange, destination: &str) {
        let meets = |r: &SeqRange| r.first() <= named.last() && named.first() <= r.last();
        if self.planned.contains(&named) {
            self.report.unsettled += 1;
            return;
        }
        if self.late.contains(&named) {
            self.report.newer += 1;
            return;
        }
        match self.covering(named).or_else(|| Some((*self.late.iter().find(|r| meets(r))?, 0))) {
            Some((range, more @ 1..)) if range == named => {
                // one of those that the receipt had no room for
                self.ranges.insert(range.first().0, (range, more - 1));
                self.report.expected += 1;
                self.report.present += 1;
            }
            Some((range, _)) => {
                let why = format!("its events have the receipt of {range}, which does not name it");
                self.report.duplicate.add(named, destination, why);
            }
            None => self.report.foreign.add(named, destination, "no receipt covers its range"),
        }
    }

    /// The outcome, once all was added.
    #[must_use]
    pub fn finish(mut self) -> Report {
        for (range, destination) in std::mem::take(&mut self.unsure) {
            self.resolve(range, &destination);
        }
        let mut missing: Vec<&Expected> = self.expected.values().filter(|e| !e.seen).collect();
        missing.sort_by(|a, b| (a.range.first(), &a.object.to).cmp(&(b.range.first(), &b.object.to)));
        for e in missing {
            let why = format!("{} events, {} bytes", e.object.events, e.object.bytes);
            let of = &mut self.report;
            let found = if self.purged.contains(&e.object.to) { &mut of.purged } else { &mut of.missing };
            found.add(e.range, &e.object.to, why);
        }
        for (range, more) in self.ranges.values().filter(|(_, more)| *more > 0) {
            self.report.expected += more;
            self.report.missing.add(
                *range,
                "",
                format!("{more} objects that its receipt had no room to name"),
            );
        }
        self.report
    }
}
