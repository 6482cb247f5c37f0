//! Bearer tokens of Microsoft Entra ID (or AD FS, on an Azure Stack Hub): managed identity,
//! workload identity, client secret, client certificate.
//!
//! | `identity.kind` | where the token comes from |
//! |---|---|
//! | `managed` | the machine's metadata service, `169.254.169.254` (or the one that `IDENTITY_ENDPOINT` names) |
//! | `arc` | the agent of Azure Arc on this machine (`arc.rs`) |
//! | `workload` | the authority, for the token in `AZURE_FEDERATED_TOKEN_FILE` (Kubernetes) |
//! | `client-secret` | the authority, for a secret |
//! | `client-certificate` | the authority, for a token that the certificate's key has signed (`assertion.rs`) |
//!
//! A token is kept until shortly before its end (`kept.rs`); one request at a time renews it. A
//! token that the service refuses is given up, so that the next attempt gets another.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::arc;
use super::assertion::Signer;
use super::error::NotUnderstood;
use super::kept::{Fresh, Kept};
use crate::DeliverError;
use crate::http::classify::{self, BadReply, Class};
use crate::http::{Client, Method, Request, Url, redact};
use crate::secret::{Secret, SecretRef};

const RESOURCE: &str = "https://storage.azure.com/";
const AUTHORITY: &str = "https://login.microsoftonline.com";
const METADATA: &str = "http://169.254.169.254/metadata/identity/oauth2/token";

/// `[….identity]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// `kind`: `managed`, `arc`, `workload`, `client-secret` or `client-certificate`. `managed` is
    /// `arc` where `IMDS_ENDPOINT` is set beside `IDENTITY_ENDPOINT`, as Arc's agent does.
    pub kind: IdentityKind,
    /// `client_id`: of a user-assigned identity, or of the application. For `workload` default:
    /// `AZURE_CLIENT_ID`.
    #[serde(default)]
    pub client_id: Option<String>,
    /// `tenant_id`: of the application; `adfs` for AD FS. For `workload` default:
    /// `AZURE_TENANT_ID`.
    #[serde(default)]
    pub tenant_id: Option<String>,
    /// `client_secret`: a secret's reference.
    #[serde(default)]
    pub client_secret: Option<SecretRef>,
    /// `client_certificate`: PEM file of the certificate that the application is registered with;
    /// intermediates may follow it. Read at each renewal.
    #[serde(default)]
    pub client_certificate: Option<PathBuf>,
    /// `client_key`: its RSA key in PEM, as a secret's reference.
    #[serde(default)]
    pub client_key: Option<SecretRef>,
    /// `send_chain`: send the certificates along (`x5c`), for applications that are registered with
    /// a subject and issuer. Default: false.
    #[serde(default)]
    pub send_chain: bool,
    /// `token_file`: of a workload. Default: `AZURE_FEDERATED_TOKEN_FILE`. Read at each renewal.
    #[serde(default)]
    pub token_file: Option<String>,
    /// `authority`: who gives tokens. Default: `AZURE_AUTHORITY_HOST`, or Azure's public cloud.
    #[serde(default)]
    pub authority: Option<String>,
    /// `resource`: what the token is for. Default: `https://storage.azure.com/`.
    #[serde(default)]
    pub resource: Option<String>,
    /// `endpoint`: the metadata service of a managed identity, or the agent of Azure Arc. Default:
    /// `IDENTITY_ENDPOINT`, or the machine's own. Never asked through a proxy.
    #[serde(default)]
    pub endpoint: Option<String>,
}

/// Where tokens come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdentityKind {
    /// The machine has an identity.
    Managed,
    /// The machine is outside of Azure, and Azure Arc gives it one.
    Arc,
    /// The pod has one.
    Workload,
    /// An application has one, and a secret.
    ClientSecret,
    /// An application has one, and a certificate.
    ClientCertificate,
}

#[derive(Debug)]
enum From {
    /// Endpoint, and the secret that it wants (`IDENTITY_HEADER`).
    Managed {
        url: Url,
        header: Option<Secret<String>>,
    },
    /// The agent's endpoint, and the folder of its key files.
    Arc {
        url: Url,
        folder: PathBuf,
    },
    Workload {
        file: SecretRef,
    },
    ClientSecret {
        secret: SecretRef,
    },
    ClientCertificate(Signer),
}

/// Gets tokens and keeps them.
#[derive(Debug)]
pub(super) struct Tokens {
    client: Client,
    from: From,
    client_id: String,
    authority: Option<Url>,
    resource: String,
    pub kept: Kept,
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    /// Seconds, as number or text.
    expires_in: serde_json::Value,
}

