//! A followed file, through all that happens to log files.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tidegate_proto::value::ValueRef;
use tidegate_sources::jsonl::JsonlConfig;
use tidegate_sources::{Intake, SourceConfig, SourceEnd, SourceError, intake};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Follower {
    intake: Intake,
    stop: CancellationToken,
    ended: JoinHandle<Result<SourceEnd, SourceError>>,
    position: Vec<u8>,
    waiting: Vec<String>,
}

impl Follower {
    fn start(path: &Path, position: Option<&[u8]>) -> Follower {
        let config = JsonlConfig { follow: true, poll_ms: 5, ..JsonlConfig::new(vec![path.to_owned()]) };
        let source = SourceConfig::Jsonl(config).build("f", position).unwrap();
        let intake = intake(4);
        let stop = CancellationToken::new();
        let ended = tokio::spawn(source.run(intake.outlet("f"), stop.clone()));
        Follower {
            intake: intake.seal(),
            stop,
            ended,
            position: position.unwrap_or_default().to_vec(),
            waiting: Vec::new(),
        }
    }

    /// The next event: its `n`, or the reason of a gap.
    async fn next(&mut self) -> String {
        if self.waiting.is_empty() {
            let item = self.intake.next().await.expect("the source ended");
            self.position = item.position;
            for event in item.events.iter() {
                let text = event.fields().find_map(|f| match (f.name?, f.value) {
                    ("n", ValueRef::I64(n)) => Some(n.to_string()),
                    ("reason", ValueRef::Str(s)) => Some(s.to_owned()),
                    _ => None,
                });
                self.waiting.push(text.unwrap());
            }
        }
        self.waiting.remove(0)
    }

    async fn expect(&mut self, want: &[&str]) {
        for want in want {
            assert_eq!(self.next().await, *want);
        }
    }

    async fn stop(self) -> Vec<u8> {
        assert!(self.waiting.is_empty(), "{:?}", self.waiting);
        self.stop.cancel();
        let end = self.ended.await.unwrap().unwrap();
        assert!(end.stopped);
        self.position
    }
}

fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|n| format!("{{\"time\":{},\"n\":{n}}}\n", 1_760_000_000 + n)).collect()
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn files() -> (TempDir, PathBuf, PathBuf) {
    let dir = TempDir::new().unwrap();
    let (log, old) = (dir.path().join("app.log"), dir.path().join("app.log.1"));
    (dir, log, old)
}

#[tokio::test]
async fn a_growing_file_is_followed_from_before_it_is_there() {
    let (_dir, log, _) = files();
    let mut follower = Follower::start(&log, None);
    append(&log, &lines(0..2));
    follower.expect(&["0", "1"]).await;
    // a line in two writes is one line
    append(&log, "{\"time\":1,");
    append(&log, "\"n\":2}\n");
    follower.expect(&["2"]).await;
    let position = follower.stop().await;
    append(&log, &lines(3..5));
    let mut follower = Follower::start(&log, Some(&position));
    follower.expect(&["3", "4"]).await;
    follower.stop().await;
}

#[tokio::test]
async fn a_renamed_file_is_read_to_its_end_before_the_new_one() {
    let (_dir, log, old) = files();
    append(&log, &lines(0..2));
    let mut follower = Follower::start(&log, None);
    follower.expect(&["0", "1"]).await;
    fs::rename(&log, &old).unwrap();
    // the writer has the old file open still
    append(&old, &lines(2..4));
    append(&log, &lines(4..6));
    follower.expect(&["2", "3", "4", "5"]).await;
    append(&log, &lines(6..7));
    follower.expect(&["6"]).await;
    follower.stop().await;
}

#[tokio::test]
async fn a_truncated_file_is_read_from_its_start_with_a_gap() {
    let (_dir, log, old) = files();
    append(&log, &lines(0..3));
    let mut follower = Follower::start(&log, None);
    follower.expect(&["0", "1", "2"]).await;
    fs::copy(&log, &old).unwrap();
    fs::write(&log, lines(3..4)).unwrap();
    follower.expect(&["truncated", "3"]).await;
    append(&log, &lines(4..5));
    follower.expect(&["4"]).await;
    follower.stop().await;
}

#[tokio::test]
async fn a_file_rewritten_to_a_greater_length_is_noticed() {
    let (_dir, log, _) = files();
    append(&log, &lines(0..2));
    let mut follower = Follower::start(&log, None);
    follower.expect(&["0", "1"]).await;
    // in one step, so that no look falls between
    fs::write(log.with_extension("new"), lines(10..20)).unwrap();
    let new = fs::read(log.with_extension("new")).unwrap();
    OpenOptions::new().write(true).open(&log).unwrap().write_all(&new).unwrap();
    let next = follower.next().await;
    assert_eq!(next, "truncated");
    follower.expect(&["10", "11", "12", "13", "14", "15", "16", "17", "18", "19"]).await;
    follower.stop().await;
}

#[tokio::test]
async fn files_rotated_while_nobody_followed_are_caught_up_with() {
    let (dir, log, old) = files();
    append(&log, &lines(0..2));
    let mut follower = Follower::start(&log, None);
    follower.expect(&["0", "1"]).await;
    let position = follower.stop().await;
    append(&log, &lines(2..4));
    // rotated twice, and the older one compressed
    let packed = zstd::bulk::compress(&fs::read(&log).unwrap(), 1).unwrap();
    fs::write(dir.path().join("app.log.2.zst"), packed).unwrap();
    fs::remove_file(&log).unwrap();
    let earlier = fs::metadata(dir.path().join("app.log.2.zst")).unwrap().modified().unwrap();
    append(&old, &lines(4..6));
    let later = earlier + std::time::Duration::from_secs(5);
    OpenOptions::new().write(true).open(&old).unwrap().set_modified(later).unwrap();
    append(&log, &lines(6..8));
    let mut follower = Follower::start(&log, Some(&position));
    follower.expect(&["2", "3", "4", "5", "6", "7"]).await;
    follower.stop().await;
}

#[tokio::test]
async fn a_file_that_is_gone_for_good_is_a_gap() {
    let (_dir, log, _) = files();
    append(&log, &lines(0..2));
    let mut follower = Follower::start(&log, None);
    follower.expect(&["0", "1"]).await;
    let position = follower.stop().await;
    fs::remove_file(&log).unwrap();
    append(&log, &lines(5..6));
    let mut follower = Follower::start(&log, Some(&position));
    follower.expect(&["position_lost", "5"]).await;
    follower.stop().await;
}
