"""The control plane: etcd, the API server, its two controllers, DNS, a proxy and the provisioner.

All of it runs on a machine of its own, so that "the API server is gone" and "a node is gone" are
two faults. Every program binds to this machine's address or to its loopback.

What concerns failures keeps Kubernetes' defaults (how long a node may be silent, how long pods
tolerate it): tests of failover are worth something only against those.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from .api import Api, ApiError, JsonObject
from .errors import RigError
from .layout import (
    ADDRESSES,
    API_PORT,
    API_SERVICE_ADDRESS,
    CLUSTER_DOMAIN,
    CONTROL,
    POD_NETWORK,
    SERVICE_NETWORK,
    Layout,
)
from .machine import Machine, log_of, log_tail
from .pki import Authority, Identity, token_keys
from .provisioner import PROVISIONER, STORAGE_CLASS
from .records import wait_until

FILES = "/var/lib/kubernetes"  # certificates and configurations, on every machine
API_TIMEOUT_S = 90.0  # 4 s on an idle machine
START_TIMEOUT_S = 60.0
API_SERVER = "kube-apiserver"
ADMINISTRATORS = "system:masters"
SERVER = f"https://{ADDRESSES[CONTROL]}:{API_PORT}"

# Names end after a second, so that a client that asks again sees the pod's new address. Whatever is
# outside of the cluster does not exist: there is no way to it.
COREFILE = f"""{CLUSTER_DOMAIN}:53 in-addr.arpa:53 {{
    bind {ADDRESSES[CONTROL]}
    errors
    ready 127.0.0.1:8181
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {FILES}/dns.kubeconfig
        ttl 1
        pods insecure
    }}
}}
.:53 {{
    bind {ADDRESSES[CONTROL]}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


class ControlPlane:
    """The programs of the control machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @property
    def _layout(self) -> Layout:
        return self.machine.layout

    def write_files(self, authority: Authority) -> None:
        """Write certificates, kubeconfigs and configurations."""
        sign = authority.sign
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        names += [f"kubernetes.default.svc.{CLUSTER_DOMAIN}", "127.0.0.1"]
        names += [API_SERVICE_ADDRESS, ADDRESSES[CONTROL]]
        self._write_identity("authority", authority.identity)
        self._write_identity("api", sign("kube-apiserver", names=names))
        self._write_identity("kubelet-client", sign("kube-apiserver", groups=[ADMINISTRATORS]))
        self._write_identity("tokens", token_keys())
        for name, user, groups in (
            ("controllers", "system:kube-controller-manager", []),
            ("scheduler", "system:kube-scheduler", []),
            ("proxy", "system:kube-proxy", []),
            ("dns", "system:dns", [ADMINISTRATORS]),  # Kubernetes has no role for it
            ("provisioner", "system:provisioner", [ADMINISTRATORS]),
        ):
            content = authority.kubeconfig(SERVER, user, groups=groups)
            self.machine.write(f"{FILES}/{name}.kubeconfig", content, mode=0o600)
        self.machine.write(f"{FILES}/Corefile", COREFILE)
        self.machine.write(f"{FILES}/proxy.json", json.dumps(proxy_configuration(CONTROL)))
        content = authority.kubeconfig(SERVER, "administrator", groups=[ADMINISTRATORS])
        self._layout.kubeconfig.touch(mode=0o600)
        self._layout.kubeconfig.write_text(content)

    def start(self) -> None:
        """Start the API server and its memory."""
        self.machine.start("etcd", _etcd())
        self.machine.start(API_SERVER, _api_server())

    def start_services(self) -> None:
        """Start what needs the API server: controllers, names, the way to services, storage.

        The controller manager waits for ten seconds and then gives up: it must not be earlier.
        """
        api = Api(self._layout.kubeconfig)
        self.machine.start("kube-controller-manager", _controller_manager())
        self.machine.start("kube-scheduler", _scheduler())
        self.machine.start("coredns", ["/run/bin/coredns", "-conf", f"{FILES}/Corefile"])
        # The program runs in the host's files, where our Python is.
        tests = Path(__file__).resolve().parents[2]
        runner = f"import sys; sys.path.insert(0, {str(tests)!r}); "
        runner += "from e2e.rig.provisioner import main; main()"
        kubeconfig = self.machine.file(f"{FILES}/provisioner.kubeconfig")
        command = [sys.executable, "-P", "-c", runner]
        command += [str(kubeconfig), str(self._layout.machine(CONTROL).parent)]
        self.machine.start("provisioner", command, host_files=True)
        api.request("POST", "/apis/storage.k8s.io/v1/storageclasses", _storage_class())
        self._start_proxy(api)

    def wait_for_api(self) -> None:
        """Wait until the API server serves; say which program died if one did."""
        api = Api(self._layout.kubeconfig)
        self.wait("the API server is not ready", api.ready, API_TIMEOUT_S)

    def wait_for_services(self) -> None:
        """Wait until every pod can live: accounts are made, names resolve."""
        api = Api(self._layout.kubeconfig)
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self.wait("no service account was made", lambda: _exists(api, account), START_TIMEOUT_S)
        dns_port = f":{53:04X} "
        udp = self.machine.process("coredns")
        sockets = Path(f"/proc/{udp.pid}/net/udp")
        self.wait("DNS does not listen", lambda: dns_port in sockets.read_text(), START_TIMEOUT_S)

    def wait(self, complaint: str, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait for a condition; fail at once, with its log, when a program has died meanwhile."""

        def settled() -> bool:
            return bool(self.machine.records.dead()) or condition()

        in_time = wait_until(settled, timeout_s)
        for name in self.machine.records.dead():
            machine, _, program = name.partition("/")
            log = log_of(self._layout, machine, program)
            raise RigError(f"{program} of {machine} died: {log_tail(log)}")
        if not in_time:
            raise RigError(
                f"{complaint} after {timeout_s:g} s: {self.machine.log_tail(API_SERVER)}"
            )

    def stop_api(self) -> None:
        """Kill the API server, as if its machine had run out of memory."""
        self.machine.process(API_SERVER).kill()
        self.machine.records.remove(f"{CONTROL}/{API_SERVER}")

    def start_api(self) -> None:
        """Start the API server again, and wait until it serves."""
        self.machine.start(API_SERVER, _api_server())
        self.wait_for_api()

    def _start_proxy(self, api: Api) -> None:
        """Start the proxy of a machine that is no node.

        A proxy looks for its node and waits 30 s for it. A node that exists just as long as
        the proxy needs to see it saves the time, and the proxy goes on without it.
        """
        node: JsonObject = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": CONTROL},
            "spec": {"unschedulable": True},
            "status": {"addresses": [{"type": "InternalIP", "address": ADDRESSES[CONTROL]}]},
        }
        api.request("POST", "/api/v1/nodes", node)
        start_proxy(self.machine)
        log = self.machine.log("kube-proxy")
        self.wait(
            "the proxy saw no node",
            lambda: "Successfully retrieved NodeIPs" in log.read_text(),
            START_TIMEOUT_S,
        )
        api.request("DELETE", f"/api/v1/nodes/{CONTROL}")

    def _write_identity(self, name: str, identity: Identity) -> None:
        self.machine.write(f"{FILES}/{name}.crt", identity.certificate)
        self.machine.write(f"{FILES}/{name}.key", identity.key, mode=0o600)


def proxy_configuration(machine: str) -> JsonObject:
    """A kube-proxy that leaves alone what is not of its network namespace."""
    unlimited = {"maxPerCore": 0, "min": 0}  # the table of connections is the host's
    timeouts = {"tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "bindAddress": ADDRESSES[machine],
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "hostnameOverride": machine,
        "clusterCIDR": POD_NETWORK,  # everybody else's way to a service is masqueraded
        "detectLocalMode": "ClusterCIDR",
        "clientConnection": {"kubeconfig": f"{FILES}/proxy.kubeconfig"},
        "conntrack": {**unlimited, **timeouts},
        # Rules follow a change at once; the default gathers changes for a second.
        "iptables": {"minSyncPeriod": "100ms"},
    }


def start_proxy(machine: Machine) -> None:
    """Start the proxy that makes services reachable from a machine and its pods."""
    command = ["/run/bin/kube-proxy", f"--config={FILES}/proxy.json"]
    machine.start("kube-proxy", command)


def _etcd() -> list[str]:
    return [
        "/run/bin/etcd",
        "--name=control",
        "--data-dir=/var/lib/etcd",
        "--unsafe-no-fsync",  # a rig that loses power is made anew
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=control=http://127.0.0.1:2380",
        "--log-level=warn",
    ]


def _api_server() -> list[str]:
    return [
        f"/run/bin/{API_SERVER}",
        f"--bind-address={ADDRESSES[CONTROL]}",
        f"--advertise-address={ADDRESSES[CONTROL]}",
        f"--secure-port={API_PORT}",
        "--etcd-servers=http://127.0.0.1:2379",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",  # Pod Security is on by default
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
        f"--client-ca-file={FILES}/authority.crt",
        f"--tls-cert-file={FILES}/api.crt",
        f"--tls-private-key-file={FILES}/api.key",
        f"--kubelet-certificate-authority={FILES}/authority.crt",
        f"--kubelet-client-certificate={FILES}/kubelet-client.crt",
        f"--kubelet-client-key={FILES}/kubelet-client.key",
        f"--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
        f"--service-account-key-file={FILES}/tokens.crt",
        f"--service-account-signing-key-file={FILES}/tokens.key",
        "--profiling=false",
    ]


def _controller_manager() -> list[str]:
    return [
        "/run/bin/kube-controller-manager",
        f"--kubeconfig={FILES}/controllers.kubeconfig",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",  # there is no other
        "--use-service-account-credentials",
        f"--root-ca-file={FILES}/authority.crt",
        f"--service-account-private-key-file={FILES}/tokens.key",
        f"--cluster-signing-cert-file={FILES}/authority.crt",
        f"--cluster-signing-key-file={FILES}/authority.key",
        # The default is a directory of the host, and it would be made.
        "--flex-volume-plugin-dir=/var/lib/volume-plugins",
        "--profiling=false",
    ]


def _scheduler() -> list[str]:
    return [
        "/run/bin/kube-scheduler",
        f"--kubeconfig={FILES}/scheduler.kubeconfig",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    ]


def _storage_class() -> JsonObject:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def _exists(api: Api, path: str) -> bool:
    try:
        api.request("GET", path)
    except ApiError:
        return False
    return True
