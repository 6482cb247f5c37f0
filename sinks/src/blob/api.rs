//! The few operations that are needed.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use md5::{Digest as _, Md5};

use super::account::Target;
use super::auth::Auth;
use super::error::{self, NotUnderstood};
use crate::DeliverError;
use crate::holdings::Deletion;
use crate::http::classify;
use crate::http::{Body, Client, Method, Reply, Request, Url, http_date, redact};

/// A container and the right to write there.
#[derive(Clone, Debug)]
pub(super) struct Api {
    pub client: Client,
    pub target: Target,
    pub auth: Arc<Auth>,
    /// `x-ms-version`
    pub version: String,
    /// The newest credentials when the attempt began; none for requests that stand alone.
    pub begun: Option<u64>,
}

/// On what condition a blob is written.
#[derive(Clone, Debug)]
pub(super) enum When<'a> {
    /// There is none of this name.
    Absent,
    /// It is still the one with this ETag.
    Is(&'a str),
}

/// What an upload led to.
#[derive(Debug)]
pub(super) enum Written {
    /// It is there; its ETag.
    Done(String),
    /// The condition does not hold.
    Refused,
    /// A policy keeps the blob as it is.
    Immutable,
}

/// What is known of a blob that is there.
#[derive(Debug)]
pub(super) struct Properties {
    pub etag: String,
    pub len: u64,
    pub reply: Reply,
}

/// A blob to be written.
#[derive(Clone, Debug)]
pub(super) struct Upload<'a> {
    pub name: &'a str,
    pub bytes: &'a Bytes,
    pub content_type: &'static str,
    /// Names begin with `x-ms-meta-`.
    pub metadata: &'a [(&'static str, String)],
}

fn md5(bytes: &[u8]) -> String {
    STANDARD.encode(Md5::digest(bytes))
}

/// The ETag of a reply, which every blob has.
fn etag(reply: &Reply) -> Option<String> {
    reply.header("etag").map(str::to_owned).filter(|etag| !etag.trim_matches('"').is_empty())
}

/// The ETag where a reply shows a blob: web servers have ETags too, the blob's type only the service tells.
pub(super) fn blob(reply: &Reply) -> Option<String> {
    (reply.status == 200 && reply.header("x-ms-blob-type").is_some()).then(|| etag(reply)).flatten()
}

impl Api {
    /// The same for the requests of one attempt: what is refused though it was handed out for this
    /// attempt needs someone to act.
    pub fn attempt(&self) -> Api {
        Api { begun: Some(self.auth.newest()), ..self.clone() }
    }

    /// Makes one request with date, version and credentials.
    pub async fn send(&self, mut request: Request) -> Result<Reply, DeliverError> {
        let date = http_date(self.client.clock().now());
        request = request.header("x-ms-date", &date)?.header("x-ms-version", &self.version)?;
        let begun = self.begun.unwrap_or_else(|| self.auth.newest());
        let (proof, number) = self.auth.proof(&self.target).await?;
        let url = request.url.clone();
        let request = match (proof.apply(&self.target.account, request), number) {
            (Ok(request), _) => request,
            (Err(error), None) => return Err(error.into()),
            (Err(error), Some(number)) => {
                // the next attempt asks for others
                self.auth.give_up(number).await;
                return Err(NotUnderstood(format!("what was handed out cannot be used: {error}")).into());
            }
        };
        let reply = self.client.send(request).await?;
        if let (401 | 403, Some(number)) = (reply.status, number) {
            self.auth.give_up(number).await;
            if number <= begun && !error::lacks_permission(&reply) {
                // older than the attempt, they may have ended; the next attempt has fresh ones
                return Err(match self.fail(&url, &reply) {
                    DeliverError::Stop { after, source, .. } => DeliverError::Retry { after, source },
                    other => other,
                });
            }
        }
        Ok(reply)
    }

    pub(super) fn fail(&self, url: &Url, reply: &Reply) -> DeliverError {
        let now = self.client.clock().now();
        // by their clock, as ours may be wrong
        let ended =
            matches!(reply.status, 401 | 403) && self.auth.has_ended(classify::sent_at(reply).unwrap_or(now));
        error::of_reply(&redact(url.as_str()), reply, now, self.auth.advice(), ended)
    }

    /// Creates the container if it is not there.
    pub async fn create_container(&self) -> Result<(), DeliverError> {
        let mut url = self.target.container.clone();
        url.set_query(Some("restype=container"));
        let reply = self.send(Request::new(Method::PUT, url.clone())).await?;
        match (reply.status, error::code(&reply).as_str()) {
            (201, _) | (409, "ContainerAlreadyExists") => Ok(()),
            _ => Err(self.fail(&url, &reply)),
        }
    }

    /// What is known of a blob; `None` when there is none in a container that exists.
    pub async fn properties(&self, name: &str) -> Result<Option<Properties>, DeliverError> {
        let url = self.target.blob(name);
        let reply = self.send(Request::new(Method::HEAD, url.clone())).await?;
        if reply.status == 404 && error::code(&reply) == "BlobNotFound" {
            return Ok(None);
        }
        let len = reply.header("content-length").and_then(|v| v.parse().ok());
        match (blob(&reply), len) {
            (Some(etag), Some(len)) => Ok(Some(Properties { etag, len, reply })),
            _ => Err(self.fail(&url, &reply)),
        }
    }

