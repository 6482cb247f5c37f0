//! Searches a text for all kinds at once. One pass over the bytes says which
//! recognisers could find anything; most texts need none.

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, MatchKind};

use super::cues::{Cues, Hit};
use super::{Kind, hosts, keys, numbers, places, secrets, users};

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

const AT: u16 = 2;
const SLASH: u16 = 4;
const BACKSLASH: u16 = 8;
const COLON: u16 = 16;
const EQUALS: u16 = 32;
const DASH: u16 = 64;
const PERCENT: u16 = 128;
const LESS: u16 = 256;
const TILDE: u16 = 512;
const DOT: u16 = 1024;
/// The lead byte of `°` and its like.
const WIDE: u16 = 2048;

/// One digit, and one colon or dash, as [`survey`] counts them; signs stand above.
const ONE_DIGIT: u64 = 1;
const ONE_JOINT: u64 = 1 << 24;

const CLASS: [u64; 256] = {
    const fn sign(bit: u16) -> u64 {
        (bit as u64) << 48
    }
    let mut t = [0; 256];
    let mut d = b'0';
    while d <= b'9' {
        t[d as usize] = ONE_DIGIT;
        d += 1;
    }
    t[b'@' as usize] = sign(AT);
    t[b'/' as usize] = sign(SLASH);
    t[b'\\' as usize] = sign(BACKSLASH);
    t[b':' as usize] = sign(COLON) + ONE_JOINT;
    t[b'=' as usize] = sign(EQUALS);
    t[b'-' as usize] = sign(DASH) + ONE_JOINT;
    t[b'%' as usize] = sign(PERCENT);
    t[b'<' as usize] = sign(LESS);
    t[b'~' as usize] = sign(TILDE);
    t[b'.' as usize] = sign(DOT);
    t[0xc2] = sign(WIDE);
    t
};

/// Which signs a text holds, how many digits, and how many colons and dashes.
#[inline]
fn survey(b: &[u8]) -> (u16, usize, usize) {
    if b.len() >= 1 << 24 {
        // the counts have 24 bits
        return (u16::MAX, b.len(), b.len());
    }
    let (mut seen, mut sum) = (0_u64, 0_u64);
    for c in b {
        let class = CLASS[usize::from(*c)];
        seen |= class;
        // signs run over at the top and are not looked at here
        sum = sum.wrapping_add(class);
    }
    let count = |n: u64| usize::try_from(n & 0xff_ffff).unwrap_or(usize::MAX);
    ((seen >> 48) as u16, count(sum), count(sum >> 24))
}

/// Compiled searches, shared by all texts.
#[derive(Debug)]
pub(super) struct Finder {
    cues: Cues,
    hosts: Option<AhoCorasick>,
}

impl Finder {
    pub fn new(hosts: &[String]) -> Finder {
        // a list that a file of bounded size holds: it compiles
        let hosts = if hosts.is_empty() {
            None
        } else {
            AhoCorasickBuilder::new()
                .match_kind(MatchKind::LeftmostFirst)
                .ascii_case_insensitive(true)
                .build(hosts)
                .ok()
        };
        Finder { cues: Cues::new(), hosts }
    }

