//! `[sinks.NAME]` with `type = "otlp"`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use tidegate_proto::ids::SinkId;

use super::OtlpSink;
use super::sink::{self, Parts};
use crate::BatchLimits;
use crate::http::header::HeaderName;
use crate::http::{Client, HttpBuildError, HttpConfig, HttpContext, Url, redact};
use crate::limits::{BatchConfig, LimitError};
use crate::secret::{SecretError, SecretRef};
use crate::units::Size;

/// How requests travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OtlpProtocol {
    /// HTTP with protobuf bodies, usually port 4318.
    #[default]
    Http,
    /// gRPC over HTTP/2, usually port 4317.
    Grpc,
}

/// How requests are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OtlpCompression {
    /// Not.
    None,
    /// gzip, which every receiver takes.
    #[default]
    Gzip,
}

/// The sink's settings.
///
/// ```toml
/// [sinks.logs]
/// type = "otlp"
/// url = "https://collector.example.com:4318/v1/logs"
/// headers = { authorization = "file:/etc/tidegate/otlp-token" }
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtlpConfig {
    /// `url`: with `http` the whole address, `…/v1/logs`; with `grpc` scheme, host and port.
    pub url: String,
    /// `protocol`: `http` or `grpc`. Default: `http`.
    #[serde(default)]
    pub protocol: OtlpProtocol,
    /// `compression`: `gzip` or `none`. Default: `gzip`.
    #[serde(default)]
    pub compression: OtlpCompression,
    /// `headers`: sent with each request, as references to secrets; looked up each time.
    #[serde(default)]
    pub headers: BTreeMap<String, SecretRef>,
    /// `max_bytes` of a request before compression, 64 KiB to 64 MiB. Default: 3 MiB, as a
    /// collector takes 4 MiB over gRPC unless told otherwise.
    #[serde(default = "max_bytes")]
    pub max_bytes: Size,
    /// `batch`: overrides of 2,000 events, 1.5 MiB, an age of 5 s, 2 requests at a time. A batch
    /// that is larger than `max_bytes` as OTLP goes in halves.
    #[serde(default)]
    pub batch: BatchConfig,
    /// `[….http]`
    #[serde(default)]
    pub http: HttpConfig,
}

fn max_bytes() -> Size {
    Size(3 << 20)
}

/// What keeps a sink from being made. Holds no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OtlpError {
    /// A setting is out of its range.
    #[error("{key}: {why}")]
    Setting {
        /// Which.
        key: &'static str,
        /// What is allowed.
        why: &'static str,
    },
    /// A header cannot be sent.
    #[error("headers.{0}: its name or value has characters that no header can have")]
    Header(String),
    /// A header's secret cannot be had.
    #[error("headers.{name}")]
    Secret {
        /// Which header.
        name: String,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// A limit is out of its range.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The client cannot be built.
    #[error(transparent)]
    Http(#[from] HttpBuildError),
}

impl OtlpConfig {
    /// Makes the sink. Sends nothing.
    ///
    /// # Errors
    /// [`OtlpError`].
    pub fn build(&self, id: &SinkId, ctx: &HttpContext) -> Result<OtlpSink, OtlpError> {
        let range = |key, fits: bool, why| if fits { Ok(()) } else { Err(OtlpError::Setting { key, why }) };
        let bytes = (64 << 10)..=(64 << 20);
        range("max_bytes", bytes.contains(&self.max_bytes.0), "from 64KiB to 64MiB")?;
        let wrong = OtlpError::Setting { key: "url", why: "an https or http URL without user and password" };
        let Ok(mut url) = self.url.parse::<Url>() else { return Err(wrong) };
        let plain = matches!(url.scheme(), "https" | "http") && url.username().is_empty();
        if !plain || url.password().is_some() || !url.has_host() {
            return Err(wrong);
        }
        let client = match self.protocol {
            OtlpProtocol::Http => Client::new(&self.http, ctx)?,
            OtlpProtocol::Grpc => {
                let root = matches!(url.path(), "" | "/") && url.query().is_none();
                range("url", root, "with grpc: scheme, host and port only")?;
                url.set_path("/opentelemetry.proto.collector.logs.v1.LogsService/Export");
                Client::http2(&self.http, ctx)?
            }
        };
        let mut headers = Vec::new();
        for (name, reference) in &self.headers {
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| OtlpError::Header(name.clone()))?;
            // looked up at each request; here only to tell early what is wrong
            sink::header(&key, reference)?;
            headers.push((key, reference.clone()));
        }
        let hour = Duration::from_secs(3600);
        let limits = self.batch.over(BatchLimits {
            events: 2_000,
            // OTLP takes a little more than our own protobuf; what is larger still goes in halves
            bytes: self.max_bytes.0 / 2,
            age: Duration::from_secs(5),
            in_flight: 2,
            // the client's own time-out comes first and says more
            timeout: self.http.timeout.0.saturating_add(Duration::from_secs(5)).min(hour),
        })?;
        Ok(OtlpSink(Parts {
            id: id.clone(),
            client,
            destination: redact(url.as_str()),
            url,
            protocol: self.protocol,
            compression: self.compression,
            headers,
            max_bytes: usize::try_from(self.max_bytes.0).unwrap_or(usize::MAX),
            limits,
        }))
    }
}
