//! What pins see, for health and the audit log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tidegate_proto::time::format_rfc3339;
use tidegate_ring::Ring;
use tidegate_sinks::http::pins::{Pin, PinMonitor, PinState};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::audit::{Record, What};
use crate::clock::now_ns;

/// Entries in the audit log in a row, before the rest of them only counts in health.
const NEWS_MAX: usize = 64;

/// What needs someone to act, a line a host.
pub(super) fn alarms(states: &BTreeMap<String, PinState>) -> Vec<String> {
    let line = |(host, s): (&String, &PinState)| {
        if !s.ok {
            let what = if s.report_only { "connections go on (report only)" } else { "nothing is sent" };
            let missed = s.missed;
            return Some(format!("no pin of {host} is in its certificate chain, {missed} times: {what}"));
        }
        let end = s.not_after.filter(|_| s.expires_soon)?;
        let ns = i64::try_from(end.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_nanos());
        Some(format!(
            "the pinned certificate of {host} ends at {}: list its successor's pin before",
            format_rfc3339(ns.unwrap_or(i64::MAX))
        ))
    };
    states.iter().filter_map(line).collect()
}

/// Tells failures that are new: a host that fails after it did not, or with another chain.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeSet<(String, Vec<Pin>)>);

impl Told {
    /// What is to be put down now.
    pub fn news(&mut self, states: &BTreeMap<String, PinState>) -> Vec<What> {
        let mut news = Vec::new();
        for (host, state) in states {
            if state.ok {
                self.0.retain(|(told, _)| told != host);
                continue;
            }
            if self.0.len() < NEWS_MAX && self.0.insert((host.clone(), state.chain.clone())) {
                let keys: Vec<String> = state.chain.iter().map(Pin::to_string).collect();
                let what = if state.report_only { ", report only" } else { "" };
                let reason = match keys.as_slice() {
                    [] => format!("its chain cannot be shown{what}"),
                    keys => format!("the keys of its verified chain are {}{what}", keys.join(", ")),
                };
                news.push(What::PinFailure { endpoint: host.clone(), reason });
            }
        }
        news
    }
}

/// Puts pin failures into the audit log until it is told to stop. Sleeps while nothing is new.
pub(super) async fn keep_book(monitor: PinMonitor, ring: Arc<dyn Ring>, stop: CancellationToken) {
    let mut changed = monitor.news();
    let mut told = Told::default();
    loop {
        let news = told.news(&monitor.states());
        for what in news {
            let ring = Arc::clone(&ring);
            let record = Record::new(now_ns(), "tls pins", what);
            let done = tokio::task::spawn_blocking(move || record.append(&*ring)).await;
            if let Ok(Err(e)) = done {
                error!(error = %e, "a pin failure cannot be put into the audit log");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            news = changed.changed() => if news.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(ok: bool, chain: &[u8]) -> PinState {
        let end = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        PinState {
            matched: u64::from(ok),
            missed: u64::from(!ok),
            report_only: false,
            ok,
            last: UNIX_EPOCH,
            chain: vec![Pin::of_spki(chain)],
            not_after: Some(end),
            expires_soon: false,
        }
    }

    fn states(state: PinState) -> BTreeMap<String, PinState> {
        BTreeMap::from([("h.test".to_owned(), state)])
    }

    #[test]
    fn a_failure_is_told_once_and_again_after_it_has_ended_or_changed() {
        let mut told = Told::default();
        let mut count = |s: PinState| told.news(&states(s)).len();
        assert_eq!(count(state(true, b"a")), 0);
        assert_eq!((count(state(false, b"a")), count(state(false, b"a"))), (1, 0));
        assert_eq!((count(state(false, b"b")), count(state(false, b"b"))), (1, 0));
        assert_eq!((count(state(true, b"a")), count(state(false, b"a"))), (0, 1));
    }

    #[test]
    fn health_names_what_fails_and_what_ends_soon() {
        assert!(alarms(&states(state(true, b"a"))).is_empty());
        let failing = alarms(&states(state(false, b"a")));
        assert!(failing[0].contains("h.test") && failing[0].contains("nothing is sent"), "{failing:?}");
        let ending = alarms(&states(PinState { expires_soon: true, ..state(true, b"a") }));
        assert!(ending[0].contains("ends at 2027-01-15"), "{ending:?}");
        let forever = PinState { expires_soon: true, not_after: None, ..state(true, b"a") };
        assert!(alarms(&states(forever)).is_empty());
    }
}
