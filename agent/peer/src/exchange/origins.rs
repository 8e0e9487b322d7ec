//! Questions that only origins answer: the shape of a blob, its length, a manifest, what a repository holds.
//!
//! The ring says who owns what, so that one origin sees all askers of one thing and asks upstream once (I7). The
//! next origin is asked when one cannot be reached or is broken; a verdict (not found, denied) is final.
//!
//! The caller's credential travels in these questions, to an origin proven by its membership and to nobody else.

use shoal_link::Link;
use shoal_proto::limits::{
    ASK_HEARD_WITHIN, MANIFEST_DEADLINE, OPEN_DEADLINE, ORIGIN_REACHED_WITHIN,
};
use shoal_proto::wire::{Answer, Ask, Refusal, RefusalCode, Source};
use shoal_proto::{BlobInfo, Digest, PeerId, Role, ring};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::Exchange;
use super::ask::ask;
use crate::handle::{Handle, ManifestError, OpenError};
use crate::options::{ListAnswer, ListAsk, ManifestAnswer, ManifestAsk, OpenAnswer};

/// Asks one origin to bring a blob, for the core. Every failure is told as a refusal.
pub(crate) async fn open(
    exchange: &Exchange,
    link: oneshot::Receiver<Option<Link>>,
    digest: Digest,
    source: Source,
) -> Result<BlobInfo, Refusal> {
    let deadline = Instant::now() + OPEN_DEADLINE;
    let reached = Instant::now() + ORIGIN_REACHED_WITHIN;
    let Ok(Ok(Some(link))) = timeout_at(reached, link).await else {
        return Err(unavailable("the origin cannot be reached"));
    };
    let question = Ask::Open {
        digest,
        source,
        stat: false,
    };
    let answer = ask_origin(&link, &question, deadline).await;
    let answer = answer.unwrap_or_else(|| Err(unavailable("the origin gives no sign of life")))?;
    let Answer::Open(answer) = answer else {
        return Err(unavailable("the origin's answer makes no sense"));
    };
    let info = answer
        .info
        .filter(|info| info.digest == digest)
        .ok_or_else(|| unavailable("the origin told no shape"))?;
    match exchange.trust.check_info(&info) {
        Ok(()) => Ok(info),
        Err(error) => {
            tracing::warn!(%error, digest = %digest.short(), "refused an origin's shape");
            Err(unavailable("the origin's signature does not hold"))
        }
    }
}

/// The length of a blob, and who may have it from this repository.
pub(crate) async fn stat(
    handle: &Handle,
    digest: Digest,
    source: Source,
) -> Result<OpenAnswer, OpenError> {
    let origins = members(handle);
    let owners = ring::owners(&digest, origins.iter());
    let question = Ask::Open {
        digest,
        source,
        stat: true,
    };
    let deadline = Instant::now() + OPEN_DEADLINE;
    match ask_in_turn(handle, owners, &question, deadline).await {
        None => Err(OpenError::NoOrigin),
        Some(Err(refusal)) => Err(OpenError::Refused(refusal)),
        Some(Ok(Answer::Open(answer))) => Ok(answer),
        Some(Ok(Answer::List(_) | Answer::Manifest(_) | Answer::Piece(_) | Answer::Refusal(_))) => {
            Err(OpenError::NoOrigin)
        }
    }
}

/// A manifest, from the owner of its repository.
pub(crate) async fn manifest(
    handle: &Handle,
    ask: ManifestAsk,
) -> Result<ManifestAnswer, ManifestError> {
    let owners = owners_of(handle, &ask.source);
    match ask_about(handle, owners, &Ask::Manifest(ask)).await? {
        Answer::Manifest(answer) => Ok(answer),
        Answer::List(_) | Answer::Open(_) | Answer::Piece(_) | Answer::Refusal(_) => {
            Err(ManifestError::NoOrigin)
        }
    }
}

