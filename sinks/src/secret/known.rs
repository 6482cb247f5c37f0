//! The secrets that this process has used, and texts of others without them.
//!
//! A far side may quote what it was sent, so what it says goes through [`blank`] before it becomes
//! an error, a line of the log, the reason of a dead letter or part of a receipt. A secret is known
//! from the moment when it is looked up or sent; it is found in any case of letters, and where it
//! is escaped for a URL, JSON or XML. What only looks like a secret (`sig=…`, `Bearer …`) is
//! blanked too. Secrets of fewer than six bytes are not: they would blank half of every text.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{LazyLock, Mutex, PoisonError};

/// What stands for a secret.
pub(crate) const HIDDEN: &str = "***";
/// Most characters of a text, and bytes of a secret, that are looked at.
pub(crate) const MOST: usize = 4096;
/// Fewest bytes of a secret.
const HEAD: usize = 6;
/// Fewest bytes of a part of a secret, or of what only looks like one.
const PART: usize = 16;
/// How often a text may be escaped.
const ESCAPED: usize = 3;
/// Parameters and fields whose values are secret, whoever tells them.
const NAMES: [&str; 8] = [
    "sig",
    "accountkey",
    "sharedaccesskey",
    "client_secret",
    "client_assertion",
    "access_token",
    "password",
    "apikey",
];
/// Those of which this is so in what we send.
const OURS: [&str; 5] = ["api-key", "api_key", "code", "key", "token"];
/// Schemes of `Authorization`.
const SCHEMES: [&str; 4] = ["bearer", "basic", "sharedkey", "sharedkeylite"];

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(|| Mutex::new(Known::new()));

/// Remembers a secret that was looked up.
pub(crate) fn note(secret: &str) {
    with(|known| noted(secret, &mut |form| known.lasting.put(form)));
}

/// Remembers a secret made or handed out for some requests.
pub(crate) fn note_passing(secret: &str) {
    with(|known| noted(secret, &mut |form| known.passing.put(form)));
}

/// Remembers the secrets in a query.
pub(crate) fn note_query(query: &str) {
    with(|known| values(query, &mut |value| forms(value, &mut |form| known.passing.put(form))));
}

/// At most [`MOST`] characters of a text, without secrets.
pub(crate) fn blank(text: &str) -> String {
    let cut = text.char_indices().nth(MOST).and_then(|(at, _)| text.get(..at));
    let (text, cut) = (cut.unwrap_or(text), cut.is_some());
    let mut hide = vec![false; text.len()];
    for level in levels(text) {
        with(|known| known.find(&level, cut, &mut hide));
        level.look_alikes(&mut hide);
    }
    if cut {
        // too little to tell whether a secret begins there
        hide.iter_mut().rev().take(HEAD - 1).for_each(|h| *h = true);
    }
    let mut out = String::with_capacity(text.len());
    let mut hidden = false;
    for (at, c) in text.char_indices() {
        let hides = hide.iter().skip(at).take(c.len_utf8()).any(|h| *h);
        match (hides, hidden) {
            (false, _) => out.push(c),
            (true, false) => out.push_str(HIDDEN),
            (true, true) => {}
        }
        hidden = hides;
    }
    out
}

