"""Longest paths over lags, and the precedences that follow from others."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.errors import Infeasible

if TYPE_CHECKING:
    from cpsched.core.run import Run

#: ``start(j) >= start(i) + w`` as (i, j, w).
Arc = tuple[int, int, int]

#: Up to this many tasks are prepared whatever the limit, for a first schedule.
AT_ONCE = 1000
#: Up to this many tasks the reduction is exact; beyond, it looks at detours over one task.
EXACT_REDUCTION = 4000


def topological_order(n: int, arcs: Sequence[Arc]) -> list[int] | None:
    """An order in which every arc points forward, or None when there is a cycle."""
    followers: list[list[int]] = [[] for _ in range(n)]
    waiting = [0] * n
    for i, j, _ in arcs:
        followers[i].append(j)
        waiting[j] += 1
    order = [i for i in range(n) if not waiting[i]]
    for i in order:
        for j in followers[i]:
            waiting[j] -= 1
            if not waiting[j]:
                order.append(j)
    return order if len(order) == n else None


def components(n: int, links: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """Number of the set of nodes that links join, (n,), from 0."""
    root = list(range(n))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for a, b in links:
        root[find(a)] = find(b)
    found = np.unique([find(i) for i in range(n)], return_inverse=True)[1]
    return np.asarray(found, np.int64)


def longest_paths(
    n: int, arcs: NDArray[np.int64], start: Sequence[int], names: Sequence[str], run: Run
) -> list[int]:
    """The least values with ``value[j] >= value[i] + w`` for every arc and ``value >= start``.

    Parameters
    ----------
    arcs : (A, 3)
        Rows (i, j, w).
    names
        Of the nodes, for the message.

    Raises
    ------
    Infeasible
        Naming a cycle of positive length.
    OutOfTime
        When the clock runs out in a large cyclic graph.

    Notes
    -----
    One pass in topological order when there is no cycle; otherwise the queue form of Bellman and
    Ford with Tarjan's idea of looking for cycles among the parents, once in n updates.
    """
    value = list(start)
    position = _positions(n, arcs)
    if position is None:
        return _longest_in_cycles(n, [(i, j, w) for i, j, w in arcs.tolist()], value, names, run)
    for i, j, w in arcs[np.argsort(position[arcs[:, 0]], kind="stable")].tolist():
        at = value[i] + w
        if at > value[j]:
            value[j] = at
    return value


def _positions(n: int, arcs: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Of every node in a topological order, (n,), or None when there is a cycle."""
    if (arcs[:, 0] < arcs[:, 1]).all():
        return np.arange(n)
    if (arcs[:, 0] > arcs[:, 1]).all():
        return np.arange(n)[::-1]
    order = topological_order(n, [(i, j, w) for i, j, w in arcs.tolist()])
    if order is None:
        return None
    position = np.empty(n, np.int64)
    position[order] = np.arange(n)
    return position


def _longest_in_cycles(
    n: int, arcs: list[Arc], value: list[int], names: Sequence[str], run: Run
) -> list[int]:
    out: list[list[tuple[int, int]]] = [[] for _ in range(n)]
    for i, j, w in arcs:
        out[i].append((j, w))
    parent = [-1] * n
    # Starting in the order of the forward arcs makes most values right at the first visit.
    first = topological_order(n, [a for a in arcs if a[2] > 0]) or list(range(n))
    queue = deque(first)
    queued = [True] * n
    updates = 0
    while queue:
        i = queue.popleft()
        queued[i] = False
        at = value[i]
        for j, w in out[i]:
            if at + w > value[j]:
                value[j] = at + w
                parent[j] = i
                updates += 1
                if i == j or updates % max(1, n) == 0:
                    run.clock.check()
                    _refuse_cycle(parent, arcs, names)
                if not queued[j]:
                    queued[j] = True
                    queue.append(j)
    return value


