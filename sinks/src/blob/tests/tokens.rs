//! Identities and the SAS broker, with an authority and a service in memory.

use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::UNIX_EPOCH;

use super::*;
use crate::Clock;

/// Counts the tokens it hands out (`token-1`, …) and answers uploads.
pub(super) struct Cloud {
    pub server: CannedServer,
    seconds: Arc<AtomicU64>,
    handed: Arc<AtomicU32>,
    /// Uploads refused with 401 before one is taken.
    refuse: Arc<AtomicU32>,
}

/// An answer that gives a token for an hour.
pub(super) fn token(n: u32) -> Canned {
    Canned::status(200).saying(format!("{{\"access_token\":\"token-{n}\",\"expires_in\":\"3600\"}}"))
}

impl Cloud {
    pub async fn new(answer: impl Fn(u32) -> Canned + Send + Sync + 'static) -> Cloud {
        let refuse = Arc::new(AtomicU32::new(0));
        let no = Arc::clone(&refuse);
        let cloud = Cloud::answering(answer, move |_, _| {
            let refused = no.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
            if refused { error_reply(401, "InvalidAuthenticationInfo") } else { created() }
        })
        .await;
        Cloud { refuse, ..cloud }
    }

    /// With a service of another kind, which may set the sinks' clocks.
    pub async fn answering(
        answer: impl Fn(u32) -> Canned + Send + Sync + 'static,
        uploads: impl Fn(&Seen, &AtomicU64) -> Canned + Send + Sync + 'static,
    ) -> Cloud {
        let handed = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&handed);
        let seconds = Arc::new(AtomicU64::new(1_750_000_000));
        let clock = Arc::clone(&seconds);
        let server = CannedServer::handler(move |seen| {
            if !seen.target.starts_with("/acct/logs/") {
                return answer(count.fetch_add(1, Ordering::Relaxed) + 1);
            }
            uploads(seen, &clock)
        })
        .await;
        Cloud { server, seconds, handed, refuse: Arc::default() }
    }

    pub async fn tokens() -> Cloud {
        Cloud::new(token).await
    }

    pub fn sink(&self, settings: &str) -> BlobSink {
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

    pub fn pass(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::Relaxed);
    }

    pub fn handed(&self) -> u32 {
        self.handed.load(Ordering::Relaxed)
    }

    pub fn uploads(&self) -> Vec<Seen> {
        self.server.seen().into_iter().filter(|s| s.target.starts_with("/acct/logs/")).collect()
    }
}

pub(super) const MANAGED: &str =
    "[identity]\nkind = \"managed\"\nendpoint = \"URL/metadata\"\nclient_id = \"me\"";

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

pub(super) const BROKER: &str = "[sas_broker]\nurl = \"URL/broker\"\nhost = \"web-07\"\ntoken = \"b3arer\"";

/// Answers of a broker that gives these URLs, where `URL` is the server's own address: that is known
/// only once it runs.
fn urls(answer: impl Fn(u32) -> String) -> (Arc<Mutex<String>>, impl Fn(u32) -> Canned) {
    let place = Arc::new(Mutex::new(String::new()));
    let there = Arc::clone(&place);
    let say = move |n| {
        let url = answer(n).replace("URL", &there.lock().unwrap());
        Canned::status(200).saying(serde_json::json!({ "url": url }).to_string())
    };
    (place, say)
}

pub(super) async fn broker(
    answer: impl Fn(u32) -> String + Send + Sync + 'static,
    uploads: impl Fn(&Seen, &AtomicU64) -> Canned + Send + Sync + 'static,
) -> Cloud {
    let (place, say) = urls(answer);
    let cloud = Cloud::answering(say, uploads).await;
    *place.lock().unwrap() = cloud.server.url();
    cloud
}

async fn sound_broker(answer: impl Fn(u32) -> String + Send + Sync + 'static) -> Cloud {
    let (place, say) = urls(answer);
    let cloud = Cloud::new(say).await;
    *place.lock().unwrap() = cloud.server.url();
    cloud
}

