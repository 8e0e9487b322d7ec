//! The registries outside, and the things asked of them: a tag's digest, a manifest, a blob, a list.
//!
//! For: everything this process says to the world outside the cluster. Not for: keeping what comes (that is `ingest`
//! and `manifests`) or deciding who may have it (that is `policy`).
//!
//! Invariants: only a registry that the configuration allows is asked (I8 its credential stays here); nothing of an
//! answer is believed before it is checked against a digest; no request is without a deadline, no body without a cap.

pub(crate) mod auth;
pub(crate) mod caller;
pub(crate) mod challenge;
pub mod error;
pub mod guard;
pub(crate) mod keyring;
pub mod limit;
pub(crate) mod list;
pub(crate) mod manifest;
pub(crate) mod parts;
pub mod proxy;
pub(crate) mod pull;
pub(crate) mod request;
pub(crate) mod sizes;
pub(crate) mod token;
mod transport;

#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use reqwest::{Client, Url};
use shoal_proto::{Digest, limits};
use tokio::time::Instant;

pub use self::auth::Standing;
pub use self::error::UpstreamError;
pub use self::keyring::Credentials;
pub use self::proxy::EnvProxies;
pub use self::request::Timeouts;

use self::auth::{Auth, AuthOptions, TokenKey};
use self::caller::Caller;
use self::guard::Guard;
use self::limit::{Circuit, Circuits};
use self::parts::{Download, PartRules};
use self::pull::{Stretch, content_length};
use self::request::Call;
use self::sizes::Sizes;
use self::transport::{Stamp, TlsFiles};
use crate::config::{Access, UpstreamConfig};

/// A registry, asked through one client with one set of rules.
#[derive(Clone, Debug)]
pub struct Registry {
    config: Arc<UpstreamConfig>,
    base: Url,
    client: Client,
    guard: Arc<Guard>,
    auth: Arc<Auth>,
    circuits: Arc<Circuits>,
    sizes: Arc<Sizes>,
    parts: PartRules,
    timeouts: Timeouts,
    /// In whose name it is asked, with that credential alone; nobody's: by the registry's policy.
    caller: Option<Caller>,
    /// Its `/v2/` is being asked what it wants.
    pinging: Arc<AtomicBool>,
    /// The certificates that the client was built with.
    stamp: Arc<Stamp>,
}

impl Registry {
    /// A registry as configured.
    ///
    /// # Errors
    /// The certificates it needs are missing or cannot be read.
    pub fn new(
        config: UpstreamConfig,
        environment: &EnvProxies,
        timeouts: Timeouts,
    ) -> Result<Self, UpstreamError> {
        let stamp = TlsFiles::find(&config).stamp();
        let built = transport::build(&config, &stamp.0, environment, timeouts);
        let (client, guard) = built.map_err(|detail| UpstreamError::Unavailable {
            registry: config.registry.clone(),
            detail,
        })?;
        let auth = Arc::new(Auth::new(AuthOptions {
            registry: config.registry.clone(),
            client: client.clone(),
            guard: Arc::clone(&guard),
            credentials: config.credentials.clone(),
            realm_hosts: config.realm_hosts.clone(),
            timeout: timeouts.header,
        }));
        Ok(Self {
            base: config.url.clone(),
            parts: PartRules::new(config.connections),
            config: Arc::new(config),
            client,
            guard,
            auth,
            circuits: Arc::default(),
            sizes: Arc::default(),
            timeouts,
            caller: None,
            pinging: Arc::default(),
            stamp: Arc::new(stamp),
        })
    }

    /// The same registry, asked in the name of a caller: with its credential, and with none of ours.
    #[must_use]
    pub(crate) fn asked_by(&self, caller: Caller) -> Self {
        Self {
            caller: Some(caller),
            ..self.clone()
        }
    }

    /// Who is to wait when upstream asks those for a pause that ask with this right.
    fn circuit(&self, standing: Standing) -> Arc<Circuit> {
        match &self.caller {
            Some(caller) => self.circuits.of_caller(caller.id()),
            None => self.circuits.of(standing),
        }
    }

