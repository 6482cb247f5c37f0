//! `[sinks.NAME]` with `type = "events"`.

use serde::Deserialize;
use tidegate_proto::ids::SinkId;

use super::body::{BODY_BYTES_MAX, Caps, Compression, EVENT_BYTES_MAX, EVENTS_MAX};
use super::mapping::{LatencyRule, Mapping, Pattern, PiiRule};
use super::tenant::{NoToken, Tenant};
use super::transport::Transport;
use super::{EventsSink, sink};
use crate::BatchLimits;
use crate::http::{Client, HttpBuildError, HttpConfig, HttpContext, Url, redact};
use crate::secret::{SecretError, SecretRef};
use crate::units::{Size, Span};

/// The sink's settings. Tenant tokens are secrets and given by reference only.
///
/// ```toml
/// [sinks.cloud]
/// type = "events"
/// url = "https://events.example.com/OneCollector/1.0/"
/// tenant = "file:/etc/tidegate/tenant"
///
/// [[sinks.cloud.tenants]]
/// token = "env:CONTOSO_TENANT"
/// providers = ["Contoso.*"]
///
/// [[sinks.cloud.latency]]
/// provider = "Contoso.Payments"
/// class = "real-time"
///
/// [[sinks.cloud.pii]]
/// field = "user*"
/// kind = "identity"
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsConfig {
    /// The endpoint, `https://HOST/OneCollector/1.0/`.
    pub url: String,
    /// Reference to the token of the tenant that gets what no other is named for.
    pub tenant: SecretRef,
    /// Tenants of certain providers. The first that fits counts.
    #[serde(default)]
    pub tenants: Vec<TenantConfig>,
    /// `gzip`, `deflate` or `none`.
    #[serde(default)]
    pub compression: Compression,
    /// Whether the configured host name goes along, as `ext.device.localId`.
    #[serde(default = "yes")]
    pub host: bool,
    /// Whether the endpoint is asked not to keep the address it gets the events from.
    #[serde(default = "yes")]
    pub scrub_ip: bool,
    /// Which events leave sooner or later than others. Event tags count before rules.
    #[serde(default)]
    pub latency: Vec<LatencyRule>,
    /// Which fields hold personal data, besides those that their types, tags or the scrubber tell.
    #[serde(default)]
    pub pii: Vec<PiiRule>,
    /// Most events of a request, 1 to 500.
    #[serde(default = "events_max")]
    pub max_events: u32,
    /// Most bytes of a request before compression, 64 KiB to 2 MiB.
    #[serde(default = "body_max")]
    pub max_bytes: Size,
    /// A request that is not full leaves when its oldest event has waited so long. The
    /// default of 2 s is what real-time events are promised.
    #[serde(default = "age")]
    pub age: Span,
    /// Requests on their way at a time, 1 to 16.
    #[serde(default = "in_flight")]
    pub in_flight: u32,
    /// `[….http]`: time-outs, TLS, pins, proxy.
    #[serde(default)]
    pub http: HttpConfig,
}

/// A tenant of certain providers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantConfig {
    /// Reference to its token.
    pub token: SecretRef,
    /// Patterns of the providers whose events it gets.
    pub providers: Vec<Pattern>,
}

fn yes() -> bool {
    true
}

fn events_max() -> u32 {
    EVENTS_MAX as u32
}

fn body_max() -> Size {
    Size(BODY_BYTES_MAX as u64)
}

fn age() -> Span {
    Span::seconds(2)
}

fn in_flight() -> u32 {
    2
}

