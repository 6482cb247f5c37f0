//! What the dispatcher should do about a reply or a failure.
//!
//! | reply | becomes |
//! |---|---|
//! | 2xx | [`Class::Ok`] |
//! | 401, 403, 404, 407, 410 | [`Class::Stop`]: credentials, address or proxy need someone |
//! | 413 | [`Class::Split`] |
//! | other 4xx but 408, 409, 421, 423, 425, 429 | [`Class::Refused`]: the sink knows what it means |
//! | everything else, redirects included | [`Class::Retry`] |
//!
//! Of failures before a reply: a pin that does not match, a certificate that does not verify and
//! an address that is none are `Stop`; DNS, connecting, time-outs, cut replies and what is not
//! understood are `Retry`.

use std::time::{Duration, SystemTime};

use super::{HttpError, Reply};
use crate::DeliverError;

/// The longest `Retry-After` that is believed.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a status means where the sink knows nothing better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Done.
    Ok,
    /// Try again.
    Retry,
    /// Send less at once.
    Split,
    /// Someone must act.
    Stop,
    /// The request itself is refused.
    Refused,
}

/// The class of a status.
#[must_use]
pub fn status(status: u16) -> Class {
    match status {
        200..=299 => Class::Ok,
        401 | 403 | 404 | 407 | 410 => Class::Stop,
        413 => Class::Split,
        408 | 409 | 421 | 423 | 425 | 429 => Class::Retry,
        400..=499 => Class::Refused,
        _ => Class::Retry,
    }
}

/// Reads `Retry-After`: seconds or an HTTP date (RFC 9110, section 10.2.3). A date that has
/// passed is zero; more than a day is a day; what is neither is `None`.
#[must_use]
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        value.parse().map_or(RETRY_AFTER_MAX, Duration::from_secs)
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// A reply that was not the one hoped for. Holds no secret.
#[derive(Debug, thiserror::Error)]
#[error("{destination} answered {status}{}{said}", if said.is_empty() { "" } else { ": " })]
pub struct BadReply {
    /// The URL without user and query.
    pub destination: String,
    /// The status.
    pub status: u16,
    /// What the server said, at most 200 characters, printable.
    pub said: String,
}

impl BadReply {
    /// Notes a reply; `said` is cut and freed from control characters.
    #[must_use]
    pub fn new(destination: &str, status: u16, said: &str) -> BadReply {
        BadReply { destination: destination.to_owned(), status, said: printable(said, 200) }
    }
}

/// At most `max` characters, what is not printable left out.
#[must_use]
pub fn printable(text: &str, max: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(max).collect()
}

/// The error of a reply that is not [`Class::Ok`], where the sink knows nothing better.
/// `advice` is for [`Class::Stop`] and [`Class::Refused`]; the latter is a `Retry` here, as what
/// is not understood always is.
#[must_use]
pub fn reply_error(destination: &str, reply: &Reply, now: SystemTime, advice: &str) -> DeliverError {
    let after = reply.header("retry-after").and_then(|v| retry_after(v, now));
    let said = reply.header("location").map_or_else(
        || String::from_utf8_lossy(reply.body.bytes()).into_owned(),
        |to| format!("redirected to {}, which is not followed", super::redact(to)),
    );
    let source = Box::new(BadReply::new(destination, reply.status, &said));
    match status(reply.status) {
        Class::Stop => DeliverError::Stop { advice: advice.to_owned(), source },
        Class::Split => DeliverError::Split { source },
        Class::Ok | Class::Retry | Class::Refused => DeliverError::Retry { after, source },
    }
}

impl From<HttpError> for DeliverError {
    fn from(error: HttpError) -> DeliverError {
        let advice = match &error {
            HttpError::Pin(miss) => format!(
                "the certificate of {} matches no pin: find out whether its key was changed or someone \
                 listens; then add the new pin",
                miss.host
            ),
            HttpError::Certificate { .. } => {
                "check the server's certificate, the private CA (tls.ca_file) and this machine's clock"
                    .to_owned()
            }
            HttpError::Insecure(_) => "use https, or remove the pins".to_owned(),
            HttpError::Request(_) => "check the address in the configuration".to_owned(),
            _ => return DeliverError::Retry { after: None, source: Box::new(error) },
        };
        DeliverError::Stop { advice, source: Box::new(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_or_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let s = |n| Some(Duration::from_secs(n));
        assert_eq!(retry_after("120", now), s(120));
        assert_eq!(retry_after(" 0 ", now), s(0));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:50:37 GMT", now), s(60));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now), s(0));
        assert_eq!(retry_after("Fri, 01 Jan 2100 00:00:00 GMT", now), Some(RETRY_AFTER_MAX));
        assert_eq!(retry_after("99999999999999999999999", now), Some(RETRY_AFTER_MAX));
        for bad in ["", "soon", "-5", "1.5"] {
            assert_eq!(retry_after(bad, now), None, "{bad}");
        }
    }

    #[test]
    fn every_status_has_its_class() {
        for s in 0..=1000_u16 {
            let expected = match s {
                200..=299 => Class::Ok,
                401 | 403 | 404 | 407 | 410 => Class::Stop,
                413 => Class::Split,
                400 | 402 | 405 | 406 | 411 | 412 | 414..=420 | 422 | 424 | 426..=428 | 430..=499 => {
                    Class::Refused
                }
                _ => Class::Retry,
            };
            assert_eq!(status(s), expected, "{s}");
        }
    }

    #[test]
    fn what_a_server_says_is_cut_and_made_printable() {
        let said = "x\u{1b}[31m\n".repeat(100);
        let bad = BadReply::new("http://h/", 500, &said);
        assert!(bad.said.chars().count() == 200 && !bad.to_string().contains('\u{1b}'));
    }
}
