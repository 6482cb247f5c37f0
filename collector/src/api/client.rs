//! The other end: how the program's commands talk to a collector that runs.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::Value;

/// Most bytes of a reply.
const REPLY: usize = 64 << 20;
/// How long a reply may take: lowering a level removes what is queued above it first.
const LONG: Duration = Duration::from_secs(610);

/// Why a running collector gives no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The socket is there, but not for this user.
    #[error("{}: this user may not talk to the collector", .0.display())]
    NotAllowed(PathBuf),
    /// It said no.
    #[error("{error}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What is wrong.
        error: String,
        /// What can be done.
        help: String,
    },
    /// The connection broke, or what came back is no answer.
    #[error("no answer from the collector at {}: {why}", socket.display())]
    Broken {
        /// Where it was asked.
        socket: PathBuf,
        /// What happened.
        why: String,
    },
}

/// Talks to a collector that runs. One connection a request.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// Finds out whether a collector answers at a socket or pipe; `None` when none runs there.
    /// Blocks; not to be called inside of a runtime.
    ///
    /// # Errors
    /// When one is there that does not let this user in.
    pub fn find(socket: &Path) -> Result<Option<Client>, ClientError> {
        let broken = |e: std::io::Error| ClientError::Broken { socket: socket.into(), why: e.to_string() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(broken)?;
        match runtime.block_on(connect(socket)) {
            Ok(_) => Ok(Some(Client { socket: socket.into(), runtime })),
            Err(e) => match e.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => Ok(None),
                ErrorKind::PermissionDenied => Err(ClientError::NotAllowed(socket.into())),
                _ => Err(broken(e)),
            },
        }
    }

    /// `GET`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.ask("GET", path, &Value::Null)
    }

    /// Any request; a body of `null` is none.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, ClientError> {
        let broken = |why: String| ClientError::Broken { socket: self.socket.clone(), why };
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let asked = async {
            let stream = connect(&self.socket).await.map_err(|e| e.to_string())?;
            exchange(stream, method, path, body).await
        };
        let done = self.runtime.block_on(async { tokio::time::timeout(LONG, asked).await });
        let (status, bytes) = done.map_err(|_| broken("none in time".to_owned()))?.map_err(broken)?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| broken(e.to_string()))?;
        if status == 200 {
            return Ok(value);
        }
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Err(ClientError::Refused { status, error: text("error"), help: text("help") })
    }
}

#[cfg(unix)]
async fn connect(socket: &Path) -> std::io::Result<tokio::net::UnixStream> {
    tokio::net::UnixStream::connect(socket).await
}

#[cfg(windows)]
async fn connect(socket: &Path) -> std::io::Result<tokio::net::windows::named_pipe::NamedPipeClient> {
    use tokio::net::windows::named_pipe::ClientOptions;
    /// `ERROR_PIPE_BUSY`: every instance has a client, another is made in a moment.
    const BUSY: i32 = 231;
    let mut tries = 0;
    loop {
        match ClientOptions::new().open(socket) {
            Err(e) if e.raw_os_error() == Some(BUSY) && tries < 50 => tries += 1,
            other => return other,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One request and its reply over a connection.
pub(super) async fn exchange<S>(
    stream: S,
    method: &str,
    path: &str,
    body: Bytes,
) -> Result<(u16, Bytes), String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
    let driven = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "tidegate")
        .body(Full::new(body))
        .map_err(|e| text(&e))?;
    let reply = sender.send_request(request).await.map_err(|e| text(&e))?;
    let status = reply.status().as_u16();
    let body = Limited::new(reply.into_body(), REPLY).collect().await.map_err(|e| text(&e))?;
    driven.abort();
    Ok((status, body.to_bytes()))
}
