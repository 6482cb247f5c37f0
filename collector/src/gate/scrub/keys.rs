//! Values that a key in front names: `key=value`, `"key": "value"`,
//! `<key>value</key>`, `--key value`.

use super::Kind;
use super::find::{Found, at, before, is_done};
use super::users::NOBODY;

/// Longest key looked at, in bytes.
const KEY_MAX: usize = 40;
/// Longest value looked at that is no secret, in bytes.
const VALUE_MAX: usize = 256;

/// What a key says of the value behind it.
fn kind_of(key: &[u8]) -> Option<Kind> {
    let mut lower = [0_u8; KEY_MAX];
    let mut n = 0;
    for c in key.iter().filter(|c| !matches!(c, b'_' | b'-' | b'.')) {
        *lower.get_mut(n)? = c.to_ascii_lowercase();
        n += 1;
    }
    let key = lower.get(..n)?;
    match key {
        b"pass" | b"sig" | b"pw" | b"sas" | b"auth" | b"sharedkey" => return Some(Kind::Secret),
        b"user" | b"username" | b"userid" | b"uid" | b"login" | b"loginname" | b"loginid" | b"logon"
        | b"logonname" | b"account" | b"accountname" | b"samaccountname" | b"upn" | b"subjectusername"
        | b"targetusername" | b"loggedonuser" | b"owner" => return Some(Kind::User),
        b"lat" | b"latitude" | b"lon" | b"lng" | b"long" | b"longitude" => return Some(Kind::Gps),
        b"phone" | b"phonenumber" | b"tel" | b"telephone" | b"mobile" | b"cell" | b"fax" | b"msisdn"
        | b"smsto" => {
            return Some(Kind::Phone);
        }
        b"host" | b"hostname" | b"computer" | b"computername" | b"machine" | b"machinename"
        | b"workstation" | b"workstationname" => return Some(Kind::Host),
        b"mac" | b"macaddress" | b"macaddr" | b"physicaladdress" | b"hwaddr" | b"hwaddress" | b"ether"
        | b"bssid" => {
            return Some(Kind::Mac);
        }
        _ => {}
    }
    // "x-ms-client-principal-name", "mobilePhone"
    if key.ends_with(b"username") || key.ends_with(b"principalname") || key.ends_with(b"loggedonuser") {
        return Some(Kind::User);
    }
    if key.ends_with(b"phone") || key.ends_with(b"phonenumber") {
        return Some(Kind::Phone);
    }
    let &[.., a, b, c] = key else { return None };
    const SECRETS: &[&[u8]] = &[
        b"password",
        b"passwd",
        b"passphrase",
        b"passwort",
        b"kennwort",
        b"pwd",
        b"secret",
        b"token",
        b"apikey",
        b"accesskey",
        b"accountkey",
        b"privatekey",
        b"secretkey",
        b"encryptionkey",
        b"credential",
        b"credentials",
        b"authorization",
        b"cookie",
        b"sessionid",
        b"sessionkey",
        b"signingkey",
        b"subscriptionkey",
        b"functionskey",
        b"masterkey",
        b"sharedkey",
    ];
    // most keys end otherwise
    let likely = matches!(
        &[a, b, c],
        b"ord"
            | b"swd"
            | b"ase"
            | b"ort"
            | b"pwd"
            | b"ret"
            | b"ken"
            | b"key"
            | b"ial"
            | b"als"
            | b"ion"
            | b"kie"
            | b"nid"
    );
    let secret = likely && SECRETS.iter().any(|e| key.ends_with(e));
    let not = key.ends_with(b"publickeytoken") || key.ends_with(b"cancellationtoken");
    (secret && !not).then_some(Kind::Secret)
}

/// The key that ends at `end`: a run of letters, digits, dashes, dots and underscores.
fn key_before(b: &[u8], end: usize) -> &[u8] {
    let part = |c: &&u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
    let len = b.get(..end).map_or(0, |l| l.iter().rev().take(KEY_MAX + 1).take_while(part).count());
    if len <= KEY_MAX { b.get(end - len..end).unwrap_or_default() } else { &[] }
}

