//! Searches a text for all kinds at once. One pass over the bytes says which
//! recognisers could find anything; most texts need none.

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, MatchKind};

use super::{Kind, numbers, secrets};

/// A finding: a range of bytes and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gate) struct Found {
    pub start: usize,
    pub end: usize,
    pub kind: Kind,
}

/// The byte at a place; 0 beyond the end.
pub(super) fn at(b: &[u8], i: usize) -> u8 {
    b.get(i).copied().unwrap_or(0)
}

/// The byte in front of a place; 0 before the start.
pub(super) fn before(b: &[u8], i: usize) -> u8 {
    i.checked_sub(1).map_or(0, |i| at(b, i))
}

/// The letters in front of a place, over separators such as `": ="`.
pub(super) fn word_before(b: &[u8], i: usize) -> &[u8] {
    let mut end = i;
    while end > 0 && i - end < 4 && matches!(before(b, end), b' ' | b':' | b'=' | b'"' | b'(') {
        end -= 1;
    }
    let len =
        b.get(..end).map_or(0, |l| l.iter().rev().take(12).take_while(|c| c.is_ascii_alphabetic()).count());
    b.get(end - len..end).unwrap_or_default()
}

/// Whether a value is what the scrubber itself put there: `<kind>`, `<kind#…`, `<card-…`.
pub(super) fn is_done(value: &[u8]) -> bool {
    let [b'<', rest @ ..] = value else { return false };
    Kind::ALL.iter().any(|k| {
        rest.strip_prefix(k.as_str().as_bytes()).is_some_and(|r| match (k, r) {
            (Kind::Card, [b'-', ..]) | (_, [b'>', ..]) => true,
            // a pseudonym: key.period#16 hex digits
            (_, [b'#', id @ ..]) => id
                .iter()
                .position(|c| *c == b'#')
                .and_then(|n| id.get(n + 1..n + 18))
                .is_some_and(|h| h.iter().take(16).all(u8::is_ascii_hexdigit) && h.last() == Some(&b'>')),
            _ => false,
        })
    })
}

const DIGIT: u8 = 1;
const AT: u8 = 2;
const SLASH: u8 = 4;
const BACKSLASH: u8 = 8;
const COLON: u8 = 16;
const EQUALS: u8 = 32;
const DASH: u8 = 64;
const PERCENT: u8 = 128;

const CLASS: [u8; 256] = {
    let mut t = [0; 256];
    let mut d = b'0';
    while d <= b'9' {
        t[d as usize] = DIGIT;
        d += 1;
    }
    t[b'@' as usize] = AT;
    t[b'/' as usize] = SLASH;
    t[b'\\' as usize] = BACKSLASH;
    t[b':' as usize] = COLON;
    t[b'=' as usize] = EQUALS;
    t[b'-' as usize] = DASH;
    t[b'%' as usize] = PERCENT;
    t
};

/// Compiled searches, shared by all texts.
#[derive(Debug)]
pub(super) struct Finder {
    tokens: Option<AhoCorasick>,
    hosts: Option<AhoCorasick>,
}

impl Finder {
    pub fn new(hosts: &[String]) -> Finder {
        let mut builder = AhoCorasickBuilder::new();
        builder.match_kind(MatchKind::LeftmostFirst);
        // a fixed list of short texts, and a list that a file of bounded size holds: both compile
        let tokens = builder.build(secrets::TOKENS.iter().map(|t| t.0)).ok();
        let hosts =
            if hosts.is_empty() { None } else { builder.ascii_case_insensitive(true).build(hosts).ok() };
        Finder { tokens, hosts }
    }

