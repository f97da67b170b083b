"""How soon a compute opens: for reads over a cluster of many files, for writes behind a tail.

The clock starts when a broker process that is up (interpreter started, modules imported, as an
agent is long before it gets its orders) begins to describe the cut; the run directory holds
nothing but its settings then. It stops when psycopg's first `select 1` over a new connection is
answered, or when the first INSERT is committed. In between, and reported one by one:

    describe   list the files of the cut, with their lengths
    build      make the data directory and the block map
    serve      open the broker's socket
    wal        copy the WAL from the redo pointer on
    postgres   start postgres as a hot standby, until it says that it is ready
    query      connect, and the first answer: the catalogs that a session needs fault in
    promote    (writable only) replay the tail and end recovery
    insert     (writable only) connect, insert, commit

The start of the broker's interpreter is reported beside it and counts towards neither.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlnode.lazy_compute import LazyCompute
from sqlnode.postgres import request_standby
from sqlnode.wal_files import copy_wal

from .images import PGBENCH_SUMS, Image, TailedImage
from .machine import prepare_round
from .report import Measurement, Outcome
from .warm_process import WarmBroker
from .workspace import Workspace, connected, one_value

BACKED_BYTES: Final = 512 << 20
SHARED_BUFFERS: Final = "128MB"
WARM_PROMOTE_DEADLINE_S: Final = 60.0


class OpeningError(Exception):
    """The compute opened with other contents than the primary's."""


@dataclass(slots=True)
class Stopwatch:
    """Names the stretches of time between its laps."""

    started_s: float = field(default_factory=time.perf_counter)
    phases_ms: dict[str, float] = field(default_factory=dict)
    _last_s: float = 0.0

    def __post_init__(self) -> None:
        self._last_s = self.started_s

    def lap(self, phase: str, *, inside: Mapping[str, float] | None = None) -> None:
        """End a phase; `inside` are shorter ones that it is made of, named by somebody else."""
        now_s = time.perf_counter()
        parts = dict(inside or {})
        self.phases_ms |= parts
        self.phases_ms[phase] = (now_s - self._last_s) * 1000 - sum(parts.values())
        self._last_s = now_s

    @property
    def total_ms(self) -> float:
        """From the start to the last lap."""
        return (self._last_s - self.started_s) * 1000


@dataclass(frozen=True, slots=True)
class Opening:
    """One start of a compute."""

    total_ms: float
    phases_ms: Mapping[str, float]
    interpreter_ms: float


def measure_cold_start(workspace: Workspace, image: Image, *, files: int, quick: bool) -> Outcome:
    """From an image's directory to the first answer."""
    rounds = 3 if quick else 9
    openings = [_open(workspace, image) for _ in range(rounds)]
    name = f"cold_start_{files}"
    return Outcome(
        benchmark=name,
        settings={"files": image.files, "rounds": rounds, "shared_buffers": SHARED_BUFFERS},
        measurements=[
            Measurement(f"{name}_ms", "ms", tuple(opening.total_ms for opening in openings)),
            *phase_measurements(name, openings),
        ],
    )


def measure_writable(workspace: Workspace, image: TailedImage, *, quick: bool) -> Outcome:
    """From an image's directory to the first committed INSERT."""
    rounds = 2 if quick else 7
    openings = [_open_for_writes(workspace, image) for _ in range(rounds)]
    return Outcome(
        benchmark="writable",
        settings={
            "tail_bytes": image.tail_bytes,
            "rounds": rounds,
            "shared_buffers": SHARED_BUFFERS,
        },
        measurements=[
            Measurement(
                "writable_16mib_tail_s", "s", tuple(opening.total_ms / 1000 for opening in openings)
            ),
            *phase_measurements("writable", openings),
        ],
    )


def phase_measurements(name: str, openings: Sequence[Opening]) -> list[Measurement]:
    """What the totals are made of, and the interpreter beside them."""
    phases = [
        Measurement(
            f"{name}.{phase}", "ms", tuple(opening.phases_ms[phase] for opening in openings)
        )
        for phase in openings[0].phases_ms
    ]
    interpreter = tuple(opening.interpreter_ms for opening in openings)
    return [*phases, Measurement(f"{name}.interpreter_beside", "ms", interpreter)]


def _open(workspace: Workspace, image: Image) -> Opening:
    prepare_round(workspace.directory, BACKED_BYTES, read=image.data_dir)
    with (
        workspace.compute(
            image.data_dir, wal_dir=image.wal_dir, shared_buffers=SHARED_BUFFERS
        ) as node,
        WarmBroker(node.spec) as broker,
    ):
        watch = _start(node, broker)
        with connected(node.postgres) as session:
            one_value(session, "select 1")
            watch.lap("query")
    return Opening(watch.total_ms, watch.phases_ms, broker.interpreter_ms)


def _open_for_writes(workspace: Workspace, image: TailedImage) -> Opening:
    prepare_round(workspace.directory, BACKED_BYTES, read=image.data_dir)
    with (
        workspace.compute(
            image.data_dir, wal_dir=image.tail_dir, shared_buffers=SHARED_BUFFERS
        ) as node,
        WarmBroker(node.spec) as broker,
    ):
        watch = _start(node, broker)
        node.postgres.promote_blocking(WARM_PROMOTE_DEADLINE_S)
        watch.lap("promote")
        with connected(node.postgres) as session:
            session.execute("insert into pgbench_history (tid, delta) values (0, 0)")
            watch.lap("insert")
            session.execute("delete from pgbench_history where tid = 0")
            if one_value(session, PGBENCH_SUMS) != image.answer:
                raise OpeningError("the promoted compute's balances differ from the primary's")
    return Opening(watch.total_ms, watch.phases_ms, broker.interpreter_ms)


def _start(node: LazyCompute, broker: WarmBroker) -> Stopwatch:
    """Up to a hot standby that takes connections."""
    watch = Stopwatch()
    phases_ms = broker.serve()
    watch.lap("orders", inside=phases_ms)
    control = node.postgres.control()
    assert node.spec.wal_dir is not None
    copy_wal(
        node.spec.wal_dir,
        node.paths.data,
        control.redo,
        segment_bytes=control.wal_segment_bytes,
    )
    for path in (node.paths.data / "pg_wal").iterdir():
        node.spec.identity.give(path)
    request_standby(node.paths.data, node.spec.identity)
    watch.lap("wal")
    node.postgres.start_blocking()
    watch.lap("postgres")
    return watch