    /// Get Blob: all of it, with its ETag; `None` when there is none in a container that exists.
    pub async fn get(&self, url: Url) -> Result<Option<(String, Body)>, DeliverError> {
        let reply = self.send(Request::new(Method::GET, url.clone())).await?;
        if reply.status == 404 && error::code(&reply) == "BlobNotFound" {
            return Ok(None);
        }
        match blob(&reply) {
            Some(etag) => Ok(Some((etag, reply.body))),
            None => Err(self.fail(&url, &reply)),
        }
    }

    /// Delete Blob with its snapshots, if it still has this ETag.
    pub async fn delete(&self, url: Url, etag: &str) -> Result<Deletion, DeliverError> {
        let request = Request::new(Method::DELETE, url.clone())
            .header("x-ms-delete-snapshots", "include")?
            .header("if-match", etag)?;
        let reply = self.send(request).await?;
        match (reply.status, error::code(&reply).as_str()) {
            (202, _) => Ok(Deletion::Done),
            (404, "BlobNotFound") => Ok(Deletion::Gone),
            (412, "ConditionNotMet" | "TargetConditionNotMet" | "") => Ok(Deletion::Changed),
            (409, "BlobImmutableDueToPolicy" | "BlobImmutableDueToLegalHold") | (412, "LeaseIdMissing") => {
                Ok(Deletion::Kept)
            }
            _ => Err(self.fail(&url, &reply)),
        }
    }

    fn conditional(request: Request, when: &When<'_>) -> Result<Request, DeliverError> {
        Ok(match when {
            When::Absent => request.header("if-none-match", "*")?,
            When::Is(etag) => request.header("if-match", etag)?,
        })
    }

    fn written(&self, url: &Url, reply: &Reply) -> Result<Written, DeliverError> {
        match (reply.status, error::code(reply).as_str()) {
            (201, _) => match etag(reply) {
                Some(etag) => Ok(Written::Done(etag)),
                None => Err(self.fail(url, reply)),
            },
            (409, "BlobImmutableDueToPolicy" | "BlobImmutableDueToLegalHold") => Ok(Written::Immutable),
            (409, "BlobAlreadyExists") | (412, "ConditionNotMet" | "TargetConditionNotMet" | "") => {
                Ok(Written::Refused)
            }
            _ => Err(self.fail(url, reply)),
        }
    }

    /// Put Blob: all in one request.
    pub async fn put(&self, upload: &Upload<'_>, when: &When<'_>) -> Result<Written, DeliverError> {
        let url = self.target.blob(upload.name);
        let mut request = Request::new(Method::PUT, url.clone())
            .body(upload.bytes.clone())
            .header("x-ms-blob-type", "BlockBlob")?
            .header("content-type", upload.content_type)?
            .header("content-md5", &md5(upload.bytes))?;
        for (name, value) in upload.metadata {
            request = request.header(name, value)?;
        }
        let reply = self.send(Api::conditional(request, when)?).await?;
        self.written(&url, &reply)
    }

    /// Put Block for each piece, then Put Block List. `key` begins the blocks' ids: attempts
    /// with other bytes must have another, so that none commits a mixture.
    pub async fn put_blocks(
        &self,
        upload: &Upload<'_>,
        when: &When<'_>,
        block_size: usize,
        key: &[u8; 32],
    ) -> Result<Written, DeliverError> {
        let url = self.target.blob(upload.name);
        let mut list = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
        let mut at = 0;
        let mut number = 0_u32;
        while at < upload.bytes.len() {
            let end = at.saturating_add(block_size.max(1)).min(upload.bytes.len());
            let block = upload.bytes.slice(at..end);
            // 18 bytes: base64 without padding, all of one length
            let mut id = [0; 18];
            id[..14].copy_from_slice(&key[..14]);
            id[14..].copy_from_slice(&number.to_be_bytes());
            let id = STANDARD.encode(id);
            let mut place = url.clone();
            place.query_pairs_mut().append_pair("comp", "block").append_pair("blockid", &id);
            let request = Request::new(Method::PUT, place).header("content-md5", &md5(&block))?.body(block);
            let reply = self.send(request).await?;
            if reply.status != 201 {
                return Err(self.fail(&url, &reply));
            }
            list.push_str(&format!("<Uncommitted>{id}</Uncommitted>"));
            at = end;
            number += 1;
        }
        list.push_str("</BlockList>");
        let mut place = url.clone();
        place.set_query(Some("comp=blocklist"));
        let mut request = Request::new(Method::PUT, place)
            .header("content-type", "text/plain; charset=utf-8")?
            .header("x-ms-blob-content-type", upload.content_type)?
            .header("x-ms-blob-content-md5", &md5(upload.bytes))?
            .header("content-md5", &md5(list.as_bytes()))?
            .body(list);
        for (name, value) in upload.metadata {
            request = request.header(name, value)?;
        }
        let reply = self.send(Api::conditional(request, when)?).await?;
        self.written(&url, &reply)
    }
}
