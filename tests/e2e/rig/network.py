"""The network of a rig: a namespace for each machine, joined by a switch.

                   host 198.18.0.1
                     | veth
      +--------------+-------------- switch (a bridge) -----------+
      | veth                         | veth                       | veth
    control 198.18.0.10            node-1 198.18.0.11           node-2 198.18.0.12
      API server, DNS                pods 198.18.129.0/24         pods 198.18.130.0/24

The switch is a namespace of its own, so that the host has one link more, its end of a veth, and
routes over it. Pods are routed to their node; services to the control machine, which has a
kube-proxy as the nodes have: it goes on while a node is lost. No machine has a route to anywhere
else. When the namespaces go, links, routes, rules of iptables and sysctls go with them.
"""

from pathlib import Path

from .commands import run, text
from .layout import (
    ADDRESSES,
    CONTROL,
    HOST_ADDRESS,
    HOST_LINK,
    NODES,
    POD_NETWORKS,
    PREFIX_LENGTH,
    SERVICE_NETWORK,
    SWITCH,
    namespace,
    namespaces,
)

BRIDGE = "bridge"
UPLINK = "eth0"  # what a machine calls its link to the switch


def create() -> None:
    """Make the switch, the host's link to it and the control machine's; nodes plug in later."""
    run(["ip", "netns", "add", namespace(SWITCH)])
    _in(SWITCH, "link", "add", BRIDGE, "type", "bridge")
    _in(SWITCH, "link", "set", BRIDGE, "up")
    _plug_host()
    plug(CONTROL)
    for node, pods in POD_NETWORKS.items():
        run(["ip", "route", "add", pods, "via", ADDRESSES[node], "dev", HOST_LINK])
        _in(CONTROL, "route", "add", pods, "via", ADDRESSES[node])
    run(["ip", "route", "add", SERVICE_NETWORK, "via", ADDRESSES[CONTROL], "dev", HOST_LINK])


def plug(machine: str) -> None:
    """Give a machine a namespace, and a link to the switch."""
    name = namespace(machine)
    run(["ip", "netns", "add", name])
    # The same at every boot: neighbours remember who has an address for a while.
    hardware = _hardware_address(machine)
    ours = ["name", UPLINK, "address", hardware, "netns", name]
    run(["ip", "link", "add", *ours, *_veth_to_switch(machine)])
    _in(machine, "link", "set", "lo", "up")
    _in(machine, "address", "add", f"{ADDRESSES[machine]}/{PREFIX_LENGTH}", "dev", UPLINK)
    _in(machine, "link", "set", UPLINK, "up")
    _in(SWITCH, "link", "set", machine, "master", BRIDGE)
    _in(SWITCH, "link", "set", machine, "up")
    forward = "echo 1 >/proc/sys/net/ipv4/ip_forward"
    run(["ip", "netns", "exec", name, "sh", "-c", forward])
    for node, pods in POD_NETWORKS.items():
        if machine in NODES and node != machine:
            _in(machine, "route", "add", pods, "via", ADDRESSES[node])


def unplug(machine: str) -> None:
    """Take a machine's namespace away, and with it both ends of its link."""
    run(["ip", "netns", "delete", namespace(machine)], check=False)
    # The namespace itself goes when its last process has ended; the link must not wait for that.
    run(["ip", "-n", namespace(SWITCH), "link", "delete", machine], check=False)


def cut(machine: str) -> None:
    """Pull the plug out of the switch: no packet comes or goes, and nobody is told."""
    _in(SWITCH, "link", "set", machine, "nomaster")


def mend(machine: str) -> None:
    """Put the plug back."""
    _in(SWITCH, "link", "set", machine, "master", BRIDGE)


def is_there() -> bool:
    """Whether the host has its link: without it, packets for a rig would leave the machine."""
    return Path("/sys/class/net", HOST_LINK).exists()


def existing() -> list[str]:
    """The rig's namespaces that this machine has."""
    listed = {line.split()[0] for line in text(["ip", "netns", "list"]).splitlines() if line}
    return [name for name in namespaces() if name in listed]


def delete() -> None:
    """Remove the host's link and every namespace.

    The link is first, since the kernel removes a namespace, and the links in it, at its leisure.
    """
    if is_there():
        run(["ip", "link", "delete", HOST_LINK])
    for name in existing():
        run(["ip", "netns", "delete", name])


def _plug_host() -> None:
    run(["ip", "link", "add", "name", HOST_LINK, *_veth_to_switch("host")])
    run(["ip", "address", "add", f"{HOST_ADDRESS}/{PREFIX_LENGTH}", "dev", HOST_LINK])
    run(["ip", "link", "set", HOST_LINK, "up"])
    _in(SWITCH, "link", "set", "host", "master", BRIDGE)
    _in(SWITCH, "link", "set", "host", "up")


def _hardware_address(machine: str) -> str:
    octets = [0x02, 0, *(int(part) for part in ADDRESSES[machine].split("."))]  # 02: ours to choose
    return ":".join(f"{octet:02x}" for octet in octets)


def _veth_to_switch(name: str) -> list[str]:
    return ["type", "veth", "peer", "name", name, "netns", namespace(SWITCH)]


def _in(machine: str, *arguments: str) -> None:
    run(["ip", "-n", namespace(machine), *arguments])
