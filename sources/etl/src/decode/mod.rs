//! From records to typed events. Files and live sessions share this.

mod cache;
mod chunks;
mod coverage;
mod embedded;
mod ext;
mod kernel;
mod manifest;
mod plan;
mod run;
mod schemas;
mod tdh;
mod tracelogging;

use crate::record::{Identity, Record};
pub(crate) use cache::Hashing;
use cache::{Cache, Entry, Key};
pub use coverage::Coverage;
pub(crate) use coverage::name_of;
use embedded::InfoKey;
pub(crate) use kernel::kernel_class;
pub use manifest::ManifestError;
use schemas::Schemas;
use std::collections::{HashMap, HashSet};
use tidegate_proto::batch::{Batch, Head};
use tidegate_proto::own::{self, Gap};
use tidegate_proto::schema::Decoder;
use tracelogging::Traits;

/// Class of the records by which the kernel tells a real-time session what it lost.
/// Source: KernelTraceEventParser.cs (microsoft/perfview, MIT).
const LOST_EVENT: [u8; 16] =
    [0xe0, 0x9a, 0x39, 0x6a, 0xc6, 0x4b, 0xe9, 0x4d, 0x87, 0x0b, 0x36, 0x57, 0xf8, 0x94, 0x7e, 0x7e];
/// Providers whose names are remembered.
const MAX_NAMES: usize = 8_192;
/// Kinds of events whose schema somebody else was asked for.
const MAX_ASKED: usize = 65_536;

/// What a [`SchemaSource`] knows of a kind of event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventSchema {
    /// TRACE_EVENT_INFO, as TDH hands it out.
    pub info: Vec<u8>,
    /// EVENT_MAP_INFO of each value map that it names.
    pub maps: Vec<Vec<u8>>,
}

impl EventSchema {
    /// Names of the value maps that a TRACE_EVENT_INFO refers to, each once.
    #[must_use]
    pub fn map_names(info: &[u8]) -> Vec<String> {
        embedded::map_names(info)
    }
}

/// Somebody who can be asked for schemas: the system that the decoder runs on.
pub trait SchemaSource: std::fmt::Debug + Send {
    /// The schema of events like `record`; none when it is not known. Asked once for each kind.
    fn schema(&mut self, record: &Record<'_>) -> Option<EventSchema>;
}

/// Turns records into events, with what it has learnt of their schemas.
///
/// It is stateful: schemas carried in the trace are learnt as they pass (or before, with
/// [`PayloadDecoder::learn`]), and what is constant for a kind of event is compiled once. Its
/// memory is bounded, whatever the input says.
#[derive(Debug, Default)]
pub struct PayloadDecoder {
    cache: Cache,
    schemas: Schemas,
    names: HashMap<[u8; 16], Traits>,
    slots: run::Slots,
    system: Option<Box<dyn SchemaSource>>,
    /// Kinds of events that `system` was asked for.
    asked: HashSet<InfoKey>,
    /// Where gap events say they come from.
    origin: String,
}

impl PayloadDecoder {
    /// A decoder that knows nothing but what is the same on every machine. `origin` names the
    /// file or session in gap events.
    #[must_use]
    pub fn new(origin: &str) -> PayloadDecoder {
        PayloadDecoder { origin: origin.to_owned(), ..PayloadDecoder::default() }
    }

    /// The name that gap events carry.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Adds an instrumentation manifest (`.man`, UTF-8 or UTF-16). It goes before any other
    /// schema of its providers. Returns the number of events it describes.
    ///
    /// # Errors
    /// When it is no manifest, describes no provider or is larger than 16 MiB.
    pub fn add_manifest(&mut self, bytes: &[u8]) -> Result<usize, ManifestError> {
        let events = self.schemas.give(bytes)?;
        self.cache.clear();
        Ok(events)
    }

    /// Adds the schema of one kind of event as TDH hands it out (TRACE_EVENT_INFO). The first
    /// for a kind is kept; true when it is new and usable.
    pub fn add_event_info(&mut self, info: &[u8]) -> bool {
        let new = self.schemas.info(info, Decoder::Manifest);
        if new {
            self.cache.clear();
        }
        new
    }

    /// Adds a value map as TDH hands it out (EVENT_MAP_INFO); to be called before
    /// [`PayloadDecoder::add_event_info`] of the events that use it.
    pub fn add_event_map(&mut self, provider: [u8; 16], map: &[u8]) -> bool {
        self.schemas.map(provider, map)
    }

    /// Asks `system` for the schema of each kind of event that nothing else explains.
    pub fn set_system(&mut self, system: Box<dyn SchemaSource>) {
        self.system = Some(system);
        self.asked.clear();
        self.cache.clear();
    }

    /// Asks for the schema of a kind of event, once, whatever comes of it.
    fn ask(&mut self, record: &Record<'_>) {
        let Some(system) = &mut self.system else { return };
        let Some(key) = schemas::key(record) else { return };
        if self.asked.len() >= MAX_ASKED || self.asked.contains(&key) {
            return;
        }
        let known = self.schemas.find(record);
        if known.is_some_and(|(parts, _)| parts.decoder != Decoder::None) {
            return;
        }
        self.asked.insert(key);
        if let Some(found) = system.schema(record) {
            for map in &found.maps {
                self.schemas.map_of(&found.info, map);
            }
            self.schemas.info(&found.info, Decoder::Manifest);
        }
    }

