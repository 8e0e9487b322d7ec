//! Laws of the report's form: keys, nulls, bounds, and what is refused.

use serde_json::{Value, json};

use super::*;

/// Design: the same keys for every kind of run.
const PROMISED: &str = "agents, zones, blob_bytes, piece_bytes, pieces, link_bits_per_sec, seed, makespan_s, \
    bound_s, makespan_over_bound, p50_s, p99_s, max_s, ttfb_p50_s, ttfb_p99_s, origin_copies, upstream_copies, \
    cross_zone_copies, duplicate_ratio, cpu_s_per_gib, rss_max_bytes, failed_agents, wrong_bytes, \
    cpu_busy_ratio, goodput_bits_per_sec, makespan_over_goodput_bound";

fn written(report: &Report) -> (Vec<u8>, Value) {
    let text = file::text(report);
    let value = serde_json::from_slice(&text).unwrap();
    (text, value)
}

#[test]
fn every_promised_key_is_there_and_null_where_it_does_not_apply() {
    let promised: Vec<&str> = PROMISED.split(", ").map(str::trim).collect();
    assert_eq!(
        KEYS.iter().map(|key| key.name).collect::<Vec<_>>(),
        promised
    );
    let (_, value) = written(&Report::new(Kind::Fanout));
    for key in promised {
        assert!(value.get(key).is_some(), "{key} is missing");
    }
    assert_eq!(value["goodput_bits_per_sec"], Value::Null);
}

#[test]
fn the_document_says_of_every_key_what_the_code_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/BENCHMARKS.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut rows = text
        .lines()
        .skip_while(|line| !line.starts_with("| `agents`"));
    for key in KEYS {
        let better = match key.better {
            Better::Higher => "higher",
            Better::Lower => "lower",
            Better::Neither => "neither",
            Better::Same => "condition",
        };
        let row = format!(
            "| `{}` | {} | {better} | {} |",
            key.name,
            key.unit.name(),
            key.means
        );
        assert_eq!(rows.next(), Some(row.as_str()));
    }
}

#[test]
fn a_key_reads_the_field_that_it_names() {
    let mut filled = json!({ "format": FORMAT, "kind": "fanout" });
    for (at, key) in KEYS.iter().enumerate() {
        filled[key.name] = json!(at + 1);
    }
    let report: Report = serde_json::from_value(filled).unwrap();
    for (at, key) in KEYS.iter().enumerate() {
        assert_eq!((key.of)(&report), Some((at + 1) as f64), "{}", key.name);
    }
}

#[test]
fn what_is_written_is_read_back_and_stands_a_key_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let mut report = Report::new(Kind::Simulate);
    report.agents = 4;
    report.agent_s = vec![Some(1.5), None, Some(0.25)];
    report.makespan_s = Some(f64::INFINITY);
    let (text, value) = written(&report);
    assert_eq!(value["makespan_s"], Value::Null, "no infinity in JSON");
    let lines = String::from_utf8(text.clone()).unwrap();
    assert!(lines.contains("\n \"agents\": 4,\n"), "{lines}");
    std::fs::write(&path, text).unwrap();
    report.makespan_s = None;
    assert_eq!(read(&path).unwrap(), report);
}

#[test]
fn a_file_that_is_no_report_is_refused_with_the_reason_and_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.json");
    for (text, reason) in [
        ("plain text", "it is no JSON"),
        ("{}", "it has no \"format\""),
        ("[1, 2]", "it has no \"format\""),
        (
            r#"{"format": "shoal-report/9"}"#,
            "its format is \"shoal-report/9\"",
        ),
        (
            r#"{"format": "shoal-report/1", "agents": "many"}"#,
            "a key is wrong",
        ),
        (
            r#"{"format": "shoal-report/1", "kind": "demo"}"#,
            "a key is wrong",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(error.contains("shoal-loadtest simulate --json"), "{error}");
    }
    let error = read(&folder.path().join("absent.json")).unwrap_err();
    assert!(error.to_string().starts_with("cannot read "), "{error}");
}

