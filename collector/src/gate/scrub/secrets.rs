//! Values that a key in front names, and tokens that are known by their form.

use super::Kind;
use super::find::{Found, at, before, is_done};

/// Longest key looked at, in bytes.
const KEY_MAX: usize = 40;

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
    ("-----BEGIN ", 5),
    ("Bearer ", 8),
    ("bearer ", 8),
    ("Basic ", 8),
    ("assword is ", 1),
    ("assword ", 6),
];

/// Whether a token of form `form` stands at `start`.
pub(super) fn token(b: &[u8], start: usize, form: usize) -> Option<Found> {
    let (prefix, least) = *TOKENS.get(form)?;
    let after = start + prefix.len();
    let part =
        |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.' | b'+' | b'/' | b'=' | b'~');
    let len = b.get(after..)?.iter().take_while(|c| part(**c)).count();
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
            found(after, after + len)
        }
        "assword is " | "assword " => {
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
            found(start, after + len)
        }
    }
}

/// What a key says of the value behind it.
fn kind_of(key: &[u8]) -> Option<Kind> {
    let mut lower = [0_u8; KEY_MAX];
    let mut n = 0;
    for c in key.iter().filter(|c| !matches!(c, b'_' | b'-' | b'.')) {
        *lower.get_mut(n)? = c.to_ascii_lowercase();
        n += 1;
    }
    let key = lower.get(..n)?;
    let ends = |list: &[&str]| list.iter().any(|e| key.ends_with(e.as_bytes()));
    let is = |list: &[&str]| list.iter().any(|e| key == e.as_bytes());
    const ENDS: &[&str] = &[
        "password",
        "passwd",
        "passphrase",
        "passwort",
        "kennwort",
        "pwd",
        "secret",
        "token",
        "apikey",
        "accesskey",
        "accountkey",
        "privatekey",
        "secretkey",
        "encryptionkey",
        "credential",
        "credentials",
        "authorization",
        "cookie",
        "sessionid",
        "sessionkey",
        "signingkey",
        "clientsecret",
        "subscriptionkey",
    ];
    if is(&["pass", "sig", "pw", "sas"]) || (ends(ENDS) && !ends(&["publickeytoken", "cancellationtoken"])) {
        return Some(Kind::Secret);
    }
    if is(&[
        "user",
        "username",
        "userid",
        "uid",
        "login",
        "loginname",
        "loginid",
        "logon",
        "logonname",
        "account",
    ]) || is(&[
        "accountname",
        "samaccountname",
        "upn",
        "subjectusername",
        "targetusername",
        "loggedonuser",
        "owner",
    ]) {
        return Some(Kind::User);
    }
    if is(&["lat", "latitude", "lon", "lng", "long", "longitude"]) {
        return Some(Kind::Gps);
    }
    if is(&["phone", "phonenumber", "tel", "telephone", "mobile", "cell", "fax"]) {
        return Some(Kind::Phone);
    }
    if is(&["host", "hostname", "computer", "computername", "machine", "machinename", "workstation"]) {
        return Some(Kind::Host);
    }
    None
}

/// `key=value`, `key: value`, `"key":"value"`, `key = 'value'`.
pub(super) fn key_values(b: &[u8], wanted: u16, out: &mut Vec<Found>) {
    for sep in memchr::memchr2_iter(b'=', b':', b) {
        // back over spaces and quotes to the key
        let mut end = sep;
        while end > 0 && sep - end < 4 && matches!(before(b, end), b' ' | b'"' | b'\'' | b'\\') {
            end -= 1;
        }
        let key_char = |c: &&u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
        let len = b.get(..end).map_or(0, |l| l.iter().rev().take(KEY_MAX + 1).take_while(key_char).count());
        if !(2..=KEY_MAX).contains(&len) {
            continue;
        }
        let start = end - len;
        let mut kind = b.get(start..end).and_then(kind_of);
        // "User Id=", "User Name:"
        if kind.is_none()
            && len <= 4
            && start >= 5
            && b.get(start - 5..start).is_some_and(|w| w.eq_ignore_ascii_case(b"user "))
            && b.get(start..end)
                .is_some_and(|w| w.eq_ignore_ascii_case(b"id") || w.eq_ignore_ascii_case(b"name"))
        {
            kind = Some(Kind::User);
        }
        let Some(kind) = kind.filter(|k| wanted & k.bit() != 0) else { continue };
        if let Some(found) = value(b, sep, kind) {
            out.push(found);
        }
    }
}

