//! What a person sees while a run works: acts with a tick when they are done, bars beneath, lines that stay.
//!
//! What for: `demo` and `up`. What not for: logs. Invariant: where standard output is no terminal, the same lines come
//! without bars and colours, so that a log of the run can be read.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Where a run tells of itself.
#[derive(Debug, Clone)]
pub struct Screen {
    bars: MultiProgress,
    terminal: bool,
}

impl Screen {
    #[must_use]
    pub fn new() -> Self {
        Self {
            bars: MultiProgress::new(),
            terminal: io::stdout().is_terminal() && io::stderr().is_terminal(),
        }
    }

    /// A line that stays.
    pub fn say(&self, line: &str) {
        let print = || {
            // Whoever closed our standard output does not want to read that it is closed.
            let _nobody_reads = writeln!(io::stdout(), "{line}");
        };
        self.bars.suspend(print);
    }

    pub fn title(&self, line: &str) {
        self.say(&format!("\n{}", self.paint(BOLD, line)));
    }

    pub fn good(&self, line: &str) {
        self.say(&format!("{} {line}", self.paint(GREEN, "✓")));
    }

    pub fn bad(&self, line: &str) {
        self.say(&format!("{} {line}", self.paint(RED, "✗")));
    }

    pub fn aside(&self, line: &str) {
        self.say(&self.paint(DIM, line));
    }

    /// Something that takes a while; ends with a tick and its time, or vanishes when it is dropped unfinished.
    #[must_use]
    pub fn act(&self, what: &str) -> Act {
        let bar = self.bars.add(ProgressBar::new_spinner());
        bar.set_style(style("{spinner:.cyan} {msg}"));
        bar.set_message(what.to_owned());
        if self.terminal {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Act {
            screen: self.clone(),
            bar,
            what: what.to_owned(),
            started: Instant::now(),
        }
    }

    /// A bar of bytes with a name in front.
    #[must_use]
    pub fn bar(&self, name: &str, bytes: u64) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new(bytes));
        bar.set_style(style("  {prefix:9} {bar:30.cyan/dim} {bytes:>10} {msg}"));
        bar.set_prefix(name.to_owned());
        bar
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.terminal {
            format!("{colour}{text}{PLAIN}")
        } else {
            text.to_owned()
        }
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates above are correct")
}

/// Something under way.
#[derive(Debug)]
pub struct Act {
    screen: Screen,
    bar: ProgressBar,
    what: String,
    started: Instant,
}

impl Act {
    /// Tells how far it has come.
    pub fn tell(&self, how_far: &str) {
        self.bar.set_message(format!("{} {how_far}", self.what));
    }

    /// It is done; `outcome` stands behind what was announced.
    pub fn done(self, outcome: &str) {
        self.bar.finish_and_clear();
        let time = format!("({:.1} s)", self.started.elapsed().as_secs_f64());
        let space = if outcome.is_empty() { "" } else { " " };
        self.screen.good(&format!(
            "{}{space}{outcome} {}",
            self.what,
            self.screen.paint(DIM, &time)
        ));
    }
}

impl Drop for Act {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A table: columns as wide as they need, all but the first set to the right.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (column, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[column] - cell.chars().count());
            let cell = if column == 0 {
                format!("{cell}{pad}")
            } else {
                format!("{pad}{cell}")
            };
            // Writing into a String cannot fail.
            let _infallible = write!(line, " {cell} ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `12.3 MiB`, as everything here writes sizes.
#[must_use]
pub fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_its_columns() {
        let rows = [
            vec!["node".to_owned(), "s".to_owned()],
            vec!["one".to_owned(), "10.5".to_owned()],
        ];
        assert_eq!(table(&rows), "  node     s\n  one   10.5\n");
        assert_eq!(table(&[]), "");
    }
}
