//! The disk-persisted ring buffer: the one place where events wait.
//!
//! ```text
//!   trimmed   cursor(blob)  cursor(events)   durable   next
//!  ────┼───────────┼──────────────┼─────────────┼────────┼──►   Seq
//!  gone│    kept for blob         │  for both   │ queued │ unused
//! ```
//! Always: trimmed <= every cursor <= durable < next.
//!
//! Two rings keep the same [contract](Ring): [`MemoryRing`], and [`SledRing`] on disk. In the
//! folder of the latter:
//!
//! | file | holds | durable |
//! |---|---|---|
//! | `segments/*.seg` | groups: blocks and intake, each whole or not at all; notes, copies of the cursors | when their ticket says so |
//! | `segments/{a,b}.journal` | cursors, plans, accounts, values, and what the book has to take still | when the call returns |
//! | `book/` | sled: indexes of closed segments, chains, and all of the above | when the journal turns |
//! | `segments/*.bad`, `book/damaged-book` | what was found damaged, the newest of it up to an eighth of the bound; emptied by a purge | |
//! | `lock` | nothing: it keeps a second process out | |
//!
//! The journal stands before the book since sled 0.34.7 was seen, once in some 300 rounds, not to
//! open after `kill -9`. Each part can be made anew from the others: a lost book costs old
//! entries of chains, a lost book and journal let cursors fall back to the newest note (events
//! are sent again), a damaged segment costs the events in it, counted as lost. Small values, a switch
//! among them, are in both files of the journal and in the book before they count as stored; where so
//! much is damaged that an older one may have come back, the ring says so in [`UNSURE`]. That entries of
//! chains are lost is told in [`CUT`].
//!
//! Events that go (evicted, expired, purged, damaged) count as lost for each sink that had not
//! settled them, at once; cursors do not move by it. A sink reads such places as [`Hole`]s, and
//! passes them by planning and settling a run that holds them, or one behind them.
#![forbid(unsafe_code)]

mod age;
mod book;
pub mod bundle;
mod codec;
mod contract;
mod crypt;
mod disk;
mod enc;
mod group;
mod ledger;
mod levels;
mod memory;
mod options;
mod purge;
mod runs;
mod store;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;

pub use contract::*;
pub use crypt::{KeyError, Keys};
pub use ledger::chain_link;
pub use memory::MemoryRing;
pub use options::{Compression, FullPolicy, RingOptions};
pub use store::{SledRing, Verified};
