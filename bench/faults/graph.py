"""Directed graphs of numbered nodes: strongly connected components, and short cycles. Pure.

Without recursion, because histories have hundreds of thousands of nodes.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator

Successors = Callable[[int], Iterable[int]]


def components(count: int, successors: Successors, roots: Iterable[int]) -> Iterator[list[int]]:
    """Tarjan's algorithm from the roots on; only the components of more than one node."""
    order = [0] * count  # when a node was first seen; 0: not yet
    low = [0] * count
    on_stack = bytearray(count)
    stack: list[int] = []
    # Each entry: a node, and those of its successors that were not looked at yet.
    work: list[tuple[int, Iterator[int]]] = []
    found: list[list[int]] = []
    ticks = itertools.count(1)

    def enter(node: int) -> None:
        order[node] = low[node] = next(ticks)
        stack.append(node)
        on_stack[node] = 1
        work.append((node, iter(successors(node))))

    for root in roots:
        if not order[root]:
            enter(root)
        while work:
            node, rest = work[-1]
            for target in rest:
                if not order[target]:
                    enter(target)
                    break
                if on_stack[target] and order[target] < low[node]:
                    low[node] = order[target]
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == order[node]:
                    found.append(_popped(stack, on_stack, node))
        yield from (component for component in found if len(component) > 1)
        found.clear()


def _popped(stack: list[int], on_stack: bytearray, root: int) -> list[int]:
    component: list[int] = []
    while not component or component[-1] != root:
        node = stack.pop()
        on_stack[node] = 0
        component.append(node)
    return component


def path(start: int, goal: int, successors: Successors) -> list[int]:
    """The shortest way from one node to another, both included; empty if there is none.

    From a node to itself it is a cycle, of one edge at least.
    """
    before: dict[int, int] = {}
    ahead = deque([start])
    while ahead:
        node = ahead.popleft()
        for target in successors(node):
            if target == goal:
                return _traced(before, start, node, goal)
            if target not in before and target != start:
                before[target] = node
                ahead.append(target)
    return []


def _traced(before: dict[int, int], start: int, last: int, goal: int) -> list[int]:
    way = [goal, last]
    while way[-1] != start:
        way.append(before[way[-1]])
    return way[::-1]


def short_cycle(nodes: Iterable[int], successors: Successors) -> list[int]:
    """The shortest cycle through any of the nodes; its first node is also its last."""
    found: list[int] = []
    for node in nodes:
        cycle = path(node, node, successors)
        if cycle and (not found or len(cycle) < len(found)):
            found = cycle
    return found
