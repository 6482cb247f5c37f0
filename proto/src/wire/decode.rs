use std::collections::HashMap;
use std::sync::Arc;

use super::{FORMAT, Judged};
use crate::batch::{Batch, EventBuilder, ExtKey, Head, NO_CPU, NO_ID, NO_NAME};
use crate::level::TelemetryLevel;
use crate::schema::{Decoder, FieldDef, Schema, SchemaParts};
use crate::value::{Format, ValueRef};

/// Deeper nesting is no block of ours.
const MAX_DEPTH: u32 = 60;

/// Why bytes are no block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end inside of a field.
    #[error("the block ends inside of a field at byte {0}")]
    Cut(usize),
    /// A value that the format does not allow.
    #[error("byte {at} of the block: {what}")]
    Bad {
        /// Offset in the block.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Written by a newer version.
    #[error("the block has format {0}, this version reads up to {FORMAT}: use the version that wrote it")]
    Newer(u64),
}

/// Shares equal schemas between blocks. Bounded: it forgets all when full.
#[derive(Debug, Default)]
pub struct SchemaInterner {
    known: HashMap<Box<[u8]>, Arc<Schema>>,
    bytes: usize,
}

impl SchemaInterner {
    /// Encoded bytes of schemas that are kept at most.
    pub const MAX_BYTES: usize = 8 << 20;

    /// Knows nothing yet.
    #[must_use]
    pub fn new() -> SchemaInterner {
        SchemaInterner::default()
    }

    fn get(&mut self, at: usize, encoded: &[u8]) -> Result<Arc<Schema>, WireError> {
        if let Some(schema) = self.known.get(encoded) {
            return Ok(Arc::clone(schema));
        }
        let schema = Schema::new(schema_parts(at, encoded)?);
        if self.bytes + encoded.len() > Self::MAX_BYTES {
            self.known.clear();
            self.bytes = 0;
        }
        if encoded.len() <= Self::MAX_BYTES / 8 {
            self.bytes += encoded.len();
            self.known.insert(encoded.into(), Arc::clone(&schema));
        }
        Ok(schema)
    }
}

/// One field of a message.
#[derive(Clone, Copy)]
enum Item<'a> {
    Number(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Bytes(usize, &'a [u8]),
}

impl<'a> Item<'a> {
    fn number(self) -> u64 {
        match self {
            Item::Number(n) => n,
            Item::Fixed64(b) => u64::from_le_bytes(b),
            Item::Fixed32(b) => u64::from(u32::from_le_bytes(b)),
            Item::Bytes(..) => 0,
        }
    }
    fn bytes(self) -> &'a [u8] {
        match self {
            Item::Bytes(_, b) => b,
            _ => &[],
        }
    }
    fn id(self) -> [u8; 16] {
        self.bytes().try_into().unwrap_or_default()
    }
}

/// Goes through the fields of one message. `base` is its offset in the block.
#[derive(Clone, Copy)]
struct Items<'a> {
    base: usize,
    at: usize,
    data: &'a [u8],
}

impl<'a> Items<'a> {
    fn here(&self) -> usize {
        self.base + self.at
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let start = self.here();
        let mut n = 0u64;
        for shift in (0..70).step_by(7) {
            let b = *self.data.get(self.at).ok_or(WireError::Cut(start))?;
            self.at += 1;
            if shift == 63 && b > 1 {
                break;
            }
            n |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return Ok(n);
            }
        }
        Err(WireError::Bad { at: start, what: "a number of more than 64 bits" })
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], WireError> {
        let rest = self.data.get(self.at..).unwrap_or_default();
        let taken = usize::try_from(len).ok().and_then(|len| rest.get(..len));
        let taken = taken.ok_or(WireError::Cut(self.here()))?;
        self.at += taken.len();
        Ok(taken)
    }

    fn next(&mut self) -> Result<Option<(u64, Item<'a>)>, WireError> {
        if self.at >= self.data.len() {
            return Ok(None);
        }
        let start = self.here();
        let key = self.varint()?;
        let item = match key & 7 {
            0 => Item::Number(self.varint()?),
            1 => Item::Fixed64(self.take(8)?.try_into().unwrap_or_default()),
            2 => {
                let len = self.varint()?;
                Item::Bytes(self.here(), self.take(len)?)
            }
            5 => Item::Fixed32(self.take(4)?.try_into().unwrap_or_default()),
            _ => return Err(WireError::Bad { at: start, what: "a wire type that does not exist" }),
        };
        Ok(Some((key >> 3, item)))
    }
}

fn items(base: usize, data: &[u8]) -> Items<'_> {
    Items { base, at: 0, data }
}

fn text(item: Item<'_>) -> String {
    String::from_utf8_lossy(item.bytes()).into_owned()
}

