//! Members in good standing that lie: nobody is served wrong bytes, the lie is counted, and the liar pays for it.

use shoal_proto::{BlobInfo, Digest, Geometry};

use super::liar::{Liar, Lie, Story};
use super::world::{MIB, Member, Upstream, World, digest_of, read_all, soon, specimen};

const RUNTIME_NOTE: &str = "the reader gets the origin's bytes";

struct Stage {
    world: World,
    origin: Member,
    upstream: std::sync::Arc<Upstream>,
    victim: Member,
    digest: Digest,
    blob: bytes::Bytes,
}

/// An origin that holds everything back, and a victim that will have nobody but the liar to ask.
async fn stage() -> Stage {
    let world = World::new().await;
    let blob = specimen(7, 6 * MIB);
    let digest = digest_of(&blob);
    let (origin, upstream) = world.origin(Upstream::gated([blob.clone()], 0));
    let victim = world.agent();
    victim.knows_an_origin().await;
    Stage {
        world,
        origin,
        upstream,
        victim,
        digest,
        blob,
    }
}

impl Stage {
    async fn liar(&self, lie: Lie) -> Liar {
        let story = Story {
            info: self.upstream.info(&self.digest).unwrap(),
            blob: self.blob.clone(),
            origin: self.origin.handle.key(),
            lie,
        };
        Liar::start(&self.world, story).await
    }

    async fn end(self) {
        self.victim.stop().await;
        self.origin.stop().await;
    }
}

/// The liar is asked, refused and banned; then the origin lets go, and the reader gets the truth.
async fn check_liar_is_banned(lie: Lie, counter: &str) {
    let stage = stage().await;
    let (failures, bans) = (
        stage.world.counts.get(counter),
        stage
            .world
            .counts
            .get("shoal_peer_bans_total{reason=strikes}"),
    );
    let mut liar = stage.liar(lie).await;
    let mut reader = stage.victim.open(stage.digest).await;
    liar.is_banned().await;
    assert_eq!(stage.victim.holds(&stage.digest), 0, "a lie was believed");
    stage.upstream.let_through(6);
    let read = soon(read_all(&mut reader)).await.unwrap();
    assert_eq!(read, stage.blob, "{RUNTIME_NOTE}");
    assert!(stage.world.counts.get(counter) > failures, "not counted");
    let bans_now = stage
        .world
        .counts
        .get("shoal_peer_bans_total{reason=strikes}");
    assert!(bans_now > bans, "the ban was not counted");
    liar.stop().await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bit_is_refused_and_counted_and_its_sender_banned() {
    check_liar_is_banned(Lie::FlippedBit, "shoal_verify_failures_total{where=peer}").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn piece_with_a_byte_too_many_is_refused_and_counted_and_its_sender_banned() {
    check_liar_is_banned(Lie::OneByteMore, "shoal_verify_failures_total{where=peer}").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_proof_is_refused_and_counted_and_its_sender_banned() {
    check_liar_is_banned(Lie::ForgedProof, "shoal_verify_failures_total{where=proof}").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proof_signed_by_an_agent_is_refused_and_counted() {
    let stage = stage().await;
    let counter = "shoal_verify_failures_total{where=unvouched}";
    let failures = stage.world.counts.get(counter);
    let liar = stage.liar(Lie::OwnProof).await;
    let mut reader = stage.victim.open(stage.digest).await;
    liar.was_asked().await;
    super::world::until(|| async { stage.world.counts.get(counter) > failures }).await;
    assert_eq!(stage.victim.holds(&stage.digest), 0, "a lie was believed");
    stage.upstream.let_through(6);
    let read = soon(read_all(&mut reader)).await.unwrap();
    assert_eq!(read, stage.blob, "{RUNTIME_NOTE}");
    liar.stop().await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shape_signed_by_an_agent_is_ignored() {
    let stage = stage().await;
    let (_, _, stranger) = super::world::endpoint_options(
        &stage.world.key,
        shoal_proto::Role::Agent,
        ([127, 0, 0, 1], 0).into(),
    );
    let wrong = Geometry::try_new(2 * MIB as u64, 1 << 20).unwrap();
    let info = BlobInfo::sign(&stranger.identity.origin_key(), stage.digest, wrong);
    let story = Story {
        info,
        blob: stage.blob.clone(),
        origin: stranger.identity.origin_key(),
        lie: Lie::FlippedBit,
    };
    let liar = Liar::start(&stage.world, story).await;
    stage.upstream.let_through(6);
    assert_eq!(
        stage.victim.pull(stage.digest).await,
        stage.blob,
        "{RUNTIME_NOTE}"
    );
    liar.stop().await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn source_that_stalls_is_replaced() {
    let stage = stage().await;
    let liar = stage.liar(Lie::Stall).await;
    let mut reader = stage.victim.open(stage.digest).await;
    liar.was_asked().await;
    stage.upstream.let_through(6);
    let read = soon(read_all(&mut reader)).await.unwrap();
    assert_eq!(read, stage.blob, "{RUNTIME_NOTE}");
    liar.stop().await;
    stage.end().await;
}
