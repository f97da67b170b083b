"""Which anomalies a history of transactions on lists has that its isolation level forbids. Pure.

    level               forbidden
    any                 garbage, duplicates, incompatible orders, G1a (aborted read), G1b
                        (intermediate read), own appends not seen, lost appends, stale reads
    read committed      cycles of ww (G0), of ww and wr (G1c)
    repeatable read     also cycles in which no two rw follow each other: one rw (G-single: lost
                        update, read skew), or several (G-nonadjacent). Write skew is allowed.
    serializable        every cycle (G2)

rt is a reason like ww and wr at every level, because on one primary all three say that one commit
came before the other. For serializable that is strict serializability. PostgreSQL has it, too: of
a cycle take the transaction C that commits first. What leads to it can only be rw, from a B that
ran at the same time; and what leads to B only rw as well, because ww, wr and rt would have had
their start commit before C. That is the structure which PostgreSQL aborts.

A cycle that needs rt is named so ("G1c-realtime"), because a system may promise all but that.
Anomalies are named as Adya and Elle name them.
"""

import contextlib
import gc
import itertools
from collections.abc import Iterator, Sequence
from typing import Final

from .dependencies import Dependencies, Edge, Finding, dependencies, name_of
from .graph import Successors, components, short_cycle
from .history import Level, Lists, Result

COMPONENTS_TOLD_MAX: Final = 10  # one is enough to fail; more only help to understand
STARTS_TRIED_MAX: Final = 20  # in search of a short cycle
TRANSACTIONS_TOLD_MAX: Final = 8

WRITES: Final = (Edge.WW,)
READS: Final = (Edge.WW, Edge.WR)
ALL: Final = (Edge.WW, Edge.WR, Edge.RW)


def list_append_findings(history: Sequence[Lists], level: Level) -> list[Finding]:
    """All that is forbidden at a level; all transactions of the history must have that level."""
    assert all(one.level is level for one in history), "one history for each isolation level"
    with _no_garbage_collector():
        graph = dependencies(history)
        return [*graph.findings, *_lost_updates(graph, level), *_cycles(graph, level)]


