//! Certificates made for a test: root, intermediate and a server called `localhost`.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{Canned, CannedServer, Seen};
use crate::http::pins::Pin;

/// A certificate, its key, and the right to sign others.
#[derive(Debug)]
pub struct Made {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// What it was made of.
    pub params: CertificateParams,
    /// Its key.
    pub key: KeyPair,
}

impl Made {
    /// Its key's pin.
    #[must_use]
    pub fn pin(&self) -> Pin {
        Pin::of_spki(&self.key.subject_public_key_info())
    }
}

/// For a host, or for a CA, from 2020 to 2039.
///
/// # Panics
/// When the name cannot stand in a certificate.
#[must_use]
pub fn params(name: &str, ca: bool) -> CertificateParams {
    let names = if ca { Vec::new() } else { vec![name.to_owned()] };
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2039, 1, 1);
    if ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    }
    params
}

/// A CA of its own.
///
/// # Panics
/// When no key can be made.
#[must_use]
pub fn root(name: &str) -> Made {
    let (params, key) = (params(name, true), KeyPair::generate().unwrap());
    let der = params.self_signed(&key).unwrap().der().clone();
    Made { der, params, key }
}

/// A certificate by another.
///
/// # Panics
/// When no key can be made.
#[must_use]
pub fn signed(params: CertificateParams, by: &Made) -> Made {
    let key = KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::from_params(&by.params, &by.key);
    let der = params.signed_by(&key, &issuer).unwrap().der().clone();
    Made { der, params, key }
}

/// Root, intermediate, and a server called `localhost`.
#[derive(Debug)]
pub struct Chain {
    /// The CA.
    pub root: Made,
    /// Signed by it.
    pub middle: Made,
    /// The server's, signed by the intermediate.
    pub leaf: Made,
    dir: tempfile::TempDir,
}

impl Default for Chain {
    fn default() -> Chain {
        Chain::new()
    }
}

impl Chain {
    /// A fresh one.
    ///
    /// # Panics
    /// When no key or folder can be made.
    #[must_use]
    pub fn new() -> Chain {
        Chain::with(params("localhost", false))
    }

    /// With another server's certificate.
    ///
    /// # Panics
    /// When no key or folder can be made.
    #[must_use]
    pub fn with(leaf: CertificateParams) -> Chain {
        let root = root("Root");
        let middle = signed(params("Middle", true), &root);
        let leaf = signed(leaf, &middle);
        Chain { root, middle, leaf, dir: tempfile::tempdir().unwrap() }
    }

    /// Writes a file beside the chain.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn file(&self, name: &str, text: String) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// `[tls]` that trusts the root, with more lines behind.
    ///
    /// # Panics
    /// When the root's file cannot be written.
    #[must_use]
    pub fn trusting(&self, more: &str) -> String {
        let ca = self.file("ca.pem", pem("CERTIFICATE", &self.root.der));
        format!("[tls]\nca_file = '{}'\n{more}", ca.display())
    }

    /// A server that shows it.
    ///
    /// # Panics
    /// When no port can be opened.
    pub async fn serve(&self) -> CannedServer {
        self.serve_with(&[]).await
    }

    /// A server that shows it and answers what a function says.
    ///
    /// # Panics
    /// When no port can be opened.
    pub async fn answer(&self, handler: impl Fn(&Seen) -> Canned + Send + Sync + 'static) -> CannedServer {
        CannedServer::tls(self.server(&[]), handler).await
    }

    /// The chain, and certificates that have nothing to do with it.
    ///
    /// # Panics
    /// When no port can be opened.
    pub async fn serve_with(&self, more: &[&Made]) -> CannedServer {
        CannedServer::tls(self.server(more), |_| Canned::status(200)).await
    }

    fn server(&self, more: &[&Made]) -> ServerConfig {
        let mut chain = vec![self.leaf.der.clone(), self.middle.der.clone()];
        chain.extend(more.iter().map(|m| m.der.clone()));
        versions(rustls::ALL_VERSIONS)
            .with_no_client_auth()
            .with_single_cert(chain, private(&self.leaf.key))
            .unwrap()
    }
}

/// A server's side with some versions of TLS.
///
/// # Panics
/// When there is none of them.
#[must_use]
pub fn versions(
    list: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider).with_protocol_versions(list).unwrap()
}

/// A key as rustls takes it.
///
/// # Panics
/// Never for keys made here.
#[must_use]
pub fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.serialize_der()).unwrap()
}

/// As PEM.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}
