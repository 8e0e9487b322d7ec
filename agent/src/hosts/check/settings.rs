//! containerd's own configuration, with the files that it imports: whether it reads a folder of `hosts.toml` files, and
//! which.
//!
//! Not here: asking a running containerd, which would need its socket.

use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Finding, Verdict};

/// Where containerd's plugins keep the folder of `hosts.toml` files: 2.x, then 1.x.
const PLUGINS: [&str; 2] = ["io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri"];
/// Imports that are followed; containerd's own default names one pattern.
const IMPORTED_FILES_MAX: usize = 64;

/// What the files say of images, the last one that says anything counting.
#[derive(Debug, Default, PartialEq, Eq)]
struct Settings {
    config_path: Option<String>,
    /// Mirrors in the old form, with which containerd refuses `config_path`.
    old_mirrors: bool,
    /// The pull that splits a list of folders, also where containerd is 2.1 or later.
    local_pull: bool,
}

pub(super) fn inspect(hosts_dir: &Path, file: &Path) -> Vec<Finding> {
    let shown = file.display();
    let Ok(text) = fs::read_to_string(file) else {
        let dir = hosts_dir.display();
        return vec![Finding::new(
            Verdict::Odd,
            format!(
                "{shown}: not readable; containerd 1.x then has no config_path and ignores hosts.toml, 2.2 and later read {dir} only when they do not pull by their transfer service: set config_path = \"{dir}\""
            ),
        )];
    };
    let mut settings = Settings::default();
    let mut files = vec![(file.to_owned(), text)];
    let folder = file.parent().unwrap_or_else(|| Path::new("/"));
    if let Ok(table) = files[0].1.parse::<Table>() {
        files.extend(imports(&table, folder));
    }
    for (path, text) in &files {
        let Ok(table) = text.parse::<Table>() else {
            return vec![Finding::new(
                Verdict::Bad,
                format!(
                    "{}: not valid TOML; containerd does not start with it",
                    path.display()
                ),
            )];
        };
        settings.take(&table);
    }
    settings.judge(hosts_dir, &shown.to_string())
}

/// The files that another one imports, with their texts, in the order in which containerd merges them.
fn imports(table: &Table, folder: &Path) -> Vec<(PathBuf, String)> {
    let listed = table.get("imports").and_then(Value::as_array);
    let patterns = listed.into_iter().flatten().filter_map(Value::as_str);
    let mut files: Vec<PathBuf> = Vec::new();
    for pattern in patterns {
        let pattern = folder.join(pattern);
        let (Some(parent), Some(name)) = (pattern.parent(), pattern.file_name()) else {
            continue;
        };
        let name = name.to_string_lossy();
        let Some((before, after)) = name.split_once('*') else {
            files.push(pattern);
            continue;
        };
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let mut matching: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.len() >= before.len() + after.len()
                    && name.starts_with(before)
                    && name.ends_with(after)
            })
            .collect();
        matching.sort();
        files.extend(matching);
    }
    files.truncate(IMPORTED_FILES_MAX);
    files
        .into_iter()
        .filter_map(|path| fs::read_to_string(&path).ok().map(|text| (path, text)))
        .collect()
}

impl Settings {
    fn take(&mut self, table: &Table) {
        for plugin in PLUGINS {
            let Some(plugin) = table.get("plugins").and_then(|plugins| plugins.get(plugin)) else {
                continue;
            };
            if let Some(local) = plugin.get("use_local_image_pull").and_then(Value::as_bool) {
                self.local_pull = local;
            }
            let Some(registry) = plugin.get("registry") else {
                continue;
            };
            if let Some(path) = registry.get("config_path").and_then(Value::as_str) {
                self.config_path = Some(path.to_owned());
            }
            let mirrors = registry.get("mirrors").and_then(Value::as_table);
            self.old_mirrors |= mirrors.is_some_and(|mirrors| !mirrors.is_empty());
        }
    }

    fn judge(&self, hosts_dir: &Path, shown: &str) -> Vec<Finding> {
        let wanted = hosts_dir.display();
        let mut findings = Vec::new();
        if self.old_mirrors {
            findings.push(Finding::bad(format!(
                "{shown}: registry.mirrors is set, with which containerd takes no config_path (its image plugin does not start with both); move those mirrors into {wanted} and take them out"
            )));
        }
        findings.push(match self.config_path.as_deref() {
            None | Some("") => Finding::bad(format!(
                "{shown}: no config_path, so hosts.toml is not read; set config_path = \"{wanted}\" in the registry table of the CRI plugin and restart containerd once"
            )),
            Some(several) if several.contains(':') => self.judge_list(several, hosts_dir, shown),
            Some(other) if Path::new(other) != hosts_dir => Finding::bad(format!(
                "{shown}: config_path = \"{other}\", not {wanted}; give --hosts-dir {other}"
            )),
            Some(_) => Finding::new(
                Verdict::Good,
                format!("{shown}: config_path = \"{wanted}\""),
            ),
        });
        findings
    }

