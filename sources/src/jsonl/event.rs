//! From a line to an event.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tidegate_proto::batch::{Batch, EventBuilder, ExtKey, Head, NO_NAME};
use tidegate_proto::json::types::{Note, NoteReader};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::schema::{Decoder, FieldDef, Schema, SchemaParts};
use tidegate_proto::value::{Format, ValueRef};
use tidegate_proto::{guid, time};

use super::parse::{Node, Val, children};

/// Which members of an object are not fields but say what the event is. Of several that an
/// object has, the first counts and the others are fields. So is a member whose value does
/// not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JsonlKeys {
    /// Its time: RFC 3339 text, or a number of seconds, milliseconds, microseconds or
    /// nanoseconds since 1970, told apart by size.
    pub time: Vec<String>,
    /// Its provider's name.
    pub provider: Vec<String>,
    /// Its name.
    pub event: Vec<String>,
    /// Its verbosity: a word or an ETW level.
    pub level: Vec<String>,
}

impl Default for JsonlKeys {
    fn default() -> JsonlKeys {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        JsonlKeys {
            time: list(&["time", "@timestamp", "timestamp", "ts"]),
            provider: list(&["provider"]),
            event: list(&["event"]),
            level: list(&["level", "severity"]),
        }
    }
}

/// Encoded bytes of schemas that are remembered.
const CACHE: usize = 4 << 20;

/// Turns lines into events.
#[derive(Debug)]
pub(super) struct Mapper {
    keys: JsonlKeys,
    provider: String,
    schemas: HashMap<Box<[u8]>, Arc<Schema>>,
    cached: usize,
    key: Vec<u8>,
    buf: Vec<u8>,
    last_ns: i64,
}

/// What an object says about its event.
#[derive(Default)]
struct Found<'t> {
    head: Head,
    time_ns: Option<i64>,
    provider: Option<&'t str>,
    event: Option<&'t str>,
    level: bool,
    guid: [u8; 16],
    group: Option<[u8; 16]>,
    tags: u32,
    task: &'t str,
    opcode: &'t str,
    message: &'t str,
    raw: Option<Vec<u8>>,
    decoder: Option<Decoder>,
    ext: &'t [Node<'t>],
    fields: Vec<(&'t Node<'t>, &'t [Node<'t>])>,
    /// Which of them the member `fields` has.
    own: std::ops::Range<usize>,
    /// Of the fields and of the extended items, one for each node; none when the line has none.
    notes: [Vec<Note<'t>>; 2],
}

impl Mapper {
    pub(super) fn new(keys: JsonlKeys, provider: String, last_ns: i64) -> Mapper {
        let (key, buf) = (Vec::new(), Vec::new());
        Mapper { keys, provider, schemas: HashMap::new(), cached: 0, key, buf, last_ns }
    }

    /// Time of the last event; 0 before the first.
    pub(super) fn last_ns(&self) -> i64 {
        self.last_ns
    }

