//! From files to a checked [`Config`].

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidegate_ring::{Compression, FullPolicy, RingOptions};
use tidegate_sinks::http::{HttpConfig, Url};
use tidegate_sinks::secret::SecretRef;
use tidegate_sources::SourceConfig;

use crate::settings::PublicKey;

use super::section::{Problems, Section};
use super::sinks;
use super::tree::{self, Node, Value};
use super::{
    AggregatesConfig, Config, ConfigError, ControlConfig, HealthConfig, Host, IntakeConfig, LogConfig,
    MeteredConfig, NetworkConfig, Problem, Pseudonyms, RemoteControl, RingConfig, SettingsConfig,
    ShutdownConfig, SinkSection, SourceSection, Telemetry,
};

/// Reads and checks a configuration: the file, then `conf.d/*.toml` in the folder it stands in.
///
/// # Errors
/// All that is wrong, with file, line and key.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let mut files = vec![path.to_path_buf()];
    files.extend(parts(path, &mut problems));
    let mut texts = Vec::new();
    for file in &files {
        match read(file) {
            Ok(text) => texts.push((file.clone(), text)),
            Err(why) => problems.push(whole(file, why)),
        }
    }
    check(&texts, problems)
}

/// Reads and checks a configuration given as text; `name` stands in error messages.
///
/// # Errors
/// All that is wrong, with line and key.
pub fn parse(name: &str, text: &str) -> Result<Config, ConfigError> {
    check(&[(PathBuf::from(name), text.to_owned())], Vec::new())
}

fn whole(file: &Path, text: String) -> Problem {
    Problem { file: file.to_path_buf(), line: 0, key: String::new(), text }
}

/// The files of `conf.d`, by name.
fn parts(path: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let dir = path.parent().unwrap_or(Path::new("")).join("conf.d");
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(e) => {
            problems.push(whole(&dir, format!("cannot be read: {e}")));
            return Vec::new();
        }
    };
    let mut out: Vec<PathBuf> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .collect();
    out.sort();
    out
}

fn read(file: &Path) -> Result<String, String> {
    let open = std::fs::File::open(file).map_err(|e| format!("cannot be read: {e}"))?;
    let mut text = String::new();
    let read = open.take(tree::MAX_FILE + 1).read_to_string(&mut text);
    read.map_err(|e| format!("cannot be read: {e}"))?;
    if text.len() as u64 > tree::MAX_FILE {
        return Err("is larger than 1 MiB".to_owned());
    }
    Ok(text)
}

fn check(texts: &[(PathBuf, String)], mut problems: Vec<Problem>) -> Result<Config, ConfigError> {
    let mut all: Option<Node> = None;
    for (file, text) in texts {
        let file: Arc<Path> = Arc::from(file.as_path());
        let Some(node) = tree::parse(&file, text, &mut problems) else { continue };
        match &mut all {
            Some(all) => all.merge(node),
            None => all = Some(node),
        }
    }
    let all = match all {
        Some(all) if problems.is_empty() => all,
        // what cannot be parsed cannot be checked
        _ => return Err(ConfigError { problems }),
    };
    let problems = Problems::new(problems);
    let files = texts.iter().map(|(f, _)| f.clone()).collect();
    let raw = match all.to_toml() {
        toml::Value::Table(table) => table,
        _ => toml::Table::new(),
    };
    let config = config(files, raw, Section::root(&all, &problems));
    let problems = problems.into_list();
    if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
}

fn config(files: Vec<PathBuf>, raw: toml::Table, root: Section<'_>) -> Config {
    let ring = ring(root.table("ring"));
    let mut config = Config {
        files,
        host: host(root.table("host")),
        telemetry: telemetry(root.table("telemetry")),
        control: control(root.table("control"), &ring.path),
        settings: settings(&root, &ring.path),
        sampling: root.list_as("sampling"),
        raw,
        ring,
        intake: intake(root.table("intake")),
        health: health(root.table("health")),
        aggregates: aggregates(root.table("aggregates")),
        log: log(root.table("log")),
        shutdown: shutdown(root.table("shutdown")),
        network: network(root.table("network")),
        sources: Vec::new(),
        sinks: Vec::new(),
    };
    for (name, section) in root.named("sources") {
        check_name(&name, &section);
        config.sources.extend(source(name, &section));
    }
    for (name, section) in root.named("sinks") {
        check_name(&name, &section);
        if let Some(sink) = SinkSection::read(name, &section) {
            sinks::check_names(&sink, &config.sinks, &config.host, &section);
            config.sinks.push(sink);
        }
    }
    root.finish();
    config
}

