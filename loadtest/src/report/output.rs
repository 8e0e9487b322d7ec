//! What every run does with its report: the same options, the same files, the same last words.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{Gate, Report, file, page};
use crate::screen::Screen;

/// Where a report goes, and what it has to show.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ReportArgs {
    /// What a figure may be at most, as `makespan_over_bound<=1.10`; exit 1 when it is more. May be repeated
    #[arg(long, value_name = "KEY<=NUMBER")]
    pub gate: Vec<Gate>,
    /// Write the report's figures here, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report here as one page, with plots and everything in it
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

impl ReportArgs {
    /// Refuses files that could not be written in the end, before the run begins.
    ///
    /// # Errors
    /// A folder that is not there.
    pub fn check(&self) -> Result<()> {
        for path in self.json.iter().chain(&self.report) {
            let folder = path.parent().filter(|folder| *folder != Path::new(""));
            if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
                anyhow::bail!(
                    "cannot write {}: there is no folder {}; make it first",
                    path.display(),
                    folder.display()
                );
            }
        }
        Ok(())
    }

    /// Judges the gates, tells what became of them, writes the files. The report as it was written; whether the run is
    /// a failure is [`Report::passed`].
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn finish(&self, screen: &Screen, mut report: Report) -> Result<Report> {
        report.judge(&self.gate);
        if report.is_bound_by_machine() {
            let busy = report.cpu_busy_ratio.unwrap_or(1.0) * 100.0;
            report.notes.push(format!(
                "The machine was {busy:.0} % busy, so that it was the limit and not the links; take fewer agents or slower links."
            ));
        }
        let report = report.bounded();
        if let Some(path) = &self.json {
            write(path, &file::text(&report))?;
            screen.aside(&format!("figures in {}", path.display()));
        }
        if let Some(path) = &self.report {
            write(path, page::render(&report).as_bytes())?;
            screen.aside(&format!("page in {}", path.display()));
        }
        let lost = report.failed_agents.unwrap_or(0);
        if lost > 0 {
            screen.bad(&format!("{lost} agents did not finish"));
        }
        let wrong = report.wrong_bytes.unwrap_or(0);
        if wrong > 0 {
            screen.bad(&format!("{wrong} wrong bytes reached a client"));
        }
        for note in &report.notes {
            screen.aside(note);
        }
        for gate in &report.gates {
            let line = gate.to_string();
            if gate.held {
                screen.good(&line);
            } else {
                screen.bad(&line);
            }
        }
        Ok(report)
    }
}

/// All of it or nothing, so that nobody reads half a report.
pub(super) fn write(path: &Path, text: &[u8]) -> Result<()> {
    let cannot = || {
        format!(
            "cannot write {}; see that its folder exists and has room",
            path.display()
        )
    };
    let folder = path
        .parent()
        .filter(|folder| *folder != Path::new(""))
        .unwrap_or_else(|| Path::new("."));
    // As any file of this user's would be; a report is to be shown.
    let mut draft = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .with_context(cannot)?;
    std::io::Write::write_all(&mut draft, text).with_context(cannot)?;
    draft.persist(path).with_context(cannot)?;
    Ok(())
}
