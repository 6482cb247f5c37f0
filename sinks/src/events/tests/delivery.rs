//! Batches against the recorder.

use std::error::Error as _;

use tidegate_proto::ids::SinkId;

use super::super::body::Caps;
use super::super::recorder::{Recorder, Step};
use super::*;
use crate::http::HttpContext;
use crate::testing::{Canned, CannedServer};
use crate::{DeliverError, Delivered, RejectReason, Sink as _};

fn sink_with(recorder: &Recorder, mapping: Mapping, compression: Compression, caps: Caps) -> EventsSink {
    sink_to(recorder.url(), mapping, compression, caps)
}

fn sink(recorder: &Recorder) -> EventsSink {
    sink_with(recorder, mapping(), Compression::Gzip, CAPS)
}

fn start() -> Recorder {
    Recorder::start(&TOKENS).unwrap()
}

fn one_tenant(recorder: &Recorder) -> EventsSink {
    let mut only = mapping();
    only.tenants.truncate(1);
    only.routes.clear();
    sink_with(recorder, only, Compression::Gzip, CAPS)
}

fn reasons(delivered: &Delivered) -> Vec<(u64, RejectReason)> {
    delivered.rejected.iter().map(|r| (r.seq.0, r.reason)).collect()
}

fn after(error: &DeliverError) -> Option<Duration> {
    match error {
        DeliverError::Retry { after, .. } => *after,
        other => panic!("not to be tried again: {other}"),
    }
}

const MIXED: [&str; 4] = ["Windows", "Contoso.App", "Fabrikam", "Contoso.Two"];

#[tokio::test]
async fn several_tenants_go_in_one_request_that_keeps_to_the_profile() {
    for compression in [Compression::Gzip, Compression::Deflate, Compression::None] {
        let recorder = start();
        let sink = sink_with(&recorder, mapping(), compression, CAPS);
        sink.check().await.unwrap();
        let delivered = sink.deliver(&batch(1, small(&MIXED))).await.unwrap();
        assert_eq!(recorder.faults(), [""; 0]);
        let requests = recorder.requests();
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].header("apikey"), Some(TOKENS.join(",").as_str()));
        assert_eq!(requests[0].header("content-encoding"), compression.encoding());
        assert_eq!(recorder.seqs().into_iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(delivered.rejected, []);
        assert_eq!(delivered.bytes, requests[0].wire.len() as u64);
        let object = &delivered.objects[0];
        assert_eq!((object.events, object.len), (4, delivered.bytes));
        assert_eq!(object.destination, recorder.url());
        assert_eq!(
            object.sha256.as_slice(),
            <sha2::Sha256 as sha2::Digest>::digest(&requests[0].wire).as_slice()
        );
    }
}

#[tokio::test]
async fn a_repeat_carries_the_same_ids_and_bytes() {
    let recorder = start();
    let sink = sink(&recorder);
    recorder.script([
        Step::TakeAndDrop,
        Step::Drop,
        Step::TakeAndCut(40),
        Step::TakeAndCut(90),
        Step::status(500),
    ]);
    let batch = batch(7, small(&MIXED));
    for _ in 0..5 {
        assert_eq!(after(&sink.deliver(&batch).await.unwrap_err()), None);
    }
    sink.deliver(&batch).await.unwrap();
    assert_eq!(recorder.faults(), [""; 0]);
    assert_eq!(recorder.events().len(), 4);
    assert!(recorder.repeats() >= 4, "the lost reply made a repeat");
    let requests = recorder.requests();
    assert!(requests.iter().all(|r| r.text == requests[0].text && r.ids() == requests[0].ids()));
}