    /// The same registry, with the certificates as they are now and the pauses it asked for before.
    fn renewed(&self, environment: &EnvProxies) -> Result<Self, UpstreamError> {
        let mut renewed = Self::new((*self.config).clone(), environment, self.timeouts)?;
        renewed.circuits = Arc::clone(&self.circuits);
        Ok(renewed)
    }

    fn has_new_certificates(&self) -> bool {
        TlsFiles::find(&self.config).stamp() != *self.stamp
    }

    /// The token that a repository is asked for with.
    fn home_key(&self, repository: &str) -> TokenKey {
        TokenKey {
            place: self.base.origin().ascii_serialization(),
            standing: self.standing(repository),
            repository: repository.to_owned(),
        }
    }

    /// A manifest of a repository was answered: its blobs will be asked for next. Their lengths are noted, and a token
    /// for the repository is fetched ahead, so that no first byte waits for it.
    pub(crate) fn foresee(self: &Arc<Self>, repository: &str, manifest: &[u8]) {
        self.sizes.note(repository, manifest);
        let key = self.home_key(repository);
        let paused = self.circuit(key.standing).pause(Instant::now());
        if paused.is_some() || self.auth.prepare(&key) {
            return;
        }
        if self.pinging.swap(true, Ordering::Relaxed) {
            return;
        }
        // Nothing was asked of it since this origin started: its `/v2/` says what it wants.
        let this = Arc::clone(self);
        let asked = self.auth.run_ahead(async move {
            if let Ok(headers) = this.ping().await {
                this.auth.learn(&key.place, &this.base, &headers);
                this.auth.prepare(&key);
            }
            this.pinging.store(false, Ordering::Relaxed);
        });
        if !asked {
            self.pinging.store(false, Ordering::Relaxed);
        }
    }

    /// The registry as image references name it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.registry
    }

    /// With what right a repository is asked for.
    #[must_use]
    pub fn standing(&self, repository: &str) -> Standing {
        match &self.config.access {
            Access::Shared { repositories }
                if repositories
                    .iter()
                    .any(|pattern| pattern.matches(repository)) =>
            {
                Standing::Configured
            }
            Access::Authorize { .. } | Access::Public | Access::Shared { .. } => {
                Standing::Anonymous
            }
        }
    }

    /// A blob's bytes from `from` on.
    pub(crate) async fn pull(
        &self,
        repository: &str,
        digest: &Digest,
        from: u64,
    ) -> Result<Download, UpstreamError> {
        let stretch = Stretch {
            repository: repository.to_owned(),
            digest: *digest,
            standing: self.standing(repository),
            from,
            until: None,
        };
        Download::open(self.clone(), stretch).await
    }

    /// A blob's length, by HEAD.
    pub(crate) async fn stat(
        &self,
        repository: &str,
        digest: &Digest,
    ) -> Result<u64, UpstreamError> {
        self.stat_blob(repository, digest, self.standing(repository))
            .await
    }

    async fn stat_blob(
        &self,
        repository: &str,
        digest: &Digest,
        standing: Standing,
    ) -> Result<u64, UpstreamError> {
        let path = format!("blobs/{digest}");
        let call = Call {
            method: Method::HEAD,
            repository,
            path,
            accept: "*/*",
            standing,
            from: 0,
            until: None,
        };
        let response = self.call(&call).await?;
        let told = content_length(&response).or_else(|| self.sizes.of(repository, digest));
        let bytes = told.ok_or_else(|| UpstreamError::NoLength {
            registry: self.name().to_owned(),
        })?;
        if bytes > limits::BLOB_BYTES_MAX {
            return Err(UpstreamError::TooLarge {
                registry: self.name().to_owned(),
                bytes,
                limit: limits::BLOB_BYTES_MAX,
            });
        }
        Ok(bytes)
    }

    /// The label of this registry in metrics: its name when somebody wrote it down, so that the set stays closed.
    fn label(&self) -> String {
        if self.config.listed {
            self.config.registry.clone()
        } else {
            "other".to_owned()
        }
    }

    fn unavailable(&self, detail: &str) -> UpstreamError {
        UpstreamError::Unavailable {
            registry: self.name().to_owned(),
            detail: detail.to_owned(),
        }
    }

    fn bad_answer(&self, detail: &str) -> UpstreamError {
        UpstreamError::BadAnswer {
            registry: self.name().to_owned(),
            detail: detail.to_owned(),
        }
    }
}