    /// Finds everything wanted, in order and without overlaps.
    pub fn find(&self, text: &str, wanted: u16, out: &mut Vec<Found>) {
        let b = text.as_bytes();
        if b.len() < 3 || wanted == 0 {
            return;
        }
        let want = |kinds: &[Kind]| kinds.iter().any(|k| wanted & k.bit() != 0);
        let (mut seen, mut digits) = (0_u8, 0_usize);
        for c in b {
            let class = CLASS.get(usize::from(*c)).copied().unwrap_or(0);
            seen |= class;
            digits += usize::from(class & DIGIT);
        }
        let has = |class: u8| seen & class != 0;
        if has(COLON | EQUALS) && want(&[Kind::Secret, Kind::User, Kind::Host, Kind::Phone, Kind::Gps]) {
            secrets::key_values(b, wanted, out);
        }
        if want(&[Kind::Secret]) {
            if has(AT) && has(SLASH) && has(COLON) {
                secrets::in_urls(b, out);
            }
            if b.len() >= 12
                && let Some(tokens) = &self.tokens
            {
                out.extend(
                    tokens.find_iter(b).filter_map(|m| secrets::token(b, m.start(), m.pattern().as_usize())),
                );
            }
        }
        if has(AT | PERCENT) && want(&[Kind::Email]) {
            emails(b, out);
        }
        if digits >= 4 {
            if want(&[Kind::Card, Kind::Ip, Kind::Phone, Kind::Gps]) {
                numbers::find(b, wanted, digits, out);
            }
            if has(DASH) && want(&[Kind::Sid]) {
                sids(b, out);
            }
        }
        if (has(COLON) || has(DASH)) && want(&[Kind::Mac, Kind::Ip]) && b.len() >= 7 {
            numbers::find_hex(b, wanted, out);
        }
        if has(SLASH | BACKSLASH) && want(&[Kind::User]) {
            homes(b, out);
            if has(BACKSLASH) {
                accounts(b, out);
            }
        }
        if want(&[Kind::Host]) {
            self.hosts(b, out);
        }
        settle(b, out);
    }

    fn hosts(&self, b: &[u8], out: &mut Vec<Found>) {
        let label = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
        if let Some(hosts) = &self.hosts {
            for m in hosts.find_iter(b) {
                if !label(before(b, m.start())) && !label(at(b, m.end())) {
                    out.push(Found { start: m.start(), end: m.end(), kind: Kind::Host });
                }
            }
        }
        const PRIVATE: [&[u8]; 7] =
            [b"local", b"lan", b"corp", b"internal", b"intranet", b"home", b"localdomain"];
        for dot in memchr::memchr_iter(b'.', b) {
            let tail = b.get(dot + 1..).unwrap_or_default();
            let fits =
                PRIVATE.iter().find(|d| tail.get(..d.len()).is_some_and(|t| t.eq_ignore_ascii_case(d)));
            let Some(domain) = fits else { continue };
            let end = dot + 1 + domain.len();
            if label(at(b, end)) || at(b, end) == b'.' && label(at(b, end + 1)) {
                continue;
            }
            let name = |c: &&u8| label(**c) || **c == b'.';
            let len = b.get(..dot).map_or(0, |l| l.iter().rev().take(200).take_while(name).count());
            // a file in a folder is no host
            if len > 0 && !matches!(before(b, dot - len), b'\\' | b'/')
                || b.get(..dot - len).is_some_and(|l| l.ends_with(b"//"))
            {
                out.push(Found { start: dot - len, end, kind: Kind::Host });
            }
        }
    }
}

/// Orders the findings and keeps, of overlapping ones, the earlier kind; what
/// the other covered beyond it is covered still.
fn settle(b: &[u8], out: &mut Vec<Found>) {
    out.retain(|f| f.start < f.end && f.end <= b.len());
    if out.len() < 2 {
        return;
    }
    out.sort_by_key(|f| (f.start, f.end));
    let mut kept: usize = 0;
    for n in 1..out.len() {
        let Some(next) = out.get(n).copied() else { break };
        let Some(last) = out.get_mut(kept) else { break };
        if next.start < last.end {
            last.end = last.end.max(next.end);
            last.kind = last.kind.min(next.kind);
        } else {
            kept += 1;
            if let Some(slot) = out.get_mut(kept) {
                *slot = next;
            }
        }
    }
    out.truncate(kept + 1);
}

fn emails(b: &[u8], out: &mut Vec<Found>) {
    let local = |c: &&u8| c.is_ascii_alphanumeric() || b"._%+-'".contains(c) || **c >= 0x80;
    let mut one = |sign: usize, width: usize| {
        let len = b.get(..sign).map_or(0, |l| l.iter().rev().take(64).take_while(local).count());
        let mut start = sign - len;
        while start < sign && matches!(at(b, start), b'.' | b'\'' | b'-' | b'%') {
            start += 1;
        }
        let from = sign + width;
        let host = b.get(from..).map_or(&[][..], |r| {
            let n = r
                .iter()
                .take(253)
                .take_while(|c| c.is_ascii_alphanumeric() || b".-".contains(c) || **c >= 0x80)
                .count();
            r.get(..n).unwrap_or_default()
        });
        let mut host = host;
        while let [rest @ .., b'.' | b'-'] = host {
            host = rest;
        }
        let Some(dot) = host.iter().rposition(|c| *c == b'.') else { return };
        let top = host.get(dot + 1..).unwrap_or_default();
        let letters = top.iter().all(|c| c.is_ascii_alphabetic() || *c >= 0x80) || top.starts_with(b"xn--");
        if start < sign && dot > 0 && (2..=24).contains(&top.len()) && letters && !host.starts_with(b".") {
            out.push(Found { start, end: from + host.len(), kind: Kind::Email });
        }
    };
    for sign in memchr::memchr_iter(b'@', b) {
        one(sign, 1);
    }
    for sign in memchr::memmem::find_iter(b, b"%40") {
        one(sign, 3);
    }
}

