"""Whatever bytes come from either side: nothing but a farewell, or a link that is cut.

In scope: sessions and links with one client and one server that say anything. Not in scope:
start-up and login (tests/integration/gateway/test_fuzz.py).
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.gateway.model_server import frame
from unit.gateway.session_world import World
from unit.gateway.wires import Silent

from gateway.batches import Batch, our_batch
from gateway.link import Link
from gateway.logins import PoolKey

KINDS = "QPBDECSHFXdcfpZ?1"
frames = st.builds(
    frame, st.sampled_from(KINDS), st.binary(max_size=40).map(lambda body: body + b"\0")
)
talks = st.lists(st.one_of(frames, st.binary(max_size=12)), max_size=12)


class Deaf:
    """A model client whose answers nobody checks."""

    is_over = False
    heard = b""

    def receive(self, data: bytes) -> None:
        """Remember."""
        self.heard += data


@pytest.mark.parametrize("has_replica", [False, True])
@pytest.mark.parametrize("is_pooled", [False, True])
@settings(max_examples=60)
@given(talk=talks, seed=st.integers(0, 1000))
def test_a_client_that_says_anything_hears_an_error_or_an_answer(
    is_pooled: bool, has_replica: bool, talk: list[bytes], seed: int
) -> None:
    world = World(seed, clients=1, is_pooled=is_pooled, has_replica=has_replica)
    wire = world.clients[0]
    wire.model.is_stopping = True
    deaf = Deaf()
    wire.model = deaf  # type: ignore[assignment]  # it hears, and says nothing
    session = wire.session
    assert session is not None
    rng = random.Random(seed)
    for piece in talk:
        if not wire.is_closed:
            session.feed(piece)
        for _ in range(rng.randrange(4)):
            _step_without_clients(world)
    for _ in range(200):
        _step_without_clients(world)


def _step_without_clients(world: World) -> None:
    clients, world.clients = world.clients, []
    try:
        world.step()
    finally:
        world.clients = clients


@given(
    talk=st.lists(st.one_of(frames, st.binary(max_size=30)), max_size=12), seed=st.integers(0, 9)
)
def test_a_server_that_says_anything_is_cut_off_or_passed_on(talk: list[bytes], seed: int) -> None:
    world = World(seed, clients=1, is_pooled=False, has_replica=False)
    owner = world.clients[0].session
    wire = Silent()
    link = Link(wire, PoolKey("u", "d"), ("p", 1, 1), is_primary=True)
    assert owner is not None
    heard = Silent()
    owner.client = heard
    link.owner = owner
    owner.links.primary = link
    link.batches.append(our_batch(b""))
    link.batches.append(Batch(b"", is_rerunnable=False, is_read=False, is_simple=True))
    for piece in talk:
        if not wire.faults:
            link.feed(piece)
    if wire.faults:
        assert len(wire.faults) == 1, "and nothing is heard of it after that"
