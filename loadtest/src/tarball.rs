//! Tar archives (POSIX ustar) made of parts, so that a layer of 2 GiB is described in a few hundred bytes of memory.
//!
//! What for: layers that a real containerd unpacks and runs. What not for: reading archives, long names, owners other
//! than root. Invariant: the same entries make the same bytes, so that an image's digests depend on its seed alone.

use bytes::Bytes;

use crate::workload::Part;

const BLOCK: usize = 512;
/// A ustar name field holds 100 bytes; nothing here needs the prefix field.
const NAME_BYTES_MAX: usize = 100;

/// One member of an archive.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A folder, mode 0755.
    Folder { path: String },
    /// A regular file.
    File { path: String, mode: u32, body: Part },
    /// A symbolic link.
    Link { path: String, to: String },
}

/// The archive's bytes as parts, in order, with the end mark.
#[must_use]
pub fn archive(entries: Vec<Entry>) -> Vec<Part> {
    let mut parts = Vec::new();
    for entry in entries {
        match entry {
            Entry::Folder { path } => parts.push(header(&path, 0o755, 0, b'5', "")),
            Entry::Link { path, to } => parts.push(header(&path, 0o777, 0, b'2', &to)),
            Entry::File { path, mode, body } => {
                let len = body.len();
                parts.push(header(&path, mode, len, b'0', ""));
                parts.push(body);
                let over = usize::try_from(len % BLOCK as u64).expect("less than 512");
                if over > 0 {
                    parts.push(zeros(BLOCK - over));
                }
            }
        }
    }
    parts.push(zeros(2 * BLOCK));
    parts
}

/// How many bytes an archive of one file has beside that file's own (when those fill whole blocks).
#[must_use]
pub fn overhead_of_one_file() -> u64 {
    3 * BLOCK as u64
}

fn zeros(len: usize) -> Part {
    Part::Bytes(Bytes::from(vec![0; len]))
}

fn header(path: &str, mode: u32, len: u64, kind: u8, link: &str) -> Part {
    assert!(
        path.len() < NAME_BYTES_MAX && link.len() < NAME_BYTES_MAX,
        "a name too long for ustar: {path}"
    );
    let mut block = [0u8; BLOCK];
    let mut put =
        |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, path);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000"); // uid
    put(116, "0000000"); // gid
    put(124, &format!("{len:011o}"));
    put(136, "00000000000"); // modified at the epoch: the same bytes on every day
    put(148, "        "); // the checksum counts its own field as spaces
    put(157, link);
    put(257, "ustar");
    put(263, "00");
    put(265, "root");
    put(297, "root");
    block[156] = kind;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    Part::Bytes(Bytes::copy_from_slice(&block))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::workload::Layer;

    #[test]
    fn debian_tar_reads_what_is_written_here() {
        let entries = vec![
            Entry::Folder {
                path: "data/".into(),
            },
            Entry::File {
                path: "data/noise".into(),
                mode: 0o644,
                body: Part::Noise {
                    seed: 7,
                    bytes: 100_001,
                },
            },
            Entry::File {
                path: "run".into(),
                mode: 0o755,
                body: Part::Bytes(Bytes::from_static(b"#!/bin/sh\n")),
            },
            Entry::Link {
                path: "sh".into(),
                to: "run".into(),
            },
        ];
        let layer = Layer::new(archive(entries));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("layer.tar");
        std::fs::write(&file, layer.read_at(0, layer.len())).expect("write the archive");

        let run = |args: &[&str]| {
            let output = Command::new("tar")
                .args(args)
                .arg(&file)
                .output()
                .expect("tar is on every Debian");
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let listing = run(&["-tvf"]);
        for expected in ["drwxr-xr-x root/root", "100001", "-rwxr-xr-x", "sh -> run"] {
            assert!(listing.contains(expected), "no {expected:?} in {listing}");
        }
        let folder_arg = folder.path().to_str().expect("utf-8");
        run(&["-C", folder_arg, "-xf"]);
        let noise = std::fs::read(folder.path().join("data/noise")).expect("unpacked");
        assert_eq!(
            noise,
            Part::Noise {
                seed: 7,
                bytes: 100_001
            }
            .read_at(0, 100_001)
        );
    }
}