#[tokio::test]
async fn the_first_reply_tells_the_clock_and_until_then_one_request_is_out() {
    let recorder = start();
    recorder.set_delta(Some("-1234"));
    let sink = Arc::new(sink(&recorder));
    let deliveries = (0..6).map(|n| {
        let sink = Arc::clone(&sink);
        tokio::spawn(async move { sink.deliver(&batch(1 + 10 * n, small(&["P"]))).await.map(|_| ()) })
    });
    for delivery in deliveries.collect::<Vec<_>>() {
        delivery.await.unwrap().unwrap();
    }
    let sent: Vec<String> = recorder
        .requests()
        .iter()
        .map(|r| r.header("time-delta-to-apply-millis").unwrap_or_default().to_owned())
        .collect();
    assert_eq!(sent[0], "use-collector-delta");
    assert!(sent[1..].iter().all(|s| s == "-1234"), "{sent:?}");
    recorder.set_delta(Some("999"));
    sink.deliver(&batch(100, small(&["P"]))).await.unwrap();
    sink.deliver(&batch(200, small(&["P"]))).await.unwrap();
    assert_eq!(recorder.requests().last().unwrap().header("time-delta-to-apply-millis"), Some("-1234"));
    assert_eq!(recorder.faults(), [""; 0]);
}

#[tokio::test]
async fn an_endpoint_that_tells_no_clock_is_not_asked_again() {
    let recorder = start();
    recorder.set_delta(None);
    recorder.script([Step::status(503)]);
    let sink = sink(&recorder);
    assert!(sink.deliver(&batch(1, small(&["P"]))).await.is_err());
    sink.deliver(&batch(1, small(&["P"]))).await.unwrap();
    sink.deliver(&batch(2, small(&["P"]))).await.unwrap();
    let sent: Vec<bool> =
        recorder.requests().iter().map(|r| r.header("time-delta-to-apply-millis").is_some()).collect();
    assert_eq!(sent, [true, true, false], "a failure settles nothing");
}

#[tokio::test]
async fn every_status_of_the_table_has_its_outcome() {
    for (status, want) in [
        (200, "delivered"),
        (204, "delivered"),
        (201, "retry"),
        (302, "stop"),
        (304, "stop"),
        (400, "reject"),
        (401, "stop"),
        (403, "stop"),
        (404, "stop"),
        (408, "retry"),
        (409, "retry"),
        (410, "stop"),
        (422, "reject"),
        (423, "retry"),
        (413, "split"),
        (415, "stop"),
        (429, "retry"),
        (500, "retry"),
        (501, "stop"),
        (502, "retry"),
        (503, "retry"),
        (504, "retry"),
        (505, "stop"),
    ] {
        let recorder = start();
        let elsewhere = start();
        let headers =
            vec![("Location".to_owned(), elsewhere.url()), ("Retry-After".to_owned(), "12".to_owned())];
        recorder.script([Step::Reply { status, headers, body: String::new() }]);
        let sink = sink(&recorder);
        let result = sink.deliver(&batch(1, small(&MIXED))).await;
        assert!(sink.rest().is_some_and(|rest| (11..=12).contains(&rest.as_secs())), "{status}");
        let got = match &result {
            Ok(d) if d.rejected.is_empty() => "delivered",
            Err(DeliverError::Retry { after, .. }) => {
                assert_eq!(*after, Some(Duration::from_secs(12)), "{status}");
                "retry"
            }
            Err(DeliverError::Split { .. }) => "split",
            Err(DeliverError::Reject { reason: RejectReason::Invalid, .. }) => "reject",
            Err(DeliverError::Stop { .. }) => "stop",
            other => panic!("{status}: {other:?}"),
        };
        assert_eq!(got, want, "{status}: {result:?}");
        assert_eq!(elsewhere.requests().len(), 0, "{status}: redirects are not followed");
    }
}

#[tokio::test]
async fn retry_after_is_honoured_as_a_date_too() {
    let recorder = start();
    let soon = std::time::SystemTime::now() + Duration::from_secs(600);
    recorder.script([Step::wait(503, &httpdate::fmt_http_date(soon))]);
    let wait = after(&sink(&recorder).deliver(&batch(1, small(&["P"]))).await.unwrap_err()).unwrap();
    assert!((590..=600).contains(&wait.as_secs()), "{wait:?}");
}

