//! `pin`: a server's keys shown, the configured ones checked, new ones added.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use serde_json::{Value, json};
use tidegate_proto::ids::SinkId;
use tidegate_proto::time::format_rfc3339;
use tidegate_sinks::TlsEndpoint;
use tidegate_sinks::http::pins::{Link, Pin, PinSet};
use tidegate_sinks::http::probe::{ProbeError, Shown, probe};
use tidegate_sinks::http::{HttpConfig, HttpContext};

use super::exit::{Done, Exit, Failure};
use super::{daemon, out};
use crate::assemble::chain;
use crate::config::{self, Config, SinkSection};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A pin is the SHA-256 of a public key in a server's verified certificate chain. With pins, a connection whose chain has \
none of them is refused, whoever signed it. Nothing is sent while looking but a HEAD request without credentials.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a server's certificates, their pins, and whether they verify.
    #[command(after_help = "Exit code 0 when the chain verifies, 65 when not, 75 when there is no answer.")]
    Show {
        /// HOST or HOST:PORT
        host: String,
        /// Trust the roots in this PEM file instead of the system's.
        #[arg(long, value_name = "FILE", conflicts_with = "sink")]
        ca: Option<PathBuf>,
        /// Connect as this sink of the configuration does: its roots, its proxy.
        #[arg(long)]
        sink: Option<String>,
        #[command(flatten)]
        of: Of,
    },
    /// Check every server of the configuration, that of remote settings too, against its pins.
    #[command(after_help = "\
Exit code 0 when every pin fits, 65 when one does not or a certificate does not verify, 75 when a server gives no \
answer. A pinned certificate that ends soon is a warning.")]
    Check {
        #[command(flatten)]
        of: Of,
    },
    /// Make pins of a server's verified chain for a sink; print them, or write them beside the configuration.
    #[command(after_help = "\
Without --pin, the keys of the authorities are pinned: they stay when the server's own certificate is renewed. With \
--write the sink's pins, old and new, go to conf.d/pins-SINK.toml; a configuration that would be wrong with it stays \
as it was. They count from the collector's next start; a reload does not take them over.")]
    Add {
        /// HOST or HOST:PORT
        host: String,
        /// The sink that the pins are for.
        #[arg(long)]
        sink: String,
        /// leaf, intermediate, root, or a pin of a key that is kept elsewhere as backup; may be repeated.
        #[arg(long, value_name = "WHICH")]
        pin: Vec<String>,
        /// Allow a single pin. Losing its key then needs a new configuration everywhere.
        #[arg(long)]
        no_backup: bool,
        /// Only report misses for now; not where pins are enforced already.
        #[arg(long)]
        report_only: bool,
        /// Write conf.d/pins-SINK.toml.
        #[arg(long)]
        write: bool,
        #[command(flatten)]
        of: Of,
    },
}

#[derive(Debug, clap::Args)]
struct Of {
    /// The configuration; conf.d/*.toml beside it is laid over it.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/tidegate/tidegate.toml")]
    config: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Of {
    fn load(&self) -> Result<Config, Failure> {
        config::load(&self.config).map_err(|e| daemon::config_failure(&e))
    }

    fn print(&self, value: &Value, text: &str) -> Result<(), Failure> {
        let mut out = out::stdout();
        let written = if self.json { writeln!(out, "{value}") } else { write!(out, "{text}") };
        written.and_then(|()| out.flush()).map_err(|e| Failure::output(&e))
    }
}

pub(super) fn run(args: &Args) -> Done {
    match &args.command {
        Command::Show { host, ca, sink, of } => show(host, ca.as_deref(), sink.as_deref(), of),
        Command::Check { of } => check(of),
        Command::Add { host, sink, pin, no_backup, report_only, write, of } => {
            let config = of.load()?;
            let section = section(&config, sink)?;
            let wish = Wish { pins: pin, no_backup: *no_backup, report_only: *report_only };
            add(host, section, &wish, *write, of)
        }
    }
}

fn section<'c>(config: &'c Config, name: &str) -> Result<&'c SinkSection, Failure> {
    config.sinks.iter().find(|s| s.name == name).ok_or_else(|| {
        let names: Vec<&str> = config.sinks.iter().map(|s| s.name.as_str()).collect();
        Failure::new(Exit::Usage, format!("the configuration has no sink \"{name}\""))
            .hint(format!("it has {}", names.join(", ")))
    })
}

