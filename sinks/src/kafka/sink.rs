//! One attempt: records out, offsets back.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rskafka::BackoffConfig;
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder, Credentials, OauthBearerCredentials, SaslConfig};
use rskafka::record::Record;
use sha2::{Digest as _, Sha256};
use tidegate_proto::batch::EventRef;
use tidegate_proto::ids::{Seq, SinkId};
use tidegate_proto::json;
use tidegate_proto::wire::{BlockBuilder, Unchanged};

use super::config::{KafkaAuth, KafkaCompression, KafkaConfig, KafkaSpread, KafkaValue};
use super::error::{Said, understood};
use crate::http::HttpContext;
use crate::secret::SecretRef;
use crate::{BatchLimits, BoxError, BoxFuture, DeliverError, Delivered, Object, Origin, Sink, SinkBatch};

/// Most bytes of a broker's answer.
const ANSWER_MAX: usize = 16 << 20;

/// What a sink is made of.
pub(super) struct Parts {
    pub id: SinkId,
    pub config: KafkaConfig,
    pub ctx: HttpContext,
    pub limits: BatchLimits,
}

/// The topic as the brokers have told of it.
struct Topic {
    client: Client,
    partitions: Vec<i32>,
    open: BTreeMap<i32, Arc<PartitionClient>>,
}

/// The sink. See the [module](super) for what it promises.
pub struct KafkaSink {
    parts: Parts,
    topic: tokio::sync::Mutex<Option<Topic>>,
    /// The next attempt makes its connections anew.
    anew: AtomicBool,
}

/// An attempt under way. Dropped in the middle (it took too long), it gives its connections up:
/// the client waits for an answer for as long as TCP does, and a connection may be dead in silence.
struct Attempt<'s>(Option<&'s AtomicBool>);