/// What follows is up to the dispatcher, who asks before each attempt.
#[tokio::test]
async fn a_wish_to_wait_is_kept_beside_an_answer_of_any_kind() {
    let recorder = start();
    let sink = sink(&recorder);
    assert_eq!(sink.rest(), None);
    sink.deliver(&batch(1, small(&["P"]))).await.unwrap();
    assert_eq!(sink.rest(), None);
    let said = |body: &str| Step::Reply {
        status: 200,
        headers: vec![("Retry-After".to_owned(), "600".to_owned())],
        body: body.to_owned(),
    };
    for body in ["{\"acc\":2}", "{\"rej\":2}", "<html>", "{\"acc\":1,\"rej\":1}"] {
        let recorder = start();
        recorder.script([said(body)]);
        let sink = self::sink(&recorder);
        let _ = sink.deliver(&batch(1, small(&["P"; 2]))).await;
        assert!(sink.rest().is_some_and(|rest| rest.as_secs() >= 590), "{body}");
    }
    // the longest counts, and none that is shorter
    recorder.script([Step::wait(503, "60"), Step::wait(503, "600"), Step::wait(503, "0")]);
    for _ in 0..3 {
        sink.deliver(&batch(2, small(&["P"]))).await.unwrap_err();
    }
    assert!(sink.rest().is_some_and(|rest| rest.as_secs() >= 590));
}

#[tokio::test]
async fn a_check_that_is_told_to_wait_keeps_deliveries_waiting() {
    let server = CannedServer::replies([Canned::status(503).with("Retry-After", "8")]).await;
    let text = format!("url = {:?}\ntenant = \"value:{}\"", server.url(), TOKENS[0]);
    let config: EventsConfig = toml::from_str(&text).unwrap();
    let sink = config.build(&SinkId::new("cloud"), &HttpContext::default()).unwrap();
    assert_eq!(after(&sink.check().await.unwrap_err()), Some(Duration::from_secs(8)));
    assert!(sink.rest().is_some());
}

#[tokio::test]
async fn a_wish_to_wait_amid_a_batch_is_kept_before_its_next_request() {
    let recorder = start();
    recorder.script([Step::wait(400, "60"), Step::wait(204, "60")]);
    let sink = sink_with(&recorder, mapping(), Compression::Gzip, Caps { events: 2, ..CAPS });
    let batch = batch(1, small(&["P"; 6]));
    for requests in 1..=2 {
        assert!(after(&sink.deliver(&batch).await.unwrap_err()).is_some());
        assert_eq!(recorder.requests().len(), requests);
        tokio::time::pause();
        tokio::time::advance(sink.rest().unwrap()).await;
        tokio::time::resume();
    }
    let delivered = sink.deliver(&batch).await.unwrap();
    assert_eq!(reasons(&delivered), [(1, RejectReason::Invalid), (2, RejectReason::Invalid)]);
    assert_eq!(recorder.requests().len(), 3, "it goes on where it was");
}

#[tokio::test]
async fn partial_rejection_names_each_event_and_its_reason() {
    let recorder = start();
    recorder.script([Step::Refuse { places: vec![1, 3], reason: "InvalidEvent".into() }]);
    let delivered = sink(&recorder).deliver(&batch(11, small(&MIXED))).await.unwrap();
    assert_eq!(reasons(&delivered), [(12, RejectReason::Invalid), (14, RejectReason::Invalid)]);
    assert!(delivered.rejected[0].detail.contains("InvalidEvent"));
    assert_eq!(recorder.seqs().into_iter().collect::<Vec<_>>(), [11, 13]);
    assert_eq!(delivered.objects[0].events, 2);
}

