//! Points containerd at this agent: writes its `hosts.toml` files, and puts them back as they were.
//!
//! Only the registries that this agent serves are touched, one file each; the record of what was there is durable
//! before a file changes, and a file is always the old or the new one, whenever the power fails. A file that
//! somebody changed after us is never overwritten: only our part of it is taken out.
//! Not here: containerd's own configuration, which decides whether these files are read (`check` looks at it).

pub mod check;
pub(crate) mod disk;
pub(crate) mod edit;
pub(crate) mod journal;
pub(crate) mod probe;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::mirror::registries::{AllowedRegistry, Registries};

pub use edit::EditError;
pub use probe::ProbeError;

use disk::{Attributes, Disk};
use edit::Entry;
use journal::{Journal, Record};

/// Where the files go, and what they say.
#[derive(Debug, Clone)]
pub struct HostsPlan {
    /// containerd's `config_path`.
    pub hosts_dir: PathBuf,
    /// Where the record of the originals is kept.
    pub journal_dir: PathBuf,
    /// The agent's registry port.
    pub agent: SocketAddr,
    pub scope: Scope,
}

/// Which files are written.
#[derive(Debug, Clone)]
pub enum Scope {
    /// `_default`, for every registry that has no folder of its own.
    Default,
    /// One for each registry.
    Each(Vec<AllowedRegistry>),
}

impl Scope {
    pub fn each(registries: &Registries) -> Self {
        Self::Each(registries.iter().cloned().collect())
    }
}

/// What became of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Written,
    Unchanged,
    Restored,
    /// Somebody edited it after us: our host was taken out, the rest kept.
    TakenOut,
}

/// Why a file could not be written or restored.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    #[error("{}: {source}", path.display())]
    Edit { path: PathBuf, source: EditError },
    #[error("{}: {source}; run it as root, or name another folder with --hosts-dir", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Writes all files of a plan. What is already as it should be is not touched.
pub fn install(plan: &HostsPlan) -> Result<Vec<(PathBuf, Outcome)>, HostsError> {
    install_on(&disk::RealDisk, plan)
}

/// Puts back every file that the journal tells of, and takes our marks out of any that it does not.
pub fn uninstall(plan: &HostsPlan) -> Result<Vec<(PathBuf, Outcome)>, HostsError> {
    uninstall_on(&disk::RealDisk, plan)
}

/// What each file would say if there were none before: for people, and for tools that write files themselves.
pub fn texts(plan: &HostsPlan) -> Vec<(PathBuf, String)> {
    plan.files()
        .into_iter()
        .filter_map(|(path, entry)| Some((path, edit::insert(None, &entry).ok()?)))
        .collect()
}

fn install_on(disk: &impl Disk, plan: &HostsPlan) -> Result<Vec<(PathBuf, Outcome)>, HostsError> {
    let journal = Journal::new(plan.journal_dir.clone());
    plan.files()
        .into_iter()
        .map(|(path, entry)| {
            let outcome = install_one(disk, &journal, &path, &entry)?;
            Ok((path, outcome))
        })
        .collect()
}

fn install_one(
    disk: &impl Disk,
    journal: &Journal,
    path: &Path,
    entry: &Entry,
) -> Result<Outcome, HostsError> {
    let io = |source| HostsError::Io {
        path: path.to_owned(),
        source,
    };
    let refused = |source| HostsError::Edit {
        path: path.to_owned(),
        source,
    };
    let current = read_text(path)?;
    let text = current.as_ref().map(|(text, _)| text.as_str());
    let known = journal.load(path).map_err(io)?;
    let original = match &known {
        Some(record) if text == record.original.as_deref() || is_ours(record, text) => {
            record.original.clone()
        }
        _ => match text {
            Some(text) if edit::is_marked(text) => edit::remove(text, None).map_err(refused)?,
            _ => text.map(str::to_owned),
        },
    };
    let wanted = edit::insert(original.as_deref(), entry).map_err(refused)?;
    if text == Some(wanted.as_str())
        && known
            .as_ref()
            .is_some_and(|record| record.ours == [wanted.as_str()])
    {
        return Ok(Outcome::Unchanged);
    }
    let folder = path.parent().unwrap_or(path);
    let attributes = current.as_ref().map(|(_, attributes)| *attributes);
    let created_dirs =
        known.map_or_else(|| disk::missing_dirs(folder), |record| record.created_dirs);
    let mut record = Record {
        path: path.to_owned(),
        original,
        attributes,
        created_dirs,
        agent_url: entry.agent_url.clone(),
        ours: vec![wanted.clone()],
    };
    if let Some(text) = text.filter(|text| edit::is_marked(text) && *text != wanted) {
        record.ours.push(text.to_owned());
    }
    journal.save(disk, &record).map_err(io)?;
    disk::create_dirs(disk, &disk::missing_dirs(folder)).map_err(io)?;
    disk::replace(disk, path, wanted.as_bytes(), attributes).map_err(io)?;
    if record.ours.len() > 1 {
        record.ours.truncate(1);
        journal.save(disk, &record).map_err(io)?;
    }
    Ok(Outcome::Written)
}

