//! Bytes as hexadecimal digits.

/// Lower-case digits, two a byte.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from_digit(u32::from(n & 15), 16).unwrap_or('0');
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(*b)]).collect()
}

/// Reads exactly `N` bytes from two digits each, lower or upper case; nothing may stand around them.
#[must_use]
pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let value = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = value(high)? << 4 | value(low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_become_bytes_and_bytes_digits() {
        assert_eq!(encode(&[0, 0x7f, 0xa5]), "007fa5");
        assert_eq!(decode("007fA5"), Some([0, 0x7f, 0xa5]));
        assert_eq!(encode(&[]), "");
        for wrong in ["", "0", "007fa", "007fa5 ", "007fg5", "+07fa5", "00\u{e9}fa5", "0x7fa5"] {
            assert_eq!(decode::<3>(wrong), None, "{wrong}");
        }
    }
}
