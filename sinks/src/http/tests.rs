use std::time::Duration;

use super::*;
use crate::DeliverError;
use crate::testing::{Canned, CannedServer};

fn config(text: &str) -> HttpConfig {
    toml::from_str(text).unwrap()
}

fn client(text: &str) -> Client {
    Client::new(&config(text), &HttpContext::default()).unwrap()
}

fn get(url: &str) -> Request {
    Request::new(Method::GET, url.parse().unwrap())
}

async fn outcome(replies: Vec<Canned>, settings: &str) -> Result<Reply, HttpError> {
    let server = CannedServer::replies(replies).await;
    client(settings).send(get(&server.url())).await
}

fn raw(text: impl Into<String>) -> Canned {
    Canned::Raw(text.into().into())
}

#[tokio::test]
async fn a_reply_comes_back_with_status_headers_and_body() {
    let canned = Canned::status(207).with("x-ms-request-id", "r1").saying("hello");
    let server = CannedServer::replies([canned]).await;
    let request = Request::new(Method::PUT, format!("{}/a?b=c", server.url()).parse().unwrap());
    let request = request.header("x-thing", "1").unwrap().secret_header("authorization", "s3cret").unwrap();
    assert!(!format!("{request:?}").contains("s3cret"));
    let reply = client("").send(request.body("body")).await.unwrap();
    assert_eq!((reply.status, reply.header("x-ms-request-id")), (207, Some("r1")));
    assert_eq!(reply.body, Body::Whole("hello".into()));
    let seen = server.seen();
    assert_eq!((seen[0].method.as_str(), seen[0].target.as_str()), ("PUT", "/a?b=c"));
    assert_eq!((seen[0].header("authorization"), &seen[0].body[..]), (Some("s3cret"), &b"body"[..]));
    assert!(seen[0].header("user-agent").unwrap().starts_with("tidegate/"));
}