/// How a sink connects; the host that is asked for need not be its own.
fn http_of(section: &SinkSection) -> Result<HttpConfig, Failure> {
    let endpoints = section.config.tls_endpoints(&SinkId::new(&section.name), &HttpContext::default());
    let endpoints = endpoints.map_err(|e| {
        Failure::new(Exit::Config, format!("sink \"{}\": {}", section.name, chain(&e)))
            .hint("mend the sink's settings")
    })?;
    endpoints.into_iter().next().map(|e| e.http).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("sink \"{}\" does not use TLS", section.name))
            .hint("choose a sink that does")
    })
}

fn look(address: &str, http: &HttpConfig) -> Result<Result<Shown, ProbeError>, Failure> {
    let runtime = daemon::small_runtime()?;
    Ok(runtime.block_on(probe(address, http, &HttpContext::default())))
}

fn seen(address: &str, http: &HttpConfig) -> Result<Shown, Failure> {
    look(address, http)?.map_err(|e| {
        let (code, hint) = match &e {
            ProbeError::Address(_) => (Exit::Usage, "for example: tidegate pin show example.com:443"),
            ProbeError::Build(_) => (Exit::Config, "mend the TLS or proxy settings"),
            _ => (Exit::TempFail, "check the name, the port and the network"),
        };
        Failure::new(code, chain(&e)).hint(hint)
    })
}

fn date(at: SystemTime) -> String {
    let ns = i64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_nanos());
    format_rfc3339(ns.unwrap_or(i64::MAX)).chars().take(10).collect()
}

fn link_json(link: &Link) -> Value {
    json!({
        "subject": link.subject, "pin": link.pin.to_string(), "ends": link.not_after.map(date),
    })
}

fn link_line(link: &Link) -> String {
    let end = link.not_after.map_or_else(|| "a trusted root".to_owned(), |at| format!("ends {}", date(at)));
    format!("  {}  {} ({end})\n", link.pin, link.subject)
}

fn show(host: &str, ca: Option<&Path>, sink: Option<&str>, of: &Of) -> Done {
    let http = match sink {
        Some(sink) => http_of(section(&of.load()?, sink)?)?,
        None => {
            let mut http = HttpConfig::default();
            http.tls.ca_file = ca.map(Path::to_owned);
            http
        }
    };
    let shown = seen(host, &http)?;
    let (mut text, verified, problem) = match &shown.verified {
        Ok(links) => (format!("{host}: the chain verifies\n"), Some(links), None),
        Err(why) => (format!("{host}: THE CHAIN DOES NOT VERIFY: {why}\n"), None, Some(why)),
    };
    text.extend(verified.unwrap_or(&shown.sent).iter().map(link_line));
    if problem.is_some() {
        text.push_str("do not pin these: who shows them may be anyone\n");
    }
    let list = |links: &[Link]| links.iter().map(link_json).collect::<Vec<_>>();
    let value = json!({
        "host": host, "verified": verified.is_some(), "problem": problem,
        "chain": verified.map(|l| list(l)), "sent": list(&shown.sent),
    });
    of.print(&value, &text)?;
    Ok(if verified.is_some() { Exit::Ok } else { Exit::Data })
}

/// What one server came to.
struct Checked {
    exit: Exit,
    state: &'static str,
    detail: String,
    warning: Option<String>,
}

fn check_one(endpoint: &TlsEndpoint, outcome: Result<Shown, ProbeError>, now: SystemTime) -> Checked {
    let made = |exit, state, detail: String| Checked { exit, state, detail, warning: None };
    let shown = match outcome {
        Ok(shown) => shown,
        Err(e) => return made(Exit::TempFail, "no-answer", chain(&e)),
    };
    let links = match &shown.verified {
        Ok(links) => links,
        Err(why) => return made(Exit::Data, "not-verified", why.clone()),
    };
    let host = endpoint.address.rsplit_once(':').map_or(endpoint.address.as_str(), |(h, _)| h);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let Some(set) = endpoint.http.tls.pins.iter().find(|s| s.fits(host)) else {
        return made(Exit::Ok, "no-pins", "no pins are set for it".to_owned());
    };
    let judged = set.judge(links, now);
    if !judged.ok {
        let keys: Vec<String> = links.iter().map(|l| l.pin.to_string()).collect();
        let detail = format!("none of its pins is in the chain; its keys are {}", keys.join(", "));
        let state = if set.report_only { "miss-report-only" } else { "miss" };
        return made(Exit::Data, state, detail);
    }
    let pinned = links.iter().filter(|l| set.sha256.contains(&l.pin)).map(|l| l.subject.as_str());
    let detail = format!("pinned: {}", pinned.collect::<Vec<_>>().join(", "));
    let warning = judged.not_after.filter(|_| judged.expires_soon).map(|end| {
        format!("the pinned certificate ends {}: see that its successor's pin is listed", date(end))
    });
    Checked { exit: Exit::Ok, state: "ok", detail, warning }
}

