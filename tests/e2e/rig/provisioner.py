"""The storage of a rig: a claim becomes a directory on the node that its pod was scheduled to.

The smallest provisioner that keeps the contract of WaitForFirstConsumer: the scheduler writes the
node it chose into the claim's `volume.kubernetes.io/selected-node`, we make a directory there and a
`local` PersistentVolume that is bound to the node, and the controller manager binds the two. When
the claim is deleted its volume is Released, and we remove the directory and the volume.

`local` and not `hostPath`: kubelet applies fsGroup to the one and not to the other, as it does with
the disks of a cloud. The directory is open to everybody, for pods that set no fsGroup.

Runs as a program of its own: `python -m e2e.rig.provisioner KUBECONFIG MACHINES`.
"""

import http.client
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from .api import CONFLICT, NOT_FOUND, Api, ApiError, JsonObject

STORAGE_CLASS = "directories"
PROVISIONER = "seawall.dev/e2e-directories"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
VOLUMES = "/var/lib/volumes"  # as a node sees it

CLAIMS = "/api/v1/persistentvolumeclaims"
PERSISTENT_VOLUMES = "/api/v1/persistentvolumes"
IDLE_TIMEOUT_S = 300.0  # a watch that tells nothing for so long is made anew
RETRY_S = 0.5

Act = Callable[[Api, Path, JsonObject], None]


def main() -> None:
    """Provision until killed."""
    kubeconfig, machines = (Path(argument) for argument in sys.argv[1:3])
    api = Api(kubeconfig)
    threading.Thread(
        target=follow, args=(api, machines, PERSISTENT_VOLUMES, remove_released), daemon=True
    ).start()
    follow(api, machines, CLAIMS, provision_wanted)


def follow(api: Api, machines: Path, path: str, act: Act) -> None:
    """Act on every object, first on those that exist and then on whatever changes.

    A watch without a version begins with everything that exists, so a watch that was lost needs
    nothing but another one. Acting twice on an object does no harm.
    """
    while True:
        try:
            for event in api.watch(f"{path}?watch=true", idle_timeout_s=IDLE_TIMEOUT_S):
                if event["type"] in ("ADDED", "MODIFIED"):
                    act(api, machines, event["object"])
        except (ApiError, OSError, http.client.HTTPException, ValueError) as error:
            print(f"provisioner: {path}: {error}", flush=True)  # noqa: T201  # this is its log
        time.sleep(RETRY_S)  # the API server may be down on purpose


def provision_wanted(api: Api, machines: Path, claim: JsonObject) -> None:
    """Fulfil a claim that is ready for it."""
    if wanted(claim):
        provision(api, machines, claim)


def remove_released(api: Api, machines: Path, volume: JsonObject) -> None:
    """Remove a volume that nobody claims any more."""
    if released(volume):
        remove(api, machines, volume)


def wanted(claim: JsonObject) -> bool:
    """Whether a claim is ours to fulfil, and its node is chosen."""
    return bool(
        claim["spec"].get("storageClassName") == STORAGE_CLASS
        and not claim["spec"].get("volumeName")
        and SELECTED_NODE in claim["metadata"].get("annotations", {})
        and "deletionTimestamp" not in claim["metadata"]
    )


def released(volume: JsonObject) -> bool:
    """Whether a volume of ours has lost its claim."""
    return bool(
        volume["metadata"].get("annotations", {}).get(PROVISIONED_BY) == PROVISIONER
        and volume["status"].get("phase") == "Released"
        and volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    )


def volume_name(claim: JsonObject) -> str:
    """The volume of a claim: a claim that is made anew gets another."""
    return f"pvc-{claim['metadata']['uid']}"


def provision(api: Api, machines: Path, claim: JsonObject) -> None:
    """Make a claim's directory, then its volume."""
    name, node = volume_name(claim), claim["metadata"]["annotations"][SELECTED_NODE]
    directory = host_directory(machines, node, name)
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o777)
    try:
        api.request("POST", PERSISTENT_VOLUMES, persistent_volume(claim, name, node))
    except ApiError as error:
        if error.status != CONFLICT:  # made already, and the claim is not bound yet
            raise


def persistent_volume(claim: JsonObject, name: str, node: str) -> JsonObject:
    """The volume as Kubernetes knows it."""
    on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": STORAGE_CLASS,
            "local": {"path": f"{VOLUMES}/{name}"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim["metadata"]["namespace"],
                "name": claim["metadata"]["name"],
                "uid": claim["metadata"]["uid"],
            },
        },
    }


def remove(api: Api, machines: Path, volume: JsonObject) -> None:
    """Remove a released volume's directory, then the volume."""
    name = volume["metadata"]["name"]
    for node in machines.iterdir():
        shutil.rmtree(host_directory(machines, node.name, name), ignore_errors=True)
    try:
        api.request("DELETE", f"{PERSISTENT_VOLUMES}/{name}")
    except ApiError as error:
        if error.status != NOT_FOUND:
            raise


def host_directory(machines: Path, node: str, volume: str) -> Path:
    """A volume's directory as the host sees it; the node sees it below VOLUMES."""
    return machines / node / VOLUMES.replace("/var/lib/", "lib/") / volume


if __name__ == "__main__":
    main()
