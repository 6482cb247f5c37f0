//! Settings of a live session.

use serde::{Deserialize, Serialize};
use tidegate_proto::guid;

use super::names::{group_of_name, guid_of_name};
use crate::source::{Source, SourceError};
use crate::system::DecoderChoice;

/// Settings of an `etw` source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtwConfig {
    /// Name of the session, up to 128 characters. A session of this name that a crash left
    /// behind is stopped and begun anew.
    #[serde(default = "session")]
    pub session: String,
    /// The providers to listen to.
    #[serde(default)]
    pub providers: Vec<EtwProvider>,
    /// Groups of kernel events; needs its own session and administrator's rights.
    #[serde(default)]
    pub kernel: Vec<KernelFlag>,
    /// Size of a buffer, in KiB, 4 to 16,384.
    #[serde(default = "buffer_kib")]
    pub buffer_kib: u32,
    /// Buffers there are at least; 0 = two for each processor.
    #[serde(default)]
    pub min_buffers: u32,
    /// Buffers there are at most.
    #[serde(default = "max_buffers")]
    pub max_buffers: u32,
    /// How often part-filled buffers are handed over, in milliseconds; rounded up to whole
    /// seconds, the system's unit.
    #[serde(default = "flush_ms")]
    pub flush_ms: u32,
    /// Whether events of one provider get to this session even when another session of the
    /// same provider loses its own (`EVENT_TRACE_INDEPENDENT_SESSION_MODE`).
    #[serde(default = "yes")]
    pub independent: bool,
    /// Who explains events that carry no schema of their own.
    #[serde(default)]
    pub decoder: DecoderChoice,
}

/// One provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtwProvider {
    /// Its GUID, or the name that it is registered by. A name that is not registered stands
    /// for the GUID that TraceLogging and EventSource providers make of theirs.
    pub provider: String,
    /// Whether it names a group of providers, all of which are listened to: those that there
    /// are and those that come. A group's name is one of `windows-telemetry`, `windows-core` and
    /// `aria`; others are named by GUID.
    #[serde(default)]
    pub group: bool,
    /// Most verbose ETW level, 0 to 255.
    #[serde(default = "verbose")]
    pub level: u8,
    /// Keywords of which an event must have one; 0 = every event.
    #[serde(default)]
    pub any: u64,
    /// Keywords of which an event must have all.
    #[serde(default)]
    pub all: u64,
    /// Whether to take the call stack of each event.
    #[serde(default)]
    pub stack: bool,
    /// Only these event ids, up to 64; empty = all. Events of TraceLogging have id 0.
    #[serde(default)]
    pub ids: Vec<u16>,
    /// All but these event ids, up to 64. Not together with `ids`.
    #[serde(default)]
    pub except_ids: Vec<u16>,
    /// Only these processes, up to 8; empty = all.
    #[serde(default)]
    pub pids: Vec<u32>,
    /// Whether the provider is asked to tell its state when the session begins.
    #[serde(default)]
    pub rundown: bool,
}

/// A group of kernel events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelFlag {
    /// Start and end of processes.
    Process,
    /// Start and end of threads.
    Thread,
    /// Loading of images.
    ImageLoad,
    /// Disk input and output.
    DiskIo,
    /// File names of it.
    DiskFileIo,
    /// File operations.
    FileIo,
    /// Registry calls.
    Registry,
    /// TCP and UDP.
    NetworkTcpip,
    /// Hard page faults.
    HardFault,
    /// Context switches. Many.
    ContextSwitch,
    /// Sampled stacks.
    Profile,
}

impl KernelFlag {
    /// Its bit in `EnableFlags`. Source: evntrace.h.
    #[must_use]
    pub fn bit(self) -> u32 {
        match self {
            KernelFlag::Process => 0x0000_0001,
            KernelFlag::Thread => 0x0000_0002,
            KernelFlag::ImageLoad => 0x0000_0004,
            KernelFlag::DiskIo => 0x0000_0100,
            KernelFlag::DiskFileIo => 0x0000_0200,
            KernelFlag::HardFault => 0x0000_2000,
            KernelFlag::ContextSwitch => 0x0000_0010,
            KernelFlag::NetworkTcpip => 0x0001_0000,
            KernelFlag::Registry => 0x0002_0000,
            KernelFlag::Profile => 0x0100_0000,
            KernelFlag::FileIo => 0x0200_0000,
        }
    }
}