/// What keeps a sink from being made. Holds no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventsError {
    /// A setting is out of its range.
    #[error("{key}: {why}")]
    Setting {
        /// Which.
        key: &'static str,
        /// What is allowed.
        why: String,
    },
    /// What a reference leads to is no tenant token.
    #[error("tenant {reference:?}")]
    Tenant {
        /// The reference.
        reference: SecretRef,
        /// Why.
        #[source]
        source: NoToken,
    },
    /// A reference leads nowhere.
    #[error("tenant {reference:?}")]
    Secret {
        /// The reference.
        reference: SecretRef,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// Two references lead to one tenant.
    #[error("tenant {reference:?} is there twice")]
    Twice {
        /// The second reference.
        reference: SecretRef,
    },
    /// The client cannot be built.
    #[error(transparent)]
    Http(#[from] HttpBuildError),
}

impl EventsConfig {
    /// Makes the sink: looks the tokens up, opens no connection.
    ///
    /// # Errors
    /// [`EventsError`].
    pub fn build(&self, id: SinkId, ctx: &HttpContext) -> Result<EventsSink, EventsError> {
        let range = |key, fits: bool, why: &str| {
            if fits { Ok(()) } else { Err(EventsError::Setting { key, why: why.to_owned() }) }
        };
        let most = 1..=events_max();
        range("max_events", most.contains(&self.max_events), "from 1 to 500")?;
        let body_bytes = usize::try_from(self.max_bytes.0).unwrap_or(usize::MAX);
        range("max_bytes", (65_536..=BODY_BYTES_MAX).contains(&body_bytes), "from 64KiB to 2MiB")?;
        range("in_flight", (1..=16).contains(&self.in_flight), "from 1 to 16")?;
        let wrong = || EventsError::Setting {
            key: "url",
            why: "an https or http URL without user and password, https://HOST/OneCollector/1.0/".to_owned(),
        };
        let url: Url = self.url.parse().map_err(|_| wrong())?;
        let plain = matches!(url.scheme(), "https" | "http") && url.username().is_empty();
        if !plain || url.password().is_some() || !url.has_host() {
            return Err(wrong());
        }

        let mut tenants: Vec<Tenant> = Vec::new();
        let mut routes = Vec::new();
        let none: &[Pattern] = &[];
        let others = self.tenants.iter().map(|t| (&t.token, &*t.providers));
        for (place, (reference, providers)) in std::iter::once((&self.tenant, none)).chain(others).enumerate()
        {
            let named = || reference.clone();
            let token =
                reference.resolve().map_err(|source| EventsError::Secret { reference: named(), source })?;
            let tenant = Tenant::parse(token.expose())
                .map_err(|source| EventsError::Tenant { reference: named(), source })?;
            if tenants.iter().any(|t| t.key() == tenant.key()) {
                return Err(EventsError::Twice { reference: named() });
            }
            tenants.push(tenant);
            routes.extend(providers.iter().map(|pattern| (pattern.clone(), place)));
        }
        let limits = BatchLimits {
            events: self.max_events,
            // JSON takes about twice what protobuf does; what takes more is cut into several requests
            bytes: self.max_bytes.0 / 2,
            age: self.age.0,
            in_flight: self.in_flight,
            // the client's own time-out comes first and says more; a batch may be several requests
            timeout: self.http.timeout.0.saturating_mul(4),
        };
        Ok(EventsSink::assemble(sink::Parts {
            id,
            mapping: Mapping {
                tenants,
                routes,
                latency: self.latency.clone(),
                pii: self.pii.clone(),
                host: self.host,
                scrub_ip: self.scrub_ip,
            },
            compression: self.compression,
            caps: Caps { events: self.max_events as usize, body_bytes, event_bytes: EVENT_BYTES_MAX },
            limits,
            transport: Transport {
                client: Client::new(&self.http, ctx)?,
                destination: redact(url.as_str()),
                url,
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::TOKENS;
    use super::*;

    fn build(more: &str, token: &str) -> Result<EventsSink, String> {
        let text =
            format!("url = \"https://e.example/OneCollector/1.0/\"\ntenant = \"value:{token}\"\n{more}");
        let config: EventsConfig = toml::from_str(&text).map_err(|e| e.to_string())?;
        config.build(SinkId::new("cloud"), &HttpContext::default()).map_err(|e| format!("{e} {e:?}"))
    }

    #[test]
    fn the_settings_are_read() {
        let sink = build("", TOKENS[0]).unwrap();
        assert_eq!((sink.parts.limits.events, sink.parts.limits.age), (500, age().0));
        let more = format!(
            "compression = \"deflate\"\nage = \"500ms\"\nhost = false\n[[tenants]]\ntoken = \"value:{}\"\n\
             providers = [\"Contoso.*\", \"Fabrikam\"]\n[[latency]]\nmax_level = \"Basic\"\nclass = \"real-time\"\n\
             [[pii]]\nfield = \"user*\"\nkind = \"smtp-address\"\n[http]\ntimeout = \"5s\"\n",
            TOKENS[1]
        );
        let sink = build(&more, TOKENS[0]).unwrap();
        assert_eq!((sink.parts.mapping.routes.len(), sink.parts.mapping.routes[1].1), (2, 1));
        assert_eq!((sink.parts.compression, sink.parts.mapping.host), (Compression::Deflate, false));
        assert_eq!(sink.parts.limits.timeout, Span::seconds(20).0);
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_shown() {
        let twice = format!("[[tenants]]\ntoken = \"value:{}\"\nproviders = []", TOKENS[0]);
        for (more, token, word) in [
            ("urll = 1", TOKENS[0], "urll"),
            ("max_events = 501", TOKENS[0], "max_events"),
            ("max_bytes = \"3MiB\"", TOKENS[0], "max_bytes"),
            ("in_flight = 0", TOKENS[0], "in_flight"),
            ("age = \"soon\"", TOKENS[0], "100ms"),
            ("compression = \"zip\"", TOKENS[0], "zip"),
            ("[[pii]]\nfield = \"x\"\nkind = \"shoe-size\"", TOKENS[0], "shoe-size"),
            ("", "hunter2", "***"),
            ("[[tenants]]\ntoken = \"env:TIDEGATE_NO_SUCH\"\nproviders = []", TOKENS[0], "TIDEGATE_NO_SUCH"),
            (&twice, TOKENS[0], "twice"),
        ] {
            let error = build(more, token).unwrap_err();
            let shown = error.contains("hunter2") || error.contains(&TOKENS[0][33..]);
            assert!(error.contains(word) && !shown, "{more}: {error}");
        }
        let no_url = toml::from_str::<EventsConfig>("tenant = \"env:A\"").unwrap_err().to_string();
        assert!(no_url.contains("url"), "{no_url}");
    }
}
