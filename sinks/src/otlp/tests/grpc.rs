//! gRPC against a server made of the `h2` crate.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::net::TcpListener;

use super::super::messages::{Any, Delay, RetryInfo, Status};
use super::*;

/// One answer: headers, body, trailers. Without trailers the headers end the stream.
#[derive(Clone, Debug, Default)]
struct Answer {
    headers: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
    trailers: Vec<(&'static str, String)>,
}

/// Headers and bodies as they came.
type Seen = Arc<Mutex<Vec<(http::request::Parts, Vec<u8>)>>>;

async fn serve(answers: Vec<Answer>) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Seen::default();
    let keep = Arc::clone(&seen);
    let answers = Arc::new(Mutex::new(answers.into_iter()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (keep, answers) = (Arc::clone(&keep), Arc::clone(&answers));
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let (keep, answers) = (Arc::clone(&keep), Arc::clone(&answers));
                    tokio::spawn(async move {
                        let (parts, mut body) = request.into_parts();
                        let mut bytes = Vec::new();
                        while let Some(Ok(chunk)) = body.data().await {
                            let _ = body.flow_control().release_capacity(chunk.len());
                            bytes.extend_from_slice(&chunk);
                        }
                        keep.lock().unwrap().push((parts, bytes));
                        let answer = answers.lock().unwrap().next().unwrap_or_default();
                        let mut response =
                            http::Response::builder().header("content-type", "application/grpc");
                        for (name, value) in &answer.headers {
                            response = response.header(*name, value);
                        }
                        let end = answer.body.is_none() && answer.trailers.is_empty();
                        let mut stream = respond.send_response(response.body(()).unwrap(), end).unwrap();
                        if end {
                            return;
                        }
                        if let Some(body) = answer.body {
                            stream.send_data(Bytes::from(body), answer.trailers.is_empty()).unwrap();
                        }
                        if !answer.trailers.is_empty() {
                            let mut trailers = http::HeaderMap::new();
                            for (name, value) in answer.trailers {
                                trailers.insert(name, value.parse().unwrap());
                            }
                            stream.send_trailers(trailers).unwrap();
                        }
                    });
                }
            });
        }
    });
    (url, seen)
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat()
}

fn good(message: &[u8]) -> Answer {
    Answer { body: Some(framed(message)), trailers: vec![("grpc-status", "0".into())], ..Answer::default() }
}

fn bad(code: u32, message: &str) -> Answer {
    let headers = vec![("grpc-status", code.to_string()), ("grpc-message", message.to_owned())];
    Answer { headers, ..Answer::default() }
}

fn sink_at(url: &str) -> OtlpSink {
    sink(&format!("url = \"{url}\"\nprotocol = \"grpc\"\nheaders = {{ x-tenant = \"a\" }}"))
}

#[tokio::test]
async fn a_unary_call_carries_the_batch() {
    let (url, seen) = serve(vec![good(b"")]).await;
    let done = sink_at(&url).deliver(&batch(1, 8)).await.unwrap();
    assert_eq!((done.objects[0].events, done.rejected.len()), (8, 0));
    let seen = seen.lock().unwrap();
    let (parts, body) = &seen[0];
    assert_eq!(parts.uri.path(), "/opentelemetry.proto.collector.logs.v1.LogsService/Export");
    for (name, value) in [
        ("content-type", "application/grpc+proto"),
        ("te", "trailers"),
        ("grpc-encoding", "gzip"),
        ("x-tenant", "a"),
    ] {
        assert_eq!(parts.headers[name], value);
    }
    assert_eq!((body[0], &body[1..5]), (1, &(body.len() as u32 - 5).to_be_bytes()[..]));
    assert_eq!(seqs(&unpack(&body[5..])), (1..=8).collect::<Vec<i64>>());
}

#[tokio::test]
async fn statuses_come_in_headers_or_trailers_with_words_and_waits() {
    let info = RetryInfo { retry_delay: Some(Delay { seconds: 9, nanos: 0 }) }.encode_to_vec();
    let details = vec![Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value: info }];
    let status = Status { code: 14, message: "busy".into(), details }.encode_to_vec();
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, status);
    let mut busy = bad(14, "busy");
    busy.headers.push(("grpc-status-details-bin", base64));
    let partial_success = Some(PartialSuccess { rejected_log_records: 1, error_message: String::new() });
    let partly = ExportResponse { partial_success }.encode_to_vec();
    let answers = vec![
        busy,
        bad(16, "no%20token"),
        Answer { trailers: vec![("grpc-status", "3".into())], ..Answer::default() },
        bad(8, "grpc: received message larger than max"),
        good(&partly),
        Answer { body: Some(framed(b"")), ..Answer::default() },
        Answer { body: Some(vec![0, 0]), trailers: vec![("grpc-status", "0".into())], ..Answer::default() },
    ];
    let (url, _) = serve(answers).await;
    let sink = sink_at(&url);
    let batch = batch(1, 4);
    let wait = sink.deliver(&batch).await;
    assert!(matches!(wait, Err(DeliverError::Retry { after: Some(d), .. }) if d.as_secs() == 9), "{wait:?}");
    let stop = sink.deliver(&batch).await.unwrap_err();
    let words = std::error::Error::source(&stop).unwrap().to_string();
    assert!(matches!(stop, DeliverError::Stop { .. }) && words.contains("no token"), "{words}");
    let invalid = sink.deliver(&batch).await;
    assert!(
        matches!(invalid, Err(DeliverError::Reject { reason: RejectReason::Invalid, .. })),
        "{invalid:?}"
    );
    assert!(matches!(sink.deliver(&batch).await, Err(DeliverError::Split { .. })));
    assert_eq!(sink.deliver(&batch).await.unwrap().rejected.len(), 4);
    for what in ["no status", "a cut frame"] {
        let unclear = sink.deliver(&batch).await;
        assert!(matches!(unclear, Err(DeliverError::Retry { .. })), "{what}: {unclear:?}");
    }
}
