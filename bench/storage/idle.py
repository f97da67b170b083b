"""What a branch costs a node when nothing happens: no engine, and next to no processor time."""

import time
from typing import Final

from bench.pagefault.pgbench import find_pgbench
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace

from .loads import make_tables
from .processes import engine_processes, process_cpu_s
from .world import World, WorldError, storage_world, until

IDLE_STOP_S: Final = 2
STOP_DEADLINE_S: Final = 30.0
WINDOW_S: Final = 30
WINDOW_QUICK_S: Final = 10


def measure_idle(place: Workspace, *, quick: bool) -> Outcome:
    """Take a cut, wait until the engine is gone, and look for a while."""
    window_s = WINDOW_QUICK_S if quick else WINDOW_S
    with storage_world(place, engine_idle_stop_s=IDLE_STOP_S) as world:
        make_tables(find_pgbench(place.binaries), world, scale=1)
        world.cut()
        before = len(engine_processes(world.store.pid))
        if not before:
            raise WorldError("no engine was seen behind a cut: the bar could not be missed")
        until(lambda: _is_idle(world), "the end of the engine", deadline_s=STOP_DEADLINE_S)
        began_s, cpu_s = time.monotonic(), process_cpu_s(world.store.pid)
        time.sleep(window_s)
        used_s = process_cpu_s(world.store.pid) - cpu_s
        percent = used_s / (time.monotonic() - began_s) * 100
        engines = len(engine_processes(world.store.pid))
    return Outcome(
        benchmark="idle",
        settings={"engine_idle_stop_s": IDLE_STOP_S, "window_s": window_s},
        measurements=[
            Measurement("idle_engines", "", (float(engines),)),
            Measurement("idle_core_percent", "%", (percent,)),
            Measurement("engine_processes_at_work", "", (float(before),)),
        ],
    )


def _is_idle(world: World) -> bool:
    """No engine, and its directory is gone too: deleting that is the end of its work."""
    directories = [path for path in world.store.spec.run_path.iterdir() if path.is_dir()]
    return not directories and not engine_processes(world.store.pid)
