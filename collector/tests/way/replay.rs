use tidegate::assemble::{self, AssembleError};
use tidegate::pipeline::Until;
use tidegate_proto::level::DropReason;

use crate::{configuration, delivered, to_the_end, trace};

const FULL: &str = "level = \"Full\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_trace_goes_through_the_ring_into_a_folder_and_the_sums_agree() {
    let dir = tempfile::tempdir().unwrap();
    let summary = to_the_end(configuration(dir.path(), &trace("tx/HTTP_Server.etl"), "", FULL)).await;
    let (events, twice) = delivered(&dir.path().join("out"));
    assert!(summary.complete(), "{summary}");
    assert_eq!(twice, 0);
    assert!(summary.run.read > 2000, "{summary}");
    assert_eq!(events.len() as u64, summary.run.stored.iter().sum::<u64>());
    assert_eq!(events.keys().copied().collect::<Vec<_>>(), (1..=events.len() as u64).collect::<Vec<_>>());
    let shown = summary.to_string();
    assert!(shown.contains("sink out: delivered") && shown.contains("the account closes"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_read_to_its_end_is_not_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let again = || configuration(dir.path(), &trace("perfview/SelfDescribingSingleEvent.etl"), "", FULL);
    let first = to_the_end(again()).await;
    assert!(first.complete() && first.run.read > 0, "{first}");
    let second = to_the_end(again()).await;
    assert_eq!(second.run.read, 0, "{second}");
    assert_eq!(delivered(&dir.path().join("out")).0.len() as u64, first.run.stored.iter().sum::<u64>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_above_the_level_is_dropped_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let summary = to_the_end(configuration(dir.path(), &trace("tx/HTTP_Server.etl"), "", "")).await;
    assert!(summary.run.dropped[&DropReason::Level] > 0, "{summary}");
    assert!(summary.complete());
}

#[test]
fn a_ring_in_use_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let config = configuration(dir.path(), &trace("perfview/smallEtlFile.etl"), "", FULL);
        assemble::open(assemble::check(config).unwrap(), Until::Delivered)
    };
    let first = open().unwrap();
    assert!(matches!(open().unwrap_err(), AssembleError::InUse(_)));
    drop(first);
}
