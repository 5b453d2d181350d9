"""Heuristics: iterative and swing modulo scheduling, and a partition into warp groups.

Iterative modulo scheduling: B. R. Rau, "Iterative modulo scheduling: an algorithm for software
pipelining loops", MICRO 1994. Swing: J. Llosa et al., "Swing modulo scheduling: a lifetime-
sensitive approach", PACT 1996. Both place operations one by one into a table of one interval; the
first evicts what is in the way, the second chooses an order in which little is.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.families.kernel.check import check
from cpsched.families.kernel.layout import (
    edge_delays,
    edge_reach,
    schedule_from,
    stages_for,
)
from cpsched.families.kernel.partition import partitions
from cpsched.families.kernel.prepare import Instance, Ints
from cpsched.families.kernel.problem import KernelSchedule

#: Tables have at most this many slots; longer intervals are scheduled on a coarser grid.
LARGEST_TABLE = 4096
#: Estimated seconds of placing one operation.
PLACEMENT_COST = 8e-5


@dataclass
class Grid:
    """A problem at one interval on a grid of ``tick`` cycles, rounded so that schedules stay
    valid: delays and reservations up, and the interval a multiple of the tick."""

    interval: int
    tick: int
    delay: Ints
    reach: Ints
    uses: list[list[tuple[int, int, int, int]]]
    issue: list[int]
    waits: list[bool]
    group: list[int | None]
    depth: list[int]


def grid_for(instance: Instance, interval: int, group: list[int | None], depth: list[int]) -> Grid:
    """The grid of an interval; its interval may be up to a tick longer."""
    tick = max(1, -(-interval // LARGEST_TABLE))
    delay = edge_delays(instance, group)
    waits = [False] * instance.n
    if instance.problem.grouped:
        for e, edge in enumerate(instance.problem.edges):
            u, w = int(instance.source[e]), int(instance.target[e])
            if edge.blocking or (instance.spill[e] and group[u] != group[w]):
                waits[w] = True
    uses = []
    for rows in instance.uses:
        uses.append(
            [
                (k, start // tick, -(-(start + cycles) // tick) - start // tick, amount)
                for k, start, cycles, amount in rows
            ]
        )
    return Grid(
        interval=-(-interval // tick),
        tick=tick,
        delay=-(-delay // tick),
        reach=edge_reach(instance, depth),
        uses=uses,
        issue=[-(-c // tick) for c in instance.issue],
        waits=waits,
        group=group,
        depth=depth,
    )


class Table:
    """The modulo reservation table of one interval, and the operations placed in it."""

    def __init__(self, instance: Instance, grid: Grid) -> None:
        self.instance, self.grid = instance, grid
        self.period = grid.interval
        self.counts = np.zeros((len(instance.capacity), self.period), dtype=np.int64)
        self.start: dict[int, int] = {}
        self.weight = grid.delay - self.period * grid.reach
        self.into: list[list[int]] = [[] for _ in range(instance.n)]
        self.out: list[list[int]] = [[] for _ in range(instance.n)]
        for e in range(len(instance.source)):
            u, w = int(instance.source[e]), int(instance.target[e])
            if u != w:
                self.into[w].append(e)
                self.out[u].append(e)
        self.members: dict[int | None, list[int]] = {}
        for o in range(instance.n):
            self.members.setdefault(grid.group[o], []).append(o)

    def fits_at_all(self) -> bool:
        """Whether every operation alone fits the table, and every self-dependence holds."""
        for rows in self.grid.uses:
            for k, _, cycles, amount in rows:
                if amount * -(-cycles // self.period) > self.instance.capacity[k]:
                    return False
        own = self.instance.source == self.instance.target
        return not bool((self.weight[own] > 0).any())

    def earliest(self, o: int) -> int:
        """Earliest start allowed by the placed predecessors."""
        known = [
            self.start[u] + int(self.weight[e])
            for e in self.into[o]
            if (u := int(self.instance.source[e])) in self.start
        ]
        return max(known, default=0)

    def latest(self, o: int) -> int | None:
        """Latest start allowed by the placed successors, None without one."""
        known = [
            self.start[w] - int(self.weight[e])
            for e in self.out[o]
            if (w := int(self.instance.target[e])) in self.start
        ]
        return min(known, default=None)

    def free(self, o: int) -> npt.NDArray[np.bool_]:
        """Slots at which the operation conflicts with nothing that is placed."""
        period = self.period
        blocked = np.zeros(period, dtype=np.bool_)
        for k, offset, cycles, amount in self.grid.uses[o]:
            whole, rest = divmod(cycles, period)
            room = self.instance.capacity[k] - whole * amount
            full = self.counts[k] + amount > room if rest else self.counts[k] > room
            if full.any():
                blocked |= _window_any(full, offset, rest or 1)
        return ~(blocked | self._stalls(o))

    def _stalls(self, o: int) -> npt.NDArray[np.bool_]:
        """Slots where a wait of the group would begin inside an issue window."""
        period, grid = self.period, self.grid
        blocked = np.zeros(period, dtype=np.bool_)
        if not self.instance.problem.grouped:
            return blocked
        placed = [p for p in self.members[grid.group[o]] if p in self.start and p != o]
        if grid.waits[o]:
            for p in placed:
                for begin, end in _pieces(self.start[p], grid.issue[p], period):
                    blocked[begin:end] = True
        if grid.issue[o]:
            for p in placed:
                if grid.waits[p]:
                    first = self.start[p] - grid.issue[o] + 1
                    for begin, end in _pieces(first, grid.issue[o], period):
                        blocked[begin:end] = True
        return blocked

    def place(self, o: int, start: int, sign: int = 1) -> None:
        """Put an operation into the table (``sign`` -1: take it out)."""
        for k, offset, cycles, amount in self.grid.uses[o]:
            whole, rest = divmod(cycles, self.period)
            self.counts[k] += sign * whole * amount
            for begin, end in _pieces(start + offset, rest, self.period):
                self.counts[k, begin:end] += sign * amount
        if sign > 0:
            self.start[o] = start
        else:
            del self.start[o]

    def evict_for(self, o: int, start: int) -> list[int]:
        """Take out every placed operation that conflicts with starting ``o`` at ``start``."""
        out = []
        for e in (*self.out[o], *self.into[o]):
            u, w = int(self.instance.source[e]), int(self.instance.target[e])
            other = w if u == o else u
            if other not in self.start:
                continue
            gap = self.start[other] - start
            if (gap if u == o else -gap) < self.weight[e]:
                self.place(other, self.start[other], -1)
                out.append(other)
        slot = start % self.period
        for other in sorted(self.start, key=lambda p: -self.start[p]):
            if self.free(o)[slot]:
                break
            if self._clashes(o, slot, other):
                self.place(other, self.start[other], -1)
                out.append(other)
        return out

    def _clashes(self, o: int, slot: int, other: int) -> bool:
        period, grid = self.period, self.grid
        for k, offset, cycles, _ in grid.uses[o]:
            for j, off, length, _ in grid.uses[other]:
                if k == j:
                    gap = (self.start[other] + off - slot - offset) % period
                    if gap < cycles or period - gap < length:
                        return True
        if self.instance.problem.grouped and grid.group[o] == grid.group[other]:
            gap = (slot - self.start[other]) % period
            if grid.waits[o] and gap < grid.issue[other]:
                return True
            if grid.waits[other] and (-gap) % period < grid.issue[o]:
                return True
        return False


def _pieces(start: int, length: int, period: int) -> Iterator[tuple[int, int]]:
    """The slots of ``[start, start + length)`` on the circle, as one or two slices."""
    if length >= period:
        yield 0, period
        return
    begin = start % period
    end = begin + length
    yield begin, min(end, period)
    if end > period:
        yield 0, end - period


def _window_any(full: npt.NDArray[np.bool_], offset: int, length: int) -> npt.NDArray[np.bool_]:
    """For each slot s: whether any of ``[s + offset, s + offset + length)`` is full."""
    period = len(full)
    doubled = np.concatenate((full, full))
    total = np.concatenate(([0], np.cumsum(doubled)))
    begin = (np.arange(period) + offset) % period
    found: npt.NDArray[np.bool_] = total[begin + min(length, period)] > total[begin]
    return found


def _first(free: npt.NDArray[np.bool_], start: int) -> int | None:
    """First start from ``start`` on whose slot is free."""
    period = len(free)
    at = start % period
    ahead = np.flatnonzero(free[at:])
    if len(ahead):
        return start + int(ahead[0])
    behind = np.flatnonzero(free[:at])
    return start + period - at + int(behind[0]) if len(behind) else None


def iterative(
    instance: Instance, grid: Grid, clock: Clock, budget_ratio: int = 5
) -> dict[int, int] | None:
    """Rau's iterative modulo scheduling at one interval; starts on the grid, or None."""
    table = Table(instance, grid)
    if not table.fits_at_all():
        return None
    height = _heights(instance, table.weight, grid)
    if height is None:
        return None
    queue = [(-int(height[o]), o) for o in range(instance.n)]
    heapq.heapify(queue)
    last = np.full(instance.n, -1, dtype=np.int64)
    budget = budget_ratio * instance.n
    while queue:
        if budget <= 0 or clock.expired():
            return None
        budget -= 1
        clock.spend(PLACEMENT_COST)
        _, o = heapq.heappop(queue)
        early = table.earliest(o)
        start = _first(table.free(o), early)
        if start is None or start >= early + table.period:
            start = max(early, int(last[o]) + 1)
        for other in table.evict_for(o, start):
            heapq.heappush(queue, (-int(height[other]), other))
        table.place(o, start)
        last[o] = start
    return table.start


