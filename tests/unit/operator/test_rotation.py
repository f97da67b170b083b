"""Certificates and passwords that change under a cluster that runs, against a cluster in memory
(model_cluster.py), which refuses every moment at which somebody who runs would not be trusted.

Not here: real certificates and OpenSSL (test_authority.py), real nodes (tests/e2e).
"""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from unit.operator.model_cluster import ModelCluster
from unit.operator.model_trust import BrokenPromiseError, encoded
from unit.operator.test_plan import SEEDS, all_are_new, disturb

from fabric.certificates import Pem
from kube_operator import actions
from kube_operator.kube_port import POD, SECRET
from kube_operator.manifests.authority import KNOWN_BEFORE, Step, authority_in, introduced
from kube_operator.manifests.secrets import decoded
from kube_operator.names import EXPIRES, ROTATE, ROTATE_RESULT, Component
from kube_operator.plan import plan
from kube_operator.plan_rotation import DONE
from pgwire.scram import ScramVerifier

if TYPE_CHECKING:
    from kube_operator.kube_port import Json
    from kube_operator.manifests.authority import Authority

A_ROTATION = [Step.INTRODUCED, Step.SUCCEEDED, Step.SETTLED]


def settled() -> ModelCluster:
    cluster = ModelCluster(1)
    cluster.settle()
    return cluster


def authority(cluster: ModelCluster) -> Authority:
    return authority_in(cluster.objects[SECRET]["pg-ca"])


def message(cluster: ModelCluster) -> str:
    return next(one.message for one in cluster.status.conditions if one.type == "Progressing")


def signers(cluster: ModelCluster) -> set[str]:
    return {one.signer for one in cluster.processes.running.values()}


def grow_old(cluster: ModelCluster) -> None:
    """Let five years pass: half of the time of an authority."""
    for _ in range(19):
        cluster.now += timedelta(days=97)
        cluster.settle()


# --- Certificates of nodes ------------------------------------------------------------------------


def test_certificates_of_all_nodes_are_renewed_before_they_end() -> None:
    cluster = settled()
    before = {name: one["data"] for name, one in cluster.objects[SECRET].items()}
    cluster.now += timedelta(days=183)
    cluster.settle()
    renewed = {name for name, one in cluster.objects[SECRET].items() if one["data"] != before[name]}
    assert {f"pg-{node}-tls" for node in ("log-1", "storage-2", "compute-1", "gateway")} <= renewed
    assert "pg-ca" not in renewed
    assert all_are_new(cluster)


def test_nobody_who_runs_for_eleven_years_has_a_certificate_that_has_ended() -> None:
    cluster = settled()
    first = authority(cluster).signer
    for _ in range(11 * 4):
        cluster.now += timedelta(days=91)
        cluster.settle()  # and the model looks at every step
    assert cluster.rotations == A_ROTATION * 2, "once in five years"
    assert first != authority(cluster).signer


def test_certificates_that_somebody_else_has_made_are_left_alone() -> None:
    cluster = settled()
    secret = cluster.objects[SECRET]["pg-log-1-tls"]
    del secret["metadata"]["annotations"][EXPIRES]
    before = dict(secret["data"])
    cluster.now += timedelta(days=200)
    cluster.step()
    assert cluster.objects[SECRET]["pg-log-1-tls"]["data"] == before


# --- The authority --------------------------------------------------------------------------------


def test_a_request_replaces_the_authority_in_three_steps_and_is_answered() -> None:
    cluster = settled()
    old = authority(cluster).signer
    cluster.annotations = {ROTATE: "now"}
    cluster.settle()
    assert cluster.rotations == A_ROTATION
    assert cluster.annotations == {ROTATE_RESULT: DONE}
    new = authority(cluster)
    assert (new.step, signers(cluster)) == (Step.SETTLED, {new.signer})
    assert new.signer != old
    assert all(old not in one.trusted for one in cluster.processes.running.values())
    assert "previous.crt" not in cluster.objects[SECRET]["pg-ca"]["data"]
    assert cluster.step().actions == ()


def test_the_answer_comes_when_no_process_trusts_the_old_authority_any_more() -> None:
    cluster = settled()
    old = authority(cluster).signer
    cluster.annotations = {ROTATE: "now"}
    while ROTATE in cluster.annotations:
        cluster.step()
        cluster.live()
    assert all(old not in one.trusted for one in cluster.processes.running.values())


def test_the_key_of_an_authority_that_signs_no_more_is_forgotten() -> None:
    cluster = settled()
    cluster.annotations = {ROTATE: "now"}
    while authority(cluster).step is not Step.SUCCEEDED:
        cluster.step()
        cluster.live(hurry=True)
    assert cluster.objects[SECRET]["pg-ca"]["data"].keys() == {"tls.crt", "tls.key", "previous.crt"}


