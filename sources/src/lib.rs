//! Where events come from: the [`Source`] contract and its implementations.
// only arenas, etw/windows and census/windows may say otherwise, where they speak to the system
#![deny(unsafe_code)]

pub mod arenas;
pub mod capture;
pub mod census;
mod config;
mod content;
#[cfg(feature = "test-util")]
pub mod contract;
pub mod etl;
pub mod etw;
mod feed;
mod files;
pub mod jsonl;
pub mod pace;
mod position;
mod source;
pub mod synthetic;
mod system;

pub use config::{Replay, SourceConfig};
pub use content::{Kind, detect};
pub use source::{Closed, Intake, Item, Offer, Outlet, Source, SourceEnd, SourceError, SourceInfo, intake};
pub use system::DecoderChoice;