@contextlib.contextmanager
def _no_garbage_collector() -> Iterator[None]:
    """A million lists are made here, none of them garbage; looking for it costs half the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _lost_updates(graph: Dependencies, level: Level) -> Iterator[Finding]:
    """Two that saw the same version of a list and both went on to append to it."""
    if level is Level.READ_COMMITTED:
        return
    appended = {(key, writer) for (key, _), writer in graph.writers.items()}
    first: dict[tuple[int, int], int] = {}
    for read in graph.reads:
        if (read.key, read.node) not in appended:
            continue
        other = first.setdefault((read.key, read.length), read.node)
        if other != read.node:
            text = (
                f"{name_of(graph.happened[other])} and {name_of(graph.happened[read.node])} both "
                f"saw {read.length} values in list {read.key} and appended to it"
            )
            yield Finding("lost update", text)


def _cycles(graph: Dependencies, level: Level) -> Iterator[Finding]:
    stages = _stages(level)
    kinds, is_nonadjacent = stages[-1]
    found = _components(graph, range(graph.count), kinds, is_nonadjacent=is_nonadjacent)
    for nodes in itertools.islice(found, COMPONENTS_TOLD_MAX):
        for stage_kinds, stage_nonadjacent in stages:
            cycle = _cycle(graph, nodes, stage_kinds, is_nonadjacent=stage_nonadjacent)
            if cycle:
                yield _described(graph, cycle, stage_kinds)
                break


def _stages(level: Level) -> list[tuple[tuple[Edge, ...], bool]]:
    """What to look for, the worst first, and without the clock first; the last has all the rest."""
    stages: list[tuple[tuple[Edge, ...], bool]] = [(WRITES, False), (READS, False)]
    if level is not Level.READ_COMMITTED:
        stages.append((ALL, True))
    if level is Level.SERIALIZABLE:
        stages.append((ALL, False))
    return stages + [((*kinds, Edge.RT), nonadjacent) for kinds, nonadjacent in stages]


# States. To find cycles in which no two rw follow each other, a node is split in two: `2n + 1` was
# reached by rw and may not be left by it, `2n` was reached otherwise. A cycle of states is such a
# cycle, because it comes back to the state that it began with.


def _successors(
    graph: Dependencies, kinds: Sequence[Edge], inside: frozenset[int] | None, *, split: bool
) -> Successors:
    lists = [(graph.edges[kind], kind is Edge.RW) for kind in kinds]

    def plain(node: int) -> list[int]:
        found: list[int] = []
        for edges, _ in lists:
            found += edges[node]
        return found if inside is None else [t for t in found if t in inside]

    def states(state: int) -> list[int]:
        found: list[int] = []
        for edges, is_rw in lists:
            if is_rw and state & 1:
                continue
            found += [2 * target + is_rw for target in edges[state >> 1]]
        return found if inside is None else [t for t in found if t >> 1 in inside]

    return states if split else plain


def _components(
    graph: Dependencies,
    nodes: Sequence[int],
    kinds: Sequence[Edge],
    *,
    is_nonadjacent: bool,
) -> Iterator[frozenset[int]]:
    """The nodes of each component."""
    inside = None if len(nodes) == graph.count else frozenset(nodes)
    successors = _successors(graph, kinds, inside, split=is_nonadjacent)
    if not is_nonadjacent:
        for found in components(graph.count, successors, nodes):
            yield frozenset(found)
        return
    roots = [2 * node + bit for node in nodes for bit in (0, 1)]
    for found in components(2 * graph.count, successors, roots):
        yield frozenset(state >> 1 for state in found)


def _cycle(
    graph: Dependencies, nodes: frozenset[int], kinds: Sequence[Edge], *, is_nonadjacent: bool
) -> list[int]:
    """A short cycle among the nodes by these kinds of edges; empty if there is none."""
    count = graph.count * (2 if is_nonadjacent else 1)
    successors = _successors(graph, kinds, nodes, split=is_nonadjacent)
    roots = [2 * n + b for n in sorted(nodes) for b in (0, 1)] if is_nonadjacent else sorted(nodes)
    found = next(components(count, successors, roots), None)
    if found is None:
        return []
    cycle = short_cycle(sorted(found)[:STARTS_TRIED_MAX], successors)
    return [state >> 1 for state in cycle] if is_nonadjacent else cycle


def _described(graph: Dependencies, cycle: Sequence[int], kinds: Sequence[Edge]) -> Finding:
    """Name a cycle after its edges, and tell it."""
    chain = [node for node in cycle[:-1] if node < len(graph.happened)]
    edges = [
        _edge(graph, one, other, kinds)
        for one, other in zip(chain, [*chain[1:], chain[0]], strict=True)
    ]
    told = [
        f"{name_of(graph.happened[node])} -{edge.name.lower()}->"
        for node, edge in zip(chain, edges, strict=True)
    ][:TRANSACTIONS_TOLD_MAX]
    if len(chain) > TRANSACTIONS_TOLD_MAX:
        told.append(f"{len(chain) - TRANSACTIONS_TOLD_MAX} more ->")
    is_realtime = Edge.RT in edges
    anomaly = cycle_name(edges) + ("-realtime" if is_realtime else "")
    text = " ".join([*told, "the first"])
    return Finding(anomaly, text, is_realtime=is_realtime)


def _edge(graph: Dependencies, one: int, other: int, kinds: Sequence[Edge]) -> Edge:
    """Why one comes before another; what is left when it is neither of the items is the clock."""
    for kind in (Edge.WW, Edge.WR, Edge.RW):
        if kind in kinds and other in graph.edges[kind][one]:
            return kind
    assert graph.happened[one].result is Result.OK, "only who returned comes before by the clock"
    return Edge.RT


def cycle_name(edges: Sequence[Edge]) -> str:
    """The anomaly that a cycle is; the clock's edges count as ww."""
    rw = [edge is Edge.RW for edge in edges]
    if not any(rw):
        return "G1c" if Edge.WR in edges else "G0"
    if sum(rw) == 1:
        return "G-single"
    is_adjacent = any(a and b for a, b in zip(rw, [*rw[1:], rw[0]], strict=True))
    return "G2" if is_adjacent else "G-nonadjacent"
