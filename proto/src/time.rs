//! UTC times: nanoseconds since 1970 (ours), FILETIME (100 ns since 1601),
//! SYSTEMTIME, and RFC 3339 text. All conversions are total: what does not fit
//! is clamped.

const EPOCH_DIFF_100NS: i128 = 116_444_736_000_000_000;

/// FILETIME to nanoseconds since 1970, clamped to what an `i64` holds (years 1677 to 2262).
#[must_use]
pub fn filetime_to_unix_ns(filetime: u64) -> i64 {
    clamp((i128::from(filetime) - EPOCH_DIFF_100NS) * 100)
}

/// Nanoseconds since 1970 to FILETIME, rounded down.
#[must_use]
pub fn unix_ns_to_filetime(ns: i64) -> u64 {
    u64::try_from(i128::from(ns).div_euclid(100) + EPOCH_DIFF_100NS).unwrap_or(0)
}

fn clamp(ns: i128) -> i64 {
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}

/// Year, month, day of a day number counted from 1970-01-01 (proleptic Gregorian calendar).
fn civil(days: i64) -> (i64, u32, u32) {
    // Years are counted from March, so that the leap day is the last of its year.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + carry, month as u32, day as u32)
}

fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn digits(out: &mut Vec<u8>, value: u32, width: usize) {
    let at = out.len();
    out.resize(at + width, b'0');
    let mut value = value;
    for slot in out[at..].iter_mut().rev() {
        *slot = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Appends `YYYY-MM-DDThh:mm:ss.fffffffZ`: seven digits as ETW has, nine when the
/// nanoseconds need them.
pub fn write_rfc3339(out: &mut Vec<u8>, unix_ns: i64) {
    let seconds = unix_ns.div_euclid(1_000_000_000);
    let ns = unix_ns.rem_euclid(1_000_000_000) as u32;
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400) as u32;
    digits(out, year as u32, 4);
    out.push(b'-');
    digits(out, month, 2);
    out.push(b'-');
    digits(out, day, 2);
    out.push(b'T');
    digits(out, of_day / 3600, 2);
    out.push(b':');
    digits(out, of_day / 60 % 60, 2);
    out.push(b':');
    digits(out, of_day % 60, 2);
    out.push(b'.');
    if ns.is_multiple_of(100) {
        digits(out, ns / 100, 7)
    } else {
        digits(out, ns, 9)
    }
    out.push(b'Z');
}

/// The text [`write_rfc3339`] appends.
#[must_use]
pub fn format_rfc3339(unix_ns: i64) -> String {
    let mut out = Vec::with_capacity(30);
    write_rfc3339(&mut out, unix_ns);
    String::from_utf8(out).unwrap_or_default()
}

/// Reads an RFC 3339 time with any offset and up to nine digits of fraction (more are cut).
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let b = text.as_bytes();
    let num = |at: usize, len: usize| -> Option<i64> {
        let part = b.get(at..at + len)?;
        part.iter().try_fold(0, |n, d| d.is_ascii_digit().then(|| n * 10 + i64::from(d - b'0')))
    };
    let is = |at: usize, set: &[u8]| b.get(at).is_some_and(|c| set.contains(c));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (num(0, 4)?, num(5, 2)?, num(8, 2)?);
    let (hour, minute, second) = (num(11, 2)?, num(14, 2)?, num(17, 2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=last).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut fraction = 0;
    if is(at, b".") {
        let start = at + 1;
        at = start;
        while b.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        let len = (at - start).min(9);
        fraction = num(start, len)? * 10_i64.pow(9 - len as u32);
        if len == 0 {
            return None;
        }
    }
    let offset = match b.get(at)? {
        b'Z' | b'z' => {
            at += 1;
            0
        }
        sign @ (b'+' | b'-') if is(at + 3, b":") => {
            let minutes = num(at + 1, 2)? * 60 + num(at + 4, 2)?;
            at += 6;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    if at != b.len() {
        return None;
    }
    let seconds = days_of(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset * 60;
    Some(clamp(i128::from(seconds) * 1_000_000_000 + i128::from(fraction)))
}

/// Appends a SYSTEMTIME (eight u16) as `YYYY-MM-DDThh:mm:ss.mmm`, without a zone: the
/// structure does not tell one.
pub fn write_systemtime(out: &mut Vec<u8>, raw: &[u8; 16]) {
    let part = |n: usize| u32::from(u16::from_le_bytes([raw[2 * n], raw[2 * n + 1]]));
    digits(out, part(0), 4);
    for (n, sep, width) in
        [(1, b'-', 2), (3, b'-', 2), (4, b'T', 2), (5, b':', 2), (6, b':', 2), (7, b'.', 3)]
    {
        out.push(sep);
        digits(out, part(n), width);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (text, ns) in [
            ("1970-01-01T00:00:00.0000000Z", 0),
            ("2021-09-09T14:59:35.8001560Z", 1_631_199_575_800_156_000),
            ("2000-02-29T23:59:59.9999999Z", 951_868_799_999_999_900),
            ("1969-12-31T23:59:59.000000001Z", -999_999_999),
        ] {
            assert_eq!(format_rfc3339(ns), text);
            assert_eq!(parse_rfc3339(text), Some(ns), "{text}");
        }
        assert_eq!(parse_rfc3339("2021-09-09T16:59:35.800156+02:00"), Some(1_631_199_575_800_156_000));
        for bad in ["", "2021-02-29T00:00:00Z", "2021-09-09", "2021-09-09T14:59:35", "2021-09-09T14:59:35.Z"]
        {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_returns() {
        for days in -200_000..200_000 {
            let (y, m, d) = civil(days);
            assert_eq!(days_of(y, i64::from(m), i64::from(d)), days);
        }
    }

    #[test]
    fn filetime_ends_are_clamped() {
        assert_eq!(filetime_to_unix_ns(u64::MAX), i64::MAX);
        assert_eq!(filetime_to_unix_ns(0), i64::MIN);
        assert_eq!(unix_ns_to_filetime(0), 116_444_736_000_000_000);
        assert!(!format_rfc3339(i64::MAX).is_empty() && !format_rfc3339(i64::MIN).is_empty());
    }
}
