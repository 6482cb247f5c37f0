//! Who may ask what, over real sockets.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_proto::level::{LossReason, TelemetryLevel};
use tidegate_ring::{Chain, MemoryRing, Ring, RingOptions};
use tidegate_sinks::Sink;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::pipeline::{Parts, Pipeline, PipelineOptions, Running, SinkPart, Until};
use crate::purge::Places;
use crate::testing::{Answer, Counting, Fake, retry, rules};

async fn collector() -> (Running, Arc<Api>, Arc<dyn Ring>) {
    let ring = MemoryRing::shared(RingOptions::default());
    let sink = SinkPart { sink: Fake::fine("a") as Arc<dyn Sink>, options: Default::default() };
    let running = Pipeline::start(Parts {
        ring: Arc::clone(&ring),
        rules: rules(),
        sources: vec![Box::new(Counting { levels: vec![0, 1, 2], ..Counting::new(0, 300) })],
        sinks: vec![sink],
        options: PipelineOptions::default(),
    })
    .await
    .unwrap();
    let config = ControlConfig { listen: true, socket: "unused".into(), group: None, remote: None };
    let api = Api::new(running.handle(), config, None, Places::default());
    (running, api, ring)
}

fn caller(right: Right, remote: bool) -> Caller {
    Caller { who: Who("tester".to_owned()), right, remote }
}

async fn ask(api: &Arc<Api>, caller: &Caller, method: &str, target: &str, body: Value) -> (u16, Value) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    api.answer(caller, method, path, query, body).await
}

#[tokio::test]
async fn who_may_only_look_changes_nothing() {
    let (running, api, _ring) = collector().await;
    let look = caller(Right::Look, false);
    for route in api.routes().to_vec() {
        let (status, answer) = ask(&api, &look, route.method, route.path, Value::Null).await;
        match route.right {
            Right::Look => assert_eq!(status, 200, "{route:?}: {answer}"),
            Right::Change => assert_eq!(status, 403, "{route:?}: {answer}"),
        }
    }
    assert!(running.handle().control().now().enabled);
}

#[tokio::test]
async fn the_network_is_offered_nothing_but_level_switch_and_status() {
    let (_running, api, _ring) = collector().await;
    let remote = caller(Right::Change, true);
    let mut open: Vec<&str> = api.routes().iter().filter(|r| r.remote).map(|r| r.path).collect();
    open.dedup();
    assert_eq!(open, ["/v1/status", "/v1/level", "/v1/telemetry", "/v1/ping"]);
    for route in api.routes().iter().filter(|r| !r.remote) {
        let (status, _) = ask(&api, &remote, route.method, route.path, Value::Null).await;
        assert_eq!(status, 404, "{route:?}");
    }
}

#[test]
fn what_a_far_side_says_is_not_told_over_the_network() {
    let mut progress = crate::pipeline::Progress::default();
    let (held, cause) = (Some("check it".to_owned()), Some("400: bad \"secret\"".to_owned()));
    progress
        .sinks
        .insert("a".to_owned(), crate::pipeline::SinkProgress { held, cause, ..Default::default() });
    let account = tidegate_ring::Account::default();
    let here = views::progress(&progress, &account, false).to_string();
    let afar = views::progress(&progress, &account, true).to_string();
    assert!(here.contains("secret") && here.contains("check it"), "{here}");
    assert!(!afar.contains("secret") && afar.contains("check it"), "{afar}");
}

#[tokio::test]
async fn a_level_is_set_shown_and_audited_with_the_callers_name() {
    let (running, api, ring) = collector().await;
    let admin = caller(Right::Change, false);
    for (body, says) in [
        (json!({"level": 4}), "level"),
        (json!({"level": true}), "expected"),
        (json!({"levle": 1}), "levle"),
        (json!([]), "body"),
    ] {
        let (status, answer) = ask(&api, &admin, "PUT", "/v1/level", body).await;
        assert!(status == 400 && answer["error"].as_str().unwrap().contains(says), "{answer}");
    }
    let (status, answer) = ask(&api, &admin, "PUT", "/v1/level", json!({"level": "basic"})).await;
    assert_eq!(
        (status, &answer["level"], &answer["decided_by"]),
        (200, &json!(1), &json!("run-time switch"))
    );
    assert_eq!(running.handle().control().now().level, TelemetryLevel::Basic);
    let (_, answer) = ask(&api, &admin, "PUT", "/v1/telemetry", json!({"enabled": false})).await;
    assert_eq!(answer["enabled"], false);
    let (_, answer) = ask(&api, &admin, "PUT", "/v1/level", json!({"level": null})).await;
    assert_eq!((&answer["level"], &answer["ceilings"]["runtime"]), (&json!(2), &Value::Null));
    let entries = ring.chain_read(Chain::Audit, 1, 100).unwrap();
    let by: Vec<Value> = entries.iter().map(|e| serde_json::from_slice(&e.data).unwrap()).collect();
    assert_eq!(by.iter().filter(|e| e["who"] == "tester").count(), 3, "{by:?}");
    let (_, page) = ask(&api, &admin, "GET", "/v1/audit?last=2", Value::Null).await;
    let numbers: Vec<u64> =
        page["entries"].as_array().unwrap().iter().map(|e| e["number"].as_u64().unwrap()).collect();
    let last = entries.last().unwrap().number;
    assert_eq!((numbers, page["next"].as_u64().unwrap()), (vec![last - 1, last], last + 1));
}

