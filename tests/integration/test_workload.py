"""The workload runs on every server, and the ways to verify a database tell sound from damaged.

In scope: all phases, twice, on a stock primary whose stock standby then has the same contents, also
after a promotion; the costly phases (over 1 GB, SLRU truncation, wrap-around); for each check a
deliberate damage that it must report. Out of scope: faulting blocks, which run the same workload.
"""

import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from fixtures.servers import Fleet, new_run_root
from fixtures.verify import (
    data_checksum_failures,
    differences,
    dump,
    dump_by_sql,
    index_findings,
    scan_everything,
)
from fixtures.verify_dump import sequence_line
from fixtures.workload import (
    PHASES,
    Run,
    ServerFacts,
    end_prepared_transactions,
    open_gids,
    run_phases,
)
from fixtures.workload_extremes import (
    a_relation_outgrows_its_first_segment,
    burn_multixacts,
    burn_xids,
    freeze_everything,
    the_large_relation_grows_again,
    the_large_relation_shrinks_below_one_segment,
)
from fixtures.workload_run import has_extension
from fixtures.workload_wraparound import Distance, StoppedServer, move_counters_near_wraparound

from sqlnode.postgres import Postgres, PostgresSettings, request_standby
from sqlnode.privileges import Identity
from sqlnode.servers import ServerBinaries

pytestmark = pytest.mark.postgres

SEED = 20_260
CATCH_UP_DEADLINE_S = 60.0
SETTINGS = {
    "max_prepared_transactions": "20",
    "track_commit_timestamp": "on",
    "shared_buffers": "64MB",
    "wal_keep_size": "4GB",
    "max_wal_size": "4GB",
    "autovacuum": "off",
}


def facts(server: Postgres) -> ServerFacts:
    return ServerFacts(host=str(server.run_dir), port=server.port, bin_dir=server.binaries.bin_dir)


def value(server: ServerFacts, query: str, database: str = "postgres") -> object:
    with server.connect(database) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return row[0]


def start(fleet: Fleet, name: str = "primary") -> Postgres:
    server = fleet.server(name, settings=PostgresSettings(extra=SETTINGS))
    server.start_blocking()
    return server


def start_with_standby(fleet: Fleet, primary: Postgres) -> Postgres:
    """Copy a stopped primary's directory, start both, the copy as a standby of the original."""
    data_dir = fleet.directory / "standby"
    shutil.copytree(primary.data_dir, data_dir, symlinks=True)
    fleet.identity.give_tree(data_dir)
    request_standby(data_dir, fleet.identity)
    upstream = SETTINGS | {"primary_conninfo": primary.conninfo()}
    settings = PostgresSettings(extra=upstream)
    standby = fleet.server("standby", settings=settings, data_dir=data_dir)
    primary.start_blocking()
    standby.start_blocking()
    return standby


def stopped_server(fleet: Fleet, server: Postgres) -> StoppedServer:
    user = fleet.identity.name if fleet.identity.subprocess_options() else None
    return StoppedServer(server.binaries.bin_dir, server.data_dir, user)


def wait_until_replayed(primary: ServerFacts, standby: ServerFacts) -> None:
    """Poll, because no stock server before 19 can wait for a position."""
    with primary.connect() as connection:
        connection.execute("checkpoint")
    end = value(primary, "select pg_current_wal_insert_lsn()")
    deadline_s = time.monotonic() + CATCH_UP_DEADLINE_S
    with standby.connect() as connection:
        while True:
            query = "select pg_last_wal_replay_lsn() >= %s::pg_lsn, pg_sleep(0.02)"
            row = connection.execute(query, [end]).fetchone()
            if row is not None and row[0]:
                return
            assert time.monotonic() < deadline_s, f"the standby did not replay up to {end}"


@dataclass(frozen=True, slots=True)
class Pair:
    """A primary on which the phases ran twice, its standby, and what was left open each time."""

    primary: Postgres
    standby: Postgres
    gids: list[list[str]]


@pytest.fixture(scope="module")
def pair(
    server_binaries: ServerBinaries, identity: Identity, cluster_template: Path
) -> Iterator[Pair]:
    fleet = Fleet(
        binaries=server_binaries,
        identity=identity,
        directory=new_run_root(identity),
        template=cluster_template,
    )
    try:
        primary = fleet.server("primary", settings=PostgresSettings(extra=SETTINGS))
        standby = start_with_standby(fleet, primary)
        gids = [
            run_phases(Run(server=facts(primary), rng=random.Random(SEED), number=number))
            for number in (1, 2)
        ]
        wait_until_replayed(facts(primary), facts(standby))
        yield Pair(primary, standby, gids)
    finally:
        fleet.close()


