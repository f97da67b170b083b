"""Addresses print as they are read, and only loopback is loopback."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.addresses import (
    TcpAddress,
    UnixAddress,
    host_is_loopback,
    parse_address,
    socket_is_loopback,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://127.0.0.1:5000", TcpAddress("127.0.0.1", 5000)),
        ("tcp://log-0.log.svc:1", TcpAddress("log-0.log.svc", 1)),
        ("tcp://[::1]:65535", TcpAddress("::1", 65535)),
        ("unix:///run/seawall/agent.sock", UnixAddress("/run/seawall/agent.sock")),
    ],
)
def test_an_address_prints_as_it_is_read(text: str, address: object) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["", "tcp://", "tcp://a", "tcp://a:", "tcp://:5", "tcp://a:65536", "tcp://a:-1", "tcp://a:b",
     "tcp://a:1/path", "tcp://[::1:5", "udp://a:1", "unix://", "unix://host/path", "unix:relative",
     "a:5", "unix:///" + "x" * 107, "tcp://" + "a" * 300 + ":1"],
)  # fmt: skip
def test_what_is_not_an_address_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|path|host") as caught:
        parse_address(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    for whole in (text, f"tcp://{text}", f"unix://{text}"):
        try:
            parse_address(whole)
        except ValueError:
            continue


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_is_recognised(host: str) -> None:
    assert host_is_loopback(host)
    assert socket_is_loopback((host, 5000))


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "127.0.0.1.example.org"])  # noqa: S104 - not bound
def test_what_may_be_elsewhere_is_not_loopback(host: str) -> None:
    assert not host_is_loopback(host)
    assert not socket_is_loopback((host, 5000))
    assert not socket_is_loopback("")
