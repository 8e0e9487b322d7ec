//! The demonstration itself, as a newcomer runs it: it ends with exit 0, having shown what it promises, and leaves
//! nothing behind; interrupted, it leaves nothing behind either.
//!
//! Not here: `make demo`'s set-up of a fresh machine.

use std::fs;
use std::path::Path;
use std::time::Duration;

use shoal_loadtest::cluster::process::Process;
use shoal_loadtest::cluster::trial::{Turn, ready_with};
use shoal_loadtest::cluster::{containerd, needs};
use tokio::time::{sleep, timeout};

const WITHIN: Duration = Duration::from_secs(240);

struct Demo {
    folder: tempfile::TempDir,
    process: Process,
    _turn: Turn,
}

fn start(test: &str) -> Option<Demo> {
    let mut programs = containerd::PROGRAMS.to_vec();
    programs.extend([needs::BUSYBOX, needs::DOCKER_REGISTRY, needs::SKOPEO]);
    if !ready_with(test, &programs) {
        return None;
    }
    let turn = Turn::wait().expect("a turn");
    // Everything of the run is below, so that what is left behind can be seen. Short, for Unix sockets.
    let folder = tempfile::Builder::new()
        .prefix("sd")
        .tempdir()
        .expect("a folder");
    let env = [(
        "TMPDIR".to_owned(),
        folder.path().to_str().expect("utf-8").to_owned(),
    )];
    let binary = needs::binary("shoal-loadtest").expect("built");
    let log = folder.path().join("output");
    let process = Process::start("demo", &binary, &["demo".into()], &env, &log).expect("starts");
    Some(Demo {
        folder,
        process,
        _turn: turn,
    })
}

/// No folder, mount or process of the run is left.
fn check_nothing_left(folder: &Path) {
    let path = folder.to_str().expect("utf-8");
    let left: Vec<_> = fs::read_dir(folder)
        .expect("readable")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(left, ["output"], "folders");
    assert!(
        !fs::read_to_string("/proc/self/mountinfo")
            .expect("readable")
            .contains(path),
        "mounts"
    );
    for entry in fs::read_dir("/proc").expect("readable").flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&command).contains(path),
            "{}",
            String::from_utf8_lossy(&command)
        );
    }
}

#[tokio::test]
async fn the_demonstration_shows_what_it_promises_and_leaves_nothing_behind() {
    let Some(mut demo) =
        start("the_demonstration_shows_what_it_promises_and_leaves_nothing_behind")
    else {
        return;
    };
    let status = demo.process.wait(WITHIN).await.expect("ends");
    let output = demo.process.output().expect("readable");
    eprintln!("{output}");
    assert!(status.success(), "{status}");
    for node in ["node-1", "node-2", "node-3"] {
        assert!(
            output.contains(&format!("hello from {node}")),
            "{node} ran its container"
        );
    }
    assert!(output.contains("fetched once from upstream"));
    check_nothing_left(demo.folder.path());
}

#[tokio::test]
async fn an_interrupted_demonstration_leaves_nothing_behind() {
    let Some(mut demo) = start("an_interrupted_demonstration_leaves_nothing_behind") else {
        return;
    };
    let pulling = async {
        while !demo
            .process
            .output()
            .expect("readable")
            .contains("The pulls")
        {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(WITHIN, pulling).await.expect("comes to the pulls");
    let pid = rustix::process::Pid::from_raw(demo.process.pid()).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("runs");
    let status = demo.process.wait(WITHIN).await.expect("ends");
    assert_eq!(
        status.code(),
        Some(1),
        "{}",
        demo.process.output().expect("readable")
    );
    check_nothing_left(demo.folder.path());
}
