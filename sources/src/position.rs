//! Where a replaying source stands, in a form that the ring's book keeps.

use serde::{Deserialize, Serialize};

use crate::source::SourceError;

/// The version written.
const VERSION: u8 = 1;

/// A place behind the last event handed over. Which numbers a kind uses is its own matter;
/// those it does not use are zero and not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Position {
    /// The format.
    pub v: u8,
    /// How many times the input was begun anew.
    #[serde(default, skip_serializing_if = "zero")]
    pub round: u64,
    /// Place of the file in the list.
    #[serde(default, skip_serializing_if = "zero")]
    pub file: u64,
    /// Hash of the file's configured path.
    #[serde(default, skip_serializing_if = "zero")]
    pub path: u64,
    /// Events, bytes or records consumed.
    #[serde(default, skip_serializing_if = "zero")]
    pub at: u64,
    /// Events consumed behind `at`, where `at` counts something larger.
    #[serde(default, skip_serializing_if = "zero")]
    pub then: u64,
    /// Bytes at the start of the file that `print` covers.
    #[serde(default, skip_serializing_if = "zero")]
    pub printed: u64,
    /// Hash of those bytes: which file it is, whatever it is called by now.
    #[serde(default, skip_serializing_if = "zero")]
    pub print: u64,
    /// Time of the last event, or the one that generated times count from.
    #[serde(default, skip_serializing_if = "zero_signed")]
    pub time_ns: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's form
fn zero(n: &u64) -> bool {
    *n == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's form
fn zero_signed(n: &i64) -> bool {
    *n == 0
}

impl Position {
    pub(crate) fn new() -> Position {
        Position { v: VERSION, ..Position::default() }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a stored position; none and an empty one mean the beginning.
    pub(crate) fn decode(source: &str, stored: Option<&[u8]>) -> Result<Option<Position>, SourceError> {
        let Some(stored) = stored.filter(|s| !s.is_empty()) else { return Ok(None) };
        let bad =
            |why: String| SourceError::Input { what: format!("stored position of source \"{source}\""), why };
        let position: Position = serde_json::from_slice(stored).map_err(|e| {
            bad(format!("it is none of ours ({e}); give the source another name to begin anew"))
        })?;
        if position.v != VERSION {
            return Err(bad(format!(
                "it has version {}, this program reads {VERSION}: use the version that wrote it",
                position.v
            )));
        }
        Ok(Some(position))
    }
}

/// FNV-1a, 64 bits: the same on every machine and in every version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) fn new() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    /// Goes on from what [`finish`](Fnv::finish) told.
    pub(crate) fn resume(state: u64) -> Fnv {
        Fnv(state)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = (self.0 ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn finish(self) -> u64 {
        self.0
    }

    pub(crate) fn of(bytes: &[u8]) -> u64 {
        let mut fnv = Fnv::new();
        fnv.write(bytes);
        fnv.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_returns_from_its_bytes_and_is_short() {
        let all = Position {
            round: u64::MAX,
            file: u64::MAX,
            path: u64::MAX,
            at: u64::MAX,
            then: u64::MAX,
            printed: u64::MAX,
            print: u64::MAX,
            time_ns: i64::MIN,
            ..Position::new()
        };
        for position in [all, Position::new()] {
            let bytes = position.encode();
            assert!(bytes.len() < 512, "{} bytes", bytes.len());
            assert_eq!(Position::decode("a", Some(&bytes)).unwrap(), Some(position));
        }
        assert_eq!(Position::decode("a", None).unwrap(), None);
        assert_eq!(Position::decode("a", Some(b"")).unwrap(), None);
    }

    #[test]
    fn a_foreign_position_is_an_error_that_says_what_to_do() {
        let error = Position::decode("logs", Some(b"\x00\x01")).unwrap_err().to_string();
        assert!(error.contains("\"logs\"") && error.contains("another name"), "{error}");
        let error = Position::decode("logs", Some(b"{\"v\":9}")).unwrap_err().to_string();
        assert!(error.contains("version 9"), "{error}");
    }
}