    /// Appends the event of a parsed line.
    pub(super) fn push(&mut self, batch: &mut Batch, tape: &[Node<'_>]) {
        let mut found = self.find(tape);
        // an event that tells no time is as old as its reading
        let time_ns = found.time_ns.unwrap_or_else(now);
        self.last_ns = time_ns;
        found.head.time_ns = time_ns;
        let schema = self.schema(&found);
        let mut event = batch.begin(&schema, found.head);
        let [fields, ext] = &found.notes;
        let mut writer = Writer { event: &mut event, notes: fields, index: 0, buf: &mut self.buf };
        for (node, below) in &found.fields {
            writer.write(node, below);
        }
        writer.notes = ext;
        for (node, below) in children(found.ext) {
            writer.write_ext(node, below);
        }
        if let Some(raw) = &found.raw {
            event.raw(raw);
        }
        event.finish();
    }

    fn find<'t>(&self, tape: &'t [Node<'t>]) -> Found<'t> {
        let is = |node: &Node<'_>, name: &str| node.name.as_deref() == Some(name);
        let has_time = children(tape).any(|(n, _)| is(n, "time") && matches!(n.value, Val::Str(_)));
        let fields = |(n, _): &(&Node<'_>, _)| is(n, "fields") && matches!(n.value, Val::Struct(_));
        let ours = has_time && children(tape).any(|c| fields(&c));
        let mut found = Found::default();
        let mut types = None;
        for (node, below) in children(tape) {
            let name = node.name.as_deref().unwrap_or_default();
            if ours && types.is_none() && name == "types" {
                types = Some((node, below));
                continue;
            }
            let known = if ours { own_member(&mut found, name, node, below) } else { false };
            if !known && !self.common_member(&mut found, name, &node.value) {
                found.fields.push((node, below));
            }
        }
        if let Some((node, below)) = types {
            match text(&node.value).and_then(|types| notes(types, &found)) {
                Some(notes) => found.notes = notes,
                None => found.fields.push((node, below)),
            }
        }
        found
    }

    fn common_member<'t>(&self, found: &mut Found<'t>, name: &str, value: &'t Val<'t>) -> bool {
        let among = |list: &[String]| list.iter().any(|k| k == name);
        if found.time_ns.is_none() && among(&self.keys.time) {
            found.time_ns = time_of(value);
            return found.time_ns.is_some();
        }
        if found.provider.is_none() && among(&self.keys.provider) {
            found.provider = text(value);
            return found.provider.is_some();
        }
        if found.event.is_none() && among(&self.keys.event) {
            found.event = text(value);
            return found.event.is_some();
        }
        if !found.level && among(&self.keys.level) {
            let level = level_of(value);
            found.head.level = level.unwrap_or(0);
            found.level = level.is_some();
            return found.level;
        }
        false
    }

    fn schema(&mut self, found: &Found<'_>) -> Arc<Schema> {
        // what we wrote without a provider has none
        let provider = found.provider.unwrap_or(if found.decoder.is_some() { "" } else { &self.provider });
        // nobody else speaks for us
        let decoder = found.decoder.filter(|d| *d != Decoder::Own).unwrap_or(Decoder::Json);
        let key = &mut self.key;
        key.clear();
        let put = |key: &mut Vec<u8>, s: &str| {
            key.extend_from_slice(&(s.len() as u64).to_le_bytes());
            key.extend_from_slice(s.as_bytes());
        };
        for s in [provider, found.event.unwrap_or(""), found.task, found.opcode, found.message] {
            put(key, s);
        }
        let names = || {
            let all = found.fields.iter().flat_map(|(node, below)| std::iter::once(*node).chain(*below));
            let notes = found.notes[0].iter().copied().map(Some).chain(std::iter::repeat(None));
            all.zip(notes).filter_map(|(node, note)| {
                let (name, note) = (node.name.as_deref()?, note.unwrap_or_default());
                // the number is not the provider's
                let own = name.rsplit_once('#').filter(|_| note.numbered);
                Some((own.map_or(name, |(own, _)| own), note.tags))
            })
        };
        for (name, tags) in names() {
            put(key, name);
            key.extend_from_slice(&tags.to_le_bytes());
        }
        key.extend_from_slice(&found.guid);
        key.extend_from_slice(&found.group.unwrap_or_default());
        key.extend_from_slice(&found.tags.to_le_bytes());
        key.push(decoder as u8);
        if let Some(schema) = self.schemas.get(key.as_slice()) {
            return Arc::clone(schema);
        }
        let schema = Schema::new(SchemaParts {
            decoder,
            provider_name: provider.to_owned(),
            provider_guid: found.guid,
            group_guid: found.group,
            event_name: found.event.unwrap_or("").to_owned(),
            event_tags: found.tags,
            task_name: found.task.to_owned(),
            opcode_name: found.opcode.to_owned(),
            message: found.message.to_owned(),
            fields: names().map(|(name, tags)| FieldDef { name: name.to_owned(), tags }).collect(),
        });
        if self.cached + key.len() > CACHE {
            self.schemas.clear();
            self.cached = 0;
        }
        if key.len() <= CACHE / 8 {
            self.cached += key.len();
            self.schemas.insert(key.as_slice().into(), Arc::clone(&schema));
        }
        schema
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A member as our own JSON writes it; false when it is none, or its value does not fit.
fn own_member<'t>(found: &mut Found<'t>, name: &str, node: &'t Node<'t>, below: &'t [Node<'t>]) -> bool {
    let value = &node.value;
    let head = &mut found.head;
    // each arm: some when the value fits
    let put = match name {
        "fields" => match value {
            Val::Struct(_) => {
                let from = found.fields.len();
                found.fields.extend(children(below));
                found.own = from..found.fields.len();
                Some(())
            }
            _ => None,
        },
        "ext" => match value {
            Val::Struct(_) => {
                found.ext = below;
                Some(())
            }
            _ => None,
        },
        // their place was another's, and what became of them there
        "seq" => Some(()),
        "deadLetter" => matches!(value, Val::Struct(_)).then_some(()),
        "decoder" => text(value).and_then(Decoder::of_label).map(|d| found.decoder = Some(d)),
        "guid" => id(value).map(|g| found.guid = g),
        "group" => id(value).map(|g| found.group = Some(g)),
        "activity" => id(value).map(|g| head.activity = g),
        "related" => id(value).map(|g| head.related = g),
        "id" => fit(value).map(|n| head.id = n),
        "version" => fit(value).map(|n| head.version = n),
        "keyword" => number(value).map(|n| head.keyword = n),
        "privTags" => number(value).map(|n| head.priv_tags = n),
        "opcode" => fit(value).map(|n| head.opcode = n),
        "task" => fit(value).map(|n| head.task = n),
        "channel" => fit(value).map(|n| head.channel = n),
        "pid" => fit(value).map(|n| head.pid = n),
        "tid" => fit(value).map(|n| head.tid = n),
        "cpu" => fit(value).map(|n| head.cpu = n),
        "samplePpm" => fit(value).map(|n| head.sample_ppm = n),
        "tags" => fit(value).map(|n| found.tags = n),
        "telemetryLevel" => {
            let level = text(value).and_then(|s| s.parse::<TelemetryLevel>().ok());
            level.map(|l| head.telemetry_level = Some(l))
        }
        "opcodeName" => text(value).map(|s| found.opcode = s),
        "taskName" => text(value).map(|s| found.task = s),
        "message" => text(value).map(|s| found.message = s),
        "raw" => text(value).and_then(|s| STANDARD.decode(s).ok()).map(|b| found.raw = Some(b)),
        _ => None,
    };
    put.is_some()
}

fn text<'t>(value: &'t Val<'t>) -> Option<&'t str> {
    match value {
        Val::Str(s) => Some(s),
        _ => None,
    }
}

fn id(value: &Val<'_>) -> Option<[u8; 16]> {
    text(value).and_then(guid::parse)
}

/// A number, or hexadecimal text.
fn number(value: &Val<'_>) -> Option<u64> {
    match value {
        Val::I64(n) => u64::try_from(*n).ok(),
        Val::U64(n) => Some(*n),
        Val::Str(s) => u64::from_str_radix(s.strip_prefix("0x")?, 16).ok(),
        _ => None,
    }
}

fn fit<T: TryFrom<u64>>(value: &Val<'_>) -> Option<T> {
    match value {
        Val::I64(_) | Val::U64(_) => number(value).and_then(|n| T::try_from(n).ok()),
        _ => None,
    }
}

fn time_of(value: &Val<'_>) -> Option<i64> {
    match value {
        Val::Str(s) => time::parse_rfc3339(s),
        Val::I64(n) => {
            // seconds until the year 5138, milliseconds until the same, and so on
            let scale = match n.unsigned_abs() {
                0..100_000_000_000 => 1_000_000_000,
                100_000_000_000..100_000_000_000_000 => 1_000_000,
                100_000_000_000_000..100_000_000_000_000_000 => 1000,
                _ => 1,
            };
            n.checked_mul(scale)
        }
        // a float of this size holds microseconds, not more
        Val::F64(n) if n.abs() < 9e9 => Some(n.trunc() as i64 * 1_000_000_000 + micros(n.fract() * 1e6)),
        Val::F64(n) if n.abs() < 9e12 => Some(n.trunc() as i64 * 1_000_000 + micros(n.fract() * 1e3)),
        _ => None,
    }
}

/// Nanoseconds of microseconds, rounded to whole ones.
fn micros(n: f64) -> i64 {
    n.round() as i64 * 1000
}

/// Words as loggers use them.
fn level_of(value: &Val<'_>) -> Option<u8> {
    match value {
        Val::I64(n) => u8::try_from(*n).ok(),
        Val::Str(s) => Some(match s.to_ascii_lowercase().as_str() {
            "critical" | "crit" | "fatal" | "emerg" | "emergency" | "alert" | "panic" => 1,
            "error" | "err" => 2,
            "warning" | "warn" => 3,
            "info" | "information" | "informational" | "notice" => 4,
            "debug" | "verbose" | "trace" => 5,
            _ => return None,
        }),
        _ => None,
    }
}

fn scalar<'t>(value: &'t Val<'t>) -> ValueRef<'t> {
    match value {
        Val::Bool(b) => ValueRef::Bool(*b),
        Val::I64(n) => ValueRef::I64(*n),
        Val::U64(n) => ValueRef::U64(*n),
        Val::F64(n) => ValueRef::F64(*n),
        Val::Str(Cow::Borrowed(s)) => ValueRef::Str(s),
        Val::Str(Cow::Owned(s)) => ValueRef::Str(s),
        Val::Null | Val::Struct(_) | Val::Array(_) => ValueRef::Null,
    }
}

/// Notes for every node, in their order; `None` when they are not of this line's shape.
fn notes<'t>(types: &'t str, found: &Found<'t>) -> Option<[Vec<Note<'t>>; 2]> {
    let [mut fields, mut ext] = NoteReader::of(types);
    let mut notes = [Vec::new(), Vec::new()];
    for (n, (node, below)) in found.fields.iter().enumerate() {
        if found.own.contains(&n) {
            note(&mut fields, &mut notes[0], node, below)?;
        } else {
            // somebody added it
            let to = notes[0].len() + 1 + below.len();
            notes[0].resize(to, Note::default());
        }
    }
    // those that JSON tells all of have none
    if !ext.is_empty() {
        for (node, below) in children(found.ext) {
            note(&mut ext, &mut notes[1], node, below)?;
        }
    }
    (fields.is_empty() && ext.is_empty()).then_some(notes)
}

/// Depth is bounded by the parser.
fn note<'t>(
    from: &mut NoteReader<'t>,
    to: &mut Vec<Note<'t>>,
    node: &Node<'_>,
    below: &[Node<'_>],
) -> Option<()> {
    let (open, close) = match node.value {
        Val::Struct(_) => ('{', '}'),
        Val::Array(_) => ('[', ']'),
        _ => {
            to.push(from.value()?);
            return Some(());
        }
    };
    from.open(open)?;
    let at = to.len();
    to.push(Note::default());
    let first = *from;
    for (n, (node, below)) in children(below).enumerate() {
        if n > 0 && open == '[' && from.is_closed(close) {
            // one for all
            *from = first;
        }
        note(from, to, node, below)?;
    }
    let noted = from.close(close)?;
    *to.get_mut(at)? = noted;
    Some(())
}

/// Writes the nodes of a line.
struct Writer<'w, 'b, 't> {
    event: &'w mut EventBuilder<'b>,
    /// Of the nodes that are not written yet.
    notes: &'w [Note<'t>],
    index: u32,
    buf: &'w mut Vec<u8>,
}

