//! Sizes and durations as people write them: `4MiB`, `30s`.
//!
//! Both print in a form that parses back to the same value, so that `--print-config` can be fed to `--config`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Error as _, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes, written `512KiB`, `4MiB`, `1.5GiB` or `10GB`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// A size of `bytes` bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A size of `mib` times 1,048,576 bytes.
    #[must_use]
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// A size of `gib` times 1,073,741,824 bytes.
    #[must_use]
    pub const fn gib(gib: u64) -> Self {
        Self(gib << 30)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The largest unit that divides the value, so that nothing is rounded away.
        for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ByteSize {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        bytesize::ByteSize::from_str(text)
            .map(|size| Self(size.as_u64()))
            .map_err(|_| QuantityError::Size(text.into()))
    }
}

/// A length of time, written `250ms`, `30s`, `5m` or `1h 30m`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(Duration);

impl Span {
    /// A span as long as `duration`.
    #[must_use]
    pub const fn new(duration: Duration) -> Self {
        Self(duration)
    }

    /// A span of `seconds` seconds.
    #[must_use]
    pub const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// A span of `millis` milliseconds.
    #[must_use]
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// The span as the standard library's duration.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Span {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|_| QuantityError::Span(text.into()))
    }
}

/// A text that is no size, or no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number of bytes.
    #[error("`{0}` is not a size; write a number and a unit, for example \"4MiB\"")]
    Size(String),
    /// Not a length of time.
    #[error("`{0}` is not a duration; write a number and a unit, for example \"30s\"")]
    Span(String),
}

/// Parses any text form, and turns a bare number into advice about units.
struct TextVisitor<T> {
    example: &'static str,
    parse: fn(&str) -> Result<T, QuantityError>,
}

impl<T> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a number with its unit, for example \"{}\"",
            self.example
        )
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        Err(E::invalid_type(Unexpected::Signed(number), &self))
    }
}

macro_rules! as_text {
    ($quantity:ident, $example:literal) => {
        impl Serialize for $quantity {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $quantity {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer
                    .deserialize_any(TextVisitor {
                        example: $example,
                        parse: $quantity::from_str,
                    })
                    .map_err(D::Error::custom)
            }
        }
    };
}

as_text!(ByteSize, "4MiB");
as_text!(Span, "30s");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [
            ("0B", 0),
            ("1B", 1),
            ("512KiB", 512 << 10),
            ("4MiB", 4 << 20),
            ("4 MiB", 4 << 20),
            ("1.5GiB", 3 << 29),
            ("10GB", 10_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize::new(bytes)), "{text}");
        }
        for text in ["", "MiB", "4 apples", "-1MiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, millis) in [("250ms", 250), ("30s", 30_000), ("1h 30m", 5_400_000)] {
            assert_eq!(text.parse(), Ok(Span::millis(millis)), "{text}");
        }
        for text in ["", "30", "s", "soon"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_number_without_its_unit_is_refused_with_an_example() {
        #[derive(Debug, Deserialize)]
        struct Raw {
            #[serde(rename = "quota")]
            _quota: ByteSize,
        }
        let error = toml::from_str::<Raw>("quota = 4").unwrap_err().to_string();
        assert!(error.contains("4MiB"), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back_the_same(bytes in 0u64..1 << 50, millis in 0u64..1 << 40) {
            let size = ByteSize::new(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
            let span = Span::millis(millis);
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }
    }
}
