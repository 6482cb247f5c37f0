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
//! kept until shortly before the SAS's own end (`se`, by the clock of the answer's `Date`), or
//! without limit where a stored policy (`si`) ends it, and given up when the service refuses it.
//! Its host and container must be those of the settings: a broker cannot send events elsewhere.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use tidegate_proto::time;

use super::auth::is_sas;
use super::error::NotUnderstood;
use super::kept::{Fresh, Kept};
use crate::DeliverError;
use crate::http::classify::{self, BadReply, Class};
use crate::http::{Client, Method, Request, Url, redact};
use crate::secret::{Secret, SecretRef};

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

/// Asks the broker and keeps its answer.
#[derive(Debug)]
pub(super) struct Broker {
    client: Client,
    url: Url,
    host: String,
    token: Option<SecretRef>,
    pub kept: Kept,
}

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
        Ok(Broker { client, url, host, token, kept: Kept::default() })
    }

    /// A SAS for the container, and its number.
    pub async fn sas(&self, container: &Url) -> Result<(Secret<String>, u64), DeliverError> {
        let now = self.client.clock().now();
        self.kept.or(now, self.fetch(container, now)).await
    }

    async fn fetch(&self, container: &Url, now: SystemTime) -> Result<Fresh, DeliverError> {
        let name = container.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
        let body = serde_json::json!({ "host": self.host, "container": name }).to_string();
        let mut request = Request::new(Method::POST, self.url.clone());
        request = request.header("content-type", "application/json")?.body(body);
        if let Some(token) = &self.token {
            let token = token.resolve().map_err(|e| DeliverError::Stop {
                after: None,
                advice: "mend sas_broker.token".to_owned(),
                source: Box::new(e),
            })?;
            request = request.secret_header("authorization", &format!("Bearer {}", token.expose()))?;
        }
        let reply = self.client.send(request).await?;
        let broker = format!("the SAS broker at {}", redact(self.url.as_str()));
        if let Some(to) = classify::moved(&reply) {
            let text = format!("{broker} answered {}: {to} (sas_broker.url)", reply.status);
            return Err(NotUnderstood(text).into());
        }
        if !(200..=299).contains(&reply.status) {
            let source = Box::new(BadReply::new(&redact(self.url.as_str()), reply.status, ""));
            let after = classify::wait(&reply, now);
            return Err(match classify::status(reply.status) {
                Class::Stop | Class::Refused => {
                    let advice =
                        "check sas_broker: its url, its token, and that it knows this host".to_owned();
                    DeliverError::Stop { after, advice, source }
                }
                _ => DeliverError::Retry { after, source },
            });
        }
        let no_sas = |why: &str| {
            NotUnderstood(format!(
                "{broker} gave no SAS that can be used: {why}; check sas_broker.url, and what the broker hands out"
            ))
        };
        let retry = |why: &str| DeliverError::from(no_sas(why));
        let answer: Answer = serde_json::from_slice(reply.body.bytes())
            .map_err(|_| retry("its answer is no JSON with a url"))?;
        let url: Url = answer.url.parse().map_err(|_| retry("its url is no URL"))?;
        let place =
            |u: &Url| (u.scheme().to_owned(), u.host_str().map(str::to_owned), u.port_or_known_default());
        if place(&url) != place(container) || url.path().trim_end_matches('/') != container.path() {
            return Err(DeliverError::Stop {
                after: None,
                advice: "the broker names another container than the settings: mend one of them".to_owned(),
                source: Box::new(no_sas("it is for another container")),
            });
        }
        // kept, it would be shown and refused until its end
        let sas =
            url.query().filter(|query| is_sas(query)).ok_or_else(|| retry("it has no signature (sig)"))?;
        let sas = Secret::new(sas.to_owned());
        let told = |name: &str| url.query_pairs().find(|(k, _)| k == name).map(|(_, v)| v);
        let Some(end) = told("se") else {
            // the end is the policy's, which the service alone knows
            return match told("si") {
                Some(_) => Ok(Fresh { secret: sas, life: None }),
                None => Err(retry("it tells neither an end (se) nor a policy (si)")),
            };
        };
        let end = end_of(&end).ok_or_else(|| retry("it has an end (se) that is no time"))?;
        // by their clock, as ours may be wrong
        let theirs = classify::sent_at(&reply);
        match end.duration_since(theirs.unwrap_or(now)) {
            Ok(life) if !life.is_zero() => Ok(Fresh { secret: sas, life: Some(life) }),
            _ => {
                let clock = classify::skew(&reply, now).map(|skew| format!("; {skew}"));
                Err(retry(&format!("it has ended{}", clock.unwrap_or_default())))
            }
        }
    }
}

/// The time in `se`, in one of the forms that the service takes: `YYYY-MM-DD`,
/// `YYYY-MM-DDThh:mmZ`, `YYYY-MM-DDThh:mm:ssZ`, with an offset for `Z` and digits behind the
/// seconds.
pub(super) fn end_of(text: &str) -> Option<SystemTime> {
    let whole = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        // no seconds: a zone, or its sign, follows the minutes
        _ => match text.split_at_checked(16)? {
            (minutes, zone) if zone.starts_with(['Z', '+', '-']) => format!("{minutes}:00{zone}"),
            _ => text.to_owned(),
        },
    };
    let ns = u64::try_from(time::parse_rfc3339(&whole)?).ok()?;
    Some(UNIX_EPOCH + Duration::from_nanos(ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_end_that_the_service_takes_is_read() {
        let at = |text: &str| end_of(text).map(|t| t.duration_since(UNIX_EPOCH).unwrap().as_secs());
        let day = 1_907_712_000;
        for (text, want) in [
            ("2030-06-15", day),
            ("2030-06-15T01:02Z", day + 3720),
            ("2030-06-15T01:02:03Z", day + 3723),
            ("2030-06-15T01:02:03.5000000Z", day + 3723),
            ("2030-06-15T01:02+01:00", day + 120),
            ("2030-06-15T01:02:03-00:30", day + 5523),
        ] {
            assert_eq!(at(text), Some(want), "{text}");
        }
        for bad in [
            "",
            "2030",
            "2030-13-01",
            "2030-06-15T",
            "2030-06-15T01:02",
            "2030-06-15T01Z",
            "soon, I think, Z",
        ] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }
}
