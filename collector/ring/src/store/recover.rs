//! Opening: from the files to the state.
//!
//! What the book says of closed segments is taken; other segments are scanned. A group is
//! acknowledged when anything that is left says so: the book, a later frame, a cursor. Groups
//! behind that were on their way when the end came: they are taken whole and without a gap, the
//! rest is cut off. Places that were given and are nowhere count as lost.

use std::collections::BTreeMap;
use std::io;

use tidegate_proto::level::LossReason;

use super::aside;
use super::frame::{self, HEADER_LEN, Head, Header, NoHeader, Totals};
use super::reader::is_damage;
use super::scan::{Found, body_is_good, scan, scan_around};
use super::{END, Segment, State, segment_name, segment_number};
use crate::book::Row;
use crate::book::record::{BadRecords, Records, SegmentRecord};
use crate::disk::Disk;
use crate::ledger::{Block, ChainState, Gone, Holes, Key, add};
use crate::runs::{self, Run};
use crate::{Chain, RingError, RingOptions};

/// A group found by a scan.
#[derive(Debug)]
struct Group {
    segment: u64,
    found: Found,
}

/// What opening makes.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub state: State,
    pub epoch: u64,
    /// Which chains lost entries: receipts, audit.
    pub cut: [bool; 2],
    /// The book must be made anew.
    pub renew: bool,
    /// Segments to remove now.
    pub remove: Vec<u64>,
}

struct Recovery<'d> {
    disk: &'d dyn Disk,
    state: State,
    records: Records,
    /// Newest note: its group number and what it holds.
    note: Option<Records>,
    groups: BTreeMap<u64, Group>,
    /// Blocks from indexes, kept frames: taken when no group has them.
    indexed: Vec<Block>,
    kept: Vec<Block>,
    gone: Vec<Gone>,
    durable: (u64, u64),
    remove: Vec<u64>,
    mended: bool,
    cut: [bool; 2],
    /// Bytes of files set aside that are kept at most.
    most_aside: u64,
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> RingError {
    let what = what.into();
    |source| RingError::Io { what, source }
}

/// Reads the files of a ring. `book`: its rows, or why it has none that can be used.
pub(crate) fn recover(
    disk: &dyn Disk,
    options: &RingOptions,
    book: Result<Vec<Row>, String>,
) -> Result<Recovered, RingError> {
    let mut state = State::default();
    let mut renew = false;
    let rows = book.unwrap_or_else(|why| {
        state.report(format!("the book cannot be read and is made anew from the segments: {why}"));
        renew = true;
        Vec::new()
    });
    let empty = rows.is_empty();
    let records = match Records::decode(rows.iter().map(|(k, v)| (&k[..], &v[..]))) {
        Ok(records) => records,
        Err(BadRecords::Newer(version)) => {
            let (what, known) = ("the book".to_owned(), crate::book::record::VERSION);
            return Err(RingError::Newer { what, version, known });
        }
        Err(BadRecords::Damaged(what)) => {
            state.report(format!("the book is damaged ({what}) and is made anew from the segments"));
            renew = true;
            Records::default()
        }
    };
    let without_book = records.meta.is_none();
    let mut recovery = Recovery {
        disk,
        state,
        records,
        note: None,
        groups: BTreeMap::new(),
        indexed: Vec::new(),
        kept: Vec::new(),
        gone: Vec::new(),
        durable: (0, 0),
        remove: Vec::new(),
        mended: false,
        cut: [false; 2],
        most_aside: aside::most(options),
    };
    let epoch = recovery.segments()?;
    let any = !recovery.state.segments.is_empty() || !without_book;
    if without_book && any && empty && !renew {
        recovery.state.report("the book is missing and is made anew from the segments".to_owned());
    }
    renew |= without_book;
    recovery.place_records(options);
    recovery.watermark();
    recovery.cut_tail()?;
    recovery.blocks();
    recovery.totals();
    recovery.holes();
    recovery.state.ledger.epoch = epoch;
    let mended = recovery.mended;
    let mut state = recovery.state;
    for number in state.segments.keys().copied().collect::<Vec<_>>() {
        state.ledger.dirty.insert(Key::Segment(number));
    }
    state.ledger.dirty.extend([Key::Meta, Key::Holes]);
    Ok(Recovered { state, epoch, cut: recovery.cut, renew: renew || mended, remove: recovery.remove })
}

