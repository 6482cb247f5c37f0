//! The thread that writes the segment files.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tidegate_proto::ids::{Seq, SeqRange};
use tokio::sync::oneshot;

use super::frame::{HEADER_LEN, Head, Header, Totals};
use super::{END, Segment, Shared, ToWriter, keeper, segment_name};
use crate::age::Ages;
use crate::disk::DiskFile;
use crate::group::CheckedBlock;
use crate::ledger::{Block, Key, Place};
use crate::{AppendError, FullPolicy, Health, Intake, RingError, runs};

/// Parts of frames up to this size are copied together to be written at once; copying more costs
/// more than another call.
const COPY: usize = 64 << 10;
/// A note goes into the segments at most so often.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// A group on its way to the disk.
#[derive(Debug)]
pub(crate) struct Queued {
    pub blocks: Vec<(CheckedBlock, Place)>,
    pub intake: Intake,
    /// Bytes that it takes at most.
    pub need: u64,
    pub done: oneshot::Sender<Result<Option<SeqRange>, AppendError>>,
}

/// A group that is written and not yet synced.
#[derive(Debug)]
struct Written {
    blocks: Vec<Block>,
    intake: Intake,
    range: Option<SeqRange>,
    need: u64,
    done: oneshot::Sender<Result<Option<SeqRange>, AppendError>>,
}

/// Files to be synced.
type ToSyncer = Sender<Arc<dyn DiskFile>>;

/// Groups whose sync is under way; nothing that was written after it began is among them.
#[derive(Debug)]
struct Syncing {
    written: Vec<Written>,
    /// Length of the segment that the sync covers.
    len: u64,
}

/// A segment that is appended to.
#[derive(Debug)]
pub(crate) struct Active {
    pub number: u64,
    pub file: Arc<dyn DiskFile>,
    pub salt: u64,
    pub len: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Writer {
    pub shared: Arc<Shared>,
    pub active: Option<Active>,
    /// Where critical blocks go whose segments are evicted.
    pub kept: Option<Active>,
    written: Vec<Written>,
    /// At most one sync is under way, always of the active segment.
    syncing: Option<Syncing>,
    to_syncer: Option<ToSyncer>,
    synced: Receiver<io::Result<()>>,
    unsynced: u64,
    since: Option<Instant>,
    /// Sums with all that is written.
    totals: Totals,
    durable: (u64, u64),
    pub ages: Ages,
    noted: Option<Instant>,
    /// What the disk must have room for before writing goes on.
    probe: u64,
}

impl Writer {
    pub fn new(shared: Arc<Shared>) -> Writer {
        let state = shared.lock();
        let totals = state.totals();
        let ages = Ages::behind(&state.ledger.blocks);
        drop(state);
        let durable = (totals.groups, totals.places);
        let (to_syncer, synced) = syncer();
        Writer {
            shared,
            active: None,
            kept: None,
            written: Vec::new(),
            syncing: None,
            to_syncer,
            synced,
            unsynced: 0,
            since: None,
            totals,
            durable,
            ages,
            noted: None,
            probe: 0,
        }
    }

    /// Serves until it is told to close or nobody is left to tell it.
    pub fn run(mut self, inbox: &Receiver<ToWriter>) {
        loop {
            let message = self.next(inbox);
            match message {
                Ok(Some(ToWriter::Group(group))) => self.group(*group),
                Ok(Some(ToWriter::Seal(done))) => {
                    self.seal_all();
                    // nobody waits any more: fine
                    let _ = done.send(());
                }
                Ok(Some(ToWriter::Close(done))) => {
                    self.seal_all();
                    let _ = done.send(self.closing());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => self.idle(),
                // a sync has ended
                Ok(None) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.seal_all();
                    return;
                }
            }
            let options = &self.shared.options;
            let waited = self.since.is_some_and(|s| s.elapsed() >= options.commit_delay);
            let lone = options.commit_delay.is_zero() && inbox.is_empty();
            if lone {
                self.commit();
            } else if self.unsynced >= options.commit_bytes || (waited && !options.commit_delay.is_zero()) {
                self.begin_sync();
            }
        }
    }

