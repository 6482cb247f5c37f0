//! One attempt: a request out, an answer understood.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tidegate_proto::ids::SinkId;

use super::config::{OtlpCompression, OtlpError, OtlpProtocol};
use super::convert;
use super::messages::ExportRequest;
use super::reply::{self, Outcome};
use crate::http::classify::{id, printable, wait};
use crate::http::header::{HeaderName, HeaderValue};
use crate::http::{Body, Client, Method, Reply, Request, Url};
use crate::secret::SecretRef;
use crate::{
    BatchLimits, BoxError, BoxFuture, DeliverError, Delivered, Object, RejectReason, Rejected, Sink,
    SinkBatch,
};

/// What a sink is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub id: SinkId,
    pub client: Client,
    pub url: Url,
    /// The URL without its query, for receipts and logs.
    pub destination: String,
    pub protocol: OtlpProtocol,
    pub compression: OtlpCompression,
    /// From the configuration.
    pub headers: Vec<(HeaderName, SecretRef)>,
    pub max_bytes: usize,
    pub limits: BatchLimits,
}

/// The sink. See the [module](super) for what it promises.
#[derive(Debug)]
pub struct OtlpSink(pub(super) Parts);

/// What the far side said, without secrets.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(String);

fn said(why: String) -> BoxError {
    Box::new(Said(why))
}

/// The value of a header as it is now; never shown.
pub(super) fn header(name: &HeaderName, reference: &SecretRef) -> Result<HeaderValue, OtlpError> {
    let named = || name.as_str().to_owned();
    let secret = reference.resolve().map_err(|source| OtlpError::Secret { name: named(), source })?;
    let mut value = HeaderValue::from_str(secret.expose()).map_err(|_| OtlpError::Header(named()))?;
    value.set_sensitive(true);
    Ok(value)
}

impl OtlpSink {
    /// The body of a request: a message, or with gRPC a frame of it.
    fn pack(&self, message: Vec<u8>) -> std::io::Result<Vec<u8>> {
        let compressed = self.0.compression == OtlpCompression::Gzip;
        let message = if compressed {
            let room = Vec::with_capacity(message.len() / 6 + 64);
            let mut out = flate2::write::GzEncoder::new(room, flate2::Compression::fast());
            out.write_all(&message)?;
            out.finish()?
        } else {
            message
        };
        if self.0.protocol == OtlpProtocol::Http {
            return Ok(message);
        }
        let len =
            u32::try_from(message.len()).map_err(|_| std::io::Error::other("a message of over 4 GiB"))?;
        let mut frame = Vec::with_capacity(message.len() + 5);
        frame.push(u8::from(compressed));
        frame.extend_from_slice(&len.to_be_bytes());
        frame.extend_from_slice(&message);
        Ok(frame)
    }

    fn request(&self, body: Bytes) -> Result<Request, DeliverError> {
        let gzip = self.0.compression == OtlpCompression::Gzip;
        let mut request = Request::new(Method::POST, self.0.url.clone());
        for (name, reference) in &self.0.headers {
            let value = header(name, reference).map_err(|e| DeliverError::Stop {
                after: None,
                advice: "make the secrets of this sink's headers readable".to_owned(),
                source: Box::new(e),
            })?;
            request.headers.insert(name.clone(), value);
        }
        let request = match self.0.protocol {
            OtlpProtocol::Http => {
                let request = request.header("content-type", "application/x-protobuf")?;
                if gzip { request.header("content-encoding", "gzip")? } else { request }
            }
            OtlpProtocol::Grpc => {
                let request = request
                    .header("content-type", "application/grpc+proto")?
                    .header("te", "trailers")?
                    .header("grpc-accept-encoding", "gzip")?;
                if gzip { request.header("grpc-encoding", "gzip")? } else { request }
            }
        };
        Ok(request.body(body))
    }

    fn understand(&self, reply: &Reply, events: usize) -> Outcome {
        let whole = match &reply.body {
            Body::Whole(body) => Some(&body[..]),
            Body::Cut(_) | Body::TooLong(_) => None,
        };
        let content = reply.header("content-type").unwrap_or_default();
        if self.0.protocol == OtlpProtocol::Grpc && reply.status == 200 {
            // a call that failed at once has its status among the headers
            let text = |name: &str| {
                let from = if reply.trailers.contains_key(name) { &reply.trailers } else { &reply.headers };
                from.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
            };
            let Some(code) = text("grpc-status").and_then(|c| c.trim().parse::<u32>().ok()) else {
                return Outcome::Retry { after: None, why: "the answer has no gRPC status".to_owned() };
            };
            let message = percent_decoded(&text("grpc-message").unwrap_or_default());
            let details = text("grpc-status-details-bin").and_then(|d| base64_any(&d));
            return reply::grpc(code, &message, details.as_deref(), reply.body.bytes(), events);
        }
        let after = wait(reply, self.0.client.clock().now());
        let protobuf = content.starts_with("application/x-protobuf");
        reply::http(reply.status, protobuf, whole, after, events)
    }