impl Recovery<'_> {
    /// Looks at every file. Returns the ring's epoch.
    fn segments(&mut self) -> Result<u64, RingError> {
        let mut found: Vec<(u64, u64, Result<Header, NoHeader>)> = Vec::new();
        for (name, len) in self.named()? {
            let Some(number) = segment_number(&name) else {
                if name.ends_with(".seg") {
                    tracing::warn!("{name} is no segment of this ring: left alone");
                }
                continue;
            };
            self.state.next_segment = self.state.next_segment.max(number);
            let header = self.header(&name)?;
            found.push((number, len, header));
        }
        found.sort_by_key(|f| f.0);
        let next = self.records.meta.as_ref().map_or(0, |m| m.next_segment);
        let told = self.records.segments.keys().copied().chain([next]);
        // a file with a number like no segment's was counted once
        let told = told.filter(|n| *n < END).max().unwrap_or(0);
        self.state.next_segment = self.state.next_segment.max(told);
        let newest = found.iter().rev().find_map(|f| f.2.ok());
        let epoch = self.records.meta.as_ref().map(|m| m.epoch).or(newest.map(|h| h.epoch));
        let epoch = epoch.unwrap_or_else(crate::group::random_epoch);
        for (number, len, header) in found {
            self.segment(epoch, number, len, header)?;
        }
        match aside::trim(self.disk, self.most_aside) {
            Ok((left, gone)) => {
                self.state.aside_bytes = left;
                if let Some(text) = aside::report(&gone) {
                    self.state.report(text);
                }
            }
            // a ring on a disk that cannot be written still reads
            Err(e) => tracing::warn!("cannot remove what was set aside: {e}"),
        }
        // rows of segments that are not there
        for number in self.records.segments.keys() {
            self.state.ledger.dirty.insert(Key::Segment(*number));
        }
        Ok(epoch)
    }

    /// What a file says of itself; nothing good where the medium cannot read it.
    fn header(&self, name: &str) -> Result<Result<Header, NoHeader>, RingError> {
        let mut bytes = [0; HEADER_LEN];
        match self.disk.open(name).and_then(|f| f.read_at(0, &mut bytes)) {
            Ok(read) => Ok(Header::decode(bytes.get(..read).unwrap_or_default())),
            Err(e) if is_damage(self.disk, &e) => Ok(Err(NoHeader::Damaged)),
            Err(e) => Err(io_error(format!("read {name}"))(e)),
        }
    }

    /// Refuses a segment of a newer version, before anything is changed.
    fn refuse(&self, name: &str, version: u16) -> Result<(), RingError> {
        let record = segment_number(name).map(|n| self.records.segments.get(&n));
        // a file of another's, or one that is not needed any more
        if record.is_none_or(|r| r == Some(&SegmentRecord::Dropped)) {
            return Ok(());
        }
        let (what, known) = (name.to_owned(), u64::from(frame::VERSION));
        Err(RingError::Newer { what, version: version.into(), known })
    }

    /// The files, after left-overs are removed and swapped names are put right.
    fn named(&mut self) -> Result<Vec<(String, u64)>, RingError> {
        let list = |disk: &dyn Disk| disk.list().map_err(io_error("list the segments"));
        let (mut wrong, mut over) = (Vec::new(), Vec::new());
        for (name, _) in list(self.disk)? {
            if name.ends_with(".tmp") {
                over.push(name);
            } else if name.ends_with(".seg") || name.ends_with(".swap") {
                match self.header(&name)? {
                    Ok(h) if h.number < END && segment_name(h.number) != name => wrong.push((name, h.number)),
                    Err(NoHeader::Newer(version)) => self.refuse(&name, version)?,
                    _ => {}
                }
            }
        }
        for name in over {
            self.disk.remove(&name).map_err(io_error(format!("remove {name}")))?;
        }
        // in two steps, as names may have been swapped
        let rename = |from: &str, to: &str| {
            self.disk.rename(from, to).map_err(io_error(format!("rename {from} to {to}")))
        };
        for (name, number) in &wrong {
            rename(name, &format!("{number:016x}.swap"))?;
        }
        for (name, number) in wrong {
            let right = segment_name(number);
            if list(self.disk)?.iter().any(|(n, _)| *n == right) {
                // a copy of a segment that is there
                rename(&format!("{number:016x}.swap"), &format!("{number:016x}.bad"))?;
                self.state.report(format!("{name} is a second copy of segment {number:016x}: set aside"));
            } else {
                rename(&format!("{number:016x}.swap"), &right)?;
                self.state.report(format!("{name} holds segment {number:016x}: renamed"));
            }
        }
        list(self.disk)
    }

    fn segment(
        &mut self,
        epoch: u64,
        number: u64,
        len: u64,
        header: Result<Header, NoHeader>,
    ) -> Result<(), RingError> {
        let record = self.records.segments.remove(&number);
        let header = match (header, &record) {
            (_, Some(SegmentRecord::Dropped)) => {
                self.remove.push(number);
                return Ok(());
            }
            (Ok(header), _) if header.epoch == epoch => header,
            (Err(NoHeader::Damaged), Some(SegmentRecord::Index { salt, kept, .. })) => {
                self.state
                    .report(format!("the header of segment {number:016x} is damaged; the book knows it"));
                Header { epoch, number, salt: *salt, created_ns: 0, kept: *kept }
            }
            // made, and power was lost before its header was written
            (Err(NoHeader::Damaged), None) if len <= HEADER_LEN as u64 => {
                self.remove.push(number);
                return Ok(());
            }
            (other, _) => {
                let why = if other.is_ok() { "belongs to another ring" } else { "has a damaged header" };
                return self.set_aside(number, why);
            }
        };
        let known = self.records.meta.as_ref().map_or(0, |m| m.totals.groups);
        let mut segment = Segment::new(header.salt, header.kept, len);
        segment.sealed = true;
        self.state.segments.insert(number, segment);
        match record {
            Some(SegmentRecord::Index { groups, salt, len: indexed, blocks, .. })
                if salt == header.salt && indexed <= len && groups <= known =>
            {
                self.indexed.extend(blocks);
                Ok(())
            }
            _ => self.scan(number, header),
        }
    }

    fn set_aside(&mut self, number: u64, why: &str) -> Result<(), RingError> {
        let (from, to) = (segment_name(number), format!("{number:016x}.bad"));
        self.disk.rename(&from, &to).map_err(io_error(format!("rename {from} to {to}")))?;
        self.state.report(format!("segment {number:016x} {why}: set aside as {to}"));
        Ok(())
    }

    fn scan(&mut self, number: u64, header: Header) -> Result<(), RingError> {
        let name = segment_name(number);
        let file = self.disk.open(&name).map_err(io_error(format!("open {name}")))?;
        let scan = match scan(&*file, header) {
            Err(e) if is_damage(self.disk, &e) => {
                let around = scan_around(&*file, header).map_err(io_error(format!("read {name}")))?;
                drop(file);
                if around.frames.is_empty() {
                    self.state.segments.remove(&number);
                    return self.set_aside(number, "cannot be read");
                }
                self.state.report(format!("a part of segment {number:016x} cannot be read: {e}"));
                around
            }
            other => other.map_err(io_error(format!("read {name}")))?,
        };
        for found in scan.frames {
            self.gone.extend_from_slice(found.head.gone());
            match &found.head {
                Head::Group { before, durable, .. } => {
                    self.durable = (self.durable.0.max(durable.0), self.durable.1.max(durable.1));
                    let n = before.groups.saturating_add(1);
                    // written again after a failed attempt: what came behind that one was never stored
                    if self.groups.remove(&n).is_some() {
                        self.groups.split_off(&n);
                    }
                    self.groups.insert(n, Group { segment: number, found });
                }
                Head::Kept { blocks, .. } => self.kept.extend_from_slice(blocks),
                Head::Note(bytes) => {
                    // one that cannot be read is of no use, and no harm
                    if let Ok(note) = Records::decode_note(bytes) {
                        self.note = Some(note);
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes sinks, values, chains and sums from the book, or without one from the newest note.
    fn place_records(&mut self, options: &RingOptions) {
        let note = self.note.take();
        if self.records.meta.is_none() {
            if let Some(note) = note {
                self.records = Records { segments: BTreeMap::new(), ..note };
            } else if !self.groups.is_empty() {
                self.state.report("no note was found: all sinks begin anew".to_owned());
            }
        }
        let records = std::mem::take(&mut self.records);
        let ledger = &mut self.state.ledger;
        let meta = records.meta.unwrap_or_default();
        let most_bytes = usize::try_from(options.bound() / 64).unwrap_or(usize::MAX).min(1 << 20);
        let [receipts, audit] = meta.anchors;
        let chain = |anchor| ChainState { anchor, most_bytes, ..ChainState::default() };
        ledger.chains = [chain(receipts), chain(audit)];
        let mut entries = [Vec::new(), Vec::new()];
        for (chain, entry) in records.entries {
            let [receipts, audit] = &mut entries;
            if chain == Chain::Receipts { receipts.push(entry) } else { audit.push(entry) }
        }
        for (n, (chain, entries)) in ledger.chains.iter_mut().zip(entries).enumerate() {
            let mut whole = chain.load(entries);
            if chain.head().0 < meta.heads[n].0 {
                whole = false;
                chain.begin_behind(meta.heads[n]);
            }
            self.cut[n] = !whole;
        }
        ledger.trimmed = meta.trimmed;
        ledger.purges = meta.purges;
        ledger.positions = meta.positions;
        ledger.stored = meta.totals.stored;
        ledger.read = meta.totals.read;
        ledger.dropped = meta.totals.dropped;
        ledger.durable = meta.totals.places;
        ledger.sinks = records.sinks;
        ledger.values = records.values;
        ledger.trim();
        ledger.holes = Holes::from_sorted(records.holes);
        self.state.groups = meta.totals.groups;
        if self.cut != [false; 2] {
            self.state
                .report("entries of a chain are lost: what is left of it begins behind them".to_owned());
            self.mended = true;
        }
    }

    /// How far anything says that groups were acknowledged.
    fn watermark(&mut self) {
        let ledger = &self.state.ledger;
        let mut places = self.durable.1.max(ledger.durable).max(ledger.trimmed);
        for sink in ledger.sinks.values() {
            let parts = sink.plan_runs().chain(sink.passed_runs()).map(|(run, _)| run);
            let ends = parts.chain(sink.ahead.iter().copied()).map(|r| r.1);
            places = places.max(sink.settled).max(ends.max().unwrap_or(0));
        }
        self.durable = (self.durable.0.max(self.state.groups), places);
    }

    /// Takes the groups that were on their way as far as they are whole, cuts off the rest.
    fn cut_tail(&mut self) -> Result<(), RingError> {
        let tail = self.groups.split_off(&self.durable.0.saturating_add(1));
        let mut next = (self.durable.0, self.durable.1);
        let mut cut: BTreeMap<u64, u64> = BTreeMap::new();
        for (n, group) in tail {
            let Head::Group { before, blocks, .. } = &group.found.head else { continue };
            let follows = cut.is_empty()
                && n == next.0 + 1
                && (before.places == next.1 || blocks.is_empty() && before.places <= next.1);
            if follows && self.is_whole(&group)? {
                next = (n, blocks.last().map_or(next.1, |b| b.last));
                self.groups.insert(n, group);
            } else {
                let at = cut.entry(group.segment).or_insert(u64::MAX);
                *at = (*at).min(group.found.offset);
            }
        }
        for (number, at) in cut {
            tracing::info!("segment {number:016x} is cut at {at}: the rest was not acknowledged");
            let name = segment_name(number);
            // a ring on a disk that cannot be written still reads
            if let Err(e) = self.cut(&name, at) {
                tracing::warn!("cannot cut {name}: {e}");
            } else if let Some(segment) = self.state.segments.get_mut(&number) {
                segment.len = at;
            }
        }
        self.durable = next;
        Ok(())
    }

    // through a copy, as files are only opened for reading; and so that a crash leaves one or the other
    fn cut(&self, name: &str, at: u64) -> io::Result<()> {
        const COPY: &str = "cut.tmp";
        let old = self.disk.open(name)?;
        let new = self.disk.create(COPY)?;
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < at {
            let want = usize::try_from(at - offset).unwrap_or(usize::MAX).min(buffer.len());
            let part = buffer.get_mut(..want).unwrap_or_default();
            let len = old.read_at(offset, part)?;
            if len == 0 {
                break;
            }
            new.write_at(offset, part.get(..len).unwrap_or_default())?;
            offset += len as u64;
        }
        new.sync()?;
        self.disk.rename(COPY, name)?;
        self.disk.sync_dir()
    }

    fn is_whole(&self, group: &Group) -> Result<bool, RingError> {
        let name = segment_name(group.segment);
        let read = || {
            let file = self.disk.open(&name)?;
            for block in group.found.head.blocks() {
                if !body_is_good(&*file, block)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        match read() {
            Err(e) if is_damage(self.disk, &e) => Ok(false),
            other => other.map_err(io_error(format!("read {name}"))),
        }
    }

    /// Puts the blocks into the ledger: first those of groups and indexes, then kept copies.
    fn blocks(&mut self) {
        let mut all: Vec<Block> = std::mem::take(&mut self.indexed);
        all.extend(self.groups.values().flat_map(|g| g.found.head.blocks().iter().cloned()));
        all.extend(std::mem::take(&mut self.kept));
        for block in all {
            let fits = self
                .state
                .segments
                .get(&block.place.segment)
                .is_some_and(|s| block.place.offset.saturating_add(u64::from(block.place.len)) <= s.len);
            let ledger = &mut self.state.ledger;
            let known = block.last > ledger.trimmed && block.last <= self.durable.1;
            if !fits || !known || ledger.blocks_in(block.run()).next().is_some() {
                continue;
            }
            if let Some(segment) = self.state.segments.get_mut(&block.place.segment) {
                segment.take(&block);
            }
            ledger.blocks.insert(block.first, block);
        }
        for (number, segment) in &self.state.segments {
            if segment.is_dead() {
                self.state.dead.insert(*number);
            }
        }
    }

    /// Sums and positions as of the last group.
    fn totals(&mut self) {
        let ledger = &mut self.state.ledger;
        for (n, group) in &self.groups {
            let Head::Group { before, intake, blocks, .. } = &group.found.head else { continue };
            if *n <= self.state.groups {
                continue;
            }
            let Totals { stored, read, dropped, .. } = before.after(blocks, intake);
            (ledger.stored, ledger.read, ledger.dropped) = (stored, read, dropped);
            for (source, position) in &intake.positions {
                ledger.positions.insert(source.clone(), position.clone());
            }
        }
        ledger.durable = self.durable.1;
        self.state.groups = self.durable.0;
        // each place holds one event: what no sum tells of had a level that nothing tells either
        let sum: u64 = ledger.stored.iter().sum();
        let untold = ledger.durable.saturating_sub(sum);
        add(&mut ledger.stored, &[0, 0, 0, untold]);
        ledger.durable = ledger.durable.max(sum);
        let stored: u64 = ledger.stored.iter().sum();
        let dropped: u64 = ledger.dropped.values().sum();
        ledger.read = ledger.read.max(stored.saturating_add(dropped));
        if ledger.read > stored + dropped {
            // the difference was read and neither kept nor counted: it cannot have been stored
            let lost = ledger.read - stored - dropped;
            *ledger.dropped.entry(tidegate_proto::level::DropReason::RingFailed).or_default() += lost;
        }
    }

    /// Places that were given, hold nothing, and are in no hole yet.
    fn holes(&mut self) {
        let ledger = &mut self.state.ledger;
        ledger.holes.trim(ledger.trimmed);
        let told: Vec<Run> = ledger.holes.iter().map(|g| g.run).collect();
        let mut known = Vec::new();
        told.into_iter().for_each(|r| runs::add(&mut known, r));
        let mut missing: Vec<(Run, u64)> = Vec::new();
        let mut purged = Vec::new();
        let mut taken = known.clone();
        for block in ledger.blocks.values() {
            // only a purge takes single events out of a block
            let run = (block.first.max(ledger.trimmed + 1), block.last);
            let events = run.1.saturating_sub(run.0) + 1 - block.count(run);
            if events > 0 && !runs::overlaps(&known, run) {
                purged.push(Gone { run, events, reason: LossReason::Purged });
            }
            runs::add(&mut taken, block.run());
        }
        if ledger.durable > ledger.trimmed {
            let all = (ledger.trimmed + 1, ledger.durable);
            let gaps = runs::rest(all, ledger.trimmed, &taken);
            missing.extend(gaps.into_iter().map(|r| (r, r.1 - r.0 + 1)));
        }
        for gone in purged {
            ledger.holes.add(gone, &ledger.blocks);
        }
        let mut corrupt = 0;
        for (run, events) in missing {
            let mut left = events;
            let mut rest = vec![run];
            for gone in &self.gone {
                let Some(part) = runs::common(gone.run, run) else { continue };
                let events = gone.events.min(part.1 - part.0 + 1).min(left);
                left -= events;
                if events > 0 {
                    ledger.holes.add(Gone { run: part, events, reason: LossReason::Purged }, &ledger.blocks);
                }
                if events == part.1 - part.0 + 1 {
                    rest = rest.into_iter().flat_map(|r| runs::rest(r, 0, &[part])).collect();
                }
            }
            corrupt += left;
            let ends = rest.first().zip(rest.last()).map(|(a, b)| (a.0, b.1));
            if let Some(run) = ends.filter(|_| left > 0) {
                ledger.holes.add(Gone { run, events: left, reason: LossReason::Corrupt }, &ledger.blocks);
            }
        }
        if corrupt > 0 && !ledger.sinks.is_empty() {
            self.state.report(format!("{corrupt} events were stored and are gone; they count as lost"));
        }
    }
}

/// What was missing after opening counts under this reason.
pub(crate) fn reason(state: &State) -> LossReason {
    let purged = state.ledger.holes.iter().any(|g| g.reason == LossReason::Purged);
    let corrupt = state.ledger.holes.iter().any(|g| g.reason == LossReason::Corrupt);
    if purged && !corrupt { LossReason::Purged } else { LossReason::Corrupt }
}
