//! What is taken, what is refused, and when is asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use tidegate_proto::level::TelemetryLevel;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Document, Fetch, FetchError, Fetched, Outcome, PublicKey, Settings, SettingsError, Store, run,
    signed_bytes,
};
use crate::audit::What;
use crate::gate::level::{Ceilings, Decider};

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn keys() -> Vec<PublicKey> {
    vec![PublicKey::new("k1", &STANDARD.encode(pair(1).public_key())).unwrap()]
}

fn signed(pair: &Ed25519KeyPair, document: &str) -> Vec<u8> {
    let signature = STANDARD.encode(pair.sign(&signed_bytes(document.as_bytes())));
    let document = STANDARD.encode(document);
    serde_json::json!({ "document": document, "key": "k1", "signature": signature }).to_string().into_bytes()
}

fn reply(document: &str) -> Result<Fetched, FetchError> {
    Ok(Fetched::Document { bytes: signed(&pair(1), document), etag: Some("\"e\"".to_owned()) })
}

fn refusal(outcome: Outcome) -> (SettingsError, bool) {
    match outcome {
        Outcome::Refused(r) => (r.error, r.audit.is_some()),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_signed_document_is_taken_kept_and_taken_again_at_the_next_start() {
    let (mut settings, none) = Settings::open(keys(), None);
    assert!(none.is_none() && settings.document().is_none() && settings.etag().is_none());
    let text = r#"{"format": 1, "version": 3, "ceiling": "Basic", "refresh_seconds": 7200,
        "off": [{"provider": "Contoso.*", "event": "*Trace*"}], "sampling": [{"provider": "Noisy", "keep": 0.1}],
        "tenants_off": ["abc"]}"#;
    let Outcome::Changed { document, keep, audit } = settings.reply(reply(text)) else { panic!() };
    assert_eq!(document.version(), 3);
    assert!(matches!(audit, What::Settings { version: 3, .. }));
    let mut ceilings = Ceilings { config: Some(TelemetryLevel::Full), ..Ceilings::default() };
    document.set_ceiling(&mut ceilings);
    assert_eq!(
        (ceilings.in_force().level, ceilings.in_force().decided_by),
        (TelemetryLevel::Basic, Decider::Remote)
    );
    assert!(document.is_off("Contoso.X", "PacketTrace") && !document.is_off("Contoso.X", "Start"));
    assert!(document.is_tenant_off("abc") && !document.is_tenant_off("abd"));
    assert_eq!(settings.reply(reply(text)), Outcome::Same);
    assert_eq!(settings.reply(Ok(Fetched::NotModified)), Outcome::Same);

    let (again, none) = Settings::open(keys(), Some(&keep));
    assert_eq!((none, again.document(), again.etag()), (None, Some(&document), Some("\"e\"")));
    assert_eq!(again.next_poll(0.5), Duration::ZERO, "it asks at once");
}

#[test]
fn a_ceiling_only_ever_lowers() {
    let (mut settings, _) = Settings::open(keys(), None);
    let Outcome::Changed { document, .. } = settings.reply(reply(r#"{"format":1,"version":1,"ceiling":3}"#))
    else {
        panic!()
    };
    let mut ceilings = Ceilings { config: Some(TelemetryLevel::Basic), ..Ceilings::default() };
    document.set_ceiling(&mut ceilings);
    assert_eq!(ceilings.in_force().level, TelemetryLevel::Basic);
}

#[test]
fn a_wrong_signature_is_refused_and_told_once() {
    let (mut settings, _) = Settings::open(keys(), None);
    settings.reply(reply(r#"{"format":1,"version":1}"#));
    let before = settings.document().cloned();
    let forged =
        || Ok(Fetched::Document { bytes: signed(&pair(2), r#"{"format":1,"version":2}"#), etag: None });
    assert_eq!(refusal(settings.reply(forged())), (SettingsError::Signature("k1".to_owned()), true));
    assert_eq!(refusal(settings.reply(forged())), (SettingsError::Signature("k1".to_owned()), false));
    // each single bit of document and signature counts
    let good = signed(&pair(1), r#"{"format":1,"version":2}"#);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let outcome = settings.reply(Ok(Fetched::Document { bytes: bad.clone(), etag: None }));
        assert!(matches!(outcome, Outcome::Refused(_)), "{}", String::from_utf8_lossy(&bad));
    }
    assert_eq!(settings.document().cloned(), before);
    // a signature of the bare document is for something else
    let document = br#"{"format":1,"version":2}"#;
    let bare = serde_json::json!({ "document": STANDARD.encode(document), "key": "k1", "signature": STANDARD.encode(pair(1).sign(document)) });
    let bytes = bare.to_string().into_bytes();
    assert!(matches!(
        refusal(settings.reply(Ok(Fetched::Document { bytes, etag: None }))).0,
        SettingsError::Signature(_)
    ));
}

#[test]
fn an_older_version_is_refused_even_after_a_restart() {
    let (mut settings, _) = Settings::open(keys(), None);
    let Outcome::Changed { keep, .. } = settings.reply(reply(r#"{"format":1,"version":5}"#)) else {
        panic!()
    };
    let older = r#"{"format":1,"version":4,"ceiling":3}"#;
    assert_eq!(refusal(settings.reply(reply(older))).0, SettingsError::Older { offered: 4, seen: 5 });
    let (mut again, _) = Settings::open(keys(), Some(&keep));
    assert_eq!(refusal(again.reply(reply(older))).0, SettingsError::Older { offered: 4, seen: 5 });
    let other = r#"{"format":1,"version":5,"ceiling":1}"#;
    assert_eq!(refusal(again.reply(reply(other))).0, SettingsError::Older { offered: 5, seen: 5 });
}

#[test]
fn a_broken_document_is_named_with_line_and_key_and_the_old_one_stays() {
    let (mut settings, _) = Settings::open(keys(), None);
    settings.reply(reply(r#"{"format":1,"version":1,"ceiling":1}"#));
    for (text, line, key, says) in [
        ("{\"format\":1,\n\"version\":2,\n\"ceiling\": 7}", 3, "ceiling", "telemetry level"),
        ("{\"format\":1,\n\"version\":2,\n\"cieling\": 1}", 3, "cieling", "unknown field"),
        ("{\"format\":2,\"version\":2}", 1, "format", "format 1 only"),
        ("{\"format\":1,\n\"version\":0}", 2, "version", "count from 1"),
        ("{\"format\":1,\"version\":2,\n\"off\":[{}]}", 2, "off", "provider or an event"),
        ("{\"format\":1,\"version\":2,\n\"sampling\":[{\"keep\": 1.5}]}", 2, "keep", "between 0 and 1"),
        ("{\"format\":1", 1, "format", "EOF"),
        ("{\"version\":2}", 1, "version", "missing field"),
    ] {
        let error = refusal(settings.reply(reply(text))).0;
        let SettingsError::Document { line: l, key: k, problem } = &error else { panic!("{error}") };
        assert!((*l, k.as_str()) == (line, key) && problem.contains(says), "{text}: {error}");
    }
    assert_eq!(settings.document().unwrap().ceiling(), Some(TelemetryLevel::Basic));
    let many = format!(r#"{{"format":1,"version":2,"tenants_off":[{}"x"]}}"#, "\"x\",".repeat(256));
    assert!(refusal(settings.reply(reply(&many))).0.to_string().contains("at most 256"));
    let huge = vec![b' '; 3 * Document::MAX_LEN];
    let outcome = settings.reply(Ok(Fetched::Document { bytes: huge, etag: None }));
    assert!(matches!(refusal(outcome).0, SettingsError::Envelope(_)));
}

#[test]
fn what_was_kept_is_verified_again() {
    let (mut settings, _) = Settings::open(keys(), None);
    let Outcome::Changed { keep, .. } = settings.reply(reply(r#"{"format":1,"version":9}"#)) else {
        panic!()
    };
    let other = vec![PublicKey::new("k1", &STANDARD.encode(pair(3).public_key())).unwrap()];
    let (mut changed, refused) = Settings::open(other, Some(&keep));
    assert!(matches!(refused.unwrap().error, SettingsError::Signature(_)));
    assert!(changed.document().is_none() && changed.etag().is_none());
    // the version seen still counts
    let bytes = signed(&pair(3), r#"{"format":1,"version":8}"#);
    let outcome = changed.reply(Ok(Fetched::Document { bytes, etag: None }));
    assert_eq!(refusal(outcome).0, SettingsError::Older { offered: 8, seen: 9 });
    assert!(Settings::open(keys(), Some(b"\0")).1.is_some());
    let (gone, refused) = Settings::open(Vec::new(), Some(&keep));
    assert_eq!(refused.unwrap().error, SettingsError::UnknownKey("k1".to_owned()));
    assert!(gone.document().is_none());
}

#[test]
fn keys_are_read_bare_and_as_openssl_writes_them() {
    let public = pair(1);
    let der = [
        &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00],
        public.public_key().as_ref(),
    ]
    .concat();
    assert_eq!(PublicKey::new("k1", &STANDARD.encode(der)).unwrap(), keys()[0]);
    assert!(PublicKey::new("k1", "AAAA").unwrap_err().to_string().contains("32 bytes"));
    assert!(PublicKey::new("", "").is_err() && PublicKey::new("k1", "not base64!").is_err());
}

#[test]
fn failures_are_asked_after_a_minute_and_then_ever_later() {
    let (mut settings, _) = Settings::open(keys(), None);
    settings.reply(reply(r#"{"format":1,"version":1,"refresh_seconds":600}"#));
    assert_eq!(settings.next_poll(0.5), Duration::from_secs(600));
    assert_eq!(
        (settings.next_poll(0.0), settings.next_poll(1.0)),
        (Duration::from_secs(540), Duration::from_secs(660))
    );
    let waits: Vec<u64> = (0..6)
        .map(|_| {
            settings.reply(Err(FetchError("no route".to_owned())));
            settings.next_poll(0.5).as_secs()
        })
        .collect();
    assert_eq!(waits, [60, 120, 240, 480, 600, 600]);
    settings.reply(Ok(Fetched::NotModified));
    assert_eq!(settings.next_poll(0.5), Duration::from_secs(600));
    let mut hasty = Settings::open(keys(), None).0;
    hasty.reply(reply(r#"{"format":1,"version":1,"refresh_seconds":0}"#));
    assert_eq!(hasty.next_poll(0.5), Duration::from_secs(60));
}

/// Gives replies in order and notes what it was asked with.
#[derive(Default)]
struct Script {
    replies: Mutex<VecDeque<Result<Fetched, FetchError>>>,
    asked: Mutex<Vec<(Option<String>, tokio::time::Instant)>>,
    kept: Mutex<Vec<Vec<u8>>>,
    audits: Mutex<Vec<What>>,
}

impl Fetch for Script {
    fn fetch<'a>(&'a self, etag: Option<&'a str>) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        self.asked.lock().unwrap().push((etag.map(str::to_owned), tokio::time::Instant::now()));
        let next = self.replies.lock().unwrap().pop_front();
        Box::pin(async move { next.unwrap_or(Ok(Fetched::NotModified)) })
    }
}

impl Store for Script {
    fn keep(&self, bytes: &[u8]) -> Result<(), String> {
        self.kept.lock().unwrap().push(bytes.to_vec());
        Ok(())
    }

    fn audit(&self, what: What) {
        self.audits.lock().unwrap().push(what);
    }
}

#[tokio::test(start_paused = true)]
async fn polling_asks_with_the_validator_and_publishes_what_is_in_force() {
    let script = Arc::new(Script::default());
    *script.replies.lock().unwrap() = VecDeque::from([
        Err(FetchError("down".to_owned())),
        reply(r#"{"format":1,"version":1,"ceiling":2}"#),
        Ok(Fetched::Document { bytes: b"{}".to_vec(), etag: None }),
        reply(r#"{"format":1,"version":2,"ceiling":1}"#),
    ]);
    let (tell, mut told) = watch::channel(None);
    let stop = CancellationToken::new();
    let task = tokio::spawn({
        let (script, stop) = (Arc::clone(&script), stop.clone());
        async move {
            run(
                Settings::open(keys(), None).0,
                &*script,
                &*script,
                &tell,
                || 0.5,
                &tokio::sync::Notify::new(),
                stop,
            )
            .await
        }
    });
    let begin = tokio::time::Instant::now();
    let version = told.wait_for(|d| d.as_ref().is_some_and(|d| d.version() == 2)).await.map(|d| d.clone());
    assert_eq!(version.unwrap().unwrap().ceiling(), Some(TelemetryLevel::Basic));
    stop.cancel();
    task.await.unwrap();
    let asked = script.asked.lock().unwrap();
    let seconds: Vec<u64> = asked.iter().map(|(_, at)| (*at - begin).as_secs()).collect();
    assert_eq!(seconds, [0, 60, 3660, 7260]);
    let etags: Vec<Option<&str>> = asked.iter().map(|(e, _)| e.as_deref()).collect();
    assert_eq!(etags, [None, None, Some("\"e\""), None], "after a refusal the whole document is asked for");
    assert_eq!(script.kept.lock().unwrap().len(), 2);
    let audits = script.audits.lock().unwrap();
    assert!(matches!(
        audits.as_slice(),
        [What::Settings { version: 1, .. }, What::SettingsRefused { .. }, What::Settings { version: 2, .. }]
    ));
}
