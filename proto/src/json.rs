//! Events as JSON, one object each: the form of `inspect --events`, the
//! directory sink and the blobs.
//!
//! Times are RFC 3339 in UTC; GUIDs, SIDs and addresses text; binary base64;
//! numbers that their provider formats in base 16, keywords and pointers
//! `"0x…"`; a number with a name its name; what JSON has no number for text.
//! Of fields with one name the second gets `#2` after it, and so on.
//!
//! Lines that are to be read again say in a last member, [`types`], what JSON does not tell.

pub mod types;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::batch::{EventRef, Fields, NO_CPU, NO_ID};
use crate::ids::Seq;
use crate::value::{Format, ValueRef};
use crate::{guid, time};
use types::{Notes, Text, Unnoted};

/// Appends one event as one JSON object, without a line end. `seq`, its place
/// in the ring, is the first member if given.
///
/// This form is for reading; an event that is to come back is kept by [`write_line`].
pub fn write_event(out: &mut Vec<u8>, event: EventRef<'_>, seq: Option<Seq>) {
    write_with(out, event, seq, &mut Unnoted, &mut Unnoted);
    out.push(b'}');
}

/// As [`write_event`], with the types, tags and marks of all values, so that the `jsonl` source
/// makes the same event of it. What is not kept stands in [`types`].
pub fn write_line(out: &mut Vec<u8>, event: EventRef<'_>, seq: Option<Seq>) {
    let (mut fields, mut ext) = (Text::default(), Text::default());
    write_with(out, event, seq, &mut fields, &mut ext);
    if fields.needed || ext.needed {
        // of letters, digits and signs that JSON does not escape
        out.extend_from_slice(b",\"types\":\"");
        out.extend_from_slice(&fields.text);
        if ext.needed {
            out.push(b';');
            out.extend_from_slice(&ext.text);
        }
        out.push(b'"');
    }
    out.push(b'}');
}

/// All but the last brace.
fn write_with(
    out: &mut Vec<u8>,
    event: EventRef<'_>,
    seq: Option<Seq>,
    fields: &mut impl Notes,
    ext: &mut impl Notes,
) {
    let (head, schema) = (event.head(), event.schema());
    out.push(b'{');
    if let Some(seq) = seq {
        out.extend_from_slice(b"\"seq\":");
        unsigned(out, seq.0);
        out.push(b',');
    }
    out.extend_from_slice(b"\"time\":\"");
    time::write_rfc3339(out, head.time_ns);
    out.extend_from_slice(b"\"");
    let member = |out: &mut Vec<u8>, name: &str, value: &str| {
        if !value.is_empty() {
            key(out, name);
            string(out, value);
        }
    };
    member(out, "provider", &schema.provider_name);
    id(out, "guid", &schema.provider_guid);
    member(out, "event", &schema.event_name);
    let counted = |out: &mut Vec<u8>, name: &str, n: u32| {
        key(out, name);
        unsigned(out, u64::from(n));
    };
    counted(out, "id", head.id.into());
    counted(out, "version", head.version.into());
    counted(out, "level", head.level.into());
    key(out, "keyword");
    hex(out, head.keyword);
    counted(out, "opcode", head.opcode.into());
    member(out, "opcodeName", &schema.opcode_name);
    if head.task != 0 {
        counted(out, "task", head.task.into());
    }
    member(out, "taskName", &schema.task_name);
    if head.channel != 0 {
        counted(out, "channel", head.channel.into());
    }
    if head.pid != NO_ID {
        counted(out, "pid", head.pid);
    }
    if head.tid != NO_ID {
        counted(out, "tid", head.tid);
    }
    if head.cpu != NO_CPU {
        counted(out, "cpu", head.cpu.into());
    }
    id(out, "activity", &head.activity);
    id(out, "related", &head.related);
    if let Some(group) = &schema.group_guid {
        id(out, "group", group);
    }
    if schema.event_tags != 0 {
        counted(out, "tags", schema.event_tags);
    }
    if head.priv_tags != 0 {
        key(out, "privTags");
        hex(out, head.priv_tags);
    }
    if let Some(level) = head.telemetry_level {
        member(out, "telemetryLevel", level.as_str());
    }
    if head.sample_ppm != 0 {
        counted(out, "samplePpm", head.sample_ppm);
    }
    member(out, "message", &schema.message);
    member(out, "decoder", schema.decoder.as_str());
    key(out, "fields");
    members(out, event.fields(), fields);
    if !event.raw().is_empty() {
        key(out, "raw");
        binary(out, event.raw());
    }
    let items = event.ext().fields();
    if items.clone().next().is_some() {
        key(out, "ext");
        ext_members(out, items, ext);
    }
}

