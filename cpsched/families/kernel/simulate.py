"""In-order execution of a schedule by warp groups with barriers, iteration by iteration.

Each group issues its operations in the order of the schedule and never looks ahead. A barrier
holds an operation until the operations it depends on, in this or earlier iterations, have been
issued and their delays have passed. Whatever passes between groups, and whatever an operation
holds in shared or tensor memory, goes through a ring of the chosen depth: its producer waits until
the slot it overwrites was read. Units are not modelled: the flat layout covers them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from cpsched.families.kernel.flat import Layout
from cpsched.families.kernel.graph import strong_parts

#: Most iterations that are executed.
MOST_ITERATIONS = 64


@dataclass(frozen=True)
class Execution:
    """What happened: instances executed, what was stuck, and each instance's issue time.

    ``times`` maps (operation, iteration) to the cycle of its issue when nothing is late;
    ``stuck`` says for each group what it waits for when execution stopped early.
    """

    executed: int
    stuck: tuple[str, ...]
    times: dict[tuple[str, int], int]


@dataclass(frozen=True)
class _Wait:
    """``target`` waits for ``source`` of ``distance`` iterations before, and ``delay`` more."""

    source: int
    target: int
    distance: int
    delay: int


def program_order(layout: Layout) -> tuple[list[int], list[int]]:
    """A rank of every operation that breaks ties of starts: who is waited for comes first.

    Also the number of each operation's knot: operations of one knot wait for each other in the
    same cycle (a cycle of zero delays), so they execute as one.
    """
    n, start = len(layout.operations), layout.start.tolist()
    together = [
        (wait.source, wait.target)
        for wait in _waits(layout)
        if start[wait.target] + wait.distance * layout.period == start[wait.source]
    ]
    parts = [sorted(part) for part in strong_parts(n, together)]
    knot = [0] * n
    for k, part in enumerate(parts):
        for o in part:
            knot[o] = k
    # Ranks follow a topological order in which the file's order breaks ties.
    open_inputs = [0] * len(parts)
    after: list[list[int]] = [[] for _ in parts]
    for u, w in together:
        if knot[u] != knot[w]:
            after[knot[u]].append(knot[w])
            open_inputs[knot[w]] += 1
    queue = [(part[0], k) for k, part in enumerate(parts) if not open_inputs[k]]
    heapq.heapify(queue)
    rank, count = [0] * n, 0
    while queue:
        _, k = heapq.heappop(queue)
        for o in parts[k]:
            rank[o] = count
            count += 1
        for other in after[k]:
            open_inputs[other] -= 1
            if not open_inputs[other]:
                heapq.heappush(queue, (parts[other][0], other))
    return rank, knot


def _waits(layout: Layout) -> Iterator[_Wait]:
    delays = (layout.delay + layout.spill + layout.signal).tolist()
    rows = zip(
        layout.source.tolist(),
        layout.target.tolist(),
        layout.distance.tolist(),
        layout.delay.tolist(),
        delays,
        strict=True,
    )
    for u, w, distance, own, delay in rows:
        # A negative delay bounds a difference from above: no barrier enforces it.
        if own >= 0:
            yield _Wait(u, w, distance, delay)
    rings = ring_depths(layout)
    reach = layout.uses.reach(layout.ring_depth).tolist()
    for owner, reader, distance in zip(
        layout.uses.owner.tolist(), layout.uses.reader.tolist(), reach, strict=True
    ):
        # An operation that updates its own result reads the old one before it writes.
        if owner in rings and reader != owner:
            yield _Wait(reader, owner, rings[owner] - distance, 0)


def simulate(layout: Layout, iterations: int | None = None) -> Execution:
    """Execute a schedule in order; the number of iterations covers every overlap by default."""
    period, start = layout.period, layout.start.tolist()
    names = [o.id for o in layout.operations]
    rank, knot = program_order(layout)
    waits: list[list[_Wait]] = [[] for _ in names]
    farthest = 0
    for wait in _waits(layout):
        together = start[wait.target] + wait.distance * period == start[wait.source]
        if knot[wait.source] == knot[wait.target] and together:
            continue
        waits[wait.target].append(wait)
        farthest = max(farthest, wait.distance)
    count = iterations or min(layout.schedule.stages + farthest + 2, MOST_ITERATIONS)
    programs: dict[int | None, list[tuple[int, int, int, int]]] = {}
    for o, group in enumerate(layout.group):
        programs.setdefault(group, []).extend(
            (start[o] + i * period, rank[o], o, i) for i in range(count)
        )
    for program in programs.values():
        program.sort()
    issued: list[list[int | None]] = [[None] * count for _ in names]
    position = dict.fromkeys(programs, 0)
    clock: dict[int | None, int] = dict.fromkeys(programs, 0)
    executed = 0

    def blocked(o: int, i: int) -> _Wait | None:
        for wait in waits[o]:
            back = i - wait.distance
            if 0 <= back < count and issued[wait.source][back] is None:
                return wait
        return None

    moved = True
    while moved:
        moved = False
        for g, program in programs.items():
            k = position[g]
            while k < len(program) and blocked(*program[k][2:]) is None:
                _, _, o, i = program[k]
                now = clock[g]
                for wait in waits[o]:
                    back = i - wait.distance
                    if 0 <= back < count:
                        done = issued[wait.source][back]
                        assert done is not None
                        now = max(now, done + wait.delay)
                clock[g] = issued[o][i] = now
                k += 1
                executed += 1
                moved = True
            position[g] = k
    stuck = []
    for g, program in programs.items():
        if position[g] < len(program):
            _, _, o, i = program[position[g]]
            missing = blocked(o, i)
            assert missing is not None
            stuck.append(
                f"group {g} waits in {names[o]} of iteration {i} for {names[missing.source]} of "
                f"iteration {i - missing.distance}"
            )
    times = {
        (name, i): time
        for name, row in zip(names, issued, strict=True)
        for i, time in enumerate(row)
        if time is not None
    }
    return Execution(executed, tuple(stuck), times)


def ring_depths(layout: Layout) -> dict[int, int]:
    """Slots of the ring behind every result that another group reads or that memory holds.

    The depth stated in the schedule, else the number of iterations whose result is live; by the
    operation's index.
    """
    edges = layout.problem.edges
    crossing = {
        u
        for u, e, crosses in zip(
            layout.source.tolist(), edges, layout.crosses.tolist(), strict=True
        )
        if crosses and e.kind == "true"
    }
    copies = layout.copies.tolist()
    return {
        k: layout.depth.get(o.id) or max(1, copies[k])
        for k, o in enumerate(layout.operations)
        if k in crossing or o.smem_bytes or o.tmem_columns
    }