/// Sessions of Windows itself, which are never taken over. Source: the documentation of
/// AutoLogger and Global Logger sessions.
const SYSTEM_SESSIONS: [&str; 7] = [
    "NT Kernel Logger",
    "Circular Kernel Context Logger",
    "GlobalLogger",
    "EventLog-Application",
    "EventLog-Security",
    "EventLog-System",
    "DiagTrack-Listener",
];

fn session() -> String {
    "Tidegate".to_owned()
}

fn buffer_kib() -> u32 {
    // large enough for the largest event (64 KiB) several times: small buffers lose bursts
    256
}

fn max_buffers() -> u32 {
    // 64 MiB with the usual size: a few seconds of a busy machine
    256
}

fn flush_ms() -> u32 {
    1000
}

fn yes() -> bool {
    true
}

fn verbose() -> u8 {
    5
}

impl EtwProvider {
    /// A provider with the usual settings.
    #[must_use]
    pub fn new(provider: &str) -> EtwProvider {
        EtwProvider { provider: provider.to_owned(), level: verbose(), ..EtwProvider::default() }
    }

    /// The GUID that it is named by, or that it makes of its name.
    pub(crate) fn own_guid(&self) -> [u8; 16] {
        let by_name = || {
            let group = if self.group { group_of_name(&self.provider) } else { None };
            group.unwrap_or_else(|| guid_of_name(&self.provider))
        };
        guid::parse(&self.provider).unwrap_or_else(by_name)
    }

    fn check(&self) -> Result<(), String> {
        let name = &self.provider;
        if name.is_empty() || name.len() > 256 || name.contains('\0') {
            return Err("provider must be a GUID or a name of up to 256 characters".to_owned());
        }
        if name.starts_with('{') && guid::parse(name).is_none() {
            return Err(format!("provider \"{name}\" looks like a GUID and is none"));
        }
        if self.group && guid::parse(name).or_else(|| group_of_name(name)).is_none() {
            return Err(format!(
                "provider group \"{name}\" is not known by name; give its GUID, or windows-telemetry, \
                 windows-core or aria"
            ));
        }
        if !self.ids.is_empty() && !self.except_ids.is_empty() {
            return Err(format!("provider \"{name}\": use ids or except_ids, not both"));
        }
        // MAX_EVENT_FILTER_EVENT_ID_COUNT and MAX_EVENT_FILTER_PID_COUNT of evntprov.h
        if self.ids.len().max(self.except_ids.len()) > 64 {
            return Err(format!("provider \"{name}\": Windows filters by up to 64 event ids"));
        }
        if self.pids.len() > 8 {
            return Err(format!("provider \"{name}\": Windows filters by up to 8 processes"));
        }
        Ok(())
    }
}

