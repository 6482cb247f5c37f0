//! A reusable arena of events.
//!
//! An event is a row of fixed columns ([`Head`]), a tape of 16-byte nodes for
//! its values, and bytes those nodes point at. Nothing is allocated per event
//! once the arena has grown to its usual size.

mod head;

use std::sync::Arc;

use crate::schema::Schema;
use crate::value::{Format, ValueRef};

pub use head::{ExtKey, Head, NO_CPU, NO_ID};

/// The name of an array's items.
pub const NO_NAME: u32 = u32::MAX;
/// Bytes that one batch holds at most, 1 GiB. Values beyond read as null:
/// callers bound their batches far below.
pub const MAX_BYTES: usize = 1 << 30;
/// Nesting that a batch keeps; deeper containers are left out with all below them.
pub const MAX_DEPTH: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Null,
    Bool,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F32,
    F64,
    Str,
    Bytes,
    Guid,
    FileTime,
    SystemTime,
    Sid,
    Ipv4,
    Ipv6,
    SockAddr,
    Pointer,
    Enum,
    Struct,
    Array,
}

impl Kind {
    fn is_plain(self) -> bool {
        use Kind as K;
        !matches!(self, K::Str | K::Bytes | K::Sid | K::Ipv4 | K::Ipv6 | K::SockAddr | K::Struct | K::Array)
    }
}

/// Numbers stand in `a` (low) and `b` (high); bytes at offset `a`, length `b`;
/// a container has `a` nodes below it, which follow.
#[derive(Clone, Copy, Debug)]
struct Node {
    name: u32,
    kind: Kind,
    format: Format,
    scrub: u16,
    a: u32,
    b: u32,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    head: Head,
    schema: u32,
    fields: (u32, u32),
    ext: (u32, u32),
    raw: (u32, u32),
}

const MEMO: usize = 64;

/// An arena of events.
#[derive(Debug, Default)]
pub struct Batch {
    rows: Vec<Row>,
    nodes: Vec<Node>,
    ext: Vec<Node>,
    bytes: Vec<u8>,
    schemas: Vec<Arc<Schema>>,
    // direct-mapped by schema id; a miss only stores the schema once more
    memo: Vec<u32>,
    open: Vec<u32>,
}

fn to32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn ix(n: u32) -> usize {
    n as usize
}

impl Batch {
    /// An empty arena; allocates nothing.
    #[must_use]
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Removes all events, keeps the memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.nodes.clear();
        self.ext.clear();
        self.bytes.clear();
        self.schemas.clear();
    }

    /// Number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it holds no event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Memory that the events take, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows.len() * size_of::<Row>()
            + (self.nodes.len() + self.ext.len()) * size_of::<Node>()
            + self.bytes.len()
    }

    /// The events in the order they were written.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = EventRef<'_>> + ExactSizeIterator + Clone {
        self.rows.iter().map(move |row| EventRef { batch: self, row })
    }

    /// One event by its place.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<EventRef<'_>> {
        self.rows.get(index).map(|row| EventRef { batch: self, row })
    }

    /// Appends an event of another batch.
    pub fn push_copy(&mut self, event: EventRef<'_>) {
        let mut copy = self.begin(event.schema(), *event.head());
        copy.copy(event.fields());
        for item in event.ext().fields() {
            let key = ExtKey::from_u32(item.name_index).unwrap_or(ExtKey::Other);
            copy.ext_formatted(key, item.format, item.value);
            copy.ext_scrubbed(item.scrub);
        }
        if !event.raw().is_empty() {
            copy.raw(event.raw());
        }
        copy.finish();
    }

    /// The place reached so far.
    #[must_use]
    pub fn mark(&self) -> BatchMark {
        BatchMark {
            rows: self.rows.len(),
            nodes: self.nodes.len(),
            ext: self.ext.len(),
            bytes: self.bytes.len(),
        }
    }

    /// Removes the events written since a mark of this batch.
    pub fn reset_to(&mut self, mark: BatchMark) {
        self.rows.truncate(mark.rows);
        self.nodes.truncate(mark.nodes);
        self.ext.truncate(mark.ext);
        self.bytes.truncate(mark.bytes);
    }

    /// Starts an event. It is kept by [`EventBuilder::finish`] and gone otherwise.
    pub fn begin(&mut self, schema: &Arc<Schema>, head: Head) -> EventBuilder<'_> {
        if self.memo.is_empty() {
            self.memo.resize(MEMO, u32::MAX);
        }
        let slot = (schema.id() % MEMO as u64) as usize;
        let mut index = self.memo.get(slot).copied().unwrap_or(u32::MAX);
        if self.schemas.get(ix(index)).is_none_or(|s| s.id() != schema.id()) {
            index = to32(self.schemas.len());
            self.schemas.push(Arc::clone(schema));
            if let Some(m) = self.memo.get_mut(slot) {
                *m = index;
            }
        }
        self.open.clear();
        let row = Row {
            head,
            schema: index,
            fields: (to32(self.nodes.len()), 0),
            ext: (to32(self.ext.len()), 0),
            raw: (0, 0),
        };
        let start_bytes = self.bytes.len();
        EventBuilder { batch: self, row, start_bytes, ext_depth: None, skipped: 0, done: false }
    }
}