    /// A list is split by the old way of pulling alone; the transfer service takes it for one folder, which is not there.
    fn judge_list(&self, several: &str, hosts_dir: &Path, shown: &str) -> Finding {
        let wanted = hosts_dir.display();
        let first = several.split(':').next().unwrap_or_default();
        if !self.local_pull {
            return Finding::bad(format!(
                "{shown}: config_path = \"{several}\" names two folders; containerd 2.1 and later read neither when they pull by their transfer service, the default: name one, config_path = \"{wanted}\""
            ));
        }
        if Path::new(first) == hosts_dir {
            return Finding::new(
                Verdict::Odd,
                format!(
                    "{shown}: config_path = \"{several}\" is read as a list only because of use_local_image_pull; name one folder"
                ),
            );
        }
        Finding::bad(format!(
            "{shown}: config_path = \"{several}\" does not begin with {wanted}; give --hosts-dir {first}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = "/etc/containerd/certs.d";
    const LIST: &str = "/etc/containerd/certs.d:/etc/docker/certs.d";

    fn check(text: &str) -> Vec<Verdict> {
        let mut settings = Settings::default();
        settings.take(&text.parse().unwrap());
        let findings = settings.judge(Path::new(DIR), "config.toml");
        findings.iter().map(|finding| finding.verdict).collect()
    }

    fn registry(plugin: &str, rest: &str) -> String {
        format!("version = 2\n[plugins.\"{plugin}\".registry]\n{rest}")
    }

    #[test]
    fn each_trap_of_containerds_configuration_is_seen() {
        use Verdict::{Bad, Good, Odd};
        for plugin in PLUGINS {
            let path = |path: &str| registry(plugin, &format!("config_path = \"{path}\"\n"));
            assert_eq!(check(&path(DIR)), [Good]);
            assert_eq!(check(&path(&format!("{DIR}/"))), [Good]);
            assert_eq!(check(&path("")), [Bad]);
            assert_eq!(check(&path("/etc/other")), [Bad]);
            assert_eq!(check(&path(LIST)), [Bad], "the transfer service");
            let local = format!(
                "{}[plugins.\"{plugin}\"]\nuse_local_image_pull = true\n",
                path(LIST)
            );
            assert_eq!(check(&local), [Odd]);
            let mirrors = format!(
                "{}[plugins.\"{plugin}\".registry.mirrors.\"docker.io\"]\nendpoint = [\"https://m.test\"]\n",
                path(DIR)
            );
            assert_eq!(check(&mirrors), [Bad, Good]);
        }
        assert_eq!(check("version = 2\n"), [Bad]);
    }

    #[test]
    fn imported_files_count_and_a_broken_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("config.toml");
        fs::write(&main, "version = 2\nimports = [\"conf.d/*.toml\"]\n").unwrap();
        fs::create_dir(dir.path().join("conf.d")).unwrap();
        let write = |name: &str, text: &str| {
            fs::write(dir.path().join("conf.d").join(name), text).unwrap();
        };
        let verdicts = || -> Vec<Verdict> {
            let findings = inspect(Path::new(DIR), &main);
            findings.iter().map(|finding| finding.verdict).collect()
        };
        assert_eq!(verdicts(), [Verdict::Bad]);
        write(
            "10.toml",
            &registry(PLUGINS[0], &format!("config_path = \"{LIST}\"\n")),
        );
        write(
            "20.toml",
            &registry(PLUGINS[0], &format!("config_path = \"{DIR}\"\n")),
        );
        write("ignored.txt", "= =");
        assert_eq!(verdicts(), [Verdict::Good], "the last one counts");
        write("30.toml", "= =");
        let findings = inspect(Path::new(DIR), &main);
        assert!(findings[0].text.contains("30.toml"), "{findings:?}");
        assert_eq!(
            inspect(Path::new(DIR), Path::new("/none"))[0].verdict,
            Verdict::Odd
        );
    }
}
