"""What transactions on lists say about their order. Pure.

Nothing but appends makes a list, so a list that was read tells the order of all appends to it: the
longest one is the key's *version order*, and every other must be a beginning of it. From there:

    ww   the writer of a version comes before the writer of the next one
    wr   the writer of a version comes before whoever read it
    rw   who read a version comes before the writer of the next one
    rt   who returned before another one was called comes before it

Nodes are numbers: first the transactions that happened, then one for each return, because real time
without these would be a square of edges. A transaction with an unknown result has happened if
somebody saw an append of it.
"""

import itertools
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from .history import Append, Level, Lists, Result

NOBODY: Final = -1  # the writer of a value of a transaction that did not happen


class Edge(IntEnum):
    """Why one transaction comes before another."""

    WW = 0
    WR = 1
    RW = 2
    RT = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a history."""

    anomaly: str
    text: str
    is_realtime: bool = False  # there is an order; it is only not the clock's


@dataclass(frozen=True, slots=True)
class ExternalRead:
    """How much of a list a transaction saw, without what it had appended itself."""

    node: int
    key: int
    length: int


@dataclass(slots=True)
class Dependencies:
    """The graph of one history, and what was wrong with what was read."""

    happened: list[Lists]
    orders: dict[int, tuple[int, ...]]
    writers: dict[tuple[int, int], int]
    findings: list[Finding] = field(default_factory=list)
    reads: list[ExternalRead] = field(default_factory=list)
    unseen: dict[int, list[int]] = field(default_factory=dict)  # writers whose value nobody read
    edges: list[list[list[int]]] = field(default_factory=list)  # by kind, then by node

    @property
    def count(self) -> int:
        """How many nodes there are."""
        return len(self.edges[Edge.WW])

    def writer_at(self, key: int, position: int) -> int:
        """Who appended the value at a place of the version order."""
        return self.writers.get((key, self.orders[key][position]), NOBODY)


def dependencies(history: Sequence[Lists]) -> Dependencies:
    """Infer all that there is to infer."""
    findings: list[Finding] = []
    orders = _version_orders(history, findings)
    happened = [one for one in history if _has_happened(one, orders)]
    writers = {
        (step.key, step.value): node
        for node, one in enumerate(happened)
        for step in one.steps
        if isinstance(step, Append)
    }
    graph = Dependencies(happened, orders, writers, findings)
    for node, one in enumerate(happened):
        if one.result is Result.OK:
            graph.reads += _external_reads(node, one, findings)
    _judge_values(graph, history)
    count = len(happened) + sum(one.result is Result.OK for one in happened)
    graph.edges = [[[] for _ in range(count)] for _ in Edge]
    _add_item_edges(graph)
    _add_realtime_edges(graph)
    return graph


def name_of(transaction: Lists) -> str:
    """How findings speak of a transaction."""
    first = next((s for s in transaction.steps if isinstance(s, Append)), None)
    told = f" that appended {first.value} to {first.key}" if first else ""
    return f"process {transaction.process} at {transaction.invoke_ns / 1e9:.6f} s{told}"


# Version orders.


def _version_orders(
    history: Sequence[Lists], findings: list[Finding]
) -> dict[int, tuple[int, ...]]:
    orders: dict[int, tuple[int, ...]] = {}
    reads = [
        (step.key, step.values or ())
        for one in history
        if one.result is Result.OK
        for step in one.steps
        if not isinstance(step, Append)
    ]
    for one in history:
        for step in one.steps:
            orders.setdefault(step.key, ())
    for key, values in reads:
        if len(values) > len(orders[key]):
            orders[key] = values
    told: set[int] = set()
    for key, values in reads:
        if values != orders[key][: len(values)] and key not in told:
            told.add(key)
            text = f"list {key} was read as {_short(values)} and as {_short(orders[key])}"
            findings.append(Finding("incompatible order", text))
    return orders


def _short(values: Sequence[int]) -> str:
    shown = ", ".join(map(str, values[-8:]))
    return f"[{'..., ' if len(values) > 8 else ''}{shown}]"  # noqa: PLR2004  # the same 8


def _has_happened(transaction: Lists, orders: dict[int, tuple[int, ...]]) -> bool:
    if transaction.result is Result.UNKNOWN:
        return any(
            isinstance(step, Append) and step.value in orders[step.key]
            for step in transaction.steps
        )
    return transaction.result is Result.OK


# What is wrong with single reads.


def _external_reads(
    node: int, transaction: Lists, findings: list[Finding]
) -> Iterator[ExternalRead]:
    own: dict[int, tuple[int, ...]] = {}
    seen: dict[int, tuple[int, ...]] = {}
    for step in transaction.steps:
        if isinstance(step, Append):
            own[step.key] = (*own.get(step.key, ()), step.value)
            continue
        values, mine = step.values or (), own.get(step.key, ())
        if mine and values[-len(mine) :] != mine:
            text = f"{name_of(transaction)} did not see its own append in {_short(values)}"
            findings.append(Finding("internal", text))
            continue
        external = values[: len(values) - len(mine)]
        if transaction.level is not Level.READ_COMMITTED:
            before = seen.setdefault(step.key, external)
            if before != external:
                text = (
                    f"{name_of(transaction)} saw list {step.key} as {_short(before)}, "
                    f"then as {_short(external)}"
                )
                findings.append(Finding("internal", text))
        yield ExternalRead(node, step.key, len(external))


def _judge_values(graph: Dependencies, history: Sequence[Lists]) -> None:
    """Look at every value of every version order, and at who did not see it."""
    aborted = {
        (step.key, step.value)
        for one in history
        if one.result is Result.FAIL
        for step in one.steps
        if isinstance(step, Append)
    }
    for key, order in graph.orders.items():
        if len(set(order)) < len(order):
            text = f"a value is twice in list {key}: {_short(order)}"
            graph.findings.append(Finding("duplicate", text))
        for value in order:
            if (key, value) in graph.writers:
                continue
            if (key, value) in aborted:
                text = f"{value} is in list {key}, and its transaction has failed"
                graph.findings.append(Finding("G1a", text))
            else:
                text = f"{value} is in list {key}, and nobody appended it"
                graph.findings.append(Finding("garbage", text))
    in_order = {(key, value) for key, order in graph.orders.items() for value in order}
    for (key, value), writer in graph.writers.items():
        if (key, value) not in in_order:
            graph.unseen.setdefault(key, []).append(writer)
    _judge_intermediate(graph)
    _judge_staleness(graph)


def _judge_intermediate(graph: Dependencies) -> None:
    last: dict[tuple[int, int], int] = {}  # of a key and a writer: its last value
    for (key, value), writer in graph.writers.items():
        last[key, writer] = value  # dictionaries keep the order of the steps
    for read in graph.reads:
        if not read.length:
            continue
        writer = graph.writer_at(read.key, read.length - 1)
        value = graph.orders[read.key][read.length - 1]
        if writer not in {NOBODY, read.node} and last[read.key, writer] != value:
            text = (
                f"{name_of(graph.happened[read.node])} saw {value} in list {read.key}, behind "
                "which its transaction appended more"
            )
            graph.findings.append(Finding("G1b", text))


def _judge_staleness(graph: Dependencies) -> None:
    """Reads that lack what was acknowledged before they were asked for."""
    lost: set[tuple[int, int]] = set()
    soonest: dict[int, list[tuple[int, int]]] = {}  # (return, writer) of all from a place on
    for key, order in graph.orders.items():
        best = min(
            ((_return_ns(graph, w), w) for w in graph.unseen.get(key, ())), default=(_NEVER_NS, -1)
        )
        suffix = [best]
        for value in reversed(order):
            writer = graph.writers.get((key, value), NOBODY)
            suffix.append(min(suffix[-1], (_return_ns(graph, writer), writer)))
        soonest[key] = suffix[::-1]
    for read in graph.reads:
        return_ns, writer = soonest[read.key][read.length]
        reader = graph.happened[read.node]
        if return_ns >= reader.invoke_ns:
            continue
        is_lost = writer in graph.unseen.get(read.key, ())
        if is_lost and (read.key, writer) in lost:
            continue
        lost.add((read.key, writer))
        text = (
            f"{name_of(reader)} does not see in list {read.key} the append of "
            f"{name_of(graph.happened[writer])}, acknowledged before"
        )
        anomaly = "lost append" if is_lost else "stale read"
        graph.findings.append(Finding(anomaly, text, is_realtime=not is_lost))


_NEVER_NS: Final = 1 << 63


def _return_ns(graph: Dependencies, writer: int) -> int:
    if writer == NOBODY or graph.happened[writer].result is not Result.OK:
        return _NEVER_NS
    return graph.happened[writer].return_ns


# Edges.


def _add_item_edges(graph: Dependencies) -> None:
    ww, wr, rw = graph.edges[Edge.WW], graph.edges[Edge.WR], graph.edges[Edge.RW]
    for key, order in graph.orders.items():
        chain = [graph.writers.get((key, value), NOBODY) for value in order]
        for one, other in itertools.pairwise(chain):
            if one != other and NOBODY not in {one, other}:
                ww[one].append(other)
        if chain and chain[-1] != NOBODY:
            ww[chain[-1]] += [w for w in graph.unseen.get(key, ()) if w != chain[-1]]
    for read in graph.reads:
        order = graph.orders[read.key]
        if read.length:
            writer = graph.writer_at(read.key, read.length - 1)
            if writer not in {NOBODY, read.node}:
                wr[writer].append(read.node)
        if read.length < len(order):
            nexts = [graph.writer_at(read.key, read.length)]
        else:
            nexts = graph.unseen.get(read.key, [])
        rw[read.node] += [w for w in nexts if w not in {NOBODY, read.node}]


def _add_realtime_edges(graph: Dependencies) -> None:
    """Transaction -> its return -> the next return -> ... -> whoever was called after it."""
    rt = graph.edges[Edge.RT]
    first = len(graph.happened)
    returns = sorted(
        (one.return_ns, node) for node, one in enumerate(graph.happened) if one.result is Result.OK
    )
    for number, (_, node) in enumerate(returns):
        rt[node].append(first + number)
        if number:
            rt[first + number - 1].append(first + number)
    times = [return_ns for return_ns, _ in returns]
    for node, one in enumerate(graph.happened):
        before = bisect_left(times, one.invoke_ns)
        if before:
            rt[first + before - 1].append(node)
