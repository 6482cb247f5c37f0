//! TRACE_EVENT_INFO and EVENT_MAP_INFO: what Windows tells about an event, and what merging
//! writes into a trace. Layouts: tdh.h, as read by perfview's RegisteredTraceEventParser.cs (MIT).

use super::plan::{MAX_DEPTH, ValueMap, Wire};
use super::tdh::{Amount, Builder, event_name};
use crate::bytes::{array, u8_at, u16_at, u32_at, utf16_text, utf16z};
use std::sync::Arc;
use tidegate_proto::schema::{Decoder, SchemaParts};
use tidegate_proto::value::Format;

/// Size of the fixed part.
const FIXED: usize = 112;
/// Size of a property.
const PROPERTY: usize = 24;

const STRUCT: u32 = 1;
const LENGTH_IS_FIELD: u32 = 2;
const COUNT_IS_FIELD: u32 = 4;
const FIXED_COUNT: u32 = 0x20;

/// What kind of event a TRACE_EVENT_INFO describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum InfoKey {
    /// Provider, id, version.
    Event([u8; 16], u16, u16),
    /// Class, type, version.
    Classic([u8; 16], u8, u16),
}

pub(crate) fn key(b: &[u8]) -> Option<InfoKey> {
    let source = u32_at(b, 48)?;
    let version = u16::from(u8_at(b, 34)?);
    Some(if source == 1 {
        InfoKey::Classic(array(b, 16)?, u8_at(b, 37)?, version)
    } else {
        InfoKey::Event(array(b, 0)?, u16_at(b, 32)?, version)
    })
}

/// Bytes of a name that are kept.
const MAX_NAME: usize = 1024;
/// Bytes of other texts that are kept.
const MAX_TEXT: usize = 16 << 10;

/// The name at an offset that stands at `at`.
fn name_at(b: &[u8], at: usize) -> String {
    let offset = u32_at(b, at).unwrap_or(0) as usize;
    if offset < FIXED { String::new() } else { bounded(b, offset, MAX_NAME) }
}

/// The text at an offset that stands at `at`; empty when there is none.
fn text(b: &[u8], at: usize) -> String {
    let offset = u32_at(b, at).unwrap_or(0) as usize;
    if offset < FIXED {
        return String::new();
    }
    bounded(b, offset, MAX_TEXT)
}

/// The text at an offset. It is cut at `most` bytes: many names may point at one long text.
fn bounded(b: &[u8], offset: usize, most: usize) -> String {
    let (text, _) = utf16z(b.get(offset..).unwrap_or_default());
    // Texts from message tables end in spaces and line ends.
    utf16_text(text.get(..most).unwrap_or(text)).trim_end().to_owned()
}

/// Compiles a TRACE_EVENT_INFO. `map` finds a value map by its name.
pub(crate) fn compile(
    b: &[u8],
    decoder: Decoder,
    map: &dyn Fn(&str) -> Option<Arc<ValueMap>>,
) -> Option<(SchemaParts, Builder)> {
    let properties = u32_at(b, 100)? as usize;
    let top = u32_at(b, 104)? as usize;
    if top > properties || b.len() < FIXED + properties.checked_mul(PROPERTY)? {
        return None;
    }
    let mut info = Info { b, map, build: Builder::default(), places: vec![None; properties] };
    info.run(0, top, 0)?;
    let opcode = text(b, 72);
    let opcode_name = opcode.strip_prefix("win:").unwrap_or(&opcode).to_owned();
    let task = text(b, 68);
    // The event's own name stands there for what has one (newer systems); of classic events
    // and of older systems it is the name of a field.
    let own = if u32_at(b, 48)? == 1 { String::new() } else { text(b, 92) };
    let parts = SchemaParts {
        provider_name: text(b, 52),
        provider_guid: array(b, 0)?,
        event_name: if own.is_empty() { event_name(&task, "", &opcode_name) } else { own },
        task_name: task,
        opcode_name,
        message: text(b, 76),
        decoder,
        ..SchemaParts::default()
    };
    Some((parts, info.build))
}