/// `S-1-5-21-…` (domains and machines) and `S-1-12-1-…` (cloud directories).
fn sids(b: &[u8], out: &mut Vec<Found>) {
    for one in memchr::memmem::find_iter(b, b"-1-") {
        let Some(start) = one.checked_sub(1) else { continue };
        let rest = b.get(one + 3..).unwrap_or_default();
        let personal = rest.starts_with(b"5-21-") || rest.starts_with(b"12-1-");
        if !matches!(at(b, start), b'S' | b's') || before(b, start).is_ascii_alphanumeric() || !personal {
            continue;
        }
        let len = rest.iter().take_while(|c| c.is_ascii_digit() || **c == b'-').count();
        let text = rest.get(..len).unwrap_or_default();
        let trailing = text.iter().rev().take_while(|c| **c == b'-').count();
        out.push(Found { start, end: one + 3 + len - trailing, kind: Kind::Sid });
    }
}

/// The folder below `Users`, `home` or `Documents and Settings`.
fn homes(b: &[u8], out: &mut Vec<Found>) {
    const FOLDERS: [&[u8]; 3] = [b"users", b"home", b"documents and settings"];
    for sep in memchr::memchr2_iter(b'\\', b'/', b) {
        if !matches!(at(b, sep + 1) | 0x20, b'u' | b'h' | b'd') {
            continue;
        }
        let tail = b.get(sep + 1..).unwrap_or_default();
        let Some(folder) =
            FOLDERS.iter().find(|f| tail.get(..f.len()).is_some_and(|t| t.eq_ignore_ascii_case(f)))
        else {
            continue;
        };
        let mut start = sep + 1 + folder.len();
        let slash = at(b, start);
        if !matches!(slash, b'\\' | b'/') {
            continue;
        }
        // "/home/x" begins a path or follows one of a few roots; "/api/users/7" is a web address
        let prev = before(b, sep);
        let windows = slash == b'\\' || prev == b':' || prev == b'\\';
        let root = !(prev.is_ascii_alphanumeric() || matches!(prev, b'-' | b'_' | b'.' | b'/'))
            || b.get(..sep).is_some_and(|l| {
                let l = l.to_ascii_lowercase_tail();
                [
                    &b"file://"[..],
                    b"/var",
                    b"/usr",
                    b"/mnt/c",
                    b"/cygdrive/c",
                    b"/export",
                    b"/data",
                    b"/volumes/macintosh hd",
                    b"/rootfs",
                ]
                .iter()
                .any(|r| l.ends_with(r))
            });
        if !windows && !root {
            continue;
        }
        while matches!(at(b, start), b'\\' | b'/') {
            start += 1;
        }
        let rest = b.get(start..).unwrap_or_default();
        // a Windows user name may hold spaces when the path goes on behind it
        let stop = |c: &u8| b"\\/\"'<>|:*?;,\r\n\t)]}&".contains(c);
        let mut len = rest.iter().position(stop).unwrap_or(rest.len());
        if !matches!(at(rest, len), b'\\' | b'/') || slash == b'/' || len > 64 {
            len = rest.iter().position(|c| stop(c) || *c == b' ').unwrap_or(rest.len());
        }
        let name = rest.get(..len).unwrap_or_default();
        const SHARED: &[&str] =
            &["public", "default", "default user", "all users", "shared", "defaultapppool", "%username%"];
        let shared = SHARED.iter().any(|s| name.eq_ignore_ascii_case(s.as_bytes()));
        if !name.is_empty() && !shared && name != b"." && name != b".." && !is_done(rest) {
            out.push(Found { start, end: start + len, kind: Kind::User });
        }
    }
}

trait Tail {
    fn to_ascii_lowercase_tail(&self) -> Vec<u8>;
}

