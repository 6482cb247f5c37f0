//! A real TLS server with made chains.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::server::{ClientCertVerifierBuilder, WebPkiClientVerifier};

use super::pins::{Pin, PinMonitor};
use super::probe::{ProbeError, probe};
use super::tls::{TlsError, TlsVersion};
use super::*;
use crate::testing::chain::{Chain, params, pem, private, signed, versions};
use crate::testing::{Canned, CannedServer};
use crate::{Clock, DeliverError};

fn pins(list: &[Pin], more: &str) -> String {
    let list = list.iter().map(|p| format!("\"{p}\"")).collect::<Vec<_>>().join(", ");
    format!("[[tls.pins]]\nsha256 = [{list}]\n{more}\n")
}

/// Another key's pin: the backup that is not in use.
fn unused() -> Pin {
    Pin::of_spki(b"a key in a safe")
}

fn context() -> HttpContext {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000);
    HttpContext { clock: Clock::fixed(at), pins: PinMonitor::default() }
}

async fn ask(server: &CannedServer, settings: &str, ctx: &HttpContext) -> Result<u16, HttpError> {
    let config: HttpConfig = toml::from_str(settings).unwrap();
    let client = Client::new(&config, ctx).unwrap();
    let request = Request::new(Method::GET, server.url().parse().unwrap());
    client.send(request).await.map(|reply| reply.status)
}

#[tokio::test]
async fn a_private_ca_is_trusted_and_without_it_the_chain_is_not() {
    let (chain, ctx) = (Chain::new(), context());
    let server = chain.serve().await;
    assert_eq!(ask(&server, &chain.trusting(""), &ctx).await.unwrap(), 200);
    assert_eq!(ask(&server, &chain.trusting("system_roots = true"), &ctx).await.unwrap(), 200);
    let error = ask(&server, "", &ctx).await.unwrap_err();
    assert!(matches!(error, HttpError::Certificate { .. }), "{error:?}");
    assert!(matches!(error.into(), DeliverError::Stop { .. }));
    let other = Chain::new();
    let error = ask(&server, &other.trusting(""), &ctx).await.unwrap_err();
    assert!(matches!(error, HttpError::Certificate { .. }), "{error:?}");
}

#[tokio::test]
async fn any_certificate_of_the_verified_chain_may_carry_the_pin_or_its_backup() {
    let chain = Chain::new();
    let server = chain.serve().await;
    for pinned in [&chain.leaf, &chain.middle, &chain.root] {
        for list in [[pinned.pin(), unused()], [unused(), pinned.pin()]] {
            let ctx = context();
            assert_eq!(ask(&server, &chain.trusting(&pins(&list, "")), &ctx).await.unwrap(), 200);
            let state = ctx.pins.states().remove("localhost").unwrap();
            assert_eq!((state.matched, state.missed, state.ok), (1, 0, true));
            assert_eq!(state.chain, [chain.leaf.pin(), chain.middle.pin(), chain.root.pin()]);
        }
    }
}

#[tokio::test]
async fn a_chain_without_a_pin_is_no_connection_and_nothing_is_sent() {
    let (chain, ctx) = (Chain::new(), context());
    let server = chain.serve().await;
    let list = [unused(), Pin::of_spki(b"another")];
    let error = ask(&server, &chain.trusting(&pins(&list, "")), &ctx).await.unwrap_err();
    let HttpError::Pin(miss) = &error else { panic!("{error:?}") };
    assert_eq!((miss.host.as_str(), miss.chain[0]), ("localhost", chain.leaf.pin()));
    let DeliverError::Stop { advice, .. } = error.into() else { panic!() };
    assert!(advice.contains("matches no pin"), "{advice}");
    assert!(server.seen().is_empty());
    assert_eq!(ctx.pins.states()["localhost"].missed, 1);
}

#[tokio::test]
async fn report_only_counts_the_miss_and_connects() {
    let (chain, ctx) = (Chain::new(), context());
    let server = chain.serve().await;
    let list = pins(&[unused(), Pin::of_spki(b"another")], "report_only = true");
    assert_eq!(ask(&server, &chain.trusting(&list), &ctx).await.unwrap(), 200);
    let state = ctx.pins.states().remove("localhost").unwrap();
    assert_eq!((state.missed, state.ok, state.report_only), (1, false, true));
}

