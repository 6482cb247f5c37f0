//! Where batches become bytes: few at a time, however many sinks there are.
//!
//! A batch of decoded events takes several times the room of its stored bytes, and of the bytes that go out. A
//! sink whose deliveries have two steps ([`Staged`](tidegate_sinks::Staged)) needs it only for the first, which
//! waits for nothing but a processor. So more of them at a time than there are processors would only take
//! memory.

use std::sync::{Arc, Mutex, PoisonError};

use tidegate_proto::batch::Batch;
use tidegate_proto::ids::Seq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most places, whatever the processors.
const MOST: usize = 8;

/// Places to work at, with memory that stays with them. One a process.
#[derive(Debug)]
pub struct Workshop {
    places: Arc<Semaphore>,
    spare: Mutex<Vec<(Batch, Vec<Seq>)>>,
    most: usize,
}

impl Default for Workshop {
    fn default() -> Workshop {
        Workshop::new(std::thread::available_parallelism().map_or(1, usize::from).min(MOST))
    }
}

impl Workshop {
    /// With so many places, at least one.
    #[must_use]
    pub fn new(places: usize) -> Workshop {
        let most = places.max(1);
        Workshop { places: Arc::new(Semaphore::new(most)), spare: Mutex::default(), most }
    }

    /// A place, if one is free.
    pub(super) fn try_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Waits for a place; who waits longest comes first.
    ///
    /// # Cancel safety
    /// A cancelled call has taken none, and loses its turn.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        // never closed
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Whether every place is taken.
    pub(super) fn is_full(&self) -> bool {
        self.places.available_permits() == 0
    }

    /// Memory for a batch.
    pub(super) fn take(&self) -> (Batch, Vec<Seq>) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Gives it back.
    pub(super) fn give_back(&self, memory: (Batch, Vec<Seq>)) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < self.most {
            spare.push(memory);
        }
    }
}