impl Tail for [u8] {
    /// The last few bytes in lower case.
    fn to_ascii_lowercase_tail(&self) -> Vec<u8> {
        self.get(self.len().saturating_sub(24)..).unwrap_or_default().to_ascii_lowercase()
    }
}

/// `DOMAIN\user`, with one or (in JSON) two backslashes.
fn accounts(b: &[u8], out: &mut Vec<Found>) {
    let part = |c: &&u8| c.is_ascii_alphanumeric() || b"-_.$".contains(c);
    let mut from = 0;
    while let Some(step) = b.get(from..).and_then(|r| memchr::memchr(b'\\', r)) {
        let sep = from + step;
        let slashes = b.get(sep..).map_or(1, |r| r.iter().take_while(|c| **c == b'\\').count());
        let last = from;
        from = sep + slashes;
        let len = b.get(..sep).map_or(0, |l| l.iter().rev().take(17).take_while(part).count());
        // inside of a path; most backslashes are
        if !(2..=15).contains(&len) || slashes > 2 || last > 0 && sep - len == last {
            continue;
        }
        let start = sep - len;
        let domain = b.get(start..sep).unwrap_or_default();
        let user_len = b.get(from..).map_or(0, |r| r.iter().take(66).take_while(part).count());
        let mut user = b.get(from..from + user_len).unwrap_or_default();
        while let [rest @ .., b'.'] = user {
            user = rest;
        }
        if !(1..=64).contains(&user.len()) {
            continue;
        }
        // a longer path on either side, a drive, a web address, a variable
        let (prev, next) = (before(b, start), at(b, from + user_len));
        if matches!(prev, b'\\' | b'/' | b':' | b'%' | b'.' | b'~' | b'}')
            && !(prev == b':'
                && before(b, start - 1).is_ascii_alphabetic()
                && start > 2
                && before(b, start - 2).is_ascii_alphabetic())
            || matches!(next, b'\\' | b'/' | b'*' | b':' | b'%')
        {
            continue;
        }
        const NOT_DOMAINS: &[&str] = &[
            "HKLM",
            "HKCU",
            "HKCR",
            "HKU",
            "HKCC",
            "REGISTRY",
            "SYSTEM32",
            "SYSWOW64",
            "WINDOWS",
            "SYSTEM",
            "SOFTWARE",
            "MACHINE",
            "AUTHORITY",
            "SERVICE",
            "BUILTIN",
            "IIS",
            "APPPOOL",
            "MANAGER",
            "DRIVERS",
            "DEVICE",
            "GLOBAL",
            "BIN",
            "ROOT",
            "PCI",
            "USB",
            "ACPI",
            "HID",
            "SWD",
            "STORAGE",
            "SCSI",
            "HDAUDIO",
            "DISPLAY",
            "SW",
            "UMB",
            "HTREE",
            "IDE",
            "UEFI",
            "BTHENUM",
            "BTH",
            "MONITOR",
            "TERMINPUT",
            "SQLEXPRESS",
            "LOCALDB",
            "TEMP",
            "ETW",
            "WMI",
            "PIPE",
            "RPC",
            "CONTROL",
        ];
        let upper = domain.iter().any(u8::is_ascii_uppercase) && !domain.iter().any(u8::is_ascii_lowercase);
        let word = word_before(b, start).to_ascii_lowercase();
        let named =
            [&b"user"[..], b"username", b"account", b"login", b"logon", b"owner", b"as", b"by", b"principal"]
                .iter()
                .any(|w| word == *w);
        let plain = domain.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-' || *c == b'_');
        let well_known = NOT_DOMAINS.iter().any(|d| domain.eq_ignore_ascii_case(d.as_bytes()));
        const FILES: &[&str] = &[
            "dll", "exe", "sys", "txt", "log", "etl", "xml", "json", "ini", "cpp", "cs", "h", "pdb", "inf",
            "msi", "bat", "ps1", "cmd", "dat", "tmp",
        ];
        let file = user
            .iter()
            .rposition(|c| *c == b'.')
            .and_then(|d| user.get(d + 1..))
            .is_some_and(|e| FILES.iter().any(|f| e.eq_ignore_ascii_case(f.as_bytes())));
        let letters = user.iter().any(u8::is_ascii_alphabetic);
        let constant = user.len() > 3
            && user.iter().all(|c| c.is_ascii_uppercase() || *c == b'_')
            && user.contains(&b'_');
        if (upper || named) && plain && !well_known && !file && letters && !constant {
            // the domain says little, the account is the person
            out.push(Found { start: from, end: from + user.len(), kind: Kind::User });
        }
    }
}
