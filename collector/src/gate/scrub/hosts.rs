//! Host names: those configured, names in private domains, names that Windows
//! makes up, and servers of shared folders.

use aho_corasick::AhoCorasick;

use super::Kind;
use super::find::{Found, at, before};

fn label(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_')
}

/// The names that the operator listed.
pub(super) fn configured(names: &AhoCorasick, b: &[u8], out: &mut Vec<Found>) {
    for m in names.find_iter(b) {
        if !label(before(b, m.start())) && !label(at(b, m.end())) {
            out.push(Found { start: m.start(), end: m.end(), kind: Kind::Host });
        }
    }
}

/// Names below domains that only private networks have.
pub(super) fn private(b: &[u8], out: &mut Vec<Found>) {
    const PRIVATE: [&[u8]; 8] =
        [b"local", b"lan", b"corp", b"internal", b"intranet", b"home.arpa", b"home", b"localdomain"];
    for dot in memchr::memchr_iter(b'.', b) {
        if !matches!(at(b, dot + 1) | 0x20, b'l' | b'c' | b'i' | b'h') {
            continue;
        }
        let tail = b.get(dot + 1..).unwrap_or_default();
        let fits = |d: &&&[u8]| {
            let end = dot + 1 + d.len();
            tail.get(..d.len()).is_some_and(|t| t.eq_ignore_ascii_case(d))
                && !label(at(b, end))
                && !(at(b, end) == b'.' && label(at(b, end + 1)))
        };
        let Some(domain) = PRIVATE.iter().find(fits) else { continue };
        let name = |c: &&u8| label(**c) || **c == b'.';
        let len = b.get(..dot).map_or(0, |l| l.iter().rev().take(200).take_while(name).count());
        let start = dot - len;
        // a file in a folder is no host; a server of a share is
        let folder = matches!(before(b, start), b'\\' | b'/');
        let server = b.get(..start).is_some_and(|l| l.ends_with(b"//") || l.ends_with(b"\\\\"));
        if len > 0 && (!folder || server) {
            out.push(Found { start, end: dot + 1 + domain.len(), kind: Kind::Host });
        }
    }
}

/// `DESKTOP-4QF1A2B` and the like.
pub(super) fn windows_names(b: &[u8], out: &mut Vec<Found>) {
    const MADE: [(&[u8], usize); 3] = [(b"DESKTOP", 7), (b"LAPTOP", 8), (b"WIN", 11)];
    for dash in memchr::memchr_iter(b'-', b) {
        let Some((prefix, len)) = MADE.iter().find(|(p, _)| b.get(..dash).is_some_and(|l| ends_with(l, p)))
        else {
            continue;
        };
        let (start, end) = (dash - prefix.len(), dash + 1 + len);
        let made = |t: &[u8]| t.iter().all(u8::is_ascii_alphanumeric);
        if !label(before(b, start)) && !label(at(b, end)) && b.get(dash + 1..end).is_some_and(made) {
            out.push(Found { start, end, kind: Kind::Host });
        }
    }
}

/// Whether a text ends with `tail`, without regard to case.
fn ends_with(text: &[u8], tail: &[u8]) -> bool {
    text.len()
        .checked_sub(tail.len())
        .and_then(|n| text.get(n..))
        .is_some_and(|t| t.eq_ignore_ascii_case(tail))
}

/// The server of `\\server\share`.
pub(super) fn shares(b: &[u8], out: &mut Vec<Found>) {
    for two in memchr::memmem::find_iter(b, b"\\\\") {
        // in JSON a backslash is written twice: "C:\\x" is no share
        let prev = before(b, two);
        if !matches!(prev, 0 | b' ' | b'"' | b'\'' | b'=' | b'(' | b',' | b';' | b'<' | b'>' | b'\n' | b'|') {
            continue;
        }
        let mut start = two + 2;
        while at(b, start) == b'\\' && start < two + 4 {
            start += 1;
        }
        let rest = b.get(start..).unwrap_or_default();
        let len = rest.iter().take(253).take_while(|c| label(**c) || **c == b'.').count();
        let name = rest.get(..len).unwrap_or_default();
        // "\\.\pipe", "\\?\C:", "\\localhost"
        let nobody = name.iter().all(|c| *c == b'.') || name.eq_ignore_ascii_case(b"localhost");
        if at(rest, len) == b'\\' && !nobody && name.iter().any(u8::is_ascii_alphabetic) {
            out.push(Found { start, end: start + len, kind: Kind::Host });
        }
    }
}
