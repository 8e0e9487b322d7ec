//! The token dance: a challenge in, an `Authorization` header out.
//!
//! For: one registry and the hosts it redirects to; Bearer tokens by scope, Basic where a credential is configured.
//! Not for: sending requests to the registry itself, or a client's own credential (policy `authorize`).
//!
//! Invariants: a credential goes only to the registry's own host and to a token server of the same site (or one that
//! the operator listed); a token only to the host whose challenge it answers; one token fetch for each
//! (host, credential, scope) at a time; one token for one scope. Nothing secret is printed, and all of it is wiped
//! when dropped. Tokens are opaque.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::{Client, Url};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::challenge::{Challenge, parse_challenges};
use super::error::UpstreamError;
use super::guard::{Guard, GuardError, same_site, secret_header};
use super::token::{TOKEN_LIFE_DEFAULT, TokenAsk};

/// Tokens remembered for one registry.
const TOKENS_MAX: usize = 4096;

/// A configured user of a registry. The password is read from its file whenever a challenge is answered, so that a
/// rotated one is taken up without a restart.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// Where the password is kept.
    pub password_file: PathBuf,
}

impl Credentials {
    async fn basic(&self) -> Result<Zeroizing<String>, String> {
        let password = tokio::fs::read_to_string(&self.password_file)
            .await
            .map(Zeroizing::new)
            .map_err(|error| format!("cannot read {}: {error}", self.password_file.display()))?;
        let pair = Zeroizing::new(format!(
            "{}:{}",
            self.username,
            password.trim_end_matches(['\r', '\n'])
        ));
        Ok(Zeroizing::new(format!(
            "Basic {}",
            STANDARD.encode(pair.as_bytes())
        )))
    }
}

/// With what right a request is made.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Standing {
    /// As anybody.
    Anonymous,
    /// As the configured user.
    Configured,
}

/// Which token: where, as whom, for what.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct TokenKey {
    /// Scheme, host and port.
    pub(crate) place: String,
    pub(crate) standing: Standing,
    pub(crate) scope: String,
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

#[derive(Debug)]
struct Kept {
    authorization: Authorization,
    refresh_at: Instant,
}

type Fetch = Shared<BoxFuture<'static, Result<Authorization, UpstreamError>>>;

