"""Whether a storage node's newest cut has the rows that its primary has.

The cut is written out as a plain data directory, and a stock server opens it as a standby of the
log, because it needs the WAL from the cut's redo position on. It is asked at the cut: there is
nothing in the log behind it.
"""

import shutil
from collections.abc import Sequence
from typing import Final

from bench.pagefault.workspace import QUIET, connected
from sqlnode.postgres import Postgres, PostgresSettings, request_standby

from .world import EMPTY_DIRECTORIES, MAX_CONNECTIONS, World, WorldError, wait_for_replay

REPLAY_DEADLINE_S: Final = 60.0


def require_same_rows(world: World, node: str, tables: Sequence[str]) -> None:
    """Compare the rows of a cut at the end of the WAL, by count and hash, with the primary's."""
    place = world.place
    data_dir = place.new_directory("v") / "data"
    cut = world.control.materialise(node, data_dir)
    for name in EMPTY_DIRECTORIES:
        (data_dir / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    place.identity.give_tree(data_dir)
    request_standby(data_dir, place.identity)
    server = Postgres(
        binaries=place.binaries,
        data_dir=data_dir,
        run_dir=data_dir.parent,
        identity=place.identity,
        settings=PostgresSettings(
            extra={
                **QUIET,
                "max_connections": MAX_CONNECTIONS,
                "primary_conninfo": world.standby_conninfo(),
            }
        ),
    )
    try:
        server.start_blocking()
        wait_for_replay(server, cut.lsn, deadline_s=REPLAY_DEADLINE_S)
        have, want = _sums(server, tables), _sums(world.primary, tables)
    finally:
        server.kill_blocking()
        shutil.rmtree(data_dir.parent)
    if have != want:
        raise WorldError(f"{node} has at {cut.lsn} (rows, hash) {have}, and the primary {want}")


def _sums(server: Postgres, tables: Sequence[str]) -> dict[str, object]:
    with connected(server) as session:
        return {
            table: session.execute(
                f"select count(*), sum(hashtext(t::text)::bigint) from {table} t".encode()  # noqa: S608  # our own names
            ).fetchone()
            for table in tables
        }
