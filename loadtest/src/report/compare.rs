//! Two reports side by side: every figure of both, their ratio, which one is better, and what makes them incomparable.
//!
//! For people who changed something. Nothing is judged: a comparison has no gates, and the smaller of two differences
//! (1 %) may well be chance. Not here: how it looks (`page::pair`).

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use super::{Better, KEYS, Report, Unit, output, page, read, written};
use crate::screen::{Screen, table};

/// Figures within this share of each other are called alike.
const ALIKE: f64 = 0.01;

/// Two reports side by side.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Example: shoal-loadtest compare before.json after.json --report change.html"
)]
pub struct CompareArgs {
    /// The one that is held against, as --json wrote it
    #[arg(value_name = "A.json")]
    pub a: PathBuf,
    /// The other one
    #[arg(value_name = "B.json")]
    pub b: PathBuf,
    /// Write the comparison here, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the comparison here as one page
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// What became of a figure from A to B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Alike,
    Better,
    /// A condition that is not the same.
    Differs,
    /// It changed, and neither way is better; or one of them has no such figure.
    Neither,
    Worse,
}

impl Verdict {
    /// With a sign, for those who see no colour.
    #[must_use]
    pub fn says(self) -> &'static str {
        match self {
            Self::Alike => "= alike",
            Self::Better => "✓ better",
            Self::Differs => "≠ differs",
            Self::Neither => "",
            Self::Worse => "✗ worse",
        }
    }
}

/// One figure of both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub key: String,
    #[serde(skip)]
    pub unit: Unit,
    pub a: Option<f64>,
    pub b: Option<f64>,
    /// B over A.
    pub ratio: Option<f64>,
    pub verdict: Verdict,
}

/// Both, line by line.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// Why the figures do not compare; empty when they do.
    pub incomparable: Vec<String>,
    pub rows: Vec<Row>,
    /// Settings, machine and versions that are not the same: name, A's, B's.
    pub differences: Vec<(String, String, String)>,
}

/// Holds B against A.
#[must_use]
pub fn compare(a: &Report, b: &Report) -> Comparison {
    let known = KEYS
        .iter()
        .map(|key| row(key.name, key.unit, key.better, (key.of)(a), (key.of)(b)));
    let extra = a.extra.keys().filter(|key| b.extra.contains_key(*key));
    let extra = extra.filter_map(|key| {
        let of = |report: &Report| report.extra.get(key).and_then(serde_json::Value::as_f64);
        let (of_a, of_b) = (of(a), of(b));
        of_a.or(of_b)?;
        Some(row(key, Unit::Count, Better::Neither, of_a, of_b))
    });
    let rows: Vec<Row> = known.chain(extra).collect();
    let mut incomparable: Vec<String> = rows
        .iter()
        .filter(|row| row.verdict == Verdict::Differs)
        .map(|row| {
            let say = |value| written::figure(value, row.unit);
            format!("{} is {} in A and {} in B", row.key, say(row.a), say(row.b))
        })
        .collect();
    if a.kind != b.kind {
        let line = format!("A is of {}, B is of {}", a.kind.name(), b.kind.name());
        incomparable.insert(0, line);
    }
    Comparison {
        incomparable,
        rows,
        differences: differences(a, b),
    }
}

fn row(key: &str, unit: Unit, better: Better, a: Option<f64>, b: Option<f64>) -> Row {
    // A seed names a run; it is not more or less.
    let ratio = a
        .zip(b)
        .filter(|_| key != "seed")
        .map(|(a, b)| b / a)
        .filter(|ratio| ratio.is_finite());
    let verdict = match (a, b, better) {
        (Some(a), Some(b), _) if a == b => Verdict::Alike,
        (_, _, Better::Same) if a != b => Verdict::Differs,
        (Some(a), Some(b), Better::Lower | Better::Higher) => {
            if (b - a).abs() <= ALIKE * a.abs() {
                Verdict::Alike
            } else if (b < a) == (better == Better::Lower) {
                Verdict::Better
            } else {
                Verdict::Worse
            }
        }
        _ => Verdict::Neither,
    };
    Row {
        key: key.to_owned(),
        unit,
        a,
        b,
        ratio,
        verdict,
    }
}

