//! A trace counted without decoding payloads: what `inspect --summary` shows.

use crate::error::{EtlError, Problem};
use crate::file::EtlFile;
use crate::read_at::ReadAt;
use crate::record::{ExtKind, Identity, Record};
use std::collections::HashMap;
use std::ffi::CStr;

/// Kinds of events counted one by one; those beyond are counted together.
const MAX_KINDS: usize = 65_536;
/// Bytes of their names at most.
const MAX_NAMES: usize = 8 << 20;

/// What names a kind of event before any payload is decoded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventKind {
    /// Family of the record.
    pub family: Family,
    /// Provider, event class, kernel class or message GUID.
    pub provider: [u8; 16],
    /// Event id or message number; 0 of classic and kernel records.
    pub id: u16,
    /// Event version.
    pub version: u16,
    /// Opcode, or the type of classic and kernel records.
    pub opcode: u8,
    /// Event name, where the event itself carries it (TraceLogging); else empty.
    pub name: String,
}

/// Families of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Events of manifest, EventSource and TraceLogging providers.
    Event,
    /// Classic events.
    Classic,
    /// Kernel records.
    Kernel,
    /// WPP messages.
    Message,
    /// Timed, error and WNODE records.
    Other,
}

/// Counts of one kind of event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindCount {
    /// Which; `None` = all those beyond what is counted one by one.
    pub kind: Option<EventKind>,
    /// Name of the provider, where an event carries it; else empty.
    pub provider_name: String,
    /// Number of records.
    pub records: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Time of the first, nanoseconds since 1970, UTC.
    pub first_ns: i64,
    /// Time of the last.
    pub last_ns: i64,
}

/// What a trace holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Number of records, the header record included.
    pub records: u64,
    /// Bytes of uncompressed buffers.
    pub bytes: u64,
    /// Earliest and latest time of a record, nanoseconds since 1970, UTC; `None` without records.
    pub span_ns: Option<(i64, i64)>,
    /// Per kind of event, in order of family, provider, id.
    pub kinds: Vec<KindCount>,
    /// Events lost, as the header counts them.
    pub events_lost: u32,
    /// Buffers lost, as the header counts them.
    pub buffers_lost: u32,
    /// Buffers flagged as following lost events and lost buffers.
    pub lost_flags: (usize, usize),
    /// What could not be read; at most 1000 are kept.
    pub problems: Vec<Problem>,
    /// Number of all such parts.
    pub problem_count: u64,
}

/// A kind by borrowed bytes: family, provider, numbers, TraceLogging name.
type RawKind<'a> = (Family, [u8; 16], u16, u16, u8, &'a [u8]);

fn raw_kind<'a>(r: &Record<'a>) -> (RawKind<'a>, &'a [u8]) {
    let mut name: &[u8] = &[];
    let (family, provider, id) = match r.identity {
        Identity::Event => (Family::Event, r.provider, r.id),
        Identity::Classic => (Family::Classic, r.provider, 0),
        Identity::Kernel { group } => (Family::Kernel, crate::decode::kernel_class(group, r.opcode), 0),
        Identity::Message { number, .. } => (Family::Message, r.provider, number),
        Identity::Other => (Family::Other, r.provider, 0),
    };
    let mut traits: &[u8] = &[];
    if family == Family::Event && !r.ext.is_empty() {
        for item in r.ext {
            match ExtKind::from_u16(item.kind) {
                Some(ExtKind::TlSchema) => name = tl_name(item.data),
                Some(ExtKind::ProviderTraits) => traits = item.data.get(2..).unwrap_or_default(),
                _ => {}
            }
        }
    }
    ((family, provider, id, r.version, r.opcode, name), traits)
}

/// The event name in TraceLogging metadata: behind the size and the tags.
fn tl_name(meta: &[u8]) -> &[u8] {
    let rest = meta.get(2..).unwrap_or_default();
    let tags = rest.iter().take_while(|b| **b & 0x80 != 0).count() + 1;
    text(rest.get(tags..).unwrap_or_default())
}

fn text(b: &[u8]) -> &[u8] {
    CStr::from_bytes_until_nul(b).map_or(&[], CStr::to_bytes)
}

impl<R: ReadAt> EtlFile<R> {
    /// Counts all records by what names them, without decoding. Memory is bounded.
    ///
    /// # Errors
    /// When the source fails; damage is in the result.
    pub fn summary(&self) -> Result<Summary, EtlError> {
        let clock = self.header().clock;
        let mut places: HashMap<Vec<u8>, usize, crate::decode::Hashing> = HashMap::default();
        let mut kinds: Vec<KindCount> = Vec::new();
        let mut rest = new_count(None, i64::MAX);
        let mut key = Vec::new();
        let mut names = 0;
        let mut span: Option<(i64, i64)> = None;
        let mut last_ns = clock.unix_ns(self.header().clock_start());
        let walk = self.walk(|r| {
            let ns = r.time.map_or(last_ns, |t| clock.unix_ns(t));
            last_ns = ns;
            span = Some(span.map_or((ns, ns), |(from, to)| (from.min(ns), to.max(ns))));
            let ((family, provider, id, version, opcode, name), traits) = raw_kind(r);
            key.clear();
            key.extend_from_slice(&provider);
            let ([i0, i1], [v0, v1]) = (id.to_le_bytes(), version.to_le_bytes());
            key.extend_from_slice(&[family as u8, opcode, i0, i1, v0, v1]);
            key.extend_from_slice(name);
            let count = match places.get(key.as_slice()) {
                Some(at) => kinds.get_mut(*at),
                None if kinds.len() < MAX_KINDS && names + name.len() <= MAX_NAMES => {
                    names += name.len();
                    let name = String::from_utf8_lossy(name).into_owned();
                    let kind = EventKind { family, provider, id, version, opcode, name };
                    places.insert(key.clone(), kinds.len());
                    kinds.push(new_count(Some(kind), ns));
                    kinds.last_mut()
                }
                None => None,
            };
            let count = count.unwrap_or(&mut rest);
            count.records += 1;
            count.bytes += r.data.len() as u64;
            count.first_ns = count.first_ns.min(ns);
            count.last_ns = count.last_ns.max(ns);
            if count.provider_name.is_empty() && !traits.is_empty() {
                count.provider_name = crate::decode::name_of(&String::from_utf8_lossy(text(traits)));
            }
        })?;
        if rest.records > 0 {
            kinds.push(rest);
        }
        kinds.sort_by(|a, b| a.kind.cmp(&b.kind));
        Ok(Summary {
            records: walk.records,
            bytes: walk.bytes,
            span_ns: span,
            kinds,
            events_lost: self.header().events_lost,
            buffers_lost: self.header().buffers_lost,
            lost_flags: self.lost_flags(),
            problems: walk.problems,
            problem_count: walk.problem_count,
        })
    }
}

fn new_count(kind: Option<EventKind>, ns: i64) -> KindCount {
    KindCount { kind, provider_name: String::new(), records: 0, bytes: 0, first_ns: ns, last_ns: i64::MIN }
}
