//! What one settled run leaves in the receipts chain, as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidegate_proto::level::LossReason;
use tidegate_proto::time;
use tidegate_ring::PerLevel;
use tidegate_sinks::{Delivered, Object, SinkBatch};

/// Objects that one receipt names; a ring's entry has room for about twice as many.
const MAX_OBJECTS: usize = 128;

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
    let objects: Vec<Value> = done.objects.iter().take(MAX_OBJECTS).map(object).collect();
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
    if let (more @ 1.., Some(members)) =
        (done.objects.len().saturating_sub(MAX_OBJECTS), receipt.as_object_mut())
    {
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
        "to": short(&o.destination, 200), "sha256": sha256, "bytes": o.len, "events": o.events,
        "id": short(&o.server_id, 80), "found": o.found,
    })
}

fn short(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}
