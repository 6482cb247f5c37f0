//! Which telemetry level each event of a block has.

use crate::PerLevel;

/// The level of each event of an encoded [`tidegate_proto::pb::Block`], in order. Where the
/// bytes do not agree with `totals`, the events count as sorted by level: sums stay right.
pub(crate) fn of_events(data: &[u8], totals: &PerLevel) -> Box<[u8]> {
    let mut found = [0u64; 4];
    if let Some(levels) = scan(data) {
        for l in &levels {
            if let Some(n) = found.get_mut(usize::from(*l)) {
                *n += 1;
            }
        }
        if found == *totals {
            return levels.into();
        }
    }
    sorted(totals)
}

/// Events sorted by level, for blocks whose bytes are not to be had.
pub(crate) fn sorted(totals: &PerLevel) -> Box<[u8]> {
    (0u8..).zip(totals).flat_map(|(l, n)| std::iter::repeat_n(l, usize::try_from(*n).unwrap_or(0))).collect()
}

fn varint(data: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (b, rest) = data.split_first()?;
        *data = rest;
        n |= u64::from(b & 0x7f) << shift;
        if *b < 0x80 {
            return Some(n);
        }
    }
    None
}

/// Field number, and either the varint or the bytes of the next field.
fn field<'a>(data: &mut &'a [u8]) -> Option<(u64, u64, &'a [u8])> {
    let key = varint(data)?;
    let len = match key & 7 {
        0 => return Some((key >> 3, varint(data)?, &[])),
        1 => 8,
        2 => varint(data)?,
        5 => 4,
        _ => return None,
    };
    let (taken, rest) = data.split_at_checked(usize::try_from(len).ok()?)?;
    *data = rest;
    Some((key >> 3, 0, taken))
}

pub(crate) fn scan(mut data: &[u8]) -> Option<Vec<u8>> {
    const EVENTS: u64 = 3;
    const TELEMETRY_LEVEL: u64 = 17;
    let mut levels = Vec::new();
    while !data.is_empty() {
        let (number, _, mut event) = field(&mut data)?;
        if number != EVENTS {
            continue;
        }
        let mut level = u8::MAX;
        while !event.is_empty() {
            let (number, value, _) = field(&mut event)?;
            if number == TELEMETRY_LEVEL {
                level = u8::try_from(value.checked_sub(1)?).ok()?;
            }
        }
        levels.push(level);
    }
    Some(levels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::block;

    #[test]
    fn levels_are_read_from_the_encoded_events() {
        let b = block(&[3, 0, 2, 3], 1);
        assert_eq!(&of_events(&b.data, &b.levels)[..], [3, 0, 2, 3]);
    }

    #[test]
    fn bytes_that_disagree_with_the_totals_count_as_sorted() {
        assert_eq!(&of_events(b"no block", &[1, 0, 2, 1])[..], [0, 2, 2, 3]);
        let b = block(&[3, 2], 1);
        assert_eq!(&of_events(&b.data, &[0, 0, 0, 2])[..], [3, 3]);
    }
}
