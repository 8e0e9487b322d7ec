//! An origin and agents that came in by a token: what the cluster as a whole costs its upstream.

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response as Reply;
use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use http::{Method, StatusCode, header};
use shoal_link::{Credentials, Endpoint, EndpointOptions, Identity};
use shoal_peer::store::disk::OsDisk;
use shoal_peer::store::{Store, StoreOptions};
use shoal_peer::{BlobReader, Handle, PeerOptions};
use shoal_proto::wire::{RefusalCode, Source};
use shoal_proto::{Digest, Role, Zone};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Stage, blob_path, body, source, within};
use crate::upstream::scripted::{Scripted, Seen, blob, cut_blob, digest_of, noise, status};

const MIB: usize = 1 << 20;

/// An agent without its mirror: store, driver, links.
struct Agent {
    handle: Handle,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Agent {
    fn start(dir: &Path, stage: &Stage) -> Self {
        let token = stage.origin.secrets().current_token().clone();
        let identity = Identity::load_or_create(&dir.join("identity.key")).unwrap();
        let credentials = Credentials::new(vec![token.cluster()], None);
        let endpoint = EndpointOptions::new(
            ([127, 0, 0, 1], 0).into(),
            identity.clone(),
            credentials.clone(),
        );
        let (store, _) = Store::open(StoreOptions::new(dir), Arc::new(OsDisk)).unwrap();
        let mut options = PeerOptions::new(Role::Agent, Zone::default(), identity, credentials);
        options.join_token = Some(token);
        options.trackers = vec![stage.origin.tracker_addr().unwrap().to_string()];
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let endpoint = Endpoint::bind(endpoint).unwrap();
        let handle = shoal_peer::start(endpoint, store, options, shutdown.clone(), &tasks);
        Self {
            handle,
            shutdown,
            tasks,
        }
    }

    async fn open(&self, digest: Digest, source: Source) -> BlobReader {
        within(self.handle.open(digest, source, None))
            .await
            .unwrap()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        within(self.tasks.wait()).await;
    }
}

async fn read_all(mut reader: BlobReader) -> Bytes {
    let mut out = BytesMut::new();
    while let Some(bytes) = within(reader.next()).await {
        out.extend_from_slice(&bytes.unwrap());
    }
    out.freeze()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_opens_at_three_agents_and_the_origin_cost_one_get() {
    let content = noise(6 * MIB + 17, 21);
    let (sent, digest) = (content.clone(), digest_of(&content));
    let scripted = Scripted::serve(move |seen| blob(seen, &sent)).await;
    let dirs: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let stage = Stage::start(dirs[3].path(), scripted.entry()).await;
    let agents: Vec<_> = dirs[..3]
        .iter()
        .map(|dir| Agent::start(dir.path(), &stage))
        .collect();
    let at_agents = (0..75).map(|n| agents[n % 3].open(digest, source(&scripted)));
    let at_agents = join_all(at_agents.map(|open| async { read_all(open.await).await }));
    let path = blob_path(&scripted, &digest);
    let over_http = join_all((0..25).map(|_| async { body(stage.get(&path).await).await }));
    let (at_agents, over_http) = tokio::join!(at_agents, over_http);
    assert!(
        at_agents
            .iter()
            .chain(&over_http)
            .all(|read| *read == content)
    );
    let seen = scripted.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    for agent in agents {
        agent.stop().await;
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shape_is_told_with_the_headers_and_pieces_as_they_come() {
    let content = noise(3 * MIB, 22);
    let (sent, digest) = (content.clone(), digest_of(&content));
    let gates = [Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0))];
    let held = gates.clone();
    let scripted = Scripted::serve(move |_| {
        // The first byte at the first gate, all behind the first piece at the second.
        let [first, second] = held.clone();
        let parts = [(0..MIB, first), (MIB..3 * MIB, second)];
        let parts = stream::iter(parts.map(|(range, gate)| (sent.slice(range), gate))).then(
            |(bytes, gate)| async move {
                let _open = gate.acquire().await;
                Ok::<_, std::io::Error>(bytes)
            },
        );
        Reply::builder()
            .header(header::CONTENT_LENGTH, sent.len())
            .body(Body::from_stream(parts))
            .unwrap()
    })
    .await;
    let (dir, agent_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let stage = Stage::start(dir.path(), scripted.entry()).await;
    let agent = Agent::start(agent_dir.path(), &stage);

    let mut reader = agent.open(digest, source(&scripted)).await;
    assert_eq!(reader.blob_bytes(), content.len() as u64);
    let response = stage.get(&blob_path(&scripted, &digest)).await;
    assert_eq!(
        response.headers()[header::CONTENT_LENGTH],
        content.len().to_string()
    );

    gates[0].add_permits(1);
    let first = within(reader.next()).await.unwrap().unwrap();
    assert_eq!(first, content.slice(..first.len()));
    gates[1].add_permits(1);
    let rest = read_all(reader).await;
    assert!([first, rest].concat() == content);
    assert!(body(response).await == content);
    assert_eq!(scripted.seen().len(), 1);
    agent.stop().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_read_on_when_the_origin_resumes_a_cut_download() {
    let content = noise(5 * MIB, 23);
    let (sent, digest) = (content.clone(), digest_of(&content));
    let scripted = Scripted::serve(move |seen| match seen.earlier {
        0 | 1 => cut_blob(seen, &sent, MIB + MIB / 2),
        _ => blob(seen, &sent),
    })
    .await;
    let (dir, agent_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let stage = Stage::start(dir.path(), scripted.entry()).await;
    let agent = Agent::start(agent_dir.path(), &stage);
    assert!(read_all(agent.open(digest, source(&scripted)).await).await == content);
    let asked: Vec<_> = scripted.seen().iter().map(Seen::from).collect();
    assert_eq!(
        asked,
        vec![None, Some(MIB + MIB / 2), Some(3 * MIB)],
        "no byte was asked for twice"
    );
    agent.stop().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_reach_no_agent_as_a_blob_and_are_not_fetched_again() {
    let content = noise(3 * MIB, 24);
    let (sent, digest) = (content.clone(), digest_of(b"something else"));
    let scripted = Scripted::serve(move |seen| blob(seen, &sent)).await;
    let (dir, agent_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let stage = Stage::start(dir.path(), scripted.entry()).await;
    let agent = Agent::start(agent_dir.path(), &stage);
    let read = async {
        let mut reader = agent
            .handle
            .open(digest, source(&scripted), None)
            .await
            .ok()?;
        let mut bytes = 0;
        while let Some(next) = reader.next().await {
            bytes += next.ok()?.len();
        }
        Some(bytes)
    };
    assert_eq!(within(read).await, None, "the read ends in an error");
    for store in [agent.handle.store(), stage.origin.handle().store()] {
        assert!(!store.lookup(&digest).is_some_and(|blob| blob.complete));
    }
    let path = blob_path(&scripted, &digest);
    assert_eq!(stage.get(&path).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(scripted.seen().len(), 1);
    agent.stop().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_of_one_repository_says_nothing_of_another() {
    let content = noise(2 * MIB, 25);
    let (sent, digest) = (content.clone(), digest_of(&content));
    let scripted = Scripted::serve(move |seen| {
        if seen.path.starts_with("/v2/team/app/") {
            return blob(seen, &sent);
        }
        status(404)
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::start(dir.path(), scripted.entry()).await;
    let elsewhere = Source {
        repository: "team/other".into(),
        ..source(&scripted)
    };
    let handle = stage.origin.handle();
    let told = |answer: Result<BlobReader, shoal_peer::OpenError>| {
        answer
            .err()
            .and_then(|error| error.refusal().map(|refusal| refusal.code))
    };
    let wrong = within(handle.open(digest, elsewhere.clone(), None)).await;
    assert_eq!(told(wrong), Some(RefusalCode::NotFound));
    // The refusal is held against the repository that lacks it, and the other one is asked at once.
    assert!(body(stage.get(&blob_path(&scripted, &digest)).await).await == content);
    let gets = |repository: &str| {
        let seen = scripted.asked(repository);
        seen.iter()
            .filter(|seen| seen.method == Method::GET)
            .count()
    };
    assert_eq!((gets("team/other"), gets("team/app")), (1, 1));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_another_repository_leads_when_that_fails() {
    let content = noise(2 * MIB, 26);
    let (sent, digest) = (content.clone(), digest_of(&content));
    let gate = Arc::new(Semaphore::new(0));
    let held = Some(("/wrong", Arc::clone(&gate)));
    let scripted = Scripted::serve_gated(held, move |seen| {
        if seen.path.starts_with("/v2/team/app/") {
            return blob(seen, &sent);
        }
        status(404)
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::start(dir.path(), scripted.entry()).await;
    let handle = stage.origin.handle();
    let open = |repository: String| {
        let source = Source {
            repository: repository.clone(),
            ..source(&scripted)
        };
        async move {
            let answer = handle.open(digest, source, None).await;
            (repository, answer.map(|_| ()))
        }
    };
    let names = (0..40).map(|n| match n % 4 {
        3 => "team/app".to_owned(),
        n => format!("team/wrong{n}"),
    });
    let opens = join_all(names.map(open));
    let release = async {
        while scripted.seen().is_empty() {
            tokio::task::yield_now().await;
        }
        // The others take their seats meanwhile; what is asserted holds whether all of them have or not.
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(100);
    };
    let (answers, ()) = within(async { tokio::join!(opens, release) }).await;
    for (repository, answer) in answers {
        if repository == "team/app" {
            answer.unwrap();
        }
    }
    assert_eq!(scripted.asked("team/app").len(), 1);
    stage.stop().await;
}