impl Attempt<'_> {
    fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(anew) = self.0 {
            anew.store(true, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for KafkaSink {
    // the client's own form may show credentials
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSink").field("config", &self.parts.config).finish_non_exhaustive()
    }
}

fn secret(reference: &SecretRef) -> Result<String, DeliverError> {
    match reference.resolve() {
        Ok(secret) => Ok(secret.expose().clone()),
        Err(e) => {
            let advice = "make the secret of this sink's auth readable".to_owned();
            Err(DeliverError::Stop { after: None, advice, source: Box::new(e) })
        }
    }
}

fn sasl(auth: &KafkaAuth) -> Result<SaslConfig, DeliverError> {
    let credentials = |user: &String, password| -> Result<Credentials, DeliverError> {
        Ok(Credentials::new(user.clone(), secret(password)?))
    };
    Ok(match auth {
        KafkaAuth::Plain { user, password } => SaslConfig::Plain(credentials(user, password)?),
        KafkaAuth::ScramSha256 { user, password } => SaslConfig::ScramSha256(credentials(user, password)?),
        KafkaAuth::ScramSha512 { user, password } => SaslConfig::ScramSha512(credentials(user, password)?),
        KafkaAuth::Oauthbearer { token } => {
            let token = token.clone();
            SaslConfig::Oauthbearer(OauthBearerCredentials {
                callback: Arc::new(move || {
                    let token = token.resolve().map(|t| t.expose().clone());
                    Box::pin(async move { token.map_err(|e| Box::new(e) as BoxError) })
                }),
                authz_id: None,
                bearer_kvs: Vec::new(),
            })
        }
    })
}

/// Which of `count` partitions: FNV-1a of what is to stay together, the same in every release.
pub(super) fn place(origin: &Origin, batch: Option<Seq>, count: usize) -> usize {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for b in bytes {
            hash = (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    add(origin.host.as_bytes());
    add(b"/");
    add(origin.stream.as_bytes());
    if let Some(first) = batch {
        add(&first.0.to_le_bytes());
    }
    // the high half: the low bits of this hash of short texts repeat
    usize::try_from(hash >> 32).unwrap_or(0) % count.max(1)
}

impl KafkaSink {
    pub(super) fn new(parts: Parts) -> KafkaSink {
        KafkaSink { parts, topic: tokio::sync::Mutex::default(), anew: AtomicBool::new(false) }
    }

    async fn connect(&self) -> Result<Topic, DeliverError> {
        let config = &self.parts.config;
        // the dispatcher tries again; the client only bridges a change of leader
        let backoff = BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_millis(500),
            base: 2.0,
            deadline: Some(Duration::from_secs(2)),
        };
        let mut builder = ClientBuilder::new(config.brokers.clone())
            .client_id("tidegate")
            .max_message_size(ANSWER_MAX)
            .backoff_config(backoff);
        if let Some(tls) = &config.tls {
            let tls = tls.build_plain(&self.parts.ctx).map_err(|e| DeliverError::Stop {
                after: None,
                advice: "mend the CA, certificate or key of this sink's tls".to_owned(),
                source: Box::new(e),
            })?;
            builder = builder.tls_config(Arc::new(tls));
        }
        if let Some(auth) = &config.auth {
            builder = builder.sasl_config(sasl(auth)?);
        }
        let client = builder.build().await.map_err(|e| understood(&e, 1))?;
        let topics = client.list_topics().await.map_err(|e| understood(&e, 1))?;
        let Some(topic) = topics.into_iter().find(|t| t.name == config.topic && !t.partitions.is_empty())
        else {
            let why = format!("the brokers show no topic \"{}\" to this user", config.topic);
            let advice = "create the topic, or check its name and this user's rights".to_owned();
            return Err(DeliverError::Stop { after: None, advice, source: Box::new(Said(why)) });
        };
        let partitions = topic.partitions.into_iter().collect();
        Ok(Topic { client, partitions, open: BTreeMap::new() })
    }

    async fn partition(&self, batch: &SinkBatch) -> Result<Arc<PartitionClient>, DeliverError> {
        let mut topic = self.topic.lock().await;
        if self.anew.swap(false, Ordering::Relaxed) {
            *topic = None;
        }
        let topic = match &mut *topic {
            Some(topic) => topic,
            none => none.insert(self.connect().await?),
        };
        let first = (self.parts.config.spread == KafkaSpread::Batch).then(|| batch.range().first());
        let place = place(batch.origin(), first, topic.partitions.len());
        let partition = topic.partitions.get(place).copied().unwrap_or_default();
        if let Some(open) = topic.open.get(&partition) {
            return Ok(Arc::clone(open));
        }
        let name = self.parts.config.topic.clone();
        let opened = topic.client.partition_client(name, partition, UnknownTopicHandling::Error).await;
        let opened = Arc::new(opened.map_err(|e| understood(&e, 1))?);
        topic.open.insert(partition, Arc::clone(&opened));
        Ok(opened)
    }

    fn value(&self, event: EventRef<'_>, seq: Seq) -> Vec<u8> {
        let mut out = Vec::new();
        match self.parts.config.value {
            KafkaValue::Json => json::write_line(&mut out, event, Some(seq)),
            KafkaValue::Protobuf => {
                let mut block = BlockBuilder::with_buffer(out);
                block.push(event, event.head().telemetry_level, &Unchanged);
                return block.finish();
            }
        }
        out
    }

    /// The records of a batch, the digest of their values and the bytes of these.
    pub(super) fn records(&self, batch: &SinkBatch) -> (Vec<Record>, [u8; 32], u64) {
        let origin = batch.origin();
        let format = match self.parts.config.value {
            KafkaValue::Json => "json",
            KafkaValue::Protobuf => "protobuf",
        };
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        let headers = BTreeMap::from([
            header("host", &origin.host),
            header("stream", &origin.stream),
            header("level", batch.level().as_str()),
            header("format", format),
        ]);
        let mut digest = Sha256::new();
        let mut len = 0;
        let records = batch.iter().map(|(seq, event)| {
            let value = self.value(event, seq);
            digest.update(&value);
            len += value.len() as u64;
            Record {
                key: Some(format!("{:016x}-{seq}", origin.epoch).into_bytes()),
                value: Some(value),
                headers: headers.clone(),
                // before 1970 Kafka has no times
                timestamp: rskafka::chrono::DateTime::from_timestamp_nanos(event.head().time_ns.max(0)),
            }
        });
        let records = records.collect();
        (records, digest.finalize().into(), len)
    }

    async fn attempt(&self, batch: &SinkBatch) -> Result<Delivered, DeliverError> {
        let (records, sha256, len) = self.records(batch);
        let compression = match self.parts.config.compression {
            KafkaCompression::None => Compression::NoCompression,
            KafkaCompression::Gzip => Compression::Gzip,
            KafkaCompression::Zstd => Compression::Zstd,
        };
        let attempt = Attempt(Some(&self.anew));
        let partition = match self.partition(batch).await {
            Ok(partition) => partition,
            Err(e) => {
                attempt.answered();
                return Err(e);
            }
        };
        let produced = partition.produce(records, compression).await;
        attempt.answered();
        let offsets = match produced {
            Ok(offsets) => offsets,
            Err(e) => {
                let error = understood(&e, batch.len());
                if matches!(error, DeliverError::Retry { .. } | DeliverError::Stop { .. }) {
                    // new brokers, rights and secrets count from the next attempt on
                    *self.topic.lock().await = None;
                }
                return Err(error);
            }
        };
        let first = offsets.first().map(|o| format!("offset {o}")).unwrap_or_default();
        Ok(Delivered {
            objects: vec![Object {
                destination: format!("kafka:{}/{}", partition.topic(), partition.partition()),
                sha256,
                len,
                events: u32::try_from(batch.len()).unwrap_or(u32::MAX),
                server_id: first,
                found: false,
            }],
            rejected: Vec::new(),
            bytes: len,
        })
    }
}

impl Sink for KafkaSink {
    fn id(&self) -> &SinkId {
        &self.parts.id
    }

    fn limits(&self) -> BatchLimits {
        self.parts.limits
    }

    /// Connects anew, authenticates, and looks for the topic.
    fn check(&self) -> BoxFuture<'_, Result<(), DeliverError>> {
        Box::pin(async { self.connect().await.map(drop) })
    }

    fn deliver<'a>(&'a self, batch: &'a SinkBatch) -> BoxFuture<'a, Result<Delivered, DeliverError>> {
        Box::pin(self.attempt(batch))
    }
}
