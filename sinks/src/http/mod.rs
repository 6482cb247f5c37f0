//! The HTTP client that all sinks share: one attempt per call, everything bounded, nothing
//! followed, nothing secret in errors.
//!
//! Proxies and certificates come from the configuration alone; `HTTPS_PROXY` and the like are
//! not read.

pub mod classify;
mod der;
mod live;
pub mod pins;
pub mod probe;
pub mod tls;

use std::error::Error as _;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http_body::Frame;
use http_body_util::BodyExt as _;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
pub use reqwest::{Method, Url, header};
use serde::Deserialize;
use tokio::time::Instant;

use self::live::Live;
use self::pins::{PinMiss, PinMonitor, PinSet};
use self::tls::{Asked, Refusal, TlsConfig, TlsError, TlsVersion};
use crate::Clock;
use crate::secret::{SecretError, SecretRef, known};
use crate::units::{Size, Span};

/// Most bytes of all headers of a reply.
pub const HEADERS_MAX: usize = 64 << 10;

/// `[sinks.NAME.http]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// `timeout`: a whole request, reply included. Default: 60 s.
    pub timeout: Span,
    /// `connect_timeout`: name look-up, TCP and TLS. Default: 15 s.
    pub connect_timeout: Span,
    /// `reply_max`: bytes of a reply's body that are read. Default: 4 MiB.
    pub reply_max: Size,
    /// `user_agent`. Default: `tidegate/VERSION`.
    pub user_agent: Option<String>,
    /// `[….http.tls]`
    pub tls: TlsConfig,
    /// `[….http.proxy]`
    pub proxy: Option<ProxyConfig>,
}

impl Default for HttpConfig {
    fn default() -> HttpConfig {
        HttpConfig {
            timeout: Span::seconds(60),
            connect_timeout: Span::seconds(15),
            reply_max: Size(4 << 20),
            user_agent: None,
            tls: TlsConfig::default(),
            proxy: None,
        }
    }
}

/// `[….http.proxy]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// `url`: `http://HOST:PORT` or `https://HOST:PORT`, without user and password.
    pub url: String,
    /// `no_proxy`: hosts reached directly: names (and all below them), addresses, networks.
    #[serde(default)]
    pub no_proxy: Vec<String>,
    /// `user`
    #[serde(default)]
    pub user: Option<String>,
    /// `password`: a secret's reference.
    #[serde(default)]
    pub password: Option<SecretRef>,
}

/// What a client takes from its surroundings.
#[derive(Clone, Debug, Default)]
pub struct HttpContext {
    /// Checks certificates and dates of `Retry-After`.
    pub clock: Clock,
    /// Where pins report.
    pub pins: PinMonitor,
}

/// Why a client cannot be built: a mistake in the configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpBuildError {
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The proxy's password.
    #[error("proxy.password")]
    Secret(#[source] SecretError),
    /// The proxy's address.
    #[error("proxy.url \"{0}\" is no http or https URL without user and password")]
    Proxy(String),
    /// Something else that the client library refuses.
    #[error("the HTTP client cannot be set up: {0}")]
    Other(String),
}

/// Why there is no reply. Holds no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The name is not found.
    #[error("{host}: the name is not found, check the address and DNS: {detail}")]
    Dns {
        /// The host.
        host: String,
        /// What went wrong.
        detail: String,
    },
    /// No connection.
    #[error("{host}: cannot connect, check the address, its port and firewalls: {detail}")]
    Connect {
        /// The host.
        host: String,
        /// What went wrong.
        detail: String,
    },
    /// The server's certificate does not verify.
    #[error("{host}: the certificate is not trusted: {detail}")]
    Certificate {
        /// The host.
        host: String,
        /// What is wrong.
        detail: String,
    },
    /// The server misses the client's certificate, or does not take it.
    #[error("{host}: the server asks for a client certificate that it accepts: {detail}")]
    ClientCertificate {
        /// The host.
        host: String,
        /// What it says.
        detail: String,
    },
    /// The server speaks no version of TLS that is allowed.
    #[error("{host}: the server does not speak TLS {}: {detail}", least.on())]
    Version {
        /// The host.
        host: String,
        /// The least that is allowed, `tls.min_version`.
        least: TlsVersion,
        /// What went wrong.
        detail: String,
    },
    /// No pin in the verified chain.
    #[error(transparent)]
    Pin(PinMiss),
    /// Pins are set for the host, and the address is not `https`.
    #[error("{0}: pins are set, but the address is not https")]
    Insecure(String),
    /// The proxy lets nobody through without another user and password.
    #[error("{0}: the proxy asks for a user and a password that it knows")]
    ProxyAuth(String),
    /// Connected, but no answer in time.
    #[error("{0}: no answer in time")]
    Timeout(String),
    /// The address or a header is not usable.
    #[error("the request cannot be made: {0}")]
    Request(String),
    /// The connection ended, or the answer was no HTTP.
    #[error("{host}: {detail}")]
    Broken {
        /// The host.
        host: String,
        /// What went wrong.
        detail: String,
    },
}

