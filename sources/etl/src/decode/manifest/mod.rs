//! Instrumentation manifests: those that .NET EventSources write into the trace, and `.man`
//! files of users. Source: the schema of instrumentation manifests (Windows SDK, eventman.xsd).

mod xml;

use super::plan::{MAX_DEPTH, ValueMap, Wire};
use super::tdh::{Amount, Builder, event_name};
use std::collections::HashMap;
use std::sync::Arc;
use tidegate_proto::schema::{Decoder, SchemaParts};
use tidegate_proto::value::Format;

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not well-formed.
    #[error("the manifest is not well-formed XML at byte {offset}: {what}")]
    Xml {
        /// Where, in bytes of its UTF-8 text.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// It has no provider with a GUID.
    #[error("the manifest describes no provider with a GUID")]
    NoProvider,
    /// Larger than is read.
    #[error("the manifest has {size} bytes, {limit} are read at most")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
}

/// Largest manifest that is read, 16 MiB.
pub(crate) const MAX_MANIFEST: usize = 16 << 20;

/// Texts by their id. They are shared: many names may stand for one long text.
type Strings = HashMap<String, Arc<str>>;

/// One provider of a manifest.
#[derive(Debug, Default)]
pub(crate) struct Provider {
    pub(crate) guid: [u8; 16],
    pub(crate) name: String,
    events: HashMap<(u16, u8), EventDef>,
    templates: HashMap<String, Vec<Data>>,
    maps: HashMap<String, Arc<ValueMap>>,
    tasks: HashMap<String, Task>,
    opcodes: HashMap<String, Named>,
    /// Texts of its first culture.
    strings: Arc<Strings>,
}

/// A task, with the opcodes that exist in it only.
#[derive(Debug, Default)]
struct Task {
    message: String,
    opcodes: HashMap<String, Named>,
}

#[derive(Debug, Default)]
struct Named {
    message: String,
}

#[derive(Debug, Default)]
struct EventDef {
    template: String,
    task: String,
    opcode: String,
    symbol: String,
    message: String,
}

/// A field of a template.
#[derive(Debug, Default)]
struct Data {
    name: String,
    input: String,
    output: String,
    map: String,
    count: String,
    length: String,
    /// Of a struct.
    members: Option<Vec<Data>>,
}

/// Definitions of one manifest at most: events, fields, strings and so on.
const MAX_ITEMS: usize = 262_144;

/// Reads a user's manifest in UTF-8 or UTF-16 with a byte order mark.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<Provider>, ManifestError> {
    if bytes.len() > MAX_MANIFEST {
        return Err(ManifestError::TooLarge { size: bytes.len(), limit: MAX_MANIFEST });
    }
    let (providers, _) = read_some(bytes, MAX_ITEMS)?;
    if providers.is_empty() { Err(ManifestError::NoProvider) } else { Ok(providers) }
}

/// Reads a manifest of at most so many definitions; returns how many there were.
pub(crate) fn read_some(bytes: &[u8], most: usize) -> Result<(Vec<Provider>, usize), ManifestError> {
    let text = match bytes {
        [0xFF, 0xFE, rest @ ..] => crate::bytes::utf16_text(rest).into(),
        [0xFE, 0xFF, rest @ ..] => {
            let swapped: Vec<u8> = rest.as_chunks().0.iter().flat_map(|[a, b]| [*b, *a]).collect();
            crate::bytes::utf16_text(&swapped).into()
        }
        [0xEF, 0xBB, 0xBF, rest @ ..] => String::from_utf8_lossy(rest),
        _ => String::from_utf8_lossy(bytes),
    };
    xml::read(&text, most)
}

impl Provider {
    /// Number of events described.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// Compiles one event; `None` when it is not described or its template is beyond us.
    pub(crate) fn compile(&self, id: u16, version: u8, decoder: Decoder) -> Option<(SchemaParts, Builder)> {
        let event = self.events.get(&(id, version))?;
        let mut build = Builder::default();
        if let Some(template) = self.templates.get(&event.template) {
            let mut places = HashMap::new();
            self.fields(template, &mut build, &mut places, 0)?;
        } else if !event.template.is_empty() {
            return None;
        }
        let opcode = self.opcode_name(event);
        let task = self.tasks.get(&event.task);
        let task_name = short(&event.task).to_owned();
        let parts = SchemaParts {
            provider_name: self.name.clone(),
            provider_guid: self.guid,
            event_name: event_name(&task_name, &event.symbol, &opcode),
            task_name: task.map_or(task_name, |t| self.label(&t.message, &event.task)),
            opcode_name: opcode,
            message: self.text(&event.message).unwrap_or_default().to_string(),
            decoder,
            ..SchemaParts::default()
        };
        Some((parts, build))
    }