def test_the_same_request_a_second_time_is_another_rotation() -> None:
    cluster = settled()
    for _ in range(2):
        cluster.annotations = {ROTATE: "now"}
        cluster.settle()
    assert cluster.rotations == A_ROTATION * 2


def test_an_old_authority_is_succeeded_by_itself_after_it_was_known_for_long() -> None:
    cluster = settled()
    grow_old(cluster)
    assert cluster.rotations == [Step.INTRODUCED]
    assert len(signers(cluster)) == 1
    assert f"signs from {cluster.now + KNOWN_BEFORE:%Y-%m-%d} on." in message(cluster)
    assert cluster.status.phase == "Running"
    cluster.now += KNOWN_BEFORE
    cluster.settle()
    assert cluster.rotations == A_ROTATION
    assert message(cluster) == "Nothing is to be done."


def test_a_request_makes_haste_of_a_rotation_that_waits() -> None:
    cluster = settled()
    grow_old(cluster)
    cluster.annotations = {ROTATE: "now"}
    cluster.settle()
    assert cluster.rotations == A_ROTATION, "and not another one besides"


def test_the_status_says_how_far_it_is() -> None:
    cluster = settled()
    cluster.annotations = {ROTATE: "now"}
    said = []
    while ROTATE in cluster.annotations:
        cluster.step()
        cluster.live(hurry=True)
        reason = next(one.reason for one in cluster.status.conditions if one.type == "Progressing")
        if reason == "RotatingCertificates":
            said.append(message(cluster).partition(".")[0])
    assert list(dict.fromkeys(said)) == [
        "A new authority becomes known to all",
        "A new authority signs; certificates of the old one are replaced",
        "The old authority is trusted no more; pods that still trust it are replaced",
    ]


def test_a_step_waits_for_every_process_that_is_there_still() -> None:
    cluster = settled()
    cluster.annotations = {ROTATE: "now"}
    while authority(cluster).step is not Step.INTRODUCED:
        cluster.step()
    lingering = cluster.objects[POD]["pg-storage-1"]
    for _ in range(40):
        cluster.step()
        hidden = dict(cluster.objects[POD])
        if lingering["metadata"].get("deletionTimestamp"):
            del cluster.objects[POD]["pg-storage-1"]  # its node is away: it does not end
        cluster.live(hurry=True)
        cluster.objects[POD].setdefault("pg-storage-1", hidden["pg-storage-1"])
    assert authority(cluster).step is Step.INTRODUCED


def test_gateways_are_waited_for_too() -> None:
    cluster = settled()
    cluster.annotations = {ROTATE: "now"}
    while authority(cluster).step is not Step.INTRODUCED:
        cluster.step()
    for _ in range(60):
        gateways = {n: p for n, p in cluster.objects[POD].items() if "-gateway-" in n}
        cluster.step()
        cluster.live(hurry=True)
        for name in [name for name in cluster.objects[POD] if "-gateway-" in name]:
            del cluster.objects[POD][name]  # the controller of Deployments does nothing
        cluster.objects[POD].update(gateways)
    assert authority(cluster).step is Step.INTRODUCED


def test_a_paused_cluster_refuses_a_request_and_stays_where_it_is() -> None:
    cluster = settled()
    cluster.annotations = {ROTATE: "now"}
    while authority(cluster).step is not Step.INTRODUCED:
        cluster.step()
    cluster.raw["paused"] = True
    for _ in range(10):
        cluster.step()
        cluster.live(hurry=True)
    assert cluster.rotations == [Step.INTRODUCED]
    cluster.raw["paused"] = False
    cluster.settle()
    assert cluster.rotations == A_ROTATION
    cluster.raw["paused"] = True
    cluster.annotations = {ROTATE: "again"}
    cluster.step()
    assert cluster.annotations == {ROTATE_RESULT: "Refused: spec.paused is true."}


def test_an_authority_that_somebody_else_has_made_is_not_rotated() -> None:
    cluster = settled()
    del cluster.objects[SECRET]["pg-ca"]["metadata"]["annotations"][EXPIRES]
    cluster.annotations = {ROTATE: "now"}
    cluster.step()
    assert "Secret pg-ca is not the operator's" in cluster.annotations[ROTATE_RESULT]
    cluster.now += timedelta(days=6 * 365)
    made = plan(cluster.observed()).actions
    assert not [one for one in made if isinstance(one, actions.Rotate)]


def test_a_compute_that_comes_back_after_a_rotation_has_no_old_certificate() -> None:
    cluster = settled()
    cluster.raw["computes"] = 3
    cluster.settle()
    cluster.raw["computes"] = 2
    cluster.settle()
    assert "pg-compute-3-tls" in cluster.objects[SECRET], "it is kept for the next one"
    cluster.annotations = {ROTATE: "now"}
    cluster.settle()
    cluster.raw["computes"] = 3
    cluster.settle()  # the model would have refused it
    assert signers(cluster) == {authority(cluster).signer}


