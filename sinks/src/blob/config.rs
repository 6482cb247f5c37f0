//! `[sinks.NAME]` with `type = "blob"`.

use serde::Deserialize;

use super::account::{ConnectionString, Place, Target};
use super::auth::{Auth, AuthError};
use super::broker::{Broker, BrokerConfig};
use super::token::{IdentityConfig, IdentityKind, Tokens};
use crate::format::{Compression, Format};
use crate::http::{Client, HttpBuildError, HttpConfig, HttpContext, Url};
use crate::layout::LayoutError;
use crate::limits::{BatchConfig, LimitError};
use crate::secret::SecretRef;
use crate::units::Size;

/// Sent unless the settings say otherwise: old enough for every cloud, new enough for all we use.
const API_VERSION: &str = "2019-12-12";
/// The newest that an Azure Stack Hub documents.
const HUB_API_VERSION: &str = "2017-11-09";
/// Older ones sign otherwise.
const API_VERSION_LEAST: &str = "2015-04-05";
/// From here on a block may have 100 MiB; before, 4 MiB.
const LARGE_BLOCKS: &str = "2016-05-31";

/// The settings. Secrets are references (`file:…`, `env:…`, `cred:…`).
///
/// ```toml
/// [sinks.archive]
/// type = "blob"
/// account = "contoso"
/// key = "file:/etc/tidegate/storage.key"   # or sas, or connection_string for both
/// container = "telemetry"
/// layout = "{host}/dt={date}/hr={hour}"
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobConfig {
    /// `container`
    pub container: String,
    /// `account`: the storage account. Not with `connection_string`.
    #[serde(default)]
    pub account: Option<String>,
    /// `key`: the account's key.
    #[serde(default)]
    pub key: Option<SecretRef>,
    /// `sas`: the query string of a shared access signature with the permissions read, create
    /// and write. In a file it is read anew when it changes.
    #[serde(default)]
    pub sas: Option<SecretRef>,
    /// `connection_string`: account, endpoint and credentials in one;
    /// `UseDevelopmentStorage=true` for the emulator.
    #[serde(default)]
    pub connection_string: Option<SecretRef>,
    /// `[….identity]`: a managed identity, a workload's, or an application's. Its requests use
    /// `http` too: with a proxy, put `169.254.169.254` into its `no_proxy`.
    #[serde(default)]
    pub identity: Option<IdentityConfig>,
    /// `[….sas_broker]`: a front end that hands out short-lived SAS.
    #[serde(default)]
    pub sas_broker: Option<BrokerConfig>,
    /// `endpoint`: URL of the account's blob service, where it does not follow from the account.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// `endpoint_suffix`. Default: `core.windows.net`.
    #[serde(default)]
    pub endpoint_suffix: Option<String>,
    /// `path_style`: the account is the first part of the path, not of the host.
    #[serde(default)]
    pub path_style: bool,
    /// `profile`: `azure` (default) or `azure-stack-hub`.
    #[serde(default)]
    pub profile: Profile,
    /// `api_version`: the `x-ms-version` that is sent. Default: 2019-12-12; of an Azure Stack
    /// Hub 2017-11-09, which is also the highest allowed there.
    #[serde(default)]
    pub api_version: Option<String>,
    /// `create_container`: create the container when it is not there.
    #[serde(default)]
    pub create_container: bool,
    /// `layout`: the path before a blob's name, with `{host}`, `{stream}`, `{level}`,
    /// `{provider}`, `{date}` and `{hour}` (of the events, UTC). Each distinct path of a batch is
    /// a blob of its own. Default: `{host}/{stream}/dt={date}/hr={hour}`.
    #[serde(default = "layout")]
    pub layout: String,
    /// `format`: `jsonl` (default), `capture` or `parquet`.
    #[serde(default)]
    pub format: Format,
    /// `compression`: `zstd` (default), `gzip` or `none`.
    #[serde(default)]
    pub compression: Compression,
    /// `single_put_max`: larger blobs are written in blocks. At most 64 MiB. Default: 32 MiB.
    #[serde(default = "single_put_max")]
    pub single_put_max: Size,
    /// `block_size`: of these. Default: 8 MiB, or what the API version allows.
    #[serde(default)]
    pub block_size: Option<Size>,
    /// `[….batch]`. Defaults: 100,000 events, 16 MiB, 60 s, 2 in flight.
    #[serde(default)]
    pub batch: BatchConfig,
    /// `[….http]`: time-outs, TLS, pins, proxy.
    #[serde(default)]
    pub http: HttpConfig,
}

/// What kind of far side it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Azure, or the emulator.
    #[default]
    Azure,
    /// Azure Stack Hub: an older API.
    AzureStackHub,
}

fn layout() -> String {
    "{host}/{stream}/dt={date}/hr={hour}".to_owned()
}

fn single_put_max() -> Size {
    Size(32 << 20)
}

