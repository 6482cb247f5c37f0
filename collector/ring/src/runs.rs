//! Sorted, disjoint runs of places.

use tidegate_proto::ids::{Seq, SeqRange};

/// A run of places, both ends inclusive.
pub(crate) type Run = (u64, u64);

/// Adds a run, joining it with those it touches.
pub(crate) fn add(runs: &mut Vec<Run>, (mut first, mut last): Run) {
    runs.retain(|&(a, b)| {
        let touches = a <= last.saturating_add(1) && first <= b.saturating_add(1);
        if touches {
            first = first.min(a);
            last = last.max(b);
        }
        !touches
    });
    let at = runs.partition_point(|r| r.0 < first);
    runs.insert(at, (first, last));
}

/// Whether any run shares a place with `run`.
pub(crate) fn overlaps(runs: &[Run], run: Run) -> bool {
    runs.iter().any(|r| r.0 <= run.1 && run.0 <= r.1)
}

/// The part of two runs that they share.
pub(crate) fn common(a: Run, b: Run) -> Option<Run> {
    let run = (a.0.max(b.0), a.1.min(b.1));
    (run.0 <= run.1).then_some(run)
}

/// The parts of `run` behind `settled` that no run of `without` (ascending) holds.
pub(crate) fn rest(run: Run, settled: u64, without: &[Run]) -> Vec<Run> {
    let mut out = Vec::new();
    let mut from = run.0.max(settled.saturating_add(1));
    let near = without.partition_point(|r| r.1 < from);
    for &(a, b) in without.get(near..).unwrap_or_default() {
        if a > run.1 {
            break;
        }
        if from < a {
            out.push((from, a - 1));
        }
        from = b.saturating_add(1);
    }
    if from <= run.1 {
        out.push((from, run.1));
    }
    out
}

/// The run as the contract has it.
pub(crate) fn range(run: Run) -> Option<SeqRange> {
    SeqRange::new(Seq(run.0), Seq(run.1))
}

/// The contract's range as a run.
pub(crate) fn run(range: SeqRange) -> Run {
    (range.first().0, range.last().0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_touch_become_one() {
        let mut runs = Vec::new();
        for r in [(5, 6), (1, 2), (9, 9), (3, 4)] {
            add(&mut runs, r);
        }
        assert_eq!(runs, [(1, 6), (9, 9)]);
        add(&mut runs, (4, 8));
        assert_eq!(runs, [(1, 9)]);
    }

    #[test]
    fn what_is_left_of_a_run_excludes_the_settled_and_the_others() {
        assert_eq!(rest((1, 20), 3, &[(5, 6), (10, 12)]), [(4, 4), (7, 9), (13, 20)]);
        assert_eq!(rest((5, 6), 0, &[(1, 9)]), []);
        assert_eq!(rest((5, 6), 9, &[]), []);
    }
}
