//! Settings, placing and errors; and the whole sink against a real broker.

mod broker;

use rskafka::client::error::{Error, ProtocolError, RequestContext};
use tidegate_proto::ids::{Seq, SinkId};
use tidegate_proto::wire::{BlockBuilder, Unchanged};

use super::error::understood;
use super::sink::place;
use super::*;
use crate::http::HttpContext;
use crate::testing::chain::{Chain, pem, private, versions};
use crate::testing::{Canned, CannedServer};
use crate::{DeliverError, RejectReason, Sink as _};

fn build(text: &str) -> Result<KafkaSink, String> {
    let config: KafkaConfig = toml::from_str(text).map_err(|e| e.to_string())?;
    config.build(&SinkId::new("stream"), &HttpContext::default()).map_err(|e| e.to_string())
}

const MINIMAL: &str = "brokers = [\"127.0.0.1:1\"]\ntopic = \"events\"\n";

#[test]
fn what_is_wrong_in_the_settings_is_named() {
    let auth = "auth = { mechanism = \"plain\", user = \"u\", password = \"value:hunter2\" }";
    for (text, word) in [
        ("topic = \"events\"".to_owned(), "brokers"),
        ("brokers = []\ntopic = \"events\"".to_owned(), "brokers"),
        ("brokers = [\"host\"]\ntopic = \"events\"".to_owned(), "HOST:PORT"),
        ("brokers = [\"h:1\"]\ntopic = \"a b\"".to_owned(), "topic"),
        (format!("{MINIMAL}{auth}"), "tls"),
        (format!("{MINIMAL}batch = {{ in_flight = 0 }}"), "in_flight"),
        (format!("{MINIMAL}colour = 1"), "colour"),
        (format!("{MINIMAL}auth = {{ mechanism = \"kerberos\" }}"), "kerberos"),
    ] {
        let error = build(&text).unwrap_err();
        assert!(error.contains(word) && !error.contains("hunter2"), "{text}: {error}");
    }
    let sink = build(&format!("{MINIMAL}plaintext_auth = true\n{auth}")).unwrap();
    assert!(!format!("{sink:?}").contains("hunter2"));
    build(&format!("{MINIMAL}tls = {{}}\n{auth}")).unwrap();
}

/// Otherwise each goes over the wire, is refused, and goes again in halves.
#[test]
fn a_full_batch_without_compression_is_no_more_than_a_broker_takes() {
    for value in ["json", "protobuf"] {
        let sink = build(&format!("{MINIMAL}compression = \"none\"\nvalue = \"{value}\"\n")).unwrap();
        let limits = sink.limits();
        let mut block = BlockBuilder::new();
        let most = crate::testing::batch(1, u64::from(limits.events));
        let full = most.iter().take_while(|(_, event)| {
            block.push(*event, event.head().telemetry_level, &Unchanged);
            block.len() as u64 <= limits.bytes
        });
        let batch = crate::testing::batch(1, full.count() as u64);
        // keys, headers and what frames them
        let (records, _, values) = sink.records(&batch);
        let bytes = values + 120 * records.len() as u64;
        assert!((200_000..1 << 20).contains(&bytes), "{value}: {} events are {bytes} bytes", records.len());
    }
}

/// These numbers are a promise: another release must place the same events alike.
#[test]
fn a_stream_stays_in_its_partition_and_batches_are_dealt_out() {
    let origin = crate::testing::origin();
    assert_eq!(place(&origin, None, 1), 0);
    assert_eq!((place(&origin, None, 8), place(&origin, None, 1000)), (2, 90));
    let dealt: std::collections::BTreeSet<usize> =
        (0..64).map(|n| place(&origin, Some(Seq(1 + n * 500)), 8)).collect();
    assert_eq!(dealt.len(), 8, "every partition gets some");
    assert_eq!(place(&origin, Some(Seq(1)), 0), 0, "no partitions are no panic");
}

