//! Findings made of digits: cards, addresses, phone numbers, places; and what
//! remains of a value that is generalised.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::find::{Found, at, before, word_before};
use super::{Kind, places};

/// Addresses that name no one: unspecified, loopback, broadcast, multicast.
pub(super) fn is_personal_ip(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => !(a.is_unspecified() || a.is_loopback() || a.is_broadcast() || a.is_multicast()),
        IpAddr::V6(a) => !(a.is_unspecified() || a.is_loopback() || a.is_multicast()),
    }
}

/// Writes the general form; `false` when the kind or value has none.
pub(super) fn generalise(out: &mut String, kind: Kind, value: &str) -> bool {
    match kind {
        Kind::Ip => match value.split('%').next().unwrap_or(value).parse() {
            Ok(IpAddr::V4(a)) => {
                let [a, b, c, _] = a.octets();
                write!(out, "{a}.{b}.{c}.0/24").is_ok()
            }
            Ok(IpAddr::V6(a)) => {
                let [a, b, c, ..] = a.segments();
                write!(out, "{}/48", Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)).is_ok()
            }
            Err(_) => false,
        },
        Kind::Mac => {
            let hex: String = value.chars().filter(char::is_ascii_hexdigit).take(6).collect();
            match (hex.get(..2), hex.get(2..4), hex.get(4..6)) {
                (Some(a), Some(b), Some(c)) => write!(out, "{a}:{b}:{c}:*").is_ok(),
                _ => false,
            }
        }
        Kind::Email => match value.rsplit_once('@') {
            Some((_, host)) => write!(out, "*@{host}").is_ok(),
            None => false,
        },
        Kind::Card => {
            let digits: Vec<char> = value.chars().filter(char::is_ascii_digit).collect();
            let last: String = digits.iter().rev().take(4).rev().collect();
            digits.len() >= 12 && write!(out, "<card-{last}>").is_ok()
        }
        Kind::Gps => {
            let parts: Option<Vec<f64>> = value
                .split([',', ';', ' ', '/'])
                .filter(|p| !p.is_empty())
                .map(|p| p.parse().ok().filter(|n: &f64| n.is_finite()))
                .collect();
            match parts.as_deref() {
                Some([one]) => write!(out, "{one:.1}").is_ok(),
                Some([lat, lon]) => write!(out, "{lat:.1}, {lon:.1}").is_ok(),
                _ => false,
            }
        }
        _ => false,
    }
}

/// Bytes looked at together for digits.
const BLOCK: usize = 64;