/// Halves a batch as the dispatcher does.
fn halves(whole: &SinkBatch) -> [SinkBatch; 2] {
    let middle = whole.len() / 2;
    let part = |take: std::ops::Range<usize>| {
        let providers: Vec<&str> = whole.iter().map(|(_, e)| e.schema().provider_name.as_str()).collect();
        let first = whole.iter().nth(take.start).unwrap().0.0;
        batch(first, small(&providers[take]))
    };
    [part(0..middle), part(middle..whole.len())]
}

#[tokio::test]
async fn too_much_at_once_is_halved_until_it_passes() {
    let recorder = start();
    recorder.script([Step::LimitEvents(1)]);
    let sink = sink(&recorder);
    let mut open = vec![batch(1, small(&["P"; 4]))];
    while let Some(next) = open.pop() {
        match sink.deliver(&next).await {
            Ok(d) => assert_eq!(d.rejected, []),
            Err(DeliverError::Split { .. }) => open.extend(halves(&next)),
            Err(e) => panic!("{e:?}"),
        }
    }
    assert_eq!(recorder.seqs().len(), 4);
    recorder.script([Step::status(413)]);
    let alone = sink.deliver(&batch(9, small(&["P"]))).await;
    assert!(matches!(alone, Err(DeliverError::Reject { reason: RejectReason::TooLarge, .. })), "{alone:?}");
}

#[tokio::test]
async fn a_killed_tenant_is_set_aside_and_the_others_go() {
    let recorder = start();
    let kill =
        Step::Kill { tokens: vec![format!("{}:all", TOKENS[1])], duration: "3600".into(), status: 200 };
    recorder.script([kill]);
    let sink = sink(&recorder);
    assert_eq!(sink.deliver(&batch(1, small(&MIXED))).await.unwrap().rejected, [], "200 took them all");
    let delivered = sink.deliver(&batch(11, small(&MIXED))).await.unwrap();
    assert_eq!(reasons(&delivered), [(12, RejectReason::Held), (14, RejectReason::Held)]);
    assert!(delivered.rejected[0].detail.contains("o:fedcba98"), "the public part tells whose");
    assert_eq!(recorder.requests()[1].header("apikey"), Some([TOKENS[0], TOKENS[2]].join(",").as_str()));
    // nothing but events of the held tenant: no request at all
    let delivered = sink.deliver(&batch(21, small(&["Contoso.App"]))).await.unwrap();
    assert_eq!((reasons(&delivered), delivered.objects.len()), (vec![(21, RejectReason::Held)], 0));
    assert_eq!(recorder.requests().len(), 2);
}

#[tokio::test]
async fn a_refusal_that_kills_some_lets_the_others_go_next() {
    for (status, duration) in [
        (401, "60"),
        (500, "60"),
        (500, "this-request-only"),
        (429, "60"),
        (400, "60"),
        (400, "this-request-only"),
        (422, "60"),
    ] {
        let recorder = start();
        recorder.script([Step::Kill { tokens: vec![TOKENS[2].into()], duration: duration.into(), status }]);
        let sink = sink(&recorder);
        let batch = batch(1, small(&MIXED));
        assert_eq!(after(&sink.deliver(&batch).await.unwrap_err()), None, "{status}");
        let delivered = sink.deliver(&batch).await.unwrap();
        assert_eq!(reasons(&delivered), [(3, RejectReason::Held)], "{status} {duration}");
        assert_eq!(recorder.seqs().into_iter().collect::<Vec<_>>(), [1, 2, 4]);
    }
}

#[tokio::test]
async fn when_no_tenant_may_send_nothing_is_set_aside() {
    let recorder = start();
    let kill = |status| Step::Kill { tokens: vec![TOKENS[0].into()], duration: "3600".into(), status };
    recorder.script([kill(401)]);
    let sink = one_tenant(&recorder);
    let all = batch(1, small(&MIXED));
    assert!(matches!(sink.deliver(&all).await, Err(DeliverError::Stop { .. })), "someone must act");
    let wait = after(&sink.deliver(&all).await.unwrap_err()).unwrap();
    assert!((3500..=3600).contains(&wait.as_secs()));
    assert_eq!(recorder.requests().len(), 1, "a held tenant is not knocked for");
}