/// A place in a batch to come back to.
#[derive(Clone, Copy, Debug)]
pub struct BatchMark {
    rows: usize,
    nodes: usize,
    ext: usize,
    bytes: usize,
}

/// A place to come back to when the decoding of a payload fails half way.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    nodes: usize,
    bytes: usize,
    open: usize,
}

/// Writes one event into a batch. Dropping it without
/// [`finish`](EventBuilder::finish) takes the event back.
#[derive(Debug)]
pub struct EventBuilder<'b> {
    batch: &'b mut Batch,
    row: Row,
    start_bytes: usize,
    // depth at which an extended array was opened: values go to the other tape until its end
    ext_depth: Option<usize>,
    // open containers that were refused for their depth
    skipped: usize,
    done: bool,
}

impl EventBuilder<'_> {
    #[inline]
    fn push(&mut self, node: Node) {
        if self.skipped > 0 {
            return;
        }
        let tape = if self.ext_depth.is_some() { &mut self.batch.ext } else { &mut self.batch.nodes };
        if tape.len() < MAX_BYTES / size_of::<Node>() {
            tape.push(node);
        }
    }

    /// Places bytes; `None` when the batch is at its limit.
    fn store(&mut self, parts: [&[u8]; 2]) -> Option<u32> {
        let at = self.batch.bytes.len();
        if at + parts[0].len() + parts[1].len() > MAX_BYTES {
            return None;
        }
        self.batch.bytes.extend_from_slice(parts[0]);
        self.batch.bytes.extend_from_slice(parts[1]);
        Some(to32(at))
    }

    fn stored(&mut self, name: u32, format: Format, kind: Kind, bytes: &[u8]) {
        let node = match self.store([bytes, &[]]) {
            Some(a) => Node { name, kind, format, scrub: 0, a, b: to32(bytes.len()) },
            None => Node { name, kind: Kind::Null, format, scrub: 0, a: 0, b: 0 },
        };
        self.push(node);
    }

    #[inline]
    fn number(&mut self, name: u32, format: Format, kind: Kind, n: u64) {
        self.push(Node { name, kind, format, scrub: 0, a: n as u32, b: (n >> 32) as u32 });
    }

    /// The head, to be completed while the payload is read.
    pub fn head_mut(&mut self) -> &mut Head {
        &mut self.row.head
    }

    /// Appends one value; `name` is its place in the schema's fields, [`NO_NAME`]
    /// for an array's items. Containers are copied with all they hold.
    // always: with the kind of value known it is a few stores
    #[inline(always)]
    pub fn value(&mut self, name: u32, format: Format, value: ValueRef<'_>) {
        let f = format;
        match value {
            ValueRef::Null => self.number(name, f, Kind::Null, 0),
            ValueRef::Bool(b) => self.number(name, f, Kind::Bool, u64::from(b)),
            ValueRef::I8(n) => self.number(name, f, Kind::I8, i64::from(n).cast_unsigned()),
            ValueRef::I16(n) => self.number(name, f, Kind::I16, i64::from(n).cast_unsigned()),
            ValueRef::I32(n) => self.number(name, f, Kind::I32, i64::from(n).cast_unsigned()),
            ValueRef::I64(n) => self.number(name, f, Kind::I64, n.cast_unsigned()),
            ValueRef::U8(n) => self.number(name, f, Kind::U8, u64::from(n)),
            ValueRef::U16(n) => self.number(name, f, Kind::U16, u64::from(n)),
            ValueRef::U32(n) => self.number(name, f, Kind::U32, u64::from(n)),
            ValueRef::U64(n) => self.number(name, f, Kind::U64, n),
            ValueRef::F32(n) => self.number(name, f, Kind::F32, u64::from(n.to_bits())),
            ValueRef::F64(n) => self.number(name, f, Kind::F64, n.to_bits()),
            ValueRef::FileTime(n) => self.number(name, f, Kind::FileTime, n),
            ValueRef::Pointer(n) => self.number(name, f, Kind::Pointer, n),
            ValueRef::Ipv4(b) => self.number(name, f, Kind::Ipv4, u64::from(u32::from_be_bytes(b))),
            other => self.long_value(name, f, other),
        }
    }

    /// Appends a value that is more than a number.
    fn long_value(&mut self, name: u32, f: Format, value: ValueRef<'_>) {
        match value {
            ValueRef::Str(s) => self.stored(name, f, Kind::Str, s.as_bytes()),
            ValueRef::Bytes(b) => self.stored(name, f, Kind::Bytes, b),
            ValueRef::Sid(b) => self.stored(name, f, Kind::Sid, b),
            ValueRef::SockAddr(b) => self.stored(name, f, Kind::SockAddr, b),
            ValueRef::Guid(b) => self.stored(name, f, Kind::Guid, &b),
            ValueRef::SystemTime(b) => self.stored(name, f, Kind::SystemTime, &b),
            ValueRef::Ipv6(b) => self.stored(name, f, Kind::Ipv6, &b),
            ValueRef::Enum { value, label } => {
                let node = match self.store([&value.to_le_bytes(), label.as_bytes()]) {
                    Some(a) => Node { name, kind: Kind::Enum, format: f, scrub: 0, a, b: to32(label.len()) },
                    None => Node { name, kind: Kind::Null, format: f, scrub: 0, a: 0, b: 0 },
                };
                self.push(node);
            }
            ValueRef::Struct(inner) => {
                self.begin_struct(name);
                self.copy(inner);
                self.end();
            }
            ValueRef::Array(inner) => {
                self.begin_array(name);
                self.copy(inner);
                self.end();
            }
            // numbers, which `value` writes
            _ => {}
        }
    }

    // depth is bounded: containers below MAX_DEPTH were never kept
    fn copy(&mut self, fields: Fields<'_>) {
        for field in fields {
            self.value(field.name_index, field.format, field.value);
            self.scrubbed(field.scrub);
        }
    }

    /// Notes what the gate did to the value written last; 0 = nothing.
    pub fn scrubbed(&mut self, mark: u16) {
        let tape = if self.ext_depth.is_some() { &mut self.batch.ext } else { &mut self.batch.nodes };
        if mark != 0
            && self.skipped == 0
            && let Some(node) = tape.last_mut()
        {
            node.scrub = mark;
        }
    }

    fn transcoded(&mut self, name: u32, format: Format, most: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let at = self.batch.bytes.len();
        if at.saturating_add(most) > MAX_BYTES {
            return self.number(name, format, Kind::Null, 0);
        }
        write(&mut self.batch.bytes);
        let len = self.batch.bytes.len() - at;
        self.push(Node { name, kind: Kind::Str, format, scrub: 0, a: to32(at), b: to32(len) });
    }

    /// Appends text given as UTF-16LE. What is no character becomes U+FFFD.
    #[inline]
    pub fn utf16(&mut self, name: u32, format: Format, le: &[u8]) {
        self.transcoded(name, format, le.len().saturating_mul(2), |out| crate::text::push_utf16(out, le));
    }

    /// Appends text given in Windows code page 1252.
    #[inline]
    pub fn latin1(&mut self, name: u32, format: Format, bytes: &[u8]) {
        self.transcoded(name, format, bytes.len().saturating_mul(3), |out| {
            crate::text::push_cp1252(out, bytes);
        });
    }

    /// Appends text given as UTF-8. What is no character becomes U+FFFD.
    #[inline]
    pub fn utf8_lossy(&mut self, name: u32, format: Format, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(s) => self.value(name, format, ValueRef::Str(s)),
            Err(_) => self.value(name, format, ValueRef::Str(&String::from_utf8_lossy(bytes))),
        }
    }

    fn begin_container(&mut self, name: u32, kind: Kind) {
        if self.skipped > 0 || self.batch.open.len() >= MAX_DEPTH {
            self.skipped += 1;
            return;
        }
        let ext = self.ext_depth.is_some();
        let at = if ext { self.batch.ext.len() } else { self.batch.nodes.len() };
        self.push(Node { name, kind, format: Format::Default, scrub: 0, a: 0, b: 0 });
        self.batch.open.push(to32(at));
    }

    /// Opens a struct; its members follow until [`end`](EventBuilder::end).
    pub fn begin_struct(&mut self, name: u32) {
        self.begin_container(name, Kind::Struct);
    }

    /// Opens an array; its items follow, with [`NO_NAME`], until [`end`](EventBuilder::end).
    pub fn begin_array(&mut self, name: u32) {
        self.begin_container(name, Kind::Array);
    }

    /// Opens an array among the extended items.
    pub fn begin_ext_array(&mut self, key: ExtKey) {
        if self.ext_depth.is_none() && self.skipped == 0 {
            self.ext_depth = Some(self.batch.open.len());
        }
        self.begin_container(u32::from(key as u8), Kind::Array);
    }

    /// Closes the container opened last. Does nothing when none is open.
    pub fn end(&mut self) {
        if self.skipped > 0 {
            self.skipped -= 1;
            return;
        }
        let Some(at) = self.batch.open.pop() else { return };
        let tape = if self.ext_depth.is_some() { &mut self.batch.ext } else { &mut self.batch.nodes };
        let below = tape.len().saturating_sub(ix(at) + 1);
        if let Some(node) = tape.get_mut(ix(at)) {
            node.a = to32(below);
        }
        if self.ext_depth == Some(self.batch.open.len()) {
            self.ext_depth = None;
        }
    }

    /// Appends an extended item.
    pub fn ext(&mut self, key: ExtKey, value: ValueRef<'_>) {
        self.ext_formatted(key, Format::Default, value);
    }

    /// Appends an extended item with a format.
    pub fn ext_formatted(&mut self, key: ExtKey, format: Format, value: ValueRef<'_>) {
        if self.skipped > 0 {
            return;
        }
        let outer = self.ext_depth.is_none();
        if outer {
            self.ext_depth = Some(usize::MAX);
        }
        self.value(u32::from(key as u8), format, value);
        if outer {
            self.ext_depth = None;
        }
    }

    /// Notes what the gate did to the extended item written last; 0 = nothing.
    pub fn ext_scrubbed(&mut self, mark: u16) {
        if mark != 0
            && self.skipped == 0
            && let Some(node) = self.batch.ext.last_mut()
        {
            node.scrub = mark;
        }
    }

    /// Keeps payload bytes that no schema explained; a second call replaces the first.
    pub fn raw(&mut self, bytes: &[u8]) {
        if let Some(at) = self.store([bytes, &[]]) {
            self.row.raw = (at, to32(bytes.len()));
        }
    }

    /// The place reached so far.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { nodes: self.batch.nodes.len(), bytes: self.batch.bytes.len(), open: self.batch.open.len() }
    }

    /// Takes back the fields (not the extended items) written since `mark`.
    /// To be called before [`raw`](EventBuilder::raw) and with no extended item written since.
    pub fn reset_to(&mut self, mark: Mark) {
        self.batch.nodes.truncate(mark.nodes);
        self.batch.bytes.truncate(mark.bytes);
        self.batch.open.truncate(mark.open);
        self.ext_depth = None;
        self.skipped = 0;
    }

    /// Keeps the event. Open containers are closed.
    pub fn finish(mut self) {
        self.skipped = 0;
        while !self.batch.open.is_empty() {
            self.end();
        }
        self.row.fields.1 = to32(self.batch.nodes.len());
        self.row.ext.1 = to32(self.batch.ext.len());
        self.batch.rows.push(self.row);
        self.done = true;
    }

    /// Takes the event back.
    pub fn cancel(self) {}
}

