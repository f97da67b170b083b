"""What a local cluster writes down: paths, cluster.json, ports, settings, secrets, URLs.

In scope: the forms and the refusals. Out of scope: processes; see
tests/integration/test_local_cluster.py.
"""

import os
import socket
import subprocess
import sys
import tomllib
from dataclasses import replace as with_fields
from pathlib import Path

import msgspec
import psycopg.conninfo
import pytest
from asyncpg.connect_utils import _parse_connect_dsn_and_args
from msgspec.structs import replace

from fabric.addresses import UNIX_PATH_BYTES_MAX
from fabric.ids import ClusterName
from fabric.settings import load as load_settings
from fabric.toml_text import toml_text
from gateway.settings import GatewaySettings
from log_service.node_settings import NodeSettings
from seawall.local.cluster_file import (
    ClusterError,
    ClusterFile,
    LogPorts,
    cluster_name_of,
    decode,
    encode,
    load,
    save,
)
from seawall.local.layout import SYSTEM_STATE_DIR, Layout, default_directory, run_root_for
from seawall.local.machine import available_memory_bytes, require_directory, require_room
from seawall.local.node_files import (
    all_names,
    names_of,
    pgpass_text,
    prepare,
    settings_of,
)
from seawall.local.ports import (
    HOST,
    INTERNAL_MIN,
    choose_ports,
    claim,
    is_free,
    random_first,
    require_free,
)
from seawall.local.scale import with_computes
from seawall.local.up import Wishes, refuse_changes, refuse_wishes, with_gateway
from seawall.local.urls import libpq_environment, urls_of
from sqlnode.compute.settings import AgentSettings
from sqlnode.postgres_settings import require_short_socket_path
from sqlnode.privileges import choose_identity
from storage.node_settings import StorageSettings

CLAIMS = "import sys; from seawall.local.ports import claim; sys.exit(not claim({}))"

CLUSTER = ClusterFile(
    cluster=ClusterName("blue"),
    pg_bin="/usr/lib/postgresql/15/bin",
    pg_major=15,
    log={"log-1": LogPorts(17000, 17001), "log-2": LogPorts(17002, 17003)},
    storage={"storage-1": 17004},
    computes={"compute-1": 5432, "compute-2": 5440, "compute-3": 5441},
    computes_wanted=2,
)


# --- Paths ----------------------------------------------------------------------------------------


def test_a_directory_whose_sockets_would_have_long_paths_gets_another_for_them() -> None:
    identity = choose_identity()
    for length in range(2, 200):
        top = Path("/" + "d" * length)
        layout = Layout(top)
        run = run_root_for(top, identity) if layout.needs_run_root() else layout.nodes
        # The longest that there is: a redo engine's socket.
        longest = run / "storage-9999" / "run" / ("b" * 20) / ".s.PGSQL.65535.lock"
        assert len(os.fsencode(longest)) <= UNIX_PATH_BYTES_MAX
        require_short_socket_path(run / "compute-8" / "run", 65535)


def test_two_directories_never_share_their_sockets() -> None:
    identity = choose_identity()
    other = with_fields(identity, uid=identity.uid + 1)
    roots = {run_root_for(Path("/a"), identity), run_root_for(Path("/b"), identity)}
    assert len({*roots, run_root_for(Path("/a"), other)}) == 3


def test_the_default_directory_is_the_users_state_directory_but_for_root() -> None:
    home = Path("/home/ann")
    assert default_directory({}, home=home, is_root=False) == home / ".local/state/seawall/default"
    state = {"XDG_STATE_HOME": "/s"}
    assert default_directory(state, home=home, is_root=False) == Path("/s/seawall/default")
    assert default_directory(state, home=home, is_root=True) == SYSTEM_STATE_DIR / "default"
    relative = default_directory({"XDG_STATE_HOME": "s"}, home=home, is_root=False)
    assert relative.is_relative_to(home)


@pytest.mark.parametrize(
    ("name", "cluster"),
    [("blue", "blue"), ("My Cluster!", "my-cluster"), ("---", "local"), ("x" * 200, "x" * 40)],
)
def test_every_directory_makes_a_cluster_name(name: str, cluster: str) -> None:
    assert cluster_name_of(Path("/data") / name) == cluster


# --- cluster.json ---------------------------------------------------------------------------------


