//! The fan-out of real binaries on shaped links, small: it runs, its figures are there, and nothing of it is left.
//!
//! Not here: the promises themselves (`shoal-loadtest bench`); the gates of this run are wide, so that a noisy machine
//! passes and a broken fan-out does not.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use shoal_loadtest::cluster::needs;
use shoal_loadtest::cluster::trial::{Turn, ready};
use shoal_loadtest::{network, report};
use tokio::process::Command;
use tokio::time::timeout;

const WITHIN: Duration = Duration::from_secs(200);
/// How often it is looked whether namespaces are there.
const LOOK_EVERY: Duration = Duration::from_millis(10);

fn can(test: &str) -> bool {
    ready(test) && needs::met(test, network::ready())
}

fn fanout(words: &str, json: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal-loadtest"));
    command
        .arg("fanout")
        .args(words.split_whitespace())
        .arg("--json")
        .arg(json)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn end(mut command: Command) -> Output {
    let ended = timeout(WITHIN, command.output()).await;
    ended.expect("in time").expect("started")
}

/// Namespaces of the process with this number.
fn spaces_of(pid: u32) -> Vec<PathBuf> {
    let prefix = format!("shoal-{pid}-");
    let names = std::fs::read_dir("/run/netns").expect("readable");
    let paths = names.map(|name| name.expect("readable").path());
    let ours = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
    };
    paths.filter(ours).collect()
}

#[tokio::test]
async fn four_agents_on_shaped_links_get_an_image_from_each_other() {
    if !can("four_agents_on_shaped_links_get_an_image_from_each_other") {
        return;
    }
    let _turn = Turn::wait().expect("a lock");
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("report.json");
    let words = "--agents 4 --link 60mbit --blob 32MiB --layers 3 --zones 2 \
        --gate origin_copies<=2 --gate upstream_copies<=1.01 --gate cross_zone_copies<=3 \
        --gate duplicate_ratio<=0.2";
    let ended = end(fanout(words, &json)).await;
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(
        ended.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    let report = report::read(&json).expect("a report");
    assert_eq!(report.agents, 4);
    assert_eq!(report.failed_agents, Some(0));
    assert_eq!(report.wrong_bytes, Some(0));
    // No gate: a machine that others use is the limit then, and a run with a gate on its time says so and fails.
    assert!(
        report.makespan_over_bound.is_some_and(|over| over < 8.0),
        "{said}"
    );
    assert!(report.bytes_by_source.expect("counted").peer > 0, "{said}");
    assert!(report.goodput_bits_per_sec.is_some_and(|rate| rate > 1e6));
    let links = report.links.expect("links were watched");
    assert_eq!(links.rows.len(), 5, "the origin and four agents");
    assert_eq!(report.progress.expect("clients were watched").rows.len(), 4);
}

#[tokio::test]
async fn a_fan_out_that_is_interrupted_or_killed_leaves_no_namespace_for_long() {
    if !can("a_fan_out_that_is_interrupted_or_killed_leaves_no_namespace_for_long") {
        return;
    }
    let _turn = Turn::wait().expect("a lock");
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("report.json");
    // Far longer than this test waits for it.
    let words = "--agents 2 --link 1mbit --blob 64MiB";

    let mut killed = fanout(words, &json).spawn().expect("starts");
    let left = killed.id().expect("runs");
    wait_for_spaces(left).await;
    killed.kill().await.expect("killed");
    assert!(!spaces_of(left).is_empty(), "nobody could clean up");

    let mut interrupted = fanout(words, &json)
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let pid = interrupted.id().expect("runs");
    wait_for_spaces(pid).await;
    assert!(spaces_of(left).is_empty(), "the next run cleans up");
    let number = i32::try_from(pid).expect("a number");
    let number = rustix::process::Pid::from_raw(number).expect("a number");
    rustix::process::kill_process(number, rustix::process::Signal::INT).expect("alive");
    let ended = timeout(WITHIN, interrupted.wait()).await;
    assert_eq!(ended.expect("in time").expect("ended").code(), Some(1));
    assert!(spaces_of(pid).is_empty(), "it cleans up after itself");
}

async fn wait_for_spaces(pid: u32) {
    let there = async {
        // The switch, the upstream, the origin and two agents.
        while spaces_of(pid).len() < 5 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    timeout(WITHIN, there).await.expect("namespaces are made");
}
