//! The registries outside, and the three things asked of them: a tag's digest, a manifest, a blob.
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
pub mod limit;
pub(crate) mod manifest;
pub(crate) mod pull;
pub(crate) mod request;
pub(crate) mod token;

#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use reqwest::{Client, Url};
use shoal_proto::{Digest, limits};

pub use self::auth::{Credentials, Standing};
pub use self::error::UpstreamError;
pub use self::request::Timeouts;

use self::auth::{Auth, AuthOptions};
use self::caller::Caller;
use self::guard::{Guard, GuardedResolver};
use self::limit::Circuit;
use self::pull::{Pull, content_length};
use self::request::Call;
use crate::config::{Access, UpstreamConfig};

/// A registry, asked through one client with one set of rules.
#[derive(Clone, Debug)]
pub struct Registry {
    config: Arc<UpstreamConfig>,
    base: Url,
    client: Client,
    guard: Arc<Guard>,
    auth: Arc<Auth>,
    circuit: Arc<Circuit>,
    timeouts: Timeouts,
    /// In whose name it is asked, with that credential alone; nobody's: by the registry's policy.
    caller: Option<Caller>,
}

impl Registry {
    /// A registry as configured.
    ///
    /// # Errors
    /// The certificates it needs are missing or cannot be read.
    pub fn new(config: UpstreamConfig, timeouts: Timeouts) -> Result<Self, UpstreamError> {
        let base = config.url.clone();
        let guard = Arc::new(Guard::new(
            &base,
            config.written_by_operator,
            config.private_addresses,
            config.plain_http(),
        ));
        let client = build_client(&config, &guard, timeouts).map_err(|detail| {
            UpstreamError::Unavailable {
                registry: config.registry.clone(),
                detail,
            }
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
            config: Arc::new(config),
            base,
            client,
            guard,
            auth,
            circuit: Arc::default(),
            timeouts,
            caller: None,
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
    pub(crate) async fn pull<'a>(
        &'a self,
        repository: &'a str,
        digest: &Digest,
        from: u64,
    ) -> Result<Pull<'a>, UpstreamError> {
        Pull::open(self, repository, digest, self.standing(repository), from).await
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
        };
        let response = self.call(&call).await?;
        let bytes = content_length(&response).ok_or_else(|| UpstreamError::NoLength {
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

fn build_client(
    config: &UpstreamConfig,
    guard: &Arc<Guard>,
    timeouts: Timeouts,
) -> Result<Client, String> {
    let extra = match &config.ca_file {
        Some(path) => read_certificates(path)?,
        None => Vec::new(),
    };
    let builder = || {
        let builder = Client::builder()
            .user_agent(concat!("shoal-origin/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(timeouts.connect)
            .http1_only()
            .pool_max_idle_per_host(16)
            .dns_resolver(GuardedResolver(Arc::clone(guard)));
        // A proxy of the environment is for the world outside; what is near is reached directly.
        if config.private_addresses || config.plain_http() {
            builder.no_proxy()
        } else {
            builder
        }
    };
    match builder().tls_certs_merge(extra.clone()).build() {
        Ok(client) => Ok(client),
        // A host without any certificate of its own still reaches a registry that speaks plain HTTP.
        Err(_) if config.plain_http() => {
            builder().tls_certs_only(extra).build().map_err(|_| "its HTTP client cannot be set up".to_owned())
        }
        Err(_) => Err("this host has no CA certificates; install the package ca-certificates, or set `ca_file`".to_owned()),
    }
}

fn read_certificates(path: &Path) -> Result<Vec<reqwest::Certificate>, String> {
    let pem = std::fs::read(path)
        .map_err(|error| format!("cannot read ca_file {}: {error}", path.display()))?;
    reqwest::Certificate::from_pem_bundle(&pem)
        .map_err(|_| format!("ca_file {} holds no PEM certificates", path.display()))
}

/// All registries that may be asked.
#[derive(Debug)]
pub struct Upstreams {
    listed: BTreeMap<String, UpstreamConfig>,
    allow_any: bool,
    timeouts: Timeouts,
    /// Made when first asked: a registry that nobody asks needs no client and no certificates.
    made: Mutex<BTreeMap<String, Arc<Registry>>>,
}

/// Registries known at once when any may be asked.
const MADE_MAX: usize = 256;

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
            timeouts,
            made: Mutex::default(),
        }
    }

    /// The registry of that name, when it may be asked.
    ///
    /// # Errors
    /// It is not allowed, or its certificates are missing.
    pub fn registry(&self, name: &str) -> Result<Arc<Registry>, UpstreamError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(registry) = made.get(name) {
            return Ok(Arc::clone(registry));
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
        let registry = Arc::new(Registry::new(config, self.timeouts)?);
        made.insert(name.to_owned(), Arc::clone(&registry));
        Ok(registry)
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
