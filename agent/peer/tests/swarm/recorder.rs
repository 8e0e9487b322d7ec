//! Reads counters back. One recorder for the whole process: tests compare before and after.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

static COUNTS: OnceLock<Counts> = OnceLock::new();

#[derive(Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

/// The process's counters.
pub(crate) fn counts() -> Counts {
    COUNTS
        .get_or_init(|| {
            let counts = Counts::default();
            metrics::set_global_recorder(counts.clone()).unwrap();
            counts
        })
        .clone()
}

impl Counts {
    /// `name{label=value}`, or `name` where there is no label.
    pub(crate) fn get(&self, name: &str) -> u64 {
        let counts = self.0.lock().unwrap();
        counts
            .get(name)
            .map_or(0, |count| count.load(Ordering::SeqCst))
    }
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut name = key.name().to_owned();
        for label in key.labels() {
            name.push_str(&format!("{{{}={}}}", label.key(), label.value()));
        }
        let count = Arc::clone(self.0.lock().unwrap().entry(name).or_default());
        Counter::from_arc(count)
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