#[tokio::test]
async fn the_last_entries_of_a_chain_of_any_length_are_found() {
    let (_running, api, ring) = collector().await;
    let begin = ring.chain_read(Chain::Audit, 1, 1000).unwrap().len() as u64;
    for n in begin + 1..=begin + 70 {
        ring.chain_append(Chain::Audit, b"{}").unwrap();
        let path = "/v1/audit?last=1";
        let (_, page) = ask(&api, &caller(Right::Look, false), "GET", path, Value::Null).await;
        assert_eq!(page["entries"][0]["number"].as_u64(), Some(n));
    }
    for wrong in ["last=x", "from=-1", "from=1&last=1"] {
        let target = format!("/v1/audit?{wrong}");
        assert_eq!(ask(&api, &caller(Right::Look, false), "GET", &target, Value::Null).await.0, 400);
    }
}

#[tokio::test]
async fn status_has_level_account_ring_and_alarms() {
    let (running, api, _ring) = collector().await;
    running.handle().alarm("look here".to_owned());
    let (_, status) = ask(&api, &caller(Right::Look, false), "GET", "/v1/status", Value::Null).await;
    for path in [
        "/telemetry/level",
        "/account/sinks/a/delivered",
        "/ring/fill_percent",
        "/ring/sinks/a/held",
        "/pins",
        "/run/sinks/a/failures",
        "/uptime_seconds",
        "/version",
    ] {
        assert!(status.pointer(path).is_some(), "{path} in {status}");
    }
    assert_eq!(status["alarms"], json!(["look here"]));
}

