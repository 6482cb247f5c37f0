//! Plain LZ77.

use super::{CompressError, Input};

/// Bytes behind the output that may be written in passing, as whole steps are copied.
const SLACK: usize = 32;
/// No flag is left.
const LAST: u64 = 1 << 63;
/// The output grows by this at least.
const GROW: usize = 64 << 10;

/// Expands into `out`; what was in it goes.
pub(super) fn expand(input: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), CompressError> {
    let mut output = Output { out, at: 0, len };
    let result = output.expand(Input(input));
    let at = output.at;
    out.truncate(at);
    result
}

struct Output<'o> {
    /// Longer than what is written; keeping the former content saves filling it anew.
    out: &'o mut Vec<u8>,
    /// Bytes written, at most `len`.
    at: usize,
    len: usize,
}

impl Output<'_> {
    fn expand(&mut self, mut input: Input<'_>) -> Result<(), CompressError> {
        // The flags still to come, the next one highest; a set bit ends them.
        let mut flags = LAST;
        // Two matches share a byte of length: the first takes the low half, the second this one.
        let mut half = None;
        while self.at < self.len {
            if flags == LAST {
                flags = u64::from(input.u32()?) << 32 | LAST >> 32;
            }
            // How many literals come is hard to guess for a processor: none is not a case of its own.
            let literals = flags.leading_zeros();
            flags <<= literals;
            self.literals(&mut input, literals as usize)?;
            if flags == LAST || self.at == self.len {
                continue;
            }
            flags <<= 1;
            let token = input.u16()?;
            let distance = usize::from(token >> 3) + 1;
            let mut length = u32::from(token & 7);
            if length == 7 {
                length = long_length(&mut input, &mut half)?;
            }
            self.repeat(distance, length.saturating_add(3) as usize)?;
        }
        Ok(())
    }

    /// Makes room for `n` more bytes and some in passing.
    #[inline]
    fn room(&mut self, n: usize) {
        let needed = self.at + n + SLACK;
        if self.out.len() < needed {
            self.out.resize(needed.max(self.len.min(self.at + GROW) + SLACK), 0);
        }
    }

    /// Copies the first `N` bytes from `from` of the output to `to`.
    #[inline]
    fn step<const N: usize>(&mut self, from: usize, to: usize) {
        let taken = self.out.get(from..).and_then(|b| b.first_chunk::<N>()).copied();
        let place = self.out.get_mut(to..).and_then(|b| b.first_chunk_mut::<N>());
        if let (Some(taken), Some(place)) = (taken, place) {
            *place = taken;
        }
    }

    /// Takes up to 32 bytes of the input over.
    #[inline]
    fn literals(&mut self, input: &mut Input<'_>, n: usize) -> Result<(), CompressError> {
        let n = n.min(self.len - self.at);
        self.room(n);
        let place = self.out.get_mut(self.at..).unwrap_or_default();
        // A copy of fixed size is cheaper than one of the right size.
        if let (Some(to), Some(from)) = (place.first_chunk_mut::<SLACK>(), input.0.first_chunk::<SLACK>()) {
            *to = *from;
        } else {
            place.iter_mut().zip(input.0).take(n).for_each(|(to, from)| *to = *from);
        }
        let there = n.min(input.0.len());
        self.at += there;
        input.0 = input.0.get(there..).unwrap_or_default();
        if there < n { Err(CompressError::InputEnds) } else { Ok(()) }
    }

    /// Repeats what lies `distance` back.
    #[inline]
    fn repeat(&mut self, distance: usize, length: usize) -> Result<(), CompressError> {
        let start = self.at.checked_sub(distance).ok_or(CompressError::Distance)?;
        let end = self.at + length.min(self.len - self.at);
        self.room(end - self.at);
        let mut to = self.at;
        if distance >= 16 {
            // Most are short: they take no decision.
            self.step::<16>(start, to);
            self.step::<16>(start + 16, to + 16);
            let mut from = start + 32;
            to += 32;
            while to < end {
                self.step::<16>(from, to);
                (from, to) = (from + 16, to + 16);
            }
        } else {
            // What overlaps repeats its period: once a few periods stand there, eight bytes are
            // copied at a time from a whole number of them back.
            let periods = distance * 8_usize.div_ceil(distance);
            let slow = end.min(self.at + periods - distance);
            while to < slow {
                self.step::<1>(to - distance, to);
                to += 1;
            }
            while to < end {
                self.step::<8>(to - periods, to);
                to += 8;
            }
        }
        self.at = end;
        Ok(())
    }
}