fn with<T>(act: impl FnOnce(&mut Known) -> T) -> T {
    // what is in there is whole after every step
    act(&mut KNOWN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A secret in all its forms, and the parts of it that are secrets by themselves.
fn noted(secret: &str, put: &mut dyn FnMut(&[u8])) {
    forms(secret, put);
    if let Some((scheme, rest)) = secret.split_once(' ')
        && SCHEMES.iter().any(|s| s.eq_ignore_ascii_case(scheme))
    {
        forms(rest, put);
    }
    values(secret, &mut |value| forms(value, put));
    let lone = |part: &&str| part.split_once('=').is_none_or(|(_, v)| v.trim_matches('=').is_empty());
    for part in parts(secret).filter(lone) {
        // of `SharedKey ACCOUNT:SIGNATURE` and `USER:PASSWORD` the end
        let part = part.rsplit(':').next().unwrap_or(part);
        if part.len() >= PART {
            forms(part, put);
        }
    }
}

fn parts(secret: &str) -> impl Iterator<Item = &str> {
    secret.split([' ', ',', '&', ';', '?'])
}

/// The secret values in a query or a connection string.
fn values(text: &str, put: &mut dyn FnMut(&str)) {
    for (name, value) in parts(text).filter_map(|part| part.split_once('=')) {
        if NAMES.iter().chain(&OURS).any(|n| n.eq_ignore_ascii_case(name)) {
            put(value);
        }
    }
}

fn forms(secret: &str, put: &mut dyn FnMut(&[u8])) {
    let plain: String = secret.trim().chars().filter(|c| !c.is_control()).collect();
    levels(&plain).for_each(|level| put(&level.bytes));
}

/// Secrets by their first bytes.
type Forms = HashMap<[u8; HEAD], Vec<Box<[u8]>>>;

/// Of the secrets that came last, at least `most` and at most twice as many.
struct Shelf {
    most: usize,
    count: usize,
    young: Forms,
    old: Forms,
}

impl Shelf {
    fn new(most: usize) -> Shelf {
        Shelf { most, count: 0, young: Forms::new(), old: Forms::new() }
    }

    fn put(&mut self, form: &[u8]) {
        let form = form.get(..MOST).unwrap_or(form);
        let Some(head) = form.first_chunk::<HEAD>() else { return };
        let alike = self.young.get(head);
        if alike.is_some_and(|list| list.iter().any(|f| **f == *form)) {
            return;
        }
        if self.count == self.most {
            self.old = std::mem::take(&mut self.young);
            self.count = 0;
        }
        self.count += 1;
        self.young.entry(*head).or_default().push(form.into());
    }

    fn alike(&self, head: &[u8; HEAD]) -> impl Iterator<Item = &[u8]> {
        [&self.young, &self.old].into_iter().filter_map(|forms| forms.get(head)).flatten().map(|f| &**f)
    }
}

struct Known {
    /// Of the configuration: each is looked up again and again, or once for long.
    lasting: Shelf,
    /// Tokens and signatures: there is always a next one.
    passing: Shelf,
}

impl Known {
    fn new() -> Known {
        Known { lasting: Shelf::new(1024), passing: Shelf::new(256) }
    }

    /// Marks the secrets in a text, and the beginning of one at its end.
    fn find(&self, level: &Level, cut: bool, hide: &mut [bool]) {
        for (at, _) in level.bytes.iter().enumerate() {
            let rest = level.bytes.get(at..).unwrap_or_default();
            let Some(head) = rest.first_chunk::<HEAD>() else { return };
            for form in self.lasting.alike(head).chain(self.passing.alike(head)) {
                let same = rest.iter().zip(form).take_while(|(a, b)| a == b).count();
                let ends = same == rest.len() && (cut || 2 * same >= form.len());
                if same == form.len() || ends {
                    level.hide(at..at + same, hide);
                }
            }
        }
    }
}

/// A text in lower case, with some of its escapes undone.
#[derive(Default)]
struct Level {
    bytes: Vec<u8>,
    /// Where each byte was in the text.
    at: Vec<Range<usize>>,
}

/// A text as it is, and with its escapes undone once, twice and so on.
fn levels(text: &str) -> impl Iterator<Item = Level> {
    let bytes = text.bytes().map(|b| b.to_ascii_lowercase()).collect();
    let first = Level { bytes, at: (0..text.len()).map(|n| n..n + 1).collect() };
    let next = first.undone();
    let later = std::iter::successors(next, Level::undone).take(ESCAPED);
    std::iter::once(first).chain(later)
}

impl Level {
    /// With one more layer of escapes undone; `None` where there is none.
    fn undone(&self) -> Option<Level> {
        let mut next = Level::default();
        let (mut at, mut any) = (0, false);
        while let Some(byte) = self.bytes.get(at) {
            let escape = escape(self.bytes.get(at..).unwrap_or_default());
            any |= escape.is_some();
            let (bytes, len) = escape.unwrap_or_else(|| (vec![*byte], 1));
            let place = |n: usize| self.at.get(n).cloned().unwrap_or_default();
            let whole = place(at).start..place(at + len - 1).end;
            for byte in bytes {
                next.bytes.push(byte.to_ascii_lowercase());
                next.at.push(whole.clone());
            }
            at += len;
        }
        any.then_some(next)
    }

    fn hide(&self, part: Range<usize>, hide: &mut [bool]) {
        for place in self.at.get(part).unwrap_or_default() {
            hide.get_mut(place.clone()).unwrap_or_default().fill(true);
        }
    }

    /// Marks what looks like a secret though it is not known.
    fn look_alikes(&self, hide: &mut [bool]) {
        let mut before = b' ';
        for (at, byte) in self.bytes.iter().enumerate() {
            let begins = !std::mem::replace(&mut before, *byte).is_ascii_alphanumeric();
            let rest = self.bytes.get(at..).unwrap_or_default();
            if !begins {
                continue;
            }
            let names = NAMES.iter().map(|name| (name, b'='));
            for (name, sign) in names.chain(SCHEMES.iter().map(|scheme| (scheme, b' '))) {
                let Some(value) = rest.strip_prefix(name.as_bytes()).and_then(|r| r.strip_prefix(&[sign]))
                else {
                    continue;
                };
                let ends = |b: &u8| b.is_ascii_whitespace() || b"\"'<>&;,()[]{}".contains(b);
                let len = value.iter().take_while(|b| !ends(b)).count();
                // words have no digits
                let word = value.iter().take(len).all(|b| !b.is_ascii_digit());
                if len >= PART && !word {
                    let start = at + name.len() + 1;
                    self.hide(start..start + len, hide);
                }
            }
        }
    }
}

/// What an escape at the start of a text, in lower case, stands for, and its length.
fn escape(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    let number = |digits: Option<&[u8]>, radix: u32| {
        let digits = std::str::from_utf8(digits?).ok()?;
        // no sign
        digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, radix).ok())?
    };
    let utf8 = |c: char| c.to_string().into_bytes();
    match text {
        [b'%', ..] => {
            let byte = u8::try_from(number(text.get(1..3), 16)?).ok()?;
            Some((vec![byte], 3))
        }
        [b'\\', b'u', ..] => Some((utf8(char::from_u32(number(text.get(2..6), 16)?)?), 6)),
        [b'\\', c @ (b'"' | b'\\' | b'/'), ..] => Some((vec![*c], 2)),
        [b'&', rest @ ..] => {
            let len = rest.iter().take(8).position(|b| *b == b';')?;
            let c = match rest.get(..len)? {
                b"amp" => '&',
                b"lt" => '<',
                b"gt" => '>',
                b"quot" => '"',
                b"apos" => '\'',
                [b'#', b'x', digits @ ..] => char::from_u32(number(Some(digits), 16)?)?,
                [b'#', digits @ ..] => char::from_u32(number(Some(digits), 10)?)?,
                _ => return None,
            };
            Some((utf8(c), len + 2))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_blanked_however_it_is_written() {
        note("pa/ss+w\u{f6}rd=\"9\"");
        for written in [
            "pa/ss+w\u{f6}rd=\"9\"",
            "PA/SS+w\u{f6}rd=\"9\"",
            "pa%2Fss%2bw%C3%B6rd%3D%229%22",
            "pa%252Fss%252Bw%25C3%25B6rd%253D%25229%2522",
            r#"pa\/ss+w\u00f6rd=\"9\""#,
            "pa/ss+w&#xf6;rd=&quot;9&quot;",
            "&#112;a/ss+w\u{f6}rd=\"9\"",
        ] {
            assert_eq!(blank(&format!("of {written} no")), "of *** no", "{written}");
        }
    }

    #[test]
    fn the_parts_of_a_secret_that_are_secrets_are_blanked_and_no_others() {
        note("?sv=2022-11-02&se=2030-01-01T00%3A00%3A00Z&sp=rcw&sig=aB3%2Bd%3D9x");
        note("DefaultEndpointsProtocol=https;AccountName=accountofsixteen;AccountKey=Zm9vYmFyYmF6;");
        note_passing("SharedKey accountofsixteen:c2lnbmVkIGJ5IHVzIGFsb25l");
        note_query("comp=block&blockid=AAAAAAAAAAAAAAAAAAAAAA&code=hunter2x");
        for kept in [
            "sv=2022-11-02&se=2030-01-01T00%3A00%3A00Z&sp=rcw",
            "https://accountofsixteen.blob.test/logs",
            "comp=block&blockid=AAAAAAAAAAAAAAAAAAAAAA",
            "SharedKey and Basic are wrong, code=403&sig=none",
            "Bearer authorization-required: code=AuthenticationFailed403",
        ] {
            assert_eq!(blank(kept), kept);
        }
        assert_eq!(blank("aB3%2Bd%3D9x"), HIDDEN);
        assert_eq!(blank("<aB3+d=9x>"), "<***>");
        assert_eq!(blank("Zm9vYmFyYmF6, c2lnbmVkIGJ5IHVzIGFsb25l, hunter2x"), "***, ***, ***");
    }

    #[test]
    fn what_looks_like_a_secret_is_blanked_though_nobody_knows_it() {
        for (said, told) in [
            ("?se=1&sig=0123456789abcdef%3D&sp=r", "?se=1&sig=***&sp=r"),
            ("sig%3D0123456789abcdef%26sp", "sig%3D***%26sp"),
            ("\"Bearer eyJ0eXAiOiJKV1Qi.e30.c2ln\"", "\"Bearer ***\""),
            ("sharedkey acct:0123456789abcdef", "sharedkey ***"),
        ] {
            assert_eq!(blank(said), told);
        }
    }

    #[test]
    fn a_secret_that_a_cut_goes_through_is_blanked_and_a_short_one_is_not() {
        note("0f1e2d3c4b5a69788796a5b4c3d2e1f0");
        note("abcde");
        assert_eq!(blank("it was 0f1e2d3c4b5a69788796"), "it was ***");
        let long = format!("{}0f1e2d3c4b5a69788796a5b4c3d2e1f0", "x".repeat(MOST - 8));
        assert_eq!(blank(&long), format!("{}***", "x".repeat(MOST - 8)));
        assert_eq!(blank("abcde"), "abcde");
    }

    #[test]
    fn as_many_secrets_are_known_as_there_is_room_for_the_used_ones_among_them() {
        let mut shelf = Shelf::new(10);
        for n in 0..100 {
            shelf.put(b"in use");
            shelf.put(format!("once {n}").as_bytes());
        }
        let held =
            |text: &str| shelf.alike(text.as_bytes().first_chunk().unwrap()).any(|f| f == text.as_bytes());
        assert!(held("in use") && held("once 99") && held("once 91") && !held("once 70"));
        assert!(shelf.young.values().chain(shelf.old.values()).map(Vec::len).sum::<usize>() <= 20);
    }
}