/// `key=value`, `key: value`, `"key":"value"`, `key = 'value'`.
pub(super) fn key_values(b: &[u8], wanted: u16, out: &mut Vec<Found>) {
    let mut secret_end = 0;
    for sep in memchr::memchr2_iter(b'=', b':', b) {
        if sep < secret_end {
            continue;
        }
        // back over spaces and quotes to the key
        let mut end = sep;
        while end > 0 && sep - end < 4 && matches!(before(b, end), b' ' | b'"' | b'\'' | b'\\') {
            end -= 1;
        }
        let key = key_before(b, end);
        if key.len() < 2 {
            continue;
        }
        let start = end - key.len();
        let mut kind = kind_of(key);
        if kind.is_none() {
            kind = match key {
                // "User Id=", "User Name:", "Workstation Name:"
                k if k.len() <= 4 && k.len() < start => two_words(b, start, k),
                // <add key="ClientSecret" value="…"/>
                k if k.eq_ignore_ascii_case(b"value") => kind_of(attribute_before(b, start)),
                _ => None,
            };
        }
        let Some(kind) = kind.filter(|k| wanted & k.bit() != 0) else { continue };
        // the shell's working directory
        if kind == Kind::Secret && key.ends_with(b"PWD") && matches!(at(b, sep + 1), b'/' | b'~') {
            continue;
        }
        // a storage account is no person
        if key.eq_ignore_ascii_case(b"accountname")
            && let Some(rest) = b.get(sep..)
            && rest
                .iter()
                .position(|c| *c == b';')
                .and_then(|n| rest.get(n..n + 12))
                .is_some_and(|r| r == b";AccountKey=")
        {
            continue;
        }
        if let Some(found) = value(b, sep, kind) {
            if kind == Kind::Secret {
                secret_end = found.end;
            }
            out.push(found);
        }
    }
}

fn two_words(b: &[u8], start: usize, second: &[u8]) -> Option<Kind> {
    let first = match before(b, start) {
        b' ' => key_before(b, start - 1),
        _ => return None,
    };
    let is = |w: &[u8], list: &[&str]| list.iter().any(|l| w.eq_ignore_ascii_case(l.as_bytes()));
    match (is(second, &["id"]), is(second, &["name"])) {
        (true, _) if is(first, &["user", "login"]) => Some(Kind::User),
        (_, true) if is(first, &["user", "login", "logon", "account"]) => Some(Kind::User),
        (_, true) if is(first, &["workstation", "computer", "machine", "host"]) => Some(Kind::Host),
        _ if second.eq_ignore_ascii_case(b"key") && is(first, &["api", "access", "secret", "private"]) => {
            Some(Kind::Secret)
        }
        _ => None,
    }
}

/// `name` of an attribute `key="name" ` or `name='name' ` that ends at `end`.
fn attribute_before(b: &[u8], end: usize) -> &[u8] {
    let Some(quote) =
        end.checked_sub(2).filter(|q| at(b, end - 1) == b' ' && matches!(at(b, *q), b'"' | b'\''))
    else {
        return &[];
    };
    let name = key_before(b, quote);
    let front = b.get(..quote - name.len()).unwrap_or_default();
    let named =
        [&b"key=\""[..], b"name=\"", b"key='", b"name='", b"Name=\""].iter().any(|k| front.ends_with(k));
    if named { name } else { &[] }
}

/// `<password>value</password>` and `<Data Name="SubjectUserName">value</Data>`.
pub(super) fn elements(b: &[u8], wanted: u16, out: &mut Vec<Found>) {
    for close in memchr::memchr_iter(b'>', b) {
        let quoted = matches!(before(b, close), b'"' | b'\'');
        let name = key_before(b, close - usize::from(quoted));
        let front = b.get(..close - usize::from(quoted) - name.len()).unwrap_or_default();
        let tag = !quoted && front.last() == Some(&b'<');
        if !(tag || quoted && matches!(front, [.., b'=', b'"' | b'\''])) {
            continue;
        }
        let Some(kind) = kind_of(name).filter(|k| wanted & k.bit() != 0) else { continue };
        let rest = b.get(close + 1..).unwrap_or_default();
        let len = rest.iter().take(4096).position(|c| *c == b'<').unwrap_or(0);
        if rest.get(len + 1) == Some(&b'/') && rest.get(..len).is_some_and(|v| fits(v, kind, false)) {
            out.push(Found { start: close + 1, end: close + 1 + len, kind });
        }
    }
}

