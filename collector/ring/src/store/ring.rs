use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, bounded, unbounded};
use tidegate_proto::ids::{Seq, SinkId};
use tidegate_proto::level::{LossReason, TelemetryLevel};
use tokio::sync::{Notify, oneshot, watch};

use super::keeper::{self, Books, Keeper};
use super::recover::{self, Recovered};
use super::verify::Verified;
use super::writer::{Queued, Writer};
use super::{Shared, State, ToWriter, segment_name};
use crate::book::journal::{self, Journal, NoJournal};
use crate::book::sled_book::SledBook;
use crate::book::{Book, NoBook, Row};
use crate::crypt::{Keys, SEALED_BY, decode_checks, encode_checks};
use crate::disk::overlay::Overlay;
use crate::disk::{Disk, RealDisk};
use crate::group::{self, Checked};
use crate::ledger::{Key, Stop};
use crate::{
    Account, AppendError, BoxFuture, CUT, Chain, ChainEntry, Cursor, FullPolicy, Group, Health, Hole, Lanes,
    Part, PurgeRule, Purged, Read, ReadLimit, Ring, RingError, RingOptions, Settlement, StartAt, Status,
    Ticket, UNSURE, codec,
};

/// Bytes of a frame beside its blocks and positions, at most, and of each block's row in it.
const FRAME_ROOM: u64 = 512;
const BLOCK_ROOM: u64 = 128;
/// Blocks count as at least so large, so that there are not too many of them to know of.
const LEAST_BLOCK: u64 = 4 << 10;
const LOCK: &str = "lock";

/// Keeps which chains were cut, now or before.
fn tell_cut(state: &mut State, cut: [bool; 2]) {
    if cut == [false; 2] {
        return;
    }
    let before = state.ledger.values.get(CUT).cloned().unwrap_or_default();
    let was = |n: usize| before.get(n) == Some(&b'1');
    let value = [0, 1].map(|n| if cut[n] || was(n) { b'1' } else { b'0' });
    state.ledger.values.insert(CUT.to_owned(), value.to_vec());
    state.ledger.dirty.insert(Key::Value(CUT.to_owned()));
}

/// Tells the keys which others have sealed blocks of this ring, and keeps it.
fn know_keys(state: &mut State, keys: &mut Keys) {
    let kept = state.ledger.values.get(SEALED_BY);
    let mut checks = kept.map(|v| decode_checks(v)).unwrap_or_default();
    let unknown = state.ledger.blocks.values().map(|b| b.place.key).filter(|id| *id != 0);
    let unknown: BTreeSet<u8> = unknown.filter(|id| !checks.iter().any(|(i, _)| i == id)).collect();
    checks.extend(unknown.into_iter().map(|id| (id, [0; 8])));
    keys.know(&mut checks);
    let now = encode_checks(&checks);
    if kept != Some(&now) {
        state.ledger.values.insert(SEALED_BY.to_owned(), now);
        state.ledger.dirty.insert(Key::Value(SEALED_BY.to_owned()));
    }
}

/// The rows that [`Ring::put`] made.
fn values(rows: &[Row]) -> Vec<Row> {
    rows.iter().filter(|(k, _)| journal::is_value(k)).cloned().collect()
}

fn take(lock: &File) -> io::Result<()> {
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(io::Error::new(io::ErrorKind::ResourceBusy, "another process has it open"))
        }
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Takes the lock of a ring that is only looked at. Where nothing can be written the lock that is
/// there is taken as it is; nobody else can write there either, so one that is missing is not missed.
fn lock_to_look(path: &Path) -> Result<Option<File>, RingError> {
    use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
    let refused = match lock(path) {
        Err(RingError::Io { what, source })
            if matches!(source.kind(), ReadOnlyFilesystem | PermissionDenied) =>
        {
            (what, source)
        }
        other => return other.map(Some),
    };
    let there = match File::open(path.join(LOCK)) {
        Err(e) if e.kind() == NotFound && refused.1.kind() == ReadOnlyFilesystem => return Ok(None),
        Err(_) => return Err(RingError::Io { what: refused.0, source: refused.1 }),
        Ok(file) => file,
    };
    let failed = |source| RingError::Io { what: format!("lock {}", path.display()), source };
    take(&there).map_err(failed).map(|()| Some(there))
}