def test_each_run_leaves_its_own_transactions_prepared(pair: Pair) -> None:
    assert pair.gids == [[f"w{n}-open-{i}" for i in range(3)] for n in (1, 2)]


REACHED = {
    "every access method": "select count(distinct relam) >= 6 from pg_class where relkind = 'i'",
    "an invalid index": "select count(*) = 2 from pg_index where not indisvalid",
    "pages all-visible": "select sum(relallvisible) > 1000 from pg_class"
    " where relnamespace >= 16384",
    "unlogged tables": "select count(*) >= 4 from pg_class where relpersistence = 'u'"
    " and relkind = 'r'",
    "unlogged sequences": "select count(*) >= 2 from pg_class where relpersistence = 'u'"
    " and relkind = 'S'",
    "temporary files": "select temp_files >= 6 from pg_stat_database where datname = 'postgres'",
    "tablespaces in use": "select count(distinct reltablespace) >= 3 from pg_class",
    "moved databases": "select count(*) >= 4 from pg_database d join pg_tablespace t"
    " on t.oid = dattablespace where spcname <> 'pg_default'",
    "multixacts": "select next_multixact_id::text::bigint > 100 from pg_control_checkpoint()",
    "rows locked by prepared transactions": "select count(*) >= 3 from w2.locked"
    " where xmax::text::bigint > 0",
    "long values in chunks": "select count(distinct chunk_id) > 20 from {toast}",
    "large objects": "select count(*) >= 60 from pg_largeobject_metadata",
    "commit timestamps": "select count(pg_xact_commit_timestamp(xmin)) > 100 from w2.upserted",
    "no rows of the aborted": "select count(*) = 0 from w2.nested where id between 10101 and 13000",
}


@pytest.mark.parametrize("mechanism", REACHED)
def test_the_workload_reaches(pair: Pair, mechanism: str) -> None:
    server = facts(pair.primary)
    toasted = "select reltoastrelid::regclass from pg_class where oid = 'w2.toasted'::regclass"
    toast = value(server, toasted)
    assert value(server, REACHED[mechanism].replace("{toast}", str(toast))), mechanism


@pytest.mark.stock
def test_primary_and_standby_are_sound_and_equal_until_after_a_promotion(pair: Pair) -> None:
    primary, standby = facts(pair.primary), facts(pair.standby)
    expected = dump(primary)
    assert differences(expected, dump(standby), replayed=True) == []
    assert differences(dump_by_sql(primary), dump_by_sql(standby), replayed=True) == []
    assert index_findings(standby, databases=["w2_copy"]) == []
    with standby.connect("w2_log") as connection:
        assert scan_everything(connection).blocks > 500
    pair.standby.promote_blocking()
    assert differences(expected, dump(standby), replayed=True) == []
    assert differences(dump_by_sql(primary), dump_by_sql(standby), replayed=True) == []
    assert index_findings(standby) == []
    assert open_gids(standby) == pair.gids[-1]
    assert end_prepared_transactions(standby, random.Random(SEED)) == pair.gids[-1]
    assert data_checksum_failures(standby) == 0


# The costly phases.


@pytest.mark.stock
def test_a_relation_beyond_one_segment_grows_shrinks_and_grows(fleet: Fleet) -> None:
    primary = start(fleet)
    run = Run(server=facts(primary), rng=random.Random(SEED), number=1)
    a_relation_outgrows_its_first_segment(run)
    path = primary.data_dir / str(value(run.server, "select pg_relation_filepath('w1.huge')"))
    second = path.with_name(f"{path.name}.1")
    run.execute("checkpoint;\n")
    assert path.stat().st_size == 2**30
    assert second.stat().st_size == 1000 * 8192
    assert any(second.read_bytes()), "the second segment holds nothing"
    the_large_relation_shrinks_below_one_segment(run)
    run.execute("checkpoint;\n")
    assert path.stat().st_size < 2**30
    assert second.stat().st_size == 0
    the_large_relation_grows_again(run)
    run.execute("checkpoint;\n")
    assert second.stat().st_size > 0
    assert value(run.server, "select count(*) = 132000 from w1.huge")


