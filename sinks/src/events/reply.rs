//! What an answer of the endpoint means: one pure function over status, headers
//! and body.
//!
//! | status | outcome |
//! |---|---|
//! | 200 with a JSON object or nothing, 204 | delivered, but for what `rej`/`efi` name |
//! | 200 with anything else, other 2xx | not understood: again |
//! | 413 | halves; a single event is rejected |
//! | 408, 409, 421, 423, 425, 429, 500, 502, 503, 504, other 5xx | again, after `Retry-After` |
//! | 400, other 4xx | rejected for good |
//! | 401, 403, 404, 405, 407, 410, 415, 3xx, 501, 505 | hold: nothing passes until someone acts |
//!
//! `Retry-After` beside any other answer is kept by the [client](crate::http::Client::rest).
//!
//! The public clients drop on the last row; events are not worth less because a token
//! was mistyped, so here they wait. A refusal that names killed tenants holds these
//! alone, and the others go again at once.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::RejectReason;
use crate::http::Body;
use crate::http::classify::{printable, printable_body, retry_after};

/// More body than that is no acknowledgement: an answer about 500 events has a few thousand bytes.
const ACK_BYTES_MAX: usize = 256 * 1024;
/// A tenant is held at most so long by one answer: 30 days.
pub(super) const KILL_MAX: Duration = Duration::from_secs(30 * 86_400);

/// The parts of an answer that matter.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub status: u16,
    /// `Retry-After` as it came.
    pub retry_after: Option<String>,
    /// When it was sent, by the server's clock.
    pub sent_at: Option<SystemTime>,
    /// Every line of `kill-tokens`.
    pub kill_tokens: Vec<String>,
    /// `kill-duration`, or `kill-duration-seconds`.
    pub kill_duration: Option<String>,
    /// `time-delta-millis`.
    pub time_delta: Option<String>,
    /// `Collector-Error`: what went wrong, for people.
    pub collector_error: Option<String>,
    /// The server's name for the request.
    pub request_id: String,
    /// The body, as far as it came.
    pub body: Body,
}

/// Which tenants the endpoint wants nothing of, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kill {
    /// Full tokens, what follows a `:` cut off.
    pub tokens: Vec<String>,
    /// `None`: for the events of this request only.
    pub duration: Option<Duration>,
}

/// What becomes of the request's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Held by the far side, but for these: place in the request, reason, words.
    Delivered(Vec<(usize, RejectReason, String)>),
    /// Not known to be held.
    Retry { after: Option<Duration>, why: String },
    /// Halves may pass, or tell which events are refused.
    Split(String),
    /// None will ever be taken.
    Reject(RejectReason, String),
    /// Nothing passes until someone acts.
    Stop { after: Option<Duration>, advice: &'static str, why: String },
}

#[derive(Debug, Default, Deserialize)]
struct Ack {
    #[serde(default, deserialize_with = "count")]
    acc: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    rej: Option<u64>,
    #[serde(default, deserialize_with = "reasons")]
    efi: BTreeMap<String, Which>,
}

/// A number, also as text.
fn count<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
    let number = match Value::deserialize(input)? {
        Value::Null => return Ok(None),
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_u64(),
    };
    number.map(Some).ok_or_else(|| D::Error::custom("not a count"))
}

/// Some services write an empty map as null, a list or a text.
fn reasons<'de, D: Deserializer<'de>>(input: D) -> Result<BTreeMap<String, Which>, D::Error> {
    match Value::deserialize(input)? {
        Value::Null => Ok(BTreeMap::new()),
        Value::Array(list) if list.is_empty() => Ok(BTreeMap::new()),
        Value::String(text) if text.is_empty() => Ok(BTreeMap::new()),
        other => serde_json::from_value(other).map_err(D::Error::custom),
    }
}

/// Which events failed for a reason.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Which {
    Places(Vec<u64>),
    Word(String),
    Other(serde::de::IgnoredAny),
}

impl Reply {
    /// What the answer to a request of `events` events means. `now` is for dates in `Retry-After`
    /// where the answer tells no time of its own.
    pub fn outcome(&self, events: usize, now: SystemTime) -> Outcome {
        let after = self.retry_after.as_deref();
        let after = after.and_then(|text| retry_after(text, self.sent_at.unwrap_or(now)));
        let why = self.words();
        match self.status {
            200 => self.acknowledged(events),
            204 => Outcome::Delivered(Vec::new()),
            413 if events > 1 => Outcome::Split(why),
            413 => Outcome::Reject(RejectReason::TooLarge, why),
            401 => Outcome::Stop { after, advice: "check the tenant tokens of this sink", why },
            403 => Outcome::Stop {
                after,
                advice: "ask the endpoint's operator: over quota, or not allowed",
                why,
            },
            407 => Outcome::Stop { after, advice: "check the user and password of the proxy", why },
            404 | 405 | 410 | 415 | 501 | 505 => Outcome::Stop {
                after,
                advice: "check the sink's url: nothing there speaks this protocol",
                why,
            },
            300..=399 => Outcome::Stop {
                after,
                advice: "check the sink's url: it is answered with a redirect, which is not followed",
                why,
            },
            // the notes name 408 and 429 alone; the others pass by themselves, and nothing is dropped for them
            408 | 409 | 421 | 423 | 425 | 429 | 500..=599 => Outcome::Retry { after, why },
            400..=499 => Outcome::Reject(RejectReason::Invalid, why),
            _ => Outcome::Retry { after, why },
        }
    }