def _refuse_cycle(parent: list[int], arcs: Sequence[Arc], names: Sequence[str]) -> None:
    """Raise `Infeasible` when the parents form a cycle: it is one of positive length."""
    seen = [0] * len(parent)
    for root in range(len(parent)):
        path = []
        i = root
        while i >= 0 and not seen[i]:
            seen[i] = root + 1
            path.append(i)
            i = parent[i]
        if i >= 0 and seen[i] == root + 1:
            cycle = path[path.index(i) :]
            cycle = [*reversed(cycle)]
            length = _length(cycle, arcs)
            shown = [names[k] for k in [*cycle, cycle[0]]]
            if len(shown) > 12:
                shown = [*shown[:6], "...", *shown[-5:]]
            raise Infeasible(
                "the precedences form a cycle that would start a task "
                f"{length} after its own start: {' -> '.join(shown)}",
                "precedence-cycle",
            )


def _length(cycle: list[int], arcs: Sequence[Arc]) -> int:
    longest: dict[tuple[int, int], int] = {}
    for i, j, w in arcs:
        longest[i, j] = max(w, longest.get((i, j), w))
    steps = zip(cycle, [*cycle[1:], cycle[0]], strict=True)
    return sum(longest[step] for step in steps)


def reduced_edges(
    n: int,
    edges: NDArray[np.int64],
    shortest: NDArray[np.int64],
    optional: NDArray[np.bool_],
    run: Run,
) -> NDArray[np.int64]:
    """The precedence rows without those that follow from others.

    Only end-start rows without a maximum lag, with a minimum lag of 0, are dropped: when another
    path of such rows with lags of at least 0 over tasks that are always present leads from one
    task to the other, or when they repeat a row. Every other row stays.
    """
    if not len(edges):
        return edges
    edges = np.unique(edges, axis=0)
    no_maximum = edges[:, 4] >= 2**60
    forward = (edges[:, 2] == 0) & (edges[:, 3] >= 0)
    candidate = forward & no_maximum & (edges[:, 3] == 0) & (edges[:, 0] != edges[:, 1])
    pairs = [(i, j, 0) for i, j in edges[forward, :2].tolist()]
    order = topological_order(n, pairs)
    if order is None or not candidate.any():
        return edges
    out: list[list[int]] = [[] for _ in range(n)]
    for i, j, _ in pairs:
        out[i].append(j)
    present = (~optional).tolist()
    implied = _implied_exactly if n <= EXACT_REDUCTION else _implied_by_one_detour
    redundant = implied(n, out, order, present, run)
    drop = candidate & np.array([(i, j) in redundant for i, j in edges[:, :2].tolist()], bool)
    # A longer lag between the same tasks makes one of 0 redundant as well.
    longer = {(i, j) for i, j in edges[forward & (edges[:, 3] > 0), :2].tolist()}
    drop |= candidate & np.array([(i, j) in longer for i, j in edges[:, :2].tolist()], bool)
    kept: NDArray[np.int64] = edges[~drop]
    return kept


def _implied_exactly(
    n: int, out: list[list[int]], order: list[int], present: list[bool], run: Run
) -> set[tuple[int, int]]:
    """Arcs (i, j) with a longer path from i to j, by bit sets of what each task reaches."""
    reach = [0] * n
    redundant: set[tuple[int, int]] = set()
    for count, i in enumerate(reversed(order)):
        if count % 256 == 0 and n > AT_ONCE:
            run.clock.check()
        beyond = direct = 0
        for j in out[i]:
            direct |= 1 << j
            if present[j]:
                beyond |= reach[j]
        for j in out[i]:
            if beyond >> j & 1:
                redundant.add((i, j))
        reach[i] = direct | beyond
    return redundant


def _implied_by_one_detour(
    n: int, out: list[list[int]], order: list[int], present: list[bool], run: Run
) -> set[tuple[int, int]]:
    """Arcs (i, j) with a detour i, k, j; the work is limited to a few million steps."""
    redundant: set[tuple[int, int]] = set()
    work = 20 * n + 2_000_000
    for i in order:
        direct = set(out[i])
        for k in out[i]:
            if not present[k]:
                continue
            work -= len(out[k])
            if work < 0:
                return redundant
            for j in out[k]:
                if j in direct:
                    redundant.add((i, j))
        if i % 1024 == 0:
            run.clock.check()
    return redundant