@pytest.mark.stock
def test_slru_segments_are_born_and_removed(fleet: Fleet) -> None:
    primary = start(fleet)
    run = Run(server=facts(primary), rng=random.Random(SEED), number=1)
    folders = ["pg_xact", "pg_commit_ts", "pg_multixact/offsets", "pg_multixact/members"]
    burn_xids(run, 1_060_000)
    burn_multixacts(run, 70_000)
    run.execute("checkpoint;\n")
    for folder in folders:
        assert segments(primary, folder) >= {"0000", "0001"}
    freeze_everything(run.server, run.rng)
    for folder in folders:
        assert "0000" not in segments(primary, folder)
        assert segments(primary, folder)
    assert value(run.server, "select count(*) = 1 from pg_database where not datallowconn")


def segments(server: Postgres, folder: str) -> set[str]:
    return {path.name for path in (server.data_dir / folder).iterdir()}


@pytest.mark.stock
def test_counters_wrap_around_under_the_workload(fleet: Fleet) -> None:
    primary = fleet.server("primary", settings=PostgresSettings(extra=SETTINGS))
    stopped = stopped_server(fleet, primary)
    move_counters_near_wraparound(stopped, Distance(xids=3000, multixacts=300, members=600))
    standby = start_with_standby(fleet, primary)
    run = Run(server=facts(primary), rng=random.Random(SEED), number=1)
    assert value(run.server, "select next_xid from pg_control_checkpoint()") == f"0:{2**32 - 3000}"
    run_phases(run)
    burn_xids(run, 3000)
    burn_multixacts(run, 500)
    run_phases(Run(server=run.server, rng=run.rng, number=2))
    wait_until_replayed(run.server, facts(standby))
    control = "select {} from pg_control_checkpoint()"
    assert str(value(run.server, control.format("next_xid"))).startswith("1:")
    for counter in ("next_multixact_id", "next_multi_offset"):
        assert value(run.server, control.format(f"{counter}::text::bigint < 100000"))
    assert differences(dump(run.server), dump(facts(standby)), replayed=True) == []
    freeze_everything(run.server, run.rng)
    assert index_findings(run.server, databases=["postgres"]) == []
    assert "0FFF" not in segments(primary, "pg_xact")


# Each check reports what it is there for.

TINY = """
create table things (id int primary key, word text, tags int[], span int4range);
insert into things select i, 'word ' || i, array[i, i % 7], int4range(i, i + 3)
    from generate_series(1, 900) i;
create table others (a int, b int);
insert into others select i, -i from generate_series(1, 900) i;
create index others_a on others (a);
create sequence counter;
select nextval('counter');
vacuum others;
"""

LOSSES = {
    "broken_btree": "using btree (word)",
    "broken_partial": "using btree (id) where id > 1",
    "broken_hash": "using hash (word)",
    "broken_gin": "using gin (tags) with (fastupdate = off)",
    "broken_gist": "using gist (span)",
    "broken_spgist": "using spgist (word)",
}


@pytest.fixture
def tiny(fleet: Fleet) -> Run:
    """A server with two small tables."""
    run = Run(server=facts(start(fleet)), rng=random.Random(SEED), number=1)
    run.execute(TINY)
    return run


@pytest.mark.parametrize("dump_it", [dump, dump_by_sql])
@pytest.mark.parametrize(
    "change",
    [
        "update w1.things set word = 'wrong' where id = 700",
        "delete from w1.things where id = 1",
        "insert into w1.others select * from w1.others where a = 5",
        "drop index w1.others_a",
        "alter table w1.others alter a set not null",
        "comment on table w1.others is 'new'",
        "select lo_from_bytea(0, 'new')",
        "select setval('w1.counter', 1, false)",
        "select setval('w1.counter', 34)",
        "create database another",
    ],
)
def test_a_difference_is_reported(tiny: Run, change: str, dump_it: object) -> None:
    assert callable(dump_it)
    before = dump_it(tiny.server)
    assert differences(before, dump_it(tiny.server)) == []
    tiny.execute(change)
    assert differences(before, dump_it(tiny.server), replayed=True) != []


@pytest.mark.parametrize(("step", "steps", "is_forgiven"), [
    (1, 1, True), (1, 32, True), (1, 33, False), (1, -1, False), (-3, 32, True), (-3, -1, False),
])  # fmt: skip
def test_a_sequence_may_run_ahead_only_after_a_promotion(
    step: int, steps: int, is_forgiven: bool
) -> None:
    before = sequence_line("postgres", "s", step, last=10, called=True)
    after = sequence_line("postgres", "s", step, last=10 + step * steps, called=True)
    assert (differences(before, after, replayed=True) == []) is is_forgiven
    assert len(differences(before, after)) == 2


