//! TraceLogging: the schema that travels with each event, and the traits of its provider.
//! Source: the comments of TraceLoggingDynamic.h (microsoft/tracelogging, MIT).

use super::plan::{Count, Len, MAX_DEPTH, MAX_OPS, Op, Wire};
use crate::bytes::{array, u16_at};
use std::ffi::CStr;
use tidegate_proto::schema::{Decoder, FieldDef, SchemaParts};
use tidegate_proto::value::Format;

/// What the traits of a provider say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traits {
    pub(crate) name: String,
    pub(crate) group: Option<[u8; 16]>,
}

/// Reads provider traits: total size, name, then sized traits. A damaged trait ends them.
pub(crate) fn traits(b: &[u8]) -> Option<Traits> {
    let size = usize::from(u16_at(b, 0)?);
    let mut rest = b.get(2..size.min(b.len()))?;
    let mut traits = Traits { name: take_name(&mut rest)?, group: None };
    while let Some(size) = u16_at(rest, 0).map(usize::from).filter(|n| *n >= 3) {
        let Some((one, after)) = rest.split_at_checked(size) else { break };
        if one.get(2) == Some(&1) {
            traits.group = array(one, 3);
        }
        rest = after;
    }
    Some(traits)
}

/// An event's schema.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) tags: u32,
    pub(crate) fields: Vec<FieldDef>,
    pub(crate) ops: Vec<Op>,
}

/// Reads an event's schema; `None` when it is damaged or beyond our bounds.
pub(crate) fn metadata(b: &[u8]) -> Option<Metadata> {
    let size = usize::from(u16_at(b, 0)?);
    let mut rest = b.get(2..size)?;
    let tags = take_tags(&mut rest)?;
    let name = take_name(&mut rest)?;
    let mut meta = Metadata { name, tags, ..Metadata::default() };
    while !rest.is_empty() {
        field(&mut rest, &mut meta, 0)?;
    }
    Some(meta)
}

/// The schema as the decoder keeps it.
pub(crate) fn compiled(meta: Metadata) -> (SchemaParts, Vec<Op>) {
    let parts = SchemaParts {
        event_name: meta.name,
        event_tags: meta.tags,
        fields: meta.fields,
        decoder: Decoder::TraceLogging,
        ..SchemaParts::default()
    };
    (parts, meta.ops)
}

/// Reads one field with all below it.
fn field(rest: &mut &[u8], meta: &mut Metadata, depth: usize) -> Option<()> {
    if meta.ops.len() >= MAX_OPS || depth > MAX_DEPTH {
        return None;
    }
    let name = take_name(rest)?;
    let kind = take_u8(rest)?;
    let (mut out, mut tags) = (0, 0);
    if kind & 0x80 != 0 {
        out = take_u8(rest)?;
        if out & 0x80 != 0 {
            tags = take_tags(rest)?;
        }
    }
    out &= 0x7F;
    let mut custom = false;
    let count = match kind & 0x60 {
        0x20 => Count::Fixed(take_u16(rest)?),
        0x40 => Count::Prefix16,
        0x60 => {
            // A serialisation of the provider's own: its schema is opaque, its payload counted bytes.
            let len = usize::from(take_u16(rest)?);
            *rest = rest.get(len..)?;
            custom = true;
            Count::One
        }
        _ => Count::One,
    };
    let (wire, len, format) =
        if custom { (Wire::Binary, Len::Prefix16, Format::Default) } else { item(kind & 0x1F, out)? };
    let mut op = Op::new(u32::try_from(meta.fields.len()).ok()?, wire, format);
    (op.count, op.len) = (count, len);
    let at = meta.ops.len();
    meta.fields.push(FieldDef { name, tags });
    meta.ops.push(op);
    if wire == Wire::Struct {
        for _ in 0..out {
            field(rest, meta, depth + 1)?;
        }
        let below = meta.ops.len() - at - 1;
        meta.ops.get_mut(at)?.below = u16::try_from(below).ok()?;
    }
    Some(())
}

