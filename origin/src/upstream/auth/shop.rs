//! Where headers come from: a credential as it is, or a token that a token server gives for it.
//!
//! Not for: which of them is wanted, or who waits (that is `auth`).

use std::time::Duration;

use http::HeaderValue;
use reqwest::{Client, Url};
use zeroize::Zeroizing;

use super::super::error::UpstreamError;
use super::super::guard::secret_header;
use super::super::keyring::{Keyring, Secret};
use super::super::token::{TOKEN_LIFE_DEFAULT, TokenAsk};
use super::TokenKey;

/// What a fetch needs, apart from the books.
#[derive(Clone)]
pub(super) struct Shop {
    pub(super) registry: String,
    pub(super) client: Client,
    pub(super) keyring: Option<Keyring>,
    /// For a whole fetch.
    pub(super) timeout: Duration,
}

/// What is to be fetched.
pub(super) enum Order {
    Basic,
    Bearer {
        realm: Url,
        service: Option<String>,
        scope: Option<String>,
        with_secret: bool,
    },
}

impl Shop {
    /// The header's value and its life. `rejected`: the last one was refused.
    pub(super) async fn fetch(
        &self,
        key: &TokenKey,
        order: Order,
        rejected: bool,
    ) -> Result<(HeaderValue, Duration), UpstreamError> {
        let with_secret = match &order {
            Order::Basic => true,
            Order::Bearer { with_secret, .. } => *with_secret,
        };
        let secret = match &self.keyring {
            Some(keyring) if with_secret => Some(self.secret(keyring, key, rejected).await?),
            _ => None,
        };
        let unavailable = |detail: &str| UpstreamError::Unavailable {
            registry: self.registry.clone(),
            detail: detail.to_owned(),
        };
        let (value, life) = match (order, secret) {
            (_, Some(Secret::Registry { token })) => {
                let value = Zeroizing::new(format!("Bearer {}", token.as_str()));
                (value, TOKEN_LIFE_DEFAULT)
            }
            (Order::Basic, secret) => {
                let basic = secret.as_ref().and_then(Secret::basic);
                let basic = basic.ok_or_else(|| unavailable("it wants a user and a password"))?;
                (basic, TOKEN_LIFE_DEFAULT)
            }
            (
                Order::Bearer {
                    realm,
                    service,
                    scope,
                    ..
                },
                secret,
            ) => {
                let ask = TokenAsk {
                    realm,
                    service,
                    scope,
                    secret,
                };
                let asked = ask.send(&self.client, &self.registry);
                let result = tokio::time::timeout(self.timeout, asked).await;
                let result =
                    result.unwrap_or_else(|_| Err(unavailable("its token server does not answer")));
                let told = if result.is_ok() { "ok" } else { "failed" };
                metrics::counter!("shoal_token_refresh_total", "result" => told).increment(1);
                result?
            }
        };
        let header = secret_header(&value)
            .ok_or_else(|| unavailable("its token cannot stand in a header"))?;
        Ok((header, life))
    }

    async fn secret(
        &self,
        keyring: &Keyring,
        key: &TokenKey,
        rejected: bool,
    ) -> Result<Secret, UpstreamError> {
        let secret = keyring.secret(&key.repository, rejected).await;
        secret.map_err(|error| {
            tracing::warn!(registry = self.registry, %error, "this origin's own credential cannot be used");
            UpstreamError::Credential {
                registry: self.registry.clone(),
                detail: error.to_string(),
            }
        })
    }
}