@pytest.mark.parametrize("use_amcheck", [True, False])
def test_a_row_that_an_index_misses_is_reported(tiny: Run, use_amcheck: bool) -> None:
    # An index that is not ready for inserts takes none, so it misses the row ever after.
    switch = "update pg_index set indisready = {} where indexrelid::regclass::text ~ 'broken';\n"
    row = "insert into things values (5000, 'lost', array[5000], int4range(5000, 5001));\n"
    for name, definition in LOSSES.items():
        tiny.execute(f"create index {name} on things {definition};\n")
    assert findings(tiny, use_amcheck=use_amcheck) == []
    tiny.execute(switch.format("false") + row)
    tiny.execute(switch.format("true"))
    found = findings(tiny, use_amcheck=use_amcheck)
    named = {finding.split("w1.")[1].split(":")[0] for finding in found}
    assert named == set(LOSSES)


def findings(run: Run, *, use_amcheck: bool) -> list[str]:
    return index_findings(run.server, databases=["postgres"], use_amcheck=use_amcheck)


@pytest.mark.parametrize("use_amcheck", [True, False])
def test_wrong_keys_in_an_index_are_reported(tiny: Run, use_amcheck: bool) -> None:
    # The index keeps the values of column a, and the catalog says that they are those of b.
    tiny.execute("update pg_index set indkey = '2' where indexrelid = 'w1.others_a'::regclass;\n")
    found = findings(tiny, use_amcheck=use_amcheck)
    assert any("index w1.others_a" in finding for finding in found)
    if not use_amcheck:
        assert any("keys are" in finding for finding in found)


@pytest.mark.parametrize("use_amcheck", [True, False])
def test_a_damaged_page_is_reported(fleet: Fleet, tiny: Run, use_amcheck: bool) -> None:
    tiny.execute("create index things_span on things using gist (span);\n")
    damage(fleet, tiny, ["w1.others", "w1.things_pkey", "w1.things_span"])
    assert data_checksum_failures(tiny.server) == 0
    found = "\n".join(findings(tiny, use_amcheck=use_amcheck))
    assert found.count("invalid page") >= 3
    for name in ("others", "things_pkey", "things_span"):
        assert f"w1.{name}" in found
    assert data_checksum_failures(tiny.server) > 0
    with tiny.server.connect() as connection, pytest.raises((psycopg.Error, RuntimeError)):
        scan_everything(connection)


def damage(fleet: Fleet, run: Run, relations: list[str], *, block: int = 2, fork: str = "") -> None:
    """Spoil a block of each relation while the server is down."""
    (server,) = fleet.servers
    paths = [value(run.server, f"select pg_relation_filepath('{name}')") for name in relations]
    server.stop_blocking()
    for path in paths:
        with (server.data_dir / f"{path}{fork}").open("r+b") as file:
            file.seek(block * 8192 + 5000)
            file.write(b"damage")
    server.start_blocking()


def test_a_damaged_map_is_reported_where_each_block_can_be_read(fleet: Fleet, tiny: Run) -> None:
    with tiny.server.connect() as connection:
        if not has_extension(connection, "pg_prewarm"):
            pytest.skip("the server has no pg_prewarm")
        assert scan_everything(connection).every_block
    damage(fleet, tiny, ["w1.others"], block=0, fork="_vm")
    with tiny.server.connect() as connection, pytest.raises(psycopg.Error, match="invalid page"):
        scan_everything(connection)


def test_a_cluster_without_checksums_is_not_called_free_of_failures(
    fleet: Fleet, tiny: Run
) -> None:
    (server,) = fleet.servers
    assert data_checksum_failures(tiny.server) == 0
    server.stop_blocking()
    stopped_server(fleet, server).run("pg_checksums", "--disable", "-N", "-D", str(server.data_dir))
    server.start_blocking()
    with pytest.raises(ValueError, match="no data checksums"):
        data_checksum_failures(tiny.server)


def test_every_phase_says_what_it_does() -> None:
    names = [phase.__name__ for phase in PHASES]
    assert len(set(names)) == len(names)
    assert all(phase.__doc__ for phase in PHASES)