    /// The next thing to do; `None` when a sync has ended, of which note is taken here.
    fn next(&mut self, inbox: &Receiver<ToWriter>) -> Result<Option<ToWriter>, RecvTimeoutError> {
        let patience = self.patience();
        if self.syncing.is_none() {
            return match patience {
                Some(time) => inbox.recv_timeout(time).map(Some),
                None => inbox.recv().map(Some).map_err(|_| RecvTimeoutError::Disconnected),
            };
        }
        let time = patience.unwrap_or(Duration::from_secs(3600));
        crossbeam_channel::select! {
            recv(self.synced) -> done => {
                self.end_sync(done.unwrap_or_else(|_| Err(no_syncer())));
                Ok(None)
            }
            recv(inbox) -> message => message.map(Some).map_err(|_| RecvTimeoutError::Disconnected),
            default(time) => Err(RecvTimeoutError::Timeout),
        }
    }

    fn closing(&self) -> Result<(), RingError> {
        match &self.shared.lock().read_only {
            None => Ok(()),
            Some(why) => Err(RingError::Io {
                what: "write the last groups".to_owned(),
                source: io::Error::other(why.clone()),
            }),
        }
    }

    /// How long there is nothing to do unless somebody calls.
    fn patience(&mut self) -> Option<Duration> {
        let options = &self.shared.options;
        if let Some(since) = self.since {
            return Some(options.commit_delay.saturating_sub(since.elapsed()));
        }
        if self.probe > 0 {
            return Some(options.retry);
        }
        let (max_age, now) = (options.max_age?, (options.now)());
        let since = self.ages.of_first(&self.shared.lock().ledger.blocks, now)?;
        let age = Duration::from_nanos(u64::try_from(now.saturating_sub(since)).unwrap_or(0));
        let left = max_age.saturating_sub(age);
        Some(left.max(Duration::from_secs(1)))
    }

    fn idle(&mut self) {
        if self.since.is_some() {
            self.begin_sync();
        } else if self.probe > 0 {
            self.try_again();
        }
        self.expire();
    }

    fn group(&mut self, group: Queued) {
        if self.probe > 0 {
            let why = self.shared.lock().read_only.clone().unwrap_or_default();
            self.refuse(group.need, group.done, AppendError::ReadOnly(why));
            return;
        }
        self.expire();
        let Queued { blocks, intake, need, done } = group;
        match self.write(blocks, &intake, need) {
            Ok(blocks) => {
                let first = blocks.first().map(|b| b.first);
                let last = blocks.last().map(|b| b.last);
                let range = first.zip(last).and_then(runs::range);
                self.written.push(Written { blocks, intake, range, need, done });
                self.unsynced += need;
                self.since.get_or_insert_with(Instant::now);
            }
            Err(e) => {
                let why = AppendError::ReadOnly(e.to_string());
                self.fail(&e, need);
                self.refuse(need, done, why);
            }
        }
    }

    fn refuse(
        &self,
        need: u64,
        done: oneshot::Sender<Result<Option<SeqRange>, AppendError>>,
        e: AppendError,
    ) {
        let mut state = self.shared.lock();
        state.queued = state.queued.saturating_sub(need);
        drop(state);
        // who does not wait for the ticket does not care
        let _ = done.send(Err(e));
        self.shared.room.notify_waiters();
    }

