//! `[sinks.NAME]` with `type = "kafka"`.

use std::time::Duration;

use serde::Deserialize;
use tidegate_proto::ids::SinkId;

use super::sink::{KafkaSink, Parts};
use crate::BatchLimits;
use crate::http::HttpContext;
use crate::http::tls::{TlsConfig, TlsError};
use crate::limits::{BatchConfig, LimitError};
use crate::secret::SecretRef;

/// How records are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KafkaCompression {
    /// Not.
    None,
    /// gzip, the only way that Event Hubs takes.
    #[default]
    Gzip,
    /// Zstandard, for Apache Kafka 2.1 and later.
    Zstd,
}

/// What the value of a record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KafkaValue {
    /// One JSON object, as in files and blobs.
    #[default]
    Json,
    /// A `tidegate.v1.Block` of one event.
    Protobuf,
}

/// Which partition a batch goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KafkaSpread {
    /// All of a host's stream to one, in order.
    #[default]
    Stream,
    /// Each batch to another; the same batch always to the same.
    Batch,
}

/// `[….auth]`
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "mechanism", rename_all = "kebab-case", deny_unknown_fields)]
pub enum KafkaAuth {
    /// SASL PLAIN. For Event Hubs the user is `$ConnectionString`, the password the connection string.
    Plain {
        /// `user`
        user: String,
        /// `password`: a secret's reference.
        password: SecretRef,
    },
    /// SASL SCRAM-SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256 {
        /// `user`
        user: String,
        /// `password`: a secret's reference.
        password: SecretRef,
    },
    /// SASL SCRAM-SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512 {
        /// `user`
        user: String,
        /// `password`: a secret's reference.
        password: SecretRef,
    },
    /// SASL OAUTHBEARER with a token that something else renews.
    Oauthbearer {
        /// `token`: a secret's reference, looked up at each new connection.
        token: SecretRef,
    },
}

/// The sink's settings.
///
/// ```toml
/// [sinks.stream]
/// type = "kafka"
/// brokers = ["ns.servicebus.windows.net:9093"]
/// topic = "telemetry"
/// tls = {}
/// auth = { mechanism = "plain", user = "$ConnectionString", password = "file:/etc/tidegate/hub" }
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `brokers`: `HOST:PORT` of some; they tell of the others.
    pub brokers: Vec<String>,
    /// `topic`: must be there.
    pub topic: String,
    /// `value`: `json` or `protobuf`. Default: `json`.
    #[serde(default)]
    pub value: KafkaValue,
    /// `compression`: `gzip`, `zstd` or `none`. Default: `gzip`.
    #[serde(default)]
    pub compression: KafkaCompression,
    /// `spread`: `stream` or `batch`. Default: `stream`.
    #[serde(default)]
    pub spread: KafkaSpread,
    /// `tls`: how brokers are checked. Without it there is no TLS, and then no `auth` either,
    /// unless `plaintext_auth` is true.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// `[….auth]`
    #[serde(default)]
    pub auth: Option<KafkaAuth>,
    /// `plaintext_auth`: send credentials without TLS. Default: false.
    #[serde(default)]
    pub plaintext_auth: bool,
    /// `batch`: overrides of 2,000 events, 512 KiB (96 KiB without compression), an age of 2 s, 2 at a time,
    /// 30 s.
    #[serde(default)]
    pub batch: BatchConfig,
}

/// What keeps a sink from being made. Holds no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KafkaError {
    /// A setting is not usable.
    #[error("{key}: {why}")]
    Setting {
        /// Which.
        key: &'static str,
        /// What is allowed.
        why: &'static str,
    },
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A limit is out of its range.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

impl KafkaConfig {
    /// Makes the sink. Opens no connection, looks no secret up.
    ///
    /// # Errors
    /// [`KafkaError`].
    pub fn build(&self, id: &SinkId, ctx: &HttpContext) -> Result<KafkaSink, KafkaError> {
        let check = |key, fits: bool, why| if fits { Ok(()) } else { Err(KafkaError::Setting { key, why }) };
        let address = |b: &String| {
            b.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        let fits = !self.brokers.is_empty() && self.brokers.iter().all(address);
        check("brokers", fits, "at least one HOST:PORT")?;
        let named = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let fits = (1..=249).contains(&self.topic.len()) && self.topic.chars().all(named);
        check("topic", fits, "1 to 249 of A-Z a-z 0-9 . _ -")?;
        let hidden = self.auth.is_none() || self.tls.is_some() || self.plaintext_auth;
        check("auth", hidden, "needs tls = {}, or plaintext_auth = true")?;
        if let Some(tls) = &self.tls {
            // made at each connection; here only to tell early what is wrong
            tls.build_plain(ctx)?;
        }
        let limits = self.batch.over(BatchLimits {
            events: 2_000,
            // as JSON two to eight times that, compressed a tenth: below the mebibyte that a broker takes
            bytes: if self.compression == KafkaCompression::None { 96 << 10 } else { 512 << 10 },
            age: Duration::from_secs(2),
            in_flight: 2,
            timeout: Duration::from_secs(30),
        })?;
        Ok(KafkaSink::new(Parts { id: id.clone(), config: self.clone(), ctx: ctx.clone(), limits }))
    }
}
