//! One recorder for the process, rendered in Prometheus' text form.
//!
//! Every histogram whose name ends in `_seconds` or `_bytes` has fixed buckets, so that agents can be added up.
//! The figures of the process itself (memory, CPU, files, start) are read when somebody asks. Not here: any
//! metric of images or peers; those who count them name them.

mod process;

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// From a warm cache hit to the longest wait that a client puts up with.
const SECONDS_BUCKETS: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 900.0,
];

/// From a manifest to the largest layers, by powers of four.
const BYTES_BUCKETS: [f64; 13] = [
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
    17_179_869_184.0,
];

/// How often samples are folded into buckets when nobody scrapes, so that they do not pile up.
pub(crate) const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

static INSTALLED: OnceLock<MetricsHandle> = OnceLock::new();

/// Reads what has been counted.
#[derive(Clone)]
pub struct MetricsHandle {
    recorder: PrometheusHandle,
    start_unix_s: f64,
}

impl std::fmt::Debug for MetricsHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricsHandle").finish_non_exhaustive()
    }
}

/// The metrics of this process cannot be collected.
#[derive(Debug, thiserror::Error)]
#[error("cannot start collecting metrics: {0}")]
pub struct MetricsError(#[from] BuildError);

/// Starts collecting for the whole process and counts the build; a second call returns the same handle.
pub fn install(version: &str) -> Result<MetricsHandle, MetricsError> {
    if let Some(handle) = INSTALLED.get() {
        return Ok(handle.clone());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES_BUCKETS)?
        .install_recorder()?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let handle = MetricsHandle {
        recorder,
        start_unix_s: since_epoch.map_or(0.0, |since| since.as_secs_f64()),
    };
    metrics::describe_gauge!(
        "shoal_build_info",
        "Always 1; its labels say what is running."
    );
    metrics::gauge!(
        "shoal_build_info",
        "version" => version.to_owned(),
        "revision" => option_env!("SHOAL_REVISION").unwrap_or("unknown"),
    )
    .set(1.0);
    Ok(INSTALLED.get_or_init(|| handle).clone())
}

impl MetricsHandle {
    /// All metrics in Prometheus' text form.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = self.recorder.render();
        process::render(&mut text, self.start_unix_s);
        text
    }

    /// Folds the samples of histograms into their buckets.
    pub(crate) fn upkeep(&self) {
        self.recorder.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_the_process_and_histograms_are_rendered() {
        let handle = install("1.2.3").unwrap();
        metrics::histogram!("shoal_test_seconds").record(0.02);
        metrics::counter!("shoal_test_total", "source" => "peer").increment(3);
        handle.upkeep();
        let text = install("other").unwrap().render();
        for line in [
            "shoal_build_info{version=\"1.2.3\",revision=\"",
            "shoal_test_seconds_bucket{le=\"0.025\"} 1",
            "shoal_test_total{source=\"peer\"} 3",
            "# TYPE process_cpu_seconds_total counter",
            "process_resident_memory_bytes ",
            "process_open_fds ",
        ] {
            assert!(text.contains(line), "no `{line}` in\n{text}");
        }
        assert!(!text.contains("version=\"other\""));
    }
}
