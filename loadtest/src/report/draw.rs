//! `report`: a page from figures that were written earlier, here or elsewhere.

use std::path::PathBuf;

use anyhow::Result;

use super::{output, page, read};
use crate::screen::Screen;

/// A page from figures that were written earlier.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example: shoal-loadtest report run.json --report run.html")]
pub struct DrawArgs {
    /// What --json wrote
    #[arg(value_name = "FILE.json")]
    pub figures: PathBuf,
    /// Write the page here
    #[arg(long, value_name = "FILE")]
    pub report: PathBuf,
}

/// Reads, draws, writes.
///
/// # Errors
/// A file that is no report, or one that cannot be written.
pub fn run(args: &DrawArgs) -> Result<()> {
    let report = read(&args.figures)?;
    output::write(&args.report, page::render(&report).as_bytes())?;
    Screen::new().good(&format!("page in {}", args.report.display()));
    Ok(())
}