#[tokio::test(start_paused = true)]
async fn a_purge_while_it_runs_waits_for_what_is_on_the_wire_and_counts_each_event_once() {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;
    let ring = MemoryRing::shared(RingOptions::default());
    let mut slow = Fake::bare("slow", |_, _| Answer::TakeAfter(Duration::from_secs(5)));
    slow.limits.events = 20;
    let slow = Arc::new(slow);
    let back = Arc::new(AtomicBool::new(false));
    let is_back = Arc::clone(&back);
    let away = Fake::new("away", move |_, _| match is_back.load(Ordering::Relaxed) {
        true => Answer::Take,
        false => Answer::Fail(retry()),
    });
    let part =
        |sink: &Arc<Fake>| SinkPart { sink: Arc::clone(sink) as Arc<dyn Sink>, options: Default::default() };
    let running = Pipeline::start(Parts {
        ring: Arc::clone(&ring),
        rules: rules(),
        sources: vec![Box::new(Counting { levels: vec![1, 2], ..Counting::new(0, 400) })],
        sinks: vec![part(&slow), part(&away)],
        options: PipelineOptions { until: Until::Stopped, ..PipelineOptions::default() },
    })
    .await
    .unwrap();
    let config = ControlConfig { listen: true, socket: "unused".into(), group: None, remote: None };
    let api = Api::new(running.handle(), config, None, Places::default());
    let admin = caller(Right::Change, false);
    while running.progress().stored < 400 || slow.seen.lock().unwrap().attempts == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let asked = |dry_run: bool| json!({ "match": "level = basic", "dry_run": dry_run });
    for (body, says) in [(json!({}), "match"), (json!({ "match": "level = 9" }), "character 9")] {
        let (status, answer) = ask(&api, &admin, "POST", "/v1/purge", body).await;
        assert!(status == 400 && answer["error"].as_str().unwrap().contains(says), "{answer}");
    }
    let (status, shown) = ask(&api, &admin, "POST", "/v1/purge", asked(true)).await;
    assert_eq!((status, &shown["ring"]), (200, &json!([0, 200, 0, 0])), "{shown}");
    assert_eq!(slow.numbers(), [0; 0], "only looking waits for no delivery");

    let (status, done) = ask(&api, &admin, "POST", "/v1/purge", asked(false)).await;
    assert_eq!((status, &done["ring"], &done["waiting"]), (200, &json!([0, 200, 0, 0]), &json!(false)));
    let account = ring.account();
    account.check().unwrap();
    let of = |sink: &Fake| account.sinks[sink.id()].clone();
    let sum = |levels: &[u64; 4]| levels.iter().sum::<u64>();
    // what was on the wire was delivered, and counts as that; only the rest is lost for this sink
    let taken = slow.numbers().len() as u64;
    assert!(taken > 0);
    assert_eq!(sum(&of(&slow).delivered), taken);
    assert_eq!(of(&slow).lost[&LossReason::Purged], [0, 200 - of(&slow).delivered[1], 0, 0]);
    assert_eq!(of(&away).lost[&LossReason::Purged], [0, 200, 0, 0]);
    let log = ring.chain_read(Chain::Audit, 1, 100).unwrap();
    let log: Vec<Value> = log.iter().map(|e| serde_json::from_slice(&e.data).unwrap()).collect();
    let by: Vec<&Value> = log.iter().filter(|e| e["who"] == "tester").map(|e| &e["what"]).collect();
    assert_eq!(by, ["purge_asked", "purge"], "{log:?}");
    // nobody gets a purged event from then on
    back.store(true, Ordering::Relaxed);
    running.stop(Duration::from_secs(600)).await.unwrap();
    let account = ring.account();
    account.check().unwrap();
    // what tells of the purge is of level Basic itself
    let gaps = account.stored[1] - 200;
    assert!(gaps > 0, "{account:?}");
    assert_eq!(account.sinks[away.id()].delivered, [0, gaps, 200, 0]);
    assert_eq!(away.numbers().len() as u64, 200 + gaps);
    assert_eq!(account.sinks[slow.id()].delivered[2], 200);
    assert_eq!(slow.numbers().len() as u64, sum(&account.sinks[slow.id()].delivered));
}

#[tokio::test]
async fn a_sink_that_nothing_serves_is_shown_and_can_be_detached() {
    let (_running, api, ring) = collector().await;
    let old = tidegate_proto::ids::SinkId::new("old");
    ring.attach(&old, tidegate_ring::StartAt::Oldest).unwrap();
    let admin = caller(Right::Change, false);
    let (_, buffer) = ask(&api, &admin, "GET", "/v1/buffer", Value::Null).await;
    assert_eq!(buffer["sinks"]["old"]["configured"], false);
    assert_eq!(buffer["sinks"]["a"]["configured"], true);
    for (sink, want) in [("a", 409), ("none", 404), ("old", 200), ("old", 404)] {
        let (status, answer) = ask(&api, &admin, "POST", "/v1/buffer/detach", json!({ "sink": sink })).await;
        assert_eq!(status, want, "{sink}: {answer}");
    }
    let cursors = ring.status().cursors;
    assert!(!cursors.contains_key(&old) && cursors.len() == 1);
    let entries = ring.chain_read(Chain::Audit, 1, 100).unwrap();
    let by: Vec<Value> = entries.iter().map(|e| serde_json::from_slice(&e.data).unwrap()).collect();
    let detach: Vec<&Value> = by.iter().filter(|e| e["what"] == "detach").collect();
    assert_eq!((detach.len(), &detach[0]["who"], &detach[0]["sink"]), (1, &json!("tester"), &json!("old")));
}

/// Sends bytes to one connection and reads all that comes back.
async fn raw(api: &Arc<Api>, bytes: &[u8]) -> String {
    let (mut here, there) = tokio::io::duplex(1 << 20);
    let served = tokio::spawn(serve::connection(there, Arc::clone(api), caller(Right::Look, false)));
    here.write_all(bytes).await.unwrap();
    let mut out = String::new();
    here.read_to_string(&mut out).await.unwrap();
    served.await.unwrap();
    out
}

