//! Who decides which telemetry level is in force: every source is a ceiling,
//! the lowest wins, and what cannot be read counts as the lowest of all.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tidegate_proto::level::TelemetryLevel;

use super::catalogue::{LevelText, RulesError, read_toml};

/// What decided the level in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decider {
    /// The administrator's policy.
    Policy,
    /// The signed remote settings.
    Remote,
    /// The switch at run time.
    Runtime,
    /// The configuration file.
    Config,
    /// Nothing said anything: the built-in default.
    Default,
    /// A lower level that was in force, and is not carried through yet.
    Purge,
}

impl Decider {
    /// Its name in status and audit records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Remote => "remote settings",
            Self::Runtime => "run-time switch",
            Self::Config => "configuration",
            Self::Default => "built-in default",
            Self::Purge => "purge that is owed",
        }
    }
}

impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the administrator's policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// There is none: no ceiling from here.
    #[default]
    Absent,
    /// A ceiling, and whether telemetry is enabled at all.
    Ceiling {
        /// Nothing above it may pass.
        level: TelemetryLevel,
        /// `false`: nothing is gathered and nothing leaves.
        enabled: bool,
    },
    /// It is there but does not hold: level 0, and the reason is an alarm.
    Broken(String),
}

impl Policy {
    /// The policy of an `AllowTelemetry` value such as the Windows registry
    /// holds. Several are combined with [`Policy::strictest`].
    #[must_use]
    pub fn from_value(origin: &str, value: u64) -> Policy {
        match u8::try_from(value).ok().and_then(TelemetryLevel::from_u8) {
            Some(level) => Policy::Ceiling { level, enabled: true },
            None => Policy::Broken(format!("{origin}: {value} is out of range; use 0, 1, 2 or 3")),
        }
    }

    /// The more restrictive of two policies.
    #[must_use]
    pub fn strictest(self, other: Policy) -> Policy {
        match (self, other) {
            (Policy::Absent, p) | (p, Policy::Absent) => p,
            (Policy::Broken(a), Policy::Broken(b)) => Policy::Broken(format!("{a}; {b}")),
            (Policy::Broken(a), _) | (_, Policy::Broken(a)) => Policy::Broken(a),
            (Policy::Ceiling { level: a, enabled: x }, Policy::Ceiling { level: b, enabled: y }) => {
                Policy::Ceiling { level: a.min(b), enabled: x && y }
            }
        }
    }
}

/// The form of the policy file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyToml {
    allow_telemetry: LevelText,
    #[serde(default = "yes")]
    enabled: bool,
}

fn yes() -> bool {
    true
}

/// The policy file, `/etc/tidegate/policy.toml` where nothing else is said:
///
/// ```toml
/// allow_telemetry = 1   # 0 Security, 1 Basic, 2 Enhanced, 3 Full
/// enabled = true        # false: nothing is gathered and nothing leaves
/// ```
///
/// A missing file is no ceiling. A file that is there must be readable and say
/// `allow_telemetry`, so that one cut short does not open the gate. On Windows the registry's
/// policy keys are looked at as well, and the stricter of both counts.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    path: PathBuf,
    last: Option<Policy>,
}

impl PolicyFile {
    /// Largest file that is read, in bytes.
    pub const MAX_LEN: u64 = 64 * 1024;

    /// Watches a path; nothing is read yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> PolicyFile {
        PolicyFile { path: path.into(), last: None }
    }

    /// The path watched.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file; `Some` when it says something else than at the last
    /// call, always at the first.
    pub fn poll(&mut self) -> Option<Policy> {
        let now = read_policy(&self.path);
        #[cfg(windows)]
        let now = super::registry::read().strictest(now);
        if self.last.as_ref() == Some(&now) {
            return None;
        }
        self.last = Some(now.clone());
        Some(now)
    }
}

