//! GUIDs that providers make of their names.

use tidegate_proto::guid;

/// The namespace of provider names, in the order of its text. Source: the documentation of
/// .NET's EventSource, which TraceLogging follows.
const NAMESPACE: [u8; 16] =
    [0x48, 0x2c, 0x2d, 0xb2, 0xc3, 0x90, 0x47, 0xc8, 0x87, 0xf8, 0x1a, 0x15, 0xbf, 0xc1, 0x30, 0xfb];

/// Provider groups that have a name. Source: TraceLogging's provider headers (the groups of
/// Windows telemetry and of the Aria pipeline).
const GROUPS: [(&str, &str); 3] = [
    ("windows-telemetry", "4f50731a-89cf-4782-b3e0-dce8c90476ba"),
    ("windows-core", "c7de053a-0c2e-4a44-91a2-5222ec2ecdf1"),
    ("aria", "780dddc8-18a1-5781-895a-a690464fa89c"),
];

/// The GUID of a provider group by its name.
pub(crate) fn group_of_name(name: &str) -> Option<[u8; 16]> {
    let (_, guid) = GROUPS.iter().find(|(known, _)| *known == name)?;
    guid::parse(guid)
}

/// The GUID that a TraceLogging or EventSource provider makes of its name: SHA-1 of the
/// namespace and the name in upper case UTF-16BE.
#[must_use]
pub fn guid_of_name(name: &str) -> [u8; 16] {
    let mut bytes = NAMESPACE.to_vec();
    for unit in name.to_uppercase().encode_utf16() {
        bytes.extend_from_slice(&unit.to_be_bytes());
    }
    let hash = sha1(&bytes);
    let mut guid = [0; 16];
    guid.copy_from_slice(hash.first_chunk::<16>().unwrap_or(&[0; 16]));
    guid[7] = guid[7] & 0x0f | 0x50;
    guid
}

/// SHA-1 (FIPS 180-4). Not for security: the rule above asks for it.
fn sha1(data: &[u8]) -> [u8; 20] {
    let mut h: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    let mut padded = data.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend_from_slice(&(data.len() as u64 * 8).to_be_bytes());
    for block in padded.as_chunks::<64>().0 {
        let mut w = [0u32; 80];
        for (to, from) in w.iter_mut().zip(block.as_chunks::<4>().0) {
            *to = u32::from_be_bytes(*from);
        }
        for i in 16..80 {
            w[i] = (w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = h;
        for (i, w) in w.into_iter().enumerate() {
            let (f, k) = match i / 20 {
                0 => (b & c | !b & d, 0x5a82_7999),
                1 => (b ^ c ^ d, 0x6ed9_eba1),
                2 => (b & c | b & d | c & d, 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6),
            };
            let next = [a.rotate_left(5), f, e, k, w].into_iter().fold(0u32, u32::wrapping_add);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (h, n) in h.iter_mut().zip([a, b, c, d, e]) {
            *h = h.wrapping_add(n);
        }
    }
    let mut out = [0; 20];
    for (to, from) in out.as_chunks_mut::<4>().0.iter_mut().zip(h) {
        *to = from.to_be_bytes();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha1_of_the_standard_s_examples() {
        let hex = |data: &[u8]| sha1(data).iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(hex(b""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        let long = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        assert_eq!(hex(long), "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
    }

    #[test]
    fn a_provider_s_name_gives_its_guid() {
        // the example of the TraceLogging documentation
        let guid = guid_of_name("MyCompany.MyComponent");
        assert_eq!(guid::format(&guid), "ce5fa4ea-ab00-5402-8b76-9f76ac858fb5");
        assert_eq!(guid, guid_of_name("mycompany.mycomponent"));
    }
}
