//! What a run was made on and made with: figures without it mean nothing.
//!
//! Not here: names of machines and people; a report is shown around.

use std::fs;

use serde::{Deserialize, Serialize};

/// The hardware, as the kernel tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub cpu: Option<String>,
}

/// The software.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Versions {
    pub shoal: Option<String>,
    /// Of the source that it was built from; null when it was built outside a repository.
    pub revision: Option<String>,
    pub kernel: Option<String>,
}

impl Machine {
    #[must_use]
    pub fn here() -> Self {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).ok()?;
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let kib = field("/proc/meminfo", "MemTotal")
            .and_then(|text| text.trim_end_matches("kB").trim().parse::<u64>().ok());
        Self {
            cores: std::thread::available_parallelism()
                .ok()
                .map(|cores| cores.get() as u64),
            memory_bytes: kib.map(|kib| kib * 1024),
            cpu: field("/proc/cpuinfo", "model name"),
        }
    }
}

impl Versions {
    #[must_use]
    pub fn here() -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
        Self {
            shoal: Some(env!("CARGO_PKG_VERSION").to_owned()),
            revision: option_env!("SHOAL_REVISION").map(str::to_owned),
            kernel: kernel.map(|text| text.trim().to_owned()),
        }
    }
}