impl EtwConfig {
    /// Settings with the usual buffers for some providers.
    #[must_use]
    pub fn new(providers: Vec<EtwProvider>) -> EtwConfig {
        EtwConfig {
            session: session(),
            providers,
            kernel: Vec::new(),
            buffer_kib: buffer_kib(),
            min_buffers: 0,
            max_buffers: max_buffers(),
            flush_ms: flush_ms(),
            independent: true,
            decoder: DecoderChoice::Own,
        }
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// In words, naming the key.
    pub fn check(&self) -> Result<(), String> {
        if self.session.is_empty() || self.session.chars().count() > 128 || self.session.contains('\0') {
            return Err("session must have 1 to 128 characters".to_owned());
        }
        if SYSTEM_SESSIONS.iter().any(|s| self.session.eq_ignore_ascii_case(s)) {
            return Err(format!(
                "session \"{}\" belongs to Windows; give this one another name",
                self.session
            ));
        }
        if self.providers.is_empty() && self.kernel.is_empty() {
            return Err("name at least one of providers or kernel".to_owned());
        }
        if !self.providers.is_empty() && !self.kernel.is_empty() {
            return Err("a session has providers or kernel events; give each a source of its own".to_owned());
        }
        // the number of providers one session takes
        if self.providers.len() > 512 {
            return Err("a session takes up to 512 providers".to_owned());
        }
        if !(4..=16_384).contains(&self.buffer_kib) {
            return Err("buffer_kib must lie between 4 and 16384".to_owned());
        }
        if !(2..=65_536).contains(&self.max_buffers) || self.min_buffers > self.max_buffers {
            return Err("max_buffers must lie between 2 and 65536, and not below min_buffers".to_owned());
        }
        if !(1..=3_600_000).contains(&self.flush_ms) {
            return Err("flush_ms must lie between 1 and 3600000".to_owned());
        }
        self.providers.iter().try_for_each(EtwProvider::check)?;
        let guids: Vec<[u8; 16]> = self.providers.iter().map(|p| p.own_guid()).collect();
        for (n, guid) in guids.iter().enumerate() {
            if let Some(p) = self.providers.get(n)
                && guids.get(..n).unwrap_or_default().contains(guid)
            {
                return Err(format!("provider \"{}\" is named twice", p.provider));
            }
        }
        Ok(())
    }

    /// Makes the source.
    ///
    /// # Errors
    /// Settings that contradict one another; [`SourceError::Unsupported`] away from Windows.
    pub fn build(self, name: &str) -> Result<Box<dyn Source>, SourceError> {
        self.check().map_err(|why| SourceError::Input { what: format!("source \"{name}\""), why })?;
        make(self, name)
    }
}

#[cfg(not(windows))]
fn make(_: EtwConfig, name: &str) -> Result<Box<dyn Source>, SourceError> {
    let needs = "Windows: event tracing is a part of it; elsewhere replay a trace with type = \"etl\"";
    Err(SourceError::Unsupported { name: name.to_owned(), needs: needs.to_owned() })
}

#[cfg(windows)]
#[allow(clippy::unnecessary_wraps)] // fails elsewhere
fn make(config: EtwConfig, name: &str) -> Result<Box<dyn Source>, SourceError> {
    Ok(Box::new(super::windows::EtwSource::new(name, config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradicting_settings_are_named() {
        let check = |change: fn(&mut EtwConfig)| {
            let mut config = EtwConfig::new(vec![EtwProvider::new("Microsoft-Windows-DNS-Client")]);
            assert_eq!(config.check(), Ok(()));
            change(&mut config);
            config.check().unwrap_err()
        };
        assert!(check(|c| c.session = String::new()).starts_with("session"));
        assert!(check(|c| c.session = "x".repeat(129)).starts_with("session"));
        assert!(check(|c| c.session = "nt kernel logger".to_owned()).contains("belongs to Windows"));
        assert!(check(|c| c.providers.clear()).contains("providers or kernel"));
        assert!(check(|c| c.kernel.push(KernelFlag::Process)).contains("source of its own"));
        assert!(check(|c| c.buffer_kib = 2).starts_with("buffer_kib"));
        assert!(check(|c| c.min_buffers = 300).starts_with("max_buffers"));
        assert!(check(|c| c.flush_ms = 0).starts_with("flush_ms"));
        assert!(check(|c| c.providers[0].provider = "{12}".to_owned()).contains("looks like a GUID"));
        assert!(check(|c| c.providers[0].group = true).contains("not known by name"));
        assert!(check(|c| c.providers[0].pids = vec![1; 9]).contains("8 processes"));
        assert!(check(|c| c.providers[0].ids = vec![1; 65]).contains("64 event ids"));
        assert!(
            check(|c| {
                c.providers[0].ids = vec![1];
                c.providers[0].except_ids = vec![2];
            })
            .contains("not both")
        );
        assert!(check(|c| c.providers.push(c.providers[0].clone())).contains("twice"));
    }

    #[test]
    fn a_group_is_named_by_guid_or_well_known_name() {
        let group = |name: &str| EtwProvider { group: true, ..EtwProvider::new(name) };
        let guid = "4f50731a-89cf-4782-b3e0-dce8c90476ba";
        assert_eq!(guid::format(&group("windows-telemetry").own_guid()), guid);
        assert_eq!(group(guid).own_guid(), group("windows-telemetry").own_guid());
        // without the word it is the name of a provider
        assert_ne!(EtwProvider::new("windows-telemetry").own_guid(), group("windows-telemetry").own_guid());
        let config = EtwConfig::new(vec![group("windows-core"), group("aria"), group(guid)]);
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn unknown_keys_and_flags_are_errors() {
        let read = |json: &str| serde_json::from_str::<EtwConfig>(json).map_err(|e| e.to_string());
        let config = read(r#"{"kernel":["process","disk-io"],"decoder":"system"}"#).unwrap();
        assert_eq!(config.kernel.iter().map(|k| k.bit()).sum::<u32>(), 0x101);
        assert_eq!(config.decoder, DecoderChoice::System);
        assert!(config.independent && config.buffer_kib == 256);
        assert!(read(r#"{"kernel":["processes"]}"#).unwrap_err().contains("unknown variant"));
        assert!(read(r#"{"providers":[{"provider":"x","stacks":true}]}"#).unwrap_err().contains("stacks"));
    }
}
