//! `[sinks.NAME]` with `type = "events"`.

use std::time::Duration;

use serde::Deserialize;
use tidegate_proto::ids::SinkId;

use super::body::{BODY_BYTES_MAX, Caps, Compression, EVENT_BYTES_MAX, EVENTS_MAX};
use super::latency::{LatencyRule, Urgency};
use super::mapping::{Mapping, Pattern, PiiRule};
use super::tenant::{Tenant, TenantError};
use super::transport::Transport;
use super::{EventsSink, sink};
use crate::BatchLimits;
use crate::http::{Client, HttpBuildError, HttpConfig, HttpContext, Url, redact};
use crate::limits::{BatchConfig, LimitError};
use crate::secret::SecretRef;

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
    /// `batch`: overrides of 500 events, 1 MiB, an age of 25 s (normal events are promised 30; a
    /// batch with a real-time event goes after 1 s), 2 requests at a time. A larger batch is cut
    /// into several requests.
    #[serde(default)]
    pub batch: BatchConfig,
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

/// What keeps a sink from being made. Holds no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventsError {
    /// The address is none.
    #[error("url: an https or http URL without user and password, https://HOST/OneCollector/1.0/")]
    Url,
    /// A reference leads to no tenant token.
    #[error("tenant {reference:?}")]
    Tenant {
        /// The reference.
        reference: SecretRef,
        /// Why.
        #[source]
        source: TenantError,
    },
    /// Two references lead to one tenant.
    #[error("tenant {reference:?} is there twice")]
    Twice {
        /// The second reference.
        reference: SecretRef,
    },
    /// A limit is out of its range.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The client cannot be built.
    #[error(transparent)]
    Http(#[from] HttpBuildError),
}

impl EventsConfig {
    /// Makes the sink: looks the tokens up, opens no connection.
    ///
    /// # Errors
    /// [`EventsError`].
    pub fn build(&self, id: &SinkId, ctx: &HttpContext) -> Result<EventsSink, EventsError> {
        let url: Url = self.url.parse().map_err(|_| EventsError::Url)?;
        let plain = matches!(url.scheme(), "https" | "http") && url.username().is_empty();
        if !plain || url.password().is_some() || !url.has_host() {
            return Err(EventsError::Url);
        }

        let mut tenants: Vec<Tenant> = Vec::new();
        let mut routes = Vec::new();
        let none: &[Pattern] = &[];
        let others = self.tenants.iter().map(|t| (&t.token, &*t.providers));
        for (place, (reference, providers)) in std::iter::once((&self.tenant, none)).chain(others).enumerate()
        {
            let named = || reference.clone();
            let tenant =
                Tenant::of(reference).map_err(|source| EventsError::Tenant { reference: named(), source })?;
            if tenants.iter().any(|t| t.key() == tenant.key()) {
                return Err(EventsError::Twice { reference: named() });
            }
            tenants.push(tenant);
            routes.extend(providers.iter().map(|pattern| (pattern.clone(), place)));
        }
        let limits = self.batch.over(BatchLimits {
            events: EVENTS_MAX as u32,
            // JSON takes about twice what protobuf does; what takes more is cut into several requests
            bytes: BODY_BYTES_MAX as u64 / 2,
            age: Duration::from_secs(25),
            in_flight: 2,
            // the client's own time-out comes first and says more; a batch may be several requests
            timeout: self.http.timeout.0.saturating_mul(4).min(Duration::from_secs(3600)),
        })?;
        Ok(EventsSink::assemble(sink::Parts {
            id: id.clone(),
            mapping: Mapping {
                tenants,
                routes,
                urgency: Urgency::new(self.latency.clone()),
                pii: self.pii.clone(),
                host: self.host,
                scrub_ip: self.scrub_ip,
            },
            compression: self.compression,
            caps: Caps { events: EVENTS_MAX, body_bytes: BODY_BYTES_MAX, event_bytes: EVENT_BYTES_MAX },
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
        config.build(&SinkId::new("cloud"), &HttpContext::default()).map_err(|e| format!("{e} {e:?}"))
    }

    #[test]
    fn the_settings_are_read() {
        let sink = build("", TOKENS[0]).unwrap();
        assert_eq!((sink.parts.limits.events, sink.parts.limits.age), (500, Duration::from_secs(25)));
        let more = format!(
            "compression = \"deflate\"\nbatch = {{ age = \"500ms\", events = 2000 }}\nhost = false\n[[tenants]]\ntoken = \"value:{}\"\n\
             providers = [\"Contoso.*\", \"Fabrikam\"]\n[[latency]]\nmax_level = \"Basic\"\nclass = \"real-time\"\n\
             [[pii]]\nfield = \"user*\"\nkind = \"smtp-address\"\n[http]\ntimeout = \"5s\"\n",
            TOKENS[1]
        );
        let sink = build(&more, TOKENS[0]).unwrap();
        assert_eq!((sink.parts.mapping.routes.len(), sink.parts.mapping.routes[1].1), (2, 1));
        assert_eq!((sink.parts.compression, sink.parts.mapping.host), (Compression::Deflate, false));
        assert_eq!(sink.parts.limits.timeout, Duration::from_secs(20));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_shown() {
        let twice = format!("[[tenants]]\ntoken = \"value:{}\"\nproviders = []", TOKENS[0]);
        for (more, token, word) in [
            ("urll = 1", TOKENS[0], "urll"),
            ("batch = { in_flight = 0 }", TOKENS[0], "in_flight"),
            ("batch = { age = \"soon\" }", TOKENS[0], "100ms"),
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
