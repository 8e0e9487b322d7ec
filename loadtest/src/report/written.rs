//! Figures as people read them: three digits, a unit, and no more.
//!
//! Not here: JSON, where every digit stays.

use super::Unit;

/// What stands where there is no figure.
pub(super) const NOTHING: &str = "–";

/// A figure in its unit.
#[must_use]
pub(super) fn figure(value: Option<f64>, unit: Unit) -> String {
    let Some(value) = value.filter(|value| value.is_finite()) else {
        return NOTHING.to_owned();
    };
    match unit {
        Unit::BitsPerSec => bits_per_sec(value),
        Unit::Bytes => bytes(value),
        Unit::Copies if value < 100.0 => format!("{value:.2}"),
        Unit::Copies => digits(value),
        Unit::Count => count(value),
        Unit::CpuSecsPerGib => format!("{} CPU s/GiB", digits(value)),
        Unit::Ratio if value > 0.0 && value < 1e-5 => "< 0.001 %".to_owned(),
        Unit::Ratio => format!("{} %", digits(value * 100.0)),
        Unit::Secs => secs(value),
        Unit::Times => format!("{value:.3} ×"),
    }
}

/// `2026-11-25 22:18 UTC`, from RFC 3339 as we write it; anything else as it is.
#[must_use]
pub(super) fn moment(text: &str) -> String {
    match (text.split_once('T'), text.strip_suffix('Z')) {
        (Some((day, time)), Some(_)) if text.len() == 20 && text.is_ascii() => {
            format!("{day} {} UTC", &time[..time.len().min(5)])
        }
        _ => text.to_owned(),
    }
}

/// `4.31 s`, `870 ms`, `2 min 5 s`.
#[must_use]
pub(super) fn secs(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        "0 s".to_owned()
    } else if size < 1e-3 {
        format!("{} µs", digits(value * 1e6))
    } else if size < 1.0 {
        format!("{} ms", digits(value * 1e3))
    } else if size < 120.0 {
        format!("{} s", digits(value))
    } else {
        let whole = value.round();
        format!("{:.0} min {:.0} s", (whole / 60.0).floor(), whole % 60.0)
    }
}

/// `1.5 GiB`.
#[must_use]
pub(super) fn bytes(value: f64) -> String {
    scaled(value, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

/// `9.4 Gbit/s`.
#[must_use]
pub(super) fn bits_per_sec(value: f64) -> String {
    let units = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"];
    scaled(value, 1000.0, &units)
}

fn scaled(value: f64, step: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut unit = 0;
    while value.abs() >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    format!("{} {}", digits(value), units[unit])
}

/// `1,280`; what is not whole keeps three digits.
#[must_use]
pub(super) fn count(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        grouped(&format!("{value:.0}"))
    } else {
        digits(value)
    }
}

/// Three significant digits, no zeros behind the point that say nothing, thousands set apart.
#[must_use]
pub(super) fn digits(value: f64) -> String {
    // No zero is less than nothing.
    let value = value + 0.0;
    let size = value.abs();
    if size >= 1e15 || (size > 0.0 && size < 1e-4) {
        return format!("{value:.2e}");
    }
    let after = if size >= 100.0 {
        0
    } else if size >= 10.0 {
        1
    } else if size >= 1.0 || size == 0.0 {
        2
    } else {
        3
    };
    let text = format!("{value:.after$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    grouped(text)
}

fn grouped(text: &str) -> String {
    let (sign, rest) = text
        .strip_prefix('-')
        .map_or(("", text), |rest| ("-", rest));
    let (whole, part) = rest
        .find('.')
        .map_or((rest, ""), |point| rest.split_at(point));
    let mut out = String::from(sign);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_three_digits_and_name_their_unit() {
        for (value, unit, text) in [
            (4.312_3, Unit::Secs, "4.31 s"),
            (0.870_4, Unit::Secs, "870 ms"),
            (0.000_25, Unit::Secs, "250 µs"),
            (125.4, Unit::Secs, "2 min 5 s"),
            (0.0, Unit::Secs, "0 s"),
            (5_368_709_120.0, Unit::Bytes, "5 GiB"),
            (1023.0, Unit::Bytes, "1,023 B"),
            (1e10, Unit::BitsPerSec, "10 Gbit/s"),
            (93_700_000.0, Unit::BitsPerSec, "93.7 Mbit/s"),
            (10_000.0, Unit::Count, "10,000"),
            (1_234_567.0, Unit::Count, "1,234,567"),
            (0.0, Unit::Count, "0"),
            (0.0312, Unit::Ratio, "3.12 %"),
            (0.0, Unit::Ratio, "0 %"),
            (6e-8, Unit::Ratio, "< 0.001 %"),
            (1.043_21, Unit::Times, "1.043 ×"),
            (1.0, Unit::Copies, "1.00"),
            (1.118, Unit::Copies, "1.12"),
            (123.4, Unit::Copies, "123"),
            (2e-7, Unit::Secs, "0.2 µs"),
        ] {
            assert_eq!(figure(Some(value), unit), text);
        }
        assert_eq!(moment("2026-11-25T22:18:01Z"), "2026-11-25 22:18 UTC");
        assert_eq!(moment("T–––––––––––––––––Z"), "T–––––––––––––––––Z");
        assert_eq!(digits(2e-7), "2.00e-7");
        assert_eq!(digits(-0.0), "0");
        assert_eq!(digits(-12.34), "-12.3");
        assert_eq!(figure(None, Unit::Secs), NOTHING);
        assert_eq!(figure(Some(f64::NAN), Unit::Secs), NOTHING);
    }
}
