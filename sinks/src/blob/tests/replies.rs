//! Every answer, and what becomes of it.

use super::*;
use crate::Clock;

async fn outcome(reply: Canned) -> DeliverError {
    let server = CannedServer::handler(move |_| reply.clone()).await;
    let sink = sink(&server.url(), "layout = \"\"\nhttp = { timeout = \"2s\" }");
    let error = sink.deliver(&batch(1, 3)).await.unwrap_err();
    let told = format!("{error:?} {error}");
    assert!(!told.contains(KEY), "{told}");
    error
}

#[tokio::test]
async fn who_must_act_is_told_what_to_do() {
    for (status, code, word) in [
        (401, "InvalidAuthenticationInfo", "key"),
        (403, "AuthenticationFailed", "key"),
        (403, "AuthorizationPermissionMismatch", "permission"),
        (403, "AuthorizationFailure", "firewall"),
        (404, "ContainerNotFound", "create_container"),
        (404, "ResourceNotFound", "endpoint"),
        (404, "", "endpoint"),
        (407, "", "proxy"),
        (400, "InvalidHeaderValue", "api_version"),
        (400, "InvalidResourceName", "layout"),
        (409, "AccountIsDisabled", "enable"),
    ] {
        let error = outcome(error_reply(status, code)).await;
        let DeliverError::Stop { advice, .. } = &error else { panic!("{status} {code}: {error:?}") };
        assert!(advice.contains(word), "{status} {code}: {advice}");
    }
}

