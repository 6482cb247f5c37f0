use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tidegate_proto::ids::Seq;

use super::*;
use crate::testing::contract::{self, FarSide};
use crate::testing::{Canned, CannedServer, Seen, batch, batch_of};

mod azurite;
mod echoes;
mod refusals;
mod replies;
mod settings;
mod tokens;

pub(super) const KEY: &str = "c2VjcmV0a2V5";

/// A blob of the fake service.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored {
    pub bytes: Vec<u8>,
    pub headers: Vec<(String, String)>,
    pub etag: String,
}

#[derive(Debug, Default)]
pub(super) struct Account {
    pub blobs: BTreeMap<String, Stored>,
    pub blocks: BTreeMap<(String, String), Vec<u8>>,
    pub immutable: bool,
    /// What to do with the next requests instead of answering; `true` = carry it out first.
    pub lose: Vec<bool>,
    pub writes: u64,
    pub newest_version: Option<&'static str>,
}

pub(super) fn error_reply(status: u16, code: &str) -> Canned {
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no.\nRequestId:1</Message></Error>"
    );
    Canned::status(status).with("x-ms-error-code", code).saying(body)
}

/// The answer to a blob that was written.
pub(super) fn created() -> Canned {
    Canned::status(201).with("etag", "\"0x8DEADBEEF\"")
}

impl Account {
    fn answer(&mut self, seen: &Seen) -> Canned {
        match self.lose.pop() {
            Some(true) => {
                self.carry_out(seen);
                Canned::Close
            }
            Some(false) => Canned::Close,
            None => self.carry_out(seen),
        }
    }

    fn carry_out(&mut self, seen: &Seen) -> Canned {
        let version = seen.header("x-ms-version").unwrap();
        if self.newest_version.is_some_and(|newest| version > newest) {
            return error_reply(400, "InvalidHeaderValue");
        }
        let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
        let md5 = |bytes: &[u8]| {
            use base64::Engine as _;
            use md5::Digest as _;
            base64::engine::general_purpose::STANDARD.encode(md5::Md5::digest(bytes))
        };
        if seen.header("content-md5").is_some_and(|sum| sum != md5(&seen.body)) {
            return error_reply(400, "Md5Mismatch");
        }
        let value = |name: &str| {
            let url: crate::http::Url = format!("http://h{}", seen.target).parse().unwrap();
            url.query_pairs().find(|(k, _)| k == name).map(|(_, v)| v.into_owned())
        };
        if seen.method == "HEAD" {
            let Some(blob) = self.blobs.get(path) else { return error_reply(404, "BlobNotFound") };
            let mut reply = Canned::status(200)
                .with("etag", &blob.etag)
                .with("x-ms-blob-type", "BlockBlob")
                .with("content-length", &blob.bytes.len().to_string());
            for (name, value) in &blob.headers {
                reply = reply.with(name, value);
            }
            return reply;
        }
        assert_eq!(seen.method, "PUT");
        if query.contains("comp=blocklist") {
            let list = String::from_utf8(seen.body.to_vec()).unwrap();
            let mut bytes = Vec::new();
            for id in list.split("<Uncommitted>").skip(1) {
                let id = id.split("</").next().unwrap().to_owned();
                let Some(block) = self.blocks.get(&(path.to_owned(), id)) else {
                    return error_reply(400, "InvalidBlockList");
                };
                bytes.extend_from_slice(block);
            }
            assert_eq!(seen.header("x-ms-blob-content-md5"), Some(&*md5(&bytes)));
            return self.put(path, bytes, seen);
        }
        if let Some(id) = value("blockid") {
            self.blocks.insert((path.to_owned(), id), seen.body.to_vec());
            return Canned::status(201);
        }
        if query.contains("restype=container") {
            return Canned::status(201);
        }
        assert_eq!(seen.header("x-ms-blob-type"), Some("BlockBlob"));
        self.put(path, seen.body.to_vec(), seen)
    }