impl<'t> Writer<'_, '_, 't> {
    fn note(&mut self) -> Option<Note<'t>> {
        let (first, rest) = self.notes.split_first()?;
        self.notes = rest;
        Some(*first)
    }

    /// Depth is bounded by the parser.
    fn write(&mut self, node: &Node<'_>, below: &[Node<'_>]) {
        let name = if node.name.is_some() {
            let n = self.index;
            self.index = self.index.saturating_add(1);
            n
        } else {
            NO_NAME
        };
        let note = self.note();
        match node.value {
            Val::Struct(_) => self.event.begin_struct(name),
            Val::Array(_) => self.event.begin_array(name),
            _ => {
                let value = scalar(&node.value);
                let Some(note) = note else { return self.event.value(name, Format::Default, value) };
                let value = note.typed(value, self.buf).unwrap_or(value);
                self.event.value(name, note.format, value);
                return self.event.scrubbed(note.scrub);
            }
        }
        for (node, below) in children(below) {
            self.write(node, below);
        }
        self.event.end();
    }

    fn write_ext(&mut self, node: &Node<'_>, below: &[Node<'_>]) {
        let note = self.note();
        let name = node.name.as_deref().unwrap_or_default();
        let own = name.rsplit_once('#').filter(|_| note.is_some_and(|n| n.numbered));
        let name = own.map_or(name, |(own, _)| own);
        let key = ExtKey::ALL.iter().find(|k| k.as_str() == name).copied().unwrap_or(ExtKey::Other);
        if matches!(node.value, Val::Array(_)) {
            self.event.begin_ext_array(key);
            for (item, below) in children(below) {
                self.write(item, below);
            }
            return self.event.end();
        }
        let value = scalar(&node.value);
        let Some(note) = note else { return self.event.ext(key, value) };
        let value = note.typed(value, self.buf).unwrap_or(value);
        self.event.ext_formatted(key, note.format, value);
        self.event.ext_scrubbed(note.scrub);
    }
}

