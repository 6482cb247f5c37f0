//! The compressions a buffer may use: those of `RtlCompressBuffer`, written from the
//! published description \[MS-XCA\].

mod huffman;
mod lznt1;
mod xpress;

/// Format of a trace's compressed buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// LZNT1 (2).
    Lznt1,
    /// Plain LZ77 (3): what Windows writes.
    Xpress,
    /// LZ77 with Huffman codes (4).
    XpressHuffman,
}

/// Why compressed bytes cannot be expanded. The output before the damage is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressError {
    /// The input ends early.
    #[error("input ends early")]
    InputEnds,
    /// A match reaches back before the start.
    #[error("a match reaches before the start")]
    Distance,
    /// A match length that no encoder writes.
    #[error("impossible match length")]
    Length,
    /// The code lengths make no prefix code.
    #[error("damaged code table")]
    Table,
}

impl Compression {
    /// The format of a number, if it is one.
    #[must_use]
    pub fn from_u16(n: u16) -> Option<Compression> {
        match n {
            2 => Some(Self::Lznt1),
            3 => Some(Self::Xpress),
            4 => Some(Self::XpressHuffman),
            _ => None,
        }
    }

    /// Expands `input` into `out` (what was in it goes) until `len` bytes are out; more input is
    /// ignored. On error `out` holds what came before the damage, never more than `len` bytes.
    pub fn expand(self, input: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), CompressError> {
        if self != Self::Xpress {
            out.clear();
        }
        match self {
            Self::Lznt1 => lznt1::expand(input, len, out),
            Self::Xpress => xpress::expand(input, len, out),
            Self::XpressHuffman => huffman::expand(input, len, out),
        }
    }
}

/// The bytes still to be read.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn u8(&mut self) -> Result<u8, CompressError> {
        let (n, rest) = self.0.split_first().ok_or(CompressError::InputEnds)?;
        self.0 = rest;
        Ok(*n)
    }

    fn u16(&mut self) -> Result<u16, CompressError> {
        let (n, rest) = self.0.split_first_chunk().ok_or(CompressError::InputEnds)?;
        self.0 = rest;
        Ok(u16::from_le_bytes(*n))
    }

    fn u32(&mut self) -> Result<u32, CompressError> {
        let (n, rest) = self.0.split_first_chunk().ok_or(CompressError::InputEnds)?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*n))
    }
}

/// Repeats `len` bytes from `distance` back, at most up to `limit` bytes of output.
fn copy_match(out: &mut Vec<u8>, distance: usize, len: usize, limit: usize) -> Result<(), CompressError> {
    let start = out.len().checked_sub(distance).filter(|_| distance > 0).ok_or(CompressError::Distance)?;
    let mut left = len.min(limit.saturating_sub(out.len()));
    // An overlapping match repeats its period: each round doubles what can be copied at once.
    while left > 0 {
        let n = left.min(out.len() - start);
        out.extend_from_within(start..start + n);
        left -= n;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_matches_repeat() {
        let mut out = b"xabc".to_vec();
        copy_match(&mut out, 3, 8, 100).unwrap();
        assert_eq!(out, b"xabcabcabcab");
        copy_match(&mut out, 1, 50, 14).unwrap();
        assert_eq!(out, b"xabcabcabcabbb");
        assert_eq!(copy_match(&mut out, 15, 1, 100), Err(CompressError::Distance));
        assert_eq!(copy_match(&mut out, 0, 1, 100), Err(CompressError::Distance));
    }

    /// No input makes an expander panic or write past its limit.
    #[test]
    fn noise_is_survived() {
        let mut seed = 0x5EED_0001_u64;
        println!("seed {seed:#x}");
        let mut next = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let mut out = Vec::new();
        for round in 0..3_000_usize {
            let input: Vec<u8> = (0..round % 600).map(|_| (next() >> (next() % 40)) as u8).collect();
            for format in [Compression::Lznt1, Compression::Xpress, Compression::XpressHuffman] {
                let _ = format.expand(&input, 5_000, &mut out);
                assert!(out.len() <= 5_000);
            }
        }
    }
}