    fn acknowledged(&self, events: usize) -> Outcome {
        let again = |why: &str| Outcome::Retry { after: None, why: format!("status 200, {why}") };
        let body = match &self.body {
            Body::Whole(body) if body.len() <= ACK_BYTES_MAX => body,
            Body::Whole(_) | Body::TooLong(_) => return again("but more body than an acknowledgement has"),
            Body::Cut(_) => return again("but the body was cut short"),
        };
        let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body).trim_ascii();
        let ack: Ack = if body.is_empty() {
            Ack::default()
        } else if !body.starts_with(b"{") {
            return again("but the body is no JSON object");
        } else {
            match serde_json::from_slice(body) {
                Ok(ack) => ack,
                Err(_) => return again("but the body is no acknowledgement"),
            }
        };
        let mut rejected: Vec<Option<(RejectReason, String)>> = vec![None; events];
        for (reason, which) in &ack.efi {
            let kind = kind_of(reason);
            // once a reason, and only where it names events
            let detail = LazyCell::new(|| words(&format!("rejected by the endpoint: {reason}")));
            let entry = || Some((kind, detail.clone()));
            match which {
                Which::Word(word) if word == "all" => {
                    rejected.iter_mut().filter(|r| r.is_none()).for_each(|r| *r = entry());
                }
                Which::Places(places) => {
                    for place in places {
                        let slot = usize::try_from(*place).ok().and_then(|n| rejected.get_mut(n));
                        if let Some(slot) = slot.filter(|s| s.is_none()) {
                            *slot = entry();
                        }
                    }
                }
                Which::Word(_) | Which::Other(_) => {}
            }
        }
        let named = rejected.iter().flatten().count();
        let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let said = ack.rej.map_or(0, count);
        if said > named {
            let rest =
                || Some((RejectReason::Invalid, "rejected by the endpoint without a reason".to_owned()));
            if said < events {
                return Outcome::Split(format!(
                    "{said} of {events} events were rejected, {named} of them named"
                ));
            }
            rejected.iter_mut().filter(|r| r.is_none()).for_each(|r| *r = rest());
        } else if let Some(accepted) = ack.acc.map(count)
            && accepted < events - named
        {
            let why = format!("the endpoint speaks of {accepted} of {events} events only");
            return if events > 1 { Outcome::Split(why) } else { again(&why) };
        }
        let list = rejected.into_iter().enumerate();
        Outcome::Delivered(list.filter_map(|(n, r)| r.map(|(reason, detail)| (n, reason, detail))).collect())
    }

    /// Which tenants are to be held. Without a duration that is understood nothing is.
    pub fn kill(&self) -> Option<Kill> {
        let tokens: Vec<String> = self
            .kill_tokens
            .iter()
            .flat_map(|line| line.split(','))
            .map(|token| token.split(':').next().unwrap_or_default().trim().to_owned())
            .filter(|token| !token.is_empty())
            .collect();
        let duration = self.kill_duration.as_deref()?.trim();
        let duration = if duration.eq_ignore_ascii_case("this-request-only") {
            None
        } else {
            Some(seconds(duration).filter(|d| !d.is_zero())?.min(KILL_MAX))
        };
        (!tokens.is_empty()).then_some(Kill { tokens, duration })
    }

    /// Status and what the endpoint says of it, at most 200 characters.
    fn words(&self) -> String {
        let body = self.body.bytes();
        let said = match &self.collector_error {
            Some(error) => error.clone(),
            None => printable_body(body, 160),
        };
        words(&format!("status {}: {}", self.status, said)).trim_end_matches([' ', ':']).to_owned()
    }
}

/// At most 200 characters, none that a terminal would obey, and no secret.
pub(super) fn words(text: &str) -> String {
    printable(text, 200)
}

/// The reason words are the endpoint's own and not listed anywhere.
fn kind_of(reason: &str) -> RejectReason {
    let reason = reason.to_ascii_lowercase();
    if ["large", "size", "big", "long"].iter().any(|w| reason.contains(w)) {
        RejectReason::TooLarge
    } else {
        RejectReason::Invalid
    }
}

/// Digits only; more than a number holds is the longest time.
fn seconds(text: &str) -> Option<Duration> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| Duration::from_secs(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests;