/// Names become keys, file names and parts of blob names.
fn is_name(text: &str) -> bool {
    let sound = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !text.is_empty() && text.len() <= 63 && text.bytes().all(sound) && !text.bytes().all(|b| b == b'.')
}

const NAME_RULE: &str = "use 1 to 63 of the characters A-Z, a-z, 0-9, \".\", \"_\" and \"-\"";

fn check_name(name: &str, section: &Section<'_>) {
    if !is_name(name) {
        section.problems.add(section.at(), "", format!("\"{name}\" is no name; {NAME_RULE}"));
    }
}

fn source(name: String, s: &Section<'_>) -> Option<SourceSection> {
    if name == crate::pipeline::OWN_SOURCE {
        s.problems.add(
            s.at(),
            "",
            format!("no source may be called \"{name}\": the collector's own events are"),
        );
    }
    let config = s.rest_as::<SourceConfig>("source", &name)?;
    if let Err(why) = config.check() {
        s.problems.add(s.at(), s.path(), why);
        return None;
    }
    Some(SourceSection { name, config })
}

impl Host {
    /// This system's host name and the stream `events`.
    #[must_use]
    pub fn of_system() -> Host {
        Host { name: system_name(), stream: "events".to_owned() }
    }
}

fn host(s: Section<'_>) -> Host {
    let named = |key: &'static str| {
        s.value(key, |v| match v {
            Value::Text(t) if is_name(t) => Ok(t.clone()),
            Value::Text(t) => Err(format!("\"{t}\" cannot be used; {NAME_RULE}")),
            other => Err(format!("a text is expected, not {}", other.kind())),
        })
    };
    let host = Host {
        name: named("name").unwrap_or_else(system_name),
        stream: named("stream").unwrap_or_else(|| "events".to_owned()),
    };
    s.finish();
    host
}

/// The system's host name in the characters that a name may have.
fn system_name() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let variable = || std::env::var("COMPUTERNAME").or_else(|_| std::env::var("HOSTNAME")).ok();
    let raw = kernel.or_else(variable).unwrap_or_default();
    let sound = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = raw.trim().chars().map(sound).take(63).collect();
    if is_name(&name) { name } else { "localhost".to_owned() }
}

fn telemetry(s: Section<'_>) -> Telemetry {
    let p = s.table("pseudonyms");
    let key = p.value("key", secret);
    let key_id = p.text("key_id");
    let (hour, year) = (Duration::from_secs(3600), Duration::from_secs(366 * 86_400));
    let period = p.duration("period", hour, year).unwrap_or(Duration::from_secs(30 * 86_400));
    let pseudonyms = match (key, key_id) {
        (Some(key), Some(key_id)) => Some(Pseudonyms { key_id, key, period }),
        (None, None) => None,
        (Some(_), None) => {
            p.wrong("key_id", "pseudonyms need a key_id beside the key");
            None
        }
        (None, Some(_)) => {
            p.wrong("key", "pseudonyms need a key beside the key_id");
            None
        }
    };
    p.finish();
    let telemetry = Telemetry {
        level: s.level("level"),
        policy_file: s.file("policy_file").unwrap_or_else(|| PathBuf::from("/etc/tidegate/policy.toml")),
        default_level: s.level("default_level"),
        catalogues: s.texts("catalogues").into_iter().map(PathBuf::from).collect(),
        scrub: s.bool("scrub"),
        off: s.texts("off"),
        pseudonyms,
    };
    s.finish();
    telemetry
}

