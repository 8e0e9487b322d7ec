//! The demonstration's image: Debian's static busybox, and layers of noise whose sums the container checks itself.
//!
//! What for: a real image that runs, large enough to watch, made without a network. Invariant: a container prints its
//! node's name and one `OK` for each file of noise, and nothing else counts as having run.

use std::path::Path;

use anyhow::{Result, ensure};
use bytes::Bytes;

use crate::tarball::{Entry, archive};
use crate::workload::{Image, Layer, Part, sha256_hex};

/// Sizes of the layers of noise, in MiB: different ones, a few hundred together.
const NOISE_MIB: [u64; 4] = [8, 32, 96, 160];
const SEED: u64 = 0x5110a1;

/// What the container runs: says where it is, then reads every file of the image.
const SCRIPT: &str =
    "/bin/busybox echo \"hello from $NODE\"; cd /data && /bin/busybox sha256sum -c SHA256SUMS";

/// Makes the image around this busybox; `scale` divides the sizes of the noise, for tests.
pub fn make(busybox: &Path, scale: u64) -> Result<Image> {
    let folder = |path: &str| Entry::Folder { path: path.into() };
    let program = Entry::File {
        path: "bin/busybox".into(),
        mode: 0o755,
        body: Part::file(busybox.to_owned())?,
    };
    let shell = Entry::Link {
        path: "bin/sh".into(),
        to: "busybox".into(),
    };
    let mut layers = vec![Layer::new(archive(vec![
        folder("bin/"),
        program,
        shell,
        folder("data/"),
    ]))];
    let mut sums = String::new();
    for (seed, mib) in (SEED..).zip(NOISE_MIB) {
        let name = format!("noise-{mib}");
        let body = Part::Noise {
            seed,
            bytes: (mib << 20) / scale,
        };
        sums.push_str(&format!("{}  {name}\n", sha256_hex(&body)));
        layers.push(Layer::new(archive(vec![Entry::File {
            path: format!("data/{name}"),
            mode: 0o644,
            body,
        }])));
    }
    let sums = Part::Bytes(Bytes::from(sums));
    layers.push(Layer::new(archive(vec![Entry::File {
        path: "data/SHA256SUMS".into(),
        mode: 0o644,
        body: sums,
    }])));
    Ok(Image::new(layers, &["/bin/busybox", "sh", "-c", SCRIPT]))
}

/// Whether a container of this image ran to its end, and found every byte right.
pub fn check(printed: &str, node: &str) -> Result<()> {
    ensure!(
        printed.contains(&format!("hello from {node}")),
        "the container on {node} did not say hello: {printed:?}"
    );
    for mib in NOISE_MIB {
        ensure!(
            printed.contains(&format!("noise-{mib}: OK")),
            "{node}: noise-{mib} was not found right: {printed:?}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_found_a_file_wrong_did_not_pass() {
        let good = "hello from node-1\nnoise-8: OK\nnoise-32: OK\nnoise-96: OK\nnoise-160: OK\n";
        check(good, "node-1").expect("passes");
        assert!(check(good, "node-2").is_err());
        assert!(check(&good.replace("noise-96: OK", "noise-96: FAILED"), "node-1").is_err());
        assert!(check("", "node-1").is_err());
    }

    #[test]
    fn the_image_has_layers_of_different_sizes() {
        let image = make(&std::env::current_exe().expect("this test"), 1024).expect("made");
        let mut sizes: Vec<u64> = image.layers().iter().map(Layer::len).collect();
        assert_eq!(sizes.len(), 6);
        sizes.sort_unstable();
        sizes.dedup();
        assert!(sizes.len() >= 5, "{sizes:?}");
    }
}
