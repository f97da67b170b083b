"""Components and cycles are those that looking at all ways finds.

In scope: graph.py against reachability on random graphs.
"""

import itertools
import random

import pytest

from bench.faults.graph import components, path, short_cycle

Graph = dict[int, list[int]]


def random_graph(rng: random.Random) -> Graph:
    count = rng.randint(1, 12)
    return {node: [rng.randrange(count) for _ in range(rng.randint(0, 2))] for node in range(count)}


def reachable(graph: Graph, start: int) -> set[int]:
    """All that can be reached by one edge at least."""
    found: set[int] = set()
    ahead = [start]
    while ahead:
        new = set(graph[ahead.pop()]) - found
        found |= new
        ahead += new
    return found


@pytest.mark.parametrize("seed", range(200))
def test_components_are_those_that_reach_each_other(seed: int) -> None:
    graph = random_graph(random.Random(seed))
    reach = {node: reachable(graph, node) for node in graph}
    expected = {
        frozenset(n for n in graph if n == node or (n in reach[node] and node in reach[n]))
        for node in graph
    }
    found = [frozenset(one) for one in components(len(graph), graph.__getitem__, graph)]
    assert sorted(map(sorted, found)) == sorted(sorted(one) for one in expected if len(one) > 1)


@pytest.mark.parametrize("seed", range(200))
def test_path_is_a_way_and_is_found_where_there_is_one(seed: int) -> None:
    rng = random.Random(seed)
    graph = random_graph(rng)
    start, goal = rng.randrange(len(graph)), rng.randrange(len(graph))
    way = path(start, goal, graph.__getitem__)
    assert bool(way) == (goal in reachable(graph, start))
    if way:
        assert (way[0], way[-1]) == (start, goal)
        assert all(b in graph[a] for a, b in itertools.pairwise(way))


def test_shortest_of_the_cycles_is_told() -> None:
    graph = {0: [1], 1: [2], 2: [0, 3], 3: [2]}
    assert short_cycle([0, 2], graph.__getitem__) == [2, 3, 2]


def test_long_chain_needs_no_recursion() -> None:
    count = 100_000
    found = list(components(count, lambda n: [(n + 1) % count], range(count)))
    assert [len(one) for one in found] == [count]
