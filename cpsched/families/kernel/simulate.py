"""In-order execution of a schedule by warp groups with barriers, iteration by iteration.

Each group issues its operations in the order of the schedule and never looks ahead. A barrier
holds an operation until the operations it depends on, in this or earlier iterations, have been
issued and their delays have passed. Whatever passes between groups, and whatever an operation
holds in shared or tensor memory, goes through a ring of the chosen depth: its producer waits until
the slot it overwrites was read. Units are not modelled: the check of the period covers them.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass

import networkx as nx

from cpsched.families.kernel.live import last_uses, lifetimes
from cpsched.families.kernel.problem import Edge, KernelProblem, KernelSchedule


@dataclass(frozen=True)
class Execution:
    """What happened: instances executed, what was stuck, and each instance's issue time.

    ``times`` maps (operation, iteration) to the cycle of its issue when nothing is late;
    ``stuck`` says for each group what it waits for when execution stopped early.
    """

    executed: int
    stuck: tuple[str, ...]
    times: dict[tuple[str, int], int]


#: The uses of every operation's result, as `last_uses` gives them.
Uses = dict[str, list[tuple[str, Edge, int]]]


def program_order(
    problem: KernelProblem, schedule: KernelSchedule, uses: Uses | None = None
) -> tuple[dict[str, int], dict[str, int]]:
    """A rank of every operation that breaks ties of starts: who is waited for comes first.

    Also the number of each operation's knot: operations of one knot wait for each other in the
    same cycle (a cycle of zero delays), so they execute as one.
    """
    graph = nx.DiGraph()
    names = [o.id for o in problem.operations]
    place = {name: k for k, name in enumerate(names)}
    graph.add_nodes_from(names)
    period = schedule.initiation_interval
    start = {p.operation: p.start for p in schedule.operations}
    for source, target, distance, _ in _waits(problem, schedule, uses):
        if start[target] + distance * period == start[source]:
            graph.add_edge(source, target)
    rank: dict[str, int] = {}
    knot: dict[str, int] = {}
    # Contract cycles of simultaneous operations: their members keep the order of the file.
    parts = nx.condensation(graph)
    for node in nx.lexicographical_topological_sort(
        parts, key=lambda k: min(place[m] for m in parts.nodes[k]["members"])
    ):
        for member in sorted(parts.nodes[node]["members"], key=place.__getitem__):
            rank[member] = len(rank)
            knot[member] = node
    return rank, knot


def _waits(
    problem: KernelProblem, schedule: KernelSchedule, uses: Uses | None = None
) -> Iterator[tuple[str, str, int, int]]:
    """Who waits for whom: (source, target, iterations back, delay)."""
    depth = {b.buffer: b.depth for b in schedule.buffers}
    group = {p.operation: p.group for p in schedule.operations}
    operations = {o.id: o for o in problem.operations}
    for e in problem.edges:
        if e.delay < 0:
            continue  # bounds a difference from above: no barrier enforces it
        delay = e.delay
        if group[e.source] != group[e.target]:
            delay += problem.machine.signal_cost
            if e.kind == "true":
                delay += problem.spill_cost(operations[e.source])
        distance = e.distance + (depth[e.buffer] if e.buffer is not None else 0)
        yield e.source, e.target, distance, delay
    uses = uses or last_uses(problem)
    for name, ring in ring_depths(problem, schedule, uses).items():
        for reader, edge, extra in uses[name]:
            distance = extra + edge.distance + (depth[edge.buffer] if edge.buffer else 0)
            # An operation that updates its own result reads the old one before it writes.
            if reader != name:
                yield reader, name, ring - distance, 0


def simulate(
    problem: KernelProblem,
    schedule: KernelSchedule,
    iterations: int | None = None,
    uses: Uses | None = None,
) -> Execution:
    """Execute a schedule in order; the number of iterations covers every overlap by default."""
    period = schedule.initiation_interval
    uses = uses or last_uses(problem)
    rank, knot = program_order(problem, schedule, uses)
    start = {p.operation: p.start for p in schedule.operations}
    waits: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    farthest = 0
    for source, target, distance, delay in _waits(problem, schedule, uses):
        together = start[target] + distance * period == start[source]
        if knot[source] == knot[target] and together:
            continue
        waits[target].append((source, distance, delay))
        farthest = max(farthest, distance)
    count = iterations or min(schedule.stages + farthest + 2, 64)
    programs: dict[int | None, list[tuple[int, int, str, int]]] = defaultdict(list)
    for p in schedule.operations:
        for i in range(count):
            programs[p.group].append((p.start + i * period, rank[p.operation], p.operation, i))
    queues = {g: deque(sorted(program)) for g, program in programs.items()}
    times: dict[tuple[str, int], int] = {}
    clock: dict[int | None, int] = dict.fromkeys(queues, 0)

    def blocked(name: str, i: int) -> tuple[str, int] | None:
        for source, distance, _ in waits[name]:
            if 0 <= i - distance < count and (source, i - distance) not in times:
                return source, i - distance
        return None

    moved = True
    while moved:
        moved = False
        for g, queue in queues.items():
            while queue and blocked(queue[0][2], queue[0][3]) is None:
                _, _, name, i = queue.popleft()
                ready = [
                    times[(source, i - distance)] + delay
                    for source, distance, delay in waits[name]
                    if 0 <= i - distance < count
                ]
                clock[g] = times[(name, i)] = max([clock[g], *ready])
                moved = True
    stuck = []
    for g, queue in queues.items():
        if queue:
            _, _, name, i = queue[0]
            other = blocked(name, i)
            assert other is not None
            stuck.append(
                f"group {g} waits in {name} of iteration {i} for {other[0]} of iteration {other[1]}"
            )
    return Execution(len(times), tuple(stuck), times)


def ring_depths(
    problem: KernelProblem, schedule: KernelSchedule, uses: Uses | None = None
) -> dict[str, int]:
    """Slots of the ring behind every result that another group reads or that memory holds.

    The depth stated in the schedule, else the number of iterations whose result is live.
    """
    stated = {b.buffer: b.depth for b in schedule.buffers}
    start = {p.operation: p.start for p in schedule.operations}
    group = {p.operation: p.group for p in schedule.operations}
    alive = lifetimes(problem, start, schedule.initiation_interval, stated, uses)
    crossing = {
        e.source for e in problem.edges if e.kind == "true" and group[e.source] != group[e.target]
    }
    held = {o.id for o in problem.operations if o.smem_bytes or o.tmem_columns}
    return {
        name: stated.get(name) or max(1, -(-alive[name] // schedule.initiation_interval))
        for name in [o.id for o in problem.operations]
        if name in crossing or name in held
    }
