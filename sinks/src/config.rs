//! `[sinks.NAME]`: the type of a sink and its settings, and the sink made from them.
//!
//! ```toml
//! [sinks.local]
//! type = "directory"
//! path = "/var/lib/tidegate/out"
//! batch = { bytes = "16MiB", age = "10s" }
//! ```
//!
//! Common to all: `batch`, the overrides of [`BatchConfig`](crate::limits::BatchConfig), and for
//! those that use HTTP `http`, an [`HttpConfig`](crate::http::HttpConfig) with time-outs, TLS,
//! pins and proxy.

use std::path::absolute;
use std::sync::Arc;

use serde::Deserialize;
use tidegate_proto::ids::SinkId;

use crate::Sink;
use crate::blob::{BlobConfig, BlobError, BlobHoldings, BlobSink};
use crate::directory::{DirectoryConfig, DirectoryError, DirectorySink};
use crate::events::{EventsConfig, EventsError, Urgency};
use crate::holdings::Holdings;
use crate::http::tls::TlsConfig;
use crate::http::{HttpConfig, HttpContext, Url};
use crate::kafka::{KafkaConfig, KafkaError};
use crate::limits::LimitError;
use crate::otlp::{OtlpConfig, OtlpError};
use crate::stdout::{StdoutConfig, StdoutSink};

/// The settings of one sink, told apart by `type`. Unknown keys are errors.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SinkConfig {
    /// Files in a folder.
    Directory(DirectoryConfig),
    /// Common Schema events to a OneCollector endpoint.
    Events(EventsConfig),
    /// OpenTelemetry logs.
    Otlp(OtlpConfig),
    /// Azure Storage blobs. (Large, so in a box.)
    Blob(Box<BlobConfig>),
    /// Records to a topic of Apache Kafka or Event Hubs.
    Kafka(Box<KafkaConfig>),
    /// JSON Lines on standard output.
    Stdout(StdoutConfig),
}

/// Where a sink speaks TLS.
#[derive(Clone, Debug)]
pub struct TlsEndpoint {
    /// `HOST:PORT`
    pub address: String,
    /// The settings of its connections: roots, pins, proxy, time-outs.
    pub http: HttpConfig,
}

impl TlsEndpoint {
    /// Of an address; `None` when it is not `https`.
    #[must_use]
    pub fn of_url(url: &str, http: &HttpConfig) -> Option<TlsEndpoint> {
        let url = url.parse::<Url>().ok().filter(|u| u.scheme() == "https")?;
        let address = format!("{}:{}", url.host_str()?, url.port_or_known_default()?);
        Some(TlsEndpoint { address, http: http.clone() })
    }
}