/// Reads a policy file. Never fails: what cannot be read is [`Policy::Broken`].
#[must_use]
pub fn read_policy(path: &Path) -> Policy {
    let broken =
        |why: String| Policy::Broken(format!("{why}; level 0 is in force until it is mended or removed"));
    // a dangling link is a file that should be there
    let opened = std::fs::symlink_metadata(path).and_then(|_| {
        std::fs::File::open(path).map_err(|e| std::io::Error::other(format!("cannot be opened ({e})")))
    });
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Policy::Absent,
        Err(e) => return broken(format!("policy file {}: {e}", path.display())),
    };
    // a fifo or a device would hold up the gate
    match file.metadata() {
        Ok(m) if m.is_file() && m.len() <= PolicyFile::MAX_LEN => {}
        Ok(m) if m.is_file() => return broken(format!("policy file {}: larger than 64 KiB", path.display())),
        Ok(_) => return broken(format!("policy file {}: no regular file", path.display())),
        Err(e) => return broken(format!("policy file {}: {e}", path.display())),
    }
    let mut text = String::new();
    if let Err(e) = file.take(PolicyFile::MAX_LEN).read_to_string(&mut text) {
        return broken(format!("policy file {}: {e}", path.display()));
    }
    match parse_policy(&path.display().to_string(), &text) {
        Ok(policy) => policy,
        Err(e) => broken(e.to_string()),
    }
}

/// Reads the text of a policy file.
///
/// # Errors
/// What is wrong, with line, key and advice.
pub fn parse_policy(name: &str, text: &str) -> Result<Policy, RulesError> {
    let file: PolicyToml = read_toml(name, text)?;
    Ok(Policy::Ceiling { level: file.allow_telemetry.0, enabled: file.enabled })
}

/// A purge that a lowered level asked for, and that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// What the ring holds above it has to go.
    pub level: TelemetryLevel,
    /// Why it has not gone yet.
    pub why: String,
}

impl fmt::Display for Owed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Owed { level, why } = self;
        write!(
            f,
            "what the ring holds above level {} {level} has to be removed, and is not yet ({why}); nothing is \
             sent until it is",
            *level as u8
        )
    }
}

/// All ceilings, as they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ceilings {
    /// The administrator's policy.
    pub policy: Policy,
    /// The remote settings' ceiling.
    pub remote: Option<TelemetryLevel>,
    /// The switch at run time.
    pub runtime: Option<TelemetryLevel>,
    /// The configuration file's level.
    pub config: Option<TelemetryLevel>,
    /// `tidegate telemetry enable|disable`.
    pub enabled: bool,
    /// What would be purged in the end is not gathered before.
    pub owed: Option<Owed>,
}

impl Default for Ceilings {
    fn default() -> Ceilings {
        Ceilings {
            policy: Policy::Absent,
            remote: None,
            runtime: None,
            config: None,
            enabled: true,
            owed: None,
        }
    }
}

/// The level in force and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelInForce {
    /// Nothing above it passes.
    pub level: TelemetryLevel,
    /// `false`: nothing passes at all.
    pub enabled: bool,
    /// Who decided: of equal ceilings, the one with more authority.
    pub decided_by: Decider,
    /// What an operator must look at, in words.
    pub alarm: Option<String>,
}

impl Ceilings {
    /// Used where neither the configuration nor anyone else says a level.
    pub const DEFAULT: TelemetryLevel = TelemetryLevel::Enhanced;

    /// The minimum of all ceilings.
    #[must_use]
    pub fn in_force(&self) -> LevelInForce {
        let (policy, allowed, alarm) = match &self.policy {
            Policy::Absent => (None, true, None),
            Policy::Ceiling { level, enabled } => (Some(*level), *enabled, None),
            Policy::Broken(why) => (Some(TelemetryLevel::Security), true, Some(why.clone())),
        };
        let own = match self.config {
            Some(level) => (level, Decider::Config),
            None => (Self::DEFAULT, Decider::Default),
        };
        let (level, decided_by) = [
            policy.map(|l| (l, Decider::Policy)),
            self.remote.map(|l| (l, Decider::Remote)),
            self.runtime.map(|l| (l, Decider::Runtime)),
            self.owed.as_ref().map(|o| (o.level, Decider::Purge)),
        ]
        .into_iter()
        .flatten()
        .fold(own, |low, next| low.min(next));
        let alarms: Vec<String> = alarm.into_iter().chain(self.owed.as_ref().map(Owed::to_string)).collect();
        let alarm = (!alarms.is_empty()).then(|| alarms.join("; "));
        LevelInForce { level, enabled: self.enabled && allowed, decided_by, alarm }
    }

    /// What would be in force if no purge were owed.
    #[must_use]
    pub fn wanted(&self) -> LevelInForce {
        Ceilings { owed: None, ..self.clone() }.in_force()
    }
}