#[tokio::test]
async fn a_refusal_that_asks_to_wait_carries_the_wish() {
    for status in [401, 403] {
        let error = outcome(error_reply(status, "").with("retry-after", "600")).await;
        assert!(
            matches!(error, DeliverError::Stop { after: Some(d), .. } if d.as_secs() == 600),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_what_is_too_large_is_split() {
    for (status, code) in [
        (500, "InternalError"),
        (503, "ServerBusy"),
        (429, ""),
        (408, ""),
        (409, "ContainerBeingDeleted"),
        (409, "SomethingNew"),
        (412, "LeaseIdMissing"),
        (400, "Md5Mismatch"),
        (400, "SomethingNew"),
        (418, ""),
        (302, ""),
        (304, ""),
        (100, ""),
    ] {
        if status == 100 {
            continue; // an interim reply is no reply
        }
        let error = outcome(error_reply(status, code)).await;
        assert!(matches!(error, DeliverError::Retry { .. }), "{status} {code}: {error:?}");
    }
    for (status, code) in [(413, "RequestBodyTooLarge"), (413, ""), (409, "BlockCountExceedsLimit")] {
        let error = outcome(error_reply(status, code)).await;
        assert!(matches!(error, DeliverError::Split { .. }), "{status} {code}: {error:?}");
    }
}

#[tokio::test]
async fn the_services_wish_to_wait_is_passed_on() {
    let error = outcome(error_reply(503, "ServerBusy").with("retry-after", "17")).await;
    let DeliverError::Retry { after, .. } = error else { panic!("{error:?}") };
    assert_eq!(after, Some(Duration::from_secs(17)));
    for (reply, stored) in [(created(), true), (Canned::status(400), false), (Canned::status(413), false)] {
        let reply = reply.with("retry-after", "600");
        let server = CannedServer::handler(move |_| reply.clone()).await;
        let sink = sink(&server.url(), "layout = \"\"");
        assert_eq!(sink.deliver(&batch(1, 3)).await.is_ok(), stored);
        assert!(sink.rest().is_some_and(|rest| rest.as_secs() >= 590), "{:?}", server.seen());
    }
}

#[tokio::test]
async fn answers_that_are_none_are_tried_again() {
    for broken in [
        Canned::Close,
        Canned::Raw("HTTP/1.1 20".into()),
        Canned::Raw("nonsense\r\n\r\n".into()),
        Canned::Raw("HTTP/1.1 500 x\r\nContent-Length: 100\r\n\r\n<Code>Inter".into()),
        Canned::Stuck("HTTP/1.1 201".into()),
        Canned::status(500).saying(vec![b'x'; 5 << 20]),
    ] {
        let error = outcome(broken).await;
        assert!(matches!(error, DeliverError::Retry { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_by_years_is_named_as_the_reason() {
    let server = CannedServer::handler(|_| {
        error_reply(403, "AuthenticationFailed").with("date", "Tue, 24 Nov 2026 12:00:00 GMT")
    })
    .await;
    let text = format!(
        "container = \"logs\"\naccount = \"acct\"\nkey = \"{KEY}\"\nendpoint = \"{}\"\npath_style = true",
        server.url()
    );
    let config: BlobConfig = toml::from_str(&text).unwrap();
    let clock = Clock::fixed(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    let ctx = HttpContext { clock, ..HttpContext::default() };
    let sink = BlobSink::new(&SinkId::new("blob"), &config, &ctx).unwrap();
    let error = sink.check().await.unwrap_err();
    let DeliverError::Stop { advice, .. } = &error else { panic!("{error:?}") };
    assert!(advice.contains("clock is") && advice.contains("behind"), "{advice}");
    assert_eq!(server.seen()[0].header("x-ms-date"), Some("Sun, 09 Sep 2001 01:46:40 GMT"));
}

#[tokio::test]
async fn a_hub_gets_the_old_version_and_a_newer_one_is_refused_with_advice() {
    let fake = Fake::new("profile = \"azure-stack-hub\"").await;
    fake.account().newest_version = Some("2017-11-09");
    fake.sink().deliver(&batch(1, 10)).await.unwrap();
    for request in fake.server.seen() {
        assert_eq!(request.header("x-ms-version"), Some("2017-11-09"));
        let known = ["x-ms-version", "x-ms-date", "x-ms-blob-type"];
        let newer = request.headers.iter().find(|(k, _)| {
            k.starts_with("x-ms-") && !k.starts_with("x-ms-meta-") && !known.contains(&k.as_str())
        });
        assert_eq!(newer, None);
    }
    let error = sink(&fake.server.url(), "").deliver(&batch(11, 20)).await.unwrap_err();
    let DeliverError::Stop { advice, .. } = &error else { panic!("{error:?}") };
    assert!(advice.contains("azure-stack-hub"), "{advice}");
}

#[tokio::test]
async fn a_missing_container_is_made_when_asked_for() {
    let fake = Fake::new("create_container = true").await;
    fake.sink().deliver(&batch(1, 3)).await.unwrap();
    let first = &fake.server.seen()[0];
    assert_eq!(first.target, "/acct/logs?restype=container");
    // removed while we run: made again by the next attempt
    let server = CannedServer::replies([
        created(),
        error_reply(404, "ContainerNotFound"),
        error_reply(409, "ContainerAlreadyExists"),
        created(),
    ])
    .await;
    let sink = sink(&server.url(), "layout = \"\"\ncreate_container = true");
    let error = sink.deliver(&batch(1, 3)).await.unwrap_err();
    assert!(matches!(error, DeliverError::Retry { .. }), "{error:?}");
    sink.deliver(&batch(1, 3)).await.unwrap();
}

#[tokio::test]
async fn a_check_leaves_nothing_and_tells_what_is_wrong() {
    let fake = Fake::new("").await;
    fake.sink().check().await.unwrap();
    assert!(fake.server.seen().iter().all(|r| r.method == "HEAD"));
    for (status, code, stops) in [(404, "ContainerNotFound", true), (403, "", true), (503, "", false)] {
        let server = CannedServer::replies([error_reply(status, code)]).await;
        let error = sink(&server.url(), "").check().await.unwrap_err();
        assert_eq!(matches!(error, DeliverError::Stop { .. }), stops, "{error:?}");
    }
}

#[tokio::test]
async fn only_a_3xx_is_a_redirection_and_other_answers_say_their_message() {
    for (status, redirected) in [(503, false), (404, false), (301, true), (307, true)] {
        let error = outcome(error_reply(status, "Busy").with("location", "https://x.test/?sig=1")).await;
        let told = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(
            (told.contains("redirected to"), told.contains("no.")),
            (redirected, !redirected),
            "{told}"
        );
    }
}

/// The page that a proxy or a network's sign-in answers everything with.
fn portal(status: u16) -> Canned {
    Canned::status(status).with("content-type", "text/html").saying("<html>sign in</html>")
}

/// Whatever is not understood: tried again, and the alarm says what answers.
fn is_stranger(error: &DeliverError) {
    assert!(matches!(error, DeliverError::Retry { .. }), "{error:?}");
    let told = error.cause().unwrap_or_default();
    assert!(told.contains("as Azure storage does not") && told.contains("endpoint"), "{error:?}");
}

#[tokio::test]
async fn what_does_not_answer_as_azure_storage_does_has_stored_nothing() {
    let etag = |status| portal(status).with("etag", "\"5e3a-1\"");
    let blocks = "layout = \"\"\nsingle_put_max = 1024\nblock_size = 1024\ncompression = \"none\"";
    for answer in
        [portal(200), etag(200), etag(202), etag(204), portal(201), portal(201).with("etag", "\"\"")]
    {
        is_stranger(&outcome(answer.clone()).await);
        let server = CannedServer::handler(move |_| answer.clone()).await;
        is_stranger(&sink(&server.url(), blocks).deliver(&batch(1, 60)).await.unwrap_err());
    }
    // no block goes to whoever did not take the one before
    let server = CannedServer::handler(|seen| match seen.target.contains("comp=block&") {
        true => portal(200),
        false => created(),
    })
    .await;
    is_stranger(&sink(&server.url(), blocks).deliver(&batch(1, 60)).await.unwrap_err());
    assert_eq!(server.seen().len(), 1);
    let server = CannedServer::handler(|_| portal(200)).await;
    is_stranger(&sink(&server.url(), "create_container = true").deliver(&batch(1, 3)).await.unwrap_err());
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_blob_is_found_only_where_azure_storage_shows_one() {
    // a web server has ETags too
    for page in [portal(200), portal(200).with("etag", "\"5e3a-1\"")] {
        let answer = page.clone();
        let server = CannedServer::handler(move |seen| match seen.method.as_str() {
            "PUT" => error_reply(409, "BlobAlreadyExists"),
            _ => answer.clone(),
        })
        .await;
        let sink = sink(&server.url(), "layout = \"\"");
        is_stranger(&sink.deliver(&batch(1, 3)).await.unwrap_err());
        is_stranger(&sink.check().await.unwrap_err());
    }
}

#[tokio::test]
async fn neither_a_listing_nor_a_purge_believes_what_is_not_azure_storage() {
    use crate::holdings::{Fetched, Holdings as _, Listing};
    let list = "<EnumerationResults><Blobs><Blob><Name>b</Name><Properties><Content-Length>1</Content-Length>\
                </Properties></Blob></Blobs><NextMarker/></EnumerationResults>";
    let server = CannedServer::handler(move |seen| match seen.target.contains("comp=list") {
        true => Canned::status(200).saying(list),
        false => portal(200).with("etag", "\"5e3a-1\""),
    })
    .await;
    let config: BlobConfig = toml::from_str(&format!(
        "container = \"logs\"\naccount = \"acct\"\nkey = \"{KEY}\"\nendpoint = \"{}\"\npath_style = true",
        server.url()
    ))
    .unwrap();
    let holdings = BlobHoldings::new(&SinkId::new("blob"), &config, &HttpContext::default()).unwrap();
    let what = Listing { of: None, read: true };
    let error = holdings.list(&what, &mut |_| ()).await.unwrap_err();
    assert!(error.to_string().contains("tried again"), "{error:?}");
    let destination = format!("{}/acct/logs/b", server.url());
    is_stranger(&holdings.fetch(&destination).await.unwrap_err());
    let held = Fetched { destination, bytes: "x".into(), etag: "\"1\"".to_owned() };
    is_stranger(&holdings.delete(&held).await.unwrap_err());
}
