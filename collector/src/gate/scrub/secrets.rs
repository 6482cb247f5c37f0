//! Tokens that are known by their form.

use super::Kind;
use super::find::{Found, at, before, is_done};

/// Forms of tokens: how they begin, the fewest bytes that must follow, and
/// whether they begin words only.
pub(super) const TOKENS: &[(&str, usize)] = &[
    ("AKIA", 16),
    ("ASIA", 16),
    ("ghp_", 20),
    ("gho_", 20),
    ("ghs_", 20),
    ("ghu_", 20),
    ("github_pat_", 20),
    ("glpat-", 16),
    ("xoxb-", 10),
    ("xoxp-", 10),
    ("xoxa-", 10),
    ("xoxs-", 10),
    ("AIza", 30),
    ("eyJ", 17),
    ("sk_live_", 16),
    ("sk_test_", 16),
    ("sk-", 20),
    ("npm_", 30),
    ("SG.", 40),
    ("-----BEGIN ", 5),
    ("Bearer ", 8),
    ("bearer ", 8),
    ("Basic ", 8),
    ("assword is ", 1),
    ("assword to ", 1),
    ("assword ", 6),
];

/// How far a token is read to decide on it, in bytes.
const LOOK: usize = 512;

/// Whether a token of form `form` stands at `start`.
pub(super) fn token(b: &[u8], start: usize, form: usize) -> Option<Found> {
    let (prefix, least) = *TOKENS.get(form)?;
    let after = start + prefix.len();
    let part =
        |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.' | b'+' | b'/' | b'=' | b'~');
    // what the first of it tells decides; then all of it goes
    let len = b.get(after..)?.iter().take(LOOK).take_while(|c| part(**c)).count();
    let whole = |from: usize| b.get(from..).map_or(0, |r| r.iter().take_while(|c| part(**c)).count());
    let found = |start, end| Some(Found { start, end, kind: Kind::Secret });
    match prefix {
        "-----BEGIN " => {
            let rest = b.get(after..)?;
            // certificates and public keys are no secrets
            let line = rest.iter().position(|c| *c == b'-').unwrap_or(rest.len());
            memchr::memmem::find(rest.get(..line)?, b"PRIVATE KEY")?;
            let end = memchr::memmem::find(rest, b"-----END ").map_or(b.len(), |e| {
                let tail = after + e + 9;
                b.get(tail..)
                    .and_then(|t| memchr::memmem::find(t, b"-----"))
                    .map_or(b.len(), |d| tail + d + 5)
            });
            found(start, end)
        }
        "Bearer " | "bearer " | "Basic " => {
            let token = b.get(after..after + len)?;
            let word = token.iter().all(u8::is_ascii_lowercase);
            (len >= least && !word && !before(b, start).is_ascii_alphanumeric()).then_some(())?;
            found(after, after + whole(after))
        }
        "assword is " | "assword to " | "assword " => {
            let after = after + usize::from(matches!(at(b, after), b'"' | b'\''));
            let len = b
                .get(after..)?
                .iter()
                .take_while(|c| !c.is_ascii_whitespace() && !b"\"';,<".contains(c))
                .count();
            let word = b.get(after..after + len)?;
            // prose goes on in letters; a password in prose is told by its digits or signs
            let mixed = word.iter().any(u8::is_ascii_digit) && word.iter().any(u8::is_ascii_alphabetic);
            (len >= least.max(4) && mixed).then_some(())?;
            found(after, after + len)
        }
        _ => {
            let alone = !before(b, start).is_ascii_alphanumeric() && before(b, start) != b'_';
            let body = b.get(after..after + len)?;
            let mixed = body.iter().any(u8::is_ascii_digit) && body.iter().any(u8::is_ascii_alphabetic);
            (alone && len >= least && mixed).then_some(())?;
            if prefix == "eyJ" && !body.contains(&b'.') {
                return None;
            }
            found(start, after + whole(after))
        }
    }
}

/// The password in `scheme://user:password@host`.
pub(super) fn in_urls(b: &[u8], out: &mut Vec<Found>) {
    for at_ in memchr::memmem::find_iter(b, b"://") {
        let start = at_ + 3;
        let Some(rest) = b.get(start..) else { continue };
        let end = rest
            .iter()
            .position(|c| c.is_ascii_whitespace() || b"/\"'<>?#".contains(c))
            .unwrap_or(rest.len());
        let Some(authority) = rest.get(..end) else { continue };
        let Some(host) = authority.iter().rposition(|c| *c == b'@') else { continue };
        let Some(colon) = authority.iter().position(|c| *c == b':').filter(|c| *c < host) else { continue };
        if host > colon + 1 && !authority.get(colon + 1..).is_some_and(is_done) {
            out.push(Found { start: start + colon + 1, end: start + host, kind: Kind::Secret });
        }
    }
}
