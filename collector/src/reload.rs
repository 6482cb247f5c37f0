//! A changed configuration, taken over by a run: checked as a whole first, then exchanged.
//!
//! Levels, catalogues, switches, scrubbing, pseudonyms, sampling and pauses of sinks change at once. What else
//! has changed is named, and counts from the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;
use tokio::sync::Mutex;
use tracing::{error, info, warn};

use crate::assemble::{self, Checked};
use crate::audit::What;
use crate::config::{self, Config, ConfigError, Problem};
use crate::control::{ChangeError, Who};
use crate::intake::Filters;
use crate::pipeline::Handle;

/// Keys that can be exchanged while it runs.
const LIVE: [&str; 8] = [
    "telemetry.level",
    "telemetry.default_level",
    "telemetry.catalogues",
    "telemetry.scrub",
    "telemetry.off",
    "telemetry.pseudonyms",
    "sampling",
    "intake.events_per_second",
];

/// The same for a sink, `sinks.NAME.paused`.
const PAUSED: &str = "paused";

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// Keys that count from now on; a catalogue's file where its text has changed.
    pub changed: Vec<String>,
    /// Keys that have changed since the start and count from the next one.
    pub restart: Vec<String>,
    /// What a lowered level has to remove from the ring and could not: why.
    pub owed: Option<String>,
}

/// Reads a configuration again for a run.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    handle: Handle,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    /// What counts, by key.
    live: toml::Table,
    /// What it was started with.
    started: toml::Table,
    catalogues: BTreeMap<String, String>,
}

impl Reloader {
    /// For a run that was started with a configuration.
    #[must_use]
    pub fn new(path: PathBuf, handle: Handle, config: &Config) -> Reloader {
        let catalogues = assemble::digests(config).unwrap_or_default();
        let now = Now { live: config.raw.clone(), started: config.raw.clone(), catalogues };
        Reloader { path, handle, now: Mutex::new(now) }
    }

    /// Reads it again and takes over what can be.
    ///
    /// # Errors
    /// All that is wrong with it, with file, line and key; nothing has changed then, and the
    /// audit log says so.
    ///
    /// # Cancel safety
    /// Must run to its end: a part may have been taken over otherwise.
    pub async fn reload(&self, who: &Who) -> Result<Reloaded, ConfigError> {
        let mut now = self.now.lock().await;
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || {
            let checked = assemble::check(config::load(&path)?)?;
            if !checked.missing().is_empty() {
                return Err(ConfigError { problems: checked.missing().to_vec() });
            }
            let digests = assemble::digests(checked.config());
            let digests = digests.map_err(|p| ConfigError { problems: vec![p] })?;
            Ok((checked, digests))
        });
        let broke = |e: tokio::task::JoinError| self.problem(format!("it cannot be read: {e}"));
        let read: Result<(Checked, BTreeMap<String, String>), ConfigError> =
            read.await.unwrap_or_else(|e| Err(broke(e)));
        match read {
            Ok((checked, digests)) => self.take_over(&mut now, &checked, digests, who).await,
            Err(e) => {
                error!(error = %e, "the configuration is refused, the one in force stays");
                for p in e.problems.iter().take(8) {
                    let reason = format!("line {}, key {}: {}", p.line, p.key, p.text);
                    let what = What::Refused {
                        file: p.file.display().to_string(),
                        reason: reason.chars().take(500).collect(),
                    };
                    // it is in the log already
                    let _ = self.handle.control().audit(who, what);
                }
                Err(e)
            }
        }
    }

    fn problem(&self, text: String) -> ConfigError {
        ConfigError { problems: vec![Problem { file: self.path.clone(), line: 0, key: String::new(), text }] }
    }

    async fn take_over(
        &self,
        now: &mut Now,
        checked: &Checked,
        digests: BTreeMap<String, String>,
        who: &Who,
    ) -> Result<Reloaded, ConfigError> {
        let config = checked.config();
        let is_live = |key: &String| LIVE.contains(&key.as_str());
        let mut changed: Vec<String> = differ(&now.live, &config.raw).into_iter().filter(is_live).collect();
        let (started, asked) = (without_pauses(&now.started), without_pauses(&config.raw));
        let restart = differ(&started, &asked).into_iter().filter(|k| !is_live(k)).collect();
        let filtered = changed.iter().any(|k| k != "telemetry.level");
        for sink in &config.sinks {
            // one that is new begins as it is configured, with the next start
            if self.handle.is_paused(&sink.name).is_some_and(|paused| paused != sink.paused) {
                self.handle.pause(&sink.name, sink.paused);
                info!(sink = %sink.name, paused = sink.paused, %who, "a sink was paused or goes on");
                changed.push(format!("sinks.{}.{PAUSED}", sink.name));
            }
        }
        let texts = digests.iter().filter(|(name, digest)| now.catalogues.get(*name) != Some(digest));
        let texts: Vec<String> = texts.map(|(name, _)| name.clone()).collect();
        if filtered || !texts.is_empty() {
            let sampling = assemble::sampling(&config.sampling, config.intake);
            let off = config.telemetry.off.clone();
            let filters = Filters::new(checked.rules().clone(), off, sampling);
            self.handle.set_filters(filters.map_err(|e| self.problem(e.to_string()))?);
        }
        changed.extend(texts);
        let control = self.handle.control();
        let noted = control.note_rules(digests.clone(), &config.telemetry.off, who);
        let level = config.telemetry.level;
        let levelled = control.change(who, |c| c.config = level).await;
        let owed = match &levelled {
            Err(e @ ChangeError::Owed { .. }) => Some(assemble::chain(e)),
            _ => None,
        };
        if noted.is_err() || matches!(levelled, Err(ChangeError::Ring(_))) {
            warn!("the configuration is in force, though the audit log could not be written");
        }
        now.live = config.raw.clone();
        now.catalogues = digests;
        let reloaded = Reloaded { changed, restart, owed };
        info!(changed = ?reloaded.changed, restart = ?reloaded.restart, "the configuration was read again");
        Ok(reloaded)
    }
}

