//! Those who do not belong, and members that lie, against the real binaries over real QUIC: refused, counted, and no
//! client is served a wrong byte.
//!
//! Not here: every way to break a frame (fuzz and property tests of `proto`), and the same lies inside one process
//! (`agent/peer/tests`).

mod liar;

use std::net::SocketAddr;
use std::time::Duration;

use liar::{Liar, Lie, Secrets, endpoint, sign};
use shoal_link::{Expect, Identity};
use shoal_loadtest::cluster::Member;
use shoal_loadtest::cluster::trial::{REPOSITORY, TAG, Trial, ready};
use shoal_loadtest::workload::Image;
use shoal_proto::wire::{Announce, ToTracker};
use shoal_proto::{ClusterKey, Role, SignedMembership};
use tokio::time::{sleep, timeout};

const MIB: u64 = 1 << 20;
const WITHIN: Duration = Duration::from_secs(60);
/// So slow that the origin has nothing to give while a liar has everything.
const CRAWL: u64 = 4_000;
const FAR_FUTURE: u64 = u64::MAX / 2;

/// How often a process refused a handshake, by its own count.
async fn refusals(member: &Member) -> u64 {
    let metrics = member.metrics().await.expect("answers");
    metrics.count("shoal_handshakes_refused_total", &[])
        + metrics.count("shoal_auth_failures_total", &[])
}

/// Dials agent, origin and tracker with such a membership: none lets it in, and each says so in its metrics.
async fn check_nobody_lets_in(test: &str, shown: impl Fn(&Secrets, &Identity) -> SignedMembership) {
    if !ready(test) {
        return;
    }
    let image = Image::of_sizes(1, &[2 * MIB]);
    let trial = Trial::begin(1, &image).await.expect("starts");
    let (agent, origin) = (&trial.cluster.agents[0], &trial.cluster.origin);
    let secrets = Secrets::of(origin);
    let doors: [(&Member, SocketAddr, Role); 3] = [
        (agent, agent.addresses().peers, Role::Agent),
        (origin, origin.addresses().peers, Role::Origin),
        (origin, origin.addresses().tracker, Role::Tracker),
    ];
    for (member, address, role) in doors {
        let identity = Identity::generate().expect("a key");
        let (stranger, _acceptor) = endpoint(&secrets, &identity, shown(&secrets, &identity));
        let before = refusals(member).await;
        let dialed = timeout(WITHIN, stranger.dial(address, Expect::Role(role)))
            .await
            .expect("in time");
        assert!(dialed.is_err(), "the {role:?} let a stranger in");
        let counted = async {
            while refusals(member).await == before {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(WITHIN, counted)
            .await
            .unwrap_or_else(|_| panic!("the {role:?} did not count the refusal"));
    }
    timeout(WITHIN, trial.client(0).pull(REPOSITORY, TAG))
        .await
        .expect("in time")
        .expect("pulls as ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_membership_opens_no_door() {
    check_nobody_lets_in("a_foreign_membership_opens_no_door", |_, identity| {
        sign(
            &ClusterKey::from_secret(&[3; 32]),
            identity,
            Role::Agent,
            FAR_FUTURE,
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_membership_opens_no_door() {
    check_nobody_lets_in(
        "an_expired_membership_opens_no_door",
        |secrets, identity| secrets.sign(identity, Role::Agent, 1_000_000_000),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_membership_as_origin_that_the_cluster_did_not_sign_opens_no_door() {
    check_nobody_lets_in(
        "a_membership_as_origin_that_the_cluster_did_not_sign_opens_no_door",
        |_, identity| {
            sign(
                &ClusterKey::from_secret(&[4; 32]),
                identity,
                Role::Origin,
                FAR_FUTURE,
            )
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_announces_itself_as_an_origin_is_named_to_nobody() {
    if !ready("an_agent_that_announces_itself_as_an_origin_is_named_to_nobody") {
        return;
    }
    let image = Image::of_sizes(2, &[4 * MIB]);
    let trial = Trial::begin(1, &image).await.expect("starts");
    let secrets = Secrets::of(&trial.cluster.origin);
    let identity = Identity::generate().expect("a key");
    let (endpoint, _acceptor) = endpoint(
        &secrets,
        &identity,
        secrets.sign(&identity, Role::Agent, FAR_FUTURE),
    );
    let tracker = trial.cluster.origin.addresses().tracker;
    let mut tracker = endpoint
        .dial(tracker, Expect::Role(Role::Tracker))
        .await
        .expect("let in");
    let advertise = Some(endpoint.local_addr().expect("bound").into());
    let announce = Announce {
        full: true,
        advertise,
        ..Announce::default()
    };
    tracker
        .sender
        .send(&ToTracker::Announce(announce))
        .await
        .expect("the tracker listens");
    // A pull takes longer than the tracker would to pass the news on.
    timeout(WITHIN, trial.client(0).pull(REPOSITORY, TAG))
        .await
        .expect("in time")
        .expect("pulls");
    let status = trial.cluster.agents[0].status().await.expect("answers");
    assert!(
        !status.to_string().contains(&identity.peer_id().to_string()),
        "{status}"
    );
    assert!(
        trial
            .upstream
            .asked_of(&image)
            .iter()
            .all(|asked| asked.gets == 1)
    );
}

/// A liar has everything while the origin has nothing: the victim asks it, believes nothing, and serves the truth.
async fn check_lie_reaches_no_client(test: &str, lie: Lie, counted_at: &str) {
    if !ready(test) {
        return;
    }
    let image = Image::of_sizes(3, &[8 * MIB]);
    let trial = Trial::begin(1, &image).await.expect("starts");
    let (layer, agent) = (&image.layers()[0], &trial.cluster.agents[0]);
    trial.upstream.set_rate(Some(CRAWL));
    let mut liar = Liar::start(&trial.cluster.origin, layer, lie).await;
    let (client, digest) = (trial.client(0), layer.digest());
    let pull = client.blob(REPOSITORY, &digest);
    let truth = async {
        liar.was_asked().await;
        let failures = async {
            let at = [("where", counted_at)];
            while agent
                .metrics()
                .await
                .expect("answers")
                .count("shoal_verify_failures_total", &at)
                == 0
            {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(WITHIN, failures).await.expect("the lie is counted");
        trial.upstream.set_rate(None);
    };
    let (pulled, ()) = timeout(2 * WITHIN, futures_util::future::join(pull, truth))
        .await
        .expect("in time");
    pulled.expect("the client gets the truth");
    let metrics = agent.metrics().await.expect("answers");
    let of = |source| metrics.count("shoal_download_bytes_total", &[("source", source)]);
    assert_eq!(
        (of("peer"), of("origin")),
        (0, layer.len()),
        "all of it from the origin"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_reaches_no_client() {
    check_lie_reaches_no_client("a_flipped_bit_reaches_no_client", Lie::FlippedBit, "peer").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_proof_reaches_no_client() {
    check_lie_reaches_no_client(
        "a_forged_proof_reaches_no_client",
        Lie::ForgedProof,
        "proof",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_signed_by_an_agent_reaches_no_client() {
    check_lie_reaches_no_client(
        "a_proof_signed_by_an_agent_reaches_no_client",
        Lie::OwnProof,
        "unvouched",
    )
    .await;
}
