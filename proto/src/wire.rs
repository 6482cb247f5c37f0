//! The stored form of events: a [`pb::Block`](crate::pb::Block), written and
//! read without building a tree of messages. The bytes are those that prost
//! writes for the same messages (canonical varints, fields in the order of
//! their numbers), except that schemas stand among the events, before first use.

mod decode;
mod encode;

pub use decode::{BlockReader, SchemaInterner, WireError};
pub(crate) use encode::varint;
pub use encode::{BlockBuilder, BlockMark, Judged};

/// The block format written and the highest one read.
pub const FORMAT: u32 = 1;

/// A node of an event that the gate may want changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A payload field, counted in pre-order from 0: a struct or array comes
    /// before its items, and each item counts.
    Field(u32),
    /// An extended item, counted from 0 in the order of
    /// [`EventRef::ext`](crate::batch::EventRef::ext).
    Ext(u32),
    /// The undecoded payload.
    Raw,
}

/// What to write in place of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// The node and all below it is left out.
    Drop,
    /// The node becomes this text, marked with what was found (never 0).
    Replace(&'a str, u16),
}

/// The changes to one event while it is written.
pub trait Changes {
    /// Whether the event goes on as it is.
    fn is_empty(&self) -> bool;
    /// The change of a place, if it has one.
    fn at(&self, place: Place) -> Option<Change<'_>>;
}

/// Nothing is changed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unchanged;

impl Changes for Unchanged {
    fn is_empty(&self) -> bool {
        true
    }
    fn at(&self, _: Place) -> Option<Change<'_>> {
        None
    }
}

#[cfg(test)]
mod tests;