fn differences(a: &Report, b: &Report) -> Vec<(String, String, String)> {
    let facts = |report: &Report| {
        let (machine, versions) = (&report.machine, &report.versions);
        let mut facts: std::collections::BTreeMap<String, String> = report
            .settings
            .iter()
            // What was asked of the figures changes none of them.
            .filter(|(name, _)| *name != "gate")
            .map(|(name, value)| (format!("--{name}"), value.clone()))
            .collect();
        let whole = |count: Option<u64>| count.map(|count| count.to_string());
        for (name, value) in [
            ("cores", whole(machine.cores)),
            (
                "memory",
                machine.memory_bytes.map(|it| written::bytes(it as f64)),
            ),
            ("processor", machine.cpu.clone()),
            ("kernel", versions.kernel.clone()),
            ("shoal", versions.shoal.clone()),
            ("revision", versions.revision.clone()),
        ] {
            facts.extend(value.map(|value| (name.to_owned(), value)));
        }
        facts
    };
    let (of_a, of_b) = (facts(a), facts(b));
    let names: std::collections::BTreeSet<&String> = of_a.keys().chain(of_b.keys()).collect();
    let said = |fact: Option<&String>| fact.map_or(written::NOTHING, String::as_str).to_owned();
    names
        .into_iter()
        .filter(|name| of_a.get(*name) != of_b.get(*name))
        .map(|name| (name.clone(), said(of_a.get(name)), said(of_b.get(name))))
        .collect()
}

/// Reads both, tells, and writes what was asked for.
///
/// # Errors
/// A file that is no report, or one that cannot be written.
pub fn run(args: &CompareArgs) -> Result<()> {
    let (a, b) = (read(&args.a)?, read(&args.b)?);
    let comparison = compare(&a, &b);
    let screen = Screen::new();
    tell(&screen, &comparison);
    if let Some(path) = &args.json {
        output::write(path, &serde_json::to_vec_pretty(&comparison)?)?;
        screen.aside(&format!("figures in {}", path.display()));
    }
    if let Some(path) = &args.report {
        let text = page::pair::render(&a, &b, &comparison);
        output::write(path, text.as_bytes())?;
        screen.aside(&format!("page in {}", path.display()));
    }
    Ok(())
}

fn tell(screen: &Screen, comparison: &Comparison) {
    let mut rows = vec![["figure", "A", "B", "B/A", ""].map(str::to_owned).to_vec()];
    let shown = |row: &&Row| row.a.is_some() || row.b.is_some();
    rows.extend(comparison.rows.iter().filter(shown).map(|row| {
        vec![
            row.key.clone(),
            written::figure(row.a, row.unit),
            written::figure(row.b, row.unit),
            ratio(row),
            row.verdict.says().to_owned(),
        ]
    }));
    screen.say(&table(&rows));
    if !comparison.differences.is_empty() {
        let mut rows = vec![
            ["conditions that differ", "A", "B"]
                .map(str::to_owned)
                .to_vec(),
        ];
        let lines = comparison.differences.iter().cloned();
        rows.extend(lines.map(|(name, a, b)| vec![name, a, b]));
        screen.say(&table(&rows));
    }
    for line in &comparison.incomparable {
        screen.bad(&format!("not comparable: {line}"));
    }
}

/// `1.043`, or nothing where there is none.
#[must_use]
pub(super) fn ratio(row: &Row) -> String {
    row.ratio.map_or_else(String::new, |ratio| {
        if ratio < 100.0 {
            format!("{ratio:.3}")
        } else {
            written::digits(ratio)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(comparison: &Comparison, key: &str) -> Verdict {
        let row = comparison.rows.iter().find(|row| row.key == key);
        row.unwrap().verdict
    }

    #[test]
    fn less_is_better_within_a_hundredth_is_alike_and_other_conditions_do_not_compare() {
        let a = Report {
            agents: 8,
            makespan_s: Some(10.0),
            p50_s: Some(10.0),
            p99_s: Some(10.0),
            seed: Some(1),
            cpu_busy_ratio: Some(0.5),
            ..Report::default()
        };
        let b = Report {
            makespan_s: Some(9.0),
            p50_s: Some(11.0),
            p99_s: Some(10.05),
            seed: Some(2),
            cpu_busy_ratio: None,
            ..a.clone()
        };
        let both = compare(&a, &b);
        for (key, expected) in [
            ("agents", Verdict::Alike),
            ("makespan_s", Verdict::Better),
            ("p50_s", Verdict::Worse),
            ("p99_s", Verdict::Alike),
            ("seed", Verdict::Neither),
            ("cpu_busy_ratio", Verdict::Neither),
        ] {
            assert_eq!(verdict(&both, key), expected, "{key}");
        }
        assert_eq!(both.incomparable, [""; 0]);
        let wider = Report { agents: 16, ..b };
        let both = compare(&a, &wider);
        assert_eq!(both.incomparable, ["agents is 8 in A and 16 in B"]);
    }

    #[test]
    fn settings_and_machines_that_differ_are_named() {
        let mut a = Report::default();
        a.settings.insert("link".to_owned(), "10gbit".to_owned());
        let mut b = a.clone();
        b.settings.insert("link".to_owned(), "1gbit".to_owned());
        b.machine.cores = Some(4);
        let expected = [("--link", "10gbit", "1gbit"), ("cores", "–", "4")];
        let expected = expected.map(|(name, a, b)| (name.to_owned(), a.to_owned(), b.to_owned()));
        assert_eq!(compare(&a, &b).differences, expected);
        assert_eq!(compare(&a, &a).differences, []);
    }
}