    /// Gives the blocks their places and writes the group's frame.
    fn write(
        &mut self,
        new: Vec<(CheckedBlock, Place)>,
        intake: &Intake,
        need: u64,
    ) -> io::Result<Vec<Block>> {
        let account = new.is_empty() && self.shared.options.full != FullPolicy::DropOldest;
        self.make_room(need, account)?;
        let full = self.full_at(need, account);
        if self.active.as_ref().is_some_and(|a| a.len > HEADER_LEN as u64 && a.len + need > full) {
            self.seal();
        }
        if self.active.is_none() {
            self.active = Some(self.begin(false)?);
        }
        if self.noted.is_none_or(|n| n.elapsed() >= NOTE_EVERY) {
            self.note()?;
        }
        let stored_ns = self.ages.stamp((self.shared.options.now)());
        let mut next = self.totals.places;
        let mut bodies = Vec::with_capacity(new.len());
        let mut blocks = Vec::with_capacity(new.len());
        for (b, place) in new {
            blocks.push(Block {
                first: next + 1,
                last: next + b.events,
                keep: None,
                class: b.class,
                lane: b.lane,
                levels: b.levels,
                time_ns: b.time_ns,
                stored_ns,
                raw_len: b.raw_len,
                place,
            });
            next += b.events;
            bodies.push(b.data);
        }
        let after = self.totals.after(&blocks, intake);
        let mut head = Head::Group {
            before: self.totals.clone(),
            durable: self.durable,
            intake: intake.clone(),
            blocks,
            gone: Vec::new(),
        };
        let Some(active) = &mut self.active else { return Err(io::Error::other("no segment")) };
        append_frame(active, &mut head, &bodies)?;
        self.totals = after;
        Ok(head.blocks_mut().map(|(b, _)| std::mem::take(b)).unwrap_or_default())
    }

    /// Begins a segment file.
    pub fn begin(&mut self, kept: bool) -> io::Result<Active> {
        let shared = &self.shared;
        let (number, file) = self.create()?;
        let salt = crate::group::random_epoch();
        let created_ns = (shared.options.now)();
        let header = Header { epoch: shared.epoch, number, salt, created_ns, kept };
        // from here on the file is known, so that it is removed when nothing comes into it
        shared.lock().segments.insert(number, Segment::new(salt, kept, HEADER_LEN as u64));
        let active = Active { number, file, salt, len: HEADER_LEN as u64 };
        // durable before anything follows it: so a bad header is damage and not a loss of power
        let made = active.file.write_at(0, &header.encode()).and_then(|()| active.file.sync());
        made.and_then(|()| shared.disk.sync_dir()).inspect_err(|_| self.abandon(&active))?;
        self.noted = None;
        Ok(active)
    }

    /// A file with the next number that is free.
    fn create(&self) -> io::Result<(u64, Arc<dyn DiskFile>)> {
        const MOST: u32 = 1000;
        let mut tried = 0;
        loop {
            let number = self.shared.lock().next_segment + 1;
            if number >= END {
                return Err(io::Error::other("no number is left for a segment"));
            }
            let made = self.shared.disk.create_new(&segment_name(number));
            let is_taken = made.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::AlreadyExists);
            tried += 1;
            if !is_taken || tried == MOST {
                let file = made?;
                self.shared.lock().next_segment = number;
                return Ok((number, file.into()));
            }
            tracing::warn!("{} is there and not of this ring: left alone", segment_name(number));
            self.shared.lock().next_segment = number;
        }
    }

