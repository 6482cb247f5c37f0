use std::collections::HashMap;

use super::{Change, Changes, FORMAT, Place};
use crate::batch::{EventRef, ExtItems, Fields, NO_CPU, NO_ID, NO_NAME};
use crate::level::TelemetryLevel;
use crate::schema::Schema;
use crate::value::ValueRef;

const VARINT: u32 = 0;
const I64: u32 = 1;
const LEN: u32 = 2;
const I32: u32 = 5;

/// Writes events into one block. The bytes only grow: what was written before
/// is never read again.
#[derive(Debug)]
pub struct BlockBuilder {
    out: Vec<u8>,
    schemas: HashMap<u64, u32>,
    last: (u64, u32),
    events: u32,
    judged: Judged,
}

/// By what the gate judged the events of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Digest of the rules; 0 = not known.
    pub rules: u64,
    /// The telemetry level in force then, if it is known.
    pub in_force: Option<TelemetryLevel>,
}

/// A place in a block to come back to.
#[derive(Clone, Copy, Debug)]
pub struct BlockMark {
    len: usize,
    schemas: usize,
    events: u32,
}

impl Default for BlockBuilder {
    fn default() -> BlockBuilder {
        BlockBuilder::new()
    }
}

impl BlockBuilder {
    /// An empty block.
    #[must_use]
    pub fn new() -> BlockBuilder {
        BlockBuilder::with_buffer(Vec::new())
    }

    /// An empty block that writes into a used buffer; its contents are dropped.
    #[must_use]
    pub fn with_buffer(mut buffer: Vec<u8>) -> BlockBuilder {
        buffer.clear();
        key(&mut buffer, 1, VARINT);
        varint(&mut buffer, u64::from(FORMAT));
        BlockBuilder {
            out: buffer,
            schemas: HashMap::new(),
            last: (0, 0),
            events: 0,
            judged: Judged::default(),
        }
    }

    /// Says by what its events are judged.
    pub fn set_judged(&mut self, judged: Judged) {
        self.judged = judged;
    }

    /// Encoded bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether no event was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Events so far.
    #[must_use]
    pub fn events(&self) -> u32 {
        self.events
    }

    /// The finished block.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if self.judged.rules != 0 {
            key(&mut self.out, 4, I64);
            self.out.extend_from_slice(&self.judged.rules.to_le_bytes());
        }
        if let Some(level) = self.judged.in_force {
            key(&mut self.out, 5, VARINT);
            varint(&mut self.out, u64::from(level as u8) + 1);
        }
        self.out
    }

    /// The place reached so far.
    #[must_use]
    pub fn mark(&self) -> BlockMark {
        BlockMark { len: self.out.len(), schemas: self.schemas.len(), events: self.events }
    }

    /// Takes back what was written since a mark of this block.
    pub fn reset_to(&mut self, mark: BlockMark) {
        self.out.truncate(mark.len);
        self.schemas.retain(|_, index| (*index as usize) < mark.schemas);
        self.last = (0, 0);
        self.events = mark.events;
    }

    /// Appends one event with its changes and the telemetry level the gate gave it; `None` = no
    /// gate has judged it.
    pub fn push<C: Changes + ?Sized>(
        &mut self,
        event: EventRef<'_>,
        level: impl Into<Option<TelemetryLevel>>,
        changes: &C,
    ) {
        self.push_sampled(event, level, changes, event.head().sample_ppm);
    }

    /// As [`BlockBuilder::push`], with the rate that sampling gave the event, in parts of a
    /// million; 0 = it was not sampled.
    pub fn push_sampled<C: Changes + ?Sized>(
        &mut self,
        event: EventRef<'_>,
        level: impl Into<Option<TelemetryLevel>>,
        changes: &C,
        sample_ppm: u32,
    ) {
        let schema = event.schema();
        let index = if self.last.0 == schema.id() { self.last.1 } else { self.schema(schema) };
        self.last = (schema.id(), index);
        self.events = self.events.saturating_add(1);
        let out = &mut self.out;
        message(out, 3, 2, |out| {
            let head = event.head();
            if head.time_ns != 0 {
                key(out, 1, I64);
                out.extend_from_slice(&head.time_ns.to_le_bytes());
            }
            number(out, 2, u64::from(index));
            number(out, 3, u64::from(head.id));
            number(out, 4, u64::from(head.version));
            number(out, 5, u64::from(head.level));
            number(out, 6, u64::from(head.opcode));
            number(out, 7, u64::from(head.channel));
            number(out, 8, u64::from(head.task));
            if head.keyword != 0 {
                key(out, 9, I64);
                out.extend_from_slice(&head.keyword.to_le_bytes());
            }
            if head.pid != NO_ID {
                number(out, 10, u64::from(head.pid) + 1);
            }
            if head.tid != NO_ID {
                number(out, 11, u64::from(head.tid) + 1);
            }
            if head.cpu != NO_CPU {
                number(out, 12, u64::from(head.cpu) + 1);
            }
            if head.activity != [0; 16] {
                bytes(out, 13, &head.activity);
            }
            if head.related != [0; 16] {
                bytes(out, 14, &head.related);
            }
            if changes.is_empty() {
                fields(out, 15, event.fields());
            } else {
                edited(out, 15, event.fields(), changes, &mut 0);
            }
            let raw = event.raw();
            if !raw.is_empty() {
                match changes.at(Place::Raw) {
                    None => bytes(out, 16, raw),
                    Some(Change::Drop) => {}
                    Some(Change::Replace(text, _)) => bytes(out, 16, text.as_bytes()),
                }
            }
            number(out, 17, level.into().map_or(0, |l| u64::from(l as u8) + 1));
            ext(out, event.ext(), changes);
            number(out, 19, head.priv_tags);
            number(out, 20, u64::from(sample_ppm));
        });
    }

    fn schema(&mut self, schema: &Schema) -> u32 {
        if let Some(index) = self.schemas.get(&schema.id()) {
            return *index;
        }
        let index = u32::try_from(self.schemas.len()).unwrap_or(u32::MAX);
        self.schemas.insert(schema.id(), index);
        message(&mut self.out, 2, 2, |out| {
            text(out, 1, &schema.provider_name);
            if schema.provider_guid != [0; 16] {
                bytes(out, 2, &schema.provider_guid);
            }
            if let Some(group) = &schema.group_guid {
                bytes(out, 3, group);
            }
            text(out, 4, &schema.event_name);
            number(out, 5, u64::from(schema.event_tags));
            text(out, 6, &schema.task_name);
            text(out, 7, &schema.opcode_name);
            text(out, 8, &schema.message);
            number(out, 9, u64::from(schema.decoder as u8));
            for field in &schema.fields {
                message(out, 10, 1, |out| {
                    text(out, 1, &field.name);
                    number(out, 2, u64::from(field.tags));
                });
            }
        });
        index
    }
}