    fn put(&mut self, path: &str, bytes: Vec<u8>, seen: &Seen) -> Canned {
        let there = self.blobs.get(path);
        if seen.header("if-none-match") == Some("*") && there.is_some() {
            return error_reply(409, "BlobAlreadyExists");
        }
        if let Some(etag) = seen.header("if-match")
            && there.is_none_or(|b| b.etag != etag)
        {
            return error_reply(412, "ConditionNotMet");
        }
        if there.is_some() && self.immutable {
            return error_reply(409, "BlobImmutableDueToPolicy");
        }
        self.writes += 1;
        let etag = format!("\"0x{}\"", self.writes);
        let headers = seen.headers.iter().filter(|(k, _)| k.starts_with("x-ms-meta-")).cloned().collect();
        self.blobs.insert(path.to_owned(), Stored { bytes, headers, etag: etag.clone() });
        Canned::status(201).with("etag", &etag)
    }
}

/// The service in memory.
pub(super) struct Fake {
    pub server: CannedServer,
    account: Arc<Mutex<Account>>,
    settings: &'static str,
}

impl Fake {
    pub async fn new(settings: &'static str) -> Fake {
        let account = Arc::new(Mutex::new(Account::default()));
        let shared = Arc::clone(&account);
        let server = CannedServer::handler(move |seen| shared.lock().unwrap().answer(seen)).await;
        Fake { server, account, settings }
    }

    pub fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap()
    }

    pub fn sink(&self) -> BlobSink {
        sink(&self.server.url(), self.settings)
    }
}

pub(super) fn sink(endpoint: &str, settings: &str) -> BlobSink {
    let text = format!(
        "container = \"logs\"\naccount = \"acct\"\nkey = \"{KEY}\"\nendpoint = \"{endpoint}\"\npath_style = true\n{settings}"
    );
    let config: BlobConfig = toml::from_str(&text).unwrap();
    BlobSink::new(&SinkId::new("blob"), &config, &HttpContext::default()).unwrap()
}

pub(super) fn seqs(bytes: &[u8]) -> Vec<Seq> {
    let text = zstd::decode_all(bytes).unwrap();
    let lines = text.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    lines
        .map(|l| Seq(serde_json::from_slice::<serde_json::Value>(l).unwrap()["seq"].as_u64().unwrap()))
        .collect()
}

impl FarSide for Fake {
    fn open(&self) -> Arc<dyn Sink> {
        Arc::new(self.sink())
    }

    fn held(&self) -> BoxFuture<'_, Vec<Seq>> {
        Box::pin(async { self.account().blobs.values().flat_map(|b| seqs(&b.bytes)).collect() })
    }
}

#[tokio::test]
async fn the_contract_holds() {
    contract::run(&Fake::new("").await).await;
    contract::run(&Fake::new("layout = \"l={level}/p={provider}/{date}/{hour}\"").await).await;
    // in blocks
    contract::run(&Fake::new("single_put_max = 1024\nblock_size = 1024").await).await;
}

/// Delivers batches of eight events; of each batch `losses` requests or replies are lost.
async fn lossy(settings: &'static str, batches: u64, losses: u64, seed: u64) -> (u64, Vec<Seq>) {
    let fake = Fake::new(settings).await;
    let mut state = seed;
    let mut failed = 0;
    for n in 0..batches {
        let (sink, batch) = (fake.sink(), batch(n * 8 + 1, n * 8 + 8));
        for _ in 0..losses {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            fake.account().lose.push(state >> 40 & 1 == 0);
        }
        loop {
            match sink.deliver(&batch).await {
                Ok(_) => break,
                Err(error) => {
                    assert!(matches!(error, DeliverError::Retry { .. }), "seed {seed}: {error:?}");
                    failed += 1;
                }
            }
        }
    }
    let mut held = fake.held().await;
    held.sort();
    (failed, held)
}

#[tokio::test]
async fn four_hundred_lost_requests_and_replies_leave_each_event_once() {
    let (failed, held) = lossy("layout = \"\"", 100, 4, 7).await;
    assert_eq!((failed, held), (400, (1..=800).map(Seq).collect::<Vec<_>>()));
}

