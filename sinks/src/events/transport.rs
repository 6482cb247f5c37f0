//! The way to the endpoint: headers out, the parts of a reply that matter back.

use bytes::Bytes;

use super::envelope::SDK_VERSION;
use super::reply::Reply;
use crate::DeliverError;
use crate::http::classify::{id, sent_at};
use crate::http::{Client, Method, Request, Url};

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
    pub client: Client,
    pub url: Url,
    /// The URL without query and user, for receipts and logs.
    pub destination: String,
}

impl Transport {
    pub async fn post(&self, head: &Head, body: Bytes) -> Result<Reply, DeliverError> {
        let mut request = Request::new(Method::POST, self.url.clone())
            .header("content-type", "application/x-json-stream; charset=utf-8")?
            .secret_header("apikey", &head.tokens)?
            .header("client-id", "NO_AUTH")?
            .header("sdk-version", SDK_VERSION)?
            .header("upload-time", &head.upload_time_ms.to_string())?;
        if let Some(delta) = &head.time_delta {
            request = request.header("time-delta-to-apply-millis", delta)?;
        }
        if let Some(encoding) = head.encoding {
            request = request.header("content-encoding", encoding)?;
        }
        self.exchange(request.body(body)).await
    }

    /// Asks what the address takes, as browsers do before they post.
    pub async fn options(&self) -> Result<Reply, DeliverError> {
        self.exchange(Request::new(Method::OPTIONS, self.url.clone())).await
    }

    async fn exchange(&self, request: Request) -> Result<Reply, DeliverError> {
        let reply = self.client.send(request).await?;
        let text = |name: &str| reply.header(name).map(str::to_owned);
        let lines = reply.headers.get_all("kill-tokens").iter().filter_map(|v| v.to_str().ok());
        Ok(Reply {
            status: reply.status,
            retry_after: text("retry-after"),
            sent_at: sent_at(&reply),
            kill_tokens: lines.map(str::to_owned).collect(),
            kill_duration: text("kill-duration").or_else(|| text("kill-duration-seconds")),
            time_delta: text("time-delta-millis"),
            collector_error: text("collector-error"),
            request_id: ["x-ms-request-id", "request-id", "ms-cv"]
                .into_iter()
                .find_map(text)
                .map(|text| id(&text, 200))
                .unwrap_or_default(),
            body: reply.body,
        })
    }
}
