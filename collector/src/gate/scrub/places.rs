//! Places on earth: pairs of decimal degrees, degrees with minutes and seconds,
//! and points as maps write them.

use super::Kind;
use super::find::{Found, at, before, word_before};

/// One decimal number with at least three places: value and end.
fn decimal(b: &[u8], start: usize) -> Option<(f64, usize)> {
    let sign = usize::from(matches!(at(b, start), b'-' | b'+'));
    let digits = |from: usize| {
        b.get(from..).map_or(0, |r| r.iter().take(20).take_while(|c| c.is_ascii_digit()).count())
    };
    let whole = digits(start + sign);
    let dot = start + sign + whole;
    if !(1..=3).contains(&whole) || at(b, dot) != b'.' {
        return None;
    }
    let places = digits(dot + 1);
    if places < 3 {
        return None;
    }
    let end = dot + 1 + places;
    let value = std::str::from_utf8(b.get(start..end)?).ok()?.parse().ok()?;
    Some((value, end))
}

/// `48.137154, 11.576124` where a run of digits begins at `digit`.
pub(super) fn pair(b: &[u8], digit: usize, run: usize) -> Option<Found> {
    if run > 3 || at(b, digit + run) != b'.' {
        return None;
    }
    let start = if matches!(before(b, digit), b'-' | b'+') { digit - 1 } else { digit };
    let joined = super::numbers::joined;
    if joined(before(b, start)) || before(b, start) == b'.' {
        return None;
    }
    // three numbers in a row are measurements: the one in front
    if let [.., b'0'..=b'9', b',' | b';'] = b.get(..start)?.trim_ascii_end() {
        return None;
    }
    let (first, first_end) = decimal(b, start)?;
    let behind = b.get(first_end..)?;
    let signs = behind.iter().take(4).take_while(|c| matches!(**c, b',' | b';' | b' ' | b'/')).count();
    // "lat 48.1372 long 11.5761"
    let named = [&b"long "[..], b"lon ", b"lng "]
        .iter()
        .find(|w| behind.get(signs..).is_some_and(|r| r.starts_with(w)))
        .map_or(0, |w| w.len());
    let second = first_end + signs + named;
    let (other, end) = decimal(b, second).filter(|_| (1..=3).contains(&signs))?;
    // well-known text has the longitude in front
    let point = word_before(b, start).eq_ignore_ascii_case(b"point");
    let (lat, lon) = if point { (other, first) } else { (first, other) };
    let alone = !joined(at(b, end)) && at(b, end) != b'.';
    // both with some precision, and not all zero
    let precise = first_end - start >= 6 && end - second >= 6;
    if lat.abs() > 90.0 || lon.abs() > 180.0 || !alone || !precise {
        return None;
    }
    // and the one behind; an accuracy, altitude or zoom has fewer places
    if matches!(at(b, end), b',' | b';') {
        let skip = 1 + usize::from(at(b, end + 1) == b' ');
        if decimal(b, end + skip).is_some() {
            return None;
        }
    }
    Some(Found { start, end, kind: Kind::Gps })
}

/// `48°08'14.0"N 11°34'31.0"E`
pub(super) fn degrees(b: &[u8], out: &mut Vec<Found>) {
    let mut from = 0;
    for sign in memchr::memmem::find_iter(b, "°".as_bytes()) {
        if sign < from {
            continue;
        }
        let len =
            b.get(..sign).map_or(0, |l| l.iter().rev().take(3).take_while(|c| c.is_ascii_digit()).count());
        let Some((_, first)) = one(b, sign - len).filter(|(ns, _)| *ns) else { continue };
        let gap = b
            .get(first..)
            .map_or(0, |r| r.iter().take(3).take_while(|c| matches!(c, b' ' | b',' | b';')).count());
        if let Some((false, end)) = one(b, first + gap) {
            out.push(Found { start: sign - len, end, kind: Kind::Gps });
            from = end;
        }
    }
}

/// One angle with its direction: whether north or south, and its end.
fn one(b: &[u8], start: usize) -> Option<(bool, usize)> {
    const MARKS: [&str; 7] = ["°", "'", "\"", "′", "″", "’", " "];
    let rest = b.get(start..)?;
    let mut i = 0;
    let mut seen = false;
    while i < 32 {
        let c = at(rest, i);
        if c.is_ascii_digit() || c == b'.' {
            i += 1;
        } else if let Some(mark) =
            MARKS.iter().find(|m| rest.get(i..).is_some_and(|r| r.starts_with(m.as_bytes())))
        {
            seen |= *mark == "°";
            i += mark.len();
        } else {
            break;
        }
    }
    let direction = at(rest, i);
    (seen && matches!(direction, b'N' | b'S' | b'E' | b'W') && !at(rest, i + 1).is_ascii_alphanumeric())
        .then_some((matches!(direction, b'N' | b'S'), start + i + 1))
}
