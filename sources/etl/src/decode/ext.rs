//! Extended data items into a batch.

use crate::bytes::{array, u32_at, u64_at};
use crate::record::{Ext, ExtItems, ExtKind, Identity, Record};
use tidegate_proto::batch::{EventBuilder, ExtKey, NO_NAME};
use tidegate_proto::guid;
use tidegate_proto::value::{Format, ValueRef};

/// What one look over the items of a record finds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Found<'a> {
    pub(crate) schema: Option<&'a [u8]>,
    pub(crate) traits: Option<&'a [u8]>,
    pub(crate) related: [u8; 16],
    /// Whether there are items for [`write`].
    pub(crate) others: bool,
}

pub(crate) fn look<'a>(items: ExtItems<'a>) -> Found<'a> {
    let mut found = Found::default();
    for Ext { kind, data } in items {
        match ExtKind::from_u16(kind) {
            Some(ExtKind::TlSchema) => found.schema = found.schema.or(Some(data)),
            Some(ExtKind::ProviderTraits) => found.traits = found.traits.or(Some(data)),
            Some(ExtKind::RelatedActivity) => found.related = array(data, 0).unwrap_or_default(),
            _ => found.others = true,
        }
    }
    found
}

/// Writes what the header and the items hold beside the event's head and schema.
pub(crate) fn write(record: &Record<'_>, others: bool, out: &mut EventBuilder<'_>) {
    header(record, out);
    if others {
        for item in record.ext {
            one(item, out);
        }
    }
}

fn header(record: &Record<'_>, out: &mut EventBuilder<'_>) {
    let times = record.processor_time;
    if times != 0 {
        // Two numbers, but in the sessions inside a process that no file of ours is from.
        out.ext(ExtKey::KernelTime, ValueRef::U32(times as u32));
        out.ext(ExtKey::UserTime, ValueRef::U32((times >> 32) as u32));
    }
    if let Some((id, parent)) = record.instance {
        out.ext(ExtKey::InstanceId, ValueRef::U32(id));
        out.ext(ExtKey::ParentInstanceId, ValueRef::U32(parent));
        out.ext(ExtKey::ParentGuid, ValueRef::Guid(record.parent_class));
    }
    if let Identity::Message { sequence: Some(n), .. } = record.identity {
        out.ext(ExtKey::Sequence, ValueRef::U32(n));
    }
}

fn one(Ext { kind, data }: Ext<'_>, out: &mut EventBuilder<'_>) {
    let number = |b: &[u8]| u64_at(b, 0).or_else(|| u32_at(b, 0).map(u64::from));
    let written = match ExtKind::from_u16(kind) {
        Some(ExtKind::TlSchema | ExtKind::ProviderTraits | ExtKind::RelatedActivity) => Some(()),
        Some(ExtKind::Sid) => {
            out.ext(ExtKey::Sid, ValueRef::Sid(data));
            Some(())
        }
        Some(ExtKind::TsId) => u32_at(data, 0).map(|n| out.ext(ExtKey::TsId, ValueRef::U32(n))),
        Some(ExtKind::InstanceInfo) => u32_at(data, 0).zip(u32_at(data, 4)).map(|(id, parent)| {
            out.ext(ExtKey::InstanceId, ValueRef::U32(id));
            out.ext(ExtKey::ParentInstanceId, ValueRef::U32(parent));
            if let Some(class) = array(data, 8) {
                out.ext(ExtKey::ParentGuid, ValueRef::Guid(class));
            }
        }),
        Some(ExtKind::Stack32) => stack::<4>(data, out),
        Some(ExtKind::Stack64) => stack::<8>(data, out),
        Some(ExtKind::PebsIndex) => number(data).map(|n| out.ext(ExtKey::Pebs, ValueRef::U64(n))),
        Some(ExtKind::PmcCounters) => {
            out.begin_ext_array(ExtKey::Pmc);
            for counter in data.as_chunks().0 {
                out.value(NO_NAME, Format::Default, ValueRef::U64(u64::from_le_bytes(*counter)));
            }
            out.end();
            Some(())
        }
        Some(ExtKind::PsmKey) => number(data).map(|n| out.ext(ExtKey::PsmKey, ValueRef::U64(n))),
        Some(ExtKind::EventKey) => number(data).map(|n| out.ext(ExtKey::EventKey, ValueRef::U64(n))),
        Some(ExtKind::ProcessStartKey) => {
            number(data).map(|n| out.ext(ExtKey::ProcessStartKey, ValueRef::U64(n)))
        }
        Some(ExtKind::ControlGuid) => array(data, 0).map(|g| out.ext(ExtKey::ControlGuid, ValueRef::Guid(g))),
        Some(ExtKind::QpcDelta) => number(data).map(|n| out.ext(ExtKey::QpcDelta, ValueRef::U64(n))),
        Some(ExtKind::ContainerId) => container(data, out),
        None => None,
    };
    if written.is_none() {
        out.ext(ExtKey::Other, ValueRef::Bytes(data));
    }
}

/// A match id, then addresses.
fn stack<const N: usize>(data: &[u8], out: &mut EventBuilder<'_>) -> Option<()> {
    let id = u64_at(data, 0)?;
    if id != 0 {
        out.ext_formatted(ExtKey::StackKey, Format::Hex, ValueRef::U64(id));
    }
    out.begin_ext_array(ExtKey::Stack);
    for address in data.get(8..)?.as_chunks::<N>().0 {
        let mut wide = [0; 8];
        for (to, from) in wide.iter_mut().zip(address) {
            *to = *from;
        }
        out.value(NO_NAME, Format::Default, ValueRef::Pointer(u64::from_le_bytes(wide)));
    }
    out.end();
    Some(())
}

/// The text of a GUID, with or without braces and a NUL.
fn container(data: &[u8], out: &mut EventBuilder<'_>) -> Option<()> {
    let text = std::str::from_utf8(data).ok()?.trim_end_matches('\0');
    match guid::parse(text) {
        Some(id) => out.ext(ExtKey::ContainerId, ValueRef::Guid(id)),
        None => out.ext(ExtKey::ContainerId, ValueRef::Str(text)),
    }
    Some(())
}
