use std::sync::Arc;

use tidegate_proto::ids::Seq;

use super::*;
use crate::testing::contract::{self, FarSide};
use crate::testing::{batch, batch_of};

fn config(root: &Path, more: &str) -> DirectoryConfig {
    // a literal string, so that the backslashes of Windows stay
    toml::from_str(&format!("path = '{}'\n{more}", root.display())).unwrap()
}

fn sink(root: &Path, more: &str) -> DirectorySink {
    DirectorySink::new(&SinkId::new("dir"), &config(root, more)).unwrap()
}

fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if root.exists() {
        ours(root, 0, &mut found).unwrap();
    }
    let mut paths: Vec<_> = found.into_iter().map(|f| f.path).collect();
    paths.sort();
    paths
}

struct Folder(tempfile::TempDir, &'static str);

impl FarSide for Folder {
    fn open(&self) -> Arc<dyn Sink> {
        Arc::new(sink(self.0.path(), self.1))
    }

    fn held(&self) -> BoxFuture<'_, Vec<Seq>> {
        Box::pin(async {
            let mut seqs = Vec::new();
            for path in files(self.0.path()) {
                assert!(!path.to_string_lossy().ends_with(UNFINISHED), "{path:?}");
                let mut bytes = fs::read(&path).unwrap();
                if path.to_string_lossy().ends_with(".zst") {
                    bytes = zstd::decode_all(&bytes[..]).unwrap();
                }
                for line in std::str::from_utf8(&bytes).unwrap().lines() {
                    let event: serde_json::Value = serde_json::from_str(line).unwrap();
                    seqs.push(Seq(event["seq"].as_u64().unwrap()));
                }
            }
            seqs
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds() {
    contract::run(&Folder(tempfile::tempdir().unwrap(), "")).await;
    let parts = "layout = \"{level}/{provider}/{hour}\"\ncompression = \"zstd\"";
    contract::run(&Folder(tempfile::tempdir().unwrap(), parts)).await;
}

#[tokio::test]
async fn a_repeat_under_other_rules_replaces_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(dir.path(), "");
    sink.deliver(&batch(1, 30)).await.unwrap();
    let done = sink.deliver(&batch_of(1, 30, |n| n <= 10)).await.unwrap();
    assert!(!done.objects[0].found);
    let files = files(dir.path());
    assert_eq!(files.len(), 1);
    assert_eq!(fs::read_to_string(&files[0]).unwrap().lines().count(), 10);
}

#[tokio::test]
async fn the_oldest_files_give_way_and_foreign_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = dir.path().join("notes.jsonl");
    fs::write(&foreign, vec![b'x'; 100_000]).unwrap();
    let bounded = sink(dir.path(), "max_total = \"20KiB\"");
    for n in 0..10 {
        bounded.deliver(&batch(n * 20 + 1, n * 20 + 20)).await.unwrap();
        let total: u64 = files(dir.path()).iter().map(|p| p.metadata().unwrap().len()).sum();
        assert!(total <= 20 << 10, "{total}");
    }
    let names = files(dir.path());
    assert!(names.len() > 1 && names.last().unwrap().to_string_lossy().contains("-00000000000000000200-"));
    assert!(foreign.exists());
    // one file alone may be larger than the bound
    let small = sink(dir.path(), "max_total = 1");
    small.deliver(&batch(1000, 1001)).await.unwrap();
    assert_eq!(files(dir.path()).len(), 1);
}

#[tokio::test]
async fn what_stands_in_the_way_needs_someone() {
    let dir = tempfile::tempdir().unwrap();
    let occupied = dir.path().join("out");
    fs::write(&occupied, "a file").unwrap();
    let error = sink(&occupied, "").deliver(&batch(1, 2)).await.unwrap_err();
    assert!(matches!(error, DeliverError::Stop { .. }), "{error:?}");
    let error = sink(&occupied, "").check().await.unwrap_err();
    assert!(matches!(error, DeliverError::Stop { .. }), "{error:?}");
}

#[tokio::test]
async fn a_folder_in_a_files_place_stops_that_batch_alone() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(dir.path(), "");
    let done = sink.deliver(&batch(1, 4)).await.unwrap();
    let path = PathBuf::from(&done.objects[0].destination);
    fs::remove_file(&path).unwrap();
    fs::create_dir_all(path.join("theirs")).unwrap();
    let error = sink.deliver(&batch(1, 4)).await.unwrap_err();
    let DeliverError::Blocked { advice, .. } = &error else { panic!("{error:?}") };
    assert!(advice.contains(path.to_str().unwrap()), "{advice}");
    sink.deliver(&batch(5, 8)).await.unwrap();
    fs::remove_dir_all(&path).unwrap();
    sink.deliver(&batch(1, 4)).await.unwrap();
}

#[tokio::test]
async fn an_attempt_that_ended_half_way_leaves_nothing_under_the_final_name() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(dir.path(), "");
    let done = sink.deliver(&batch(1, 5)).await.unwrap();
    let path = PathBuf::from(&done.objects[0].destination);
    let whole = fs::read(&path).unwrap();
    // as a crash between write and rename leaves it
    fs::rename(&path, temporary(&path)).unwrap();
    sink.deliver(&batch(1, 5)).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), whole);
    // and a final name with other bytes, as a failing disk leaves it
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let done = sink.deliver(&batch(1, 5)).await.unwrap();
    assert!(!done.objects[0].found);
    assert_eq!(fs::read(&path).unwrap(), whole);
}

#[tokio::test]
async fn files_that_a_crash_left_unfinished_are_removed_once_they_are_old() {
    let dir = tempfile::tempdir().unwrap();
    sink(dir.path(), "").deliver(&batch(1, 5)).await.unwrap();
    let whole = files(dir.path()).remove(0);
    let (old, young) = (temporary(&whole), temporary(&whole));
    fs::write(&old, "x").unwrap();
    fs::write(&young, "x").unwrap();
    let long_ago = SystemTime::now() - 2 * UNFINISHED_AGE;
    File::options().write(true).open(&old).unwrap().set_modified(long_ago).unwrap();
    File::options().write(true).open(&whole).unwrap().set_modified(long_ago).unwrap();
    sink(dir.path(), "").deliver(&batch(1, 5)).await.unwrap();
    assert!(!old.exists() && young.exists() && whole.exists());
}

#[test]
fn only_names_that_this_sink_makes_are_its_own() {
    let name = "00000000000000000001-00000000000000000009-0123456789abcdef.jsonl";
    assert!(is_ours(OsStr::new(name)));
    assert!(is_ours(OsStr::new(&format!("{name}.7-1{UNFINISHED}"))));
    for other in ["", "a.jsonl", "1-2-0123456789abcdef.jsonl", &name[1..], &name[..58]] {
        assert!(!is_ours(OsStr::new(other)), "{other}");
    }
}