fn ring(s: Section<'_>) -> RingConfig {
    let default = RingOptions::default();
    let full = [
        ("drop-oldest", FullPolicy::DropOldest),
        ("block", FullPolicy::Block),
        ("drop-newest", FullPolicy::DropNewest),
    ];
    let (ms, day) = (Duration::from_millis(1), Duration::from_secs(86_400));
    let options = RingOptions {
        bound_bytes: s.bytes("size", RingOptions::MIN_BOUND, 1 << 50).unwrap_or(default.bound_bytes),
        segment_bytes: s.bytes("segment_size", 1 << 20, 1 << 40),
        full: s.choice("full", &full).unwrap_or_default(),
        max_age: s.duration("max_age", Duration::from_secs(1), day * 3660),
        compression: s.value("compression", compression).unwrap_or_default(),
        commit_delay: s.duration("commit_delay", ms, Duration::from_secs(60)).unwrap_or(default.commit_delay),
        commit_bytes: s.bytes("commit_bytes", 1, 1 << 30).unwrap_or(default.commit_bytes),
        ..default
    };
    let path = s.file("path").unwrap_or_else(|| PathBuf::from("/var/lib/tidegate/ring"));
    let key = s.value("key", secret);
    s.finish();
    RingConfig { path, options, key }
}

