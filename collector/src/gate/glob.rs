//! Name patterns: `*` is any run of characters, `?` is one, ASCII case is ignored.

/// A pattern of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: String,
}

impl Glob {
    /// Longest pattern in bytes.
    pub const MAX_LEN: usize = 256;

    /// # Errors
    /// An empty or overlong pattern, as a sentence.
    pub fn new(text: &str) -> Result<Glob, String> {
        if text.is_empty() {
            return Err("a name pattern may not be empty; leave the key out to match every name".to_owned());
        }
        if text.len() > Self::MAX_LEN {
            return Err(format!("a name pattern may have at most {} bytes", Self::MAX_LEN));
        }
        Ok(Glob { text: text.to_owned() })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole of `name` fits. Time is at most the product of both lengths.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.text.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        loop {
            match (pattern.get(p), name.get(n)) {
                (Some(b'*'), _) => {
                    star = Some((p + 1, n));
                    p += 1;
                }
                (Some(b'?'), Some(_)) => (p, n) = (p + 1, n + 1),
                (Some(a), Some(b)) if a.eq_ignore_ascii_case(b) => (p, n) = (p + 1, n + 1),
                (None, None) => return true,
                (_, _) => match star {
                    // take one more byte into the last star
                    Some((after, from)) if from < name.len() => {
                        star = Some((after, from + 1));
                        (p, n) = (after, from + 1);
                    }
                    _ => return false,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Glob;

    #[test]
    fn patterns_fit_as_promised() {
        let fits = |p: &str, n: &str| Glob::new(p).unwrap().matches(n);
        assert!(fits("*", ""));
        assert!(fits("Microsoft.Windows.*", "microsoft.windows.update"));
        assert!(!fits("Microsoft.Windows.*", "Microsoft.Windows"));
        assert!(fits("*Usage*", "DailyUsageReport"));
        assert!(fits("a*b*c", "a1b2b3c"));
        assert!(!fits("a*b*c", "a1b2b3"));
        assert!(fits("a?c", "abc") && !fits("a?c", "ac"));
        assert!(!fits("abc", "abcd") && !fits("abcd", "abc"));
        assert!(Glob::new("").is_err() && Glob::new(&"x".repeat(257)).is_err());
    }
}