#[derive(Deserialize)]
struct Refusal {
    error: Option<serde_json::Value>,
    error_description: Option<String>,
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

impl Tokens {
    /// Reads settings and environment; asks nobody yet. What is wrong is told in words.
    pub fn new(config: &IdentityConfig, client: Client) -> Result<Tokens, String> {
        let need = |value: Option<String>, key: &str| {
            value.ok_or_else(|| format!("{key} is needed for this kind of identity"))
        };
        let parse = |text: &str, key: &str| -> Result<Url, String> {
            let url: Option<Url> = text.parse().ok();
            let plain = |u: &Url| {
                matches!(u.scheme(), "http" | "https") && u.username().is_empty() && u.password().is_none()
            };
            url.filter(plain)
                .ok_or_else(|| format!("{key} is no http or https URL without user and password"))
        };
        let resource = config.resource.clone().unwrap_or_else(|| RESOURCE.to_owned());
        let named = environment("IDENTITY_ENDPOINT");
        let header = environment("IDENTITY_HEADER");
        let agents = named.is_some() && header.is_none() && environment("IMDS_ENDPOINT").is_some();
        let arc = config.kind == IdentityKind::Arc
            || config.kind == IdentityKind::Managed && config.endpoint.is_none() && agents;
        if arc {
            if config.client_id.is_some() {
                return Err("client_id: a machine of Azure Arc has its own identity alone".to_owned());
            }
            let url = config.endpoint.clone().or(named).unwrap_or_else(|| arc::ENDPOINT.to_owned());
            let from = From::Arc { url: parse(&url, "endpoint")?, folder: arc::folder() };
            let (client_id, kept) = (String::new(), Kept::default());
            return Ok(Tokens { client, from, client_id, authority: None, resource, kept });
        }
        if config.kind == IdentityKind::Managed {
            let header = header.filter(|_| named.is_some()).map(Secret::new);
            let url = config.endpoint.clone().or(named).unwrap_or_else(|| METADATA.to_owned());
            let from = From::Managed { url: parse(&url, "endpoint")?, header };
            let client_id = config.client_id.clone().unwrap_or_default();
            return Ok(Tokens { client, from, client_id, authority: None, resource, kept: Kept::default() });
        }
        let workload = config.kind == IdentityKind::Workload;
        let other = |name: &str| workload.then(|| environment(name)).flatten();
        let client_id = need(config.client_id.clone().or_else(|| other("AZURE_CLIENT_ID")), "client_id")?;
        let tenant = need(config.tenant_id.clone().or_else(|| other("AZURE_TENANT_ID")), "tenant_id")?;
        let authority = config.authority.clone().or_else(|| environment("AZURE_AUTHORITY_HOST"));
        let mut authority = parse(authority.as_deref().unwrap_or(AUTHORITY), "authority")?;
        if let Ok(mut path) = authority.path_segments_mut() {
            path.pop_if_empty().push(&tenant).push("oauth2");
            // AD FS and the first version take a resource; the second a scope
            if tenant != "adfs" {
                path.push("v2.0");
            }
            path.push("token");
        }
        let from = match config.kind {
            IdentityKind::Workload => {
                let file = config.token_file.clone().or_else(|| other("AZURE_FEDERATED_TOKEN_FILE"));
                From::Workload { file: SecretRef::File(need(file, "token_file")?.into()) }
            }
            IdentityKind::ClientCertificate => {
                let missing = |key: &str| format!("{key} is needed for this kind of identity");
                From::ClientCertificate(Signer {
                    certificate: config
                        .client_certificate
                        .clone()
                        .ok_or_else(|| missing("client_certificate"))?,
                    key: config.client_key.clone().ok_or_else(|| missing("client_key"))?,
                    send_chain: config.send_chain,
                    // AD FS knows the older form only
                    legacy: tenant == "adfs",
                })
            }
            IdentityKind::ClientSecret | IdentityKind::Managed | IdentityKind::Arc => {
                let secret = config.client_secret.clone();
                From::ClientSecret {
                    secret: secret.ok_or("client_secret is needed for this kind of identity")?,
                }
            }
        };
        let authority = Some(authority);
        Ok(Tokens { client, from, client_id, authority, resource, kept: Kept::default() })
    }

    /// A token that holds, and its number.
    pub async fn token(&self) -> Result<(Secret<String>, u64), DeliverError> {
        let now = self.client.clock().now();
        self.kept.or(now, self.fetch(now)).await
    }

    /// Takes another folder for that of the Arc agent's key files.
    #[cfg(test)]
    pub fn arc_keys_in(&mut self, other: &std::path::Path) {
        if let From::Arc { folder, .. } = &mut self.from {
            other.clone_into(folder);
        }
    }

