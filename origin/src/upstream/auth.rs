//! The token dance: a challenge in, an `Authorization` header out.
//!
//! For: one registry and the hosts it redirects to; Bearer tokens by scope, Basic where a credential is configured.
//! What a registry asked for once is remembered, so that later tokens are fetched without earning a 401 first, and a
//! token that is about to end is replaced while the old one is still in use. Not for: sending requests to the registry
//! itself, reading credentials (that is `keyring`), or a client's own credential (policy `authorize`).
//!
//! Invariants: a credential goes only to the registry's own host and to a token server of the same site (or one that
//! the operator listed); a token only to the host whose challenge it answers; one token fetch for each
//! (host, credential, scope) at a time; one token for one scope. Nothing secret is printed; what is kept of it here is
//! wiped when dropped. Tokens are opaque.

mod book;
mod shop;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::{Client, Url};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::book::{Book, Fetch, Phase, settle};
use self::shop::{Order, Shop};
use super::challenge::{Challenge, parse_challenges};
use super::error::UpstreamError;
use super::guard::{Guard, GuardError, same_site};
use super::keyring::{Credentials, Keyring};

/// Tokens being fetched ahead of need, for one registry.
const AHEAD_MAX: usize = 64;

/// With what right a request is made.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Standing {
    /// As anybody.
    Anonymous,
    /// As the configured user.
    Configured,
}

impl Standing {
    /// As metrics name it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Configured => "configured",
        }
    }
}

/// Which token: where, as whom, for what.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct TokenKey {
    /// Scheme, host and port.
    pub(crate) place: String,
    pub(crate) standing: Standing,
    pub(crate) repository: String,
}

impl TokenKey {
    fn scope(&self) -> String {
        format!("repository:{}:pull", self.repository)
    }
}

/// The header of one request, and what to say when it was not good enough.
#[derive(Clone)]
pub(crate) struct Authorization {
    pub(crate) header: HeaderValue,
    serial: u64,
}

impl Authorization {
    /// A header that is not ours to renew.
    pub(crate) fn of_caller(header: HeaderValue) -> Self {
        Self { header, serial: 0 }
    }
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorization(redacted)")
    }
}

/// What a place wants to see, as far as it has said so.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    /// A user and a password with each request.
    Basic,
    /// A token from this server.
    Bearer {
        realm: Url,
        service: Option<String>,
        scope: Option<String>,
        /// Whether the credential may be shown to that server.
        near: bool,
    },
    /// Nothing: it answered without.
    Nothing,
}

/// The headers known for one registry, and those being fetched.
pub(crate) struct Auth {
    shop: Shop,
    guard: Arc<Guard>,
    realm_hosts: Vec<String>,
    book: Arc<Mutex<Book>>,
    /// Fetches that nobody waits for yet; they end with the registry.
    ahead: Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth")
            .field("registry", &self.shop.registry)
            .finish_non_exhaustive()
    }
}

/// What [`Auth`] is made of.
#[derive(Debug)]
pub(crate) struct AuthOptions {
    pub(crate) registry: String,
    pub(crate) client: Client,
    pub(crate) guard: Arc<Guard>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) realm_hosts: Vec<String>,
    pub(crate) timeout: Duration,
}

impl Auth {
    pub(crate) fn new(options: AuthOptions) -> Self {
        let keyring = options
            .credentials
            .map(|credentials| Keyring::new(options.registry.clone(), credentials));
        Self {
            shop: Shop {
                registry: options.registry,
                client: options.client,
                keyring,
                timeout: options.timeout,
            },
            guard: options.guard,
            realm_hosts: options.realm_hosts,
            book: Arc::default(),
            ahead: Mutex::default(),
        }
    }

