//! The schemas that are known beside those in the events themselves.

use super::cache::mix;
use super::chunks::{self, Chunks};
use super::embedded::{self, InfoKey};
use super::manifest::{self, ManifestError, Provider};
use super::plan::{Op, ValueMap};
use super::tdh::Builder;
use crate::bytes::array;
use crate::record::{Identity, Record};
use std::collections::HashMap;
use std::sync::Arc;
use tidegate_proto::schema::{Decoder, SchemaParts};

/// Class of the records that merging adds, one per kind of event.
const META: [u8; 16] =
    [0xc1, 0xf6, 0xcc, 0xbb, 0xd1, 0x6c, 0xc4, 0x48, 0x80, 0xff, 0x83, 0x94, 0x82, 0xe3, 0x76, 0x71];
const META_EVENT: u8 = 32;
const META_MAP: u8 = 33;
/// Bytes of embedded schemas kept.
const MAX_INFO_BYTES: usize = 12 << 20;
/// Bytes of manifest texts in the trace that are used.
const MAX_CARRIED_BYTES: usize = 6 << 20;
/// Definitions in those manifests.
const MAX_CARRIED_ITEMS: usize = 65_536;
/// Providers whose manifests are remembered, damaged ones too.
const MAX_CARRIERS: usize = 4_096;
/// Manifests of one provider in the trace that are used.
const MAX_VERSIONS: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Schemas {
    infos: HashMap<InfoKey, (Decoder, Box<[u8]>)>,
    maps: HashMap<([u8; 16], String), Arc<ValueMap>>,
    info_bytes: usize,
    /// Given by the user.
    given: HashMap<[u8; 16], Vec<Provider>>,
    /// Carried in the trace.
    carried: HashMap<[u8; 16], Vec<Provider>>,
    /// Length and hash of the texts of `carried`, to know a copy.
    texts: HashMap<[u8; 16], Vec<(usize, u64)>>,
    carried_bytes: usize,
    carried_items: usize,
    chunks: Chunks,
}

/// A compiled schema.
pub(crate) type Compiled = (SchemaParts, Vec<Op>);

fn compiled((mut parts, mut build): (SchemaParts, Builder)) -> Compiled {
    build.whole_stacks();
    parts.fields = build.fields;
    (parts, build.ops)
}

impl Schemas {
    /// Takes over the schema in a record. True when something new is known.
    pub(crate) fn learn(&mut self, record: &Record<'_>) -> bool {
        match record.identity {
            Identity::Classic if record.provider == META => match record.opcode {
                META_EVENT => self.info(record.data, Decoder::Embedded),
                META_MAP => array(record.data, 0)
                    .zip(record.data.get(16..))
                    .is_some_and(|(provider, map)| self.map(provider, map)),
                _ => false,
            },
            Identity::Event if chunks::is_chunk(record) => {
                self.chunks.add(record).is_some_and(|text| self.carry(record.provider, &text))
            }
            _ => false,
        }
    }

    /// Adds a TRACE_EVENT_INFO. The first for a kind of event is kept.
    pub(crate) fn info(&mut self, blob: &[u8], decoder: Decoder) -> bool {
        let Some(key) = embedded::key(blob) else { return false };
        if self.infos.contains_key(&key) || self.info_bytes + blob.len() > MAX_INFO_BYTES {
            return false;
        }
        self.info_bytes += blob.len();
        self.infos.insert(key, (decoder, blob.into()));
        true
    }

    /// Adds an EVENT_MAP_INFO of a provider.
    pub(crate) fn map(&mut self, provider: [u8; 16], blob: &[u8]) -> bool {
        let Some((name, map)) = embedded::map(blob) else { return false };
        let size: usize = map.entries.iter().map(|(_, label)| label.len() + 48).sum();
        if self.maps.contains_key(&(provider, name.clone())) || self.info_bytes + size > MAX_INFO_BYTES {
            return false;
        }
        self.info_bytes += size + name.len();
        self.maps.insert((provider, name), Arc::new(map));
        true
    }

    /// The same, of the provider that a TRACE_EVENT_INFO belongs to.
    pub(crate) fn map_of(&mut self, info: &[u8], blob: &[u8]) -> bool {
        provider_of(info).is_some_and(|provider| self.map(provider, blob))
    }

