//! What the gate wants changed in an event before it may be written.

use super::scrub::{Action, Kind};

/// Where a change goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A payload field, counted in pre-order from 0: a struct or array comes
    /// before its items, and each item counts.
    Field(u32),
    /// An extended item, counted from 0 in the order of `EventRef::ext`.
    Ext(u32),
    /// The undecoded payload.
    Raw,
}

/// What happens there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// The node and everything below it is left out.
    Drop,
    /// The node becomes this text.
    Replace(String),
}

/// One change and why it is made. `kind` is `None` when the field's own
/// telemetry level is above the level in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub place: Place,
    /// What.
    pub edit: Edit,
    /// The class of data found.
    pub kind: Option<Kind>,
    /// The action that the rules name for it.
    pub action: Action,
}

/// The changes of one event, in the order of their places: fields, then
/// extended items, then the raw payload; at most one for a place, none below
/// a dropped or replaced one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    list: Vec<Change>,
}

impl Edits {
    /// Whether the event goes on as it is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All changes in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Change> {
        self.list.iter()
    }

    /// The change of a place, if it has one. Binary search.
    #[must_use]
    pub fn at(&self, place: Place) -> Option<&Change> {
        self.list.binary_search_by_key(&place, |c| c.place).ok().and_then(|n| self.list.get(n))
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    pub(super) fn push(&mut self, change: Change) {
        self.list.push(change);
    }
}

impl<'a> IntoIterator for &'a Edits {
    type Item = &'a Change;
    type IntoIter = std::slice::Iter<'a, Change>;
    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}
