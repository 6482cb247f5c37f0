//! One event as one line of Common Schema 4.0 JSON.
//!
//! | Common Schema | from |
//! |---|---|
//! | `name` | provider and event name, see [`super::names`] |
//! | `time` | time, cut to 100 ns |
//! | `iKey` | the tenant's public key |
//! | `flags` | event tags, latency rule, class of the telemetry level |
//! | `ext.utc` | `epoch` and `seq` (the event's id), `aId`, `raId`, `op`, `cat` = keyword, `eventFlags`, `providerGuid` |
//! | `ext.sdk` | `ver`, and the id again where other clients put it |
//! | `ext.device.localId` | `c:` and the configured host name |
//! | `ext.metadata` | privacy tags; types and kinds of personal data, shaped like `data` |
//! | `data.baseType`, `data.baseData` | [`BASE_TYPE`]: the rest of the ETW header, extended items, raw payload |
//! | other members of `data` | the payload's fields |
//!
//! Values that are null are left out; numbers that are none are `null`; binary is
//! base64; addresses and security identifiers are marked as personal data. An array
//! that holds personal data becomes text (its JSON), as only text can be marked.

use tidegate_proto::batch::{EventRef, ExtKey, Fields, NO_CPU, NO_ID};
use tidegate_proto::ids::Seq;
use tidegate_proto::json;
use tidegate_proto::schema::SchemaParts;
use tidegate_proto::value::{Format, ValueRef};
use tidegate_proto::{guid, time};

use super::mapping::{Mapping, Plan};
use super::pii::{PiiKind, types};

/// The Part B type of every event.
pub const BASE_TYPE: &str = "Tidegate.Event";
/// The version of the schema.
pub const VERSION: &str = "4.0";
/// What `ext.sdk.ver` and the `SDK-Version` header say.
pub const SDK_VERSION: &str = concat!("Tidegate-Rust-", env!("CARGO_PKG_VERSION"));

/// Members with names that repeat are found by comparing up to so many, then by a table.
const FEW: usize = 32;

/// Writes lines; its buffers are kept between events.
#[derive(Debug, Default)]
pub(super) struct Lines {
    data: Vec<u8>,
    meta: Vec<u8>,
    text: Vec<u8>,
    names: Vec<u32>,
}

/// The event's id: the ring's life and its place in there, both as the far side gets them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Id<'a> {
    pub epoch: &'a str,
    pub seq: Seq,
    pub host: &'a str,
}

impl Lines {
    /// Appends one event without a line end.
    pub fn write(
        &mut self,
        out: &mut Vec<u8>,
        mapping: &Mapping,
        plan: &Plan,
        event: EventRef<'_>,
        id: Id<'_>,
    ) {
        let (head, schema) = (event.head(), event.schema());
        self.data.clear();
        self.meta.clear();
        let mut priv_tags = head.priv_tags;
        self.payload(plan, event, &mut priv_tags);

        text_member(out, b'{', "name", &plan.name);
        out.extend_from_slice(b",\"time\":\"");
        time::write_rfc3339(out, head.time_ns - head.time_ns.rem_euclid(100));
        out.extend_from_slice(b"\",\"ver\":\"");
        out.extend_from_slice(VERSION.as_bytes());
        out.extend_from_slice(b"\",\"iKey\":\"o:");
        let key = mapping.tenants.get(plan.tenant).map(|t| t.key()).unwrap_or_default();
        out.extend_from_slice(key.as_bytes());
        out.push(b'"');
        if head.sample_ppm != 0 {
            // the far side weighs by it: percent, as the schema has it
            name(out, "popSample");
            out.extend_from_slice((f64::from(head.sample_ppm) / 10_000.0).to_string().as_bytes());
        }
        let flags = plan.flags(mapping, schema, head.telemetry_level);
        number_member(out, "flags", i64::from(flags));

        out.extend_from_slice(b",\"ext\":{\"sdk\":");
        text_member(out, b'{', "ver", SDK_VERSION);
        text_member(out, b',', "epoch", id.epoch);
        number_member(out, "seq", id.seq.0.cast_signed());
        out.extend_from_slice(b"},\"utc\":");
        text_member(out, b'{', "epoch", id.epoch);
        number_member(out, "seq", id.seq.0.cast_signed());
        number_member(out, "cat", head.keyword.cast_signed());
        // persistence and latency, as in the envelope's flags
        number_member(out, "eventFlags", i64::from(flags & 0xffff));
        text_member(out, b',', "op", itoa::Buffer::new().format(head.opcode));
        guid_member(out, "aId", &head.activity);
        guid_member(out, "raId", &head.related);
        guid_member(out, "providerGuid", &schema.provider_guid);
        out.push(b'}');
        if mapping.host {
            out.extend_from_slice(b",\"device\":{\"localId\":\"c:");
            // a host name has no character that JSON escapes
            out.extend(id.host.bytes().filter(|b| b.is_ascii_alphanumeric() || b"._-".contains(b)));
            out.extend_from_slice(b"\"}");
        }
        if priv_tags != 0 || !self.meta.is_empty() {
            out.extend_from_slice(b",\"metadata\":{");
            if priv_tags != 0 {
                out.extend_from_slice(b"\"privTags\":");
                out.extend_from_slice(itoa::Buffer::new().format(priv_tags).as_bytes());
            }
            if !self.meta.is_empty() {
                name(out, "f");
                out.push(b'{');
                out.extend_from_slice(&self.meta);
                out.push(b'}');
            }
            out.push(b'}');
        }
        out.extend_from_slice(b"},\"data\":");
        out.extend_from_slice(&self.data);
        out.push(b'}');
    }

