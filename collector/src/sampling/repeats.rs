//! Equal events within a time become the first of them and a count.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use tidegate_proto::batch::{Batch, EventRef, Fields, Head};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::own::schema;
use tidegate_proto::schema::Schema;
use tidegate_proto::value::{Format, ValueRef};

use super::Sampler;

/// Event id of a run of repeats.
pub const REPEATS_ID: u16 = 4;

#[derive(Debug)]
struct Run {
    schema: Arc<Schema>,
    id: u16,
    level: TelemetryLevel,
    ends_ns: i64,
    repeats: u64,
    first_ns: i64,
    last_ns: i64,
}

/// Runs under way. Keyed by a hash that no sender can foresee.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    hasher: RandomState,
    runs: HashMap<u64, Run>,
    by_end: BTreeSet<(i64, u64)>,
    /// Ended runs that are still to be told.
    ended: Vec<Run>,
}

impl Repeats {
    /// Counts an event; `true` when it repeats one whose run has not ended.
    pub fn seen(&mut self, event: EventRef<'_>, level: TelemetryLevel, now_ns: i64, for_ns: i64) -> bool {
        let key = self.key(event);
        let time_ns = event.head().time_ns;
        if let Some(run) = self.runs.get_mut(&key) {
            if now_ns < run.ends_ns {
                run.repeats += 1;
                run.first_ns = run.first_ns.min(time_ns);
                run.last_ns = run.last_ns.max(time_ns);
                run.level = run.level.max(level);
                return true;
            }
            self.end(key);
        }
        if self.runs.len() >= Sampler::REPEATS
            && let Some((_, oldest)) = self.by_end.first().copied()
        {
            self.end(oldest);
        }
        let ends_ns = now_ns.saturating_add(for_ns);
        let run = Run {
            schema: Arc::clone(event.schema()),
            id: event.head().id,
            level,
            ends_ns,
            repeats: 0,
            first_ns: time_ns,
            last_ns: time_ns,
        };
        self.runs.insert(key, run);
        self.by_end.insert((ends_ns, key));
        false
    }

    fn end(&mut self, key: u64) {
        if let Some(run) = self.runs.remove(&key) {
            self.by_end.remove(&(run.ends_ns, key));
            // bounded even where nobody takes them: then the newest counts go
            if run.repeats > 0 && self.ended.len() < 4 * Sampler::REPEATS {
                self.ended.push(run);
            }
        }
    }

    pub fn next_due(&self) -> Option<i64> {
        if !self.ended.is_empty() {
            return Some(i64::MIN);
        }
        self.by_end.first().map(|(at, _)| *at)
    }

    pub fn take(&mut self, now_ns: i64, batch: &mut Batch) {
        static SCHEMA: LazyLock<Arc<Schema>> =
            LazyLock::new(|| schema("Repeats", &["provider", "event", "id", "count", "first", "last"]));
        while let Some((_, key)) = self.by_end.first().copied().filter(|(at, _)| *at <= now_ns) {
            self.end(key);
        }
        for run in self.ended.drain(..) {
            let head = Head {
                time_ns: run.last_ns,
                id: REPEATS_ID,
                level: 4,
                telemetry_level: Some(run.level),
                ..Head::default()
            };
            let time = |ns| ValueRef::FileTime(tidegate_proto::time::unix_ns_to_filetime(ns));
            let mut event = batch.begin(&SCHEMA, head);
            event.value(0, Format::Default, ValueRef::Str(&run.schema.provider_name));
            event.value(1, Format::Default, ValueRef::Str(&run.schema.event_name));
            event.value(2, Format::Default, ValueRef::U16(run.id));
            event.value(3, Format::Default, ValueRef::U64(run.repeats));
            event.value(4, Format::Default, time(run.first_ns));
            event.value(5, Format::Default, time(run.last_ns));
            event.finish();
        }
    }

    /// What makes an event the same as another: all but time, processor and thread.
    fn key(&self, event: EventRef<'_>) -> u64 {
        let (head, mut h) = (event.head(), self.hasher.build_hasher());
        event.schema().id().hash(&mut h);
        (head.id, head.version, head.level, head.opcode, head.keyword, head.pid).hash(&mut h);
        fields(event.fields(), &mut h);
        event.raw().hash(&mut h);
        h.finish()
    }
}

fn fields(list: Fields<'_>, h: &mut impl Hasher) {
    for field in list {
        field.name_index.hash(h);
        std::mem::discriminant(&field.value).hash(h);
        match field.value {
            ValueRef::Null => {}
            ValueRef::Bool(v) => v.hash(h),
            ValueRef::I8(v) => v.hash(h),
            ValueRef::I16(v) => v.hash(h),
            ValueRef::I32(v) => v.hash(h),
            ValueRef::I64(v) => v.hash(h),
            ValueRef::U8(v) => v.hash(h),
            ValueRef::U16(v) => v.hash(h),
            ValueRef::U32(v) => v.hash(h),
            ValueRef::U64(v) | ValueRef::FileTime(v) | ValueRef::Pointer(v) => v.hash(h),
            ValueRef::F32(v) => v.to_bits().hash(h),
            ValueRef::F64(v) => v.to_bits().hash(h),
            ValueRef::Str(v) => v.hash(h),
            ValueRef::Bytes(v) | ValueRef::Sid(v) | ValueRef::SockAddr(v) => v.hash(h),
            ValueRef::Guid(v) | ValueRef::SystemTime(v) | ValueRef::Ipv6(v) => v.hash(h),
            ValueRef::Ipv4(v) => v.hash(h),
            ValueRef::Enum { value, label } => (value, label).hash(h),
            // depth is bounded by the batch
            ValueRef::Struct(inner) | ValueRef::Array(inner) => fields(inner, h),
        }
    }
    h.write_u8(0xff);
}