/// Why a sink cannot be made: a mistake in its settings, or a file or secret they name is not
/// usable. Holds no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// `type = "directory"`
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// `type = "events"`
    #[error(transparent)]
    Events(#[from] EventsError),
    /// `type = "otlp"`
    #[error(transparent)]
    Otlp(#[from] OtlpError),
    /// `type = "blob"`
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// `type = "kafka"`
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// A limit.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

impl SinkConfig {
    /// Its `type`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            SinkConfig::Directory(_) => "directory",
            SinkConfig::Events(_) => "events",
            SinkConfig::Otlp(_) => "otlp",
            SinkConfig::Blob(_) => "blob",
            SinkConfig::Kafka(_) => "kafka",
            SinkConfig::Stdout(_) => "stdout",
        }
    }

    /// The addresses that it speaks TLS to, `HOST:PORT`, each with the settings of the connection;
    /// without those of token services and brokers of signatures, which share the settings of a
    /// blob sink. Empty where TLS is not used.
    ///
    /// # Errors
    /// When the settings cannot be used.
    pub fn tls_endpoints(&self, name: &SinkId, ctx: &HttpContext) -> Result<Vec<TlsEndpoint>, BuildError> {
        let of_url = |url: &str, http: &HttpConfig| TlsEndpoint::of_url(url, http).into_iter().collect();
        Ok(match self {
            SinkConfig::Blob(c) => of_url(&BlobSink::new(name, c, ctx)?.base(), &c.http),
            SinkConfig::Events(c) => of_url(&c.url, &c.http),
            SinkConfig::Otlp(c) => of_url(&c.url, &c.http),
            SinkConfig::Kafka(c) => {
                let http = |tls: &TlsConfig| HttpConfig { tls: tls.clone(), ..HttpConfig::default() };
                let all = c.tls.iter().flat_map(|tls| c.brokers.iter().map(move |b| (b, tls)));
                all.map(|(b, tls)| TlsEndpoint { address: b.clone(), http: http(tls) }).collect()
            }
            SinkConfig::Directory(_) | SinkConfig::Stdout(_) => Vec::new(),
        })
    }

    /// How soon its events are to leave; `None` for files and blobs, which are made by size and age
    /// alone.
    #[must_use]
    pub fn urgency(&self) -> Option<Urgency> {
        match self {
            SinkConfig::Events(c) => Some(Urgency::new(c.latency.clone())),
            SinkConfig::Otlp(_) | SinkConfig::Kafka(_) => Some(Urgency::default()),
            SinkConfig::Blob(_) | SinkConfig::Directory(_) | SinkConfig::Stdout(_) => None,
        }
    }

    /// The key of its TLS settings in `[sinks.NAME]`, and what they are; `None` where it has none.
    #[must_use]
    pub fn tls(&self) -> Option<(&'static str, &TlsConfig)> {
        match self {
            SinkConfig::Blob(c) => Some(("http.tls", &c.http.tls)),
            SinkConfig::Events(c) => Some(("http.tls", &c.http.tls)),
            SinkConfig::Otlp(c) => Some(("http.tls", &c.http.tls)),
            SinkConfig::Kafka(c) => c.tls.as_ref().map(|tls| ("tls", tls)),
            SinkConfig::Directory(_) | SinkConfig::Stdout(_) => None,
        }
    }

    /// Makes the sink. Reads what the settings name (certificates, keys), opens no connection.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build(&self, name: &SinkId, ctx: &HttpContext) -> Result<Arc<dyn Sink>, BuildError> {
        Ok(match self {
            SinkConfig::Directory(c) => Arc::new(DirectorySink::new(name, c)?),
            SinkConfig::Events(c) => Arc::new(c.build(name, ctx)?),
            SinkConfig::Otlp(c) => Arc::new(c.build(name, ctx)?),
            SinkConfig::Blob(c) => Arc::new(BlobSink::new(name, c, ctx)?),
            SinkConfig::Kafka(c) => Arc::new(c.build(name, ctx)?),
            SinkConfig::Stdout(c) => Arc::new(StdoutSink::new(name, c)?),
        })
    }

    /// The names that its files or blobs have on this host, with `*` for what follows from the events' places:
    /// of two sinks with the same names each replaces what the other has written. `None` for other sinks, and
    /// where a setting or secret is missing.
    #[must_use]
    pub fn names(&self, host: &str, stream: &str) -> Option<String> {
        let fill = |layout: &str| layout.replace("{host}", host).replace("{stream}", stream);
        let (path, suffix) = match self {
            SinkConfig::Directory(c) => {
                let path = absolute(c.path.join(fill(&c.layout))).ok()?;
                (path.display().to_string(), c.format.suffix(c.compression))
            }
            SinkConfig::Blob(c) => {
                let path = format!("{}/{}", c.container_url()?, fill(&c.layout));
                (path, c.format.suffix(c.compression))
            }
            SinkConfig::Events(_) | SinkConfig::Otlp(_) | SinkConfig::Kafka(_) | SinkConfig::Stdout(_) => {
                return None;
            }
        };
        Some(format!("{}/*{suffix}", path.trim_end_matches(['/', '\\'])))
    }

    /// Access to what this sink has delivered; `None` where the far side gives none.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn holdings(
        &self,
        name: &SinkId,
        ctx: &HttpContext,
    ) -> Result<Option<Arc<dyn Holdings>>, BuildError> {
        Ok(match self {
            SinkConfig::Directory(c) => Some(Arc::new(DirectorySink::new(name, c)?)),
            SinkConfig::Blob(c) => Some(Arc::new(BlobHoldings::new(name, c, ctx)?)),
            SinkConfig::Events(_) | SinkConfig::Otlp(_) | SinkConfig::Kafka(_) | SinkConfig::Stdout(_) => {
                None
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(text: &str) -> Result<Arc<dyn Sink>, String> {
        let config: SinkConfig = toml::from_str(text).map_err(|e| e.to_string())?;
        config.build(&SinkId::new("s"), &HttpContext::default()).map_err(|e| e.to_string())
    }

    #[test]
    fn sinks_are_made_from_their_settings() {
        let sink = build("type = \"stdout\"\nbatch = { events = 7, age = \"3s\" }").unwrap();
        assert_eq!((sink.limits().events, sink.limits().age.as_secs()), (7, 3));
        let otlp = "type = \"otlp\"\nurl = \"https://collector.example:4318/v1/logs\"";
        assert_eq!(build(otlp).unwrap().limits().events, 2_000);
        let kafka = "type = \"kafka\"\nbrokers = [\"h:9093\"]\ntopic = \"t\"\ntls = {}";
        assert_eq!(build(kafka).unwrap().limits().bytes, 512 << 10);
        let token = "0123456789abcdef0123456789abcdef-11111111-2222-3333-4444-555555555555-6789";
        let url = "https://events.example/OneCollector/1.0/";
        let events = format!("type = \"events\"\nurl = \"{url}\"\ntenant = \"value:{token}\"");
        assert_eq!(build(&events).unwrap().limits().events, 500);
        let sink = build("type = \"directory\"\npath = \"out\"\ncompression = \"gzip\"").unwrap();
        assert_eq!(sink.id().as_str(), "s");
        build("type = \"blob\"\ncontainer = \"logs\"\nconnection_string = \"UseDevelopmentStorage=true\"")
            .unwrap();
    }

    #[test]
    fn mistakes_name_the_key() {
        for (text, word) in [
            ("type = \"carrier-pigeon\"", "carrier-pigeon"),
            ("path = \"out\"", "type"),
            ("type = \"directory\"", "path"),
            ("type = \"directory\"\npath = \"o\"\ncolour = 1", "colour"),
            ("type = \"stdout\"\nbatch = { events = 0 }", "batch.events"),
            ("type = \"stdout\"\nbatch = { bites = 1 }", "bites"),
        ] {
            let error = build(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
