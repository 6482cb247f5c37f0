//! The whole system, from outside: the program is started as a user starts it.

mod azurite;
mod buffer;
#[cfg(unix)]
mod control;
mod crash;
mod dead_letters;
mod pins;
mod purge;
mod receipts;
mod report;
mod runs;
mod support;
mod surface;
mod tidy;
