//! The Tidegate collector: the gate, the pipeline, dispatch and the program.
#![forbid(unsafe_code)]

pub mod aggregate;
pub mod api;
pub mod assemble;
pub mod attached;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod device;
pub mod dispatch;
pub mod encode;
pub mod gate;
pub mod intake;
pub mod own;
pub mod pipeline;
pub mod purge;
pub mod receipts;
pub mod reload;
pub mod report;
pub mod sampling;
pub mod settings;
#[cfg(test)]
mod testing;
