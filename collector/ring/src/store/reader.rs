//! Reading blocks back.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tidegate_proto::ids::Seq;
use tidegate_proto::level::LossReason;

use super::{Shared, segment_name};
use crate::codec::Bad;
use crate::disk::Disk;
use crate::ledger::{Block, Lost};
use crate::{Read, ReadLimit, RingError, codec, group};

/// Why a block cannot be had.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// Its bytes are not what was written.
    Damaged(String, Vec<u8>),
    /// The system refuses.
    Io(io::Error),
}

/// The block may be good; nobody here can open it.
#[derive(Debug, thiserror::Error)]
#[error("the key that sealed it is not configured")]
struct MissingKey;

/// Whether a block cannot be read for want of its key alone.
pub(crate) fn is_missing_key(e: &io::Error) -> bool {
    e.get_ref().is_some_and(|e| e.is::<MissingKey>())
}

/// How often a read begins again because blocks moved under it.
pub(super) const ATTEMPTS: usize = 16;

impl Shared {
    /// The stored bytes of a block, unchecked.
    pub fn load_stored(&self, block: &Block) -> Result<Vec<u8>, Unreadable> {
        let place = &block.place;
        let read = || {
            let file = self.disk.open(&segment_name(place.segment))?;
            // not more than the file has: a length is only as good as the book it came from
            let most = file.len()?.saturating_sub(place.offset).min(u64::from(place.len));
            let mut stored = vec![0; usize::try_from(most).unwrap_or(0)];
            let len = file.read_at(place.offset, &mut stored)?;
            stored.truncate(len);
            Ok(stored)
        };
        match read() {
            Ok(stored) => Ok(stored),
            Err(e) if lost_for_good(&e) || is_damage(&*self.disk, &e) => {
                Err(Unreadable::Damaged(e.to_string(), Vec::new()))
            }
            Err(e) => Err(Unreadable::Io(e)),
        }
    }

    /// A block, unpacked.
    pub fn load(&self, block: &Block) -> Result<Bytes, Unreadable> {
        let stored = self.load_stored(block)?;
        let copy = if codec::intact(&block.place, &stored) { Vec::new() } else { stored.clone() };
        codec::decode(self.keys.as_ref(), self.epoch, block, stored).map_err(|bad| match bad {
            Bad::Damaged(why) => Unreadable::Damaged(why.to_owned(), copy),
            Bad::NoKey => Unreadable::Io(io::Error::other(MissingKey)),
        })
    }

    /// See [`Ring::read`](crate::Ring::read).
    pub fn read(&self, after: Seq, limit: ReadLimit) -> Result<Read, RingError> {
        'again: for _ in 0..ATTEMPTS {
            let state = self.lock();
            if state.closed {
                return Err(RingError::Closed);
            }
            let (blocks, holes, end) = state.ledger.read(after, limit);
            drop(state);
            let mut out = Read { blocks: Vec::with_capacity(blocks.len()), holes, end };
            for block in blocks {
                match self.load(&block) {
                    Ok(data) => out.blocks.extend(group::stored(&block, data)),
                    Err(why) => {
                        self.damaged(&block, why)?;
                        continue 'again;
                    }
                }
            }
            return Ok(out);
        }
        Err(RingError::Io {
            what: format!("read behind {after}"),
            source: io::Error::other("blocks moved or were damaged again and again"),
        })
    }

    /// Whether a block is still where it was. Waits while its segment is replaced.
    pub fn is_there(&self, block: &Block) -> bool {
        loop {
            let state = self.lock();
            if state.rewriting != Some(block.place.segment) {
                return state.ledger.blocks.get(&block.first).is_some_and(|b| b.place == block.place);
            }
            drop(state);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A block cannot be read. When it has not moved, it counts as lost and what is left of it is
    /// set aside.
    pub fn damaged(&self, block: &Block, why: Unreadable) -> Result<(), RingError> {
        if !self.is_there(block) {
            return Ok(());
        }
        let (why, stored) = match why {
            Unreadable::Damaged(why, stored) => (why, stored),
            Unreadable::Io(source) => {
                let what = format!("read segment {:016x}", block.place.segment);
                return Err(RingError::Io { what, source });
            }
        };
        let mut lost = false;
        self.change(|state| {
            let same = state.ledger.blocks.get(&block.first).is_some_and(|b| b.place == block.place);
            if same {
                state.ledger.lose(block.first, &Lost::All, LossReason::Corrupt)?;
                lost = true;
            }
            Ok(())
        })?;
        if !lost {
            return Ok(());
        }
        // a sum that a level map of damaged bytes could not close is closed now
        self.change(|state| state.ledger.reconcile(LossReason::Corrupt))?;
        let place = block.place;
        let name = format!("{:016x}-{:08x}.bad", place.segment, place.offset);
        self.set_aside(&name, &stored);
        self.lock().report(format!(
            "events {}-{} are damaged ({why}) and count as lost; their bytes are kept in {name}",
            block.first, block.last
        ));
        self.keeper.nudge();
        Ok(())
    }
}

/// Whether trying again is of no use: the file is gone or cut.
fn lost_for_good(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
}

/// Whether an error in reading says that the medium has lost what was there: it cannot read it, and can
/// still write. If it cannot write either, it may be back later with all that is on it.
pub(crate) fn is_damage(disk: &dyn Disk, e: &io::Error) -> bool {
    const PROBE: &str = "probe-read.tmp";
    let probe = || {
        let file = disk.create(PROBE)?;
        file.write_at(0, b"?")?;
        file.sync()?;
        disk.remove(PROBE)
    };
    unreadable(e) && probe().is_ok()
}

/// The medium cannot read it.
pub(crate) fn unreadable(e: &io::Error) -> bool {
    // EIO; ERROR_CRC, ERROR_SECTOR_NOT_FOUND, ERROR_IO_DEVICE
    let codes: &[i32] = if cfg!(windows) { &[23, 27, 1117] } else { &[5] };
    e.raw_os_error().is_some_and(|code| codes.contains(&code))
}
