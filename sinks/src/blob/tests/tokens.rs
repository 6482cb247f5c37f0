//! Identities and the SAS broker, with an authority and a service in memory.

use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::UNIX_EPOCH;

use super::*;
use crate::Clock;

/// Counts the tokens it hands out (`token-1`, …) and answers uploads.
struct Cloud {
    server: CannedServer,
    seconds: Arc<AtomicU64>,
    handed: Arc<AtomicU32>,
    /// Uploads refused with 401 before one is taken.
    refuse: Arc<AtomicU32>,
}

impl Cloud {
    async fn new(answer: impl Fn(u32) -> Canned + Send + Sync + 'static) -> Cloud {
        let (handed, refuse) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (count, no) = (Arc::clone(&handed), Arc::clone(&refuse));
        let server = CannedServer::handler(move |seen| {
            if !seen.target.starts_with("/acct/logs/") {
                return answer(count.fetch_add(1, Ordering::Relaxed) + 1);
            }
            let refused = no.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
            if refused { error_reply(401, "InvalidAuthenticationInfo") } else { Canned::status(201) }
        })
        .await;
        Cloud { server, seconds: Arc::new(AtomicU64::new(1_750_000_000)), handed, refuse }
    }

    async fn tokens() -> Cloud {
        Cloud::new(|n| {
            Canned::status(200).saying(format!("{{\"access_token\":\"token-{n}\",\"expires_in\":\"3600\"}}"))
        })
        .await
    }

    fn sink(&self, settings: &str) -> BlobSink {
        let url = self.server.url();
        let text = format!(
            "container = \"logs\"\naccount = \"acct\"\nendpoint = \"{url}\"\npath_style = true\nlayout = \"\"\n{}",
            settings.replace("URL", &url)
        );
        let config: BlobConfig = toml::from_str(&text).unwrap();
        let seconds = Arc::clone(&self.seconds);
        let clock = Clock::from_fn(move || UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::Relaxed)));
        BlobSink::new(&SinkId::new("blob"), &config, &HttpContext { clock, ..HttpContext::default() })
            .unwrap()
    }

    fn pass(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::Relaxed);
    }

    fn handed(&self) -> u32 {
        self.handed.load(Ordering::Relaxed)
    }

    fn uploads(&self) -> Vec<Seen> {
        self.server.seen().into_iter().filter(|s| s.target.starts_with("/acct/logs/")).collect()
    }
}

const MANAGED: &str = "[identity]\nkind = \"managed\"\nendpoint = \"URL/metadata\"\nclient_id = \"me\"";

#[tokio::test]
async fn a_token_is_kept_and_renewed_before_its_end() {
    let cloud = Cloud::tokens().await;
    let sink = cloud.sink(MANAGED);
    for n in 1..=3 {
        sink.deliver(&batch(n, n)).await.unwrap();
    }
    assert_eq!(cloud.handed(), 1);
    cloud.pass(3301);
    sink.deliver(&batch(4, 4)).await.unwrap();
    assert_eq!(cloud.handed(), 2);
    let asked = &cloud.server.seen()[0];
    assert_eq!(asked.header("metadata"), Some("true"));
    assert!(
        asked.target.contains("resource=https%3A%2F%2Fstorage.azure.com%2F&client_id=me"),
        "{}",
        asked.target
    );
    let shown: Vec<_> =
        cloud.uploads().iter().map(|s| s.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(shown, ["Bearer token-1", "Bearer token-1", "Bearer token-1", "Bearer token-2"]);
}

#[tokio::test]
async fn a_token_that_ended_on_the_way_is_tried_again_with_a_fresh_one() {
    let cloud = Cloud::tokens().await;
    let sink = cloud.sink(MANAGED);
    sink.deliver(&batch(1, 1)).await.unwrap();
    cloud.refuse.store(1, Ordering::Relaxed);
    let error = sink.deliver(&batch(2, 2)).await.unwrap_err();
    assert!(matches!(error, DeliverError::Retry { .. }), "{error:?}");
    sink.deliver(&batch(2, 2)).await.unwrap();
    assert_eq!(cloud.handed(), 2);
    // a fresh one that is refused needs someone, not a hot loop
    cloud.pass(4000);
    cloud.refuse.store(2, Ordering::Relaxed);
    for _ in 0..2 {
        let error = sink.deliver(&batch(3, 3)).await.unwrap_err();
        let DeliverError::Stop { advice, .. } = &error else { panic!("{error:?}") };
        assert!(advice.contains("role") && !format!("{error:?}").contains("token-"), "{error:?}");
    }
}

#[tokio::test]
async fn an_application_and_a_workload_ask_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("federated");
    std::fs::write(&file, "first.jwt\n").unwrap();
    let cloud = Cloud::tokens().await;
    let common = "client_id = \"app\"\ntenant_id = \"t1\"\nauthority = \"URL\"";
    let secret =
        cloud.sink(&format!("[identity]\nkind = \"client-secret\"\n{common}\nclient_secret = \"a&b=c\""));
    secret.deliver(&batch(1, 1)).await.unwrap();
    let workload =
        cloud.sink(&format!("[identity]\nkind = \"workload\"\n{common}\ntoken_file = '{}'", file.display()));
    workload.deliver(&batch(2, 2)).await.unwrap();
    std::fs::write(&file, "second.jwt").unwrap();
    cloud.pass(4000);
    workload.deliver(&batch(3, 3)).await.unwrap();
    let adfs = cloud.sink(
        "[identity]\nkind = \"client-secret\"\nclient_id = \"app\"\ntenant_id = \"adfs\"\n\
         authority = \"URL\"\nclient_secret = \"s\"",
    );
    adfs.deliver(&batch(4, 4)).await.unwrap();
    let asked: Vec<_> = cloud.server.seen().into_iter().filter(|s| s.method == "POST").collect();
    let body = |n: usize| String::from_utf8(asked[n].body.to_vec()).unwrap();
    assert_eq!(asked[0].target, "/t1/oauth2/v2.0/token");
    assert!(
        body(0).contains("client_secret=a%26b%3Dc")
            && body(0).contains("scope=https%3A%2F%2Fstorage.azure.com%2F.default")
    );
    assert!(
        body(1).contains("client_assertion=first.jwt") && body(2).contains("client_assertion=second.jwt")
    );
    assert_eq!(asked[3].target, "/adfs/oauth2/token");
    assert!(body(3).contains("resource=https"), "{}", body(3));
}

