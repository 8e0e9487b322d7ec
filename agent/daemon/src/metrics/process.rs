//! Memory, CPU, open files and start of this process, from `/proc/self`, under Prometheus' customary names.
//!
//! A figure that cannot be read is left out: a scrape never fails for it.

use std::fmt::Write as _;
use std::fs;

use rustix::process::{Resource, getrlimit};

/// Clock ticks a second in `/proc`: the kernel's fixed interface to user space on every architecture we build for.
const TICKS_PER_SEC: f64 = 100.0;

pub(super) fn render(text: &mut String, start_unix_s: f64) {
    metric(
        text,
        "process_start_time_seconds",
        "gauge",
        "When the process started.",
        start_unix_s,
    );
    if let Some(seconds) = fs::read_to_string("/proc/self/stat")
        .ok()
        .as_deref()
        .and_then(cpu_s)
    {
        metric(
            text,
            "process_cpu_seconds_total",
            "counter",
            "CPU time, user and system.",
            seconds,
        );
    }
    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        for (name, field, help) in [
            ("process_resident_memory_bytes", "VmRSS:", "Memory in use."),
            (
                "process_resident_memory_max_bytes",
                "VmHWM:",
                "The most memory that was in use.",
            ),
            (
                "process_virtual_memory_bytes",
                "VmSize:",
                "Address space in use.",
            ),
        ] {
            if let Some(kib) = status_number(&status, field) {
                metric(text, name, "gauge", help, kib * 1024.0);
            }
        }
        if let Some(threads) = status_number(&status, "Threads:") {
            metric(
                text,
                "process_threads",
                "gauge",
                "Threads of the process.",
                threads,
            );
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // The listing itself holds one of them open.
        let count = u32::try_from(open.count().saturating_sub(1)).unwrap_or(u32::MAX);
        metric(
            text,
            "process_open_fds",
            "gauge",
            "Open files and sockets.",
            f64::from(count),
        );
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        let limit = f64::from(u32::try_from(limit).unwrap_or(u32::MAX));
        metric(
            text,
            "process_max_fds",
            "gauge",
            "How many may be open.",
            limit,
        );
    }
}

fn metric(text: &mut String, name: &str, kind: &str, help: &str, value: f64) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
    );
}

/// User and system time: fields 14 and 15. The name of the process, field 2, may hold blanks and brackets.
fn cpu_s(stat: &str) -> Option<f64> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SEC)
}

fn status_number(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_process_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_s(stat), Some(3.0));
        assert_eq!(cpu_s("7 (short) S 1"), None);
        assert_eq!(cpu_s(""), None);
    }

    #[test]
    fn status_fields_are_read_by_name() {
        let status = "Name:\tx\nVmRSS:\t   1024 kB\nThreads:\t3\n";
        assert_eq!(status_number(status, "VmRSS:"), Some(1024.0));
        assert_eq!(status_number(status, "Threads:"), Some(3.0));
        assert_eq!(status_number(status, "VmHWM:"), None);
    }
}
