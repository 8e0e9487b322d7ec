#!/usr/bin/env bash
# Checks this folder offline: `deploy/check.sh [chart|configs|units|images|monitoring]...`, by default all of it, after the
# release binaries are built.
#
# Chart: lint, render with several sets of values, validate against Kubernetes' own schemas, and check what is
# wanted beyond them. Units: verified and rated. Dockerfile: linted, its last stages built, what they hold run in a
# chroot.
# Alerts and dashboard: parsed by promtool. Every configuration, shipped or rendered: read by the real binary.
# The tools come from .ci/install. A check that this machine cannot run is named at the end, and fails in CI.
set -euo pipefail
cd "$(dirname "$0")"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/shoal
tools=${SHOAL_TOOLS:-$cache/tools}
binaries=${CARGO_TARGET_DIR:-$cache/target}/release
PATH=$tools/bin:$tools/venv/bin:$PATH
# The oldest and the newest Kubernetes that the chart says it works with.
kubernetes_versions=(1.27 1.35)

box=$(mktemp -d)
trap 'rm -rf "$box"' EXIT
skipped=()
shopt -s nullglob

say() { printf '  %s\n' "$*"; }
quietly() { "$@" >"$box/output" 2>&1 || { cat "$box/output"; return 1; }; }
skip() { skipped+=("$1"); say "skipped: $1"; }

check_chart() {
    export HELM_CACHE_HOME=$box/helm HELM_CONFIG_HOME=$box/helm HELM_DATA_HOME=$box/helm
    local values name version renderings=()
    quietly helm lint --strict helm/shoal
    for values in helm/shoal/values.yaml helm/shoal/ci/*.yaml; do
        name=$(basename "$values" .yaml)
        quietly helm lint --strict helm/shoal --values "$values"
        helm template shoal helm/shoal --namespace shoal --values "$values" >"$box/$name.yaml"
        for version in "${kubernetes_versions[@]}"; do
            quietly kubernetes-validate --strict -k "$version" "$box/$name.yaml"
        done
        renderings+=("$box/$name.yaml")
    done
    quietly yamllint -d '{extends: relaxed, rules: {line-length: disable}}' helm/shoal/values.yaml helm/shoal/ci helm/shoal/files/alerts.yaml
    mkdir "$box/configs"
    say "$(CONFIG_FOLDER=$box/configs "$tools/venv/bin/python" helm/asserts.py "${renderings[@]}")"
    refused 'a value that does not exist' --set agnet.store.quota=1GiB
    refused 'a size without its unit' --set agent.store.quota=1
    refused 'origins that do not know each other' --set origin.replicas=2
    refused 'half of the Secrets' --set cluster.existingKeySecret=x
    quietly helm package helm/shoal --destination "$box"
}

# Rendering must fail on a mistake, not in the cluster.
refused() {
    if helm template shoal helm/shoal "${@:2}" >/dev/null 2>&1; then
        say "the chart accepts $1"
        return 1
    fi
}

check_configs() {
    local file role count=0
    for file in config/*.toml "$box"/configs/*.toml; do
        role=$(basename "$file" .toml)
        role=${role##*-}
        quietly env -i "$binaries/shoal-$role" --config "$(realpath "$file")" --check-config
        count=$((count + 1))
    done
    say "$count configurations are read by the binaries they are for"
}

check_units() {
    local unit
    mkdir "$box/units"
    for unit in systemd/*.service; do
        # Verified as it stands, but for the folder of the binary.
        sed "s#/usr/bin/shoal#$binaries/shoal#" "$unit" >"$box/units/$(basename "$unit")"
    done
    quietly systemd-analyze verify --man=no "$box"/units/*.service
    for unit in systemd/*.service; do
        quietly systemd-analyze security --offline=true --no-pager --threshold=30 "$unit"
    done
    say "$(find systemd -name '*.service' | wc -l) units verify, each with an exposure of 3.0 or less"
}

check_images() {
    quietly hadolint --failure-threshold warning Dockerfile
    if [ "$(id -u)" -ne 0 ]; then
        skip 'the contents of the images in a chroot (needs root)'
        return
    fi
    local role size
    for role in agent origin tracker; do
        ./rootfs.sh "$binaries/shoal-$role" "$box/build/rootfs/$role"
        quietly chroot --userspec=65532:65532 "$box/build/rootfs/$role" "/usr/bin/shoal-$role" --help
        quietly chroot --userspec=65532:65532 "$box/build/rootfs/$role" "/usr/bin/shoal-$role" --print-config
        size=$(du -sm "$box/build/rootfs/$role" | cut -f1)
        say "image of shoal-$role: $size MiB, runs as 65532 with nothing else in its file system"
    done
    if ! command -v buildah >/dev/null; then
        skip 'the last stages of the Dockerfile (needs buildah: apt-get install buildah)'
        return
    fi
    local store=(--root "$box/store" --runroot "$box/run" --storage-driver vfs)
    for role in agent origin tracker; do
        # The builder's stage is replaced by the folder it would have filled.
        quietly buildah "${store[@]}" bud --isolation chroot --build-context "build=$box/build" \
            --target "$role" --tag "shoal-$role" --file Dockerfile "$box/build"
        [ "$(buildah "${store[@]}" inspect --type image --format '{{.OCIv1.Config.User}}' "shoal-$role")" = 65532:65532 ]
    done
    say 'the last stages of the Dockerfile build, for a user without rights'
}

check_monitoring() {
    if ! command -v promtool >/dev/null; then
        skip 'alerts and dashboard (needs promtool: apt-get install prometheus)'
        return
    fi
    quietly promtool check rules alerts/shoal.yaml
    quietly promtool test rules alerts/tests.yaml
    "$tools/venv/bin/python" - dashboards/shoal.json >"$box/expressions.yaml" <<'PYTHON'
"""Each expression of a dashboard as a recording rule, so that promtool parses it."""
import json, sys, yaml

rules = []
for panel in json.load(open(sys.argv[1]))["panels"]:
    for target in panel.get("targets", []):
        expression = target["expr"].replace("$__rate_interval", "5m").replace("$__range", "1h").replace("$instance", ".*")
        rules.append({"record": f"dashboard:panel{panel['id']}:{target['refId'].lower()}", "expr": expression})
assert rules, "no panel asks for anything"
print(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
PYTHON
    quietly promtool check rules "$box/expressions.yaml"
    say "alerts hold what they promise; every expression of the dashboard parses"
}

[ $# -gt 0 ] || set -- chart configs units images monitoring
echo "checking deploy: $*"
for check in "$@"; do
    "check_$check"
done
if [ ${#skipped[@]} -gt 0 ] && [ -n "${CI:-}" ]; then
    echo 'in CI nothing may be skipped'
    exit 1
fi
echo 'deploy is sound'
