//! Runs that failed and are tried again later, without keeping a place in the window: those that the
//! whole sink waits with, and those that wait alone while the others go on. Pure but for the clock
//! handed in.

use std::collections::BTreeMap;

use tidegate_ring::Part;
use tokio::time::Instant;

use super::flight::Job;

/// Batches that may wait alone at a time; beyond that nothing new is begun.
pub(super) const BLOCKED_MOST: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Later {
    waiting: Vec<(Instant, Job)>,
    /// What is to be done about runs that wait alone. They stay here while they are tried again.
    blocked: BTreeMap<Part, String>,
}

impl Later {
    /// Puts a run aside until `at`.
    pub fn add(&mut self, job: Job, at: Instant) {
        self.waiting.push((at, job));
    }

    /// Notes that a run waits alone, and what is to be done; whether nobody was told to do that yet.
    pub fn block(&mut self, part: Part, advice: String) -> bool {
        let news = !self.blocked.values().any(|a| *a == advice);
        self.blocked.insert(part, advice);
        news
    }

    /// Notes that a run waits alone no more; whether it did.
    pub fn unblock(&mut self, part: Part) -> bool {
        self.blocked.remove(&part).is_some()
    }

    /// Takes out the runs that are due, the earliest first.
    pub fn due(&mut self, now: Instant) -> Vec<Job> {
        let (mut due, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(at, _)| *at <= now);
        self.waiting = rest;
        due.sort_by_key(|(at, job)| (*at, job.part));
        due.into_iter().map(|(_, job)| job).collect()
    }

    /// When the next run is due.
    pub fn next(&self) -> Option<Instant> {
        self.waiting.iter().map(|(at, _)| *at).min()
    }

    /// Whether none is put aside.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The runs that are put aside.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.waiting.iter().map(|(_, job)| job)
    }

    /// How many places are put aside.
    pub fn places(&self) -> u64 {
        self.jobs().map(|job| job.events).sum()
    }

    /// Whether a new run may be begun, where the whole sink may wait with `most` runs: those of before
    /// are tried first, so that a sink that holds does not plan the whole ring.
    pub fn may_begin(&self, most: usize) -> bool {
        let alone = |job: &Job| self.blocked.contains_key(&job.part);
        let together = self.waiting.iter().filter(|(_, job)| !alone(job)).count();
        together <= most && self.blocked.len() < BLOCKED_MOST
    }

    /// What is to be said of the runs that wait alone; `None` when none does.
    pub fn alarm(&self) -> Option<String> {
        let (part, advice) = self.blocked.first_key_value()?;
        let first = part.range.first();
        Some(match self.blocked.len() {
            1 => format!("the batch from {first} on waits, others go on: {advice}"),
            n if n < BLOCKED_MOST => {
                format!("{n} batches wait, others go on; the first, from {first} on: {advice}")
            }
            n => format!("{n} batches wait, so nothing new is sent; the first, from {first} on: {advice}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_proto::ids::{Seq, SeqRange};
    use tidegate_ring::Lanes;

    use super::*;

    fn part(first: u64, last: u64) -> Part {
        SeqRange::new(Seq(first), Seq(last)).unwrap().into()
    }

    fn firsts(jobs: Vec<Job>) -> Vec<u64> {
        jobs.iter().map(|j| j.part.range.first().0).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn runs_come_back_when_they_are_due() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut later = Later::default();
        later.add(Job::of(part(21, 30)), now + 2 * second);
        later.add(Job::of(part(11, 20)), now + second);
        later.add(Job::of(part(1, 10)), now + second);
        assert_eq!((later.next(), later.places()), (Some(now + second), 30));
        assert!(later.due(now).is_empty());
        assert_eq!(firsts(later.due(now + second)), [1, 11]);
        assert_eq!(firsts(later.due(now + 5 * second)), [21]);
        assert!(later.is_empty() && later.next().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_wait_alone_and_so_many_together() {
        let now = Instant::now();
        let mut later = Later::default();
        assert_eq!(later.alarm(), None);
        for n in 1..=BLOCKED_MOST as u64 {
            assert!(later.may_begin(0), "those who wait alone keep no place in the window");
            later.add(Job::of(part(n, n)), now);
            assert!(later.block(part(n, n), format!("mend {n}")));
            assert!(!later.block(part(n, n), format!("mend {n}")), "told once");
        }
        assert!(!later.may_begin(100));
        let alarm = later.alarm().unwrap();
        assert!(alarm.contains("16 batches") && alarm.contains("nothing new") && alarm.contains("mend 1"));
        assert_eq!(later.due(now).len(), BLOCKED_MOST);
        assert!(!later.may_begin(100), "as long as they are tried again");
        assert!(later.unblock(part(1, 1)) && !later.unblock(part(1, 1)));
        assert!(later.may_begin(0));
        assert!(later.alarm().unwrap().contains("15 batches wait, others go on"));
        for n in 0..3 {
            later.add(Job::of(part(100 + n, 100 + n)), now);
        }
        assert!(later.may_begin(3) && !later.may_begin(2));
    }

    #[tokio::test(start_paused = true)]
    async fn parts_in_other_lanes_wait_apart_though_they_begin_at_one_place() {
        let now = Instant::now();
        let mut later = Later::default();
        let [a, b] = [1, 2].map(|lane| Part { lanes: Lanes::of(lane), ..part(1, 10) });
        later.add(Job { events: 7, ..Job::of(a) }, now);
        later.add(Job { events: 2, ..Job::of(b) }, now);
        assert_eq!(later.places(), 9);
        assert!(later.block(a, "mend it".into()) && !later.block(b, "mend it".into()));
        assert!(later.unblock(a));
        assert!(later.alarm().unwrap().contains("the batch from 1 on waits"), "the other one does");
        assert!(later.may_begin(1) && !later.may_begin(0), "the one that waits no more alone counts");
        assert!(later.unblock(b) && later.alarm().is_none());
    }
}
