//! Checked little-endian reads.

/// The `N` bytes at `at`, if they are there.
pub(crate) fn array<const N: usize>(b: &[u8], at: usize) -> Option<[u8; N]> {
    b.get(at..)?.first_chunk().copied()
}

pub(crate) fn u8_at(b: &[u8], at: usize) -> Option<u8> {
    b.get(at).copied()
}

pub(crate) fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    array(b, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    array(b, at).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    array(b, at).map(u64::from_le_bytes)
}

/// The UTF-16 text at the start of `b` up to its NUL (or all of it) and the bytes it
/// takes with the NUL. A lone last byte is not part of the text.
pub(crate) fn utf16z(b: &[u8]) -> (&[u8], usize) {
    // Four units at a time, as far as none is zero.
    let zero_free = |w: &&[u8; 8]| {
        let n = u64::from_le_bytes(**w);
        n.wrapping_sub(0x0001_0001_0001_0001) & !n & 0x8000_8000_8000_8000 == 0
    };
    let clear = 8 * b.as_chunks::<8>().0.iter().take_while(zero_free).count();
    let tail = b.get(clear..).unwrap_or_default();
    match tail.chunks_exact(2).position(|c| c == [0, 0]).map(|n| n + clear / 2) {
        Some(n) => (b.get(..2 * n).unwrap_or_default(), 2 * n + 2),
        None => (b.get(..b.len() & !1).unwrap_or_default(), b.len()),
    }
}

/// UTF-16LE to text; lone surrogates become U+FFFD.
pub(crate) fn utf16_text(b: &[u8]) -> String {
    char::decode_utf16(b.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])))
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

/// Rounds up to a multiple of 8.
pub(crate) fn align8(n: usize) -> usize {
    n.saturating_add(7) & !7
}
