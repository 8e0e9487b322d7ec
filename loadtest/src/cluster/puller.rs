//! One of Debian's clients on a node of its own, told of the node's agent by what the agent's own commands write or print.
//!
//! What for: the same pull by each client, with the configuration that an operator would give it. What not for: what only
//! one of them can do (`containerd`, `dockerd`, `c_image`). Invariant: a pull that succeeds has the image that was meant.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Result, ensure};

use super::Member;
use super::c_image::{CImage, check_copied};
use super::config::RegistryEntry;
use super::containerd::{self, Containerd};
use super::dockerd::Dockerd;
use super::needs::{BUILDAH, DOCKERD, Program, SKOPEO};
use super::trial::{REPOSITORY, TAG, printed};
use crate::demo::install;
use crate::workload::Image;

/// Which client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Buildah,
    Cri,
    Ctr,
    Dockerd,
    Skopeo,
}

/// A client that is ready to pull the trial's image.
#[derive(Debug)]
pub struct Puller {
    kind: Kind,
    /// As this client names the image; dockerd knows it as one of docker.io.
    reference: String,
    client: Client,
}

#[derive(Debug)]
enum Client {
    Buildah(CImage),
    Cri(Containerd),
    Ctr(Containerd),
    Dockerd(Dockerd),
    Skopeo(CImage),
}

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::Buildah,
        Self::Cri,
        Self::Ctr,
        Self::Dockerd,
        Self::Skopeo,
    ];

    /// What all of them need on this machine.
    #[must_use]
    pub fn programs() -> Vec<Program> {
        let mut programs = containerd::PROGRAMS.to_vec();
        programs.extend([BUILDAH, DOCKERD, SKOPEO]);
        programs
    }
}

/// An upstream under its own address, and under the one name for which dockerd asks mirrors. That comes first: it is the
/// one that an agent's bound port stands for.
#[must_use]
pub fn entries(upstream: SocketAddr) -> Vec<RegistryEntry> {
    let plain = RegistryEntry::plain(upstream);
    let hub = RegistryEntry {
        registry: "docker.io".into(),
        ..plain.clone()
    };
    vec![hub, plain]
}

impl Puller {
    /// A client that asks `agent` first and `upstream` next. The agent must answer.
    pub async fn start(
        kind: Kind,
        folder: &Path,
        agent: &Member,
        upstream: SocketAddr,
    ) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let containers = async || CImage::new(folder, &printed(agent, "podman").await?);
        let containerd = async || {
            let node = Containerd::start_with_cri("node", folder).await?;
            install(&node, agent).await?;
            anyhow::Ok(node)
        };
        let client = match kind {
            Kind::Buildah => Client::Buildah(containers().await?),
            Kind::Cri => Client::Cri(containerd().await?),
            Kind::Ctr => Client::Ctr(containerd().await?),
            Kind::Dockerd => {
                // The registry itself, which dockerd would ask last, is out of this machine's reach.
                let next = format!("http://{upstream}");
                let told = printed(agent, "dockerd").await?;
                Client::Dockerd(Dockerd::start(folder, &told, &[&next]).await?)
            }
            Kind::Skopeo => Client::Skopeo(containers().await?),
        };
        let reference = match kind {
            Kind::Dockerd => format!("{REPOSITORY}:{TAG}"),
            _ => format!("{upstream}/{REPOSITORY}:{TAG}"),
        };
        Ok(Self {
            kind,
            reference,
            client,
        })
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Pulls once, as the client does by itself, and holds what came against what was meant.
    pub async fn pull(&self, image: &Image) -> Result<()> {
        let (reference, config) = (&self.reference, image.config_digest());
        let (got, meant) = match &self.client {
            Client::Buildah(place) => (place.buildah_pull(reference).await?, config.hex()),
            Client::Cri(node) => (node.cri_pull(reference, None).await?, config.to_string()),
            Client::Ctr(node) => {
                node.pull(reference).await?;
                let manifest = image.manifest_digest();
                (node.image_digest(reference).await?, manifest.to_string())
            }
            Client::Dockerd(docker) => {
                docker.pull(REPOSITORY, TAG).await?;
                (docker.image_id(reference).await?, config.to_string())
            }
            Client::Skopeo(place) => {
                let to = place.skopeo_copy(reference, "copied", &[]).await?;
                return check_copied(&to, image);
            }
        };
        ensure!(got == meant, "{:?} has {got} for {meant}", self.kind);
        Ok(())
    }

    /// Ends what the client is made of.
    pub async fn stop(&mut self) -> Result<()> {
        match &mut self.client {
            Client::Buildah(_) | Client::Skopeo(_) => Ok(()),
            Client::Cri(node) | Client::Ctr(node) => node.stop().await,
            Client::Dockerd(docker) => docker.stop().await,
        }
    }
}