/// Appends the extended items of an event, as [`ExtItems::fields`](crate::batch::ExtItems::fields)
/// gives them, as one JSON object.
pub fn write_ext(out: &mut Vec<u8>, ext: Fields<'_>) {
    ext_members(out, ext, &mut Unnoted);
}

fn ext_members(out: &mut Vec<u8>, ext: Fields<'_>, notes: &mut impl Notes) {
    out.push(b'{');
    let mut names = Names::default();
    for (n, field) in ext.enumerate() {
        if n > 0 {
            out.push(b',');
        }
        let name = crate::batch::ExtKey::from_u32(field.name_index).map_or("other", |k| k.as_str());
        let numbered = names.write(out, name, field.name_index);
        noted(out, field.value, field.format, notes);
        notes.about(field.format, 0, field.scrub, numbered);
    }
    out.push(b'}');
}

/// Appends the members of an event or struct as one JSON object.
pub fn write_fields(out: &mut Vec<u8>, fields: Fields<'_>) {
    members(out, fields, &mut Unnoted);
}

fn members(out: &mut Vec<u8>, fields: Fields<'_>, notes: &mut impl Notes) {
    out.push(b'{');
    let mut names = Names::default();
    for (n, field) in fields.enumerate() {
        if n > 0 {
            out.push(b',');
        }
        let numbered = names.write(out, field.name.unwrap_or(""), field.name_index);
        noted(out, field.value, field.format, notes);
        notes.about(field.format, field.tags, field.scrub, numbered);
    }
    out.push(b'}');
}

/// Numbers the names that repeat in one object. Up to a handful of fields are
/// compared one by one, more by a table.
#[derive(Default)]
struct Names<'a> {
    few: Vec<&'a str>,
    many: HashMap<&'a str, u32>,
}

impl<'a> Names<'a> {
    const FEW: usize = 24;

    /// Whether the name got a number.
    fn write(&mut self, out: &mut Vec<u8>, name: &'a str, index: u32) -> bool {
        // a field without a name is called by its place
        let place;
        let nameless = name.is_empty();
        let text = if nameless {
            place = format!("field{index}");
            place.as_str()
        } else {
            name
        };
        out.push(b'"');
        escape(out, text);
        let earlier = if nameless { 0 } else { self.count(name) };
        if earlier > 0 {
            out.push(b'#');
            unsigned(out, u64::from(earlier) + 1);
        }
        out.extend_from_slice(b"\":");
        earlier > 0
    }

    fn count(&mut self, name: &'a str) -> u32 {
        if self.few.len() < Self::FEW {
            let earlier = self.few.iter().filter(|n| **n == name).count();
            self.few.push(name);
            return u32::try_from(earlier).unwrap_or(u32::MAX);
        }
        if self.many.is_empty() {
            for name in &self.few {
                *self.many.entry(name).or_default() += 1;
            }
        }
        let slot = self.many.entry(name).or_default();
        *slot += 1;
        *slot - 1
    }
}

/// Appends one value.
pub fn write_value(out: &mut Vec<u8>, value: ValueRef<'_>, format: Format) {
    noted(out, value, format, &mut Unnoted);
}