fn uninstall_on(disk: &impl Disk, plan: &HostsPlan) -> Result<Vec<(PathBuf, Outcome)>, HostsError> {
    let journal = Journal::new(plan.journal_dir.clone());
    let records = journal.all().map_err(|source| HostsError::Io {
        path: plan.journal_dir.clone(),
        source,
    })?;
    let mut outcomes = Vec::new();
    for record in records {
        let outcome = uninstall_one(disk, &record)?;
        let io = |source| HostsError::Io {
            path: record.path.clone(),
            source,
        };
        disk::remove_empty_dirs(disk, &record.created_dirs).map_err(io)?;
        journal.forget(disk, &record.path).map_err(io)?;
        outcomes.push((record.path, outcome));
    }
    for path in marked_files(&plan.hosts_dir) {
        let outcome = take_out(disk, &path, None)?;
        outcomes.push((path, outcome));
    }
    Ok(outcomes)
}

fn uninstall_one(disk: &impl Disk, record: &Record) -> Result<Outcome, HostsError> {
    let io = |source| HostsError::Io {
        path: record.path.clone(),
        source,
    };
    let current = read_text(&record.path)?;
    let text = current.as_ref().map(|(text, _)| text.as_str());
    if text == record.original.as_deref() {
        // What an interrupted run left beside it goes too.
        let leftover = disk::temporary_of(&record.path);
        if leftover.exists() {
            disk::remove(disk, &leftover).map_err(io)?;
        }
        return Ok(Outcome::Unchanged);
    }
    if !is_ours(record, text) {
        return take_out(disk, &record.path, Some(&record.agent_url));
    }
    match &record.original {
        Some(original) => {
            disk::replace(disk, &record.path, original.as_bytes(), record.attributes).map_err(io)?
        }
        None => disk::remove(disk, &record.path).map_err(io)?,
    }
    Ok(Outcome::Restored)
}

/// Takes our host out of a file that others changed too.
fn take_out(disk: &impl Disk, path: &Path, agent_url: Option<&str>) -> Result<Outcome, HostsError> {
    let io = |source| HostsError::Io {
        path: path.to_owned(),
        source,
    };
    let Some((text, attributes)) = read_text(path)? else {
        return Ok(Outcome::Unchanged);
    };
    let left = edit::remove(&text, agent_url).map_err(|source| HostsError::Edit {
        path: path.to_owned(),
        source,
    })?;
    match left {
        Some(left) if left == text => return Ok(Outcome::Unchanged),
        Some(left) => disk::replace(disk, path, left.as_bytes(), Some(attributes)).map_err(io)?,
        None => disk::remove(disk, path).map_err(io)?,
    }
    Ok(Outcome::TakenOut)
}

fn is_ours(record: &Record, text: Option<&str>) -> bool {
    text.is_some_and(|text| record.ours.iter().any(|ours| ours == text))
}

fn read_text(path: &Path) -> Result<Option<(String, Attributes)>, HostsError> {
    let io = |source| HostsError::Io {
        path: path.to_owned(),
        source,
    };
    match disk::read(path).map_err(io)? {
        Some((bytes, attributes)) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some((text, attributes))),
            Err(_) => Err(HostsError::Edit {
                path: path.to_owned(),
                source: EditError::NotText,
            }),
        },
        None => Ok(None),
    }
}

/// Files below containerd's folder that carry our marks.
fn marked_files(hosts_dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(hosts_dir) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path().join("hosts.toml")))
        .filter(|path| std::fs::read_to_string(path).is_ok_and(|text| edit::is_marked(&text)))
        .collect();
    files.sort();
    files
}

impl HostsPlan {
    /// `http://127.0.0.1:5050`
    pub fn agent_url(&self) -> String {
        format!("http://{}", self.agent)
    }

    /// Each file with what it must say.
    fn files(&self) -> Vec<(PathBuf, Entry)> {
        match &self.scope {
            Scope::Default => {
                vec![(
                    self.hosts_dir.join("_default/hosts.toml"),
                    Entry {
                        agent_url: self.agent_url(),
                        server: None,
                    },
                )]
            }
            Scope::Each(registries) => registries
                .iter()
                .map(|registry| {
                    let entry = Entry {
                        agent_url: self.agent_url(),
                        server: Some(registry.server_url()),
                    };
                    (
                        registry_dir(&self.hosts_dir, registry.name.as_str()).join("hosts.toml"),
                        entry,
                    )
                })
                .collect(),
        }
    }
}

/// The folder that containerd reads for a registry: `host_port_` wins over `host:port`, if it exists.
fn registry_dir(hosts_dir: &Path, registry: &str) -> PathBuf {
    let escaped = hosts_dir.join(format!("{}_", registry.replace(':', "_")));
    if registry.contains(':') && escaped.is_dir() {
        escaped
    } else {
        hosts_dir.join(registry)
    }
}