#[inline]
pub(crate) fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

#[inline]
fn key(out: &mut Vec<u8>, field: u32, wire: u32) {
    varint(out, u64::from(field << 3 | wire));
}

#[inline]
fn number(out: &mut Vec<u8>, field: u32, n: u64) {
    if n != 0 {
        key(out, field, VARINT);
        varint(out, n);
    }
}

#[inline]
fn bytes(out: &mut Vec<u8>, field: u32, data: &[u8]) {
    key(out, field, LEN);
    varint(out, data.len() as u64);
    out.extend_from_slice(data);
}

fn text(out: &mut Vec<u8>, field: u32, text: &str) {
    if !text.is_empty() {
        bytes(out, field, text.as_bytes());
    }
}

/// A nested message. Its length is not known before: `guess` bytes are kept for
/// it, and the body moves when the length takes another number of them.
#[inline]
fn message(out: &mut Vec<u8>, field: u32, guess: usize, body: impl FnOnce(&mut Vec<u8>)) {
    key(out, field, LEN);
    let at = out.len();
    out.extend_from_slice(&[0; 5][..guess]);
    let start = out.len();
    body(out);
    let end = out.len();
    let mut len = [0; 10];
    let (mut n, mut width) = ((end - start) as u64, 0);
    loop {
        len[width] = n as u8 & 0x7f | if n >= 0x80 { 0x80 } else { 0 };
        width += 1;
        n >>= 7;
        if n == 0 {
            break;
        }
    }
    if width > guess {
        out.extend_from_slice(&len[..width - guess]);
        out.copy_within(start..end, at + width);
    } else if width < guess {
        out.copy_within(start..end, at + width);
        out.truncate(at + width + end - start);
    }
    out[at..at + width].copy_from_slice(&len[..width]);
}

fn fields(out: &mut Vec<u8>, number: u32, list: Fields<'_>) {
    for field in list {
        message(out, number, 1, |out| {
            name_and_format(out, field.name_index, field.format as u8);
            match field.value {
                ValueRef::Struct(inner) => message(out, 24, 1, |out| fields(out, 1, inner)),
                ValueRef::Array(inner) => message(out, 25, 1, |out| fields(out, 1, inner)),
                scalar => value(out, scalar),
            }
            scrub(out, field.scrub);
        });
    }
}