fn value(b: &[u8], sep: usize, kind: Kind) -> Option<Found> {
    let mut start = sep + 1;
    // a second sign belongs to a comparison or a path: "==", "::", "://"
    if matches!(at(b, start), b'=' | b':') || b.get(start..).is_some_and(|r| r.starts_with(b"//")) {
        return None;
    }
    while start - sep < 4 && at(b, start) == b' ' {
        start += 1;
    }
    let mut quote = 0;
    if at(b, start) == b'\\' && matches!(at(b, start + 1), b'"' | b'\'') {
        start += 1;
    }
    if matches!(at(b, start), b'"' | b'\'') {
        quote = at(b, start);
        start += 1;
    }
    let rest = b.get(start..)?;
    if is_done(rest) {
        return None;
    }
    // a secret may hold brackets; cutting it short would leave a part of it
    let ends: &[u8] = if kind == Kind::Secret { b"\"';,&}]" } else { b"\"';,&<>)}]|" };
    let unquoted = |c: &u8| c.is_ascii_whitespace() || ends.contains(c);
    let mut len = if quote == 0 {
        rest.iter().position(unquoted).unwrap_or(rest.len())
    } else {
        let end = rest.iter().position(|c| *c == quote).unwrap_or(rest.len());
        if end > 0 && rest.get(end - 1) == Some(&b'\\') { end - 1 } else { end }
    };
    let first = rest.get(..len)?;
    // "Authorization: Bearer abc": the scheme stays, what follows goes
    let schemes = [&b"bearer"[..], b"basic", b"digest", b"negotiate", b"sharedkey", b"sharedaccesssignature"];
    if kind == Kind::Secret
        && let Some(scheme) = schemes.iter().find(|s| {
            first.get(..s.len()).is_some_and(|f| f.eq_ignore_ascii_case(s))
                && rest.get(s.len()) == Some(&b' ')
        })
    {
        start += scheme.len() + 1;
        let rest = b.get(start..)?;
        len = rest.iter().position(|c| c.is_ascii_whitespace() || b"\"'".contains(c)).unwrap_or(rest.len());
    }
    let text = b.get(start..start + len)?;
    let plain = text.trim_ascii();
    if plain.is_empty() || plain.iter().all(|c| matches!(c, b'*' | b'-' | b'.')) || is_done(plain) {
        return None;
    }
    const NOTHING: &[&str] = &[
        "null",
        "none",
        "nil",
        "true",
        "false",
        "n/a",
        "undefined",
        "unknown",
        "not",
        "is",
        "was",
        "must",
        "required",
        "invalid",
        "incorrect",
        "expired",
        "missing",
        "wrong",
        "failed",
        "changed",
        "ok",
        "empty",
        "set",
        "the",
        "a",
        "yes",
        "no",
        "system",
        "root",
        "default",
        "localhost",
        "error",
    ];
    let digits = plain.iter().filter(|c| c.is_ascii_digit()).count();
    let word = NOTHING.iter().any(|w| plain.eq_ignore_ascii_case(w.as_bytes()));
    let fits = match kind {
        Kind::Secret => !word || quote != 0 && !plain.eq_ignore_ascii_case(b"null"),
        // numbers are ids; a path is looked at as a path
        Kind::User => !word && digits < plain.len() && plain.len() <= 64 && !plain.contains(&b'/'),
        Kind::Host => !word && plain.iter().any(u8::is_ascii_alphabetic),
        Kind::Phone => {
            (7..=15).contains(&digits) && plain.iter().all(|c| c.is_ascii_digit() || b"+-. ()".contains(c))
        }
        Kind::Gps => {
            let number: Option<f64> = std::str::from_utf8(plain).ok().and_then(|t| t.parse().ok());
            let places = plain.iter().rev().position(|c| *c == b'.').unwrap_or(0);
            number.is_some_and(|n| n.abs() <= 180.0) && places >= 3
        }
        _ => false,
    };
    fits.then_some(Found { start, end: start + len, kind })
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
