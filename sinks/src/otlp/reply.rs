//! What an answer means.
//!
//! | HTTP | gRPC | outcome |
//! |---|---|---|
//! | 200 | 0 | delivered; with a partial success see below |
//! | 429, 502, 503, 504, 408, 500 | 1, 2, 4, 8, 10, 11, 13, 14, 15 | again, after `Retry-After` or `RetryInfo` |
//! | 413 | 8 or 11 that speaks of a too large message | halves |
//! | 400, other 4xx | 3, 6, 9 | rejected for good |
//! | 401, 403, 404, 405, 407, 415, 3xx, 501 | 5, 7, 12, 16 | hold: someone must act |
//!
//! The specification lets a client give up on 500, `UNKNOWN` and `INTERNAL`; they are
//! tried again here, because a collector says so of failures behind it too, and an event
//! sent twice is worth less harm than one lost.
//!
//! # Partial success
//! The far side tells how many records it rejected, not which, and forbids to send the
//! request again. So every event of it is noted as rejected with these words: the dead
//! letters then hold some that were delivered, and none is lost unnoticed.

use std::borrow::Cow;
use std::io::Read as _;
use std::time::Duration;

use prost::Message as _;

use super::messages::{ExportResponse, RetryInfo, Status};
use crate::RejectReason;
use crate::http::classify::{PROXY_ADVICE, printable, printable_body};

/// A wish to wait longer than that is cut: a day.
const WAIT_MAX: Duration = Duration::from_secs(86_400);

/// Most bytes of a message in an answer, decompressed.
const ANSWER_MAX: u64 = 1 << 20;

/// What becomes of the request's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Delivered,
    /// So many were rejected, and why.
    Partly(u64, String),
    Retry {
        after: Option<Duration>,
        why: String,
    },
    Split(String),
    Reject(RejectReason, String),
    Stop {
        after: Option<Duration>,
        advice: &'static str,
        why: String,
    },
}

const CREDENTIALS: &str = "check the headers (credentials) of this sink";
const ADDRESS: &str = "check the sink's url: no OTLP logs receiver answers there";

/// At most 200 characters, none that a terminal would obey, and no secret.
fn words(text: &str) -> String {
    printable(&text.replace(|c: char| c.is_control(), " "), 200)
}

/// The body of a good answer.
fn acknowledged(body: &[u8]) -> Outcome {
    match ExportResponse::decode(body) {
        Ok(ExportResponse { partial_success: Some(p) }) if p.rejected_log_records > 0 => {
            Outcome::Partly(p.rejected_log_records.unsigned_abs(), words(&p.error_message))
        }
        // a message without a count is a warning only
        Ok(_) => Outcome::Delivered,
        Err(_) => Outcome::Retry { after: None, why: "the answer is no OTLP answer".to_owned() },
    }
}

/// An answer over HTTP. `body` is `None` when it was cut or too long; `protobuf` says
/// whether the answer calls itself that.
pub(super) fn http(
    status: u16,
    protobuf: bool,
    body: Option<&[u8]>,
    after: Option<Duration>,
    events: usize,
) -> Outcome {
    let said = match body.filter(|_| protobuf).map(Status::decode) {
        Some(Ok(said)) => said.message,
        _ => body.map(|b| printable_body(b, 200)).unwrap_or_default(),
    };
    let why = words(&format!("status {status}: {said}")).trim_end_matches([' ', ':']).to_owned();
    match (status, body) {
        (200, Some(body)) if protobuf || body.is_empty() => acknowledged(body),
        (200, _) => {
            Outcome::Retry { after: None, why: "the answer is cut short or no OTLP answer".to_owned() }
        }
        (413, _) if events > 1 => Outcome::Split(why),
        (413, _) => Outcome::Reject(RejectReason::TooLarge, why),
        (401 | 403, _) => Outcome::Stop { after, advice: CREDENTIALS, why },
        (407, _) => Outcome::Stop { after, advice: PROXY_ADVICE, why },
        (404 | 405 | 415 | 501 | 505 | 300..=399, _) => Outcome::Stop { after, advice: ADDRESS, why },
        (408 | 429, _) => Outcome::Retry { after, why },
        (400..=499, _) => Outcome::Reject(RejectReason::Invalid, why),
        _ => Outcome::Retry { after, why },
    }
}

