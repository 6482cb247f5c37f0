//! A batch as one OTLP request.
//!
//! | OTLP | from |
//! |---|---|
//! | resource `service.name`, `host.name` | the stream's name, the configured host name |
//! | resource `tidegate.epoch` | which life of the ring the sequence numbers belong to |
//! | scope name | provider name, or its GUID |
//! | scope `etw.provider.guid` | provider GUID |
//! | `event_name` | event name, or task and opcode names |
//! | `time`, `observed_time` | time |
//! | `severity_number`, `severity_text` | ETW level |
//! | `body` | the payload's fields as a map |
//! | attributes `tidegate.seq`, `tidegate.level` | place in the ring, telemetry level |
//! | attributes `process.pid`, `thread.id` | process and thread |
//! | attributes `etw.…` | the rest of the header, extended items, raw payload |
//!
//! Numbers beyond 63 bits are text, so are times, GUIDs, addresses and identifiers.
//! The same batch makes the same bytes.

use std::collections::HashMap;

use tidegate_proto::batch::{EventRef, ExtKey, Fields, NO_CPU, NO_ID};
use tidegate_proto::ids::Seq;
use tidegate_proto::schema::SchemaParts;
use tidegate_proto::value::{Format, ValueRef};
use tidegate_proto::{guid, json};

use super::messages::{
    AnyValue, ArrayValue, ExportRequest, KeyValue, KeyValueList, LogRecord, Resource, ResourceLogs, Scope,
    ScopeLogs, Value,
};
use crate::SinkBatch;

