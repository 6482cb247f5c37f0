//! Against the storage emulator, at `TIDEGATE_AZURITE=http://127.0.0.1:PORT`.

use std::sync::atomic::AtomicU32;

use super::*;
use crate::holdings::Listing;
use crate::http::{Method, Request};
use crate::testing::{Mishap, UnreliableSink};

/// The emulator's address. Without one, a test says so and passes, but not in CI.
///
/// # Panics
/// When `CI=true` and there is none.
fn emulator() -> Option<String> {
    if let Ok(url) = std::env::var("TIDEGATE_AZURITE") {
        return Some(url);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "TIDEGATE_AZURITE is not set");
    eprintln!("SKIPPED: no storage emulator; set TIDEGATE_AZURITE=http://127.0.0.1:PORT");
    None
}

/// A fresh container.
struct Container {
    config: BlobConfig,
}

impl Container {
    fn new(url: &str, settings: &str) -> Container {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let text = format!(
            "container = \"t{time:x}-{n}\"\nconnection_string = \"UseDevelopmentStorage=true\"\n\
             endpoint = \"{url}/devstoreaccount1\"\ncreate_container = true\n{settings}"
        );
        Container { config: toml::from_str(&text).unwrap() }
    }

    fn sink(&self) -> BlobSink {
        BlobSink::new(&SinkId::new("blob"), &self.config, &HttpContext::default()).unwrap()
    }

    async fn blobs(&self) -> Vec<(String, Vec<u8>)> {
        let api = self.sink().api;
        let mut url = api.target.container.clone();
        let mut names = Vec::new();
        let mut marker = String::new();
        loop {
            url.set_query(Some("restype=container&comp=list"));
            url.query_pairs_mut().append_pair("marker", &marker);
            let reply = api.send(Request::new(Method::GET, url.clone())).await.unwrap();
            if reply.status == 404 {
                return Vec::new();
            }
            let xml = String::from_utf8(reply.body.bytes().to_vec()).unwrap();
            names.extend(xml.split("<Name>").skip(1).map(|x| x.split("</Name>").next().unwrap().to_owned()));
            marker = xml
                .split_once("<NextMarker>")
                .and_then(|(_, rest)| rest.split_once("</NextMarker>"))
                .map(|(m, _)| m.to_owned())
                .unwrap_or_default();
            if marker.is_empty() {
                break;
            }
        }
        let mut blobs = Vec::new();
        for name in names {
            let reply = api.send(Request::new(Method::GET, api.target.blob(&name))).await.unwrap();
            assert_eq!(reply.status, 200, "{name}");
            blobs.push((name, reply.body.bytes().to_vec()));
        }
        blobs
    }
}

impl FarSide for Container {
    fn open(&self) -> Arc<dyn Sink> {
        Arc::new(self.sink())
    }

    fn held(&self) -> BoxFuture<'_, Vec<Seq>> {
        Box::pin(async { self.blobs().await.iter().flat_map(|(_, bytes)| seqs(bytes)).collect() })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_in_the_emulator() {
    let Some(url) = emulator() else { return };
    contract::run(&Container::new(&url, "")).await;
    contract::run(&Container::new(&url, "layout = \"l={level}/p={provider}\"")).await;
    contract::run(&Container::new(&url, "single_put_max = 1024\nblock_size = 1024")).await;
    contract::run(&Container::new(&url, "profile = \"azure-stack-hub\"")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_lost_replies_leave_each_event_once_in_the_emulator() {
    let Some(url) = emulator() else { return };
    let container = Container::new(&url, "layout = \"\"");
    let lost = (0..400).map(|n| if n % 2 == 0 { Mishap::LostReply } else { Mishap::None });
    let sink = UnreliableSink::new(container.open(), lost);
    for n in 0..200 {
        let batch = batch(n * 5 + 1, n * 5 + 5);
        let error = sink.deliver(&batch).await.unwrap_err();
        assert!(matches!(error, DeliverError::Retry { .. }), "{error:?}");
        let done = sink.deliver(&batch).await.unwrap();
        assert!(done.objects[0].found);
    }
    assert_eq!(sink.left(), 0);
    let mut held = container.held().await;
    held.sort();
    assert_eq!(held, (1..=1000).map(Seq).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_batch_replaces_its_blob_in_the_emulator() {
    let Some(url) = emulator() else { return };
    for settings in ["layout = \"\"", "layout = \"\"\nsingle_put_max = 1024\nblock_size = 1024"] {
        let container = Container::new(&url, settings);
        let sink = container.sink();
        sink.deliver(&batch(1, 40)).await.unwrap();
        sink.deliver(&batch_of(1, 40, |n| n % 2 == 0)).await.unwrap();
        assert_eq!(container.held().await, (1..=20).map(|n| Seq(2 * n)).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_and_a_missing_container_are_told_by_the_emulator() {
    let Some(url) = emulator() else { return };
    let container = Container::new(&url, "");
    let mut wrong = container.config.clone();
    wrong.connection_string = Some(crate::secret::SecretRef::parse(
        "AccountName=devstoreaccount1;AccountKey=d3Jvbmc=;DefaultEndpointsProtocol=http",
    ));
    let sink = BlobSink::new(&SinkId::new("blob"), &wrong, &HttpContext::default()).unwrap();
    let error = sink.deliver(&batch(1, 2)).await.unwrap_err();
    let DeliverError::Stop { advice, .. } = &error else { panic!("{error:?}") };
    assert!(advice.contains("key") && !format!("{error:?}").contains("d3Jvbmc"), "{error:?}");
    let mut missing = container.config.clone();
    missing.create_container = false;
    let sink = BlobSink::new(&SinkId::new("blob"), &missing, &HttpContext::default()).unwrap();
    for error in [sink.deliver(&batch(1, 2)).await.unwrap_err(), sink.check().await.unwrap_err()] {
        let DeliverError::Stop { advice, .. } = &error else { panic!("{error:?}") };
        assert!(advice.contains("create_container"), "{error:?}");
    }
    container.sink().check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_listed_with_who_wrote_what_in_the_emulator() {
    let Some(url) = emulator() else { return };
    let container = Container::new(&url, "compression = \"none\"");
    let sink = container.sink();
    let list = async |what: &Listing| {
        let mut found = Vec::new();
        sink.list(what, &mut |held| found.push(held)).await.map(|()| found)
    };
    let error = list(&Listing::default()).await.unwrap_err().to_string();
    assert!(error.contains("held until someone acts"), "no container yet: {error}");
    let mut delivered = Vec::new();
    for n in 0..3 {
        delivered.extend(sink.deliver(&batch(n * 50 + 1, n * 50 + 50)).await.unwrap().objects);
    }
    let mut of = Listing { of: Some(("host-1".to_owned(), "events".to_owned())), read: true };
    let mut found = list(&of).await.unwrap();
    found.sort_by(|a, b| a.destination.cmp(&b.destination));
    delivered.sort_by(|a, b| a.destination.cmp(&b.destination));
    assert_eq!(found.len(), delivered.len());
    for (held, object) in found.iter().zip(&delivered) {
        assert_eq!(held.destination, object.destination);
        assert_eq!(held.destination, format!("{}{}", sink.base(), held.name));
        assert_eq!((held.len, held.sha256), (object.len, Some(object.sha256)));
        let (host, stream, _) = held.writer.as_ref().unwrap();
        assert_eq!((host.as_str(), stream.as_str()), ("host-1", "events"));
    }
    of.of = Some(("host-2".to_owned(), "events".to_owned()));
    assert_eq!(list(&of).await.unwrap(), []);
}