#[tokio::test]
async fn a_broker_is_asked_once_and_again_before_the_sas_ends() {
    // 1_750_000_000 is 15:06:40
    let cloud =
        sound_broker(|n| format!("URL/acct/logs?sv=2019-12-12&se=2025-06-15T{}%3A00%3A00Z&sig=s{n}", 15 + n))
            .await;
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
        ("URL/acct/logs?se=2030-01-01", false),
        ("URL/acct/logs?se=2030-01-01&sig=", false),
        ("nonsense", false),
    ] {
        let cloud = sound_broker(move |_| url.to_owned()).await;
        let error = cloud.sink(BROKER).deliver(&batch(1, 1)).await.unwrap_err();
        // who reads the alarm looks at the broker
        if !stops {
            let told = error.cause().unwrap_or_default();
            assert!(told.contains("broker at http") && told.contains("sas_broker.url"), "{url}: {error:?}");
        }
        assert_eq!(matches!(error, DeliverError::Stop { .. }), stops, "{url}: {error:?}");
        assert!(cloud.uploads().is_empty() && !format!("{error:?}").contains("sig="), "{error:?}");
    }
}

#[tokio::test]
async fn a_broker_that_gave_a_sas_without_a_signature_is_asked_again_until_it_is_mended() {
    let cloud = sound_broker(|n| match n {
        1 | 2 => "URL/acct/logs?sv=2019-12-12&se=2030-01-01".to_owned(),
        _ => format!("URL/acct/logs?sv=2019-12-12&se=2030-01-01&sig=s{n}"),
    })
    .await;
    let sink = cloud.sink(BROKER);
    for asked in 1..=2 {
        let error = sink.deliver(&batch(1, 1)).await.unwrap_err();
        assert!(matches!(error, DeliverError::Retry { .. }), "{error:?}");
        assert!(error.cause().is_some_and(|c| c.contains("no signature (sig)")), "{error:?}");
        assert_eq!(cloud.handed(), asked);
    }
    sink.deliver(&batch(1, 1)).await.unwrap();
    assert_eq!((cloud.handed(), cloud.uploads().len()), (3, 1));
}

#[tokio::test]
async fn a_broker_or_authority_that_redirects_or_shows_a_page_is_named_with_its_setting() {
    let moved = |status| Canned::status(status).with("location", "https://login.test/in?code=s3cret");
    let page = Canned::status(200).saying("<html>sign in</html>");
    for (settings, answer, words) in [
        (BROKER, moved(302), ["SAS broker at http", "https://login.test/in,", "sas_broker.url"]),
        (MANAGED, moved(307), ["answered 307", "https://login.test/in,", "identity"]),
        (BROKER, page.clone(), ["SAS broker at http", "/broker", "sas_broker.url"]),
        (MANAGED, page, ["/metadata", "token", "identity"]),
    ] {
        let cloud = Cloud::new(move |_| answer.clone()).await;
        let error = cloud.sink(settings).deliver(&batch(1, 1)).await.unwrap_err();
        assert!(matches!(error, DeliverError::Retry { .. }), "{error:?}");
        let told = error.cause().unwrap_or_default();
        assert!(words.iter().all(|w| told.contains(w)), "{told}: {error:?}");
        assert!(!format!("{error:?} {told}").contains("s3cret"), "{error:?}");
    }
}

/// A file of the test data.
fn data(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/blob/tests/data").join(name)
}

/// What an authority that checks everything says of an assertion: its claims, or why not.
fn checked(form: &str, audience: &str, now: u64, legacy: bool) -> Result<serde_json::Value, String> {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use ring::signature;
    let url: crate::http::Url = format!("http://form/?{form}").parse().unwrap();
    let pairs: BTreeMap<_, _> = url.query_pairs().collect();
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    if pairs.get("client_assertion_type").map(|v| v.as_ref()) != Some(kind) {
        return Err(format!("kind: {form}"));
    }
    let token = &pairs["client_assertion"];
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signed] = parts[..] else { return Err("three parts".to_owned()) };
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|e| e.to_string());
    let head: serde_json::Value = serde_json::from_slice(&decode(header)?).unwrap();
    // the registered certificate, read with other means than the signer has
    let pem = std::fs::read_to_string(data("client.pem")).unwrap();
    let inner: String = pem.lines().filter(|l| !l.starts_with("-----")).collect();
    let der = STANDARD.decode(inner).unwrap();
    let digest = ring::digest::digest(
        if legacy { &ring::digest::SHA1_FOR_LEGACY_USE_ONLY } else { &ring::digest::SHA256 },
        &der,
    );
    let (alg, key) = if legacy { ("RS256", "x5t") } else { ("PS256", "x5t#S256") };
    if head["alg"] != alg || head[key] != URL_SAFE_NO_PAD.encode(digest) {
        return Err(format!("header: {head}"));
    }
    if let Some(chain) = head["x5c"].as_array()
        && chain[0] != STANDARD.encode(&der)
    {
        return Err(format!("chain: {head}"));
    }
    // 24 bytes of SubjectPublicKeyInfo stand before a key of 2048 bits
    let public = &crate::http::spki(&der).unwrap()[24..];
    let scheme: &dyn signature::VerificationAlgorithm = match legacy {
        true => &signature::RSA_PKCS1_2048_8192_SHA256,
        false => &signature::RSA_PSS_2048_8192_SHA256,
    };
    let message = format!("{header}.{claims}");
    let unparsed = signature::UnparsedPublicKey::new(scheme, public);
    unparsed.verify(message.as_bytes(), &decode(signed)?).map_err(|_| "signature".to_owned())?;
    let claims: serde_json::Value = serde_json::from_slice(&decode(claims)?).unwrap();
    let time = |key: &str| claims[key].as_u64().unwrap();
    let sound = claims["aud"] == audience
        && claims["iss"] == "app"
        && claims["sub"] == "app"
        && (time("nbf")..time("exp")).contains(&now)
        && time("exp") - now <= 600;
    if sound { Ok(claims) } else { Err(format!("claims: {claims}")) }
}