#[tokio::test]
async fn losses_among_several_blobs_of_a_batch_leave_each_event_once() {
    // attempts given up here may still be carried out there, between those of the next
    let (failed, held) = lossy("layout = \"{level}\"", 50, 6, 8).await;
    assert!(failed >= 50, "{failed}");
    assert_eq!(held, (1..=400).map(Seq).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_repeat_after_a_lowered_level_replaces_the_blob_in_one_step() {
    let fake = Fake::new("layout = \"\"").await;
    let sink = fake.sink();
    sink.deliver(&batch(1, 40)).await.unwrap();
    let done = sink.deliver(&batch_of(1, 40, |n| n % 4 < 2)).await.unwrap();
    assert!(!done.objects[0].found);
    let held = fake.held().await;
    assert_eq!((held.len(), fake.account().blobs.len()), (20, 1));
    assert!(held.iter().all(|s| s.0 % 4 < 2));
    // and back, as after a level that was raised again
    sink.deliver(&batch(1, 40)).await.unwrap();
    assert_eq!(fake.held().await.len(), 40);
}

#[tokio::test]
async fn where_a_policy_forbids_changes_more_events_are_enough_and_fewer_are_not() {
    let fake = Fake::new("layout = \"\"").await;
    let sink = fake.sink();
    let first = sink.deliver(&batch(1, 40)).await.unwrap();
    fake.account().immutable = true;
    let again = sink.deliver(&batch_of(1, 40, |n| n > 20)).await.unwrap();
    assert_eq!((again.objects[0].found, again.objects[0].events), (true, 40));
    assert_eq!(
        (again.objects[0].sha256, again.objects[0].len),
        (first.objects[0].sha256, first.objects[0].len)
    );
    fake.account().immutable = false;
    sink.deliver(&batch_of(41, 80, |n| n > 60)).await.unwrap();
    fake.account().immutable = true;
    let error = sink.deliver(&batch(41, 80)).await.unwrap_err();
    assert!(matches!(error, DeliverError::Blocked { .. }), "{error:?}");
}

#[tokio::test]
async fn a_foreign_blob_of_the_name_is_left_alone_and_held() {
    let fake = Fake::new("layout = \"\"").await;
    let sink = fake.sink();
    sink.deliver(&batch(1, 4)).await.unwrap();
    {
        let mut account = fake.account();
        let blob = account.blobs.values_mut().next().unwrap();
        (blob.bytes, blob.headers) = (b"theirs".to_vec(), Vec::new());
    }
    let error = sink.deliver(&batch(1, 4)).await.unwrap_err();
    let DeliverError::Blocked { advice, .. } = &error else { panic!("{error:?}") };
    assert!(advice.contains("move it away"), "{advice}");
    assert_eq!(fake.account().blobs.values().next().unwrap().bytes, b"theirs");
}

#[tokio::test]
async fn a_blob_whose_length_belies_its_metadata_is_written_again() {
    let fake = Fake::new("layout = \"\"").await;
    let sink = fake.sink();
    sink.deliver(&batch(1, 4)).await.unwrap();
    fake.account().blobs.values_mut().next().unwrap().bytes.truncate(5);
    sink.deliver(&batch(1, 4)).await.unwrap();
    assert_eq!(fake.held().await.len(), 4);
}

#[tokio::test]
async fn a_large_blob_goes_in_blocks_and_is_found_again() {
    let fake = Fake::new("layout = \"\"\nsingle_put_max = \"2KiB\"\nblock_size = \"1KiB\"").await;
    let sink = fake.sink();
    let done = sink.deliver(&batch(1, 500)).await.unwrap();
    assert!(fake.account().blocks.len() > 5);
    assert_eq!(fake.held().await.len(), 500);
    assert_eq!(done.objects[0].len, fake.account().blobs.values().next().unwrap().bytes.len() as u64);
    assert!(sink.deliver(&batch(1, 500)).await.unwrap().objects[0].found);
}

#[tokio::test]
async fn a_receipt_can_be_checked_with_sha256sum() {
    use sha2::Digest as _;
    let fake = Fake::new("").await;
    let done = fake.sink().deliver(&batch(1, 300)).await.unwrap();
    let account = fake.account();
    assert_eq!(account.blobs.len(), done.objects.len());
    assert_eq!(done.bytes, done.objects.iter().map(|o| o.len).sum::<u64>());
    for object in &done.objects {
        let path = object.destination.strip_prefix(&fake.server.url()).unwrap();
        let blob = &account.blobs[path];
        assert_eq!(object.sha256, <[u8; 32]>::from(sha2::Sha256::digest(&blob.bytes)));
        assert_eq!(object.events as usize, seqs(&blob.bytes).len());
        assert_eq!(format!("\"{}\"", object.server_id), blob.etag);
    }
}