    /// Writes a copy of the book's cursors and accounts when they have changed.
    fn note(&mut self) -> io::Result<()> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let mut state = self.shared.lock();
        state.note_due |= active.len == HEADER_LEN as u64;
        if !state.note_due {
            return Ok(());
        }
        let most = usize::try_from(self.shared.segment_bytes() / 64).unwrap_or(0);
        let note = keeper::note(&self.shared, &state, most);
        state.note_due = false;
        drop(state);
        self.noted = Some(Instant::now());
        append_frame(active, &mut Head::Note(note), &[])
    }

    /// Makes what is written durable and known.
    pub fn commit(&mut self) {
        self.wait_for_sync();
        self.since = None;
        if self.written.is_empty() {
            return;
        }
        if let Err(e) = self.sync() {
            self.fail(&e, self.unsynced);
            return;
        }
        let Some(len) = self.active.as_ref().map(|a| a.len) else { return };
        let written = std::mem::take(&mut self.written);
        self.unsynced = 0;
        self.publish(written, len);
    }

    /// Begins to make what is written durable, and does not wait for it: what is written meanwhile
    /// comes with the next sync.
    fn begin_sync(&mut self) {
        // one at a time, so that groups become durable in their order
        self.wait_for_sync();
        self.since = None;
        let Some(active) = self.active.as_ref().filter(|_| !self.written.is_empty()) else { return };
        let begun = self.to_syncer.as_ref().is_some_and(|t| t.send(Arc::clone(&active.file)).is_ok());
        if !begun {
            self.commit();
            return;
        }
        let len = active.len;
        self.unsynced = 0;
        self.syncing = Some(Syncing { written: std::mem::take(&mut self.written), len });
    }

    fn wait_for_sync(&mut self) {
        if self.syncing.is_some() {
            let done = self.synced.recv().unwrap_or_else(|_| Err(no_syncer()));
            self.end_sync(done);
        }
    }

    fn end_sync(&mut self, done: io::Result<()>) {
        let Some(Syncing { written, len }) = self.syncing.take() else { return };
        match done {
            Ok(()) => self.publish(written, len),
            Err(e) => {
                // what was written behind it is in the same file, of which nothing is known now
                self.unsynced += written.iter().map(|w| w.need).sum::<u64>();
                self.written.splice(0..0, written);
                self.fail(&e, self.unsynced);
            }
        }
    }

    /// Tells of groups that are durable now, in a segment that is so up to `len`.
    fn publish(&mut self, written: Vec<Written>, len: u64) {
        let Some(active) = &self.active else { return };
        let mut state = self.shared.lock();
        let mut replies = Vec::with_capacity(written.len());
        for w in written {
            if let Some(segment) = state.segments.get_mut(&active.number) {
                w.blocks.iter().for_each(|b| segment.take(b));
            }
            state.ledger.publish(w.blocks, &w.intake);
            state.groups += 1;
            state.queued = state.queued.saturating_sub(w.need);
            replies.push((w.done, w.range));
        }
        if let Some(segment) = state.segments.get_mut(&active.number) {
            segment.len = len;
        }
        self.durable = (state.groups, state.ledger.durable);
        drop(state);
        let durable = Seq(self.durable.1);
        self.shared.watch.send_if_modified(|s| {
            let moved = s.durable != durable;
            s.durable = durable;
            moved
        });
        for (done, range) in replies {
            let _ = done.send(Ok(range));
        }
        self.shared.room.notify_waiters();
    }

    fn sync(&self) -> io::Result<()> {
        self.active.as_ref().map_or(Ok(()), |a| a.file.sync())
    }

    /// Closes the active segment.
    pub fn seal(&mut self) {
        self.commit();
        // a copy of the cursors as they are now, for the day the book is gone
        let noted = self.note().and_then(|()| self.sync());
        let Some(active) = self.active.take() else { return };
        if let Err(e) = noted {
            tracing::debug!("no note at the end of segment {:016x}: {e}", active.number);
        } else if let Some(segment) = self.shared.lock().segments.get_mut(&active.number) {
            segment.len = active.len;
        }
        self.close_segment(&active);
    }

    fn seal_all(&mut self) {
        self.seal();
        if let Some(kept) = self.kept.take() {
            self.close_segment(&kept);
        }
    }

    /// Marks a segment as complete and has the book take its index.
    pub fn close_segment(&self, active: &Active) {
        let mut state = self.shared.lock();
        if let Some(segment) = state.segments.get_mut(&active.number) {
            segment.sealed = true;
            state.ledger.dirty.insert(Key::Segment(active.number));
            state.ledger.dirty.insert(Key::Meta);
        }
        state.absorb();
        drop(state);
        self.shared.keeper.nudge();
    }

    /// Cuts a segment back to what is durable in it, as well as the disk lets us.
    fn abandon(&self, active: &Active) {
        let len = self.shared.lock().segments.get(&active.number).map_or(0, |s| s.len);
        let cut = active.file.set_len(len).and_then(|()| active.file.sync());
        if let Err(e) = cut {
            tracing::debug!("cannot cut segment {:016x}: {e}", active.number);
        }
        self.close_segment(active);
    }

    /// The disk refused. What was not synced is not stored; the ring is read-only until a probe of
    /// `need` bytes can be written.
    pub fn fail(&mut self, e: &io::Error, need: u64) {
        // a sync that began before may still be good for what it covers
        self.wait_for_sync();
        if let Some(active) = self.active.take() {
            // after a failed sync nothing is known of the file's tail: never go on in it
            self.abandon(&active);
        }
        let why = e.to_string();
        tracing::error!("the ring cannot write and is read-only: {why}");
        let written = std::mem::take(&mut self.written);
        self.unsynced = 0;
        self.since = None;
        self.probe = need.max(64 << 10);
        let mut state = self.shared.lock();
        state.read_only = Some(why.clone());
        self.totals = state.totals();
        drop(state);
        self.shared.set_health(Health::ReadOnly(why.clone()));
        for w in written {
            self.refuse(w.need, w.done, AppendError::ReadOnly(why.clone()));
        }
    }

    fn try_again(&mut self) {
        const PROBE: &str = "probe.tmp";
        let disk = &self.shared.disk;
        let probe = || {
            let file = disk.create(PROBE)?;
            let zeros = vec![0; 64 << 10];
            let mut at = 0;
            while at < self.probe {
                file.write_at(at, &zeros)?;
                at += zeros.len() as u64;
            }
            file.sync()
        };
        let done = probe();
        let removed = disk.remove(PROBE);
        if let Err(e) = done.and(removed) {
            tracing::debug!("the ring still cannot write: {e}");
            return;
        }
        self.probe = 0;
        self.shared.lock().read_only = None;
        tracing::info!("the ring can write again");
        self.shared.set_health(Health::Good);
        self.shared.room.notify_waiters();
    }
}