#[tokio::test]
async fn replies_of_wrong_length_are_cut_or_whole_never_invented() {
    let reply = outcome(vec![raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")], "").await.unwrap();
    assert_eq!(reply.body, Body::Cut("half".into()));
    let reply = outcome(vec![raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nlonger")], "").await.unwrap();
    assert_eq!(reply.body, Body::Whole("lo".into()));
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz";
    let reply = outcome(vec![raw(chunked)], "").await.unwrap();
    assert_eq!(reply.body, Body::Cut("half".into()));
}

#[tokio::test]
async fn a_body_over_the_limit_is_not_read_on() {
    let long = Canned::status(500).saying(vec![b'x'; 100_000]);
    let reply = outcome(vec![long], "reply_max = 1000").await.unwrap();
    assert_eq!(reply.body, Body::TooLong(vec![b'x'; 1000].into()));
}

#[tokio::test]
async fn giant_headers_are_refused() {
    let long = Canned::status(200).with("x-long", &"y".repeat(HEADERS_MAX));
    assert!(matches!(outcome(vec![long], "").await, Err(HttpError::Broken { .. })));
    let many = (0..200).fold(Canned::status(200), |c, n| c.with(&format!("x-{n}"), "1"));
    assert!(matches!(outcome(vec![many], "").await, Err(HttpError::Broken { .. })));
    let endless = raw(format!("HTTP/1.1 200 OK\r\nx: {}", "z".repeat(2 << 20)));
    assert!(matches!(outcome(vec![endless], "").await, Err(HttpError::Broken { .. })));
}

#[tokio::test]
async fn silence_before_there_is_a_connection_is_none() {
    // waits for the end of a head, and gets the beginning of TLS
    let server = CannedServer::replies([]).await;
    let url = server.url().replace("http:", "https:");
    let error = client("connect_timeout = \"200ms\"").send(get(&url)).await.unwrap_err();
    assert!(matches!(&error, HttpError::Connect { .. }), "{error:?}");
    assert!(error.to_string().contains("no answer in time"), "{error}");
}

#[tokio::test]
async fn silence_is_a_timeout_before_the_head_and_a_cut_after_it() {
    let quick = "timeout = \"200ms\"";
    let silent = vec![Canned::Stuck("HTTP/1.1 20".into())];
    assert!(matches!(outcome(silent, quick).await, Err(HttpError::Timeout(_))));
    let stuck = vec![Canned::Stuck("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nha".into())];
    assert!(matches!(outcome(stuck, quick).await.unwrap().body, Body::Cut(_)));
}

#[tokio::test]
async fn a_lost_reply_is_one_attempt_and_a_retry() {
    let server = CannedServer::replies([Canned::Close, Canned::status(200)]).await;
    let error = client("").send(get(&server.url())).await.unwrap_err();
    assert!(matches!(error, HttpError::Broken { .. }), "{error}");
    assert!(matches!(DeliverError::from(error), DeliverError::Retry { after: None, .. }));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_redirect_is_a_reply_and_is_not_followed() {
    let other = CannedServer::replies([Canned::status(200)]).await;
    let server =
        CannedServer::replies([Canned::status(307).with("Location", &format!("{}/x?sig=S", other.url()))])
            .await;
    let reply = client("").send(get(&server.url())).await.unwrap();
    assert_eq!((reply.status, other.seen().len()), (307, 0));
    let error = classify::reply_error("http://h/", &reply, SystemTime::now(), "");
    let DeliverError::Retry { source, .. } = error else { panic!("{error}") };
    assert!(source.to_string().contains("redirected to") && !source.to_string().contains("sig="), "{source}");
}

#[tokio::test]
async fn nobody_there_and_no_such_name_are_retries() {
    let gone = CannedServer::replies([]).await.url();
    let error = client("").send(get(&gone)).await.unwrap_err();
    assert!(matches!(error, HttpError::Connect { .. } | HttpError::Broken { .. }), "{error:?}");
    assert!(matches!(error.into(), DeliverError::Retry { .. }));
    let error = client("timeout = \"5s\"").send(get("http://no-such-host.invalid/?sig=S")).await.unwrap_err();
    assert!(!error.to_string().contains("sig="), "{error}");
    assert!(matches!(error.into(), DeliverError::Retry { .. }));
}

#[tokio::test]
async fn a_proxy_is_asked_with_its_password_unless_the_host_is_left_out() {
    let proxy = CannedServer::replies([Canned::status(200).saying("by proxy")]).await;
    let direct = CannedServer::replies([Canned::status(200).saying("direct")]).await;
    let settings = |no: &str| {
        let url = proxy.url();
        format!("[proxy]\nurl = \"{url}\"\nuser = \"u\"\npassword = \"p\"\nno_proxy = [\"{no}\"]")
    };
    let reply = client(&settings("10.0.0.0/8")).send(get(&direct.url())).await.unwrap();
    assert_eq!(reply.body.bytes(), b"by proxy");
    assert_eq!(proxy.seen()[0].header("proxy-authorization"), Some("Basic dTpw"));
    let reply = client(&settings("127.0.0.0/8")).send(get(&direct.url())).await.unwrap();
    assert_eq!(reply.body.bytes(), b"direct");
    for bad in ["ftp://h:1", "http://u:p@h:1", "nonsense"] {
        let text = format!("[proxy]\nurl = \"{bad}\"");
        let error = Client::new(&config(&text), &HttpContext::default()).unwrap_err();
        assert!(matches!(error, HttpBuildError::Proxy(_)) && !error.to_string().contains("u:p"), "{error}");
    }
}

#[tokio::test]
async fn a_proxys_password_that_it_quotes_is_not_told() {
    let proxy = CannedServer::handler(|seen| {
        let shown = seen.header("proxy-authorization").unwrap();
        Canned::status(407).saying(format!("{shown} is {} is wrong", "pr0xy-w0rd"))
    })
    .await;
    let settings = format!("[proxy]\nurl = \"{}\"\nuser = \"u\"\npassword = \"pr0xy-w0rd\"", proxy.url());
    let reply = client(&settings).send(get("http://far.test/")).await.unwrap();
    let error = classify::reply_error("http://far.test/", &reply, SystemTime::UNIX_EPOCH, "");
    let shown = proxy.seen()[0].header("proxy-authorization").unwrap().to_owned();
    let told = format!("{error:?}");
    assert!(!told.contains(shown.strip_prefix("Basic ").unwrap()) && !told.contains("pr0xy"), "{told}");
    assert!(told.contains("Basic *** is *** is wrong"), "{told}");
}

#[test]
fn what_is_secret_in_a_url_is_left_out() {
    assert_eq!(redact("https://u:p@h.test/a/b?sig=S#f"), "https://h.test/a/b");
    assert_eq!(redact("sv=1&sig=S"), "…");
}

#[test]
fn unknown_keys_and_half_identities_are_errors() {
    assert!(toml::from_str::<HttpConfig>("retries = 3").is_err());
    assert!(toml::from_str::<HttpConfig>("[tls]\nverify = false").is_err());
    let half = config("[tls]\nclient_key = \"file:/nowhere\"");
    let error = Client::new(&half, &HttpContext::default()).unwrap_err();
    assert!(matches!(error, HttpBuildError::Tls(TlsError::HalfIdentity)), "{error}");
    let c = config("timeout = \"5s\"\nreply_max = \"1MiB\"");
    assert_eq!((c.timeout.0, c.reply_max), (Duration::from_secs(5), Size(1 << 20)));
}