    async fn fetch(&self, now: SystemTime) -> Result<Fresh, DeliverError> {
        let request = self.request()?;
        let destination = redact(request.url.as_str());
        let mut reply = self.client.send(request).await?;
        if let (From::Arc { folder, .. }, 401) = (&self.from, reply.status) {
            let key = arc::key(&reply, folder).map_err(|e| DeliverError::Stop {
                after: None,
                advice: "check the Arc agent on this machine, and that the collector's user is in its group \
                         (himds)"
                    .to_owned(),
                source: Box::new(e),
            })?;
            let request =
                self.request()?.secret_header("authorization", &format!("Basic {}", key.expose()))?;
            reply = self.client.send(request).await?;
        }
        let setting = if self.authority.is_some() { "identity.authority" } else { "identity.endpoint" };
        if let Some(to) = classify::moved(&reply) {
            let text = format!("{destination} answered {}: {to} ({setting})", reply.status);
            return Err(NotUnderstood(text).into());
        }
        let body = reply.body.bytes();
        if !(200..=299).contains(&reply.status) {
            let said = serde_json::from_slice::<Refusal>(body).ok();
            let text = said
                .map(|r| {
                    let code = r.error.as_ref().and_then(|e| e.as_str()).unwrap_or_default().to_owned();
                    format!("{code} {}", r.error_description.unwrap_or_default())
                })
                .unwrap_or_default();
            let source = Box::new(BadReply::new(&destination, reply.status, text.trim()));
            let after = classify::wait(&reply, now);
            // the authority says 400 of wrong credentials (RFC 6749, section 5.2)
            return Err(match classify::status(reply.status) {
                Class::Stop | Class::Refused => DeliverError::Stop {
                    after,
                    advice: "check the identity: kind, client_id, tenant_id and its secret or token file, \
                             and that this machine has one"
                        .to_owned(),
                    source,
                },
                _ => DeliverError::Retry { after, source },
            });
        }
        let no_token = || {
            let text = format!("{destination} did not answer with a token: check {setting}");
            DeliverError::from(NotUnderstood(text))
        };
        let answer: Answer = serde_json::from_slice(body).map_err(|_| no_token())?;
        let seconds = match &answer.expires_in {
            serde_json::Value::Number(n) => n.as_u64(),
            serde_json::Value::String(s) => s.parse().ok(),
            _ => None,
        };
        let seconds = seconds.ok_or_else(no_token)?.min(86_400);
        let usable = |b: u8| b.is_ascii_graphic();
        if answer.access_token.is_empty() || !answer.access_token.bytes().all(usable) {
            return Err(no_token());
        }
        Ok(Fresh { secret: Secret::new(answer.access_token), life: Some(Duration::from_secs(seconds)) })
    }

    fn request(&self) -> Result<Request, DeliverError> {
        let wrong = |e: crate::secret::SecretError| DeliverError::Stop {
            after: None,
            advice: "mend the secret or token file of the identity".to_owned(),
            source: Box::new(e),
        };
        if let From::Managed { url, header } = &self.from {
            let mut url = url.clone();
            let version = if header.is_some() { "2019-08-01" } else { "2018-02-01" };
            url.query_pairs_mut().append_pair("api-version", version).append_pair("resource", &self.resource);
            if !self.client_id.is_empty() {
                url.query_pairs_mut().append_pair("client_id", &self.client_id);
            }
            let request = Request::new(Method::GET, url);
            return Ok(match header {
                Some(secret) => request.secret_header("x-identity-header", secret.expose())?,
                None => request.header("metadata", "true")?,
            });
        }
        if let From::Arc { url, .. } = &self.from {
            let mut url = url.clone();
            let version = arc::API_VERSION;
            url.query_pairs_mut().append_pair("api-version", version).append_pair("resource", &self.resource);
            return Ok(Request::new(Method::GET, url).header("metadata", "true")?);
        }
        // a URL's query is the encoding of forms
        let mut form: Url = "http://form/"
            .parse()
            .map_err(|_| NotUnderstood("the form for a token cannot be made".to_owned()))?;
        let url = self.authority.clone().unwrap_or_else(|| form.clone());
        let first_version = !url.path().contains("/v2.0/");
        {
            let mut pairs = form.query_pairs_mut();
            pairs.append_pair("grant_type", "client_credentials").append_pair("client_id", &self.client_id);
            if first_version {
                pairs.append_pair("resource", &self.resource);
            } else {
                pairs.append_pair("scope", &format!("{}/.default", self.resource.trim_end_matches('/')));
            }
            match &self.from {
                From::Workload { file } => {
                    let token = file.resolve().map_err(wrong)?;
                    pairs
                        .append_pair(
                            "client_assertion_type",
                            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                        )
                        .append_pair("client_assertion", token.expose());
                }
                From::ClientCertificate(signer) => {
                    let made = signer.assertion(url.as_str(), &self.client_id, self.client.clock());
                    let token = made.map_err(|e| DeliverError::Stop {
                        after: None,
                        advice: "mend the certificate and key of the identity".to_owned(),
                        source: Box::new(e),
                    })?;
                    pairs
                        .append_pair(
                            "client_assertion_type",
                            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                        )
                        .append_pair("client_assertion", token.expose());
                }
                From::ClientSecret { secret } => {
                    pairs.append_pair("client_secret", secret.resolve().map_err(wrong)?.expose());
                }
                From::Managed { .. } | From::Arc { .. } => {}
            }
        }
        let body = form.query().unwrap_or_default().to_owned();
        let request = Request::new(Method::POST, url);
        Ok(request.header("content-type", "application/x-www-form-urlencoded")?.body(body))
    }
}
