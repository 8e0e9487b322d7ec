//! A promise about a figure of a report: `makespan_over_bound<=1.10`.
//!
//! Not here: which promises are made; whoever runs a scenario says so.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// A figure, and what it may be at most.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    key: String,
    at_most: f64,
}

impl Gate {
    /// Whether a report keeps the promise; what it says, when it does not or has no such figure.
    ///
    /// # Errors
    /// A line for people.
    pub fn check(&self, report: &Value) -> Result<f64, String> {
        let Some(value) = report.get(&self.key).and_then(Value::as_f64) else {
            return Err(format!("{} is not in the report", self.key));
        };
        if value <= self.at_most {
            Ok(value)
        } else {
            Err(format!(
                "{} is {value:.3}, more than {}",
                self.key, self.at_most
            ))
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
    use serde_json::json;

    use super::*;

    #[test]
    fn a_gate_holds_below_fails_above_and_fails_without_the_figure() {
        let gate: Gate = "p99_s <= 2.5".parse().unwrap();
        assert_eq!(gate.check(&json!({ "p99_s": 2.5 })), Ok(2.5));
        assert!(gate.check(&json!({ "p99_s": 2.6 })).is_err());
        assert!(gate.check(&json!({ "p99_s": null })).is_err());
        for text in ["p99_s", "<=1", "p99_s<=", "p99_s<=nan"] {
            assert!(text.parse::<Gate>().is_err(), "{text}");
        }
    }
}
