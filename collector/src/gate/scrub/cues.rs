//! Finds the words that a secret or a name follows: one look at each byte, and a closer one only
//! where three bytes in a row are the rare ones of such a word. The same look tells whether a
//! text can hold the path of a home.

use super::{secrets, users};

/// Bits of the table that is looked into for each byte.
const BITS: usize = 1 << 15;

/// Beginnings of the folders that homes are in, behind either slash.
const FOLDERS: [&[u8; 3]; 6] = [b"/us", b"\\us", b"/ho", b"\\ho", b"/do", b"\\do"];

/// Three bytes of a word by which it is noticed, and where they stand in it.
#[derive(Clone, Copy, Debug)]
struct Mark {
    three: u32,
    /// Offset in the word and index of the word; `None`: a folder.
    of: Option<(usize, usize)>,
}

/// A word at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hit {
    pub start: usize,
    /// Index into the cues, then the forms of tokens.
    pub word: usize,
}

/// The compiled search.
#[derive(Debug)]
pub(super) struct Cues {
    words: Vec<&'static [u8]>,
    seen: Box<[u64; BITS / 64]>,
    marks: Vec<Mark>,
}

/// How rare a byte is in log text; the rarest three mark a word.
fn rarity(c: u8) -> u32 {
    match c {
        b'e' | b't' | b'a' | b'o' | b'i' | b'n' | b's' | b'r' => 1,
        b'l' | b'd' | b'c' | b'u' | b'm' | b'p' => 2,
        b' ' => 2,
        b'a'..=b'z' => 4,
        b'-' | b'.' | b':' | b'=' | b'"' | b'_' => 5,
        _ => 7,
    }
}

fn slot(three: u32) -> usize {
    // the upper bits of a product depend on all three bytes
    (three.wrapping_mul(0x9e37_79b1) >> (32 - BITS.trailing_zeros())) as usize
}

/// Three bytes, the first lowest, as they are compared: letters without case.
fn folded(three: u32) -> u32 {
    three & 0xff_ffff | 0x20_2020
}

fn packed([a, b, c]: [u8; 3]) -> u32 {
    folded(u32::from_le_bytes([a, b, c, 0]))
}

impl Cues {
    pub fn new() -> Cues {
        let words = users::CUES.iter().copied().chain(secrets::TOKENS.iter().map(|t| t.0));
        let words: Vec<&'static [u8]> = words.map(str::as_bytes).collect();
        let mut seen = Box::new([0_u64; BITS / 64]);
        let mut marks = Vec::new();
        for (word, text) in words.iter().enumerate() {
            let threes = text.windows(3).filter_map(|w| w.first_chunk::<3>().copied()).enumerate();
            let rarest =
                threes.max_by_key(|(_, t)| t.iter().map(|c| rarity(c.to_ascii_lowercase())).sum::<u32>());
            let Some((offset, three)) = rarest else { continue };
            marks.push(Mark { three: packed(three), of: Some((offset, word)) });
        }
        marks.extend(FOLDERS.iter().map(|f| Mark { three: packed(**f), of: None }));
        marks.sort_by_key(|m| m.three);
        for mark in &marks {
            let at = slot(mark.three);
            if let Some(bits) = seen.get_mut(at / 64) {
                *bits |= 1 << (at % 64);
            }
        }
        Cues { words, seen, marks }
    }

    /// Every word in a text, by place and then by index. Returns whether the text can hold the
    /// path of a home.
    pub fn find(&self, b: &[u8], out: &mut Vec<Hit>) -> bool {
        out.clear();
        let mut home = b.len() < 3;
        let mut each = |at: usize, three: u32| {
            let slot = slot(three);
            if self.seen[slot / 64 % (BITS / 64)] >> (slot % 64) & 1 != 0 {
                home |= self.look(b, at, three, out);
            }
        };
        // four bytes are one load; each place by itself, so that none waits for the one before
        for (at, four) in b.windows(4).enumerate() {
            each(at, folded(u32::from_le_bytes(four.first_chunk().copied().unwrap_or_default())));
        }
        if let Some(last) = b.last_chunk::<3>() {
            each(b.len() - 3, packed(*last));
        }
        if out.len() > 1 {
            out.sort_unstable();
        }
        home
    }

    /// Looks closer at a place; whether it is a folder that homes are in.
    #[cold]
    fn look(&self, b: &[u8], at: usize, three: u32, out: &mut Vec<Hit>) -> bool {
        let first = self.marks.partition_point(|m| m.three < three);
        let mut home = false;
        for mark in self.marks.iter().skip(first).take_while(|m| m.three == three) {
            let Some((offset, word)) = mark.of else {
                home = true;
                continue;
            };
            let Some(start) = at.checked_sub(offset) else { continue };
            let text = self.words.get(word).copied().unwrap_or_default();
            if b.get(start..).is_some_and(|r| r.starts_with(text)) {
                out.push(Hit { start, word });
            }
        }
        home
    }

    /// Length of a word.
    pub fn len(&self, word: usize) -> usize {
        self.words.get(word).map_or(1, |w| w.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_found_wherever_it_stands() {
        let cues = Cues::new();
        let mut hits = Vec::new();
        for (n, word) in cues.words.iter().enumerate() {
            for front in ["", "x", "some text in front of it: "] {
                let text = [front.as_bytes(), word, b"and more"].concat();
                cues.find(&text, &mut hits);
                assert!(
                    hits.contains(&Hit { start: front.len(), word: n }),
                    "{}",
                    String::from_utf8_lossy(&text)
                );
            }
        }
        for text in ["", "a", "ab", "an ordinary line of a log, with numbers 17 and 4"] {
            let home = cues.find(text.as_bytes(), &mut hits);
            assert!(hits.is_empty() && (!home || text.len() < 3), "{text}");
        }
        for text in ["/home/ada", r"C:\USERS\ada", r"c:\Documents and Settings\ada", "x/Users/ada"] {
            assert!(cues.find(text.as_bytes(), &mut hits), "{text}");
        }
    }
}
