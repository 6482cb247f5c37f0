//! How a request shows that it may.

use std::time::SystemTime;

use crate::DeliverError;
use crate::http::{Request, Url};
use crate::secret::{Secret, SecretError, SecretRef};

use super::account::{ConnectionString, Target};
use super::broker::{self, Broker};
use super::sign;
use super::token::Tokens;

/// Credentials. Secrets are looked up at each request, so a replaced file counts at once.
#[derive(Debug)]
pub(super) enum Auth {
    /// The account's key, in base64.
    Key(SecretRef),
    /// The query string of a shared access signature.
    Sas(SecretRef),
    /// A connection string with either.
    ConnectionString(SecretRef),
    /// Bearer tokens.
    Identity(Box<Tokens>),
    /// Signatures by request.
    Broker(Box<Broker>),
}

/// Credentials that cannot be used. Holds none of them.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthError {
    #[error("{0}")]
    Secret(#[from] SecretError),
    #[error("the connection string cannot be used: {0}")]
    ConnectionString(&'static str),
    #[error("the account's key is not base64")]
    Key,
    #[error("the SAS is no query string: it begins with sv=, and has sig=")]
    Sas,
}

impl From<AuthError> for DeliverError {
    fn from(error: AuthError) -> DeliverError {
        let advice = "mend the credentials that the configuration names".to_owned();
        DeliverError::Stop { after: None, advice, source: Box::new(error) }
    }
}

/// Whether a text is the query string of a SAS: one that shows a signature.
pub(super) fn is_sas(text: &str) -> bool {
    let signed = |p: &str| p.strip_prefix("sig=").is_some_and(|sig| !sig.is_empty());
    text.split('&').any(signed) && !text.contains([' ', '#', '\n'])
}

pub(super) enum Proof {
    Key(Secret<String>),
    Sas(Secret<String>),
    Token(Secret<String>),
}

impl Auth {
    /// The credentials for one request; with their number, if they were handed out to us and end.
    pub async fn proof(&self, target: &Target) -> Result<(Proof, Option<u64>), DeliverError> {
        match self {
            Auth::Identity(tokens) => {
                let (token, number) = tokens.token().await?;
                Ok((Proof::Token(token), Some(number)))
            }
            Auth::Broker(broker) => {
                let (sas, number) = broker.sas(&target.container).await?;
                Ok((Proof::Sas(sas), Some(number)))
            }
            _ => Ok((self.own()?, None)),
        }
    }

    /// The number of the credentials handed out last, 0 before the first.
    pub fn newest(&self) -> u64 {
        match self {
            Auth::Identity(tokens) => tokens.kept.newest(),
            Auth::Broker(broker) => broker.kept.newest(),
            Auth::Key(_) | Auth::Sas(_) | Auth::ConnectionString(_) => 0,
        }
    }

    /// Gives up credentials that the service has refused.
    pub async fn give_up(&self, number: u64) {
        match self {
            Auth::Identity(tokens) => tokens.kept.give_up(number).await,
            Auth::Broker(broker) => broker.kept.give_up(number).await,
            Auth::Key(_) | Auth::Sas(_) | Auth::ConnectionString(_) => {}
        }
    }

    /// The credentials that the settings name.
    fn own(&self) -> Result<Proof, AuthError> {
        match self {
            Auth::Key(reference) => Ok(Proof::Key(reference.resolve()?)),
            Auth::Sas(reference) => Ok(Proof::Sas(reference.resolve()?)),
            Auth::ConnectionString(reference) => {
                let text = reference.resolve()?;
                let parts = ConnectionString::parse(text.expose()).map_err(AuthError::ConnectionString)?;
                match (parts.key, parts.sas) {
                    (Some(key), _) => Ok(Proof::Key(Secret::new(key))),
                    (None, Some(sas)) => Ok(Proof::Sas(Secret::new(sas))),
                    (None, None) => Err(AuthError::ConnectionString("it has no credentials")),
                }
            }
            Auth::Identity(_) | Auth::Broker(_) => Err(AuthError::Sas),
        }
    }

    /// Whether the credentials can be used, as far as we can tell without asking anyone.
    pub fn check(&self) -> Result<(), AuthError> {
        if matches!(self, Auth::Identity(_) | Auth::Broker(_)) {
            return Ok(());
        }
        let url = "http://localhost/".parse().map_err(|_| AuthError::Sas)?;
        self.own()?.apply("account", Request::new(crate::http::Method::GET, url)).map(drop)
    }

    /// Whether they are a SAS of the settings whose own end lies before this time.
    pub fn has_ended(&self, at: SystemTime) -> bool {
        let Ok(Proof::Sas(sas)) = self.own() else { return false };
        let query = sas.expose().trim_start_matches('?');
        let Ok(url) = Url::parse(&format!("http://localhost/?{query}")) else { return false };
        let end = url.query_pairs().find(|(key, _)| key == "se").and_then(|(_, end)| broker::end_of(&end));
        end.is_some_and(|end| end <= at)
    }

    /// What to look at when the service refuses them.
    pub fn advice(&self) -> &'static str {
        match self {
            Auth::Key(_) => "check the account's name and key, and this machine's clock",
            Auth::Sas(_) => {
                "check the SAS: its end (se), its permissions (sp: read, create and write), its container, \
                 and this machine's clock"
            }
            Auth::Identity(_) => "give the identity the role Storage Blob Data Contributor for the container",
            Auth::Broker(_) => {
                "check what the SAS broker hands out: read, create and write for this container"
            }
            Auth::ConnectionString(_) => {
                "check the connection string's account and key or SAS, and this machine's clock"
            }
        }
    }
}

impl Proof {
    /// Adds the credentials to a request that is otherwise complete.
    pub fn apply(&self, account: &str, mut request: Request) -> Result<Request, AuthError> {
        match self {
            Proof::Key(key) => {
                let value = sign::authorization(account, key.expose(), &request).ok_or(AuthError::Key)?;
                request.secret_header("authorization", &value).map_err(|_| AuthError::Key)
            }
            Proof::Sas(sas) => {
                let sas = sas.expose().trim_start_matches('?');
                if !is_sas(sas) {
                    return Err(AuthError::Sas);
                }
                let query = match request.url.query() {
                    Some(own) => format!("{own}&{sas}"),
                    None => sas.to_owned(),
                };
                request.url.set_query(Some(&query));
                Ok(request)
            }
            Proof::Token(token) => {
                let value = format!("Bearer {}", token.expose());
                request.secret_header("authorization", &value).map_err(|_| AuthError::Key)
            }
        }
    }
}