impl Drop for EventBuilder<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.batch.nodes.truncate(ix(self.row.fields.0));
            self.batch.ext.truncate(ix(self.row.ext.0));
            self.batch.bytes.truncate(self.start_bytes);
            self.batch.open.clear();
        }
    }
}

/// One event of a batch.
#[derive(Clone, Copy)]
pub struct EventRef<'a> {
    batch: &'a Batch,
    row: &'a Row,
}

impl std::fmt::Debug for EventRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = Vec::new();
        crate::json::write_event(&mut out, *self, None);
        f.write_str(&String::from_utf8_lossy(&out))
    }
}

impl<'a> EventRef<'a> {
    /// The fixed columns.
    #[must_use]
    pub fn head(&self) -> &'a Head {
        &self.row.head
    }

    /// What is constant for its kind.
    ///
    /// # Panics
    /// Never: a row is only made with its schema.
    #[must_use]
    pub fn schema(&self) -> &'a Arc<Schema> {
        &self.batch.schemas[ix(self.row.schema)]
    }

    fn range(&self, tape: &'a [Node], (from, to): (u32, u32)) -> Fields<'a> {
        let nodes = tape.get(ix(from)..ix(to)).unwrap_or_default();
        Fields { nodes, batch: self.batch, schema: self.schema() }
    }

    /// The payload's fields in order.
    #[must_use]
    pub fn fields(&self) -> Fields<'a> {
        self.range(&self.batch.nodes, self.row.fields)
    }

    /// The extended items in order.
    #[must_use]
    pub fn ext(&self) -> ExtItems<'a> {
        ExtItems(self.range(&self.batch.ext, self.row.ext))
    }

    /// Payload bytes that no schema explained; often empty.
    #[must_use]
    pub fn raw(&self) -> &'a [u8] {
        let (at, len) = self.row.raw;
        self.batch.bytes.get(ix(at)..ix(at) + ix(len)).unwrap_or_default()
    }
}

