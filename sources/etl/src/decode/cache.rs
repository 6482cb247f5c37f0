//! What is known of each kind of event, found by the bytes that name it.

use super::plan::{NO_SLOT, Op};
use crate::record::{Identity, Record};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use tidegate_proto::schema::{Decoder, FieldDef, Schema, SchemaParts};

/// Kinds of events kept at most; then the cache starts anew.
const MAX_ENTRIES: usize = 65_536;
/// Memory of all kinds at most, as [`Entry::cost`] counts.
const MAX_BYTES: usize = 16 << 20;
/// What a kind takes beside its names and fields: two schemas, places in the tables.
const ENTRY_BYTES: usize = 1024;

/// What names a kind of event. TraceLogging events are named by their schema and traits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    /// Provider; then record kind's family, group, opcode, id, version, pointer size.
    numbers: [u64; 3],
    schema: &'a [u8],
    traits: &'a [u8],
}

/// Equal bytes. Nothing is asked of the bytes of empty slices: comparing those through their
/// dangling pointers costs some processors a hundred cycles.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && (a.is_empty() || a == b)
}

impl<'a> Key<'a> {
    #[inline]
    pub(crate) fn of(record: &Record<'_>, schema: Option<&'a [u8]>, traits: Option<&'a [u8]>) -> Key<'a> {
        let (family, a, b) = match record.identity {
            Identity::Event => (0, record.id, u16::from(record.opcode)),
            Identity::Classic => (1, 0, u16::from(record.opcode)),
            Identity::Kernel { group } => (2, u16::from(group), u16::from(record.opcode)),
            Identity::Message { number, .. } => (3, number, 0),
            Identity::Other => (4, record.kind as u16, 0),
        };
        let ([a0, a1], [b0, b1]) = (a.to_le_bytes(), b.to_le_bytes());
        let [v0, v1] = record.version.to_le_bytes();
        // A schema in the event says all: ids and versions of TraceLogging are arbitrary.
        let numbers = match schema {
            Some(_) => [5, 0, 0, 0, 0, 0, 0, 0],
            None => [family, a0, a1, b0, b1, v0, v1, record.pointer_size],
        };
        let provider = u128::from_le_bytes(record.provider);
        Key {
            numbers: [provider as u64, (provider >> 64) as u64, u64::from_le_bytes(numbers)],
            schema: schema.unwrap_or_default(),
            traits: traits.unwrap_or_default(),
        }
    }

    fn hash(&self) -> u64 {
        let mut h = self.numbers.iter().fold(0, |h, n| add(h, *n));
        for part in [self.schema, self.traits] {
            if !part.is_empty() {
                h = mix(h, part);
            }
        }
        h
    }

    fn len(&self) -> usize {
        self.schema.len() + self.traits.len()
    }

    fn is(&self, entry: &Entry) -> bool {
        entry.numbers == self.numbers
            && same(&entry.traits, self.traits)
            && same(&entry.in_event, self.schema)
    }
}

fn add(h: u64, n: u64) -> u64 {
    const K: u64 = 0x9E37_79B9_7F4A_7C15;
    (h ^ n).wrapping_mul(K).rotate_left(29)
}

/// Eight bytes at a time; what collides is told apart by comparison.
pub(crate) fn mix(mut h: u64, b: &[u8]) -> u64 {
    let (words, tail) = b.as_chunks::<8>();
    for word in words {
        h = add(h, u64::from_le_bytes(*word));
    }
    let last = tail.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
    add(h, last ^ (b.len() as u64) << 56)
}

/// Takes numbers as hashes already.
#[derive(Debug, Default)]
pub(crate) struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = mix(self.0, bytes);
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

/// Hashes fast; not for what must withstand chosen keys.
pub(crate) type Hashing = BuildHasherDefault<Same>;

/// One kind of event.
#[derive(Debug)]
pub(crate) struct Entry {
    /// For events that the plan decodes.
    pub(crate) schema: Arc<Schema>,
    /// The same names, for payloads that stay raw.
    pub(crate) raw_schema: Arc<Schema>,
    pub(crate) ops: Vec<Op>,
    pub(crate) decoder: Decoder,
    /// Whether lengths or counts refer to fields.
    pub(crate) has_slots: bool,
    pub(crate) decoded: u64,
    pub(crate) raw: u64,
    numbers: [u64; 3],
    in_event: Box<[u8]>,
    traits: Box<[u8]>,
    /// Next entry of the same hash, plus one.
    next: u32,
}

impl Entry {
    pub(crate) fn new(parts: SchemaParts, ops: Vec<Op>) -> Entry {
        let decoder = parts.decoder;
        let raw_schema = if decoder == Decoder::None {
            None
        } else {
            Some(Schema::new(SchemaParts { decoder: Decoder::None, fields: Vec::new(), ..parts.clone() }))
        };
        let schema = Schema::new(parts);
        Entry {
            raw_schema: raw_schema.unwrap_or_else(|| Arc::clone(&schema)),
            schema,
            has_slots: ops.iter().any(|op| op.slot != NO_SLOT),
            ops,
            decoder,
            decoded: 0,
            raw: 0,
            numbers: [0; 3],
            in_event: Box::default(),
            traits: Box::default(),
            next: 0,
        }
    }
}

impl Entry {
    /// Memory that it takes, about.
    fn cost(&self, key: &Key<'_>) -> usize {
        let s = &self.schema;
        let names = s.provider_name.len() + s.event_name.len() + s.task_name.len() + s.message.len();
        let fields: usize = s.fields.iter().map(|f| f.name.len() + size_of::<FieldDef>()).sum();
        ENTRY_BYTES + key.len() + 2 * names + fields + self.ops.len() * size_of::<Op>()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Cache {
    map: HashMap<u64, u32, Hashing>,
    entries: Vec<Entry>,
    bytes: usize,
    /// Counts of entries that are gone.
    pub(crate) past: super::coverage::Totals,
}

impl Cache {
    pub(crate) fn find(&self, key: &Key<'_>) -> Option<usize> {
        let mut at = *self.map.get(&key.hash())?;
        loop {
            let entry = self.entries.get(at as usize)?;
            if key.is(entry) {
                return Some(at as usize);
            }
            at = entry.next.checked_sub(1)?;
        }
    }

    pub(crate) fn insert(&mut self, key: &Key<'_>, mut entry: Entry) -> usize {
        let cost = entry.cost(key);
        if self.entries.len() >= MAX_ENTRIES || self.bytes + cost > MAX_BYTES {
            self.clear();
        }
        self.bytes += cost;
        let at = self.entries.len();
        (entry.numbers, entry.in_event, entry.traits) = (key.numbers, key.schema.into(), key.traits.into());
        let first = u32::try_from(at).unwrap_or(u32::MAX);
        if let Some(old) = self.map.insert(key.hash(), first) {
            entry.next = old + 1;
        }
        self.entries.push(entry);
        at
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut Entry> {
        self.entries.get_mut(at)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Forgets all kinds of events: their schemas are looked up again. Counts stay.
    pub(crate) fn clear(&mut self) {
        for entry in &self.entries {
            self.past.add(entry);
        }
        self.entries.clear();
        self.map.clear();
        self.bytes = 0;
    }
}
