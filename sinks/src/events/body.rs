//! Requests made of a batch: which events go together, and their bytes.

use std::io::Write as _;

use flate2::Compression as Effort;
use flate2::write::{DeflateEncoder, GzEncoder};
use serde::Deserialize;
use tidegate_proto::ids::Seq;

use super::envelope::{Id, Lines};
use super::mapping::{Mapping, Plans};
use crate::{RejectReason, Rejected, SinkBatch};

/// Most bytes of a body before compression: the smallest cap of the public clients.
pub const BODY_BYTES_MAX: usize = 2_097_152;
/// Most events of a request.
pub const EVENTS_MAX: usize = 500;
/// Most bytes of one event.
pub const EVENT_BYTES_MAX: usize = 2_000_000;

/// How bodies are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// As they are.
    None,
    /// A gzip stream, without name or time: equal bodies stay equal.
    #[default]
    Gzip,
    /// Raw DEFLATE, without the zlib frame, as this protocol understands the word.
    Deflate,
}

impl Compression {
    /// What `Content-Encoding` says.
    pub(super) fn encoding(self) -> Option<&'static str> {
        match self {
            Compression::None => None,
            Compression::Gzip => Some("gzip"),
            Compression::Deflate => Some("deflate"),
        }
    }

    /// Compresses a body.
    ///
    /// # Errors
    /// None but what the compressor's own failure would be.
    pub(super) fn apply(self, body: Vec<u8>) -> std::io::Result<Vec<u8>> {
        // telemetry repeats itself: the fastest effort already takes most of it away
        let effort = Effort::fast();
        let room = Vec::with_capacity(body.len() / 8 + 64);
        match self {
            Compression::None => Ok(body),
            Compression::Gzip => {
                let mut out = GzEncoder::new(room, effort);
                out.write_all(&body)?;
                out.finish()
            }
            Compression::Deflate => {
                let mut out = DeflateEncoder::new(room, effort);
                out.write_all(&body)?;
                out.finish()
            }
        }
    }
}

/// What a request may be at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caps {
    pub events: usize,
    pub body_bytes: usize,
    pub event_bytes: usize,
}

/// One request before compression.
#[derive(Debug, Default)]
pub(super) struct Request {
    /// Lines with a line feed between, none at the end.
    pub body: Vec<u8>,
    /// The events in the order of their lines, with their tenants.
    pub events: Vec<(Seq, usize)>,
}

impl Request {
    /// The tenants in it, each once, in the order of the configuration.
    pub fn tenants(&self) -> Vec<usize> {
        let mut tenants: Vec<usize> = self.events.iter().map(|(_, tenant)| *tenant).collect();
        tenants.sort_unstable();
        tenants.dedup();
        tenants
    }
}

/// What becomes of a batch's events.
#[derive(Debug, Default)]
pub(super) struct Planned {
    /// In the order of their sequence numbers.
    pub requests: Vec<Request>,
    /// Those that no request can hold.
    pub rejected: Vec<Rejected>,
    /// Those that `hold` has kept back.
    pub held: Vec<(Seq, usize)>,
}

/// Whether an event goes, by its place and tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// It goes.
    Send,
    /// Its outcome is known from an earlier attempt.
    Settled,
    /// Its tenant is held.
    Held,
}

/// Writes a batch's events into as few requests as the caps allow. The same batch
/// and answers make the same requests, byte by byte.
pub(super) fn plan(
    mapping: &Mapping,
    batch: &SinkBatch,
    caps: Caps,
    mut pass: impl FnMut(Seq, usize) -> Pass,
) -> Planned {
    let origin = batch.origin();
    let epoch = format!("{:016x}", origin.epoch);
    let mut plans = Plans::new(mapping);
    let mut lines = Lines::default();
    let mut planned = Planned::default();
    let mut request = Request::default();
    for (seq, event) in batch.iter() {
        let plan = plans.of(event.schema(), event.head());
        let tenant = plan.tenant;
        match pass(seq, tenant) {
            Pass::Send => {}
            Pass::Settled => continue,
            Pass::Held => {
                planned.held.push((seq, tenant));
                continue;
            }
        }
        let end = request.body.len();
        if end > 0 {
            request.body.push(b'\n');
        }
        let start = request.body.len();
        lines.write(&mut request.body, mapping, plan, event, Id { epoch: &epoch, seq, host: &origin.host });
        let len = request.body.len() - start;
        if len > caps.event_bytes.min(caps.body_bytes) {
            request.body.truncate(end);
            let most = caps.event_bytes.min(caps.body_bytes);
            let detail = format!("{len} bytes as JSON, {most} are allowed");
            planned.rejected.push(Rejected { seq, reason: RejectReason::TooLarge, detail });
            continue;
        }
        if request.events.len() >= caps.events || request.body.len() > caps.body_bytes {
            let line = request.body.split_off(start);
            request.body.truncate(end);
            planned
                .requests
                .push(std::mem::replace(&mut request, Request { body: line, events: Vec::new() }));
        }
        request.events.push((seq, tenant));
    }
    if !request.events.is_empty() {
        planned.requests.push(request);
    }
    planned
}