    fn opcode_name(&self, event: &EventDef) -> String {
        let own = self.tasks.get(&event.task).and_then(|t| t.opcodes.get(&event.opcode));
        match own.or_else(|| self.opcodes.get(&event.opcode)) {
            Some(named) => self.label(&named.message, &event.opcode),
            None => short(&event.opcode).to_owned(),
        }
    }

    /// The text of a message, or else the name.
    fn label(&self, message: &str, name: &str) -> String {
        match self.text(message) {
            Some(text) if !text.is_empty() => text.to_string(),
            _ => short(name).to_owned(),
        }
    }

    /// A message with `$(string.x)` looked up.
    fn text(&self, message: &str) -> Option<Arc<str>> {
        match message.strip_prefix("$(string.").and_then(|m| m.strip_suffix(')')) {
            Some(id) => self.strings.get(id).cloned(),
            None => Some(message.into()),
        }
    }

    fn fields<'m>(
        &'m self,
        template: &'m [Data],
        build: &mut Builder,
        places: &mut HashMap<&'m str, usize>,
        depth: usize,
    ) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        for data in template {
            let count = amount(&data.count, places)?;
            let at = if let Some(members) = &data.members {
                let at = build.push(data.name.clone(), Wire::Struct, Format::Default)?;
                let count = build.count(count)?;
                self.fields(members, build, places, depth + 1)?;
                let below = u16::try_from(build.ops.len() - at - 1).ok()?;
                let op = build.op(at)?;
                (op.count, op.below) = (count, below);
                at
            } else {
                let types = (input_type(&data.input)?, output_type(&data.output));
                let at = build.item(data.name.clone(), types, amount(&data.length, places)?, count)?;
                build.op(at)?.map = self.maps.get(&data.map).cloned();
                at
            };
            places.insert(&data.name, at);
        }
        Some(())
    }

    /// Puts the texts of its strings into the maps, which are read before them.
    fn finish(&mut self, strings: &Arc<Strings>) {
        self.strings = Arc::clone(strings);
        let maps = std::mem::take(&mut self.maps);
        let named = |map: Arc<ValueMap>| {
            let label = |message: &Arc<str>| self.text(message).unwrap_or_else(|| Arc::clone(message));
            let entries = map.entries.iter().map(|(n, message)| (*n, label(message))).collect();
            Arc::new(ValueMap { entries, bits: map.bits })
        };
        self.maps = maps.into_iter().map(|(name, map)| (name, named(map))).collect();
    }
}

/// A name without its namespace prefix.
fn short(name: &str) -> &str {
    name.strip_prefix("win:").unwrap_or(name)
}

/// A length or count: nothing, a number, or the name of an earlier field.
fn amount(text: &str, places: &HashMap<&str, usize>) -> Option<Amount> {
    if text.is_empty() {
        return Some(Amount::None);
    }
    match number(text) {
        Some(n) => u32::try_from(n).ok().map(Amount::Fixed),
        None => places.get(text).copied().map(Amount::Field),
    }
}

/// A decimal or `0x` number.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok().or_else(|| text.parse().ok().map(i64::cast_unsigned)),
    }
}

fn input_type(name: &str) -> Option<u16> {
    Some(match short(name) {
        "UnicodeString" => 1,
        "AnsiString" => 2,
        "Int8" => 3,
        "UInt8" => 4,
        "Int16" => 5,
        "UInt16" => 6,
        "Int32" => 7,
        "UInt32" => 8,
        "Int64" => 9,
        "UInt64" => 10,
        "Float" => 11,
        "Double" => 12,
        "Boolean" => 13,
        "Binary" => 14,
        "GUID" => 15,
        "Pointer" => 16,
        "FILETIME" => 17,
        "SYSTEMTIME" => 18,
        "SID" => 19,
        "HexInt32" => 20,
        "HexInt64" => 21,
        "CountedUnicodeString" => 22,
        "CountedAnsiString" => 23,
        "CountedBinary" => 25,
        _ => return None,
    })
}

/// Unknown names change nothing but the look, so they read as 0.
fn output_type(name: &str) -> u16 {
    match name.split_once(':').map_or(name, |(_, n)| n) {
        "string" => 1,
        "dateTime" => 2,
        "boolean" => 13,
        "HexInt8" => 16,
        "HexInt16" => 17,
        "HexInt32" => 18,
        "HexInt64" => 19,
        "PID" => 20,
        "TID" => 21,
        "Port" => 22,
        "IPv4" => 23,
        "IPv6" => 24,
        "SocketAddress" => 25,
        "ETWTIME" => 27,
        "Xml" => 28,
        "ErrorCode" => 29,
        "Win32Error" => 30,
        "NTSTATUS" => 31,
        "HResult" => 32,
        "DateTimeCultureInsensitive" => 33,
        "Json" => 34,
        "Utf8" => 35,
        "Pkcs7WithTypeInfo" => 36,
        "CodePointer" => 37,
        "DateTimeUtc" => 38,
        _ => 0,
    }
}