def test_cluster_json_comes_back_as_it_was(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    save(layout, CLUSTER)
    assert load(layout) == CLUSTER
    assert layout.cluster_file.stat().st_mode & 0o777 == 0o600


def test_a_newer_version_is_refused_by_its_number_alone() -> None:
    newer = msgspec.json.encode({"format": 2, "everything": "else is unknown"})
    with pytest.raises(ClusterError, match="format 2 and this Seawall knows 1"):
        decode(newer, Path("cluster.json"))


@pytest.mark.parametrize("cut", [0, 1, 40, -3])
def test_a_damaged_file_is_refused(cut: int) -> None:
    with pytest.raises(ClusterError, match="damaged"):
        decode(encode(CLUSTER)[:cut], Path("cluster.json"))


def test_a_directory_without_a_cluster_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="has no cluster"):
        load(Layout(tmp_path / "nothing"))


def test_the_first_computes_are_the_wanted_ones() -> None:
    assert CLUSTER.compute_names() == ("compute-1", "compute-2")
    assert names_of(CLUSTER) == ("log-1", "log-2", "storage-1", "compute-1", "compute-2")


WITH_GATEWAY = replace(CLUSTER, gateways={"gateway-1": 6432}, gateways_wanted=1)


def test_a_file_of_before_there_were_gateways_is_read_and_gets_one_at_the_next_start() -> None:
    old = msgspec.json.decode(encode(CLUSTER))
    del old["gateways"], old["gateways_wanted"]
    found = decode(msgspec.json.encode(old), Path("cluster.json"))
    assert found.gateway_names() == ()
    (port,) = with_gateway(found.gateways, Wishes(), taken={6432}).values()
    assert port != 6432
    assert with_gateway(found.gateways, Wishes(gateway=False), taken=()) == {}


def test_a_gateway_keeps_its_port_while_it_is_left_out() -> None:
    left_out = replace(WITH_GATEWAY, gateways_wanted=0)
    assert left_out.gateway_names() == ()
    assert "gateway-1" not in names_of(left_out)
    assert "gateway-1" in all_names(left_out)
    again = with_gateway({"gateway-1": 40_000}, Wishes(), taken={40_000})
    assert again == {"gateway-1": 40_000}
    moved = with_gateway({"gateway-1": 40_000}, Wishes(gateway_port=5000), taken=())
    assert moved == {"gateway-1": 5000}


def test_clusters_that_find_the_usual_port_taken_are_kept_apart_by_chance() -> None:
    ports = {with_gateway({}, Wishes(), taken={6432})["gateway-1"] for _ in range(20)}
    assert len(ports) > 10
    assert min(ports) >= INTERNAL_MIN


# --- Ports ----------------------------------------------------------------------------------------


def test_ports_are_the_first_free_ones() -> None:
    busy = {5432, 5434}
    found = choose_ports(
        3, first=5432, ceiling=6000, taken={5433}, is_free=lambda port: port not in busy
    )
    assert found == [5435, 5436, 5437]


def test_clusters_that_begin_at_once_look_in_different_places() -> None:
    highest = random_first(8, ceiling=32_768, below=lambda count: count - 1)
    lowest = random_first(8, ceiling=32_768, below=lambda _: 0)
    assert lowest == 17_000
    assert 32_768 - 100 < highest + 8 < 32_768
    assert random_first(8, ceiling=17_001, below=lambda count: count - 1) == 17_000


def test_no_free_port_is_a_sentence() -> None:
    with pytest.raises(ClusterError, match="2 free ports were not found from 10 on"):
        choose_ports(2, first=10, ceiling=11, taken=(), is_free=lambda _: True)


def test_a_port_that_is_listened_on_is_not_free() -> None:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(ClusterError, match=f"port {port} of compute-1 is in use.*--port"):
            require_free(iter([("compute-1", port)]))
    assert is_free(port)


def test_a_port_that_was_chosen_is_not_chosen_again_before_anybody_listens() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert not claim(port)
    chosen = [
        subprocess.run([sys.executable, "-P", "-c", CLAIMS.format(port)], check=False).returncode
        for _ in range(2)
    ]
    assert chosen == [0, 0], "a process that has ended claims nothing"
    assert claim(port)
    assert is_free(port)
    assert not claim(port)
    again = subprocess.run([sys.executable, "-P", "-c", CLAIMS.format(port)], check=False)
    assert again.returncode == 1, "another process must be told"


def test_ports_stay_with_their_computes() -> None:
    three = with_computes({"compute-1": 40_001}, 3)
    assert three["compute-1"] == 40_001
    assert len(set(three.values())) == 3
    assert with_computes(three, 1) == three, "what is not wanted now is remembered"
    assert next(iter(with_computes({}, 2, first_port=6000).items())) == ("compute-1", 6000)


