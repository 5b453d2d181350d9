"""The minimal initiation interval: what units and recurrences prove."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cpsched.errors import Infeasible

if TYPE_CHECKING:
    from cpsched.families.kernel.prepare import Choice, Instance, Ints


def minimal_interval(instance: Instance) -> None:
    """Fill in the resource and the recurrence bound, and what binds them."""
    instance.res_mii, instance.binding_units = resource_bound(instance)
    instance.rec_mii, instance.binding_cycle = recurrence_bound(instance)


def unit_bounds(instance: Instance) -> list[int]:
    """Smallest interval in which each unit can serve every operation once, in its best mode."""
    total, longest_run = [0] * len(instance.capacity), [1] * len(instance.capacity)
    for modes in instance.modes:
        tables = [_unit_load(instance, mode) for mode in modes]
        for k in tables[0]:
            # A unit that some mode leaves alone has nothing for sure.
            if all(k in table for table in tables):
                total[k] += min(table[k][0] for table in tables)
                longest_run[k] = max(longest_run[k], min(table[k][1] for table in tables))
    return [
        max(run, -(-work // capacity))
        for run, work, capacity in zip(longest_run, total, instance.capacity, strict=True)
    ]


def _unit_load(instance: Instance, mode: Choice) -> dict[int, tuple[int, int]]:
    """A mode's work on each of its units, and the interval that its longest run alone needs."""
    found: dict[int, tuple[int, int]] = {}
    for k, _, cycles, amount in mode.uses:
        work, alone = found.get(k, (0, 1))
        # A run longer than the interval overlaps itself in every iteration it spans.
        need = -(-cycles // (instance.capacity[k] // amount))
        found[k] = (work + cycles * amount, max(alone, need))
    return found


def weighted_bound(instance: Instance, weights: Sequence[int]) -> int:
    """Smallest interval by the weighted work on all units together.

    In an interval of II the units do at most ``II * sum(weight * capacity)`` weighted work, and
    every operation does at least that of its cheapest mode. Any weights, zero or more, give a
    bound: they are the multipliers of the linear program that shares operations among modes.
    """
    room = sum(w * c for w, c in zip(weights, instance.capacity, strict=True))
    work = sum(
        min(sum(weights[k] * cycles * amount for k, _, cycles, amount in m.uses) for m in modes)
        for modes in instance.modes
    )
    return -(-work // room) if room else 1


def resource_bound(instance: Instance) -> tuple[int, dict[str, int]]:
    """The largest interval that units prove, and their weights in the proof."""
    names = [u.name for u in instance.problem.machine.units]
    best = 1
    binding: dict[str, int] = {}
    for name, value in zip(names, unit_bounds(instance), strict=True):
        if value > best or not binding:
            best, binding = value, {name: 1}
    if instance.multiple and len(names) > 1:
        from cpsched.families.kernel.shares import unit_weights

        weights = unit_weights(instance)
        value = weighted_bound(instance, weights)
        if value > best:
            best = value
            binding = {n: w for n, w in zip(names, weights, strict=True) if w}
    return best, binding


def recurrence_bound(instance: Instance) -> tuple[int, list[int]]:
    """Smallest interval at which no cycle of dependences has positive weight, and the edges of a
    cycle that forbids the interval below (empty when that is 1).

    Rings count with their largest depth.
    """
    inside = np.flatnonzero(instance.part[instance.source] == instance.part[instance.target])
    if len(inside) == 0:
        return 1, []
    reach = instance.reach()
    interval = 1
    binding: list[int] = []
    while True:
        cycle = positive_cycle(instance, inside, instance.delay - interval * reach)
        if not cycle:
            return interval, binding
        delay = int(instance.delay[cycle].sum())
        distance = int(reach[cycle].sum())
        if distance == 0:
            names = [instance.ids[instance.source[e]] for e in cycle]
            raise Infeasible(
                f"the cycle {' -> '.join([*names, names[0]])} has a positive delay within one "
                "iteration",
                "recurrence",
            )
        # The cycle alone forces this interval, so the search climbs from cycle to cycle.
        interval, binding = -(-delay // distance), cycle


def positive_cycle(instance: Instance, edges: Ints, weight: Ints) -> list[int]:
    """Edges of a cycle of positive weight within the given edges, or an empty list."""
    source, target = instance.source[edges], instance.target[edges]
    w = weight[edges]
    value = np.zeros(instance.n, dtype=np.int64)
    parent = np.full(instance.n, -1, dtype=np.int64)
    order = np.argsort(target, kind="stable")
    source, target, w, edges = source[order], target[order], w[order], edges[order]
    first = np.flatnonzero(np.r_[True, target[1:] != target[:-1]])
    heads = target[first]
    for round_ in range(instance.n + 1):
        reached = value[source] + w
        best = np.maximum.reduceat(reached, first)
        better = best > value[heads]
        if not better.any():
            return []
        changed = heads[better]
        value[changed] = best[better]
        hit = np.flatnonzero(reached == value[target])
        keep = np.zeros(instance.n, dtype=np.bool_)
        keep[changed] = True
        hit = hit[keep[target[hit]]]
        parent[target[hit]] = edges[hit]
        if round_ % 8 == 7 or round_ >= instance.n - 1:
            cycle = _cycle_of_parents(instance, parent)
            if cycle and int(weight[cycle].sum()) > 0:
                return cycle
    return _cycle_of_parents(instance, parent)


def _cycle_of_parents(instance: Instance, parent: Ints) -> list[int]:
    """A cycle in the graph of each node's last improving edge, as edges in order."""
    colour = np.zeros(instance.n, dtype=np.int64)
    for root in range(instance.n):
        if parent[root] < 0 or colour[root]:
            continue
        path = []
        node = root
        while node >= 0 and colour[node] == 0 and parent[node] >= 0:
            colour[node] = root + 1
            path.append(node)
            node = int(instance.source[parent[node]])
        if node >= 0 and colour[node] == root + 1 and parent[node] >= 0:
            cycle = [int(parent[node])]
            at = int(instance.source[parent[node]])
            while at != node:
                cycle.append(int(parent[at]))
                at = int(instance.source[parent[at]])
            return cycle[::-1]
        for v in path:
            colour[v] = instance.n + 2
    return []