def _heights(instance: Instance, weight: Ints, grid: Grid) -> Ints | None:
    """Longest path from each operation to any other's end, at the grid's interval."""
    value = np.zeros(instance.n, dtype=np.int64)
    for _ in range(instance.n + 1):
        before = value.copy()
        if len(weight):
            np.maximum.at(value, instance.source, value[instance.target] + weight)
        if (before == value).all():
            return value
    return None


def swing(instance: Instance, grid: Grid, clock: Clock) -> dict[int, int] | None:
    """Swing modulo scheduling at one interval; starts on the grid, or None."""
    table = Table(instance, grid)
    if not table.fits_at_all():
        return None
    height = _heights(instance, table.weight, grid)
    if height is None:
        return None
    for o in swing_order(instance, table, height):
        if clock.expired():
            return None
        clock.spend(PLACEMENT_COST)
        has_before = any(int(instance.source[e]) in table.start for e in table.into[o])
        early, late = table.earliest(o), table.latest(o)
        free = table.free(o)
        if late is None:
            start = _first(free, early)
            if start is not None and start >= early + table.period:
                start = None
        else:
            # Towards the successors, and up from the predecessors when there are both.
            mirrored = _first(free[::-1], -1 - late)
            start = None if mirrored is None else -1 - mirrored
            if start is not None and start <= late - table.period:
                start = None
            if has_before:
                start = _first(free, early)
                if start is not None and start > min(late, early + table.period - 1):
                    start = None
        if start is None:
            return None
        table.place(o, start)
    return table.start


