//! The whole sink against canned servers, and against a real collector.

mod collector;
mod grpc;
mod mapping;

use std::time::Duration;

use prost::Message as _;
use tidegate_proto::ids::SinkId;

use super::messages::{ExportRequest, ExportResponse, KeyValue, PartialSuccess, Value};
use super::*;
use crate::http::HttpContext;
use crate::testing::{Canned, CannedServer, batch};
use crate::{DeliverError, RejectReason, Sink as _};

fn config(text: &str) -> OtlpConfig {
    toml::from_str(text).unwrap()
}

fn sink(text: &str) -> OtlpSink {
    config(text).build(&SinkId::new("logs"), &HttpContext::default()).unwrap()
}

fn unpack(body: &[u8]) -> ExportRequest {
    let mut out = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(body), &mut out).unwrap();
    ExportRequest::decode(&*out).unwrap()
}

fn seqs(request: &ExportRequest) -> Vec<i64> {
    let records = request.resource_logs.iter().flat_map(|r| &r.scope_logs).flat_map(|s| &s.log_records);
    let mut seqs: Vec<i64> = records
        .filter_map(|r| match attribute(&r.attributes, "tidegate.seq") {
            Some(Value::Int(n)) => Some(n),
            _ => None,
        })
        .collect();
    seqs.sort_unstable();
    seqs
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<Value> {
    attributes.iter().find(|a| a.key == key)?.value.clone()?.value
}

fn partly(rejected: i64) -> Canned {
    let partial_success = (rejected > 0)
        .then(|| PartialSuccess { rejected_log_records: rejected, error_message: "too old".into() });
    let body = ExportResponse { partial_success }.encode_to_vec();
    Canned::status(200).with("Content-Type", "application/x-protobuf").saying(body)
}

#[tokio::test]
async fn a_batch_goes_as_one_request_and_a_repeat_is_the_same() {
    let server = CannedServer::replies([Canned::Close, partly(0)]).await;
    let sink = sink(&format!(
        "url = \"{}/v1/logs?tenant=a\"\nheaders = {{ authorization = \"value:Bearer hunter2\" }}",
        server.url()
    ));
    let batch = batch(5, 24);
    let lost = sink.deliver(&batch).await.unwrap_err();
    assert!(matches!(lost, DeliverError::Retry { after: None, .. }), "{lost:?}");
    let done = sink.deliver(&batch).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen[0].body, seen[1].body, "byte by byte");
    assert_eq!(seen[1].target, "/v1/logs?tenant=a");
    for (name, value) in [
        ("content-type", "application/x-protobuf"),
        ("content-encoding", "gzip"),
        ("authorization", "Bearer hunter2"),
    ] {
        assert_eq!(seen[1].header(name), Some(value));
    }
    assert_eq!(seqs(&unpack(&seen[1].body)), (5..=24).collect::<Vec<i64>>());
    assert_eq!(done.objects[0].destination, format!("{}/v1/logs", server.url()), "no query in receipts");
    assert_eq!((done.objects[0].events, done.bytes), (20, seen[1].body.len() as u64));
    assert!(!format!("{sink:?} {lost:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_header_whose_secret_is_replaced_counts_from_the_next_request_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "Bearer first").unwrap();
    let server = CannedServer::replies([partly(0), partly(0)]).await;
    let sink = sink(&format!(
        "url = \"{}/v1/logs\"\nheaders = {{ authorization = 'file:{}' }}",
        server.url(),
        file.display()
    ));
    sink.deliver(&batch(1, 2)).await.unwrap();
    std::fs::write(&file, "Bearer second\n").unwrap();
    sink.deliver(&batch(3, 4)).await.unwrap();
    let seen = server.seen();
    let sent: Vec<_> = seen.iter().map(|s| s.header("authorization").unwrap()).collect();
    assert_eq!(sent, ["Bearer first", "Bearer second"]);
    std::fs::write(&file, "Bearer\u{1}third").unwrap();
    let error = sink.deliver(&batch(5, 6)).await.unwrap_err();
    assert!(matches!(error, DeliverError::Stop { .. }), "{error:?}");
    assert!(!format!("{error:?}").contains("third"));
    std::fs::remove_file(&file).unwrap();
    let error = sink.deliver(&batch(5, 6)).await.unwrap_err();
    assert!(matches!(error, DeliverError::Stop { .. }), "{error:?}");
}

#[tokio::test]
async fn a_partial_success_leaves_no_event_without_its_reason() {
    let server = CannedServer::replies([partly(3), partly(9)]).await;
    let sink = sink(&format!("url = \"{}/v1/logs\"", server.url()));
    let some = sink.deliver(&batch(1, 5)).await.unwrap();
    assert_eq!(some.rejected.len(), 5, "which ones is not told");
    for one in &some.rejected {
        assert_eq!(one.detail, "the server rejected 3 of 5 events, not told which: too old");
    }
    assert_eq!(some.objects[0].events, 2);
    let all = sink.deliver(&batch(6, 10)).await.unwrap();
    assert_eq!((all.rejected.len(), all.objects[0].events), (5, 0));
    assert_eq!(all.rejected[0].detail, "the server rejected 5 of 5 events: too old");
}

#[tokio::test]
async fn a_proxy_that_refuses_the_password_is_named_and_not_the_sinks_headers() {
    let proxy = CannedServer::handler(|_| Canned::status(407)).await;
    let sink = sink(&format!(
        "url = \"http://collector.test/v1/logs\"\n\
         http = {{ proxy = {{ url = \"{}\", user = \"ada\", password = \"value:wrong\" }} }}",
        proxy.url()
    ));
    for error in [sink.check().await.unwrap_err(), sink.deliver(&batch(1, 2)).await.unwrap_err()] {
        let DeliverError::Stop { advice, .. } = &error else { panic!("{error:?}") };
        assert!(advice.contains("http.proxy") && !advice.contains("headers"), "{advice}");
    }
    assert_eq!(proxy.seen().len(), 2);
}

#[tokio::test]
async fn a_wait_is_honoured_and_halves_are_asked_for() {
    let busy = Canned::status(503).with("Retry-After", "17");
    let server = CannedServer::replies([busy, Canned::status(413), Canned::status(413)]).await;
    let sink = sink(&format!("url = \"{}/v1/logs\"", server.url()));
    assert_eq!(sink.rest(), None);
    let wait = sink.deliver(&batch(1, 5)).await;
    assert!(matches!(wait, Err(DeliverError::Retry { after: Some(d), .. }) if d == Duration::from_secs(17)));
    assert!(sink.rest().is_some(), "for all");
    assert!(matches!(sink.deliver(&batch(1, 5)).await, Err(DeliverError::Split { .. })));
    let alone = sink.deliver(&batch(1, 1)).await;
    assert!(matches!(alone, Err(DeliverError::Reject { reason: RejectReason::TooLarge, .. })), "{alone:?}");
}

#[tokio::test]
async fn what_is_too_large_is_found_before_it_is_sent() {
    let server = CannedServer::replies([]).await;
    let mut small = sink(&format!("url = \"{}/v1/logs\"", server.url()));
    small.0.max_bytes = 300;
    assert!(matches!(small.deliver(&batch(1, 5)).await, Err(DeliverError::Split { .. })));
    small.0.max_bytes = 30;
    let alone = small.deliver(&batch(1, 1)).await;
    assert!(matches!(alone, Err(DeliverError::Reject { reason: RejectReason::TooLarge, .. })));
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_check_sends_an_empty_request() {
    let server = CannedServer::replies([partly(0), Canned::status(404)]).await;
    let sink = sink(&format!("url = \"{}/v1/logs\"", server.url()));
    sink.check().await.unwrap();
    assert_eq!(unpack(&server.seen()[0].body), ExportRequest::default());
    assert!(matches!(sink.check().await, Err(DeliverError::Stop { .. })));
}

#[test]
fn what_is_wrong_in_the_settings_is_named() {
    for (text, word) in [
        ("url = \"ftp://h/\"", "url"),
        ("url = \"http://u:p@h/\"", "url"),
        ("url = \"http://h/v1/logs\"\nprotocol = \"grpc\"", "host and port only"),
        ("url = \"http://h/\"\nmax_bytes = \"1GiB\"", "max_bytes"),
        ("url = \"http://h/\"\nbatch = { in_flight = 99 }", "in_flight"),
        ("url = \"http://h/\"\nheaders = { \"a b\" = \"x\" }", "a b"),
        ("url = \"http://h/\"\nheaders = { a = \"env:TIDEGATE_NO_SUCH_VARIABLE\" }", "headers.a"),
    ] {
        let error = config(text).build(&SinkId::new("logs"), &HttpContext::default()).unwrap_err();
        assert!(error.to_string().contains(word), "{text}: {error}");
    }
    assert!(toml::from_str::<OtlpConfig>("url = \"http://h/\"\nurll = 1").is_err());
}

#[tokio::test]
async fn a_headers_secret_that_the_far_side_quotes_is_not_told() {
    for status in [400, 401, 503] {
        let server = CannedServer::handler(move |seen| {
            let said = format!("{}of {}", "x".repeat(178), seen.header("authorization").unwrap());
            Canned::status(status).saying(said).with("x-request-id", seen.header("x-key").unwrap())
        })
        .await;
        let sink = sink(&format!(
            "url = \"{}\"\nheaders = {{ authorization = \"value:Bearer hunter2-of-otlp\", x-key = \"value:k3y-of-otlp\" }}",
            server.url()
        ));
        let error = sink.deliver(&batch(1, 3)).await.unwrap_err();
        let told = format!("{error} {error:?}");
        assert!(!told.contains("hunter2") && told.contains("***"), "{told}");
    }
    let server =
        CannedServer::handler(|seen| partly(0).with("x-request-id", seen.header("x-key").unwrap())).await;
    let sink = sink(&format!("url = \"{}\"\nheaders = {{ x-key = \"value:k3y-of-otlp\" }}", server.url()));
    assert_eq!(sink.deliver(&batch(1, 3)).await.unwrap().objects[0].server_id, "***");
}
