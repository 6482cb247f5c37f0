//! Gap records: the far side is told of every event that went from the ring before a sink had it.
//!
//! What is to be told follows from the ring's account: what counts as lost, less what a run under way
//! may take back, less what was told. What was told is the position of a source of its own, stored
//! with the record or not at all. So each lost event is told once, over any stop or crash.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_proto::batch::Batch;
use tidegate_proto::ids::{Seq, SinkId};
use tidegate_proto::level::{LossReason, TelemetryLevel};
use tidegate_proto::own::{Gap, push_gap};
use tidegate_ring::{Hole, PerLevel, Ring, SinkAccount};
use tidegate_sources::{Intake, Outlet};

use super::running::{Shared, blocking};
use crate::clock::now_ns;
use crate::dispatch::{Missed, Stats};

/// The level of a gap record: at level Security none is made, what is owed is told when the level
/// allows it.
const LEVEL: TelemetryLevel = TelemetryLevel::Basic;

/// What goes from the ring itself; what a sink's filter or the level leaves out is no gap.
const REASONS: [LossReason; 4] =
    [LossReason::Evicted, LossReason::Expired, LossReason::Purged, LossReason::Corrupt];

/// What was told of one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    /// Events, since the sink was attached.
    events: u64,
    /// The highest place that a record has named.
    upto: u64,
}

/// What is owed for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owed {
    events: u64,
    /// Between which places, where that is known still.
    places: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Sink {
    id: SinkId,
    outlet: Outlet,
    told: BTreeMap<LossReason, Told>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Gaps(Vec<Sink>);

fn source(id: &SinkId) -> String {
    // no source of the configuration can have such a name
    format!("{}:gaps:{id}", super::OWN_SOURCE)
}

fn encode(told: &BTreeMap<LossReason, Told>) -> Vec<u8> {
    let named: BTreeMap<&str, &Told> = told.iter().map(|(r, t)| (r.as_str(), t)).collect();
    serde_json::to_vec(&named).unwrap_or_default()
}

/// What cannot be read was not told.
fn decode(bytes: &[u8]) -> BTreeMap<LossReason, Told> {
    let named: BTreeMap<String, Told> = serde_json::from_slice(bytes).unwrap_or_default();
    REASONS.into_iter().filter_map(|r| Some((r, *named.get(r.as_str())?))).collect()
}

fn sum(levels: Option<&PerLevel>) -> u64 {
    levels.map_or(0, |l| l.iter().sum())
}

/// What is to be told of one reason, and what is told then.
fn owed(
    account: &SinkAccount,
    reason: LossReason,
    told: Told,
    holes: &[Hole],
    missed: Option<&Missed>,
) -> Option<(Owed, Told)> {
    let lost = sum(account.lost.get(&reason));
    let certain = lost.saturating_sub(sum(account.lost_in_flight.get(&reason)));
    let events = certain.checked_sub(told.events).filter(|n| *n > 0)?;
    let holes = holes.iter().filter(|h| h.reason == reason).map(|h| (h.range.first().0, h.range.last().0));
    let places = holes.chain(missed.map(|m| (m.first.0, m.last.0)));
    let places = places.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
    // it goes from the oldest on, but for critical events, which stay longer
    let behind =
        |(first, last): (u64, u64)| (if last > told.upto { first.max(told.upto + 1) } else { first }, last);
    let places = places.map(behind);
    let upto = told.upto.max(places.map_or(0, |p| p.1));
    Some((Owed { events, places }, Told { events: certain, upto }))
}

impl Gaps {
    /// For the sinks of a run.
    pub fn new<'a>(ring: &dyn Ring, intake: &Intake, sinks: impl Iterator<Item = &'a SinkId>) -> Gaps {
        let sink = |id: &SinkId| {
            let name = source(id);
            let told = ring.source_position(&name).map(|p| decode(&p)).unwrap_or_default();
            Sink { id: id.clone(), outlet: intake.outlet(&name), told }
        };
        Gaps(sinks.map(sink).collect())
    }

    /// Hands over what is owed now, where the level in force allows it.
    pub async fn tell(&mut self, shared: &Arc<Shared>) {
        let now = shared.control.now();
        if self.0.is_empty() || !now.enabled || now.level < LEVEL {
            return;
        }
        let ids: Vec<SinkId> = self.0.iter().map(|s| s.id.clone()).collect();
        let look = move |ring: &dyn Ring| {
            let (cursors, account) = (ring.status().cursors, ring.account());
            let of = |id: &SinkId| {
                let settled = cursors.get(id).map_or(Seq::ZERO, |c| c.settled);
                (account.sinks.get(id).cloned().unwrap_or_default(), ring.holes(settled))
            };
            ids.iter().map(of).collect::<Vec<_>>()
        };
        let Ok(all) = blocking(shared, look).await else { return };
        for (sink, (account, holes)) in self.0.iter_mut().zip(all) {
            let stats = shared.stats.get(sink.id.as_str());
            if !sink.tell(&account, &holes, stats.map(|s| &**s)).await {
                return;
            }
        }
    }
}

