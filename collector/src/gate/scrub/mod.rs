//! The scrubber: finds personal data and secrets in an event's values and says
//! what is to become of them.

mod cues;
mod detect;
pub(super) mod find;
mod hosts;
mod keys;
#[cfg(test)]
mod mended;
mod numbers;
mod places;
mod pseudonym;
mod secrets;
#[cfg(test)]
mod tests;
mod users;
mod walk;

pub use detect::{Detector, Finding};
pub use pseudonym::{KeyError, PseudonymKey};
pub(super) use walk::{Job, Policy, Scrubber, priv_tags_of};

use serde::Deserialize;

/// A class of data that the scrubber knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Kind {
    /// Passwords, tokens, keys, connection strings.
    Secret = 0,
    /// E-mail addresses.
    Email = 1,
    /// Payment card numbers that pass the Luhn check.
    Card = 2,
    /// Security identifiers of persons and machines.
    Sid = 3,
    /// User names: in paths, `DOMAIN\user`, after a key such as `user=`.
    User = 4,
    /// Internet addresses.
    Ip = 5,
    /// Hardware addresses of network cards.
    Mac = 6,
    /// Phone numbers.
    Phone = 7,
    /// Host names: those configured, and names in private domains.
    Host = 8,
    /// Places on earth.
    Gps = 9,
    /// What the event's author tagged as private.
    Tagged = 10,
}

impl Kind {
    /// How many there are.
    pub const COUNT: usize = 11;

    /// All kinds; where findings overlap, the earlier kind counts.
    pub const ALL: [Kind; Kind::COUNT] = [
        Kind::Secret,
        Kind::Email,
        Kind::Card,
        Kind::Sid,
        Kind::User,
        Kind::Ip,
        Kind::Mac,
        Kind::Phone,
        Kind::Host,
        Kind::Gps,
        Kind::Tagged,
    ];

    /// Its name in catalogues and in what replaces a finding.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Secret => "secret",
            Kind::Email => "email",
            Kind::Card => "card",
            Kind::Sid => "sid",
            Kind::User => "user",
            Kind::Ip => "ip",
            Kind::Mac => "mac",
            Kind::Phone => "phone",
            Kind::Host => "host",
            Kind::Gps => "gps",
            Kind::Tagged => "tagged",
        }
    }

    pub(super) fn bit(self) -> u16 {
        1 << self as u8
    }
}

/// What becomes of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It stays.
    Keep,
    /// Its place says only what it was: `<email>`.
    Mask,
    /// A keyed pseudonym, equal for equal values within one rotation period;
    /// without a key it is masked.
    Pseudonym,
    /// As much as names no one: the /24 or /48 of an address, the maker of a
    /// network card, the host part of an e-mail address, a place to 0.1 degree; masked
    /// where a kind has no such form.
    Generalise,
    /// The whole field is left out.
    Drop,
    /// The whole event is dropped.
    DropEvent,
}

impl Action {
    /// How strict it is: where several apply, the highest counts.
    #[must_use]
    pub fn rank(self) -> u8 {
        match self {
            Action::Keep => 0,
            Action::Generalise => 1,
            Action::Pseudonym => 2,
            Action::Mask => 3,
            Action::Drop => 4,
            Action::DropEvent => 5,
        }
    }

    pub(super) fn stricter(self, other: Action) -> Action {
        if other.rank() > self.rank() { other } else { self }
    }
}

/// Which action follows for which kind, by `Kind as usize`.
pub type Actions = [Action; Kind::COUNT];

/// Kinds that are not kept, as bits.
pub(super) fn wanted(actions: &Actions) -> u16 {
    Kind::ALL.iter().zip(actions).filter(|(_, a)| **a != Action::Keep).fold(0, |m, (k, _)| m | k.bit())
}
