//! From a configuration to the parts of a run.
//!
//! [`check`] reads everything that can be read without touching ring, network or input: what it takes runs,
//! as far as a configuration can tell. [`open`] then opens the ring and makes sources and sinks; each source goes on
//! at the position that the ring holds of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tidegate_proto::ids::SinkId;
use tidegate_ring::{Keys, Ring, RingError, SledRing, StartAt};
use tidegate_sinks::BuildError;
use tidegate_sinks::http::{Client, HttpContext};
use tidegate_sinks::secret::SecretError;
use tidegate_sinks::units::Size;
use tidegate_sources::census::CensusConfig;
use tidegate_sources::{SourceConfig, SourceError};
use tokio::sync::watch;

use crate::audit::hex;
use crate::config::{
    Config, ConfigError, ControlConfig, IntakeConfig, MeteredConfig, Problem, RingConfig, SettingsConfig,
    SinkSection, SourceSection, Start,
};
use crate::dispatch::soon::Metered;
use crate::dispatch::{Filter, SinkOptions};
use crate::gate::scrub::PseudonymKey;
use crate::gate::{Rules, SHIPPED};
use crate::intake::Filters;
use crate::pipeline::{Parts, PipelineOptions, Remake, SinkPart, Until};
use crate::sampling::{SampleRule, SamplingRules};
use crate::settings::Document;
use crate::settings::remote::Remote;

/// The name of the device census as a source, where the configuration has none of its own.
const CENSUS: &str = "tidegate-census";

/// A configuration whose every part has been checked.
#[derive(Clone, Debug)]
pub struct Checked {
    config: Config,
    rules: Arc<Rules>,
    missing: Vec<Problem>,
}

impl Checked {
    /// Names of the sources with their types.
    #[must_use]
    pub fn sources(&self) -> Vec<String> {
        self.config.sources.iter().map(|s| format!("{} ({})", s.name, s.config.kind())).collect()
    }

    /// Secrets that cannot be read here and now; the collector does not start without them.
    #[must_use]
    pub fn missing(&self) -> &[Problem] {
        &self.missing
    }

    /// How long sinks may go on at the end of a run.
    #[must_use]
    pub fn drain(&self) -> Duration {
        self.config.shutdown.drain
    }

    /// What it was made of.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// What the gate goes by.
    pub(crate) fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// Where the collector is controlled from.
    #[must_use]
    pub fn control(&self) -> &ControlConfig {
        &self.config.control
    }

    /// Names of the sinks that write to standard output.
    #[must_use]
    pub fn to_stdout(&self) -> BTreeSet<String> {
        let to_stdout = |s: &&SinkSection| s.config.kind() == "stdout";
        self.config.sinks.iter().filter(to_stdout).map(|s| s.name.clone()).collect()
    }

    /// Names of the sinks with their types.
    #[must_use]
    pub fn sinks(&self) -> Vec<String> {
        self.config.sinks.iter().map(|s| format!("{} ({})", s.name, s.config.kind())).collect()
    }
}

/// The parts cannot be put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssembleError {
    /// A setting that only shows now, such as a secret that is not there.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The ring is open in another process.
    #[error("the ring {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The ring cannot be opened.
    #[error("cannot open the ring {}", path.display())]
    Ring {
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: RingError,
    },
    /// A source cannot be made.
    #[error("source \"{name}\"")]
    Source {
        /// Its name.
        name: String,
        /// Why.
        source: SourceError,
    },
}

/// Checks what [`config::load`](crate::config::load) does not: catalogues, keys and switches, and that sinks and
/// remote settings can be made of what is said of them. Nothing is connected to.
///
/// # Errors
/// All that is wrong with them. Secrets that cannot be read are no error: they may be elsewhere.
pub fn check(config: Config) -> Result<Checked, ConfigError> {
    let mut problems = Vec::new();
    let rules = rules(&config).map_err(|p| problems.push(p)).ok();
    let http = HttpContext::default();
    let mut missing = Vec::new();
    for section in &config.sinks {
        if let Err(e) = section.config.build(&SinkId::new(&section.name), &http) {
            let of = if is_of_secret(&e) { &mut missing } else { &mut problems };
            of.push(problem(&config, format!("sinks.{}", section.name), chain(&e)));
        }
        if let Err(e) = Filter::new(&section.filter) {
            problems.push(problem(&config, format!("sinks.{}.filter", section.name), e));
        }
    }
    if let Some(Err(e)) = config.settings.as_ref().map(|s| remote(&config, s, &http)) {
        problems.extend(e.problems);
    }
    match rules.filter(|_| problems.is_empty()) {
        Some(rules) => Ok(Checked { config, rules: Arc::new(rules), missing }),
        None => Err(ConfigError { problems }),
    }
}