/// One request.
#[derive(Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The address; its query may hold secrets.
    pub url: Url,
    /// The headers. Mark secret ones as sensitive.
    pub headers: HeaderMap,
    /// The body, shared by attempts.
    pub body: Bytes,
}

impl Request {
    /// A request without headers and body.
    #[must_use]
    pub fn new(method: Method, url: Url) -> Request {
        Request { method, url, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// Adds a header.
    ///
    /// # Errors
    /// When the value has characters that no header can have.
    pub fn header(mut self, name: &'static str, value: &str) -> Result<Request, HttpError> {
        let bad = || HttpError::Request(format!("header {name} has a character that it cannot have"));
        self.headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).map_err(|_| bad())?);
        Ok(self)
    }

    /// Adds a header that is never shown.
    ///
    /// # Errors
    /// As for [`header`](Request::header).
    pub fn secret_header(mut self, name: &'static str, value: &str) -> Result<Request, HttpError> {
        let bad = || HttpError::Request(format!("header {name} has a character that it cannot have"));
        let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
        value.set_sensitive(true);
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(self)
    }

    /// From now on, what the far side says is told without them.
    fn note_secrets(&self) {
        for value in self.headers.values().filter(|v| v.is_sensitive()) {
            known::note_passing(&String::from_utf8_lossy(value.as_bytes()));
        }
        known::note_query(self.url.query().unwrap_or_default());
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Request {
        self.body = body.into();
        self
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = redact(self.url.as_str());
        write!(f, "{} {url} ({} bytes, headers {:?})", self.method, self.body.len(), self.headers)
    }
}

/// The body of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// The connection ended or fell silent before its end; what came until then.
    Cut(Bytes),
    /// Longer than the limit; the part within it.
    TooLong(Bytes),
}

impl Body {
    /// What there is of it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Body::Whole(b) | Body::Cut(b) | Body::TooLong(b) => b,
        }
    }
}

/// One reply.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
    /// Headers behind the body; gRPC has its status there.
    pub trailers: HeaderMap,
}

impl Reply {
    /// A header's text; `None` when it is absent or not ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// The SubjectPublicKeyInfo of a certificate; `None` when the bytes are none.
pub(crate) fn spki(certificate: &[u8]) -> Option<Vec<u8>> {
    der::facts(certificate).map(|f| f.spki)
}

/// A time as a header has it, at second precision; what lies outside of the years 1970 to 9999
/// becomes the nearest that does not.
pub(crate) fn http_date(at: SystemTime) -> String {
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    httpdate::fmt_http_date(at.clamp(UNIX_EPOCH, last))
}

/// A URL without user, query and fragment, for logs, errors and receipts. What is no URL
/// becomes `…`.
#[must_use]
pub fn redact(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return "…".to_owned() };
    url.set_query(None);
    url.set_fragment(None);
    // fails only for URLs that have neither
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

/// The client. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Live>,
    timeout: Duration,
    reply_max: usize,
    pins: Arc<[PinSet]>,
    least: TlsVersion,
    /// How often a server wanted the client's certificate.
    asked: Arc<AtomicU64>,
    clock: Clock,
    /// Until when it is asked to wait.
    rest: Arc<Mutex<Option<Instant>>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Client {
    /// Builds a client. Reads the files that the configuration names, and again when they are
    /// replaced; opens no connection.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(config: &HttpConfig, ctx: &HttpContext) -> Result<Client, HttpBuildError> {
        Client::build(config, ctx, false)
    }