/// What a repository holds, from its owner.
pub(crate) async fn list(handle: &Handle, ask: ListAsk) -> Result<ListAnswer, ManifestError> {
    let owners = owners_of(handle, &ask.source);
    match ask_about(handle, owners, &Ask::List(ask)).await? {
        Answer::List(answer) => Ok(answer),
        Answer::Manifest(_) | Answer::Open(_) | Answer::Piece(_) | Answer::Refusal(_) => {
            Err(ManifestError::NoOrigin)
        }
    }
}

fn owners_of(handle: &Handle, source: &Source) -> Vec<PeerId> {
    let name = format!("{}/{}", source.registry, source.repository);
    ring::owners_of_name(&name, members(handle).iter())
}

/// A question about a repository.
async fn ask_about(
    handle: &Handle,
    owners: Vec<PeerId>,
    question: &Ask,
) -> Result<Answer, ManifestError> {
    let deadline = Instant::now() + MANIFEST_DEADLINE;
    match ask_in_turn(handle, owners, question, deadline).await {
        None => Err(ManifestError::NoOrigin),
        Some(answer) => answer.map_err(ManifestError::Refused),
    }
}

fn members(handle: &Handle) -> Vec<PeerId> {
    handle.origins().iter().map(|origin| origin.peer).collect()
}

/// `None`: nobody could be asked. An origin that is slow may take what is left of the time divided by those who are
/// still to be asked, so that the last one has a chance.
async fn ask_in_turn(
    handle: &Handle,
    owners: Vec<PeerId>,
    question: &Ask,
    deadline: Instant,
) -> Option<Result<Answer, Refusal>> {
    let mut last = None;
    let mut left = u32::try_from(owners.len()).unwrap_or(u32::MAX);
    for owner in owners {
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / left.max(1);
        left = left.saturating_sub(1);
        let turn = now + share;
        let reached = turn.min(now + ORIGIN_REACHED_WITHIN);
        let Ok(Some(link)) = timeout_at(reached, handle.connect(owner)).await else {
            continue;
        };
        match ask_origin(&link, question, turn).await {
            Some(Ok(answer)) => return Some(Ok(answer)),
            Some(Err(refusal)) if is_final(&refusal) => return Some(Err(refusal)),
            Some(Err(refusal)) => last = Some(Err(refusal)),
            None => {}
        }
    }
    last
}

/// `None`: it gives no sign of life.
async fn ask_origin(
    link: &Link,
    question: &Ask,
    deadline: Instant,
) -> Option<Result<Answer, Refusal>> {
    if link.role() != Role::Origin {
        return Some(Err(unavailable("it is no origin")));
    }
    let left = deadline.saturating_duration_since(Instant::now());
    tokio::select! {
        answered = ask(link, question, left) => Some(match answered {
            Ok((_, Answer::Refusal(refusal))) => Err(refusal),
            Ok((_, answer)) => Ok(answer),
            Err(error) => Err(unavailable(&error.to_string())),
        }),
        () = unheard(link) => {
            tracing::info!(origin = %link.peer().short(), "an origin gives no sign of life");
            None
        }
    }
}

/// Ends when nothing has come over the link in time; once anything has, never: a live origin acknowledges what it is
/// asked at once, however long its answer takes. Two looks, since a process that was frozen itself finds its first sleep
/// over before it has read what came meanwhile.
async fn unheard(link: &Link) {
    const LOOKS: u32 = 2;
    let before = link.datagrams_heard();
    for _ in 0..LOOKS {
        sleep(ASK_HEARD_WITHIN / LOOKS).await;
        if link.datagrams_heard() != before {
            std::future::pending::<()>().await;
        }
    }
}

fn is_final(refusal: &Refusal) -> bool {
    match refusal.code {
        RefusalCode::BadRequest | RefusalCode::Denied | RefusalCode::NotFound => true,
        RefusalCode::Busy
        | RefusalCode::Injected
        | RefusalCode::Leaving
        | RefusalCode::NotHeld
        | RefusalCode::Unavailable => false,
    }
}

/// The refusal that we write ourselves where nobody answered.
pub(crate) fn unavailable(detail: &str) -> Refusal {
    Refusal::new(RefusalCode::Unavailable).with_detail(detail)
}
