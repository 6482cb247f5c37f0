//! Traces and schemas of every kind, from the fuzzer.
//!
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz etl` from the root. Inputs that found something
//! go into `corpus/etl`, which `cargo test -p tidegate-etl` replays.
#![no_main]

#[path = "../check_etl.rs"]
mod check_etl;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check_etl::check(data));