/// Wire form and format of an item by its in and out type.
fn item(kind: u8, out: u8) -> Option<(Wire, Len, Format)> {
    let mut format = format(out);
    let utf8 = matches!(out, 11 | 12 | 35);
    let text = if utf8 { Wire::Utf8 } else { Wire::Cp1252 };
    let boolean = out == 3;
    let binary = match out {
        9 => Wire::BinaryIpv6,
        10 => Wire::SockAddr,
        _ => Wire::Binary,
    };
    let (wire, len) = match kind {
        // A field without a value.
        0 => (Wire::Skip, Len::Fixed(0)),
        1 => (Wire::Utf16, Len::Nul),
        2 => (text, Len::Nul),
        3 if boolean => (Wire::Bool8, Len::Nul),
        3 => (Wire::I8, Len::Nul),
        4 if boolean => (Wire::Bool8, Len::Nul),
        4 => (Wire::U8, Len::Nul),
        5 => (Wire::I16, Len::Nul),
        6 if out == 7 => (Wire::Port, Len::Nul),
        6 => (Wire::U16, Len::Nul),
        7 if boolean => (Wire::Bool32, Len::Nul),
        7 => (Wire::I32, Len::Nul),
        8 if boolean => (Wire::Bool32, Len::Nul),
        8 if out == 8 => (Wire::Ipv4, Len::Nul),
        8 => (Wire::U32, Len::Nul),
        9 => (Wire::I64, Len::Nul),
        10 => (Wire::U64, Len::Nul),
        11 => (Wire::F32, Len::Nul),
        12 => (Wire::F64, Len::Nul),
        13 => (Wire::Bool32, Len::Nul),
        14 | 25 => (binary, Len::Prefix16),
        15 => (Wire::Guid, Len::Nul),
        16 => (Wire::Pointer, Len::Nul),
        17 => (Wire::FileTime, Len::Nul),
        18 => (Wire::SystemTime, Len::Nul),
        19 => (Wire::Sid, Len::Nul),
        20 => (Wire::U32, Len::Nul),
        21 => (Wire::U64, Len::Nul),
        22 => (Wire::Utf16, Len::Prefix16),
        23 => (text, Len::Prefix16),
        24 => return Some((Wire::Struct, Len::Nul, Format::Default)),
        _ => return None,
    };
    if matches!(kind, 20 | 21) && format == Format::Default {
        format = Format::Hex;
    }
    Some((wire, len, format))
}

fn format(out: u8) -> Format {
    match out {
        1 => Format::NoPrint,
        2 => Format::Char,
        3 => Format::Boolean,
        4 => Format::Hex,
        5 => Format::Pid,
        6 => Format::Tid,
        7 => Format::Port,
        8 => Format::Ipv4,
        9 => Format::Ipv6,
        10 => Format::SockAddr,
        11 => Format::Xml,
        12 => Format::Json,
        13 => Format::Win32Error,
        14 => Format::NtStatus,
        15 => Format::HResult,
        16 | 33 => Format::DateTime,
        17 => Format::Signed,
        18 => Format::Unsigned,
        35 => Format::Utf8,
        36 => Format::Pkcs7,
        37 => Format::CodePointer,
        38 => Format::DateTimeUtc,
        _ => Format::Default,
    }
}

fn take_u8(rest: &mut &[u8]) -> Option<u8> {
    let (n, after) = rest.split_first()?;
    *rest = after;
    Some(*n)
}

fn take_u16(rest: &mut &[u8]) -> Option<u16> {
    let (n, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u16::from_le_bytes(*n))
}

/// A name up to its NUL.
fn take_name(rest: &mut &[u8]) -> Option<String> {
    let name = CStr::from_bytes_until_nul(rest).ok()?;
    *rest = rest.get(name.count_bytes() + 1..)?;
    Some(name.to_string_lossy().into_owned())
}

/// Tags: seven bits a byte, the most significant first, on while bit 7 is set. Up to four bytes
/// carry bits; an encoder that pads with more is followed, its further bits are not kept.
fn take_tags(rest: &mut &[u8]) -> Option<u32> {
    let (mut tags, mut shift) = (0, 28);
    loop {
        let b = take_u8(rest)?;
        if shift > 0 {
            shift -= 7;
            tags |= u32::from(b & 0x7F) << shift;
        }
        if b & 0x80 == 0 {
            return Some(tags);
        }
    }
}