/// Which of 64 bytes are digits, and which are letters other than `B`, as bits: eight bytes at a
/// time, without a branch.
fn digits_and_letters(block: &[u8; BLOCK]) -> (u64, u64) {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    const TOP: u64 = 0x8080_8080_8080_8080;
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    // the eight top bits side by side
    let side = |tops: u64| (tops >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    let (mut digits, mut letters) = (0, 0);
    for (n, eight) in block.chunks_exact(8).enumerate() {
        let word = u64::from_le_bytes(eight.first_chunk().copied().unwrap_or_default());
        // a digit becomes 0 to 9; adding 0x76 then leaves the top bit clear, and nothing else does
        let x = word ^ each(b'0');
        let digit = !(((x & LOW) + each(0x76)) | x) & TOP;
        // in lower case: the top bit is set from 'a' on by the one sum, behind 'z' by the other
        let y = (word | each(0x20)) & LOW;
        let letter = (y + each(0x80 - b'a')) & !(y + each(0x80 - b'z' - 1)) & !word & TOP;
        let z = word ^ each(b'B');
        let not_b = (((z & LOW) + LOW) | z) & TOP;
        digits |= side(digit) << (n * 8);
        letters |= side(letter & not_b) << (n * 8);
    }
    (digits, letters)
}

/// What [`joined`] says of each byte.
const JOINED: [bool; 256] = {
    let mut t = [false; 256];
    let mut c = 0;
    while c < 256 {
        t[c] = joined(c as u8);
        c += 1;
    }
    t
};

/// Looks at every run of digits once.
pub(super) fn find(b: &[u8], wanted: u16, digits: usize, out: &mut Vec<Found>) {
    // what is before it has been looked at
    let mut done = 0;
    let mut carry = 0;
    for (n, bytes) in b.chunks(BLOCK).enumerate() {
        let mut block = [0; BLOCK];
        let (bits, letters) = match bytes.first_chunk() {
            Some(whole) => digits_and_letters(whole),
            None => {
                if let Some(to) = block.get_mut(..bytes.len()) {
                    to.copy_from_slice(bytes);
                }
                digits_and_letters(&block)
            }
        };
        // most digits stand in a word or a hexadecimal number
        let inside = bits | letters;
        let mut starts = bits & !(inside << 1 | carry);
        carry = inside >> 63;
        while starts != 0 {
            let bit = starts.trailing_zeros() as usize;
            starts &= starts - 1;
            let start = n * BLOCK + bit;
            let prev = before(b, start);
            if start < done || JOINED[usize::from(prev)] && !matches!(prev, b'#' | b'B') {
                continue;
            }
            let mut run = (!(bits >> bit)).trailing_zeros() as usize;
            if bit + run >= BLOCK {
                run = b.get(start..).map_or(0, |r| r.iter().take_while(|c| c.is_ascii_digit()).count());
            }
            done = one(b, start, run, wanted, digits, out);
        }
    }
}

/// Looks at one run of digits; returns where to go on.
fn one(b: &[u8], start: usize, run: usize, wanted: u16, digits: usize, out: &mut Vec<Found>) -> usize {
    let i = start + run.max(1);
    // within a word or a hexadecimal number; a card's stripe reads B4111…^
    let stripe = on_stripe(b, start) && at(b, i) == b'^';
    if joined(before(b, start)) && before(b, start) != b'#' && !stripe {
        return i;
    }
    // a plain number: nothing joins it to others
    let next = at(b, i);
    let row = matches!(next, b' ' | b'-' | b'.' | b'(' | b')' | b'/');
    if run < 7 && !row || run > 19 || joined(next) && next != b'x' {
        return i;
    }
    // "3 retries", "batch 2044 in": what is shorter than a number of its own goes on in digits
    if run < 7 {
        let gap = |c: u8| matches!(c, b' ' | b'-' | b'.' | b'(' | b')');
        let second = at(b, i + 1);
        let over_gap = next != b'/' && gap(second) && at(b, i + 2).is_ascii_digit();
        if !second.is_ascii_digit() && !over_gap {
            return i;
        }
    }
    let hit = None
        .or_else(|| if wanted & Kind::Card.bit() != 0 && digits >= 13 { card(b, start) } else { None })
        .or_else(|| if wanted & Kind::Gps.bit() != 0 { places::pair(b, start, run) } else { None })
        .or_else(|| {
            // recognised even where it is kept, so that it is not taken for a phone number
            if run <= 3 { ipv4(b, start) } else { None }
        })
        .or_else(|| if wanted & Kind::Phone.bit() != 0 && digits >= 7 { phone(b, start) } else { None });
    match hit {
        Some(found) => {
            if wanted & found.kind.bit() != 0 {
                out.push(found);
            }
            i.max(found.end)
        }
        None => i,
    }
}

/// Digits that may not stand beside a number for it to stand alone.
pub(super) const fn joined(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'#') || c >= 0x80
}

/// Whether a number stands behind the `B` that begins a card's magnetic stripe.
fn on_stripe(b: &[u8], start: usize) -> bool {
    before(b, start) == b'B' && !before(b, start.saturating_sub(1)).is_ascii_alphanumeric()
}

