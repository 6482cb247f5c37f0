//! Against a real Apache Kafka broker in KRaft mode. `tests/kafka/install.sh` fetches its jars
//! and prints their folder; with that in `TIDEGATE_KAFKA` these tests run, without it they say so.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rskafka::client::ClientBuilder;
use rskafka::client::partition::{OffsetAt, UnknownTopicHandling};
use rskafka::record::Record;
use tidegate_proto::batch::Batch;
use tidegate_proto::wire::{BlockReader, SchemaInterner};

use super::*;
use crate::testing::batch;

struct Broker {
    process: Child,
    dir: tempfile::TempDir,
    plain: u16,
    secure: u16,
    /// Of a listener that says it is at `front.0`, and is at `front.1`.
    front: (u16, u16),
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that was free a moment ago.
fn port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn java(libs: &Path, class: &str, dir: &Path) -> Command {
    let mut command = Command::new("java");
    let jwks = dir.join("jwks.json").display().to_string();
    command.arg(format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file:{jwks}"));
    command.arg(format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.files={jwks}"));
    command.args(["-Xmx256m", "-cp", &format!("{}/*", libs.display()), class]);
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).current_dir(dir);
    command
}

/// A token as an authority would give it, signed with the key of the tests.
fn token(seconds: i64) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject as _;
    let pem = include_bytes!("../../blob/tests/data/client.key");
    let PrivateKeyDer::Pkcs8(key) = PrivateKeyDer::from_pem_slice(pem).unwrap() else { panic!() };
    let pair = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let now = i64::try_from(now).unwrap();
    let header = r#"{"alg":"RS256","typ":"JWT","kid":"tests"}"#;
    let claims = format!(
        r#"{{"sub":"hopper","aud":"tidegate","scope":"send","iat":{},"exp":{}}}"#,
        now - 600,
        now + seconds
    );
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", part(header), part(&claims));
    let mut signature = vec![0; pair.public().modulus_len()];
    let random = ring::rand::SystemRandom::new();
    pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The public half of that key.
const JWKS: &str = include_str!("../../blob/tests/data/jwks.json");

async fn start(libs: &Path) -> Broker {
    let dir = tempfile::tempdir().unwrap();
    let (plain, secure, controller) = (port(), port(), port());
    let front = (port(), port());
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let host = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let pem = host.signed_by(&key, &issuer).unwrap().pem();
    std::fs::write(dir.path().join("ca.pem"), &ca_pem).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["other".to_owned()]).unwrap();
    std::fs::write(dir.path().join("other.pem"), other.cert.pem()).unwrap();
    std::fs::write(dir.path().join("broker.pem"), format!("{}{pem}", key.serialize_pem())).unwrap();
    let login = "org.apache.kafka.common.security.plain.PlainLoginModule";
    let bearer = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule";
    let validator = "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler";
    std::fs::write(dir.path().join("jwks.json"), JWKS).unwrap();
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule";
    let config = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\n\
         listeners=PLAINTEXT://127.0.0.1:{plain},SASL_SSL://localhost:{secure},CONTROLLER://127.0.0.1:{controller},FRONT://127.0.0.1:{inner}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SASL_SSL://localhost:{secure},FRONT://127.0.0.1:{outer}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT,FRONT:PLAINTEXT\n\
         sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,OAUTHBEARER\n\
         listener.name.sasl_ssl.plain.sasl.jaas.config={login} required user_ada=\"right\";\n\
         listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={scram} required;\n\
         listener.name.sasl_ssl.oauthbearer.sasl.jaas.config={bearer} required;\n\
         sasl.oauthbearer.jwks.endpoint.url=file:{dir}/jwks.json\n\
         sasl.oauthbearer.expected.audience=tidegate\n\
         listener.name.sasl_ssl.oauthbearer.sasl.server.callback.handler.class={validator}\n\
         ssl.keystore.type=PEM\nssl.keystore.location={dir}/broker.pem\n\
         log.dirs={dir}/data\noffsets.topic.replication.factor=1\nauto.create.topics.enable=false\n\
         message.max.bytes=100000\ngroup.initial.rebalance.delay.ms=0\n",
        dir = dir.path().display(),
        outer = front.0,
        inner = front.1,
    );
    std::fs::write(dir.path().join("server.properties"), config).unwrap();
    let formatted = java(libs, "kafka.tools.StorageTool", dir.path())
        .args(["format", "-t", "bXktdGVzdC1jbHVzdGVyLQ", "-c", "server.properties"])
        .args(["--add-scram", "SCRAM-SHA-256=[name=grace,password=hopper]"])
        .status()
        .unwrap();
    let log = || std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    assert!(formatted.success(), "{}", log());
    let process = java(libs, "kafka.Kafka", dir.path()).arg("server.properties").spawn().unwrap();
    let mut broker = Broker { process, dir, plain, secure, front };
    loop {
        let client = ClientBuilder::new(vec![format!("127.0.0.1:{plain}")]).build();
        if let Ok(Ok(client)) = tokio::time::timeout(Duration::from_secs(2), client).await
            && let Ok(controller) = client.controller_client()
            && controller.create_topic("events", 4, 1, 5_000).await.is_ok()
        {
            return broker;
        }
        let log = std::fs::read_to_string(broker.dir.path().join("log")).unwrap_or_default();
        assert_eq!(broker.process.try_wait().unwrap(), None, "the broker ended: {log}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Every record of every partition.
async fn records(broker: &Broker) -> Vec<(i32, Record)> {
    let client = ClientBuilder::new(vec![format!("127.0.0.1:{}", broker.plain)]).build().await.unwrap();
    let mut all = Vec::new();
    for partition in 0..4 {
        let reader = client.partition_client("events", partition, UnknownTopicHandling::Error).await.unwrap();
        let end = reader.get_offset(OffsetAt::Latest).await.unwrap();
        let mut at = 0;
        while at < end {
            let (got, _) = reader.fetch_records(at, 1..10_000_000, 1_000).await.unwrap();
            at = got.last().map_or(end, |r| r.offset + 1);
            all.extend(got.into_iter().map(|r| (partition, r.record)));
        }
    }
    all
}

fn seq_of(record: &Record) -> u64 {
    let key = String::from_utf8(record.key.clone().unwrap()).unwrap();
    let (epoch, seq) = key.split_once('-').unwrap();
    assert_eq!(epoch, "00000000feed0042");
    seq.parse().unwrap()
}

#[tokio::test]
async fn a_real_broker_takes_every_event_plain_and_over_tls_with_passwords() {
    let Some(libs) = std::env::var_os("TIDEGATE_KAFKA").filter(|v| !v.is_empty()) else {
        let advice = "TIDEGATE_KAFKA is not set: start the tests with tests/run";
        // set and empty: left out on purpose
        assert!(std::env::var_os("CI").is_none() || std::env::var_os("TIDEGATE_KAFKA").is_some(), "{advice}");
        eprintln!("SKIPPED: {advice}");
        return;
    };
    let broker = start(Path::new(&libs)).await;
    let plain = format!("brokers = [\"127.0.0.1:{}\"]\ntopic = \"events\"\n", broker.plain);
    let secure = |auth: &str| {
        let ca = broker.dir.path().join("ca.pem");
        let tls = format!("tls = {{ ca_file = \"{}\" }}", ca.display());
        format!("brokers = [\"localhost:{}\"]\ntopic = \"events\"\n{tls}\nauth = {auth}\n", broker.secure)
    };
    let ada = |password: &str| {
        format!("{{ mechanism = \"plain\", user = \"ada\", password = \"value:{password}\" }}")
    };

    // plain, in order, one partition
    let sink = build(&plain).unwrap();
    sink.check().await.unwrap();
    let done = sink.deliver(&batch(1, 100)).await.unwrap();
    assert_eq!((done.objects[0].events, done.rejected.len()), (100, 0));
    assert!(done.objects[0].destination.starts_with("kafka:events/"));
    let first = records(&broker).await;
    assert_eq!(first.iter().map(|(_, r)| seq_of(r)).collect::<Vec<_>>(), (1..=100).collect::<Vec<_>>());
    assert!(first.iter().all(|(p, _)| *p == first[0].0));
    let (_, record) = &first[4];
    let value: serde_json::Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
    assert_eq!(value["seq"], 5);
    assert_eq!(record.headers["host"], b"host-1");
    let time = tidegate_proto::time::parse_rfc3339(value["time"].as_str().unwrap()).unwrap();
    assert_eq!(record.timestamp.timestamp_millis(), time / 1_000_000);

    // TLS and both kinds of password, protobuf, zstd, dealt out
    let more = "value = \"protobuf\"\ncompression = \"zstd\"\nspread = \"batch\"\n";
    let sink = build(&format!("{}{more}", secure(&ada("right")))).unwrap();
    for n in 0..8 {
        sink.deliver(&batch(101 + n * 10, 110 + n * 10)).await.unwrap();
    }
    let grace = "{ mechanism = \"scram-sha-256\", user = \"grace\", password = \"value:hopper\" }";
    build(&secure(grace)).unwrap().deliver(&batch(181, 200)).await.unwrap();
    // a token, and one that has ended
    let bearer = |token: &str| format!("{{ mechanism = \"oauthbearer\", token = \"value:{token}\" }}");
    build(&secure(&bearer(&token(600)))).unwrap().deliver(&batch(201, 220)).await.unwrap();
    let ended = build(&secure(&bearer(&token(-300)))).unwrap().deliver(&batch(1, 1)).await.unwrap_err();
    assert!(matches!(ended, DeliverError::Stop { .. }), "{ended:?}");
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    let all = records(&broker).await;
    all.iter().for_each(|(_, r)| *counts.entry(seq_of(r)).or_default() += 1);
    assert_eq!(counts, (1..=220).map(|n| (n, 1)).collect::<BTreeMap<u64, usize>>());
    let (_, block) = all.iter().find(|(_, r)| seq_of(r) == 105).unwrap();
    let mut events = Batch::new();
    let reader = BlockReader::new(block.value.as_ref().unwrap(), &mut SchemaInterner::new()).unwrap();
    reader.read_into(&mut events).unwrap();
    assert_eq!(events.get(0).unwrap().head().id, 105);

    // a repeat has the same keys
    build(&plain).unwrap().deliver(&batch(1, 100)).await.unwrap();
    let repeats = records(&broker).await.iter().filter(|(_, r)| seq_of(r) <= 100).count();
    assert_eq!(repeats, 200);

    // what someone must act on
    let wrong = build(&secure(&ada("wrong"))).unwrap().deliver(&batch(1, 1)).await.unwrap_err();
    assert!(matches!(wrong, DeliverError::Stop { .. }), "{wrong:?}");
    assert!(!format!("{wrong:?}").contains("wrong\""), "no password in errors: {wrong:?}");
    let missing = build(&plain.replace("events", "nothing")).unwrap().check().await;
    assert!(matches!(missing, Err(DeliverError::Stop { .. })), "{missing:?}");
    let untrusted = secure(&ada("right")).replace("ca.pem", "other.pem");
    let untrusted = build(&untrusted).unwrap().check().await;
    assert!(matches!(untrusted, Err(DeliverError::Stop { .. })), "{untrusted:?}");

    // more than the broker takes
    let sink = build(&format!("{plain}compression = \"none\"\n")).unwrap();
    let large = sink.deliver(&batch(1, 1000)).await;
    assert!(matches!(large, Err(DeliverError::Split { .. })), "{large:?}");
    sink.deliver(&batch(221, 230)).await.unwrap();

    a_connection_that_falls_silent_costs_one_attempt(&broker).await;
}

/// Carries connections to the broker; those that are there may fall silent: nothing ends, nothing
/// comes.
async fn a_connection_that_falls_silent_costs_one_attempt(broker: &Broker) {
    let (outer, inner) = broker.front;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", outer)).await.unwrap();
    let silence = std::sync::Arc::new(tokio::sync::Notify::new());
    let told = std::sync::Arc::clone(&silence);
    let forwarder = tokio::spawn(async move {
        let mut open = tokio::task::JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let told = std::sync::Arc::clone(&told);
            open.spawn(async move {
                let mut server = tokio::net::TcpStream::connect(("127.0.0.1", inner)).await.unwrap();
                let silent = told.notified();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    () = silent => std::future::pending().await,
                }
            });
        }
    });
    let sink = build(&format!("brokers = [\"127.0.0.1:{outer}\"]\ntopic = \"events\"\n")).unwrap();
    sink.deliver(&batch(301, 310)).await.unwrap();
    silence.notify_waiters();
    // as the dispatcher does; how long is of no matter
    let given_up = tokio::time::timeout(Duration::from_secs(1), sink.deliver(&batch(311, 320))).await;
    assert!(given_up.is_err(), "{given_up:?}");
    let next = tokio::time::timeout(Duration::from_secs(60), sink.deliver(&batch(311, 320))).await;
    next.expect("another connection is made").unwrap();
    forwarder.abort();
}
