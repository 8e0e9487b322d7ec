"""What every rendering of the chart must keep to: `asserts.py RENDERED.yaml...`, and the configurations it takes out.

Run by deploy/check.sh. The schemas of Kubernetes say what is allowed; this says what is wanted: hardened containers,
limits, probes, stable selectors, no token of an account. Each configuration file in a rendering is written to the
folder in CONFIG_FOLDER, so that the real binaries can check it.
"""

import base64
import os
import pathlib
import re
import sys

import yaml

WORKLOADS = {"DaemonSet", "Deployment", "StatefulSet"}
SELECTOR = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"}
complaints = []


def want(true, where, what):
    if not true:
        complaints.append(f"{where}: {what}")


def check_container(where, pod, container, is_init):
    security = container.get("securityContext", {})
    added = set(security.get("capabilities", {}).get("add", []))
    want(security.get("allowPrivilegeEscalation") is False, where, "may escalate privileges")
    want(security.get("capabilities", {}).get("drop") == ["ALL"], where, "keeps capabilities")
    want(security.get("readOnlyRootFilesystem") is True, where, "may write its root file system")
    want(not security.get("privileged"), where, "is privileged")
    want("memory" in container["resources"].get("limits", {}), where, "has no memory limit")
    want("cpu" not in container["resources"].get("limits", {}), where, "has a CPU limit: it would be throttled")
    want({"cpu", "memory"} <= set(container["resources"].get("requests", {})), where, "requests too little")
    mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
    if container["name"] in ("agent", "origin", "tracker"):
        want(pod["securityContext"]["runAsNonRoot"] and "runAsUser" not in security, where, "runs as root")
        want(not added, where, f"adds capabilities: {added}")
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            want(probe in container, where, f"has no {probe}")
    elif is_init:
        want(added <= {"CHOWN"}, where, f"adds capabilities: {added}")
        want(mounts <= {"config", "data"}, where, f"mounts too much: {mounts}")
    else:
        want(not added, where, f"adds capabilities: {added}")
        want(mounts <= {"config", "certs-d", "journal"}, where, f"mounts too much: {mounts}")
    if container["name"] == "agent":
        want(not mounts & {"cluster-key", "certs-d"}, where, "sees the cluster's key or containerd's folder")
    return container["name"]


def check_workload(document):
    where = f"{document['kind']}/{document['metadata']['name']}"
    spec = document["spec"]
    pod = spec["template"]["spec"]
    want(set(spec["selector"]["matchLabels"]) == SELECTOR, where, "its selector would change")
    labels = spec["template"]["metadata"]["labels"]
    want(spec["selector"]["matchLabels"].items() <= labels.items(), where, "does not select its own pods")
    want(pod.get("automountServiceAccountToken") is False, where, "mounts the account's token")
    want(pod.get("enableServiceLinks") is False, where, "is shown the variables of Services")
    want(not pod.get("hostPID") and not pod.get("hostIPC"), where, "shares processes with its host")
    want(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", where, "has no seccomp profile")
    want(pod["securityContext"]["runAsUser"] == 65532, where, "runs as another user than the image's")
    want("checksum/config" in spec["template"]["metadata"]["annotations"], where, "ignores a new configuration")
    want(document["kind"] == "DaemonSet" or not pod.get("hostNetwork"), where, "is on the host's network")
    for kind in ("initContainers", "containers"):
        for container in pod.get(kind, []):
            check_container(f"{where}/{container['name']}", pod, container, kind == "initContainers")
            image = container["image"]
            want(not image.endswith(":latest") and (":" in image.rsplit("/", 1)[1] or "@" in image), where, f"floats: {image}")
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    volumes |= {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
    for container in pod.get("initContainers", []) + pod["containers"]:
        for mount in container.get("volumeMounts", []):
            want(mount["name"] in volumes, where, f"mounts {mount['name']}, which is no volume")


def check_secret(document):
    where = f"Secret/{document['metadata']['name']}"
    forms = {
        "cluster.key": r"shoal-cluster-key1\.[0-9a-f]{64}\n",
        "join-token": r"shoal1\.[0-9a-f]{64}\.[1-9A-HJ-NP-Za-km-z]{44}\n",
    }
    for key, value in document["data"].items():
        text = base64.b64decode(value).decode()
        want(re.fullmatch(forms[key], text), where, f"{key} has an unknown form")
    want(document["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep", where, "goes with the release")


def write_configs(rendering, document):
    folder = pathlib.Path(os.environ["CONFIG_FOLDER"])
    for key, value in document["data"].items():
        if key.endswith(".toml"):
            (folder / f"{rendering.stem}-{key}").write_text(value)


for rendering in map(pathlib.Path, sys.argv[1:]):
    documents = [document for document in yaml.safe_load_all(rendering.read_text()) if document]
    kinds = [document["kind"] for document in documents]
    want(kinds.count("DaemonSet") == 1 and kinds.count("StatefulSet") == 1, rendering, f"holds {kinds}")
    names = [(document["kind"], document["metadata"]["name"]) for document in documents]
    want(len(names) == len(set(names)), rendering, f"names something twice: {names}")
    for document in documents:
        if document["kind"] in WORKLOADS:
            check_workload(document)
        elif document["kind"] == "Secret":
            check_secret(document)
        elif document["kind"] == "ConfigMap":
            write_configs(rendering, document)

print("\n".join(complaints) or f"{len(sys.argv) - 1} renderings are as wanted")
sys.exit(bool(complaints))