#[test]
fn every_kind_of_error_has_its_outcome() {
    use ProtocolError as P;
    let server = |protocol_error| Error::ServerError {
        protocol_error,
        error_message: Some("words\n".into()),
        request: RequestContext::Topic("events".into()),
        response: None,
        is_virtual: false,
    };
    for code in [P::MessageTooLarge, P::RecordListTooLarge] {
        assert!(matches!(understood(&server(code), 2), DeliverError::Split { .. }));
        let alone = understood(&server(code), 1);
        assert!(matches!(alone, DeliverError::Reject { reason: RejectReason::TooLarge, .. }));
    }
    for code in [P::InvalidRecord, P::InvalidTimestamp] {
        assert!(matches!(understood(&server(code), 2), DeliverError::Reject { .. }));
    }
    for code in [
        P::TopicAuthorizationFailed,
        P::ClusterAuthorizationFailed,
        P::SaslAuthenticationFailed,
        P::UnsupportedSaslMechanism,
        P::UnknownTopicOrPartition,
        P::InvalidTopicException,
        P::UnsupportedVersion,
    ] {
        assert!(matches!(understood(&server(code), 2), DeliverError::Stop { .. }), "{code:?}");
    }
    for code in [P::NotEnoughReplicas, P::LeaderNotAvailable, P::RequestTimedOut, P::UnknownServerError] {
        assert!(matches!(understood(&server(code), 2), DeliverError::Retry { after: None, .. }), "{code:?}");
    }
    assert!(matches!(understood(&Error::Timeout, 2), DeliverError::Retry { .. }));
}

#[tokio::test]
async fn no_broker_is_tried_again() {
    let sink = build(MINIMAL).unwrap();
    let error = sink.deliver(&crate::testing::batch(1, 3)).await.unwrap_err();
    assert!(matches!(error, DeliverError::Retry { .. }), "{error:?}");
}

#[tokio::test]
async fn a_broker_that_wants_a_client_certificate_or_another_tls_needs_someone() {
    let chain = Chain::new();
    let certificates = || vec![chain.leaf.der.clone(), chain.middle.der.clone()];
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(chain.root.der.clone()).unwrap();
    let checks = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
    let wants_one = versions(rustls::ALL_VERSIONS)
        .with_client_cert_verifier(checks.build().unwrap())
        .with_single_cert(certificates(), private(&chain.leaf.key))
        .unwrap();
    let older = versions(&[&rustls::version::TLS12])
        .with_no_client_auth()
        .with_single_cert(certificates(), private(&chain.leaf.key))
        .unwrap();
    let ca = chain.file("ca.pem", pem("CERTIFICATE", &chain.root.der));
    for (config, word) in [(wants_one, "tls.client_cert"), (older, "tls.min_version")] {
        // no request comes as far as to be read
        let server = CannedServer::tls(config, |_| Canned::Close).await;
        let sink = build(&format!(
            "brokers = [\"localhost:{}\"]\ntopic = \"events\"\n\
             tls = {{ ca_file = '{}', min_version = \"1.3\" }}\n",
            server.address().port(),
            ca.display()
        ))
        .unwrap();
        let error = sink.check().await.unwrap_err();
        let DeliverError::Stop { advice, .. } = &error else { panic!("{word}: {error:?}") };
        assert!(advice.contains(word), "{advice}");
    }
}

#[tokio::test]
async fn a_secret_that_is_not_there_stops_the_sink() {
    let auth = "auth = { mechanism = \"plain\", user = \"u\", password = \"env:TIDEGATE_NO_SUCH_VARIABLE\" }";
    let sink = build(&format!("{MINIMAL}tls = {{}}\n{auth}")).unwrap();
    assert!(matches!(sink.check().await, Err(DeliverError::Stop { .. })));
}

#[test]
fn a_password_that_a_broker_quotes_is_not_told() {
    crate::secret::SecretRef::parse("value:hunter2-of-kafka").resolve().unwrap();
    let error = Error::ServerError {
        protocol_error: ProtocolError::SaslAuthenticationFailed,
        error_message: Some("u\0hunter2-of-kafka is wrong".into()),
        request: RequestContext::Topic("events".into()),
        response: None,
        is_virtual: false,
    };
    let told = format!("{:?}", understood(&error, 1));
    assert!(!told.contains("hunter2") && told.contains("*** is wrong"), "{told}");
}