/// An answer over gRPC: the status of its trailers, the message and the details beside it,
/// and the frames of its body.
pub(super) fn grpc(code: u32, message: &str, details: Option<&[u8]>, body: &[u8], events: usize) -> Outcome {
    let why = words(&format!("gRPC status {code}: {message}")).trim_end_matches([' ', ':']).to_owned();
    let after = details.and_then(delay);
    let lower = message.to_ascii_lowercase();
    let too_large = matches!(code, 8 | 11) && (lower.contains("larger than") || lower.contains("too large"));
    match code {
        0 => match frame(body) {
            Some(message) => acknowledged(&message),
            None => {
                Outcome::Retry { after: None, why: "the answer is cut short or no OTLP answer".to_owned() }
            }
        },
        _ if too_large && events > 1 => Outcome::Split(why),
        _ if too_large => Outcome::Reject(RejectReason::TooLarge, why),
        3 | 6 | 9 => Outcome::Reject(RejectReason::Invalid, why),
        7 | 16 => Outcome::Stop { after, advice: CREDENTIALS, why },
        5 | 12 => Outcome::Stop { after, advice: ADDRESS, why },
        _ => Outcome::Retry { after, why },
    }
}

/// The one message of a unary answer: whether it is compressed, its length, itself. gzip is the
/// only way that we say we take, and a server in Go answers so whatever we say.
fn frame(body: &[u8]) -> Option<Cow<'_, [u8]>> {
    let (&[compressed, a, b, c, d], message) = body.split_first_chunk::<5>()?;
    let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    if message.len() != len {
        return None;
    }
    match compressed {
        0 => Some(Cow::Borrowed(message)),
        1 => {
            let mut out = Vec::new();
            let read =
                flate2::read::GzDecoder::new(message).take(ANSWER_MAX + 1).read_to_end(&mut out).ok()?;
            (read as u64 <= ANSWER_MAX).then_some(Cow::Owned(out))
        }
        _ => None,
    }
}