#[tokio::test]
async fn a_batch_of_several_requests_goes_on_where_it_failed() {
    let recorder = start();
    recorder.script([Step::Take, Step::status(503), Step::Refuse { places: vec![0], reason: "bad".into() }]);
    let caps = Caps { events: 2, ..CAPS };
    let sink = sink_with(&recorder, mapping(), Compression::Gzip, caps);
    let batch = batch(1, small(&["P"; 6]));
    assert!(sink.deliver(&batch).await.is_err());
    let delivered = sink.deliver(&batch).await.unwrap();
    assert_eq!(reasons(&delivered), [(3, RejectReason::Invalid)]);
    assert_eq!(recorder.repeats(), 0, "what was acknowledged is not sent again");
    assert_eq!(recorder.seqs().into_iter().collect::<Vec<_>>(), [1, 2, 4, 5, 6]);
    let found: Vec<(u32, bool)> = delivered.objects.iter().map(|o| (o.events, o.found)).collect();
    assert_eq!(found, [(2, true), (1, false), (2, false)]);
    assert_eq!(recorder.requests().len(), 4);
    // done is done: the same batch again is sent whole
    sink.deliver(&batch).await.unwrap();
    assert_eq!(recorder.requests().len(), 7);
}

#[tokio::test]
async fn a_refused_part_of_a_batch_does_not_take_the_rest_with_it() {
    let recorder = start();
    recorder.script([Step::status(400)]);
    let sink = sink_with(&recorder, mapping(), Compression::Gzip, Caps { events: 2, ..CAPS });
    let delivered = sink.deliver(&batch(1, small(&["P"; 3]))).await.unwrap();
    assert_eq!(reasons(&delivered), [(1, RejectReason::Invalid), (2, RejectReason::Invalid)]);
    assert_eq!(recorder.seqs().into_iter().collect::<Vec<_>>(), [3]);
}

#[tokio::test]
async fn a_broken_answer_is_tried_again_and_loses_nothing() {
    let long_header =
        format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(1 << 20));
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{{\"acc\":1}}{}", " ".repeat(8 << 20));
    let raw = |text: &str| Canned::Raw(text.to_owned().into());
    let answers = [
        raw("HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{\"acc\":4}"),
        raw("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{\"acc\":4}"),
        raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"),
        raw(&long_header),
        raw(&endless),
        raw("SSH-2.0-OpenSSH_9.6\r\n"),
        // drips its answer and then falls silent
        Canned::Stuck("HTTP/1.1 200 OK\r\nContent-Le".into()),
        Canned::Stuck("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"acc\"".into()),
        Canned::status(200).saying("<html>sign in to the network</html>"),
        Canned::Close,
    ];
    let count = answers.len();
    let server =
        CannedServer::replies(answers.into_iter().chain([Canned::status(200).saying("{\"acc\":4}")])).await;
    let more = format!(
        "url = \"{}\"\ntenant = \"value:{}\"\nhttp = {{ timeout = \"300ms\" }}",
        server.url(),
        TOKENS[0]
    );
    let config: EventsConfig = toml::from_str(&more).unwrap();
    let sink = config.build(&SinkId::new("cloud"), &HttpContext::default()).unwrap();
    let batch = batch(1, small(&["P"; 4]));
    for n in 0..count {
        let error = sink.deliver(&batch).await.unwrap_err();
        assert!(matches!(error, DeliverError::Retry { after: None, .. }), "answer {n}: {error:?}");
    }
    assert_eq!(sink.deliver(&batch).await.unwrap().rejected, []);
    let bodies: Vec<_> = server.seen().into_iter().map(|s| s.body).collect();
    assert!(bodies.len() == count + 1 && bodies.iter().all(|b| *b == bodies[0]), "the same each time");
}

