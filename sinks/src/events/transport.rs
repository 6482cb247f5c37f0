//! The way to the endpoint: headers out, the parts of a reply that matter back.

use bytes::Bytes;
use reqwest::header::HeaderMap;

use super::envelope::SDK_VERSION;
use super::reply::{Body, REPLY_BYTES_MAX, Reply, words};
use crate::DeliverError;

/// Headers that differ between requests.
#[derive(Debug)]
pub(super) struct Head {
    /// Full tenant tokens, joined by commas.
    pub tokens: String,
    pub upload_time_ms: u128,
    pub time_delta: Option<String>,
    pub encoding: Option<&'static str>,
}

#[derive(Debug)]
pub(super) struct Transport {
    pub client: reqwest::Client,
    pub url: reqwest::Url,
    /// The URL without query and user, for receipts and logs.
    pub destination: String,
}

impl Transport {
    pub fn destination(&self) -> &str {
        &self.destination
    }

    pub async fn post(&self, head: &Head, body: Bytes) -> Result<Reply, DeliverError> {
        let mut tokens = reqwest::header::HeaderValue::from_str(&head.tokens).map_err(|e| {
            DeliverError::Stop { advice: "check the tenant tokens".to_owned(), source: Box::new(e) }
        })?;
        tokens.set_sensitive(true);
        let mut request = self
            .client
            .post(self.url.clone())
            .header("Content-Type", "application/x-json-stream; charset=utf-8")
            .header("apikey", tokens)
            .header("Client-Id", "NO_AUTH")
            .header("SDK-Version", SDK_VERSION)
            .header("Upload-Time", head.upload_time_ms.to_string());
        if let Some(delta) = &head.time_delta {
            request = request.header("time-delta-to-apply-millis", delta);
        }
        if let Some(encoding) = head.encoding {
            request = request.header("Content-Encoding", encoding);
        }
        self.receive(request.body(body)).await
    }

    pub async fn options(&self) -> Result<Reply, DeliverError> {
        self.receive(self.client.request(reqwest::Method::OPTIONS, self.url.clone())).await
    }

    async fn receive(&self, request: reqwest::RequestBuilder) -> Result<Reply, DeliverError> {
        let mut response = request
            .send()
            .await
            .map_err(|e| DeliverError::Retry { after: None, source: Box::new(e.without_url()) })?;
        let mut body = Vec::new();
        let body = loop {
            match response.chunk().await {
                Ok(None) => break Body::Whole(body),
                Ok(Some(chunk)) if body.len() + chunk.len() > REPLY_BYTES_MAX => break Body::TooLong,
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Err(_) => break Body::Cut,
            }
        };
        Ok(understood(response.status().as_u16(), response.headers(), body))
    }
}

/// Takes the headers that matter.
fn understood(status: u16, headers: &HeaderMap, body: Body) -> Reply {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let lines = headers.get_all("kill-tokens").iter().filter_map(|v| v.to_str().ok());
    Reply {
        status,
        retry_after: text("retry-after"),
        kill_tokens: lines.map(str::to_owned).collect(),
        kill_duration: text("kill-duration").or_else(|| text("kill-duration-seconds")),
        time_delta: text("time-delta-millis"),
        collector_error: text("collector-error"),
        request_id: ["x-ms-request-id", "request-id", "ms-cv"]
            .into_iter()
            .find_map(text)
            .map(|id| words(&id))
            .unwrap_or_default(),
        body,
    }
}