/// Every server of a configuration, with its sink; without one it is that of remote settings.
fn endpoints(config: &Config) -> Result<Vec<(Option<&str>, TlsEndpoint)>, Failure> {
    let ctx = HttpContext::default();
    let mut list = Vec::new();
    for section in &config.sinks {
        let endpoints = section.config.tls_endpoints(&SinkId::new(&section.name), &ctx).map_err(|e| {
            Failure::new(Exit::Config, format!("sink \"{}\": {}", section.name, chain(&e)))
                .hint("mend the sink's settings")
        })?;
        list.extend(endpoints.into_iter().map(|e| (Some(section.name.as_str()), e)));
    }
    let remote = config.settings.as_ref().and_then(|s| TlsEndpoint::of_url(&s.url, &s.http));
    list.extend(remote.map(|e| (None, e)));
    Ok(list)
}

fn check(of: &Of) -> Done {
    let (config, now) = (of.load()?, SystemTime::now());
    let (mut text, mut list, mut exit) = (String::new(), Vec::new(), Exit::Ok);
    for (sink, endpoint) in endpoints(&config)? {
        let checked = check_one(&endpoint, look(&endpoint.address, &endpoint.http)?, now);
        // what is wrong counts before what is not known
        exit = match (exit, checked.exit) {
            (Exit::Data, _) | (_, Exit::Data) => Exit::Data,
            (Exit::Ok, other) => other,
            (other, _) => other,
        };
        let name = sink.unwrap_or("[settings]");
        text += &format!("{name} {}: {}: {}\n", endpoint.address, checked.state, checked.detail);
        if let Some(warning) = &checked.warning {
            text += &format!("  WARNING: {warning}\n");
        }
        let section = sink.map_or_else(|| "settings".to_owned(), |s| format!("sinks.{s}"));
        list.push(json!({
            "section": section, "sink": sink, "address": endpoint.address, "state": checked.state,
            "detail": checked.detail, "warning": checked.warning,
        }));
    }
    if list.is_empty() {
        text.push_str("nothing uses TLS\n");
    }
    of.print(&json!({ "endpoints": list, "ok": exit == Exit::Ok }), &text)?;
    Ok(exit)
}

struct Wish<'a> {
    pins: &'a [String],
    no_backup: bool,
    report_only: bool,
}

impl Wish<'_> {
    /// The pins that are asked for, from a verified chain.
    fn choose(&self, links: &[Link]) -> Result<Vec<Pin>, String> {
        let (leaf, authorities) = links.split_first().ok_or("the chain is empty")?;
        let middle = authorities.split_last().map_or(&[][..], |(_, middle)| middle);
        let mut chosen = Vec::new();
        if self.pins.is_empty() {
            chosen.extend(authorities.iter().map(|l| l.pin));
            // a server directly below its root
            if authorities.len() < 2 {
                chosen.push(leaf.pin);
            }
        }
        for which in self.pins {
            match which.as_str() {
                "leaf" => chosen.push(leaf.pin),
                "intermediate" if middle.is_empty() => {
                    return Err("the chain has no intermediate certificate".to_owned());
                }
                "intermediate" => chosen.extend(middle.iter().map(|l| l.pin)),
                "root" => chosen.extend(authorities.last().map(|l| l.pin)),
                text => chosen.push(
                    Pin::parse(text)
                        .ok_or_else(|| format!("\"{text}\" is not leaf, intermediate, root or a pin"))?,
                ),
            }
        }
        chosen.sort_unstable();
        chosen.dedup();
        if chosen.len() < 2 && !self.no_backup {
            return Err("one pin alone has no backup: add the pin of a second key, or --no-backup".to_owned());
        }
        if !chosen.iter().any(|pin| links.iter().any(|l| l.pin == *pin)) {
            return Err("none of these pins is in the server's chain: it would be refused".to_owned());
        }
        Ok(chosen)
    }
}

