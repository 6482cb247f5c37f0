//! What the callback does: copy, offer, return.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tidegate_etl::{PayloadDecoder, SchemaSource};
use tidegate_proto::batch::Batch;
use tidegate_proto::own::{Gap, push_gap};
use tidegate_proto::time::filetime_to_unix_ns;

use windows::Win32::System::Diagnostics::Etw::EVENT_RECORD;

use super::raw::with_record;
use crate::feed::{BATCH_BYTES, BATCH_EVENTS};
use crate::source::{Offer, Outlet};

/// Shared by the callback and the source's own clock.
pub(super) struct Live {
    state: Mutex<State>,
    out: Outlet,
    session: String,
    /// Records that the decoder broke down on.
    panics: AtomicU64,
}

struct State {
    decoder: PayloadDecoder,
    batch: Batch,
    /// Nobody takes the events any more.
    closed: bool,
}

impl Live {
    /// `system` is asked for the schemas that events do not carry.
    pub(super) fn new(session: &str, system: Option<Box<dyn SchemaSource>>, out: Outlet) -> Live {
        let mut decoder = PayloadDecoder::new(session);
        if let Some(system) = system {
            decoder.set_system(system);
        }
        let state = State { decoder, batch: out.batch(), closed: false };
        Live { state: Mutex::new(state), out, session: session.to_owned(), panics: AtomicU64::new(0) }
    }

    /// A panic in here is caught below: the state is whole at every point (an event that is
    /// not finished is not in the batch).
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one record. Never waits for room and never panics: ferrisetw ends the process
    /// on a panic that reaches it.
    pub(super) fn take(&self, record: &EVENT_RECORD) {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let mut state = self.lock();
            let State { decoder, batch, .. } = &mut *state;
            with_record(record, |r| {
                decoder.decode(r, filetime_to_unix_ns(r.time.unwrap_or(0)), batch);
            });
            if state.batch.len() >= BATCH_EVENTS || state.batch.bytes() >= BATCH_BYTES {
                self.offer(&mut state);
            }
        }));
        if caught.is_err() {
            self.panics.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn offer(&self, state: &mut State) {
        let full = std::mem::replace(&mut state.batch, self.out.batch());
        if !full.is_empty() && self.out.offer(full) == Offer::Closed {
            state.closed = true;
        }
    }

    /// Hands over what there is, with gaps for what is not. False when nobody takes it.
    pub(super) fn tick(&self, gaps: &[Gap]) -> bool {
        let mut state = self.lock();
        for gap in gaps {
            push_gap(&mut state.batch, gap);
        }
        let panics = self.panics.swap(0, Ordering::Relaxed);
        if panics > 0 {
            let gap = Gap {
                origin: self.session.clone(),
                reason: "damaged".to_owned(),
                events: Some(panics),
                detail: "the decoder failed on these events; please report it".to_owned(),
                offset: None,
                time_ns: super::now_ns(),
            };
            push_gap(&mut state.batch, &gap);
        }
        self.offer(&mut state);
        !state.closed
    }
}