#[tokio::test(start_paused = true)]
async fn bad_and_slow_requests_get_an_error_and_end() {
    let (_running, api, _ring) = collector().await;
    let status = |reply: &str| reply.get(9..12).unwrap_or_default().to_owned();
    assert_eq!(status(&raw(&api, b"GET /v1/ping HTTP/1.1\r\nhost: x\r\n\r\n").await), "200");
    assert_eq!(status(&raw(&api, b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n").await), "404");
    assert_eq!(status(&raw(&api, b"DELETE /v1/level HTTP/1.1\r\nhost: x\r\n\r\n").await), "405");
    assert_eq!(status(&raw(&api, b"\0\0\r\n\r\n").await), "400");
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20 << 10));
    assert!(["414", "431"].contains(&&*status(&raw(&api, long.as_bytes()).await)));
    let large =
        format!("PUT /v1/level HTTP/1.1\r\ncontent-length: {}\r\n\r\n{}", 70 << 10, " ".repeat(70 << 10));
    assert_eq!(status(&raw(&api, large.as_bytes()).await), "413");
    // one that says nothing, and one that stops in the middle: their time is up
    assert!(["", "408"].contains(&&*status(&raw(&api, b"").await)));
    assert!(["", "408"].contains(&&*status(&raw(&api, b"GET /v1/pi").await)));
    let stuck = b"PUT /v1/level HTTP/1.1\r\ncontent-length: 10\r\n\r\n{";
    assert_eq!(status(&raw(&api, stuck).await), "408");
}

#[test]
fn queries_are_decoded() {
    let all = serve::query("a=1&b=x%20y+z&c&a=2&d=%zz%4");
    let want = [("a", "2"), ("b", "x y z"), ("c", ""), ("d", "%zz%4")];
    assert_eq!(all, want.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
}

#[cfg(unix)]
mod socket {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    async fn listening(
        socket: &std::path::Path,
    ) -> (Running, CancellationToken, tokio::task::JoinHandle<std::io::Result<()>>) {
        let (running, api, _ring) = collector().await;
        let config = ControlConfig { listen: true, socket: socket.to_owned(), group: None, remote: None };
        let api = Api::new(api.handle().clone(), config, None, Places::default());
        let stop = CancellationToken::new();
        let task = tokio::spawn(listen(api, stop.clone()));
        (running, stop, task)
    }

    async fn connect(socket: &std::path::Path) -> tokio::net::UnixStream {
        loop {
            match tokio::net::UnixStream::connect(socket).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    #[tokio::test]
    async fn the_socket_is_private_names_its_user_and_goes_with_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/control.sock");
        let (running, stop, task) = listening(&path).await;
        let stream = connect(&path).await;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "only the socket is left");
        let body = Bytes::from_static(b"{\"level\": 1}");
        let (status, answer) = client::exchange(stream, "PUT", "/v1/level", body).await.unwrap();
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        let audit = running.handle().ring().chain_read(Chain::Audit, 1, 100).unwrap();
        let last = String::from_utf8_lossy(&audit.last().unwrap().data).into_owned();
        assert!(last.contains("uid ") && last.contains("at the control socket"), "{last}");
        // a second one at the same place is refused, the first goes on
        let (_other, _, second) = listening(&path).await;
        assert_eq!(second.await.unwrap().unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        client::exchange(connect(&path).await, "GET", "/v1/ping", Bytes::new()).await.unwrap();
        stop.cancel();
        task.await.unwrap().unwrap();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_left_by_a_killed_run_is_taken_over_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (_running, stop, task) = listening(&path).await;
        client::exchange(connect(&path).await, "GET", "/v1/ping", Bytes::new()).await.unwrap();
        stop.cancel();
        task.await.unwrap().unwrap();
        std::fs::write(&path, "precious").unwrap();
        let (_running, _, task) = listening(&path).await;
        assert_eq!(task.await.unwrap().unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_client_sees_whether_a_collector_runs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        assert!(client::Client::find(&path).unwrap().is_none());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(client::Client::find(&path).unwrap().is_none(), "nobody listens any more");
    }
}

mod remote_end {
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, RootCertStore};
    use tidegate_sinks::testing::chain::{Chain, Made, params, pem, private, root, signed};
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::config::RemoteControl;

    struct End {
        chain: Chain,
        clients: Made,
        address: std::net::SocketAddr,
        running: Running,
        stop: CancellationToken,
    }

    async fn open() -> End {
        let (chain, clients) = (Chain::new(), root("Clients"));
        let shown = [&chain.leaf.der, &chain.middle.der].map(|der| pem("CERTIFICATE", der)).concat();
        let key = pem("PRIVATE KEY", &chain.leaf.key.serialize_der());
        let config = RemoteControl {
            listen: "127.0.0.1:0".parse().unwrap(),
            certificate: chain.file("server.pem", shown),
            key: tidegate_sinks::secret::SecretRef::File(chain.file("server.key", key)),
            client_ca: chain.file("clients.pem", pem("CERTIFICATE", &clients.der)),
        };
        let (running, api, _ring) = collector().await;
        let end = remote::Remote::open(&config).await.unwrap();
        let (address, stop) = (end.address().unwrap(), CancellationToken::new());
        tokio::spawn(end.serve(api, stop.clone()));
        End { chain, clients, address, running, stop }
    }

    impl End {
        /// One request with a certificate, or none.
        async fn ask(
            &self,
            by: Option<&Made>,
            method: &str,
            path: &str,
            body: &str,
        ) -> Result<(u16, Value), String> {
            let mut roots = RootCertStore::empty();
            roots.add(self.chain.root.der.clone()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots);
            let config = match by {
                None => builder.with_no_client_auth(),
                Some(made) => {
                    builder.with_client_auth_cert(vec![made.der.clone()], private(&made.key)).unwrap()
                }
            };
            let tcp = tokio::net::TcpStream::connect(self.address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let tls =
                TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|e| e.to_string())?;
            let body = Bytes::copy_from_slice(body.as_bytes());
            let (status, body) = client::exchange(tls, method, path, body).await?;
            Ok((status, serde_json::from_slice(&body).unwrap()))
        }
    }

    #[tokio::test]
    async fn only_a_client_with_a_certificate_of_the_given_ca_is_heard() {
        let end = open().await;
        let right = signed(params("admin", false), &end.clients);
        let (status, answer) = end.ask(Some(&right), "GET", "/v1/level", "").await.unwrap();
        assert_eq!((status, &answer["level"]), (200, &json!(2)));
        let own_ca = root("Someone");
        let wrong = signed(params("admin", false), &own_ca);
        // one by the server's own CA is no client's
        let server = signed(params("admin", false), &end.chain.root);
        let mut old = params("admin", false);
        // before 2020, from which on the others hold
        old.not_after = old.not_before;
        let old = signed(old, &end.clients);
        for by in [None, Some(&wrong), Some(&server), Some(&old)] {
            let refused = end.ask(by, "PUT", "/v1/telemetry", "{\"enabled\": false}").await;
            assert!(refused.is_err(), "{refused:?}");
        }
        assert!(end.running.handle().control().now().enabled);
        end.stop.cancel();
    }

    #[tokio::test]
    async fn it_disables_enables_and_sets_a_level_within_the_ceilings_and_nothing_else() {
        let end = open().await;
        let by = signed(params("admin", false), &end.clients);
        let ask = async |method: &str, path: &str, body: &str| {
            end.ask(Some(&by), method, path, body).await.unwrap()
        };
        let (status, answer) = ask("PUT", "/v1/telemetry", "{\"enabled\": false}").await;
        assert_eq!((status, &answer["enabled"]), (200, &json!(false)));
        assert_eq!(ask("PUT", "/v1/telemetry", "{\"enabled\": true}").await.1["enabled"], true);
        // the default of 2 is a ceiling as well
        assert_eq!(ask("PUT", "/v1/level", "{\"level\": 3}").await.1["level"], 2);
        assert_eq!(ask("PUT", "/v1/level", "{\"level\": 1}").await.1["level"], 1);
        assert_eq!(ask("GET", "/v1/status", "").await.0, 200);
        for (method, path) in [
            ("GET", "/v1/audit"),
            ("GET", "/v1/receipts"),
            ("POST", "/v1/reload"),
            ("GET", "/v1"),
            ("GET", "/v1/device"),
            ("POST", "/v1/device/reset"),
        ] {
            assert_eq!(ask(method, path, "").await.0, 404, "{path}");
        }
        let log = end.running.handle().ring().chain_read(tidegate_ring::Chain::Audit, 1, 100).unwrap();
        let last = String::from_utf8_lossy(&log.last().unwrap().data).into_owned();
        assert!(last.contains("remote client with certificate") && last.contains("127.0.0.1"), "{last}");
        end.stop.cancel();
    }

    #[tokio::test]
    async fn files_that_cannot_be_used_are_named() {
        let chain = Chain::new();
        let good = chain.file("c.pem", pem("CERTIFICATE", &chain.leaf.der));
        let empty = chain.file("empty.pem", String::new());
        let key = tidegate_sinks::secret::SecretRef::File(empty.clone());
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = RemoteControl { listen, certificate: empty.clone(), key, client_ca: good.clone() };
        let why = |c: &RemoteControl| remote::tls(c).unwrap_err().to_string();
        assert!(why(&config).contains("certificate") && why(&config).contains("empty.pem"));
        let config = RemoteControl { certificate: good, ..config };
        assert!(why(&config).contains("key"), "{}", why(&config));
    }
}
