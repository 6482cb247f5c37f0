//! Names of the Windows telemetry keywords, event tags, field tags and privacy
//! tags, so that catalogues need no bare numbers.

/// Telemetry keywords: the name and its bit.
pub const KEYWORDS: &[(&str, u64)] = &[
    ("CRITICAL_DATA", 0x0000_8000_0000_0000),
    ("MEASURES", 0x0000_4000_0000_0000),
    ("TELEMETRY", 0x0000_2000_0000_0000),
    ("RESERVED_44", 0x0000_1000_0000_0000),
    ("WINEVENT_TELEMETRY", 0x0002_0000_0000_0000),
];

/// TraceLogging event tags.
pub const EVENT_TAGS: &[(&str, u64)] = &[
    ("DROP_USER_IDS", 0x0000_8000),
    ("AGGREGATE", 0x0001_0000),
    ("DROP_PII_EXCEPT_IP", 0x0002_0000),
    ("COSTDEFERRED_LATENCY", 0x0004_0000),
    ("CORE_DATA", 0x0008_0000),
    ("INJECT_XTOKEN", 0x0010_0000),
    ("REALTIME_LATENCY", 0x0020_0000),
    ("NORMAL_LATENCY", 0x0040_0000),
    ("CRITICAL_PERSISTENCE", 0x0080_0000),
    ("NORMAL_PERSISTENCE", 0x0100_0000),
    ("DROP_PII", 0x0200_0000),
    ("HASH_PII", 0x0400_0000),
    ("MARK_PII", 0x0800_0000),
];

/// TraceLogging field tags: other bits than the event tags of the same names.
pub const FIELD_TAGS: &[(&str, u64)] = &[("DROP_PII", 0x0400_0000), ("HASH_PII", 0x0800_0000)];

/// Privacy data types, the bits of `PartA_PrivTags`.
pub const PRIVACY_TAGS: &[(&str, u64)] = &[
    ("BrowsingHistory", 0x2),
    ("DeviceConnectivityAndConfiguration", 0x800),
    ("InkingTypingAndSpeechUtterance", 0x2_0000),
    ("ProductAndServicePerformance", 0x100_0000),
    ("ProductAndServiceUsage", 0x200_0000),
    ("SoftwareSetupAndInventory", 0x8000_0000),
];

/// The bits of a name or a number (`0x…` or decimal).
///
/// # Errors
/// A sentence that names what is allowed and, when one is near, what was meant.
pub fn bits(table: &[(&str, u64)], what: &str, text: &str) -> Result<u64, String> {
    if let Some((_, bits)) = table.iter().find(|(n, _)| n.eq_ignore_ascii_case(text)) {
        return Ok(*bits);
    }
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(&hex.replace('_', ""), 16).ok(),
        None => text.parse().ok(),
    };
    match number {
        Some(0) => Err(format!("{what} 0 matches nothing; leave the key out to match every event")),
        Some(n) => Ok(n),
        None => {
            let names = table.iter().map(|(n, _)| *n);
            let hint =
                suggest(text, names.clone()).map(|n| format!("did you mean {n}? ")).unwrap_or_default();
            let all = names.collect::<Vec<_>>().join(", ");
            Err(format!("unknown {what} \"{text}\"; {hint}known are {all}, or a number such as 0x2000"))
        }
    }
}

/// The nearest of some names, if one is near enough to have been meant.
pub fn suggest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = text.to_ascii_lowercase();
    names
        .into_iter()
        .map(|n| (strsim::damerau_levenshtein(&lower, &n.to_ascii_lowercase()), n))
        .min()
        .filter(|(far, n)| *far <= 1 + n.len() / 4)
        .map(|(_, n)| n)
}
