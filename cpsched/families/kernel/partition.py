"""A heuristic partition into warp groups."""

from __future__ import annotations

import math
from collections.abc import Iterator

from cpsched.families.kernel.prepare import Instance


def partitions(instance: Instance) -> Iterator[list[int | None]]:
    """Assignments to groups, most promising first; without groups a single empty one.

    Operations joined by carried values, by memory they share in place, or by a recurrence form
    one block. Blocks are dealt out to 1, 2, ... groups so that each group's issue time and
    register demand stay even, chains staying together where that costs nothing.
    """
    problem = instance.problem
    if not problem.grouped:
        yield [None] * instance.n
        return
    blocks = _blocks(instance)
    for count in range(min(problem.group_count - 1, len(blocks)), 0, -1):
        yield _deal(instance, blocks, count)
    for count in range(min(problem.group_count - 1, instance.n), 0, -1):
        yield _deal(instance, _blocks(instance, split=True), count)


def _blocks(instance: Instance, split: bool = False) -> list[list[int]]:
    """Operations that should stay together, in the order of the file."""
    root = list(range(instance.n))

    def find(o: int) -> int:
        while root[o] != o:
            root[o] = root[root[o]]
            o = root[o]
        return o

    operations = instance.problem.operations
    for e, edge in enumerate(instance.problem.edges):
        u, w = int(instance.source[e]), int(instance.target[e])
        if operations[u].variable_latency or operations[w].variable_latency:
            continue
        together = instance.part[u] == instance.part[w] and not split
        if edge.carried or together:
            root[find(u)] = find(w)
    blocks: dict[int, list[int]] = {}
    for o in range(instance.n):
        if not operations[o].variable_latency:
            blocks.setdefault(find(o), []).append(o)
    return sorted(blocks.values(), key=lambda b: b[0])


def _deal(instance: Instance, blocks: list[list[int]], count: int) -> list[int | None]:
    operations = instance.problem.operations
    group: list[int | None] = [0 if o.variable_latency else None for o in operations]
    neighbours: dict[int, dict[int, int]] = {}
    for e in range(len(instance.source)):
        u, w = int(instance.source[e]), int(instance.target[e])
        cost = 1 + int(instance.spill[e])
        for a, b in ((u, w), (w, u)):
            neighbours.setdefault(a, {}).setdefault(b, 0)
            neighbours[a][b] += cost
    room = instance.problem.machine.registers_per_warp
    words = [0] * instance.groups
    busy = [0] * instance.groups
    members: list[list[int]] = [[] for _ in range(instance.groups)]
    weights = sorted(
        blocks, key=lambda b: (-sum(operations[o].registers for o in b), -len(b), b[0])
    )
    scale = 1 + sum(instance.issue[o] for b in blocks for o in b)
    for block in weights:
        demand = sum(operations[o].registers for o in block)
        pins = [g for o in block if (g := operations[o].group) is not None]
        prices = []
        for g in pins[:1] or range(1, count + 1):
            near = sum(
                c for o in block for other, c in neighbours.get(o, {}).items() if group[other] == g
            )
            full = (words[g] + demand) / room if room else 0.0
            apart = any((o, p) in instance.apart for o in block for p in members[g])
            price = full + count * busy[g] / scale - near / 60.0
            prices.append((math.inf if apart else price, g))
        best = min(prices)[1]
        for o in block:
            group[o] = best
        members[best] += block
        words[best] += demand
        busy[best] += sum(instance.issue[o] for o in block)
    return group