/// Names of the value maps that a TRACE_EVENT_INFO refers to.
pub(crate) fn map_names(b: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let properties = b.get(FIXED..).unwrap_or_default().as_chunks::<PROPERTY>().0;
    let count = u32_at(b, 100).unwrap_or(0) as usize;
    for p in properties.iter().take(count) {
        if u32_at(p, 0).is_some_and(|flags| flags & STRUCT == 0) && u32_at(p, 12).is_some_and(|o| o != 0) {
            let name = bounded(b, u32_at(p, 12).unwrap_or(0) as usize, MAX_NAME);
            if !name.is_empty() && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

struct Info<'a> {
    b: &'a [u8],
    map: &'a dyn Fn(&str) -> Option<Arc<ValueMap>>,
    build: Builder,
    /// The op of each property.
    places: Vec<Option<usize>>,
}

impl Info<'_> {
    fn run(&mut self, first: usize, n: usize, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        (first..first.checked_add(n)?).try_for_each(|at| self.property(at, depth))
    }

    fn property(&mut self, n: usize, depth: usize) -> Option<()> {
        let b = self.b;
        let p = b.get(FIXED + n.checked_mul(PROPERTY)?..)?.get(..PROPERTY)?;
        let flags = u32_at(p, 0)?;
        let name = name_at(b, FIXED + n * PROPERTY + 4);
        let (kind, detail) = (u16_at(p, 8)?, u16_at(p, 10)?);
        let (count, length) = (u16_at(p, 16)?, u16_at(p, 18)?);
        let field = |places: &[Option<usize>], n: u16| places.get(usize::from(n)).copied().flatten();
        let count = if flags & COUNT_IS_FIELD != 0 {
            Amount::Field(field(&self.places, count)?)
        } else if count > 1 || flags & FIXED_COUNT != 0 {
            Amount::Fixed(u32::from(count))
        } else {
            Amount::None
        };
        let at = if flags & STRUCT != 0 {
            let at = self.build.push(name, Wire::Struct, Format::Default)?;
            let count = self.build.count(count)?;
            self.run(usize::from(kind), usize::from(detail), depth + 1)?;
            let below = u16::try_from(self.build.ops.len() - at - 1).ok()?;
            let op = self.build.op(at)?;
            (op.count, op.below) = (count, below);
            at
        } else {
            let length = if flags & LENGTH_IS_FIELD != 0 {
                Amount::Field(field(&self.places, length)?)
            } else if length > 0 {
                Amount::Fixed(u32::from(length))
            } else {
                Amount::None
            };
            let at = self.build.item(name, (kind, detail), length, count)?;
            if u32_at(p, 12)? != 0 {
                let map = (self.map)(&name_at(b, FIXED + n * PROPERTY + 12));
                self.build.op(at)?.map = map;
            }
            at
        };
        *self.places.get_mut(n)? = Some(at);
        Some(())
    }
}

/// Reads an EVENT_MAP_INFO: its name and values.
pub(crate) fn map(b: &[u8]) -> Option<(String, ValueMap)> {
    let flags = u32_at(b, 4)?;
    let n = u32_at(b, 8)? as usize;
    let text_at =
        |offset: u32| if offset < 16 { String::new() } else { bounded(b, offset as usize, MAX_NAME) };
    let entries = b.get(16..)?.get(..n.checked_mul(8)?)?;
    let one = |e: &[u8; 8]| -> (u64, Arc<str>) {
        let [o0, o1, o2, o3, v0, v1, v2, v3] = *e;
        let label = text_at(u32::from_le_bytes([o0, o1, o2, o3]));
        (u64::from(u32::from_le_bytes([v0, v1, v2, v3])), label.into())
    };
    let map = ValueMap {
        entries: entries.as_chunks().0.iter().map(one).collect(),
        // EVENTMAP_INFO_FLAG_MANIFEST_BITMAP; the other kinds of map are lists.
        bits: flags & 2 != 0,
    };
    Some((text_at(u32_at(b, 0)?), map))
}
