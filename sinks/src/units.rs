//! Lengths of time and sizes in configurations, as people write them: `"30s"`, `"16MiB"`.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// A length of time: a number with `ms`, `s`, `m`, `h` or `d` behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// Whole seconds.
    #[must_use]
    pub const fn seconds(n: u64) -> Span {
        Span(Duration::from_secs(n))
    }
}

/// A size in bytes: a number, or text with `KiB`, `MiB`, `GiB` (powers of 1024) or `kB`, `MB`,
/// `GB` (powers of 1000) behind a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

fn scaled(text: &str, factor: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(at)?;
    number.parse::<u64>().ok()?.checked_mul(factor(unit.trim())?)
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Span, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time such as \"100ms\", \"30s\", \"15m\", \"12h\" or \"7d\"")
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Span, E> {
                let unit = |u: &str| match u {
                    "ms" => Some(1),
                    "s" => Some(1_000),
                    "m" | "min" => Some(60_000),
                    "h" => Some(3_600_000),
                    "d" => Some(86_400_000),
                    _ => None,
                };
                let ms = scaled(s, unit).ok_or_else(|| E::invalid_value(de::Unexpected::Str(s), &self))?;
                Ok(Span(Duration::from_millis(ms)))
            }
        }
        d.deserialize_str(Visitor)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Size, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 4096, \"512KiB\" or \"16MiB\"")
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Size, E> {
                Ok(Size(n))
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Size, E> {
                let wrong = |_| E::invalid_value(de::Unexpected::Signed(n), &self);
                u64::try_from(n).map(Size).map_err(wrong)
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Size, E> {
                let unit = |u: &str| match u.to_ascii_lowercase().as_str() {
                    "" | "b" => Some(1),
                    "kib" => Some(1 << 10),
                    "mib" => Some(1 << 20),
                    "gib" => Some(1 << 30),
                    "tib" => Some(1 << 40),
                    "kb" => Some(1_000),
                    "mb" => Some(1_000_000),
                    "gb" => Some(1_000_000_000),
                    "tb" => Some(1_000_000_000_000),
                    _ => None,
                };
                let n = scaled(s, unit).ok_or_else(|| E::invalid_value(de::Unexpected::Str(s), &self))?;
                Ok(Size(n))
            }
        }
        d.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Both {
        age: Span,
        size: Size,
    }

    #[test]
    fn times_and_sizes_are_read_as_people_write_them() {
        let b: Both = toml::from_str("age = \"90s\"\nsize = \"16MiB\"").unwrap();
        assert_eq!((b.age, b.size), (Span::seconds(90), Size(16 << 20)));
        let b: Both = toml::from_str("age = \"100 ms\"\nsize = 4096").unwrap();
        assert_eq!((b.age.0.as_millis(), b.size), (100, Size(4096)));
        for bad in ["age = 5\nsize = 1", "age = \"5 years\"\nsize = 1", "age = \"5s\"\nsize = -1"] {
            assert!(toml::from_str::<Both>(bad).is_err(), "{bad}");
        }
        let huge = "age = \"99999999999999999999s\"\nsize = \"18446744073709551615KiB\"";
        let error = toml::from_str::<Both>(huge).unwrap_err().to_string();
        assert!(error.contains("length of time"), "{error}");
    }
}