    /// Builds a client that speaks HTTP/2 alone, without asking first where there is no TLS:
    /// for gRPC.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn http2(config: &HttpConfig, ctx: &HttpContext) -> Result<Client, HttpBuildError> {
        Client::build(config, ctx, true)
    }

    fn build(config: &HttpConfig, ctx: &HttpContext, http2: bool) -> Result<Client, HttpBuildError> {
        let (own, surroundings) = (config.clone(), ctx.clone());
        Client::over(config, ctx, http2, move || Ok(own.tls.build(&surroundings)?))
    }

    /// A client over a TLS set-up of its own.
    fn over(
        config: &HttpConfig,
        ctx: &HttpContext,
        http2: bool,
        tls: impl Fn() -> Result<rustls::ClientConfig, HttpBuildError> + Send + Sync + 'static,
    ) -> Result<Client, HttpBuildError> {
        let own = config.clone();
        let asked = Arc::new(AtomicU64::new(0));
        let times = Arc::clone(&asked);
        let make = Box::new(move || {
            let mut tls = tls()?;
            Asked::count(&mut tls, &times);
            own.make(tls, http2)
        });
        Ok(Client {
            inner: Arc::new(Live::new(config, make)?),
            timeout: config.timeout.0,
            reply_max: usize::try_from(config.reply_max.0).unwrap_or(usize::MAX),
            pins: config.tls.pins.clone().into(),
            least: config.tls.min_version,
            asked,
            clock: ctx.clock.clone(),
            rest: Arc::default(),
        })
    }

    /// The clock that it was built with.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// How long the far side wants to be asked nothing: the longest `Retry-After` so far, whatever it stood
    /// beside. Nothing is held back here, since what needs several requests could never end then.
    #[must_use]
    pub fn rest(&self) -> Option<Duration> {
        let until = *self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        until?.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// Makes one attempt. A reply whose head has come is a reply, whatever becomes of its body.
    ///
    /// # Errors
    /// When no head of a reply came.
    ///
    /// # Cancel safety
    /// The request may have had its effect.
    pub async fn send(&self, request: Request) -> Result<Reply, HttpError> {
        let host = request.url.host_str().unwrap_or_default().to_owned();
        if request.url.scheme() != "https" && self.pins.iter().any(|set| set.fits(&host)) {
            return Err(HttpError::Insecure(host));
        }
        request.note_secrets();
        let end = Instant::now() + self.timeout;
        let asked = self.asked.load(Ordering::Relaxed);
        let sent = self
            .inner
            .client()
            .request(request.method, request.url)
            .headers(request.headers)
            .body(request.body)
            .send();
        let mut response = match tokio::time::timeout_at(end, sent).await {
            Err(_) => return Err(HttpError::Timeout(host)),
            Ok(Err(e)) => {
                return Err(match understood(host, self.least, e.without_url()) {
                    // the alert that says so is lost where HTTP/2 ends before the request is out
                    HttpError::Broken { host, detail } if self.asked.load(Ordering::Relaxed) != asked => {
                        let more = "the server had asked for a client certificate: see tls.client_cert";
                        HttpError::Broken { host, detail: format!("{detail}; {more}") }
                    }
                    other => other,
                });
            }
            Ok(Ok(response)) => response,
        };
        let came = Instant::now();
        let headers = std::mem::take(response.headers_mut());
        let size: usize = headers.iter().map(|(k, v)| k.as_str().len() + v.len() + 4).sum();
        if size > HEADERS_MAX {
            return Err(HttpError::Broken { host, detail: format!("{size} bytes of headers") });
        }
        let status = response.status().as_u16();
        let mut frames = reqwest::Body::from(response);
        let mut trailers = HeaderMap::new();
        let body = tokio::time::timeout_at(end, async {
            let mut got = BytesMut::new();
            loop {
                match frames.frame().await.transpose().map(|f| f.map(Frame::into_data)) {
                    Ok(None) => return (got, Body::Whole as fn(Bytes) -> Body),
                    Err(_) => return (got, Body::Cut as _),
                    // bounded as headers are
                    Ok(Some(Err(other))) => trailers = other.into_trailers().unwrap_or_default(),
                    Ok(Some(Ok(chunk))) => {
                        let room = self.reply_max.saturating_sub(got.len());
                        got.extend_from_slice(chunk.get(..room.min(chunk.len())).unwrap_or_default());
                        if chunk.len() > room {
                            return (got, Body::TooLong as _);
                        }
                    }
                }
            }
        })
        .await;
        let body = match body {
            Ok((got, kind)) => kind(got.freeze()),
            Err(_) => Body::Cut(Bytes::new()),
        };
        let reply = Reply { status, headers, body, trailers };
        if let Some(wait) = classify::wait(&reply, self.clock.now()) {
            let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
            *rest = (*rest).max(Some(came + wait));
        }
        Ok(reply)
    }
}

