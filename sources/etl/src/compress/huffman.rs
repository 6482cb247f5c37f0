//! LZ77 with Huffman codes: blocks of 64 KiB of output, each with its own code table.

use super::{CompressError, Input, copy_match};

const SYMBOLS: usize = 512;
const TABLE_BYTES: usize = SYMBOLS / 2;
const BLOCK: usize = 65_536;
const MAX_BITS: usize = 15;

pub(super) fn expand(input: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), CompressError> {
    out.reserve(len);
    let mut input = Input(input);
    let mut codes = vec![Code::default(); 1 << MAX_BITS];
    while out.len() < len {
        let (table, rest) = input.0.split_first_chunk::<TABLE_BYTES>().ok_or(CompressError::InputEnds)?;
        input.0 = rest;
        fill(table, &mut codes)?;
        let end = len.min((out.len() / BLOCK + 1) * BLOCK);
        expand_block(&mut input, &codes, end, len, out)?;
    }
    Ok(())
}

/// What a 15-bit prefix of the input means.
#[derive(Clone, Copy, Default)]
struct Code {
    symbol: u16,
    bits: u8,
}

/// Spreads the canonical code of `table` (a 4-bit length per symbol) over all prefixes.
fn fill(table: &[u8; TABLE_BYTES], codes: &mut [Code]) -> Result<(), CompressError> {
    let mut at = 0;
    for bits in 1..=MAX_BITS as u8 {
        for symbol in 0..SYMBOLS as u16 {
            let pair = table[usize::from(symbol / 2)];
            let length = if symbol % 2 == 0 { pair & 15 } else { pair >> 4 };
            if length == bits {
                let n = 1 << (MAX_BITS - usize::from(bits));
                codes.get_mut(at..at + n).ok_or(CompressError::Table)?.fill(Code { symbol, bits });
                at += n;
            }
        }
    }
    if at == codes.len() { Ok(()) } else { Err(CompressError::Table) }
}

/// The next bits, most significant first, filled in 16-bit words.
struct Bits {
    word: u32,
    extra: i32,
}

impl Bits {
    fn skip(&mut self, n: u8, input: &mut Input<'_>) {
        self.word = self.word.checked_shl(u32::from(n)).unwrap_or(0);
        self.extra -= i32::from(n);
        if self.extra < 0 {
            // Behind the last word come zero bits; the output is full before they matter.
            let next = input.u16().unwrap_or_else(|_| {
                input.0 = &[];
                0
            });
            self.word |= u32::from(next) << -self.extra;
            self.extra += 16;
        }
    }
}

fn expand_block(
    input: &mut Input<'_>,
    codes: &[Code],
    end: usize,
    len: usize,
    out: &mut Vec<u8>,
) -> Result<(), CompressError> {
    let word = u32::from(input.u16()?) << 16;
    let mut bits = Bits { word: word | u32::from(input.u16()?), extra: 16 };
    // Zero bits behind the input may go on for as long as one word could, not for ever.
    let mut past_end = 0;
    while out.len() < end {
        let code = codes.get((bits.word >> 17) as usize).copied().ok_or(CompressError::Table)?;
        if input.0.is_empty() {
            past_end += u32::from(code.bits);
            if past_end > 48 {
                return Err(CompressError::InputEnds);
            }
        }
        bits.skip(code.bits, input);
        let Some(token) = code.symbol.checked_sub(256) else {
            out.push(code.symbol as u8);
            continue;
        };
        let mut length = u32::from(token & 15);
        if length == 15 {
            let byte = input.u8()?;
            length = 15 + u32::from(byte);
            if byte == 255 {
                length = match input.u16()? {
                    0 => input.u32()?,
                    n => u32::from(n),
                };
                if length < 15 {
                    return Err(CompressError::Length);
                }
            }
        }
        let distance_bits = (token >> 4) as u8;
        let low = if distance_bits == 0 { 0 } else { bits.word >> (32 - u32::from(distance_bits)) };
        bits.skip(distance_bits, input);
        let distance = (1_usize << distance_bits) + low as usize;
        copy_match(out, distance, length.saturating_add(3) as usize, len)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of \[MS-XCA\]: the alphabet as literals, and a long match.
    #[test]
    fn published_examples() {
        let mut input = vec![0; TABLE_BYTES];
        input[0x30] = 0x50;
        input[0x31..0x3b].fill(0x55);
        input[0x3b..0x3e].copy_from_slice(&[0x45, 0x44, 0x04]);
        input[0x80] = 0x04;
        input.extend([0xd8, 0x52, 0x3e, 0xd7, 0x94, 0x11, 0x5b, 0xe9, 0x19, 0x5f, 0xf9, 0xd6]);
        input.extend([0x7c, 0xdf, 0x8d, 0x04, 0, 0, 0, 0]);
        let mut out = Vec::new();
        expand(&input, 26, &mut out).unwrap();
        assert_eq!(out, (b'a'..=b'z').collect::<Vec<_>>());

        // a and b of 3 bits, c of 2, the end and the match (distance bits 1, long length) of 2 or 3.
        let mut input = vec![0; TABLE_BYTES];
        input[0x30] = 0x30;
        input[0x31] = 0x23;
        input[0x80] = 0x02;
        input[0x8f] = 0x20;
        input.extend([0xa8, 0xdc, 0, 0, 0xff, 0x26, 0x01]);
        let mut out = Vec::new();
        expand(&input, 300, &mut out).unwrap();
        assert_eq!(out, b"abc".repeat(100));
    }

    #[test]
    fn damaged_tables_are_refused() {
        for fill in [0x00, 0x11, 0x8f] {
            let mut input = vec![fill; TABLE_BYTES];
            input.extend([0; 8]);
            assert_eq!(expand(&input, 10, &mut Vec::new()), Err(CompressError::Table));
        }
        assert_eq!(expand(&[0; 100], 10, &mut Vec::new()), Err(CompressError::InputEnds));
    }
}