    /// Takes over the schema that a record carries, if it carries one; true if it did. For
    /// events that come before their schema. [`PayloadDecoder::decode`] does it by itself.
    pub fn learn(&mut self, record: &Record<'_>) -> bool {
        if self.schemas.learn(record) {
            self.cache.clear();
            return true;
        }
        let found = match record.identity {
            Identity::Event if !record.ext.is_empty() => ext::look(record.ext),
            _ => return false,
        };
        found.schema.is_none() && found.traits.is_some_and(|t| self.learn_traits(record, t))
    }

    /// Memory that the schemas learnt so far take, about.
    pub(crate) fn learnt_bytes(&self) -> usize {
        self.schemas.learnt_bytes()
    }

    /// Remembers the name of a provider.
    fn learn_traits(&mut self, record: &Record<'_>, traits: &[u8]) -> bool {
        let known = self.names.contains_key(&record.provider);
        if known || self.names.len() >= MAX_NAMES {
            return known;
        }
        let Some(mut traits) = tracelogging::traits(traits) else { return false };
        traits.name = name_of(&traits.name);
        self.names.insert(record.provider, traits);
        true
    }

    /// Appends one event to `batch`: the record, decoded as far as a schema is known, with its
    /// payload raw otherwise. A record that reports lost events becomes a gap event.
    /// `time_ns` is the record's time, nanoseconds since 1970, UTC.
    ///
    /// Returns what decoded it. Allocates nothing once the kind of event has been seen, unless
    /// a batch or the cache grows.
    pub fn decode(&mut self, record: &Record<'_>, time_ns: i64, batch: &mut Batch) -> Decoder {
        if record.provider == LOST_EVENT && record.identity == Identity::Classic {
            return self.lost(record, time_ns, batch);
        }
        if self.schemas.learn(record) {
            self.cache.clear();
        }
        let found = ext::look(record.ext);
        let key = Key::of(record, found.schema, found.traits);
        let index = match self.cache.find(&key) {
            Some(index) => index,
            None => {
                if found.schema.is_none() {
                    self.ask(record);
                }
                let entry = self.make(record, &found);
                self.cache.insert(&key, entry)
            }
        };
        let Some(entry) = self.cache.get_mut(index) else { return Decoder::None };
        let head = head(record, time_ns, found.related);
        if entry.decoder != Decoder::None {
            let mut event = batch.begin(&entry.schema, head);
            if entry.has_slots {
                self.slots.fill(0);
            }
            let (ops, pointer_size) = (&entry.ops, record.pointer_size);
            if let Some(rest) = run::run(ops, record.data, pointer_size, &mut self.slots, &mut event) {
                if !rest.is_empty() {
                    event.raw(rest);
                }
                ext::write(record, found.others, &mut event);
                event.finish();
                entry.decoded += 1;
                return entry.decoder;
            }
        }
        let mut event = batch.begin(&entry.raw_schema, head);
        event.raw(record.data);
        ext::write(record, found.others, &mut event);
        event.finish();
        entry.raw += 1;
        Decoder::None
    }

    fn lost(&self, record: &Record<'_>, time_ns: i64, batch: &mut Batch) -> Decoder {
        let (reason, what) = match record.opcode {
            33 => ("lost_buffer", "the session lost a buffer"),
            34 => ("lost_file", "the session lost the rest of a file"),
            _ => ("lost_events", "the session lost events"),
        };
        own::push_gap(
            batch,
            &Gap {
                origin: self.origin.clone(),
                reason: reason.to_owned(),
                detail: what.to_owned(),
                time_ns,
                ..Gap::default()
            },
        );
        Decoder::Own
    }

    fn make(&mut self, record: &Record<'_>, found: &ext::Found<'_>) -> Entry {
        // The traits of the event itself go first: a name is no identity.
        let own = found.traits.and_then(tracelogging::traits);
        let traits = own.as_ref().or_else(|| self.names.get(&record.provider));
        let class = match record.identity {
            Identity::Kernel { group } => kernel_class(group, record.opcode),
            _ => record.provider,
        };
        let in_event = found.schema.and_then(tracelogging::metadata).map(tracelogging::compiled);
        let (mut parts, ops) = in_event.or_else(|| self.schemas.find(record)).unwrap_or_default();
        // Of classic events the schema's provider is the class's owner; the class stays the key.
        parts.provider_guid = class;
        if parts.provider_name.is_empty() {
            let manifest = || self.schemas.provider_name(&class).map(str::to_owned);
            parts.provider_name = traits.map(|t| t.name.clone()).or_else(manifest).unwrap_or_default();
        }
        parts.group_guid = traits.and_then(|t| t.group);
        Entry::new(parts, ops)
    }

    /// How much could be decoded so far, by provider, in the order of their GUIDs.
    #[must_use]
    pub fn coverage(&self) -> Vec<Coverage> {
        coverage::collect(&self.cache)
    }
}

fn head(record: &Record<'_>, time_ns: i64, related: [u8; 16]) -> Head {
    let id = match record.identity {
        Identity::Message { number, .. } => number,
        _ => record.id,
    };
    Head {
        time_ns,
        keyword: record.keyword,
        pid: record.pid,
        tid: record.tid,
        cpu: record.cpu,
        id,
        task: record.task,
        version: u8::try_from(record.version).unwrap_or(u8::MAX),
        channel: record.channel,
        level: record.level,
        opcode: record.opcode,
        activity: record.activity,
        related,
        ..Head::default()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_class_of_loss_records() {
        let text = tidegate_proto::guid::format(&super::LOST_EVENT);
        assert_eq!(text, "6a399ae0-4bc6-4de9-870b-3657f8947e7e");
    }
}