impl Sink {
    /// `false`: the intake is gone.
    async fn tell(&mut self, account: &SinkAccount, holes: &[Hole], stats: Option<&Stats>) -> bool {
        // less is lost than was told: a sink of this name was detached, and this is another
        self.told.retain(|reason, told| told.events <= sum(account.lost.get(reason)));
        let missed = stats.map(Stats::take_missed).unwrap_or_default();
        let (mut batch, mut after) = (Batch::new(), self.told.clone());
        for reason in REASONS {
            let told = self.told.get(&reason).copied().unwrap_or_default();
            let Some((owed, told)) = owed(account, reason, told, holes, missed.get(&reason)) else {
                // a run under way decides; the places are told then
                if let (Some(stats), Some(m), true) =
                    (stats, missed.get(&reason), account.lost_in_flight.contains_key(&reason))
                {
                    stats.note_missed(reason, m);
                }
                continue;
            };
            let detail = match owed.places {
                Some((first, last)) => format!("between places {first} and {last}"),
                None => "at places that the sink has passed".to_owned(),
            };
            let gap = Gap {
                origin: format!("ring, sink {}", self.id),
                reason: reason.as_str().to_owned(),
                events: Some(owed.events),
                detail,
                offset: None,
                time_ns: now_ns(),
            };
            push_gap(&mut batch, &gap);
            after.insert(reason, told);
        }
        if batch.is_empty() {
            return true;
        }
        let sent = self.outlet.send(batch, encode(&after)).await.is_ok();
        if sent {
            self.told = after;
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_proto::ids::SeqRange;

    fn account(lost: u64, in_flight: u64) -> SinkAccount {
        let by = |n| BTreeMap::from([(LossReason::Evicted, [0, 0, n, 0])]);
        SinkAccount { lost: by(lost), lost_in_flight: by(in_flight), ..SinkAccount::default() }
    }

    fn hole(first: u64, last: u64) -> Hole {
        let range = SeqRange::new(Seq(first), Seq(last)).unwrap();
        Hole { range, events: range.len(), reason: LossReason::Evicted }
    }

    #[test]
    fn each_lost_event_is_owed_once_and_what_is_under_way_not_yet() {
        let owed = |account: &SinkAccount, told, holes: &[Hole]| {
            owed(account, LossReason::Evicted, told, holes, None)
        };
        let (first, told) = owed(&account(10, 4), Told::default(), &[hole(1, 10)]).unwrap();
        assert_eq!(first, Owed { events: 6, places: Some((1, 10)) });
        assert_eq!(owed(&account(10, 4), told, &[hole(1, 10)]), None);
        // two of the four came back
        let (second, told) = owed(&account(8, 0), told, &[]).unwrap();
        assert_eq!(second, Owed { events: 2, places: None });
        // the hole has grown: what was told of it is not told again
        let (third, told) = owed(&account(20, 0), told, &[hole(1, 22)]).unwrap();
        assert_eq!(third, Owed { events: 12, places: Some((11, 22)) });
        assert_eq!(decode(&encode(&[(LossReason::Evicted, told)].into()))[&LossReason::Evicted], told);
        assert_eq!(owed(&account(20, 0), told, &[hole(1, 22)]), None);
    }
}