/// Whether a sink cannot be made for want of a secret.
fn is_of_secret(error: &BuildError) -> bool {
    let mut causes = std::iter::successors(std::error::Error::source(error), |e| e.source());
    causes.any(|e| {
        matches!(
            e.downcast_ref(),
            Some(SecretError::File { .. } | SecretError::Env(_) | SecretError::NoCredentials(_))
        )
    })
}

fn problem(config: &Config, key: String, text: String) -> Problem {
    let file = config.files.first().cloned().unwrap_or_default();
    Problem { file, line: 0, key, text }
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |line, cause| {
        let cause = cause.to_string();
        // some errors already tell their cause
        if line.ends_with(&cause) { line } else { format!("{line}: {cause}") }
    })
}

/// The catalogues put together.
pub(crate) fn rules(config: &Config) -> Result<Rules, Problem> {
    let telemetry = &config.telemetry;
    let wrong = |e: crate::gate::RulesError| Problem {
        file: PathBuf::from(e.file),
        line: e.line,
        key: e.key,
        text: e.problem,
    };
    let mut builder = Rules::builder().map_err(wrong)?;
    for path in &telemetry.catalogues {
        let text = std::fs::read_to_string(path).map_err(|e| {
            problem(config, "telemetry.catalogues".into(), format!("{}: {e}", path.display()))
        })?;
        builder = builder.catalogue(&path.display().to_string(), &text).map_err(wrong)?;
    }
    if let Some(level) = telemetry.default_level {
        builder = builder.default_level(level);
    }
    if let Some(scrub) = telemetry.scrub {
        builder = builder.scrub(scrub);
    }
    if let Some(pseudonyms) = &telemetry.pseudonyms {
        let key = "telemetry.pseudonyms";
        let secret =
            pseudonyms.key.resolve().map_err(|e| problem(config, format!("{key}.key"), chain(&e)))?;
        let made = PseudonymKey::new(&pseudonyms.key_id, secret.expose().as_bytes(), pseudonyms.period);
        builder = builder.pseudonym_key(made.map_err(|e| problem(config, key.into(), e.to_string()))?);
    }
    let rules = builder.build().map_err(wrong)?;
    let off: Vec<&str> = telemetry.off.iter().map(String::as_str).collect();
    rules.switched_off_by(&off).map_err(|e| problem(config, "telemetry.off".into(), e.to_string()))?;
    Ok(rules)
}

/// What the gate goes by where no collector runs, for [`Control::judge_by`](crate::control::Control::judge_by).
pub(crate) fn filters(config: &Config) -> Result<watch::Receiver<Arc<Filters>>, ConfigError> {
    let wrong = |p| ConfigError { problems: vec![p] };
    let rules = Arc::new(rules(config).map_err(wrong)?);
    let filters = Filters::new(rules, config.telemetry.off.clone(), SamplingRules::default())
        .map_err(|e| wrong(problem(config, "telemetry.off".into(), e.to_string())))?;
    Ok(watch::channel(Arc::new(filters)).1)
}

/// Opens the ring and makes the parts of a run.
///
/// # Errors
/// See [`AssembleError`]; nothing stays open then.
pub fn open(checked: Checked, until: Until) -> Result<Parts, AssembleError> {
    let Checked { config, rules, .. } = checked;
    let ring = open_ring(&config)?;
    let make = |SourceSection { name, config }: SourceSection| {
        let position = ring.source_position(&name);
        config.build(&name, position.as_deref()).map_err(|source| AssembleError::Source { name, source })
    };
    let mut sections = config.sources.clone();
    let takes_census = |s: &SourceSection| matches!(s.config, SourceConfig::Census(_));
    if until == Until::Stopped && config.health.events && !sections.iter().any(takes_census) {
        let name = CENSUS.to_owned();
        sections.push(SourceSection { name, config: SourceConfig::Census(CensusConfig::default()) });
    }
    let again = |SourceSection { name, config }: SourceSection| {
        let key = name.clone();
        (key, Remake::new(move |position| config.clone().build(&name, position)))
    };
    let remake = sections.clone().into_iter().map(again).collect();
    let sources = sections.into_iter().map(make).collect::<Result<_, _>>()?;
    let catalogues = digests(&config).map_err(|p| ConfigError { problems: vec![p] })?;
    let http = HttpContext::default();
    let remote = config.settings.as_ref().map(|s| remote(&config, s, &http)).transpose()?;
    let sinks = config.sinks.clone().into_iter();
    let parts = sinks.map(|section| sink_part(&config, section, &http)).collect::<Result<_, _>>()?;
    let options = PipelineOptions {
        host: config.host.name,
        stream: config.host.stream,
        level: config.telemetry.level,
        policy_file: Some(config.telemetry.policy_file),
        off: config.telemetry.off,
        intake: config.intake,
        own_events: config.health.events.then_some(config.health.every),
        aggregates: (config.aggregates.enabled && until == Until::Stopped)
            .then(|| config.aggregates.options(&config.ring.path)),
        until,
        pins: http.pins.clone(),
        sampling: sampling(&config.sampling, config.intake),
        remake,
        catalogues,
        remote,
    };
    Ok(Parts { ring: Arc::new(ring), rules, sources, sinks: parts, options })
}

