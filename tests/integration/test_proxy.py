"""The proxy of the fault tests does to connections what it says.

In scope: carrying, cutting both ways and one way, mending, resetting, refusing, half-closing.
Out of scope: what log nodes make of it.
"""

import socket
import threading
from collections.abc import Iterator

import pytest

from bench.proxy import Link, Proxies, Way, proxies

DEADLINE_S = 10.0
SOON_S = 0.05  # that nothing comes can only be seen by waiting; long enough on loopback


@pytest.fixture
def world() -> Iterator[Proxies]:
    with proxies() as world:
        yield world


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that sends back whatever comes, one thread a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []
        accepting = threading.Thread(target=accept, args=(listener, threads))
        accepting.start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def accept(listener: socket.socket, threads: list[threading.Thread]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threads.append(threading.Thread(target=send_back, args=(connection,)))
        threads[-1].start()


def send_back(connection: socket.socket) -> None:
    with connection:
        try:
            while piece := connection.recv(65536):
                connection.sendall(piece)
        except OSError:
            return


def connect(link: Link) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), timeout=DEADLINE_S)


def says_nothing(client: socket.socket) -> bool:
    client.settimeout(SOON_S)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(DEADLINE_S)
    return False


def test_link_carries_both_ways_and_the_end(world: Proxies, echo: tuple[str, int]) -> None:
    link = world.link(echo)
    content = bytes(range(256)) * 4096
    with connect(link) as client:
        sender = threading.Thread(target=client.sendall, args=(content,))
        sender.start()
        received = b""
        while len(received) < len(content):
            received += client.recv(65536)
        sender.join()
        assert received == content
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


@pytest.mark.parametrize("ways", [(), (Way.THERE,), (Way.BACK,)])
def test_cut_link_says_nothing_until_it_is_mended(
    world: Proxies, echo: tuple[str, int], ways: tuple[Way, ...]
) -> None:
    link = world.link(echo)
    with connect(link) as client:
        client.sendall(b"a")
        assert client.recv(1) == b"a"
        link.cut(*ways)
        client.sendall(b"b")
        assert says_nothing(client)
        link.mend()
        assert client.recv(1) == b"b"


def test_one_way_cut_lets_requests_through(world: Proxies) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        link = world.link(listener.getsockname())
        with connect(link) as client:
            server, _ = listener.accept()
            with server:
                server.settimeout(DEADLINE_S)
                link.cut(Way.BACK)
                client.sendall(b"request")
                assert server.recv(16) == b"request"
                server.sendall(b"answer")
                assert says_nothing(client)


def test_new_connection_reaches_nobody_while_cut(world: Proxies) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = world.link(listener.getsockname())
        link.cut()
        with connect(link):
            listener.settimeout(SOON_S)
            with pytest.raises(TimeoutError):
                listener.accept()
            link.mend()
            listener.settimeout(DEADLINE_S)
            server, _ = listener.accept()
            server.close()


def test_reset_breaks_both_ends(world: Proxies) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        link = world.link(listener.getsockname())
        with connect(link) as client:
            server, _ = listener.accept()
            with server:
                server.settimeout(DEADLINE_S)
                client.sendall(b"x")
                assert server.recv(1) == b"x"
                link.reset()
                for end in (client, server):
                    with pytest.raises(ConnectionResetError):
                        end.recv(1)


def test_target_that_does_not_listen_breaks_the_connection(world: Proxies) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nowhere = listener.getsockname()
    link = world.link(nowhere)
    with pytest.raises(ConnectionResetError), connect(link) as client:
        client.recv(1)
