//! Where a value stands between two ends, and which values are worth a line.

use crate::report::written;

/// Both ends of a plot, its marked values, and what it counts.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    from: f64,
    to: f64,
    /// What one unit of the axis is, in the unit of the values.
    unit: f64,
    pub(super) name: String,
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From one value to another, about so many marks, and the name of what is marked.
    pub(super) fn new(from: f64, to: f64, marks: usize, name: &str) -> Self {
        Self::in_units(from, to, marks, name, 1.0)
    }

    /// Seconds, told in what suits their size.
    pub(super) fn secs(from: f64, to: f64, marks: usize) -> Self {
        let (unit, name) = match to {
            to if to < 2e-3 => (1e-6, "microseconds"),
            to if to < 2.0 => (1e-3, "milliseconds"),
            to if to < 600.0 => (1.0, "seconds"),
            _ => (60.0, "minutes"),
        };
        Self::in_units(from, to, marks, name, unit)
    }

    fn in_units(from: f64, to: f64, marks: usize, name: &str, unit: f64) -> Self {
        let from = if from.is_finite() { from } else { 0.0 };
        let to = if to.is_finite() && to > from {
            to
        } else {
            from + 1.0
        };
        let ticks = nice(from / unit, to / unit, marks);
        let axis = Self {
            from,
            to,
            unit,
            name: name.to_owned(),
            ticks: Vec::new(),
        };
        Self {
            ticks: ticks
                .into_iter()
                .map(|(at, text)| (at * axis.unit, text))
                .collect(),
            ..axis
        }
    }

    /// Where a value stands, in per cent of the way, never outside.
    pub(super) fn place(&self, value: f64) -> f64 {
        let share = (value - self.from) / (self.to - self.from);
        if share.is_finite() {
            (share * 100.0).clamp(0.0, 100.0)
        } else {
            0.0
        }
    }

    pub(super) fn from(&self) -> f64 {
        self.from
    }

    pub(super) fn to(&self) -> f64 {
        self.to
    }

    pub(super) fn holds(&self, value: f64) -> bool {
        (self.from..=self.to).contains(&value)
    }
}

/// About so many round values between two ends, with as many digits as tell them apart.
fn nice(from: f64, to: f64, marks: usize) -> Vec<(f64, String)> {
    let raw = (to - from) / marks.max(1) as f64;
    let size = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .map(|factor| factor * size)
        .into_iter()
        .find(|step| *step >= raw * 0.85)
        .unwrap_or(size * 10.0);
    let after = (0..12)
        .find(|after| {
            let scaled = step * 10f64.powi(*after);
            (scaled - scaled.round()).abs() < 1e-6 * scaled
        })
        .unwrap_or(0);
    let first = (from / step - 1e-9).ceil();
    (0..=marks * 3)
        .map(|at| (first + at as f64) * step)
        .take_while(|value| *value <= to + step * 1e-9)
        .map(|value| (value, marked(value, after)))
        .collect()
}

fn marked(value: f64, after: i32) -> String {
    let after = usize::try_from(after).unwrap_or(0);
    if after == 0 {
        written::count(value.round() + 0.0)
    } else {
        format!("{value:.after$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn marks_are_round_lie_within_and_tell_themselves_apart() {
        let check = |from, to, marks, expected: &[&str]| {
            assert_eq!(texts(&Axis::new(from, to, marks, "")), expected);
        };
        check(0.0, 100.0, 4, &["0", "25", "50", "75", "100"]);
        check(4.21, 4.52, 3, &["4.3", "4.4", "4.5"]);
        check(0.0, 0.7, 4, &["0.0", "0.2", "0.4", "0.6"]);
        check(0.0, 12_000.0, 3, &["0", "5,000", "10,000"]);
        check(3.0, 3.0, 2, &["3.0", "3.5", "4.0"]);
    }

    #[test]
    fn seconds_are_told_in_the_unit_of_their_size() {
        let axis = Axis::secs(0.0, 0.5, 5);
        assert_eq!(axis.name, "milliseconds");
        assert_eq!(axis.ticks[1].1, "100");
        assert!((axis.place(axis.ticks[1].0) - 20.0).abs() < 1e-9);
        assert_eq!(Axis::secs(0.0, 50.0, 5).name, "seconds");
        assert_eq!(Axis::secs(0.0, 5000.0, 5).name, "minutes");
    }

    #[test]
    fn no_value_stands_outside() {
        let axis = Axis::new(1.0, 2.0, 2, "");
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -5.0, 5.0] {
            assert!((0.0..=100.0).contains(&axis.place(value)));
        }
        assert!(texts(&Axis::new(f64::NAN, f64::NAN, 2, "")).len() > 1);
    }
}