    /// The header to send, if one is known to be wanted: one in hand, or one that is fetched now because this place
    /// has said before what it wants. `None`: send without, and see.
    pub(crate) async fn ready(
        &self,
        key: &TokenKey,
    ) -> Result<Option<Authorization>, UpstreamError> {
        let (fetch, wait) = {
            let mut book = self.book();
            match book.phase(key, Instant::now()) {
                Phase::Good(authorization) => return Ok(Some(authorization)),
                Phase::Ending(authorization) => {
                    let fetch = self.start_known(&mut book, key);
                    (fetch, Some(authorization))
                }
                Phase::Missing => (self.start_known(&mut book, key), None),
            }
        };
        match (fetch, wait) {
            (None, in_hand) => Ok(in_hand),
            (Some(fetch), Some(in_hand)) => {
                self.go_ahead(key, fetch);
                Ok(Some(in_hand))
            }
            (Some(fetch), None) => {
                let result = settle(&self.book, key, fetch).await;
                if result.is_err() {
                    // Perhaps it wants something else by now: the next attempt asks.
                    self.book().forget(&key.place);
                }
                result.map(Some)
            }
        }
    }

    /// Sees to it that a header is in hand when it is needed; nobody waits for it. `false`: this place has not said
    /// yet what it wants.
    pub(crate) fn prepare(&self, key: &TokenKey) -> bool {
        let mut book = self.book();
        if !book.knows(&key.place) {
            return false;
        }
        let fetch = match book.phase(key, Instant::now()) {
            Phase::Good(_) => None,
            Phase::Ending(_) | Phase::Missing => self.start_known(&mut book, key),
        };
        drop(book);
        if let Some(fetch) = fetch {
            self.go_ahead(key, fetch);
        }
        true
    }

    /// Runs a task that nobody waits for; it ends with the registry, if not before. `false`: too many run already.
    pub(crate) fn run_ahead(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        while ahead.try_join_next().is_some() {}
        let room = ahead.len() < AHEAD_MAX;
        if room {
            ahead.spawn(task);
        }
        room
    }

    /// Whether a header in the first part of its life is in hand.
    #[cfg(test)]
    pub(crate) fn is_good(&self, key: &TokenKey) -> bool {
        matches!(self.book().phase(key, Instant::now()), Phase::Good(_))
    }

    /// A place answered without a header.
    pub(crate) fn wants_nothing(&self, place: &str) {
        self.book().note_if_new(place, Wanted::Nothing);
    }

    /// Learns what a place wants from the challenges of its `/v2/`, for which no token was asked yet.
    pub(crate) fn learn(&self, place: &str, at: &Url, headers: &HeaderMap) {
        if let Ok(wanted) = self.choose(at, headers) {
            self.book().note(place, wanted);
        }
    }

