"""All workloads by name.

    workload("tpcb").run(address, LoadSettings(clients=8, seconds=10, seed=1))

Those of pgbench are carried out by pgbench where there is one, and by our own driver, with the same
statements on the same tables, where there is none; `LoadOutcome.driver` says which it was. The
names with `asyncpg` always take our own: for systems that change their primary meanwhile.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Final

from .copy_load import CopyLoad
from .load import Workload
from .pgbench_binary import PgbenchLoad, find_program
from .tally import LoadError
from .tpcb import AsyncpgTpcb, Builtin
from .tpcc_load import Tpcc
from .write_only import WriteOnly
from .ycsb import MIXES, Ycsb


def _builtin(name: str, kind: Builtin) -> Workload:
    program = find_program()
    return AsyncpgTpcb(name, kind) if program is None else PgbenchLoad(name, kind, program)


_MAKERS: Final[Mapping[str, Callable[[], Workload]]] = {
    "tpcb": lambda: _builtin("tpcb", Builtin.TPCB),
    "tpcb-asyncpg": lambda: AsyncpgTpcb("tpcb-asyncpg", Builtin.TPCB),
    "simple-update": lambda: _builtin("simple-update", Builtin.SIMPLE_UPDATE),
    "select-only": lambda: _builtin("select-only", Builtin.SELECT_ONLY),
    "tpcc": Tpcc,
    **{f"ycsb-{letter}": functools.partial(Ycsb, letter) for letter in MIXES},
    "copy": CopyLoad,
    "write-only": WriteOnly,
}

NAMES: Final = tuple(_MAKERS)


def workload(name: str) -> Workload:
    """The workload of that name; LoadError if there is none."""
    maker = _MAKERS.get(name)
    if maker is None:
        raise LoadError(f"there is no workload {name}: use one of {', '.join(NAMES)}")
    return maker()
