//! Questions that only origins answer: the shape of a blob, its length, a manifest.
//!
//! The ring says who owns what, so that one origin sees all askers of one thing and asks upstream once (I7). The
//! next origin is asked when one cannot be reached or is broken; a verdict (not found, denied) is final.
//!
//! The caller's credential travels in these questions, to an origin proven by its membership and to nobody else.

use shoal_link::Link;
use shoal_proto::limits::{MANIFEST_DEADLINE, OPEN_DEADLINE};
use shoal_proto::wire::{Answer, Ask, Refusal, RefusalCode, Source};
use shoal_proto::{BlobInfo, Digest, PeerId, Role, ring};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::Exchange;
use super::ask::ask;
use crate::handle::{Handle, ManifestError, OpenError};
use crate::options::{ManifestAnswer, ManifestAsk, OpenAnswer};

/// Asks one origin to bring a blob, for the core. Every failure is told as a refusal.
pub(crate) async fn open(
    exchange: &Exchange,
    link: oneshot::Receiver<Option<Link>>,
    digest: Digest,
    source: Source,
) -> Result<BlobInfo, Refusal> {
    let deadline = Instant::now() + OPEN_DEADLINE;
    let Ok(Ok(Some(link))) = timeout_at(deadline, link).await else {
        return Err(unavailable("the origin cannot be reached"));
    };
    let question = Ask::Open {
        digest,
        source,
        stat: false,
    };
    let answer = ask_origin(&link, &question, deadline).await?;
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
        Some(Ok(Answer::Manifest(_) | Answer::Piece(_) | Answer::Refusal(_))) => {
            Err(OpenError::NoOrigin)
        }
    }
}

/// A manifest, from the owner of its repository.
pub(crate) async fn manifest(
    handle: &Handle,
    ask: ManifestAsk,
) -> Result<ManifestAnswer, ManifestError> {
    let origins = members(handle);
    let name = format!("{}/{}", ask.source.registry, ask.source.repository);
    let owners = ring::owners_of_name(&name, origins.iter());
    let deadline = Instant::now() + MANIFEST_DEADLINE;
    match ask_in_turn(handle, owners, &Ask::Manifest(ask), deadline).await {
        None => Err(ManifestError::NoOrigin),
        Some(Err(refusal)) => Err(ManifestError::Refused(refusal)),
        Some(Ok(Answer::Manifest(answer))) => Ok(answer),
        Some(Ok(Answer::Open(_) | Answer::Piece(_) | Answer::Refusal(_))) => {
            Err(ManifestError::NoOrigin)
        }
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
        let Ok(Some(link)) = timeout_at(turn, handle.connect(owner)).await else {
            continue;
        };
        match ask_origin(&link, question, turn).await {
            Ok(answer) => return Some(Ok(answer)),
            Err(refusal) if is_final(&refusal) => return Some(Err(refusal)),
            Err(refusal) => last = Some(Err(refusal)),
        }
    }
    last
}

async fn ask_origin(link: &Link, question: &Ask, deadline: Instant) -> Result<Answer, Refusal> {
    if link.role() != Role::Origin {
        return Err(unavailable("it is no origin"));
    }
    let left = deadline.saturating_duration_since(Instant::now());
    match ask(link, question, left).await {
        Ok((_, Answer::Refusal(refusal))) => Err(refusal),
        Ok((_, answer)) => Ok(answer),
        Err(error) => Err(unavailable(&error.to_string())),
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
