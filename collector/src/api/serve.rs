//! One connection: HTTP/1.1, everything bounded.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tracing::debug;

use super::{Api, Caller, Right};

/// How long the head of a request, and then its body, may take.
const SLOW: Duration = Duration::from_secs(5);
/// How long a request is waited for; what it began goes on.
const LONG: Duration = Duration::from_secs(600);
/// Most bytes of a request's head.
const HEAD: usize = 16 << 10;

/// How many connections there may be. Those who only look cannot take the administrator's.
#[derive(Debug)]
pub(super) struct Places {
    look: Arc<Semaphore>,
    change: Arc<Semaphore>,
}

impl Places {
    pub fn new() -> Places {
        Places { look: Arc::new(Semaphore::new(16)), change: Arc::new(Semaphore::new(16)) }
    }

    /// Serves a connection beside all others, or closes it when there are too many.
    pub fn spawn<S>(&self, stream: S, api: &Arc<Api>, caller: Caller)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let places = match caller.right {
            Right::Look => &self.look,
            Right::Change => &self.change,
        };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            debug!(who = %caller.who, "too many control connections");
            return;
        };
        let api = Arc::clone(api);
        tokio::spawn(async move {
            connection(stream, api, caller).await;
            drop(place);
        });
    }
}

/// Serves one request.
pub(super) async fn connection<S>(stream: S, api: Arc<Api>, caller: Caller)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let caller = Arc::new(caller);
    let who = caller.who.clone();
    let service = service_fn(move |request| answer(Arc::clone(&api), Arc::clone(&caller), request));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SLOW)
        .max_buf_size(HEAD)
        .max_headers(32)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%who, %error, "a control connection ended early");
    }
}

async fn answer(
    api: Arc<Api>,
    caller: Arc<Caller>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = tokio::time::timeout(SLOW, Limited::new(body, Api::MAX_BODY).collect()).await;
    let (status, value) = match body {
        Err(_) => (408, json!({ "error": "the body did not come in time" })),
        Ok(Err(e)) => (413, json!({ "error": format!("the body: {e}"), "help": "64 KiB are allowed" })),
        Ok(Ok(body)) => {
            let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
            let done = api.answer(&caller, head.method.as_str(), path, query, body.to_bytes());
            tokio::time::timeout(LONG, done).await.unwrap_or_else(|_| {
                (504, json!({ "error": "not done in time", "help": "it goes on; look again" }))
            })
        }
    };
    Ok(response(status, &value))
}

fn response(status: u16, value: &Value) -> Response<Full<Bytes>> {
    let mut text = value.to_string();
    text.push('\n');
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Names and values behind `?`, percent-decoded.
pub(super) fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter(|p| !p.is_empty()).take(32);
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let hex = more.get(..2).filter(|_| *first == b'%');
        let byte = hex.and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                rest = more.get(2..).unwrap_or_default();
            }
            None => {
                out.push(if *first == b'+' { b' ' } else { *first });
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
