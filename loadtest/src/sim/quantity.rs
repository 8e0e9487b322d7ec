//! Rates and shares as people write them: `10gbit`, `10%`.
//!
//! Not here: sizes and spans, which the daemons' configuration has already.

use std::fmt;
use std::str::FromStr;

/// A link's rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    bits_per_sec: f64,
}

impl Rate {
    #[must_use]
    pub fn bits_per_sec(self) -> f64 {
        self.bits_per_sec
    }

    #[must_use]
    pub fn bytes_per_sec(self) -> f64 {
        self.bits_per_sec / 8.0
    }

    /// The same as a whole number.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is positive, and one beyond what a u64 holds may as well be that"
    )]
    #[must_use]
    pub fn whole_bytes_per_sec(self) -> u64 {
        self.bytes_per_sec().round() as u64
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let units = [("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3), ("bit", 1.0)];
        units
            .iter()
            .find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?, factor)))
            .and_then(|(number, factor)| Some(number.trim().parse::<f64>().ok()? * factor))
            .filter(|rate| rate.is_finite() && *rate > 0.0)
            .map(|bits_per_sec| Self { bits_per_sec })
            .ok_or_else(|| format!("`{text}` is no rate; write 100mbit or 10gbit"))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in [("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3)] {
            if self.bits_per_sec >= factor {
                return write!(f, "{}{unit}", self.bits_per_sec / factor);
            }
        }
        write!(f, "{}bit", self.bits_per_sec)
    }
}

/// Some of all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share(f64);

impl Share {
    /// So many of `all`, to the nearest.
    #[must_use]
    pub fn of(self, all: usize) -> usize {
        (0..=all)
            .rev()
            .find(|count| *count as f64 <= self.0 * all as f64 + 0.5)
            .unwrap_or(0)
    }

    /// Between 0 and 1.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').map(str::trim);
        number
            .and_then(|number| number.parse::<f64>().ok())
            .filter(|percent| (0.0..=100.0).contains(percent))
            .map(|percent| Self(percent / 100.0))
            .ok_or_else(|| format!("`{text}` is no share; write 10%"))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_shares_are_read_as_they_are_written() {
        for (text, bits) in [
            ("10gbit", 1e10),
            ("100 Mbit", 1e8),
            ("1.5kbit", 1500.0),
            ("8bit", 8.0),
        ] {
            assert_eq!(text.parse::<Rate>().unwrap().bits_per_sec(), bits, "{text}");
        }
        for text in ["10", "gbit", "-1gbit", "infgbit", "10GB"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        let tenth: Share = "10%".parse().unwrap();
        assert_eq!(
            [0, 4, 5, 10, 1000].map(|all| tenth.of(all)),
            [0, 0, 1, 1, 100]
        );
        assert_eq!(tenth.to_string(), "10%");
        for text in ["10", "101%", "-1%", "%"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }
}
