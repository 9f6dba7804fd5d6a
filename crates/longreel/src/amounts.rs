//! Amounts as they are typed for a server: bytes, calls a minute, days.

use std::str::FromStr;

/// A number of bytes, written `500MB`, `1.5GiB` or as a number alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

/// Units and what they are worth; those that end others come after them.
const UNITS: [(&str, f64); 10] = [
    ("kib", 1024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
    ("tib", 1_099_511_627_776.0),
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("tb", 1e12),
    ("b", 1.0),
    ("", 1.0),
];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a size is written 500MB, 50GB, 1.5GiB or 1048576".to_string();
        let lower = text.trim().to_ascii_lowercase();
        let unit = UNITS.iter().find_map(|(unit, worth)| Some((lower.strip_suffix(unit)?, worth)));
        let (number, worth) = unit.ok_or_else(wrong)?;
        if let Ok(whole) = number.trim().parse::<u64>()
            && *worth == 1.0
        {
            return Ok(Self(whole));
        }
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        let bytes = number * worth;
        // Up to what a float holds exactly, far above any disk.
        if (0.0..=9e15).contains(&bytes) { Ok(Self(bytes as u64)) } else { Err(wrong()) }
    }
}

/// How often a key may call, written `PER_MINUTE` or `PER_MINUTE:BURST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Calls a minute in the long run.
    pub per_minute: u32,
    /// Calls at once.
    pub burst: u32,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "a rate is calls a minute, and after a colon how many at once: 600 or 600:50"
                .to_string()
        };
        let number = |text: &str| match text.trim().parse::<u32>() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(wrong()),
        };
        match text.split_once(':') {
            Some((per_minute, burst)) => {
                Ok(Self { per_minute: number(per_minute)?, burst: number(burst)? })
            }
            None => {
                let per_minute = number(text)?;
                // A quarter of a minute's calls: a page that shows a list asks for its pictures at once.
                Ok(Self { per_minute, burst: (per_minute / 4).max(1) })
            }
        }
    }
}

/// A number of days, parts of them included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Days(pub f64);

impl Days {
    /// In milliseconds.
    pub fn ms(self) -> i64 {
        (self.0 * 86_400_000.0) as i64
    }
}

impl FromStr for Days {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().trim_end_matches('d').parse::<f64>() {
            Ok(days) if days > 0.0 && days <= 36_500.0 => Ok(Self(days)),
            _ => Err("it is a number of days above 0, such as 30 or 0.5".to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [
            ("0", 0),
            ("18446744073709551615", u64::MAX),
            ("7B", 7),
            ("500MB", 500_000_000),
            ("1.5 GiB", 1_610_612_736),
            ("2tb", 2_000_000_000_000),
            ("4kib", 4096),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "MB", "-1", "1e99", "ten", "5 parsecs", "nan", "1.5.5MB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn rates_and_days_are_read() {
        assert_eq!("600".parse(), Ok(Rate { per_minute: 600, burst: 150 }));
        assert_eq!("1".parse(), Ok(Rate { per_minute: 1, burst: 1 }));
        assert_eq!("60:5".parse(), Ok(Rate { per_minute: 60, burst: 5 }));
        for text in ["", "0", "0:1", "1:0", ":", "many", "-1", "99999999999"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        assert_eq!("0.5".parse::<Days>().map(Days::ms), Ok(43_200_000));
        assert_eq!("30d".parse::<Days>().map(Days::ms), Ok(2_592_000_000));
        for text in ["", "0", "-1", "inf", "nan", "1e9", "d"] {
            assert!(text.parse::<Days>().is_err(), "{text}");
        }
    }
}
