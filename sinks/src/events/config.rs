//! `[sinks.NAME]` with `type = "events"`.

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use tidegate_proto::ids::SinkId;

use super::body::{BODY_BYTES_MAX, Caps, Compression, EVENT_BYTES_MAX, EVENTS_MAX};
use super::mapping::{LatencyRule, Mapping, Pattern, PiiRule};
use super::tenant::{NoToken, Tenant};
use super::transport::Transport;
use super::{EventsSink, sink};
use crate::BatchLimits;

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
    pub tenant: String,
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
    /// Most bytes of a request before compression, 65,536 to 2,097,152.
    #[serde(default = "body_max")]
    pub max_bytes: usize,
    /// A request that is not full leaves when its oldest event has waited so long. The
    /// default of 2 s is what real-time events are promised.
    #[serde(default = "age", deserialize_with = "duration")]
    pub age: Duration,
    /// Requests on their way at a time, 1 to 16.
    #[serde(default = "in_flight")]
    pub in_flight: u32,
    /// An attempt that takes longer is given up.
    #[serde(default = "timeout", deserialize_with = "duration")]
    pub timeout: Duration,
}

/// A tenant of certain providers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantConfig {
    /// Reference to its token.
    pub token: String,
    /// Patterns of the providers whose events it gets.
    pub providers: Vec<Pattern>,
}

fn yes() -> bool {
    true
}

fn events_max() -> u32 {
    EVENTS_MAX as u32
}

fn body_max() -> usize {
    BODY_BYTES_MAX
}

fn age() -> Duration {
    Duration::from_secs(2)
}

fn in_flight() -> u32 {
    2
}

fn timeout() -> Duration {
    Duration::from_secs(60)
}

/// `500ms`, `2s`, `5m`.
fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let ms = number.parse::<u64>().ok().and_then(|n| n.checked_mul(ms)).filter(|ms| *ms > 0);
    ms.map(Duration::from_millis).ok_or_else(|| {
        serde::de::Error::custom(format!("\"{text}\" is no length of time; write it like 500ms, 2s or 5m"))
    })
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
    #[error("tenant {reference}")]
    Tenant {
        /// The reference.
        reference: String,
        /// Why.
        #[source]
        source: NoToken,
    },
    /// Two references lead to one tenant.
    #[error("tenant {reference} is there twice")]
    Twice {
        /// The second reference.
        reference: String,
    },
}