fn card(b: &[u8], start: usize) -> Option<Found> {
    let prev = before(b, start);
    // a dash, a dot or an open brace of a GUID or decimal number in front
    if joined(prev) && !on_stripe(b, start)
        || (matches!(prev, b'.' | b'-') && before(b, start.saturating_sub(1)).is_ascii_alphanumeric())
    {
        return None;
    }
    let (mut digits, mut groups) = ([0_u8; 19], [0_u8; 6]);
    let (mut n, mut group, mut i) = (0, 0, start);
    let mut separator = 0;
    let end = loop {
        let c = at(b, i);
        if c.is_ascii_digit() {
            *digits.get_mut(n)? = c - b'0';
            *groups.get_mut(group)? += 1;
            n += 1;
        } else if matches!(c, b' ' | b'-')
            && at(b, i + 1).is_ascii_digit()
            && (separator == 0 || separator == c)
            && n < 16
        {
            separator = c;
            group += 1;
        } else {
            break i;
        }
        i += 1;
    };
    let next = at(b, end);
    if joined(next) || (matches!(next, b'.' | b'-') && at(b, end + 1).is_ascii_alphanumeric()) {
        return None;
    }
    let shape = matches!(groups.get(..=group)?, [_] | [4, 4, 4, 1..=7] | [4, 6, 4 | 5] | [4, 4, 4, 4, 3]);
    let digits = digits.get(..n)?;
    let head = |len: usize| digits.iter().take(len).fold(0_u32, |a, d| a * 10 + u32::from(*d));
    let issuer = match n {
        13 | 19 if head(1) == 4 => true,
        14 => matches!(head(3), 300..=305 | 309) || matches!(head(2), 36 | 38 | 39),
        15 => matches!(head(2), 34 | 37) || matches!(head(4), 1800 | 2131),
        16 => {
            head(1) == 4
                || matches!(head(2), 35 | 51..=55 | 62 | 65)
                || matches!(head(3), 644..=649)
                || matches!(head(4), 2221..=2720 | 6011)
                || matches!(head(4), 5018 | 5020 | 5038 | 6304 | 6759 | 6761 | 6763)
        }
        17..=19 => head(2) == 62,
        _ => false,
    };
    (shape && issuer && luhn(digits)).then_some(Found { start, end, kind: Kind::Card })
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(n, d)| match (n % 2, u32::from(*d)) {
            (0, d) => d,
            (_, d) if d > 4 => d * 2 - 9,
            (_, d) => d * 2,
        })
        .sum();
    sum.is_multiple_of(10) && digits.iter().any(|d| Some(d) != digits.first())
}

fn ipv4(b: &[u8], start: usize) -> Option<Found> {
    let prev = before(b, start);
    if joined(prev) && !matches!(prev, b'#') || (prev == b'.' && before(b, start - 1).is_ascii_alphanumeric())
    {
        return None;
    }
    let mut parts = [0_u8; 4];
    let mut i = start;
    for (n, part) in parts.iter_mut().enumerate() {
        if n > 0 {
            if at(b, i) != b'.' {
                return None;
            }
            i += 1;
        }
        let len = b.get(i..)?.iter().take_while(|c| c.is_ascii_digit()).count();
        if !(1..=3).contains(&len) {
            return None;
        }
        let number = b.get(i..i + len)?.iter().fold(0_u16, |n, c| n * 10 + u16::from(c - b'0'));
        *part = u8::try_from(number).ok()?;
        i += len;
    }
    let next = at(b, i);
    if joined(next) || (next == b'.' && at(b, i + 1).is_ascii_digit()) {
        return None;
    }
    let version = versioned(b, start, i);
    let done = parts[3] == 0 && b.get(i..).is_some_and(|r| r.starts_with(b"/24"));
    let general = parts[1..] == [0, 0, 0];
    let ip = Ipv4Addr::from(parts);
    (!version && !done && !general && is_personal_ip(IpAddr::V4(ip))).then_some(Found {
        start,
        end: i,
        kind: Kind::Ip,
    })
}

/// Four numbers can be a version as well: the words in front tell, or a suffix.
fn versioned(b: &[u8], start: usize, end: usize) -> bool {
    const VERSIONS: &[&str] = &[
        "version",
        "ver",
        "build",
        "driver",
        "firmware",
        "release",
        "package",
        "assembly",
        "module",
        "framework",
        "runtime",
        "sdk",
        "kernel",
        "bios",
        "fileversion",
        "productversion",
        "assemblyversion",
        "revision",
        "rev",
        "oid",
    ];
    // what stands between "driver" and an address
    const ADDRESSES: &[&str] = &[
        "to", "from", "at", "via", "by", "with", "on", "for", "of", "ip", "address", "addr", "host",
        "server", "peer", "client", "node", "gateway", "dns",
    ];
    let is = |word: &[u8], list: &[&str]| list.iter().any(|w| word.eq_ignore_ascii_case(w.as_bytes()));
    let last = word_before(b, start);
    // "FileVersion", longer than a word is looked at
    if is(last, VERSIONS)
        || last.len() > 7 && last.get(last.len() - 7..).is_some_and(|w| w.eq_ignore_ascii_case(b"version"))
    {
        return true;
    }
    if let Some(suffix) = b.get(end..).and_then(|r| r.strip_prefix(b"-"))
        && [&b"alpha"[..], b"beta", b"rc", b"pre", b"dev", b"snapshot"].iter().any(|s| suffix.starts_with(s))
    {
        return true;
    }
    if before(b, start) != b' ' || is(last, ADDRESSES) {
        return false;
    }
    // "package Storage.Engine 4.15.88.213"
    let part = |c: &&u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    let name = b.get(..start - 1).map_or(0, |l| l.iter().rev().take(64).take_while(part).count());
    name > 0 && is(word_before(b, start - 1 - name), &["package", "assembly", "module", "library"])
}

