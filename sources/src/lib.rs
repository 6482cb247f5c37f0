//! Where events come from: the [`Source`] contract and its implementations.
#![forbid(unsafe_code)]

mod source;

pub use source::{Closed, Intake, Item, Offer, Outlet, Source, SourceEnd, SourceError, SourceInfo, intake};