fn no_syncer() -> io::Error {
    io::Error::other("the thread that syncs is gone")
}

/// The thread that syncs files while the writer writes on; ends with the writer. Without one the
/// writer syncs itself.
fn syncer() -> (Option<ToSyncer>, Receiver<io::Result<()>>) {
    let (to_syncer, files) = bounded::<Arc<dyn DiskFile>>(1);
    let (done, synced) = bounded(1);
    let serve = move || {
        for file in files {
            if done.send(file.sync()).is_err() {
                return;
            }
        }
    };
    let made = std::thread::Builder::new().name("ring-sync".to_owned()).spawn(serve);
    if let Err(e) = &made {
        tracing::warn!("the ring syncs and writes in turn, as there is no other thread: {e}");
    }
    (made.is_ok().then_some(to_syncer), synced)
}

/// Appends a frame to a segment and tells the blocks of the head where they are.
pub(crate) fn append_frame(active: &mut Active, head: &mut Head, bodies: &[Bytes]) -> io::Result<()> {
    let bytes = head.encode(active.salt, active.len);
    let mut at = active.len + bytes.len() as u64;
    if let Some((blocks, _)) = head.blocks_mut() {
        for b in blocks {
            b.place.segment = active.number;
            b.place.offset = at;
            at += u64::from(b.place.len);
        }
    }
    let mut offset = active.len;
    let mut buffer = bytes;
    for body in bodies {
        if buffer.len() + body.len() > COPY {
            active.file.write_at(offset, &buffer)?;
            offset += buffer.len() as u64;
            buffer.clear();
            if body.len() > COPY {
                active.file.write_at(offset, body)?;
                offset += body.len() as u64;
                continue;
            }
        }
        buffer.extend_from_slice(body);
    }
    active.file.write_at(offset, &buffer)?;
    active.len = at;
    Ok(())
}
