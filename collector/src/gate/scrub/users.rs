//! User names: in paths, in `DOMAIN\user`, and where log lines name them.

use super::Kind;
use super::find::{Found, at, before, is_done, word_before};

/// Names below `Users` or `home` that are nobody's.
const SHARED: &[&str] =
    &["public", "default", "default user", "all users", "shared", "temp", "defaultapppool", "%username%"];

/// Accounts of the system, and words that stand where a name could.
pub(super) const NOBODY: &[&str] = &[
    "root", "system", "nobody", "unknown", "none", "null", "admin", "mode", "is", "was", "not", "in", "on",
    "the", "name", "account", "with", "has", "and", "or", "id", "data", "session", "input", "from", "by",
    "to", "at", "of",
];

/// Folders in front of `home` or `Users` that make it a home, besides the root.
const ROOTS: [&[u8]; 8] =
    [b"file://", b"/var", b"/usr", b"/export", b"/data", b"/volumes/macintosh hd", b"/rootfs", b"/host"];

/// The folder below `Users`, `home` or `Documents and Settings`.
pub(super) fn homes(b: &[u8], out: &mut Vec<Found>) {
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
        let start = sep + 1 + folder.len();
        let slash = at(b, start);
        if !matches!(slash, b'\\' | b'/') {
            continue;
        }
        // "/home/x" begins a path or follows one of a few roots; "/api/users/7" is a web address
        let prev = before(b, sep);
        let drive = prev == b':' || prev == b'\\' && before(b, sep - 1) == b':';
        let windows = drive || slash == b'\\' && *folder != FOLDERS[1];
        if windows
            || !(prev.is_ascii_alphanumeric() || matches!(prev, b'-' | b'_' | b'.' | b'/'))
            || rooted(b, sep)
        {
            out.extend(name_below(b, start, slash));
        }
    }
}

/// Whether what stands in front of `/home` makes it a home folder.
fn rooted(b: &[u8], sep: usize) -> bool {
    let from = sep.saturating_sub(24);
    let lower = b.get(from..sep).unwrap_or_default().to_ascii_lowercase();
    // a drive as other systems see it: /c, /mnt/c, /cygdrive/c
    let drive = matches!(lower.as_slice(), [.., b'/', d] if d.is_ascii_alphabetic())
        && (lower.len() == 2 && from == 0
            || lower.ends_with(b"/mnt/c")
            || lower.get(..lower.len() - 2).is_some_and(|l| {
                l.ends_with(b"/mnt")
                    || l.ends_with(b"/cygdrive")
                    || l.last().is_some_and(|c| b" \"'=(,:".contains(c))
            }));
    drive || ROOTS.iter().any(|r| lower.ends_with(r))
}

/// The name in a path that begins at the slashes of `start`.
fn name_below(b: &[u8], mut start: usize, slash: u8) -> Option<Found> {
    while matches!(at(b, start), b'\\' | b'/') {
        start += 1;
    }
    let rest = b.get(start..)?;
    // a Windows user name may hold spaces when the path goes on behind it
    let stop = |c: &u8| b"\\/\"'<>|:*?;,\r\n\t)]}&".contains(c);
    let mut len = rest.iter().position(stop).unwrap_or(rest.len());
    if !matches!(at(rest, len), b'\\' | b'/') || slash == b'/' || len > 64 {
        len = rest.iter().position(|c| stop(c) || *c == b' ').unwrap_or(rest.len());
    }
    person(b, start, len)
}

/// A finding, unless the name is nobody's.
fn person(b: &[u8], start: usize, len: usize) -> Option<Found> {
    let name = b.get(start..start + len)?;
    let shared = SHARED.iter().any(|s| name.eq_ignore_ascii_case(s.as_bytes()));
    // a number is an id in a web address
    let word = name.iter().any(|c| !c.is_ascii_digit() && *c != b'.');
    (word && !shared && !is_done(b.get(start..)?)).then_some(Found {
        start,
        end: start + len,
        kind: Kind::User,
    })
}

