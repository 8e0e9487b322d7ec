//! The page of a report in a real browser: everything is there, nothing is loaded, nothing runs, and it is not blank.
//!
//! The report is of a real, small, simulated run, with text in it that would break out if it could. Not here: what the
//! figures are; that is the report's own tests.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use clap::Parser as _;
use shoal_loadtest::cluster::{browser, needs};
use shoal_loadtest::report::{Kind, Report, compare};
use shoal_loadtest::sim::{self, SimulateArgs};

/// Text that is code wherever it is not escaped.
const HOSTILE: &str =
    "\"><script>console.error('ran')</script><img src=x onerror=\"console.error('ran')\">";

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: SimulateArgs,
}

fn simulated() -> Report {
    let words = "test --agents 6 --zones 2 --link 1gbit --blob 32MiB --upstream 2gbit --seed 5";
    let scenario = Line::parse_from(words.split(' ')).args.scenario().unwrap();
    let mut report = sim::simulate(scenario, |_, _| ()).report().unwrap();
    report.judge(&["makespan_over_bound<=9".parse().unwrap()]);
    report.judge(&["p99_s<=0".parse().unwrap()]);
    report
}

/// With what the other kind of run has, and with text from nowhere good.
fn hostile() -> Report {
    let mut report = simulated();
    report.kind = Kind::Fanout;
    report.goodput_bits_per_sec = Some(9e8);
    report.cpu_s_per_gib = Some(3.2);
    report.rss_max_bytes = Some(90 << 20);
    report.complete();
    report.notes = vec![HOSTILE.to_owned()];
    report.command = vec!["shoal-loadtest".to_owned(), HOSTILE.to_owned()];
    report.trace = Some(HOSTILE.to_owned());
    report.made_at = Some(HOSTILE.to_owned());
    report.machine.cpu = Some(HOSTILE.to_owned());
    report
        .settings
        .insert(HOSTILE.to_owned(), HOSTILE.to_owned());
    report.extra.insert(HOSTILE.to_owned(), HOSTILE.into());
    for gate in &mut report.gates {
        gate.key.push_str(HOSTILE);
    }
    for row in &mut report.progress.as_mut().unwrap().rows {
        row.name = HOSTILE.to_owned();
    }
    for row in &mut report.links.as_mut().unwrap().rows {
        row.name = HOSTILE.to_owned();
    }
    report
}

/// Distinct colours of a picture, its corners' first.
fn colours(png: &Path) -> (Vec<u8>, usize) {
    let file = std::io::BufReader::new(std::fs::File::open(png).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let each = info.color_type.samples();
    let distinct: BTreeSet<&[u8]> = pixels[..info.buffer_size()].chunks(each).collect();
    (pixels[..3].to_vec(), distinct.len())
}

#[tokio::test]
async fn a_report_shows_everything_in_a_real_browser_and_lets_nothing_run() {
    let test = "a_report_shows_everything_in_a_real_browser_and_lets_nothing_run";
    if !needs::met(test, needs::programs(&[needs::CHROMIUM])) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    std::fs::write(&page, hostile().page()).unwrap();
    let url = format!("file://{}", page.display());
    let browser::Seen { dom, complaints } = browser::see(&url, Duration::ZERO).await.unwrap();
    for part in [
        "When the agents were done",
        "Who held how much, when",
        "Where the bytes came from",
        "Copies that were sent, over time",
        "How busy the links were",
        "✓</span> holds",
        "✗</span> broken",
        "bound at QUIC’s goodput",
        "To run it again",
        "makespan_over_goodput_bound",
        "&lt;script&gt;",
    ] {
        assert!(dom.contains(part), "{part} is not on the page");
    }
    for never in ["<script", "<img", "http://", "https://"] {
        assert!(!dom.contains(never), "{never} is on the page");
    }
    assert_eq!(complaints, [""; 0], "the page makes the browser complain");
    assert_eq!(dom.matches("<svg").count(), dom.matches("</svg>").count());

    let mut grounds = Vec::new();
    for (dark, width) in [(false, 1280), (true, 390)] {
        let png = folder.path().join(format!("{width}.png"));
        browser::picture(&url, &png, (width, 1600), dark)
            .await
            .unwrap();
        let (ground, distinct) = colours(&png);
        assert!(distinct > 50, "{distinct} colours at a width of {width}");
        grounds.push(ground);
    }
    assert!(grounds[0][0] > 200, "light: {grounds:?}");
    assert!(grounds[1][0] < 60, "dark: {grounds:?}");
}

#[test]
fn pages_name_every_part_for_those_who_do_not_see_it() {
    let page = simulated().page();
    let drawings = page.matches("role=\"img\"").count();
    assert!(drawings >= 5, "{drawings}");
    assert_eq!(page.matches("<desc").count(), drawings);
    assert_eq!(page.matches("aria-labelledby").count(), drawings);
    assert!(page.matches("<table").count() >= 5);
}

#[test]
fn a_page_about_ten_thousand_agents_stays_small() {
    use shoal_loadtest::report::{Progress, ProgressRow};
    let mut report = simulated();
    report.agent_s = (0..10_000)
        .map(|at| Some(4.0 + f64::from(at) / 1e4))
        .collect();
    let row = |at: u32| ProgressRow {
        name: format!("agent {at}"),
        percent: (0..600u32)
            .map(|time| u8::try_from((time * 100 / 550 + at % 7).min(100)).unwrap())
            .collect(),
    };
    report.progress = Some(Progress {
        at_s: (0..600).map(|at| f64::from(at) / 120.0).collect(),
        rows: (0..10_000).map(row).collect(),
    });
    let page = report.bounded().page();
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
}

#[test]
fn a_comparison_escapes_what_it_shows_and_says_what_does_not_compare() {
    let (a, b) = (simulated(), hostile());
    let folder = tempfile::tempdir().unwrap();
    let (a_path, b_path) = (folder.path().join("a.json"), folder.path().join("b.json"));
    std::fs::write(&a_path, serde_json::to_vec(&a).unwrap()).unwrap();
    std::fs::write(&b_path, serde_json::to_vec(&b).unwrap()).unwrap();
    let page_path = folder.path().join("both.html");
    compare::run(&compare::CompareArgs {
        a: a_path,
        b: b_path,
        json: Some(folder.path().join("both.json")),
        report: Some(page_path.clone()),
    })
    .unwrap();
    let page = std::fs::read_to_string(page_path).unwrap();
    assert!(page.contains("A is of simulate, B is of fanout"));
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script"));
}
