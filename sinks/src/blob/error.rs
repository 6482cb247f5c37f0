//! What the Blob service's answers mean ("Blob service error codes").

use std::time::SystemTime;

use crate::DeliverError;
use crate::http::Reply;
use crate::http::classify::{self, BadReply, Class};

/// An answer with the service's code.
#[derive(Debug, thiserror::Error)]
#[error("{code}{}{reply}", if code.is_empty() { "" } else { ": " })]
pub(crate) struct ServiceError {
    /// `x-ms-error-code`, or the code in the body; empty when there is none.
    pub code: String,
    pub request_id: String,
    pub reply: BadReply,
}

/// An answer that is not understood: what answers, why not, and what to look at, in our own words alone.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotUnderstood(pub String);

impl From<NotUnderstood> for DeliverError {
    fn from(error: NotUnderstood) -> DeliverError {
        DeliverError::Retry { after: None, source: Box::new(error) }
    }
}

/// Whether an error is "no such container".
pub(super) fn is_no_container(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<ServiceError>().is_some_and(|e| e.code == "ContainerNotFound")
}

/// Whether the credentials hold but do not allow it: others of their kind will not either.
pub(super) fn lacks_permission(reply: &Reply) -> bool {
    matches!(
        code(reply).as_str(),
        "AuthorizationPermissionMismatch"
            | "AuthorizationPermissionDenied"
            | "AuthorizationServiceMismatch"
            | "AuthorizationResourceTypeMismatch"
    )
}

/// The service's code of a reply.
pub(super) fn code(reply: &Reply) -> String {
    let text = match reply.header("x-ms-error-code") {
        Some(code) => code.to_owned(),
        None => {
            between(&String::from_utf8_lossy(reply.body.bytes()), "<Code>", "</Code>").unwrap_or_default()
        }
    };
    classify::printable(&text, 64)
}

fn between(text: &str, start: &str, end: &str) -> Option<String> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(inner, _)| inner.to_owned())
}

/// The message of the body, without what it says of the signature: that part quotes it.
fn message(reply: &Reply) -> String {
    let text = String::from_utf8_lossy(reply.body.bytes()).into_owned();
    let said = between(&text, "<Message>", "</Message>").unwrap_or_default();
    let said = said.split("RequestId:").next().unwrap_or_default().to_owned();
    if said.contains("signature") { "the signature does not fit".to_owned() } else { said }
}

/// The error that a reply means for the dispatcher. A success that comes here lacks what the service's own
/// have: it is not understood. `ended`: our SAS has, which the service calls a signature that is wrong.
pub(super) fn of_reply(
    destination: &str,
    reply: &Reply,
    now: SystemTime,
    credentials: &str,
    ended: bool,
) -> DeliverError {
    let code = code(reply);
    let after = classify::wait(reply, now);
    if let 200..=299 = reply.status {
        let text = format!(
            "{destination} answered {} as Azure storage does not: something else answers there; check account, \
             endpoint and http.proxy, and whether this network wants a sign-in",
            reply.status
        );
        return DeliverError::Retry { after, source: Box::new(NotUnderstood(text)) };
    }
    let said = match classify::moved(reply) {
        Some(to) => to,
        None if ended => "the SAS has ended".to_owned(),
        None => message(reply),
    };
    let request_id = classify::printable(reply.header("x-ms-request-id").unwrap_or_default(), 64);
    let class = match (reply.status, code.as_str()) {
        (413, _) | (_, "RequestBodyTooLarge" | "BlockCountExceedsLimit") => Class::Split,
        // "The value for one of the HTTP headers is not in the correct format"; of ours only the
        // version is not fixed
        (400, "InvalidHeaderValue" | "InvalidResourceName" | "OutOfRangeInput" | "UnsupportedHeader") => {
            Class::Stop
        }
        (409, "ContainerDisabled" | "AccountIsDisabled" | "FeatureNotSupportedByAccount") => Class::Stop,
        (status, _) => match classify::status(status) {
            // what the table does not list is not understood
            Class::Refused | Class::Ok => Class::Retry,
            other => other,
        },
    };
    let advice = match (reply.status, code.as_str()) {
        _ if ended => "the SAS has ended (se): put a new one in its place".to_owned(),
        (400, "InvalidHeaderValue") => {
            "the service refuses the API version: set a lower api_version, or profile = \"azure-stack-hub\""
                .to_owned()
        }
        (400, _) => "the service refuses the blob's name: check layout and container".to_owned(),
        (404, "ContainerNotFound") => {
            "the container does not exist: create it, or set create_container = true".to_owned()
        }
        (404 | 410, _) => {
            "the service does not know this address: check account, endpoint and container".to_owned()
        }
        (409, _) => "the storage account or container is disabled: enable it".to_owned(),
        (407, _) => "the proxy asks for a password: check http.proxy".to_owned(),
        (403, "AuthorizationPermissionMismatch" | "AuthorizationPermissionDenied") => {
            format!(
                "the credentials lack a permission (read, create and write blobs are needed): {credentials}"
            )
        }
        (403, "AuthorizationFailure" | "IpAuthorizationSourceIPMismatch") => {
            format!("the account's firewall or policy refuses this machine, or: {credentials}")
        }
        _ => match classify::skew(reply, now) {
            Some(text) => format!("{text}: set it right"),
            None => credentials.to_owned(),
        },
    };
    let reply = BadReply::new(destination, reply.status, &said);
    let source = Box::new(ServiceError { code, request_id, reply });
    match class {
        Class::Stop => DeliverError::Stop { after, advice, source },
        Class::Split => DeliverError::Split { source },
        Class::Ok | Class::Retry | Class::Refused => DeliverError::Retry { after, source },
    }
}
