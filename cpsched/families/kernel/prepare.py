"""Index-based form of a problem: integer arrays, recurrences, and the minimal interval."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cpsched.errors import Infeasible
from cpsched.families.kernel.live import last_uses
from cpsched.families.kernel.problem import Edge, KernelProblem

if TYPE_CHECKING:
    from cpsched.core.run import Run

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LifeUse:
    """A use that keeps a value live: ``start(target) + distance * II`` (and a buffer's depth)."""

    target: int
    distance: int
    buffer: int


@dataclass
class Instance:
    """A problem by indices.

    ``latency`` counts in the length: the issue cycle at least. Edges are parallel arrays
    (``source, target, delay, distance``); ``buffer`` is the index of the edge's ring or -1,
    ``crossing`` the extra delay when its ends are in different groups and ``spill`` the part of it
    that goes through registers. For pairs that are in different groups in every schedule
    (``apart``) it is part of ``delay`` already. ``uses[v]`` lists the reservation runs of an
    operation as (unit, start, cycles, amount); ``part[v]`` is its strongly connected part, and
    ``cyclic[v]`` whether that part has a cycle.
    """

    problem: KernelProblem
    ids: list[str]
    latency: Ints
    uses: list[list[tuple[int, int, int, int]]]
    capacity: list[int]
    source: Ints
    target: Ints
    delay: Ints
    distance: Ints
    buffer: Ints
    crossing: Ints
    spill: Ints
    part: Ints
    cyclic: npt.NDArray[np.bool_]
    life: list[list[LifeUse]]
    uses_of: dict[str, list[tuple[str, Edge, int]]]
    issue: list[int]
    groups: int
    apart: set[tuple[int, int]] = field(default_factory=set)
    res_mii: int = 1
    rec_mii: int = 1
    binding_unit: str = ""
    binding_cycle: list[int] = field(default_factory=list)

    @property
    def n(self) -> int:
        """Number of operations."""
        return len(self.ids)

    @property
    def mii(self) -> int:
        """The minimal initiation interval: the larger of the two bounds."""
        return max(self.res_mii, self.rec_mii)

    def depth_bonus(self, largest: bool = True) -> Ints:
        """Depth added to each edge's distance by its ring, at its largest or smallest."""
        if not self.problem.buffers:
            return np.zeros(len(self.source), dtype=np.int64)
        depths = [b.max_depth if largest else b.min_depth for b in self.problem.buffers]
        table = np.array([*depths, 0], dtype=np.int64)
        return table[self.buffer]

    def reach(self, largest: bool = True) -> Ints:
        """Iteration distance of each edge with its ring's depth."""
        return self.distance + self.depth_bonus(largest)


def prepare(problem: KernelProblem, run: Run) -> Instance:
    """Index a problem and compute its minimal interval.

    Raises
    ------
    Infeasible
        When the interval's limit is below the bound, or a cycle can never hold.
    """
    instance = index(problem)
    run.clock.check()
    minimal_interval(instance)
    limit = problem.max_initiation_interval
    if limit is not None and instance.mii > limit:
        raise Infeasible(why_not(instance, limit), "minimal-interval")
    return instance


def why_not(instance: Instance, limit: int) -> str:
    """The sentence that says why no interval up to ``limit`` is possible."""
    if instance.res_mii > limit:
        return (
            f"unit {instance.binding_unit} needs an initiation interval of at least "
            f"{instance.res_mii}, {limit} is allowed"
        )
    path = " -> ".join(cycle_names(instance))
    return (
        f"the recurrence {path} needs an initiation interval of at least {instance.rec_mii}, "
        f"{limit} is allowed"
    )


def cycle_names(instance: Instance) -> list[str]:
    """Ids along the binding recurrence, the first repeated at the end."""
    edges = instance.binding_cycle
    if not edges:
        return []
    names = [instance.ids[instance.source[e]] for e in edges]
    return [*names, names[0]]


def index(problem: KernelProblem) -> Instance:
    """The index-based form, without the minimal interval."""
    ids = [o.id for o in problem.operations]
    position = {name: k for k, name in enumerate(ids)}
    machine = problem.machine
    unit_at = {u.name: k for k, u in enumerate(machine.units)}
    uses = []
    for o in problem.operations:
        rows = []
        for use in o.uses:
            unit = machine.unit(use.unit)
            assert unit is not None
            rows.append((unit_at[unit.name], use.start, use.cycles, use.amount))
        uses.append(rows)
    ring = {b.name: k for k, b in enumerate(problem.buffers)}
    spill, crossing = [], []
    for e in problem.edges:
        extra = 0
        if problem.grouped and e.kind == "true":
            extra = problem.spill_cost(problem.operations[position[e.source]])
        spill.append(extra)
        crossing.append(extra + (machine.signal_cost if problem.grouped else 0))
    life: list[list[LifeUse]] = []
    uses_of = last_uses(problem)
    for o in problem.operations:
        found = set()
        for reader, edge, extra in uses_of[o.id]:
            buffer = ring[edge.buffer] if edge.buffer is not None else -1
            found.add(LifeUse(position[reader], extra + edge.distance, buffer))
        life.append(sorted(found, key=lambda u: (u.target, u.distance, u.buffer)))
    apart = never_together(problem, position) if problem.grouped else set()
    delay = [e.delay for e in problem.edges]
    for k, e in enumerate(problem.edges):
        if (position[e.source], position[e.target]) in apart:
            delay[k] += crossing[k]
            crossing[k] = 0
    source = np.array([position[e.source] for e in problem.edges], dtype=np.int64)
    target = np.array([position[e.target] for e in problem.edges], dtype=np.int64)
    part, cyclic = strong_parts(len(ids), source, target)
    return Instance(
        problem=problem,
        ids=ids,
        latency=np.array([max(1, o.latency) for o in problem.operations], dtype=np.int64),
        uses=uses,
        capacity=[u.capacity for u in machine.units],
        source=source,
        target=target,
        delay=np.array(delay, dtype=np.int64),
        distance=np.array([e.distance for e in problem.edges], dtype=np.int64),
        buffer=np.array(
            [ring[e.buffer] if e.buffer is not None else -1 for e in problem.edges], dtype=np.int64
        ),
        crossing=np.array(crossing, dtype=np.int64),
        spill=np.array(spill, dtype=np.int64),
        part=part,
        cyclic=cyclic,
        life=life,
        uses_of=uses_of,
        issue=[o.issue_cycles for o in problem.operations],
        groups=problem.group_count,
        apart=apart,
    )


def never_together(problem: KernelProblem, position: dict[str, int]) -> set[tuple[int, int]]:
    """Pairs of operations that no schedule puts into one group, in both orders.

    The ends of an edge between the producer group and another; and two results that are live
    together in every schedule and need more registers than the widest group has: the second is
    made from the first, and a later operation reads both.
    """
    operations = problem.operations
    out: set[tuple[int, int]] = set()
    for e in problem.edges:
        u, w = position[e.source], position[e.target]
        if operations[u].variable_latency != operations[w].variable_latency:
            out |= {(u, w), (w, u)}
    per_warp = problem.machine.registers_per_warp
    if per_warp is None:
        return out
    limit = per_warp * max(o.min_warps for o in operations)
    readers: dict[int, dict[int, int]] = {}
    for e in problem.edges:
        if e.kind == "true" and e.distance == 0 and e.buffer is None and e.delay >= 0:
            row = readers.setdefault(position[e.source], {})
            row[position[e.target]] = max(row.get(position[e.target], 0), e.delay)
    for u, row in readers.items():
        for w in row:
            # From w's issue until x's, a positive time, both results are live.
            both = any(delay > 0 and x in row for x, delay in readers.get(w, {}).items())
            if both and operations[u].registers + operations[w].registers > limit:
                out |= {(u, w), (w, u)}
    return out


def strong_parts(n: int, source: Ints, target: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Strongly connected part of every node, numbered in topological order, and whether the node
    lies on a cycle (self-loops included)."""
    import networkx as nx

    graph = nx.DiGraph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from(zip(source.tolist(), target.tolist(), strict=True))
    part = np.zeros(n, dtype=np.int64)
    cyclic = np.zeros(n, dtype=np.bool_)
    parts = list(nx.strongly_connected_components(graph))
    for k, members in enumerate(reversed(parts)):
        for v in members:
            part[v] = k
            cyclic[v] = len(members) > 1
    cyclic[source[source == target]] = True
    return part, cyclic


def minimal_interval(instance: Instance) -> None:
    """Fill in the resource and the recurrence bound, and what binds them."""
    instance.res_mii, instance.binding_unit = resource_bound(instance)
    instance.rec_mii, instance.binding_cycle = recurrence_bound(instance)


def unit_bound(instance: Instance, unit: int) -> int:
    """Smallest interval in which a unit can serve every operation once."""
    capacity = instance.capacity[unit]
    total, longest = 0, 1
    for rows in instance.uses:
        for k, _, cycles, amount in rows:
            if k == unit:
                total += cycles * amount
                # A run longer than the interval overlaps itself in every iteration it spans.
                longest = max(longest, -(-cycles // (capacity // amount)))
    return max(longest, -(-total // capacity))


def resource_bound(instance: Instance) -> tuple[int, str]:
    """The largest `unit_bound`, and that unit's name."""
    best, name = 1, ""
    for k, unit in enumerate(instance.problem.machine.units):
        value = unit_bound(instance, k)
        if value > best or not name:
            best, name = value, unit.name
    return best, name


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


def longest_paths(
    instance: Instance, interval: int, reach: Ints, *, to: bool = False, seed: Ints | None = None
) -> Ints | None:
    """Longest path weight into every operation at an interval, never below its seed (zero).

    Parameters
    ----------
    to
        Weights of the paths that leave each operation instead.

    Returns
    -------
    array or None
        None when a cycle has positive weight.
    """
    weight = instance.delay - interval * reach
    tails, heads = instance.source, instance.target
    if to:
        tails, heads = heads, tails
    value = np.zeros(instance.n, dtype=np.int64) if seed is None else seed.copy()
    if len(weight) == 0:
        return value
    for _ in range(instance.n + 1):
        before = value.copy()
        np.maximum.at(value, heads, value[tails] + weight)
        if (before == value).all():
            return value
    return None