/// The wait that the details of a status ask for.
fn delay(details: &[u8]) -> Option<Duration> {
    let status = Status::decode(details).ok()?;
    let info = status.details.iter().find(|d| d.type_url.ends_with("google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(&*info.value).ok()?.retry_delay?;
    let (seconds, nanos) = (u64::try_from(delay.seconds).ok()?, u32::try_from(delay.nanos).ok()?);
    Some(Duration::new(seconds.min(WAIT_MAX.as_secs()), nanos.min(999_999_999)).min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::super::messages::{Any, Delay, PartialSuccess};
    use super::*;

    #[test]
    fn every_http_status_has_its_outcome() {
        for status in 201..=999_u16 {
            for events in [1, 2] {
                let outcome = http(status, false, Some(b""), Some(Duration::from_secs(3)), events);
                let fits = match status {
                    413 if events > 1 => matches!(outcome, Outcome::Split(_)),
                    413 => matches!(outcome, Outcome::Reject(RejectReason::TooLarge, _)),
                    300..=399 | 401 | 403..=405 | 407 | 415 | 501 | 505 => {
                        matches!(outcome, Outcome::Stop { after: Some(_), .. })
                    }
                    408 | 429 => matches!(outcome, Outcome::Retry { after: Some(_), .. }),
                    400..=499 => matches!(outcome, Outcome::Reject(RejectReason::Invalid, _)),
                    _ => matches!(outcome, Outcome::Retry { after: Some(_), .. }),
                };
                assert!(fits, "{status}: {outcome:?}");
            }
        }
    }

    #[test]
    fn only_an_otlp_answer_is_an_acknowledgement() {
        let partly = |n| {
            let partial_success = Some(PartialSuccess { rejected_log_records: n, error_message: "x".into() });
            ExportResponse { partial_success }.encode_to_vec()
        };
        assert_eq!(http(200, true, Some(b""), None, 5), Outcome::Delivered);
        assert_eq!(http(200, true, Some(&partly(0)), None, 5), Outcome::Delivered, "a warning");
        assert_eq!(http(200, true, Some(&partly(2)), None, 5), Outcome::Partly(2, "x".into()));
        for (protobuf, body) in [(false, Some(&b"<html>"[..])), (true, Some(b"\xff\xff")), (true, None)] {
            assert!(matches!(http(200, protobuf, body, None, 5), Outcome::Retry { .. }));
        }
    }

    #[test]
    fn every_grpc_status_has_its_outcome() {
        for code in 1..=40 {
            let outcome = grpc(code, "", None, b"", 2);
            let fits = match code {
                3 | 6 | 9 => matches!(outcome, Outcome::Reject(RejectReason::Invalid, _)),
                5 | 7 | 12 | 16 => matches!(outcome, Outcome::Stop { .. }),
                _ => matches!(outcome, Outcome::Retry { after: None, .. }),
            };
            assert!(fits, "{code}: {outcome:?}");
        }
        assert_eq!(grpc(0, "", None, &[0, 0, 0, 0, 0], 1), Outcome::Delivered);
        for cut in [&b""[..], &[0, 0, 0, 0, 1], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 0, 7]] {
            assert!(matches!(grpc(0, "", None, cut, 1), Outcome::Retry { .. }));
        }
        let large = "grpc: received message larger than max (5000000 vs. 4194304)";
        assert!(matches!(grpc(8, large, None, b"", 2), Outcome::Split(_)));
        assert!(matches!(grpc(8, large, None, b"", 1), Outcome::Reject(RejectReason::TooLarge, _)));
    }

    /// A collector answers a gzip request with gzip, though it was told not to.
    #[test]
    fn a_compressed_answer_is_understood_and_a_bomb_is_not() {
        let framed = |message: &[u8]| {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut gzip, message).unwrap();
            let gzip = gzip.finish().unwrap();
            [&[1], &(gzip.len() as u32).to_be_bytes()[..], &gzip].concat()
        };
        assert_eq!(grpc(0, "", None, &framed(b"\x0a\x00"), 1), Outcome::Delivered);
        let bomb = framed(&vec![0; 2 << 20]);
        for bad in [&bomb[..], &[1, 0, 0, 0, 2, 0, 0], &[2, 0, 0, 0, 0]] {
            assert!(matches!(grpc(0, "", None, bad, 1), Outcome::Retry { .. }));
        }
    }

    #[test]
    fn a_wait_in_the_details_is_honoured() {
        let status = |seconds| {
            let info = RetryInfo { retry_delay: Some(Delay { seconds, nanos: 500_000_000 }) };
            let type_url = "type.googleapis.com/google.rpc.RetryInfo".to_owned();
            let details = vec![Any { type_url, value: info.encode_to_vec() }];
            Status { code: 14, message: String::new(), details }.encode_to_vec()
        };
        let wait = |details: &[u8]| match grpc(14, "", Some(details), b"", 1) {
            Outcome::Retry { after, .. } => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(&status(7)), Some(Duration::from_millis(7_500)));
        assert_eq!(wait(&status(i64::MAX)), Some(WAIT_MAX));
        assert_eq!(wait(&status(-1)), None);
        assert_eq!(wait(b"\xff"), None);
        let stop = grpc(7, "", Some(&status(7)), b"", 1);
        assert!(matches!(stop, Outcome::Stop { after: Some(d), .. } if d.as_millis() == 7_500), "{stop:?}");
    }
}