#[cfg(test)]
mod tests {
    use tidegate_proto::json::write_event;

    use super::super::parse::parse;
    use super::*;

    fn json(line: &str) -> String {
        let mut mapper = Mapper::new(JsonlKeys::default(), "app".to_owned(), 0);
        let mut batch = Batch::new();
        mapper.push(&mut batch, &parse(line.as_bytes()).unwrap());
        let mut out = Vec::new();
        write_event(&mut out, batch.get(0).unwrap(), None);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_logger_s_line_is_an_event() {
        let line = r#"{"ts":1700000000.25,"level":"WARN","event":"Slow","path":"/a","took":{"ms":12,"parts":[1.5,true,null,{"x":-1}]},"id":"q7"}"#;
        assert_eq!(
            json(line),
            concat!(
                r#"{"time":"2023-11-14T22:13:20.2500000Z","provider":"app","event":"Slow","id":0,"version":0,"#,
                r#""level":3,"keyword":"0x0","opcode":0,"decoder":"json","fields":{"path":"/a","#,
                r#""took":{"ms":12,"parts":[1.5,true,null,{"x":-1}]},"id":"q7"}}"#
            )
        );
    }

    #[test]
    fn our_own_json_comes_back_as_it_was() {
        let line = concat!(
            r#"{"time":"2023-11-14T22:13:20.1234567Z","provider":"P","guid":"d3dd3dd4-aac2-4e2a-8dd4-a8fb61b77615","#,
            r#""event":"E","id":7,"version":2,"level":4,"keyword":"0x800000000001","opcode":1,"opcodeName":"Start","#,
            r#""task":3,"taskName":"T","channel":11,"pid":5,"tid":6,"cpu":1,"#,
            r#""activity":"00000001-0000-0000-0000-000000000000","group":"4f50731a-89cf-4782-b3e0-dce8c90476ba","#,
            r#""tags":9,"privTags":"0x2","telemetryLevel":"Basic","message":"m %1","decoder":"json","#,
            r#""fields":{"a":1,"b":[{"c":"x"}]},"raw":"AQID","ext":{"sid":"S-1-5-18","stack":["0x1","0x2"]}}"#
        );
        assert_eq!(json(line), line);
        // a place of elsewhere is not believed, nor that it is one of Tidegate's own
        let own = line.replace("\"decoder\":\"json\"", "\"decoder\":\"own\"").replacen('{', "{\"seq\":9,", 1);
        assert_eq!(json(&own), line);
    }

    #[test]
    fn types_of_another_shape_are_a_field_and_those_that_do_not_fit_are_ignored() {
        let line = |types: &str| {
            json(&format!(
                r#"{{"time":"2023-11-14T22:13:20Z","decoder":"raw","fields":{{"a":[1,2],"b":"x"}},"types":{types}}}"#
            ))
        };
        for odd in
            ["\"[i]\"", "\"[i]vv\"", "\"{i}s\"", "\"[i.]s\"", "\"[i]s(\"", "\"[i]s#99999999999\"", "7", "[]"]
        {
            let got = line(odd);
            assert!(got.ends_with(&format!(r#""fields":{{"a":[1,2],"b":"x","types":{odd}}}}}"#)), "{got}");
        }
        for kept in ["[i]v", "[ii]w.99", "[g]?", "[z]T(x)"] {
            let got = line(&format!("\"{}\"", kept.replace('?', "a")));
            assert!(got.ends_with(r#""fields":{"a":[1,2],"b":"x"}}"#), "{kept}: {got}");
        }
    }

    #[test]
    fn a_member_that_somebody_added_does_not_cost_the_types_of_ours() {
        let line = r#"{"time":"2023-11-14T22:13:20Z","site":["x",{"y":1}],"decoder":"raw","fields":{"a":"10.0.0.1"},"extra":2,"types":"v#7"}"#;
        let mut batch = Batch::new();
        Mapper::new(JsonlKeys::default(), "app".to_owned(), 0)
            .push(&mut batch, &parse(line.as_bytes()).unwrap());
        let event = batch.get(0).unwrap();
        let fields: Vec<_> = event.fields().map(|f| (f.name.unwrap(), f.tags)).collect();
        assert_eq!(fields, [("site", 0), ("a", 7), ("extra", 0)]);
        assert!(matches!(event.fields().nth(1).unwrap().value, ValueRef::Ipv4([10, 0, 0, 1])));
    }

    #[test]
    fn times_of_every_scale_are_one_time() {
        for time in
            ["1700000000", "1700000000000", "1700000000000000", "1700000000000000000", "1.7e9", "1.7e12"]
        {
            assert!(
                json(&format!("{{\"time\":{time}}}"))
                    .starts_with(r#"{"time":"2023-11-14T22:13:20.0000000Z""#)
            );
        }
    }

    #[test]
    fn a_member_that_does_not_fit_is_a_field() {
        let json = json(r#"{"@timestamp":"2023-11-14T22:13:20Z","time":"soon","level":"loud","provider":7}"#);
        assert!(json.contains(r#""provider":"app""#), "{json}");
        assert!(json.ends_with(r#""fields":{"time":"soon","level":"loud","provider":7}}"#), "{json}");
    }

    #[test]
    fn events_of_one_shape_share_a_schema() {
        let mut mapper = Mapper::new(JsonlKeys::default(), "app".to_owned(), 0);
        let mut batch = Batch::new();
        for line in [r#"{"a":1,"b":{"c":2}}"#, r#"{"a":"x","b":{"c":null}}"#, r#"{"a":1,"bc":{"":2}}"#] {
            mapper.push(&mut batch, &parse(line.as_bytes()).unwrap());
        }
        let ids: Vec<u64> = batch.iter().map(|e| e.schema().id()).collect();
        assert!(ids[0] == ids[1] && ids[1] != ids[2]);
    }
}