impl HttpConfig {
    fn make(&self, tls: rustls::ClientConfig, http2: bool) -> Result<reqwest::Client, HttpBuildError> {
        let agent = concat!("tidegate/", env!("CARGO_PKG_VERSION"));
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            // the dispatcher alone tries again
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .connect_timeout(self.connect_timeout.0)
            .http1_max_headers(100)
            .http2_max_header_list_size(HEADERS_MAX as u32)
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(8)
            .user_agent(self.user_agent.as_deref().unwrap_or(agent));
        if http2 {
            builder = builder.http2_prior_knowledge();
        }
        if let Some(proxy) = &self.proxy {
            builder = builder.proxy(proxy.build()?);
        }
        builder.build().map_err(|e| HttpBuildError::Other(chain(&e.without_url())))
    }
}

impl ProxyConfig {
    fn build(&self) -> Result<reqwest::Proxy, HttpBuildError> {
        let bad = || HttpBuildError::Proxy(redact(&self.url));
        let url = Url::parse(&self.url).map_err(|_| bad())?;
        let plain = matches!(url.scheme(), "http" | "https") && url.username().is_empty();
        if !plain || url.password().is_some() || !url.has_host() {
            return Err(bad());
        }
        let mut proxy = reqwest::Proxy::all(url).map_err(|_| bad())?;
        if !self.no_proxy.is_empty() {
            proxy = proxy.no_proxy(reqwest::NoProxy::from_string(&self.no_proxy.join(",")));
        }
        if let Some(user) = &self.user {
            let password = match &self.password {
                Some(reference) => reference.resolve().map_err(HttpBuildError::Secret)?,
                None => crate::secret::Secret::default(),
            };
            // as it goes out
            known::note(&STANDARD.encode(format!("{user}:{}", password.expose())));
            proxy = proxy.basic_auth(user, password.expose());
        }
        Ok(proxy)
    }
}

/// The messages of an error and of what is beneath it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        let more = e.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = e.source();
    }
    classify::printable(&text, 400)
}

/// What rustls says beneath an error.
fn tls_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(tls) = e.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // the source of an I/O error is the source of what it wraps
        if let Some(inner) = e.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref)
            && let Some(tls) = tls_error(inner)
        {
            return Some(tls);
        }
        next = e.source();
    }
    None
}

fn understood(host: String, least: TlsVersion, error: reqwest::Error) -> HttpError {
    use rustls::CertificateError::Other;
    if let Some(tls) = tls_error(&error) {
        match tls {
            rustls::Error::InvalidCertificate(Other(other)) => {
                if let Some(miss) = other.0.downcast_ref::<PinMiss>() {
                    return HttpError::Pin(miss.clone());
                }
                return HttpError::Certificate { host, detail: other.to_string() };
            }
            rustls::Error::InvalidCertificate(why) => {
                return HttpError::Certificate { host, detail: why.to_string() };
            }
            _ => {}
        }
    }
    if error.is_timeout() && error.is_connect() {
        return HttpError::Connect { host, detail: "no answer in time".to_owned() };
    }
    if error.is_timeout() {
        return HttpError::Timeout(host);
    }
    let detail = error.source().map_or_else(|| error.to_string(), chain);
    match Refusal::of(&detail) {
        Some(Refusal::ClientCertificate) => return HttpError::ClientCertificate { host, detail },
        Some(Refusal::Version) => return HttpError::Version { host, least, detail },
        None => {}
    }
    // the type of this error is the library's own; a test tells when its words change
    if error.is_connect() && detail.contains("proxy authorization required") {
        return HttpError::ProxyAuth(host);
    }
    if error.is_builder() {
        HttpError::Request(detail)
    } else if error.is_dns() {
        HttpError::Dns { host, detail }
    } else if error.is_connect() {
        HttpError::Connect { host, detail }
    } else {
        HttpError::Broken { host, detail }
    }
}

#[cfg(test)]
mod proxy_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
