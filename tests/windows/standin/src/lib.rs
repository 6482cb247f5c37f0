//! A STAND-IN for the trace functions of Windows, for tests under Wine, which has none that
//! work. It is not event tracing: `ProcessTrace` plays the records of a recorded trace through
//! the caller's callback as if they came live.
//!
//! A session's name says what is played and how: the trace below `tests/data/etl/traces`, then
//! modes, as in `perfview/primitive-types breaks`:
//!
//! * `denied`: the session is refused for missing rights;
//! * `left`: a session of this name is there, live and to no file, as a crash leaves it;
//! * `foreign`: a session of this name is there, and writes to a file; to stop it is an error
//!   that ends the test;
//! * `refuses`: no provider can be enabled;
//! * `breaks`: the first time, the session ends by itself after three events.
//!
//! What it does as Windows does: only events of enabled providers and groups come, as level,
//! keywords and filters have it; a name in use is refused; a consumer gets nothing when it is
//! closed; `ProcessTrace` returns when the session is stopped; asked for its state
//! (`CAPTURE_STATE`), a provider writes, here its first event once more; with a stack wanted,
//! each event has one. Once all is played, the session says it lost three events and
//! one record tells of lost events. TDH knows the schemas that one recorded trace carries.
#![cfg(windows)]
#![allow(non_snake_case)]

mod play;
mod session;
mod tdh;