fn edited<C: Changes + ?Sized>(
    out: &mut Vec<u8>,
    number: u32,
    list: Fields<'_>,
    changes: &C,
    next: &mut u32,
) {
    for field in list {
        let place = Place::Field(*next);
        *next = next.saturating_add(1);
        let inner = match field.value {
            ValueRef::Struct(inner) | ValueRef::Array(inner) => Some(inner),
            _ => None,
        };
        let change = changes.at(place);
        if let (Some(_), Some(inner)) = (change, inner) {
            *next = next.saturating_add(count(inner));
        }
        if change == Some(Change::Drop) {
            continue;
        }
        message(out, number, 1, |out| {
            name_and_format(out, field.name_index, field.format as u8);
            match (change, field.value) {
                (Some(Change::Replace(text, mark)), _) => {
                    bytes(out, 14, text.as_bytes());
                    return scrub(out, mark);
                }
                (_, ValueRef::Struct(inner)) => {
                    message(out, 24, 1, |out| edited(out, 1, inner, changes, next));
                }
                (_, ValueRef::Array(inner)) => {
                    message(out, 25, 1, |out| edited(out, 1, inner, changes, next));
                }
                (_, scalar) => value(out, scalar),
            }
            scrub(out, field.scrub);
        });
    }
}

/// Nodes below; depth is bounded by what a batch keeps.
fn count(list: Fields<'_>) -> u32 {
    list.fold(0u32, |n, f| {
        n.saturating_add(1).saturating_add(match f.value {
            ValueRef::Struct(inner) | ValueRef::Array(inner) => count(inner),
            _ => 0,
        })
    })
}

fn ext<C: Changes + ?Sized>(out: &mut Vec<u8>, items: ExtItems<'_>, changes: &C) {
    for (n, field) in (0..).zip(items.fields()) {
        let change = if changes.is_empty() { None } else { changes.at(Place::Ext(n)) };
        if change == Some(Change::Drop) {
            continue;
        }
        message(out, 18, 1, |out| {
            name_and_format(out, field.name_index, field.format as u8);
            match (change, field.value) {
                (Some(Change::Replace(text, mark)), _) => {
                    bytes(out, 14, text.as_bytes());
                    return scrub(out, mark);
                }
                (_, ValueRef::Struct(inner)) => message(out, 24, 1, |out| fields(out, 1, inner)),
                (_, ValueRef::Array(inner)) => message(out, 25, 1, |out| fields(out, 1, inner)),
                (_, scalar) => value(out, scalar),
            }
            scrub(out, field.scrub);
        });
    }
}

#[inline]
fn name_and_format(out: &mut Vec<u8>, name: u32, format: u8) {
    if name != NO_NAME {
        number(out, 1, u64::from(name) + 1);
    }
    number(out, 2, u64::from(format));
}

fn scrub(out: &mut Vec<u8>, mark: u16) {
    number(out, 28, u64::from(mark));
}

fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)).cast_unsigned()
}

/// A member of a oneof is written even when it is zero.
#[inline]
fn value(out: &mut Vec<u8>, value: ValueRef<'_>) {
    let plain = |out: &mut Vec<u8>, field, n| {
        key(out, field, VARINT);
        varint(out, n);
    };
    let wide = |out: &mut Vec<u8>, field, b: [u8; 8]| {
        key(out, field, I64);
        out.extend_from_slice(&b);
    };
    let narrow = |out: &mut Vec<u8>, field, b: [u8; 4]| {
        key(out, field, I32);
        out.extend_from_slice(&b);
    };
    match value {
        ValueRef::Null => plain(out, 26, 1),
        ValueRef::Bool(b) => plain(out, 3, u64::from(b)),
        ValueRef::I8(n) => plain(out, 4, zigzag(i64::from(n))),
        ValueRef::I16(n) => plain(out, 5, zigzag(i64::from(n))),
        ValueRef::I32(n) => plain(out, 6, zigzag(i64::from(n))),
        ValueRef::I64(n) => plain(out, 7, zigzag(n)),
        ValueRef::U8(n) => plain(out, 8, u64::from(n)),
        ValueRef::U16(n) => plain(out, 9, u64::from(n)),
        ValueRef::U32(n) => plain(out, 10, u64::from(n)),
        ValueRef::U64(n) => plain(out, 11, n),
        ValueRef::F32(n) => narrow(out, 12, n.to_le_bytes()),
        ValueRef::F64(n) => wide(out, 13, n.to_le_bytes()),
        ValueRef::Str(s) => bytes(out, 14, s.as_bytes()),
        ValueRef::Bytes(b) => bytes(out, 15, b),
        ValueRef::Guid(b) => bytes(out, 16, &b),
        ValueRef::FileTime(n) => wide(out, 17, n.to_le_bytes()),
        ValueRef::SystemTime(b) => bytes(out, 18, &b),
        ValueRef::Sid(b) => bytes(out, 19, b),
        ValueRef::Ipv4(b) => narrow(out, 20, u32::from_be_bytes(b).to_le_bytes()),
        ValueRef::Ipv6(b) => bytes(out, 21, &b),
        ValueRef::SockAddr(b) => bytes(out, 22, b),
        ValueRef::Pointer(n) => wide(out, 23, n.to_le_bytes()),
        ValueRef::Enum { value, label } => message(out, 27, 1, |out| {
            number(out, 1, zigzag(value));
            text(out, 2, label);
        }),
        // containers are written by the callers, which know their children's changes
        ValueRef::Struct(_) | ValueRef::Array(_) => {}
    }
}