    /// Finds everything wanted, in order and without overlaps. `hits` is working memory.
    pub fn find(&self, text: &str, wanted: u16, hits: &mut Vec<Hit>, out: &mut Vec<Found>) {
        let b = text.as_bytes();
        if b.len() < 3 || wanted == 0 {
            return;
        }
        let want = |kinds: &[Kind]| kinds.iter().any(|k| wanted & k.bit() != 0);
        let (seen, digits, joints) = survey(b);
        let has = |class: u16| seen & class != 0;
        if has(COLON | EQUALS) {
            keys::key_values(b, wanted, out);
        }
        if has(LESS) && has(SLASH) {
            keys::elements(b, wanted, out);
        }
        if has(DASH) && want(&[Kind::Secret]) {
            keys::flags(b, out);
        }
        if has(AT) && has(SLASH) && has(COLON) && want(&[Kind::Secret]) {
            secrets::in_urls(b, out);
        }
        // not known until it was looked for
        let mut home = true;
        if b.len() >= 12 && want(&[Kind::Secret, Kind::User]) {
            home = self.cues.find(b, hits);
            // what words cover, and what findings do: inside of a long token others may seem to begin
            let (mut covered, mut done) = (0, 0);
            for Hit { start, word } in hits.iter().copied() {
                // of words that overlap the first counts
                if start < covered {
                    continue;
                }
                covered = start + self.cues.len(word);
                if start < done {
                    continue;
                }
                let hit = match word.checked_sub(users::CUES.len()) {
                    Some(form) => secrets::token(b, start, form),
                    None => users::after_cue(b, start, word),
                };
                if let Some(hit) = hit {
                    done = hit.end;
                    if wanted & hit.kind.bit() != 0 {
                        out.push(hit);
                    }
                }
            }
        }
        if has(AT | PERCENT) && want(&[Kind::Email]) {
            emails(b, has(PERCENT), out);
        }
        if digits >= 4 {
            if want(&[Kind::Card, Kind::Ip, Kind::Phone, Kind::Gps]) {
                numbers::find(b, wanted, digits, out);
            }
            if has(WIDE) && want(&[Kind::Gps]) {
                places::degrees(b, out);
            }
            if has(DASH) && want(&[Kind::Sid]) {
                sids(b, out);
            }
        }
        if joints >= 2 && want(&[Kind::Mac, Kind::Ip]) && b.len() >= 7 {
            numbers::find_hex(b, wanted, out);
        }
        if has(DOT) && b.len() >= 14 && want(&[Kind::Mac]) {
            numbers::dotted_macs(b, out);
        }
        if want(&[Kind::User]) {
            if home && has(SLASH | BACKSLASH) {
                users::homes(b, out);
            }
            if has(BACKSLASH) {
                users::accounts(b, out);
            }
            if has(PERCENT) {
                users::encoded_homes(b, out);
            }
            if has(TILDE) && has(SLASH) {
                users::tildes(b, out);
            }
        }
        if want(&[Kind::Host]) {
            if let Some(hosts) = &self.hosts {
                hosts::configured(hosts, b, out);
            }
            if has(DOT) {
                hosts::private(b, out);
            }
            if has(DASH) {
                hosts::windows_names(b, out);
            }
            if has(BACKSLASH) {
                hosts::shares(b, out);
            }
        }
        settle(b, out);
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

fn emails(b: &[u8], encoded: bool, out: &mut Vec<Found>) {
    let local = |c: &&u8| c.is_ascii_alphanumeric() || b"._%+-'".contains(c) || **c >= 0x80;
    let mut one = |sign: usize, width: usize| {
        let len = b.get(..sign).map_or(0, |l| l.iter().rev().take(64).take_while(local).count());
        let mut start = sign - len;
        while start < sign && matches!(at(b, start), b'.' | b'\'' | b'-' | b'%') {
            start += 1;
        }
        if matches!(before(b, start), b':' | b'%') && in_authority(b, start) {
            return;
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
        // images for dense screens and units of systemd: icon@2x.png, getty@tty1.service
        const NO_DOMAINS: &[&str] = &[
            "png",
            "jpg",
            "jpeg",
            "gif",
            "svg",
            "webp",
            "bmp",
            "ico",
            "css",
            "service",
            "socket",
            "timer",
            "mount",
            "automount",
            "slice",
            "scope",
            "swap",
            "device",
            "dll",
            "exe",
            "so",
        ];
        let file = NO_DOMAINS.iter().any(|n| top.eq_ignore_ascii_case(n.as_bytes()));
        let letters = top.iter().all(|c| c.is_ascii_alphabetic() || *c >= 0x80) || top.starts_with(b"xn--");
        if start < sign
            && dot > 0
            && (2..=24).contains(&top.len())
            && letters
            && !file
            && !host.starts_with(b".")
        {
            out.push(Found { start, end: from + host.len(), kind: Kind::Email });
        }
    };
    for sign in memchr::memchr_iter(b'@', b) {
        one(sign, 1);
    }
    if encoded {
        for sign in memchr::memmem::find_iter(b, b"%40") {
            one(sign, 3);
        }
    }
}

/// Whether the place lies behind `scheme://user`: what follows is a password.
fn in_authority(b: &[u8], at: usize) -> bool {
    let front = b.get(at.saturating_sub(128)..at).unwrap_or_default();
    memchr::memmem::rfind(front, b"://")
        .and_then(|n| front.get(n + 3..))
        .is_some_and(|user| !user.iter().any(|c| c.is_ascii_whitespace() || matches!(c, b'/' | b'"')))
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
