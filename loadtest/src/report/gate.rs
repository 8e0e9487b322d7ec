//! A promise about a figure of a report: `makespan_over_bound<=1.10`.
//!
//! Not here: which promises are made; whoever runs a scenario says so.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Report;

/// A figure, and what it may be at most.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    key: String,
    at_most: f64,
}

/// What became of a promise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GateResult {
    pub key: String,
    pub at_most: f64,
    /// Null when the report has no such figure, which breaks the promise too.
    pub value: Option<f64>,
    pub held: bool,
}

impl Gate {
    /// Whether a report keeps the promise; a figure that is missing does not.
    #[must_use]
    pub fn judge(&self, report: &Report) -> GateResult {
        let value = report.figure(&self.key);
        GateResult {
            key: self.key.clone(),
            at_most: self.at_most,
            value,
            held: value.is_some_and(|value| value <= self.at_most),
        }
    }
}

impl fmt::Display for GateResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            at_most,
            value,
            held,
        } = self;
        match value {
            Some(value) if *held => write!(f, "{key} is {value:.3}, at most {at_most}"),
            Some(value) => write!(f, "{key} is {value:.3}, more than {at_most}"),
            None => write!(
                f,
                "{key} is not in the report; it was to be at most {at_most}"
            ),
        }
    }
}

impl FromStr for Gate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once("<=").and_then(|(key, most)| {
            let at_most: f64 = most.trim().parse().ok()?;
            let key = key.trim();
            (!key.is_empty() && at_most.is_finite()).then(|| Self {
                key: key.to_owned(),
                at_most,
            })
        });
        parsed.ok_or_else(|| format!("`{text}` is no gate; write makespan_over_bound<=1.10"))
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}<={}", self.key, self.at_most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_holds_below_fails_above_and_fails_without_the_figure() {
        let gate: Gate = "p99_s <= 2.5".parse().unwrap();
        let held = |p99_s| {
            let report = Report {
                p99_s,
                ..Report::default()
            };
            gate.judge(&report).held
        };
        assert!(held(Some(2.5)));
        assert!(!held(Some(2.6)));
        assert!(!held(None));
        for text in ["p99_s", "<=1", "p99_s<=", "p99_s<=nan"] {
            assert!(text.parse::<Gate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_gate_may_name_an_extra_figure() {
        let gate: Gate = "p99_over_p50<=1.1".parse().unwrap();
        let mut report = Report::default();
        report.extra.insert("p99_over_p50".to_owned(), 1.05.into());
        assert!(gate.judge(&report).held);
    }
}
