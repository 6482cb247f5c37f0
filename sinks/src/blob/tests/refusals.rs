//! Credentials that are refused, that end, or that end by another clock than ours.

use std::sync::atomic::AtomicU64;
use std::time::UNIX_EPOCH;

use super::token::Tokens;
use super::tokens::{BROKER, Cloud, MANAGED, broker, token};
use super::*;
use crate::http::HttpConfig;

fn stops(error: &DeliverError) -> bool {
    matches!(error, DeliverError::Stop { .. })
}

/// Refuses to look at a blob that is in the way, as without the permission to read.
fn write_only(code: &'static str) -> impl Fn(&Seen) -> Canned + Send + Sync {
    move |seen| match seen.method.as_str() {
        "PUT" => error_reply(409, "BlobAlreadyExists"),
        // an answer to HEAD has no body
        _ if code.is_empty() => Canned::status(403),
        _ => error_reply(403, code),
    }
}

#[tokio::test]
async fn a_permission_that_is_missing_at_the_second_request_stops_every_attempt() {
    for code in ["AuthorizationPermissionMismatch", ""] {
        let uploads = write_only(code);
        let cloud = Cloud::answering(token, move |seen, _| uploads(seen)).await;
        let sink = cloud.sink(MANAGED);
        for n in 1..=10 {
            let error = sink.deliver(&batch(1, 1)).await.unwrap_err();
            assert!(stops(&error), "attempt {n}, \"{code}\": {error:?}");
        }
    }
    let uploads = write_only("AuthorizationPermissionMismatch");
    let cloud =
        broker(|n| format!("URL/acct/logs?se=2030-01-01&sp=cw&sig=s{n}"), move |s, _| uploads(s)).await;
    let sink = cloud.sink(BROKER);
    for _ in 0..3 {
        let error = sink.deliver(&batch(1, 1)).await.unwrap_err();
        let DeliverError::Stop { advice, .. } = &error else { panic!("{error:?}") };
        assert!(advice.contains("permission") && advice.contains("broker"), "{advice}");
    }
}

#[tokio::test]
async fn a_token_older_than_the_attempt_that_is_refused_without_a_reason_is_renewed_once() {
    let refuse = Arc::new(AtomicBool::new(false));
    let refused = Arc::clone(&refuse);
    let uploads = write_only("");
    let cloud =
        Cloud::answering(
            token,
            move |seen, _| {
                if refused.load(Ordering::Relaxed) { uploads(seen) } else { created() }
            },
        )
        .await;
    let sink = cloud.sink(MANAGED);
    sink.deliver(&batch(1, 1)).await.unwrap();
    refuse.store(true, Ordering::Relaxed);
    let error = sink.deliver(&batch(2, 2)).await.unwrap_err();
    assert!(matches!(error, DeliverError::Retry { .. }), "{error:?}");
    for _ in 0..3 {
        assert!(stops(&sink.deliver(&batch(2, 2)).await.unwrap_err()));
    }
}

#[tokio::test]
async fn a_token_of_five_minutes_serves_more_than_one_request() {
    let cloud = Cloud::new(|n| {
        Canned::status(200).saying(format!("{{\"access_token\":\"token-{n}\",\"expires_in\":300}}"))
    })
    .await;
    let sink = cloud.sink(MANAGED);
    for n in 1..=5 {
        sink.deliver(&batch(n, n)).await.unwrap();
        cloud.pass(29);
    }
    assert_eq!(cloud.handed(), 1);
    cloud.pass(10);
    sink.deliver(&batch(6, 6)).await.unwrap();
    assert_eq!(cloud.handed(), 2, "at half its life");
}