impl EventsConfig {
    /// References to all tokens: the default tenant's, then the others in order.
    pub fn references(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.tenant).chain(self.tenants.iter().map(|t| &*t.token))
    }

    /// Makes the sink. `tokens` are what [`references`](EventsConfig::references) lead to,
    /// in the same order; `client` must neither follow redirects nor decompress.
    ///
    /// # Errors
    /// [`EventsError`], before anything is sent.
    pub fn build(
        &self,
        id: SinkId,
        tokens: &[String],
        client: reqwest::Client,
    ) -> Result<EventsSink, EventsError> {
        let range = |key, fits: bool, why: &str| {
            if fits { Ok(()) } else { Err(EventsError::Setting { key, why: why.to_owned() }) }
        };
        let most = 1..=events_max();
        range("max_events", most.contains(&self.max_events), "from 1 to 500")?;
        let bytes = 65_536..=BODY_BYTES_MAX;
        range("max_bytes", bytes.contains(&self.max_bytes), "from 65536 to 2097152")?;
        range("in_flight", (1..=16).contains(&self.in_flight), "from 1 to 16")?;
        let url: Result<reqwest::Url, _> = self.url.parse();
        let url = url.map_err(|e| EventsError::Setting { key: "url", why: e.to_string() })?;
        let plain =
            matches!(url.scheme(), "https" | "http") && url.username().is_empty() && url.password().is_none();
        range("url", plain, "an https or http URL without user and password")?;

        let mut tenants: Vec<Tenant> = Vec::new();
        let mut routes = Vec::new();
        for (place, (reference, token)) in self.references().zip(tokens).enumerate() {
            let tenant = Tenant::parse(token)
                .map_err(|source| EventsError::Tenant { reference: reference.to_owned(), source })?;
            if tenants.iter().any(|t| t.key() == tenant.key()) {
                return Err(EventsError::Twice { reference: reference.to_owned() });
            }
            tenants.push(tenant);
            let providers = place.checked_sub(1).and_then(|n| self.tenants.get(n)).map(|t| &t.providers);
            routes.extend(providers.into_iter().flatten().map(|pattern| (pattern.clone(), place)));
        }
        range("tenant", tenants.len() == self.tenants.len() + 1, "a token for each reference")?;

        let mut destination = url.clone();
        destination.set_query(None);
        destination.set_fragment(None);
        let limits = BatchLimits {
            events: self.max_events,
            // JSON takes about twice what protobuf does; what takes more is cut into several requests
            bytes: (self.max_bytes / 2) as u64,
            age: self.age,
            in_flight: self.in_flight,
            timeout: self.timeout,
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
            caps: Caps {
                events: self.max_events as usize,
                body_bytes: self.max_bytes,
                event_bytes: EVENT_BYTES_MAX,
            },
            limits,
            transport: Transport { client, url, destination: destination.into() },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{TOKENS, client};
    use super::*;

    const MINIMAL: &str = "url = \"https://e.example/OneCollector/1.0/\"\ntenant = \"env:A\"\n";

    fn build(more: &str, tokens: &[&str]) -> Result<EventsSink, String> {
        let config: EventsConfig = toml::from_str(&format!("{MINIMAL}{more}")).map_err(|e| e.to_string())?;
        let tokens: Vec<String> = tokens.iter().map(|t| (*t).to_owned()).collect();
        config.build(SinkId::new("cloud"), &tokens, client()).map_err(|e| e.to_string())
    }

    #[test]
    fn the_settings_are_read() {
        let sink = build("", &TOKENS[..1]).unwrap();
        assert_eq!((sink.parts.limits.events, sink.parts.limits.age), (500, Duration::from_secs(2)));
        let sink = build(
            "compression = \"deflate\"\nage = \"500ms\"\nhost = false\n[[tenants]]\ntoken = \"file:/t\"\n\
             providers = [\"Contoso.*\", \"Fabrikam\"]\n[[latency]]\nmax_level = \"Basic\"\nclass = \"real-time\"\n\
             [[pii]]\nfield = \"user*\"\nkind = \"smtp-address\"\n",
            &TOKENS[..2],
        )
        .unwrap();
        assert_eq!((sink.parts.mapping.routes.len(), sink.parts.mapping.routes[1].1), (2, 1));
        assert_eq!((sink.parts.compression, sink.parts.mapping.host), (Compression::Deflate, false));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (more, tokens, word) in [
            ("urll = 1", &TOKENS[..1], "urll"),
            ("max_events = 501", &TOKENS[..1], "max_events"),
            ("max_bytes = 3000000", &TOKENS[..1], "max_bytes"),
            ("in_flight = 0", &TOKENS[..1], "in_flight"),
            ("age = \"soon\"", &TOKENS[..1], "500ms"),
            ("compression = \"zip\"", &TOKENS[..1], "zip"),
            ("[[pii]]\nfield = \"x\"\nkind = \"shoe-size\"", &TOKENS[..1], "shoe-size"),
            ("", &["hunter2"], "env:A"),
            ("", &[], "tenant"),
            ("[[tenants]]\ntoken = \"env:B\"\nproviders = []", &[TOKENS[0], TOKENS[0]], "env:B"),
        ] {
            let error = build(more, tokens).unwrap_err();
            assert!(error.contains(word) && !error.contains("hunter2"), "{more}: {error}");
        }
        let no_url = toml::from_str::<EventsConfig>("tenant = \"env:A\"").unwrap_err().to_string();
        assert!(no_url.contains("url"), "{no_url}");
    }
}
