//! What a run needs on this machine, and how to get it.
//!
//! What for: an error that names the Debian package to install, before anything has been started; tests that say why
//! they were skipped. What not for: installing (the Makefile does).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The Debian packages of the demonstration, in the order of its acts. The Makefile's target `demo` installs the same.
pub const DEMO_PACKAGES: [&str; 5] = [
    "docker-registry",
    "skopeo",
    "containerd",
    "runc",
    "busybox-static",
];

/// A program of a Debian package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    pub name: &'static str,
    pub package: &'static str,
}

pub const BUILDAH: Program = Program {
    name: "buildah",
    package: "buildah",
};
pub const BUSYBOX: Program = Program {
    name: "busybox",
    package: "busybox-static",
};
pub const CHROMIUM: Program = Program {
    name: "chromium",
    package: "chromium",
};
pub const CONTAINERD: Program = Program {
    name: "containerd",
    package: "containerd",
};
pub const CTR: Program = Program {
    name: "ctr",
    package: "containerd",
};
pub const DOCKER_REGISTRY: Program = Program {
    name: "docker-registry",
    package: "docker-registry",
};
pub const DOCKERD: Program = Program {
    name: "dockerd",
    package: "docker.io",
};
pub const RUNC: Program = Program {
    name: "runc",
    package: "runc",
};
pub const SKOPEO: Program = Program {
    name: "skopeo",
    package: "skopeo",
};

impl Program {
    /// Where it is, looking through PATH and the folders that a plain user's PATH leaves out.
    #[must_use]
    pub fn find(&self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
        std::env::split_paths(&path)
            .chain(usual)
            .map(|dir| dir.join(self.name))
            .find(|file| file.is_file())
    }

    pub fn path(&self) -> Result<PathBuf> {
        self.find().with_context(|| {
            format!(
                "`{}` is missing; install it with: apt-get install {}",
                self.name, self.package
            )
        })
    }
}

/// Refuses with one line that names every missing package.
pub fn programs(programs: &[Program]) -> Result<()> {
    let mut missing: Vec<&str> = programs
        .iter()
        .filter(|program| program.find().is_none())
        .map(|program| program.package)
        .collect();
    missing.sort_unstable();
    missing.dedup();
    if !missing.is_empty() {
        bail!(
            "missing Debian packages; install them with: apt-get install {}",
            missing.join(" ")
        );
    }
    Ok(())
}

/// Refuses when this is not root, which containerd needs to unpack and run images.
pub fn root(what_for: &str) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("{what_for} needs root: run it with sudo, or in a throw-away virtual machine");
    }
    Ok(())
}

/// One of our own binaries: beside this executable, or in `SHOAL_BIN_DIR`.
pub fn binary(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("SHOAL_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => beside(&std::env::current_exe()?)?.to_owned(),
    };
    let file = folder.join(name);
    if !file.is_file() {
        bail!(
            "{} is missing; build it with: cargo build --release --workspace --bins (or set SHOAL_BIN_DIR)",
            file.display()
        );
    }
    Ok(file)
}

/// Test executables lie one folder deeper than the binaries.
fn beside(executable: &Path) -> Result<&Path> {
    let folder = executable
        .parent()
        .context("an executable lies in a folder")?;
    if folder.ends_with("deps") {
        folder.parent().context("deps lies in a folder")
    } else {
        Ok(folder)
    }
}

/// For tests: `false`, with a line that says why, when something is missing; in CI that is a failure instead.
///
/// # Panics
///
/// With `CI=true` in the environment, where nothing may be skipped.
#[must_use]
pub fn met(test: &str, needs: Result<()>) -> bool {
    let Err(missing) = needs else { return true };
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true" || value == "1");
    assert!(!in_ci, "{test} may not be skipped in CI: {missing:#}");
    eprintln!("SKIPPED {test}: {missing:#}");
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_once_with_the_command_that_installs_it() {
        let absent = |name| Program {
            name,
            package: "some-package",
        };
        let error = programs(&[absent("no-such-program"), absent("nor-this-one")])
            .expect_err("missing")
            .to_string();
        assert!(error.ends_with("apt-get install some-package"), "{error}");
        programs(&[Program {
            name: "sh",
            package: "dash",
        }])
        .expect("every Debian has it");
    }

    #[test]
    fn binaries_lie_beside_the_executable_and_one_above_a_test() {
        let of = |path| {
            beside(Path::new(path))
                .expect("a folder")
                .to_str()
                .expect("utf-8")
                .to_owned()
        };
        assert_eq!(of("/x/release/shoal-loadtest"), "/x/release");
        assert_eq!(of("/x/release/deps/cluster_smoke-0123"), "/x/release");
    }
}