/// The length of a match whose token has no room for it.
fn long_length(input: &mut Input<'_>, half: &mut Option<u8>) -> Result<u32, CompressError> {
    let nibble = match half.take() {
        Some(high) => high,
        None => {
            let byte = input.u8()?;
            *half = Some(byte >> 4);
            byte & 15
        }
    };
    if nibble < 15 {
        return Ok(7 + u32::from(nibble));
    }
    let byte = input.u8()?;
    if byte < 255 {
        return Ok(22 + u32::from(byte));
    }
    // From here on the number is the whole length, not an addition.
    let length = match input.u16()? {
        0 => input.u32()?,
        n => u32::from(n),
    };
    if length < 22 { Err(CompressError::Length) } else { Ok(length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(input: &[u8], len: usize) -> Result<Vec<u8>, CompressError> {
        let mut out = Vec::new();
        expand(input, len, &mut out).map(|()| out)
    }

    /// The two examples of \[MS-XCA\].
    #[test]
    fn published_examples() {
        let mut input = vec![0x3f, 0, 0, 0];
        input.extend(b'a'..=b'z');
        assert_eq!(expanded(&input, 26).unwrap(), (b'a'..=b'z').collect::<Vec<_>>());
        let input = [0xff, 0xff, 0xff, 0x1f, b'a', b'b', b'c', 0x17, 0, 0x0f, 0xff, 0x26, 0x01];
        assert_eq!(expanded(&input, 300).unwrap(), b"abc".repeat(100));
    }

    /// As the format is described, a byte at a time.
    fn plainly(distance: usize, length: usize, before: &[u8]) -> Vec<u8> {
        let mut out = before.to_vec();
        for _ in 0..length {
            out.push(out[out.len() - distance]);
        }
        out
    }

    #[test]
    fn matches_of_every_distance_and_length_repeat_byte_for_byte() {
        let before: Vec<u8> = (1..=40).collect();
        let mut out = vec![0xAA; 7];
        for distance in 1..=40 {
            for length in 3..=70_u16 {
                let mut input = vec![0, 0, 0, 0];
                input.extend(&before[..32]);
                // Eight more literals, then the match.
                input.extend((1_u32 << 23).to_le_bytes());
                input.extend(&before[32..]);
                let token = (distance as u16 - 1) << 3;
                match length - 3 {
                    n @ 0..7 => input.extend((token | n).to_le_bytes()),
                    n @ 7..22 => {
                        input.extend((token | 7).to_le_bytes());
                        input.push((n - 7) as u8);
                    }
                    n => {
                        input.extend((token | 7).to_le_bytes());
                        input.extend([15, (n - 22) as u8]);
                    }
                }
                let want = plainly(distance, length.into(), &before);
                expand(&input, want.len(), &mut out).unwrap();
                assert_eq!(out, want, "distance {distance}, length {length}");
                // A limit inside the match cuts it there.
                expand(&input, 42, &mut out).unwrap();
                assert_eq!(out, want[..42]);
            }
        }
        let mut too_far = vec![0, 0, 0, 0x40, b'a', 8, 0];
        assert_eq!(expanded(&too_far, 10), Err(CompressError::Distance));
        too_far[5] = 0;
        assert_eq!(expanded(&too_far, 4).unwrap(), b"aaaa");
    }

    #[test]
    fn what_came_before_the_damage_is_kept() {
        let mut out = vec![1; 100];
        assert_eq!(expand(&[0, 0, 0, 0, 7, 8, 9], 50, &mut out), Err(CompressError::InputEnds));
        assert_eq!(out, [7, 8, 9]);
        // A size that nothing is written for takes no memory.
        let mut out = Vec::new();
        assert_eq!(expand(&[0, 0], 16 << 20, &mut out), Err(CompressError::InputEnds));
        assert_eq!(out.capacity(), 0);
    }

    #[test]
    fn long_lengths_and_shared_halves() {
        // 'a', then three matches of distance 1: lengths 3+7+4, 3+7+2 (shared byte), 3+100 000.
        let mut input = vec![0, 0, 0, 0x70, b'a', 7, 0, 0x24, 7, 0, 7, 0, 0x0f, 255, 0, 0];
        input.extend(100_000_u32.to_le_bytes());
        assert_eq!(expanded(&input, 1 + 14 + 12 + 100_003).unwrap(), vec![b'a'; 1 + 14 + 12 + 100_003]);
        // The same cut anywhere is an error.
        for cut in 0..input.len() {
            assert_eq!(expanded(&input[..cut], 100_030), Err(CompressError::InputEnds), "{cut}");
        }
    }
}
