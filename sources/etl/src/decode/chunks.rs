//! Puts EventSource manifests together from the chunks that the trace carries.
//! Source: ManifestEnvelope.cs and DynamicTraceEventParser.cs (microsoft/perfview, MIT).

use super::plan::{Op, Wire};
use crate::bytes::u16_at;
use crate::record::{Identity, Record};
use std::collections::HashMap;
use std::collections::btree_map::{BTreeMap, Entry};
use tidegate_proto::schema::{Decoder, FieldDef, SchemaParts};
use tidegate_proto::value::Format;

const ID: u16 = 0xFFFE;
const OPCODE: u8 = 254;
/// "[" as in the first byte of XML's CDATA; nothing else has it there.
const MAGIC: u8 = 0x5B;
const HEADER: usize = 8;
/// Bytes of a manifest in a trace.
const MAX_TEXT: usize = 4 << 20;
/// Bytes of all unfinished manifests.
const MAX_PENDING: usize = 8 << 20;
/// Unfinished manifests.
const MAX_SETS: usize = 256;

/// Who writes a manifest: provider, process, thread.
type Writer = ([u8; 16], u32, u32);

/// Chunks that came so far.
#[derive(Debug, Default)]
struct Set {
    total: u16,
    parts: BTreeMap<u16, Vec<u8>>,
    bytes: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Chunks {
    sets: HashMap<Writer, Set>,
    bytes: usize,
}

/// The chunk in a record: total, number, text.
fn chunk<'a>(record: &Record<'a>) -> Option<(u16, u16, &'a [u8])> {
    let is = record.identity == Identity::Event && (record.id, record.opcode) == (ID, OPCODE);
    let data = record.data;
    if !is || data.first() != Some(&1) || data.get(3) != Some(&MAGIC) {
        return None;
    }
    let (total, number) = (u16_at(data, 4)?, u16_at(data, 6)?);
    (number < total).then_some((total, number, data.get(HEADER..)?))
}

/// Whether a record carries a chunk.
pub(crate) fn is_chunk(record: &Record<'_>) -> bool {
    chunk(record).is_some()
}

/// Schema of the records that carry chunks; the text stays raw.
pub(crate) fn schema() -> (SchemaParts, Vec<Op>) {
    let names = ["Format", "MajorVersion", "MinorVersion", "Magic", "TotalChunks", "ChunkNumber"];
    let parts = SchemaParts {
        event_name: "ManifestData".to_owned(),
        decoder: Decoder::EventSource,
        fields: names.map(|n| FieldDef { name: n.to_owned(), tags: 0 }).to_vec(),
        ..SchemaParts::default()
    };
    let wire = |n| if n < 4 { Wire::U8 } else { Wire::U16 };
    (parts, (0..6).map(|n| Op::new(n, wire(n), Format::Default)).collect())
}

impl Chunks {
    /// Adds the chunk of a record; returns the manifest that it completes.
    pub(crate) fn add(&mut self, record: &Record<'_>) -> Option<Vec<u8>> {
        let (total, number, text) = chunk(record)?;
        if total == 1 {
            return Some(text.to_vec());
        }
        let writer = (record.provider, record.pid, record.tid);
        if !self.sets.contains_key(&writer) && self.sets.len() >= MAX_SETS {
            self.forget();
        }
        let set = self.sets.entry(writer).or_default();
        // Another total or other bytes of a chunk that is there: another manifest begins.
        if set.total != total || set.parts.get(&number).is_some_and(|old| old != text) {
            self.bytes -= set.bytes;
            *set = Set { total, ..Set::default() };
        }
        if let Entry::Vacant(place) = set.parts.entry(number) {
            place.insert(text.to_vec());
            set.bytes += text.len();
            self.bytes += text.len();
        }
        let whole = set.parts.len() == usize::from(total);
        if whole || set.bytes > MAX_TEXT {
            let set = self.sets.remove(&writer)?;
            self.bytes -= set.bytes;
            return whole.then(|| set.parts.into_values().flatten().collect());
        }
        if self.bytes > MAX_PENDING {
            self.forget();
        }
        None
    }

    /// Bytes of chunks whose manifest is not complete.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn forget(&mut self) {
        self.sets.clear();
        self.bytes = 0;
    }
}
