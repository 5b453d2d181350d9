"""In-order execution of a schedule by warp groups with barriers, iteration by iteration.

Each group issues its operations in the order of the schedule and never looks ahead. A barrier
holds an operation until the operations it depends on, in this or earlier iterations, have been
issued and their delays have passed; with the chosen depth of a buffer, a producer waits until the
slot it overwrites was read. Units are not modelled: the check of the period covers them.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass

import networkx as nx

from cpsched.families.kernel.problem import KernelProblem, KernelSchedule


@dataclass(frozen=True)
class Execution:
    """What happened: instances executed, what was stuck, and each instance's issue time.

    ``times`` maps (operation, iteration) to the cycle of its issue when nothing is late;
    ``stuck`` says for each group what it waits for when execution stopped early.
    """

    executed: int
    stuck: tuple[str, ...]
    times: dict[tuple[str, int], int]


def program_order(problem: KernelProblem, schedule: KernelSchedule) -> dict[str, int]:
    """A rank of every operation that breaks ties of starts: sources before targets."""
    graph = nx.DiGraph()
    names = [o.id for o in problem.operations]
    graph.add_nodes_from(names)
    period = schedule.initiation_interval
    start = {p.operation: p.start for p in schedule.operations}
    depth = {b.buffer: b.depth for b in schedule.buffers}
    for e in problem.edges:
        distance = e.distance + (depth[e.buffer] if e.buffer is not None else 0)
        if e.delay >= 0 and start[e.target] + distance * period == start[e.source]:
            graph.add_edge(e.source, e.target)
    rank: dict[str, int] = {}
    # Contract cycles of simultaneous operations: their members keep the order of the file.
    parts = nx.condensation(graph)
    for node in nx.lexicographical_topological_sort(
        parts, key=lambda k: min(names.index(m) for m in parts.nodes[k]["members"])
    ):
        for member in sorted(parts.nodes[node]["members"], key=names.index):
            rank[member] = len(rank)
    return rank


def simulate(
    problem: KernelProblem, schedule: KernelSchedule, iterations: int | None = None
) -> Execution:
    """Execute a schedule in order; the number of iterations covers every overlap by default."""
    period = schedule.initiation_interval
    depth = {b.buffer: b.depth for b in schedule.buffers}
    rank = program_order(problem, schedule)
    waits: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    group = {p.operation: p.group for p in schedule.operations}
    operations = {o.id: o for o in problem.operations}
    farthest = 0
    for e in problem.edges:
        distance = e.distance + (depth[e.buffer] if e.buffer is not None else 0)
        if e.delay < 0:
            continue  # bounds a difference from above: no barrier enforces it
        delay = e.delay
        if group[e.source] != group[e.target]:
            delay += problem.machine.signal_cost
            if e.kind == "true":
                delay += problem.spill_cost(operations[e.source])
        waits[e.target].append((e.source, distance, delay))
        farthest = max(farthest, distance)
    if iterations is None:
        iterations = min(schedule.stages + farthest + 2, 64)
    programs: dict[int | None, list[tuple[int, int, str, int]]] = defaultdict(list)
    for p in schedule.operations:
        for i in range(iterations):
            programs[p.group].append((p.start + i * period, rank[p.operation], p.operation, i))
    queues = {g: deque(sorted(program)) for g, program in programs.items()}
    times: dict[tuple[str, int], int] = {}
    clock: dict[int | None, int] = dict.fromkeys(queues, 0)

    def blocked(name: str, i: int) -> tuple[str, int] | None:
        for source, distance, _ in waits[name]:
            if i >= distance and (source, i - distance) not in times:
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
                    if i >= distance
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
