"""Log nodes as processes, asked by a client: branches, epochs, pins, restarts, rest, refusals.

In scope: what an answer promises, whoever leads and whatever was restarted. Out of scope: members
(test_log_node_members.py), WAL (test_log_node_wal.py), certificates
(test_log_node_tls.py), faults under load (test_log_faults_*).
"""

import asyncio
import re
from pathlib import Path

import pytest
from fixtures.waiting import eventually
from integration.log_node_world import (
    GENESIS,
    START,
    THREE,
    Nodes,
    holder,
    leader_name,
    nodes_world,
    until,
)

from bench.log.nodes import LogNode, NodeSpec
from fabric.frames import PREFIX_BYTES
from fabric.ids import BranchName, Epoch, SystemIdentifier
from fabric.lsn import Lsn, Tli
from fabric.rpc_errors import BadRequestError, DeadlineError, RetryError
from log_service.client import LogClient
from log_service.methods import (
    SET_PIN,
    SetPin,
)
from log_service.record_bodies import Genesis

SHORT_MS = 500
LONG_MS = 30_000


# --- Branches -------------------------------------------------------------------------------------


def test_new_branch_has_one_leader_that_every_member_knows(
    nodes: Nodes, branch: BranchName
) -> None:
    async def story(client: LogClient) -> None:
        topology = await client.topology(branch)
        assert {info.node for info in topology.members} == set(THREE)
        assert (topology.start, topology.end, topology.epoch) == (START, START, 0)
        for name in THREE:

            async def knows(name: str = name) -> bool:
                known = (await nodes.known_status(client, name, branch)).topology
                return known.leader == topology.leader and known.system_identifier == 7

            await until(knows)

    nodes.run(story)


def test_making_a_branch_again_changes_nothing(nodes: Nodes, branch: BranchName) -> None:
    async def story(client: LogClient) -> None:
        before = await client.topology(branch)
        await client.create_branch(branch, GENESIS, [nodes.address(name) for name in THREE])
        assert (await client.topology(branch)).members == before.members

    nodes.run(story)


def test_branch_of_another_system_is_refused(nodes: Nodes, branch: BranchName) -> None:
    other = Genesis(SystemIdentifier(8), Tli(1), START, GENESIS.segment_bytes, "18.0")

    async def story(client: LogClient) -> None:
        with pytest.raises(BadRequestError, match=r"is that of system 7, .*choose another name"):
            await client.create_branch(branch, other, [nodes.address(name) for name in THREE])

    nodes.run(story)


def test_branch_that_nobody_has_is_said_to_be_missing(nodes: Nodes) -> None:
    async def story(client: LogClient) -> None:
        unknown = BranchName("unknown")
        with pytest.raises(DeadlineError, match="branch unknown has no replica on log-1"):
            await client.grant_epoch(unknown, None, timeout_ms=SHORT_MS)
        with pytest.raises(DeadlineError, match="nobody leads unknown"):
            await client.topology(unknown, timeout_ms=SHORT_MS)

    nodes.run(story)


def test_log_of_one_member_leads_at_once_also_after_a_restart(nodes: Nodes) -> None:
    branch = nodes.new_branch("log-2")
    granted = nodes.run(lambda client: client.grant_epoch(branch, None))
    nodes.by_name["log-2"].kill()
    nodes.by_name["log-2"].start()

    async def story(client: LogClient) -> None:
        topology = await client.topology(branch)
        assert (leader_name(topology), topology.epoch) == ("log-2", granted.epoch)
        assert (await client.grant_epoch(branch, None)).epoch == granted.epoch + 1
        with pytest.raises(BadRequestError, match="last voter"):
            await client.remove_member(branch, topology.members[0].member)
        with pytest.raises(BadRequestError, match="no other voter"):
            await client.transfer(branch)

    nodes.run(story)


# --- Epochs and pins ------------------------------------------------------------------------------


def test_epochs_grow_one_by_one_and_begin_at_the_end_of_the_log(
    nodes: Nodes, branch: BranchName
) -> None:
    async def story(client: LogClient) -> None:
        for number, name in [(1, "p"), (2, "q")]:
            granted = await client.grant_epoch(branch, holder(name))
            assert (granted.epoch, granted.end) == (number, START)
        topology = await client.topology(branch)
        assert (topology.epoch, topology.holder) == (2, holder("q"))
        assert not topology.is_streaming

    nodes.run(story)


