//! The end point on the network: off unless `[control.remote]` is there, TLS with a client's
//! certificate on every connection, and only the routes that are open to it.

use std::io::{Error, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::serve::Places;
use super::{Api, Caller, Right};
use crate::config::RemoteControl;
use crate::control::Who;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at a time.
const SHAKING: usize = 32;

/// Why it cannot be opened. Holds no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// A file is missing or holds something else.
    #[error("control.remote.{key}: {why}")]
    File {
        /// The key that names it.
        key: &'static str,
        /// What is wrong.
        why: String,
    },
    /// Certificate and key do not go together, or cannot be used.
    #[error("control.remote: {0}")]
    Tls(#[from] rustls::Error),
    /// The address cannot be had.
    #[error("control.remote.listen {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: Error,
    },
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, RemoteError> {
    let wrong = |why: String| RemoteError::File { key, why: format!("{}: {why}", path.display()) };
    let read = CertificateDer::pem_file_iter(path).and_then(|all| all.collect::<Result<Vec<_>, _>>());
    let all = read.map_err(|e| wrong(e.to_string()))?;
    if all.is_empty() { Err(wrong("it holds no certificate".to_owned())) } else { Ok(all) }
}

/// The server's side: no client without a certificate of the given CA gets beyond the handshake.
///
/// # Errors
/// What is wrong with the files.
pub fn tls(config: &RemoteControl) -> Result<ServerConfig, RemoteError> {
    let file = |key, why: String| RemoteError::File { key, why };
    let chain = certificates("certificate", &config.certificate)?;
    let pem = config.key.resolve().map_err(|e| file("key", crate::assemble::chain(&e)))?;
    let key = PrivateKeyDer::from_pem_slice(pem.expose().as_bytes())
        .map_err(|_| file("key", "it is no private key in PEM".to_owned()))?;
    let mut roots = RootCertStore::empty();
    for ca in certificates("client_ca", &config.client_ca)? {
        roots.add(ca)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|e| file("client_ca", e.to_string()))?;
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut tls = builder.with_client_cert_verifier(verifier).with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

/// An open end point.
#[derive(Debug)]
pub struct Remote {
    listener: TcpListener,
    tls: Arc<ServerConfig>,
}

impl Remote {
    /// Opens it.
    ///
    /// # Errors
    /// See [`RemoteError`].
    pub async fn open(config: &RemoteControl) -> Result<Remote, RemoteError> {
        let tls = Arc::new(tls(config)?);
        let address = config.listen;
        let listen = |source| RemoteError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        info!(%address, "the remote control end point is open");
        Ok(Remote { listener, tls })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is told to stop.
    ///
    /// # Cancel safety
    /// As for [`listen`](super::listen).
    pub async fn serve(self, api: Arc<Api>, stop: CancellationToken) {
        let (places, acceptor) = (Arc::new(Places::new()), TlsAcceptor::from(self.tls));
        let shaking = Arc::new(tokio::sync::Semaphore::new(SHAKING));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(taken) => taken,
                Err(error) => {
                    warn!(%error, "a remote control connection could not be taken");
                    tokio::time::sleep(HANDSHAKE / 10).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&shaking).try_acquire_owned() else { continue };
            let (acceptor, places, api) = (acceptor.clone(), Arc::clone(&places), Arc::clone(&api));
            tokio::spawn(async move {
                match shake(&acceptor, stream).await {
                    Ok((stream, who)) => {
                        let who = Who(format!("{who} at {peer}"));
                        places.spawn(stream, &api, Caller { who, right: Right::Change, remote: true });
                    }
                    Err(error) => debug!(%peer, %error, "a remote control connection was refused"),
                }
                drop(place);
            });
        }
    }
}

type Stream = tokio_rustls::server::TlsStream<TcpStream>;

/// Lets in who has a certificate, and names it by its fingerprint.
async fn shake(acceptor: &TlsAcceptor, stream: TcpStream) -> std::io::Result<(Stream, String)> {
    let slow = |_| Error::new(ErrorKind::TimedOut, "no handshake in time");
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await.map_err(slow)??;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    // the verifier has asked for it
    let shown = shown.ok_or_else(|| Error::new(ErrorKind::PermissionDenied, "no certificate"))?;
    let print = crate::audit::hex(&Sha256::digest(shown));
    let who = format!("remote client with certificate {}", print.get(..16).unwrap_or_default());
    Ok((stream, who))
}