    async fn export(&self, request: ExportRequest) -> Result<(Reply, Bytes), DeliverError> {
        let broken = |e: BoxError| DeliverError::Retry { after: None, source: e };
        let message = request.encode_to_vec();
        drop(request);
        let body = Bytes::from(self.pack(message).map_err(|e| broken(Box::new(e)))?);
        let reply = self.0.client.send(self.request(body.clone())?).await?;
        Ok((reply, body))
    }

    async fn attempt(&self, batch: &SinkBatch) -> Result<Delivered, DeliverError> {
        let request = convert::request(batch);
        let (len, events) = (request.encoded_len(), batch.len());
        if len > self.0.max_bytes {
            let why = said(format!("{len} bytes as OTLP, {} are allowed", self.0.max_bytes));
            return Err(if events > 1 {
                DeliverError::Split { source: why }
            } else {
                DeliverError::Reject { reason: RejectReason::TooLarge, source: why }
            });
        }
        let (reply, body) = self.export(request).await?;
        let outcome = self.understand(&reply, events);
        let delivered = |rejected: Vec<Rejected>, held: usize| Delivered {
            objects: vec![Object {
                destination: self.0.destination.clone(),
                sha256: Sha256::digest(&body).into(),
                len: body.len() as u64,
                events: u32::try_from(held).unwrap_or(u32::MAX),
                server_id: reply.header("x-request-id").map(|text| id(text, 200)).unwrap_or_default(),
                found: false,
            }],
            rejected,
            bytes: body.len() as u64,
        };
        match outcome {
            Outcome::Delivered => Ok(delivered(Vec::new(), events)),
            Outcome::Partly(count, why) => {
                let count = usize::try_from(count).unwrap_or(usize::MAX).min(events);
                let which = if count < events { ", not told which" } else { "" };
                let detail = format!("the server rejected {count} of {events} events{which}: {why}");
                let detail = printable(&detail, 200);
                let rejected = batch.iter().map(|(seq, _)| Rejected {
                    seq,
                    reason: RejectReason::Invalid,
                    detail: detail.clone(),
                });
                Ok(delivered(rejected.collect(), events - count))
            }
            Outcome::Retry { after, why } => Err(DeliverError::Retry { after, source: said(why) }),
            Outcome::Split(why) => Err(DeliverError::Split { source: said(why) }),
            Outcome::Reject(reason, why) => Err(DeliverError::Reject { reason, source: said(why) }),
            Outcome::Stop { after, advice, why } => {
                Err(DeliverError::Stop { after, advice: advice.to_owned(), source: said(why) })
            }
        }
    }
}

/// gRPC messages are percent-encoded.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code =
            after.get(..2).and_then(|d| std::str::from_utf8(d).ok()).map(|d| u8::from_str_radix(d, 16));
        match (first, code) {
            (b'%', Some(Ok(byte))) => {
                out.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Binary headers come with and without padding.
fn base64_any(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(text.trim().trim_end_matches('=')).ok()
}

impl Sink for OtlpSink {
    fn id(&self) -> &SinkId {
        &self.0.id
    }

    fn limits(&self) -> BatchLimits {
        self.0.limits
    }

    fn rest(&self) -> Option<Duration> {
        self.0.client.rest()
    }

    /// Sends an empty request, which leaves nothing behind.
    fn check(&self) -> BoxFuture<'_, Result<(), DeliverError>> {
        Box::pin(async {
            let (reply, _) = self.export(ExportRequest::default()).await?;
            match self.understand(&reply, 1) {
                Outcome::Stop { after, advice, why } => {
                    Err(DeliverError::Stop { after, advice: advice.to_owned(), source: said(why) })
                }
                Outcome::Retry { after, why } => Err(DeliverError::Retry { after, source: said(why) }),
                _ => Ok(()),
            }
        })
    }

    fn deliver<'a>(&'a self, batch: &'a SinkBatch) -> BoxFuture<'a, Result<Delivered, DeliverError>> {
        Box::pin(self.attempt(batch))
    }
}
