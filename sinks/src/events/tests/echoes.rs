//! An endpoint that quotes what it was sent.

use super::*;
use crate::testing::{Canned, CannedServer, Seen};
use crate::{DeliverError, Sink as _};

/// What of a token is secret.
fn secret() -> &'static str {
    &TOKENS[0][33..]
}

async fn answering(answer: impl Fn(&str) -> Canned + Send + Sync + 'static) -> (CannedServer, EventsSink) {
    let server =
        CannedServer::handler(move |seen: &Seen| answer(seen.header("apikey").unwrap_or_default())).await;
    let sink = sink_to(server.url(), mapping(), Compression::None, CAPS);
    (server, sink)
}

fn told(error: &DeliverError) -> String {
    let told = format!("{error} {error:?}");
    assert!(told.contains("***"), "what was quoted is not told at all: {told}");
    told
}

#[tokio::test]
async fn a_tenant_token_that_the_endpoint_quotes_is_not_told() {
    for status in [500, 400, 401, 413, 302] {
        for (filler, in_header) in [(0, true), (0, false), (90, false), (140, false)] {
            let (_server, sink) = answering(move |token| {
                let said = format!("{}of {token}", "x".repeat(filler));
                match in_header {
                    true => Canned::status(status).with("Collector-Error", &said),
                    false => Canned::status(status).saying(said),
                }
            })
            .await;
            let error = sink.deliver(&batch(1, small(&["Windows"]))).await.unwrap_err();
            let told = format!("{error} {error:?}");
            assert!(!told.contains(secret()) && !told.contains(&secret()[..9]), "{told}");
        }
        let (_server, sink) =
            answering(move |token| Canned::status(status).with("Collector-Error", token)).await;
        told(&sink.deliver(&batch(1, small(&["Windows"]))).await.unwrap_err());
    }
}

#[tokio::test]
async fn a_tenant_token_in_the_reason_of_a_refused_event_is_in_no_dead_letter() {
    let (_server, sink) = answering(|token| {
        let efi = serde_json::json!({ "acc": 1, "rej": 1, "efi": { format!("bad {token}"): [0] } });
        Canned::status(200).saying(efi.to_string())
    })
    .await;
    let done = sink.deliver(&batch(1, small(&["Windows", "Windows"]))).await.unwrap();
    let [refused] = &done.rejected[..] else { panic!("{done:?}") };
    assert_eq!(refused.detail, "rejected by the endpoint: bad ***");
}

#[tokio::test]
async fn a_tenant_token_in_the_name_of_a_request_is_in_no_receipt() {
    for name in ["x-ms-request-id", "request-id", "ms-cv"] {
        let (_server, sink) =
            answering(move |token| Canned::status(204).with(name, &format!("id.{token}"))).await;
        let done = sink.deliver(&batch(1, small(&["Windows"]))).await.unwrap();
        assert_eq!(done.objects[0].server_id, "***");
    }
    let (_server, sink) = answering(|_| Canned::status(204).with("ms-cv", "vQ1/x.0")).await;
    let done = sink.deliver(&batch(1, small(&["Windows"]))).await.unwrap();
    assert_eq!(done.objects[0].server_id, "vQ1/x.0");
}