/// Takes the lock of a ring's folder, and writes into it who has it.
fn lock(path: &Path) -> Result<File, RingError> {
    let failed = |what: &str| {
        let what = format!("{what} {}", path.display());
        move |source: io::Error| RingError::Io { what, source }
    };
    let file = File::options().create(true).truncate(false).read(true).write(true).open(path.join(LOCK));
    let mut file = file.map_err(failed("open the lock of"))?;
    take(&file).map_err(failed("lock"))?;
    // only told to people: a disk that is full keeps nobody from opening the ring
    let told = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(e) = told {
        tracing::debug!("the lock does not tell who has it: {e}");
    }
    Ok(file)
}

/// A folder in the temporary one, gone with the value.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Scratch> {
        let name = format!("tidegate-look-{}-{:016x}", std::process::id(), group::random_epoch());
        let path = std::env::temp_dir().join(name);
        #[cfg_attr(not(unix), expect(unused_mut, reason = "the mode is Unix's"))]
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path).map(|()| Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // what stays is in the temporary folder
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let entries = match fs::read_dir(from) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let into = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &into)?;
        } else {
            // not its mode: what is copied from a medium that is only read has to be written
            io::copy(&mut File::open(entry.path())?, &mut File::create(into)?)?;
        }
    }
    Ok(())
}

/// The ring on disk: block bytes in segment files, the book in sled.
///
/// In its folder: `segments/` (`*.seg`; `*.bad` are damaged files that were set aside), `book/`,
/// `lock`.
#[derive(Debug)]
pub struct SledRing {
    pub(super) shared: Arc<Shared>,
    to_writer: Sender<ToWriter>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The last account that could be counted.
    account: Mutex<Account>,
    // held until the ring is closed
    lock: Mutex<Option<File>>,
    // of a ring that is only looked at
    scratch: Option<Scratch>,
}

impl SledRing {
    /// Opens a ring, or makes one in an empty folder. What a crash or damage left is put right and
    /// reported in [`Status::quarantined`].
    ///
    /// # Errors
    /// When another process has it open, the folder cannot be read or written, or a newer version
    /// wrote it.
    pub fn open(path: &Path, options: RingOptions) -> Result<SledRing, RingError> {
        SledRing::open_sealed(path, options, None)
    }

    /// As [`open`](SledRing::open), with keys: new blocks are sealed, stored ones opened.
    ///
    /// # Errors
    /// As [`open`](SledRing::open).
    pub fn open_sealed(path: &Path, options: RingOptions, keys: Option<Keys>) -> Result<SledRing, RingError> {
        let failed = |what: &str| {
            let what = format!("{what} {}", path.display());
            move |source: io::Error| RingError::Io { what, source }
        };
        fs::create_dir_all(path).map_err(failed("make"))?;
        let lock = lock(path)?;
        let disk = RealDisk::new(&path.join("segments")).map_err(failed("make"))?;
        let book = SledBook::new(&path.join("book"));
        crate::disk::sync_folder(path).map_err(failed("sync"))?;
        let mut ring = SledRing::over(Box::new(disk), Box::new(book), options, keys)?;
        ring.lock = Mutex::new(Some(lock));
        Ok(ring)
    }

    /// Opens a ring to look at it: no file of it is changed. What opening would put right is put
    /// right in a scratch folder, which goes with the ring; so is everything that is done to it. Also
    /// on a file system that is only read.
    ///
    /// # Errors
    /// As [`open`](SledRing::open); [`io::ErrorKind::NotFound`] when there is no ring.
    pub fn look(path: &Path, options: RingOptions, keys: Option<Keys>) -> Result<SledRing, RingError> {
        let failed = |what: &str| {
            let what = format!("{what} {}", path.display());
            move |source: io::Error| RingError::Io { what, source }
        };
        fs::read_dir(path.join("segments")).map_err(failed("find the ring"))?;
        let lock = lock_to_look(path)?;
        let scratch = Scratch::new().map_err(failed("make a scratch folder to look at"))?;
        let disk = Overlay::new(&path.join("segments"), &scratch.0.join("segments"));
        let disk = disk.map_err(failed("look at"))?;
        copy_tree(&path.join("book"), &scratch.0.join("book")).map_err(failed("copy the book of"))?;
        let book = SledBook::new(&scratch.0.join("book"));
        let mut ring = SledRing::over(Box::new(disk), Box::new(book), options, keys)?;
        (ring.lock, ring.scratch) = (Mutex::new(lock), Some(scratch));
        Ok(ring)
    }