def swing_order(instance: Instance, table: Table, height: Ints) -> list[int]:
    """Operations by recurrences first, then by neighbourhood of what is ordered already."""
    size = np.bincount(instance.part)
    parts: dict[int, list[int]] = {}
    for o in range(instance.n):
        parts.setdefault(int(instance.part[o]), []).append(o)
    seeds = sorted(
        parts.values(), key=lambda p: (-int(size[instance.part[p[0]]]), -max(height[p]), p[0])
    )
    order: list[int] = []
    done = [False] * instance.n
    frontier: list[tuple[int, int]] = []

    def take(o: int) -> None:
        done[o] = True
        order.append(o)
        for e in (*table.out[o], *table.into[o]):
            u, w = int(instance.source[e]), int(instance.target[e])
            other = w if u == o else u
            if not done[other]:
                heapq.heappush(frontier, (-int(height[other]), other))

    def drain() -> None:
        while frontier:
            _, o = heapq.heappop(frontier)
            if not done[o]:
                take(o)

    for part in seeds:
        cyclic = len(part) > 1
        for o in sorted(part, key=lambda o: (-int(height[o]), o)):
            if not done[o]:
                take(o)
        if not cyclic:
            drain()
    return order


def to_schedule(
    instance: Instance, grid: Grid, starts: dict[int, int], *, late: bool = False
) -> KernelSchedule | None:
    """The schedule of starts on the grid, with the smallest stages its slots allow."""
    interval = grid.interval * grid.tick
    slot = [starts[o] * grid.tick % interval for o in range(instance.n)]
    stage = stages_for(instance, interval, slot, grid.group, grid.depth, late=late)
    if stage is None:
        return None
    exact = [s + interval * int(k) for s, k in zip(slot, stage, strict=True)]
    return schedule_from(instance, interval, exact, grid.group, grid.depth)


