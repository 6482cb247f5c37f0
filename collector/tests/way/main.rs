//! The whole way in one process: real traces, the ring on disk, the directory sink.

mod replay;
mod run;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tidegate::assemble;
use tidegate::config::{self, Config};
use tidegate::pipeline::{Pipeline, Summary, Until};

/// A trace that comes with the project.
fn trace(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/etl/traces").join(name)
}

/// The events in a folder of JSON Lines, by place, and how many were there more than once.
fn delivered(folder: &Path) -> (BTreeMap<u64, String>, usize) {
    let (mut events, mut twice) = (BTreeMap::new(), 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|e| e != "jsonl") {
                continue;
            }
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                let mut event: serde_json::Value = serde_json::from_str(line).unwrap();
                let seq = event.as_object_mut().unwrap().shift_remove("seq").unwrap().as_u64().unwrap();
                twice += usize::from(events.insert(seq, event.to_string()).is_some());
            }
        }
    }
    (events, twice)
}

/// A configuration that replays a trace into `DIR/out` through a ring in `DIR/ring`. `sink` are
/// further keys of the sink, `more` further tables.
fn configuration(dir: &Path, trace: &Path, sink: &str, more: &str) -> Config {
    let dir = dir.display();
    let text = format!(
        "[host]\nname = \"test\"\n[health]\nevents = false\n\
         [ring]\npath = \"{dir}/ring\"\nfull = \"block\"\ncompression = \"lz4\"\ncommit_delay = \"2ms\"\n\
         [sources.trace]\ntype = \"etl\"\npaths = [{:?}]\n\
         [sinks.out]\ntype = \"directory\"\npath = \"{dir}/out\"\n{sink}\n\
         [telemetry]\npolicy_file = \"{dir}/policy.toml\"\n{more}\n",
        trace.display().to_string(),
    );
    config::parse("test.toml", &text).unwrap()
}

/// Runs a configuration until everything is delivered.
async fn to_the_end(config: Config) -> Summary {
    let parts = assemble::open(assemble::check(config).unwrap(), Until::Delivered).unwrap();
    Pipeline::start(parts).await.unwrap().wait().await.unwrap()
}