# --- Settings -------------------------------------------------------------------------------------


def test_every_node_understands_its_settings(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    prepare(layout, replace(CLUSTER, run_root=None), identity=choose_identity())
    log = load_settings(NodeSettings, layout.node("log-1").config, {})
    storage = load_settings(StorageSettings, layout.node("storage-1").config, {})
    compute = load_settings(AgentSettings, layout.node("compute-2").config, {})
    assert {log.cluster, storage.cluster, compute.cluster} == {"blue"}
    assert storage.log_nodes == compute.log_nodes == (log.rpc_listen, "tcp://127.0.0.1:17002")
    assert compute.wal_servers[0] == "127.0.0.1:17001"
    assert compute.storage_nodes == (storage.rpc_listen,)
    assert compute.client_address == "127.0.0.1:5440"
    assert log.standby_password == compute.standby_password is not None


def test_a_gateway_understands_its_settings_and_gets_its_secrets(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    identity = choose_identity()
    prepare(layout, WITH_GATEWAY, identity=identity)
    found = load_settings(GatewaySettings, layout.node("gateway-1").config, {})
    assert (found.name, found.cluster, found.branch) == ("gateway-1", "blue", "main")
    assert str(found.listen_address) == "tcp://127.0.0.1:6432"
    assert found.log_nodes == ("tcp://127.0.0.1:17000", "tcp://127.0.0.1:17002")
    assert found.role_password == layout.gateway_password.read_text().strip()
    assert found.admin_password == layout.gateway_admin_password.read_text().strip()
    for path in (layout.gateway_password, layout.gateway_admin_password):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.stat().st_uid == identity.uid
    assert found.role_password not in layout.node("gateway-1").config.read_text()
    assert layout.node("gateway-1").run.stat().st_uid == identity.uid
    assert not layout.node("gateway-1").data.exists(), "a gateway has nothing on disk"


def test_secrets_are_private_and_stay(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    identity = choose_identity()
    prepare(layout, CLUSTER, identity=identity)
    files = [layout.postgres_password, layout.standby_password, layout.pgpass, layout.ca_key_file]
    files += [layout.node("log-1").key, layout.node("log-1").config]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    before = [path.read_bytes() for path in files]
    prepare(layout, CLUSTER, identity=identity)
    assert [path.read_bytes() for path in files] == before
    assert layout.postgres_password.read_text() != layout.standby_password.read_text()
    texts = [layout.node(name).config.read_text() for name in names_of(CLUSTER)]
    assert not any(layout.standby_password.read_text().strip() in text for text in texts)


def test_what_root_writes_to_is_roots(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    identity = choose_identity()
    prepare(layout, CLUSTER, identity=identity)
    for name in names_of(CLUSTER):
        node = layout.node(name)
        assert node.top.stat().st_uid == os.geteuid()
        assert node.key.stat().st_uid == node.run.stat().st_uid == identity.uid
    assert layout.node("log-1").data.stat().st_uid == identity.uid


def test_toml_says_what_was_meant() -> None:
    values = {"name": 'a"b\\', "list": ["x", "y"], "flag": True, "number": 5, "t": {"k": "v"}}
    assert tomllib.loads(toml_text(values)) == values


def test_run_directories_follow_the_run_root() -> None:
    settings = settings_of(Layout(Path("/d")), replace(CLUSTER, run_root="/short"), "compute-1")
    assert settings["run_dir"] == "/short/compute-1"


# --- URLs -----------------------------------------------------------------------------------------


def test_drivers_read_the_urls_as_they_are_meant(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "a dir")
    layout.secrets.mkdir(parents=True)
    layout.pgpass.write_text(pgpass_text(CLUSTER, "pw"))
    layout.pgpass.chmod(0o600)
    urls = urls_of(layout, CLUSTER)
    libpq = psycopg.conninfo.conninfo_to_dict(urls.primary)
    assert libpq["host"] == "127.0.0.1,127.0.0.1"
    assert libpq["port"] == "5432,5440"
    assert libpq["target_session_attrs"] == "read-write"
    assert libpq["passfile"] == str(layout.pgpass)
    assert psycopg.conninfo.conninfo_to_dict(urls.replicas)["target_session_attrs"] == (
        "prefer-standby"
    )
    assert "pw" not in urls.primary.replace("pgpass", "")
    addresses, parameters = _parse_connect_dsn_and_args(
        dsn=urls.primary, host=None, port=None, user=None, password=None, passfile=None,
        database=None, ssl=None, service=None, servicefile=None, direct_tls=None,
        server_settings=None, target_session_attrs=None, krbsrvname=None, gsslib=None,
    )  # fmt: skip
    assert addresses == [(HOST, 5432), (HOST, 5440)]
    assert parameters.password == "pw"  # noqa: S105  # of this test


def test_a_password_is_in_a_url_only_if_asked_for(tmp_path: Path) -> None:
    urls = urls_of(Layout(tmp_path), CLUSTER, password="p/w@:?")  # noqa: S106  # of this test
    found = psycopg.conninfo.conninfo_to_dict(urls.primary)
    assert found["password"] == "p/w@:?"  # noqa: S105  # of this test
    assert "passfile" not in found


def test_psql_is_told_by_variables(tmp_path: Path) -> None:
    found = libpq_environment(Layout(tmp_path), CLUSTER)
    assert found["PGPORT"] == "5432,5440"
    assert "PGPASSWORD" not in found


def test_the_gateways_url_is_one_address_and_its_password_is_found(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert urls_of(layout, CLUSTER).gateway is None
    url = urls_of(layout, WITH_GATEWAY).gateway
    assert url is not None
    found = psycopg.conninfo.conninfo_to_dict(url)
    assert (found["host"], found["port"], found["user"]) == (HOST, "6432", "postgres")
    assert found["passfile"] == str(layout.pgpass)
    assert "target_session_attrs" not in found
    lines = pgpass_text(WITH_GATEWAY, "pw", admin_password="ad").splitlines()  # noqa: S106  # of this test
    assert "127.0.0.1:6432:*:postgres:pw" in lines
    assert "127.0.0.1:6432:seawall:seawall_admin:ad" in lines
    with_it = urls_of(layout, WITH_GATEWAY, password="p/w").gateway  # noqa: S106  # of this test
    assert with_it == "postgresql://postgres:p%2Fw@127.0.0.1:6432/postgres"


# --- Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [-1, 0, 9])
def test_a_number_of_computes_that_cannot_be_is_refused(count: int) -> None:
    with pytest.raises(ClusterError, match="1 to 8 computes"):
        refuse_wishes(Wishes(computes=count))


@pytest.mark.parametrize("port", [0, 65_536, -5])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(ClusterError, match=f"port {port} is none"):
        refuse_wishes(Wishes(port=port))
    with pytest.raises(ClusterError, match=f"port {port} is none"):
        refuse_wishes(Wishes(gateway_port=port))


def test_one_port_is_not_two_nodes() -> None:
    with pytest.raises(ClusterError, match="both a compute's and the gateway's"):
        refuse_wishes(Wishes(port=6000, gateway_port=6000))
    with pytest.raises(ClusterError, match="exclude each other"):
        refuse_wishes(Wishes(gateway=False, gateway_port=6000))


def test_what_cannot_change_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    small = replace(CLUSTER, log={"log-1": LogPorts(17000, 17001)})
    with pytest.raises(ClusterError, match="made without --ha"):
        refuse_changes(layout, small, Wishes(ha=True))
    with pytest.raises(ClusterError, match="PostgreSQL 15, not 16"):
        refuse_changes(layout, CLUSTER, Wishes(pg_version=16))
    refuse_changes(layout, CLUSTER, Wishes(pg_version=15, port=6000, computes=1))


def test_a_directory_of_somebody_elses_files_is_refused(tmp_path: Path) -> None:
    require_directory(tmp_path / "new")
    require_directory(tmp_path)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ClusterError, match="not empty and has no cluster"):
        require_directory(tmp_path)
    with pytest.raises(ClusterError, match="is no directory"):
        require_directory(tmp_path / "thesis.tex")


def test_too_little_disk_or_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_room(tmp_path / "new", log=1, storage=1, computes=1)
    with pytest.raises(ClusterError, match="MiB free and the cluster needs"):
        require_room(tmp_path, log=1_000_000, storage=1, computes=1)
    monkeypatch.setattr("seawall.local.machine.available_memory_bytes", lambda _: 1 << 20)
    with pytest.raises(ClusterError, match="1 MiB of memory left"):
        require_room(tmp_path, log=1, storage=1, computes=1)


def test_available_memory_is_what_the_kernel_says() -> None:
    assert available_memory_bytes("MemTotal: 9 kB\nMemAvailable:  2048 kB\n") == 2048 * 1024
    assert available_memory_bytes("MemTotal: 9 kB\n") is None
