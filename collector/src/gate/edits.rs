//! What the gate wants changed in an event before it may be written.

pub use tidegate_proto::wire::Place;
use tidegate_proto::wire::{Change as WireChange, Changes};

use super::scrub::{Action, Kind};

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

impl Change {
    /// The stored mark: the kind found plus two (1 = a level of its own), and
    /// the action plus one in the high byte.
    #[must_use]
    pub fn mark(&self) -> u16 {
        let kind = self.kind.map_or(1, |k| k as u16 + 2);
        (u16::from(self.action.rank()) + 1) << 8 | kind
    }
}

impl Changes for Edits {
    fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn at(&self, place: Place) -> Option<WireChange<'_>> {
        Edits::at(self, place).map(|change| match &change.edit {
            Edit::Drop => WireChange::Drop,
            Edit::Replace(text) => WireChange::Replace(text, change.mark()),
        })
    }
}