/// A run of values: an event's fields, a struct's members or an array's items.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    nodes: &'a [Node],
    batch: &'a Batch,
    schema: &'a Schema,
}

impl std::fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(*self).finish()
    }
}

/// One value and what it is called.
#[derive(Clone, Copy, Debug)]
pub struct FieldRef<'a> {
    /// Its name, `None` in arrays.
    pub name: Option<&'a str>,
    /// Place of the name in the schema's fields, [`NO_NAME`] in arrays.
    pub name_index: u32,
    /// Its field's TraceLogging tags, 0 = none.
    pub tags: u32,
    /// How to show it.
    pub format: Format,
    /// What the gate did to it, 0 = nothing.
    pub scrub: u16,
    /// The value.
    pub value: ValueRef<'a>,
}

impl Fields<'_> {
    /// How many nodes these are, if each is a number, a time, an id or nothing: no text, bytes,
    /// address or container among them.
    #[must_use]
    pub fn plain_len(&self) -> Option<usize> {
        self.nodes.iter().all(|n| n.kind.is_plain()).then_some(self.nodes.len())
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = FieldRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<FieldRef<'a>> {
        let (node, rest) = self.nodes.split_first()?;
        let (Node { a, b, .. }, bytes) = (*node, &self.batch.bytes);
        let n = u64::from(b) << 32 | u64::from(a);
        let slice = || bytes.get(ix(a)..ix(a) + ix(b)).unwrap_or_default();
        let fixed = || bytes.get(ix(a)..).and_then(|s| s.first_chunk::<16>()).copied().unwrap_or_default();
        let mut rest = rest;
        let value = match node.kind {
            Kind::Null => ValueRef::Null,
            Kind::Bool => ValueRef::Bool(n != 0),
            Kind::I8 => ValueRef::I8(n as i8),
            Kind::I16 => ValueRef::I16(n as i16),
            Kind::I32 => ValueRef::I32(n as i32),
            Kind::I64 => ValueRef::I64(n.cast_signed()),
            Kind::U8 => ValueRef::U8(n as u8),
            Kind::U16 => ValueRef::U16(n as u16),
            Kind::U32 => ValueRef::U32(n as u32),
            Kind::U64 => ValueRef::U64(n),
            Kind::F32 => ValueRef::F32(f32::from_bits(a)),
            Kind::F64 => ValueRef::F64(f64::from_bits(n)),
            Kind::Str => ValueRef::Str(crate::text::checked(slice())),
            Kind::Bytes => ValueRef::Bytes(slice()),
            Kind::Guid => ValueRef::Guid(fixed()),
            Kind::FileTime => ValueRef::FileTime(n),
            Kind::SystemTime => ValueRef::SystemTime(fixed()),
            Kind::Sid => ValueRef::Sid(slice()),
            Kind::Ipv4 => ValueRef::Ipv4(a.to_be_bytes()),
            Kind::Ipv6 => ValueRef::Ipv6(fixed()),
            Kind::SockAddr => ValueRef::SockAddr(slice()),
            Kind::Pointer => ValueRef::Pointer(n),
            Kind::Enum => {
                let all = bytes.get(ix(a)..ix(a) + 8 + ix(b)).unwrap_or_default();
                let value = all.first_chunk::<8>().copied().unwrap_or_default();
                let label = crate::text::checked(all.get(8..).unwrap_or_default());
                ValueRef::Enum { value: i64::from_le_bytes(value), label }
            }
            Kind::Struct | Kind::Array => {
                let (below, after) = rest.split_at_checked(ix(a)).unwrap_or((rest, &[]));
                rest = after;
                let inner = Fields { nodes: below, ..*self };
                if node.kind == Kind::Struct { ValueRef::Struct(inner) } else { ValueRef::Array(inner) }
            }
        };
        self.nodes = rest;
        let field = self.schema.fields.get(ix(node.name));
        let (name, tags) = field.map_or((None, 0), |f| (Some(f.name.as_str()), f.tags));
        Some(FieldRef { name, name_index: node.name, tags, format: node.format, scrub: node.scrub, value })
    }
}

/// The extended items of an event.
#[derive(Clone, Copy, Debug)]
pub struct ExtItems<'a>(Fields<'a>);

impl<'a> ExtItems<'a> {
    /// The same items with formats; `name_index` is the key's number.
    #[must_use]
    pub fn fields(self) -> Fields<'a> {
        self.0
    }
}

impl<'a> Iterator for ExtItems<'a> {
    type Item = (ExtKey, ValueRef<'a>);
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|f| (ExtKey::from_u32(f.name_index).unwrap_or(ExtKey::Other), f.value))
    }
}