/// The file of a sink's dead letters, for a ring at `ring`.
pub(crate) fn dead_letters(ring: &Path, sink: &SinkSection) -> PathBuf {
    let beside = || ring.parent().unwrap_or(Path::new("")).join("dead").join(format!("{}.jsonl", sink.name));
    sink.dead_letters.clone().unwrap_or_else(beside)
}

/// Makes one sink and how it is served.
pub(crate) fn sink_part(
    config: &Config,
    section: SinkSection,
    http: &HttpContext,
) -> Result<SinkPart, AssembleError> {
    let sink = section.config.build(&SinkId::new(&section.name), http).map_err(|e| {
        let key = format!("sinks.{}", section.name);
        ConfigError { problems: vec![problem(config, key, chain(&e))] }
    })?;
    let dead_letters = dead_letters(&config.ring.path, &section);
    let options = SinkOptions {
        start: match section.start {
            Start::Oldest => StartAt::Oldest,
            Start::Now => StartAt::Now,
        },
        order: section.order,
        filter: section.filter,
        retry: section.retry,
        events_per_second: section.events_per_second,
        bytes_per_second: section.bytes_per_second,
        dead_letters: Some(dead_letters),
        paused: section.paused,
        urgency: section.config.urgency(),
        metered: match config.network.metered.clone() {
            MeteredConfig::Always(metered) => Metered::always(metered),
            MeteredConfig::File(path) => Metered::file(path),
        },
        seed: None,
    };
    Ok(SinkPart { sink, options })
}

/// The configuration's sampling.
pub(crate) fn sampling(rules: &[SampleRule], intake: IntakeConfig) -> SamplingRules {
    #[expect(clippy::cast_precision_loss, reason = "at most a thousand million")]
    let per_second = intake.events_per_second.map(|n| n as f64);
    SamplingRules::new(rules.to_vec(), per_second)
}

/// SHA-256 of every catalogue in hex, by name.
pub(crate) fn digests(config: &Config) -> Result<BTreeMap<String, String>, Problem> {
    let digest = |bytes: &[u8]| hex(&Sha256::digest(bytes));
    let mut all = BTreeMap::from([("shipped".to_owned(), digest(SHIPPED.as_bytes()))]);
    for path in &config.telemetry.catalogues {
        let bytes = std::fs::read(path).map_err(|e| {
            problem(config, "telemetry.catalogues".into(), format!("{}: {e}", path.display()))
        })?;
        all.insert(path.display().to_string(), digest(&bytes));
    }
    Ok(all)
}

fn remote(config: &Config, settings: &SettingsConfig, http: &HttpContext) -> Result<Remote, ConfigError> {
    let wrong = |key: &str, text: String| ConfigError {
        problems: vec![problem(config, format!("settings.{key}"), text)],
    };
    let url = settings.url.parse().map_err(|_| wrong("url", "this is no address".to_owned()))?;
    let mut own = settings.http.clone();
    own.reply_max = Size(own.reply_max.0.min(2 * Document::MAX_LEN as u64));
    let client = Client::new(&own, http).map_err(|e| wrong("http", chain(&e)))?;
    Ok(Remote { url, client, keys: settings.keys.clone(), cache: settings.cache.clone() })
}

/// The keys that blocks are sealed with, if there are any.
fn ring_keys(config: &Config) -> Result<Option<Keys>, AssembleError> {
    let Some(key) = &config.ring.key else {
        return Ok(None);
    };
    let wrong = |text| ConfigError { problems: vec![problem(config, "ring.key".into(), text)] };
    let secret = key.resolve().map_err(|e| wrong(chain(&e)))?;
    Ok(Some(Keys::parse(secret.expose()).map_err(|e| wrong(e.to_string()))?))
}

/// Opens the configured ring to work with.
pub(crate) fn open_ring(config: &Config) -> Result<SledRing, AssembleError> {
    let RingConfig { path, options, .. } = &config.ring;
    SledRing::open_sealed(path, options.clone(), ring_keys(config)?).map_err(|e| ring_error(path, e))
}

/// Opens the configured ring to look at only.
pub(crate) fn look_at_ring(config: &Config) -> Result<SledRing, AssembleError> {
    let RingConfig { path, options, .. } = &config.ring;
    SledRing::look(path, options.clone(), ring_keys(config)?).map_err(|e| ring_error(path, e))
}

fn ring_error(path: &Path, error: RingError) -> AssembleError {
    match error {
        RingError::Io { source, .. } if source.kind() == std::io::ErrorKind::ResourceBusy => {
            AssembleError::InUse(path.to_owned())
        }
        source => AssembleError::Ring { path: path.to_owned(), source },
    }
}