#[test]
fn what_follows_from_the_figures_is_filled_in_and_what_is_there_stays() {
    let mut report = Report {
        agents: 8,
        pieces: Some(97),
        piece_bytes: Some(1_250_000),
        link_bits_per_sec: Some(1e7),
        goodput_bits_per_sec: Some(5e6),
        makespan_s: Some(300.0),
        max_s: Some(7.0),
        agent_s: vec![Some(3.0), Some(1.0), None, Some(2.0)],
        ..Report::default()
    };
    report.complete();
    assert_eq!(report.bound_s, Some(100.0));
    assert_eq!(report.makespan_over_bound, Some(3.0));
    assert_eq!(report.makespan_over_goodput_bound, Some(1.5));
    assert_eq!((report.p50_s, report.p99_s), (Some(2.0), Some(3.0)));
    assert_eq!(report.max_s, Some(7.0), "was there");
    assert_eq!(report.failed_agents, Some(1));
    assert!(!report.passed());
}

#[test]
fn times_that_measured_the_machine_are_not_judged() {
    let run = |busy, link_bits_per_sec, gates: &[&str]| {
        let mut report = Report {
            kind: Kind::Fanout,
            cpu_busy_ratio: Some(busy),
            link_bits_per_sec,
            makespan_over_bound: Some(1.0),
            origin_copies: Some(1.0),
            ..Report::default()
        };
        let gates: Vec<Gate> = gates.iter().map(|gate| gate.parse().unwrap()).collect();
        report.judge(&gates);
        report.passed()
    };
    let (time, copies) = ("makespan_over_bound<=1.1", "origin_copies<=1.1");
    assert!(run(0.6, Some(1e8), &[time, copies]));
    assert!(!run(0.99, Some(1e8), &[time, copies]));
    assert!(run(0.99, Some(1e8), &[copies]), "copies are what they are");
    assert!(run(0.99, None, &[time]), "no link was to be measured");
}

#[test]
fn a_report_is_never_larger_than_a_page_can_draw() {
    let at_s: Vec<f64> = (0..10_000).map(f64::from).collect();
    let row = |at: usize| ProgressRow {
        name: format!("agent {at} {}", "x".repeat(500)),
        percent: vec![255; at_s.len()],
    };
    let link = LinkUse {
        tx_bits_per_sec: at_s.clone(),
        rx_bits_per_sec: at_s.clone(),
        ..LinkUse::default()
    };
    let report = Report {
        progress: Some(Progress {
            at_s: at_s.clone(),
            rows: (0..1000).map(row).collect(),
        }),
        links: Some(Links {
            at_s: at_s.clone(),
            rows: vec![link; 100],
        }),
        copies: Some(Copies {
            at_s: at_s.clone(),
            origin: at_s.clone(),
            upstream: vec![1.0],
            cross_zone: Vec::new(),
        }),
        notes: vec![String::new(); 10_000],
        ..Report::default()
    }
    .bounded();
    let (progress, links, copies) = (
        report.progress.unwrap(),
        report.links.unwrap(),
        report.copies.unwrap(),
    );
    assert_eq!(progress.rows.len(), section::ROWS_MAX);
    assert!(progress.at_s.len() <= section::SAMPLES_MAX);
    assert_eq!(progress.at_s.last(), Some(&9999.0), "the end is kept");
    for row in &progress.rows {
        assert_eq!(row.percent.len(), progress.at_s.len());
        assert!(row.percent.iter().all(|percent| *percent == 100));
        assert!(row.name.chars().count() < 200);
    }
    assert_eq!(links.rows.len(), section::LINKS_MAX);
    assert_eq!(copies.origin.len(), copies.at_s.len());
    assert!(
        copies.upstream.is_empty(),
        "as long as the times, or unknown"
    );
    assert_eq!(report.notes.len(), LINES_MAX);
}
