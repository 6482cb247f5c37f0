//! GUIDs as ETW keeps them: fields 1 to 3 little-endian, then eight bytes.

/// Offsets of the stored bytes in text order.
const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

/// Appends the 36-character lower-case form.
pub fn write(out: &mut Vec<u8>, guid: &[u8; 16]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for (n, at) in ORDER.into_iter().enumerate() {
        if matches!(n, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.push(HEX[usize::from(guid[at] >> 4)]);
        out.push(HEX[usize::from(guid[at] & 15)]);
    }
}

/// The 36-character lower-case form.
#[must_use]
pub fn format(guid: &[u8; 16]) -> String {
    let mut out = Vec::with_capacity(36);
    write(&mut out, guid);
    String::from_utf8(out).unwrap_or_default()
}

/// Reads the 36-character form, with or without braces, in any case.
#[must_use]
pub fn parse(text: &str) -> Option<[u8; 16]> {
    let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
    let bytes = text.as_bytes();
    if bytes.len() != 36 {
        return None;
    }
    let mut guid = [0; 16];
    let mut at = 0;
    for (n, slot) in ORDER.into_iter().enumerate() {
        if matches!(n, 4 | 6 | 8 | 10) {
            if bytes[at] != b'-' {
                return None;
            }
            at += 1;
        }
        let digit = |b: u8| char::from(b).to_digit(16);
        guid[slot] = u8::try_from(digit(bytes[at])? << 4 | digit(bytes[at + 1])?).ok()?;
        at += 2;
    }
    Some(guid)
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_and_bytes_agree() {
        let text = "d3dd3dd4-aac2-4e2a-8dd4-a8fb61b77615";
        let guid = super::parse(text).unwrap();
        assert_eq!(guid[..4], [0xd4, 0x3d, 0xdd, 0xd3]);
        assert_eq!(super::format(&guid), text);
        assert_eq!(super::parse(&format!("{{{}}}", text.to_uppercase())), Some(guid));
        assert_eq!(super::parse("d3dd3dd4"), None);
        assert_eq!(super::parse("d3dd3dd4xaac2-4e2a-8dd4-a8fb61b77615"), None);
        assert_eq!(super::parse("é3dd3dd4-aac2-4e2a-8dd4-a8fb61b7761"), None);
    }
}
