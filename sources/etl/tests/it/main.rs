//! The crate against real traces and damaged ones.
#![forbid(unsafe_code)]

mod build;
mod built;
mod corpus;
mod damage;
mod data;
mod events;
mod files;
mod schemas;
mod traceevent;