impl fmt::Display for LevelInForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.enabled {
            f.write_str("telemetry is disabled; ")?;
        }
        write!(f, "level {} {}, decided by the {}", self.level as u8, self.level, self.decided_by)?;
        if let Some(alarm) = &self.alarm {
            write!(f, "; ALARM: {alarm}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TelemetryLevel::{Basic, Enhanced, Full, Security};

    #[test]
    fn the_lowest_ceiling_wins_and_is_named() {
        let mut c = Ceilings::default();
        assert_eq!((c.in_force().level, c.in_force().decided_by), (Enhanced, Decider::Default));
        c.config = Some(Full);
        assert_eq!((c.in_force().level, c.in_force().decided_by), (Full, Decider::Config));
        for n in 0..256_u32 {
            let pick = |shift: u32| TelemetryLevel::from_u8((n >> shift & 3) as u8).unwrap();
            let c = Ceilings {
                policy: Policy::Ceiling { level: pick(0), enabled: true },
                remote: Some(pick(2)),
                runtime: Some(pick(4)),
                config: Some(pick(6)),
                ..Ceilings::default()
            };
            let all = [pick(0), pick(2), pick(4), pick(6)];
            let names = [Decider::Policy, Decider::Remote, Decider::Runtime, Decider::Config];
            let low = all.iter().position(|l| Some(l) == all.iter().min()).unwrap();
            assert_eq!((c.in_force().level, c.in_force().decided_by), (all[low], names[low]));
        }
    }

    #[test]
    fn a_switch_turns_everything_off() {
        let off = Ceilings { enabled: false, ..Ceilings::default() };
        assert!(!off.in_force().enabled);
        let policy = parse_policy("p", "allow_telemetry = 3\nenabled = false").unwrap();
        assert!(!Ceilings { policy, ..Ceilings::default() }.in_force().enabled);
    }

    #[test]
    fn a_missing_policy_is_none_and_a_bad_one_is_level_0_with_alarm() {
        let dir = std::env::temp_dir().join(format!("tidegate-policy-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("policy.toml");
        let mut watched = PolicyFile::new(&path);
        assert_eq!(watched.poll(), Some(Policy::Absent));
        assert_eq!(watched.poll(), None);
        std::fs::write(&path, "allow_telemetry = 1").unwrap();
        assert_eq!(watched.poll(), Some(Policy::Ceiling { level: Basic, enabled: true }));
        for bad in [
            "",
            "allow_telemetry = 4",
            "allow_telemetry = -1",
            "allow_telemtry = 1",
            "allow_telemetry",
            "\0",
            "x = [",
        ] {
            std::fs::write(&path, bad).unwrap();
            let now = read_policy(&path);
            let force = Ceilings { policy: now, config: Some(Full), ..Ceilings::default() }.in_force();
            assert_eq!((force.level, force.decided_by), (Security, Decider::Policy), "{bad:?}");
            let alarm = force.alarm.unwrap();
            assert!(alarm.contains("policy.toml") && alarm.contains("level 0"), "{alarm}");
        }
        std::fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
        assert!(matches!(read_policy(&path), Policy::Broken(_)));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(read_policy(&path), Policy::Broken(_)), "a directory is no policy");
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(watched.poll(), Some(Policy::Absent));
    }

    #[test]
    fn a_typing_error_in_the_policy_is_named_with_line_and_suggestion() {
        let e = parse_policy("policy.toml", "# ours\nallow_telemtry = 1").unwrap_err().to_string();
        assert!(e.contains("policy.toml:2") && e.contains("allow_telemetry"), "{e}");
        let e = parse_policy("policy.toml", "allow_telemetry = 9").unwrap_err().to_string();
        assert!(e.contains("policy.toml:1") && e.contains('9') && e.contains("3 Full"), "{e}");
    }

    #[test]
    fn registry_values_are_checked_and_the_stricter_wins() {
        assert!(matches!(Policy::from_value("HKLM", 4), Policy::Broken(_)));
        let both = Policy::from_value("a", 3).strictest(Policy::from_value("b", 1));
        assert_eq!(both, Policy::Ceiling { level: Basic, enabled: true });
        assert!(matches!(both.strictest(Policy::from_value("c", 99)), Policy::Broken(_)));
        assert_eq!(Policy::Absent.strictest(Policy::Absent), Policy::Absent);
    }
}
