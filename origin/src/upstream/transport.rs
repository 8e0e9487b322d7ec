//! The HTTP client of one registry: its certificates, its proxies, its time limits.
//!
//! For: building it, and noticing that one of the files it was built from has changed. Not for: requests.
//!
//! Certificates are added to the system's, never put in their place, and verification is never off. The folder of
//! Docker's `certs.d` is read as Docker reads it: `<folder>/<registry>/*.crt` are authorities, `NAME.cert` and
//! `NAME.key` a certificate of ours.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use reqwest::{Certificate, Client, ClientBuilder, Identity};
use zeroize::Zeroizing;

use super::guard::{Guard, GuardedResolver};
use super::proxy::EnvProxies;
use super::request::Timeouts;
use crate::config::UpstreamConfig;

/// No file of certificates is longer.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The files that a client was built from.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct TlsFiles {
    authorities: Vec<PathBuf>,
    /// A certificate and its key.
    ours: Option<(PathBuf, PathBuf)>,
}

/// When each of them was last changed.
pub(crate) type Stamp = (TlsFiles, Vec<Option<(SystemTime, u64)>>);

impl TlsFiles {
    /// Those of a registry: what is configured for it, and what stands in `certs.d`.
    pub(crate) fn find(config: &UpstreamConfig) -> Self {
        let mut files = Self {
            authorities: config.ca_file.iter().cloned().collect(),
            ours: config.client_certificate.clone(),
        };
        if let Some(folder) = config.certs_dir.as_deref() {
            // With a port, containerd knows a second way to write it.
            let names = [config.registry.clone(), with_underscores(&config.registry)];
            if let Some(folder) = names
                .iter()
                .map(|name| folder.join(name))
                .find(|path| path.is_dir())
            {
                files.add_folder(&folder);
            }
        }
        files
    }

    fn add_folder(&mut self, folder: &Path) {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => self.authorities.push(path),
                Some("cert") if self.ours.is_none() => {
                    self.ours = Some((path.clone(), path.with_extension("key")));
                }
                _ => {}
            }
        }
    }

    /// What they look like now, to be compared later.
    pub(crate) fn stamp(self) -> Stamp {
        let ours = self
            .ours
            .iter()
            .flat_map(|(certificate, key)| [certificate, key]);
        let paths = self.authorities.iter().chain(ours);
        let stamps = paths.map(|path| {
            let told = std::fs::metadata(path).ok()?;
            Some((told.modified().ok()?, told.len()))
        });
        let stamps = stamps.collect();
        (self, stamps)
    }
}

fn with_underscores(registry: &str) -> String {
    match registry.rsplit_once(':') {
        Some((host, port)) => format!("{host}_{port}_"),
        None => registry.to_owned(),
    }
}

/// A client, and the guard that watches where it goes.
pub(crate) fn build(
    config: &UpstreamConfig,
    files: &TlsFiles,
    environment: &EnvProxies,
    timeouts: Timeouts,
) -> Result<(Client, Arc<Guard>), String> {
    let near = config.private_addresses || config.plain_http();
    let (_, proxy_hosts) = config.proxy.rules(environment, near)?;
    let guard = Guard::new(
        &config.url,
        config.written_by_operator,
        config.private_addresses,
        config.plain_http(),
    );
    let guard = Arc::new(guard.through(proxy_hosts));
    let mut authorities = Vec::new();
    for path in &files.authorities {
        authorities.extend(read_authorities(path)?);
    }
    let builder = || {
        let builder = base(&guard, timeouts);
        let (rules, _) = config.proxy.rules(environment, near)?;
        let builder = rules.into_iter().fold(builder, ClientBuilder::proxy);
        match &files.ours {
            Some((certificate, key)) => Ok(builder.identity(read_identity(certificate, key)?)),
            None => Ok::<_, String>(builder),
        }
    };
    let client = match builder()?.tls_certs_merge(authorities.clone()).build() {
        Ok(client) => client,
        // A host without any certificate of its own still reaches a registry that speaks plain HTTP.
        Err(_) if config.plain_http() => builder()?
            .tls_certs_only(authorities)
            .build()
            .map_err(|_| "its HTTP client cannot be set up".to_owned())?,
        Err(_) => return Err("this host has no CA certificates; install the package ca-certificates, or set `ca_file`".to_owned()),
    };
    Ok((client, guard))
}

fn base(guard: &Arc<Guard>, timeouts: Timeouts) -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("shoal-origin/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(timeouts.connect)
        .http1_only()
        .pool_max_idle_per_host(16)
        .dns_resolver(GuardedResolver(Arc::clone(guard)))
        // The environment's proxies come as rules of our own, so that the guard knows them.
        .no_proxy()
}

fn read_authorities(path: &Path) -> Result<Vec<Certificate>, String> {
    let wrong = || format!("{} holds no PEM certificates", path.display());
    let pem = read(path)?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|_| wrong())?;
    if found.is_empty() {
        return Err(wrong());
    }
    Ok(found)
}

fn read_identity(certificate: &Path, key: &Path) -> Result<Identity, String> {
    let (certificates, secret) = (read(certificate)?, read(key)?);
    let mut pem = Zeroizing::new(Vec::with_capacity(certificates.len() + secret.len() + 1));
    pem.extend_from_slice(&certificates);
    pem.push(b'\n');
    pem.extend_from_slice(&secret);
    Identity::from_pem(&pem).map_err(|_| {
        format!(
            "{} and {} are not a certificate and its key in PEM form",
            certificate.display(),
            key.display()
        )
    })
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let unreadable = |why: String| format!("cannot read {}: {why}", path.display());
    let told = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
    if told.len() > FILE_BYTES_MAX {
        return Err(unreadable("it is larger than 4 MiB".to_owned()));
    }
    let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    Ok(Zeroizing::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(registry: &str, certs_dir: &Path) -> UpstreamConfig {
        UpstreamConfig {
            certs_dir: Some(certs_dir.to_owned()),
            ..UpstreamConfig::public(registry).unwrap()
        }
    }

    #[test]
    fn folder_of_docker_is_read_as_docker_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a.example:5000");
        std::fs::create_dir(&folder).unwrap();
        for name in [
            "b.crt",
            "a.crt",
            "client.cert",
            "client.key",
            "hosts.toml",
            "z.cert",
        ] {
            std::fs::write(folder.join(name), "x").unwrap();
        }
        let files = TlsFiles::find(&config("a.example:5000", dir.path()));
        let expected = TlsFiles {
            authorities: vec![folder.join("a.crt"), folder.join("b.crt")],
            ours: Some((folder.join("client.cert"), folder.join("client.key"))),
        };
        assert_eq!(files, expected);
        assert_eq!(
            TlsFiles::find(&config("a.example", dir.path())),
            TlsFiles::default()
        );

        std::fs::rename(&folder, dir.path().join("a.example_5000_")).unwrap();
        let files = TlsFiles::find(&config("a.example:5000", dir.path()));
        assert_eq!(files.authorities.len(), 2);
    }

    #[test]
    fn change_of_a_file_shows_in_its_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let files = TlsFiles {
            authorities: vec![path.clone()],
            ours: None,
        };
        let absent = files.clone().stamp();
        std::fs::write(&path, "one").unwrap();
        let first = files.clone().stamp();
        assert_ne!(absent, first);
        assert_eq!(files.clone().stamp(), first);
        std::fs::write(&path, "another").unwrap();
        assert_ne!(files.stamp(), first);
    }
}