/// `001a.2b3c.4d5e`, as switches write them.
pub(super) fn dotted_macs(b: &[u8], out: &mut Vec<Found>) {
    let mut from = 0;
    for dot in memchr::memchr_iter(b'.', b) {
        let Some(start) = dot.checked_sub(4).filter(|s| *s >= from) else { continue };
        let Some(token) = b.get(start..start + 14) else { break };
        let shape = token
            .iter()
            .enumerate()
            .all(|(n, c)| if n % 5 == 4 { *c == b'.' } else { c.is_ascii_hexdigit() });
        let (prev, next) = (before(b, start), at(b, start + 14));
        let longer = joined(prev)
            || matches!(prev, b'.' | b'-')
            || joined(next)
            || next == b'.' && at(b, start + 15).is_ascii_alphanumeric();
        // 1234.5678.9012 is a number of some kind
        if shape && !longer && token.iter().any(u8::is_ascii_alphabetic) {
            out.push(Found { start, end: start + 14, kind: Kind::Mac });
            from = start + 14;
        }
    }
}

/// MAC and IPv6 addresses: tokens of hexadecimal digits and colons or dashes.
pub(super) fn find_hex(b: &[u8], wanted: u16, out: &mut Vec<Found>) {
    let part = |c: u8| c.is_ascii_hexdigit() || matches!(c, b':' | b'-');
    let mut from = 0;
    while let Some(step) = b.get(from..).and_then(|r| memchr::memchr2(b':', b'-', r)) {
        let mid = from + step;
        let left =
            b.get(..mid).map_or(0, |l| l.iter().rev().take(8).take_while(|c| c.is_ascii_hexdigit()).count());
        let start = mid - left;
        let len = b.get(start..).map_or(0, |r| r.iter().take(64).take_while(|c| part(**c)).count());
        let mut end = start + len;
        from = end.max(mid + 1);
        if joined(before(b, start)) || start > 0 && before(b, start) == b'-' {
            continue;
        }
        let Some(token) = b.get(start..end) else { continue };
        if token.len() == 17 && !joined(at(b, end)) && is_mac(token) {
            if wanted & Kind::Mac.bit() != 0 && token.iter().any(|c| !matches!(c, b'0' | b':' | b'-')) {
                out.push(Found { start, end, kind: Kind::Mac });
            }
            continue;
        }
        if wanted & Kind::Ip.bit() == 0 {
            continue;
        }
        // the last part may be an IPv4 address or have a zone
        if at(b, end) == b'.' {
            end += b
                .get(end..)
                .map_or(0, |r| r.iter().take(12).take_while(|c| c.is_ascii_digit() || **c == b'.').count());
        }
        let Some(mut token) = b.get(start..end) else { continue };
        // a full stop or colon of the sentence
        while let [rest @ .., b'.'] | [rest @ .., b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F', b':'] = token {
            let cut = token.len() - rest.len();
            end -= if cut == 2 { 1 } else { cut };
            token = b.get(start..end).unwrap_or_default();
        }
        if joined(at(b, end)) {
            continue;
        }
        let colons = token.iter().filter(|c| **c == b':').count();
        let digit = token.iter().any(u8::is_ascii_digit);
        // a::b is more often a path in a program than an address
        let likely = colons >= 3 || matches!(token, [b'2' | b'3' | b'f' | b'F', _, _, _, b':', ..]);
        // eight pairs are a world wide name
        let wide_name =
            token.len() == 23 && token.iter().enumerate().all(|(n, c)| (n % 3 == 2) == (*c == b':'));
        let parsed = std::str::from_utf8(token).ok().and_then(|t| t.parse::<Ipv6Addr>().ok());
        let done = b.get(end..).is_some_and(|r| r.starts_with(b"/48")) && token.ends_with(b"::");
        if let Some(ip) = parsed
            && colons >= 2
            && digit
            && likely
            && !done
            && !wide_name
            && is_personal_ip(IpAddr::V6(ip))
        {
            out.push(Found { start, end, kind: Kind::Ip });
        }
    }
}

fn is_mac(token: &[u8]) -> bool {
    let Some(separator) = token.get(2) else { return false };
    token.iter().enumerate().all(|(n, c)| if n % 3 == 2 { c == separator } else { c.is_ascii_hexdigit() })
        && matches!(separator, b':' | b'-')
}

