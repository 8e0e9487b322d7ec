//! `bench`: every promise about fan-out, measured one after the other, each by a command line of its own.
//!
//! What for: the figures of `docs/BENCHMARKS.md`, reproduced by one command. What not for: other conditions than the
//! ones named here; run `fanout` or `simulate` for those. Invariant: a row is run by its words as they are printed, in a
//! process of its own, so that pasting them into a shell does the same.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::cluster::process::guarded;
use crate::interrupt;
use crate::report::{self, GateResult, Report};
use crate::screen::{Screen, table};

mod rows;

use self::rows::{ROWS, Row};

/// Every promise about fan-out, measured.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example: shoal-loadtest bench equal frozen --folder /tmp/bench")]
pub struct BenchArgs {
    /// Only these scenarios; without any, all of them
    pub scenarios: Vec<String>,
    /// Print the scenarios with their command lines, and run none
    #[arg(long)]
    pub list: bool,
    /// Keep the reports here, as JSON and HTML
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
}

/// Runs the scenarios, and prints one table of what was promised and what came of it.
///
/// # Errors
/// A scenario that is not known, or a promise that was not kept.
pub async fn run(args: BenchArgs) -> Result<()> {
    let screen = Screen::new();
    let chosen = choose(&args.scenarios)?;
    if args.list {
        for row in chosen {
            screen.say(&format!("{}\n  {}", row.name, row.command_line()));
        }
        return Ok(());
    }
    let scratch = tempfile::tempdir()?;
    let folder = args
        .folder
        .clone()
        .unwrap_or_else(|| scratch.path().to_owned());
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let mut stop = pin!(interrupt::listen()?);
    let mut reports = Vec::new();
    for row in chosen {
        screen.title(row.name);
        screen.say(&row.command_line());
        let report = tokio::select! {
            report = measure(row, &folder) => report,
            () = &mut stop => bail!("interrupted"),
        };
        if let Err(error) = &report {
            screen.bad(&format!("{error:#}"));
        }
        reports.push((row, report.ok()));
    }
    verdict(&screen, &reports)
}

fn choose(names: &[String]) -> Result<Vec<&'static Row>> {
    if names.is_empty() {
        return Ok(ROWS.iter().collect());
    }
    let find = |name: &String| {
        let known = || ROWS.iter().map(|row| row.name).collect::<Vec<_>>();
        ROWS.iter()
            .find(|row| row.name == name)
            .with_context(|| format!("no scenario `{name}`; there are {}", known().join(", ")))
    };
    names.iter().map(find).collect()
}

/// Runs one scenario; its report also when a gate did not hold, an error when there is none.
async fn measure(row: &Row, folder: &Path) -> Result<Report> {
    let json = folder.join(format!("{}.json", row.name));
    // A report of an earlier run must not be taken for this one's.
    if json.exists() {
        std::fs::remove_file(&json)?;
    }
    let mut command = guarded(&std::env::current_exe()?);
    command.args(row.words());
    command.arg("--json").arg(&json);
    command
        .arg("--report")
        .arg(folder.join(format!("{}.html", row.name)));
    // Ctrl-C reaches the whole foreground group: the scenario hears it too, and cleans up.
    let mut child = command.stdin(Stdio::null()).spawn()?;
    child.wait().await?;
    report::read(&json).with_context(|| format!("{} left no report", row.name))
}

fn verdict(screen: &Screen, reports: &[(&Row, Option<Report>)]) -> Result<()> {
    let head = ["scenario", "figure", "measured", "at most", ""];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    let mut broken = 0;
    for (row, report) in reports {
        let Some(report) = report else {
            lines.push(vec![row.name.to_owned(), "no report".into()]);
            broken += 1;
            continue;
        };
        let mut gates = report.gates.clone();
        gates.extend(against(row, report, reports));
        gates.push(whole(report));
        for gate in &gates {
            broken += usize::from(!gate.held);
            lines.push(line(row, gate));
        }
    }
    screen.say(&format!("\n{}", table(&lines)));
    if broken > 0 {
        bail!("{broken} promises were not kept");
    }
    Ok(())
}

fn line(row: &Row, gate: &GateResult) -> Vec<String> {
    let number = |value: f64| {
        if value.abs() >= 1e6 {
            format!("{value:.0}")
        } else {
            format!("{value:.3}")
        }
    };
    vec![
        row.name.to_owned(),
        gate.key.clone(),
        gate.value.map_or_else(|| "-".into(), number),
        number(gate.at_most),
        if gate.held { "✓" } else { "✗" }.to_owned(),
    ]
}

/// Nobody without the image, and no wrong byte: promised in every scenario.
fn whole(report: &Report) -> GateResult {
    let lost = report.failed_agents.unwrap_or(0) + report.wrong_bytes.unwrap_or(0);
    GateResult {
        key: "failed_agents + wrong_bytes".into(),
        at_most: 0.0,
        value: Some(lost as f64),
        held: lost == 0,
    }
}

/// A promise about two runs: this one takes at most so much of the time of another.
fn against(row: &Row, report: &Report, all: &[(&Row, Option<Report>)]) -> Option<GateResult> {
    let (name, at_most) = row.against?;
    let (_, other) = all.iter().find(|(row, _)| row.name == name)?;
    let value = Some(report.makespan_s? / other.as_ref()?.makespan_s?);
    Some(GateResult {
        key: format!("makespan_over_{name}"),
        at_most,
        value,
        held: value.is_some_and(|value| value <= at_most),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_that_is_not_known_is_refused_with_those_that_are() {
        let error = choose(&["nothing".into()]).expect_err("unknown");
        assert!(error.to_string().contains(ROWS[0].name), "{error}");
        assert_eq!(choose(&[]).expect("all").len(), ROWS.len());
    }

    #[test]
    fn a_run_is_held_against_another_when_both_are_there() {
        let row = ROWS
            .iter()
            .find(|row| row.against.is_some())
            .expect("there is one");
        let (name, at_most) = row.against.expect("chosen so");
        let other = ROWS
            .iter()
            .find(|row| row.name == name)
            .expect("a row that is named");
        let took = |seconds| Report {
            makespan_s: Some(seconds),
            ..Report::default()
        };
        let (slow, base) = (took(at_most * 10.0 + 1.0), took(10.0));
        let all = [(other, Some(base))];
        assert!(against(row, &took(10.0), &all).is_some_and(|gate| gate.held));
        assert!(against(row, &slow, &all).is_some_and(|gate| !gate.held));
        assert!(against(row, &slow, &[(other, None)]).is_none());
    }
}
