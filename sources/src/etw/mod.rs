//! Live event tracing of Windows. The settings are read and checked on every system; only
//! running them needs Windows.

mod config;

pub use config::{EtwConfig, EtwProvider};
