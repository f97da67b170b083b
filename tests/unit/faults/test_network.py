"""Who hears whom, and whose a connection is.

In scope: the pure rules, and real connections of real processes through the proxy. Out of scope:
what a cluster makes of it; see `make faults SECONDS=60`.
"""

import asyncio
import itertools
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.faults.network import EVERYBODY, Network, Weather, pairs_that_talk
from bench.faults.socket_owner import OUTSIDE, SocketOwner, connections
from bench.node_process import HOST, free_ports
from bench.proxy import Proxies, proxies

DEADLINE_S = 10.0
SOON_S = 0.1  # that nothing comes can only be seen by waiting; long enough on loopback
ROW = (
    "   7: 0100007F:9CBA 0100007F:426B 01 00000000:00000000 02:000003FF 00000000"
    "     0        0 4242 2 0000000000000000 20 4 30 10 -1\n"
)
# A node that connects by itself, or has a child that does, and repeats what it hears.
NODE = """
import os, socket, sys
if sys.argv[2] == "below" and os.fork():
    os.wait()
    raise SystemExit
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print(peer.getsockname()[1], flush=True)
while piece := peer.recv(100):
    peer.sendall(piece)
"""


def test_cut_of_one_way_leaves_the_other() -> None:
    weather = Weather({("a", "b")})
    assert weather.is_cut(("a", "b"))
    assert not weather.is_cut(("b", "a"))
    assert not weather.is_cut(("a", "c"))


def test_node_that_is_cut_off_reaches_nobody_and_others_reach_each_other() -> None:
    weather = Weather({("a", EVERYBODY)}, {(EVERYBODY, "c"): 0.2})
    assert weather.is_cut(("a", "c"))
    assert not weather.is_cut(("c", "a"))
    assert not weather.is_cut(("b", "c"))
    assert weather.delay_s(("b", "c")) == 0.2
    assert weather.delay_s(("c", "b")) == 0


def test_every_pair_that_talks_is_there_once() -> None:
    pairs = list(pairs_that_talk(["l1", "l2"], ["s1", "s2"], ["c1"], outside=OUTSIDE))
    unordered = [frozenset(pair) for pair in pairs]
    assert len(set(unordered)) == len(pairs)
    everybody = ["l1", "l2", "s1", "s2", "c1"]
    expected = {frozenset(pair) for pair in itertools.combinations(everybody, 2)}
    assert set(unordered) == expected | {frozenset((OUTSIDE, "c1"))}


def test_connection_is_found_in_the_kernels_table() -> None:
    heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
    assert connections([heading, ROW]) == {4242: (40122, 17003)}


@pytest.fixture
def world() -> Iterator[Proxies]:
    with proxies() as world:
        yield world


@pytest.mark.parametrize("below", [False, True])
def test_cut_is_between_two_nodes_whoever_connected(
    world: Proxies, tmp_path: Path, *, below: bool
) -> None:
    public, hidden = free_ports(2, random.Random())
    process_file = tmp_path / "process"
    network = Network(world)
    network.listen(
        "to", SocketOwner({"from": process_file}, below=below), public=public, hidden=hidden
    )
    with socket.create_server((HOST, hidden)) as listener:
        listener.settimeout(DEADLINE_S)
        command = [sys.executable, "-c", NODE, str(public), "below" if below else "itself"]
        # The file is there before the connection, as a node's is.
        with subprocess.Popen(
            [
                "/bin/sh",
                "-c",
                f'echo "{{\\"pid\\": $$}}" > {process_file}; exec "$@"',
                "sh",
                *command,
            ],
            stdout=subprocess.PIPE,
        ) as node:
            try:
                accepted, _ = listener.accept()
                with accepted:
                    accepted.settimeout(DEADLINE_S)
                    assert repeats(accepted)
                    # Of somebody else's it takes no notice.
                    network.between("other", "to").cut_there()
                    assert repeats(accepted)
                    link = network.between("from", EVERYBODY)
                    link.cut_there()
                    assert not repeats(accepted)
                    link.mend()
                    assert accepted.recv(10) == b"x"
                    network.between("to", "from").cut_there()
                    assert not repeats(accepted)
            finally:
                node.kill()


def repeats(peer: socket.socket) -> bool:
    """Whether what is sent comes back soon."""
    peer.sendall(b"x")
    peer.settimeout(SOON_S)
    try:
        return peer.recv(10) == b"x"
    except TimeoutError:
        return False
    finally:
        peer.settimeout(DEADLINE_S)


def test_whoever_is_no_node_is_outside(tmp_path: Path) -> None:
    stranger = tmp_path / "process"
    stranger.write_text(json.dumps({"pid": os.getpid()}))
    missing = tmp_path / "missing"
    with socket.create_server((HOST, 0)) as listener:
        to = listener.getsockname()[1]
        with socket.create_connection((HOST, to)) as peer:
            port = peer.getsockname()[1]
            for files, name in (({"x": missing}, OUTSIDE), ({"x": stranger}, "x")):
                assert asyncio.run(SocketOwner(files).of(port=port, to=to)) == name


def test_one_look_serves_all_who_ask_at_once(tmp_path: Path) -> None:
    ours = tmp_path / "process"
    ours.write_text(json.dumps({"pid": os.getpid()}))

    async def ask(to: int, ports: list[int]) -> list[str]:
        owner = SocketOwner({"x": ours})
        return await asyncio.gather(*(owner.of(port=port, to=to) for port in (*ports, 1)))

    with socket.create_server((HOST, 0), backlog=10) as listener:
        to = listener.getsockname()[1]
        peers = [socket.create_connection((HOST, to)) for _ in range(5)]
        try:
            ports = [peer.getsockname()[1] for peer in peers]
            assert asyncio.run(ask(to, ports)) == [*["x"] * 5, OUTSIDE]
        finally:
            for peer in peers:
                peer.close()