def test_of_two_that_decide_at_once_one_gets_the_epoch(nodes: Nodes, branch: BranchName) -> None:
    async def story(client: LogClient) -> None:
        before = (await client.topology(branch)).epoch
        answers = await asyncio.gather(
            *(client.grant_epoch(branch, holder(name), after=before) for name in ("p", "q", "r")),
            return_exceptions=True,
        )
        refused = [answer for answer in answers if isinstance(answer, BadRequestError)]
        assert len(refused) == 2
        assert "somebody else was faster" in str(refused[0])
        assert (await client.topology(branch)).epoch == before + 1
        with pytest.raises(BadRequestError, match="the epoch is 1, not 0"):
            await client.grant_epoch(branch, None, after=Epoch(0))

    nodes.run(story)


def test_pins_are_seen_everywhere_until_they_are_taken_back(
    nodes: Nodes, branch: BranchName
) -> None:
    async def story(client: LogClient) -> None:
        await client.set_pin(branch, "cut-1", START)
        await client.set_pin(branch, "cut-1", START)
        await client.set_pin(branch, "cut-2", Lsn(START + 100))
        for name in THREE:

            async def both(name: str = name) -> bool:
                pins = (await nodes.known_status(client, name, branch)).pins
                return pins == {"cut-1": START, "cut-2": START + 100}

            await until(both)
        await client.set_pin(branch, "cut-1", None)
        leader = leader_name(await client.topology(branch))
        assert list((await nodes.known_status(client, leader, branch)).pins) == ["cut-2"]
        with pytest.raises(BadRequestError, match="WAL at 0/0 is gone: it begins at 0/1000000"):
            await client.set_pin(branch, "cut-3", Lsn(0))

    nodes.run(story)


def test_watcher_of_the_topology_wakes_at_a_change_and_not_before(
    nodes: Nodes, branch: BranchName
) -> None:
    async def story(client: LogClient) -> None:
        known = await client.topology(branch)
        again = await client.watch_topology(branch, known.version, wait_ms=SHORT_MS)
        assert again.version == known.version
        watching = asyncio.create_task(
            client.watch_topology(branch, known.version, wait_ms=LONG_MS)
        )
        await client.set_pin(branch, "cut", START)  # is nobody's business here
        assert not watching.done()
        await client.grant_epoch(branch, holder("p"))
        assert (await watching).holder == holder("p")

    nodes.run(story)


# --- Restarts and rest ----------------------------------------------------------------------------


def test_restarted_node_catches_up(nodes: Nodes, branch: BranchName) -> None:
    async def granted(client: LogClient) -> str:
        topology = await client.topology(branch)
        return next(info.node for info in topology.members if info != topology.leader)

    node = nodes.by_name[nodes.run(granted)]
    node.kill()
    nodes.run(lambda client: client.grant_epoch(branch, holder("p")))
    node.start()

    async def story(client: LogClient) -> None:
        async def knows() -> bool:
            return (await nodes.known_status(client, node.name, branch)).topology.epoch == 1

        await until(knows)

    nodes.run(story)


def test_node_that_is_told_to_end_hands_over_first(nodes: Nodes, branch: BranchName) -> None:
    leader = leader_name(nodes.run(lambda client: client.topology(branch)))
    assert nodes.by_name[leader].stop() == 0
    topology = nodes.run(lambda client: client.topology(branch))
    assert leader_name(topology) != leader
    assert "log node stopped" in nodes.by_name[leader].log_of_this_start()


async def all_rest(nodes: Nodes, client: LogClient, branch: BranchName) -> bool:
    statuses = [await nodes.known_status(client, name, branch) for name in THREE]
    return all(status.is_resting for status in statuses)


def growths(node: LogNode, count: int) -> list[int]:
    """By how many bytes what a node's event loop has written grows, step by step."""
    found: list[int] = []
    before = written_bytes(node)
    while len(found) < count:
        now = eventually(lambda before=before: differing(written_bytes(node), before))  # type: ignore[misc]  # mypy does not infer a lambda with a default
        found.append(now - before)
        before = now
    return found


def differing(value: int, other: int) -> int | None:
    return value if value != other else None


def written_bytes(node: LogNode) -> int:
    text = Path(f"/proc/{node.pid}/task/{node.pid}/io").read_text()
    match = re.search(r"^wchar: (\d+)$", text, re.MULTILINE)
    assert match is not None
    return int(match[1])


def test_group_without_a_holder_rests_and_says_nothing(tmp_path: Path) -> None:
    """Between nodes go heartbeats of the connections, which are shared by all groups, alone."""
    with nodes_world(tmp_path, THREE) as nodes:
        branch = nodes.new_branch(*THREE)
        nodes.run(lambda client: until(lambda: all_rest(nodes, client, branch)))
        for node in nodes.by_name.values():
            # The first is what the client has left behind.
            assert [size % PREFIX_BYTES for size in growths(node, 6)[1:]] == [0] * 5
        nodes.run(lambda client: client.grant_epoch(branch, holder("p")))
        for node in nodes.by_name.values():
            assert any(size % PREFIX_BYTES for size in growths(node, 6)[1:])