def test_the_model_refuses_what_must_not_be() -> None:
    cluster = settled()
    signer = authority(cluster).signer
    cluster.carry_out(actions.Rotate(Step.INTRODUCED, signer))
    with pytest.raises(BrokenPromiseError, match="trusted by all before"):
        cluster.carry_out(actions.Rotate(Step.SUCCEEDED, signer))
    secret = cluster.objects[SECRET]["pg-ca"]
    secret["data"]["previous.crt"] = secret["data"]["tls.crt"]
    with pytest.raises(BrokenPromiseError, match="somebody who runs is signed"):
        cluster.carry_out(actions.Rotate(Step.SETTLED, signer))
    secret["data"]["tls.crt"] = encoded("CA-of-nobody")
    with pytest.raises(BrokenPromiseError, match="trusted by all who run"):
        cluster.verify()


@pytest.mark.parametrize("seed", SEEDS[:8])
def test_whatever_happens_meanwhile_all_trust_each_other(seed: int) -> None:
    """Pods and disks go, containers begin again, specifications change, operators stop half way:
    a rotation that has begun goes on to its end.
    """
    cluster = ModelCluster(seed)
    cluster.settle()
    rng = cluster.rng
    cluster.annotations = {ROTATE: "now"}
    for _ in range(40):
        for _ in range(rng.randrange(8)):
            made = plan(cluster.observed()).actions
            cluster.now += timedelta(seconds=1)
            for action in made[: rng.randrange(len(made) + 1)]:
                cluster.carry_out(action)
            cluster.verify()
            cluster.live()
            cluster.verify()
        if rng.random() < 0.3:
            disturb(cluster)
        running = sorted(cluster.processes.running.keys() & cluster.objects[POD].keys())
        if running and rng.random() < 0.5:
            cluster.restart(rng.choice(running))
    cluster.settle()
    assert cluster.rotations == A_ROTATION
    assert ROTATE not in cluster.annotations
    assert signers(cluster) == {authority(cluster).signer}
    assert len(cluster.observed().pods(Component.COMPUTE)) == cluster.spec.computes


# --- The superuser's password ---------------------------------------------------------------------


def put_password(cluster: ModelCluster, value: bytes) -> Json:
    secret = cluster.objects[SECRET]["pg-superuser"]
    secret["data"]["password"] = base64.b64encode(value).decode()
    return secret


def statements(cluster: ModelCluster) -> str:
    return decoded(cluster.objects[SECRET]["pg-internal"]["data"], "primary.sql").decode()


def test_a_password_that_its_user_has_changed_is_taken_over_without_a_restart() -> None:
    cluster = settled()
    pods = {name: pod["metadata"]["uid"] for name, pod in cluster.objects[POD].items()}
    before = statements(cluster)
    secret = put_password(cluster, "a:b/c @ü\\".encode())
    cluster.settle()
    first, rest = statements(cluster).split("\n", 1)
    verifier = ScramVerifier.parse(first.split("'")[1])
    salt = verifier.salt
    assert ScramVerifier.make("a:b/c @ü\\", lambda _: salt) == verifier
    assert rest == before.split("\n", 1)[1], "the gateway's role is as it was"
    uri, pgpass = (decoded(secret["data"], name).decode() for name in ("uri", "pgpass"))
    assert uri == "postgresql://postgres:a%3Ab%2Fc%20%40%C3%BC%5C@pg.ns.svc:5432/postgres"
    assert pgpass == "pg.ns.svc:5432:*:postgres:a\\:b/c @ü\\\\\n"
    assert pods == {name: pod["metadata"]["uid"] for name, pod in cluster.objects[POD].items()}
    assert cluster.step().actions == ()


@pytest.mark.parametrize("value", [b"", b"\xff", b"a\0b", b"x" * 1001])
def test_what_is_no_password_changes_nothing(value: bytes) -> None:
    cluster = settled()
    put_password(cluster, value)
    assert cluster.step().actions == ()


def test_statements_that_are_not_ours_are_left_alone() -> None:
    cluster = settled()
    cluster.objects[SECRET]["pg-internal"]["data"]["primary.sql"] = encoded("select 1")
    put_password(cluster, b"another")
    assert cluster.step().actions == ()


def test_what_is_damaged_in_an_authority_is_trusted_by_nobody() -> None:
    secret: Json = {"metadata": {}, "data": {"tls.crt": encoded("CA-1"), "next.crt": "%"}}
    assert authority_in(secret).trusted == encoded("CA-1")
    changes = introduced(Pem(b"CA-2", b"key"), ModelCluster(1).now)
    secret["data"] |= changes["data"]
    assert base64.b64decode(authority_in(secret).trusted).split() == [b"CA-1", b"CA-2"]