    /// Whether a ring can be written at all: fails as [`open`](SledRing::open) would where its file
    /// system is only read ([`io::ErrorKind::ReadOnlyFilesystem`]), and waits for nobody.
    ///
    /// # Errors
    /// What the system says to a file that is opened for writing.
    pub fn writable(path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)?;
        File::options().create(true).truncate(false).write(true).open(path.join(LOCK)).map(|_| ())
    }

    /// The process that has a ring open, where that can be told.
    #[must_use]
    pub fn holder(path: &Path) -> Option<u32> {
        let mut text = String::new();
        // more than a number is not ours
        File::open(path.join(LOCK)).ok()?.take(16).read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }

    /// Opens a ring over a disk and a book.
    pub(crate) fn over(
        disk: Box<dyn Disk>,
        mut book: Box<dyn Book>,
        options: RingOptions,
        mut keys: Option<Keys>,
    ) -> Result<SledRing, RingError> {
        let size = Shared::journal_bytes(&options);
        let (journal, journaled) = Journal::load(&*disk, size).map_err(|e| match e {
            NoJournal::Io(source) => RingError::Io { what: "read the journal".to_owned(), source },
            NoJournal::Newer(version) => journal::newer(version),
        })?;
        let book_rows = match book.load() {
            Ok(rows) => Ok(rows),
            Err(NoBook::Damaged(why)) => Err(why),
            // nothing is made anew of what may be whole
            Err(NoBook::Io(source)) => {
                return Err(RingError::Io { what: "open the book".to_owned(), source });
            }
        };
        let damaged = book_rows.as_ref().err().cloned();
        let empty = book_rows.as_ref().is_ok_and(Vec::is_empty);
        let book_has = book_rows.as_ref().ok().filter(|r| !r.is_empty()).map(|r| values(r));
        let rows = match (book_rows, journaled.records.is_empty() || journaled.headless) {
            (Err(why), true) => Err(why),
            (rows, _) => Ok(journal::merge(rows.unwrap_or_default(), &journaled)),
        };
        let counts = rows.as_ref().map(|r| values(r)).unwrap_or_default();
        let Recovered { mut state, epoch, mut cut, renew, remove } =
            recover::recover(&*disk, &options, rows)?;
        let renew = renew || empty || damaged.is_some();
        if let (Some(why), false) = (&damaged, journaled.records.is_empty()) {
            state.report(format!("the book cannot be read and is made anew from the journal: {why}"));
        }
        for what in &journaled.damaged {
            state.report(what.clone());
        }
        let new =
            journaled.records.is_empty() && empty && state.segments.is_empty() && state.aside_bytes == 0;
        let good = journaled.damaged.is_empty() && !journaled.records.is_empty();
        // each value is in both files of the journal and in the book before it counts as stored
        let older = journaled.older.as_deref().map(|o| values(&journal::on_top(BTreeMap::new(), o)));
        let told_twice = !journaled.records.is_empty() && [book_has, older].contains(&Some(counts));
        let unsure = !(new || good || told_twice);
        if unsure {
            state.report("values kept with the ring may be older than the last that were stored".to_owned());
            state.ledger.values.insert(UNSURE.to_owned(), b"1".to_vec());
            state.ledger.dirty.insert(Key::Value(UNSURE.to_owned()));
        }
        for (chain, cut) in state.ledger.chains.iter().zip(&mut cut) {
            // where nothing is left, nothing fails to link; the newest entry never goes by itself
            *cut |= chain.entries.is_empty() && (unsure || chain.anchor.0 > 0);
        }
        tell_cut(&mut state, cut);
        if let Some(keys) = &mut keys {
            know_keys(&mut state, keys);
        }
        let shown = crate::State {
            durable: Seq(state.ledger.durable),
            health: Health::Good,
            purges: state.ledger.purges,
        };
        let shared = Arc::new(Shared {
            options,
            keys,
            epoch,
            disk,
            purge: Mutex::new(()),
            files: Mutex::new(()),
            state: Mutex::new(state),
            keeper: Keeper::default(),
            room: Notify::new(),
            watch: watch::Sender::new(shown),
        });
        let reason = recover::reason(&shared.lock());
        for (sink, missing) in shared.reconcile(reason)? {
            let n: u64 = missing.iter().sum();
            if n > 0 && reason == LossReason::Corrupt {
                shared.lock().report(format!("{n} events for sink {sink} are gone and count as lost"));
            }
        }
        let mut books = Books::new(journal, book, journaled);
        if let Err(e) = books.begin(&shared, renew) {
            // it is tried again with each change
            shared.lock().report(format!("the book cannot be written yet: {e}"));
        }
        let (to_writer, inbox) = unbounded();
        let writer = Writer::new(Arc::clone(&shared));
        let spawn = |name: &str, f: Box<dyn FnOnce() + Send>| {
            let made = thread::Builder::new().name(name.to_owned()).spawn(f);
            made.map_err(|source| RingError::Io { what: "start a thread".to_owned(), source })
        };
        let keeping = Arc::clone(&shared);
        let threads = vec![
            spawn("ring-book", Box::new(move || keeper::run(&keeping, books)))?,
            spawn("ring-writer", Box::new(move || writer.run(&inbox)))?,
        ];
        let ring = SledRing {
            shared,
            to_writer,
            threads: Mutex::new(threads),
            account: Mutex::default(),
            lock: Mutex::default(),
            scratch: None,
        };
        ring.tidy(&remove);
        Ok(ring)
    }

    /// Stores what opening found out, and removes what is not needed.
    fn tidy(&self, remove: &[u64]) {
        let shared = &self.shared;
        if let Err(e) = shared.commit_book() {
            shared.lock().report(format!("the book cannot be written: {e}"));
            return;
        }
        for number in remove {
            match shared.disk.remove(&segment_name(*number)).and_then(|()| shared.disk.sync_dir()) {
                Ok(()) => {
                    shared.lock().ledger.dirty.insert(Key::Segment(*number));
                }
                Err(e) => tracing::warn!("cannot remove segment {number:016x}: {e}"),
            }
        }
    }

    fn change<T>(&self, op: impl FnMut(&mut State) -> Result<T, Stop>) -> Result<T, RingError> {
        if self.shared.lock().closed {
            return Err(RingError::Closed);
        }
        let done = self.shared.change(op)?;
        self.shared.commit_book()?;
        self.shared.room.notify_waiters();
        Ok(done)
    }

    fn encode(&self, group: Checked) -> Result<(Queued, Ticket), AppendError> {
        let (done, ticket) = oneshot::channel();
        let mut need = FRAME_ROOM;
        for (source, position) in &group.intake.positions {
            need += (source.len() + position.len() + 8) as u64;
        }
        let mut blocks = Vec::with_capacity(group.blocks.len());
        for mut block in group.blocks {
            let shared = &self.shared;
            let (compression, keys) = (shared.options.compression, shared.keys.as_ref());
            let made =
                codec::encode(compression, keys, shared.epoch, block.class, &block.levels, &block.data);
            let (bytes, place) = made.map_err(AppendError::ReadOnly)?;
            need += (u64::from(place.len) + BLOCK_ROOM).max(LEAST_BLOCK);
            block.data = bytes;
            blocks.push((block, place));
        }
        Ok((Queued { blocks, intake: group.intake, need, done }, Ticket(ticket)))
    }

    /// Hands a group to the writer. `false`: no room yet.
    fn enqueue(&self, group: &mut Option<Queued>) -> Result<bool, AppendError> {
        let options = &self.shared.options;
        let mut state = self.shared.lock();
        if state.closed {
            return Err(AppendError::Closed);
        }
        if let Some(why) = &state.read_only {
            return Err(AppendError::ReadOnly(why.clone()));
        }
        let Some(need) = group.as_ref().map(|g| g.need) else { return Err(AppendError::Closed) };
        // an account is always taken: who is refused has nothing left of it to give up
        if group.as_ref().is_some_and(|g| !g.blocks.is_empty()) {
            let budget = self.shared.budget(&state);
            if need > budget {
                return Err(AppendError::TooLarge { bytes: need, bound: budget });
            }
            if options.full != FullPolicy::DropOldest && state.live_bytes() + state.queued + need > budget {
                return if options.full == FullPolicy::DropNewest {
                    Err(AppendError::Full)
                } else {
                    Ok(false)
                };
            }
        }
        if state.queued > 0 && state.queued + need > options.queue_bytes {
            return Ok(false);
        }
        let Some(group) = group.take() else { return Err(AppendError::Closed) };
        state.queued += need;
        // under the lock: the writer gets groups in the order in which they got their room
        let sent = self.to_writer.send(ToWriter::Group(Box::new(group)));
        if sent.is_err() {
            state.queued -= need;
            return Err(AppendError::Closed);
        }
        Ok(true)
    }

    /// Reads everything that is held, and writes those segments anew that have damaged parts. What
    /// cannot be read counts as lost and is set aside, as when it is met in reading. Returns the
    /// number of segments written anew.
    ///
    /// # Errors
    /// When the disk fails; what was mended stays so.
    pub fn mend(&self) -> Result<u64, RingError> {
        self.seal()?;
        self.shared.mend()
    }

    /// Reads every block that is held and every frame of the files it is in, and says what is
    /// wrong. Closes the segment that is written to.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn verify(&self) -> Result<Verified, RingError> {
        self.seal()?;
        self.shared.verify()
    }

    pub(super) fn seal(&self) -> Result<(), RingError> {
        if self.shared.lock().closed {
            return Err(RingError::Closed);
        }
        let (done, sealed) = bounded(1);
        self.to_writer.send(ToWriter::Seal(done)).map_err(|_| RingError::Closed)?;
        sealed.recv().map_err(|_| RingError::Closed)
    }

    fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the ring panicked");
            }
        }
    }
}

