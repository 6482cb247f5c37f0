//! Live event tracing of Windows. The settings are read and checked on every system; only
//! running them needs Windows.

mod config;
mod names;
#[cfg(windows)]
mod windows;

pub use config::{EtwConfig, EtwDecoder, EtwProvider, KernelFlag};
pub use names::guid_of_name;
