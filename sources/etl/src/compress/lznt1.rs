//! LZNT1: chunks of 4 KiB, each compressed on its own.

use super::{CompressError, Input, copy_match};

const CHUNK: usize = 4096;

pub(super) fn expand(input: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), CompressError> {
    out.reserve(len);
    let mut input = Input(input);
    while out.len() < len {
        let header = input.u16()?;
        if header == 0 {
            return Err(CompressError::InputEnds);
        }
        let size = usize::from(header & 0xFFF) + 1;
        let (chunk, rest) = input.0.split_at(size.min(input.0.len()));
        let whole = chunk.len() == size;
        input.0 = rest;
        if header & 0x8000 == 0 {
            out.extend_from_slice(chunk.get(..chunk.len().min(len - out.len())).unwrap_or_default());
        } else {
            expand_chunk(chunk, len, out)?;
        }
        if !whole && out.len() < len {
            return Err(CompressError::InputEnds);
        }
    }
    Ok(())
}

fn expand_chunk(chunk: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), CompressError> {
    let start = out.len();
    let end = len.min(start + CHUNK);
    let mut input = Input(chunk);
    while out.len() < end && !input.0.is_empty() {
        let mut flags = input.u8()?;
        for _ in 0..8 {
            if out.len() >= end || input.0.is_empty() {
                break;
            }
            if flags & 1 == 0 {
                out.push(input.u8()?);
            } else {
                let token = input.u16()?;
                // The further into the chunk, the more of the 16 bits are distance.
                let done = out.len() - start;
                let mut length_bits = 12;
                while length_bits > 4 && done > 1 << (16 - length_bits) {
                    length_bits -= 1;
                }
                let length = usize::from(token & ((1 << length_bits) - 1)) + 3;
                let distance = usize::from(token >> length_bits) + 1;
                if distance > done {
                    return Err(CompressError::Distance);
                }
                copy_match(out, distance, length, end)?;
            }
            flags >>= 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of \[MS-XCA\].
    #[test]
    fn published_example() {
        let input = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2, 0x47, 0x01,
            0xa0, 0x45, 0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0, 0x45, 0x20, 0x05, 0x24,
            0x13, 0x88, 0x05, 0xb4, 0x02, 0x4a, 0x44, 0xef, 0x03, 0x58, 0x02, 0x8c, 0x09, 0x16, 0x01, 0x48,
            0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00, 0x04, 0x01, 0x18, 0x90, 0x00,
        ];
        let text =
            b"F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D \
                     E F# G F# E D E A F# F# G A A G F# E D D E F# E D D\0";
        let mut out = Vec::new();
        expand(&input, text.len(), &mut out).unwrap();
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(text));
    }

    #[test]
    fn stored_chunks_and_long_runs() {
        // A stored chunk of 3 bytes, then 'z' with one match of 4095 bytes.
        let input = [0x02, 0x30, b'x', b'y', b'w', 0x03, 0xb0, 0x02, b'z', 0xfc, 0x0f];
        let mut expected = b"xyw".to_vec();
        expected.extend([b'z'; 4096]);
        let mut out = Vec::new();
        expand(&input, expected.len(), &mut out).unwrap();
        assert_eq!(out, expected);
        assert_eq!(expand(&input[..9], 50, &mut Vec::new()), Err(CompressError::InputEnds));
    }
}
