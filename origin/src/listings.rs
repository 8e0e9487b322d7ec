//! Lists for the cluster: what a repository holds, as upstream tells it now.
//!
//! For: relaying one page. Not for: keeping any: askers that come while a page is on its way share it, and the next one
//! asks anew. Who may have it is the registry's policy (`policy`); where that asks about each caller, a page is shared
//! only among those of one credential.

use std::sync::Arc;
use std::time::Duration;

use shoal_peer::{ListAnswer, ListAsk};
use shoal_proto::wire::{Listed, Refusal, RefusalCode};
use tokio_util::task::TaskTracker;

use crate::coalesce::CoalesceLimits;
use crate::flight::Flights;
use crate::names::Repository;
use crate::policy::{Policy, Right};
use crate::upstream::UpstreamError;

/// Pages that may be asked for at once, and askers for one of them. A page may have some MiB.
const LIMITS: CoalesceLimits = CoalesceLimits {
    keys_max: 256,
    waiters_max: 4096,
};
/// Within this a page is given or refused: below the deadline of those that ask.
const ANSWER_DEADLINE: Duration = Duration::from_secs(21);

/// A page: of which repository, by whose right, of which list, asked for with which query.
type Page = (Repository, Right, Listed, String);

/// Answers for lists.
#[derive(Clone, Debug)]
pub(crate) struct Listings {
    policy: Policy,
    pages: Arc<Flights<Page, ListAnswer>>,
    tasks: TaskTracker,
}

impl Listings {
    pub(crate) fn new(policy: Policy, tasks: TaskTracker) -> Self {
        Self {
            policy,
            pages: Flights::new("list", LIMITS),
            tasks,
        }
    }

    /// One page, within the deadline.
    pub(crate) async fn answer(&self, ask: ListAsk) -> Result<ListAnswer, Refusal> {
        let repository =
            Repository::parse(&ask.source.registry, &ask.source.repository).map_err(|error| {
                Refusal::new(RefusalCode::BadRequest).with_detail(error.to_string())
            })?;
        let late = UpstreamError::Unavailable {
            registry: repository.registry.clone(),
            detail: "no answer in time".into(),
        };
        let credential = ask.source.authorization.as_ref();
        let right = self.policy.right(&repository.registry, credential);
        let page = self.page((repository, right.clone(), ask.listed, ask.query));
        let answered = tokio::time::timeout(ANSWER_DEADLINE, page).await;
        answered
            .unwrap_or(Err(late))
            .map_err(|error| right.refusal(&error))
    }

    async fn page(&self, page: Page) -> Result<ListAnswer, UpstreamError> {
        let (policy, (repository, right, listed, query)) = (self.policy.clone(), page.clone());
        let fetch = || async move {
            let registry = policy.registry(&repository, &right)?;
            registry.list(&repository.name, listed, &query).await
        };
        self.pages.fly(&page, &self.tasks, fetch).await
    }
}