def test_resting_group_wakes_up_for_a_proposal_and_rests_again(
    nodes: Nodes, branch: BranchName
) -> None:
    async def story(client: LogClient) -> None:
        await until(lambda: all_rest(nodes, client, branch))
        term = (await client.topology(branch)).term
        await client.set_pin(branch, "cut", START)
        for name in THREE:

            async def pinned(name: str = name) -> bool:
                return "cut" in (await nodes.known_status(client, name, branch)).pins

            await until(pinned)
        await until(lambda: all_rest(nodes, client, branch))
        assert (await client.topology(branch)).term == term

    nodes.run(story)


def test_resting_group_elects_a_leader_when_its_own_dies(nodes: Nodes, branch: BranchName) -> None:
    async def rests(client: LogClient) -> str:
        await until(lambda: all_rest(nodes, client, branch))
        return leader_name(await client.topology(branch))

    leader = nodes.run(rests)
    nodes.by_name[leader].kill()
    topology = nodes.run(lambda client: client.topology(branch, timeout_ms=LONG_MS))
    assert leader_name(topology) != leader


def test_group_with_a_holder_does_not_rest(nodes: Nodes, branch: BranchName) -> None:
    async def story(client: LogClient) -> None:
        await until(lambda: all_rest(nodes, client, branch))
        await client.grant_epoch(branch, holder("p"))
        leader = leader_name(await client.topology(branch))
        status = await nodes.known_status(client, leader, branch)
        assert not status.is_resting

        async def complains() -> str:
            return (await nodes.known_status(client, leader, branch)).ingest_complaint

        assert "127.0.0.1" in await until(complains)

    nodes.run(story)


# --- Refusals -------------------------------------------------------------------------------------


def test_wal_that_is_not_there_is_not_made_up(nodes: Nodes, branch: BranchName) -> None:
    async def story(client: LogClient) -> None:
        answer = await client.read_wal(branch, tli=Tli(1), lsn=START, bytes_max=100)
        assert (bytes(answer.payload), answer.response.committed) == (b"", START)
        with pytest.raises(DeadlineError, match="timeline 2 is not known here yet"):
            await client.read_wal(branch, tli=Tli(2), lsn=START, bytes_max=100, timeout_ms=SHORT_MS)
        with pytest.raises(BadRequestError, match="timeline 1 has no history file"):
            await client.read_history(branch, Tli(1))

    nodes.run(story)


def test_two_processes_on_one_directory_are_refused(nodes: Nodes, tmp_path: Path) -> None:
    spec = nodes.by_name["log-1"].spec
    second = LogNode(
        NodeSpec(
            name="log-1", cluster="demo", directory=tmp_path / "second", rpc_port=0, pg_port=0,
            data_dir=spec.data_path,
        )
    )  # fmt: skip
    said = second.start_refused()
    assert said == f"log_service: another process runs on {spec.data_path}\n"
    assert second.exit_status == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"naem": "x"}, "naem is unknown: did you mean name?"),
        ({"rpc_listen": "127.0.0.1"}, "must look like tcp://host:port"),
        ({"rpc_listen": "tcp://192.0.2.1:7001"}, "is not loopback: give it TLS certificates"),
        ({"cluster": "De mo"}, "a cluster name is 1 to 63 of a-z"),
        ({"group": {"tick_ms": 0}}, "group.tick_ms"),
        ({"standby_password": "x"}, "standby_password is secret"),
        ({"object_store": "ftp://x"}, "begins with file, memory, s3"),
        ({"tls": {"ca_file": "a", "certificate_file": "b", "key_file": "c"}}, "cannot load TLS"),
    ],
)
def test_bad_setting_is_refused_in_one_sentence(
    tmp_path: Path, settings: dict[str, object], sentence: str
) -> None:
    spec = NodeSpec(
        name="log-1", cluster="demo", directory=tmp_path, rpc_port=0, pg_port=0, settings=settings
    )
    node = LogNode(spec)
    said = node.start_refused()
    assert sentence in said
    assert said.startswith("log_service: ")
    assert said.count("\n") == 1
    assert node.exit_status == 1


def test_call_to_a_node_that_does_not_lead_names_the_leader(
    nodes: Nodes, branch: BranchName
) -> None:
    async def story(client: LogClient) -> None:
        topology = await client.topology(branch)
        assert topology.leader is not None
        other = next(info for info in topology.members if info != topology.leader)
        with pytest.raises(RetryError, match=f"does not lead {branch}, but {topology.leader.node}"):
            await client.call_node(other.rpc, SET_PIN, SetPin(branch, "x", None))

    nodes.run(story)