/// Why the sink cannot be made. Holds no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// A setting is wrong.
    #[error("{key}: {why}")]
    Setting {
        /// Which.
        key: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The credentials.
    #[error("{key}")]
    Credentials {
        /// Which setting.
        key: &'static str,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The template.
    #[error("layout")]
    Layout(#[from] LayoutError),
    /// A limit.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The HTTP client.
    #[error("http")]
    Http(#[from] HttpBuildError),
}

fn setting(key: &'static str, why: impl Into<String>) -> BlobError {
    BlobError::Setting { key, why: why.into() }
}

impl BlobConfig {
    /// The version to send.
    pub(super) fn api_version(&self) -> Result<String, BlobError> {
        let own = match self.profile {
            Profile::Azure => API_VERSION,
            Profile::AzureStackHub => HUB_API_VERSION,
        };
        let version = self.api_version.as_deref().unwrap_or(own);
        let form: String = version.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        if form != "0000-00-00" {
            return Err(setting("api_version", "a date such as 2019-12-12 is expected"));
        }
        // dates of this form compare as text
        if version < API_VERSION_LEAST {
            return Err(setting("api_version", format!("{API_VERSION_LEAST} or later is needed")));
        }
        if self.profile == Profile::AzureStackHub && version > HUB_API_VERSION {
            let why = format!("an Azure Stack Hub takes {HUB_API_VERSION} at most");
            return Err(setting("api_version", why));
        }
        Ok(version.to_owned())
    }

    /// Sizes of a block and of a blob in one request.
    pub(super) fn sizes(&self, version: &str) -> Result<(usize, usize), BlobError> {
        let most: u64 = if version < LARGE_BLOCKS { 4 << 20 } else { 100 << 20 };
        let block = self.block_size.map_or((8 << 20).min(most), |s| s.0);
        if !(1 << 10..=most).contains(&block) {
            return Err(setting("block_size", format!("1KiB to {}MiB is allowed", most >> 20)));
        }
        if self.single_put_max.0 > 64 << 20 {
            return Err(setting("single_put_max", "at most 64MiB is allowed"));
        }
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Ok((size(block), size(self.single_put_max.0)))
    }

    /// What the connection string says; nothing where there is none.
    fn parts(&self) -> Result<ConnectionString, AuthError> {
        let Some(reference) = &self.connection_string else { return Ok(ConnectionString::default()) };
        ConnectionString::parse(reference.resolve()?.expose()).map_err(AuthError::ConnectionString)
    }

    fn place<'a>(&'a self, parts: &'a ConnectionString) -> Place<'a> {
        Place {
            account: self.account.as_deref().or(parts.account.as_deref()).unwrap_or_default(),
            endpoint: self.endpoint.as_deref().or(parts.endpoint.as_deref()),
            protocol: parts.protocol.as_deref(),
            suffix: self.endpoint_suffix.as_deref().or(parts.suffix.as_deref()),
            path_style: self.path_style,
        }
    }

    /// The container's URL; `None` where the settings do not tell it.
    pub(crate) fn container_url(&self) -> Option<Url> {
        self.place(&self.parts().ok()?).container(&self.container).ok()
    }

    /// The container and the credentials.
    pub(super) fn target(&self, client: &Client, ctx: &HttpContext) -> Result<(Target, Auth), BlobError> {
        let credentials =
            |key: &'static str| move |e: AuthError| BlobError::Credentials { key, source: Box::new(e) };
        let given = [self.key.is_some(), self.sas.is_some(), self.connection_string.is_some()];
        let given = given.into_iter().chain([self.identity.is_some(), self.sas_broker.is_some()]);
        if given.filter(|g| *g).count() != 1 {
            return Err(setting("key", "set one of key, sas, connection_string, identity and sas_broker"));
        }
        let mut parts = ConnectionString::default();
        let (key, auth) = match (&self.key, &self.sas, &self.connection_string) {
            (Some(key), None, None) => ("key", Auth::Key(key.clone())),
            (None, Some(sas), None) => ("sas", Auth::Sas(sas.clone())),
            (None, None, Some(reference)) => {
                let wrong = credentials("connection_string");
                if self.account.is_some() {
                    return Err(setting("account", "it stands in connection_string already"));
                }
                parts = self.parts().map_err(wrong)?;
                ("connection_string", Auth::ConnectionString(reference.clone()))
            }
            _ => match (&self.identity, &self.sas_broker) {
                (Some(identity), _) => {
                    let client = match identity.kind {
                        // what the machine itself tells, no proxy can ask for
                        IdentityKind::Managed | IdentityKind::Arc if self.http.proxy.is_some() => {
                            Client::new(&HttpConfig { proxy: None, ..self.http.clone() }, ctx)?
                        }
                        _ => client.clone(),
                    };
                    let tokens = Tokens::new(identity, client);
                    ("identity", Auth::Identity(Box::new(tokens.map_err(|why| setting("identity", why))?)))
                }
                (None, Some(broker)) => {
                    let broker = Broker::new(broker, client.clone());
                    ("sas_broker", Auth::Broker(Box::new(broker.map_err(|why| setting("sas_broker", why))?)))
                }
                (None, None) => return Err(setting("key", "credentials are needed")),
            },
        };
        let place = self.place(&parts);
        if key == "key" && place.account.is_empty() {
            return Err(setting("account", "it is needed with key"));
        }
        auth.check().map_err(credentials(key))?;
        let container = place.container(&self.container).map_err(|why| setting("container", why))?;
        let account = place.account.to_owned();
        Ok((Target { account, container }, auth))
    }
}