/// All registries that may be asked.
#[derive(Debug)]
pub struct Upstreams {
    listed: BTreeMap<String, UpstreamConfig>,
    allow_any: bool,
    environment: EnvProxies,
    timeouts: Timeouts,
    /// Made when first asked: a registry that nobody asks needs no client and no certificates.
    made: Mutex<BTreeMap<String, Made>>,
}

#[derive(Debug)]
struct Made {
    registry: Arc<Registry>,
    /// When its certificates were last looked at.
    looked: Instant,
}

/// Registries known at once when any may be asked.
const MADE_MAX: usize = 256;
/// How often the certificates of a registry are looked at, whether they have changed.
const LOOK_EVERY: Duration = Duration::from_secs(10);

impl Upstreams {
    /// The registries of the configuration.
    #[must_use]
    pub fn new(listed: Vec<UpstreamConfig>, allow_any: bool, timeouts: Timeouts) -> Self {
        let listed = listed
            .into_iter()
            .map(|config| (config.registry.clone(), config))
            .collect();
        Self {
            listed,
            allow_any,
            environment: EnvProxies::default(),
            timeouts,
            made: Mutex::default(),
        }
    }

    /// The same, through the proxies of the environment.
    #[must_use]
    pub fn through(mut self, environment: EnvProxies) -> Self {
        self.environment = environment;
        self
    }

    /// The registry of that name, when it may be asked.
    ///
    /// # Errors
    /// It is not allowed, or its certificates are missing.
    pub fn registry(&self, name: &str) -> Result<Arc<Registry>, UpstreamError> {
        self.registry_at(name, Instant::now())
    }

    fn registry_at(&self, name: &str, now: Instant) -> Result<Arc<Registry>, UpstreamError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = made.get_mut(name) {
            if now.duration_since(made.looked) >= LOOK_EVERY {
                made.looked = now;
                self.renew(&mut made.registry);
            }
            return Ok(Arc::clone(&made.registry));
        }
        let not_allowed = || UpstreamError::NotAllowed {
            registry: name.chars().take(limits::REGISTRY_NAME_BYTES_MAX).collect(),
        };
        let config = match self.listed.get(name) {
            Some(config) => config.clone(),
            None if self.allow_any && made.len() < MADE_MAX => {
                UpstreamConfig::public(name).ok_or_else(not_allowed)?
            }
            None => return Err(not_allowed()),
        };
        let registry = Arc::new(Registry::new(config, &self.environment, self.timeouts)?);
        let first = Made {
            registry: Arc::clone(&registry),
            looked: now,
        };
        made.insert(name.to_owned(), first);
        Ok(registry)
    }

    /// Takes up certificates that have changed; what is under way goes on with the old ones.
    fn renew(&self, registry: &mut Arc<Registry>) {
        if !registry.has_new_certificates() {
            return;
        }
        match registry.renewed(&self.environment) {
            Ok(renewed) => {
                tracing::info!(
                    registry = registry.name(),
                    "certificates have changed and are taken up"
                );
                *registry = Arc::new(renewed);
            }
            Err(error) => {
                tracing::warn!(%error, "certificates have changed; the old ones stay in use")
            }
        }
    }

    /// Whether the registry of that name may be asked.
    ///
    /// # Errors
    /// It may not.
    pub fn check_allowed(&self, name: &str) -> Result<(), UpstreamError> {
        if self.allow_any || self.listed.contains_key(name) {
            return Ok(());
        }
        Err(UpstreamError::NotAllowed {
            registry: name.chars().take(limits::REGISTRY_NAME_BYTES_MAX).collect(),
        })
    }

    /// How long a yes to a caller's credential holds, at a registry that is asked about each caller.
    #[must_use]
    pub(crate) fn asks_callers(&self, name: &str) -> Option<Duration> {
        match self.listed.get(name)?.access {
            Access::Authorize { hold } => Some(hold),
            Access::Public | Access::Shared { .. } => None,
        }
    }

    /// The registries that are listed, by name.
    pub fn listed(&self) -> impl Iterator<Item = &str> {
        self.listed.keys().map(String::as_str)
    }
}
