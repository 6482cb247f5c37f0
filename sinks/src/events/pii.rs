//! Kinds of personal data, and the numbers of Common Schema metadata.
//!
//! A property's metadata is `type | kind << 5 | customer content << 13`; the
//! numbers are those of the public clients of the protocol.

use serde::Deserialize;

/// Types of Common Schema values.
pub(super) mod types {
    /// Text: needs no metadata.
    pub const STRING: u16 = 1;
    pub const INT32: u16 = 2;
    pub const UINT32: u16 = 3;
    pub const INT64: u16 = 4;
    pub const UINT64: u16 = 5;
    pub const DOUBLE: u16 = 6;
    pub const GUID: u16 = 8;
    pub const DATE: u16 = 9;
}

/// What personal data a property holds. The far side hashes, drops or shortens
/// it by this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum PiiKind {
    /// An LDAP distinguished name.
    DistinguishedName = 1,
    /// Personal in no way named here.
    GenericData = 2,
    /// An IPv4 address.
    Ipv4 = 3,
    /// An IPv6 address.
    Ipv6 = 4,
    /// The subject of a mail.
    MailSubject = 5,
    /// A phone number.
    PhoneNumber = 6,
    /// The query of a URL.
    QueryString = 7,
    /// A SIP address.
    SipAddress = 8,
    /// An e-mail address.
    SmtpAddress = 9,
    /// Whatever names a person or an account.
    Identity = 10,
    /// A URI.
    Uri = 11,
    /// A host's full name.
    Fqdn = 12,
    /// An IPv4 address whose last part the far side cuts off.
    Ipv4Legacy = 13,
}

impl PiiKind {
    /// The metadata number of a property of this kind and a type.
    pub(super) fn with_type(self, value_type: u16) -> u16 {
        value_type | (self as u16) << 5
    }

    /// The kind of a value that the gate has changed. The mark is the stored one:
    /// kind found plus two in the low byte, action plus one in the high byte. A
    /// pseudonym or a generalised value still tells of a person; a mask does not.
    pub(super) fn of_scrub(mark: u16) -> Option<PiiKind> {
        const GENERALISED: u16 = 2;
        const PSEUDONYM: u16 = 3;
        if !matches!(mark >> 8, GENERALISED | PSEUDONYM) {
            return None;
        }
        Some(match mark & 0xff {
            3 => PiiKind::SmtpAddress,
            5 | 6 => PiiKind::Identity,
            9 => PiiKind::PhoneNumber,
            10 => PiiKind::Fqdn,
            _ => PiiKind::GenericData,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_recorded_client() {
        // captures: mail address 289, integer with an identity 324
        assert_eq!(PiiKind::SmtpAddress.with_type(types::STRING), 289);
        assert_eq!(PiiKind::Identity.with_type(types::INT64), 324);
        assert_eq!(PiiKind::DistinguishedName.with_type(types::STRING), 33);
        assert_eq!(PiiKind::Ipv4Legacy.with_type(types::STRING), 417);
    }

    #[test]
    fn only_what_still_tells_of_a_person_is_marked() {
        assert_eq!(PiiKind::of_scrub(0), None);
        assert_eq!(PiiKind::of_scrub(4 << 8 | 3), None, "masked");
        assert_eq!(PiiKind::of_scrub(3 << 8 | 3), Some(PiiKind::SmtpAddress));
        assert_eq!(PiiKind::of_scrub(2 << 8 | 7), Some(PiiKind::GenericData));
    }
}
