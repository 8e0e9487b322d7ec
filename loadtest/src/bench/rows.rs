//! The scenarios and what is promised of each: the words of a command line.
//!
//! Not here: how a figure is measured. Every row must stand in `docs/BENCHMARKS.md`; a test sees to it.

/// One scenario.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    /// Without gates.
    words: &'static str,
    gates: &'static [&'static str],
    /// At most so much of the makespan of another scenario.
    pub(super) against: Option<(&'static str, f64)>,
}

impl Row {
    /// The words behind the program's name.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = self.words.split_whitespace().map(str::to_owned).collect();
        for gate in self.gates {
            words.push("--gate".into());
            words.push((*gate).into());
        }
        words
    }

    /// As it is typed into a shell.
    pub(super) fn command_line(&self) -> String {
        let gates = self.gates.iter().map(|gate| format!(" --gate '{gate}'"));
        format!("shoal-loadtest {}{}", self.words, gates.collect::<String>())
    }
}

const fn row(name: &'static str, words: &'static str, gates: &'static [&'static str]) -> Row {
    Row {
        name,
        words,
        gates,
        against: None,
    }
}

/// In the order in which they run: real processes first, then virtual time.
pub(super) const ROWS: [Row; 15] = [
    // A piece of 256 KiB takes 0.021 s at this rate: four of them and a second are 1.084 s.
    row(
        "equal",
        "fanout --agents 8 --link 100mbit --mtu 1500 --blob 256MiB",
        &[
            "makespan_over_goodput_bound<=1.10",
            "makespan_over_bound<=1.30",
            "origin_copies<=1.15",
            "upstream_copies<=1.001",
            "ttfb_p99_s<=1.084",
        ],
    ),
    row(
        "image",
        "fanout --agents 8 --link 100mbit --mtu 1500 --blob 512MiB --layers 6",
        &["makespan_over_bound<=1.25", "upstream_copies<=1.001"],
    ),
    row(
        "throttled",
        "fanout --agents 8 --link 100mbit --mtu 1500 --blob 128MiB --upstream-rate 25mbit",
        &["makespan_past_upstream_s<=1", "upstream_copies<=1.001"],
    ),
    Row {
        against: Some(("equal", 1.10)),
        ..row(
            "zones",
            "fanout --agents 8 --link 100mbit --mtu 1500 --blob 256MiB --zones 2",
            &["cross_zone_copies<=1.5"],
        )
    },
    row(
        "frozen",
        "fanout --agents 8 --link 100mbit --mtu 1500 --blob 256MiB --freeze 2",
        &["makespan_over_goodput_bound<=1.20"],
    ),
    row(
        "cost",
        "fanout --agents 3 --link none --mtu 1500 --blob 2GiB --floor",
        &["cpu_over_floor<=1.3", "rss_max_bytes<=157286400"],
    ),
    // 0.45 of the 0.7 GB/s that a bare pair reaches.
    row(
        "pair",
        "fanout --agents 1 --link none --mtu 1500 --blob 2GiB --seeded --preheat",
        &["makespan_over_goodput_bound<=1.55"],
    ),
    // 1.0 of 1.9 GB/s.
    row(
        "pair-jumbo",
        "fanout --agents 1 --link none --mtu 9000 --blob 2GiB --seeded --preheat",
        &["makespan_over_goodput_bound<=1.9"],
    ),
    row(
        "sim-equal",
        "simulate --agents 1000 --blob 5GiB --piece 4MiB",
        &[
            "makespan_over_bound<=1.10",
            "origin_copies<=1.10",
            "duplicate_ratio<=0.03",
            "p99_over_p50<=1.10",
        ],
    ),
    row(
        "sim-large",
        "simulate --agents 10000 --blob 5GiB --piece 4MiB",
        &["makespan_over_bound<=1.15"],
    ),
    row(
        "sim-slow",
        "simulate --agents 1000 --blob 5GiB --piece 4MiB --slow 10%",
        &["fast_p99_over_bound<=1.25"],
    ),
    row(
        "sim-zones",
        "simulate --agents 1000 --blob 5GiB --piece 4MiB --zones 3",
        &["makespan_over_bound<=1.15", "zone_copies_max<=1.5"],
    ),
    row(
        "sim-racks",
        "simulate --agents 1000 --blob 5GiB --piece 4MiB --zones 25",
        &["makespan_over_bound<=1.15", "zone_copies_max<=1.5"],
    ),
    row(
        "sim-crash",
        "simulate --agents 1000 --blob 5GiB --piece 4MiB --crash 5% --tracker-restart 1s",
        &["makespan_over_bound<=1.4"],
    ),
    row(
        "sim-liars",
        "simulate --agents 1000 --blob 5GiB --piece 4MiB --liars 30%",
        &[],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn every_row_is_a_command_line_that_is_understood() {
        for row in &ROWS {
            let words = std::iter::once("shoal-loadtest".to_owned()).chain(row.words());
            crate::Args::try_parse_from(words)
                .unwrap_or_else(|error| panic!("{}: {error}", row.name));
        }
    }

    #[test]
    fn every_row_stands_in_the_document_with_its_command_line() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/BENCHMARKS.md");
        let text = std::fs::read_to_string(path).expect("the document is there");
        for row in &ROWS {
            assert!(
                text.contains(row.words),
                "{} is not in docs/BENCHMARKS.md",
                row.name
            );
        }
    }
}
