//! Lanes: what a sink passes over for now.

use tidegate_proto::ids::{Seq, SinkId};
use tidegate_proto::level::LossReason;

use super::{MakeRing, append, closed_account, delivered, flood, is_misuse, options, range};
use crate::testing::block;
use crate::{Lanes, NewBlock, Part, Ring, StartAt};

fn in_lane(lane: u8, levels: &[u8], tag: u64) -> NewBlock {
    NewBlock { lane, ..block(levels, tag) }
}

fn part(first: u64, last: u64, lane: u8) -> Part {
    Part { range: range(first, last), lanes: Lanes::of(lane) }
}

/// Blocks of two events, in lanes 0 and 1 by turns, and a sink.
fn turns(ring: &dyn Ring, pairs: u64) -> SinkId {
    let sink = SinkId::new("s");
    ring.attach(&sink, StartAt::Oldest).expect("attached");
    for tag in 0..pairs {
        append(ring, vec![in_lane(0, &[2, 2], 2 * tag), in_lane(1, &[3, 2], 2 * tag + 1)]);
    }
    sink
}

/// However often they take turns, one lane's settling is one run in the cursor; the other lane's stays
/// held, and comes by itself later.
pub(super) fn are_settled_apart(make: MakeRing<'_>) {
    let ring = make(options());
    let pairs = 50;
    let sink = turns(&*ring, pairs);
    let read = ring.read(Seq::ZERO, super::ALL_OF_IT).expect("readable");
    assert!(read.blocks.iter().map(|b| b.lane).eq((0..2 * pairs).map(|n| (n % 2) as u8)));
    for n in 0..pairs {
        let part = part(4 * n + 1, 4 * n + 4, 0);
        ring.plan(&sink, part).expect("planned");
        is_misuse(ring.plan(&sink, part.range.into()));
        is_misuse(ring.settle(&sink, part, &delivered([0, 0, 3, 1])));
        let cursor = ring.settle(&sink, part, &delivered([0, 0, 2, 0])).expect("settled");
        assert_eq!(ring.settle(&sink, part, &delivered([0, 0, 2, 0])).expect("settled again"), cursor);
        assert!(cursor.passed.len() <= 1 && cursor.ahead.is_empty(), "{cursor:?}");
        // over the first block, which nothing stands before
        assert_eq!(cursor.settled, Seq(2));
    }
    assert_eq!(closed_account(&*ring).sinks[&sink].held, [0, 0, pairs, pairs]);
    is_misuse(ring.plan(&sink, range(3, 8).into()));
    is_misuse(ring.plan(&sink, part(3, 8, 0)));
    let end = 4 * pairs;
    let (first, rest) = (part(3, 8, 1), part(9, end, 1));
    ring.plan(&sink, rest).expect("planned");
    ring.plan(&sink, first).expect("planned");
    assert_eq!(ring.status().cursors[&sink].planned, [first, rest]);
    ring.settle(&sink, rest, &delivered([0, 0, pairs - 2, pairs - 2])).expect("settled");
    let cursor = ring.settle(&sink, first, &delivered([0, 0, 2, 2])).expect("settled");
    assert_eq!((cursor.settled, cursor.passed, cursor.ahead), (Seq(end), vec![], vec![]));
    assert_eq!(ring.status().trimmed, Seq(end));
    assert_eq!(closed_account(&*ring).sinks[&sink].delivered, [0, 0, 3 * pairs, pairs]);
}

/// A part of one lane in flight and one of another over the same run do not disturb each other.
pub(super) fn fly_side_by_side(make: MakeRing<'_>) {
    let ring = make(options());
    let sink = turns(&*ring, 3);
    let (now, later) = (part(1, 12, 0), part(1, 12, 1));
    ring.plan(&sink, now).expect("planned");
    ring.plan(&sink, later).expect("planned");
    ring.split(&sink, later, Seq(6)).expect("split");
    let (a, b) = (part(1, 6, 1), part(7, 12, 1));
    assert_eq!(ring.status().cursors[&sink].planned, [now, a, b]);
    ring.settle(&sink, b, &delivered([0, 0, 2, 2])).expect("settled");
    assert_eq!(ring.status().cursors[&sink].settled, Seq::ZERO);
    ring.settle(&sink, now, &delivered([0, 0, 6, 0])).expect("settled");
    assert_eq!(ring.status().cursors[&sink].settled, Seq::ZERO, "what is planned is not moved over");
    let cursor = ring.settle(&sink, a, &delivered([0, 0, 1, 1])).expect("settled");
    assert_eq!((cursor.settled, cursor.passed), (Seq(12), vec![]));
    closed_account(&*ring);
}

/// A planned run can be divided by lanes, so that a part of it goes on alone.
pub(super) fn divide_a_planned_run(make: MakeRing<'_>) {
    let ring = make(options());
    let sink = turns(&*ring, 3);
    let all: Part = range(1, 12).into();
    is_misuse(ring.divide(&sink, all, Lanes::of(1)));
    ring.plan(&sink, all).expect("planned");
    is_misuse(ring.divide(&sink, all, Lanes::ALL));
    ring.divide(&sink, all, Lanes::of(1)).expect("divided");
    ring.divide(&sink, all, Lanes::of(1)).expect("divided already");
    let rest = Part { lanes: Lanes::ALL.without(Lanes::of(1)), ..all };
    let cursor = ring.settle(&sink, rest, &delivered([0, 0, 6, 0])).expect("settled");
    assert_eq!(cursor.planned, [part(1, 12, 1)]);
    let cursor = ring.settle(&sink, part(1, 12, 1), &delivered([0, 0, 3, 3])).expect("settled");
    assert_eq!((cursor.settled, cursor.planned), (Seq(12), vec![]));
    closed_account(&*ring);
}

/// What goes from the ring counts as lost in the lane that was not settled, and only there.
pub(super) fn lose_what_is_open(make: MakeRing<'_>) {
    let ring = make(options());
    let sink = turns(&*ring, 2);
    let (passed, held) = (part(1, 8, 0), part(1, 8, 1));
    ring.plan(&sink, passed).expect("planned");
    ring.settle(&sink, passed, &delivered([0, 0, 4, 0])).expect("settled");
    ring.plan(&sink, held).expect("planned");
    flood(&*ring, 200, &[2]);
    assert!(ring.status().trimmed >= Seq(2));
    let account = closed_account(&*ring);
    assert_eq!(account.sinks[&sink].lost[&LossReason::Evicted][3], 2);
    assert_eq!(account.sinks[&sink].delivered, [0, 0, 4, 0]);
    // it was sent all the same
    let cursor = ring.settle(&sink, held, &delivered([0, 0, 2, 2])).expect("settled");
    assert!(cursor.settled >= Seq(8));
    let account = closed_account(&*ring);
    assert_eq!(account.sinks[&sink].delivered, [0, 0, 6, 2]);
    assert_eq!(account.sinks[&sink].lost[&LossReason::Evicted][3], 0);
}
