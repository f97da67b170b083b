"""Another authority, with real certificates: what is written over HTTP, step by step, and whether
OpenSSL lets those in who were made at any two steps that may meet. When steps follow each other is
in test_rotation.py.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from fixtures.kube_api import KubeApi
from unit.fabric.rpc_world import in_loop
from unit.operator.model_cluster import ModelCluster

from fabric.certificates import Pem, validity
from fabric.tls import TlsFiles, client_context, server_context
from kube_operator.actions import (
    Action,
    Amend,
    MakeAuthority,
    MakeCertificate,
    MakePasswords,
    Rotate,
    TakePassword,
)
from kube_operator.carry_out import Hands
from kube_operator.events import EventRecorder
from kube_operator.kube_port import CLUSTER, SECRET, Conflict, Json, Key
from kube_operator.lightkube_port import LightkubePort
from kube_operator.manifests.authority import AUTHORITY_DAYS, Step, authority_in
from kube_operator.manifests.moments import moment_of
from kube_operator.manifests.secrets import (
    another_authority,
    decoded,
    is_taken,
    operator_certificate,
    renewal_of,
)
from kube_operator.names import EXPIRES, Component, Names
from kube_operator.runtime import View
from kube_operator.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

STEPS = (Step.INTRODUCED, Step.SUCCEEDED, Step.SETTLED)


class World:
    """Hands that write, and see at once what they have written."""

    def __init__(self, api: KubeApi) -> None:
        self.api = api
        self.port = LightkubePort(api.config())
        self.events = EventRecorder(
            self.port, instance="me", wall_clock=lambda: datetime(2026, 1, 1, tzinfo=UTC)
        )
        metadata = {"namespace": "ns", "name": "pg"}
        thing = {"apiVersion": CLUSTER.api_version, "kind": CLUSTER.kind, "metadata": metadata}
        self.cluster = api.kube.put(CLUSTER.plural, thing)

    async def do(self, action: Action) -> None:
        """Carry out an action."""
        store = Store(SECRET)
        found = await self.port.list(SECRET)
        store.listed(found.items, found.resource_version)
        view = View(Key("ns", "pg"), {SECRET: store})
        seen = ModelCluster(1).observed()
        hands = Hands(self.port, self.events, view, self.cluster, seen, None)
        await hands.carry_out(action)

    def secret(self, name: str) -> Json:
        """Return a Secret as it is by now."""
        return next(
            one for one in self.api.kube.of(SECRET.plural) if one["metadata"]["name"] == name
        )

    async def rotate(self, step: Step) -> None:
        """Go a step on."""
        await self.do(Rotate(step, authority_in(self.secret("pg-ca")).signer))


@asynccontextmanager
async def writing() -> AsyncIterator[World]:
    async with KubeApi() as api:
        world = World(api)
        try:
            yield world
        finally:
            await world.port.close()


def files_of(secret: Json, folder: Path) -> TlsFiles:
    folder.mkdir()
    for name in ("ca.crt", "tls.crt", "tls.key"):
        (folder / name).write_bytes(decoded(secret["data"], name))
    return TlsFiles(
        ca_file=str(folder / "ca.crt"),
        certificate_file=str(folder / "tls.crt"),
        key_file=str(folder / "tls.key"),
    )


def let_in(client: TlsFiles, server: TlsFiles) -> bool:
    """Whether a client and a server come to know each other."""
    wires = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client_context(client).wrap_bio(wires[0], wires[1], server_side=False),
        server_context(server).wrap_bio(wires[1], wires[0], server_side=True),
    ]
    try:
        for _ in range(4):
            for end in ends:
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
        return all(end.getpeercert() for end in ends)
    except (ssl.SSLError, ValueError):
        return False


@in_loop
async def test_those_of_one_step_and_of_the_next_let_each_other_in(tmp_path: Path) -> None:
    async with writing() as world:
        await world.do(MakeAuthority())
        made = []
        for number, step in enumerate((None, *STEPS)):
            if step is not None:
                await world.rotate(step)
            await world.do(MakeCertificate(Component.LOG, "pg-log-1"))
            made.append(files_of(world.secret("pg-log-1-tls"), tmp_path / str(number)))
    for one, other in itertools.product(range(4), repeat=2):
        # What was made before all knew the new authority does not meet what it has signed.
        may_meet = abs(one - other) <= 1
        if may_meet:
            assert let_in(made[one], made[other]), (one, other)
    assert not let_in(made[0], made[2])
    assert not let_in(made[0], made[3])
    assert not let_in(made[3], made[0])


@in_loop
async def test_a_step_is_one_write_and_is_made_once() -> None:
    async with writing() as world:
        await world.do(MakeAuthority())
        old = world.secret("pg-ca")["data"]["tls.crt"]
        signer = authority_in(world.secret("pg-ca")).signer
        for step in STEPS:
            before = len(world.api.writes)
            await world.rotate(step)
            await world.do(Rotate(step, signer))  # somebody who saw less
            assert len(world.api.writes) == before + 1
            assert authority_in(world.secret("pg-ca")).step is step
        secret = world.secret("pg-ca")
        assert secret["data"].keys() == {"tls.crt", "tls.key"}
        assert secret["data"]["tls.crt"] != old
        certificate = decoded(secret["data"], "tls.crt")
        renew = moment_of(secret["metadata"]["annotations"][EXPIRES])
        assert renew == renewal_of(certificate).replace(microsecond=0)
        begins, ends = validity(certificate)
        assert ends - begins > timedelta(days=AUTHORITY_DAYS)


@in_loop
async def test_the_operator_trusts_whom_nodes_trust() -> None:
    async with writing() as world:
        await world.do(MakeAuthority())
        await world.rotate(Step.INTRODUCED)
        await world.do(MakeCertificate(Component.LOG, "pg-log-1"))
        _, trusted = operator_certificate(Names("pg", "ns"), world.secret("pg-ca"), "operator")
        assert trusted.count(b"BEGIN CERTIFICATE") == 2
        assert trusted == decoded(world.secret("pg-log-1-tls")["data"], "ca.crt")


@in_loop
async def test_a_password_is_written_in_all_its_forms_the_verifier_last() -> None:
    async with writing() as world:
        await world.do(MakePasswords())
        superuser, internal = world.secret("pg-superuser"), world.secret("pg-internal")
        assert is_taken(superuser, internal)
        superuser["data"]["password"] = base64.b64encode(b"another").decode()
        world.api.kube.put(SECRET.plural, superuser)
        world.api.writes.clear()
        await world.do(TakePassword())
        keys = [one.key for one in world.api.writes]
        assert keys[:2] == ["ns/pg-superuser", "ns/pg-internal"]
        superuser, internal = world.secret("pg-superuser"), world.secret("pg-internal")
        assert is_taken(superuser, internal)
        assert b":another@" in decoded(superuser["data"], "uri")
        assert b"another" not in decoded(internal["data"], "primary.sql")


@in_loop
async def test_an_object_of_another_uid_is_not_amended() -> None:
    async with writing() as world:
        await world.do(MakeAuthority())
        changes: Json = {"metadata": {"ownerReferences": []}}
        world.api.fail(409, matching="PATCH")  # as the API answers to another uid
        with pytest.raises(Conflict):
            await world.do(Amend(SECRET, "pg-ca", "another", changes))
        assert world.secret("pg-ca")["metadata"]["ownerReferences"]
        await world.do(Amend(SECRET, "no-more", "uid", changes))


def test_a_new_authority_has_a_key_of_its_own() -> None:
    names = Names("pg", "ns")
    one, other = another_authority(names), another_authority(names)
    assert isinstance(one, Pem)
    assert one.key != other.key