/// Bytes of a value behind a key that can belong to a phone number.
pub(super) fn phone_len(value: &[u8]) -> usize {
    let part = |c: &u8| c.is_ascii_digit() || b"+-./ ()".contains(c);
    let mut len = value.iter().take_while(|c| part(c)).count();
    // an extension: x123, ext. 123
    let tail = value.get(len..).unwrap_or_default();
    for word in [&b"ext. "[..], b"ext.", b"ext ", b"ext", b"x"] {
        if let Some(rest) = tail.strip_prefix(word) {
            let digits = rest.iter().take(6).take_while(|c| c.is_ascii_digit()).count();
            if digits > 0 {
                len += word.len() + digits;
            }
            break;
        }
    }
    let mut head = value.get(..len).unwrap_or_default();
    while let [rest @ .., b' ' | b'-' | b'.' | b'/' | b'(' | b')'] = head {
        head = rest;
    }
    head.len()
}

fn phone(b: &[u8], start: usize) -> Option<Found> {
    let mut begin = start;
    if before(b, begin) == b'(' {
        begin -= 1;
    }
    let plus = before(b, begin) == b'+';
    if plus {
        begin -= 1;
    }
    let prev = before(b, begin);
    if joined(prev) || matches!(prev, b'.' | b'-' | b'+' | b'/' | b'\\' | b'$') {
        return None;
    }
    let (mut i, mut n) = (start, 0_usize);
    let mut groups = [0_usize; 8];
    let mut group = 0;
    let mut end = start;
    loop {
        let c = at(b, i);
        if c.is_ascii_digit() {
            n += 1;
            *groups.get_mut(group)? += 1;
            end = i + 1;
            i += 1;
            continue;
        }
        // at most two separators in a row: ") " or " (", or a slash behind the area
        let slash = c == b'/' && group == 0 && matches!(groups, [3..=5, ..]);
        let gap = if slash {
            1
        } else {
            b.get(i..)?.iter().take(3).take_while(|c| matches!(**c, b' ' | b'-' | b'.' | b'(' | b')')).count()
        };
        if gap == 0 || gap > 2 || !at(b, i + gap).is_ascii_digit() || n >= 15 {
            break;
        }
        group += 1;
        i += gap;
    }
    let next = at(b, end);
    let extension = b.get(end..).map_or(0, |r| {
        r.strip_prefix(b"x").map_or(0, |r| {
            match r.iter().take(6).take_while(|c| c.is_ascii_digit()).count() {
                0 => 0,
                digits => 1 + digits,
            }
        })
    });
    if joined(next) && extension == 0 || (matches!(next, b':' | b'/') && at(b, end + 1).is_ascii_digit()) {
        return None;
    }
    let groups = groups.get(..=group)?;
    let first = at(b, start);
    let area = |c: u8| (b'2'..=b'9').contains(&c);
    let american = match groups {
        [3, 3, 4] => area(first),
        [1, 3, 3, 4] => first == b'1',
        [3, 3, 3, 4] => b.get(start..).is_some_and(|r| r.starts_with(b"001")),
        _ => false,
    };
    let word = word_before(b, begin);
    let called = [&b"phone"[..], b"tel", b"telephone", b"mobile", b"cell", b"fax", b"call", b"telefon"]
        .iter()
        .any(|w| word.eq_ignore_ascii_case(w));
    // international with two zeros, in groups
    let abroad = first == b'0' && at(b, start + 1) == b'0' && area(at(b, start + 2)) && groups.len() >= 2;
    // national form: a leading zero, in groups
    let national = first == b'0'
        && at(b, start + 1) != b'0'
        && (9..=12).contains(&n)
        && match groups {
            // 06 12 34 56 78
            [2, 2, 2, 2, 2] => true,
            [3..=5, rest @ ..] => (1..=4).contains(&rest.len()) && rest.iter().all(|g| (2..=8).contains(g)),
            _ => false,
        };
    // a part of a longer row of numbers
    let inside = prev == b' ' && begin.checked_sub(1).is_some_and(|p| before(b, p).is_ascii_digit());
    let fits = (plus && (8..=15).contains(&n))
        || (american && n >= 10)
        || (called && (7..=15).contains(&n))
        || (abroad && !inside && (10..=15).contains(&n))
        || (national && !inside);
    fits.then_some(Found { start: begin, end: end + extension, kind: Kind::Phone })
}