    fn payload(&mut self, plan: &Plan, event: EventRef<'_>, priv_tags: &mut u64) {
        self.data.push(b'{');
        name(&mut self.data, "baseType");
        json::string(&mut self.data, BASE_TYPE);
        let mark = self.open("baseData");
        self.base(event);
        self.close(mark);
        self.members(plan, event.fields(), Some(priv_tags));
        self.data.push(b'}');
    }

    /// Starts an object in the data and its shape in the metadata.
    fn open(&mut self, member: &str) -> (usize, usize) {
        let before = self.meta.len();
        name(&mut self.data, member);
        self.data.push(b'{');
        name(&mut self.meta, member);
        self.meta.extend_from_slice(b"{\"f\":{");
        (before, self.meta.len())
    }

    /// Ends the object; without a typed member below it the metadata is as before.
    fn close(&mut self, (before, start): (usize, usize)) {
        self.data.push(b'}');
        if self.meta.len() == start {
            self.meta.truncate(before);
        } else {
            self.meta.extend_from_slice(b"}}");
        }
    }

    fn base(&mut self, event: EventRef<'_>) {
        let (head, schema): (_, &SchemaParts) = (event.head(), event.schema());
        self.base_text("provider", &schema.provider_name);
        self.base_text("event", &schema.event_name);
        self.base_value("eventId", ValueRef::U16(head.id));
        self.base_value("eventVersion", ValueRef::U8(head.version));
        self.base_value("level", ValueRef::U8(head.level));
        self.base_value("keyword", ValueRef::U64(head.keyword));
        self.base_text("opcodeName", &schema.opcode_name);
        if head.task != 0 {
            self.base_value("task", ValueRef::U16(head.task));
        }
        self.base_text("taskName", &schema.task_name);
        if head.channel != 0 {
            self.base_value("channel", ValueRef::U8(head.channel));
        }
        if head.pid != NO_ID {
            self.base_value("pid", ValueRef::U32(head.pid));
        }
        if head.tid != NO_ID {
            self.base_value("tid", ValueRef::U32(head.tid));
        }
        if head.cpu != NO_CPU {
            self.base_value("cpu", ValueRef::U16(head.cpu));
        }
        if let Some(group) = schema.group_guid {
            self.base_value("group", ValueRef::Guid(group));
        }
        if schema.event_tags != 0 {
            self.base_value("tags", ValueRef::U32(schema.event_tags));
        }
        if let Some(level) = head.telemetry_level {
            self.base_text("telemetryLevel", level.as_str());
        }
        self.base_text("decoder", schema.decoder.as_str());
        if !event.raw().is_empty() {
            self.base_value("raw", ValueRef::Bytes(event.raw()));
        }
        if event.ext().next().is_some() {
            let mark = self.open("ext");
            let mut seen = [0_u32; ExtKey::ALL.len()];
            for field in event.ext().fields() {
                let key = ExtKey::from_u32(field.name_index).unwrap_or(ExtKey::Other);
                let Some(nth) = seen.get_mut(usize::from(key as u8)) else { continue };
                *nth += 1;
                let pii = PiiKind::of_scrub(field.scrub);
                if *nth == 1 {
                    self.member(None, key.as_str(), field.value, pii);
                } else {
                    self.member(None, &format!("{}_{nth}", key.as_str()), field.value, pii);
                }
            }
            self.close(mark);
        }
    }

    fn base_text(&mut self, member: &str, text: &str) {
        if !text.is_empty() {
            name(&mut self.data, member);
            json::string(&mut self.data, text);
        }
    }