#[tokio::test]
async fn a_pin_on_a_certificate_that_is_only_sent_along_does_not_count() {
    // an attacker with a trusted chain sends the pinned certificates behind it
    let (chain, theirs, ctx) = (Chain::new(), Chain::new(), context());
    let server = chain.serve_with(&[&theirs.leaf, &theirs.middle, &theirs.root]).await;
    for pinned in [&theirs.leaf, &theirs.middle, &theirs.root] {
        let list = pins(&[pinned.pin(), unused()], "");
        let error = ask(&server, &chain.trusting(&list), &ctx).await.unwrap_err();
        assert!(matches!(error, HttpError::Pin(_)), "{error:?}");
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_pin_does_not_replace_the_ordinary_checks() {
    let mut old = params("localhost", false);
    old.not_after = rcgen::date_time_ymd(2024, 1, 1);
    let other = params("other.test", false);
    for leaf in [old, other] {
        let (chain, ctx) = (Chain::with(leaf), context());
        let server = chain.serve().await;
        for more in ["", "report_only = true"] {
            let list = pins(&[chain.leaf.pin(), unused()], more);
            let error = ask(&server, &chain.trusting(&list), &ctx).await.unwrap_err();
            assert!(matches!(error, HttpError::Certificate { .. }), "{error:?}");
        }
        assert!(server.seen().is_empty() && ctx.pins.states().is_empty());
    }
}

#[tokio::test]
async fn a_proxy_that_looks_into_tls_is_refused_though_its_ca_is_trusted() {
    let (real, proxy, ctx) = (Chain::new(), Chain::new(), context());
    let server = proxy.serve().await;
    // the administrator has put the proxy's CA beside the real one
    let both = pem("CERTIFICATE", &real.root.der) + &pem("CERTIFICATE", &proxy.root.der);
    let ca = real.file("both.pem", both);
    let trusting = format!("[tls]\nca_file = '{}'\n", ca.display());
    assert_eq!(ask(&server, &trusting, &ctx).await.unwrap(), 200);
    let list = pins(&[real.middle.pin(), unused()], "");
    let error = ask(&server, &(trusting + &list), &ctx).await.unwrap_err();
    assert!(matches!(error, HttpError::Pin(_)), "{error:?}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn pins_hold_for_their_own_hosts_and_the_first_set_that_fits_counts() {
    let (chain, ctx) = (Chain::new(), context());
    let server = chain.serve().await;
    let wrong = [unused(), Pin::of_spki(b"another")];
    let elsewhere = pins(&wrong, "host = \"*.example.com\"");
    assert_eq!(ask(&server, &chain.trusting(&elsewhere), &ctx).await.unwrap(), 200);
    let own = pins(&[chain.leaf.pin(), unused()], "host = \"localhost\"") + &pins(&wrong, "");
    assert_eq!(ask(&server, &chain.trusting(&own), &ctx).await.unwrap(), 200);
    let any_first = pins(&wrong, "") + &pins(&[chain.leaf.pin(), unused()], "host = \"localhost\"");
    assert!(ask(&server, &chain.trusting(&any_first), &ctx).await.is_err());
}

#[tokio::test]
async fn a_pinned_certificate_that_ends_soon_is_a_warning() {
    let mut ending = params("localhost", false);
    ending.not_after = rcgen::date_time_ymd(2025, 6, 25);
    let (chain, ctx) = (Chain::with(ending), context());
    let server = chain.serve().await;
    let list = |more: &str| chain.trusting(&pins(&[chain.leaf.pin(), unused()], more));
    ask(&server, &list(""), &ctx).await.unwrap();
    let state = ctx.pins.states().remove("localhost").unwrap();
    assert!(state.expires_soon && state.not_after.is_some());
    ask(&server, &list("warn_before = \"2d\""), &ctx).await.unwrap();
    assert!(!ctx.pins.states()["localhost"].expires_soon);
}

#[tokio::test]
async fn pins_and_an_address_without_tls_do_not_go_together() {
    let (chain, ctx) = (Chain::new(), context());
    let server = CannedServer::replies([Canned::status(200)]).await;
    let list = chain.trusting(&pins(&[chain.leaf.pin(), unused()], ""));
    let error = ask(&server, &list, &ctx).await.unwrap_err();
    assert!(matches!(error, HttpError::Insecure(_)), "{error:?}");
    assert!(server.seen().is_empty());
    // the metadata service of a cloud has no TLS, and pins of other hosts are none of its business
    let other = chain.trusting(&pins(&[chain.leaf.pin(), unused()], "host = \"*.example.com\""));
    assert_eq!(ask(&server, &other, &ctx).await.unwrap(), 200);
}

#[tokio::test]
async fn versions_below_the_least_are_refused() {
    let (chain, ctx) = (Chain::new(), context());
    let config = versions(&[&rustls::version::TLS12])
        .with_no_client_auth()
        .with_single_cert(vec![chain.leaf.der.clone(), chain.middle.der.clone()], private(&chain.leaf.key))
        .unwrap();
    let server = CannedServer::tls(config, |_| Canned::status(200)).await;
    let list = pins(&[chain.leaf.pin(), unused()], "");
    assert_eq!(ask(&server, &chain.trusting(&list), &ctx).await.unwrap(), 200);
    let error = ask(&server, &chain.trusting("min_version = \"1.3\""), &ctx).await.unwrap_err();
    assert!(matches!(error, HttpError::Version { least: TlsVersion::V13, .. }), "{error:?}");
    assert!(error.to_string().contains("does not speak TLS 1.3"), "{error}");
    let DeliverError::Stop { advice, .. } = error.into() else { panic!() };
    assert!(advice.contains("tls.min_version"), "{advice}");
}

/// Takes one connection, reads what comes first, and answers it with these bytes.
async fn answering(bytes: &'static [u8]) -> (String, tokio::task::JoinHandle<()>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        stream.write_all(bytes).await.unwrap();
        // until the client goes
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    (url, task)
}

#[tokio::test]
async fn a_server_of_older_versions_alone_is_named_as_such() {
    let hello = {
        let mut hello = vec![22, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1];
        hello.resize(11 + 32, 7);
        // no session, RSA with AES-128, no compression
        hello.extend([0, 0, 0x2f, 0]);
        &*hello.leak()
    };
    // the alert "protocol version", and a greeting of TLS 1.0
    for answer in [&[21, 3, 1, 0, 2, 2, 70], hello] {
        let (url, _server) = answering(answer).await;
        let client = Client::new(&HttpConfig::default(), &context()).unwrap();
        let error = client.send(Request::new(Method::GET, url.parse().unwrap())).await.unwrap_err();
        assert!(matches!(error, HttpError::Version { least: TlsVersion::V12, .. }), "{error:?}");
        assert!(error.to_string().contains("does not speak TLS 1.2 or 1.3"), "{error}");
        assert!(matches!(error.into(), DeliverError::Stop { .. }));
    }
}

/// A server that lets clients of its own CA in.
fn mutual(chain: &Chain, list: &[&'static rustls::SupportedProtocolVersion]) -> rustls::ServerConfig {
    mutual_with(chain, list, |checks| checks)
}

fn mutual_with(
    chain: &Chain,
    list: &[&'static rustls::SupportedProtocolVersion],
    change: impl Fn(ClientCertVerifierBuilder) -> ClientCertVerifierBuilder,
) -> rustls::ServerConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(chain.root.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let checks = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    versions(list)
        .with_client_cert_verifier(change(checks).build().unwrap())
        .with_single_cert(vec![chain.leaf.der.clone(), chain.middle.der.clone()], private(&chain.leaf.key))
        .unwrap()
}

/// Under TLS 1.3 the client learns of it when it reads the answer; HTTP/2 keeps the words alone.
#[tokio::test]
async fn a_client_certificate_that_is_missing_or_refused_needs_someone() {
    let (chain, theirs, ctx) = (Chain::new(), Chain::new(), context());
    let cert = chain.file("theirs.pem", pem("CERTIFICATE", &theirs.leaf.der));
    let key = chain.file("theirs.key", pem("PRIVATE KEY", &theirs.leaf.key.serialize_der()));
    let foreign = format!("client_cert = '{}'\nclient_key = 'file:{}'", cert.display(), key.display());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for protocol in ["", "http/1.1", "h2"] {
            let mut config = mutual(&chain, &[version]);
            config.alpn_protocols.extend((!protocol.is_empty()).then(|| protocol.as_bytes().to_vec()));
            let server = CannedServer::tls(config, |_| Canned::status(200)).await;
            for more in ["", &foreign] {
                let case = format!("{version:?} {protocol} {more}");
                let error = ask(&server, &chain.trusting(more), &ctx).await.unwrap_err();
                assert!(matches!(error, HttpError::ClientCertificate { .. }), "{case}: {error:?}");
                let DeliverError::Stop { advice, .. } = error.into() else { panic!("{case}") };
                assert!(advice.contains("tls.client_cert") && advice.contains("tls.client_key"), "{advice}");
            }
            assert!(server.seen().is_empty());
        }
    }
}

#[tokio::test]
async fn a_client_shows_its_certificate_when_it_has_one() {
    let (chain, ctx) = (Chain::new(), context());
    let client = signed(params("client", false), &chain.root);
    let config = mutual(&chain, rustls::ALL_VERSIONS);
    let server = CannedServer::tls(config, |_| Canned::status(200)).await;
    let cert = chain.file("client.pem", pem("CERTIFICATE", &client.der));
    let key = chain.file("client.key", pem("PRIVATE KEY", &client.key.serialize_der()));
    let identity =
        |key: &PathBuf| format!("client_cert = '{}'\nclient_key = 'file:{}'", cert.display(), key.display());
    assert_eq!(ask(&server, &chain.trusting(&identity(&key)), &ctx).await.unwrap(), 200);
    assert!(ask(&server, &chain.trusting(""), &ctx).await.is_err());
    let foreign = chain.file("other.key", pem("PRIVATE KEY", &chain.leaf.key.serialize_der()));
    // renewed while a client runs: first the key, which does not fit yet, then the certificate
    let (later, later_key) = (chain.file("later.pem", String::new()), chain.file("later.key", String::new()));
    std::fs::copy(&cert, &later).unwrap();
    std::fs::copy(&foreign, &later_key).unwrap();
    let settings =
        format!("client_cert = '{}'\nclient_key = 'file:{}'", later.display(), later_key.display());
    let config: HttpConfig = toml::from_str(&chain.trusting(&settings)).unwrap();
    assert!(Client::new(&config, &ctx).is_err());
    let stranger = Chain::new();
    std::fs::write(&later, pem("CERTIFICATE", &stranger.leaf.der)).unwrap();
    std::fs::write(&later_key, pem("PRIVATE KEY", &stranger.leaf.key.serialize_der())).unwrap();
    let running = Client::new(&config, &ctx).unwrap();
    let get = || Request::new(Method::GET, server.url().parse().unwrap());
    assert!(running.send(get()).await.is_err(), "a certificate of another authority");
    std::fs::copy(&key, &later_key).unwrap();
    assert!(running.send(get()).await.is_err(), "half of a renewal");
    std::fs::copy(&cert, &later).unwrap();
    assert_eq!(running.send(get()).await.unwrap().status, 200);
    let config: HttpConfig = toml::from_str(&chain.trusting(&identity(&foreign))).unwrap();
    let error = Client::new(&config, &ctx).unwrap_err();
    assert!(matches!(error, HttpBuildError::Tls(TlsError::KeyUnusable)), "{error:?}");
}

/// The alert that says it is lost when the connection is closed early enough.
#[tokio::test]
async fn a_connection_that_ends_after_a_certificate_was_asked_for_tells_of_that() {
    let (chain, ctx) = (Chain::new(), context());
    let config = mutual_with(&chain, rustls::ALL_VERSIONS, ClientCertVerifierBuilder::allow_unauthenticated);
    let asking = CannedServer::tls(config, |_| Canned::Close).await;
    let silent = chain.answer(|_| Canned::Close).await;
    for (server, asked) in [(asking, true), (silent, false)] {
        let error = ask(&server, &chain.trusting(""), &ctx).await.unwrap_err();
        assert!(matches!(error, HttpError::Broken { .. }), "{error:?}");
        assert_eq!(error.to_string().contains("client certificate"), asked, "{error}");
        assert!(matches!(error.into(), DeliverError::Retry { .. }));
    }
}

#[test]
fn files_that_hold_no_certificate_are_named() {
    let chain = Chain::new();
    for text in ["", "no pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let file = chain.file("bad.pem", text.to_owned());
        let config: HttpConfig = toml::from_str(&format!("[tls]\nca_file = '{}'", file.display())).unwrap();
        let error = Client::new(&config, &context()).unwrap_err();
        assert!(error.to_string().contains("bad.pem"), "{error}");
    }
    let missing: HttpConfig = toml::from_str("[tls]\nca_file = '/no/such/ca.pem'").unwrap();
    assert!(Client::new(&missing, &context()).unwrap_err().to_string().contains("/no/such/ca.pem"));
    let alone = pins(&[unused()], "");
    let config: HttpConfig = toml::from_str(&chain.trusting(&alone)).unwrap();
    assert!(Client::new(&config, &context()).unwrap_err().to_string().contains("no backup"));
}

async fn look(server: &CannedServer, settings: &str, ctx: &HttpContext) -> Result<probe::Shown, ProbeError> {
    let config: HttpConfig = toml::from_str(settings).unwrap();
    probe(server.url().trim_start_matches("https://"), &config, ctx).await
}

#[tokio::test]
async fn a_look_at_a_server_shows_its_chain_and_whether_it_verifies() {
    let (chain, ctx) = (Chain::new(), context());
    let server = chain.serve().await;
    let seen = look(&server, &chain.trusting(""), &ctx).await.unwrap();
    let names = |links: &[pins::Link]| links.iter().map(|l| l.subject.clone()).collect::<Vec<_>>();
    assert_eq!(names(&seen.sent), ["localhost", "Middle"]);
    let verified = seen.verified.unwrap();
    assert_eq!(names(&verified), ["localhost", "Middle", "Root"]);
    let found: Vec<Pin> = verified.iter().map(|l| l.pin).collect();
    assert_eq!(found, [chain.leaf.pin(), chain.middle.pin(), chain.root.pin()]);
    assert!(verified[0].not_after.is_some() && verified[2].not_after.is_none());
    // pins that do not fit keep nobody from looking
    let wrong = chain.trusting(&pins(&[unused(), Pin::of_spki(b"another")], ""));
    assert!(look(&server, &wrong, &ctx).await.unwrap().verified.is_ok());
    assert!(ctx.pins.states().is_empty());
}

#[tokio::test]
async fn a_look_tells_why_a_chain_does_not_verify() {
    let (chain, ctx) = (Chain::new(), context());
    let server = chain.serve().await;
    let seen = look(&server, &Chain::new().trusting(""), &ctx).await.unwrap();
    assert!(seen.verified.is_err() && seen.sent.len() == 2, "{seen:?}");
    let mut old = params("localhost", false);
    old.not_after = rcgen::date_time_ymd(2024, 1, 1);
    let old = Chain::with(old);
    let server = old.serve().await;
    let why = look(&server, &old.trusting(""), &ctx).await.unwrap().verified.unwrap_err();
    assert!(why.contains("expired"), "{why}");
    drop(server);
    let config = HttpConfig::default();
    for bad in ["", "user@h", "h/path", "h?x", "h:99999"] {
        let error = probe(bad, &config, &ctx).await.unwrap_err();
        assert!(matches!(error, ProbeError::Address(_)), "{bad}: {error:?}");
    }
    let plain = CannedServer::replies([Canned::status(200)]).await;
    let address = plain.url().replace("http://", "");
    let error = probe(&address, &config, &ctx).await.unwrap_err();
    assert!(matches!(error, ProbeError::Far(_)), "{error:?}");
}

#[tokio::test]
async fn a_miss_is_news_once_and_again_when_it_ends() {
    let (chain, ctx) = (Chain::new(), context());
    let server = chain.serve().await;
    let mut news = ctx.pins.news();
    let wrong = chain.trusting(&pins(&[unused(), Pin::of_spki(b"another")], ""));
    for _ in 0..3 {
        assert!(ask(&server, &wrong, &ctx).await.is_err());
    }
    assert_eq!(*news.borrow_and_update(), 1);
    let right = chain.trusting(&pins(&[chain.leaf.pin(), unused()], ""));
    assert_eq!(ask(&server, &right, &ctx).await.unwrap(), 200);
    assert_eq!(*news.borrow_and_update(), 2);
    assert_eq!(ctx.pins.states()["localhost"].missed, 3);
}
