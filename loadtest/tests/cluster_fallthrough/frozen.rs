//! An agent that is there and does nothing: every thread of it is stopped.
//!
//! The kernel goes on taking its clients' connections, and most clients wait for an answer without a limit. A process that
//! is stopped cannot help itself: what ends it is systemd's watchdog or the kubelet's liveness probe, and these tests do
//! what the probe does.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::{join, join_all};
use rustix::process::Signal;
use shoal_loadtest::cluster::trial::{REPOSITORY, TAG, Trial, ready, wait_downloaded};
use shoal_loadtest::cluster::{Member, client};
use shoal_loadtest::workload::Image;
use tokio::time::{sleep, timeout};

use crate::{MIB, Scene, WITHIN, can_run, check_all, check_all_after_a_cut, pull_all, wait_begun};

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Of a row of `/proc/net/tcp`: a connection that is open.
const ESTABLISHED: &str = "01";

fn signal(member: &Member, signal: Signal) {
    let process = member.process().expect("runs");
    process.signal(signal).expect("runs");
}

/// What the kubelet asks; a frozen process does not answer.
async fn probe_in_vain(member: &Member) {
    let admin = format!("http://{}/livez", member.addresses().admin);
    let probe = client::http().get(admin).timeout(Duration::from_secs(1));
    probe.send().await.expect_err("it does not live");
}

/// Ends an agent as its supervisor does once it has asked in vain.
async fn supervise(agent: &mut Member) {
    probe_in_vain(agent).await;
    agent.kill().await.expect("killed");
}

/// Whether a client has asked at this port and nobody has read it.
fn asked_in_vain(port: SocketAddr) -> bool {
    let sockets = fs::read_to_string("/proc/net/tcp").expect("readable");
    let local = format!(":{:04X}", port.port());
    sockets.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, ours, _, ESTABLISHED, queues, ..] = words[..] else {
            return false;
        };
        let unread = queues.rsplit(':').next().unwrap_or_default();
        ours.ends_with(&local) && unread.bytes().any(|digit| digit != b'0')
    })
}

async fn wait_asked(agent: &Member) {
    let ports = agent.addresses();
    let asked = async {
        while !asked_in_vain(ports.registry) && !asked_in_vain(ports.bound) {
            sleep(LOOK_EVERY).await;
        }
    };
    timeout(WITHIN, asked).await.expect("a client asks");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_agent_that_its_supervisor_ends_costs_no_client_its_pull() {
    if !can_run("a_frozen_agent_that_its_supervisor_ends_costs_no_client_its_pull") {
        return;
    }
    let image = Image::of_sizes(20, &[MIB, 2 * MIB]);
    let mut scene = Scene::begin(&image).await;
    let agents = &mut scene.trial.cluster.agents;
    for agent in agents.iter() {
        signal(agent, Signal::STOP);
    }
    let ending = join_all(agents.iter_mut().map(async |agent| {
        wait_asked(agent).await;
        supervise(agent).await;
    }));
    let (pulled, _) = join(pull_all(&scene.pullers, &image), ending).await;
    check_all(pulled);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_freezes_in_the_middle_of_a_blob_and_is_started_anew_costs_one_attempt() {
    const TEST: &str =
        "an_agent_that_freezes_in_the_middle_of_a_blob_and_is_started_anew_costs_one_attempt";
    if !can_run(TEST) {
        return;
    }
    let image = Image::of_sizes(25, &[24 * MIB]);
    let mut scene = Scene::begin(&image).await;
    let (cluster, upstream) = (&mut scene.trial.cluster, &scene.trial.upstream);
    upstream.set_rate(Some(2 * MIB));
    let freezing = async {
        wait_begun(cluster, 2 * MIB).await;
        for agent in &cluster.agents {
            signal(agent, Signal::STOP);
        }
        join_all(cluster.agents.iter_mut().map(async |agent| {
            supervise(agent).await;
            agent.start().await.expect("starts again");
        }))
        .await;
        upstream.set_rate(None);
    };
    let (pulled, ()) = join(pull_all(&scene.pullers, &image), freezing).await;
    check_all_after_a_cut(pulled, &scene.pullers, &image).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_was_frozen_and_goes_on_finishes_what_it_had_begun() {
    const TEST: &str = "an_agent_that_was_frozen_and_goes_on_finishes_what_it_had_begun";
    if !ready(TEST) {
        return;
    }
    let image = Image::of_sizes(30, &[64 * MIB]);
    let trial = Trial::begin(1, &image).await.expect("starts");
    trial.upstream.set_rate(Some(40 * MIB));
    let client = trial.client(0);
    let agent = &trial.cluster.agents[0];
    let freeze = async {
        wait_downloaded(agent, 8 * MIB, WITHIN)
            .await
            .expect("flows");
        signal(agent, Signal::STOP);
        probe_in_vain(agent).await;
        signal(agent, Signal::CONT);
    };
    let (pulled, ()) = timeout(WITHIN, join(client.pull(REPOSITORY, TAG), freeze))
        .await
        .expect("in time");
    assert_eq!(pulled.expect("whole").bytes(), image.blob_bytes());
}
