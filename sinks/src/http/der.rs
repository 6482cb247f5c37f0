//! The two things that pins need of a certificate: its key and its end.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What stands in a certificate (RFC 5280, section 4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// SubjectPublicKeyInfo, with tag and length.
    pub spki: Vec<u8>,
    /// Valid until, inclusive.
    pub not_after: SystemTime,
    /// Common name of whom it is for; empty when there is none.
    pub subject: String,
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// One element: its tag, the element with tag and length, its contents, what follows it.
struct Element<'a> {
    tag: u8,
    whole: &'a [u8],
    inner: &'a [u8],
    rest: &'a [u8],
}

fn element(input: &[u8]) -> Option<Element<'_>> {
    let (&tag, after) = input.split_first()?;
    let (&first, after) = after.split_first()?;
    let (len, after) = match first {
        0..=0x7f => (usize::from(first), after),
        0x81..=0x84 => {
            let (digits, after) = after.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().try_fold(0_usize, |n, d| n.checked_mul(256)?.checked_add(usize::from(*d)))?, after)
        }
        _ => return None,
    };
    let (inner, rest) = after.split_at_checked(len)?;
    let whole = input.get(..input.len() - rest.len())?;
    Some(Element { tag, whole, inner, rest })
}

fn expect(input: &[u8], tag: u8) -> Option<Element<'_>> {
    element(input).filter(|e| e.tag == tag)
}

/// Reads a certificate; `None` when it is none.
pub(crate) fn facts(certificate: &[u8]) -> Option<Facts> {
    let tbs = expect(expect(certificate, SEQUENCE)?.inner, SEQUENCE)?.inner;
    let at = expect(tbs, VERSION).map_or(tbs, |version| version.rest);
    let serial = element(at)?;
    let signature = expect(serial.rest, SEQUENCE)?;
    let issuer = expect(signature.rest, SEQUENCE)?;
    let validity = expect(issuer.rest, SEQUENCE)?;
    let subject = expect(validity.rest, SEQUENCE)?;
    let spki = expect(subject.rest, SEQUENCE)?;
    let end = element(element(validity.inner)?.rest)?;
    let subject = common_name(subject.inner).unwrap_or_default();
    Some(Facts { spki: spki.whole.to_vec(), not_after: time(end.tag, end.inner)?, subject })
}

/// The common name (2.5.4.3) of a distinguished name, in printable characters.
pub(crate) fn common_name(mut name: &[u8]) -> Option<String> {
    const SET: u8 = 0x31;
    const COMMON_NAME: &[u8] = &[0x06, 3, 0x55, 4, 3];
    loop {
        let set = expect(name, SET)?;
        let kind = element(expect(set.inner, SEQUENCE)?.inner)?;
        if kind.whole == COMMON_NAME {
            let text = String::from_utf8_lossy(element(kind.rest)?.inner).into_owned();
            return Some(super::classify::printable(&text, 100));
        }
        name = set.rest;
    }
}

/// UTCTime `YYMMDDhhmmssZ` or GeneralizedTime `YYYYMMDDhhmmssZ`.
fn time(tag: u8, text: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(text).ok()?;
    let (year, rest) = match tag {
        0x17 => {
            let (yy, rest) = text.split_at_checked(2)?;
            let yy: u32 = yy.parse().ok()?;
            (if yy < 50 { 2000 + yy } else { 1900 + yy }, rest)
        }
        0x18 => {
            let (yyyy, rest) = text.split_at_checked(4)?;
            (yyyy.parse().ok()?, rest)
        }
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2);
    let (month, day, hour, minute, second) = (part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
    let stamp = format!("{year:04}-{month}-{day}T{hour}:{minute}:{second}Z");
    // "never": 99991231235959Z lies behind what nanoseconds in an i64 hold
    if year > 2261 {
        return Some(UNIX_EPOCH + Duration::from_secs(9_223_372_036));
    }
    let ns = u64::try_from(tidegate_proto::time::parse_rfc3339(&stamp)?).ok()?;
    Some(UNIX_EPOCH + Duration::from_nanos(ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_cut_anywhere_is_none() {
        let made = rcgen::generate_simple_self_signed(vec!["host.test".to_owned()]).unwrap();
        let der = made.cert.der();
        let whole = facts(der).unwrap();
        assert!(whole.not_after > SystemTime::now());
        let spki = rcgen::PublicKeyData::subject_public_key_info(&made.signing_key);
        assert_eq!(whole.spki, spki);
        assert_eq!(whole.subject, "rcgen self signed cert");
        for end in 0..der.len() {
            assert_eq!(facts(&der[..end]), None, "{end}");
        }
    }

    #[test]
    fn both_forms_of_time_are_read() {
        let at = |s| UNIX_EPOCH + Duration::from_secs(s);
        assert_eq!(time(0x17, b"700101000001Z"), Some(at(1)));
        assert_eq!(time(0x17, b"301231235959Z"), Some(at(1_924_991_999)));
        assert_eq!(time(0x18, b"20301231235959Z"), Some(at(1_924_991_999)));
        assert!(time(0x18, b"99991231235959Z").unwrap() > at(9_000_000_000));
        for bad in [&b""[..], b"7", b"70010100", b"7013010000010Z", b"\xff\xff0101000001Z"] {
            assert_eq!(time(0x17, bad), None);
        }
    }
}
