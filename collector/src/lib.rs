//! The Tidegate collector: the gate, the pipeline, dispatch and the program.
#![forbid(unsafe_code)]

pub mod cli;
pub mod gate;
