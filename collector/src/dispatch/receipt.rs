//! What one settled run leaves in the receipts chain, as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidegate_proto::level::LossReason;
use tidegate_proto::time;
use tidegate_ring::PerLevel;
use tidegate_sinks::{Delivered, Object, SinkBatch};

/// Objects that one receipt names.
const MAX_OBJECTS: usize = 128;
/// Bytes of their JSON; a ring's entry may have 64 KiB.
const MAX_OBJECTS_BYTES: usize = 48 << 10;
/// Characters of a destination: the longest name of a blob, and the container's address.
const MAX_DESTINATION: usize = 1_500;

/// Counts of a settled run.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub delivered: PerLevel,
    pub rejected: PerLevel,
    pub lost: BTreeMap<LossReason, PerLevel>,
}

/// The receipt of a run. Its members:
/// `sink`, `host`, `stream`, `epoch`, `first`, `last` (places), `time`, `level` (in force),
/// `delivered`, `rejected` (per level, four numbers), `lost` (reason → per level), `objects`
/// (`to`, `sha256`, `bytes`, `events`, `id`, `found`), `more_objects` where there were more.
pub(super) fn receipt(
    sink: &str,
    batch: &SinkBatch,
    counts: &Counts,
    done: &Delivered,
    now_ns: i64,
) -> Vec<u8> {
    let lost: BTreeMap<&str, &PerLevel> = counts.lost.iter().map(|(r, n)| (r.as_str(), n)).collect();
    let mut room = MAX_OBJECTS_BYTES;
    let fits = |value: &Value| {
        let left = room.checked_sub(value.to_string().len());
        room = left.unwrap_or(0);
        left.is_some()
    };
    let objects: Vec<Value> = done.objects.iter().take(MAX_OBJECTS).map(object).take_while(fits).collect();
    let more = done.objects.len() - objects.len();
    let origin = batch.origin();
    let mut receipt = json!({
        "sink": sink,
        "host": origin.host,
        "stream": origin.stream,
        "epoch": format!("{:016x}", origin.epoch),
        "first": batch.range().first().0,
        "last": batch.range().last().0,
        "time": time::format_rfc3339(now_ns),
        "level": batch.level() as u8,
        "delivered": counts.delivered,
        "rejected": counts.rejected,
        "lost": lost,
        "objects": objects,
    });
    if let (1.., Some(members)) = (more, receipt.as_object_mut()) {
        members.insert("more_objects".to_owned(), more.into());
    }
    receipt.to_string().into_bytes()
}

fn object(o: &Object) -> Value {
    let mut sha256 = String::with_capacity(64);
    for b in o.sha256 {
        use std::fmt::Write as _;
        // writing to a text does not fail
        let _ = write!(sha256, "{b:02x}");
    }
    json!({
        "to": short(&o.destination, MAX_DESTINATION), "sha256": sha256, "bytes": o.len, "events": o.events,
        "id": short(&o.server_id, 80), "found": o.found,
    })
}

fn short(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}
