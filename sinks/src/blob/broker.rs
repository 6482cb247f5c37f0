//! A broker of shared access signatures: a front end that hands out a short-lived upload URL for
//! a named host, so that no host holds a key of the account.
//!
//! ```text
//! POST url                    Content-Type: application/json, Authorization: Bearer SECRET (if set)
//! {"host":"web-07","container":"telemetry"}
//!
//! 200 {"url":"https://acct.blob.example/telemetry?sv=…&sig=…"}
//! ```
//!
//! The answer is the container's URL with a SAS for it (permissions read, create, write). It is
//! kept until shortly before the SAS's own end (`se`), and given up when the service refuses it.
//! Its host and container must be those of the settings: a broker cannot send events elsewhere.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use tidegate_proto::time;
use tokio::sync::Mutex;

use crate::DeliverError;
use crate::http::classify::{self, BadReply, Class};
use crate::http::{Client, Method, Request, Url, redact};
use crate::secret::{Secret, SecretRef};

/// A SAS is renewed so long before its end, or at half its life if that is shorter.
const MARGIN: Duration = Duration::from_secs(300);

/// `[….sas_broker]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerConfig {
    /// `url`
    pub url: String,
    /// `host`: the name that this machine asks under.
    pub host: String,
    /// `token`: a bearer token for the broker, a secret's reference.
    #[serde(default)]
    pub token: Option<SecretRef>,
}

#[derive(Clone, Debug)]
struct Kept {
    sas: Secret<String>,
    renew: SystemTime,
}

/// Asks the broker and keeps its answer.
#[derive(Debug)]
pub(super) struct Broker {
    client: Client,
    url: Url,
    host: String,
    token: Option<SecretRef>,
    kept: Mutex<Option<Kept>>,
}

/// An answer that is no SAS for our container.
#[derive(Debug, thiserror::Error)]
#[error("the broker's answer cannot be used: {0}")]
struct NoSas(&'static str);

#[derive(Deserialize)]
struct Answer {
    url: String,
}

impl Broker {
    /// Asks nobody yet. What is wrong is told in words.
    pub fn new(config: &BrokerConfig, client: Client) -> Result<Broker, String> {
        let url: Option<Url> = config.url.parse().ok();
        let plain = |u: &Url| {
            matches!(u.scheme(), "http" | "https") && u.username().is_empty() && u.password().is_none()
        };
        let url = url.filter(plain).ok_or("url is no http or https URL without user and password")?;
        if config.host.is_empty() || config.host.len() > 255 {
            return Err("host is 1 to 255 characters".to_owned());
        }
        let (host, token) = (config.host.clone(), config.token.clone());
        Ok(Broker { client, url, host, token, kept: Mutex::default() })
    }

    /// A SAS for the container, and whether it was there already.
    pub async fn sas(&self, container: &Url) -> Result<(Secret<String>, bool), DeliverError> {
        let mut kept = self.kept.lock().await;
        let now = self.client.clock().now();
        if let Some(k) = kept.as_ref().filter(|k| k.renew > now) {
            return Ok((k.sas.clone(), true));
        }
        let fresh = self.fetch(container, now).await?;
        let sas = fresh.sas.clone();
        *kept = Some(fresh);
        Ok((sas, false))
    }

    /// Gives up a SAS that the service has refused.
    pub async fn give_up(&self) {
        *self.kept.lock().await = None;
    }

    async fn fetch(&self, container: &Url, now: SystemTime) -> Result<Kept, DeliverError> {
        let name = container.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
        let body = serde_json::json!({ "host": self.host, "container": name }).to_string();
        let mut request = Request::new(Method::POST, self.url.clone());
        request = request.header("content-type", "application/json")?.body(body);
        if let Some(token) = &self.token {
            let token = token.resolve().map_err(|e| DeliverError::Stop {
                advice: "mend sas_broker.token".to_owned(),
                source: Box::new(e),
            })?;
            request = request.secret_header("authorization", &format!("Bearer {}", token.expose()))?;
        }
        let reply = self.client.send(request).await?;
        if !(200..=299).contains(&reply.status) {
            let source = Box::new(BadReply::new(&redact(self.url.as_str()), reply.status, ""));
            let after = reply.header("retry-after").and_then(|v| classify::retry_after(v, now));
            return Err(match classify::status(reply.status) {
                Class::Stop | Class::Refused => {
                    let advice =
                        "check sas_broker: its url, its token, and that it knows this host".to_owned();
                    DeliverError::Stop { advice, source }
                }
                _ => DeliverError::Retry { after, source },
            });
        }
        let retry = |why| DeliverError::Retry { after: None, source: Box::new(NoSas(why)) };
        let answer: Answer = serde_json::from_slice(reply.body.bytes()).map_err(|_| retry("no url in it"))?;
        let url: Url = answer.url.parse().map_err(|_| retry("no URL"))?;
        let place =
            |u: &Url| (u.scheme().to_owned(), u.host_str().map(str::to_owned), u.port_or_known_default());
        if place(&url) != place(container) || url.path().trim_end_matches('/') != container.path() {
            return Err(DeliverError::Stop {
                advice: "the broker names another container than the settings: mend one of them".to_owned(),
                source: Box::new(NoSas("another container")),
            });
        }
        let sas = url.query().unwrap_or_default();
        let end = url.query_pairs().find(|(k, _)| k == "se").and_then(|(_, v)| end_of(&v));
        let end = end.ok_or_else(|| retry("the SAS tells no end"))?;
        let life = end.duration_since(now).map_err(|_| retry("the SAS has ended"))?;
        Ok(Kept { sas: Secret::new(sas.to_owned()), renew: now + life.saturating_sub(MARGIN.min(life / 2)) })
    }
}

/// The time in `se`: an RFC 3339 time, or a date.
fn end_of(text: &str) -> Option<SystemTime> {
    let whole = if text.contains('T') { text.to_owned() } else { format!("{text}T00:00:00Z") };
    let ns = u64::try_from(time::parse_rfc3339(&whole)?).ok()?;
    Some(UNIX_EPOCH + Duration::from_nanos(ns))
}