    /// Adds the manifest that an EventSource wrote. A damaged one is no schema.
    fn carry(&mut self, provider: [u8; 16], text: &[u8]) -> bool {
        if self.texts.len() >= MAX_CARRIERS && !self.texts.contains_key(&provider) {
            return false;
        }
        let known = self.texts.entry(provider).or_default();
        let copy = (text.len(), mix(0, text));
        if known.contains(&copy)
            || known.len() >= MAX_VERSIONS
            || self.carried_bytes + text.len() > MAX_CARRIED_BYTES
        {
            return false;
        }
        known.push(copy);
        let left = MAX_CARRIED_ITEMS - self.carried_items;
        let Ok((found, items)) = manifest::read_some(text, left) else { return false };
        let own: Vec<Provider> = found.into_iter().filter(|p| p.guid == provider).collect();
        if own.is_empty() {
            return false;
        }
        self.carried_bytes += text.len();
        self.carried_items += items;
        self.carried.entry(provider).or_default().extend(own);
        true
    }

    /// Memory of what was learnt from the trace, about. A manifest takes more when it is read than
    /// its text did.
    pub(crate) fn learnt_bytes(&self) -> usize {
        self.info_bytes + 3 * self.carried_bytes + self.chunks.bytes()
    }

    /// Adds a manifest given by the user; returns the number of events it describes.
    pub(crate) fn give(&mut self, bytes: &[u8]) -> Result<usize, ManifestError> {
        let providers = manifest::read(bytes)?;
        let events = providers.iter().map(Provider::len).sum();
        for provider in providers {
            self.given.entry(provider.guid).or_default().push(provider);
        }
        Ok(events)
    }

    /// The name of a provider, where a manifest tells it.
    pub(crate) fn provider_name(&self, provider: &[u8; 16]) -> Option<&str> {
        let first = self.given.get(provider).or_else(|| self.carried.get(provider))?.first()?;
        Some(&first.name)
    }

    /// The schema of a record: the user's, then what merging embedded, then an EventSource's.
    pub(crate) fn find(&self, record: &Record<'_>) -> Option<Compiled> {
        if let Identity::Message { .. } = record.identity {
            return Some((SchemaParts { decoder: Decoder::Wpp, ..SchemaParts::default() }, Vec::new()));
        }
        let key = key(record)?;
        // Kernel classes have layouts of their own; where there is only a name, an embedded
        // schema is better.
        let kernel = super::kernel::find(record);
        if kernel.as_ref().is_some_and(|(parts, _)| parts.decoder != Decoder::None) {
            return kernel;
        }
        if let InfoKey::Event(..) = key {
            if chunks::is_chunk(record) {
                return Some(chunks::schema());
            }
            if let Some(found) = described(&self.given, record, Decoder::Manifest) {
                return Some(found);
            }
        }
        let embedded = self.infos.get(&key).and_then(|(decoder, blob)| {
            let map = |name: &str| self.maps.get(&(provider_of(blob)?, name.to_owned())).cloned();
            embedded::compile(blob, *decoder, &map)
        });
        match embedded {
            Some(found) => Some(compiled(found)),
            None => described(&self.carried, record, Decoder::EventSource).or(kernel),
        }
    }
}

/// What a TRACE_EVENT_INFO for a record is found by; none where there can be none.
pub(super) fn key(record: &Record<'_>) -> Option<InfoKey> {
    Some(match record.identity {
        Identity::Event => InfoKey::Event(record.provider, record.id, record.version),
        Identity::Classic => InfoKey::Classic(record.provider, record.opcode, record.version),
        Identity::Kernel { group } => {
            let class = super::kernel_class(group, record.opcode);
            InfoKey::Classic(class, record.opcode, record.version)
        }
        Identity::Message { .. } | Identity::Other => return None,
    })
}

/// The provider that a TRACE_EVENT_INFO belongs to.
fn provider_of(blob: &[u8]) -> Option<[u8; 16]> {
    array(blob, 0)
}

fn described(
    providers: &HashMap<[u8; 16], Vec<Provider>>,
    record: &Record<'_>,
    decoder: Decoder,
) -> Option<Compiled> {
    let version = u8::try_from(record.version).ok()?;
    let all = providers.get(&record.provider)?;
    all.iter().find_map(|p| p.compile(record.id, version, decoder)).map(compiled)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_class_of_embedded_schemas() {
        let text = tidegate_proto::guid::format(&super::META);
        assert_eq!(text, "bbccf6c1-6cd1-48c4-80ff-839482e37671");
    }
}
