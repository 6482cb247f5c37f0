use std::time::Duration;

use tidegate::pipeline::{Parts, Pipeline, Until};
use tidegate::{assemble, config};

use crate::delivered;

fn parts(dir: &std::path::Path, more: &str) -> Parts {
    let text = format!(
        "[host]\nname = \"test\"\n[telemetry]\nlevel = \"Full\"\npolicy_file = \"{0}/policy.toml\"\n\
         [ring]\npath = \"{0}/ring\"\nsize = \"16MiB\"\ncommit_delay = \"5ms\"\n\
         [sources.demo]\ntype = \"synthetic\"\n{more}\n\
         [sinks.out]\ntype = \"directory\"\npath = \"{0}/out\"\nbatch = {{ age = \"100ms\" }}\n",
        dir.display()
    );
    let checked = assemble::check(config::parse("test.toml", &text).unwrap()).unwrap();
    assemble::open(checked, Until::Stopped).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_goes_on_where_it_was_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let mut read = 0;
    for _ in 0..3 {
        let parts = parts(dir.path(), "rate = 20000\nevents = 100000000");
        let running = Pipeline::start(parts).await.unwrap();
        // until something has gone the whole way
        while running.progress().sinks["out"].deliveries == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let summary = running.stop(Duration::from_secs(20)).await.unwrap();
        assert_eq!(summary.account_error, None);
        assert!(summary.run.read > 0);
        read += summary.run.read;
        assert_eq!(summary.total.read, read, "the account goes on over restarts");
        assert_eq!(summary.total.sinks.values().next().unwrap().held, [0; 4], "{summary}");
    }
    let (events, twice) = delivered(&dir.path().join("out"));
    assert_eq!(twice, 0);
    // all events of the demo are different ones, whichever run they are from
    assert!(events.len() as u64 <= read);
    let settings = events.values().filter(|e| e.contains("SettingsInForce")).count();
    assert_eq!(settings, 3, "one at each start");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_policy_is_level_0_and_an_alarm() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("policy.toml"), "allow_telemetry = 7").unwrap();
    let parts = parts(dir.path(), "rate = 20000\nevents = 1000");
    let running = Pipeline::start(parts).await.unwrap();
    let alarms = running.progress().alarms;
    assert!(alarms.iter().any(|a| a.contains("policy.toml") && a.contains("level 0")), "{alarms:?}");
    let summary = running.stop(Duration::from_secs(20)).await.unwrap();
    assert_eq!(summary.run.stored[1..], [0, 0, 0], "{summary}");
}