    fn base_value(&mut self, member: &str, value: ValueRef<'_>) {
        self.member(None, member, value, None);
    }

    /// Writes an object's members. `top` is given for those of the event itself.
    fn members(&mut self, plan: &Plan, fields: Fields<'_>, mut top: Option<&mut u64>) {
        let from = self.names.len();
        let mut many = std::collections::HashMap::new();
        for (place, field) in fields.enumerate() {
            let known = usize::try_from(field.name_index).ok().and_then(|n| plan.fields.get(n));
            let (text, name_id, pii) = match known {
                Some(f) if f.is_priv_tags && top.is_some() => {
                    let tags = match field.value {
                        ValueRef::U64(n) => n,
                        ValueRef::I64(n) => n.cast_unsigned(),
                        ValueRef::U32(n) => n.into(),
                        ValueRef::Str(text) => text.parse().unwrap_or(0),
                        _ => 0,
                    };
                    if let Some(priv_tags) = top.as_deref_mut() {
                        *priv_tags |= tags;
                    }
                    continue;
                }
                Some(f) => (std::borrow::Cow::Borrowed(&*f.name), f.name_id, f.pii),
                // no schema names it: only in blocks that we did not write
                None => (format!("field{place}").into(), u32::MAX, None),
            };
            let earlier = if self.names.len() - from < FEW {
                let earlier = self.names.iter().skip(from).filter(|n| **n == name_id).count();
                u32::try_from(earlier).unwrap_or(u32::MAX)
            } else {
                if many.is_empty() {
                    for id in self.names.iter().skip(from) {
                        *many.entry(*id).or_insert(0_u32) += 1;
                    }
                }
                let count = many.entry(name_id).or_insert(0);
                *count += 1;
                *count - 1
            };
            if self.names.len() - from < FEW {
                self.names.push(name_id);
            }
            // Part B has these two names
            let reserved = top.is_some() && matches!(&*text, "baseType" | "baseData");
            let nth = earlier.saturating_add(1 + u32::from(reserved));
            let pii = pii.or(PiiKind::of_scrub(field.scrub));
            if nth == 1 {
                self.member(Some(plan), &text, field.value, pii);
            } else {
                self.member(Some(plan), &plan.numbered(&text, nth), field.value, pii);
            }
        }
        self.names.truncate(from);
    }

    fn member(&mut self, plan: Option<&Plan>, member: &str, value: ValueRef<'_>, pii: Option<PiiKind>) {
        let pii = pii.or_else(|| personal(plan, value));
        match (value, pii) {
            (ValueRef::Null, _) => {}
            (ValueRef::Struct(inner), None) => {
                let mark = self.open(member);
                if let Some(plan) = plan {
                    self.members(plan, inner, None);
                }
                self.close(mark);
            }
            (ValueRef::Array(inner), None) => {
                name(&mut self.data, member);
                self.array(plan, inner);
                let mut kinds = inner.map(|item| type_of(item.value));
                let first = kinds.next().unwrap_or(0);
                if first != 0 && kinds.all(|t| t == first) {
                    name(&mut self.meta, member);
                    self.meta.extend_from_slice(b"{\"a\":");
                    typed(&mut self.meta, first);
                    self.meta.push(b'}');
                }
            }
            (value, Some(kind)) => {
                name(&mut self.data, member);
                self.as_text(plan, value);
                name(&mut self.meta, member);
                let value_type = match type_of(value) {
                    0 => types::STRING,
                    t => t,
                };
                typed(&mut self.meta, kind.with_type(value_type));
            }
            (value, None) => {
                name(&mut self.data, member);
                scalar(&mut self.data, value);
                let value_type = type_of(value);
                if value_type != 0 {
                    name(&mut self.meta, member);
                    typed(&mut self.meta, value_type);
                }
            }
        }
    }

    /// Items have no metadata of their own.
    fn array(&mut self, plan: Option<&Plan>, items: Fields<'_>) {
        self.data.push(b'[');
        for item in items {
            if self.data.last() != Some(&b'[') {
                self.data.push(b',');
            }
            match item.value {
                ValueRef::Array(inner) => self.array(plan, inner),
                ValueRef::Struct(inner) => self.plain_struct(plan, inner),
                value => scalar(&mut self.data, value),
            }
        }
        self.data.push(b']');
    }

    /// A struct whose members have no metadata of their own.
    fn plain_struct(&mut self, plan: Option<&Plan>, inner: Fields<'_>) {
        let meta = self.meta.len();
        self.data.push(b'{');
        if let Some(plan) = plan {
            self.members(plan, inner, None);
        }
        self.data.push(b'}');
        self.meta.truncate(meta);
    }