#[tokio::test]
async fn an_application_shows_its_certificate_by_a_signed_assertion() {
    for (tenant, key, more, legacy) in [
        ("t1", "client.key", "", false),
        ("t1", "client-pkcs1.key", "send_chain = true", false),
        ("adfs", "client.key", "", true),
    ] {
        let cloud = Cloud::tokens().await;
        let sink = cloud.sink(&format!(
            "[identity]\nkind = \"client-certificate\"\nclient_id = \"app\"\ntenant_id = \"{tenant}\"\n\
             authority = \"URL\"\nclient_certificate = {:?}\nclient_key = \"file:{}\"\n{more}",
            data("client.pem"),
            data(key).display()
        ));
        sink.deliver(&batch(1, 1)).await.unwrap();
        cloud.pass(3600);
        sink.deliver(&batch(2, 2)).await.unwrap();
        let path = if legacy { "/adfs/oauth2/token" } else { "/t1/oauth2/v2.0/token" };
        let asked: Vec<Seen> = cloud.server.seen().into_iter().filter(|s| s.target == path).collect();
        assert_eq!(asked.len(), 2, "{tenant}");
        let audience = format!("{}{path}", cloud.server.url());
        let mut ids = Vec::new();
        for (n, seen) in asked.iter().enumerate() {
            let form = std::str::from_utf8(&seen.body).unwrap();
            let claims = checked(form, &audience, 1_750_000_000 + 3600 * n as u64, legacy).unwrap();
            ids.push(claims["jti"].as_str().unwrap().to_owned());
            assert!(!form.contains("client_secret"), "{form}");
        }
        assert_ne!(ids[0], ids[1], "each assertion has an id of its own");
        assert_eq!(cloud.uploads()[1].header("authorization"), Some("Bearer token-2"));
    }
}

#[tokio::test]
async fn a_certificate_or_key_that_cannot_sign_holds_the_sink_and_stays_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let made = crate::testing::chain::Chain::new();
    let other = file("other.pem", &crate::testing::chain::pem("CERTIFICATE", &made.leaf.der));
    let curve = crate::testing::chain::pem("PRIVATE KEY", &made.leaf.key.serialize_der());
    let curve = file("curve.key", &curve);
    let (good, key) = (data("client.pem"), data("client.key"));
    let (text, missing) = (file("text", "no pem"), dir.path().join("missing"));
    for (certificate, key, word) in [
        (&other, &key, "not the key of"),
        (&good, &curve, "no RSA key"),
        (&good, &text, "no RSA key"),
        (&text, &key, "no certificate"),
        (&missing, &key, "no certificate"),
        (&good, &missing, "client_key"),
    ] {
        let cloud = Cloud::tokens().await;
        let sink = cloud.sink(&format!(
            "[identity]\nkind = \"client-certificate\"\nclient_id = \"app\"\ntenant_id = \"t\"\n\
             authority = \"URL\"\nclient_certificate = {certificate:?}\nclient_key = \"file:{}\"",
            key.display()
        ));
        let error = sink.deliver(&batch(1, 1)).await.unwrap_err();
        let DeliverError::Stop { advice, source, .. } = &error else { panic!("{error:?}") };
        assert!(advice.contains("certificate") && source.to_string().contains(word), "{word}: {error:?}");
        assert_eq!(cloud.handed(), 0);
        assert!(!format!("{error:?}").contains("PRIVATE"), "{error:?}");
    }
}