fn noted(out: &mut Vec<u8>, value: ValueRef<'_>, format: Format, notes: &mut impl Notes) {
    notes.value(value);
    match value {
        ValueRef::Null => out.extend_from_slice(b"null"),
        ValueRef::Bool(b) => out.extend_from_slice(if b { b"true" } else { b"false" }),
        ValueRef::I8(n) => signed(out, i64::from(n), u64::from(n.cast_unsigned()), format),
        ValueRef::I16(n) => signed(out, i64::from(n), u64::from(n.cast_unsigned()), format),
        ValueRef::I32(n) => signed(out, i64::from(n), u64::from(n.cast_unsigned()), format),
        ValueRef::I64(n) => signed(out, n, n.cast_unsigned(), format),
        ValueRef::U8(n) => number(out, u64::from(n), format),
        ValueRef::U16(n) => number(out, u64::from(n), format),
        ValueRef::U32(n) => number(out, u64::from(n), format),
        ValueRef::U64(n) => number(out, n, format),
        ValueRef::F32(n) => float(out, n.is_finite(), ryu::Buffer::new().format(n)),
        ValueRef::F64(n) => float(out, n.is_finite(), ryu::Buffer::new().format(n)),
        ValueRef::Str(s) => string(out, s),
        ValueRef::Bytes(b) => binary(out, b),
        ValueRef::Guid(g) => quoted(out, |out| guid::write(out, &g)),
        ValueRef::FileTime(n) => quoted(out, |out| time::write_rfc3339(out, time::filetime_to_unix_ns(n))),
        ValueRef::SystemTime(b) => quoted(out, |out| system_time(out, &b)),
        ValueRef::Sid(b) => match sid(b) {
            Some(text) => string(out, &text),
            None => binary(out, b),
        },
        ValueRef::Ipv4(b) => string(out, &Ipv4Addr::from(b).to_string()),
        ValueRef::Ipv6(b) => string(out, &Ipv6Addr::from(b).to_string()),
        ValueRef::SockAddr(b) => match sock_addr(b) {
            Some(a) => string(out, &a.to_string()),
            None => binary(out, b),
        },
        ValueRef::Pointer(n) => hex(out, n),
        ValueRef::Enum { value, label: "" } => signed(out, value, value.cast_unsigned(), format),
        ValueRef::Enum { label, .. } => string(out, label),
        ValueRef::Struct(inner) => {
            notes.open(b'{');
            members(out, inner, notes);
            notes.close(b'}');
        }
        ValueRef::Array(inner) => {
            out.push(b'[');
            let mut items = notes.open(b'[');
            for (n, item) in inner.enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                noted(out, item.value, item.format, notes);
                notes.about(item.format, 0, item.scrub, false);
                notes.item(&mut items);
            }
            notes.close(b']');
            out.push(b']');
        }
    }
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn id(out: &mut Vec<u8>, name: &str, value: &[u8; 16]) {
    if *value != [0; 16] {
        key(out, name);
        quoted(out, |out| guid::write(out, value));
    }
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

fn unsigned(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

fn hex(out: &mut Vec<u8>, n: u64) {
    use std::io::Write as _;
    // writing to a vector does not fail
    let _ = write!(out, "\"0x{n:x}\"");
}

fn number(out: &mut Vec<u8>, n: u64, format: Format) {
    if format.is_hex() { hex(out, n) } else { unsigned(out, n) }
}

/// `bits` is the number in its own width.
fn signed(out: &mut Vec<u8>, n: i64, bits: u64, format: Format) {
    if format.is_hex() {
        return hex(out, bits);
    }
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

fn float(out: &mut Vec<u8>, finite: bool, text: &str) {
    if finite { out.extend_from_slice(text.as_bytes()) } else { string(out, text) }
}

fn binary(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let at = out.len();
    out.resize(at + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[at..]).unwrap_or(0);
    out.truncate(at + written);
    out.push(b'"');
}

/// Appends text in quotes.
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escape(out, text);
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut done = 0;
    for (at, b) in bytes.iter().enumerate() {
        if *b >= 0x20 && *b != b'"' && *b != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[done..at]);
        done = at + 1;
        match b {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *b]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
            }
        }
    }
    out.extend_from_slice(&bytes[done..]);
}

fn system_time(out: &mut Vec<u8>, b: &[u8; 16]) {
    use std::io::Write as _;
    let unit = |n: usize| u16::from_le_bytes([b[2 * n], b[2 * n + 1]]);
    let (year, month, day) = (unit(0), unit(1), unit(3));
    let (hour, minute, second, ms) = (unit(4), unit(5), unit(6), unit(7));
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z");
}

/// `S-1-…` of a binary SID; `None` when the bytes are none.
#[must_use]
pub fn sid(bytes: &[u8]) -> Option<String> {
    use std::fmt::Write as _;
    let (&[revision, count, a, b, c, d, e, f], rest) = bytes.split_first_chunk::<8>()?;
    let (subs, odd) = rest.as_chunks::<4>();
    if subs.len() != usize::from(count) || !odd.is_empty() {
        return None;
    }
    let authority = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    let mut text = format!("S-{revision}-{authority}");
    for sub in subs {
        let _ = write!(text, "-{}", u32::from_le_bytes(*sub));
    }
    Some(text)
}

/// The address in a `sockaddr` of IPv4 or IPv6 as Windows (23) or Linux (10) number it.
#[must_use]
pub fn sock_addr(bytes: &[u8]) -> Option<SocketAddr> {
    let (&[family, high, p1, p2], rest) = bytes.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([p1, p2]);
    match (family, high) {
        (2, 0) => Some((Ipv4Addr::from(*rest.first_chunk::<4>()?), port).into()),
        (23 | 10, 0) => Some((Ipv6Addr::from(*rest.get(4..)?.first_chunk::<16>()?), port).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