#[tokio::test]
async fn no_error_or_debug_form_shows_a_token() {
    let recorder = start();
    recorder.script([Step::status(401), Step::Drop]);
    let sink = sink(&recorder);
    let mut shown = format!("{sink:?}");
    for _ in 0..2 {
        let error = sink.deliver(&batch(1, small(&MIXED))).await.unwrap_err();
        shown += &format!("{error:?} {error} {:?}", error.source().map(ToString::to_string));
    }
    for token in TOKENS {
        assert!(!shown.contains(token) && !shown.contains(&token[33..]), "{shown}");
    }
}

#[tokio::test]
async fn a_tenant_killed_amid_a_batch_is_not_in_the_next_request() {
    let recorder = start();
    let kill = Step::Kill { tokens: vec![TOKENS[1].to_owned()], duration: "3600".into(), status: 200 };
    recorder.script([kill]);
    let sink = sink_with(&recorder, mapping(), Compression::Gzip, Caps { events: 2, ..CAPS });
    let delivered = sink.deliver(&batch(1, small(&MIXED))).await.unwrap();
    let requests = recorder.requests();
    let keys: Vec<&str> = requests.iter().map(|r| r.header("apikey").unwrap()).collect();
    assert_eq!(keys, [TOKENS[..2].join(",").as_str(), TOKENS[2]]);
    assert_eq!(reasons(&delivered), [(4, RejectReason::Held)]);
    assert_eq!(recorder.seqs().into_iter().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(delivered.objects.iter().map(|o| o.events).sum::<u32>(), 3);
    // all of them: what is not sent waits
    let recorder = start();
    let tokens = TOKENS.map(str::to_owned).to_vec();
    recorder.script([Step::Kill { tokens, duration: "60".into(), status: 200 }]);
    let sink = sink_with(&recorder, mapping(), Compression::Gzip, Caps { events: 2, ..CAPS });
    let wait = after(&sink.deliver(&batch(1, small(&MIXED))).await.unwrap_err()).unwrap();
    assert!((50..=60).contains(&wait.as_secs()), "{wait:?}");
    assert_eq!(recorder.requests().len(), 1);
}

#[tokio::test]
async fn a_tenant_token_that_is_replaced_counts_from_the_next_request_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tenant");
    let second = TOKENS[0].replace("-6789", "-4321");
    std::fs::write(&file, TOKENS[0]).unwrap();
    let recorder = Recorder::start(&[TOKENS[0], &second]).unwrap();
    let text = format!("url = {:?}\ntenant = 'file:{}'", recorder.url(), file.display());
    let config: EventsConfig = toml::from_str(&text).unwrap();
    let sink = config.build(&SinkId::new("cloud"), &HttpContext::default()).unwrap();
    sink.deliver(&batch(1, small(&["P"]))).await.unwrap();
    std::fs::write(&file, format!("{second}\n")).unwrap();
    sink.deliver(&batch(2, small(&["P"]))).await.unwrap();
    let keys = |n: usize| recorder.requests()[n].header("apikey").unwrap().to_owned();
    assert_eq!((keys(0), keys(1)), (TOKENS[0].to_owned(), second));
    // of another tenant, whose key would have to stand in the events
    std::fs::write(&file, TOKENS[1]).unwrap();
    let error = sink.deliver(&batch(3, small(&["P"]))).await.unwrap_err();
    let DeliverError::Stop { advice, source, .. } = &error else { panic!("{error:?}") };
    assert!(advice.contains("reload") && source.to_string().contains("o:01234567"), "{error:?}");
    assert!(!format!("{error:?}").contains("5555"), "no token is shown: {error:?}");
    std::fs::remove_file(&file).unwrap();
    let error = sink.deliver(&batch(3, small(&["P"]))).await.unwrap_err();
    assert!(matches!(error, DeliverError::Stop { .. }), "{error:?}");
    assert_eq!(recorder.requests().len(), 2);
}
