//! Telemetry levels, persistence classes, and the closed lists of reasons an
//! event can be dropped or lost for.

use std::fmt;
use std::str::FromStr;

/// How much the operator lets out. Cumulative: each level holds the ones below.
/// Not to be confused with the ETW level, which is verbosity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TelemetryLevel {
    /// Security data only, and the collector's own settings.
    Security = 0,
    /// Basic device, quality and compatibility data.
    Basic = 1,
    /// Usage, performance, advanced reliability. The default.
    Enhanced = 2,
    /// All that helps to find and fix a problem.
    Full = 3,
}

impl TelemetryLevel {
    /// All levels, lowest first.
    pub const ALL: [TelemetryLevel; 4] = [Self::Security, Self::Basic, Self::Enhanced, Self::Full];

    /// The level of a number, if it is one.
    #[must_use]
    pub fn from_u8(n: u8) -> Option<TelemetryLevel> {
        Self::ALL.get(usize::from(n)).copied()
    }

    /// The level's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Security => "Security",
            Self::Basic => "Basic",
            Self::Enhanced => "Enhanced",
            Self::Full => "Full",
        }
    }
}

impl fmt::Display for TelemetryLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for TelemetryLevel {
    type Err = UnknownLevel;
    fn from_str(s: &str) -> Result<Self, UnknownLevel> {
        Self::ALL
            .into_iter()
            .find(|l| l.as_str().eq_ignore_ascii_case(s) || s.parse() == Ok(*l as u8))
            .ok_or_else(|| UnknownLevel(s.chars().take(40).collect()))
    }
}

/// A text that names no telemetry level.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{0}\" is no telemetry level; use 0 Security, 1 Basic, 2 Enhanced or 3 Full")]
pub struct UnknownLevel(String);

/// Persistence class: evicted first or last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// Levels 0 and 1, and our own accounting: evicted last.
    Critical = 0,
    /// Everything else.
    Normal = 1,
}

impl Class {
    /// The class that events of a level are kept in.
    #[must_use]
    pub fn of(level: TelemetryLevel) -> Class {
        if level <= TelemetryLevel::Basic { Class::Critical } else { Class::Normal }
    }

    /// The class's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Critical => "critical",
            Class::Normal => "normal",
        }
    }
}

macro_rules! reasons {
    ($(#[$m:meta])* $name:ident { $($(#[$vm:meta])* $v:ident = $n:literal $s:literal,)* }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vm])* $v = $n,)* }
        impl $name {
            /// Every reason.
            pub const ALL: &'static [$name] = &[$($name::$v,)*];
            /// The label used in accounts and metrics.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $($name::$v => $s,)* } }
            /// The reason of a stored number.
            #[must_use]
            pub fn from_u8(n: u8) -> Option<$name> { match n { $($n => Some($name::$v),)* _ => None } }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(self.as_str()) }
        }
    };
}

reasons! {
    /// Why an event that was read never reached the ring.
    DropReason {
        /// Its telemetry level is above the level in force.
        Level = 0 "level",
        /// Telemetry is disabled.
        Disabled = 1 "disabled",
        /// A rule says so.
        Rule = 2 "rule",
        /// Scrubbing found what may not be kept.
        Privacy = 3 "privacy",
        /// Sampled out.
        Sample = 4 "sample",
        /// Larger than an event may be.
        Oversize = 5 "oversize",
        /// The intake was full and the source cannot wait.
        IntakeFull = 6 "intake_full",
        /// The ring refused it: full, with `drop_newest`.
        RingFull = 7 "ring_full",
        /// The ring could not write.
        RingFailed = 8 "ring_failed",
        /// It could not be encoded.
        Encode = 9 "encode",
    }
}

reasons! {
    /// Why a stored event never reached a sink.
    LossReason {
        /// Evicted to keep the ring in its bound.
        Evicted = 0 "evicted",
        /// Older than `max_age`.
        Expired = 1 "expired",
        /// Purged by a lowered level or a rule.
        Purged = 2 "purged",
        /// The medium damaged it.
        Corrupt = 3 "corrupt",
        /// Above the level in force when it was to be sent.
        Level = 4 "level",
        /// The sink's own filter leaves it out.
        Filtered = 5 "filtered",
        /// The rules in force when it was to be sent keep it back: they have become stricter.
        Rule = 6 "rule",
    }
}