/// The headers known for one registry, and those being fetched.
pub(crate) struct Auth {
    registry: String,
    client: Client,
    guard: Arc<Guard>,
    credentials: Option<Credentials>,
    realm_hosts: Vec<String>,
    timeout: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    kept: BTreeMap<TokenKey, Kept>,
    fetching: BTreeMap<TokenKey, Fetch>,
    serial: u64,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth")
            .field("registry", &self.registry)
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
        let AuthOptions {
            registry,
            client,
            guard,
            credentials,
            realm_hosts,
            timeout,
        } = options;
        Self {
            registry,
            client,
            guard,
            credentials,
            realm_hosts,
            timeout,
            state: Arc::default(),
        }
    }

    /// What is known to be good for it, if anything: a token in the first four fifths of its life, or Basic.
    pub(crate) fn known(&self, key: &TokenKey) -> Option<Authorization> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .kept
            .get(key)
            .filter(|kept| Instant::now() < kept.refresh_at)
            .map(|kept| kept.authorization.clone())
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
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match (state.kept.get(key), rejected) {
                // Somebody has fetched a newer one meanwhile.
                (Some(kept), Some(rejected)) if kept.authorization.serial > rejected.serial => {
                    return Ok(kept.authorization.clone());
                }
                (Some(kept), None) if Instant::now() < kept.refresh_at => {
                    return Ok(kept.authorization.clone());
                }
                _ => {}
            }
            if let Some(fetch) = state.fetching.get(key) {
                fetch.clone()
            } else {
                let challenge = self.choose(key, at, home, headers)?;
                let fetch = self.fetch(key.clone(), challenge).boxed().shared();
                state.fetching.insert(key.clone(), fetch.clone());
                fetch
            }
        };
        let result = fetch.clone().await;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .fetching
            .get(key)
            .is_some_and(|running| running.ptr_eq(&fetch))
        {
            state.fetching.remove(key);
        }
        result
    }

    fn choose(
        &self,
        key: &TokenKey,
        at: &Url,
        home: bool,
        headers: &HeaderMap,
    ) -> Result<Chosen, UpstreamError> {
        let credentials = self
            .credentials
            .clone()
            .filter(|_| home && key.standing == Standing::Configured);
        let challenges = parse_challenges(headers);
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => Some((realm, service, scope)),
            Challenge::Basic => None,
        });
        if let Some((realm, service, scope)) = bearer {
            let realm = self.check_realm(realm)?;
            let realm_host = realm.host_str().unwrap_or_default();
            let near = same_site(realm_host, at.host_str().unwrap_or_default())
                || self
                    .realm_hosts
                    .iter()
                    .any(|host| host.eq_ignore_ascii_case(realm_host));
            let credentials = credentials.filter(|_| near);
            // At home we know what we need; elsewhere only the challenge tells what that place calls it.
            let scope = if home {
                Some(key.scope.clone())
            } else {
                scope.clone()
            };
            return Ok(Chosen::Bearer {
                realm,
                service: service.clone(),
                scope,
                credentials,
            });
        }
        match credentials {
            Some(credentials)
                if challenges
                    .iter()
                    .any(|challenge| matches!(challenge, Challenge::Basic)) =>
            {
                Ok(Chosen::Basic(credentials))
            }
            _ => Err(self.denied(StatusCode::UNAUTHORIZED)),
        }
    }

    fn check_realm(&self, realm: &str) -> Result<Url, UpstreamError> {
        let bad = |detail: &str| UpstreamError::BadAnswer {
            registry: self.registry.clone(),
            detail: detail.to_owned(),
        };
        let url = Url::parse(realm).map_err(|_| bad("the realm of its challenge is not a URL"))?;
        match self.guard.check(&url) {
            Ok(()) => Ok(url),
            Err(GuardError::Private) => Err(UpstreamError::ForbiddenAddress {
                registry: self.registry.clone(),
                host: url.host_str().unwrap_or_default().to_owned(),
            }),
            Err(error) => Err(bad(&format!("the realm of its challenge is {error}"))),
        }
    }

    fn denied(&self, status: StatusCode) -> UpstreamError {
        UpstreamError::Denied {
            registry: self.registry.clone(),
            status: status.as_u16(),
        }
    }

    fn fetch(
        &self,
        key: TokenKey,
        chosen: Chosen,
    ) -> impl Future<Output = Result<Authorization, UpstreamError>> + Send + 'static {
        let (state, client, registry, timeout) = (
            Arc::clone(&self.state),
            self.client.clone(),
            self.registry.clone(),
            self.timeout,
        );
        async move {
            let unavailable = |detail: String| UpstreamError::Unavailable {
                registry: registry.clone(),
                detail,
            };
            let (value, life) = match chosen {
                Chosen::Basic(credentials) => (
                    credentials.basic().await.map_err(&unavailable)?,
                    TOKEN_LIFE_DEFAULT,
                ),
                Chosen::Bearer {
                    realm,
                    service,
                    scope,
                    credentials,
                } => {
                    let basic = match credentials {
                        Some(credentials) => Some(credentials.basic().await.map_err(&unavailable)?),
                        None => None,
                    };
                    let ask = TokenAsk {
                        realm,
                        service,
                        scope,
                        basic,
                    };
                    let result = tokio::time::timeout(timeout, ask.send(&client, &registry)).await;
                    let result = result.unwrap_or_else(|_| {
                        Err(unavailable("its token server does not answer".into()))
                    });
                    metrics::counter!("shoal_token_refresh_total", "result" => if result.is_ok() { "ok" } else { "failed" }).increment(1);
                    result?
                }
            };
            let header = secret_header(&value)
                .ok_or_else(|| unavailable("its token cannot stand in a header".into()))?;
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.serial += 1;
            let authorization = Authorization {
                header,
                serial: state.serial,
            };
            let now = Instant::now();
            if state.kept.len() >= TOKENS_MAX {
                state.kept.retain(|_, kept| now < kept.refresh_at);
            }
            if state.kept.len() < TOKENS_MAX {
                let refresh_at = now + life.mul_f64(0.8);
                state.kept.insert(
                    key,
                    Kept {
                        authorization: authorization.clone(),
                        refresh_at,
                    },
                );
            }
            Ok(authorization)
        }
    }
}

enum Chosen {
    Basic(Credentials),
    Bearer {
        realm: Url,
        service: Option<String>,
        scope: Option<String>,
        credentials: Option<Credentials>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_no_secret() {
        let header = secret_header("Bearer canary-canary").unwrap();
        let authorization = Authorization { header, serial: 1 };
        let kept = Kept {
            authorization,
            refresh_at: Instant::now(),
        };
        assert!(!format!("{kept:?}").contains("canary"));
    }
}
