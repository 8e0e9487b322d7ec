//! `[[upstream]]` as it is written, and what each of its keys comes to.
//!
//! Not for: the registry as a whole (that is `upstream`). Secrets are named by their files, never written here.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_daemon::config::Span;
use shoal_proto::limits;

use super::{Access, RepositoryPattern, UpstreamRefusal, without_user};
use crate::upstream::Credentials;
use crate::upstream::parts::PARTS_MAX;
use crate::upstream::proxy::{ProxyChoice, parse_proxy};

/// One `[[upstream]]`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamEntry {
    /// The registry as image references name it: `ghcr.io`, `127.0.0.1:5000`.
    pub registry: String,
    /// Where it is, when that is not `https://` and its name.
    pub url: Option<String>,
    /// Whether it speaks HTTP without TLS; short for a `url` that begins with `http://`.
    pub plain_http: bool,
    /// Whether it may redirect to private addresses; unsaid, only when it has one itself.
    pub private_addresses: Option<bool>,
    /// Who may have its content: `public`, `shared` or `authorize`.
    pub access: AccessKind,
    /// With `authorize`: how long the registry's yes to a caller's credential holds, at most five minutes. A revoked
    /// credential works no longer than that.
    pub verdict_hold: Option<Span>,
    /// With `shared`: the repositories fetched with the credential; `*` stands for anything.
    pub repositories: Vec<String>,
    /// With `shared`: the user.
    pub username: Option<String>,
    /// With `shared`: a file that holds the user's password.
    pub password_file: Option<PathBuf>,
    /// With `shared`: a Docker `config.json` that holds the credential, in place of a user and a password.
    pub auth_file: Option<PathBuf>,
    /// Certificates in PEM form to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// A certificate in PEM form to show to the registry.
    pub client_cert_file: Option<PathBuf>,
    /// The key of that certificate, in PEM form.
    pub client_key_file: Option<PathBuf>,
    /// The proxy to ask it through, or `none`; unsaid, what the environment says.
    pub proxy: Option<String>,
    /// With `proxy`: hosts, domains and networks that are reached directly all the same.
    pub no_proxy: Vec<String>,
    /// Connections for one large blob, 1 to 6; unsaid, 1.
    pub connections: Option<u8>,
    /// Hosts of token servers, other than the registry's own site, that may see the credential.
    pub realm_hosts: Vec<String>,
}

/// What is said of all registries at once.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// The `config.json` of those that are `shared` and name no credential of their own.
    pub auth_file: Option<PathBuf>,
    /// A folder in the form of Docker's `certs.d`.
    pub certs_dir: Option<PathBuf>,
}

/// The name of a policy.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessKind {
    /// What the registry lets each caller read, asked with the caller's own credential.
    Authorize,
    /// What anybody may read.
    #[default]
    Public,
    /// What this origin may read, of the repositories listed.
    Shared,
}

impl UpstreamEntry {
    pub(super) fn credentials(&self) -> Result<Option<Credentials>, UpstreamRefusal> {
        let registry = || self.registry.clone();
        match (&self.username, &self.password_file, &self.auth_file) {
            (None, None, None) => Ok(None),
            (Some(username), Some(password_file), None) => Ok(Some(Credentials::User {
                username: username.clone(),
                password_file: password_file.clone(),
            })),
            (None, None, Some(path)) => Ok(Some(Credentials::AuthFile { path: path.clone() })),
            (_, _, Some(_)) => Err(UpstreamRefusal::CredentialTwice {
                registry: registry(),
            }),
            _ => Err(UpstreamRefusal::CredentialHalf {
                registry: registry(),
            }),
        }
    }

    pub(super) fn access(
        &self,
        own_credential: bool,
        defaults: &Defaults,
    ) -> Result<Access, UpstreamRefusal> {
        let registry = || self.registry.clone();
        match self.access {
            AccessKind::Authorize | AccessKind::Public if own_credential => {
                Err(UpstreamRefusal::CredentialUnused {
                    registry: registry(),
                })
            }
            AccessKind::Authorize => Ok(Access::Authorize { hold: self.hold()? }),
            AccessKind::Public => Ok(Access::Public),
            AccessKind::Shared => {
                let credential = own_credential || defaults.auth_file.is_some();
                if self.repositories.is_empty() || !credential {
                    return Err(UpstreamRefusal::SharedWhat {
                        registry: registry(),
                    });
                }
                let patterns = self.repositories.iter().cloned();
                Ok(Access::Shared {
                    repositories: patterns.map(RepositoryPattern::new).collect(),
                })
            }
        }
    }

    /// How long a verdict holds.
    pub(super) fn hold(&self) -> Result<Duration, UpstreamRefusal> {
        let Some(span) = self.verdict_hold else {
            return Ok(limits::VERDICT_HOLD_MAX);
        };
        let hold = span.duration();
        if self.access != AccessKind::Authorize || hold > limits::VERDICT_HOLD_MAX {
            return Err(UpstreamRefusal::Hold {
                registry: self.registry.clone(),
                hold: span,
            });
        }
        Ok(hold)
    }

    pub(super) fn connections(&self) -> Result<usize, UpstreamRefusal> {
        let connections = usize::from(self.connections.unwrap_or(1));
        if !(1..=PARTS_MAX).contains(&connections) {
            return Err(UpstreamRefusal::Connections {
                registry: self.registry.clone(),
                connections,
            });
        }
        Ok(connections)
    }

    pub(super) fn client_certificate(&self) -> Result<Option<(PathBuf, PathBuf)>, UpstreamRefusal> {
        match (&self.client_cert_file, &self.client_key_file) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => Ok(Some((certificate.clone(), key.clone()))),
            _ => Err(UpstreamRefusal::CertificateHalf {
                registry: self.registry.clone(),
            }),
        }
    }

    pub(super) fn proxy(&self) -> Result<ProxyChoice, UpstreamRefusal> {
        let registry = || self.registry.clone();
        let Some(text) = self.proxy.as_deref() else {
            return match self.no_proxy.as_slice() {
                [] => Ok(ProxyChoice::Environment),
                _ => Err(UpstreamRefusal::ProxyUnused {
                    registry: registry(),
                }),
            };
        };
        if text == "none" {
            return Ok(ProxyChoice::Direct);
        }
        // A password would stand in the configuration: the environment, or a proxy that knows this host, is the place.
        let proxy =
            parse_proxy(text).filter(|url| url.username().is_empty() && url.password().is_none());
        let proxy = proxy.ok_or_else(|| UpstreamRefusal::Proxy {
            registry: registry(),
            proxy: without_user(text),
        })?;
        Ok(ProxyChoice::Through {
            proxy,
            except: self.no_proxy.clone(),
        })
    }
}