#[tokio::test]
async fn an_authority_that_refuses_or_makes_no_sense_is_told_apart() {
    for (answer, stops) in [
        (Canned::status(400).saying("{\"error\":\"invalid_client\",\"error_description\":\"bad\"}"), true),
        (Canned::status(401), true),
        (Canned::status(404), true),
        (Canned::status(429).with("retry-after", "9"), false),
        (Canned::status(503), false),
        (Canned::status(200).saying("<html>sign in</html>"), false),
        (Canned::status(200).saying("{\"access_token\":\"a b\",\"expires_in\":1}"), false),
        (Canned::status(200).saying("{\"access_token\":\"ab\",\"expires_in\":null}"), false),
        (Canned::Close, false),
    ] {
        let cloud = Cloud::new(move |_| answer.clone()).await;
        let error = cloud.sink(MANAGED).deliver(&batch(1, 1)).await.unwrap_err();
        assert_eq!(matches!(error, DeliverError::Stop { .. }), stops, "{error:?}");
        assert!(cloud.uploads().is_empty());
    }
}

const BROKER: &str = "[sas_broker]\nurl = \"URL/broker\"\nhost = \"web-07\"\ntoken = \"b3arer\"";

async fn broker(answer: impl Fn(u32) -> String + Send + Sync + 'static) -> Cloud {
    // the answers name the server's own address, known only once it runs
    let place = Arc::new(Mutex::new(String::new()));
    let there = Arc::clone(&place);
    let cloud = Cloud::new(move |n| {
        let url = answer(n).replace("URL", &there.lock().unwrap());
        Canned::status(200).saying(serde_json::json!({ "url": url }).to_string())
    })
    .await;
    *place.lock().unwrap() = cloud.server.url();
    cloud
}

#[tokio::test]
async fn a_broker_is_asked_once_and_again_before_the_sas_ends() {
    // 1_750_000_000 is 15:06:40
    let cloud =
        broker(|n| format!("URL/acct/logs?sv=2019-12-12&se=2025-06-15T{}%3A00%3A00Z&sig=s{n}", 15 + n)).await;
    let sink = cloud.sink(BROKER);
    sink.deliver(&batch(1, 1)).await.unwrap();
    sink.deliver(&batch(2, 2)).await.unwrap();
    cloud.pass(49 * 60);
    sink.deliver(&batch(3, 3)).await.unwrap();
    let uploads = cloud.uploads();
    assert!(uploads[1].target.ends_with("&sig=s1") && uploads[2].target.ends_with("&sig=s2"), "{uploads:?}");
    let asked = &cloud.server.seen()[0];
    assert_eq!(asked.header("authorization"), Some("Bearer b3arer"));
    assert_eq!(&asked.body[..], b"{\"host\":\"web-07\",\"container\":\"logs\"}");
    // revoked in the middle of its life
    cloud.refuse.store(1, Ordering::Relaxed);
    let error = sink.deliver(&batch(4, 4)).await.unwrap_err();
    assert!(
        matches!(error, DeliverError::Retry { .. }) && !format!("{error:?}").contains("sig="),
        "{error:?}"
    );
    sink.deliver(&batch(4, 4)).await.unwrap();
    assert_eq!(cloud.handed(), 3);
}

#[tokio::test]
async fn a_broker_cannot_send_events_elsewhere() {
    for (url, stops) in [
        ("http://127.0.0.1:9/acct/logs?se=2030-01-01&sig=s", true),
        ("URL/acct/other?se=2030-01-01&sig=s", true),
        ("URL/acct/logs?sig=s", false),
        ("URL/acct/logs?se=2020-01-01&sig=s", false),
        ("URL/acct/logs?se=never&sig=s", false),
        ("nonsense", false),
    ] {
        let cloud = broker(move |_| url.to_owned()).await;
        let error = cloud.sink(BROKER).deliver(&batch(1, 1)).await.unwrap_err();
        assert_eq!(matches!(error, DeliverError::Stop { .. }), stops, "{url}: {error:?}");
        assert!(cloud.uploads().is_empty() && !format!("{error:?}").contains("sig="), "{error:?}");
    }
}
