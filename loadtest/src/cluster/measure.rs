//! Figures: a process's /metrics as numbers, and the few statistics that reports use.
//!
//! What for: assertions and tables. What not for: a Prometheus client (the text is ours, only its simple part is read).

use std::time::Duration;

/// One reading of a process's /metrics.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Reads the text form; lines that are not samples are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self {
            samples: text.lines().filter_map(parse_line).collect(),
        }
    }

    /// The sum of all samples of `name` that carry all of `labels`; 0 when there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// The same as whole bytes or events.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counters are whole and not negative"
    )]
    #[must_use]
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.sum(name, labels).round() as u64
    }

    /// Whether any sample of that name is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.matching(name, &[]).next().is_some()
    }

    /// The mean of a histogram or summary of seconds, when it has seen anything.
    #[must_use]
    pub fn mean(&self, name: &str, labels: &[(&str, &str)]) -> Option<Duration> {
        let count = self.sum(&format!("{name}_count"), labels);
        (count > 0.0)
            .then(|| Duration::from_secs_f64(self.sum(&format!("{name}_sum"), labels) / count))
    }

    /// `name{labels} value` of every sample whose name starts so, for messages.
    #[must_use]
    pub fn show(&self, prefix: &str) -> String {
        let lines = self
            .samples
            .iter()
            .filter(|sample| sample.name.starts_with(prefix));
        lines
            .map(|sample| format!("{}{:?} {}\n", sample.name, sample.labels, sample.value))
            .collect()
    }

    fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&str, &str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.iter().any(|(k, v)| k == key && v == value))
        })
    }
}

fn parse_line(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let (name, labels) = match series.split_once('{') {
        None => (series, Vec::new()),
        Some((name, rest)) => (
            name,
            rest.trim_end_matches('}')
                .split(',')
                .filter_map(parse_label)
                .collect(),
        ),
    };
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

fn parse_label(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=')?;
    Some((key.trim().to_owned(), value.trim_matches('"').to_owned()))
}

/// The middle one of some durations; of two middle ones the lower.
///
/// # Panics
///
/// When there is none.
#[must_use]
pub fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort();
    durations[(durations.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE shoal_download_bytes_total counter\n\
        shoal_download_bytes_total{source=\"peer\"} 100\n\
        shoal_download_bytes_total{source=\"origin\"} 20\n\
        shoal_peers 3\n\
        shoal_wait_seconds_sum{kind=\"blob\",code=\"200\"} 1.5\n\
        shoal_wait_seconds_count{kind=\"blob\",code=\"200\"} 3\n";

    #[test]
    fn samples_are_summed_over_the_labels_that_are_not_named() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.count("shoal_download_bytes_total", &[]), 120);
        assert_eq!(
            metrics.count("shoal_download_bytes_total", &[("source", "peer")]),
            100
        );
        assert_eq!(metrics.count("shoal_peers", &[]), 3);
        assert_eq!(metrics.count("shoal_absent", &[]), 0);
        assert_eq!(
            metrics.mean("shoal_wait_seconds", &[("kind", "blob")]),
            Some(Duration::from_millis(500))
        );
        assert_eq!(
            metrics.mean("shoal_wait_seconds", &[("kind", "manifest")]),
            None
        );
        assert!(metrics.has("shoal_peers") && !metrics.has("shoal_peer"));
    }

    #[test]
    fn the_median_is_a_value_that_was_measured() {
        let of =
            |millis: &[u64]| median(millis.iter().copied().map(Duration::from_millis).collect());
        assert_eq!(of(&[5]), Duration::from_millis(5));
        assert_eq!(of(&[9, 1, 5]), Duration::from_millis(5));
        assert_eq!(of(&[9, 1, 5, 7]), Duration::from_millis(5));
    }
}
