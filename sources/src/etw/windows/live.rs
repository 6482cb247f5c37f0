//! What the callback does: copy, offer, return.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ferrisetw::EventRecord;
use tidegate_etl::{PayloadDecoder, Record};
use tidegate_proto::batch::Batch;
use tidegate_proto::own::{Gap, push_gap};
use tidegate_proto::time::filetime_to_unix_ns;

use super::raw::{system_schema, with_record};
use crate::etw::EtwDecoder;
use crate::feed::{BATCH_BYTES, BATCH_EVENTS};
use crate::source::{Offer, Outlet};

/// Kinds of events whose schema the system was asked for.
const MAX_ASKED: usize = 65_536;

/// Shared by the callback and the source's own clock.
pub(super) struct Live {
    state: Mutex<State>,
    out: Outlet,
    session: String,
}

struct State {
    decoder: PayloadDecoder,
    system: bool,
    asked: HashSet<([u8; 16], u16, u16)>,
    batch: Batch,
    panics: u64,
    /// Nobody takes the events any more.
    closed: bool,
}

impl Live {
    pub(super) fn new(session: &str, decoder: EtwDecoder, out: Outlet) -> Live {
        let state = State {
            decoder: PayloadDecoder::new(session),
            system: decoder == EtwDecoder::System,
            asked: HashSet::new(),
            batch: out.batch(),
            panics: 0,
            closed: false,
        };
        Live { state: Mutex::new(state), out, session: session.to_owned() }
    }

    /// A panic in here is caught below: the state is whole at every point (an event that is
    /// not finished is not in the batch).
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one record. Never waits for room and never panics: ferrisetw ends the process
    /// on a panic that reaches it.
    pub(super) fn take(&self, record: &EventRecord) {
        let mut state = self.lock();
        let caught = catch_unwind(AssertUnwindSafe(|| {
            with_record(record, |r| state.decode(r, || system_schema(record)));
        }));
        if caught.is_err() {
            state.panics += 1;
        }
        if state.batch.len() >= BATCH_EVENTS || state.batch.bytes() >= BATCH_BYTES {
            self.offer(&mut state);
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
        let panics = std::mem::take(&mut state.panics);
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

impl State {
    fn decode(&mut self, record: &Record<'_>, ask: impl FnOnce() -> Option<Vec<u8>>) {
        let kind = (record.provider, record.id, record.version);
        if self.system
            && self.asked.len() < MAX_ASKED
            && !self.asked.contains(&kind)
            && !self.decoder.knows(record)
        {
            // once for each kind, whatever comes of it
            self.asked.insert(kind);
            if let Some(info) = ask() {
                self.decoder.add_event_info(&info);
            }
        }
        let time_ns = filetime_to_unix_ns(record.time.unwrap_or(0));
        self.decoder.decode(record, time_ns, &mut self.batch);
    }
}