    /// Any value as a JSON string: text and what is written as text as it is, all else as its JSON.
    fn as_text(&mut self, plan: Option<&Plan>, value: ValueRef<'_>) {
        let start = self.data.len();
        match value {
            // what is in there is text as a whole
            ValueRef::Struct(inner) => self.plain_struct(plan, inner),
            ValueRef::Array(inner) => {
                let meta = self.meta.len();
                self.array(plan, inner);
                self.meta.truncate(meta);
            }
            value => scalar(&mut self.data, value),
        }
        if self.data.get(start) == Some(&b'"') {
            return;
        }
        self.text.clear();
        self.text.extend(self.data.drain(start..));
        json::string(&mut self.data, &String::from_utf8_lossy(&self.text));
    }
}

/// What personal data a value is by its type, or holds somewhere inside an array.
fn personal(plan: Option<&Plan>, value: ValueRef<'_>) -> Option<PiiKind> {
    match value {
        ValueRef::Sid(_) => Some(PiiKind::Identity),
        ValueRef::Ipv4(_) => Some(PiiKind::Ipv4),
        ValueRef::Ipv6(_) => Some(PiiKind::Ipv6),
        ValueRef::SockAddr(bytes) => Some(match json::sock_addr(bytes) {
            Some(a) if a.is_ipv4() => PiiKind::Ipv4,
            Some(_) => PiiKind::Ipv6,
            None => PiiKind::GenericData,
        }),
        ValueRef::Array(items) => inside(plan, items),
        _ => None,
    }
}

fn inside(plan: Option<&Plan>, items: Fields<'_>) -> Option<PiiKind> {
    let mut found = None;
    for item in items {
        let field = usize::try_from(item.name_index).ok().zip(plan).and_then(|(n, p)| p.fields.get(n));
        let kind = field.and_then(|f| f.pii).or(PiiKind::of_scrub(item.scrub)).or(match item.value {
            ValueRef::Struct(inner) => inside(plan, inner),
            value => personal(plan, value),
        });
        match (found, kind) {
            (None, kind) => found = kind,
            (Some(a), Some(b)) if a != b => return Some(PiiKind::GenericData),
            _ => {}
        }
    }
    found
}

/// The Common Schema type of a value; 0 where JSON tells it.
fn type_of(value: ValueRef<'_>) -> u16 {
    match value {
        ValueRef::I8(_) | ValueRef::I16(_) | ValueRef::I32(_) | ValueRef::U8(_) | ValueRef::U16(_) => {
            types::INT32
        }
        ValueRef::U32(_) => types::UINT32,
        ValueRef::I64(_) | ValueRef::Enum { label: "", .. } => types::INT64,
        ValueRef::U64(_) | ValueRef::Pointer(_) => types::UINT64,
        ValueRef::F32(_) | ValueRef::F64(_) => types::DOUBLE,
        ValueRef::Guid(_) => types::GUID,
        ValueRef::FileTime(_) => types::DATE,
        // the structure can hold what is no date
        ValueRef::SystemTime(_) => {
            let mut text = Vec::new();
            scalar(&mut text, value);
            let date =
                std::str::from_utf8(&text).is_ok_and(|t| time::parse_rfc3339(t.trim_matches('"')).is_some());
            if date { types::DATE } else { 0 }
        }
        _ => 0,
    }
}

fn scalar(out: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        // as all clients of the protocol write them
        ValueRef::F32(n) if !n.is_finite() => out.extend_from_slice(b"null"),
        ValueRef::F64(n) if !n.is_finite() => out.extend_from_slice(b"null"),
        ValueRef::Pointer(n) => json::write_value(out, ValueRef::U64(n), Format::Default),
        value => json::write_value(out, value, Format::Default),
    }
}

/// A member's name, after a comma where one is needed.
fn name(out: &mut Vec<u8>, member: &str) {
    if !matches!(out.last(), None | Some(b'{')) {
        out.push(b',');
    }
    json::string(out, member);
    out.push(b':');
}

fn typed(out: &mut Vec<u8>, number: u16) {
    out.extend_from_slice(b"{\"t\":");
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.push(b'}');
}

fn text_member(out: &mut Vec<u8>, before: u8, member: &str, text: &str) {
    out.push(before);
    json::string(out, member);
    out.push(b':');
    json::string(out, text);
}

fn number_member(out: &mut Vec<u8>, member: &str, n: i64) {
    name(out, member);
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

fn guid_member(out: &mut Vec<u8>, member: &str, id: &[u8; 16]) {
    if *id != [0; 16] {
        name(out, member);
        out.push(b'"');
        guid::write(out, id);
        out.push(b'"');
    }
}
