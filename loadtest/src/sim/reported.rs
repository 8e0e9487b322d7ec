//! A simulated run as a report: what all runs have where all have it, the rest as extra figures.

use anyhow::Result;
use serde_json::{Map, Value};

use super::Outcome;
use crate::report::{Kind, Report};

impl Outcome {
    /// The report of this run. Every figure goes to the key of its name, and to the extra ones when there is none.
    ///
    /// # Errors
    /// A figure that cannot be told in JSON; there is none today.
    pub fn report(&self) -> Result<Report> {
        let mut keys = object(&Report::new(Kind::Simulate))?;
        let mut extra = Map::new();
        for (name, figure) in object(self)? {
            if keys.contains_key(&name) {
                keys.insert(name, figure);
            } else {
                extra.insert(name, figure);
            }
        }
        keys.insert("extra".to_owned(), Value::Object(extra));
        let mut report: Report = serde_json::from_value(Value::Object(keys))?;
        // Those that did not finish stand in `failed_agents` only.
        let lost = usize::try_from(report.failed_agents.unwrap_or(0)).unwrap_or(0);
        report.agent_s.extend(std::iter::repeat_n(None, lost));
        report.bytes_by_source = Some(self.drawn.bytes_by_source);
        report.copies = Some(self.drawn.copies.clone());
        report.links = Some(self.drawn.links.clone());
        report.progress = Some(self.drawn.progress.clone());
        Ok(report)
    }
}

fn object(of: &impl serde::Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(of)? {
        Value::Object(map) => Ok(map),
        _ => anyhow::bail!("a report and an outcome are structs with named fields"),
    }
}