/// `%2Fhome%2Fbob`, `%5CUsers%5Cbob`.
pub(super) fn encoded_homes(b: &[u8], out: &mut Vec<Found>) {
    for one in memchr::memchr_iter(b'%', b) {
        let Some(tail) = b.get(one..one + 12) else { break };
        if !matches!(tail, [b'%', b'2' | b'5', b'F' | b'f' | b'C' | b'c', ..]) {
            continue;
        }
        let Some(folder) = tail.get(3..) else { break };
        let len = if folder.get(..5).is_some_and(|f| f.eq_ignore_ascii_case(b"users")) {
            5
        } else if folder.get(..4).is_some_and(|f| f.eq_ignore_ascii_case(b"home")) {
            4
        } else {
            continue;
        };
        if folder.get(len) != Some(&b'%') {
            continue;
        }
        let start = one + 3 + len + 3;
        let rest = b.get(start..).unwrap_or_default();
        let part = |c: &&u8| c.is_ascii_alphanumeric() || b"-_.+".contains(c);
        out.extend(person(b, start, rest.iter().take(64).take_while(part).count()));
    }
}

/// `~bob/`
pub(super) fn tildes(b: &[u8], out: &mut Vec<Found>) {
    for one in memchr::memchr_iter(b'~', b) {
        let rest = b.get(one + 1..).unwrap_or_default();
        let len =
            rest.iter().take(64).take_while(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c)).count();
        // "PROGRA~1" and "file~" are others
        if at(rest, len) == b'/'
            && matches!(before(b, one), 0 | b' ' | b'/' | b'"' | b'\'' | b'=' | b':')
            && len > 1
        {
            out.extend(person(b, one + 1, len));
        }
    }
}

/// Words of log lines that a user's name follows. The first that fits counts.
pub(super) const CUES: &[&str] = &[
    "invalid user ",
    "ublickey for ",
    "assword for ",
    "for user ",
    "of user ",
    "ser '",
    "ser \"",
    "ser \\\"",
    "role \"",
    "sudo: ",
    "uid=",
    "(to root) ",
    "]: (",
    "chown ",
    "crontab -u ",
    "sudo -u ",
    "login -u ",
];

/// The name behind a cue.
pub(super) fn after_cue(b: &[u8], start: usize, cue: usize) -> Option<Found> {
    let cue = *CUES.get(cue)?;
    let mut from = start + cue.len();
    for filler in [&b"invalid user "[..], b"user "] {
        if b.get(from..).is_some_and(|r| r.starts_with(filler)) {
            from += filler.len();
        }
    }
    let quoted = cue.ends_with(['\'', '"']);
    if cue == "uid=" {
        // uid=1000(bob)
        from += b.get(from..)?.iter().take_while(|c| c.is_ascii_digit()).count();
        if at(b, from) != b'(' {
            return None;
        }
        from += 1;
    } else if quoted && cue.starts_with('s') && !matches!(before(b, start), b'u' | b'U') {
        return None;
    } else if !quoted && matches!(at(b, from), b'\'' | b'"') {
        from += 1;
    }
    let part = |c: &&u8| c.is_ascii_alphanumeric() || b"-_.$".contains(c) || **c >= 0x80;
    let rest = b.get(from..)?;
    let mut name = rest.get(..rest.iter().take(64).take_while(part).count())?;
    while let [head @ .., b'.' | b'-'] = name {
        name = head;
    }
    let behind = rest.get(name.len()..)?;
    let ends = match cue {
        "sudo: " => behind.starts_with(b" : "),
        "uid=" => behind.starts_with(b")"),
        "]: (" => behind.starts_with(b") CMD"),
        "chown " => matches!(behind.first(), Some(b':' | b'.' | b' ')),
        "crontab -u " | "sudo -u " | "login -u " => matches!(behind.first(), None | Some(b' ')),
        _ if quoted => matches!(behind.first(), Some(b'\'' | b'"' | b'\\')),
        // "for user mode only" goes on in prose; a name is followed by little
        _ => {
            matches!(behind, [] | [b'.' | b',' | b';' | b')' | b'\'' | b'"' | b'\n', ..])
                || matches!(behind, [b':', b' ', ..])
                || [&b" from "[..], b" by ", b" on ", b" at ", b" (", b" | ", b" ["]
                    .iter()
                    .any(|e| behind.starts_with(e))
        }
    };
    let nobody = NOBODY.iter().any(|w| name.eq_ignore_ascii_case(w.as_bytes()));
    if !ends || nobody || name.len() < 2 || !name.iter().any(u8::is_ascii_alphabetic) {
        return None;
    }
    person(b, from, name.len())
}

/// `DOMAIN\user`, with one or (in JSON) two backslashes.
pub(super) fn accounts(b: &[u8], out: &mut Vec<Found>) {
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
            "SQL",
            "MSSQL",
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