#[tokio::test]
async fn a_token_that_ends_between_the_blocks_of_a_large_blob_is_renewed_for_the_rest() {
    // each block takes a minute, a token holds for four; the service looks at the time
    let clock = Arc::new(AtomicU64::new(0));
    let (handing, serving) = (Arc::clone(&clock), Arc::clone(&clock));
    let ends = Arc::new(Mutex::new(BTreeMap::new()));
    let known = Arc::clone(&ends);
    let cloud = Cloud::answering(
        move |n| {
            ends.lock().unwrap().insert(format!("Bearer token-{n}"), handing.load(Ordering::Relaxed) + 240);
            Canned::status(200).saying(format!("{{\"access_token\":\"token-{n}\",\"expires_in\":240}}"))
        },
        move |seen, seconds| {
            let now = serving.fetch_add(60, Ordering::Relaxed);
            seconds.fetch_add(60, Ordering::Relaxed);
            let end = known.lock().unwrap().get(seen.header("authorization").unwrap()).copied();
            if end.is_some_and(|end| end > now) { created() } else { error_reply(401, "") }
        },
    )
    .await;
    let sink = cloud.sink(&format!(
        "block_size = \"1KiB\"\nsingle_put_max = \"1KiB\"\ncompression = \"none\"\n{MANAGED}"
    ));
    let done = sink.deliver(&batch(1, 60)).await.unwrap();
    assert_eq!(done.objects.len(), 1);
    let uploads = cloud.uploads();
    assert!(
        uploads.len() > 8 && uploads.iter().rev().skip(1).all(|s| s.target.contains("comp=block&")),
        "{}",
        uploads.len()
    );
    assert!(uploads.last().unwrap().target.contains("comp=blocklist"));
    assert!(cloud.handed() > 2, "{} tokens", cloud.handed());
}

#[tokio::test]
async fn an_end_without_seconds_and_one_that_a_policy_keeps_are_taken() {
    let taken = |_: &Seen, _: &AtomicU64| created();
    let cloud = broker(|n| format!("URL/acct/logs?sv=1&se=2030-06-15T00%3A00Z&sig=s{n}"), taken).await;
    let sink = cloud.sink(BROKER);
    sink.deliver(&batch(1, 1)).await.unwrap();
    sink.deliver(&batch(2, 2)).await.unwrap();
    assert_eq!(cloud.handed(), 1);

    let refuse = Arc::new(AtomicBool::new(false));
    let refused = Arc::clone(&refuse);
    let cloud = broker(
        |n| format!("URL/acct/logs?sv=1&si=uploads&sig=s{n}"),
        move |_, _| match refused.swap(false, Ordering::Relaxed) {
            true => error_reply(403, "AuthenticationFailed"),
            false => created(),
        },
    )
    .await;
    let sink = cloud.sink(BROKER);
    for n in 1..=3 {
        sink.deliver(&batch(n, n)).await.unwrap();
        cloud.pass(400 * 86_400);
    }
    assert_eq!(cloud.handed(), 1, "until it is refused");
    refuse.store(true, Ordering::Relaxed);
    let error = sink.deliver(&batch(4, 4)).await.unwrap_err();
    assert!(matches!(error, DeliverError::Retry { .. }), "{error:?}");
    sink.deliver(&batch(4, 4)).await.unwrap();
    assert_eq!(cloud.handed(), 2);
}

/// A broker that tells its time.
async fn dated(se: &'static str, date: &'static str) -> Cloud {
    let place = Arc::new(Mutex::new(String::new()));
    let there = Arc::clone(&place);
    let cloud = Cloud::new(move |_| {
        let url = format!("{}/acct/logs?se={se}&sig=s", there.lock().unwrap());
        Canned::status(200).with("date", date).saying(serde_json::json!({ "url": url }).to_string())
    })
    .await;
    *place.lock().unwrap() = cloud.server.url();
    cloud
}

#[tokio::test]
async fn a_sas_ends_by_the_clock_of_those_who_give_it_and_a_wrong_clock_is_named() {
    // ours says 2035
    let cloud = dated("2025-06-15T16:00Z", "Sun, 15 Jun 2025 15:00:00 GMT").await;
    cloud.pass(10 * 365 * 86_400);
    let sink = cloud.sink(BROKER);
    sink.deliver(&batch(1, 1)).await.unwrap();
    cloud.pass(50 * 60);
    sink.deliver(&batch(2, 2)).await.unwrap();
    assert_eq!(cloud.handed(), 1);
    cloud.pass(6 * 60);
    sink.deliver(&batch(3, 3)).await.unwrap();
    assert_eq!(cloud.handed(), 2, "five minutes before its end");

    let cloud = dated("2025-06-15T14:00Z", "Sun, 15 Jun 2025 15:00:00 GMT").await;
    cloud.pass(10 * 365 * 86_400);
    let error = cloud.sink(BROKER).deliver(&batch(1, 1)).await.unwrap_err();
    let DeliverError::Retry { source, .. } = &error else { panic!("{error:?}") };
    let said = source.to_string();
    assert!(said.contains("has ended") && said.contains("clock is") && said.contains("ahead"), "{said}");
}

