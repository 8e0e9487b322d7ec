#!/usr/bin/env bash
# Lays out the whole file system of an image around one binary: `deploy/rootfs.sh BINARY FOLDER`.
#
# The binary, the shared libraries it asks for, their loader, the authorities of public registries, a user and a
# home for its data: nothing else, no shell. The Dockerfile calls it in the builder; deploy/check.sh calls it on the
# development machine and runs the result in a chroot, so that the images' contents are tested without a base image.
set -euo pipefail

binary=$1
root=$2
name=$(basename "$binary")
id=65532

[ -x "$binary" ] || { echo "no binary at $binary; build it first" >&2; exit 1; }
[ ! -e "$root" ] || { echo "$root exists; give a folder that does not" >&2; exit 1; }

install -D -m 0755 "$binary" "$root/usr/bin/$name"
strip --strip-debug "$root/usr/bin/$name"
# Lines of ldd: `libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)`, and the loader by its path alone.
ldd "$binary" | grep -o '/[^ ]*' | while read -r library; do
    install -D -m 0755 "$(readlink -f "$library")" "$root$library"
done
install -D -m 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
printf 'root:x:0:0::/:/none\nshoal:x:%s:%s::/var/lib/shoal:/none\n' $id $id >"$root/etc/passwd"
printf 'root:x:0:\nshoal:x:%s:\n' $id >"$root/etc/group"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
install -d -m 0755 -o $id -g $id "$root/var/lib/shoal"
install -d -m 1777 "$root/tmp"