/// The sets of a sink with pins for a host added, or why not.
fn merged(
    sets: &[PinSet],
    host: &str,
    chosen: &[Pin],
    wish: &Wish<'_>,
) -> Result<Vec<PinSet>, (String, String)> {
    let counts = sets.iter().position(|s| s.fits(host));
    let own = sets.iter().position(|s| s.host.eq_ignore_ascii_case(host));
    if let Some(set) = counts.and_then(|n| sets.get(n)) {
        if wish.report_only && !set.report_only {
            return Err((
                format!("the pins of \"{}\" are enforced for {host}: --report-only would end that", set.host),
                "leave --report-only out, or set report_only = true in that set yourself".to_owned(),
            ));
        }
        if own.is_some() && own != counts {
            return Err((
                format!("the pins of \"{}\" stand before those of {host} and count for it", set.host),
                format!("put the set of {host} before it in the configuration, then add"),
            ));
        }
    }
    let mut sets = sets.to_vec();
    match own.and_then(|n| sets.get_mut(n)) {
        Some(set) => {
            for pin in chosen {
                if !set.sha256.contains(pin) {
                    set.sha256.push(*pin);
                }
            }
        }
        None => {
            let mut fresh = PinSet::new(host, chosen.to_vec());
            (fresh.no_backup, fresh.report_only) = (wish.no_backup, wish.report_only);
            // before a set for more hosts: the first that fits counts
            sets.insert(0, fresh);
        }
    }
    Ok(sets)
}

/// A set as TOML under a key.
fn toml_of(key: &str, set: &PinSet) -> String {
    let pins: Vec<String> = set.sha256.iter().map(|p| format!("  \"{p}\",\n")).collect();
    let mut text = format!("[[{key}.pins]]\nhost = \"{}\"\nsha256 = [\n{}]\n", set.host, pins.concat());
    for (name, on) in [("no_backup", set.no_backup), ("report_only", set.report_only)] {
        if on {
            text += &format!("{name} = true\n");
        }
    }
    text + &format!("warn_before = \"{}s\"\n", set.warn_before.0.as_secs())
}

fn add(address: &str, section: &SinkSection, wish: &Wish<'_>, write: bool, of: &Of) -> Done {
    let http = http_of(section)?;
    let shown = seen(address, &http)?;
    let links = shown.verified.map_err(|why| {
        Failure::new(Exit::Data, format!("{address}: the chain does not verify: {why}; nothing is pinned"))
            .hint("tidegate pin show tells what it shows; with a private CA set the sink's tls.ca_file")
    })?;
    let chosen = wish.choose(&links).map_err(|why| Failure::new(Exit::Usage, why))?;
    let host = address
        .rsplit_once(':')
        .map_or(address, |(h, port)| if port.bytes().all(|b| b.is_ascii_digit()) { h } else { address });
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let (key, tls) = section
        .config
        .tls()
        .ok_or_else(|| Failure::new(Exit::Usage, format!("sink \"{}\" does not use TLS", section.name)))?;
    let sets = merged(&tls.pins, &host, &chosen, wish)
        .map_err(|(why, hint)| Failure::new(Exit::Usage, why).hint(hint))?;
    let key = format!("sinks.{}.{key}", section.name);
    let text: String = sets.iter().map(|s| toml_of(&key, s)).collect::<Vec<_>>().join("\n");
    let pins: Vec<String> = chosen.iter().map(Pin::to_string).collect();
    if !write {
        let value = json!({ "host": host, "sink": section.name, "pins": pins, "toml": text });
        of.print(&value, &text)?;
        return Ok(Exit::Ok);
    }
    let path = write_beside(&of.config, &section.name, &text)?;
    let value = json!({ "host": host, "sink": section.name, "pins": pins, "written": path });
    let said = format!("{} pins for {host} are in {}\n", pins.len(), path.display());
    // a reload leaves connections as they are
    of.print(
        &value,
        &(said + "they count from the collector's next start: restart it, a reload is not enough\n"),
    )?;
    Ok(Exit::Ok)
}

