//! A server on this machine that answers what it is told to.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufStream};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Seen {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }
}

/// What to answer.
#[derive(Clone, Debug)]
pub enum Canned {
    /// A proper reply.
    Reply {
        /// The status.
        status: u16,
        /// Headers; `Content-Length` is added unless it is among them.
        headers: Vec<(String, String)>,
        /// The body.
        body: Bytes,
    },
    /// These bytes, then the connection ends.
    Raw(Bytes),
    /// These bytes, then nothing; the connection stays open.
    Stuck(Bytes),
    /// The connection ends without an answer: a lost reply.
    Close,
}

impl Canned {
    /// A reply without headers.
    #[must_use]
    pub fn status(status: u16) -> Canned {
        Canned::Reply { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// Adds a header to a proper reply; others stay as they are.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Canned {
        if let Canned::Reply { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Sets the body of a proper reply; others stay as they are.
    #[must_use]
    pub fn saying(mut self, text: impl Into<Bytes>) -> Canned {
        if let Canned::Reply { body, .. } = &mut self {
            *body = text.into();
        }
        self
    }
}

type Handler = dyn Fn(&Seen) -> Canned + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    seen: Mutex<Vec<Seen>>,
    tls: Option<tokio_rustls::TlsAcceptor>,
}

/// HTTP/1.1, or HTTPS with a made certificate, on a port that the system chooses. Ends with
/// its value.
pub struct CannedServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for CannedServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CannedServer({})", self.address)
    }
}

impl Drop for CannedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl CannedServer {
    /// Answers from a list, in order; when it is used up, 503.
    ///
    /// # Panics
    /// When no port can be opened.
    pub async fn replies(list: impl IntoIterator<Item = Canned>) -> CannedServer {
        let queue = Mutex::new(list.into_iter().collect::<VecDeque<_>>());
        CannedServer::handler(move |_| {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            next.unwrap_or_else(|| Canned::status(503))
        })
        .await
    }

    /// Answers what a function says.
    ///
    /// # Panics
    /// When no port can be opened.
    pub async fn handler(handler: impl Fn(&Seen) -> Canned + Send + Sync + 'static) -> CannedServer {
        CannedServer::start(Box::new(handler), None).await
    }

    /// The same over TLS.
    ///
    /// # Panics
    /// When no port can be opened.
    pub async fn tls(
        config: ServerConfig,
        handler: impl Fn(&Seen) -> Canned + Send + Sync + 'static,
    ) -> CannedServer {
        CannedServer::start(Box::new(handler), Some(Arc::new(config).into())).await
    }

    async fn start(handler: Box<Handler>, tls: Option<tokio_rustls::TlsAcceptor>) -> CannedServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared { handler, seen: Mutex::default(), tls });
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let shared = Arc::clone(&shared);
                    connections.spawn(async move {
                        match &shared.tls {
                            // a client that does not trust us ends here
                            Some(acceptor) => {
                                if let Ok(stream) = acceptor.accept(stream).await {
                                    serve(&shared, BufStream::new(stream)).await;
                                }
                            }
                            None => serve(&shared, BufStream::new(stream)).await,
                        }
                    });
                }
            }
        });
        CannedServer { address, shared, task }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT` or `https://localhost:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        match self.shared.tls {
            Some(_) => format!("https://localhost:{}", self.address.port()),
            None => format!("http://{}", self.address),
        }
    }

    /// The requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(shared: &Shared, mut stream: BufStream<S>) {
    while let Some(seen) = request(&mut stream).await {
        let answer = (shared.handler)(&seen);
        let head_only = seen.method == "HEAD";
        shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
        let (bytes, then) = match answer {
            Canned::Reply { status, headers, body } => {
                let mut head = format!("HTTP/1.1 {status} Canned\r\n");
                if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
                    head.push_str(&format!("Content-Length: {}\r\n", body.len()));
                }
                for (name, value) in headers {
                    head.push_str(&format!("{name}: {value}\r\n"));
                }
                head.push_str("\r\n");
                let body = if head_only { Bytes::new() } else { body };
                ([head.as_bytes(), &body].concat(), Then::Next)
            }
            Canned::Raw(bytes) => (bytes.to_vec(), Then::End),
            Canned::Stuck(bytes) => (bytes.to_vec(), Then::Wait),
            Canned::Close => (Vec::new(), Then::End),
        };
        if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        match then {
            Then::Next => {}
            Then::End => {
                let _ = stream.shutdown().await;
                return;
            }
            Then::Wait => std::future::pending().await,
        }
    }
}

enum Then {
    Next,
    End,
    Wait,
}

async fn request<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufStream<S>) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
        if head.len() > 1 << 20 {
            return None;
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut lines = head.trim_end().lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(k, v)| (k.to_ascii_lowercase(), v.trim().to_owned()))
        .collect();
    let len = headers.iter().find(|(k, _)| k == "content-length").map_or(Ok(0), |(_, v)| v.parse());
    let mut body = vec![0; len.ok().filter(|n| *n <= 1 << 30)?];
    // our clients send neither Expect nor chunks
    stream.read_exact(&mut body).await.ok()?;
    Some(Seen { method, target, headers, body: body.into() })
}
