//! Plain LZ77.

use super::{CompressError, Input, copy_match};

pub(super) fn expand(input: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), CompressError> {
    out.reserve(len);
    let mut input = Input(input);
    let (mut flags, mut flags_left) = (0_u32, 0);
    // Two matches share a byte of length: the first takes the low half, the second this one.
    let mut half = None;
    while out.len() < len {
        if flags_left == 0 {
            flags = input.u32()?;
            flags_left = 32;
        }
        let is_match = flags & 1 << 31 != 0;
        flags <<= 1;
        flags_left -= 1;
        if !is_match {
            out.push(input.u8()?);
            continue;
        }
        let token = input.u16()?;
        let distance = usize::from(token >> 3) + 1;
        let mut length = u32::from(token & 7);
        if length == 7 {
            let nibble = match half.take() {
                Some(high) => high,
                None => {
                    let byte = input.u8()?;
                    half = Some(byte >> 4);
                    byte & 15
                }
            };
            length = 7 + u32::from(nibble);
            if nibble == 15 {
                let byte = input.u8()?;
                length = 22 + u32::from(byte);
                if byte == 255 {
                    // From here on the number is the whole length, not an addition.
                    length = match input.u16()? {
                        0 => input.u32()?,
                        n => u32::from(n),
                    };
                    if length < 22 {
                        return Err(CompressError::Length);
                    }
                }
            }
        }
        copy_match(out, distance, length.saturating_add(3) as usize, len)?;
    }
    Ok(())
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
