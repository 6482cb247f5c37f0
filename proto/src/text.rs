//! Text of other encodings into UTF-8.

/// Bytes that were checked when they were written; empty if they were not.
#[inline]
pub(crate) fn checked(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Appends UTF-16LE text. Lone surrogates and an odd last byte become U+FFFD.
pub(crate) fn push_utf16(out: &mut Vec<u8>, le: &[u8]) {
    let mut rest = le;
    out.reserve(le.len() / 2);
    // most text of events is ASCII: eight units at a time
    while let Some((chunk, after)) = rest.split_first_chunk::<16>() {
        if u128::from_le_bytes(*chunk) & 0xff80_ff80_ff80_ff80_ff80_ff80_ff80_ff80 != 0 {
            break;
        }
        let mut low = [0; 8];
        for (slot, unit) in low.iter_mut().zip(chunk.chunks_exact(2)) {
            *slot = unit[0];
        }
        out.extend_from_slice(&low);
        rest = after;
    }
    let (units, odd) = rest.as_chunks::<2>();
    let mut utf8 = [0; 4];
    for c in char::decode_utf16(units.iter().map(|u| u16::from_le_bytes(*u))) {
        let c = c.unwrap_or(char::REPLACEMENT_CHARACTER);
        if c.is_ascii() {
            out.push(c as u8);
        } else {
            out.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
        }
    }
    if !odd.is_empty() {
        out.extend_from_slice(char::REPLACEMENT_CHARACTER.encode_utf8(&mut utf8).as_bytes());
    }
}

/// What 0x80 to 0x9f are in code page 1252; unassigned ones stay control characters.
const CP1252: [u16; 32] = [
    0x20ac, 0x81, 0x201a, 0x192, 0x201e, 0x2026, 0x2020, 0x2021, 0x2c6, 0x2030, 0x160, 0x2039, 0x152, 0x8d,
    0x17d, 0x8f, 0x90, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x2dc, 0x2122, 0x161, 0x203a,
    0x153, 0x9d, 0x17e, 0x178,
];

/// Appends text of Windows code page 1252.
pub(crate) fn push_cp1252(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.is_ascii() {
        return out.extend_from_slice(bytes);
    }
    let mut utf8 = [0; 4];
    for &b in bytes {
        let unit = CP1252.get(usize::from(b.wrapping_sub(0x80))).copied().unwrap_or(u16::from(b));
        let c = char::from_u32(u32::from(unit)).unwrap_or(char::REPLACEMENT_CHARACTER);
        out.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn utf16_of_every_shape() {
        for text in ["", "a", "plain ascii that is long", "ascii, then ä and 🌊 and more", "日本語テキスト"]
        {
            let mut out = b"x".to_vec();
            push_utf16(&mut out, &wide(text));
            assert_eq!(out, format!("x{text}").into_bytes());
        }
        let mut out = Vec::new();
        push_utf16(&mut out, &[0x00, 0xd8, b'a', 0, 7]);
        assert_eq!(String::from_utf8(out).unwrap(), "\u{fffd}a\u{fffd}");
    }

    #[test]
    fn cp1252_of_every_byte() {
        let mut out = Vec::new();
        push_cp1252(&mut out, &(0..=255).collect::<Vec<u8>>());
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.chars().count(), 256);
        assert_eq!(text.chars().nth(0x80), Some('€'));
        assert_eq!(text.chars().nth(0xe4), Some('ä'));
    }
}
