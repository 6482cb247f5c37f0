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
//! Of failures before a reply: a pin that does not match, a certificate that does not verify, one of
//! ours that the server does not take, no version of TLS in common, a proxy that refuses the user and
//! an address that is none are `Stop`; DNS, connecting, time-outs, cut replies and what is not
//! understood are `Retry`.

use std::time::{Duration, SystemTime};

use super::tls::Refusal;
use super::{HttpError, Reply};
use crate::DeliverError;
use crate::secret::known;

/// What to do when the proxy asks for another user or password.
pub(crate) const PROXY_ADVICE: &str = "check http.proxy: its user and password";

/// The longest `Retry-After` that is believed.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// The wait that a reply asks for. A date counts from when the reply was sent, by the server's own
/// clock if it tells: ours may be another.
#[must_use]
pub fn wait(reply: &Reply, now: SystemTime) -> Option<Duration> {
    retry_after(reply.header("retry-after")?, sent_at(reply).unwrap_or(now))
}

/// Clocks that differ by more are told of: Azure refuses requests then.
const SKEW_MAX: Duration = Duration::from_secs(15 * 60);

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

/// When the server sent a reply, by its own clock.
#[must_use]
pub fn sent_at(reply: &Reply) -> Option<SystemTime> {
    httpdate::parse_http_date(reply.header("date")?).ok()
}

/// Tells, in words, when this machine's clock is far from that of the server that replied.
#[must_use]
pub fn skew(reply: &Reply, now: SystemTime) -> Option<String> {
    let theirs = sent_at(reply)?;
    let (off, word) = match now.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead"),
        Err(e) => (e.duration(), "behind"),
    };
    let minutes = off.as_secs() / 60;
    (off > SKEW_MAX).then(|| format!("this machine's clock is {minutes} minutes {word} of the service's"))
}

/// What is said of a redirect begins with it.
const REDIRECTED: &str = "redirected to ";

/// What is said of a redirect; its query is left out, and so are secrets in its path.
fn redirected(to: &str) -> String {
    let to = printable(&super::redact(to), 140);
    format!("{REDIRECTED}{to}, which is not followed: check the address")
}

/// What is said of a reply that is a redirect. Other replies may tell an address too, but send nobody there.
#[must_use]
pub fn moved(reply: &Reply) -> Option<String> {
    reply.header("location").filter(|_| matches!(reply.status, 300..=399)).map(redirected)
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

    /// The same without what the server said, but for where it redirects to.
    #[must_use]
    pub fn outline(&self) -> String {
        if matches!(self.status, 300..=399) && self.said.starts_with(REDIRECTED) {
            return self.to_string();
        }
        format!("{} answered {}", self.destination, self.status)
    }
}

/// At most `max` characters of what a far side says: what is not printable is left out, and the
/// secrets that this process has used are blanked.
#[must_use]
pub fn printable(text: &str, max: usize) -> String {
    // in this order: what is left out may part a secret, and a cut may go through one
    let text: String = text.chars().filter(|c| !c.is_control()).take(known::MOST + 1).collect();
    known::blank(&text).chars().take(max).collect()
}

/// The same for a body, which need be no text.
#[must_use]
pub fn printable_body(body: &[u8], max: usize) -> String {
    // more than is looked at, whatever it is
    let most = 4 * (known::MOST + 1);
    printable(&String::from_utf8_lossy(body.get(..most).unwrap_or(body)), max)
}

/// A far side's name for a request or an object, at most `max` characters, for receipts: nothing
/// where it has characters that no name has, `***` where it holds a secret.
#[must_use]
pub fn id(text: &str, max: usize) -> String {
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return String::new();
    }
    let shown = printable(text, usize::MAX);
    if shown.contains(known::HIDDEN) { known::HIDDEN.to_owned() } else { shown.chars().take(max).collect() }
}

/// The error of a reply that is not [`Class::Ok`], where the sink knows nothing better.
/// `advice` is for [`Class::Stop`] and [`Class::Refused`]; the latter is a `Retry` here, as what
/// is not understood always is.
#[must_use]
pub fn reply_error(destination: &str, reply: &Reply, now: SystemTime, advice: &str) -> DeliverError {
    let after = wait(reply, now);
    let said = moved(reply).unwrap_or_else(|| printable_body(reply.body.bytes(), 200));
    let source = Box::new(BadReply::new(destination, reply.status, &said));
    match status(reply.status) {
        Class::Stop => DeliverError::Stop { after, advice: advice.to_owned(), source },
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
            HttpError::ClientCertificate { .. } => Refusal::ClientCertificate.advice().to_owned(),
            HttpError::Version { .. } => Refusal::Version.advice().to_owned(),
            HttpError::ProxyAuth(_) => PROXY_ADVICE.to_owned(),
            HttpError::Insecure(_) => "use https, or remove the pins".to_owned(),
            HttpError::Request(_) => "check the address in the configuration".to_owned(),
            _ => return DeliverError::Retry { after: None, source: Box::new(error) },
        };
        DeliverError::Stop { after: None, advice, source: Box::new(error) }
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
    fn a_date_to_wait_for_counts_from_the_replys_own_date() {
        let reply = |headers: &[(&'static str, &str)]| Reply {
            status: 503,
            headers: headers.iter().map(|(k, v)| ((*k).parse().unwrap(), v.parse().unwrap())).collect(),
            body: super::super::Body::Whole(bytes::Bytes::new()),
            trailers: super::super::HeaderMap::new(),
        };
        let theirs = "Sun, 06 Nov 1994 08:49:37 GMT";
        let now = httpdate::parse_http_date(theirs).unwrap() + Duration::from_secs(3600);
        let later = ("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT");
        let s = |n| Some(Duration::from_secs(n));
        assert_eq!(wait(&reply(&[later, ("date", theirs)]), now), s(60), "this clock is an hour ahead");
        assert_eq!(wait(&reply(&[later]), now), s(0));
        assert_eq!(wait(&reply(&[("retry-after", "5"), ("date", theirs)]), now), s(5));
        assert_eq!(wait(&reply(&[("date", theirs)]), now), None);
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

    #[test]
    fn what_is_left_out_or_cut_off_does_not_save_a_secret() {
        known::note("9e7d5c3b1a8f6e4d2c0b");
        assert_eq!(printable("of 9e7d5c3b\u{0}1a8f6e\n4d2c0b!", 200), "of ***!");
        assert_eq!(printable("of 9e7d5c3b1a8f6e4d2c0b", 12), "of ***");
        let many = "9e7d5c3b1a8f6e4d2c0b,".repeat(1000);
        assert!(printable(&many, usize::MAX).chars().all(|c| "*,".contains(c)));
        let body = [vec![b'x'; 150], b"9e7d5c3b1a8f6e4d2c0b".to_vec()].concat();
        assert_eq!(printable_body(&body, 160), format!("{}***", "x".repeat(150)));
    }

    #[test]
    fn a_name_for_receipts_has_a_names_characters_and_no_secret() {
        known::note("8d6c4b2a0f9e7d5c3b1a");
        assert_eq!(id("0x8DC0FFEE", 100), "0x8DC0FFEE");
        assert_eq!(id(&"a".repeat(300), 100), "a".repeat(100));
        assert_eq!(id("x8d6c4b2a0f9e7d5c3b1ax", 3), "***");
        for none in ["", "two words", "new\nline", "\u{e9}"] {
            assert_eq!(id(none, 100), "", "{none}");
        }
    }
}
