//! Tests of the whole system; they are in `tests/it`, one file a subject.
#![forbid(unsafe_code)]