/// `--password value`, `-Password value`, and `-U name -P value` of database tools.
pub(super) fn flags(b: &[u8], out: &mut Vec<Found>) {
    let first = |b: &[u8], what: &[u8]| memchr::memmem::find(b, what).unwrap_or(usize::MAX);
    let (mut sql, mut login) = (None, None);
    for dash in memchr::memchr_iter(b'-', b) {
        if !matches!(before(b, dash), 0 | b' ' | b'-' | b'"') || at(b, dash + 1) == b'-' {
            continue;
        }
        let rest = b.get(dash + 1..).unwrap_or_default();
        let part = |c: &&u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
        let len = rest.iter().take(KEY_MAX + 1).take_while(part).count();
        let key = rest.get(..len).unwrap_or_default();
        if rest.get(len) != Some(&b' ') {
            continue;
        }
        // sqlcmd -U sa -P …, docker login -u ci -p …
        let tool = match key {
            b"P" => *sql.get_or_insert_with(|| first(b, b"-U ")) < dash,
            b"p" => *login.get_or_insert_with(|| first(b, b"login -u ")) < dash,
            _ => false,
        };
        if tool || kind_of(key) == Some(Kind::Secret) {
            let begin = dash + 1 + len;
            // the next flag is no value
            if at(b, begin + 1) != b'-' {
                out.extend(value(b, begin, Kind::Secret));
            }
        }
    }
}

/// The value behind the sign at `sep`.
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
    let mut rest = b.get(start..)?;
    if kind != Kind::Secret {
        rest = rest.get(..VALUE_MAX).unwrap_or(rest);
    }
    if is_done(rest) {
        return None;
    }
    // a secret may hold brackets; cutting it short would leave a part of it
    let ends: &[u8] = match kind {
        Kind::Secret => b"\"';,&}]",
        // (425) 555-0123
        Kind::Phone => b"\"';,&<>}]|",
        // uid=1000(bob)
        Kind::User => b"\"';,&<>()}]|",
        _ => b"\"';,&<>)}]|",
    };
    let spaced = kind == Kind::Phone;
    let unquoted = |c: &u8| c.is_ascii_whitespace() && !(spaced && *c == b' ') || ends.contains(c);
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
    match kind {
        // the organisation's domain says little: CONTOSO\bob
        Kind::User => {
            let slash = b.get(start..start + len)?.iter().rposition(|c| *c == b'\\').map_or(0, |n| n + 1);
            start += slash;
            len -= slash;
            // "user:profile:v2" names no one, "user=bob:" does
            let name = b.get(start..start + len)?;
            if let Some(colon) = name.iter().position(|c| *c == b':').filter(|_| quote == 0) {
                if colon + 1 < len && at(b, sep) == b':' {
                    return None;
                }
                len = colon;
            }
        }
        Kind::Phone => len = super::numbers::phone_len(b.get(start..start + len)?),
        _ => {}
    }
    fits(b.get(start..start + len)?, kind, quote != 0).then_some(Found { start, end: start + len, kind })
}

/// Whether a value can be what its key says.
fn fits(text: &[u8], kind: Kind, quoted: bool) -> bool {
    let plain = text.trim_ascii();
    if plain.is_empty() || plain.iter().all(|c| matches!(c, b'*' | b'-' | b'.')) || is_done(plain) {
        return false;
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
        "running",
        "disabled",
        "enabled",
    ];
    let digits = plain.iter().filter(|c| c.is_ascii_digit()).count();
    let word = plain.len() <= 10 && NOTHING.iter().any(|w| plain.eq_ignore_ascii_case(w.as_bytes()));
    match kind {
        Kind::Secret => !word || quoted && !plain.eq_ignore_ascii_case(b"null"),
        // numbers are ids; a path is looked at as a path
        Kind::User => {
            let nobody = NOBODY.iter().any(|w| plain.eq_ignore_ascii_case(w.as_bytes()));
            !word
                && !nobody
                && digits < plain.len()
                && (2..=64).contains(&plain.len())
                && !plain.iter().any(|c| matches!(c, b'/' | b'='))
        }
        Kind::Host => !word && plain.iter().any(u8::is_ascii_alphabetic),
        Kind::Phone => {
            let sign = |c: &u8| c.is_ascii_digit() || b"+-./ ()xet".contains(c);
            (7..=20).contains(&digits) && plain.iter().all(sign)
        }
        Kind::Gps => {
            let number: Option<f64> = std::str::from_utf8(plain).ok().and_then(|t| t.parse().ok());
            let places = plain.iter().rev().position(|c| *c == b'.').unwrap_or(0);
            number.is_some_and(|n| n.abs() <= 180.0) && places >= 3
        }
        Kind::Mac => {
            let hex = plain.iter().filter(|c| c.is_ascii_hexdigit()).count();
            hex == 12
                && plain.iter().all(|c| c.is_ascii_hexdigit() || matches!(c, b':' | b'-' | b'.'))
                && plain.iter().any(|c| !matches!(c, b'0' | b':' | b'-' | b'.'))
        }
        _ => false,
    }
}
