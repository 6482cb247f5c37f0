//! Sizes and times as people write them.

use std::time::Duration;

/// Reads a size in bytes: a number, or one with `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024) or
/// `kB`, `MB`, `GB`, `TB` (powers of 1000) behind it.
///
/// # Errors
/// What is wrong, in words.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(format!("\"{text}\" is no size; write it like 512KiB, 256MiB or 4GiB")),
    };
    scaled(number, factor)
        .ok_or_else(|| format!("\"{text}\" is no size; write it like 512KiB, 256MiB or 4GiB"))
}

/// Reads a length of time: a number with `ms`, `s`, `m`, `h` or `d` behind it.
///
/// # Errors
/// What is wrong, in words.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is no length of time; write it like 100ms, 30s, 15m, 12h or 7d");
    let (number, unit) = split(text);
    let ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    scaled(number, ms).map(Duration::from_millis).ok_or_else(wrong)
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    (number, unit.trim())
}

/// A decimal number times a factor, rounded down.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let number = number.replace('_', "");
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    let whole: u64 = whole.parse().ok()?;
    if fraction.len() > 9 {
        return None;
    }
    let part: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let ten = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = u64::try_from(u128::from(part) * u128::from(factor) / ten).ok()?;
    whole.checked_mul(factor)?.checked_add(part)
}

/// A size for people: `256 MiB`, `1.5 GiB`.
#[must_use]
pub fn show_bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    #[allow(clippy::cast_precision_loss)] // shown with one digit
    let mut value = n as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 { format!("{n} {name}") } else { format!("{value:.1} {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_as_people_write_them() {
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("256MiB"), Ok(256 << 20));
        assert_eq!(bytes("1.5 GiB"), Ok(3 << 29));
        assert_eq!(bytes("10kb"), Ok(10_000));
        assert_eq!(bytes("1_000"), Ok(1000));
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(duration("0.5s"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(604_800)));
        for bad in
            ["", "MiB", "-1", "5 parsecs", "1e9", "99999999999999999999", "99999999999TiB", "1.2.3s", "30"]
        {
            assert!(duration(bad).is_err(), "{bad}");
            assert!(bad == "30" || bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(show_bytes(1536), "1.5 KiB");
        assert_eq!(show_bytes(12), "12 B");
    }
}