#[tokio::test]
async fn a_clock_outside_of_the_years_that_headers_have_panics_nothing() {
    let far = UNIX_EPOCH + Duration::from_secs(300_000_000_000);
    for (at, shown) in [
        (UNIX_EPOCH - Duration::from_secs(1), "Thu, 01 Jan 1970 00:00:00 GMT"),
        (far, "Fri, 31 Dec 9999 23:59:59 GMT"),
    ] {
        let server = CannedServer::handler(|_| created()).await;
        let text = format!(
            "container = \"logs\"\naccount = \"acct\"\nkey = \"{KEY}\"\nendpoint = \"{}\"\npath_style = true\n\
             layout = \"\"",
            server.url()
        );
        let config: BlobConfig = toml::from_str(&text).unwrap();
        let ctx = HttpContext { clock: crate::Clock::fixed(at), ..HttpContext::default() };
        let sink = BlobSink::new(&SinkId::new("blob"), &config, &ctx).unwrap();
        sink.deliver(&batch(1, 1)).await.unwrap();
        assert_eq!(server.seen()[0].header("x-ms-date"), Some(shown));
    }
}

#[tokio::test]
async fn a_machine_of_azure_arc_answers_the_agents_challenge() {
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("1.key");
    std::fs::write(&key, "c2VjcmV0").unwrap();
    let named = Arc::new(Mutex::new(key.display().to_string()));
    let path = Arc::clone(&named);
    let agent = CannedServer::handler(move |seen| match seen.header("authorization") {
        None => {
            Canned::status(401).with("www-authenticate", &format!("Basic realm={}", path.lock().unwrap()))
        }
        Some("Basic c2VjcmV0") => token(1),
        Some(_) => Canned::status(403),
    })
    .await;
    let config: IdentityConfig =
        toml::from_str(&format!("kind = \"arc\"\nendpoint = \"{}/token\"", agent.url())).unwrap();
    let client = || Client::new(&HttpConfig::default(), &HttpContext::default()).unwrap();
    let tokens = || {
        let mut tokens = Tokens::new(&config, client()).unwrap();
        tokens.arc_keys_in(keys.path());
        tokens
    };
    let (given, _) = tokens().token().await.unwrap();
    assert_eq!(given.expose(), "token-1");
    let seen = agent.seen();
    assert!(
        seen.iter()
            .all(|s| s.header("metadata") == Some("true") && s.target.contains("api-version=2020-06-01"))
    );
    assert_eq!(seen.len(), 2);
    // a file of somebody else is neither read nor sent
    *named.lock().unwrap() = "/etc/hostname".to_owned();
    let error = tokens().token().await.unwrap_err();
    let DeliverError::Stop { advice, source, .. } = &error else { panic!("{error:?}") };
    assert!(advice.contains("Arc") && source.to_string().contains("/etc/hostname"), "{error:?}");
    assert_eq!(agent.seen().len(), 3);
    let two = format!("kind = \"arc\"\nclient_id = \"x\"\nendpoint = \"{}/token\"", agent.url());
    assert!(Tokens::new(&toml::from_str(&two).unwrap(), client()).unwrap_err().contains("client_id"));
}

#[tokio::test]
async fn the_machines_own_identity_is_not_asked_for_through_the_proxy() {
    let cloud = Cloud::tokens().await;
    let proxy = CannedServer::handler(|_| created()).await;
    let sink = cloud.sink(&format!("http = {{ proxy = {{ url = \"{}\" }} }}\n{MANAGED}", proxy.url()));
    sink.deliver(&batch(1, 1)).await.unwrap();
    assert_eq!((cloud.handed(), cloud.uploads().len()), (1, 0));
    assert_eq!(proxy.seen().len(), 1, "the upload alone");
}