/// The request of a batch: one resource, a scope for each provider in the order of their first events.
pub(super) fn request(batch: &SinkBatch) -> ExportRequest {
    let origin = batch.origin();
    let mut scopes: Vec<ScopeLogs> = Vec::new();
    let mut places: HashMap<(&str, &[u8; 16]), usize> = HashMap::new();
    for (seq, event) in batch.iter() {
        let schema: &SchemaParts = event.schema();
        let key = (schema.provider_name.as_str(), &schema.provider_guid);
        let place = *places.entry(key).or_insert_with(|| {
            scopes.push(ScopeLogs { scope: Some(scope(schema)), log_records: Vec::new() });
            scopes.len() - 1
        });
        if let Some(scope) = scopes.get_mut(place) {
            scope.log_records.push(record(seq, event));
        }
    }
    let attributes = vec![
        text("service.name", &origin.stream),
        text("host.name", &origin.host),
        text("tidegate.epoch", &format!("{:016x}", origin.epoch)),
    ];
    ExportRequest {
        resource_logs: vec![ResourceLogs { resource: Some(Resource { attributes }), scope_logs: scopes }],
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue::new(key, Value::Text(value.to_owned()))
}

fn int(key: &str, value: impl Into<i64>) -> KeyValue {
    KeyValue::new(key, Value::Int(value.into()))
}

fn scope(schema: &SchemaParts) -> Scope {
    let has_guid = schema.provider_guid != [0; 16];
    let id = guid::format(&schema.provider_guid);
    Scope {
        name: if schema.provider_name.is_empty() { id.clone() } else { schema.provider_name.clone() },
        attributes: if has_guid { vec![text("etw.provider.guid", &id)] } else { Vec::new() },
    }
}

/// Severity of an ETW level: number and name.
fn severity(level: u8) -> (i32, &'static str) {
    match level {
        1 => (21, "Critical"),
        2 => (17, "Error"),
        3 => (13, "Warning"),
        // 0 is "always": it says nothing of urgency
        0 | 4 => (9, "Information"),
        5 => (5, "Verbose"),
        _ => (1, ""),
    }
}

fn record(seq: Seq, event: EventRef<'_>) -> LogRecord {
    let (head, schema): (_, &SchemaParts) = (event.head(), event.schema());
    let mut attributes = vec![int("tidegate.seq", seq.0.cast_signed())];
    if let Some(level) = head.telemetry_level {
        attributes.push(text("tidegate.level", level.as_str()));
    }
    if head.pid != NO_ID {
        attributes.push(int("process.pid", head.pid));
    }
    if head.tid != NO_ID {
        attributes.push(int("thread.id", head.tid));
    }
    if head.cpu != NO_CPU {
        attributes.push(int("etw.cpu", head.cpu));
    }
    for (key, n) in [
        ("etw.id", i64::from(head.id)),
        ("etw.version", head.version.into()),
        ("etw.level", head.level.into()),
        ("etw.opcode", head.opcode.into()),
        ("etw.task", head.task.into()),
        ("etw.channel", head.channel.into()),
        ("etw.tags", schema.event_tags.into()),
    ] {
        if n != 0 {
            attributes.push(int(key, n));
        }
    }
    for (key, bits) in [("etw.keyword", head.keyword), ("tidegate.priv_tags", head.priv_tags)] {
        if bits != 0 {
            attributes.push(text(key, &format!("0x{bits:x}")));
        }
    }
    for (key, name) in [("etw.opcode.name", &schema.opcode_name), ("etw.task.name", &schema.task_name)] {
        if !name.is_empty() {
            attributes.push(text(key, name));
        }
    }
    let group = schema.group_guid.unwrap_or_default();
    for (key, id) in [
        ("etw.activity.id", &head.activity),
        ("etw.related_activity.id", &head.related),
        ("etw.group", &group),
    ] {
        if *id != [0; 16] {
            attributes.push(text(key, &guid::format(id)));
        }
    }
    attributes.push(text("tidegate.decoder", schema.decoder.as_str()));
    if !event.raw().is_empty() {
        attributes.push(KeyValue::new("etw.raw", Value::Bytes(event.raw().to_vec())));
    }
    let mut seen = [0_u32; ExtKey::ALL.len()];
    for (key, value) in event.ext() {
        let Some(nth) = seen.get_mut(usize::from(key as u8)) else { continue };
        *nth += 1;
        let name = match *nth {
            1 => format!("etw.ext.{}", key.as_str()),
            n => format!("etw.ext.{}.{n}", key.as_str()),
        };
        attributes.push(KeyValue { key: name, value: Some(any(value)) });
    }
    let (severity_number, severity_text) = severity(head.level);
    let time = u64::try_from(head.time_ns).unwrap_or(0);
    let named = &schema.event_name;
    LogRecord {
        time_unix_nano: time,
        observed_time_unix_nano: time,
        severity_number,
        severity_text: severity_text.to_owned(),
        event_name: match (&*schema.task_name, &*schema.opcode_name) {
            _ if !named.is_empty() => named.clone(),
            ("", _) => String::new(),
            (task, "") => task.to_owned(),
            (task, opcode) => format!("{task}/{opcode}"),
        },
        body: Some(Value::Map(map(event.fields())).into()),
        attributes,
    }
}

/// Members in order; of members with one name the second gets `#2` after it, and so on, as in our JSON.
fn map(fields: Fields<'_>) -> KeyValueList {
    let mut seen: HashMap<&str, u32> = HashMap::new();
    let values = fields.enumerate().map(|(place, field)| {
        let name = field.name.unwrap_or_default();
        let key = if name.is_empty() {
            format!("field{place}")
        } else {
            let nth = seen.entry(name).or_insert(0);
            *nth += 1;
            if *nth == 1 { name.to_owned() } else { format!("{name}#{nth}") }
        };
        KeyValue { key, value: Some(any(field.value)) }
    });
    KeyValueList { values: values.collect() }
}

fn any(value: ValueRef<'_>) -> AnyValue {
    let unsigned = |n: u64| i64::try_from(n).map_or_else(|_| Value::Text(n.to_string()), Value::Int);
    let value = match value {
        ValueRef::Null => return AnyValue::default(),
        ValueRef::Bool(b) => Value::Bool(b),
        ValueRef::I8(n) => Value::Int(n.into()),
        ValueRef::I16(n) => Value::Int(n.into()),
        ValueRef::I32(n) => Value::Int(n.into()),
        ValueRef::I64(n) => Value::Int(n),
        ValueRef::U8(n) => Value::Int(n.into()),
        ValueRef::U16(n) => Value::Int(n.into()),
        ValueRef::U32(n) => Value::Int(n.into()),
        ValueRef::U64(n) | ValueRef::Pointer(n) => unsigned(n),
        ValueRef::F32(n) => Value::Double(n.into()),
        ValueRef::F64(n) => Value::Double(n),
        ValueRef::Str(s) => Value::Text(s.to_owned()),
        ValueRef::Bytes(b) => Value::Bytes(b.to_vec()),
        ValueRef::Enum { value, label: "" } => Value::Int(value),
        ValueRef::Enum { label, .. } => Value::Text(label.to_owned()),
        ValueRef::Struct(inner) => Value::Map(map(inner)),
        ValueRef::Array(items) => Value::Array(ArrayValue { values: items.map(|i| any(i.value)).collect() }),
        // what has a text form only: its JSON without the quotes, which nothing in it escapes
        value @ (ValueRef::Guid(_)
        | ValueRef::FileTime(_)
        | ValueRef::SystemTime(_)
        | ValueRef::Sid(_)
        | ValueRef::Ipv4(_)
        | ValueRef::Ipv6(_)
        | ValueRef::SockAddr(_)) => {
            let mut out = Vec::new();
            json::write_value(&mut out, value, Format::Default);
            Value::Text(String::from_utf8_lossy(&out).trim_matches('"').to_owned())
        }
    };
    value.into()
}