/// A configuration without what pauses sinks: it counts at once.
fn without_pauses(config: &toml::Table) -> toml::Table {
    let mut config = config.clone();
    let sinks = config.get_mut("sinks").and_then(toml::Value::as_table_mut).into_iter();
    for sink in sinks.flat_map(|all| all.iter_mut()).filter_map(|(_, sink)| sink.as_table_mut()) {
        sink.remove(PAUSED);
    }
    config
}

/// Keys of two levels whose values differ; whole names of sources and sinks.
fn differ(a: &toml::Table, b: &toml::Table) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for name in a.keys().chain(b.keys()) {
        match (a.get(name), b.get(name)) {
            (x, y) if x == y => {}
            (Some(toml::Value::Table(x)), Some(toml::Value::Table(y))) => {
                let inner = x.keys().chain(y.keys()).filter(|k| x.get(*k) != y.get(*k));
                keys.extend(inner.map(|k| format!("{name}.{k}")));
            }
            (Some(toml::Value::Table(only)), None) | (None, Some(toml::Value::Table(only))) => {
                keys.extend(only.keys().map(|k| format!("{name}.{k}")));
            }
            _ => {
                keys.insert(name.clone());
            }
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_by_its_key() {
        let read = |text: &str| text.parse::<toml::Table>().unwrap();
        let a = read(
            "[ring]\nsize = 1\npath = \"x\"\n[sinks.a]\ntype = \"x\"\n[[sampling]]\nkeep = 0.5\n[log]\nlevel = \"a\"",
        );
        let b = read("[ring]\nsize = 2\npath = \"x\"\n[sinks.b]\ntype = \"x\"\n[log]\nlevel = \"a\"");
        let names: Vec<String> = differ(&a, &b).into_iter().collect();
        assert_eq!(names, ["ring.size", "sampling", "sinks.a", "sinks.b"]);
        assert!(differ(&a, &a).is_empty());
        // a pause counts at once and needs no start
        let paused = read("[sinks.a]\ntype = \"x\"\npaused = true");
        let plain = read("[sinks.a]\ntype = \"x\"");
        assert_eq!(differ(&without_pauses(&paused), &without_pauses(&plain)), BTreeSet::new());
    }
}
