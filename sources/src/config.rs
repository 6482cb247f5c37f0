//! The configuration of all sources, the same on every system.

use serde::{Deserialize, Serialize};

use crate::capture::CaptureConfig;
use crate::census::CensusConfig;
use crate::content::{Kind, detect};
use crate::etl::EtlConfig;
use crate::etw::EtwConfig;
use crate::jsonl::JsonlConfig;
use crate::pace::{Pace, Timestamp};
use crate::source::{Source, SourceError};
use crate::synthetic::SyntheticConfig;

/// Settings of one source, told apart by `type`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SourceConfig {
    /// Event trace logs.
    Etl(EtlConfig),
    /// JSON lines.
    Jsonl(JsonlConfig),
    /// Captures.
    Capture(CaptureConfig),
    /// Events from a seed.
    Synthetic(SyntheticConfig),
    /// Live event tracing of Windows.
    Etw(EtwConfig),
    /// Basic information on the machine.
    Census(CensusConfig),
}

/// How files given by name are replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Replay {
    /// How fast.
    pub speed: Pace,
    /// The earliest event time.
    pub from: Option<Timestamp>,
    /// The first event time that is left out again.
    pub to: Option<Timestamp>,
    /// Whether to begin anew at the end.
    pub repeat: bool,
}

impl SourceConfig {
    /// Settings that replay one file, whatever of the three kinds it holds.
    ///
    /// # Errors
    /// A file that cannot be read, is empty, or is none of the kinds.
    pub fn of_file(path: &std::path::Path, replay: Replay) -> Result<SourceConfig, SourceError> {
        let paths = vec![path.to_owned()];
        let Replay { speed, from, to, repeat } = replay;
        Ok(match detect(path)? {
            Kind::Etl => SourceConfig::Etl(EtlConfig { speed, from, to, repeat, ..EtlConfig::new(paths) }),
            Kind::Jsonl => {
                SourceConfig::Jsonl(JsonlConfig { speed, from, to, repeat, ..JsonlConfig::new(paths) })
            }
            Kind::Capture => {
                SourceConfig::Capture(CaptureConfig { speed, from, to, repeat, ..CaptureConfig::new(paths) })
            }
        })
    }

    /// The value of `type`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            SourceConfig::Etl(_) => "etl",
            SourceConfig::Jsonl(_) => "jsonl",
            SourceConfig::Capture(_) => "capture",
            SourceConfig::Synthetic(_) => "synthetic",
            SourceConfig::Etw(_) => "etw",
            SourceConfig::Census(_) => "census",
        }
    }

    /// Checks what the types cannot; opens nothing.
    ///
    /// # Errors
    /// In words, naming the key.
    pub fn check(&self) -> Result<(), String> {
        match self {
            SourceConfig::Etl(c) => c.check(),
            SourceConfig::Jsonl(c) => c.check(),
            SourceConfig::Capture(c) => c.check(),
            SourceConfig::Synthetic(c) => c.check(),
            SourceConfig::Etw(c) => c.check(),
            SourceConfig::Census(c) => c.check(),
        }
    }

    /// Makes the source. With the position of the last event that was stored it goes on at
    /// the next one. Opens nothing: what is wrong with files is said when it runs.
    ///
    /// # Errors
    /// Settings that contradict one another, a position that is none, or a source that this
    /// system does not have.
    pub fn build(self, name: &str, position: Option<&[u8]>) -> Result<Box<dyn Source>, SourceError> {
        Ok(match self {
            SourceConfig::Etl(c) => Box::new(c.build(name, position)?),
            SourceConfig::Jsonl(c) => Box::new(c.build(name, position)?),
            SourceConfig::Capture(c) => Box::new(c.build(name, position)?),
            SourceConfig::Synthetic(c) => Box::new(c.build(name, position)?),
            SourceConfig::Etw(c) => c.build(name)?,
            SourceConfig::Census(c) => Box::new(c.build(name)?),
        })
    }
}