/// Writes the pins of a sink as a part of the configuration; puts back what was there when the
/// whole is wrong with it.
fn write_beside(config: &Path, sink: &str, text: &str) -> Result<PathBuf, Failure> {
    let dir = config.parent().unwrap_or(Path::new("")).join("conf.d");
    let path = dir.join(format!("pins-{sink}.toml"));
    let failed = |e: std::io::Error| {
        Failure::new(Exit::CantCreate, format!("cannot write {}: {e}", path.display()))
            .hint("run as a user who may write there")
    };
    let head =
        "# Written by `tidegate pin add`: all pins of this sink. They replace those in other files.\n\n";
    std::fs::create_dir_all(&dir).map_err(failed)?;
    let before = match std::fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(failed(e)),
    };
    let put = |bytes: &[u8]| {
        let beside = path.with_extension("toml.new");
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, &path)
    };
    put(format!("{head}{text}").as_bytes()).map_err(failed)?;
    if let Err(wrong) = config::load(config) {
        match before {
            Some(bytes) => put(&bytes).map_err(failed)?,
            None => std::fs::remove_file(&path).map_err(failed)?,
        }
        return Err(daemon::config_failure(&wrong));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(n: u8) -> Pin {
        Pin::of_spki(&[n])
    }

    fn pins(list: &[u8]) -> Vec<Pin> {
        list.iter().copied().map(pin).collect()
    }

    fn set(host: &str, list: &[u8]) -> PinSet {
        PinSet::new(host, pins(list))
    }

    const PLAIN: Wish<'_> = Wish { pins: &[], no_backup: false, report_only: false };

    #[test]
    fn pins_are_added_though_another_hosts_set_has_them_and_none_twice() {
        let sets = [set("localhost", &[1, 2]), set("*.example", &[3, 4])];
        let made = merged(&sets, "localhost", &pins(&[2, 3, 4]), &PLAIN).unwrap();
        assert_eq!(made, [set("localhost", &[1, 2, 3, 4]), set("*.example", &[3, 4])]);
        let again = merged(&made, "localhost", &pins(&[2, 3, 4]), &PLAIN).unwrap();
        assert_eq!(again, made);
        // in any case of letters, and with the set's own settings
        let own = [PinSet { report_only: true, no_backup: true, ..set("LocalHost", &[1]) }];
        let made = merged(&own, "localhost", &pins(&[2]), &PLAIN).unwrap();
        assert_eq!(made, [PinSet { sha256: pins(&[1, 2]), ..own[0].clone() }]);
    }

    #[test]
    fn a_host_without_a_set_gets_one_that_counts() {
        let sets = [set("*", &[1, 2])];
        let wish = Wish { no_backup: true, ..PLAIN };
        let made = merged(&sets, "h.test", &pins(&[3]), &wish).unwrap();
        assert_eq!(made, [PinSet { no_backup: true, ..set("h.test", &[3]) }, set("*", &[1, 2])]);
        let wish = Wish { report_only: true, ..PLAIN };
        let other = [set("*.example", &[1, 2])];
        let made = merged(&other, "h.test", &pins(&[3, 4]), &wish).unwrap();
        assert!(made[0].fits("h.test") && made[0].report_only && !made[1].report_only);
    }

    #[test]
    fn what_is_enforced_does_not_become_report_only() {
        let wish = Wish { report_only: true, ..PLAIN };
        for host in ["h.test", "*.test", "*"] {
            let (why, hint) = merged(&[set(host, &[1, 2])], "h.test", &pins(&[3, 4]), &wish).unwrap_err();
            assert!(why.contains("enforced") && hint.contains("report_only = true"), "{host}: {why}, {hint}");
            let reporting = PinSet { report_only: true, ..set(host, &[1, 2]) };
            assert!(merged(&[reporting], "h.test", &pins(&[3, 4]), &wish).is_ok());
        }
    }

    #[test]
    fn pins_that_would_not_count_are_not_added() {
        let sets = [set("*", &[1, 2]), set("h.test", &[1, 2])];
        let (why, _) = merged(&sets, "h.test", &pins(&[3, 4]), &PLAIN).unwrap_err();
        assert!(why.contains("stand before"), "{why}");
    }
}