fn compression(v: &Value) -> Result<Compression, String> {
    let wrong = || "compression is \"none\", \"lz4\" or \"zstd:1\" to \"zstd:19\"".to_owned();
    let Value::Text(text) = v else { return Err(wrong()) };
    match text.split_once(':') {
        None if text == "none" => Ok(Compression::None),
        None if text == "lz4" => Ok(Compression::Lz4),
        None if text == "zstd" => Ok(Compression::default()),
        Some(("zstd", level)) => {
            let level = level.parse().ok().filter(|n| (1..=19).contains(n));
            level.map(Compression::Zstd).ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

fn size(s: &Section<'_>, key: &'static str, least: u64, most: u64, default: usize) -> usize {
    s.bytes(key, least, most).and_then(|n| usize::try_from(n).ok()).unwrap_or(default)
}

fn intake(s: Section<'_>) -> IntakeConfig {
    let default = IntakeConfig::default();
    let ms = Duration::from_millis(1);
    let intake = IntakeConfig {
        seal_bytes: size(&s, "seal_bytes", 4 << 10, 16 << 20, default.seal_bytes),
        seal_age: s.duration("seal_age", ms, Duration::from_secs(10)).unwrap_or(default.seal_age),
        max_event: size(&s, "max_event", 1 << 10, 16 << 20, default.max_event),
        queue: s.number("queue", 1, 1024).and_then(|n| usize::try_from(n).ok()).unwrap_or(default.queue),
        events_per_second: s.number("events_per_second", 1, 1_000_000_000),
    };
    s.finish();
    intake
}

fn network(s: Section<'_>) -> NetworkConfig {
    let metered = s.value("metered", |v| match v {
        Value::Bool(metered) => Ok(MeteredConfig::Always(*metered)),
        Value::Text(text) => match (text.as_str(), text.strip_prefix("file:")) {
            ("yes", _) => Ok(MeteredConfig::Always(true)),
            ("no", _) => Ok(MeteredConfig::Always(false)),
            ("auto", _) => Ok(MeteredConfig::default()),
            (_, Some(path)) if !path.is_empty() => Ok(MeteredConfig::File(PathBuf::from(path))),
            _ => Err(format!("\"{text}\" is not known here; allowed are auto, yes, no and file:PATH")),
        },
        other => Err(format!("a text is expected, not {}", other.kind())),
    });
    s.finish();
    NetworkConfig { metered: metered.unwrap_or_default() }
}

fn health(s: Section<'_>) -> HealthConfig {
    let default = HealthConfig::default();
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
    let health = HealthConfig {
        events: s.bool("events").unwrap_or(default.events),
        every: s.duration("every", second, day).unwrap_or(default.every),
    };
    s.finish();
    health
}

fn aggregates(s: Section<'_>) -> AggregatesConfig {
    let default = AggregatesConfig::default();
    let day = Duration::from_secs(86_400);
    let aggregates = AggregatesConfig {
        enabled: s.bool("enabled").unwrap_or(default.enabled),
        path: s.file("path"),
        keep: s.duration("keep", day, day * 3660).unwrap_or(default.keep),
        size: s.bytes("size", 64 << 10, 1 << 30).unwrap_or(default.size),
        k: s.number("k", crate::report::MIN_K, 1_000_000).unwrap_or(default.k),
    };
    s.finish();
    aggregates
}

fn log(s: Section<'_>) -> LogConfig {
    let log = LogConfig {
        level: s.text("level").unwrap_or_else(|| LogConfig::default().level),
        json: s.choice("format", &[("text", false), ("json", true)]).unwrap_or(false),
    };
    s.finish();
    log
}

fn shutdown(s: Section<'_>) -> ShutdownConfig {
    let drain = s.duration("drain", Duration::ZERO, Duration::from_secs(3600));
    let shutdown = ShutdownConfig { drain: drain.unwrap_or(ShutdownConfig::default().drain) };
    s.finish();
    shutdown
}

fn control(s: Section<'_>, ring: &Path) -> ControlConfig {
    let beside = || {
        if cfg!(windows) {
            PathBuf::from(r"\\.\pipe\tidegate")
        } else {
            ring.parent().unwrap_or(Path::new("")).join("control.sock")
        }
    };
    let given = s.file("socket");
    let explicit = given.is_some();
    let control = ControlConfig {
        listen: s.bool("listen").unwrap_or(true),
        socket: given.unwrap_or_else(beside),
        group: s.text("group"),
        remote: remote(&s),
    };
    if cfg!(windows) && !control.socket.to_string_lossy().starts_with(r"\\.\pipe\") {
        s.wrong("socket", r"a pipe's name begins with \\.\pipe\");
    }
    if cfg!(unix) && explicit && control.socket.as_os_str().len() > SOCKET_PATH {
        s.wrong("socket", format!("{} is longer than the path of a socket can be", control.socket.display()));
    }
    s.finish();
    control
}

/// Longest path of a socket, with room for the folder it is made in.
const SOCKET_PATH: usize = 90;

fn settings(root: &Section<'_>, ring: &Path) -> Option<SettingsConfig> {
    let s = root.table("settings");
    let url = s.value("url", |v| match v {
        Value::Text(text) => match text.parse::<Url>() {
            Ok(url) if url.scheme() == "https" && url.has_host() => Ok(text.clone()),
            _ => Err(format!("\"{text}\" is no https address")),
        },
        other => Err(format!("an https address is expected, not {}", other.kind())),
    });
    let keys = s.table("keys");
    let keys: Vec<PublicKey> = keys
        .texts_by_name()
        .into_iter()
        .filter_map(|(id, text, at)| match PublicKey::new(&id, &text) {
            Ok(key) => Some(key),
            Err(e) => {
                s.problems.add(&at, &format!("settings.keys.{id}"), e.to_string());
                None
            }
        })
        .collect();
    let cache =
        s.file("cache").unwrap_or_else(|| ring.parent().unwrap_or(Path::new("")).join("settings.json"));
    let http: Option<HttpConfig> = s.table_as("http");
    let given = s.is_there();
    if given && url.is_none() {
        s.wrong("url", "remote settings need a url");
    } else if given && keys.is_empty() {
        s.wrong("keys", "remote settings need a key: [settings.keys] with ID = \"BASE64\"");
    }
    s.finish();
    Some(SettingsConfig { url: url?, keys, cache, http: http.unwrap_or_default() })
}

/// A secret, which stands in the configuration as a reference only.
fn secret(v: &Value) -> Result<SecretRef, String> {
    let wrong = || format!("a secret is given by reference only: {}", SecretRef::FORMS);
    let Value::Text(text) = v else { return Err(wrong()) };
    let reference = SecretRef::parse(text);
    if reference.is_literal() {
        return Err(wrong());
    }
    reference.available().map_err(|e| e.to_string())?;
    Ok(reference)
}

fn remote(control: &Section<'_>) -> Option<RemoteControl> {
    let s = control.table("remote");
    let listen = s.value("listen", |v| match v {
        Value::Text(t) => {
            t.parse().map_err(|_| format!("\"{t}\" is no address with a port, such as 0.0.0.0:4711"))
        }
        other => Err(format!("an address with a port is expected, not {}", other.kind())),
    });
    let (certificate, key) = (s.file("certificate"), s.value("key", secret));
    let client_ca = s.file("client_ca");
    if s.is_there() {
        let missing = [
            ("listen", listen.is_none()),
            ("certificate", certificate.is_none()),
            ("key", key.is_none()),
            ("client_ca", client_ca.is_none()),
        ];
        for (name, _) in missing.iter().filter(|(_, missing)| *missing) {
            s.wrong(name, format!("remote control needs {name}"));
        }
    }
    s.finish();
    Some(RemoteControl { listen: listen?, certificate: certificate?, key: key?, client_ca: client_ca? })
}
