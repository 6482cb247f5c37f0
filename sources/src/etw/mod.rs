//! Live event tracing of Windows. The settings are read and checked on every system; only
//! running them needs Windows.

mod config;
mod names;
#[cfg(windows)]
pub(crate) mod windows;

pub use config::{EtwConfig, EtwProvider, KernelFlag};
pub use names::guid_of_name;