fn low32(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn schema_parts(base: usize, data: &[u8]) -> Result<SchemaParts, WireError> {
    let mut parts = SchemaParts::default();
    let mut all = items(base, data);
    while let Some((field, item)) = all.next()? {
        match field {
            1 => parts.provider_name = text(item),
            2 => parts.provider_guid = item.id(),
            3 => parts.group_guid = Some(item.id()),
            4 => parts.event_name = text(item),
            5 => parts.event_tags = low32(item.number()),
            6 => parts.task_name = text(item),
            7 => parts.opcode_name = text(item),
            8 => parts.message = text(item),
            9 => parts.decoder = Decoder::from_u32(low32(item.number())),
            10 => {
                let mut def = FieldDef::default();
                let mut inner = items(all.here(), item.bytes());
                while let Some((field, item)) = inner.next()? {
                    match field {
                        1 => def.name = text(item),
                        2 => def.tags = low32(item.number()),
                        _ => {}
                    }
                }
                parts.fields.push(def);
            }
            _ => {}
        }
    }
    Ok(parts)
}

/// A block that is to be read into a batch.
#[derive(Debug)]
pub struct BlockReader<'a> {
    data: &'a [u8],
    schemas: Vec<Arc<Schema>>,
    events: Vec<(usize, &'a [u8])>,
    judged: Judged,
}

impl<'a> BlockReader<'a> {
    /// Reads the schemas and finds the events.
    ///
    /// # Errors
    /// Bytes that are no block, or one of a newer format.
    pub fn new(data: &'a [u8], interner: &mut SchemaInterner) -> Result<BlockReader<'a>, WireError> {
        let mut reader =
            BlockReader { data, schemas: Vec::new(), events: Vec::new(), judged: Judged::default() };
        let mut all = items(0, data);
        while let Some((field, item)) = all.next()? {
            match (field, item) {
                (1, item) if item.number() > u64::from(FORMAT) => {
                    return Err(WireError::Newer(item.number()));
                }
                (2, Item::Bytes(at, encoded)) => reader.schemas.push(interner.get(at, encoded)?),
                (3, Item::Bytes(at, encoded)) => reader.events.push((at, encoded)),
                (4, item) => reader.judged.rules = item.number(),
                (5, item) => {
                    let level = item.number().checked_sub(1).and_then(|n| u8::try_from(n).ok());
                    reader.judged.in_force = level.and_then(TelemetryLevel::from_u8);
                }
                _ => {}
            }
        }
        Ok(reader)
    }

    /// By what its events were judged.
    #[must_use]
    pub fn judged(&self) -> Judged {
        self.judged
    }

    /// Number of events.
    #[must_use]
    pub fn events(&self) -> usize {
        self.events.len()
    }

    /// Encoded bytes of the event at `index`; 0 when there is none.
    #[must_use]
    pub fn event_len(&self, index: usize) -> usize {
        self.events.get(index).map_or(0, |(_, encoded)| encoded.len())
    }

    /// Size of the block in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether the block has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Appends all events to `batch`.
    ///
    /// # Errors
    /// An event that cannot be read. Those before it have been appended.
    pub fn read_into(&self, batch: &mut Batch) -> Result<(), WireError> {
        for (at, encoded) in &self.events {
            self.event(*at, encoded, batch)?;
        }
        Ok(())
    }

    /// Appends the event at `index` to `batch`.
    ///
    /// # Errors
    /// An event that cannot be read, or none at that place.
    pub fn read_one(&self, index: usize, batch: &mut Batch) -> Result<(), WireError> {
        let Some((at, encoded)) = self.events.get(index) else {
            return Err(WireError::Cut(self.data.len()));
        };
        self.event(*at, encoded, batch)
    }

    fn event(&self, base: usize, data: &[u8], batch: &mut Batch) -> Result<(), WireError> {
        let mut head = Head::default();
        let mut schema = 0;
        // first the columns: the builder needs the schema, wherever it stands
        let mut columns = items(base, data);
        while let Some((field, item)) = columns.next()? {
            let n = item.number();
            match field {
                1 => head.time_ns = n.cast_signed(),
                2 => schema = n,
                3 => head.id = n as u16,
                4 => head.version = n as u8,
                5 => head.level = n as u8,
                6 => head.opcode = n as u8,
                7 => head.channel = n as u8,
                8 => head.task = n as u16,
                9 => head.keyword = n,
                10 => head.pid = plus_one(n, NO_ID),
                11 => head.tid = plus_one(n, NO_ID),
                12 => head.cpu = u16::try_from(plus_one(n, NO_ID)).unwrap_or(NO_CPU),
                13 => head.activity = item.id(),
                14 => head.related = item.id(),
                17 => {
                    let level = n.checked_sub(1).and_then(|n| u8::try_from(n).ok());
                    head.telemetry_level = level.and_then(TelemetryLevel::from_u8);
                }
                19 => head.priv_tags = n,
                20 => head.sample_ppm = u32::try_from(n).unwrap_or(0),
                _ => {}
            }
        }
        let schema = usize::try_from(schema).ok().and_then(|n| self.schemas.get(n));
        let schema =
            schema.ok_or(WireError::Bad { at: base, what: "a schema that the block does not have" })?;
        let mut event = batch.begin(schema, head);
        let mut values = items(base, data);
        while let Some((number, item)) = values.next()? {
            match (number, item) {
                (15, Item::Bytes(at, encoded)) => field(&mut event, at, encoded, 0, false)?,
                (16, Item::Bytes(_, raw)) => event.raw(raw),
                (18, Item::Bytes(at, encoded)) => field(&mut event, at, encoded, 0, true)?,
                _ => {}
            }
        }
        event.finish();
        Ok(())
    }
}

fn plus_one(n: u64, none: u32) -> u32 {
    n.checked_sub(1).map_or(none, low32)
}

fn unzigzag(n: u64) -> i64 {
    (n >> 1).cast_signed() ^ -(n & 1).cast_signed()
}

fn field(
    event: &mut EventBuilder<'_>,
    base: usize,
    data: &[u8],
    depth: u32,
    ext: bool,
) -> Result<(), WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError::Bad { at: base, what: "values nested too deep" });
    }
    let (mut name, mut format, mut scrub) = (NO_NAME, Format::Default, 0);
    let mut value = None;
    let mut all = items(base, data);
    while let Some((field, item)) = all.next()? {
        match field {
            1 => name = plus_one(item.number(), NO_NAME),
            2 => format = Format::from_u32(low32(item.number())),
            28 => scrub = item.number() as u16,
            3..=27 => value = Some((field, item)),
            _ => {}
        }
    }
    // a kind of value that a newer version added reads as null: its place is kept
    let (kind, item) = value.unwrap_or((26, Item::Number(1)));
    let key = ExtKey::from_u32(name).unwrap_or(ExtKey::Other);
    if let (24 | 25, Item::Bytes(at, encoded)) = (kind, item) {
        match (ext, kind) {
            (true, _) => event.begin_ext_array(key),
            (false, 24) => event.begin_struct(name),
            (false, _) => event.begin_array(name),
        }
        let mut inner = items(at, encoded);
        while let Some((number, item)) = inner.next()? {
            if let (1, Item::Bytes(at, encoded)) = (number, item) {
                field(event, at, encoded, depth + 1, false)?;
            }
        }
        event.end();
        return Ok(());
    }
    let label;
    let n = item.number();
    let b = item.bytes();
    let str_at = |bytes| {
        std::str::from_utf8(bytes).map_err(|_| WireError::Bad { at: base, what: "text that is no UTF-8" })
    };
    let value = match kind {
        3 => ValueRef::Bool(n != 0),
        4 => ValueRef::I8(unzigzag(n) as i8),
        5 => ValueRef::I16(unzigzag(n) as i16),
        6 => ValueRef::I32(unzigzag(n) as i32),
        7 => ValueRef::I64(unzigzag(n)),
        8 => ValueRef::U8(n as u8),
        9 => ValueRef::U16(n as u16),
        10 => ValueRef::U32(n as u32),
        11 => ValueRef::U64(n),
        12 => ValueRef::F32(f32::from_bits(n as u32)),
        13 => ValueRef::F64(f64::from_bits(n)),
        14 => ValueRef::Str(str_at(b)?),
        15 => ValueRef::Bytes(b),
        16 => ValueRef::Guid(item.id()),
        17 => ValueRef::FileTime(n),
        18 => ValueRef::SystemTime(item.id()),
        19 => ValueRef::Sid(b),
        20 => ValueRef::Ipv4((n as u32).to_be_bytes()),
        21 => ValueRef::Ipv6(item.id()),
        22 => ValueRef::SockAddr(b),
        23 => ValueRef::Pointer(n),
        27 => {
            let (mut value, mut name) = (0, "");
            let mut inner = items(base, b);
            while let Some((field, item)) = inner.next()? {
                match field {
                    1 => value = unzigzag(item.number()),
                    2 => name = str_at(item.bytes())?,
                    _ => {}
                }
            }
            label = name;
            ValueRef::Enum { value, label }
        }
        _ => ValueRef::Null,
    };
    if ext {
        event.ext_formatted(key, format, value);
        event.ext_scrubbed(scrub);
    } else {
        event.value(name, format, value);
        event.scrubbed(scrub);
    }
    Ok(())
}