impl Ring for SledRing {
    fn append(&self, group: Group) -> BoxFuture<'_, Result<Ticket, AppendError>> {
        Box::pin(async move {
            let group = group::check(group, self.shared.options.bound())?;
            let (queued, ticket) = self.encode(group)?;
            let mut queued = Some(queued);
            loop {
                let mut room = std::pin::pin!(self.shared.room.notified());
                room.as_mut().enable();
                if self.enqueue(&mut queued)? {
                    return Ok(ticket);
                }
                room.await;
            }
        })
    }

    fn attach(&self, sink: &SinkId, start: StartAt) -> Result<Cursor, RingError> {
        self.change(|s| s.ledger.attach(sink, start))
    }

    fn detach(&self, sink: &SinkId) -> Result<(), RingError> {
        self.change(|s| {
            s.ledger.detach(sink);
            Ok(())
        })
    }

    fn read(&self, after: Seq, limit: ReadLimit) -> Result<Read, RingError> {
        self.shared.read(after, limit)
    }

    fn losses(&self) -> u64 {
        self.shared.lock().ledger.losses
    }

    fn holes(&self, after: Seq) -> Vec<Hole> {
        self.shared.lock().ledger.holes_behind(after)
    }

    fn plan(&self, sink: &SinkId, part: Part) -> Result<(), RingError> {
        self.change(|s| s.ledger.plan(sink, part))
    }

    fn settle(&self, sink: &SinkId, part: Part, outcome: &Settlement) -> Result<Cursor, RingError> {
        self.change(|s| s.ledger.settle(sink, part, outcome))
    }

    fn split(&self, sink: &SinkId, part: Part, at: Seq) -> Result<(), RingError> {
        self.change(|s| s.ledger.split(sink, part, at))
    }

    fn divide(&self, sink: &SinkId, part: Part, lanes: Lanes) -> Result<(), RingError> {
        self.change(|s| s.ledger.divide(sink, part, lanes))
    }

    fn source_position(&self, source: &str) -> Option<Vec<u8>> {
        self.shared.lock().ledger.positions.get(source).cloned()
    }

    fn purge(&self, rule: &dyn PurgeRule) -> Result<Purged, RingError> {
        self.seal()?;
        let mut purge = self.shared.begin_purge(rule);
        let done = loop {
            match purge.step() {
                Ok(true) => {}
                Ok(false) if purge.is_through() => break Ok(()),
                // the one that kept blocks go to; it ends, as a block is moved once
                Ok(false) => {
                    if let Err(e) = self.seal() {
                        break Err(e);
                    }
                }
                Err(e) => break Err(e),
            }
        };
        purge.end(done)
    }

    fn find(&self, rule: &dyn PurgeRule, each: &mut dyn FnMut(Seq, TelemetryLevel)) -> Result<(), RingError> {
        self.shared.find(rule, each)
    }

    fn chain_append(&self, chain: Chain, data: &[u8]) -> Result<ChainEntry, RingError> {
        self.change(|s| s.ledger.chain_append(chain, data))
    }

    fn chain_read(&self, chain: Chain, from: u64, most: usize) -> Result<Vec<ChainEntry>, RingError> {
        let state = self.shared.lock();
        if state.closed { Err(RingError::Closed) } else { Ok(state.ledger.chain(chain).read(from, most)) }
    }

    fn chain_anchor(&self, chain: Chain) -> Result<(u64, [u8; 32]), RingError> {
        let state = self.shared.lock();
        if state.closed { Err(RingError::Closed) } else { Ok(state.ledger.chain(chain).anchor) }
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, RingError> {
        let state = self.shared.lock();
        if state.closed { Err(RingError::Closed) } else { Ok(state.ledger.values.get(key).cloned()) }
    }

    fn put(&self, key: &str, value: Option<&[u8]>) -> Result<(), RingError> {
        self.change(|s| s.ledger.put(key, value))
    }

    fn account(&self) -> Account {
        let mut last = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        match self.shared.change(|s| s.ledger.account()) {
            Ok(account) => *last = account,
            // a disk that cannot be read now: as it was when it could
            Err(e) => tracing::warn!("the account is not up to date: {e}"),
        }
        last.clone()
    }

    fn status(&self) -> Status {
        let state = self.shared.lock();
        Status {
            epoch: self.shared.epoch,
            trimmed: Seq(state.ledger.trimmed),
            durable: Seq(state.ledger.durable),
            disk_bytes: state.segment_bytes() + state.book_bytes + state.aside_bytes,
            bound_bytes: self.shared.options.bound(),
            oldest_stored_ns: state.ledger.blocks.first_key_value().map(|(_, b)| b.stored_ns),
            cursors: state.ledger.cursors(),
            quarantined: state.reports.iter().cloned().collect(),
        }
    }

    fn watch(&self) -> watch::Receiver<crate::State> {
        self.shared.watch.subscribe()
    }

    fn close(&self) -> Result<(), RingError> {
        let mut state = self.shared.lock();
        if std::mem::replace(&mut state.closed, true) {
            return Ok(());
        }
        drop(state);
        let (done, closed) = bounded(1);
        let written = match self.to_writer.send(ToWriter::Close(done)) {
            Ok(()) => closed.recv().unwrap_or(Err(RingError::Closed)),
            Err(_) => Err(RingError::Closed),
        };
        let kept = self.shared.commit_book();
        self.shared.keeper.stop();
        self.join();
        // from here on another process may open it, whoever still has a hand on this one
        let files = self.shared.lock_files();
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(files);
        self.shared.watch.send_modify(|s| s.health = Health::Closed);
        self.shared.room.notify_waiters();
        written.and(kept)
    }
}

impl Drop for SledRing {
    fn drop(&mut self) {
        if let Err(e) = self.close() {
            tracing::warn!("closing the ring: {e}");
        }
    }
}
