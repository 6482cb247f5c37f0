//! What a failure means.
//!
//! | Kafka says | outcome |
//! |---|---|
//! | message or record list too large | halves; a single event is rejected |
//! | invalid record, invalid timestamp | rejected for good |
//! | not authorised, authentication failed, unknown or invalid topic, unsupported version, no trust in its certificate or ours, no TLS in common | hold: someone must act |
//! | everything else: no connection, no leader, too few replicas, a time-out | again |

use rskafka::client::error::{Error, ProtocolError};

use crate::http::classify::printable;
use crate::http::tls::Refusal;
use crate::{BoxError, DeliverError, RejectReason};

/// What went wrong, without secrets.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Said(pub String);

/// The error of a batch of `events` events.
pub(super) fn understood(error: &Error, events: usize) -> DeliverError {
    let (code, text) = match error {
        Error::ServerError { protocol_error, error_message, .. } => {
            let more = error_message.as_deref().unwrap_or_default();
            (Some(*protocol_error), format!("{protocol_error:?} {more}"))
        }
        other => (None, other.to_string()),
    };
    let source: BoxError = Box::new(Said(printable(text.trim_end(), 300)));
    let stop = |advice: &str, source| DeliverError::Stop { after: None, advice: advice.to_owned(), source };
    use ProtocolError as P;
    match code {
        Some(P::MessageTooLarge | P::RecordListTooLarge) if events > 1 => DeliverError::Split { source },
        Some(P::MessageTooLarge | P::RecordListTooLarge) => {
            DeliverError::Reject { reason: RejectReason::TooLarge, source }
        }
        Some(P::InvalidRecord | P::InvalidTimestamp) => {
            DeliverError::Reject { reason: RejectReason::Invalid, source }
        }
        Some(P::TopicAuthorizationFailed | P::ClusterAuthorizationFailed) => {
            stop("give this user the right to write to the topic", source)
        }
        Some(P::SaslAuthenticationFailed | P::UnsupportedSaslMechanism | P::IllegalSaslState) => {
            stop("check user, password and mechanism of this sink", source)
        }
        Some(P::UnknownTopicOrPartition | P::InvalidTopicException) => {
            stop("create the topic, or check its name", source)
        }
        Some(P::UnsupportedVersion | P::UnsupportedCompressionType) => {
            stop("check the version of the brokers, and compression: they do not take it", source)
        }
        Some(_) => DeliverError::Retry { after: None, source },
        // beneath it, the client only has words
        None if text.contains("invalid peer certificate") => stop(
            "check the brokers' certificate, the private CA (tls.ca_file), the pins and this machine's clock",
            source,
        ),
        None => match Refusal::of(&text) {
            Some(refusal) => stop(refusal.advice(), source),
            None if text.contains("Sasl") && !text.contains("Request error") => {
                stop("check user, password and mechanism of this sink", source)
            }
            None => DeliverError::Retry { after: None, source },
        },
    }
}
