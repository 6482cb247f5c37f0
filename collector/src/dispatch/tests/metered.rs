//! A metered network holds every cost-deferred event, and nothing else.

use tidegate_ring::NewBlock;

use super::super::soon::LOOK;
use super::latency::{DEFERRED, NORMAL, REAL_TIME, classes, network, patient, seconds_until};
use super::*;

/// Blocks as the encoder makes them: what is cost-deferred is in a lane of its own.
fn in_lanes(levels: &[u8], tag: u64) -> NewBlock {
    let lane = u8::from(levels.first() == Some(&DEFERRED));
    NewBlock { lane, ..block(levels, tag) }
}

async fn append(bench: &Bench, blocks: &[&[u8]]) {
    let blocks = blocks.iter().zip(0..).map(|(levels, tag)| in_lanes(levels, tag)).collect();
    bench.ring.append(group(blocks)).await.unwrap().await.unwrap();
}

/// Only so many events are there, none of them cost-deferred, none twice.
fn has_only(sink: &Fake, events: usize) {
    let seen = sink.seen.lock().unwrap();
    assert!(!seen.levels.contains(&Some(DEFERRED)), "{:?}", seen.levels);
    assert_eq!((seen.events.len(), seen.repeats), (events, 0));
}

#[tokio::test(start_paused = true)]
async fn classes_that_take_turns_for_long_cost_one_run_and_leave_in_whole_batches() {
    let (mut bench, sink) = (Bench::new(), patient("stream"));
    let (price, metered) = network(true);
    let stats = bench.serve(&sink, classes(&metered));
    // more turns than a sink may have runs
    let turns = 6000;
    for _ in 0..turns {
        append(&bench, &[&[NORMAL], &[DEFERRED, DEFERRED]]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = seconds_until(&sink, turns).await;
    assert!(took <= 30.0, "{took}");
    has_only(&sink, turns);
    // three hundred seconds, at least ten of them a batch
    assert!(ranges(&sink).len() <= 40, "{} requests", ranges(&sink).len());
    let cursor = bench.ring.status().cursors[sink.id()].clone();
    assert!(cursor.ahead.len() + cursor.passed.len() <= 2, "{cursor:?}");
    assert_eq!(bench.account(&sink).held, [0, 0, 0, 2 * turns as u64]);
    assert_eq!(stats.progress().waiting, 2 * turns as u64);
    // a real-time event does not wait behind them
    append(&bench, &[&[DEFERRED], &[REAL_TIME], &[DEFERRED]]).await;
    let took = seconds_until(&sink, turns + 1).await;
    assert!(took <= 2.0, "{took}");
    price.store(false, Ordering::Relaxed);
    let took = seconds_until(&sink, 3 * turns + 3).await;
    assert!(took <= LOOK.as_secs_f64() + 30.0, "{took}");
    bench.finish().await;
    assert_eq!(bench.account(&sink).delivered, [1, 0, turns as u64, 2 * turns as u64 + 2]);
    assert_eq!(stats.progress().waiting, 0);
    assert_eq!(bench.ring.status().cursors[sink.id()].settled, bench.ring.status().durable);
    assert_eq!(sink.seen.lock().unwrap().repeats, 0);
}

#[tokio::test(start_paused = true)]
async fn a_restart_knows_what_was_passed_over() {
    let (mut bench, sink) = (Bench::new(), patient("stream"));
    let (price, metered) = network(true);
    bench.serve(&sink, classes(&metered));
    for _ in 0..10 {
        append(&bench, &[&[DEFERRED; 3], &[REAL_TIME; 2]]).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    bench.finish().await;
    assert_eq!(bench.account(&sink).held, [0, 0, 0, 30]);
    let stats = bench.serve(&sink, classes(&metered));
    append(&bench, &[&[DEFERRED; 3], &[REAL_TIME; 2]]).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    has_only(&sink, 22);
    assert_eq!((stats.progress().waiting, stats.progress().metered), (33, true));
    price.store(false, Ordering::Relaxed);
    seconds_until(&sink, 55).await;
    bench.finish().await;
    assert!(!stats.progress().metered);
    assert_eq!(bench.account(&sink).delivered, [22, 0, 0, 33]);
    assert_eq!(sink.seen.lock().unwrap().repeats, 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_planned_before_the_network_was_metered_is_divided() {
    let mut bench = Bench::new();
    let away = Arc::new(AtomicBool::new(true));
    let gone = Arc::clone(&away);
    let mut sink =
        Fake::bare(
            "stream",
            move |_, _| {
                if gone.load(Ordering::Relaxed) { Answer::Fail(retry()) } else { Answer::Take }
            },
        );
    sink.limits.age = Duration::ZERO;
    let sink = Arc::new(sink);
    let (price, metered) = network(false);
    bench.serve(&sink, classes(&metered));
    append(&bench, &[&[DEFERRED; 4], &[NORMAL; 4]]).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    append(&bench, &[&[DEFERRED; 4]]).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(bench.ring.status().cursors[sink.id()].planned.len(), 2);
    price.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(600)).await;
    away.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    has_only(&sink, 4);
    price.store(false, Ordering::Relaxed);
    seconds_until(&sink, 12).await;
    bench.finish().await;
    assert_eq!(bench.account(&sink).delivered, [0, 0, 4, 8]);
    assert_eq!(sink.seen.lock().unwrap().repeats, 0);
}

#[tokio::test(start_paused = true)]
async fn blocks_of_mixed_classes_go_in_pieces_on_a_metered_network() {
    let (mut bench, sink) = (Bench::new(), patient("stream"));
    let (price, metered) = network(true);
    bench.serve(&sink, classes(&metered));
    // as they were stored before the rules were as they are
    bench.append(30, &[DEFERRED, REAL_TIME, NORMAL, DEFERRED, DEFERRED, REAL_TIME]).await;
    let took = seconds_until(&sink, 90).await;
    assert!(took <= 30.0, "{took}");
    tokio::time::sleep(Duration::from_secs(600)).await;
    has_only(&sink, 90);
    price.store(false, Ordering::Relaxed);
    seconds_until(&sink, 180).await;
    bench.finish().await;
    assert_eq!(bench.account(&sink).delivered.iter().sum::<u64>(), 180);
    assert_eq!(sink.seen.lock().unwrap().repeats, 0);
}

#[tokio::test(start_paused = true)]
async fn cost_deferred_events_that_are_evicted_while_they_wait_stop_nothing() {
    let mut bench =
        Bench::with(RingOptions { bound_bytes: RingOptions::MIN_BOUND, ..RingOptions::default() });
    let (price, metered) = network(true);
    let sink = patient("stream");
    bench.serve(&sink, classes(&metered));
    let turns = 600;
    for tag in 0..turns {
        let blocks = [vec![REAL_TIME], vec![DEFERRED, DEFERRED]];
        let sized = |levels: &Vec<u8>| NewBlock {
            lane: u8::from(levels.first() == Some(&DEFERRED)),
            ..sized_block(levels, tag, 4000)
        };
        bench.ring.append(group(blocks.iter().map(sized).collect())).await.unwrap().await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    seconds_until(&sink, turns as usize).await;
    has_only(&sink, turns as usize);
    let account = bench.account(&sink);
    let (held, lost) = (account.held[3], account.lost[&LossReason::Evicted][3]);
    assert!(held > 0 && lost > 0 && held + lost == 2 * turns, "{held} {lost}");
    price.store(false, Ordering::Relaxed);
    seconds_until(&sink, (turns + held) as usize).await;
    append(&bench, &[&[REAL_TIME]]).await;
    seconds_until(&sink, (turns + held + 1) as usize).await;
    bench.finish().await;
    let account = bench.account(&sink);
    assert_eq!((account.delivered, account.held), ([turns + 1, 0, 0, held], [0; 4]));
    assert_eq!(sink.seen.lock().unwrap().repeats, 0);
}

/// Two sinks with rules of their own: what one defers, the other sends.
#[tokio::test(start_paused = true)]
async fn each_sink_goes_by_its_own_rules() {
    let mut bench = Bench::new();
    let (_, metered) = network(true);
    let (strict, plain) = (patient("strict"), patient("plain"));
    bench.serve(&strict, classes(&metered));
    let urgency = Some(Urgency::default());
    bench.serve(&plain, SinkOptions { urgency, metered: metered.clone(), ..options() });
    for _ in 0..20 {
        append(&bench, &[&[NORMAL; 2], &[DEFERRED; 3]]).await;
    }
    seconds_until(&strict, 40).await;
    seconds_until(&plain, 100).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    has_only(&strict, 40);
    assert_eq!(bench.account(&plain).held, [0; 4]);
}
