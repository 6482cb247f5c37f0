//! One blob: written, found, replaced or held.

use tidegate_proto::hex;

use super::BlobSink;
use super::api::{Api, Properties, Upload, When, Written};
use crate::http::redact;
use crate::layout::Part;
use crate::{DeliverError, Object, Ready};

const TAG: &str = "x-ms-meta-tidegate_tag";
const CANONICAL: &str = "x-ms-meta-tidegate_canonical";
const SHA256: &str = "x-ms-meta-tidegate_sha256";
const EVENTS: &str = "x-ms-meta-tidegate_events";

/// A blob that stands in the way.
#[derive(Debug, thiserror::Error)]
pub(super) enum InTheWay {
    #[error("{0} is there and was not written by this collector")]
    Foreign(String),
    #[error("{0} holds fewer events than it should, and a policy keeps it from being replaced")]
    Immutable(String),
    #[error("{0} was changed or removed while it was written")]
    Race(String),
}

impl BlobSink {
    /// Writes one blob of a batch.
    pub(super) async fn upload(&self, api: &Api, ready: &Ready, part: &Part) -> Result<Object, DeliverError> {
        let origin = &ready.origin;
        let metadata = [
            (TAG, part.tag.clone()),
            (CANONICAL, hex::encode(&part.encoded.canonical)),
            (SHA256, hex::encode(&part.encoded.sha256)),
            (EVENTS, part.encoded.events.to_string()),
            ("x-ms-meta-tidegate_host", origin.host.clone()),
            ("x-ms-meta-tidegate_stream", origin.stream.clone()),
            ("x-ms-meta-tidegate_epoch", format!("{:016x}", origin.epoch)),
            ("x-ms-meta-tidegate_range", ready.range.to_string()),
            ("x-ms-meta-tidegate_level", (ready.level as u8).to_string()),
        ];
        let upload = Upload {
            name: &part.name,
            bytes: &part.encoded.bytes,
            content_type: self.layout.format().content_type(self.layout.compression()),
            metadata: &metadata,
        };
        if let Written::Done(etag) = self.write(api, &upload, part, &When::Absent).await? {
            return Ok(self.object(part, etag, false));
        }
        let destination = self.destination(part);
        let race =
            || DeliverError::Retry { after: None, source: Box::new(InTheWay::Race(destination.clone())) };
        let there = api.properties(&part.name).await?.ok_or_else(race)?;
        if there.reply.header(TAG) != Some(&part.tag) {
            let advice =
                format!("look at {destination}: move it away, or give this collector its own layout");
            return Err(DeliverError::Blocked { advice, source: Box::new(InTheWay::Foreign(destination)) });
        }
        if let Some(found) = self.same(part, &there) {
            return Ok(found);
        }
        match self.write(api, &upload, part, &When::Is(&there.etag)).await? {
            Written::Done(etag) => Ok(self.object(part, etag, false)),
            Written::Refused => Err(race()),
            Written::Immutable => {
                let held = there.reply.header(EVENTS).and_then(|v| v.parse::<u32>().ok()).unwrap_or(0);
                if held >= part.encoded.events
                    && let Some(sha256) = there.reply.header(SHA256).and_then(hex::decode)
                {
                    let object = self.object(part, there.etag.clone(), true);
                    return Ok(Object { sha256, len: there.len, events: held, ..object });
                }
                let advice = format!("look at {destination}: its events are not complete");
                Err(DeliverError::Blocked { advice, source: Box::new(InTheWay::Immutable(destination)) })
            }
        }
    }

    async fn write(
        &self,
        api: &Api,
        upload: &Upload<'_>,
        part: &Part,
        when: &When<'_>,
    ) -> Result<Written, DeliverError> {
        if upload.bytes.len() <= self.single_put_max {
            api.put(upload, when).await
        } else {
            api.put_blocks(upload, when, self.block_size, &part.encoded.sha256).await
        }
    }

    /// The blob that is there, if it holds the same events.
    fn same(&self, part: &Part, there: &Properties) -> Option<Object> {
        let digest = |name| there.reply.header(name).and_then(hex::decode);
        let (canonical, sha256) = (digest(CANONICAL)?, digest(SHA256)?);
        let ours = part.encoded.bytes.len() as u64;
        // the same bytes have the same length, or the blob is not what its metadata says
        if canonical != part.encoded.canonical || (sha256 == part.encoded.sha256 && there.len != ours) {
            return None;
        }
        let object = self.object(part, there.etag.clone(), true);
        Some(Object { sha256, len: there.len, ..object })
    }

    fn destination(&self, part: &Part) -> String {
        redact(self.api.target.blob(&part.name).as_str())
    }

    fn object(&self, part: &Part, etag: String, found: bool) -> Object {
        Object {
            destination: self.destination(part),
            sha256: part.encoded.sha256,
            len: part.encoded.bytes.len() as u64,
            events: part.encoded.events,
            server_id: crate::http::classify::id(etag.trim_matches('"'), 100),
            found,
        }
    }
}