    /// Answers the challenges of a 401. `rejected` is the header that earned it, if one was sent; `home` says whether
    /// it came from the registry's own host, which alone may see the configured credential.
    pub(crate) async fn answer(
        &self,
        key: &TokenKey,
        at: &Url,
        home: bool,
        rejected: Option<&Authorization>,
        headers: &HeaderMap,
    ) -> Result<Authorization, UpstreamError> {
        let fetch = {
            let mut book = self.book();
            match (book.in_hand(key, Instant::now()), rejected) {
                // Somebody has fetched a newer one meanwhile.
                (Some(newer), Some(rejected)) if newer.serial > rejected.serial => {
                    return Ok(newer);
                }
                (Some(newer), None) => return Ok(newer),
                _ => {}
            }
            match book.fetching(key) {
                Some(fetch) => fetch,
                None => {
                    let wanted = self.choose(at, headers)?;
                    if home {
                        book.note(&key.place, wanted.clone());
                    }
                    self.start(&mut book, key, home, &wanted, rejected.is_some())?
                }
            }
        };
        settle(&self.book, key, fetch).await
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn go_ahead(&self, key: &TokenKey, fetch: Fetch) {
        let (book, key) = (Arc::clone(&self.book), key.clone());
        self.run_ahead(async move {
            if let Err(error) = settle(&book, &key, fetch).await {
                tracing::debug!(place = key.place, %error, "no token ahead of need");
            }
        });
    }

    /// A fetch of what its place is known to want; only the registry's own host is known.
    fn start_known(&self, book: &mut Book, key: &TokenKey) -> Option<Fetch> {
        if let Some(fetch) = book.fetching(key) {
            return Some(fetch);
        }
        let wanted = book.wanted(&key.place)?;
        self.start(book, key, true, &wanted, false).ok()
    }

    fn start(
        &self,
        book: &mut Book,
        key: &TokenKey,
        home: bool,
        wanted: &Wanted,
        rejected: bool,
    ) -> Result<Fetch, UpstreamError> {
        let trusted = home && key.standing == Standing::Configured;
        let order = match wanted {
            Wanted::Nothing => return Err(self.denied(StatusCode::UNAUTHORIZED)),
            // A ready-made header needs a credential; nobody else is let in there.
            Wanted::Basic if !trusted || self.shop.keyring.is_none() => {
                return Err(self.denied(StatusCode::UNAUTHORIZED));
            }
            Wanted::Basic => Order::Basic,
            Wanted::Bearer {
                realm,
                service,
                scope,
                near,
            } => Order::Bearer {
                realm: realm.clone(),
                service: service.clone(),
                // At home we know what we need; elsewhere only the challenge tells what that place calls it.
                scope: if home {
                    Some(key.scope())
                } else {
                    scope.clone()
                },
                with_secret: trusted && *near,
            },
        };
        let (shop, book_of_all) = (self.shop.clone(), Arc::clone(&self.book));
        let (owned, serial) = (key.clone(), book.next_serial());
        let fetch = async move {
            let (header, life) = shop.fetch(&owned, order, rejected).await?;
            let authorization = Authorization { header, serial };
            let mut book = book_of_all.lock().unwrap_or_else(PoisonError::into_inner);
            book.keep(owned, authorization.clone(), life, Instant::now());
            Ok(authorization)
        };
        let fetch = fetch.boxed().shared();
        book.begin(key.clone(), fetch.clone());
        Ok(fetch)
    }

    /// The first token server that may be asked, else Basic. What cannot be followed is passed over while there is
    /// another way; without one, it is what the caller is told.
    fn choose(&self, at: &Url, headers: &HeaderMap) -> Result<Wanted, UpstreamError> {
        let mut basic = false;
        let mut unusable = None;
        for challenge in parse_challenges(headers) {
            match challenge {
                Challenge::Basic => basic = true,
                Challenge::Bearer {
                    realm,
                    service,
                    scope,
                } => {
                    let realm = match self.check_realm(&realm) {
                        Ok(realm) => realm,
                        Err(error) => {
                            unusable.get_or_insert(error);
                            continue;
                        }
                    };
                    let realm_host = realm.host_str().unwrap_or_default();
                    let near = same_site(realm_host, at.host_str().unwrap_or_default())
                        || self
                            .realm_hosts
                            .iter()
                            .any(|host| host.eq_ignore_ascii_case(realm_host));
                    return Ok(Wanted::Bearer {
                        realm,
                        service,
                        scope,
                        near,
                    });
                }
            }
        }
        if basic {
            Ok(Wanted::Basic)
        } else {
            Err(unusable.unwrap_or_else(|| self.denied(StatusCode::UNAUTHORIZED)))
        }
    }

    fn check_realm(&self, realm: &str) -> Result<Url, UpstreamError> {
        let bad = |detail: &str| UpstreamError::BadAnswer {
            registry: self.shop.registry.clone(),
            detail: detail.to_owned(),
        };
        let url = Url::parse(realm).map_err(|_| bad("the realm of its challenge is not a URL"))?;
        match self.guard.check(&url) {
            Ok(()) => Ok(url),
            Err(GuardError::Private) => Err(UpstreamError::ForbiddenAddress {
                registry: self.shop.registry.clone(),
                host: url.host_str().unwrap_or_default().to_owned(),
            }),
            Err(error) => Err(bad(&format!("the realm of its challenge is {error}"))),
        }
    }

    fn denied(&self, status: StatusCode) -> UpstreamError {
        UpstreamError::Denied {
            registry: self.shop.registry.clone(),
            status: status.as_u16(),
        }
    }
}