def serial(instance: Instance, group: list[int | None], depth: list[int]) -> KernelSchedule | None:
    """One operation after the other, no overlap at all: valid whenever memory suffices."""
    order = _topological(instance, edge_reach(instance, depth))
    delay = edge_delays(instance, group)
    starts = np.zeros(instance.n, dtype=np.int64)
    now = 0
    reach = edge_reach(instance, depth)
    into: list[list[int]] = [[] for _ in range(instance.n)]
    for e in np.flatnonzero(reach == 0).tolist():
        into[int(instance.target[e])].append(e)
    for o in order:
        ready = [int(starts[instance.source[e]] + delay[e]) for e in into[o]]
        starts[o] = max([now, *ready])
        table = max((s + c for _, s, c, _ in instance.uses[o]), default=0)
        now = int(starts[o]) + max(table, instance.issue[o])
    interval = max(now, instance.mii, 1)
    for e in np.flatnonzero(reach > 0).tolist():
        slack = starts[instance.source[e]] + delay[e] - starts[instance.target[e]]
        interval = max(interval, -(-int(slack) // int(reach[e])))
    limit = instance.problem.max_initiation_interval
    if limit is not None and interval > limit:
        return None
    return schedule_from(instance, interval, starts.tolist(), group, depth)


def _topological(instance: Instance, reach: Ints) -> list[int]:
    """Operations so that edges of the same iteration go forward, longest remaining path first."""
    import networkx as nx

    inside = reach == 0
    height = np.zeros(instance.n, dtype=np.int64)
    source, target, delay = (a[inside] for a in (instance.source, instance.target, instance.delay))
    for _ in range(instance.n + 1):
        before = height.copy()
        if len(source):
            np.maximum.at(height, source, height[target] + delay)
        if (before == height).all():
            break
    graph = nx.DiGraph()
    graph.add_nodes_from(range(instance.n))
    graph.add_edges_from(zip(source.tolist(), target.tolist(), strict=True))
    parts = nx.condensation(graph)
    members = nx.get_node_attributes(parts, "members")
    key = {k: (-max(int(height[v]) for v in members[k]), min(members[k])) for k in parts}
    order = nx.lexicographical_topological_sort(parts, key=key.__getitem__)
    return [v for k in order for v in sorted(members[k])]


def greedy(instance: Instance, run: Run) -> None:
    """Offer the first schedule within milliseconds, then better intervals while cheap."""
    problem = instance.problem
    depth = [b.max_depth for b in problem.buffers]
    smallest = [b.min_depth for b in problem.buffers]
    choices = [depth] if depth == smallest else [depth, smallest]
    best = math.inf
    for rank, group in enumerate(partitions(instance)):
        for rings in choices:
            found = serial(instance, group, rings)
            if found is not None and found.initiation_interval < best:
                best = _offer(instance, run, found, "greedy:serial", best)
            if not (run.clock.expired() and run.incumbent is not None):
                best = pipelined(instance, run, group, rings, best)
        if run.clock.expired() or (rank >= 3 and best < math.inf) or best <= instance.mii:
            return


def _offer(
    instance: Instance, run: Run, schedule: KernelSchedule, source: str, best: float
) -> float:
    """Offer a schedule that keeps the memories' limits; the best interval so far."""
    if check(instance.problem, schedule):
        return best
    run.offer(schedule, source)
    return min(best, float(schedule.initiation_interval))


def pipelined(
    instance: Instance, run: Run, group: list[int | None], depth: list[int], best: float
) -> float:
    """Climb the intervals with both heuristics until one fits, then close in from above."""
    limit = instance.problem.max_initiation_interval
    interval = instance.mii
    step = 1
    low = interval - 1
    tries = 0
    while interval < best and tries < 24 and not run.clock.expired():
        if limit is not None and interval > limit:
            return best
        tries += 1
        grid = grid_for(instance, interval, group, depth)
        improved = False
        for name, method in (("swing", swing), ("iterative", iterative)):
            starts = method(instance, grid, run.clock)
            if starts is None:
                continue
            before = best
            for late in (False, True):
                found = to_schedule(instance, grid, starts, late=late)
                if found is not None and found.initiation_interval < best:
                    best = _offer(instance, run, found, f"greedy:{name}", best)
            improved = best < before
            if improved:
                break
        if improved:
            # Close in on the smallest interval that works, between the last failure and here.
            interval = (low + int(best)) // 2
            if interval <= low:
                return best
            step = 0
        else:
            low = interval
            if step == 0:
                interval = (low + int(best)) // 2
                if interval <= low:
                    return best
            else:
                interval += step
                step *= 2
    return best
